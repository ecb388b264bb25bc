"""Runs the sentiment experiment: trains each kind of feedback with each seed, and writes tables, masks and checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from topdown.comparison.variants import mask_spread
from topdown.datasets.errors import DataError
from topdown.datasets.files import check_writable, make_directory, write_json
from topdown.datasets.report import data_table
from topdown.experiments.figure2 import (
    Profiles,
    draw_masks,
    mask_change_table,
    relevance_auc,
    sentiment_profile,
    write_mask_table,
)
from topdown.experiments.options import SentimentOptions
from topdown.experiments.run_files import KINDS, NOT_SAVED, ORACLE, check_no_runs, checkpoint_path, read_runs
from topdown.experiments.sentiment_data import Inputs, check_backbone, load_inputs
from topdown.experiments.sentiment_verdict import verdict_lines
from topdown.experiments.tables import Published, full_report, gap_closed, summarize
from topdown.feedback import FEEDBACK
from topdown.files import require, write_text
from topdown.latch import TopDownLatch
from topdown.masking import Align
from topdown.training.checkpoints import load_checkpoint, save_checkpoint
from topdown.training.distributed import rank, wait, world_size
from topdown.training.locking import locked
from topdown.training.metrics import sentiment_metrics
from topdown.training.prediction import predict
from topdown.training.progress import fit_and_show, write_history
from topdown.training.protocol import Fit
from topdown.training.random_state import seeded
from topdown.training.versions import FORMAT, versions

# Options that may differ between a run and its continuation.
FREE_OPTIONS = ("feedback", "seeds", "out", "device", "resume", "workers", "tensorboard")

Build = Callable[[Mapping[str, int], Any], nn.Module]  # takes the features of each modality, and the options
Run = dict[str, Any]


class Experiment(NamedTuple):
    """Describes a sentiment experiment.

    Args:
        name: Name for results.json.
        baseline: Name of the model without feedback.
        build: Function that builds the backbone from the features of each modality and the options.
        published: Rows of the paper to set beside the results.
        options: Class of its options. (Default: those of every experiment)
        align: Option `align` of the latches: see :class:`topdown.TopDownLatch`. (Default: "error")
        protocol: Further options of :func:`topdown.training.fit`. (Default: none)
    """

    name: str
    baseline: str
    build: Build
    published: Published
    options: type[SentimentOptions] = SentimentOptions
    align: Align = "error"
    protocol: Mapping[str, Any] = MappingProxyType({})


def run_experiment(options: SentimentOptions, experiment: Experiment) -> None:
    """Trains every kind of feedback with every seed, and writes tables, masks and checkpoints.

    Args:
        options: Options of the experiment.
        experiment: Experiment to run.
    """
    out = options.out
    if out is not None:
        require("matplotlib.figure", "experiments")  # fails before hours of training
        check_writable(out)
        check_no_runs(out, resume=options.resume)
    inputs = load_inputs(options)
    configuration = _configuration(options, experiment, inputs)
    runs = [] if out is None else read_runs(out, configuration)
    check_backbone(experiment.build(inputs.splits["train"].sizes, options), inputs, options.data)
    wait()  # all processes read the directory before one changes it

    def write(runs: Sequence[Run], *, complete: bool) -> None:
        if out is not None and rank() == 0:
            write_json(out / "results.json", _results(runs, options, configuration, inputs, complete=complete))
            histories = [({"kind": run["kind"], "seed": run["seed"]}, run["history"]) for run in runs]
            write_history(out / "history.csv", histories)

    if out is not None and rank() == 0:
        make_directory(out)
        make_directory(out / "checkpoints")
    with locked(out if rank() == 0 else None):
        write(runs, complete=False)
        wait()
        print(data_table(inputs.splits), flush=True)
        if out is None:
            print(NOT_SAVED, flush=True)
        planned = [(seed, kind) for seed in range(options.seeds) for kind in _kinds(options)]
        missing = [pair for pair in planned if pair not in {(run["seed"], run["kind"]) for run in runs}]
        if runs:
            print(f"{len(planned) - len(missing)} of {len(planned)} runs are there already", flush=True)
        outputs = {}
        for seed, kind in missing:
            run, outputs[kind, seed] = _train(kind, seed, options, experiment, inputs)
            runs = [*runs, run]
            write(runs, complete=False)
            if out is not None and rank() == 0:
                checkpoint_path(out, kind, seed, unfinished=True).unlink(missing_ok=True)
        runs = sorted(runs, key=lambda run: ((*KINDS, ORACLE).index(run["kind"]), run["seed"]))
        write(runs, complete=True)
        names = _names(experiment.baseline)
        published = experiment.published if inputs.is_mosei else {}
        source = f"{inputs.provenance} {inputs.counts()}."
        models = {} if out is None else {key: _load(out, *key, options, experiment, inputs) for key in _keys(runs)}
        for key in [key for key in models if key not in outputs]:
            outputs[key] = predict(models[key], inputs.splits["test"], batch_size=options.batch_size, device=options.device)
        said = verdict_lines(runs, outputs, inputs.splits["test"].labels)
        table = full_report(runs, names, source=source, published=published, verdict=said)
        print(f"\n{table}", flush=True)
        if out is not None and rank() == 0:
            latches = {key: model for key, model in models.items() if isinstance(model, TopDownLatch)}
            test, device = inputs.splits["test"], options.device
            profiles = {key: sentiment_profile(latch, test, device=device) for key, latch in latches.items()}
            table += f"\n\n{mask_change_table(profiles)}" if profiles else ""
            write_text(out / "table.md", table + "\n")
            drawn = _write_masks(out, runs, profiles, inputs)
            print(f"Written to {out}: {', '.join(['results.json', 'history.csv', 'table.md', *drawn, 'checkpoints'])}")


def _kinds(options: SentimentOptions) -> list[str]:
    return [*dict.fromkeys(options.feedback), *([ORACLE] if options.data is None else [])]


def _names(baseline: str) -> dict[str, str]:
    names = {kind: f"{baseline} + MMLatch ({kind})" for kind in FEEDBACK}
    return names | {"none": baseline, ORACLE: f"{baseline}, irrelevant features removed (oracle)"}


def _configuration(options: SentimentOptions, experiment: Experiment, inputs: Inputs) -> dict[str, Any]:
    """Returns the options that must be the same when an experiment is resumed."""
    chosen = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items() if k not in FREE_OPTIONS}
    if options.wants_aligned is not None:
        chosen["aligned"] = options.wants_aligned
    if options.data is None:
        chosen["samples"] = options.samples or 1000
    else:
        chosen |= {"data": inputs.source, "sha256": inputs.sha256}
        chosen.pop("aligned", None)  # the file determines it
    return {"experiment": experiment.name, **chosen}


def _model(kind: str, seed: int, options: SentimentOptions, experiment: Experiment, sizes: Mapping[str, int]) -> nn.Module:
    with seeded(seed):  # the same initial backbone for every kind
        backbone = experiment.build(sizes, options)
        if kind in ("none", ORACLE):
            return backbone
        return TopDownLatch(backbone, kind, align=experiment.align, start="random")  # type: ignore[arg-type]


def _keys(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """Returns kind and seed of the runs on all of the data."""
    return [(run["kind"], run["seed"]) for run in runs if run["kind"] != ORACLE]


def _train(kind: str, seed: int, options: SentimentOptions, experiment: Experiment, inputs: Inputs) -> tuple[Run, Tensor]:
    """Trains and tests one model, saves its weights, and returns its record and its predictions for the test samples."""
    splits = inputs.masked() if kind == ORACLE else inputs.splits
    sizes = splits["train"].sizes
    model = _model(kind, seed, options, experiment, sizes)
    unfinished = None if options.out is None else checkpoint_path(options.out, kind, seed, unfinished=True)
    if unfinished is not None and not options.resume and rank() == 0:
        unfinished.unlink(missing_ok=True)
    wait()
    label, fit_options = f"{kind} seed {seed}", {"checkpoint": unfinished, **experiment.protocol}
    fitted = fit_and_show(model, splits, options, seed, label, **fit_options)
    metrics = {}
    for split in ("valid", "test"):
        outputs = predict(model, splits[split], batch_size=options.batch_size, device=options.device)
        metrics[split] = sentiment_metrics(outputs, splits[split].labels)
    run = {"kind": kind, "seed": seed, **_described(fitted), "metrics": metrics["test"], "validation": metrics["valid"]}
    run["most_epochs"] = options.epochs
    run["parameters"] = sum(p.numel() for p in model.parameters())
    if isinstance(model, TopDownLatch):
        run["masks"] = mask_spread(model, splits["test"])
    if inputs.relevance and isinstance(model, TopDownLatch):
        run["relevance_auc"] = relevance_auc(model, splits["test"], inputs.relevance["test"], device=options.device)
    if options.out is not None and rank() == 0:
        state = {"model": model.cpu().state_dict(), "kind": kind, "seed": seed, "epoch": fitted.best_epoch}
        latch_options = model.options() if isinstance(model, TopDownLatch) else None
        state |= {"input_sizes": sizes, "data": inputs.source, "latch": latch_options}
        save_checkpoint(state, checkpoint_path(options.out, kind, seed))
    return run, outputs


def _described(fitted: Fit) -> Run:
    return {
        "validation_loss": fitted.best_loss,
        "best_epoch": fitted.best_epoch,
        "epochs": len(fitted.history),
        "seconds": sum(record["seconds"] for record in fitted.history),
        "history": fitted.history,
    }


def _results(
    runs: Sequence[Run], options: SentimentOptions, configuration: Mapping[str, Any], inputs: Inputs, *, complete: bool
) -> dict[str, Any]:
    """Returns the content of results.json."""
    closed = {k: {"share": s, "gap": g, "seeds": n} for k, (s, g, n) in gap_closed(runs).items()}
    return {
        "format": FORMAT,
        "note": inputs.provenance,
        "complete": complete,
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]).encode("utf-8", "replace").decode(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "configuration": configuration,
        "device": options.device,
        "processes": world_size(),
        "versions": versions(),
        "data": {split: data.report for split, data in inputs.splits.items()},
        "runs": runs,
        "summary": summarize(runs),
        "share_of_oracle_gap_closed": closed,
    }


def _load(out: Path, kind: str, seed: int, options: SentimentOptions, experiment: Experiment, inputs: Inputs) -> nn.Module:
    """Loads a trained model.

    Raises:
        DataError: if its checkpoint is of another model.
    """
    model, path = _model(kind, seed, options, experiment, inputs.splits["train"].sizes), checkpoint_path(out, kind, seed)
    try:
        model.load_state_dict(load_checkpoint(path)["model"])
    except (KeyError, RuntimeError):
        raise DataError(f"{path}: of another model; delete it and go on with --resume") from None
    return model


def _write_masks(out: Path, runs: Sequence[Run], profiles: Profiles, inputs: Inputs) -> list[str]:
    """Writes mean masks as a table and as a picture, and returns the names of the files."""
    write_mask_table(out / "masks.csv", profiles, data=inputs.source)
    if not profiles:
        return ["masks.csv"]
    best = {kind: entry["best_seed"] for kind, entry in summarize(runs).items()}
    title = f"Mean top-down mask per feature and sentiment class, test split of {inputs.source}"
    relevance = {name: shown.mean(0) for name, shown in inputs.relevance.get("test", {}).items()}
    draw_masks(out / "masks.png", profiles, best=best, title=title, relevance=relevance or None)
    return ["masks.csv", "masks.png"]
