"""A latch that begins as its backbone, bit for bit, and still learns."""

import copy
from functools import partial

import pytest
import torch
from test_sites import INPUTS as MODEL_INPUTS
from test_sites import Model
from toys import Constant, Toy, Zero, batch, small_mult

from topdown import SharedFeedback, Site, StaticFeedback, TopDownLatch
from topdown.adapters import HookedBackbone, LSTMBackbone

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


class One(Constant):
    value = 1.0


def median(masks):
    return masks.median(0).values


def weighted(masks):
    return 0.3 * masks[0] + 0.7 * masks[-1] ** 2


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
    "mult": lambda: small_mult(SIZES),
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
    sites = {"text": "words", "picture": Site("stem", "b d h w")}
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
    for _ in range(20):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(latch(INPUTS), target)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.97 * losses[0]
    for (name, p), old in zip(latch.feedback.named_parameters(), before.feedback.parameters(), strict=True):
        assert not torch.equal(p, old), name


def test_each_mask_is_twice_the_sigmoid_of_its_logits():
    """By hand: with logits of 1 the mask of each source is 2 sigmoid(1); the mean of two is that, the product its square."""
    mask_of_one = 2 * torch.sigmoid(torch.tensor(1.0))
    for rule in ("mean", "max", "min", "product"):
        latch = TopDownLatch(Toy(SIZES), "static", combine=rule)
        for bias in latch.feedback.parameters():
            bias.data.fill_(1.0)
        mask = latch.masks(INPUTS)["text"]
        torch.testing.assert_close(mask, (mask_of_one**2 if rule == "product" else mask_of_one).expand(mask.shape))


def test_a_scale_and_a_shift_per_feature_follow_a_network_of_the_users():
    """By hand: h' = a h + b with h of 1, a of 2 and b of 0, 1, 2, 3, 4."""
    latch = TopDownLatch(Toy(SIZES), One)
    assert all(mask.eq(1).all() for mask in latch.masks(INPUTS).values())
    for pair in ("audio", "visual"):
        affine = latch.feedback.pairs["text"][pair]
        affine.weight.data.fill_(2.0)
        affine.bias.data = torch.arange(5.0)
    expected = 2 * torch.sigmoid(2.0 + torch.arange(5.0))
    torch.testing.assert_close(latch.masks(INPUTS)["text"], expected.expand(3, 6, 5))


@pytest.mark.parametrize("kind", ["linear", "lstm", "shared", "static", "factory"])
def test_everything_that_the_start_adds_is_feedback(kind):
    latch = TopDownLatch(Toy(SIZES), KINDS[kind]())
    names = {name.split(".")[0] for name, _ in latch.named_parameters()}
    assert names == {"backbone", "feedback"}
    latch.feedback.requires_grad_(False)
    latch.backbone.requires_grad_(False)
    assert not any(p.requires_grad for p in latch.parameters())


def test_static_feedback_looks_at_nothing():
    latch = TopDownLatch(Toy(SIZES), "static", start="random")
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
        ({"start": "zero"}, "start='zero' must be 'identity' or 'random'"),
        ({"start": "identity", "scale": 2.0}, "scale=2.0 goes with start='random'"),
    ],
)
def test_wrong_starts_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        TopDownLatch(Toy(SIZES), **options)


def test_a_rule_that_does_not_map_ones_to_ones_is_named():
    with pytest.raises(ValueError, match="combine= must map masks of 1 to 1 where start='identity'"):
        TopDownLatch(Toy(SIZES), combine=lambda masks: masks.sum(0))
    latch = TopDownLatch(Toy(SIZES), "static", combine=lambda masks: masks.sum(0), start="random")
    assert latch.masks(INPUTS)["text"].eq(1.0).all()  # of two sources, 1/2 each
