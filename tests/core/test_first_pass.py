"""The first pass leaves no trace: in buffers, inputs and caches; and evaluation is what training promises."""

import copy
import threading
from collections import OrderedDict, defaultdict
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from toys import Toy, batch, perturbed, single_process_group

from topdown import TopDownLatch, in_first_pass
from topdown.masking import replaced

SIZES = {"a": 4, "b": 3}
INPUTS = batch(SIZES, dtype=torch.float32)


class Normed(nn.Module):
    """Encodes each step by itself, normalised over the batch."""

    def __init__(self, norm=nn.BatchNorm1d, size=5):
        super().__init__()
        self.layers = nn.ModuleDict({k: nn.Linear(d, size) for k, d in SIZES.items()})
        self.norms = nn.ModuleDict({k: norm(size) for k in SIZES})
        self.head = nn.Linear(2 * size, 1)
        self.input_sizes, self.encoding_sizes = dict(SIZES), dict.fromkeys(SIZES, size)

    def encode(self, inputs):
        encoded = {k: self.norms[k](self.layers[k](inputs[k]).transpose(1, 2)).transpose(1, 2) for k in SIZES}
        return {k: torch.tanh(r) for k, r in encoded.items()}

    def fuse(self, encodings):
        return self.head(torch.cat([encodings["a"], encodings["b"]], -1).mean(1)).squeeze(-1)

    def forward(self, inputs):
        return self.fuse(self.encode(inputs))


def tracked_instance_norm(size):
    return nn.InstanceNorm1d(size, track_running_stats=True)


def cumulative_norm(size):
    return nn.BatchNorm1d(size, momentum=None)


class Rebinding(nn.Module):
    """Assigns new tensors in place of its buffers, and counts in and out of place."""

    def __init__(self, size):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(size, 1))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("again", torch.tensor(0.0))

    def forward(self, x):
        if self.training:
            self.running_mean = 0.9 * self.running_mean + 0.1 * x.detach().mean((0, 2)).unsqueeze(-1)
            self.calls += 1
            self.again = self.again + 1
        return x - self.running_mean


NORMS = [nn.BatchNorm1d, nn.SyncBatchNorm, tracked_instance_norm, cumulative_norm, Rebinding]
every_norm = pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.__name__)


def buffers(model):
    return {name: value.clone() for name, value in model.named_buffers()}


def assert_equal(ours, expected):
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0, msg=name)


def run_once(backbone, inputs, masks):
    """Does what the second pass alone does."""
    return backbone({k: inputs[k] * masks[k].detach() for k in inputs})


@every_norm
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("encoder_grad", [False, True])
def test_statistics_move_once_and_by_the_second_pass(norm, passes, encoder_grad):
    latch = perturbed(TopDownLatch(Normed(norm), "linear", passes=passes, encoder_grad=encoder_grad))
    alone = copy.deepcopy(latch.backbone)
    for _ in range(3):
        masks = latch.masks(INPUTS)
        expected = run_once(alone, INPUTS, masks)
        output = latch(INPUTS)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
        assert_equal(buffers(latch.backbone), buffers(alone))
        output.sum().backward()
    if norm is not tracked_instance_norm:  # torch's never counts
        counts = [value for name, value in buffers(latch.backbone).items() if name.endswith(("tracked", "calls"))]
        assert [int(count) for count in counts] == [3, 3]


@every_norm
def test_masks_move_nothing_and_trace_moves_what_a_call_moves(norm):
    latch = perturbed(TopDownLatch(Normed(norm), "linear"))
    latch(INPUTS)
    before, twin = buffers(latch), copy.deepcopy(latch)
    for _ in range(2):
        latch.masks(INPUTS)
    assert_equal(buffers(latch), before)
    trace = latch.trace(INPUTS)
    trace.output.sum().backward()
    assert torch.equal(trace.output, twin(INPUTS))
    assert_equal(buffers(latch), buffers(twin))
    with latch.disabled():
        latch.trace(INPUTS)
    twin.backbone(INPUTS)
    assert_equal(buffers(latch), buffers(twin))


