"""Masks that act within a model: at the outputs and inputs of submodules, whose forward stays as it is."""

import copy
import dataclasses
import pickle
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.checkpoint import checkpoint
from toys import Constant, single_process_group

from topdown import Site, TopDownLatch
from topdown.adapters import CallableBackbone, HookedBackbone
from topdown.sequence import valid_steps
from topdown.sites import from_layout, to_layout

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 8, 9, 0]])
LENGTHS = torch.tensor([4, 2, 3])


class Half(Constant):
    """Logits of which the mask is 1/4."""

    value = -torch.log(torch.tensor(3.0)).item()


class Pair(NamedTuple):
    first: torch.Tensor
    second: int


def same(x):
    return x


class Holder:
    def __init__(self, hidden, other):
        self.hidden, self.other = hidden, other


class Words(nn.Module):
    """Returns word vectors in some structure."""

    def __init__(self, wrap):
        super().__init__()
        self.table, self.wrap = nn.Embedding(10, 4), wrap

    def forward(self, ids):
        return self.wrap(self.table(ids))


class Model(nn.Module):
    """A classifier of words and an image, whose forward cannot be split."""

    def __init__(self, wrap=same, unwrap=same):
        super().__init__()
        self.words, self.unwrap = Words(wrap), unwrap
        self.stem, self.patch = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)
        self.body, self.head = nn.Linear(4, 5), nn.Linear(10, 2)

    def forward(self, ids, image, labels=None):
        words = self.unwrap(self.words(ids))
        text = torch.tanh(self.body(x=words) if isinstance(self.body, Named) else self.body(words))
        seen = torch.tanh(self.patch(self.stem(image).flatten(2).transpose(1, 2)))
        logits = self.head(torch.cat([text.mean(1), seen.mean(1)], -1))
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Named(nn.Linear):
    """A layer that is called with its argument by name."""

    def forward(self, x):
        return super().forward(x)


IMAGE = torch.randn(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
INPUTS = {"ids": IDS, "image": IMAGE}
ENCODINGS = {"text": "body", "picture": "patch"}


def latch_around(model, sites, feedback="linear", **options):
    torch.manual_seed(3)
    options = {"start": "random", "align": "pool", **options}
    latch = TopDownLatch(HookedBackbone(model, ENCODINGS), feedback, sites=sites, **options)
    latch(**INPUTS)
    return latch


# Layouts


@given(
    st.permutations(["b", "d", "t", "h", "_"]), st.permutations(range(5)), st.lists(st.integers(1, 4), min_size=5, max_size=5)
)
def test_values_and_masks_change_layout_and_back(letters, names, shape):
    """Five dimensions in any order: the batch, features, and others that are time or averaged."""
    letters = [letter if letter in "bd" or i % 2 else "_" for letter, i in zip(letters, names, strict=True)]
    values = torch.randn(shape, dtype=torch.float64)
    batch, feature = letters.index("b"), letters.index("d")
    time = [dim for dim, letter in enumerate(letters) if letter not in "bd_"]
    others = [dim for dim, letter in enumerate(letters) if letter == "_"]
    site = Site("x", " ".join(letters))
    moved = from_layout(values, site)
    assert moved.shape == (values.shape[batch], *[values.shape[dim] for dim in time], values.shape[feature])
    mask = torch.rand_like(moved)
    placed = to_layout(mask, values, site)
    assert placed.shape == values.shape
    averaged = values.mean(others, keepdim=True).expand_as(values) if others else values
    for index in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
        at = (index[batch], *[index[dim] for dim in time], index[feature])
        assert placed[tuple(index)] == mask[at]
        torch.testing.assert_close(moved[at], averaged[tuple(index)])


def test_a_vector_has_no_time():
    assert from_layout(torch.zeros(2, 5), Site("x")).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"at": "middle"}, ValueError, "at='middle' must be 'output' or 'input'"),
        ({"layout": ("b", "d")}, TypeError, r"needs the path of a submodule, as in Site\('encoder.layer.0', 'b t d'\)"),
        ({"layout": "b t"}, ValueError, "layout='b t' must name 'b' and 'd' once"),
        ({"layout": "t d"}, ValueError, "must name 'b' and 'd' once"),
        ({"layout": "b d d"}, ValueError, "must name 'b' and 'd' once"),
        ({"layout": "b t t d"}, ValueError, "no other letter twice"),
        ({"layout": "b ... d"}, ValueError, "layout='b ... d'"),
        ({"layout": "btd"}, ValueError, "layout='btd'"),
    ],
)
def test_wrong_sites_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Site("x", **options)


