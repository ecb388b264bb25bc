"""Absent modalities, state that two passes share, blocks that end elsewhere, and graphs that see one example."""

import asyncio
import copy
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from topdown import Padded, PairwiseFeedback, Site, TopDownLatch
from topdown.adapters import HookedBackbone
from topdown.masking import combine_masks, pool_mask
from topdown.sequence import zero_padding


class Halves(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleDict(layers)
        self.input_sizes = {name: layer.in_features for name, layer in layers.items()}
        self.encoding_sizes = {name: layer.out_features for name, layer in layers.items()}

    def encode(self, inputs):
        return {name: layer(inputs[name]) for name, layer in self.layers.items() if inputs.get(name) is not None}

    def fuse(self, encodings):
        return sum((r**3).flatten(1).mean(1) for r in encodings.values())


def halves(**sizes):
    return Halves({name: nn.Linear(size, 4) for name, size in sizes.items()})


def randomised(latch):
    with torch.no_grad():
        for parameter in latch.feedback.parameters():
            parameter.normal_()
    return latch


def test_a_vector_that_is_absent_may_hold_anything():
    class Backbone(Halves):
        def encode(self, inputs, lengths=None):
            here = (lengths["table"] > 0).unsqueeze(1)
            return super().encode({**inputs, "table": torch.where(here, inputs["table"], 0.0)})

    torch.manual_seed(0)
    backbone = Backbone({"table": nn.Linear(3, 4), "audio": nn.Linear(2, 4)})
    inputs, gradients = {"table": torch.randn(3, 3), "audio": torch.randn(3, 5, 2)}, []
    for garbage in (0.0, torch.nan):
        latch = randomised(TopDownLatch(copy.deepcopy(backbone), "linear"))
        torch.manual_seed(1)
        randomised(latch)
        inputs["table"][1] = garbage
        latch(inputs, {"table": torch.tensor([1, 0, 1]), "audio": torch.tensor([5, 5, 5])}).sum().backward()
        gradients.append(latch.feedback["table"]["audio"].weight.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().max() > 0


def test_what_encode_returns_for_an_absent_modality_is_no_source():
    class Default(Halves):
        def encode(self, inputs, lengths=None):
            absent = {name: torch.full((2, 5, 4), 0.7) for name in self.layers}
            return {**absent, **super().encode(inputs)}

    latch = randomised(TopDownLatch(Default({k: nn.Linear(n, 4) for k, n in {"a": 3, "b": 2, "c": 2}.items()}), "linear"))
    inputs = {"a": torch.randn(2, 5, 3), "b": torch.randn(2, 5, 2), "c": torch.randn(2, 5, 2)}
    r = latch.backbone.encode(inputs)
    expected = 2 * torch.sigmoid(latch.feedback["a"]["b"](r["b"]))  # of b alone
    for given in ({**inputs, "c": None}, {"a": inputs["a"], "b": inputs["b"]}):
        torch.testing.assert_close(latch.masks(given)["a"], expected)
    torch.testing.assert_close(latch.masks(inputs, {"c": torch.tensor([0, 0])})["a"], expected)


def test_a_disabled_block_ends_for_tasks_and_threads_that_began_in_it():
    latch, inputs = TopDownLatch(halves(a=3, b=2), "linear"), {"a": torch.randn(2, 5, 3), "b": torch.randn(2, 5, 2)}

    async def enabled_after(event):
        await event.wait()
        return bool(latch.masks(inputs))

    async def task():
        event = asyncio.Event()
        with latch.disabled():
            began = asyncio.create_task(enabled_after(event))
            await asyncio.sleep(0)
            assert not latch.masks(inputs)
        event.set()
        return await began

    def block():
        with latch.disabled():
            yield

    assert asyncio.run(task())
    open_block = block()
    next(open_block)
    assert not latch.masks(inputs)
    closing = threading.Thread(target=open_block.close)
    closing.start()
    closing.join()
    assert latch.masks(inputs)
    twice = latch.disabled()
    with twice:
        with twice:
            assert not latch.masks(inputs)
        assert not latch.masks(inputs)
    assert latch.masks(inputs)


def test_an_input_keeps_its_lengths_where_its_encoding_has_others():
    class Shorter(Halves):
        def encode(self, inputs, lengths=None):
            r = super().encode(inputs)
            return {"a": Padded(r["a"], lengths - 1), "b": r["b"]}

        def fuse(self, encodings):
            return encodings["a"].values.sum((1, 2)) + encodings["b"].sum((1, 2))

    class Ready(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, encodings):
            return {"a": {"b": self.layer(encodings["b"])}}

    backbone, layer = Shorter({"a": nn.Linear(3, 4), "b": nn.Linear(2, 4)}), nn.Linear(4, 3)
    inputs, lengths = {"a": torch.randn(2, 5, 3), "b": torch.randn(2, 5, 2)}, torch.tensor([5, 3])
    expected = torch.sigmoid(layer(backbone.layers["b"](inputs["b"])))
    for feedback, sources in ((Ready(layer), None), (lambda source, target: layer, {"a": ["b"]})):
        latch = TopDownLatch(backbone, feedback, sources=sources, start="random", align="interpolate")
        mask = latch.masks(inputs, lengths)["a"]
        for i, n in enumerate(lengths.tolist()):
            torch.testing.assert_close(mask[i, :n], expected[i, :n])


def test_cached_weights_are_those_of_the_second_pass():
    torch.manual_seed(0)
    inputs = {"a": torch.randn(2, 5, 30), "b": torch.randn(2, 5, 2)}
    bare = halves(a=30, b=2)
    bare.layers["a"] = parametrizations.spectral_norm(nn.Linear(30, 40))
    bare.encoding_sizes["a"] = 40
    latch = TopDownLatch(copy.deepcopy(bare), "linear")
    for model, call in ((bare, lambda: bare.fuse(bare.encode(inputs))), (latch.backbone, lambda: latch(inputs))):
        optimizer = torch.optim.SGD(model.layers["a"].parameters(), 0.5)
        for _ in range(20):
            with parametrize.cached():
                loss = call().square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    norms = [torch.linalg.matrix_norm(model.layers["a"].weight, 2).item() for model in (bare, latch.backbone)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


def test_a_traced_program_reads_lengths_in_each_call():
    class Program(nn.Module):
        def __init__(self):
            super().__init__()

            class Lengths(Halves):
                def fuse(self, encodings, lengths):
                    return sum(zero_padding(r, lengths[k]).sum((1, 2)) for k, r in encodings.items())

            layers = {"a": nn.Linear(3, 4), "b": nn.Linear(2, 4)}
            self.latch = randomised(TopDownLatch(Lengths(layers), "lstm", align="pool"))

        def forward(self, a, b, n, m):
            return self.latch({"a": a, "b": b}, {"a": n, "b": m})

    program, a, b = Program().eval(), torch.randn(2, 6, 3), torch.randn(2, 6, 2)
    full, ragged = torch.tensor([6, 6]), torch.tensor([6, 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates what people still use
        traced = torch.jit.trace(program, (a, b, full, full), check_trace=False)
    torch.testing.assert_close(traced(a, b, full, ragged), program(a, b, full, ragged))


def test_the_mean_of_ones_is_one_in_half_precision():
    for n in range(500, 640):
        assert pool_mask(torch.ones(1, 640, 2, dtype=torch.bfloat16), torch.tensor([n])).unique().tolist() == [1.0]


@pytest.mark.parametrize(("feedback", "align"), [("static", "error"), ("linear", "pool")])
def test_exports_serve_any_time(feedback, align):
    class Program(nn.Module):
        def __init__(self):
            super().__init__()
            self.latch = randomised(TopDownLatch(halves(a=3, b=2), feedback, align=align))

        def forward(self, a, b):
            return self.latch({"a": a, "b": b})

    batch, first = (torch.export.Dim(name, min=1, max=500) for name in ("batch", "first"))
    second = first if align == "error" else torch.export.Dim("second", min=3, max=500)
    program, shapes = Program().eval(), ({0: batch, 1: first}, {0: batch, 1: second})
    example = torch.randn(2, 9, 3), torch.randn(2, 9 if align == "error" else 22, 2)
    with torch.no_grad():
        exported = torch.export.export(program, example, dynamic_shapes=shapes).module()
        for steps in ((7, 5), (4, 9), (12, 6)):
            a, b = torch.randn(3, steps[0], 3), torch.randn(3, steps[0] if align == "error" else steps[1], 2)
            torch.testing.assert_close(exported(a, b), program(a, b))


def test_hooked_encodings_of_any_layout_may_have_the_names_of_inputs():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.LSTM(3, 4), nn.LSTM(2, 4)

        def forward(self, a, b):
            return self.a(a)[0].sum((0, 2)) + self.b(b)[0].sum((0, 2))

    torch.manual_seed(0)
    encodings = {name: Site(name, "t b d", index=0) for name in "ab"}
    sites = {name: Site(name, "t b d", at="input", index=0) for name in "ab"}
    inputs, lengths = {"a": torch.randn(7, 4, 3), "b": torch.randn(7, 4, 2)}, torch.tensor([7, 5, 3, 7])
    latch = TopDownLatch(HookedBackbone(TimeFirst(), encodings), "linear", sites=sites, example_inputs=inputs)
    mask = randomised(latch).masks(inputs, lengths)["a"]
    r = latch.backbone.user_model.b(inputs["b"])[0]
    expected = 2 * torch.sigmoid(latch.feedback["a"]["b"](r))
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(mask[:n, i], expected[:n, i])


def test_feedback_that_is_set_later_is_no_longer_of_the_kind_that_was_built(tmp_path):
    pytest.importorskip("safetensors", reason="needs the extra 'hub'")
    backbone = halves(a=3, b=2)
    latch = TopDownLatch(backbone, "linear")
    assert latch.options()["feedback"] == "linear"
    other = randomised(TopDownLatch(backbone, "lstm")).feedback
    latch.feedback = other
    assert latch.options()["feedback"] is other
    latch.backbone.requires_grad_(False)
    latch.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="JSON cannot hold a function, so pass it again: feedback="):
        TopDownLatch.from_pretrained(backbone, tmp_path)


def test_masks_move_no_buffer_of_user_defined_feedback():
    class Norm(nn.Module):
        def __init__(self, source_size, target_size):
            super().__init__()
            self.layer, self.norm = nn.Linear(source_size, target_size), nn.BatchNorm1d(target_size)

        def forward(self, encoding):
            return self.norm(self.layer(encoding).transpose(1, 2)).transpose(1, 2)

    latch, inputs = TopDownLatch(halves(a=3, b=2), Norm), {"a": torch.randn(2, 5, 3), "b": torch.randn(2, 5, 2)}
    norm = latch.feedback["a"]["b"].norm
    latch(inputs)
    before = norm.running_mean.clone()
    latch.masks(inputs)
    assert (int(norm.num_batches_tracked), norm.training) == (1, True)
    assert torch.equal(norm.running_mean, before)
    latch.trace(inputs)
    assert int(norm.num_batches_tracked) == 2  # as a call


class NamesTargets(nn.Module):
    """Feedback of the user's, which names other targets in each pass."""

    def __init__(self, *passes):
        super().__init__()
        self.passes, self.calls = passes, 0

    def forward(self, encodings):
        self.calls += 1
        pairs = self.passes[(self.calls - 1) % len(self.passes)]
        return {k: {j: encodings[j][..., :1].expand(-1, -1, 4)} for k, j in pairs.items()}


def test_targets_that_a_later_pass_names_are_masked():
    inputs = {"a": torch.randn(2, 5, 4), "b": torch.randn(2, 5, 4)}
    for passes, masked in (
        (({"a": "b"}, {"b": "a"}), ["b"]),
        (({"a": "b"}, {"a": "b", "b": "a"}), ["a", "b"]),
    ):
        latch = TopDownLatch(halves(a=4, b=4), NamesTargets(*passes), start="random", passes=2)
        assert sorted(latch.masks(inputs)) == masked
    stray = TopDownLatch(halves(a=4, b=4), NamesTargets({"a": "b"}, {"nobody": "a"}), start="random", passes=2)
    with pytest.raises(ValueError, match=r"the feedback masks \['nobody'\], but the inputs are"):
        stray.masks(inputs)


class Keeps(nn.Module):
    def forward(self, encoding, lengths=None):
        self.lengths = lengths
        return encoding


def test_networks_of_pooled_encodings_get_no_lengths():
    feedback = PairwiseFeedback(lambda *sizes: Keeps(), {"a": 4, "b": 4}, {"a": 4, "b": 4}, {"a": ["b"], "b": ["a"]})
    feedback({"a": torch.zeros(2, 4), "b": torch.zeros(2, 5, 4)}, torch.tensor([5, 3]))
    assert feedback["b"]["a"].lengths is None
    assert feedback["a"]["b"].lengths.tolist() == [5, 3]


class FourSteps(nn.Module):
    """Text is a sequence; `v` is encoded as four steps, whatever it is."""

    def encode(self, inputs):
        v = inputs["v"]
        r = v[:, ::2] if v.dim() == 3 else v.unsqueeze(1).expand(-1, 4, -1)
        return {"text": torch.tanh(inputs["text"]), "v": r}

    def fuse(self, encodings):
        return encodings["text"].sum((1, 2))


@pytest.mark.parametrize("samples", [2, 3, 4, 5])
def test_a_batch_of_as_many_samples_as_steps_is_read_as_any_other(samples):
    text, lengths = torch.randn(samples, 7, 6), torch.tensor([7, 5, 6, 3, 2][:samples])
    vectors = TopDownLatch(
        FourSteps(), sources={"text": ["v"]}, align="pool", example_inputs={"text": text, "v": text[:, 0, :3]}
    )
    assert vectors(text=text, v=text[:, 0, :3], lengths=lengths).shape == (samples,)
    strided = TopDownLatch(
        FourSteps(), sources={"text": ["v"]}, align="pool", example_inputs={"text": text, "v": text[:, :8, :3]}
    )
    with pytest.raises(ValueError, match=r"'v' 4 steps .* whose lengths no longer fit: return topdown.Padded"):
        strided(text=text, v=torch.randn(samples, 8, 3), lengths={"v": torch.tensor([4, 2, 3, 4, 1][:samples])})


def test_a_target_vector_of_as_many_features_as_tokens_has_no_steps():
    inputs = {"text": torch.randn(2, 7, 6), "v": torch.randn(2, 4)}
    latch = TopDownLatch(FourSteps(), align="pool", example_inputs=inputs)
    assert latch.masks(inputs, torch.tensor([7, 5]))["text"].shape == (2, 7, 6)


@pytest.mark.parametrize("size", [5, 6])
def test_a_pooled_padded_encoding_is_no_sequence_of_the_site_of_its_name(size):
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Identity(), nn.Linear(3, size)

        def encode(self, inputs):
            return {"a": Padded(self.last(self.first(inputs["a"])).mean(1), torch.tensor([1, 0, 1, 1, 1]))}

        def fuse(self, encodings):
            return encodings["a"].values.sum(1)

    latch = TopDownLatch(Pooled(), "static", sites={"a": Site("first")})
    inputs = {"a": torch.randn(5, 5, 3)}
    latch(inputs)
    latch.masks(inputs)["a"][:, 1].sum().backward()  # a mask of 2 sigmoid(0) has the slope 1/2 in each of four samples
    torch.testing.assert_close(latch.feedback["a"]["a"].bias.grad, torch.full((3,), 2.0))


def test_options_of_a_latch_whose_feedback_was_set_make_another(tmp_path):
    pytest.importorskip("safetensors", reason="needs the extra 'hub'")
    backbone = halves(a=3, b=2)
    latch = TopDownLatch(backbone, "linear", sources={"a": ["b"]}, start="random")
    latch.feedback = PairwiseFeedback(nn.Linear, {"a": 4, "b": 4}, {"a": 3}, {"a": ["b"]})
    inputs = {"a": torch.randn(2, 5, 3), "b": torch.randn(2, 5, 2)}
    other = TopDownLatch(backbone, **latch.options())
    assert torch.equal(other(inputs), latch(inputs))
    backbone.requires_grad_(False)
    latch.save_pretrained(tmp_path)
    ready = PairwiseFeedback(nn.Linear, {"a": 4, "b": 4}, {"a": 3}, {"a": ["b"]})
    loaded = TopDownLatch.from_pretrained(backbone, tmp_path, feedback=ready)
    assert torch.equal(loaded(inputs), latch(inputs))
    with pytest.raises(ValueError, match=r"'combin' is not among the options of the saved latch \['combine'"):
        TopDownLatch.from_pretrained(backbone, tmp_path, feedback=ready, combin=max)


def test_a_map_names_the_length_that_does_not_fit():
    inputs = {"a": torch.randn(2, 3, 4, 5), "b": torch.randn(2, 6, 3)}

    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 3, 1)

        def encode(self, inputs):
            return {"a": self.stem(inputs["a"]).mean((2, 3)), "b": inputs["b"].mean(1)}

        def fuse(self, encodings):
            return encodings["a"] + encodings["b"]

    latch = TopDownLatch(Map(), sites={"a": Site("stem", "b d h w")}, sources={"a": ["b"]}, example_inputs=inputs)
    with pytest.raises(ValueError, match="its lengths are 0 or 20, not 3;"):
        latch(inputs, {"a": torch.tensor([3, 20])})


def test_a_rule_that_returns_nan_is_refused():
    with pytest.raises(ValueError, match="combine= must map masks of 1 to 1"):
        TopDownLatch(halves(a=3, b=2), combine=lambda masks: masks.mean(0) * torch.nan)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_mean_keeps_its_type_where_sources_are_absent(dtype):
    masks = [torch.full((2, 1), 0.25, dtype=dtype), torch.ones(2, 1, dtype=dtype)]
    mean = combine_masks(masks, present=[None, torch.tensor([True, False])])
    assert mean.dtype == dtype
    assert mean.flatten().tolist() == [0.625, 0.25]


@pytest.mark.parametrize("align", ["error", "interpolate", "pool"])
def test_sites_have_the_lengths_of_the_only_encoding(align):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.lstm, self.head = nn.Embedding(9, 3), nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, ids):
            return self.head(self.lstm(self.words(ids))[0].mean(1))

    model = HookedBackbone(Text(), {"text": Site("lstm", index=0)})
    ids, lengths = torch.randint(0, 9, (2, 6)), torch.tensor([6, 2])
    latch = TopDownLatch(model, "linear", sites={"h": "words"}, align=align, start="random", example_inputs={"ids": ids})
    mask = latch.masks({"ids": ids}, {"text": lengths})["h"]
    expected = torch.sigmoid(latch.feedback["h"]["text"](model.encode({"ids": ids})["text"]))
    torch.testing.assert_close(mask[0], expected[0])
    torch.testing.assert_close(mask[1, :2], expected[1, :2])


def test_parameters_to_come_cannot_be_frozen_in_vain():
    class Unknown(Halves):
        def __init__(self):
            super().__init__({"a": nn.Linear(3, 4), "b": nn.Linear(2, 4)})
            del self.input_sizes

    latch = TopDownLatch(Unknown())
    *_, to_come = latch.parameters()
    with pytest.raises(RuntimeError, match="call the latch once"):
        to_come.requires_grad = False


def test_a_latch_of_an_example_is_loaded_where_attributes_say_otherwise(tmp_path):
    pytest.importorskip("safetensors", reason="needs the extra 'hub'")

    class More(Halves):
        def encode(self, inputs):
            return {**super().encode(inputs), "both": torch.cat([inputs["a"], inputs["b"]], -1)}

        def fuse(self, encodings):
            return encodings["a"].sum((1, 2))

    def more(**sizes):
        return More({name: nn.Linear(size, 4) for name, size in sizes.items()}).requires_grad_(False)

    inputs = {"a": torch.randn(2, 5, 3), "b": torch.randn(2, 5, 2)}
    latch = randomised(TopDownLatch(more(a=3, b=2), "linear", sources={"a": ["both"]}, example_inputs=inputs))
    latch.save_pretrained(tmp_path)
    loaded = TopDownLatch.from_pretrained(more(a=3, b=2), tmp_path, example_inputs=inputs)
    assert torch.equal(loaded.masks(inputs)["a"], latch.masks(inputs)["a"])
    with pytest.raises(ValueError, match=r"saved for input_sizes .*'a': 3.* has .*'a': 7.*: make it of these sizes"):
        TopDownLatch.from_pretrained(more(a=7, b=2), tmp_path)


def test_encodings_with_time_last_may_have_the_names_and_lengths_of_raw_inputs():
    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv1d(3, 4, 1), nn.Conv1d(2, 4, 1)

        def forward(self, a, b):
            return self.a(a.mT).sum((1, 2)) + self.b(b.mT).sum((1, 2))

    inputs, lengths = {"a": torch.randn(3, 7, 3), "b": torch.randn(3, 7, 2)}, torch.tensor([7, 5, 3])
    model = HookedBackbone(Convolutions(), {name: Site(name, "b d t") for name in "ab"})
    latch = randomised(TopDownLatch(model, "linear", example_inputs=inputs))
    mask = latch.masks(inputs, lengths)["a"]
    expected = 2 * torch.sigmoid(latch.feedback["a"]["b"](model.user_model.b(inputs["b"].mT).mT))
    for i, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(mask[i, :n], expected[i, :n])


def test_a_sequence_of_as_many_steps_as_a_map_has_positions_is_not_aligned_with_it():
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.rows = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def forward(self, image):
            x = self.stem(image)
            return self.rows(x.flatten(2).mT).sum((1, 2))

    model, inputs = HookedBackbone(Image(), {"rows": "rows"}), {"image": torch.randn(2, 3, 4, 5)}
    latch = TopDownLatch(model, "linear", sites={"stem": Site("stem", "b d h w")}, example_inputs=inputs)
    with pytest.raises(ValueError, match=r"'rows' has positions \(T,\) but 'stem' has \(4, 5\): pass align='pool'"):
        latch(inputs)


def test_a_site_that_sources_do_not_name_is_named():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.second(self.first(x)).sum((1, 2))

    backbone, inputs = HookedBackbone(Deep(), {"text": "second"}), {"x": torch.randn(2, 5, 3)}
    sites = {"low": "first", "high": "second"}
    with pytest.raises(
        ValueError, match=r"sites=\['low', 'high'\]: 'high' is not among the targets that sources= names \['low'\]"
    ):
        TopDownLatch(backbone, "linear", sites=sites, sources={"low": ["text"]}, example_inputs=inputs)
