"""`compare` on data whose answer is known, its bookkeeping, its report, and its command."""

import csv
import functools
import importlib.util
import json
import os
import re
import signal
import sys
import threading
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from torch import nn

from topdown import StaticFeedback, TopDownLatch
from topdown.adapters import CallableBackbone, HookedBackbone, LSTMBackbone
from topdown.cli.main import main
from topdown.comparison import Metric, compare, read_comparison, write_report
from topdown.comparison.compare import Comparison
from topdown.comparison.differences import Runs, collapsed, compare_rows, difference_of, pairs_of
from topdown.comparison.linear import fit_linear, pooled_features
from topdown.comparison.parallel import run_all
from topdown.comparison.pictures import draw_curves, draw_differences
from topdown.comparison.report import table
from topdown.comparison.robustness import robustness, robustness_rows
from topdown.comparison.settings import metric_of
from topdown.comparison.variants import (
    LINEAR,
    NONE,
    STATIC,
    WIDENED,
    Plan,
    Row,
    count_parameters,
    find_width,
    make_model,
    mask_spread,
    run_row,
)
from topdown.comparison.verdict import verdict
from topdown.datasets import DataError, SequenceDataset
from topdown.training.fingerprints import named
from topdown.training.random_state import seeded
from topdown.training.tasks import Task

pytest.importorskip("scipy.stats")


def load_known():
    path = Path(__file__).parents[2] / "benchmarks" / "known_answers.py"
    spec = importlib.util.spec_from_file_location("known_answers", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


known = load_known()
ODD = Metric("odd", lambda outputs, labels: float("nan"), True)
TRAINING = {"learning_rate": 0.01, "batch_size": 50}


@pytest.mark.uncovered
def test_planted_structure_is_found():
    data = known.splits(0, (400, 120, 300))
    found = compare(
        known.build, data, widen=known.widen, feedback=["static", "linear"], seeds=3, alone=False, epochs=14, **TRAINING
    )
    assert found.verdict.startswith("Feedback helps here: 'linear' raises acc by 0.2")
    assert "and is better than a model without feedback of as many parameters and a static mask, too" in found.verdict
    assert found.compared["linear"].p < 0.001
    assert found.compared["linear"].difference.low > 0.1
    assert found.compared["static"].p > 0.05
    assert found.compared[WIDENED].p > 0.05
    assert not collapsed(found.runs)


@pytest.mark.uncovered
def test_nothing_is_found_in_shuffled_labels():
    data = known.shuffled(known.splits(1, (200, 80, 200)), 1)
    found = compare(known.build, data, feedback=["linear"], seeds=3, alone=False, epochs=6, **TRAINING)
    assert found.verdict.startswith("No evidence that feedback helps here")


def small(count=24, seed=0, regression=True):
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 5, count)
    y = rng.normal(size=count)
    inputs = {name: [rng.normal(size=(n, 2)) + value for n, value in zip(steps, y, strict=True)] for name in "ab"}
    return SequenceDataset.from_arrays(inputs, y if regression else (y > 0).astype(int))


SPLITS = {"train": small(), "valid": small(12, 1), "test": small(14, 2)}


def tiny(sizes, factor=1.0):
    return LSTMBackbone(sizes, hidden_size=round(3 * factor))


def run(**options):
    options = {"feedback": ["static", "linear"], "widen": tiny, "seeds": 2, "epochs": 2, **options}
    return compare(tiny, options.pop("splits", SPLITS), **options)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare") / "out"
    out.mkdir()
    found = run(out=out, robust=True, gaps=True)
    write_report(found, out)
    return out, found


def test_rows_and_runs(done):
    _, found = done
    assert found.runs.names() == [LINEAR, "a alone", "b alone", NONE, WIDENED, "static", "linear"]
    assert found.runs.kinds == ["static", "linear"]
    pairs = [(r["row"], r["gaps"], r["seed"]) for r in found.runs.records]
    with_gaps = [(row, True, seed) for seed in (0, 1) for row in (NONE, "static", "linear")]
    assert len(set(pairs)) == len(pairs) == 1 + 2 * 6 + 6
    assert set(with_gaps) <= set(pairs)


def test_seeds_may_be_named(done):
    first = {(r["row"], r["seed"]): r["test"] for r in done[1].runs.records if not r["gaps"]}
    again = run(seeds=np.array([1]), alone=False).runs.records
    assert {r["seed"] for r in again} == {1}
    assert all(r["test"] == first[r["row"], 1] for r in again if r["row"] != LINEAR)


def test_a_row_does_what_fit_and_predict_do():
    """Same seeds, batches, backbone and dropout in every row: the record is that of the same training by hand."""
    plan = Plan(tiny, tiny, SPLITS, None, "mae", metric_of(Task("regression", 1)), {"epochs": 3}, False)
    for row in (Row(NONE), Row("linear", latch={"feedback": "linear"})):
        model = make_model(plan, row, 4)
        torch.manual_seed(4)
        expected = tiny(SPLITS["train"].sizes).state_dict()
        own = {k.removeprefix("backbone."): v for k, v in model.state_dict().items() if row.latch is None or "backbone." in k}
        assert all(torch.equal(own[k], v) for k, v in expected.items())
        record, outputs = run_row(plan, row, 4)
        again, same = run_row(plan, row, 4)
        assert np.array_equal(outputs, same)
        assert record["test"] == pytest.approx(np.abs(outputs.squeeze(1) - SPLITS["test"].labels.numpy()).mean(), rel=1e-5)
        assert record["best_test_epoch"] <= record["test"] + 1e-6
        assert {k: v for k, v in record.items() if k != "seconds"} == {k: v for k, v in again.items() if k != "seconds"}
    other, _ = run_row(plan, Row(NONE), 5)
    assert other["test"] != record["test"]


def test_dropout_of_a_step_is_the_same_in_all_rows(monkeypatch):
    """Whatever a row draws in a step, the next one begins with the same random numbers."""
    plan = Plan(tiny, None, SPLITS, None, "mae", metric_of(Task("regression", 1)), {"epochs": 2, "batch_size": 8}, False)
    begins = []

    def recording(sizes):
        model = tiny(sizes)
        model.encoders["a"].register_forward_pre_hook(
            lambda *_: begins[-1].append(torch.get_rng_state()) if model.training else None
        )
        return model

    for row in (Row(NONE), Row("linear", latch={"feedback": "linear"})):
        begins.append([])
        run_row(plan._replace(build=recording), row, 0)
    plain, latched = begins
    firsts, seconds = plain, latched[::2]  # first and second pass
    assert len(firsts) == len(seconds) == 2 * 3
    assert all(torch.equal(a, b) for a, b in zip(firsts[1:], seconds[1:], strict=True))