# What a mask does


def by_hand(model, act):
    """The model's output where `act` changes word vectors and the feature map."""
    text, stem = act(model.unwrap(model.words(IDS)), model.stem(IMAGE))
    seen = torch.tanh(model.patch(stem.flatten(2).transpose(1, 2)))
    return model.head(torch.cat([torch.tanh(model.body(text)).mean(1), seen.mean(1)], -1))


STRUCTURES = {
    "tensor": (lambda x: x, lambda x: x, None),
    "tuple": (lambda x: (x, 1), lambda x: x[0], None),
    "second": (lambda x: (1, x), lambda x: x[1], 1),
    "list": (lambda x: [x, 2], lambda x: x[0], 0),
    "named tuple": (lambda x: Pair(x, 2), lambda x: x.first, "first"),
    "mapping": (lambda x: OrderedDict(hidden=x, other=3), lambda x: x["hidden"], None),
    "key": (lambda x: {"other": 3, "hidden": x}, lambda x: x["hidden"], "hidden"),
    "attribute": (lambda x: Holder(x, 3), lambda x: x.hidden, "hidden"),
}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_output_of_a_submodule_is_masked(structure):
    wrap, unwrap, index = STRUCTURES[structure]
    model = Model(wrap, unwrap)
    latch = latch_around(model, {"text": Site("words", index=index)})
    mask = latch.masks(**INPUTS)["text"]
    assert mask.shape == (3, 4, 4)
    torch.testing.assert_close(latch(**INPUTS)["logits"], by_hand(model, lambda text, stem: (text * mask, stem)))


@pytest.mark.parametrize(
    ("layer", "index"), [(nn.Linear, None), (nn.Linear, 0), (nn.Linear, "input"), (Named, None), (Named, "x")]
)
def test_the_input_of_a_submodule_is_masked(layer, index):
    model = Model()
    model.body = layer(4, 5)
    latch = latch_around(model, {"text": Site("body", at="input", index=index)})
    mask = latch.masks(**INPUTS)["text"]
    model_by_hand = copy.deepcopy(model)
    expected = by_hand(model_by_hand, lambda text, stem: (text * mask, stem))
    torch.testing.assert_close(latch(**INPUTS)["logits"], expected)


@pytest.mark.parametrize(
    "layout", ["b d h w", "b d _ _", "b d h _", "b d _ w"], ids=["every position", "channels", "rows", "columns"]
)
def test_feature_maps_are_masked_by_position_or_channel(layout):
    model = Model()
    latch = latch_around(model, {"picture": Site("stem", layout)})
    mask = latch.masks(**INPUTS)["picture"]
    assert mask.shape == (3, 6, 4, 5)
    if layout == "b d _ _":
        assert mask[:, :, :1, :1].expand_as(mask).equal(mask)
    torch.testing.assert_close(latch(**INPUTS)["logits"], by_hand(model, lambda text, stem: (text, stem * mask)))


def test_several_sites_of_one_modality_and_inputs_beside_them():
    model = Model()
    sites = {"text": "words.table", "late": Site("body", at="input"), "picture": Site("stem", "b d h w")}
    sources = {"text": ["picture"], "late": ["picture", "text"], "picture": ["text"]}
    latch = latch_around(model, sites, sources=sources)
    masks = latch.masks(**INPUTS)
    assert set(masks) == {"text", "late", "picture"}

    def act(text, stem):
        return text * masks["text"] * masks["late"], stem * masks["picture"]

    torch.testing.assert_close(latch(**INPUTS)["logits"], by_hand(model, act))
    assert set(latch.feedback["late"]) == {"picture", "text"}


class TwoSensors(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.inner = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 4)

    def encode(self, inputs):
        return {"a": torch.tanh(self.inner(torch.tanh(self.a(inputs["a"])))), "b": torch.tanh(self.b(inputs["b"]))}

    def fuse(self, encodings):
        return (encodings["a"] * encodings["b"]).mean((1, 2))


SENSORS = {"a": torch.randn(2, 5, 3), "b": torch.randn(2, 5, 2)}


