"""Who masks whom, and whose lengths are whose: by name, never by the shape of an input."""

import functools
import math

import pytest
import torch
from torch import nn
from toys import Toy, batch, perturbed, small_mult

from topdown import Padded, TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.sequence import valid_steps

LENGTHS = torch.tensor([6, 2, 4])
SIZES = {"text": 5, "audio": 4}


class Tokens(nn.Module):
    """Text is numbers of words; audio is features. Heeds no lengths."""

    def __init__(self):
        super().__init__()
        self.words, self.audio = nn.Embedding(50, 5), nn.Linear(4, 5)
        self.head = nn.Linear(5, 1)
        self.seen = []

    def encode(self, inputs):
        self.seen.append(inputs)
        encodings = {"text": self.words(inputs["text"])} if inputs.get("text") is not None else {}
        return {**encodings, "audio": torch.tanh(self.audio(inputs["audio"]))}

    def fuse(self, encodings):
        return self.head(sum(r.mean(1) for r in encodings.values()))


def words(steps=6, batch_size=3):
    return torch.randint(0, 50, (batch_size, steps))


def audio(steps=6, batch_size=3):
    return batch({"audio": 4}, batch_size, steps, dtype=torch.float32)["audio"]


@pytest.mark.parametrize("align", ["error", "interpolate", "pool"])
@pytest.mark.parametrize("kind", ["linear", "lstm", "shared"])
@pytest.mark.parametrize("by_name", [False, True])
def test_what_stands_in_the_padding_of_token_ids_changes_nothing(align, kind, by_name):
    latch = TopDownLatch(Tokens(), kind, sources={"audio": ["text"]}, align=align)
    steps = 6 if align == "error" else 9
    lengths = {"text": LENGTHS, "audio": LENGTHS if align == "error" else torch.tensor([9, 9, 5])} if by_name else LENGTHS
    inputs = {"text": words(), "audio": audio(steps if by_name else 6)}
    changed = {**inputs, "text": torch.where(valid_steps(LENGTHS, 6), inputs["text"], 7)}
    assert not torch.equal(inputs["text"], changed["text"])
    masks, others = latch.masks(inputs, lengths)["audio"], latch.masks(changed, lengths)["audio"]
    valid = valid_steps(lengths["audio"] if by_name else LENGTHS, masks.shape[1])
    assert torch.equal(masks[valid], others[valid])
    alone = [latch.masks({k: x[1:2, : (lengths[k] if by_name else lengths)[1]] for k, x in inputs.items()})["audio"]]
    torch.testing.assert_close(masks[1, : alone[0].shape[1]], alone[0][0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 6, 2), (3, 6, 2, 4, 4)], ids=["features", "video"])
def test_lengths_serve_inputs_of_any_rank(shape):
    class Video(Tokens):
        def __init__(self):
            super().__init__()
            self.frames = nn.LazyLinear(5)

        def encode(self, inputs):
            return {**super().encode(inputs), "video": self.frames(inputs["video"].flatten(2))}

    latch = TopDownLatch(Video(), "linear", sources={"audio": ["video", "text"]}, align="pool")
    inputs = {"text": words(), "audio": audio(), "video": torch.randn(shape)}
    latch(inputs, LENGTHS)
    valid = valid_steps(LENGTHS, 6)
    changed = {**inputs, "video": inputs["video"].clone()}
    changed["video"][~valid] = 9.0
    for lengths in (LENGTHS, {"text": LENGTHS, "audio": LENGTHS, "video": LENGTHS}):
        assert torch.equal(latch.masks(inputs, lengths)["audio"][valid], latch.masks(changed, lengths)["audio"][valid])


class Tokenized(dict):
    """What a tokenizer returns, for one."""


def extras():
    return {
        "labels": torch.tensor([1, 0, 2]),
        "attention_mask": torch.ones(3, 6),
        "class_weights": torch.ones(7),
        "tokens": Tokenized(input_ids=words(), more={"deep": [torch.ones(2)]}),
        "transcripts": ["a", "b", "c"],
        "image": torch.randn(3, 3, 8, 8),
        "flag": True,
        "nothing": None,
    }


