"""No forward pass waits for the device: on "meta", which has no values, to ask for one is an error. What CUDA gives."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from toys import small_mult

from topdown import SequenceLSTM, TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.datasets import BucketedSampler, SequenceDataset, data_loader
from topdown.training import fit, predict

SIZES = {"text": 12, "audio": 7, "visual": 5}
MULT_DROPOUTS = [f"{what}_dropout" for what in ("embedding", "attention", "relu", "residual", "output")]
BACKBONES = {
    "lstm": lambda dropout: LSTMBackbone(SIZES, hidden_size=8, dropout=dropout),
    "mult": lambda dropout: small_mult(SIZES, size=8, **dict.fromkeys(MULT_DROPOUTS, dropout)),
}
every_latch = pytest.mark.parametrize(("backbone", "feedback"), [("lstm", "linear"), ("lstm", "shared"), ("mult", "lstm")])
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def make(backbone, feedback, dropout=0.1, **options):
    torch.manual_seed(0)
    return TopDownLatch(BACKBONES[backbone](dropout), feedback, **options)


def batch(size=4, steps=9):
    generator = torch.Generator().manual_seed(size)
    inputs = {name: torch.randn(size, steps, d, generator=generator) for name, d in SIZES.items()}
    return inputs, torch.randint(1, steps + 1, (size,), generator=generator)


def moved(inputs, device):
    return {name: x.to(device) for name, x in inputs.items()}


@pytest.mark.uncovered
@every_latch
def test_a_training_step_asks_the_device_for_nothing(backbone, feedback):
    latch = make(backbone, feedback, mask_dropout=0.1).to("meta")
    inputs, lengths = batch()
    output = latch(moved(inputs, "meta"), lengths)
    output.square().sum().backward()
    assert output.shape == (4, 1)
    assert output.is_meta
    assert all(p.grad is not None for p in latch.parameters())


@pytest.mark.parametrize("align", ["interpolate", "pool"])
def test_aligning_masks_asks_the_device_for_nothing(align):
    latch = make("mult", "linear", align=align).to("meta")
    steps = {"text": 5, "audio": 11, "visual": 8}
    inputs = {name: torch.empty(3, steps[name], d, device="meta") for name, d in SIZES.items()}
    lengths = {name: torch.tensor([n, 1, n - 1]) for name, n in steps.items()}
    assert latch(inputs, lengths).is_meta


@cuda
@every_latch
def test_cuda_gives_what_the_cpu_gives(backbone, feedback):
    here, (inputs, lengths) = make(backbone, feedback, dropout=0.0).double(), batch()
    there = copy.deepcopy(here).cuda()
    inputs = {name: x.double() for name, x in inputs.items()}
    outputs = here(inputs, lengths), there(moved(inputs, "cuda"), lengths)
    for output in outputs:
        output.square().sum().backward()
    torch.testing.assert_close(outputs[1].cpu(), outputs[0], atol=1e-9, rtol=0)
    for (name, p), q in zip(here.named_parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(q.grad.cpu(), p.grad, atol=1e-9, rtol=0, msg=name)


@cuda
@pytest.mark.parametrize("feedback", ["linear", pytest.param(nn.Linear, id="nn.Linear")])  # LSTMs are packed: they may wait
def test_mult_never_waits_for_cuda(feedback):
    latch, (inputs, lengths) = make("mult", feedback).cuda(), batch()
    inputs = moved(inputs, "cuda")
    latch(inputs, lengths)  # what is made once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        latch(inputs, lengths).square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@cuda
@every_latch
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_on_cuda_is_close_to_float32(backbone, feedback, dtype):
    latch, (inputs, lengths) = make(backbone, feedback, dropout=0.0).cuda(), batch()
    expected = latch(moved(inputs, "cuda"), lengths)
    with torch.autocast("cuda", dtype=dtype):
        output = latch(moved(inputs, "cuda"), lengths)
    output.float().sum().backward()
    torch.testing.assert_close(output.float(), expected, atol=3e-2, rtol=0)
    assert all(p.grad.isfinite().all() for p in latch.parameters())


@cuda
@every_latch
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_compiles_on_cuda(backbone, feedback):
    torch._dynamo.reset()
    latch, (inputs, lengths) = make(backbone, feedback).cuda().eval(), batch()
    with torch.no_grad():
        compiled = torch.compile(latch, fullgraph=True)(moved(inputs, "cuda"), lengths.cuda())
        torch.testing.assert_close(compiled, latch(moved(inputs, "cuda"), lengths), atol=1e-4, rtol=0)


@cuda
def test_batches_are_pinned_and_move_without_waiting():
    sequences = [np.ones((n, 3), dtype=np.float32) for n in (4, 2, 5)]
    data = SequenceDataset.from_arrays({"audio": sequences}, np.zeros(3, dtype=np.float32))
    batch = next(iter(data_loader(data, 3, pin_memory=True)))
    assert batch.inputs["audio"].is_pinned()
    assert batch.to("cuda").inputs["audio"].is_cuda


@every_latch
@pytest.mark.parametrize("align", ["error", "interpolate", "pool"])
def test_nothing_is_made_on_the_default_device(backbone, feedback, align):
    """Whoever sets a default device still works with tensors that are elsewhere."""
    if backbone == "lstm" and align != "error":
        pytest.skip("word-aligned")
    latch, (inputs, lengths) = make(backbone, feedback, align=align, mask_dropout=0.1), batch()
    by_name = dict.fromkeys(SIZES, lengths) | {"audio": torch.where(lengths == lengths.max(), lengths, 0)}
    if align != "error":
        by_name["text"] = (by_name["text"] + 1) // 2
    with torch.device("meta"):
        for given in (None, lengths, by_name):
            latch(inputs, given).square().sum().backward()
            latch.eval()(inputs, given)
            latch.train()
    assert not latch.trace(inputs, by_name).output.is_meta


def test_batches_are_made_on_no_default_device():
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(n, 3)).astype(np.float32) for n in (4, 2, 5, 3)]
    model = LSTMBackbone({"audio": 3}, hidden_size=4)
    with torch.device("meta"):
        data = SequenceDataset.from_arrays({"audio": arrays}, np.zeros(4, dtype=np.float32))
        assert not predict(model, data.subset([1, 2]), batch_size=1).is_meta
        assert sorted(i for batch in BucketedSampler(data.batch_lengths(), 2) for i in batch) == [0, 1, 2, 3]


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_devices_may_be_objects_and_the_models_own_is_the_default(device):
    data = SequenceDataset.from_arrays({"audio": [np.ones((n, 3)) for n in (4, 2)]}, np.zeros(2))
    model = LSTMBackbone({"audio": 3}, hidden_size=4)
    fit(model, data, data, epochs=1, device=device)
    assert predict(model, data, device=device).device.type == "cpu"


def test_a_model_elsewhere_is_predicted_with_where_it_is():
    class Elsewhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 1, device="meta")
            self.seen = []

        def forward(self, inputs, lengths=None):
            self.seen.append(inputs["audio"].device.type)
            return self.layer(inputs["audio"].mean(1))

    data = SequenceDataset.from_arrays({"audio": [np.ones((n, 3)) for n in (4, 2)]}, np.zeros(2))
    model = Elsewhere()
    with pytest.raises(NotImplementedError, match="meta"):  # it has no values to bring back
        predict(model, data)
    assert model.seen == ["meta"]
    assert next(model.parameters()).device.type == "meta"


class Undeclared(nn.Module):
    """Does not tell its sizes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def encode(self, inputs, lengths=None):
        return self.model.encode(inputs, lengths)

    def fuse(self, encodings, lengths=None):
        return self.model.fuse(encodings, lengths)