def test_sites_and_raw_inputs_together():
    model = TwoSensors()
    sources = {"b": ["a"], "inner": ["b"]}
    latch = TopDownLatch(model, "linear", sources=sources, sites={"inner": Site("inner", at="input")}, example_inputs=SENSORS)
    masks = latch.masks(SENSORS)
    a = torch.tanh(model.inner(torch.tanh(model.a(SENSORS["a"])) * masks["inner"]))
    b = torch.tanh(model.b(SENSORS["b"] * masks["b"]))
    torch.testing.assert_close(latch(SENSORS), (a * b).mean((1, 2)))
    alone = TopDownLatch(model, "linear", sites={"b": Site("b", at="input")}, example_inputs=SENSORS)
    assert set(alone.masks(SENSORS)) == {"b"}  # the sites are the targets


def test_masks_are_made_from_encodings_of_the_raw_input_at_every_pass():
    """Two passes, computed by hand."""
    model = Model()
    latch = latch_around(model, {"text": "words"}, passes=2)
    network = latch.feedback["text"]["picture"]

    def masks(text_mask):
        seen = model.patch(model.stem(IMAGE).flatten(2).transpose(1, 2))  # does not depend on text
        return torch.sigmoid(network(seen)).mean(1, keepdim=True).expand(3, 4, 4)

    mask = masks(None)
    torch.testing.assert_close(latch.masks(**INPUTS)["text"], mask)
    torch.testing.assert_close(latch(**INPUTS)["logits"], by_hand(model, lambda text, stem: (text * mask, stem)))


def test_padding_within_a_model_changes_no_mask():
    latch = TopDownLatch(HookedBackbone(Model(), {"text": "body"}), "lstm", sites={"text": "words"})
    lengths = {"text": LENGTHS}
    valid = valid_steps(LENGTHS, 4)
    changed = {**INPUTS, "ids": torch.where(valid, IDS, 9)}
    first, second = (latch.masks(**inputs, lengths=lengths)["text"] for inputs in (INPUTS, changed))
    assert torch.equal(first[valid], second[valid])


class Pyramid(nn.Module):
    """A large and a small feature map."""

    def __init__(self):
        super().__init__()
        self.large, self.small = nn.Conv2d(1, 2, 1), nn.Conv2d(1, 3, 1)

    def forward(self, x):
        large = self.large(x)
        return large.mean((1, 2, 3)) + self.small(nn.functional.avg_pool2d(x, 2)).mean((1, 2, 3))


def test_maps_of_other_sizes_are_interpolated_in_both_dimensions():
    model = Pyramid()
    backbone = HookedBackbone(model, {"small": Site("small", "b d h w")})
    options = {"sources": {"large": ["small"]}, "sites": {"large": Site("large", "b d h w")}, "start": "random"}
    x = torch.zeros(2, 1, 8, 6)
    x[..., 3:] = 1.0  # left 0, right 1: the same in every row
    latch = TopDownLatch(backbone, "linear", align="interpolate", **options)
    mask = latch.masks(x=x)["large"]
    assert mask.shape == (2, 2, 8, 6)
    torch.testing.assert_close(mask, mask[:, :, :1].expand_as(mask))
    encoding = model.small(nn.functional.avg_pool2d(x, 2))
    small = torch.sigmoid(latch.feedback["large"]["small"](encoding.movedim(1, -1)))  # (B, 4, 3, D)
    # By hand: column w of six lies at w * 2 / 5 of three.
    for w in range(6):
        at = w * 2 / 5
        below, rest = int(at), at - int(at)
        expected = small[:, 0, below] * (1 - rest) + small[:, 0, min(below + 1, 2)] * rest
        torch.testing.assert_close(mask[:, :, 0, w], expected)
    with pytest.raises(ValueError, match=r"'small' has positions \(4, 3\) but 'large' has \(8, 6\): pass align='pool' or"):
        TopDownLatch(backbone, "linear", **options)(x=x)
    pooled = TopDownLatch(backbone, "linear", align="pool", **options)
    assert pooled.masks(x=x)["large"].flatten(2).std(-1).max() < 1e-6


def test_a_sequence_and_a_map_share_no_positions():
    model = Model()
    backbone = HookedBackbone(model, ENCODINGS)
    latch = TopDownLatch(backbone, sites={"picture": Site("stem", "b d h w")}, align="interpolate")
    with pytest.raises(ValueError, match=r"'text' has positions \(T,\) but 'picture' has \(4, 5\): pass align='pool'"):
        latch(**INPUTS)


class TimeFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.rnn, self.head = nn.Linear(5, 8), nn.LSTM(8, 6), nn.Linear(6, 1)

    def forward(self, x):
        return self.head(self.rnn(self.inner(x.transpose(0, 1)))[0][-1])


def test_layers_that_take_time_first():
    x = torch.randn(3, 7, 5)
    backbone = HookedBackbone(TimeFirst(), {"x": Site("rnn", "t b d")})
    latch = TopDownLatch(backbone, sites={"x": Site("inner", "t b d")}, start="random")
    assert latch.masks(x=x)["x"].shape == (7, 3, 8)
    alone = [latch(x=sample) for sample in x.split(1)]
    torch.testing.assert_close(latch(x=x), torch.cat(alone))
    wrong = TopDownLatch(HookedBackbone(TimeFirst(), {"x": "rnn"}), sites={"x": "inner"})
    with pytest.raises(ValueError, match=r"but the inputs have 3 samples: make the model batch_first, .*Site\(path, 't b d'\)"):
        wrong(x=x)


def test_a_map_whose_dimensions_nobody_names_is_named():
    with pytest.raises(ValueError, match=r"has shape \(3, 6, 4, 5\): name its dimensions, as in Site\(path, 'b d h w'\)"):
        latch_around(Model(), {"picture": "stem"})


def test_lengths_go_by_the_names_of_sites_and_encodings():
    backbone = HookedBackbone(Model(), {"text": "body"})
    options = {"sites": {"words": "words"}, "sources": {"words": ["text"]}}
    latch = TopDownLatch(backbone, "linear", **options)
    masks = latch.masks(**INPUTS, lengths={"words": LENGTHS, "text": LENGTHS})
    assert set(masks) == {"words"}
    for name in ("ids", "labels", "wrods"):
        with pytest.raises(ValueError, match=f"lengths name '{name}', but the modalities are"):
            latch(**INPUTS, lengths={name: LENGTHS})


def test_a_module_may_be_named_by_any_of_its_names():
    model = Model()
    model.other = model.words
    latch = latch_around(model, {"text": "other"})
    assert latch.masks(**INPUTS)["text"].shape == (3, 4, 4)


@dataclasses.dataclass(frozen=True)
class Output:
    hidden: torch.Tensor
    other: int = 3


@pytest.mark.parametrize(
    ("wrap", "unwrap", "index"),
    [
        (lambda x: Output(x), lambda x: x.hidden, "hidden"),
        (lambda x: OrderedDict(hidden=x, other=3), lambda x: x["hidden"], 0),
        (lambda x: torch.max(torch.stack([x, x - 1]), 0), lambda x: x.values, 0),
    ],
    ids=["frozen dataclass", "number of a key", "type of torch"],
)
def test_other_structures_are_put_together_again(wrap, unwrap, index):
    model = Model(wrap, unwrap)
    latch = latch_around(model, {"text": Site("words", index=index)})
    mask = latch.masks(**INPUTS)["text"]
    torch.testing.assert_close(latch(**INPUTS)["logits"], by_hand(model, lambda text, stem: (text * mask, stem)))


def test_the_first_argument_is_that_of_the_signature():
    class Body(nn.Linear):
        def forward(self, x, weight=None):
            return super().forward(x * weight)

    class Caller(Model):
        def __init__(self):
            super().__init__()
            self.body = Body(4, 5)

        def forward(self, ids, image):
            words = self.words(ids)
            return {"logits": self.body(weight=torch.ones(3, 4, 4), x=words) + self.patch(self.stem(image).mean((2, 3))).sum()}

    model = Caller()
    backbone = HookedBackbone(model, {"text": "body"})
    latch = TopDownLatch(backbone, Half, sites={"text": Site("body", at="input")}, sources={"text": ["text"]}, start="random")
    expected = model.body(model.words(IDS) / 4, torch.ones(3, 4, 4)) + model.patch(model.stem(IMAGE).mean((2, 3))).sum()
    torch.testing.assert_close(latch(**INPUTS)["logits"], expected)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (17, "does not exist; it has type Tensor"),
        ("nonsense", "does not exist"),
        ([1], "does not exist"),
        ([1.5], "must be the number or the name"),
        (True, "must be"),
    ],
)
def test_an_item_of_what_has_none_is_named(index, message):
    with pytest.raises(TypeError, match=message):
        latch_around(Model(), {"text": Site("words", index=index)})


