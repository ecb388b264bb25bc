"""One call of a latch: what its passes see, what they leave, and whose lengths its targets have."""

import copy
import re

import pytest
import torch
from torch import nn

from topdown import Padded, PairwiseFeedback, Site, TopDownLatch, in_first_pass
from topdown.adapters import HookedBackbone


class TwoLayers(nn.Module):
    """Encodes a and b by a layer each, and uses a third layer in both halves."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.shared, self.head = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 1)

    def encode(self, inputs):
        layers = {"a": self.a, "b": self.b}
        return {name: layers[name](x) for name, x in inputs.items() if x is not None}

    def fuse(self, encodings):
        return self.head(sum(r.mean(1) for r in encodings.values()))


INPUTS = {"a": torch.randn(2, 4, 2), "b": torch.randn(2, 4, 2)}


class Pairs(nn.Module):
    """Feedback whose logits are constants."""

    def __init__(self, **logits):
        super().__init__()
        self.logits = logits

    def forward(self, encodings):
        size = {"a": 2, "b": 2, "early": 3, "again": 3, "typo": 3}
        return {k: {j: torch.full((2, 4, size[k]), h) for j, h in f.items()} for k, f in self.logits.items()}


def test_the_product_of_masks_of_zero_logits_is_one_with_scale_two():
    latch = TopDownLatch(TwoLayers(), Pairs(a={"a": 0.0, "b": 0.0}), start="random", scale=2.0, combine="product")
    assert (latch.masks(INPUTS)["a"] == 1).all()
    latch.combine = lambda masks: masks.prod(0)
    assert (latch.masks(INPUTS)["a"] == 1).all()


@pytest.mark.parametrize("lengths", [[4, 4], [4, 3]])
def test_a_site_has_the_lengths_of_the_padded_encoding_of_its_name_even_where_these_are_full(lengths):
    class Resampled(TwoLayers):
        def encode(self, inputs, lengths=None):
            return {"a": Padded(self.a(inputs["a"]), torch.tensor(self.counts)), "b": self.b(inputs["b"])}

        def fuse(self, encodings, lengths=None):
            return super().fuse({**encodings, "a": encodings["a"].values})

    backbone = Resampled()
    backbone.counts = lengths
    latch = TopDownLatch(backbone, start="random", sites={"a": "a"}, sources={"a": ["a"]}, example_inputs=INPUTS)
    call = {"a": torch.tensor([4, 2])}
    assert latch.masks(INPUTS, call)["a"].shape == (2, 4, 3)  # no error of lengths that differ


def test_gradients_that_encode_turns_on_see_inputs_that_require_them_and_end_at_the_encodings():
    class Explained(TwoLayers):
        def encode(self, inputs):
            with torch.enable_grad():
                (gradient,) = torch.autograd.grad(self.a(inputs["a"]).pow(2).sum(), inputs["a"], create_graph=True)
                return {"a": self.a(inputs["a"]) + gradient.sum(), "b": self.b(inputs["b"])}

    class On(TwoLayers):
        def encode(self, inputs):
            torch.set_grad_enabled(True)
            return super().encode(inputs)

    inputs = {name: x.clone().requires_grad_() for name, x in INPUTS.items()}
    for backbone in (Explained(), On()):
        latch = TopDownLatch(backbone, "linear", example_inputs=INPUTS if isinstance(backbone, On) else inputs)
        trace = latch.trace(inputs)
        assert trace.output.requires_grad
        assert not any(r.requires_grad for r in trace.encodings.values())


def test_a_site_without_a_mask_has_no_hook_in_the_second_pass():
    class Twice(TwoLayers):
        def encode(self, inputs):
            return {"a": self.shared(self.a(inputs["a"])), "b": self.b(inputs["b"])}

        def fuse(self, encodings):
            return super().fuse({**encodings, "a": self.shared(encodings["a"])})

    latch = TopDownLatch(Twice(), Pairs(early={"b": 0.0}), start="random", sites={"early": "a", "again": "shared"})
    assert latch(INPUTS).shape == (2, 1)
    latch.feedback = Pairs(early={"b": 0.0}, again={"b": 0.0})
    with pytest.raises(ValueError, match="'again', the output of 'shared', runs more than once in a call"):
        latch(INPUTS)


def test_a_copy_of_an_unbuilt_latch_builds_nothing_for_its_original():
    latch = TopDownLatch(TwoLayers(), "linear", sources={"a": ["a", "b"]})
    copy.copy(latch)(INPUTS)
    with pytest.raises(ValueError, match=r"\['b'\] are None, but the first call measures all modalities"):
        latch({"a": INPUTS["a"], "b": None})
    latch(INPUTS)
    assert latch.wiring.pairs == {"a": ["a", "b"]}


def test_masks_have_the_order_of_the_option_sources():
    sources = {"early": ["a"], "b": ["a"], "a": ["b"]}
    latch = TopDownLatch(TwoLayers(), "linear", sources=sources, sites={"early": "a"}, example_inputs=INPUTS)
    assert [*latch.masks(INPUTS)] == [*latch.trace(INPUTS).feedback] == [*sources]
    trace = latch.trace({"a": INPUTS["a"], "b": None})
    assert [*trace.masks] == ["early"]
    assert [*trace.inputs] == ["a"]  # a target without any source that is present


def test_a_backbone_that_says_it_uses_no_lengths_gets_those_that_it_takes():
    class Takes(TwoLayers):
        uses_lengths = False

        def encode(self, inputs, lengths):
            self.seen = lengths
            return super().encode({name: inputs[name] for name in "ab"})

    latch = TopDownLatch(Takes(), "linear", example_inputs=INPUTS)
    lengths = torch.tensor([4, 2])
    latch(INPUTS, lengths)
    assert torch.equal(latch.backbone.seen, lengths)
    with pytest.raises(ValueError, match="lengths name 'c', but the modalities are"):
        latch({**INPUTS, "c": torch.zeros(2, 3)}, {"c": torch.tensor([3, 1])})


def test_encodings_with_time_first_are_named_where_the_only_target_is_absent():
    class TimeFirst(TwoLayers):
        def encode(self, inputs):
            return {name: r.transpose(0, 1) for name, r in super().encode(inputs).items()}

    inputs = {name: torch.randn(3, 3, 2) for name in "ab"}
    latch = TopDownLatch(TimeFirst(), "linear", sources={"a": ["b"]}, example_inputs=inputs)
    with pytest.raises(ValueError, match="but the inputs have 2 samples: make the model batch_first"):
        latch({"a": None, "b": torch.randn(2, 5, 2)})


def test_a_site_that_the_first_call_does_not_reach_is_named():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(2, 3)

        def forward(self, a, b=None):
            return self.a(a).mean(1) + (0 if b is None else self.b(b).mean(1))

    latch = TopDownLatch(HookedBackbone(Optional(), {"a": "a"}), "linear", sites={"a": "a", "b": "b"})
    with pytest.raises(ValueError, match="'b', the output of 'b', was not reached in this call"):
        latch(a=INPUTS["a"])
    assert latch(**INPUTS).shape == (2, 3)
    assert latch(a=INPUTS["a"]).shape == (2, 3)


@pytest.mark.uncovered
@pytest.mark.parametrize("name", ["forward", "masks"])
def test_compiled_code_with_sites_leaves_the_first_pass(name):
    latch = TopDownLatch(TwoLayers(), "linear", sites={"a": Site("a"), "b": Site("b")}, example_inputs=INPUTS)
    with torch.no_grad():
        torch.compile(getattr(latch, name), backend="eager")(INPUTS)
    assert not in_first_pass()


def test_nested_tensors_are_refused_as_encodings_and_as_targets():
    """They ended in an internal error of torch."""

    class Nests(TwoLayers):
        def encode(self, inputs):
            return dict.fromkeys(inputs, nested)

    nested = torch.nested.nested_tensor([torch.zeros(5, 2), torch.zeros(2, 2)], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"'a' with type NestedTensor: encodings are padded floats, \(B, T, d\) or \(B, d\)"):
        TopDownLatch(Nests(), "linear")(INPUTS)
    with pytest.raises(TypeError, match="'a' has type NestedTensor: a mask multiplies floating-point"):
        TopDownLatch(TwoLayers(), "linear", example_inputs=INPUTS)({"a": nested, "b": nested})


def test_the_call_that_measures_sizes_must_reach_all_sites():
    class Skips(TwoLayers):
        def forward(self, early):
            """Names the site, which later calls may leave out."""

        def encode(self, inputs):
            return {"b": self.b(inputs["b"])} if "a" not in inputs else super().encode(inputs)

    latch = TopDownLatch(Skips(), "linear", sources={"early": ["b"]}, sites={"early": "a"})
    with pytest.raises(ValueError, match="'early', the output of 'a', was not reached in this call, which measures sizes"):
        latch({"b": INPUTS["b"]})
    assert latch(INPUTS).shape == (2, 1)
    assert latch({"b": INPUTS["b"]}).shape == (2, 1)


def test_logits_of_ready_feedback_for_a_site_and_for_no_input_are_refused():
    latch = TopDownLatch(TwoLayers(), Pairs(early={"b": 0.0}, typo={"b": 0.0}), sites={"early": "a"}, start="random")
    with pytest.raises(ValueError, match=r"the feedback masks \['typo'\], but the inputs are \["):
        latch(INPUTS)


@pytest.mark.parametrize("by_name", [False, True])
def test_compiled_code_aligns_sequences_that_share_narrow_lengths_as_eager_code_does(by_name):
    """A mask that needs no alignment holds at padded steps, too, which this backbone reads."""
    latch = TopDownLatch(TwoLayers(), "linear", align="interpolate", start="random", example_inputs=INPUTS)
    shared = torch.tensor([4, 2], dtype=torch.int32)
    lengths = {"a": shared, "b": shared} if by_name else shared
    compiled = torch.compile(latch, backend="eager", fullgraph=True)
    assert torch.equal(compiled(INPUTS, lengths), latch(INPUTS, lengths))


def test_feedback_may_name_an_input_that_is_no_target_without_sources():
    """`PairwiseFeedback` returns an empty mapping for a target whose sources are no encodings of this latch."""
    latch = TopDownLatch(TwoLayers(), "linear", sources={"a": ["b"]}, example_inputs=INPUTS)
    latch.feedback = PairwiseFeedback(nn.Linear, {"a": 3, "b": 3}, {"a": 2, "b": 2}, {"a": ["b"], "b": ["a"]})
    latch.backbone.b = nn.Embedding(5, 3)
    assert [*latch.masks({"a": INPUTS["a"], "b": torch.ones(2, 4, dtype=torch.int64)})] == ["a"]


def test_one_tensor_of_lengths_may_not_hold_0_where_an_encoding_has_equal_lengths():
    class Own(TwoLayers):
        def encode(self, inputs):
            return {name: Padded(r, torch.tensor([4, 0])) for name, r in super().encode(inputs).items()}

    latch = TopDownLatch(Own(), "linear", sites={"early": "a"}, sources={"early": ["b"]}, example_inputs=INPUTS)
    with pytest.raises(ValueError, match=r"lengths\[1\] of 'early' is 0, but it has 4 steps: a length must lie in 1..4"):
        latch(INPUTS, torch.tensor([4, 0]))


def test_lengths_of_an_encoding_are_aligned_alike_in_compiled_code():
    """Lengths of an encoding that equal those of the call are not theirs: both kinds of code align the mask."""

    class Own(TwoLayers):
        def encode(self, inputs):
            return {name: Padded(r, torch.tensor([4, 2])) for name, r in super().encode(inputs).items()}

        def fuse(self, encodings):
            return super().fuse({name: r.values for name, r in encodings.items()})

    latch = TopDownLatch(Own(), "linear", align="interpolate", start="random", example_inputs=INPUTS)
    compiled = torch.compile(latch, backend="eager", fullgraph=True)
    assert torch.equal(compiled(INPUTS, torch.tensor([4, 2])), latch(INPUTS, torch.tensor([4, 2])))


@pytest.mark.parametrize("start", ["identity", "random"])
def test_ready_feedback_of_all_pairs_serves_a_call_without_one_modality(start):
    ready = PairwiseFeedback(nn.Linear, {"a": 3, "b": 3}, {"a": 2, "b": 2}, {"a": ["b"], "b": ["a"]})
    latch = TopDownLatch(TwoLayers(), ready, start=start)
    x = INPUTS["a"]
    expected = latch.backbone.fuse(latch.backbone.encode({"a": x}))
    assert torch.equal(latch(a=x), expected)
    assert torch.equal(latch(a=x, b=None), expected)
    assert latch.masks(a=x) == {}


def test_a_target_without_logits_in_a_call_is_checked_too():
    with pytest.raises(ValueError, match=r"the feedback masks \['typo'\], but the inputs are"):
        TopDownLatch(TwoLayers(), Pairs(typo={}))(INPUTS)
    latch = TopDownLatch(TwoLayers(), "linear", sources={"early": ["b"]}, sites={"early": "a"}, example_inputs=INPUTS)
    with pytest.raises(TypeError, match="lengths of 'early' must be a tensor of integers"):
        latch({"a": INPUTS["a"], "b": None}, {"early": torch.tensor([4.0, 9.0])})


class TimeFirst(nn.Module):
    """Reads ids (B, T), and works on (T, B, d)."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner, self.body = nn.Embedding(9, 4), nn.Identity(), nn.Linear(4, 4)

    def forward(self, ids):
        return self.body(self.inner(self.embed(ids.T))).mean((0, 2))