def test_an_error_in_the_middle_leaves_nothing():
    class Failing(Normed):
        fail = False

        def encode(self, inputs):
            encodings = super().encode(inputs)
            if self.fail:
                raise KeyError("in the middle")
            return encodings

    for norm in (nn.BatchNorm1d, Rebinding):
        latch = TopDownLatch(Failing(norm), "linear")
        latch(INPUTS)
        before, objects = buffers(latch), [id(value) for value in latch.buffers()]
        latch.backbone.fail = True
        with pytest.raises(KeyError, match="in the middle"):
            latch(INPUTS)
        assert_equal(buffers(latch), before)
        assert [id(value) for value in latch.buffers()] == objects


def gated(count, mean, seed):
    """Which of two features of `a` the label is, `b` tells."""
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(count, 8, size, generator=generator) + mean for size in SIZES.values())
    code = torch.randint(0, 2, (count,), generator=generator)
    b[:, :, 0] = mean + 2.0 * code.unsqueeze(1) - 1 + 0.3 * torch.randn(count, 8, generator=generator)
    shown = torch.randn(count, 2, generator=generator)
    a[:, :, :2] += shown.unsqueeze(1)
    return {"a": a, "b": b}, shown.gather(1, code.unsqueeze(1)).squeeze(1)


@pytest.mark.parametrize(("mean", "passes"), [(0.0, 1), (2.0, 2)])
def test_evaluation_is_as_good_as_training_promises(mean, passes):
    (inputs, labels), (valid, wanted) = gated(400, mean, 0), gated(200, mean, 1)
    errors = {}
    for name in ("plain", "latch"):
        torch.manual_seed(0)
        model = Normed(size=12) if name == "plain" else TopDownLatch(Normed(size=12), "linear", passes=passes)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(60):
            for rows in torch.randperm(400).split(50):
                optimizer.zero_grad()
                (model({k: x[rows] for k, x in inputs.items()}) - labels[rows]).abs().mean().backward()
                optimizer.step()
        with torch.no_grad():
            by_batch = (copy.deepcopy(model)(valid) - wanted).abs().mean()
            in_eval = (model.eval()(valid) - wanted).abs().mean()
        errors[name] = by_batch.item(), in_eval.item()
    differences = {name: abs(a - b) for name, (a, b) in errors.items()}
    assert differences["latch"] < differences["plain"] + 0.03, errors
    assert errors["latch"][1] < errors["plain"][1] - 0.1, errors  # and feedback pays here


@pytest.mark.parametrize("training", [True, False])
def test_the_first_pass_has_the_running_statistics_of_the_backbone(training):
    latch = perturbed(TopDownLatch(Normed(), "linear"))
    for _ in range(3):
        latch({k: x + 2 for k, x in INPUTS.items()})
    latch.train(training)
    raw = copy.deepcopy(latch.backbone).eval()
    for name, encoding in latch.trace(INPUTS).encodings.items():
        assert torch.equal(encoding, raw.encode(INPUTS)[name])


def test_only_modules_with_buffers_are_in_evaluation_mode_and_only_in_the_first_pass():
    class Mixed(Normed):
        def __init__(self):
            super().__init__()
            self.dropout, self.frozen = nn.Dropout(0.5), nn.BatchNorm1d(5).eval()
            self.modes = []

        def encode(self, inputs):
            self.modes.append((in_first_pass(), self.dropout.training, self.norms["a"].training, self.frozen.training))
            return {k: self.dropout(r) for k, r in super().encode(inputs).items()}

    latch = TopDownLatch(Mixed(), "linear", passes=2)
    latch(INPUTS)
    assert latch.backbone.modes == [(True, True, False, False)] * 2 + [(False, True, True, False)]
    assert [latch.backbone.norms["a"].training, latch.backbone.frozen.training] == [True, False]
    assert not in_first_pass()


def test_a_latch_within_a_latch_is_in_the_first_pass_of_the_outer_one():
    seen = []

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = TopDownLatch(Normed(), "linear")
            self.inner.backbone.head.register_forward_hook(lambda *_: seen.append(in_first_pass()))

        def encode(self, inputs):
            return {k: x * self.inner(inputs).view(-1, 1, 1) for k, x in inputs.items()}

        def fuse(self, encodings):
            return sum(r.mean() for r in encodings.values())

    latch = TopDownLatch(Outer(), "linear", example_inputs=INPUTS)
    seen.clear()
    latch(INPUTS)
    assert seen == [True, True, False, False]  # once for each modality
    assert latch.backbone.inner.backbone.norms["a"].num_batches_tracked == 2