def test_the_widened_model_has_as_many_parameters_as_the_largest_latch(done):
    _, found = done
    sizes = {r["row"]: r["parameters"] for r in found.runs.records}
    assert sizes[NONE] < sizes["static"] < sizes["linear"] <= sizes[WIDENED]


@pytest.mark.parametrize("more", [1.01, 1.5, 4.0])
def test_the_factor_of_a_wider_model_is_the_smallest(more):
    def wide(sizes, factor):
        return LSTMBackbone(sizes, hidden_size=round(40 * factor))

    plan = Plan(wide, wide, SPLITS, None, "mae", metric_of(Task("regression", 1)), {}, False)
    sizes = SPLITS["train"].sizes
    wanted = int(more * count_parameters(wide(sizes, 1.0)))
    factor = find_width(plan, wanted)
    assert (
        count_parameters(wide(sizes, factor))
        >= wanted
        > count_parameters(LSTMBackbone(sizes, hidden_size=round(40 * factor) - 1))
    )


def test_differences_are_paired_and_signed(done):
    _, found = done
    runs = found.runs
    by = {(r["row"], r["seed"]): r["test"] for r in runs.records if not r["gaps"]}
    for row in ("linear", "static", "a alone"):
        expected = np.mean([by[NONE, seed] - by[row, seed] for seed in (0, 1)])  # less error is better
        assert found.compared[row].difference.mean == pytest.approx(expected)
    assert found.compared[LINEAR].difference.mean == pytest.approx(np.mean([by[NONE, s] - by[LINEAR, 0] for s in (0, 1)]))
    assert all(found.compared[row].p == found.compared[row].difference.p for row in ("static", "linear"))  # one kind, a control


def test_runs_that_are_done_are_not_done_again(done, tmp_path, monkeypatch):
    _, expected = done
    run(out=tmp_path / "x", seeds=1, robust=True)
    trained, said = [], []

    def recording(plan, row, seed):
        trained.append((row.name, seed))
        return run_row(plan, row, seed)

    monkeypatch.setattr(sys.modules["topdown.comparison.parallel"], "run_row", recording)
    found = run(out=tmp_path / "x", resume=True, robust=True, feedback=["static", "linear", "shared"], say=said.append)
    assert said[0] == "7 of 15 runs are there already"  # of the same width, since width goes by whole units
    of_seed_1 = [(row, 1) for row in ("a alone", "b alone", NONE, WIDENED, "static", "linear", "shared")]
    assert sorted(trained) == sorted([("shared", 0), *of_seed_1])
    assert "left: " in said[1]
    for row in ("static", "linear", NONE):
        one, two = ([r["test"] for r in c.runs.records if r["row"] == row and not r["gaps"]] for c in (found, expected))
        assert one == two
    trained.clear()
    run(out=tmp_path / "x", resume=True, seeds=2)  # fewer, and not tested on data made worse
    assert trained == []
    run(out=tmp_path / "x", resume=True, robust=True, seeds=1, latch={"combine": "max"})  # other latches, the same backbones
    assert sorted(trained) == [("linear", 0), ("static", 0)]
    with pytest.raises(DataError, match="holds runs of an earlier comparison; go on with --resume"):
        run(out=tmp_path / "x")
    with pytest.raises(DataError, match=r"was made with build tiny"):
        compare(lambda sizes: tiny(sizes), SPLITS, feedback=["linear"], widen=tiny, epochs=2, out=tmp_path / "x", resume=True)
    with pytest.raises(DataError, match=r"was made with about \{\}, not \{'size': 4\}"):
        run(out=tmp_path / "x", resume=True, about={"size": 4})
    with pytest.raises(DataError, match=r"was made with training.epochs 2, not 3; repeat its options"):
        run(out=tmp_path / "x", resume=True, epochs=3)


def test_runs_go_on_on_another_device(tmp_path):
    run(out=tmp_path, seeds=1, device="cpu")
    said = []
    run(out=tmp_path, seeds=1, device="cpu:0", resume=True, say=said.append)
    assert said[0].endswith("runs are there already")


