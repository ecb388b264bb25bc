"""What users give wrongly is named before torch complains, with both facts and a remedy."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from toys import NoLengths, Toy, batch, small_mult

from topdown import LSTMFeedback, StaticFeedback, TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.latch import OPTIONS

SIZES = {"text": 7, "audio": 4}
ADAPTERS = {"lstm": lambda: LSTMBackbone(SIZES, hidden_size=4), "mult": lambda: small_mult(SIZES)}
INPUTS = batch(SIZES, dtype=torch.float32)
LENGTHS = torch.tensor([6, 2, 4])

every_adapter = pytest.mark.parametrize("build", ADAPTERS.values(), ids=ADAPTERS)

WRONG_OPTIONS = [
    ("encoder_grad", "no", TypeError, "encoder_grad='no' must be True or False"),
    ("encoder_grad", 1, TypeError, "encoder_grad=1 must be True or False"),
    ("mask_dropout", "0.1", TypeError, r"mask_dropout='0.1' must be a number in \[0, 1\)"),
    ("mask_dropout", None, TypeError, r"mask_dropout=None must be a number in \[0, 1\)"),
    ("mask_dropout", -0.1, ValueError, r"mask_dropout=-0.1 must be a number in \[0, 1\)"),
    ("mask_dropout", float("nan"), ValueError, r"mask_dropout=nan must be a number in \[0, 1\)"),
    ("scale", "2", TypeError, "scale='2' must be a positive number"),
    ("scale", True, TypeError, "scale=True must be a positive number"),
    ("scale", -1.0, ValueError, "scale=-1.0 must be a positive number"),
    ("passes", 1.5, TypeError, "passes=1.5 must be a whole number"),
    ("passes", "2", TypeError, "passes='2' must be a whole number"),
    ("align", "typo", ValueError, "align='typo' must be one of .'error', 'interpolate', 'pool'"),
    ("align", None, ValueError, "align=None must be one of"),
    ("combine", "avg", ValueError, "combine='avg' must be one of .'mean', 'max', 'min', 'product'"),
    ("combine", ["mean"], ValueError, r"combine=.'mean'. must be one of"),
    ("combine", 3, ValueError, "combine=3 must be one of"),
    ("mask_dropout", 1.0, ValueError, r"mask_dropout=1.0 must be a number in \[0, 1\)"),
    ("passes", 0, ValueError, "passes=0 must be a whole number, at least 1"),
    ("passes", True, TypeError, "passes=True must be a whole number"),
    ("scale", 0.0, ValueError, "scale=0.0 must be a positive number"),
    ("scale", float("nan"), ValueError, "scale=nan must be"),
]


@pytest.mark.parametrize(("option", "value", "error", "message"), WRONG_OPTIONS)
def test_options_are_checked_when_they_are_set(option, value, error, message):
    with pytest.raises(error, match=message):
        TopDownLatch(Toy(SIZES), **{option: value})
    latch = TopDownLatch(Toy(SIZES))
    before = getattr(latch, option)
    with pytest.raises(error, match=message):
        setattr(latch, option, value)
    assert getattr(latch, option) == before


def test_options_may_be_set_later_and_are_then_used():
    latch = TopDownLatch(Toy(SIZES), "linear", start="random")
    other = TopDownLatch(Toy(SIZES), "linear", start="random", scale=2, passes=2, combine="max")
    other.load_state_dict(latch.state_dict())
    latch.scale, latch.passes, latch.combine, latch.encoder_grad = 2, 2, "max", True
    assert torch.equal(latch(INPUTS), other(INPUTS))
    latch.mask_dropout = 0.5
    assert not torch.equal(latch(INPUTS), other(INPUTS))
    with pytest.raises(ValueError, match="sources cannot change, since the parameters depend on it: make a new latch"):
        latch.sources = {"text": ["audio"]}


def test_all_options_are_in_one_place():
    options = {"combine": "min", "sources": {"text": ["audio"]}, "align": "pool", "scale": 0.5, "passes": 3, "start": "random"}
    latch = TopDownLatch(Toy(SIZES), "shared", **options)
    assert latch.options() == {
        "feedback": "shared",
        "combine": "min",
        "sources": {"text": ["audio"]},
        "sites": {},
        "start": "random",
        "align": "pool",
        "encoder_grad": False,
        "mask_dropout": 0.0,
        "scale": 0.5,
        "passes": 3,
    }
    assert set(latch.options()) == {"feedback", "sources", "sites", "start", *OPTIONS}
    assert "feedback=shared, sources={'text': ['audio']}, start=random, combine=min, align=pool" in repr(latch)
    again = TopDownLatch(Toy(SIZES), **latch.options())
    assert again.options() == latch.options()
    for start in ("identity", "random"):
        ready = TopDownLatch(Toy(SIZES), again.feedback, start=start)
        assert ready.options()["feedback"] is again.feedback
        assert TopDownLatch(Toy(SIZES), **ready.options()).options() == ready.options()


@pytest.mark.parametrize(
    "network",
    [nn.Linear(8, 12), LSTMFeedback(8, 12), StaticFeedback(8, 12), nn.Sequential(nn.Linear(2, 3)), nn.GRU(3, 4)],
    ids=lambda n: type(n).__name__,
)
def test_one_network_in_place_of_a_factory_is_named(network):
    with pytest.raises(TypeError, match=r"is one network, but each pair of target and source needs its own: pass a factory"):
        TopDownLatch(Toy(SIZES), network)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: torch.zeros(3, 6, 4)}, TypeError, r"names of inputs must be strings, got 0 \(int\)"),
        ({"audio": torch.zeros(3, 0, 4)}, ValueError, "'audio' has no steps: leave it out, or pass None"),
        ({"audio": torch.zeros(3, 6, 5)}, ValueError, "'audio' has 5 features, but the feedback was built for 4"),
        ({"audio": torch.zeros(3, 6, 4).int()}, TypeError, "'audio' has shape .* and torch.int32: a mask multiplies"),
    ],
)
def test_wrong_inputs_are_named_before_the_backbone_sees_them(change, error, message):
    class Untouched(NoLengths):
        calls = 0

        def encode(self, inputs):
            self.calls += 1
            return super().encode(inputs)

    latch = TopDownLatch(Untouched(SIZES), "linear", example_inputs=INPUTS)
    before = latch.backbone.calls
    with pytest.raises(error, match=message):
        latch(INPUTS | change)
    assert latch.backbone.calls == before


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([6, 2, 4], TypeError, r"got list: use torch.as_tensor\(lengths\)"),
        ((6, 2, 4), TypeError, r"got tuple: use torch.as_tensor\(lengths\)"),
        (6, TypeError, r"got int: use torch.as_tensor\(lengths\)"),
        ({"text": [6, 2, 4]}, TypeError, r"lengths of 'text' must be a tensor of integers, got list: use torch.as_tensor"),
        (torch.tensor([6.0, 2.0, 4.0]), TypeError, r"got torch.float32: use .*\.long\(\)"),
        (torch.tensor([[6], [2], [4]]), ValueError, r"lengths of 'text' have shape \(3, 1\) for 3 samples: pass \(3,\)"),
        (torch.tensor([6, 2]), ValueError, r"lengths of 'text' have shape \(2,\) for 3 samples"),
        (torch.tensor([7, 2, 4]), ValueError, r"lengths\[0\] of 'text' is 7, but it has 6 steps: a length must lie in 1..6"),
        ({"txet": LENGTHS}, ValueError, r"lengths name 'txet', but the modalities are \['text', 'audio'\]"),
    ],
)
@pytest.mark.parametrize("build", [lambda: TopDownLatch(Toy(SIZES)), *ADAPTERS.values()], ids=["latch", *ADAPTERS])
def test_wrong_lengths_are_named(build, lengths, error, message):
    with pytest.raises(error, match=message):
        build()(INPUTS, lengths)


@every_adapter
@pytest.mark.parametrize("within", [False, True], ids=["alone", "latch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_inputs_of_another_type_than_the_adapter_are_named(build, within, dtype):
    model = TopDownLatch(build(), sources={"text": ["audio"]}) if within else build()
    inputs = INPUTS | {"audio": torch.zeros(3, 6, 4).to(dtype)}
    with pytest.raises(
        TypeError, match=rf"'audio' is {dtype} but \w+ is torch.float32: convert it, as in audio.to\(torch.float32\)"
    ):
        model(inputs)
    if dtype.is_floating_point:
        converted = model.to(dtype)
        assert converted({k: x.to(dtype) for k, x in inputs.items()}).dtype == dtype


@every_adapter
def test_autocast_converts_what_it_can(build):
    with torch.autocast("cpu", torch.bfloat16):
        build()({k: x.bfloat16() for k, x in INPUTS.items()})
        with pytest.raises(TypeError, match=r"'text' is torch\.float64"):
            build()({k: x.double() for k, x in INPUTS.items()})


@every_adapter
@pytest.mark.parametrize("within", [False, True], ids=["alone", "latch"])
def test_inputs_elsewhere_than_the_adapter_are_named(build, within, monkeypatch):
    model = TopDownLatch(build()) if within else build()

    class Elsewhere(torch.Tensor):
        device = torch.device("cuda:0")

    inputs = {k: x.as_subclass(Elsewhere) for k, x in INPUTS.items()}
    with pytest.raises(ValueError, match=r"'text' is on cuda:0 but \w+ is on cpu: move one of them, as in text.to\('cpu'\)"):
        model(inputs)


@every_adapter
@pytest.mark.parametrize("size", [3, 5])
def test_a_wrong_number_of_features_is_named(build, size):
    inputs = INPUTS | {"audio": torch.zeros(3, 6, size)}
    with pytest.raises(ValueError, match=rf"'audio' has shape \(3, 6, {size}\), but \w+ takes \(B, T, 4\)"):
        build()(inputs)
    with pytest.raises(ValueError, match=rf"'audio' has {size} features, but the feedback was built for 4"):
        TopDownLatch(build())(inputs)


@pytest.mark.filterwarnings("default")
def test_disabled_without_with_is_a_warning():
    latch = TopDownLatch(Toy(SIZES), "linear")
    expected = latch(INPUTS)
    with pytest.warns(RuntimeWarning, match=r"disabled\(\) alone does nothing: write `with latch.disabled\(\):`"):
        latch.disabled()
    assert torch.equal(latch(INPUTS), expected)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"backbone": nn.Linear(1, 1)}, TypeError, r"Linear has no encode and no fuse\(\): a backbone needs both"),
        ({"feedback": "gru"}, ValueError, "feedback='gru' is not known: use one of .'linear', 'lstm', 'shared'"),
        ({"feedback": 3}, TypeError, "feedback=3 is not known: use one of"),
        ({"sources": {}}, ValueError, r"sources={} must name at least one target"),
        ({"sources": ["text"]}, ValueError, r"sources=\['text'\] must name at least one target"),
        ({"sources": {"text": []}}, ValueError, r"sources\['text'\] = \[\] must list sources, each once"),
        ({"sources": {"text": "audio"}}, ValueError, r"sources\['text'\] = 'audio' must list"),
        ({"sources": {"text": ["audio", "audio"]}}, ValueError, "must list sources, each once"),
        ({"sources": {"text": ["lidar"]}}, ValueError, r"'lidar' is not among the encodings \['audio', 'text'\]"),
        ({"sources": {"lidar": ["text"]}}, ValueError, r"'lidar' is not among the inputs and sites \['audio', 'text'\]"),
        ({"feedback": lambda a, b: None}, TypeError, "'audio' must be a torch.nn.Module, got NoneType"),
    ],
)
def test_wrong_options_are_named(options, error, message):
    with pytest.raises(error, match=message):
        TopDownLatch(**{"backbone": Toy(SIZES), **options})


def test_a_backbone_must_be_a_module():
    class Plain:
        def encode(self, inputs): ...
        def fuse(self, encodings): ...

    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got Plain"):
        TopDownLatch(Plain())


@pytest.mark.parametrize(
    ("change", "lengths", "error", "message"),
    [
        (lambda x: [1], None, TypeError, "inputs must be one mapping, or each input by its name, got list"),
        (lambda x: {"text": None}, None, ValueError, r"all of \['text'\] are None"),
        (lambda x: {}, None, ValueError, "there is no input: it is empty"),
        (lambda x: x, "six", TypeError, "must be a tensor of integers, got str"),
        (lambda x: {**x, "audio": [1.0]}, None, TypeError, "'audio' has type list: a mask multiplies floating-point"),
        (
            lambda x: {**x, "audio": x["audio"][:2]},
            None,
            ValueError,
            r"'audio' has shape \(2, 6, 4\) but 'text' has shape \(3,",
        ),
    ],
)
def test_wrong_inputs_are_named(change, lengths, error, message):
    class Lenient(Toy):
        def encode(self, inputs, lengths=None):
            return super().encode({k: x.float() for k, x in inputs.items() if x is not None}, lengths)

    with pytest.raises(error, match=message):
        TopDownLatch(Lenient(SIZES))(change(INPUTS), lengths)


@pytest.mark.parametrize(
    ("encodings", "lengths", "error", "message"),
    [
        ([1], None, TypeError, r"encode\(\) must return a mapping from modality to encoding, got list"),
        ({"text": 1}, None, TypeError, r"encode\(\) returned 'text' with type int"),
        ({"text": torch.zeros(3, 2, 2, 2)}, None, ValueError, r"'text' of shape \(3, 2, 2, 2\) for a batch of 3"),
        ({"text": torch.zeros(2, 6, 5)}, None, ValueError, r"'text' of shape \(2, 6, 5\) for a batch of 3"),
        (
            {"text": torch.zeros(3, 4, 5)},
            LENGTHS,
            ValueError,
            "returned 'text' 4 steps for an input of shape \\(3, 6, 7\\) and .*, whose lengths no longer fit: return .*Padded",
        ),
        ({"text": torch.zeros(3, 6, 9)}, None, ValueError, "returned 'text' of size 9, but the feedback was built for 5"),
    ],
)
def test_wrong_encodings_are_named(encodings, lengths, error, message):
    latch = TopDownLatch(Toy(SIZES))
    latch.backbone.encode = lambda inputs, lengths=None: encodings
    with pytest.raises(error, match=message):
        latch(INPUTS, lengths)


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        ([1], TypeError, r"Ready must return logits as {target: {source: tensor}}"),
        ({"text": torch.zeros(3, 6, 7)}, TypeError, "Ready must return logits as"),
        ({"text": {"audio": None}}, TypeError, "from 'audio' to 'text' must be a tensor of logits, got NoneType"),
        ({"text": {"audio": torch.zeros(2, 6, 7)}}, ValueError, "the batch and the last size must be the same"),
    ],
)
def test_what_a_ready_feedback_returns_is_checked(returned, error, message):
    class Ready(nn.Module):
        def forward(self, encodings):  # without lengths, as a backbone may be
            return returned

    with pytest.raises(error, match=message):
        TopDownLatch(Toy(SIZES), Ready())(INPUTS, LENGTHS)


def test_logits_that_do_not_fit_are_named():
    latch = TopDownLatch(Toy(SIZES), lambda source_size, target_size: nn.Linear(source_size, 9), start="random")
    with pytest.raises(
        ValueError,
        match=r"from 'audio' returned logits of shape \(3, 6, 9\) for 'text' of shape \(3, 6, 7\): the batch",
    ):
        latch(INPUTS)


# Without AVX-512 torch has no LSTM of half precision: see pytorch#88136.
HALF = """
import sys, torch
from topdown import StaticFeedback, TopDownLatch, SequenceLSTM
from topdown.adapters import LSTMBackbone, MulTBackbone
sizes, lengths = {"text": 12, "audio": 7}, torch.tensor([9, 4, 2])
torch.manual_seed(0)
inputs = {k: torch.randn(3, 9, d) for k, d in sizes.items()}
for dtype in (torch.bfloat16, torch.float16):
    for build in (lambda: LSTMBackbone(sizes, hidden_size=8, dropout=0.0), lambda: MulTBackbone(sizes, size=8, num_heads=2)):
        for kind in ("lstm", "shared"):
            latch = TopDownLatch(build(), kind).eval()
            expected = latch(inputs, lengths)
            with torch.autocast("cpu", dtype):
                output = latch(inputs, lengths)
            output.float().sum().backward()
            assert all(p.grad.isfinite().all() for p in latch.parameters())
            with torch.no_grad(), torch.autocast("cpu", dtype):
                latch(inputs, lengths)
            half = latch.to(dtype)({k: x.to(dtype) for k, x in inputs.items()}, lengths)
            for result in (output, half):
                assert (result.float() - expected).abs().max() < 0.1, (dtype, kind)
print("done")
"""


def test_half_precision_on_a_machine_that_has_none_of_it():
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", HALF], capture_output=True, text=True, env=environment)
    assert ended.stdout == "done\n", ended.stderr[-2000:]
