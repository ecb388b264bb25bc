import math

import pytest

from topdown.experiments.tables import PUBLISHED_LSTM, all_metrics_table, full_report, gap_closed, results_table, summarize

NAMES = {"none": "Base", "lstm": "Base + MMLatch (lstm)"}


def run(kind, seed, mae, loss):
    metrics = {"mae": mae, "corr": 0.5, "acc7": 0.5, "acc2_non0": 0.8, "f1_non0": None, "n": 10}
    return {"kind": kind, "seed": seed, "metrics": metrics, "validation_loss": loss}


RUNS = [run("none", 0, 0.6, 0.3), run("none", 1, 0.8, 0.2), run("lstm", 0, 0.5, 0.1)]


def test_mean_sample_deviation_and_best_by_validation():
    summary = summarize(RUNS)
    assert summary["none"]["mean"]["mae"] == pytest.approx(0.7)
    assert summary["none"]["std"]["mae"] == pytest.approx(math.sqrt(0.02))  # divided by N - 1
    assert summary["none"]["best_seed"] == 1
    assert math.isnan(summary["lstm"]["std"]["mae"])
    assert summary["none"]["seeds"] == [0, 1]


def test_rows_of_the_table():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in results_table(RUNS, summarize(RUNS), NAMES, PUBLISHED_LSTM).splitlines()
    ]
    assert rows[0] == ["Model", "Acc@7", "Acc@2", "F1@2", "MAE", "Corr"]
    assert rows[2] == ["Base, average of 2", "50.0 ± 0.0", "80.0 ± 0.0", "undefined", "0.700 ± 0.141", "0.500 ± 0.000"]
    assert rows[3] == ["Base, best by validation", "50.0", "80.0", "undefined", "0.800", "0.500"]
    assert rows[4] == ["Base + MMLatch (lstm), seed 0 alone", "50.0", "80.0", "undefined", "0.500", "0.500"]
    # Table 1 of the paper
    assert rows[6] == [
        "*published, CMU-MOSEI:* Baseline",
        "51.3 ± 0.7",
        "81.9 ± 0.7",
        "82.2 ± 0.6",
        "0.593 ± 0.005",
        "0.695 ± 0.004",
    ]
    assert all(row[0].startswith("*published") for row in rows[5:])


def test_every_metric_has_a_row():
    table = all_metrics_table(summarize(RUNS), NAMES)
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == list(RUNS[0]["metrics"])
    assert "| n " in table
    assert "10" in table.splitlines()[-1]


def runs_with(maes):
    return [
        {"kind": kind, "seed": seed, "metrics": {"mae": mae}} for kind, by_seed in maes.items() for seed, mae in by_seed.items()
    ]


@pytest.mark.parametrize(
    "maes", [{"none": {0: 0.5}}, {"oracle": {0: 0.5}}, {"none": {0: 0.5}, "oracle": {0: 0.5}, "lstm": {0: 0.4}}]
)
def test_there_may_be_no_gap(maes):
    assert gap_closed(runs_with(maes)) == {}


def test_only_seeds_that_all_have_count_and_a_kind_may_be_worse_than_none():
    runs = runs_with(
        {"none": {0: 0.5, 1: 9.0}, "oracle": {0: 0.25, 1: 8.0, 2: 1.0}, "linear": {0: 0.625, 2: 7.0}, "lstm": {3: 1.0}}
    )
    assert gap_closed(runs) == {"linear": (-0.5, 0.25, 1)}
    complete = [{**r, "metrics": {**run("none", 0, 1, 1)["metrics"], **r["metrics"]}, "validation_loss": 1.0} for r in runs]
    text = full_report(complete, {**NAMES, "oracle": "Oracle", "linear": "Linear"}, source="here", published={})
    assert "Feedback 'linear' widens by 50% the gap of 0.250 in MAE" in text
    assert "(1 seed of all three)" in text
