"""Writes the report of a comparison: table.md, runs.csv, results.json and report.html."""

from __future__ import annotations

import csv
import html
import inspect
import io
import json
import math
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topdown.comparison.compare import Comparison
from topdown.comparison.diagnosis import diagnosis
from topdown.comparison.differences import Runs, collapsed, compare_rows, inflation, spreads_of
from topdown.comparison.pictures import draw_curves, draw_differences, draw_runs
from topdown.comparison.robustness import robustness, robustness_rows
from topdown.comparison.saved_runs import read_run
from topdown.comparison.settings import metric_of
from topdown.comparison.variants import NONE
from topdown.comparison.verdict import number, probability, seeds_needed, verdict
from topdown.datasets.errors import DataError
from topdown.datasets.files import make_directory, read_json, write_json
from topdown.datasets.report import markdown
from topdown.files import write_text
from topdown.plots import picture
from topdown.training.options import FEW_UPDATES
from topdown.training.protocol import fit
from topdown.training.tasks import Task
from topdown.training.versions import FORMAT, check_format

BATCH_SIZE = inspect.signature(fit).parameters["batch_size"].default
HEAD = ("row", "{metric}", "better than none by (95 %)", "p", "spread", "seeds to decide", "best test epoch adds", "parameters")


def table(comparison: Comparison) -> str:
    """Returns the markdown of a comparison: the verdict, the table, the meaning of its columns, and the table of robustness."""
    said = [f"**{comparison.verdict}**", *_few_updates(comparison), ""]
    head = [*said, markdown([_head(comparison.runs), *_rows(comparison)]), ""]
    curves = robustness(comparison.runs)
    worse = ["", _robustness_caption(comparison.runs), "", markdown(robustness_rows(curves))] if curves else []
    why = diagnosis(comparison.runs, comparison.compared)
    return "\n".join([*head, *why, *_warnings(comparison), *_explained(comparison), *worse])


def _robustness_caption(runs: Runs) -> str:
    return f"{runs.metric.name} on corrupted test data: mean ± standard deviation over seeds; severity 0 is the data as it is."


def _warnings(comparison: Comparison) -> list[str]:
    """Returns lines about rows that are left out, and warnings."""
    runs, lines = comparison.runs, [f"Left out: {row}, since {why}." for row, why in comparison.left_out.items()]
    for row, targets in collapsed(runs).items():
        what = f"masks of {row!r} have become constants for {', '.join(targets)}"
        lines.append(f"WARNING: {what}: they vary neither within nor between samples.")
    untested = {what: why for run in runs.records for what, why in run.get("not_tested", {}).items()}
    return lines + [f"Not tested: {what}, since the model does not accept it ({why})." for what, why in untested.items()]


def _few_updates(comparison: Comparison) -> list[str]:
    """Warns if the weights of the backbone without feedback were hardly updated, so that nothing was learned."""
    epochs = [run["epochs"] for run in comparison.runs.records if run["row"] == NONE and "epochs" in run]
    if not epochs:
        return []
    training, samples = comparison.configuration["training"], comparison.configuration["data"]["train"]["samples"]
    updates = float(np.median(epochs)) * math.ceil(samples / training.get("batch_size", BATCH_SIZE))
    if updates >= FEW_UPDATES:
        return []
    remedy = "try smaller batches, more epochs, a higher learning rate or more patience"
    return [f"WARNING: the weights of {NONE!r} were updated {updates:.0f} times (median over seeds), which is few: {remedy}."]


def _explained(comparison: Comparison) -> list[str]:
    """Returns lines that explain the columns of the table."""
    runs = comparison.runs
    kinds = [row for row in runs.dynamic() if row in comparison.compared]
    counts = ", ".join(f"N {name} = {split['samples']}" for name, split in comparison.configuration["data"].items())
    better = "lower" if runs.metric.lower_is_better else "higher"
    return [
        f"{counts}. {runs.metric.name}: mean ± standard deviation over seeds, {better} is better; epochs chosen on",
        "validation data. Differences are paired by seed; their intervals and p count seeds and test samples, and p of kinds",
        f"that read encodings is corrected for {len(kinds)} of them (Holm). Spread: standard deviation over that of none",
        "(p-value under no difference). Seeds to decide: for 80 % power; never: the test set is too small. Best test epoch",
        "adds: optimistic bias of choosing the epoch on test data (not part of the score).",
    ]