def test_frozen_feedback_within_checkpointing_is_named():
    model = Checkpointed()
    latch = TopDownLatch(
        HookedBackbone(model, ENCODINGS),
        "linear",
        sites={"text": Site("body", at="input")},
        align="pool",
        example_inputs=INPUTS,
    )
    latch.feedback.requires_grad_(False)
    with pytest.raises(ValueError, match="lies within activation checkpointing"):
        latch(**INPUTS)


def test_a_cache_of_the_model_is_filled_once():
    class Cache:
        def __init__(self):
            self.steps = []

    class Remembering(Model):
        def forward(self, ids, image, cache):
            cache.steps.append(ids)
            return super().forward(ids, image)

    latch = TopDownLatch(HookedBackbone(Remembering(), ENCODINGS), "linear", sites={"text": "words"}, align="pool")
    latch(**INPUTS, cache=Cache())
    cache = Cache()
    latch(**INPUTS, cache=cache)
    assert len(cache.steps) == 1


def test_two_first_calls_leave_no_layer_in_evaluation():
    class Slow(Model):
        def forward(self, ids, image):
            time.sleep(0.02)
            return super().forward(ids, image)

    model = Slow().train()
    latch = TopDownLatch(HookedBackbone(model, ENCODINGS), "linear", sites={"text": "words"}, align="pool")
    threads = [threading.Thread(target=lambda: latch(**INPUTS)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(module.training for module in model.modules())


@pytest.mark.filterwarnings("ignore")  # of torch, about nested tensors
def test_nested_tensors_of_the_fast_path_are_named():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(5, 8)
            self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)

        def forward(self, x, padding):
            return self.layers(self.inner(x), src_key_padding_mask=padding)

    latch = TopDownLatch(HookedBackbone(Encoder(), {"x": "layers.layers.0"}), "linear", sites={"x": "inner"})
    inputs = {"x": torch.randn(2, 4, 5), "padding": torch.tensor([[False] * 4, [False, False, True, True]])}
    with (
        torch.no_grad(),
        pytest.raises(TypeError, match=r"nested tensor: make nn.TransformerEncoder with enable_nested_tensor=False"),
    ):
        latch(**inputs)


def test_another_backbone_must_have_the_sites():
    latch = latch_around(Model(), {"text": "words"})
    with pytest.raises(ValueError, match=r"sites\['text'\]: Sequential has no 'words'"):
        latch.backbone = CallableBackbone(nn.Sequential(), encode=lambda m, i: i, fuse=lambda m, e: e)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_part_is_named():
    model = Model()
    model.words = torch.jit.script(nn.Embedding(10, 4))
    with pytest.raises(ValueError, match="'words' is compiled by TorchScript, which has no hooks"):
        TopDownLatch(HookedBackbone(model, ENCODINGS), sites={"text": "words"})


# A model that nobody may edit


def test_the_model_is_called_as_it_is_and_its_output_returned():
    model = Model()
    latch = latch_around(model, {"text": "words"})
    labels = torch.tensor([0, 1, 1])
    with latch.disabled():
        for name, value in latch(**INPUTS, labels=labels).items():
            assert torch.equal(value, model(**INPUTS, labels=labels)[name])
    output = latch(**INPUTS, labels=labels)
    assert output.keys() == {"loss", "logits"}
    output["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in latch.feedback.parameters())
    for parameter in latch.feedback.parameters():
        parameter.data.fill_(torch.inf)
    latch.feedback["text"]["picture"].weight.data.zero_()
    assert torch.equal(latch(**INPUTS)["logits"], model(**INPUTS)["logits"])  # masks of 1


def test_one_modality_alone_masks_itself():
    latch = TopDownLatch(HookedBackbone(Model(), {"text": "body"}), Half, sites={"text": "words"}, start="random")
    masks = latch.masks(**INPUTS)
    torch.testing.assert_close(masks["text"], torch.full((3, 4, 4), 0.25))
    assert list(latch.feedback["text"]) == ["text"]


def test_a_modality_that_is_none_need_not_be_reached():
    class Maybe(Model):
        def forward(self, text, picture):
            words = torch.tanh(self.body(self.words(text))).mean(1)
            seen = (
                torch.tanh(self.patch(self.stem(picture).flatten(2).transpose(1, 2))).mean(1) if picture is not None else words
            )
            return self.head(torch.cat([words, seen], -1))

    model = Maybe()
    sites = {"text": "words", "picture": Site("stem", "b d h w")}
    latch = TopDownLatch(HookedBackbone(model, ENCODINGS), "linear", sites=sites, align="pool")
    latch(text=IDS, picture=IMAGE)
    assert latch.masks(text=IDS, picture=None) == {}  # no source for the text, no target for the picture
    assert torch.equal(latch(text=IDS, picture=None), model(IDS, None))


def test_functions_make_a_backbone_of_any_module():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

        def look(self, left, right, count):
            return torch.tanh(self.left(left)), torch.tanh(self.right(right)), count

    odd, counts = Odd(), []

    def encode(module, inputs, lengths=None):
        left, right, count = module.look(inputs["a"], inputs["b"], lengths)
        counts.append(count)
        return {"a": left, "b": right}

    backbone = CallableBackbone(
        odd, encode=encode, fuse=lambda module, encodings: sum(r.mean((1, 2)) for r in encodings.values())
    )
    sites = {"a": Site("left", at="input"), "b": Site("right", at="input")}
    latch = TopDownLatch(backbone, Half, sites=sites, start="random")
    given = torch.tensor([5, 2])
    expected = torch.tanh(odd.left(SENSORS["a"] / 4)).mean((1, 2)) + torch.tanh(odd.right(SENSORS["b"] / 4)).mean((1, 2))
    torch.testing.assert_close(latch(SENSORS, given), expected)
    assert all(torch.equal(count, given) for count in counts)


# What is wrong is named


@pytest.mark.parametrize(
    ("sites", "error", "message"),
    [
        ({"text": "wrods.table"}, ValueError, r"sites\['text'\]: Model has no 'wrods.table', but \['words.table', "),
        ({"text": 3}, TypeError, "must be a mapping from names to Site"),
        (["words"], TypeError, "must be a mapping from names to Site"),
    ],
)
def test_sites_are_checked_when_they_are_given(sites, error, message):
    with pytest.raises(error, match=message):
        TopDownLatch(HookedBackbone(Model(), ENCODINGS), sites=sites)


def test_encodings_are_checked_when_they_are_given():
    with pytest.raises(ValueError, match=r"encodings\['text'\]: Model has no 'boddy', but \['body', "):
        HookedBackbone(Model(), {"text": "boddy"})
    with pytest.raises(ValueError, match="must name at least one"):
        HookedBackbone(Model(), {})


class Forgetful(Model):
    """Has a layer that it never calls, and one that it calls twice."""

    def __init__(self):
        super().__init__()
        self.unused, self.twice = nn.Linear(4, 4), nn.Tanh()

    def forward(self, ids, image):
        self.twice(self.twice(torch.ones(3, 2, 4)))
        return super().forward(ids, image)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("unused", "'text', the output of 'unused', was not reached in this call: choose a module that each pass runs"),
        ("twice", "'text', the output of 'twice', runs more than once in a call: choose a module that runs once"),
    ],
)
@pytest.mark.parametrize("as_site", [True, False])
def test_a_place_that_is_not_reached_once_is_named(path, message, as_site):
    sites, encodings = ({"text": path}, {"text": "body"}) if as_site else ({"text": "words"}, {"text": path})
    latch = TopDownLatch(HookedBackbone(Forgetful(), encodings), "linear", sites=sites)
    with pytest.raises(ValueError, match=message):
        latch(**INPUTS)
    assert not any(module._forward_hooks for module in latch.modules())


