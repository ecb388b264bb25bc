"""Does feedback help on real data? A tuned baseline first, then every kind of feedback with paired seeds.

    python benchmarks/compare_kinds.py --data DIR [--sets watch digits ...] [--seeds 10] [--jobs 2] [--out DIR] [--recipe]

DIR holds watch.npz, avdigits.npz and mosi_words.npz (`real_data.py`). The backbone is one convolution per modality, or three
over a picture, mean and standard deviation over time, and a layer that fuses, with or without a linear path beside
(`real_models.py`); that, its kernel, dropout and learning rate, and whether training turns the windows of the watch, are chosen
on validation data alone, by the mean of two seeds. What there is to choose from was extended for two sets, and the arms of the
watch mirrored, after their test splits had been seen. `--leave-one-out` tests each person of the watch by a model of the
others, with the setting that was chosen on the one split, some of whose people are tested here. `--recipe` trains "linear" with
the start "identity" alone, beside the rows that say why feedback helps or not, one of which reads the other input step by step;
its seeds begin at 20, which no other run here has.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.real_data import SETS, Splits, people, turned
from common.real_models import build

from topdown.comparison import compare, write_report
from topdown.comparison.linear import fit_linear
from topdown.comparison.report import table
from topdown.comparison.settings import metric_of
from topdown.comparison.statistics import holm, paired_difference
from topdown.datasets.report import markdown
from topdown.training import fit, predict
from topdown.training.fingerprints import fingerprint
from topdown.training.tasks import task_of

GRID: dict[str, tuple[float, ...]] = {
    "size": (64,),
    "kernel": (1, 7),
    "dropout": (0.2, 0.5),
    "linear_path": (False, True),
    "learning_rate": (1e-3, 3e-3),
}
# Settings added by hand, after the best setting of GRID had not beaten the linear model on the test split.
EXTRA_GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "watch": {"turn": (0.0, 15.0)},
    "avdigits-hard": {"size": (32,), "kernel": (7,), "picture": (None, "image")},
}
TUNING_SEEDS = (100, 101)
TRAINING: dict[str, Any] = {"epochs": 40, "patience": 8, "batch_size": 32}
KINDS = {
    **{kind: {"feedback": kind, "start": "random"} for kind in ("static", "linear", "lstm", "shared")},
    "linear, identity": {"feedback": "linear", "start": "identity"},
}
RECIPE_SEED = 20  # first seed of the recipe


def leave_one_out(folder: Path, out: Path, seeds: int, jobs: int) -> None:
    """Prints the accuracy of each row, averaged over people, and its difference from no feedback, paired by person."""
    scores: dict[str, list[float]] = {}
    best, _ = tuned(out / "watch", "watch", SETS["watch"](folder))
    setting, training = parts_of(best)
    everyone = list(people(folder))
    for person, splits in enumerate(everyone):
        directory = out / "watch-people" / str(person)
        directory.mkdir(parents=True, exist_ok=True)
        build_model = functools.partial(build, outputs=task_of(splits).output_size, **setting)
        options: dict[str, Any] = {
            "latch": {"align": "interpolate"},
            "widen": build_model,
            "out": directory,
            "resume": True,
            "seeds": seeds,
            "jobs": jobs,
            "about": {"tuned": best},
        }
        comparison = compare(build_model, splits, feedback=KINDS, alone=False, **options, **training)
        for row in comparison.runs.names():
            seed_scores = [comparison.runs.records[i]["test"] for i in comparison.runs.of(row).values()]
            scores.setdefault(row, []).append(float(np.mean(seed_scores)))
    rows = [("row", "accuracy over people", "better than none by (95 %)", "p, Holm")]
    differences = {
        row: paired_difference(np.subtract(s, scores["none"]).tolist(), 0.0, len(everyone)) for row, s in scores.items()
    }
    corrected = dict(zip(KINDS, holm([differences[kind].p for kind in KINDS]), strict=True))
    for row, values in scores.items():
        d, p = differences[row], corrected.get(row, differences[row].p)
        text = ("", "") if row == "none" else (f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})", f"{p:.3f}")
        rows.append((row, f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}", *text))
    print(f"## watch, each of {len(everyone)} people left out once, {seeds} seeds each\n\n{markdown(rows)}\n", flush=True)


def parts_of(setting: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Splits a setting into options of the model and options of training."""
    model = {k: v for k, v in setting.items() if k not in ("learning_rate", "turn", "validation")}
    augment = {"augment": functools.partial(turned, degrees=setting["turn"])} if setting.get("turn") else {}
    return model, {"learning_rate": setting["learning_rate"], **augment, **TRAINING}