def write_report(comparison: Comparison, out: str | Path) -> list[str]:
    """Writes report.html, table.md, results.json and runs.csv.

    Args:
        comparison: Result of :func:`topdown.comparison.compare`.
        out: Directory, which is created if need be.

    Returns:
        Names of the files.

    Raises:
        ImportError: if matplotlib is missing.
    """
    out = Path(out)
    make_directory(out)
    write_text(out / "table.md", table(comparison) + "\n")
    write_text(out / "runs.csv", _runs_table(comparison.runs))
    write_json(out / "results.json", _results(comparison))
    write_text(out / "report.html", _page(comparison))
    return ["report.html", "table.md", "results.json", "runs.csv"]


def read_comparison(out: str | Path) -> Comparison:
    """Reads a comparison from its directory, without data or training.

    Raises:
        DataError: if the directory holds none, or its metric is a user-defined function, which a file cannot hold.
    """
    out = Path(out)
    content = read_json(out / "results.json", "this holds no comparison: name a directory that compare wrote")
    check_format(content, out / "results.json")
    try:
        configuration, kinds, done = content["configuration"], content["kinds"], [tuple(key) for key in content["done"]]
        labels = np.load(out / "runs" / "labels.npy", allow_pickle=False)
        paths = sorted((out / "runs").glob("*.npz"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{out}: holds no comparison ({error}); name a directory that compare wrote") from None
    if configuration["own_metric"]:
        raise DataError(f"{out}: its metric is a user-defined function; call compare(..., resume=True) again")
    saved = {(record["row"], record["gaps"], record["seed"]): (record, outputs) for record, outputs in map(read_run, paths)}
    if missing := [key for key in done if key not in saved]:
        raise DataError(f"{out}: the run of {missing[0][0]!r} with seed {missing[0][2]} is gone; compare again with --resume")
    chosen = [saved[key] for key in done]
    for record, _ in chosen:
        if record["latch"] != configuration["latches"].get(record["row"]):
            again = f"the run of {record['row']!r} with seed {record['seed']} has been done with other options since"
            raise DataError(f"{out}: {again}; compare again with --resume")
    metric = metric_of(Task(*configuration["task"]))
    runs = Runs([r for r, _ in chosen], [o for _, o in chosen], torch.from_numpy(labels), metric, kinds, content["static"])
    compared = compare_rows(runs)
    return Comparison(runs, compared, verdict(runs, compared), content["left_out"], configuration)


def _head(runs: Runs) -> list[str]:
    return [column.format(metric=runs.metric.name) for column in HEAD]


def _rows(comparison: Comparison) -> list[list[str]]:
    runs, rows = comparison.runs, []
    for row in runs.names():
        chosen = [runs.records[i] for i in runs.of(row).values()]
        scores = [run["test"] for run in chosen]
        score = number(float(np.mean(scores)))
        score += f" ± {number(float(np.std(scores, ddof=1)))}" if len(scores) > 1 else ""
        added = inflation(runs, row)
        cells = [row, score, "", "", "", "", "" if math.isnan(added) else number(added), f"{chosen[0]['parameters']:,}"]
        if row in comparison.compared:
            compared = comparison.compared[row]
            d = compared.difference
            cells[2] = f"{_signed(d.mean)} ({_signed(d.low)} to {_signed(d.high)})"
            cells[3] = probability(compared.p)
            if not math.isnan(compared.spread):
                cells[4] = f"{compared.spread:.2f} (p {compared.spread_p:.2f})"
            cells[5] = seeds_needed(compared.seeds_to_decide)
        rows.append(cells)
    return rows


def _signed(value: float) -> str:
    return f"{'-' if value < -1e-12 else '+'}{number(abs(value))}"


def _runs_table(runs: Runs) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ["row", "gaps", "seed", "validation", "test", "best_test_epoch", "best_epoch", "epochs", "parameters", "seconds"]
    writer.writerow(columns)
    writer.writerows([run.get(name, "") for name in columns] for run in runs.records)
    return text.getvalue()


def _results(comparison: Comparison) -> dict[str, Any]:
    runs = comparison.runs
    return {
        "format": FORMAT,
        "verdict": comparison.verdict,
        "configuration": comparison.configuration,
        "metric": {"name": runs.metric.name, "lower_is_better": runs.metric.lower_is_better},
        "done": [[run["row"], run["gaps"], run["seed"]] for run in runs.records],
        "kinds": list(runs.kinds),
        "static": list(runs.static),
        "left_out": comparison.left_out,
        "against_none": {
            row: {**result._asdict(), "difference": result.difference._asdict()} for row, result in comparison.compared.items()
        },
        "collapsed": collapsed(runs),
        "robustness": robustness(runs),
        "runs": list(runs.records),
    }


def _page(comparison: Comparison) -> str:
    runs = comparison.runs
    drawn = picture(draw_differences(comparison), "difference of each row from no feedback")
    sections = [_section("Differences from no feedback", drawn)]
    sections.append(_section("Every run", picture(draw_runs(runs), "score of every run")))
    curves = robustness(runs)
    if curves:
        drawn = picture(draw_curves(curves, runs), "metric against severity") + _html_table(robustness_rows(curves))
        sections.append(_section("Robustness", drawn, f"{_robustness_caption(runs)} Bands: one standard deviation."))
    spreads = _spreads(runs)
    if spreads:
        caption = "Standard deviations, averaged over features and seeds."
        sections.append(_section("How masks vary", _html_table(spreads), caption))
    notes = "".join(f"<p>{html.escape(line)}</p>" for line in [*_warnings(comparison), " ".join(_explained(comparison))])
    lines = [comparison.verdict, *_few_updates(comparison), *diagnosis(runs, comparison.compared)]
    # Fingerprints of functions are for resuming, not for readers.
    settings = {name: value for name, value in comparison.configuration.items() if name not in ("build", "widen")}
    filled = {
        "VERDICT": "<br>".join(html.escape(line) for line in lines),
        "TABLE": _html_table([_head(runs), *_rows(comparison)]) + notes,
        "SECTIONS": "\n".join(sections),
        "SETTINGS": html.escape(json.dumps(settings, indent=1, default=str)),
    }
    return string.Template(PAGE).substitute(filled)


def _section(head: str, content: str, text: str = "") -> str:
    return f"<section><h2>{head}</h2>{f'<p>{html.escape(text)}</p>' if text else ''}<div class=wide>{content}</div></section>"


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows[1:])
    return f"<div class=wide><table><tr>{head}{body}</table></div>"


def _spreads(runs: Runs) -> list[list[str]]:
    rows = [["row", "target", "mean mask", "within samples, over time", "between samples", "between features"]]
    for row in runs.kinds:
        spreads = spreads_of(runs, row)
        for target in dict.fromkeys(name for spread in spreads for name in spread):
            of_target = [spread[target] for spread in spreads if target in spread]
            means = (np.mean([spread[name] for spread in of_target]) for name in ("mean", "within", "between", "features"))
            rows.append([row, target, *(f"{mean:.4f}" for mean in means)])
    return rows if len(rows) > 1 else []


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Does feedback help?</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; color: #222 }
section { border-top: 1px solid #ccc; padding: 1rem 0 } h2 { font-size: 1.1rem } img { max-width: 100% }
.verdict { font-size: 1.25rem; border-left: .3rem solid #888; padding-left: 1rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem }
th, td { padding: .2rem .5rem; text-align: left; vertical-align: bottom }
td { white-space: nowrap }
tr:nth-child(even) { background: #f4f4f4 } pre { font-size: .8rem; overflow-x: auto }
</style>
<h1>Does feedback help here?</h1>
<p class=verdict>$VERDICT</p>
<section>$TABLE</section>
$SECTIONS
<section><details><summary>Settings</summary><pre>$SETTINGS</pre></details></section>
</html>
"""
