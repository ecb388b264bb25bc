"""Wrong calls of the public API: what each of them does, the error that it must raise, and what its message must name.

Each entry is (name, call, error, words). The words are the object, the facts and the remedy that a user needs. A test makes
each call in an empty directory, and reads its message.
"""

import json

import numpy as np
import torch
from torch import nn
from toys import NoLengths, Toy, batch

from topdown import LatchTrace, MaskProfile, Padded, Site, TopDownLatch, explain, mask_profile
from topdown.adapters import (
    CallableBackbone,
    FiLM,
    HookedBackbone,
    LSTMBackbone,
    MulTBackbone,
    WithInputs,
    read_other_inputs,
)
from topdown.adapters.reference import mmlatch_from_reference, mult_from_reference
from topdown.comparison import compare
from topdown.datasets import DataError, SequenceDataset, data_loader, load_splits
from topdown.experiments import sentiment_metrics
from topdown.plots import plot_profile, plot_sample, write_page
from topdown.training import classification_metrics, fit, load_model, predict

SIZES = {"text": 7, "audio": 4}
INPUTS = batch(SIZES, dtype=torch.float32)  # (3, 6, D)
LENGTHS = torch.tensor([6, 2, 4])
RNG = np.random.default_rng(0)


def latch(feedback="linear", **options):
    return TopDownLatch(Toy(SIZES), feedback, **options)


def call(inputs=INPUTS, lengths=None, feedback="linear", **options):
    return lambda: latch(feedback, **options)(inputs, lengths)


def changed(**inputs):
    return {**INPUTS, **inputs}


class Chain(nn.Module):
    """A model that nobody may edit."""

    def __init__(self):
        super().__init__()
        self.text, self.audio, self.head = nn.Linear(7, 5), nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, text, audio):
        return self.head(self.text(text).mean(1) + self.audio(audio).mean(1))


def hooked(**sites):
    return TopDownLatch(HookedBackbone(Chain(), {"text": "text", "audio": "audio"}), "linear", sites=sites or None)


class Loop(nn.Module):
    """A model with a module in a loop, and one that is never called."""

    def __init__(self):
        super().__init__()
        self.cell, self.unused, self.encoder = nn.Linear(7, 7), nn.Linear(7, 7), nn.Linear(7, 5)

    def forward(self, text):
        return self.encoder(torch.stack([self.cell(step) for step in text.unbind(1)], 1)).mean((1, 2))


def nested():
    """Calls a latch around torch's encoder, whose fast path makes nested tensors in evaluation mode."""
    model = nn.Sequential()
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
    model.add_module("layers", layers)
    model.forward = lambda x, padding: layers(x, src_key_padding_mask=padding)
    latch = TopDownLatch(HookedBackbone(model, {"x": "layers.layers.0"}), "linear", sites={"x": Site("layers", at="input")})
    with torch.no_grad():
        latch(x=torch.randn(2, 4, 8), padding=torch.tensor([[False] * 4, [False, False, True, True]]))


def looped(**sites):
    return TopDownLatch(HookedBackbone(Loop(), {"text": "encoder"}), "linear", sites=sites)


class Returns(nn.Module):
    """A backbone whose encode returns what it was told."""

    def __init__(self, returned):
        super().__init__()
        self.returned, self.head = returned, nn.Linear(1, 1)

    def encode(self, inputs):
        return self.returned

    def fuse(self, encodings):
        return self.head(torch.zeros(3, 1))


def encoded(returned, **options):
    return lambda: TopDownLatch(Returns(returned), "linear", **options)(INPUTS)


class Logits(nn.Module):
    """Feedback of all pairs that returns what it was told."""

    def __init__(self, returned):
        super().__init__()
        self.returned, self.weight = returned, nn.Parameter(torch.zeros(1))

    def forward(self, encodings):
        return self.returned


def arrays(count=12, **changes):
    return {"audio": RNG.normal(size=(count, 3, 2)), "text": RNG.normal(size=(count, 3, 2)), **changes}


def data(count=12, labels=None, **changes):
    return SequenceDataset.from_arrays(arrays(count, **changes), np.zeros(count) if labels is None else labels)


CLASSES = np.arange(12) % 3
PARTS = {"train": data(), "valid": data(), "test": data()}


def model(outputs=1):
    return LSTMBackbone({"audio": 2, "text": 2}, hidden_size=3, output_size=outputs)


def frames(audio=None, labels=None, **options):
    import pandas

    audio = {"id": ["a", "a", "b"], "pitch": [1.0, 3.0, 2.0]} if audio is None else audio
    labels = {"id": ["a", "b"], "mood": ["glad", "sad"]} if labels is None else labels
    return SequenceDataset.from_frames({"audio": pandas.DataFrame(audio)}, pandas.DataFrame(labels), **options)


def tables(audio="id,x\na,1\na,2\nb,3\nc,1\n", labels="id,split,y\na,train,1\nb,valid,2\nc,test,3\n", name="data"):
    from pathlib import Path

    folder = Path(name)
    folder.mkdir(exist_ok=True)
    (folder / "audio.csv").write_text(audio)
    if labels is not None:
        (folder / "labels.csv").write_text(labels)
    return folder


def file(name, content=b""):
    from pathlib import Path

    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def npz(**arrays):
    np.savez("mine.npz", **arrays)
    return "mine.npz"


def saved(change=None, backbone=None):
    """A saved latch, changed on disk, and loaded."""
    latch().save_pretrained("saved")
    if change is not None:
        from pathlib import Path

        path = Path("saved/topdown.json")
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return TopDownLatch.from_pretrained(backbone or Toy(SIZES), "saved")


