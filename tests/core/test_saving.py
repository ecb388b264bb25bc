"""Feedback that is saved alone, and loaded around another copy of the backbone."""

import json
import shutil
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from test_sites import INPUTS as MODEL_INPUTS
from test_sites import Model
from test_start import Ready
from toys import Toy, batch

from topdown import SharedFeedback, Site, TopDownLatch
from topdown.adapters import HookedBackbone

pytest.importorskip("safetensors")
SIZES = {"text": 5, "audio": 4}
INPUTS = batch(SIZES, dtype=torch.float32)


def smallest(masks):
    return masks.amin(0)


class Normed(Toy):
    def __init__(self, sizes, **options):
        super().__init__(sizes, **options)
        self.norm = torch.nn.BatchNorm1d(5)

    def encode(self, inputs, lengths=None):
        encodings = super().encode(inputs, lengths)
        return {k: self.norm(r.flatten(0, 1)).view_as(r) for k, r in encodings.items()}


def frozen(module):
    return module.requires_grad_(False)


def trained(latch, inputs=INPUTS):
    """Moves every parameter that is trained, and statistics."""
    for _ in range(2):
        output = latch.train()(**inputs)
        (output["logits"] if isinstance(output, dict) else output).square().sum().backward()
    with torch.no_grad():
        for p in latch.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p))
    return latch.eval()


OPTIONS = [
    {},
    {"feedback": "shared", "combine": "max", "passes": 2, "start": "random", "scale": 1.5},
    {"feedback": "static", "start": "identity", "align": "pool", "sources": {"audio": ["text"]}},
    {"feedback": "linear", "encoder_grad": True, "mask_dropout": 0.25, "start": "identity", "combine": "product"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("declare", [True, False])
def test_what_was_saved_is_loaded(tmp_path, options, declare):
    backbone = frozen(Normed(SIZES, declare=declare))
    latch = trained(TopDownLatch(backbone, **options, **({} if declare else {"example_inputs": INPUTS})))
    latch.save_pretrained(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == ["feedback.safetensors", "topdown.json"]
    twin = frozen(Normed(SIZES, declare=declare))
    twin.load_state_dict(backbone.state_dict())
    torch.manual_seed(7)
    again = TopDownLatch.from_pretrained(twin, tmp_path / "a" / "b").eval()
    assert again.options() == latch.options()
    assert torch.equal(again(INPUTS), latch(INPUTS))
    ours, expected = again.state_dict(), latch.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], value) or (ours[name].isnan() & value.isnan()).all() for name, value in expected.items())
    torch.optim.Adam(p for p in again.parameters() if p.requires_grad)


def test_sites_and_parts_of_the_model_are_saved(tmp_path):
    def make():
        torch.manual_seed(0)
        return HookedBackbone(Model(), {"text": "body", "picture": "patch"})

    sites = {"text": "words", "picture": Site("stem", "b d h w")}
    backbone = make()
    frozen(backbone.model.words), frozen(backbone.model.stem), frozen(backbone.model.patch), frozen(backbone.model.body)
    latch = TopDownLatch(backbone, sites=sites, align="pool", example_inputs=MODEL_INPUTS)
    latch = trained(latch, MODEL_INPUTS)
    with pytest.warns(UserWarning, match=r"2 trainable parameters of the backbone are not saved \(head.weight, head.bias\)"):
        latch.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latch.save_pretrained(tmp_path, also=["head"])
    again = TopDownLatch.from_pretrained(make(), tmp_path).eval()
    assert again.sites == latch.sites
    saved = {k: v for k, v in latch.state_dict().items() if not k.startswith("backbone.") or "head" in k}
    assert all(torch.equal(again.state_dict()[name], value) for name, value in saved.items())
    # Where values stand in memory decides how some machines add them up.
    torch.testing.assert_close(again(**MODEL_INPUTS)["logits"], latch(**MODEL_INPUTS)["logits"], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"Model has no 'haed', but \['head', "):
        latch.save_pretrained(tmp_path, also=["haed"])


@pytest.mark.parametrize(
    ("options", "given", "named"),
    [
        ({"combine": smallest}, {"combine": smallest}, r"combine= \(it was <function smallest>\)"),
        (
            {"feedback": torch.nn.Linear},
            {"feedback": torch.nn.Linear},
            r"feedback= \(it was <class 'torch.nn.modules.linear.Linear'>\)",
        ),
        (
            {"feedback": partial(SharedFeedback, bidirectional=True)},
            {"feedback": partial(SharedFeedback, bidirectional=True)},
            r"feedback= \(it was functools.partial\(<class 'topdown.feedback.SharedFeedback'>, bidirectional=True\)\)",
        ),
    ],
)
def test_functions_are_passed_again(tmp_path, options, given, named):
    backbone = frozen(Toy(SIZES))
    latch = trained(TopDownLatch(backbone, **options))
    latch.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"JSON cannot hold a function, so pass it again: {named}"):
        TopDownLatch.from_pretrained(backbone, tmp_path)
    again = TopDownLatch.from_pretrained(backbone, tmp_path, **given)
    assert torch.equal(again(INPUTS), latch(INPUTS))
    with pytest.raises(ValueError, match=r"scale is saved as 1.0; set it on the latch afterwards"):
        TopDownLatch.from_pretrained(backbone, tmp_path, **given, scale=2.0)