def test_names_of_rows_are_no_placeholders_and_no_formulas(tmp_path):
    kinds = {"TABLE": "linear", "$SECTIONS": "static", "a$\\frac{1$": {"feedback": "linear", "combine": "max"}}
    metric = Metric("$\\frac{1$", lambda outputs, labels: float((outputs.flatten() - labels).abs().mean()), True)
    found = compare(tiny, SPLITS, feedback=kinds, metric=metric, seeds=1, epochs=1, alone=False, robust=True)
    write_report(found, tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("<td>TABLE<") >= 1
    assert page.count("<td>$SECTIONS<") >= 1
    assert "<section>TABLE" not in page
    assert page.count("<table>") >= 2


def test_modalities_with_an_underscore_are_in_the_legend(tmp_path):
    splits = {name: data.choose(["a", "b"]) for name, data in SPLITS.items()}
    renamed = {
        name: SequenceDataset({"_a": data.sequences["a"], "b": data.sequences["b"]}, {}, data.labels, data.ids)
        for name, data in splits.items()
    }
    found = compare(tiny, renamed, feedback=["linear"], seeds=1, epochs=1, robust=True)
    figure = draw_curves(robustness(found.runs), found.runs)
    labels = [text.get_text() for axes in figure.axes if axes.get_legend() for text in axes.get_legend().get_texts()]
    assert "_a alone" in labels


def test_a_label_without_any_training_sample_is_named():
    def labels(data, empty):
        columns = torch.stack([data.labels, data.labels], 1)
        columns[:, 1] = torch.nan if empty else columns[:, 1]
        return data.relabeled(columns)

    splits = {name: labels(data, name == "train") for name, data in SPLITS.items()}
    with pytest.raises(DataError, match="label 1 is missing in all training samples: leave it out"):
        compare(tiny, splits, feedback=["linear"], seeds=1, epochs=1)


def test_a_damaged_run_is_named(tmp_path):
    run(out=tmp_path, seeds=1)
    path = tmp_path / "runs" / "none-seed0.npz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r"none-seed0.npz: is damaged \(.*\); delete it to run it again"):
        run(out=tmp_path, seeds=1, resume=True)


def test_the_report(done):
    out, found = done
    assert {path.name for path in out.iterdir()} == {"report.html", "table.md", "results.json", "runs.csv", "runs"}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert found.verdict.replace("'", "&#x27;") in page
    assert page.count("<img") == 3
    assert "http" not in page
    text = (out / "table.md").read_text(encoding="utf-8")
    assert text.startswith(f"**{found.verdict}**")
    assert all(f"| {row} " in text for row in found.runs.names())
    assert "| without a " in text
    assert "<td>without a<td>1<td>" in page
    with (out / "runs.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(found.runs.records)
    content = json.loads((out / "results.json").read_text())
    assert content["verdict"] == found.verdict
    assert content["configuration"]["versions"]["torch"] == torch.__version__
    assert content["against_none"]["linear"]["difference"]["mean"] == pytest.approx(found.compared["linear"].difference.mean)
    again = read_comparison(out)
    assert table(again) == table(found)
    with pytest.raises(DataError, match="holds no comparison"):
        read_comparison(out / "runs")


def test_figures_tell_kinds_from_controls(done):
    _, found = done
    axes = draw_differences(found).axes[0]
    shown = [tick.get_text() for tick in axes.get_yticklabels()]
    assert shown[-1] == "feedback 'linear'"
    assert {*shown[:-1]} == {*found.compared} - {"linear"}  # below it, the controls
    figure = draw_curves(robustness(found.runs), found.runs)
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes if axes.get_legend()]
    assert legends[0] == ["none", "feedback 'linear'"]  # a kind beside none alone
    assert legends[1][0] == "none"
    assert "feedback 'linear'" not in legends[1]
    assert len(legends) == 2


def test_settings_of_the_page_are_for_readers(done):
    out, found = done
    settings = (out / "report.html").read_text(encoding="utf-8").rpartition("<summary>Settings")[2]
    assert "fingerprint" in settings
    assert "build" not in settings
    assert found.configuration["build"]


def test_robustness(done):
    _, found = done
    curves = robustness(found.runs)
    assert set(curves) == {"noise", "features", "steps", "without a", "without b", "missing rates"}
    assert list(curves["noise"]["linear"]) == ["0", "0.5", "1", "2"]
    assert list(curves["missing rates"][NONE]) == ["0", *(f"{0.1 * i:g}" for i in range(1, 10))]
    model = make_model(Plan(tiny, tiny, SPLITS, None, "mae", metric_of(Task("regression", 1)), {}, True), Row(NONE), 0)
    assert set(curves["without a"]) == {"a alone", "b alone", NONE, WIDENED, "static", "linear"} - {"a alone", "b alone"}
    assert count_parameters(model) > 0


def test_the_table_of_robustness():
    runs = fake({NONE: [1.0, 2.0], "linear": [1.5, 1.5]})
    for record, (noisy, without) in zip(runs.records, ((3.0, None), (5.0, None), (2.0, 4.0), (2.0, 4.0)), strict=True):
        record["robustness"] = {"noise": {"0.5": noisy}} | ({} if without is None else {"without a": {"1": without}})
    assert robustness_rows(robustness(runs)) == [
        ["corruption", "severity", NONE, "linear"],
        ["noise", "0", "1.500 ± 0.707", "1.500 ± 0.000"],
        ["noise", "0.5", "4.000 ± 1.414", "2.000 ± 0.000"],
        ["without a", "0", "", "1.500 ± 0.000"],
        ["without a", "1", "", "4.000 ± 0.000"],
    ]


def fake(scores, kinds=("linear",), lower=True, samples=60, static=(STATIC,)):
    """Runs of made-up scores: {row: scores of the seeds}; outputs differ from labels by the score."""
    labels = torch.zeros(samples)
    metric = Metric("mae", lambda outputs, y: float((outputs - y).abs().mean()), lower)
    records = [
        {"row": row, "gaps": False, "seed": s, "test": v} for row, values in scores.items() for s, v in enumerate(values)
    ]
    outputs = [np.full(samples, record["test"], np.float32) for record in records]
    return Runs(records, outputs, labels, metric, kinds, static)


@pytest.mark.parametrize(
    ("scores", "lower", "begins"),
    [
        ({NONE: [1, 1.1, 0.9], "linear": [0.5, 0.6, 0.4]}, True, "Feedback helps here: 'linear' lowers mae by 0.5000"),
        (
            {NONE: [1, 1.1, 0.9], "linear": [1.5, 1.6, 1.4]},
            True,
            "Feedback hurts here: the best kind, 'linear', raises mae by 0.5",
        ),
        ({NONE: [1, 1.1, 0.9], "linear": [1.5, 1.6, 1.4]}, False, "Feedback helps here: 'linear' raises mae by 0.5000"),
        ({NONE: [1, 1.1, 0.9], "linear": [0.9, 1.3, 0.7]}, True, "No evidence that feedback helps here"),
        ({NONE: [1.0], "linear": [0.1]}, True, "Nothing can be said from one seed"),
        (
            {NONE: [1, 1.1, 0.9], WIDENED: [0.5, 0.61, 0.39], "linear": [0.5, 0.6, 0.4]},
            True,
            "Feedback is better than none here, but a model without feedback of as many parameters may do as well",
        ),
        (
            {NONE: [1, 1.1, 0.9], STATIC: [0.5, 0.61, 0.39], "linear": [0.5, 0.6, 0.4]},
            True,
            "Feedback is better than none here, but a static mask may do as well",
        ),
        (
            {NONE: [1, 1.1, 0.9], WIDENED: [0.2, 0.31, 0.1], STATIC: [0.5, 0.61, 0.39], "linear": [0.5, 0.6, 0.4]},
            True,
            "Feedback is better than none here, but a static mask may do as well and a model without feedback "
            "of as many parameters is better still: 'linear' lowers",
        ),
    ],
)
def test_verdicts(scores, lower, begins):
    runs = fake({row: [float(v) for v in values] for row, values in scores.items()}, lower=lower)
    assert verdict(runs, compare_rows(runs)).startswith(begins)


def test_a_kind_that_is_surely_better_counts_before_one_that_only_looks_better():
    scores = {NONE: [1.0, 1.1, 0.9, 1.0], "sure": [0.9, 1.0, 0.8, 0.91], "lucky": [0.9, 1.1, 0.2, 1.1]}
    runs = fake(scores, kinds=("sure", "lucky"))
    compared = compare_rows(runs)
    assert compared["lucky"].difference.mean > compared["sure"].difference.mean
    assert compared["lucky"].p > 0.05 > compared["sure"].p
    assert verdict(runs, compared).startswith("Feedback helps here: 'sure' lowers mae by 0.0975")


def test_the_kind_that_is_named_is_one_that_is_better_than_the_controls():
    scores = {
        NONE: [1.0, 1.1, 0.9, 1.0],
        WIDENED: [0.7, 0.55, 0.55, 0.75],
        "first": [0.5, 0.6, 0.4, 0.5],
        "second": [0.58, 0.43, 0.42, 0.62],
    }
    runs = fake(scores, kinds=("first", "second"))
    compared = compare_rows(runs)
    assert compared["first"].difference.low > compared["second"].difference.low
    assert verdict(runs, compared).startswith("Feedback helps here: 'second' lowers mae")


def test_being_better_than_the_controls_is_corrected_for_the_number_of_kinds():
    scores = {NONE: [1.0, 1.1, 0.9, 1.0], WIDENED: [0.5, 0.6, 0.4, 0.5], "linear": [0.4, 0.55, 0.35, 0.43]}
    one, others = fake(scores), {f"kind {i}": [1.0, 1.2, 0.8, 1.0] for i in range(9)}
    assert verdict(one, compare_rows(one)).startswith("Feedback helps here: 'linear'")
    ten = fake(scores | others, kinds=("linear", *others))
    said = "Feedback is better than none here, but a model without feedback of as many parameters may do as well: 'linear'"
    assert verdict(ten, compare_rows(ten)).startswith(said)


def test_controls_do_not_count_among_the_kinds_that_p_is_corrected_for():
    scores = {
        NONE: [1.0, 1.1, 0.9, 1.0],
        STATIC: [0.9, 1.1, 0.8, 1.0],
        "linear": [0.9, 1.0, 0.8, 0.95],
        "lstm": [1.0, 1.1, 1.0, 1.0],
    }
    runs = fake(scores, kinds=(STATIC, "linear", "lstm"))
    compared = compare_rows(runs)
    alone = {row: difference_of(runs, pairs_of(runs, row, NONE)).p for row in scores if row != NONE}
    assert compared[STATIC].p == alone[STATIC]
    assert compared["linear"].p == pytest.approx(2 * alone["linear"])  # of two, not of three
    assert "for 2 kinds, 4 seeds" in verdict(runs, compared)


def test_a_mask_that_looks_at_nothing_is_a_control_whatever_its_name():
    kinds = {"fixed": "static", "static": "linear", "mine": StaticFeedback}
    found = run(feedback=kinds, seeds=1, alone=False)
    assert found.runs.static == ["fixed", "mine"]
    assert found.verdict.startswith("Nothing can be said from one seed: 'static'")


def test_masks_that_have_become_constants_are_said_to_be():
    runs = fake({NONE: [1.0, 2.0], "linear": [1.0, 2.0]})
    for record in runs.records:
        if record["row"] == "linear":
            record["masks"] = {
                "a": {"mean": 0.3, "within": 0.001, "between": 0.0002, "features": 0.1},
                "b": {"mean": 0.3, "within": 0.001, "between": 0.2, "features": 0.1},
            }
    assert collapsed(runs) == {"linear": ["a"]}


def test_the_spread_of_masks_by_hand():
    data = SPLITS["test"]
    latch = TopDownLatch(tiny(data.sizes), "linear").eval()
    found = mask_spread(latch, data, batch_size=5)
    means, within = [], []
    for i in range(len(data)):
        with torch.no_grad():
            mask = latch.masks({k: x.unsqueeze(0) for k, x in data[i].inputs.items()})["a"][0].double()
        means.append(mask.mean(0))
        within.append(mask.std(0, correction=0))
    means, within = torch.stack(means), torch.stack(within)
    assert found["a"]["within"] == pytest.approx(float(within.mean()), abs=1e-6)
    assert found["a"]["between"] == pytest.approx(float(means.std(0).mean()), abs=1e-6)
    assert found["a"]["features"] == pytest.approx(float(means.mean(0).std(correction=0)), abs=1e-6)


@pytest.mark.parametrize("regression", [True, False])
def test_the_linear_model_is_that_of_scikit_learn(regression):
    linear = pytest.importorskip("sklearn.linear_model")
    train, valid, test = (small(n, seed, regression) for n, seed in ((60, 0), (30, 1), (40, 2)))
    task = Task("regression", 1) if regression else Task("classification", 2)
    (_, outputs), parameters = fit_linear(task, train, valid, test)
    features = [pooled_features(data) for data in (train, valid, test)]
    mean, std = features[0].mean(0), features[0].std(0, correction=0)
    x, v, t = (((f - mean) / std).numpy() for f in features)
    best = None
    for strength in (10.0**k for k in range(-5, 3)):
        alpha = strength * len(x)
        model = linear.Ridge(alpha) if regression else linear.LogisticRegression(C=1 / alpha, max_iter=5000, tol=1e-8)
        model.fit(x, train.labels.numpy())
        score = np.abs(model.predict(v) - valid.labels.numpy()).mean()
        if best is None or score < best[0]:
            best = score, model
    expected = best[1].predict(t)
    ours = outputs.squeeze(1).numpy() if regression else outputs.argmax(1).numpy()
    if regression:
        assert ours == pytest.approx(expected, abs=1e-4)
    else:
        assert (ours == expected).all()
    assert parameters == (2 * 4 + 1) * task.output_size
    first = train[0].inputs["a"].double()
    assert features[0][0, :2] == pytest.approx(first.mean(0))
    assert features[0][0, 2:4] == pytest.approx(first.std(0, correction=0))


def test_a_loss_and_a_metric_of_ones_own():
    metric = Metric("worst", lambda outputs, labels: float((outputs.view_as(labels) - labels).abs().max()), True)
    found = run(
        loss=lambda output, labels: (output.view_as(labels) - labels).square().mean(), metric=metric, seeds=1, widen=None
    )
    assert set(found.left_out) == {LINEAR, WIDENED}
    assert found.runs.metric.name == "worst"
    for record, outputs in zip(found.runs.records, found.runs.outputs, strict=True):
        assert record["test"] == pytest.approx(np.abs(outputs.squeeze(1) - SPLITS["test"].labels.numpy()).max(), rel=1e-5)


def test_kinds_may_have_options_of_their_own():
    kinds = {"shared": "shared", "gentle": {"feedback": "linear", "start": "identity"}, "mine": torch.nn.Linear}
    found = run(feedback=kinds, seeds=1, alone=False, latch={"scale": 1.0})
    assert found.configuration["latches"]["gentle"] == {"scale": 1.0, "feedback": "linear", "start": "identity"}
    assert found.configuration["latches"]["mine"] == {"scale": 1.0, "feedback": "Linear"}
    assert set(found.runs.kinds) == {*kinds, "static"}  # which is always there


def test_a_modality_that_cannot_be_alone_is_left_out():
    def needs_both(sizes):
        if len(sizes) < 2:
            raise ValueError("needs a and b")
        return tiny(sizes)

    found = compare(needs_both, SPLITS, feedback=["linear"], seeds=1, epochs=1)
    assert found.left_out["a alone"] == "needs a and b"
    assert "Left out: a alone, since needs a and b." in table(found)


@pytest.mark.uncovered
def test_processes_change_no_number_and_their_errors_are_named():
    build = functools.partial(LSTMBackbone, hidden_size=3)
    one = compare(build, SPLITS, feedback=["linear"], seeds=1, epochs=2, alone=False)
    two = compare(lambda sizes: build(sizes), SPLITS, feedback=["linear"], seeds=1, epochs=2, alone=False, jobs=2)
    assert [r["test"] for r in one.runs.records] == [r["test"] for r in two.runs.records]
    assert one.verdict == two.verdict
    assert all(np.array_equal(a, b) for a, b in zip(one.runs.outputs, two.runs.outputs, strict=True))
    with joblib.parallel_config(backend="threading", n_jobs=2):  # or dask: a process has one run at a time
        four = compare(build, SPLITS, feedback=["linear"], seeds=1, epochs=2, alone=False)
    assert [r["test"] for r in one.runs.records] == [r["test"] for r in four.runs.records]
    with pytest.raises(ValueError, match=r"other processes cannot be given what is compared \(.*\): pass jobs=1"):
        compare(unsendable(), SPLITS, feedback=["linear"], seeds=1, epochs=1, jobs=2)
    # An error that cannot be sent is no killed process; here, where processes have been started.
    with pytest.raises(DataError, match=r"a run .*another process, with an error that cannot be sent here: use jobs=1"):
        [*run_all(plan_of(failing), [(Row(NONE), 0), (Row(NONE), 1)], 2)]
    with pytest.raises(DataError, match="a process was killed, for lack of memory perhaps: use fewer jobs"):
        [*run_all(plan_of(killed), [(Row(NONE), 0), (Row(NONE), 1)], 2)]


class Unsendable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def failing(sizes):
    raise Unsendable("a", "b")


def killed(sizes):
    os.kill(os.getpid(), signal.SIGKILL)


def plan_of(build):
    task = Task("regression", 1)
    return Plan(build, None, SPLITS, task, "mae", metric_of(task), {"epochs": 1}, False)


@pytest.mark.parametrize("content", ["[]", "{"])
def test_damaged_settings_are_named(tmp_path, content):
    run(out=tmp_path, seeds=1, alone=False)
    (tmp_path / "runs/configuration.json").write_text(content)
    with pytest.raises(DataError, match=r"configuration.json: (cannot be read \(.*\)|holds a list); choose another directory"):
        run(out=tmp_path, seeds=1, alone=False, resume=True)


def unsendable():
    lock = threading.Lock()
    return lambda sizes: tiny(sizes) if lock else None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"feedback": {"static": "linear"}}, ValueError, "feedback has a kind called 'static', which is the name of a control"),
        ({"epoch": 1}, TypeError, r"'epoch' is an option neither of compare nor of fit, which has \['epochs', "),
        ({"seeds": 0}, ValueError, "seeds=0 must be at least 1, or different numbers of at least 0"),
        ({"seeds": [1, 1]}, ValueError, r"seeds=\[1, 1\] must be"),
        ({"jobs": 0}, ValueError, "jobs=0 must be a number of processes, or -1"),
        ({"feedback": "linear"}, ValueError, "feedback='linear': give a list of kinds, or a mapping"),
        ({"feedback": {"none": "linear"}}, ValueError, "feedback has a kind called 'none'"),
        ({"splits": {"train": SPLITS["train"], "valid": SPLITS["valid"]}}, DataError, "there is no split 'test' among"),
        ({"splits": {**SPLITS, "test": SPLITS["test"].relabeled(None)}}, DataError, "'test' has no labels"),
        ({"on_epoch": print}, ValueError, "on_epoch is set for each run: leave it out"),
        (
            {"metric": Metric("odd", lambda y, labels: float("nan"), True)},
            DataError,
            "odd of 'linear model on pooled features', seed 0, is nan: a metric must be a number",
        ),
    ],
)
def test_what_cannot_be_compared_is_named(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


def test_the_command(tmp_path, capsys, monkeypatch):
    arrays = {}
    for split, data in SPLITS.items():
        for name, ragged in data.sequences.items():
            arrays |= {f"{split}.{name}": ragged.all_rows().numpy(), f"{split}.{name}.lengths": ragged.lengths.numpy()}
        arrays[f"{split}.labels"] = data.labels.numpy()
    np.savez(tmp_path / "x.npz", **arrays)
    common = ["--size", "3", "--epochs", "1", "--seeds", "2", "--jobs", "1", "--feedback", "static", "linear"]
    common += ["--no-diagnosis"]
    main(["compare", str(tmp_path / "x.npz"), *common, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "13 of 13 runs, 0 s left" in said
    assert "| none, widened " in said
    page = (tmp_path / "out/report.html").read_bytes()
    main(["compare", "--from", str(tmp_path / "out"), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out/report.html").read_bytes() == page
    main(["compare", str(tmp_path / "x.npz"), *common, "--out", str(tmp_path / "out"), "--resume"])
    assert "13 of 13 runs are there already" in capsys.readouterr().out
    for arguments, message in (
        ([str(tmp_path / "x.npz"), *common, "--out", str(tmp_path / "out")], "holds runs of an earlier comparison"),
        ([], "name the data to compare on, or an earlier comparison with --from"),
        (["--from", str(tmp_path)], "holds no comparison"),
        ([str(tmp_path / "x.npz"), "--resume"], "--resume needs --out"),
    ):
        with pytest.raises(SystemExit):
            main(["compare", *arguments])
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.count("\n") == 1


def test_a_linear_model_that_is_better_is_a_warning():
    """Also where feedback helps: a person who prints the verdict alone must see it."""
    runs = fake({LINEAR: [5.8], NONE: [40.0, 41.0, 42.0], "linear": [8.0, 9.0, 8.5]})
    compared = compare_rows(runs)
    said = verdict(runs, compared)
    assert said.startswith("Feedback ")
    assert "WARNING: 'linear model on pooled features' is better than 'none', by 35.2000 (p " in said
    unsure = compared[LINEAR]._replace(p=0.2)
    assert "WARNING: 'linear model on pooled features' may be better" in verdict(runs, {**compared, LINEAR: unsure})
    worse = compared[LINEAR]._replace(difference=compared[LINEAR].difference._replace(mean=-1.0))
    assert "WARNING" not in verdict(runs, {**compared, LINEAR: worse})
    assert "WARNING" not in verdict(runs, {k: v for k, v in compared.items() if k != LINEAR})


@pytest.mark.parametrize(("epochs", "batch_size", "updates"), [([2, 30, 4], 32, 20), ([7, 8], 8, 0), ([20], None, 80)])
def test_few_updates_of_the_weights_are_a_warning(epochs, batch_size, updates):
    runs = fake({NONE: [1.0 + 0.1 * i for i in range(len(epochs))]})
    runs = runs._replace(records=[{**r, "parameters": 1, "epochs": e} for r, e in zip(runs.records, epochs, strict=True)])
    training = {} if batch_size is None else {"batch_size": batch_size}
    configuration = {"data": {"train": {"samples": 130 if batch_size == 32 else 120}}, "training": training}
    said = table(Comparison(runs, {}, "", {}, configuration)).splitlines()
    few = [line for line in said if line.startswith("WARNING")]
    assert bool(few) is bool(updates)  # 8 by 15 are 112 in the median, which are enough
    if updates:
        assert few[0].startswith(
            f"WARNING: the weights of 'none' were updated {updates} times (median over seeds), which is few"
        )


def test_runs_that_are_not_tested_on_data_made_worse_are_done_again_when_asked(tmp_path):
    run(out=tmp_path, seeds=1, alone=False)
    found = run(out=tmp_path, seeds=2, alone=False, robust=True, resume=True)
    assert all("robustness" in record for record in found.runs.records if record["row"] != LINEAR)


def test_names_that_look_alike_in_files_are_told_apart(tmp_path):
    found = run(out=tmp_path, seeds=1, alone=False, feedback={"a b": "linear", "a-b": "shared", "a/b": "static", "a.b": "lstm"})
    write_report(found, tmp_path)
    again = read_comparison(tmp_path)
    assert again.runs.names() == found.runs.names()
    assert [r["test"] for r in again.runs.records] == [r["test"] for r in found.runs.records]


def test_training_data_may_change_in_each_epoch():
    epochs = []
    run(seeds=1, alone=False, widen=None, feedback=["linear"], augment=lambda d, e: epochs.append(e) or d, gaps=True)
    assert epochs == [1, 2] * 6  # also where steps are missing then


def test_a_modality_that_some_samples_lack_is_not_alone():
    lacking = {name: data.corrupt("missing", 0.5, modalities=["b"]) for name, data in SPLITS.items()}
    found = run(splits=lacking, seeds=1)
    assert set(found.left_out) == {"b alone"}
    assert found.left_out["b alone"].startswith("it is absent from ")


def test_a_report_is_made_of_the_runs_of_its_comparison_alone(tmp_path):
    write_report(run(out=tmp_path, seeds=3, alone=False), tmp_path)
    found = run(out=tmp_path, seeds=2, alone=False, latch={"passes": 2}, resume=True)
    write_report(found, tmp_path)
    again = read_comparison(tmp_path)
    assert table(again) == table(found)
    assert {record["seed"] for record in again.runs.records} == {0, 1}
    (tmp_path / "runs" / "none-seed1.npz").unlink()
    with pytest.raises(DataError, match="the run of 'none' with seed 1 is gone"):
        read_comparison(tmp_path)


def test_a_module_as_feedback_is_another_in_each_run():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)

        def forward(self, encodings):
            return {"a": {"b": self.a(encodings["b"])}, "b": {"a": self.b(encodings["a"])}}

    torch.manual_seed(0)
    module = Fixed()
    before = [p.clone() for p in module.parameters()]
    found = run(feedback={"mine": module}, seeds=2, alone=False, widen=None)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), before, strict=True))
    plan = Plan(tiny, None, SPLITS, None, "mae", metric_of(Task("regression", 1)), {"epochs": 2}, False)
    alone, _ = run_row(plan, Row("mine", latch={"feedback": module}), 1)
    (second,) = (r for r in found.runs.records if (r["row"], r["seed"]) == ("mine", 1))
    assert alone["test"] == second["test"]


class Maker:
    def __init__(self, size):
        self.size = size

    def __call__(self, sizes):
        return LSTMBackbone(sizes, hidden_size=self.size)

    def make(self, sizes):
        return self(sizes)


def test_functions_are_told_apart_by_what_they_hold():
    one, two, same = Maker(1), Maker(2), Maker(1)
    assert named(one) == named(same) != named(two)
    assert named(one.make) == named(same.make) != named(two.make)
    held = [functools.partial(torch.add, torch.tensor([float(i)])) for i in (1, 2, 1)]
    assert named(held[0]) == named(held[2]) != named(held[1])

    def recursive(depth):
        return recursive(depth - 1) if depth else 0

    assert named(recursive).startswith("test_functions_are_told_apart_by_what_they_hold")


def test_other_metrics_and_versions_are_other_comparisons(tmp_path, monkeypatch):
    metric = Metric("m", lambda y, labels: float((y.view_as(labels) - labels).abs().mean()), True)
    other = Metric("m", lambda y, labels: float((y.view_as(labels) - labels).abs().max()), True)
    run(out=tmp_path, seeds=1, alone=False, metric=metric)
    with pytest.raises(DataError, match="was made with metric_function"):
        run(out=tmp_path, seeds=1, alone=False, metric=other, resume=True)
    versions = sys.modules["topdown.comparison.settings"].versions()
    monkeypatch.setattr(sys.modules["topdown.comparison.settings"], "versions", lambda: {**versions, "torch": "0"})
    with pytest.raises(DataError, match="was made with versions"):
        run(out=tmp_path, seeds=1, alone=False, metric=metric, resume=True)


class WholeBatches(torch.nn.Module):
    """Takes lengths as one tensor alone."""

    def __init__(self, sizes):
        super().__init__()
        self.inner = LSTMBackbone(sizes, hidden_size=2)

    def forward(self, inputs, lengths):
        return self.inner(inputs, lengths.cpu())


def test_what_a_model_does_not_take_is_said():
    found = compare(WholeBatches, SPLITS, feedback={}, seeds=1, epochs=1, robust=True, alone=False)
    assert "Not tested: without a, since the model does not accept it (AttributeError: " in table(found)
    assert set(robustness(found.runs)) == {"noise", "features", "steps"}


def test_a_metric_that_a_resample_does_not_have_is_left_out_of_the_bootstrap():
    def both_classes(outputs, labels):
        if labels.unique().numel() < 2:
            raise ValueError("one class")
        return float((outputs.argmax(1) == labels).float().mean())

    runs = fake({NONE: [1.0, 1.1, 0.9], "linear": [0.5, 0.6, 0.4]})
    labels = torch.zeros(60, dtype=torch.int64)
    labels[:10] = 1
    outputs = [np.eye(2, dtype=np.float32)[[0] * 60] for _ in runs.outputs]
    found = compare_rows(runs._replace(labels=labels, outputs=outputs, metric=Metric("acc", both_classes, False)))
    assert found["linear"].difference.sample_error == 0.0
    labels[1:] = 0  # a third of the resamples are without the one
    runs = runs._replace(labels=labels, outputs=outputs, metric=Metric("acc", both_classes, False))
    said = verdict(runs, compare_rows(runs))
    assert said.startswith(
        "Nothing can be said from 60 test samples, many draws of which have no acc: 'linear' lowers acc by 0.5"
    )
    runs = fake({NONE: [1.0, 1.1, 0.9], "linear": [0.5, 0.6, 0.4]}, samples=1)
    assert verdict(runs, compare_rows(runs)).startswith("Nothing can be said from one test sample: 'linear' lowers mae by 0.5")


def test_a_bad_difference_stands_within_the_interval_that_is_said():
    runs = fake({NONE: [1.0, 1.1, 0.9], "linear": [1.05, 1.2, 0.99]})
    said = verdict(runs, compare_rows(runs))
    by, low, high = (float(said.partition(mark)[2].split()[0].rstrip(",")) for mark in ("raises mae by ", "interval ", " to "))
    assert low <= by <= high


def test_a_kind_may_not_have_the_name_of_another_row():
    with pytest.raises(ValueError, match="feedback has a kind called 'a alone', which is the name of another row"):
        run(feedback={"a alone": "linear"})
    assert Row("lstm.gaps").slug != Row("lstm", gaps=True).slug


@pytest.mark.parametrize("wanted", [10_000, 100_000])
def test_a_tiny_model_is_widened_as_far_as_it_takes(wanted):
    plan = Plan(tiny, lambda sizes, f: LSTMBackbone(sizes, hidden_size=round(f)), SPLITS, None, "mae", ODD, {}, False)
    assert count_parameters(plan.widen(SPLITS["train"].sizes, find_width(plan, wanted))) >= wanted
    before = torch.get_rng_state()
    find_width(plan, wanted)
    assert torch.equal(torch.get_rng_state(), before)


WIDTH = 3


def wide(sizes):
    return LSTMBackbone(sizes, hidden_size=WIDTH)


class Fixed(torch.nn.Module):
    """Feedback of some size, as a ready module."""

    def __init__(self, size):
        super().__init__()
        self.inner = torch.nn.ModuleDict(
            {k: torch.nn.Sequential(torch.nn.Linear(3, size), torch.nn.Linear(size, 2)) for k in "ab"}
        )

    def forward(self, encodings):
        return {k: {j: self.inner[k](encodings[j])} for k, j in (("a", "b"), ("b", "a"))}


def test_another_model_of_the_same_name_goes_on_with_no_runs(tmp_path, monkeypatch):
    once = functools.partial(compare, splits=SPLITS, feedback=[], seeds=1, epochs=1, alone=False, out=tmp_path, resume=True)
    once(wide)
    monkeypatch.setitem(globals(), "WIDTH", 5)
    with pytest.raises(DataError, match="was made with build"):
        once(wide)


def test_feedback_of_another_size_is_trained_anew(tmp_path):
    sizes = []
    for size in (4, 6):
        found = run(feedback={"mine": Fixed(size)}, seeds=1, alone=False, widen=None, out=tmp_path, resume=True)
        sizes.append(found.runs.records[found.runs.of("mine")[0]]["parameters"])
    assert sizes[1] - sizes[0] == 2 * (3 * 2 + 2 + 2 * 2)


def test_runs_that_were_done_again_since_are_not_reported_as_the_old_ones(tmp_path):
    write_report(run(seeds=1, alone=False, out=tmp_path), tmp_path)
    run(seeds=1, alone=False, out=tmp_path, latch={"combine": "max"}, resume=True)
    with pytest.raises(DataError, match="'static' with seed 0 has been done with other options since; compare again"):
        read_comparison(tmp_path)


def test_a_metric_of_ones_own_by_the_name_of_another_is_not_taken_for_it(tmp_path):
    mine = Metric("mae", lambda outputs, labels: np.float32((outputs.view_as(labels) - labels).abs().median()), True)
    found = run(seeds=1, alone=False, metric=mine, out=tmp_path)
    assert type(found.runs.records[0]["test"]) is float
    write_report(found, tmp_path)
    with pytest.raises(DataError, match="its metric is a user-defined function"):
        read_comparison(tmp_path)


class NoForward(nn.Module):
    """Has the two halves alone; they need lengths of each modality."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(size, 3) for name, size in sizes.items()})

    def encode(self, inputs, lengths):
        return {name: torch.tanh(layer(inputs[name])) for name, layer in self.layers.items()}

    def fuse(self, encodings):
        return sum(r.mean((1, 2)) for r in encodings.values()).unsqueeze(-1)


class Whole(nn.Module):
    """A model that may not be edited."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(2, 3)

    def forward(self, a, b):
        return (torch.tanh(self.first(a)).mean((1, 2)) + torch.tanh(self.second(b)).mean((1, 2))).unsqueeze(-1)


WRAPPED = {
    "two halves": NoForward,
    "hooked": lambda sizes: HookedBackbone(Whole(), encodings={"a": "first", "b": "second"}),
    "callable": lambda sizes: CallableBackbone(
        NoForward(sizes), encode=lambda module, inputs: module.encode(inputs, None), fuse=lambda module, r: module.fuse(r)
    ),
}


@pytest.mark.parametrize("build", WRAPPED.values(), ids=WRAPPED)
def test_any_backbone_is_compared_with_itself_without_feedback(build):
    found = compare(build, SPLITS, feedback=["linear"], seeds=1, epochs=1, alone=False, latch={"align": "interpolate"})
    runs = found.runs
    assert found.left_out == {WIDENED: "there is no wider model: pass widen="}
    plan = Plan(build, None, SPLITS, None, "mae", metric_of(Task("regression", 1)), {"epochs": 1}, False)
    with seeded(0):
        latch = TopDownLatch(build(SPLITS["train"].sizes), "linear", example_inputs=SPLITS["train"].batch([0, 1]).inputs)
    bare, batch = make_model(plan, Row(NONE), 0), SPLITS["test"].batch([0, 1, 2])
    with latch.disabled():
        assert torch.equal(bare(batch.inputs, batch.lengths), latch(batch.inputs, batch.lengths))
    assert {"none", "static", "linear"} <= {*runs.names()}


def test_a_row_that_cannot_be_computed_is_named_before_any_training():
    def build(sizes):
        backbone = NoForward(sizes)
        backbone.encode = lambda inputs, lengths: {k: r[:, : 3 if k == "a" else 2] for k, r in encode(inputs, lengths).items()}
        encode = NoForward.encode.__get__(backbone)
        return backbone

    trained = []
    with pytest.raises(ValueError, match=r"the row 'static' cannot be computed: .*\d steps"):
        compare(build, SPLITS, feedback=["linear"], seeds=1, epochs=1, say=trained.append, alone=False)
    assert trained == []


def test_a_model_that_does_not_do_with_one_modality_is_left_out():
    found = compare(lambda sizes: tiny({"a": sizes["a"], "b": sizes["b"]}), SPLITS, feedback=[], seeds=1, epochs=1)
    assert found.left_out == {f"{j} alone": f"building or calling it raises KeyError: '{k}'" for j, k in ("ab", "ba")}
    found = compare(lambda sizes: tiny({"a": 2, "b": 2}), SPLITS, feedback=[], seeds=1, epochs=1)
    assert found.left_out["a alone"] == "build returns a model of 'a', 'b' where 'a' alone is wanted"


def test_splits_must_be_alike():
    other = SPLITS["test"].relabeled(torch.ones(14, dtype=torch.int64))
    said = r"'test' has .*shape \(N\), whole numbers, but 'train' has .*, real numbers: splits of one comparison must be alike"
    with pytest.raises(DataError, match=said):
        compare(tiny, {**SPLITS, "test": other}, seeds=1)
    with pytest.raises(DataError, match=r"'valid' has features {'a': 2} .*, but 'train' has features {'a': 2, 'b': 2}"):
        compare(tiny, {**SPLITS, "valid": SPLITS["valid"].choose(["a"])}, seeds=1)


def test_yes_or_no_in_real_numbers_is_scored_as_such():
    splits = {name: data.relabeled((data.labels > 0).float()) for name, data in SPLITS.items()}
    found = compare(tiny, splits, feedback=[], seeds=1, epochs=1, alone=False, loss="bce")
    assert (found.runs.metric.name, found.configuration["task"]) == ("f1", ["multilabel", 1])


def test_small_numbers_keep_their_digits():
    runs = fake({NONE: [1.0e-5, 1.1e-5, 0.9e-5], "linear": [0.5e-5, 0.6e-5, 0.41e-5]})
    assert "lowers mae by 5e-06 (95 % interval 4.8e-06 to 5.1e-06" in verdict(runs, compare_rows(runs))


def test_where_seeds_cannot_decide_the_verdict_asks_for_test_samples():
    """Every seed shows the same small difference, which 40 test samples leave in doubt: more of them would decide."""
    generator = np.random.default_rng(0)
    apart = generator.normal(0.02, 0.2, 40)
    apart += 0.02 - apart.mean()
    records, outputs = [], []
    for row, gain in ((NONE, 0.0), ("linear", 1.0)):
        for seed in range(3):
            errors = 1.0 - gain * apart + 0.001 * seed
            records.append({"row": row, "gaps": False, "seed": seed, "test": float(errors.mean())})
            outputs.append(errors.astype(np.float32))
    metric = Metric("mae", lambda outputs, y: float((outputs - y).abs().mean()), True)
    runs = Runs(records, outputs, torch.zeros(40), metric, ("linear",), ())
    said = verdict(runs, compare_rows(runs))
    asks = r"more test samples are needed: about ([\d,]+) test samples with (\d+) seeds would decide, and (?:no number|only)"
    found = re.search(asks, said)
    assert found
    # With many seeds alone the error is that of the samples: N = ((1.96 + 0.84) s / m)^2
    least = (2.8 * apart.std(ddof=1) / 0.02) ** 2
    assert 0.8 * least < int(found[1].replace(",", "")) < 2 * least