def test_a_latch_that_never_trained_uses_the_statistics_that_were_loaded():
    trained = Normed()
    for _ in range(5):
        trained({k: x + 3 for k, x in INPUTS.items()})
    latch = TopDownLatch(Normed(), "linear")
    latch.backbone.load_state_dict(trained.state_dict())
    trained.eval()
    for name, encoding in latch.eval().trace(INPUTS).encodings.items():
        assert torch.equal(encoding, trained.encode(INPUTS)[name])


def test_statistics_are_saved_copied_and_converted():
    latch = TopDownLatch(Normed(), "linear")
    latch(INPUTS)
    other = TopDownLatch(Normed(), "linear")
    other.load_state_dict(latch.state_dict())
    copies = [other, copy.deepcopy(latch), nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(latch))]
    for model in copies:
        assert torch.equal(model.eval()(INPUTS), latch.eval()(INPUTS))
    assert [key for key in latch.state_dict() if key.startswith("backbone.")] == [
        f"backbone.{k}" for k in Normed().state_dict()
    ]


def test_an_encoder_that_is_replaced_counts_once():
    latch = TopDownLatch(Normed(), "linear")
    latch.backbone.norms["b"] = nn.Sequential(nn.Identity(), nn.BatchNorm1d(5))
    for _ in range(3):
        latch(INPUTS)
    assert latch.backbone.norms["b"][1].num_batches_tracked == 3


def test_threads_in_evaluation_do_not_see_the_first_pass_of_each_other():
    latch = perturbed(TopDownLatch(Normed(), "linear"))
    latch({k: x + 2 for k, x in INPUTS.items()})
    latch.eval()
    expected = latch.trace(INPUTS).output
    inside, go, outputs, first = threading.Event(), threading.Event(), {}, []
    thread = threading.Thread(target=lambda: outputs.update(there=latch.trace(INPUTS).output))

    def pause(module, arguments):
        if threading.current_thread() is thread and not inside.is_set():
            inside.set()
            go.wait(10)
        first.append((threading.current_thread() is thread, in_first_pass()))

    latch.backbone.layers["b"].register_forward_pre_hook(pause)
    thread.start()
    inside.wait(10)  # in its first pass
    outputs["here"] = latch.trace(INPUTS).output
    outputs["plain"] = latch.backbone(INPUTS)
    go.set()
    thread.join()
    assert torch.equal(outputs["here"], expected)
    assert torch.equal(outputs["there"], expected)
    assert torch.equal(outputs["plain"], copy.deepcopy(latch.backbone)(INPUTS))
    assert first[:4] == [(False, True), (False, False), (False, False), (True, True)]


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
@pytest.mark.uncovered
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, cumulative_norm, Rebinding], ids=lambda norm: norm.__name__)
def test_a_compiled_latch_moves_what_an_eager_one_moves(norm):
    torch._dynamo.reset()
    eager = TopDownLatch(Normed(norm), "linear")
    inside = copy.deepcopy(eager)
    compiled = torch.compile(inside, backend="eager")
    for training in (True, True, False):
        eager.train(training)
        inside.train(training)
        expected, output = eager(INPUTS), compiled(INPUTS)
        torch.testing.assert_close(output, expected, rtol=0, atol=1e-6)
        expected.sum().backward()
        output.sum().backward()
    for (name, ours), theirs in zip(inside.named_buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)


def test_within_ddp():
    with single_process_group():
        plain = TopDownLatch(Normed(), "linear")
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        for _ in range(2):
            expected, output = plain(INPUTS), wrapped(INPUTS)
            torch.testing.assert_close(output, expected, rtol=0, atol=0)
            output.sum().backward()
        assert_equal(buffers(wrapped.module), buffers(plain))


def test_spectral_norm_iterates_once():
    class Spectral(Toy):
        def __init__(self):
            super().__init__(SIZES)
            self.layers[0] = nn.utils.parametrizations.spectral_norm(self.layers[0])
            self.layers[1] = nn.utils.spectral_norm(self.layers[1])

    latch = TopDownLatch(Spectral(), "linear")
    alone = copy.deepcopy(latch.backbone)
    for _ in range(3):
        masks = latch.masks(INPUTS)
        run_once(alone, INPUTS, masks)
        latch(INPUTS).sum().backward()
        for (name, ours), theirs in zip(latch.backbone.named_buffers(), alone.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, msg=name)