@pytest.mark.parametrize("sources", [None, {"audio": ["text"], "text": ["audio"]}])
@pytest.mark.parametrize("build", ["declared", "first call"])
@pytest.mark.parametrize("lengths", [None, LENGTHS, {"text": LENGTHS, "audio": LENGTHS}])
def test_what_is_neither_target_nor_source_passes_untouched(sources, build, lengths):
    seen = []

    class Watching(Toy):
        def encode(self, inputs, lengths=None):
            seen.append(inputs)
            return super().encode(inputs, lengths)

    latch = TopDownLatch(Watching(SIZES, declare=build == "declared"), "linear", sources=sources)
    inputs, more = batch(SIZES, dtype=torch.float32), extras()
    if build == "first call":
        del more["nothing"]  # nobody knows yet whether it is a modality
    latch(inputs | more, lengths)
    expected = latch(inputs, lengths)
    seen.clear()
    assert torch.equal(latch(inputs | more, lengths), expected)
    assert set(latch.masks(inputs | more, lengths)) == set(SIZES)
    for got in seen:
        assert got.keys() == (inputs | more).keys()
    for name, value in more.items():
        assert seen[1][name] is value  # in the second pass the very object
        first = seen[0][name]
        assert type(first) is type(value)
        if isinstance(value, torch.Tensor):
            assert torch.equal(first, value)


@pytest.mark.parametrize("build", [lambda: LSTMBackbone(SIZES, hidden_size=4), lambda: small_mult(SIZES)])
def test_adapters_leave_labels_alone(build):
    latch, inputs = TopDownLatch(build()).eval(), batch(SIZES, dtype=torch.float32)
    assert torch.equal(latch(inputs | extras(), LENGTHS), latch(inputs, LENGTHS))
    with pytest.raises(ValueError, match=r"input 'vision' is not among the modalities \['audio', 'text'\]"):
        latch({**inputs, "vision": torch.zeros(3, 6, 2)})


def renamed(names):
    class Renamed(Toy):
        def encode(self, inputs, lengths=None):
            return {names.get(k, k): r for k, r in super().encode(inputs, lengths).items()}

    return Renamed(SIZES, declare=False)


@pytest.mark.parametrize(
    "names", [{"text": "text_feat", "audio": "audio_feat"}, {"text": "words"}, {"audio": "text", "text": "audio_"}]
)
def test_other_names_of_encodings_ask_for_sources(names):
    inputs = batch(SIZES, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"have different names: say who masks whom with sources="):
        TopDownLatch(renamed(names), "linear")(inputs)
    with pytest.raises(ValueError, match=r"say who masks whom with sources="):
        TopDownLatch(renamed(names), "linear", example_inputs=inputs)
    declared = renamed(names)
    declared.input_sizes, declared.encoding_sizes = SIZES, {names.get(k, k): 5 for k in SIZES}
    with pytest.raises(ValueError, match=r"say who masks whom with sources="):
        TopDownLatch(declared, "linear")
    sources = {"text": [names.get("audio", "audio")], "audio": [names.get("text", "text")]}
    latch = TopDownLatch(renamed(names), "linear", sources=sources)
    assert {k: list(f) for k, f in latch.trace(inputs).feedback.items()} == sources


def test_a_joint_encoding_is_a_source_for_all():
    class Joint(Toy):
        def encode(self, inputs, lengths=None):
            encodings = super().encode(inputs, lengths)
            return {**encodings, "joint": sum(encodings.values()), "count": 3, "none": None, "nested": {"deep": [1]}}

        def fuse(self, encodings, lengths=None):
            assert encodings["nested"] == {"deep": [1]}
            assert encodings["count"] == 3
            return super().fuse({k: encodings[k] for k in SIZES}, lengths)

    inputs = batch(SIZES, dtype=torch.float32)
    latch = TopDownLatch(Joint(SIZES, declare=False), "linear")
    trace = latch.trace(inputs | {"labels": torch.zeros(3)}, LENGTHS)
    assert {k: list(f) for k, f in trace.feedback.items()} == {"text": ["audio", "joint"], "audio": ["text", "joint"]}
    assert list(trace.encodings) == ["text", "audio", "joint"]


def test_fuse_gets_the_very_object_that_encode_returned():
    class Special(dict):
        extra = "kept"

    class Picky(Toy):
        def encode(self, inputs, lengths=None):
            self.returned = Special(super().encode(inputs, lengths))
            return self.returned

        def fuse(self, encodings, lengths=None):
            assert encodings is self.returned
            return super().fuse(encodings, lengths)

    TopDownLatch(Picky(SIZES))(batch(SIZES, dtype=torch.float32), LENGTHS)


