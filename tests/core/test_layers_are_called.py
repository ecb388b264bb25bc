"""Every module with parameters is called, and reads its own weights alone: what torch's tools do to a layer works."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from toys import batch, perturbed, small_mult

from topdown import LSTMFeedback, SequenceLSTM, TopDownLatch
from topdown.adapters import LSTMBackbone

SIZES = {"text": 7, "audio": 4, "visual": 3}
INPUTS, LENGTHS = batch(SIZES, dtype=torch.float32), torch.tensor([6, 2, 4])
BACKBONES = {
    "paper": lambda: LSTMBackbone(SIZES, hidden_size=5, dropout=0.0),
    "public code": lambda: LSTMBackbone(SIZES, hidden_size=5, dropout=0.0, pooling="attention", trimodal_residual=False),
    "mult": lambda: small_mult(SIZES),
}
KINDS = {
    "linear": "linear",
    "lstm": "lstm",
    "shared": "shared",
    "projected": lambda a, b: LSTMFeedback(a, b, projection=True),
}

every_backbone = pytest.mark.parametrize("backbone", BACKBONES)
every_kind = pytest.mark.parametrize("kind", KINDS)


def make(backbone, kind):
    torch.manual_seed(0)
    return perturbed(TopDownLatch(BACKBONES[backbone](), KINDS[kind]))  # away from maps of zeros, which have no norm


def layers(model, kinds=nn.Module):
    return {name: m for name, m in model.named_modules() if isinstance(m, kinds) and list(m.parameters(recurse=False))}


def step(model):
    for p in model.parameters():
        p.grad = None
    model(INPUTS, LENGTHS).square().sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()


@every_backbone
@every_kind
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_hooks_of_every_layer_fire(backbone, kind, training, lengths):
    latch = make(backbone, kind).train(training)
    fired = {}
    for name, module in layers(latch).items():
        module.register_forward_pre_hook(lambda m, a, name=name: fired.setdefault(name, []).append("before"))
        module.register_forward_hook(lambda m, a, o, name=name: fired.setdefault(name, []).append("after"))
    latch(INPUTS, lengths)
    passes = {name: 2 for name in layers(latch)} | {name: 1 for name in layers(latch) if name.startswith("feedback.")}
    once = ("pairs", "trimodal", "fusion", "pooling", "head", "expand", "contract")
    passes |= {name: 1 for name in passes if name.removeprefix("backbone.").startswith(once)}
    passes |= {name: 4 for name in passes if "crossmodal" in name and name.endswith("attention_norm")}  # of both sequences
    assert {name: len(events) // 2 for name, events in fired.items()} == passes


@every_backbone
@every_kind
def test_outputs_that_a_hook_replaces_count(backbone, kind):
    latch = make(backbone, kind).eval()
    with torch.no_grad():  # or a layer whose input is zero would not count
        for p in latch.parameters():
            p.add_(0.01)
        expected = latch(INPUTS, LENGTHS)
        # Layers of the backbone are the same for all kinds.
        for name, module in layers(latch if kind == "linear" else latch.feedback).items():
            handle = module.register_forward_hook(lambda m, a, output: output * 1.5 + 0.1)
            assert not torch.equal(latch(INPUTS, LENGTHS), expected), name
            handle.remove()


@every_backbone
@every_kind
def test_pruned_layers_train_and_stay_pruned(backbone, kind):
    latch = make(backbone, kind)
    pruned = {name: "weight_hh_l0" if isinstance(m, SequenceLSTM) else "weight" for name, m in layers(latch).items()}
    pruned = {name: weight for name, weight in pruned.items() if not isinstance(latch.get_submodule(name), nn.LayerNorm)}
    for name, weight in pruned.items():
        prune.l1_unstructured(latch.get_submodule(name), weight, 0.5)
    masks = {name: latch.get_submodule(name).get_buffer(f"{weight}_mask").clone() for name, weight in pruned.items()}
    for _ in range(2):
        step(latch)
    for name, weight in pruned.items():
        module = latch.get_submodule(name)
        assert torch.equal(getattr(module, weight) == 0, masks[name] == 0), name
        assert module.get_parameter(f"{weight}_orig").grad.abs().sum() > 0, name
    permanent = copy.deepcopy(latch.eval().state_dict())
    expected = latch(INPUTS, LENGTHS)
    for name, weight in pruned.items():
        prune.remove(latch.get_submodule(name), weight)
    assert permanent.keys() != latch.state_dict().keys()
    torch.testing.assert_close(latch(INPUTS, LENGTHS), expected)


def test_a_pruned_lstm_does_what_torchs_does():
    ours, theirs = SequenceLSTM(4, 3), nn.LSTM(4, 3, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 5, 4)
    for lstm in (ours, theirs):
        prune.l1_unstructured(lstm, "weight_hh_l0", 0.5)
        prune.random_unstructured(lstm, "weight_ih_l0", 0.0)
        optimizer = torch.optim.SGD(lstm.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            output = lstm(x)
            (output[0] if isinstance(output, tuple) else output).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours(x), theirs(x)[0])


@every_backbone
@every_kind
@pytest.mark.parametrize("norm", [nn.utils.weight_norm, parametrizations.weight_norm], ids=["old", "new"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_normalised_weights_change_nothing_and_learn(backbone, kind, norm):
    latch = make(backbone, kind).eval()
    expected = latch(INPUTS, LENGTHS)
    for module in layers(latch, (nn.Linear, nn.Conv1d)).values():
        norm(module)
    for module in layers(latch, SequenceLSTM).values():
        norm(module, "weight_hh_l0")
        norm(module, "weight_ih_l0")
    torch.testing.assert_close(latch(INPUTS, LENGTHS), expected, rtol=0, atol=1e-5)
    step(latch)
    assert all(p.grad is not None for p in latch.parameters())
    assert not torch.allclose(latch(INPUTS, LENGTHS), expected, rtol=0, atol=1e-5)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@every_backbone
@every_kind
def test_parametrized_weights_are_used(backbone, kind):
    latch, twin = make(backbone, kind).eval(), make(backbone, kind).eval()
    for name, module in layers(latch).items():
        for weight in [n for n, _ in module.named_parameters(recurse=False)]:
            with torch.no_grad():
                twin.get_submodule(name).get_parameter(weight).mul_(2)
            parametrize.register_parametrization(module, weight, Doubled())
    torch.testing.assert_close(latch(INPUTS, LENGTHS), twin(INPUTS, LENGTHS), rtol=0, atol=1e-5)


class LowRank(nn.Module):
    """An adapter around a linear layer, as LoRA puts it in its place."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.down, self.up = nn.Linear(layer.in_features, 2, bias=False), nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x, *args, **kwargs):
        return self.layer(x, *args, **kwargs) + self.up(self.down(x))