def test_a_ready_module_is_passed_again(tmp_path):
    backbone = frozen(Toy({**SIZES, "visual": 3}))
    latch = trained(TopDownLatch(backbone, Ready(), start="identity"), batch({**SIZES, "visual": 3}, dtype=torch.float32))
    latch.save_pretrained(tmp_path)
    again = TopDownLatch.from_pretrained(backbone, tmp_path, feedback=Ready())
    assert torch.equal(
        again(batch({**SIZES, "visual": 3}, dtype=torch.float32)), latch(batch({**SIZES, "visual": 3}, dtype=torch.float32))
    )


@pytest.fixture
def folder(tmp_path):
    TopDownLatch(frozen(Toy(SIZES)), "linear").save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def change(folder, **values):
    content = json.loads((folder / "topdown.json").read_text())
    (folder / "topdown.json").write_text(json.dumps({**content, **values}))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: change(f, format=2), ValueError, "has format 2, but this version of topdown reads format 1"),
        (lambda f: (f / "topdown.json").unlink(), FileNotFoundError, "has no topdown.json: pass a folder that save_pretrained"),
        (lambda f: (f / "feedback.safetensors").unlink(), FileNotFoundError, "has no feedback.safetensors"),
        (lambda f: (f / "topdown.json").write_text('{"format": 1, '), ValueError, "cannot be read .* truncated"),
        (lambda f: (f / "topdown.json").write_text("[1]"), ValueError, "has format None"),
        (
            lambda f: (f / "feedback.safetensors").write_bytes((f / "feedback.safetensors").read_bytes()[:-9]),
            ValueError,
            "cannot be read .* truncated",
        ),
        (lambda f: (f / "feedback.safetensors").write_bytes(b"no"), ValueError, "cannot be read .* truncated"),
        (lambda f: change(f, tensors={}), ValueError, "were not saved together"),
    ],
)
def test_spoiled_files_are_refused(folder, spoil, error, message):
    spoil(folder)
    with pytest.raises(error, match=message):
        TopDownLatch.from_pretrained(Toy(SIZES), folder)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (lambda: Toy({"text": 6, "audio": 4}), r"saved for input_sizes {'text': 5, 'audio': 4}, but this backbone has"),
        (lambda: Toy({"speech": 5, "audio": 4}), "saved for input_sizes"),
        (lambda: Toy(SIZES, encoding_size=7), "saved for encoding_sizes"),
    ],
)
def test_another_backbone_is_refused(folder, backbone, message):
    with pytest.raises(ValueError, match=message):
        TopDownLatch.from_pretrained(backbone(), folder)


def test_a_model_without_the_site_is_refused(tmp_path):
    make = lambda: frozen(HookedBackbone(Model(), {"text": "body"}))  # noqa: E731
    TopDownLatch(make(), "linear", sites={"text": "words"}, example_inputs=MODEL_INPUTS).save_pretrained(tmp_path)
    other = make()
    other.model.table, other.model.words = other.model.words, None
    with pytest.raises(ValueError, match=r"sites\['text'\]: Model has no 'words'"):
        TopDownLatch.from_pretrained(other, tmp_path)


def test_other_places_of_encodings_are_refused(tmp_path):
    options = {"sites": {"text": "words"}, "example_inputs": MODEL_INPUTS}
    TopDownLatch(frozen(HookedBackbone(Model(), {"text": "body"})), "linear", **options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"encodings were read at .*'body'.*, but are at"):
        TopDownLatch.from_pretrained(HookedBackbone(Model(), {"text": "head"}), tmp_path)


