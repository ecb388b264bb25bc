"""A latch that begins as its backbone, bit for bit, and still learns."""

import copy
from functools import partial

import pytest
import torch
from test_sites import INPUTS as MODEL_INPUTS
from test_sites import Model
from toys import Constant, Toy, Zero, batch

from topdown import SharedFeedback, Site, StaticFeedback, TopDownLatch
from topdown.adapters import HookedBackbone, LSTMBackbone, MulTBackbone

SIZES = {"text": 5, "audio": 4, "visual": 3}
INPUTS = batch(SIZES, dtype=torch.float32)
LENGTHS = torch.tensor([6, 2, 4])
BY_NAME = {"text": LENGTHS, "audio": torch.tensor([6, 0, 4]), "visual": LENGTHS}


class Ready(torch.nn.Module):
    """Masks two targets by an average of what it is given."""

    def __init__(self):
        super().__init__()
        self.text, self.audio = torch.nn.Linear(5, 5), torch.nn.Linear(5, 4)

    def forward(self, encodings):
        return {"text": {"audio": self.text(encodings["audio"])}, "audio": {"text": self.audio(encodings["text"])}}


def median(masks):
    return masks.median(0).values


def weighted(masks):
    return 0.3 * masks[0] + masks[1:].sum(0) ** 2


KINDS = {
    "linear": lambda: "linear",
    "lstm": lambda: "lstm",
    "shared": lambda: "shared",
    "static": lambda: "static",
    "factory": lambda: torch.nn.Linear,
    "factory of all": lambda: partial(SharedFeedback, bidirectional=True),
    "zero": lambda: Zero,
    "infinite": lambda: Constant,
    "ready": Ready,
}
RULES = ["mean", "max", "min", "product", median, weighted]
BACKBONES = {
    "toy": lambda: Toy(SIZES),
    "lstm": lambda: LSTMBackbone(SIZES, hidden_size=4),
    "mult": lambda: MulTBackbone(SIZES, size=4, num_heads=2, num_layers=1),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: getattr(rule, "__name__", rule))
@pytest.mark.parametrize("lengths", [None, LENGTHS, BY_NAME], ids=["none", "tensor", "mapping"])
def test_at_the_start_the_latch_is_the_backbone(kind, rule, lengths):
    backbone = BACKBONES["toy"]()
    latch = TopDownLatch(backbone, KINDS[kind](), combine=rule, start="identity", passes=2)
    # A mean over no steps is nan in both.
    torch.testing.assert_close(latch(INPUTS, lengths), backbone(INPUTS, lengths), rtol=0, atol=0, equal_nan=True)
    assert all(mask.eq(1).all() for mask in latch.masks(INPUTS, lengths).values())


@pytest.mark.parametrize("name", ["lstm", "mult"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["linear", "lstm", "shared", "static"])
def test_adapters_begin_as_they_are(name, dtype, kind):
    backbone = BACKBONES[name]().to(dtype).eval()
    latch = TopDownLatch(backbone, kind, start="identity").to(dtype).eval()
    inputs = {k: x.to(dtype) for k, x in INPUTS.items()}
    assert torch.equal(latch(inputs, LENGTHS), backbone(inputs, LENGTHS))


def test_models_with_sites_begin_as_they_are():
    model = Model()
    sites = {"text": "words", "picture": Site("stem", feature_dim=1, time_dim=(2, 3))}
    backbone = HookedBackbone(model, {"text": "body", "picture": "patch"})
    latch = TopDownLatch(backbone, sites=sites, align="pool", start="identity")
    assert torch.equal(latch(**MODEL_INPUTS)["logits"], model(**MODEL_INPUTS)["logits"])


LEARNING = [kind for kind in KINDS if kind not in ("zero", "infinite")]


@pytest.mark.parametrize("kind", LEARNING)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: getattr(rule, "__name__", rule))
def test_every_parameter_of_the_feedback_learns(kind, rule):
    torch.manual_seed(0)
    latch = TopDownLatch(Toy(SIZES), KINDS[kind](), combine=rule, start="identity")
    latch.backbone.requires_grad_(False)
    before = copy.deepcopy(latch)
    optimizer = torch.optim.Adam([p for p in latch.parameters() if p.requires_grad], lr=0.05)
    target = torch.tensor([[1.0, -1.0], [0.0, 2.0], [-1.0, 0.5]])
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(latch(INPUTS), target)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.97 * losses[0]
    for (name, p), old in zip(latch.feedback.named_parameters(), before.feedback.parameters(), strict=True):
        assert not torch.equal(p, old), name
    assert all(p.any() for p in latch.gates.parameters())


def test_masks_are_relative_to_those_of_networks_that_say_nothing():
    """By hand: gates of 1 and logits of 0 give sigmoid(1); the mean of two, over that of 1/2, is 2 sigmoid(1)."""
    expected = {"mean": 2.0, "max": 2.0, "min": 2.0, "product": 4.0}
    s = torch.sigmoid(torch.tensor(1.0))
    for rule, factor in expected.items():
        latch = TopDownLatch(Toy(SIZES), Zero, combine=rule, start="identity")
        for gate in latch.gates.parameters():
            gate.data.fill_(1.0)
        mask = latch.masks(INPUTS)["text"]
        torch.testing.assert_close(mask, torch.full_like(mask, factor * (s * s if rule == "product" else s)))


def test_static_feedback_looks_at_nothing():
    latch = TopDownLatch(Toy(SIZES), "static")
    latch.feedback["text"]["audio"].bias.data = torch.arange(5.0)
    others = {k: torch.randn_like(x) for k, x in INPUTS.items()}
    mask = latch.masks(INPUTS)["text"]
    assert torch.equal(mask, latch.masks(others)["text"])
    expected = (torch.sigmoid(torch.arange(5.0)) + 0.5) / 2
    torch.testing.assert_close(mask, expected.expand(3, 6, 5))
    assert isinstance(latch.feedback["text"]["audio"], StaticFeedback)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "zero"}, "start='zero' must be 'random' or 'identity'"),
        ({"start": "identity", "scale": 2.0}, "start='identity' begins with masks of 1, but scale=2.0 makes them 2.0"),
    ],
)
def test_wrong_starts_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TopDownLatch(Toy(SIZES), **options)


def test_a_rule_to_which_nothing_is_relative_is_named():
    latch = TopDownLatch(Toy(SIZES), combine=lambda masks: masks.mean(0) - 0.5, start="identity")
    with pytest.raises(ValueError, match="start='identity' needs a rule combine= that makes no 0 of masks which are 1/2"):
        latch(INPUTS)