def masks():
    return {"audio": torch.full((2, 3, 4), 0.5)}


def trace(size=3):
    mask = torch.full((2, size, 4), 0.5)
    return LatchTrace(None, {"audio": mask}, {"audio": {"text": mask}}, {})


def profile():
    return {"audio": MaskProfile(torch.full((2, 4), 0.5), torch.tensor([1, 1]), (0, 1))}


OPTIONS = [
    ("combine of another name", lambda: latch(combine="avg"), ValueError, ["combine='avg'", "mean", "product"]),
    ("combine that is no name", lambda: latch(combine=["mean"]), ValueError, ["combine=['mean']", "'mean'"]),
    ("combine that is not neutral", lambda: latch(combine=lambda f: f.sum(0) * 3), ValueError, ["combine=", "1", "random"]),
    ("align of another name", lambda: latch(align="nearest"), ValueError, ["align='nearest'", "interpolate", "pool"]),
    ("align None", lambda: latch(align=None), ValueError, ["align=None", "interpolate"]),
    ("start of another name", lambda: latch(start="zero"), ValueError, ["start='zero'", "identity", "random"]),
    ("scale with identity", lambda: latch(scale=2.0), ValueError, ["scale=2.0", "start='random'"]),
    ("scale zero", lambda: latch(start="random", scale=0.0), ValueError, ["scale=0.0", "positive"]),
    ("scale text", lambda: latch(start="random", scale="2"), TypeError, ["scale='2'", "positive number"]),
    ("passes zero", lambda: latch(passes=0), ValueError, ["passes=0", "at least 1"]),
    ("passes half", lambda: latch(passes=1.5), TypeError, ["passes=1.5", "whole number"]),
    ("mask_dropout one", lambda: latch(mask_dropout=1.0), ValueError, ["mask_dropout=1.0", "[0, 1)"]),
    ("mask_dropout text", lambda: latch(mask_dropout="0.1"), TypeError, ["mask_dropout='0.1'", "[0, 1)"]),
    ("encoder_grad number", lambda: latch(encoder_grad=1), TypeError, ["encoder_grad=1", "True or False"]),
    ("option that does not exist", lambda: latch(dropout=0.1), TypeError, ["dropout"]),
    ("sources later", lambda: setattr(latch(), "sources", {}), ValueError, ["sources cannot change", "make a new latch"]),
    ("start later", lambda: setattr(latch(), "start", "random"), ValueError, ["start cannot change", "make a new latch"]),
    ("sites later", lambda: setattr(latch(), "sites", {}), ValueError, ["sites cannot change", "make a new latch"]),
    ("scale later", lambda: setattr(latch(), "scale", 2.0), ValueError, ["scale=2.0", "start='random'"]),
]
BACKBONES = [
    (
        "backbone without halves",
        lambda: TopDownLatch(nn.Linear(3, 4)),
        TypeError,
        ["Linear", "encode", "fuse", "HookedBackbone"],
    ),
    ("backbone without fuse", lambda: TopDownLatch(type("M", (nn.Module,), {"encode": None})()), TypeError, ["encode", "fuse"]),
    ("backbone that is no module", lambda: TopDownLatch(object()), TypeError, ["object", "encode"]),
    ("backbone that is a class", lambda: TopDownLatch(Toy), TypeError, ["backbone must be a torch.nn.Module", "type"]),
    ("backbone that is later none", lambda: setattr(latch(), "backbone", None), TypeError, ["NoneType", "encode"]),
    ("feedback of another name", lambda: latch("lstms"), ValueError, ["feedback='lstms'", "lstm"]),
    ("feedback None", lambda: latch(None), TypeError, ["feedback", "None"]),
    ("feedback number", lambda: latch(3), TypeError, ["feedback", "3"]),
    ("feedback of one network", lambda: latch(nn.Linear(5, 7)), TypeError, ["one network", "factory"]),
    ("feedback of one class", call(feedback=nn.GRU), TypeError, ["feedback from 'audio' to 'text'", "tuple", "logits"]),
    (
        "factory that returns none",
        lambda: latch(lambda source_size, target_size: None),
        TypeError,
        ["'audio'", "torch.nn.Module", "NoneType"],
    ),
    (
        "factory of three",
        lambda: latch(lambda a, b, c, d: nn.Linear(a, b)),
        TypeError,
        ["missing 2 required positional arguments: 'c' and 'd'"],
    ),
    ("sources no mapping", lambda: latch(sources=["text"]), ValueError, ["sources=['text']", "{'visual': ['text', 'audio']}"]),
    (
        "sources of text",
        lambda: latch(sources={"text": "audio"}),
        ValueError,
        ["sources['text'] = 'audio'", "must list sources"],
    ),
    ("sources unknown target", lambda: latch(sources={"txt": ["audio"]}), ValueError, ["'txt'", "text"]),
    ("sources unknown source", lambda: latch(sources={"text": ["adio"]}), ValueError, ["'adio'", "audio"]),
    ("sources empty", lambda: latch(sources={}), ValueError, ["sources"]),
    ("sources without source", lambda: latch(sources={"text": []}), ValueError, ["sources", "text"]),
    ("sources twice", lambda: latch(sources={"text": ["audio", "audio"]}), ValueError, ["['audio', 'audio']", "each once"]),
    (
        "other names",
        lambda: TopDownLatch(Toy(SIZES, declare=False), "linear")({"x": torch.zeros(3, 6, 7)}),
        Exception,
        ["['x']", "different names", "sources={target: [sources]}"],
    ),
    ("sites no mapping", lambda: latch(sites=["layers.0"]), TypeError, ["sites=['layers.0']", "mapping", "Site(path"]),
    ("site path unknown", lambda: latch(sites={"text": "layer.0"}), ValueError, ["layer.0", "layers"]),
    ("site path number", lambda: latch(sites={"text": 3}), TypeError, ["sites", "3", "Site"]),
    ("site layout without d", lambda: Site("x", "b t"), ValueError, ["'b t'", "d"]),
    ("site layout without b", lambda: Site("x", "t d"), ValueError, ["'t d'", "b"]),
    ("site layout twice", lambda: Site("x", "b d d"), ValueError, ["'b d d'", "d"]),
    ("site layout number", lambda: Site("x", 3), TypeError, ["Site('encoder.layer.0', 'b t d')", "'x'", "(3)"]),
    ("site at", lambda: Site("x", at="inputs"), ValueError, ["at='inputs'", "input", "output"]),
    ("site path", lambda: Site(None), TypeError, ["path", "None"]),
    ("example inputs list", lambda: latch(example_inputs=[torch.zeros(3, 6, 7)]), TypeError, ["inputs", "mapping", "list"]),
]
INPUT = [
    ("inputs none", lambda: latch()(), ValueError, ["there is no input"]),
    ("inputs empty", call({}), ValueError, ["there is no input"]),
    ("inputs all none", call({"text": None, "audio": None}), ValueError, ["there is no input", "text"]),
    ("inputs tensor", call(torch.zeros(3, 6, 7)), TypeError, ["inputs", "mapping", "Tensor", "text="]),
    ("inputs list", call([1]), TypeError, ["inputs", "mapping", "list"]),
    ("inputs both ways", lambda: latch()(INPUTS, audio=INPUTS["audio"]), TypeError, ["inputs", "'audio'"]),
    ("name that is a number", call({0: torch.zeros(3, 6, 7)}), TypeError, ["names of inputs", "0", "int"]),
    ("features", call(changed(audio=torch.zeros(3, 6, 5))), ValueError, ["'audio'", "5 features", "4"]),
    ("time and features swapped", call(changed(audio=torch.zeros(3, 4, 6))), ValueError, ["'audio'", "6 features", "4"]),
    ("batch sizes", call(changed(audio=torch.zeros(2, 6, 4))), ValueError, ["'audio'", "(2, 6, 4)", "batch size"]),
    ("steps", call(changed(audio=torch.zeros(3, 5, 4))), ValueError, ["'audio'", "5 steps", "6", "align="]),
    ("no steps", call(changed(audio=torch.zeros(3, 0, 4))), ValueError, ["'audio'", "no steps", "None"]),
    ("integers", call(changed(audio=torch.zeros(3, 6, 4).int())), TypeError, ["'audio'", "int32", "floating-point"]),
    ("four dimensions", call(changed(audio=torch.zeros(3, 6, 4, 1))), TypeError, ["'audio'", "(3, 6, 4, 1)", "(B, T, D)"]),
    ("one dimension", call(changed(audio=torch.zeros(4))), TypeError, ["'audio'", "(4,)", "(B, T, D)"]),
    ("array of numpy", call(changed(audio=np.zeros((3, 6, 4), np.float32))), TypeError, ["'audio'", "ndarray"]),
    ("list of floats", call(changed(audio=[[1.0]])), TypeError, ["'audio'", "list"]),
    ("text", call(changed(audio="hello")), TypeError, ["'audio'", "str"]),
    ("masks with no input", lambda: latch().masks({}), ValueError, ["there is no input"]),
    ("trace with a tensor", lambda: latch().trace(torch.zeros(2, 3)), TypeError, ["inputs", "mapping"]),
    ("a later name", lambda: hooked()(text=INPUTS["text"], sound=INPUTS["audio"]), TypeError, ["Chain.forward()", "'sound'"]),
    ("a missing name", lambda: hooked()(text=INPUTS["text"]), TypeError, ["audio"]),
    ("too many arguments", lambda: hooked()(1, 2, 3), TypeError, ["arguments"]),
    ("lengths of another name", call(lengths={"txt": LENGTHS}), ValueError, ["'txt'", "text"]),
    ("lengths list", call(lengths=[6, 2, 4]), TypeError, ["lengths", "list", "torch.as_tensor"]),
    ("lengths floats", call(lengths=LENGTHS.float()), TypeError, ["lengths", "float32", "integers"]),
    ("lengths mask", call(lengths=torch.ones(3, dtype=torch.bool)), TypeError, ["lengths", "bool", "mask.sum(1)"]),
    ("lengths of too few", call(lengths=LENGTHS[:2]), ValueError, ["lengths", "(2,)", "3 samples"]),
    ("lengths of two dimensions", call(lengths=LENGTHS.view(3, 1)), ValueError, ["lengths", "(3, 1)", "(3,)"]),
    ("lengths too long", call(lengths=torch.tensor([7, 2, 4])), ValueError, ["lengths[0]", "7", "6 steps"]),
    ("lengths zero for all", call(lengths=torch.tensor([6, 0, 4])), ValueError, ["lengths[1]", "0", "mapping"]),
    ("lengths negative", call(lengths=torch.tensor([6, -1, 4])), ValueError, ["lengths[1]", "-1"]),
    ("lengths negative by name", call(lengths={"text": torch.tensor([6, -1, 4])}), ValueError, ["lengths[1]", "'text'", "-1"]),
    ("lengths number", call(lengths=6), TypeError, ["lengths", "int"]),
    ("lengths text", call(lengths="6"), TypeError, ["lengths", "str"]),
    (
        "one tensor of lengths for different steps",
        call(changed(audio=torch.zeros(3, 9, 4)), torch.tensor([6, 2, 4]), align="pool"),
        ValueError,
        ["lengths", "6 steps", "'audio'", "9 steps", "mapping"],
    ),
]
ENCODINGS = [
    ("encode returns a tensor", encoded(torch.zeros(3, 6, 5)), TypeError, ["encode()", "mapping", "Tensor"]),
    ("encode returns none", encoded(None), TypeError, ["encode()", "mapping", "NoneType"]),
    ("encode returns a tuple", encoded((torch.zeros(3, 6, 5),)), TypeError, ["encode()", "mapping", "tuple"]),
    ("encode returns nothing", encoded({}), ValueError, ["encod", "sources="]),
    (
        "encode returns other names",
        encoded({"a": torch.zeros(3, 6, 5), "b": torch.zeros(3, 6, 5)}),
        ValueError,
        ["'a'", "sources="],
    ),
    (
        "encode returns integers",
        encoded({"text": torch.zeros(3, 6, 5).long(), "audio": torch.zeros(3, 6, 5)}),
        TypeError,
        ["encode()", "'text'", "int64"],
    ),
    (
        "encode returns four dimensions",
        encoded({"text": torch.zeros(3, 6, 5, 2), "audio": torch.zeros(3, 6, 5)}),
        ValueError,
        ["encode()", "'text'", "(3, 6, 5, 2)", "(B, T, d)"],
    ),
    (
        "encode returns another batch",
        encoded({"text": torch.zeros(6, 3, 5), "audio": torch.zeros(6, 3, 5)}),
        ValueError,
        ["(3, 6, 7)", "(6, 3, 5)", "same batch size", "batch_first"],
    ),
    (
        "encode returns other steps",
        encoded({"text": torch.zeros(3, 4, 5), "audio": torch.zeros(3, 6, 5)}),
        ValueError,
        ["'text'", "4 steps", "6", "align="],
    ),
    (
        "encode lost a source",
        encoded({"text": torch.zeros(3, 6, 5)}, sources={"text": ["audio"]}),
        ValueError,
        ["audio", "text"],
    ),
    ("logits no mapping", lambda: latch(Logits(torch.zeros(1)))(INPUTS), TypeError, ["Logits", "{target: {source: tensor}}"]),
    (
        "logits of no mappings",
        lambda: latch(Logits({"text": torch.zeros(3, 6, 7)}))(INPUTS),
        TypeError,
        ["Logits", "{target: {source: tensor}}"],
    ),
    (
        "logits of another target",
        lambda: latch(Logits({"txt": {"audio": torch.zeros(3, 6, 7)}}))(INPUTS),
        ValueError,
        ["'txt'", "text"],
    ),
    (
        "logits of another size",
        lambda: latch(Logits({"text": {"audio": torch.zeros(3, 6, 3)}}))(INPUTS),
        ValueError,
        ["feedback", "'audio'", "'text'", "(3, 6, 3)", "(3, 6, 7)"],
    ),
    (
        "rule of another shape",
        call(combine=lambda f: f.mean((0, 1)), start="random"),
        ValueError,
        ["combine", "shape", "must return"],
    ),
    ("rule that returns none", call(combine=lambda f: None, start="random"), ValueError, ["combine", "NoneType"]),
    (
        "optimizer before the first call",
        lambda: torch.optim.Adam(TopDownLatch(NoLengths(SIZES)).parameters()),
        RuntimeError,
        ["example_inputs"],
    ),
    ("state before the first call", lambda: TopDownLatch(NoLengths(SIZES)).state_dict(), RuntimeError, ["example_inputs"]),
    (
        "layout of other dimensions",
        lambda: hooked(text=Site("text", "b d h w"))(text=INPUTS["text"], audio=INPUTS["audio"]),
        ValueError,
        ["'text'", "b d h w", "(3, 6, 5)"],
    ),
    (
        "a site in a loop",
        lambda: looped(text="cell")(text=INPUTS["text"]),
        ValueError,
        ["'text'", "'cell'", "more than once", "runs once"],
    ),
    (
        "a site that no pass runs",
        lambda: looped(text="unused")(text=INPUTS["text"]),
        ValueError,
        ["'text'", "'unused'", "not reached", "each pass runs"],
    ),
    ("a site of a nested tensor", nested, TypeError, ["nested tensor", "layers.0", "enable_nested_tensor=False"]),
    ("hooked path unknown", lambda: HookedBackbone(Chain(), {"text": "txt"}), ValueError, ["txt", "text"]),
    ("hooked of nothing", lambda: HookedBackbone(Chain(), {}), ValueError, ["encodings"]),
    ("hooked of a list", lambda: HookedBackbone(Chain(), ["text"]), TypeError, ["encodings=['text']", "mapping", "Site(path"]),
    ("hooked no module", lambda: HookedBackbone("model", {"a": "b"}), TypeError, ["str"]),
    (
        "callable no function",
        lambda: CallableBackbone(Chain(), encode=1, fuse=2),
        TypeError,
        ["encode=1", "function of (module, ...)"],
    ),
    ("callable no module", lambda: CallableBackbone(1, encode=len, fuse=len), TypeError, ["int"]),
]
ADAPTERS = [
    ("lstm of nothing", lambda: LSTMBackbone({}), ValueError, ["input_sizes is empty", "{'text': 300}"]),
    ("lstm of a list", lambda: LSTMBackbone([4, 5]), TypeError, ["LSTMBackbone", "list"]),
    ("lstm of a size of zero", lambda: LSTMBackbone({"text": 0, "audio": 2}), ValueError, ["'text'", "0"]),
    ("lstm hidden size", lambda: LSTMBackbone(SIZES, hidden_size=0), ValueError, ["hidden_size=0"]),
    ("lstm dropout", lambda: LSTMBackbone(SIZES, dropout=1.5), ValueError, ["dropout", "1.5"]),
    ("lstm pooling", lambda: LSTMBackbone(SIZES, pooling="mean"), ValueError, ["pooling='mean'", "last", "attention"]),
    (
        "lstm steps that differ",
        lambda: LSTMBackbone(SIZES, hidden_size=3)(changed(audio=torch.zeros(3, 5, 4))),
        ValueError,
        ["'audio'", "5", "6"],
    ),
    (
        "lstm features",
        lambda: LSTMBackbone(SIZES, hidden_size=3)(changed(audio=torch.zeros(3, 6, 5))),
        ValueError,
        ["'audio'", "5", "4"],
    ),
    (
        "lstm unknown name",
        lambda: LSTMBackbone(SIZES, hidden_size=3)({"sound": torch.zeros(3, 6, 4)}),
        ValueError,
        ["sound", "audio"],
    ),
    (
        "lstm vector",
        lambda: LSTMBackbone(SIZES, hidden_size=3)(changed(audio=torch.zeros(3, 4))),
        ValueError,
        ["'audio'", "(3, 4)"],
    ),
    ("mult of one", lambda: MulTBackbone({"text": 3}), ValueError, ["MulT", "two", "text"]),
    ("mult heads", lambda: MulTBackbone(SIZES, size=10, num_heads=3), ValueError, ["size=10", "num_heads=3"]),
    ("mult layers", lambda: MulTBackbone(SIZES, num_layers=0), ValueError, ["num_layers=0", "at least 1"]),
    ("mult kernel", lambda: MulTBackbone(SIZES, kernel_sizes={"txt": 3}), ValueError, ["txt", "text"]),
    ("mult dropout on", lambda: MulTBackbone(SIZES, dropout_on="values"), ValueError, ["dropout_on='values'", "keys"]),
    ("with inputs of one name", lambda: WithInputs(Toy(SIZES), "text"), TypeError, ["text", "list"]),
    ("read other inputs of text", lambda: read_other_inputs("text"), TypeError, ["text", "list"]),
    ("film of nothing", lambda: FiLM(nn.Linear(2, 2), SIZES), TypeError, ["Linear", "encode"]),
    ("reference of nothing", lambda: mmlatch_from_reference({}), ValueError, ["mmlatch AVTClassifier", "'classifier.weight'"]),
    ("reference of another model", lambda: mmlatch_from_reference(nn.Linear(2, 3).state_dict()), ValueError, ["weight"]),
    (
        "mult reference of another model",
        lambda: mult_from_reference({}, num_heads=2, causal=True),
        ValueError,
        ["MULTModel", "'out_layer.weight'"],
    ),
]
SAVING = [
    (
        "load from nowhere",
        lambda: TopDownLatch.from_pretrained(Toy(SIZES), "nowhere"),
        FileNotFoundError,
        ["nowhere", "topdown.json"],
    ),
    ("load from a file", lambda: TopDownLatch.from_pretrained(Toy(SIZES), file("afile")), (ValueError, OSError), ["afile"]),
    ("save unknown submodule", lambda: latch().save_pretrained("saved", also=["heads"]), ValueError, ["'heads'", "head"]),
    ("save unbuilt", lambda: TopDownLatch(NoLengths(SIZES)).save_pretrained("saved"), RuntimeError, ["example_inputs"]),
    ("load into other sizes", lambda: saved(backbone=Toy({"text": 9, "audio": 4})), ValueError, ["text", "9", "7"]),
    ("load into other names", lambda: saved(backbone=Toy({"words": 7, "audio": 4})), ValueError, ["words", "text"]),
    ("load a future format", lambda: saved(lambda c: c.update(format=99)), ValueError, ["topdown.json", "99"]),
    ("load unknown options", lambda: saved(lambda c: c["options"].update(nothing=1)), ValueError, ["topdown.json", "nothing"]),
    ("load without options", lambda: saved(lambda c: c.pop("options")), ValueError, ["topdown.json", "options"]),
    ("load_model from nowhere", lambda: load_model("nowhere.pt"), DataError, ["nowhere.pt"]),
    ("load_model of text", lambda: load_model(file("a.pt", "hello")), DataError, ["a.pt"]),
]
DATA = [
    ("arrays of nothing", lambda: SequenceDataset.from_arrays({}), DataError, ["modalit"]),
    ("arrays in a list", lambda: SequenceDataset.from_arrays([np.zeros((3, 2))]), (TypeError, DataError), ["list", "mapping"]),
    ("arrays of other counts", lambda: data(text=np.zeros((11, 3, 2))), DataError, ["text", "11", "12"]),
    ("labels of other counts", lambda: data(labels=np.zeros(11)), DataError, ["labels", "11", "12"]),
    ("labels of text and numbers", lambda: data(labels=["a"] * 11 + [2]), DataError, ["labels", "words", "2"]),
    ("labels of three dimensions", lambda: data(labels=np.zeros((12, 2, 2))), DataError, ["labels", "(12, 2, 2)"]),
    ("labels infinite", lambda: data(labels=np.full(12, np.inf)), DataError, ["labels"]),
    ("values infinite", lambda: data(text=np.full((12, 3, 2), np.inf)), DataError, ["'text'", "feature 0", "never finite"]),
    ("values of text", lambda: data(text=np.full((12, 3, 2), "a")), DataError, ["text"]),
    ("values of objects", lambda: data(text=np.full((12, 3, 2), None)), DataError, ["text"]),
    ("values of four dimensions", lambda: data(text=np.zeros((12, 3, 2, 2))), DataError, ["text", "(12, 3, 2, 2)"]),
    ("features that differ", lambda: data(text=[np.zeros((2, 2)), *[np.zeros((2, 3))] * 11]), DataError, ["text", "2", "3"]),
    ("no features", lambda: data(text=np.zeros((12, 3, 0))), DataError, ["text"]),
    ("no samples", lambda: data(0), DataError, ["sample"]),
    (
        "a sample without anything",
        lambda: SequenceDataset.from_arrays({"a": [np.zeros((2, 2)), None]}),
        DataError,
        ["sample 1", "no steps", "remove them"],
    ),
    ("ids of other counts", lambda: SequenceDataset.from_arrays(arrays(), ids=["a"]), DataError, ["ids", "1", "12"]),
    (
        "lengths beyond",
        lambda: SequenceDataset.from_arrays(arrays(), lengths=np.full(12, 4)),
        DataError,
        ["length", "4", "3"],
    ),
    (
        "lengths of a stranger",
        lambda: SequenceDataset.from_arrays(arrays(), lengths={"adio": np.full(12, 3)}),
        DataError,
        ["adio", "audio"],
    ),
    ("lengths negative", lambda: SequenceDataset.from_arrays(arrays(), lengths=np.full(12, -1)), DataError, ["length", "-1"]),
    ("lengths that are no numbers", lambda: SequenceDataset.from_arrays(arrays(), lengths=["3"] * 12), DataError, ["lengths"]),
    ("corrupt otherwise", lambda: data().corrupt("blur", 0.1), DataError, ["blur", "noise", "missing"]),
    ("corrupt too much", lambda: data().corrupt("steps", 1.5), DataError, ["1.5", "steps"]),
    ("corrupt a stranger", lambda: data().corrupt("noise", 0.1, modalities=["x"]), DataError, ["'x'", "audio"]),
    ("corrupt one name", lambda: data().corrupt("noise", 0.1, modalities="audio"), DataError, ["modalities='audio'", "list"]),
    ("choose a stranger", lambda: data().choose(["x"]), DataError, ["'x'", "audio"]),
    ("choose nothing", lambda: data().choose([]), DataError, ["nothing to choose", "audio"]),
    ("batch beyond", lambda: data().batch([12]), (DataError, IndexError), ["12"]),
    ("batch of none", lambda: data().batch([]), IndexError, ["at least one"]),
    ("subset beyond", lambda: data().subset([12]), (DataError, IndexError), ["12"]),
    ("subset of none", lambda: data().subset([]), IndexError, ["at least one"]),
    ("relabeled of others", lambda: data().relabeled(torch.zeros(3)), DataError, ["labels", "3", "12"]),
    ("loader of no batch", lambda: data_loader(data(), 0), ValueError, ["batch_size", "0"]),
    ("loader of half a batch", lambda: data_loader(data(), 2.5), TypeError, ["batch_size", "2.5"]),
    ("frames without id", lambda: frames(audio={"x": [1.0]}), DataError, ["audio", "id"]),
    ("frames of text", lambda: frames(audio={"id": ["a", "b"], "x": ["p", "q"]}), DataError, ["audio", "x"]),
    ("frames of a stranger", lambda: frames(labels={"id": ["a"], "mood": [1.0]}), DataError, ["b"]),
    ("frames label unknown", lambda: frames(label="mod"), DataError, ["mod", "mood"]),
    (
        "frames split unknown",
        lambda: frames(labels={"id": ["a", "b"], "split": ["train", "train"], "y": [1.0, 2.0]}, split="tst"),
        DataError,
        ["tst", "train"],
    ),
    ("frames no frame", lambda: SequenceDataset.from_frames({"audio": [1, 2]}), (TypeError, DataError), ["audio", "list"]),
]
FILES = [
    ("nowhere", lambda: load_splits("nowhere"), DataError, ["nowhere"]),
    ("empty file", lambda: load_splits(file("a.pkl")), DataError, ["a.pkl"]),
    ("text file", lambda: load_splits(file("a.txt", "hello")), DataError, ["a.txt"]),
    ("broken archive", lambda: load_splits(file("a.npz", b"PK\x03\x04broken")), DataError, ["a.npz"]),
    ("broken HDF5", lambda: load_splits(file("a.hdf5", b"\x89HDF\r\n\x1a\nbroken")), DataError, ["a.hdf5"]),
    ("empty folder", lambda: (tables().joinpath("audio.csv").unlink(), load_splits("data")), DataError, ["data"]),
    ("archive of one split", lambda: load_splits(npz(audio=np.zeros((3, 2)))), DataError, ["mine.npz", "audio"]),
    (
        "archive of a stranger",
        lambda: load_splits(npz(**{"dev.audio": np.zeros((3, 2))}), modalities=["text"]),
        DataError,
        ["mine.npz", "text"],
    ),
    ("archive of objects", lambda: load_splits(npz(**{"train.audio": np.array([None, "a"], object)})), DataError, ["mine.npz"]),
    (
        "archive of counts",
        lambda: load_splits(npz(**{"train.audio": np.zeros((3, 2)), "train.labels": np.zeros(2)})),
        DataError,
        ["mine.npz", "3", "2"],
    ),
    ("table without id", lambda: load_splits(tables(audio="x\n1\n")), DataError, ["audio.csv", "id"]),
    (
        "table of text",
        lambda: load_splits(tables(audio="id,x\na,1\nb,no\nc,3\n")),
        DataError,
        ["audio.csv", "line 3", "x", "no"],
    ),
    ("table without rows", lambda: load_splits(tables(audio="id,x\n")), DataError, ["audio.csv"]),
    ("table without features", lambda: load_splits(tables(audio="id\na\n")), DataError, ["audio.csv"]),
    (
        "table of dates",
        lambda: load_splits(tables(audio="id,x\na,2020-01-01\nb,2020-01-02\nc,2020-01-03\n")),
        DataError,
        ["audio.csv", "x"],
    ),
    (
        "labels twice",
        lambda: load_splits(tables(labels="id,split,y\na,train,1\na,train,2\nb,valid,1\nc,test,1\n")),
        DataError,
        ["labels.csv", "a"],
    ),
    ("label unknown", lambda: load_splits(tables(), label="z"), DataError, ["z", "y"]),
    ("features unknown", lambda: load_splits(tables(), features={"audio": ["z"]}), DataError, ["z", "x"]),
    ("modality unknown", lambda: load_splits(tables(), modalities=["txt"]), DataError, ["txt", "audio"]),
    (
        "shares of too much",
        lambda: load_splits(tables(labels="id,y\na,1\nb,2\nc,3\n"), split=[0.9, 0.9, 0.9]),
        DataError,
        ["0.9", "1"],
    ),
    ("shares of two", lambda: load_splits(tables(labels="id,y\na,1\nb,2\nc,3\n"), split=[0.5, 0.5]), DataError, ["split"]),
    (
        "folds nowhere",
        lambda: load_splits(tables(), folds="nowhere.json"),
        DataError,
        ["folder of tables", "folds=", "leave it out"],
    ),
    (
        "embeddings nowhere",
        lambda: load_splits(tables(), embeddings="nowhere.txt"),
        DataError,
        ["folder of tables", "embeddings=", "leave it out"],
    ),
]
TRAINING = [
    ("loss of another name", lambda: fit(model(), data(), data(), loss="mse"), ValueError, ["loss='mse'", "mae"]),
    ("learning rate negative", lambda: fit(model(), data(), data(), learning_rate=-1.0), ValueError, ["learning_rate", "-1"]),
    ("epochs zero", lambda: fit(model(), data(), data(), epochs=0), ValueError, ["epochs", "0"]),
    ("batch size zero", lambda: fit(model(), data(), data(), batch_size=0), ValueError, ["batch_size", "0"]),
    ("patience negative", lambda: fit(model(), data(), data(), patience=-1), ValueError, ["patience", "-1"]),
    ("decay of two", lambda: fit(model(), data(), data(), decay=2.0), ValueError, ["decay", "2"]),
    ("gradient clip negative", lambda: fit(model(), data(), data(), gradient_clip=-1.0), ValueError, ["gradient_clip", "-1"]),
    ("seed of text", lambda: fit(model(), data(), data(), seed="a"), (TypeError, ValueError), ["seed", "a"]),
    ("workers negative", lambda: fit(model(), data(), data(), workers=-1), ValueError, ["workers", "-1"]),
    ("device unknown", lambda: fit(model(), data(), data(), device="gpu"), (ValueError, DataError), ["gpu"]),
    ("option unknown", lambda: fit(model(), data(), data(), lr=0.1), TypeError, ["lr"]),
    ("no labels", lambda: fit(model(), SequenceDataset.from_arrays(arrays()), data()), (DataError, ValueError), ["labels"]),
    (
        "classes in a regression",
        lambda: fit(model(), data(labels=CLASSES), data(labels=CLASSES)),
        (DataError, ValueError),
        ["labels", "mae"],
    ),
    (
        "numbers in a classification",
        lambda: fit(model(3), data(), data(), loss="cross_entropy"),
        (DataError, ValueError),
        ["labels", "cross_entropy"],
    ),
    (
        "too few classes",
        lambda: fit(model(2), data(labels=CLASSES), data(labels=CLASSES), loss="cross_entropy"),
        (DataError, ValueError),
        ["2", "class"],
    ),
    (
        "output of another shape",
        lambda: fit(model(2), data(), data()),
        (DataError, ValueError),
        ["(12, 2)", "(12,)", "output_size=1"],
    ),
    (
        "weights without classes",
        lambda: fit(model(), data(), data(), class_weight="balanced"),
        ValueError,
        ["class_weight", "cross_entropy"],
    ),
    (
        "weights of another word",
        lambda: fit(model(3), data(labels=CLASSES), data(labels=CLASSES), loss="cross_entropy", class_weight="even"),
        ValueError,
        ["class_weight", "even", "balanced"],
    ),
    (
        "rate of feedback without a latch",
        lambda: fit(model(), data(), data(), feedback_learning_rate=0.1),
        ValueError,
        ["feedback_learning_rate", "latch"],
    ),
    (
        "model of other inputs",
        lambda: fit(LSTMBackbone({"x": 2}, hidden_size=3), data(), data()),
        (DataError, ValueError),
        ["audio", "x"],
    ),
    ("predict with nothing", lambda: predict(nn.Linear(2, 2), data()), (TypeError, DataError), ["Linear"]),
    ("predict in batches of none", lambda: predict(model(), data(), batch_size=0), ValueError, ["batch_size", "0"]),
    ("metrics of other counts", lambda: classification_metrics(np.zeros((3, 2)), np.zeros(4, int)), ValueError, ["3", "4"]),
    ("metrics of nothing", lambda: sentiment_metrics(np.zeros(0), np.zeros(0)), ValueError, ["no"]),
    ("metrics of other shapes", lambda: sentiment_metrics(np.zeros((3, 2)), np.zeros(3)), ValueError, ["(3, 2)"]),
    ("compare without test", lambda: compare(model, {"train": data(), "valid": data()}), DataError, ["test"]),
    ("compare of one word", lambda: compare(model, PARTS, feedback="linear"), ValueError, ["feedback='linear'", "list"]),
    (
        "compare of another kind",
        lambda: compare(lambda s: model(), PARTS, feedback=["linaer"], epochs=1),
        ValueError,
        ["linaer", "linear"],
    ),
    ("compare without seeds", lambda: compare(model, PARTS, seeds=0), ValueError, ["seeds=0"]),
    (
        "compare with another option",
        lambda: compare(model, PARTS, learnign_rate=0.1),
        TypeError,
        ["learnign_rate", "learning_rate"],
    ),
    ("compare with a seed", lambda: compare(model, PARTS, seed=3), ValueError, ["seed"]),
]
PICTURES = [
    ("profile of nothing", lambda: plot_profile({}), ValueError, ["profile", "masks"]),
    ("profile of names", lambda: plot_profile(profile(), class_names=["a"]), ValueError, ["class_names has 1", "must have 2"]),
    (
        "profile of feature names",
        lambda: plot_profile(profile(), feature_names={"audio": ["a"]}),
        ValueError,
        ["feature_names", "1", "4"],
    ),
    ("sample beyond", lambda: plot_sample(trace(), 2), ValueError, ["sample=2", "2"]),
    ("sample of no trace", lambda: plot_sample(masks(), 0), ValueError, ["trace", "dict"]),
    ("sample without masks", lambda: plot_sample(LatchTrace(None, {}, {}, {}), 0), ValueError, ["mask"]),
    ("page of titles", lambda: write_page("p.html", trace(), titles=["a"]), ValueError, ["titles has 1", "must have 2"]),
    (
        "profile of a stranger",
        lambda: mask_profile([(masks(), torch.tensor([0, 5]), None)], classes=[0, 1]),
        ValueError,
        ["5", "(0, 1)"],
    ),
    ("profile of a class twice", lambda: mask_profile([], classes=[0, 0]), ValueError, ["(0, 0)", "twice"]),
    (
        "profile of other counts",
        lambda: mask_profile([(masks(), torch.tensor([0]), None)], classes=[0, 1]),
        ValueError,
        ["labels", "(1,)", "2"],
    ),
    ("explain nothing", lambda: explain(trace(), top=0), ValueError, ["top=0", "at least 1"]),
    ("explain lengths of a stranger", lambda: explain(trace(), {"x": torch.tensor([1, 1])}), ValueError, ["'x'", "audio"]),
    (
        "padded of numbers",
        lambda: encoded({"text": Padded(torch.zeros(3, 6, 5), [1]), "audio": torch.zeros(3, 6, 5)})(),
        TypeError,
        ["lengths", "list"],
    ),
]
CALLS = [*OPTIONS, *BACKBONES, *INPUT, *ENCODINGS, *ADAPTERS, *SAVING, *DATA, *FILES, *TRAINING, *PICTURES]