@pytest.mark.parametrize("declared", [True, False])
@every_latch
def test_feedback_is_made_where_the_backbone_is(backbone, feedback, declared):
    model = make(backbone, feedback).backbone
    inputs, lengths = batch()
    with torch.device("meta"):
        latch = TopDownLatch(model if declared else Undeclared(model), feedback)
        latch(inputs, lengths)
        latch.passes = 2
    assert not any(value.is_meta for value in latch.state_dict().values())
    latch(inputs, lengths)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_frozen_lstm_in_evaluation_mode_asks_cudnn_for_a_backward_pass(monkeypatch, bidirectional):
    """cuDNN has one in training mode alone; dropout of the kernel is 0, so that no value differs."""
    lstm = SequenceLSTM(3, 4, bidirectional=bidirectional).requires_grad_(False).eval()
    weights = [getattr(lstm, name) for name in lstm._flat_weights_names]
    sequence, lengths = torch.randn(2, 5, 3, requires_grad=True), torch.tensor([5, 2])
    flags, original = [], torch.lstm

    def recording(*arguments):
        flags.append(arguments[7])
        assert arguments[6] == 0.0
        return original(*arguments)

    monkeypatch.setattr(torch, "lstm", recording)
    states = lstm._packed(sequence, lengths, weights)
    states.sum().backward()
    assert sequence.grad.abs().sum() > 0
    with torch.no_grad():
        torch.testing.assert_close(lstm._packed(sequence, lengths, weights), states)
    assert flags == [True, False]
    flags.clear()

    def recording_padded(*arguments):
        flags.append(arguments[6])
        return original(*arguments)

    monkeypatch.setattr(torch, "lstm", recording_padded)  # compiled code does not pack
    torch.testing.assert_close(lstm(sequence, lengths), states)
    with torch.no_grad():
        lstm(sequence, lengths)
    assert flags == [True] * (1 + bidirectional) + [False] * (1 + bidirectional)