@every_backbone
@every_kind
def test_layers_that_are_wrapped_work(backbone, kind):
    latch = make(backbone, kind)
    for name in layers(latch, nn.Linear):
        parent, _, last = name.rpartition(".")
        setattr(latch.get_submodule(parent), last, LowRank(latch.get_submodule(name)))
    step(latch)
    adapters = [m for m in latch.modules() if isinstance(m, LowRank)]
    assert adapters
    for adapter in adapters:
        assert adapter.up.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("backbone", "kind"), [("paper", "lstm"), ("mult", "linear")])
def test_peft(backbone, kind):
    peft = pytest.importorskip("peft", reason="needs peft")
    latch = make(backbone, kind)
    count = len(layers(latch, nn.Linear))
    expected = latch.eval()(INPUTS, LENGTHS)
    model = peft.get_peft_model(latch, peft.LoraConfig(target_modules="all-linear", r=2)).eval()
    torch.testing.assert_close(model(INPUTS, LENGTHS), expected)
    weights = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    assert len(weights) == count
    for name, p in weights.items():
        with torch.no_grad():
            p.normal_()  # not one number for all: a layer norm may follow, which takes away what features have in common
        assert not torch.equal(model(INPUTS, LENGTHS), expected), name
        with torch.no_grad():
            p.zero_()
    model(INPUTS, LENGTHS).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in weights.values())
    with model.disable_adapter():
        torch.testing.assert_close(model(INPUTS, LENGTHS), expected)


@every_backbone
@every_kind
@pytest.mark.filterwarnings("ignore")  # of torch.ao, about itself
def test_dynamic_quantization(backbone, kind):
    latch = make(backbone, kind).eval()
    expected = latch(INPUTS, LENGTHS)
    quantized = torch.ao.quantization.quantize_dynamic(copy.deepcopy(latch), {nn.Linear}, dtype=torch.qint8)
    assert not [
        name
        for name, m in quantized.named_modules()
        if isinstance(m, nn.Linear) and type(m).__module__.startswith("torch.nn.modules")
    ]
    output = quantized(INPUTS, LENGTHS)
    torch.testing.assert_close(output, expected, rtol=0, atol=0.1)
    assert not torch.equal(output, expected)


@every_backbone
@every_kind
def test_offloaded_weights(backbone, kind):
    accelerate = pytest.importorskip("accelerate", reason="needs accelerate")
    latch = make(backbone, kind).eval()
    expected = latch(INPUTS, LENGTHS)
    offloaded = accelerate.cpu_offload(copy.deepcopy(latch), execution_device=torch.device("cpu"))
    assert all(p.is_meta for p in offloaded.parameters())
    with torch.no_grad():
        torch.testing.assert_close(offloaded(INPUTS, LENGTHS), expected, rtol=0, atol=1e-6)


def test_torchinfo_counts_every_parameter():
    torchinfo = pytest.importorskip("torchinfo", reason="needs torchinfo")
    latch = make("paper", "lstm")
    summary = torchinfo.summary(latch, input_data=[INPUTS, LENGTHS], verbose=0)
    assert summary.total_params == sum(p.numel() for p in latch.parameters())