@pytest.mark.parametrize(
    ("site", "error", "message"),
    [
        (Site("words", index=7), TypeError, r"the output of 'words'\[7\] does not exist; it has 2 items"),
        (Site("words", index=1), TypeError, r"the output of 'words'\[1\] has type int, but a site is a floating-point tensor"),
        (
            Site("words.table", at="input"),
            TypeError,
            r"has shape \(3, 4\) and torch.int64, but a site is a floating-point tensor",
        ),
        (Site("words", "b t h d"), ValueError, r"\(b t h d\) has shape \(3, 4, 4\): name its dimensions"),
    ],
)
def test_what_is_no_tensor_or_has_other_dimensions_is_named(site, error, message):
    model = Model(*STRUCTURES["tuple"][:2])
    with pytest.raises(error, match=message):
        latch_around(model, {"text": site})


def test_more_features_than_feedback_was_built_for_are_named():
    latch = latch_around(Model(), {"text": "words"})
    latch.backbone.model.words.table = nn.Embedding(10, 7)
    latch.backbone.model.body = nn.Linear(7, 5)
    with pytest.raises(ValueError, match="'text' has 7 features, but the feedback was built for 4"):
        latch(**INPUTS)


# Hooks


def test_only_our_own_hooks_are_removed_and_always():
    model, calls = Model(), []
    model.words.register_forward_hook(lambda *_: calls.append(1))
    latch = latch_around(model, {"text": "words", "picture": Site("stem", "b d _ _")})
    calls.clear()
    latch(**INPUTS)
    assert calls == [1, 1]
    with pytest.raises(RuntimeError):
        latch(ids=IDS, image=torch.zeros(3, 1, 4, 4))
    hooks = [
        hook for module in latch.modules() for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    ]
    assert len(hooks) == 1