def test_one_tensor_of_lengths_cannot_serve_two_times():
    for align in ("interpolate", "pool"):
        both = TopDownLatch(Toy({"text": 5, "audio": 4}), "linear", align=align)
        inputs = {"text": torch.randn(3, 20, 5), "audio": torch.randn(3, 50, 4)}
        message = "lengths of 'text' \\(20 steps\\) cannot serve 'audio' \\(50 steps\\): pass a mapping"
        with pytest.raises(ValueError, match=message):
            both.masks(inputs, torch.tensor([20, 3, 7]))
        both.masks(inputs, {"text": torch.tensor([20, 3, 7]), "audio": torch.tensor([50, 9, 8])})
        ids = TopDownLatch(Tokens(), "linear", sources={"audio": ["text"]}, align=align)
        with pytest.raises(ValueError, match=message):
            ids.masks({"text": words(20), "audio": audio(50)}, torch.tensor([20, 3, 7]))


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"audio": ["txet"]}, r"'txet' is not among the encodings \['text', 'audio'\]"),
        ({"adio": ["text"]}, r"'adio' is not among the inputs and sites \['audio', 'text'\]"),
        ({"audio": ["text", "vedio"]}, r"'vedio' is not among the encodings \['audio', 'text'\]"),
    ],
)
def test_names_that_do_not_match_are_named_and_the_nearest_shown(sources, message):
    inputs = {"text": words(), "audio": audio()}
    with pytest.raises(ValueError, match=message):
        TopDownLatch(Tokens(), "linear", sources=sources)(inputs)
    with pytest.raises(ValueError, match=message):
        TopDownLatch(Tokens(), "linear", sources=sources, example_inputs=inputs)


def test_token_ids_that_would_be_masked_are_named():
    with pytest.raises(TypeError, match=r"'text' has shape \(3, 6\) and torch.int64: a mask multiplies floating-point"):
        TopDownLatch(Tokens(), "linear")({"text": words(), "audio": audio()})


