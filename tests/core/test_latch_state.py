"""A latch as an object: built late or early, saved, copied, shared between threads, in other dtypes, compiled."""

import contextlib
import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from toys import NoLengths, Toy, batch, perturbed

from topdown import Backbone, TopDownLatch
from topdown.adapters import LSTMBackbone

SIZES = {"text": 7, "audio": 4}
KINDS = ["linear", "lstm", "shared", nn.Linear]
LENGTHS = torch.tensor([6, 2, 4])

every_kind = pytest.mark.parametrize("kind", KINDS, ids=["linear", "lstm", "shared", "nn.Linear"])


@pytest.fixture
def inputs():
    return batch(SIZES, dtype=torch.float32)


@every_kind
def test_three_ways_to_the_sizes_build_the_same(kind, inputs):
    declared = TopDownLatch(Toy(SIZES), kind)
    example = TopDownLatch(Toy(SIZES, declare=False), kind, example_inputs=inputs)
    lazy = TopDownLatch(Toy(SIZES, declare=False), kind)
    lazy(inputs)
    shapes = {name: p.shape for name, p in declared.named_parameters()}
    assert {name: p.shape for name, p in example.named_parameters()} == shapes
    assert {name: p.shape for name, p in lazy.named_parameters()} == shapes


def test_example_inputs_leave_the_backbone_as_it_was(inputs):
    class Counting(Toy):
        def __init__(self):
            super().__init__(SIZES, declare=False)
            self.norm = nn.BatchNorm1d(7)
            self.frozen = nn.Dropout().eval()

        def encode(self, inputs, lengths=None):
            assert not self.training
            assert not torch.is_grad_enabled()
            self.norm(inputs["text"].transpose(1, 2))
            return super().encode(inputs, lengths)

    backbone = Counting()
    TopDownLatch(backbone, example_inputs=inputs)
    assert backbone.norm.num_batches_tracked == 0
    assert backbone.training
    assert not backbone.frozen.training


OPTIMIZERS = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop]


@every_kind
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_optimizer_cannot_miss_the_feedback(kind, optimizer, inputs):
    latch = TopDownLatch(NoLengths(SIZES), kind)
    inside = nn.ModuleDict({"model": nn.Sequential(latch)})
    for module in (latch, inside, copy.deepcopy(inside), pickle.loads(pickle.dumps(inside))):
        with pytest.raises(RuntimeError, match=r"no parameters yet.*call the latch once, or pass example_inputs="):
            optimizer(module.parameters(), lr=0.1)
    latch(inputs)["score"].sum().backward()
    held = {p for group in optimizer(inside.parameters(), lr=0.1).param_groups for p in group["params"]}
    assert held == set(latch.parameters())
    assert len(held) > len(list(latch.backbone.parameters()))


def test_an_unbuilt_latch_is_not_counted_saved_or_loaded(inputs):
    latch = TopDownLatch(NoLengths(SIZES))
    for ask in (lambda p: p.numel(), lambda p: p.shape, lambda p: p.norm(), lambda p: p + 1):
        with pytest.raises(RuntimeError, match="no parameters yet"):
            [ask(p) for p in latch.parameters()]
    with pytest.raises(RuntimeError, match="no parameters yet"):
        latch.state_dict()
    with pytest.raises(RuntimeError, match="no parameters yet"):
        latch.load_state_dict(TopDownLatch(NoLengths(SIZES), example_inputs=inputs).state_dict())
    with pytest.raises(RuntimeError, match="no parameters yet"):
        latch.feedback({})


def test_the_first_call_needs_all_modalities(inputs):
    class Skips(NoLengths):
        def encode(self, inputs):
            return super().encode({k: x for k, x in inputs.items() if x is not None})

    latch = TopDownLatch(Skips(SIZES))
    with pytest.raises(ValueError, match=r"\['audio'\] are None.*pass example_inputs="):
        latch({**inputs, "audio": None})
    latch(inputs)
    assert latch({**inputs, "audio": None})["names"] == ("text",)


def test_an_unbuilt_latch_follows_to_and_train(inputs):
    latch = TopDownLatch(NoLengths(SIZES)).double().eval()
    latch({k: x.double() for k, x in inputs.items()})
    assert {p.dtype for p in latch.parameters()} == {torch.float64}
    assert not any(module.training for module in latch.modules())


def test_feedback_is_made_like_the_backbone():
    assert {p.dtype for p in TopDownLatch(Toy(SIZES).bfloat16()).parameters()} == {torch.bfloat16}


@every_kind
def test_state_dict_round_trip_and_backbone_checkpoint(kind, inputs):
    backbone = Toy(SIZES)
    latch = TopDownLatch(copy.deepcopy(backbone), kind)
    keys = list(latch.state_dict())
    assert [key.removeprefix("backbone.") for key in keys if key.startswith("backbone.")] == list(backbone.state_dict())
    assert all(key.startswith(("backbone.", "feedback.")) for key in keys)
    latch.backbone.load_state_dict(backbone.state_dict())
    file = io.BytesIO()
    torch.save(latch.state_dict(), file)
    file.seek(0)
    other = TopDownLatch(Toy(SIZES), kind)
    assert not torch.equal(other(inputs), latch(inputs))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(inputs), latch(inputs))