def test_masks_act_in_the_thread_that_made_them():
    model = Model().eval()
    latch = latch_around(model, {"text": "words"}, Half).eval()
    plain, masked = model(**INPUTS)["logits"], latch(**INPUTS)["logits"]
    assert not torch.equal(plain, masked)
    wrong, stop = [], threading.Event()

    def call_the_model():
        while not stop.is_set():
            with torch.no_grad():
                if not torch.equal(model(**INPUTS)["logits"], plain):
                    wrong.append(1)

    thread = threading.Thread(target=call_the_model)
    thread.start()
    for _ in range(50):
        assert torch.equal(latch(**INPUTS)["logits"], masked)
    stop.set()
    thread.join()
    assert not wrong


def test_a_latch_with_sites_is_copied_pickled_and_called_with_other_parameters():
    latch = latch_around(Model(), {"text": "words"})
    expected = latch(**INPUTS)["logits"]
    assert torch.equal(copy.deepcopy(latch)(**INPUTS)["logits"], expected)
    other = pickle.loads(pickle.dumps(latch))
    assert other.sites == latch.sites
    assert torch.equal(other(**INPUTS)["logits"], expected)
    parameters = {name: torch.zeros_like(p) for name, p in latch.named_parameters()}
    output = torch.func.functional_call(latch, parameters, (), INPUTS)["logits"]
    assert not output.any()
    assert torch.equal(latch(**INPUTS)["logits"], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_masks_take_the_type_of_what_they_multiply(dtype):
    latch = latch_around(Model(), {"text": "words"})
    if dtype is torch.float64:
        output = latch.double()(ids=IDS, image=IMAGE.double())["logits"]
    else:
        seen = []
        latch.backbone.model.body.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
        with torch.autocast("cpu", dtype):
            output = latch(**INPUTS)["logits"]
        assert len(set(seen)) == 1
    assert output.dtype is dtype


class Checkpointed(Model):
    reentrant = False

    def forward(self, ids, image):
        text = checkpoint(lambda x: torch.tanh(self.body(x)), self.words(ids), use_reentrant=self.reentrant)
        seen = torch.tanh(self.patch(self.stem(image).flatten(2).transpose(1, 2)))
        return {"logits": self.head(torch.cat([text.mean(1), seen.mean(1)], -1))}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # in the first pass
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant):
    """Before a part that is checkpointed a mask acts as ever; within it, it would be lost when the part runs again."""
    model = Checkpointed()
    model.reentrant = reentrant
    latch = latch_around(model, {"text": "words"})
    latch(**INPUTS)["logits"].sum().backward()
    gradients = [p.grad.clone() for p in latch.parameters()]
    plain = Model()
    plain.load_state_dict(model.state_dict())
    twin = latch_around(plain, {"text": "words"})
    twin.feedback.load_state_dict(latch.feedback.state_dict())
    twin(**INPUTS)["logits"].sum().backward()
    for ours, expected in zip(gradients, (p.grad for p in twin.parameters()), strict=True):
        torch.testing.assert_close(ours, expected)
    within = latch_around(model.eval(), {"text": "words"}).backbone
    latch = TopDownLatch(within, "linear", sites={"text": Site("body", at="input")}, align="pool", example_inputs=INPUTS)
    with pytest.raises(ValueError, match="'text', the input of 'body', lies within activation checkpointing"):
        latch(**INPUTS)
    with torch.no_grad():
        latch(**INPUTS)