def test_feedback_without_sizes_cannot_be_saved(tmp_path):
    with pytest.raises(RuntimeError, match="call the latch once, or pass example_inputs="):
        TopDownLatch(Toy(SIZES, declare=False)).save_pretrained(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_what_is_in_the_way_is_replaced_whole(folder):
    latch = trained(TopDownLatch(frozen(Toy(SIZES)), "linear", start="random", scale=0.5))
    latch.save_pretrained(folder)
    assert TopDownLatch.from_pretrained(Toy(SIZES), folder).scale == 0.5
    copy = shutil.copytree(folder, folder.parent / "copy")
    assert torch.equal(TopDownLatch.from_pretrained(latch.backbone, copy)(INPUTS), latch(INPUTS))
    assert sorted(path.name for path in folder.iterdir()) == ["feedback.safetensors", "topdown.json"]


def test_what_was_set_later_is_saved_as_it_is(tmp_path):
    """Another number of passes, and numbers of numpy."""
    backbone = frozen(Normed(SIZES))
    latch = trained(TopDownLatch(backbone, "linear", start="random", scale=1.5, passes=3))
    latch.scale, latch.passes = np.float32(2.0), 2
    latch.save_pretrained(tmp_path)
    twin = frozen(Normed(SIZES))
    twin.load_state_dict(backbone.state_dict())
    again = TopDownLatch.from_pretrained(twin, tmp_path).eval()
    assert (again.scale, again.passes, again.start) == (2.0, 2, "random")
    assert torch.equal(again(INPUTS), latch(INPUTS))


def test_layouts_of_memory_and_shared_weights_are_saved(tmp_path):
    backbone = HookedBackbone(Model(), {"text": "body"})
    latch = TopDownLatch(backbone, "linear", sites={"text": "words"}, example_inputs=MODEL_INPUTS)
    backbone.model.stem.to(memory_format=torch.channels_last)
    backbone.model.again = backbone.model.head
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        latch.save_pretrained(tmp_path, also=["stem", "again", "words", "patch", "body"])  # the head, by its other name
    again = HookedBackbone(Model(), {"text": "body"})
    again.model.again = again.model.head
    assert torch.equal(TopDownLatch.from_pretrained(again, tmp_path)(**MODEL_INPUTS)["logits"], latch(**MODEL_INPUTS)["logits"])


def test_a_failure_leaves_what_was_there(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    latch = TopDownLatch(Toy(SIZES), "linear")
    with pytest.raises(ValueError, match="has no 'nothing'"):
        latch.save_pretrained(folder, also=["nothing"])
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_parameters_beside_the_model_are_named(tmp_path):
    class More(HookedBackbone):
        def __init__(self):
            super().__init__(Model(), {"text": "body"})
            self.extra = torch.nn.Linear(2, 2)

    backbone = More()
    frozen(backbone.model)
    latch = TopDownLatch(backbone, "linear", sites={"text": "words"}, example_inputs=MODEL_INPUTS)
    with pytest.warns(UserWarning, match=r"2 trainable parameters of the backbone are not saved \(extra.weight, extra.bias\)"):
        latch.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"functions": None},
        {"options": []},
        {"options": {"feedback": "linear"}},
        {"encodings": {"a": {"path": "x", "colour": 3}}},
        {"encodings": {"a": "x"}},
        {"also": None},
        {"also": [3]},
        {"target_sizes": {"text": "6"}},
        {"source_sizes": {"text": -6}},
        {"source_sizes": {"text": 10**12}},
        {"tensors": 3},
        {"encodings": 3},
    ],
    ids=str,
)
def test_files_that_someone_wrote_by_hand_are_refused(folder, values):
    change(folder, **values)
    with pytest.raises(ValueError, match="is not as save_pretrained writes it: look at"):
        TopDownLatch.from_pretrained(Toy(SIZES), folder)


def test_a_format_that_is_true_is_none(folder):
    change(folder, format=True)
    with pytest.raises(ValueError, match="has format True"):
        TopDownLatch.from_pretrained(Toy(SIZES), folder)


def test_a_part_without_values_is_refused(tmp_path):
    def make():
        return frozen(HookedBackbone(Model(), {"text": "body"}))

    latch = TopDownLatch(make(), "linear", sites={"text": "words"}, example_inputs=MODEL_INPUTS)
    latch.save_pretrained(tmp_path, also=["head"])
    with pytest.raises(ValueError, match=r"'also.head.weight' is on the meta device, which holds no values"):
        TopDownLatch.from_pretrained(make().to("meta"), tmp_path)


def test_sizes_of_numpy_are_saved_as_numbers(tmp_path):
    backbone = Toy({"a": 3, "b": 2})
    backbone.input_sizes = {"a": np.int64(3), "b": np.int64(2)}
    backbone.encoding_sizes = dict.fromkeys(["a", "b"], np.int32(5))
    latch = TopDownLatch(backbone.requires_grad_(False), "linear")
    latch.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "topdown.json").read_text())["target_sizes"] == {"a": 3, "b": 2}
    assert TopDownLatch.from_pretrained(backbone, tmp_path).wiring == latch.wiring