@every_kind
def test_copies_and_pickles_are_equal_and_apart(kind, inputs):
    latch = perturbed(TopDownLatch(Toy(SIZES), kind, combine="max").eval())
    with latch.disabled():
        copies = [copy.deepcopy(latch), pickle.loads(pickle.dumps(latch))]
    for other in copies:
        assert torch.equal(other(inputs, LENGTHS), latch(inputs, LENGTHS))
        with torch.no_grad():
            next(other.feedback.parameters()).add_(1.0)
        assert not torch.equal(other(inputs, LENGTHS), latch(inputs, LENGTHS))


def test_two_threads_at_once(inputs):
    latch = TopDownLatch(Toy(SIZES)).eval()
    bottom_up, masked = latch.backbone(inputs), latch(inputs)
    meet, results = threading.Barrier(2), {}

    def run(disabled):
        with latch.disabled() if disabled else contextlib.nullcontext():
            meet.wait()  # both are where they shall be
            results[disabled] = [latch(inputs) for _ in range(20)]
            meet.wait()  # neither has left yet

    threads = [threading.Thread(target=run, args=(disabled,)) for disabled in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(output, bottom_up) for output in results[True])
    assert all(torch.equal(output, masked) for output in results[False])


def test_two_threads_build_one_feedback(inputs):
    latch = TopDownLatch(NoLengths(SIZES))
    started, seen = threading.Barrier(2), []

    def run():
        started.wait()
        latch(inputs)
        seen.append(latch.feedback)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] is seen[1]


@every_kind
@pytest.mark.parametrize("build", [Toy, lambda sizes: LSTMBackbone(sizes, hidden_size=5)], ids=["toy", "lstm"])
def test_float64_and_bfloat16(kind, build, inputs):
    latch = TopDownLatch(build(SIZES), kind).eval()
    single = latch(inputs, LENGTHS)
    double = latch.double()({k: x.double() for k, x in inputs.items()}, LENGTHS)
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-6)
    half = latch.bfloat16()({k: x.bfloat16() for k, x in inputs.items()}, LENGTHS)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), double, rtol=0.05, atol=0.05)


@every_kind
@pytest.mark.parametrize("build", [Toy, lambda sizes: LSTMBackbone(sizes, hidden_size=5)], ids=["toy", "lstm"])
def test_autocast_trains_every_parameter(kind, build, inputs):
    latch = TopDownLatch(build(SIZES), kind).eval()
    gradients = []
    for options in ({"cache_enabled": True}, {"cache_enabled": False}):
        latch.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, **options):
            output = latch(inputs, LENGTHS)
        output.float().square().sum().backward()
        gradients.append({name: p.grad for name, p in latch.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=0.02, atol=1e-3)


def test_a_first_call_in_inference_mode_leaves_parameters_that_learn(inputs):
    latch = TopDownLatch(NoLengths(SIZES))
    with torch.inference_mode():
        latch(inputs)
    latch(inputs)["score"].sum().backward()
    assert all(p.grad is not None for p in latch.parameters())
    latch.load_state_dict(latch.state_dict())


def test_unknown_modalities_are_named(inputs):
    latch = TopDownLatch(NoLengths(SIZES))
    latch({"text": inputs["text"]})
    with pytest.raises(ValueError, match=r"returned 'audio' of size 4, .* built for \['text'\]: build it with all encodings"):
        latch(inputs)
    chosen = TopDownLatch(NoLengths({**SIZES, "image": 5}), "linear", sources={"text": ["audio"]})
    image = torch.randn(3, 2, 4, 5)  # neither a target nor a source: of any shape
    assert list(chosen.masks({**inputs, "image": image})) == ["text"]


def test_feedback_built_from_a_call_is_like_its_encodings(inputs):
    class Mixed(NoLengths):
        def __init__(self):
            super().__init__(SIZES)
            self.frozen = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
            self._parameters = {"frozen": self.frozen}  # the first of all

    assert next(Mixed().parameters()).dtype == torch.bfloat16
    latch = TopDownLatch(Mixed(), "linear")
    latch(inputs)
    assert {p.dtype for p in latch.feedback.parameters()} == {torch.float32}


def test_a_toy_satisfies_the_protocol():
    assert isinstance(Toy(SIZES), Backbone)
    assert not isinstance(nn.Linear(1, 1), Backbone)


def test_options_are_shown():
    text = repr(TopDownLatch(Toy(SIZES), "linear", combine=torch.sum, scale=2.0, start="random"))
    assert "combine=sum, align=error, encoder_grad=False, mask_dropout=0.0, scale=2.0, passes=1" in text


def test_encodings_that_are_none_count_as_missing(inputs):
    latch = TopDownLatch(Toy(SIZES))
    latch.backbone.encode = lambda inputs, lengths=None: {"text": torch.zeros(3, 6, 5), "audio": None}
    assert list(latch.masks(inputs)) == ["audio"]