def test_a_site_without_gradient_is_named():
    class Frozen(Model):
        def forward(self, ids, image):
            with torch.no_grad():
                text = torch.tanh(self.body(self.words(ids)))
            seen = torch.tanh(self.patch(self.stem(image).flatten(2).transpose(1, 2)))
            return {"logits": self.head(torch.cat([text.mean(1), seen.mean(1)], -1))}

    latch = TopDownLatch(HookedBackbone(Frozen(), ENCODINGS), "linear", sites={"text": "words"}, align="pool")
    with pytest.raises(ValueError, match=r"runs within no_grad.*requires_grad_\(False\)"):
        latch(**INPUTS)
    with torch.no_grad():
        latch(**INPUTS)


@pytest.mark.uncovered
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_a_compiled_latch_equals_an_eager_one():
    latch = latch_around(Model(), {"text": "words", "picture": Site("stem", "b d h w")})
    compiled = torch.compile(latch, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(**INPUTS)["logits"], latch(**INPUTS)["logits"])
    for p in latch.parameters():
        p.grad = None
    compiled(**INPUTS)["logits"].sum().backward()
    ours = [p.grad.clone() for p in latch.feedback.parameters()]
    latch.zero_grad()
    latch(**INPUTS)["logits"].sum().backward()
    for gradient, p in zip(ours, latch.feedback.parameters(), strict=True):
        torch.testing.assert_close(gradient, p.grad)


@pytest.mark.uncovered
@pytest.mark.parametrize("in_place", [True, False])
def test_a_site_within_a_compiled_layer_is_named(in_place):
    model = Model()
    if in_place:
        model.words.compile(backend="eager")
    else:
        model.words = torch.compile(model.words, backend="eager")
    path = "words.table" if in_place else "words._orig_mod.table"
    latch = TopDownLatch(HookedBackbone(model, ENCODINGS), Half, sites={"text": path}, align="pool")
    with pytest.raises(ValueError, match=f"'text', the output of '{path}', lies within 'words', which is compiled by itself"):
        latch(**INPUTS)
    if not in_place:
        latch = TopDownLatch(HookedBackbone(model, ENCODINGS), Half, sites={"text": "words"}, align="pool", start="random")
        expected = by_hand(model, lambda text, stem: (text / 4, stem))
        torch.testing.assert_close(latch(**INPUTS)["logits"], expected)


@pytest.mark.uncovered
@pytest.mark.filterwarnings("ignore")
def test_sites_are_not_exported():
    latch = latch_around(Model(), {"text": "words"}).eval()
    with pytest.raises(RuntimeError, match=r"sites \(text\) cannot be exported"):
        torch.export.export(latch, (), INPUTS, strict=False)


def test_within_ddp():
    latch = latch_around(Model(), {"text": "words", "picture": Site("stem", "b d h w")})
    latch(**INPUTS)["logits"].square().sum().backward()
    expected = {name: p.grad.clone() for name, p in latch.named_parameters()}
    latch.zero_grad()
    with single_process_group():
        wrapped = nn.parallel.DistributedDataParallel(latch)
        for _ in range(2):
            latch.zero_grad()
            wrapped(**INPUTS)["logits"].square().sum().backward()
    for name, p in latch.named_parameters():
        torch.testing.assert_close(p.grad, expected[name])


@pytest.mark.parametrize("layout", ["b d f t", "b d t f"])
@pytest.mark.parametrize("count", [3, 4])
def test_lengths_of_a_map_say_only_whether_it_is_absent(layout, count):
    """A prefix of the positions of a map is no part of a recording: lengths that count its frames would mark a row."""

    class Spectrograms(nn.Module):
        def __init__(self):
            super().__init__()
            self.heard, self.seen = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2, 3)

        def forward(self, mel, video):
            return self.heard(mel).mean((1, 2, 3)) + torch.tanh(self.seen(video)).mean((1, 2))

    sites, encodings = {"mel": Site("heard", layout, at="input")}, {"heard": Site("heard", layout), "seen": "seen"}
    backbone = HookedBackbone(Spectrograms(), encodings=encodings)
    inputs = {"mel": torch.randn(2, 1, 3, 4), "video": torch.randn(2, 5, 2)}
    latch = TopDownLatch(
        backbone, "linear", sites=sites, sources={"mel": ["seen", "heard"]}, align="pool", example_inputs=inputs
    )
    for name in ("mel", "heard"):
        with pytest.raises(ValueError, match=f"'{name}' is a map: its lengths are 0 or 12, not {count}; say '_'"):
            latch(inputs, {name: torch.tensor([count, count])})
    everything = latch(inputs, {"mel": torch.tensor([12, 0]), "heard": torch.tensor([12, 12])})
    assert torch.equal(everything, latch(inputs))  # the start is the identity