# Of the command line: each ends with status 2, one line with these words, and writes nothing.
COMMANDS = [
    ("train", ["error", "DATA"]),
    ("train nowhere", ["nowhere"]),
    ("train data --feedback lstms", ["--feedback", "lstms", "lstm"]),
    ("train data --epochs 0", ["--epochs", "0"]),
    ("train data --epochs many", ["--epochs", "many"]),
    ("train data --batch-size -1", ["--batch-size", "-1"]),
    ("train data --learning-rate 2", ["--learning-rate", "2"]),
    ("train data --seed -1", ["--seed", "-1"]),
    ("train data --optimizer sgd", ["--optimizer"]),
    ("train data --device tpu", ["tpu"]),
    ("train data --corrupt blur:0.1", ["blur", "noise"]),
    ("train data --corrupt noise", ["noise", "SEVERITY"]),
    ("train data --label z", ["'z'", "y"]),
    ("train data --modalities txt", ["txt", "audio"]),
    ("train data --split 0.5 0.5", ["--split"]),
    ("train data --config nowhere.json", ["nowhere.json"]),
    ("train data --config bad.json", ["bad.json", "'feedbak'", "feedback"]),
    ("train data --columns audio", ["--columns", "audio"]),
    ("train data --folds nowhere.json", ["folds"]),
    ("predict nowhere.pt data --out p.csv", ["nowhere.pt"]),
    ("predict text.pt data --out p.csv", ["text.pt"]),
    ("predict text.pt data", ["--out"]),
    ("predict text.pt data --out p.csv --samples 0", ["--samples", "0"]),
    ("evaluate text.pt", ["DATA"]),
    ("evaluate nowhere.pt data", ["nowhere.pt"]),
    ("compare nowhere", ["nowhere"]),
    ("compare data --seeds 0", ["--seeds", "0"]),
    ("compare data --jobs 0", ["--jobs", "0"]),
    ("compare data --feedback lstms", ["lstms", "lstm"]),
    ("compare data --resume", ["--resume", "--out"]),
    ("compare --from nowhere", ["nowhere"]),
    ("compare", ["name the data", "--from"]),
    ("prepare nowhere store", ["nowhere"]),
    ("prepare data", ["DEST"]),
    ("prepare data data", ["data"]),
    ("prepare --check data", ["data", "store"]),
    ("trian data", ["trian", "train"]),
    ("--nothing", ["error"]),
]
