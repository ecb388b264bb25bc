"""Rows that say why feedback helps or not, on planted data in which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from topdown import Site, TopDownLatch
from topdown.adapters import FiLM, HookedBackbone, LSTMBackbone, WithInputs, read_other_inputs
from topdown.comparison import Metric, compare
from topdown.comparison.diagnosis import diagnosis
from topdown.comparison.differences import Runs, compare_rows
from topdown.comparison.report import table
from topdown.datasets import DataError
from topdown.experiments.planted import planted
from topdown.training import fit

LENGTHS = {"a": torch.tensor([4, 2]), "b": torch.tensor([4, 3])}


class Steps(nn.Module):
    """Two linear layers per step, averaged over time, and a linear head on both modalities."""

    def __init__(self, sizes, size=8):
        super().__init__()
        make = lambda n: nn.Sequential(nn.Linear(n, size), nn.ReLU(), nn.Linear(size, size))  # noqa: E731
        self.encoders = nn.ModuleDict({name: make(n) for name, n in sizes.items()})
        self.head = nn.Linear(size * len(sizes), 2)

    def encode(self, inputs):
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}

    def fuse(self, encodings):
        return self.head(torch.cat([r.mean(1) for r in encodings.values()], -1))

    def forward(self, inputs, lengths=None):
        return self.fuse(self.encode(inputs))


SIZES = {"train": 160, "valid": 60, "test": 300}


def test_a_comparison_says_why_feedback_helps():
    """Relevance changes at each step; `benchmarks/known_answers.py` has the other world, too."""
    splits = {name: planted(count, "step", seed=i).data for i, (name, count) in enumerate(SIZES.items())}
    options = {"seeds": 2, "alone": False, "epochs": 10, "learning_rate": 0.03, "batch_size": 20}
    found = compare(Steps, splits, feedback=["linear"], diagnose=True, **options)
    text = table(found)
    assert found.verdict.startswith("Feedback helps here: 'linear' raises acc")
    assert "'fusion by FiLM' against none: better by" in text
    assert "improve the fusion first" not in text
    assert "; relevance changes within samples." in text
    assert found.runs.names()[-3:] == ["fusion by FiLM", "linear, averaged over time", "linear, reads inputs"]
    assert found.runs.kinds == ["static", "linear"]  # the others are controls


def fake(scores):
    """Runs with made-up errors: {row: mean errors of three seeds}, the same for all test samples."""
    rows = [(row, s, value) for row, values in scores.items() for s, value in enumerate(values)]
    records = [{"row": row, "gaps": False, "seed": s, "test": value} for row, s, value in rows]
    outputs = [np.full(50, value, np.float32) for _, _, value in rows]
    metric = Metric("mae", lambda outputs, y: float((outputs - y).abs().mean()), True)
    return Runs(records, outputs, torch.zeros(50), metric, ("linear",), ())


@pytest.mark.parametrize(
    ("film", "averaged", "inputs", "expected"),
    [
        (0.5, 0.4, 0.6, ["improve the fusion first", "no sign that relevance changes", "no sign that encodings hide"]),
        (
            1.0,
            0.9,
            0.4,
            ["no sign that the fusion is", "relevance changes within samples", "hide what it needs: let"],
        ),
        (1.5, 0.49, 0.2, ["no sign that the fusion is", "no sign that relevance changes", "let it read inputs"]),
        (
            1.0,
            0.503,
            0.497,
            ["no sign that the fusion is", "cannot tell whether relevance changes", "cannot tell whether encodings hide"],
        ),
    ],
)
def test_sentences_follow_from_the_differences(film, averaged, inputs, expected):
    about = {"none": 1.0, "linear": 0.5, "fusion by FiLM": film, "linear, averaged over time": averaged}
    scores = {row: [mean, mean + 0.01, mean - 0.01] for row, mean in (about | {"linear, reads inputs": inputs}).items()}
    scores["linear"] = [0.505, 0.50, 0.495]
    runs = fake(scores)
    lines = diagnosis(runs, compare_rows(runs))
    assert len(lines) == 3
    for line, part in zip(lines, expected, strict=True):
        assert part in line


def test_rows_that_cannot_be_are_left_out():
    splits = {name: planted(20, "step", seed=i).data.choose(["a"]) for i, name in enumerate(SIZES)}
    found = compare(Steps, splits, feedback=["linear"], diagnose=True, seeds=2, epochs=1)
    assert "fusion by FiLM" in found.left_out
    assert "FiLM needs two encodings at least" in found.left_out["fusion by FiLM"]


def inputs():
    torch.manual_seed(0)
    return {"a": torch.randn(2, 4, 3), "b": torch.randn(2, 4, 2)}


def test_feedback_reads_inputs_step_by_step():
    """f_a = 2 sigmoid(W b + c), by hand."""
    backbone = LSTMBackbone({"a": 3, "b": 2}, hidden_size=4).eval()
    latch = TopDownLatch(
        WithInputs(backbone, only=True), "linear", sources=read_other_inputs(["a", "b"]), start="random"
    ).eval()
    x = inputs()
    layer = latch.feedback["a"]["input b"]
    torch.testing.assert_close(latch.masks(x, LENGTHS["a"])["a"][0], torch.sigmoid(layer(x["b"]))[0])
    masked = {k: x[k] * latch.masks(x)[k] for k in x}
    torch.testing.assert_close(latch(x), backbone(masked))


def test_inputs_alone_cost_one_pass():
    calls = []
    backbone = LSTMBackbone({"a": 3, "b": 2}, hidden_size=4)
    backbone.encoders["a"].register_forward_hook(lambda *_: calls.append(1))
    for only, expected in ((True, 1), (False, 2)):
        latch = TopDownLatch(WithInputs(backbone, only=only), "linear", sources=read_other_inputs(["a", "b"]))
        calls.clear()
        latch(inputs())
        assert len(calls) == expected


def test_inputs_and_encodings_are_read_together_and_padding_does_not_matter():
    backbone = LSTMBackbone({"a": 3, "b": 2}, hidden_size=4)
    sources = {"a": ["b", "input b"], "b": ["a"]}
    latch = TopDownLatch(WithInputs(backbone), "linear", sources=sources, start="random").eval()
    assert latch.feedback["a"]["b"].in_features == 4
    assert latch.feedback["a"]["input b"].in_features == 2
    x, lengths = inputs(), torch.tensor([4, 2])
    padded = {k: v.clone() for k, v in x.items()}
    for v in padded.values():
        v[1, 2:] = 1e3
    torch.testing.assert_close(latch(x, lengths), latch(padded, lengths))


def test_film_scales_and_shifts():
    backbone = Steps({"a": 3, "b": 2})
    film = FiLM(backbone, {"a": 8, "b": 8})
    x = inputs()
    assert torch.equal(film(x), backbone(x))
    nn.init.normal_(film.maps["a"].weight)
    nn.init.normal_(film.maps["a"].bias)
    r = backbone.encode(x)
    gamma, beta = film.maps["a"](r["b"].mean(1)).unsqueeze(1).split(8, -1)
    torch.testing.assert_close(film.encode(x)["a"], (1 + gamma) * r["a"] + beta)
    torch.testing.assert_close(film.encode(x)["b"], r["b"])
    with pytest.raises(ValueError, match="FiLM needs two encodings at least, got"):
        FiLM(backbone, {"a": 8})


def test_film_averages_valid_steps_alone():
    film = FiLM(LSTMBackbone({"a": 3, "b": 2}, hidden_size=4), {"a": 4, "b": 4}).eval()
    nn.init.normal_(film.maps["a"].weight)
    x = inputs()
    padded = {k: v.clone() for k, v in x.items()}
    for v in padded.values():
        v[1, 2:] = 1e3
    lengths = torch.tensor([4, 2])
    torch.testing.assert_close(film(x, lengths), film(padded, lengths))


def test_feedback_may_have_a_rate_of_its_own():
    data = planted(40, "step").data
    example = data.batch([0, 1]).inputs
    rates = {}

    class Watched(torch.optim.Adam):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            rates.update({id(p): group["lr"] for group in self.param_groups for p in group["params"]})

    torch.manual_seed(0)
    latch = TopDownLatch(Steps(data.sizes), "linear", example_inputs=example)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "Adam", Watched)
        fit(latch, data, data, loss="cross_entropy", learning_rate=0.001, feedback_learning_rate=0.01, epochs=1)
    assert {rates[id(p)] for p in latch.feedback.parameters()} == {0.01}
    assert {rates[id(p)] for p in latch.backbone.parameters()} == {0.001}
    with pytest.raises(DataError, match="feedback_learning_rate is for Adam"):
        fit(latch, data, data, loss="cross_entropy", feedback_learning_rate=0.01, optimizer=torch.optim.Adam)


def test_a_hooked_model_reads_its_inputs_at_a_site():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, a, b):
            return self.head((self.a(a) + self.b(b)).mean(1))

    encodings = {"told": Site("", at="input", index="b")}
    latch = TopDownLatch(HookedBackbone(Model(), encodings), "linear", sources={"a": ["told"]}, start="random")
    x = inputs()
    torch.testing.assert_close(latch.masks(x["a"], x["b"])["a"], torch.sigmoid(latch.feedback["a"]["told"](x["b"])))