class InPlace(Toy):
    """Works in place on everything that it gets."""

    def encode(self, inputs, lengths=None):
        inputs["a"].add_(1.0)
        inputs.pop("b").mul_(2.0)
        inputs["ids"] += 1
        inputs["nested"]["deep"][0].zero_()
        inputs["nested"]["new"] = 1
        a, b = self.layers
        return {"a": torch.tanh(a(inputs["a"])), "b": torch.tanh(b(inputs["a"].new_ones(3, 6, 3)))}


class OutOfPlace(Toy):
    def encode(self, inputs, lengths=None):
        a, b = self.layers
        x = inputs["a"] + 1.0
        return {"a": torch.tanh(a(x)), "b": torch.tanh(b(x.new_ones(3, 6, 3)))}


def everything():
    inputs = {k: x.clone() for k, x in INPUTS.items()}
    return {**inputs, "ids": torch.arange(3), "nested": {"deep": [torch.ones(2)]}}


@pytest.mark.parametrize("lengths", [None, torch.tensor([6, 2, 4])])
@pytest.mark.parametrize("call", ["forward", "masks", "trace", "first", "example"])
def test_a_backbone_that_works_in_place_equals_one_that_does_not(lengths, call):
    in_place, twin = InPlace(SIZES), OutOfPlace(SIZES)
    twin.load_state_dict(in_place.state_dict())
    if call == "first":
        del in_place.input_sizes
    torch.manual_seed(1)
    latch = TopDownLatch(in_place, "linear", passes=2, **({"example_inputs": everything()} if call == "example" else {}))
    if call == "first":
        torch.manual_seed(1)
        latch(everything(), lengths)
    expected = TopDownLatch(twin, latch.feedback, passes=2)
    given, alone = everything(), everything()
    output = getattr(latch, call if call in ("masks", "trace") else "forward")(given, lengths)
    in_place.encode(alone)  # what the plain model does to it
    if call in ("forward", "first", "example"):
        torch.testing.assert_close(output, expected(everything(), lengths))
        assert given["ids"].tolist() == alone["ids"].tolist() == [1, 2, 3]
        assert given["nested"]["deep"][0].tolist() == [0, 0]
        assert given["nested"]["new"] == 1
    elif call == "masks":
        for name, mask in expected.masks(everything(), lengths).items():
            torch.testing.assert_close(output[name], mask)
        assert given["ids"].tolist() == [0, 1, 2]
        assert list(given["nested"]) == ["deep"]
        assert given["nested"]["deep"][0].tolist() == [1, 1]
    # Masked inputs are new tensors: those that were given are as they were.
    assert all(torch.equal(given[k], INPUTS[k]) for k in SIZES)


@pytest.mark.parametrize("cached", [False, True])
def test_cached_weights_have_gradients(cached):
    class Weighted(Toy):
        def __init__(self):
            super().__init__(SIZES)
            for layer in self.layers:
                nn.utils.parametrizations.weight_norm(layer)

    latch = TopDownLatch(Weighted(), "linear")
    plain = copy.deepcopy(latch)
    plain(INPUTS).sum().backward()
    if cached:
        with nn.utils.parametrize.cached():
            latch(INPUTS).sum().backward()
    else:
        latch(INPUTS).sum().backward()
    for (name, p), q in zip(latch.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-7, msg=name)


def test_evaluation_moves_nothing():
    latch = TopDownLatch(Normed(), "linear").eval()
    trained = Normed()
    trained({k: x + 3 for k, x in INPUTS.items()})
    latch.backbone.load_state_dict(trained.state_dict())
    before = buffers(latch)
    first = latch(INPUTS)
    assert torch.equal(latch(INPUTS), first)
    assert_equal({k: v.nan_to_num(7.0) for k, v in buffers(latch).items()}, {k: v.nan_to_num(7.0) for k, v in before.items()})
    latch.train()
    latch.backbone.eval()  # fine-tuned with its statistics frozen
    masks = latch.masks(INPUTS)
    latch(INPUTS).sum().backward()
    assert torch.equal(latch.masks(INPUTS)["a"], masks["a"])