class EchoFeedback(nn.Module):
    """Masks a site by the encoding of the same name."""

    def forward(self, encodings):
        return {"x": {"text": encodings["text"]}}


def test_time_first_is_named_before_lengths_that_do_not_fit_at_a_site():
    latch = TopDownLatch(HookedBackbone(TimeFirst(), {"text": "body"}), EchoFeedback(), sites={"x": "inner"}, start="random")
    with pytest.raises(ValueError, match="but the inputs have 2 samples: make the model batch_first"):
        latch(ids=torch.randint(0, 9, (2, 5)), lengths={"x": torch.tensor([5, 3])})


def test_a_site_may_have_another_batch_size_than_inputs_that_the_model_transposes():
    """Without any encoding, the site alone says how many samples there are."""

    class Transposing(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.inner, self.head = nn.Embedding(9, 4), nn.Identity(), nn.Linear(4, 2)

        def encode(self, inputs):
            return {"note": "none", "output": self.head(self.inner(self.embed(inputs["ids"]).transpose(0, 1)).mean(1))[0]}

        def fuse(self, encodings):
            return encodings["output"]

        def forward(self, ids):
            return self.fuse(self.encode({"ids": ids}))

    class Constant(nn.Module):
        def forward(self, encodings):
            return {"x": {"s": torch.zeros(2, 4)}}

    latch = TopDownLatch(Transposing(), Constant(), sites={"x": "inner"})
    assert latch.masks(ids=torch.randint(0, 9, (5, 2)))["x"].eq(1.0).all()


class Maps(nn.Module):
    """Two convolutions, the second of which sees maps of another or of the same size."""

    def __init__(self, stride=1):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, stride=stride)

    def forward(self, image):
        return self.second(self.first(image)).mean((1, 2, 3))