class Shortening(nn.Module):
    """A convolution that makes 1 step of 4."""

    def __init__(self, returns):
        super().__init__()
        self.speech, self.text = nn.Conv1d(2, 5, 4, 4), nn.Linear(3, 5)
        self.head = nn.Linear(5, 1)
        self.returns = returns

    def encode(self, inputs, lengths=None):
        speech = self.speech(inputs["speech"].transpose(1, 2)).transpose(1, 2)
        if self.returns == "padded":
            speech = Padded(speech, lengths["speech"] // 4)
        elif self.returns == "all valid":
            speech = Padded(speech)
        return {"speech": speech, "text": self.text(inputs["text"])}

    def fuse(self, encodings):
        if self.returns != "tensor":
            assert isinstance(encodings["speech"], Padded)
        return self.head(encodings["text"].mean(1))


def test_an_encoder_that_shortens_time_may_return_padded():
    lengths = {"speech": torch.tensor([16, 8, 4]), "text": torch.tensor([6, 2, 4])}
    inputs = {"speech": torch.randn(3, 16, 2), "text": torch.randn(3, 6, 3)}
    latch = TopDownLatch(Shortening("padded"), "lstm", align="interpolate")
    trace = latch.trace(inputs, lengths)
    assert trace.encodings["speech"].shape == (3, 4, 5)
    assert (trace.encodings["speech"][2, 1:] == 0).all()
    for i in range(3):
        own = {k: n[i : i + 1] for k, n in lengths.items()}
        alone = latch.masks({k: x[i : i + 1, : own[k]] for k, x in inputs.items()}, own)
        for name, mask in alone.items():
            torch.testing.assert_close(mask[0], trace.masks[name][i, : own[name]], rtol=0, atol=1e-6)
    garbage = {**inputs, "speech": torch.where(valid_steps(lengths["speech"], 16).unsqueeze(-1), inputs["speech"], 1e4)}
    for name, mask in latch.masks(garbage, lengths).items():
        valid = valid_steps(lengths[name], mask.shape[1])
        assert torch.equal(mask[valid], trace.masks[name][valid])


def test_an_encoder_that_shortens_time_without_saying_so_is_named():
    lengths = {"speech": torch.tensor([16, 8, 4]), "text": torch.tensor([6, 2, 4])}
    inputs = {"speech": torch.randn(3, 16, 2), "text": torch.randn(3, 6, 3)}
    with pytest.raises(
        ValueError, match=r"returned 'speech' 4 steps for an input of shape .*, whose lengths no longer fit: return .*Padded"
    ):
        TopDownLatch(Shortening("tensor"), "linear", align="pool")(inputs, lengths)
    TopDownLatch(Shortening("all valid"), "linear", align="pool")(inputs, lengths)
    wrong = Shortening("tensor")
    encodings = {"speech": Padded(torch.zeros(3, 4, 5), torch.tensor([1, 9, 2])), "text": inputs["text"]}
    wrong.encode = lambda inputs, lengths=None: encodings
    with pytest.raises(ValueError, match=r"lengths\[1\] of 'speech' is 9, but it has 4 steps"):
        TopDownLatch(wrong, "linear", align="pool")(inputs, lengths)


@pytest.mark.parametrize("kind", ["linear", "lstm", "shared"])
@pytest.mark.parametrize("combine", ["mean", "max", "min", "product", lambda f: f.median(0).values])
@pytest.mark.parametrize("pooled", [(), ("audio",)])
@pytest.mark.parametrize("start", ["identity", "random"])
def test_a_length_of_zero_is_a_modality_that_is_absent(kind, combine, pooled, start):
    sizes = {"text": 5, "audio": 4, "visual": 3}
    latch = TopDownLatch(Toy(sizes, pooled=pooled), kind, combine=combine, start=start).double().eval()
    latch = perturbed(latch) if start == "identity" else latch
    inputs = batch(sizes)
    lengths = {"text": torch.tensor([6, 2, 4]), "audio": torch.tensor([6, 0, 4]), "visual": torch.tensor([0, 2, 0])}
    trace = latch.trace(inputs, lengths)
    for i in range(3):
        there = {k: x[i : i + 1, : lengths[k][i]] if lengths[k][i] else None for k, x in inputs.items()}
        alone = latch.masks(there)
        assert set(alone) == {k for k in sizes if lengths[k][i]}
        for name, mask in alone.items():
            torch.testing.assert_close(trace.masks[name][i, : lengths[name][i]], mask[0], rtol=0, atol=1e-12)


def test_a_target_none_of_whose_sources_is_there_is_not_masked():
    latch = TopDownLatch(Toy(SIZES), "linear", scale=1.5, mask_dropout=0.5, start="random").double()
    lengths = {"text": torch.tensor([6, 2, 4]), "audio": torch.tensor([0, 2, 4])}
    mask = latch.masks(batch(SIZES), lengths)["text"]
    assert (mask[0] == 1).all()
    assert (mask[1:] != 1).all()


@pytest.mark.parametrize("build", ["paper", "public code", "mult"])
@pytest.mark.parametrize("kind", [None, "linear", "lstm", "shared"])
@pytest.mark.parametrize("missing", ["text", "audio", "visual"])
def test_a_sample_that_lacks_a_modality_equals_one_without_it(build, kind, missing):
    sizes = {"text": 5, "audio": 4, "visual": 3}
    options = (
        {"pooling": "attention", "fusion_directions": "concatenate", "trimodal_residual": False}
        if build == "public code"
        else {}
    )
    if build == "mult":
        model = MulTBackbone(sizes, size=4, num_heads=2, num_layers=1, kernel_sizes=3)
    else:
        model = LSTMBackbone(sizes, hidden_size=4, **options)
    model = (model if kind is None else TopDownLatch(model, kind)).double().eval()
    inputs = {k: x.requires_grad_() for k, x in batch(sizes).items()}
    lengths = {k: torch.tensor([6, 2, 4]) for k in sizes}
    lengths[missing] = torch.tensor([6, 0, 0])
    with torch.no_grad():
        inputs[missing][1:] = float("nan")
    output = model(inputs, lengths)
    for i in (1, 2):
        alone = {k: x[i : i + 1, : lengths[k][i]] for k, x in inputs.items() if k != missing}
        torch.testing.assert_close(model({**alone, missing: None}), output[i : i + 1], rtol=0, atol=1e-12)
    torch.testing.assert_close(model({k: x[:1] for k, x in inputs.items()}), output[:1], rtol=0, atol=1e-12)
    output.square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    for k, x in inputs.items():
        assert x.grad[valid_steps(lengths[k], 6)].isfinite().all()


def test_a_sample_without_any_modality_is_named():
    inputs = batch(SIZES, dtype=torch.float32)
    for model in (LSTMBackbone(SIZES, hidden_size=4), small_mult(SIZES)):
        with pytest.raises(ValueError, match="sample 1 has no modality: leave it out"):
            model(inputs, {"text": torch.tensor([6, 0, 4]), "audio": torch.tensor([6, 0, 4])})
        with pytest.raises(ValueError, match=r"lengths\[1\] of 'text' is 0.*in a mapping, 0 means that it is absent"):
            model(inputs, torch.tensor([6, 0, 4]))


# Callables are judged by what they take.


class Encoders(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs):
        return {k: self.layer(x) for k, x in inputs.items()}


class Fusion(nn.Module):
    def forward(self, encodings):
        return sum(r.mean((1, 2)) for r in encodings.values())


class Parts(nn.Module):
    def __init__(self, encode, fuse):
        super().__init__()
        self.encode, self.fuse = encode, fuse


class EncodersWithLengths(Encoders):
    def forward(self, inputs, lengths):
        self.seen = lengths
        return super().forward(inputs)


def anything(function):
    """A decorator that does not tell what it decorates."""

    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


def polite(function):
    return functools.wraps(function)(anything(function))


PAIR = batch({"a": 4, "b": 4}, dtype=torch.float32)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize(
    "wrap", [lambda f: f, anything, polite, functools.partial], ids=["plain", "anything", "polite", "partial"]
)
def test_encode_and_fuse_may_be_anything_that_can_be_called(lengths, wrap):
    encoders = Encoders()
    model = Parts(wrap(encoders), wrap(Fusion()))
    model.layers = encoders
    latch = TopDownLatch(model, "linear", example_inputs=PAIR)
    if wrap is anything and lengths is not None:  # it takes any keyword, so it gets them, and they are not lost in silence
        with pytest.raises(TypeError, match="unexpected keyword argument 'lengths'"):
            latch(PAIR, lengths)
        return
    assert latch(PAIR, lengths).shape == (3,)
    with latch.disabled():
        assert torch.equal(latch(PAIR, lengths), Fusion()(encoders(PAIR)))


@pytest.mark.parametrize("wrap", [lambda f: f, anything, polite], ids=["plain", "anything", "polite"])
def test_lengths_reach_what_takes_them(wrap):
    encoders = EncodersWithLengths()
    model = Parts(wrap(encoders), Fusion())
    model.layers = encoders
    latch = TopDownLatch(model, "linear")
    latch(PAIR, LENGTHS)
    assert encoders.seen is LENGTHS
    if wrap is not anything:
        latch(PAIR)
        assert encoders.seen is None  # it has to be given something


def test_lengths_are_passed_only_when_they_were_given():
    class Strict(Encoders):
        def forward(self, inputs, **kwargs):
            self.kwargs = kwargs
            return super().forward(inputs)

    encoders = Strict()
    latch = TopDownLatch(Parts(encoders, Fusion()), "linear")
    latch(PAIR)
    assert encoders.kwargs == {}
    latch(PAIR, LENGTHS)
    assert encoders.kwargs == {"lengths": LENGTHS}


def test_an_error_of_the_model_about_keywords_is_its_own():
    class Wrong(Encoders):
        def forward(self, inputs, **kwargs):
            return len(inputs, steps=3)

    with pytest.raises(TypeError, match=r"len\(\) takes no keyword arguments"):
        TopDownLatch(Parts(Wrong(), Fusion()), "linear")(PAIR, LENGTHS)


def test_inputs_may_be_given_by_name():
    latch = TopDownLatch(Parts(Encoders(), Fusion()), "linear")
    expected = latch(PAIR, LENGTHS)
    assert torch.equal(latch(**PAIR, lengths=LENGTHS), expected)
    assert torch.equal(latch(a=PAIR["a"], b=PAIR["b"], lengths=LENGTHS), expected)
    assert all(torch.equal(latch.masks(**PAIR)[k], mask) for k, mask in latch.masks(PAIR).items())
    assert torch.equal(latch.trace(**PAIR, lengths=LENGTHS).output, expected)
    with latch.disabled():
        assert latch(**PAIR).shape == (3,)
    with pytest.raises(TypeError, match=r"inputs must be one mapping, or each input by its name, got dict beside \['b'\]"):
        latch({"a": PAIR["a"]}, b=PAIR["b"])


def test_lengths_are_not_lost_where_a_part_does_not_take_them():
    class Forwarding(Encoders):
        def forward(self, inputs, **kwargs):
            return {k: self.layer(x, **kwargs) for k, x in inputs.items()}  # a linear layer takes no lengths

    latch = TopDownLatch(Parts(Forwarding(), Fusion()), "linear", example_inputs=PAIR)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lengths'"):
        latch(PAIR, LENGTHS)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
@pytest.mark.parametrize("build", [lambda: LSTMBackbone(SIZES, hidden_size=4), lambda: small_mult(SIZES)])
def test_lengths_of_narrow_types_serve(build, dtype):
    latch = TopDownLatch(build(), "lstm", align="interpolate").eval()
    inputs = batch(SIZES, steps=300, dtype=torch.float32)
    lengths = {"text": torch.tensor([120, 0, 4]), "audio": torch.tensor([120, 100, 4])}
    narrow = {k: n.to(dtype) for k, n in lengths.items()}
    assert torch.equal(latch(inputs, narrow), latch(inputs, lengths))
    for name, mask in latch.masks(inputs, narrow).items():
        assert torch.equal(mask, latch.masks(inputs, lengths)[name])


def test_a_pooled_encoding_of_a_missing_modality_poisons_no_gradient():
    class Means(Toy):
        def encode(self, inputs, lengths=None):
            encodings = super().encode(inputs)
            return {k: r.mean(1).masked_fill((lengths[k] == 0).unsqueeze(1), torch.nan) for k, r in encodings.items()}

        def fuse(self, encodings, lengths=None):
            return self.head(sum(r.nan_to_num() for r in encodings.values()))

    latch = TopDownLatch(Means(SIZES), "linear")
    latch(batch(SIZES, dtype=torch.float32), {"text": LENGTHS, "audio": torch.tensor([6, 0, 4])}).sum().backward()
    assert all(p.grad.isfinite().all() for p in latch.feedback.parameters())


def test_a_source_that_encode_names_otherwise_is_named():
    backbone = renamed({"audio": "audio_"})
    backbone.input_sizes, backbone.encoding_sizes = SIZES, dict.fromkeys(SIZES, 5)
    latch = TopDownLatch(backbone, "linear", sources={"text": ["audio"]})
    message = r"encode\(\) returned no 'audio', which is a source and among the inputs, but \['text', 'audio_'\]"
    with pytest.raises(ValueError, match=message):
        latch(batch(SIZES, dtype=torch.float32))


@pytest.mark.parametrize(("outer", "inner"), [(True, False), (False, True)])
def test_the_signature_of_a_decorator_counts_where_it_has_one(outer, inner):
    seen = []

    class Decorated(Toy):
        pass

    def encode_with(self, inputs, lengths=None):
        seen.append(lengths)
        return Toy.encode(self, inputs, lengths)

    def encode_without(self, inputs):
        seen.append(None)
        return Toy.encode(self, inputs)

    inside = encode_with if inner else encode_without

    def takes(self, inputs, lengths=None):
        seen.append(lengths)
        return inside(self, inputs)

    def takes_not(self, inputs):
        return inside(self, inputs)

    Decorated.encode = functools.wraps(inside)(takes if outer else takes_not)
    TopDownLatch(Decorated(SIZES), "linear")(batch(SIZES, dtype=torch.float32), LENGTHS)
    given = [n.tolist() for n in seen if n is not None]
    assert given == ([LENGTHS.tolist()] * 2 if outer else [])


class OneMask(nn.Module):
    """Ready feedback that masks audio by text."""

    def __init__(self, target="audio"):
        super().__init__()
        self.layer, self.target = nn.Linear(5, 4), target

    def forward(self, encodings, lengths=None):
        return {self.target: {"text": self.layer(encodings["text"])}}


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_ready_feedback_names_the_targets_and_all_other_inputs_may_be_anything(lengths):
    seen = []

    class Watching(Toy):
        def encode(self, inputs, lengths=None):
            seen.append(inputs)
            return super().encode(inputs, lengths)

    bias = torch.zeros(3, 6, 6).masked_fill(~valid_steps(LENGTHS, 6)[:, None, :], -torch.inf)
    more = {"weights": torch.ones(5, 3), "bias": bias, "prosody": torch.ones(3, 11, 2), "empty": torch.ones(3, 0)}
    latch = TopDownLatch(Watching(SIZES), OneMask())
    assert set(latch.masks({**batch(SIZES, dtype=torch.float32), **more}, lengths)) == {"audio"}
    for name, value in more.items():
        assert torch.equal(seen[0][name], value)


def test_ready_feedback_that_masks_nothing_is_named():
    latch = TopDownLatch(Toy(SIZES), OneMask("adio"))
    with pytest.raises(ValueError, match=r"the feedback masks \['adio'\], but the inputs are \['audio', 'text'\]"):
        latch(batch(SIZES, dtype=torch.float32))


def test_lengths_of_a_vector_tell_which_samples_have_it():
    latch = TopDownLatch(Toy({"text": 5, "mean": 4}), "linear", start="random")
    inputs = batch({"text": 5}, dtype=torch.float32) | {"mean": torch.randn(3, 4)}
    masks = latch.masks(inputs, {"text": LENGTHS, "mean": torch.tensor([6, 0, 9])})  # the steps it was pooled from
    apart = latch.masks({"text": inputs["text"]}, {"text": LENGTHS})
    assert "text" not in apart  # none of its sources is there
    assert masks["text"][1].eq(1).all()
    assert not masks["text"][0].eq(1).any()


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_numbers_of_words_may_be_floats_and_stand_beside_their_masks(dtype, stacked, by_name):
    class Stacked(Tokens):
        def encode(self, inputs):
            text = inputs["text"][:, 0] if stacked else inputs["text"]
            return super().encode({**inputs, "text": text.long()})

    latch = TopDownLatch(Stacked(), "lstm", sources={"audio": ["text"]})
    ids = words().to(dtype)
    text = torch.stack([ids, torch.ones_like(ids), torch.zeros_like(ids)], 1) if stacked else ids  # (B, 3, T)
    inputs = {"text": text, "audio": audio()}
    lengths = {"text": LENGTHS, "audio": LENGTHS} if by_name else LENGTHS
    latch(inputs, lengths)
    valid = valid_steps(LENGTHS, 6)
    changed = {**inputs, "text": torch.where(valid.unsqueeze(1) if stacked else valid, text, 7)}
    assert torch.equal(latch.masks(inputs, lengths)["audio"][valid], latch.masks(changed, lengths)["audio"][valid])


def test_lengths_may_name_a_source_that_is_not_there():
    class Strict(Toy):
        def encode(self, inputs):
            return super().encode(inputs)

        def fuse(self, encodings):
            return super().fuse(encodings)

    latch = TopDownLatch(Strict({"text": 5, "audio": 4, "visual": 3}), "linear", sources={"text": ["audio", "visual"]})
    inputs = batch({"text": 5, "audio": 4}, dtype=torch.float32)
    lengths = {"text": LENGTHS, "audio": LENGTHS, "visual": LENGTHS}
    alone = {"text": LENGTHS, "audio": LENGTHS}
    assert torch.equal(latch.masks(inputs, lengths)["text"], latch.masks(inputs, alone)["text"])


def test_a_vector_that_fuse_does_not_read_decides_on_masks():
    class Rooms(nn.Module):
        input_sizes, encoding_sizes = {"audio": 2}, {"room": 1}

        def encode(self, inputs):
            return {"audio": inputs["audio"], "room": inputs["room"]}

        def fuse(self, encodings):
            return encodings["audio"].sum(dim=(1, 2))

    latch = TopDownLatch(Rooms(), "linear", sources={"audio": ["room"]}, combine="product", start="random")
    with torch.no_grad():
        latch.feedback["audio"]["room"].weight.copy_(torch.tensor([[1.0], [-1.0]]) * math.log(3))
        latch.feedback["audio"]["room"].bias.zero_()
    inputs = {"audio": torch.ones(2, 4, 2), "room": torch.tensor([[1.0], [-1.0]])}
    masks = latch.masks(inputs)["audio"]  # sigmoid(log 3) is 3/4
    torch.testing.assert_close(masks, torch.tensor([[0.75, 0.25], [0.25, 0.75]]).unsqueeze(1).expand(2, 4, 2))
    torch.testing.assert_close(latch(inputs), torch.tensor([4.0, 4.0]))