def test_building_leaves_no_layer_half_in_evaluation():
    class Merging(nn.Linear):
        """As LoRA layers are: another weight in evaluation."""

        merged = False

        def train(self, mode=True):
            self.merged = not mode
            return super().train(mode)

    backbone = Toy(SIZES, declare=False)
    backbone.layers[0] = Merging(4, 5)
    backbone.layers[1].eval()
    TopDownLatch(backbone, example_inputs=INPUTS)
    assert [(m.training, getattr(m, "merged", None)) for m in backbone.layers] == [(True, False), (False, None)]
    assert backbone.training
    assert backbone.head.training


def test_a_first_call_within_cached_weights_keeps_their_gradients():
    backbone = Toy(SIZES, declare=False)
    for layer in backbone.layers:
        nn.utils.parametrizations.weight_norm(layer)
    latch = TopDownLatch(backbone, "linear")
    with nn.utils.parametrize.cached():
        latch(INPUTS).sum().backward()
    assert all(p.grad is not None for p in latch.parameters())


def test_lazy_norms_may_be_in_a_backbone():
    class Lazy(Normed):
        def __init__(self):
            super().__init__(lambda size: nn.LazyBatchNorm1d())

    for declared in (True, False):
        backbone = Lazy()
        if not declared:
            del backbone.input_sizes
        latch = TopDownLatch(backbone, "linear")
        for _ in range(2):
            latch(INPUTS).sum().backward()
        assert backbone.norms["a"].num_batches_tracked == 2


def test_a_backbone_and_passes_may_be_set_later():
    latch = perturbed(TopDownLatch(Normed(), "linear").eval())
    twice = TopDownLatch(latch.backbone, "linear", passes=2).eval()
    twice.load_state_dict(latch.state_dict())
    latch.passes = 2
    assert torch.equal(latch(INPUTS), twice(INPUTS))

    class WithLengths(Normed):
        def encode(self, inputs, lengths):
            self.lengths = lengths
            return super().encode(inputs)

    latch.backbone = WithLengths()
    lengths = torch.tensor([6, 2, 4])
    latch(INPUTS, lengths)
    assert latch.backbone.lengths is lengths


@pytest.mark.parametrize("by_name", [False, True])
def test_a_backbone_may_change_its_lengths(by_name):
    seen = []

    class Consuming(Toy):
        def encode(self, inputs, lengths=None):
            seen.append(dict(lengths) if by_name else lengths.clone())
            encodings = super().encode(inputs, lengths)
            if by_name:
                lengths.pop("a")
            else:
                lengths.clamp_(max=1)
            return encodings

        def fuse(self, encodings, lengths=None):
            return super().fuse(encodings)

    ones = torch.tensor([6, 2, 4])
    lengths = {"a": ones.clone(), "b": ones.clone()} if by_name else ones.clone()
    latch = TopDownLatch(Consuming(SIZES), "linear", passes=2)
    latch.masks(INPUTS, lengths)
    assert len(seen) == 2
    for before in seen:
        for name in SIZES:
            assert torch.equal(before[name] if by_name else before, ones)
    assert torch.equal(lengths["a"] if by_name else lengths, ones)


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
@pytest.mark.uncovered
def test_a_compiled_layer_is_compiled_once_for_each_pass():
    counter = CompileCounter()
    model = Normed(lambda size: torch.compile(nn.BatchNorm1d(size), backend=counter))
    latch = TopDownLatch(model, "linear")
    for _ in range(12):
        latch(INPUTS)
    assert counter.frame_count <= 4  # with and without gradient, for each of two modalities at most


class Attributes(dict):
    """A mapping whose items are attributes, too."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.__dict__ = self


@pytest.mark.parametrize("kind", [partial(defaultdict, None), OrderedDict, Attributes])
def test_inputs_of_any_mapping_are_masked_in_a_copy_of_their_type(kind):
    inputs = kind({"a": torch.ones(1, 2), "b": "text"})
    masked = replaced(inputs, {"a": torch.zeros(1, 2)})
    assert type(masked) is type(inputs)
    assert torch.equal(masked["a"], torch.zeros(1, 2))
    assert torch.equal(getattr(masked, "a", masked["a"]), torch.zeros(1, 2))
    assert torch.equal(inputs["a"], torch.ones(1, 2))
    assert masked["b"] == "text"