def test_logits_of_maps_are_sequences_of_their_positions():
    class Wrong(nn.Module):
        def __init__(self, *shape):
            super().__init__()
            self.shape = shape

        def forward(self, encodings):
            assert encodings["code"].shape == (2, 24, 4)
            return {"x": {"code": torch.zeros(self.shape)}}

    backbone, image = HookedBackbone(Maps(), {"code": Site("second", "b d h w")}), torch.randn(2, 3, 4, 6)
    for shape in ((2, 4, 6, 4), (2, 23, 4)):
        latch = TopDownLatch(backbone, Wrong(*shape), sites={"x": Site("first", "b d h w")})
        with pytest.raises(ValueError, match=rf"logits of shape {re.escape(str(shape))} for 'x' of shape \(2, 24, 4\)"):
            latch(image)
    right = TopDownLatch(backbone, Wrong(2, 24, 4), sites={"x": Site("first", "b d h w")})
    assert right.masks(image)["x"].shape == (2, 4, 4, 6)


def test_a_rule_of_ones_own_and_a_trace_see_maps_as_sequences():
    seen = []
    backbone = HookedBackbone(Maps(2), {"code": Site("second", "b d h w")})
    options = {"sites": {"x": Site("first", "b d h w")}, "align": "interpolate", "start": "random"}
    latch = TopDownLatch(backbone, "linear", combine=lambda f: seen.append(f.shape) or f.mean(0), **options)
    trace = latch.trace(torch.randn(2, 3, 4, 6))
    assert seen[-1] == (1, 2, 24, 4)
    assert trace.encodings["code"].shape == (2, 6, 4)
    assert trace.feedback["x"]["code"].shape == (2, 24, 4)
    torch.testing.assert_close(trace.masks["x"].flatten(2).transpose(1, 2), trace.feedback["x"]["code"])


def test_lengths_are_not_read_for_an_encode_that_takes_none():
    """A generator as lengths is named as such, not as an input that can be read once."""
    latch = TopDownLatch(TwoLayers(), "linear")
    with pytest.raises(TypeError, match="lengths of 'a' must be a tensor of integers, got generator"):
        latch(INPUTS, (n for n in [4, 3]))


def test_a_packed_encoding_may_have_two_times():
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.packs = nn.Linear(3, 4), nn.Identity()

        def forward(self, x):
            y = self.first(x).unsqueeze(2)
            packed = nn.utils.rnn.pack_padded_sequence(y, torch.full((len(y),), y.shape[1]), batch_first=True)
            return self.packs(packed).data.mean()

    backbone = HookedBackbone(Packs(), {"code": Site("packs", "b t h d")})
    latch = TopDownLatch(backbone, "linear", sites={"x": "first"}, align="pool")
    assert latch.masks(torch.randn(2, 5, 3))["x"].shape == (2, 5, 4)