def tune(splits: Splits, grid: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the setting of the baseline with the best validation metric, averaged over seeds, and all that were tried."""
    task = task_of(splits)
    metric, tried = metric_of(task), []
    longest = max(int(steps.max()) for steps in splits["train"].lengths.values())
    for values in itertools.product(*grid.values()):
        setting = dict(zip(grid, values, strict=True))
        if setting["kernel"] > 1 and longest == 1:
            continue
        (model_options, training), scores = parts_of(setting), []
        for seed in TUNING_SEEDS:
            torch.manual_seed(seed)
            model = build(splits["train"].sizes, outputs=task.output_size, **model_options)
            fit(model, splits["train"], splits["valid"], seed=seed, loss=task.loss, **training)
            scores.append(metric.function(predict(model, splits["valid"]), splits["valid"].labels))
        tried.append({**setting, "validation": float(np.mean(scores))})
    return (min if metric.lower_is_better else max)(tried, key=lambda t: t["validation"]), tried


def tuned(out: Path, name: str, splits: Splits) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the result of :func:`tune`, from its file if that has the same data and grid."""
    path, grid = out / "tuned.json", {**GRID, **EXTRA_GRIDS.get(name, {})}
    of = {"grid": {k: list(v) for k, v in grid.items()}, "data": [fingerprint(splits[k]) for k in ("train", "valid")]}
    if path.exists():
        tuning = json.loads(path.read_text())
        if tuning["of"] != of:
            raise SystemExit(f"{path} is of other data or another grid: move it away")
    else:
        best, tried = tune(splits, grid)
        tuning = {"of": of, "best": best, "tried": tried}
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tuning, indent=1))
    return tuning["best"], tuning["tried"]


def main() -> None:
    """Runs the selected sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/real"))
    parser.add_argument("--robust", action="store_true", help="test on data made worse, too")
    parser.add_argument("--recipe", action="store_true", help="feedback that reads the other input, on fresh seeds")
    parser.add_argument("--leave-one-out", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.leave_one_out:  # with the setting that was tuned on the one split
        leave_one_out(options.data, options.out, options.seeds, options.jobs)
        return
    for name in options.sets:
        start, splits = time.time(), SETS[name](options.data)
        out = options.out / name
        best, tried = tuned(out, name, splits)
        task = task_of(splits)
        (valid, _), _ = fit_linear(task, splits["train"], splits["valid"], splits["test"])
        linear = metric_of(task).function(valid, splits["valid"].labels)
        print(
            f"## {name}\n\n{len(tried)} settings tried, best on validation: {best}; the linear model there: {linear:.4f}",
            flush=True,
        )
        setting, training = parts_of(best)
        build_model = functools.partial(build, outputs=task.output_size, **setting)
        if options.recipe:
            out = out / "recipe"
            kinds: dict[str, Any] = {"feedback": ["linear"], "diagnose": True, "alone": False}
            kinds["seeds"] = range(RECIPE_SEED, RECIPE_SEED + options.seeds)
        else:
            kinds = {"feedback": KINDS, "robust": options.robust, "seeds": options.seeds}
        comparison = compare(
            build_model,
            splits,
            latch={"align": "interpolate"},
            widen=build_model,
            jobs=options.jobs,
            out=out,
            resume=True,
            about={"set": name, "tuned": best},
            **kinds,
            **training,
        )
        write_report(comparison, out)
        print(f"\n{table(comparison)}\n\n{time.time() - start:.0f} s.\n", flush=True)


if __name__ == "__main__":
    main()
