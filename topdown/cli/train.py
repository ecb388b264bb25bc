"""`topdown train`: trains one model on a data set, and saves it for later use."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from topdown.cli.corruption import Corruptions, augmentation, corrupted
from topdown.cli.options import LatchOptions, ModelOptions, refuse_unused
from topdown.datasets.corruption import Moments
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.files import check_writable, make_directory, read_json, write_json
from topdown.datasets.formats.helpers.random_split import NAMES
from topdown.datasets.formats.tables import is_table
from topdown.datasets.load import load_splits
from topdown.datasets.report import absences, data_table
from topdown.experiments.run_files import NOT_SAVED, KindOrNone
from topdown.training.distributed import rank, wait, world_size
from topdown.training.locking import locked
from topdown.training.losses import class_weights
from topdown.training.model_file import Description, build_model, save_model
from topdown.training.options import FEW_UPDATES, Number, TrainingOptions, Value
from topdown.training.prediction import predict
from topdown.training.progress import fit_and_show, write_history
from topdown.training.scaled_output import TargetMoments, target_moments
from topdown.training.tasks import Task, task_of, with_label_type
from topdown.training.versions import FORMAT, versions

Splits = dict[str, SequenceDataset]
NOT_WRITTEN = ("resume",)
MAY_CHANGE = ("data", "out", "device", "workers", "tensorboard", "epochs")  # when a training is resumed


@dataclasses.dataclass(kw_only=True)
class TrainOptions(ModelOptions, TrainingOptions):
    """Options of `topdown train`.

    Args:
        data: a folder of tables (.csv, .tsv, .parquet, .xlsx) or .csd files, one table (with --columns), an .npz, a store, or
            a pickle or HDF5 file of CMU-MOSEI or CMU-MOSI
        feedback: kind of feedback, or none
        seed: random seed
        corrupt: corrupt the training data, differently in each epoch; KIND is noise (SEVERITY in standard deviations),
            features, steps or missing (SEVERITY is a share)
    """

    data: Annotated[Path, Value("DATA", Path, positional=True)]
    feedback: KindOrNone = "lstm"
    seed: Number = 0
    corrupt: Corruptions | None = None


def load_for_training(path: Path, options: ModelOptions) -> tuple[Splits, Task, dict[str, Moments] | None]:
    """Loads, checks and standardizes the splits of a file.

    Args:
        path: Path of the data.
        options: Options of the data and of the model.

    Returns:
        Splits, the task, and the moments of the training split that standardize them, or None.

    Raises:
        DataError: if there is no split `train` or `valid`, or labels do not fit.
    """
    if options.split is None:
        refuse_unused(options, ["split_seed"], "is for a random split: pass --split, too")
    loaded = load_splits(path, **options.loading())
    splits = {name: data.as_sequences() if data.vectors else data for name, data in loaded.items()}
    for needed in ("train", "valid"):
        if needed not in splits and all(data.labels is None for data in splits.values()) and path.is_dir():
            remedy = "add a table labels.csv with the columns id, split and the label"
            raise DataError(f"{path}: has no split {needed!r} and no labels; its splits are {list(splits)}; {remedy}")
        if needed not in splits:
            other = next((name for name in ("val", "dev", "validation") if name in splits), None)
            remedy = f"call {other!r} 'valid'" if other else "give each sample one of train, valid and test as its split"
            shares = {"all": "0.7 0.15 0.15", "train": "0.8 0.2", "train test": "0.8 0.2 to draw it from train"}
            remedy += f", or pass --split {shares[here]}" if (here := " ".join(splits)) in shares and is_table(path) else ""
            raise DataError(f"{path}: has no split {needed!r}; its splits are {list(splits)}; {remedy}")
        if splits[needed].labels is None:
            raise DataError(f"{path}: {needed} has no labels to learn from")
    try:
        task = task_of(splits, options.task)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    splits = {name: with_label_type(data, task) for name, data in splits.items()}
    moments = None if options.raw else splits["train"].moments()
    if moments is not None:
        splits = {name: data.standardized(moments) for name, data in splits.items()}
    return splits, task, moments


def describe(path: Path, options: ModelOptions, splits: Splits, task: Task, feedback: str) -> Description:
    """Returns the description of the model that the options specify.

    Raises:
        DataError: if the backbone does not take the data.
    """
    train = splits["train"]
    if tokens := [name for name, ragged in train.sequences.items() if ragged.are_tokens]:
        remedy = "give vectors of them, or train a model of your own with topdown.training.fit"
        raise DataError(f"{path}: {tokens[0]!r} holds ids of tokens, which the backbones of this command do not take; {remedy}")
    aligned = all(data.aligned for data in splits.values())
    backbone = options.backbone or ("lstm" if aligned or len(train.sizes) == 1 else "mult")
    if backbone == "lstm" and not aligned:
        raise DataError(f"{path}: its modalities have steps of their own, which --backbone lstm does not take; use mult")
    if backbone == "lstm":
        refuse_unused(options, ["layers"], "is for --backbone mult: leave it out, or choose mult")
    latch = None if feedback == "none" else {"feedback": feedback, **options.latch(aligned=aligned)}
    return Description(backbone, dict(train.sizes), task, options.size, options.layers, options.dropout, latch)


def moments_of_target(options: ModelOptions, splits: Splits, task: Task) -> TargetMoments | None:
    """Returns mean and standard deviation of the targets of regression; None for other tasks, and for raw data."""
    return target_moments(splits["train"].labels) if task.name == "regression" and not options.raw else None


def train(options: TrainOptions) -> None:
    """Trains a model, and writes the model, its history and its metrics."""
    out, earlier = options.out, dict[str, Any]()
    if options.feedback == "none":
        names = [*inspect.get_annotations(LatchOptions), "feedback_learning_rate"]
        refuse_unused(options, names, "is an option of feedback: leave it out with --feedback none")
    if options.resume and out is None:
        raise DataError("--resume needs --out: the directory of the training to go on with")
    if out is not None:
        check_writable(out)
        with locked(out if out.exists() and rank() == 0 else None):  # fails if a training is running
            pass
        existing = next((out / name for name in ("model.pt", "training.pt", "results.json") if (out / name).exists()), None)
        if existing is not None and not options.resume:
            raise DataError(f"{existing}: already exists; go on with --resume, or choose another --out")
        if existing is not None and not (out / "training.pt").exists():
            raise DataError(f"{existing}: belongs to no training that can go on, which has a training.pt; choose another --out")
        earlier = {} if existing is None else read_earlier(out / "config.json")  # config.json alone says nothing
        check_same(out / "config.json", earlier, options)
    splits, task, moments = load_for_training(options.data, options)
    if options.class_weight is not None:
        class_weights(options.class_weight, splits["train"].labels, task.loss)
    batch_size, patience = options.batches(len(splits["train"]), earlier)
    options.batch_size, options.patience = batch_size, patience
    description = describe(options.data, options, splits, task, options.feedback)
    target = moments_of_target(options, splits, task)
    build_model(description, options.seed, target)
    corrupted(splits["train"], options.corrupt or (), 0)
    wait()  # all processes read the directory before one changes it
    if out is not None and rank() == 0:
        make_directory(out)
    with locked(out if rank() == 0 else None):
        if out is not None and rank() == 0:
            config = {k: v for k, v in used_options(options).items() if v is not None and k not in ("data", "out", "device")}
            write_json(out / "config.json", config)
        wait()
        _train(options, splits, description, moments, target)


def _train(
    options: TrainOptions,
    splits: Splits,
    description: Description,
    moments: Mapping[str, Moments] | None,
    target: TargetMoments | None,
) -> None:
    """Trains the described model on checked data, in an existing directory."""
    out, task, batch_size, patience = options.out, description.task, options.batch_size, options.patience
    assert batch_size is not None
    assert patience is not None
    print(data_table(splits), flush=True)
    print(
        f"\n{task.name}: {task.output_size} output{'s' if task.output_size > 1 else ''} of {description.backbone}, "
        f"feedback {options.feedback}, batches of {batch_size}, patience of {patience} epochs",
        flush=True,
    )
    if out is None:
        print(NOT_SAVED, flush=True)
    model = build_model(description, options.seed, target)
    augment = augmentation(options.corrupt, options.seed)
    checkpoint = None if out is None else out / "training.pt"
    fit_options: dict[str, Any] = {
        "loss": task.loss,
        "augment": augment,
        "checkpoint": checkpoint,
        "class_weight": options.class_weight,
        "feedback_learning_rate": options.feedback_learning_rate,
    }
    fitted = fit_and_show(model, splits, options, options.seed, options.feedback, **fit_options)
    held_out = {name: data for name, data in splits.items() if name != "train"}
    metrics = evaluate_splits(model, held_out, task, batch_size=batch_size, device=options.device)
    print(f"\nbest epoch {fitted.best_epoch} of {len(fitted.history)}, validation loss {fitted.best_loss:.4f}")
    print_metrics(metrics)
    updates = len(fitted.history) * math.ceil(len(splits["train"]) / batch_size)
    if updates < FEW_UPDATES:
        what = f"WARNING: {updates} updates are few, of {len(splits['train'])} samples in batches of {batch_size}"
        stopped = len(fitted.history) < options.epochs
        longer = f"--patience {3 * patience}" if stopped else f"--epochs {10 * options.epochs}"
        smaller = "--batch-size 4, " if batch_size > 4 else ""
        print(f"{what}: try {smaller}{longer}, --learning-rate {min(1.0, 3 * options.learning_rate):g}", flush=True)
    if out is None or rank():
        return
    about = {
        "seed": options.seed,
        "epoch": fitted.best_epoch,
        "target": target,
        "data": options.data.name,
        "feature_names": splits["train"].report.get("feature_names"),
        "label_names": splits["train"].report.get("label_names"),
        "class_names": splits["train"].report.get("class_names"),
        "one_table": options.columns is not None,
        "drawn": {name: splits[name].ids for name in NAMES[: len(options.split)]} if options.split else None,
        "absent": absences(splits["train"]),
    }
    save_model(out / "model.pt", model, description, moments, about)
    write_history(out / "history.csv", [({}, fitted.history)])
    write_json(
        out / "results.json",
        {
            "format": FORMAT,
            "command": " ".join(["topdown", *sys.argv[1:]]).encode("utf-8", "replace").decode(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "configuration": used_options(options),
            "processes": world_size(),
            "versions": versions(),
            "data": {split: data.report for split, data in splits.items()},
            "parameters": sum(p.numel() for p in model.parameters()),
            "best_epoch": fitted.best_epoch,
            "validation_loss": fitted.best_loss,
            "metrics": metrics,
        },
    )
    print(f"Written to {out}: model.pt, results.json, history.csv, config.json, training.pt (for --resume)")


def read_earlier(path: Path) -> dict[str, Any]:
    """Returns the options of an earlier run from their file; empty if there is no file."""
    return read_json(path) if path.exists() else {}


def check_same(path: Path, before: Mapping[str, Any], options: TrainOptions) -> None:
    """Checks that a resumed training has the options with which it began, from their file.

    Raises:
        DataError: naming the first option that differs.
    """
    now = json.loads(json.dumps(used_options(options)))
    for name in dict.fromkeys([*before, *now]) if before else ():
        if name in ("batch_size", "patience") and now.get(name) is None:  # the number of samples determines them
            continue
        if name not in MAY_CHANGE and before.get(name) != now.get(name):
            raise DataError(
                f"{path.parent}: was trained with {name} {before.get(name)}, not {now.get(name)}; "
                f"repeat its options, as in --config {path}, or choose another --out"
            )


def evaluate_splits(
    model: nn.Module, splits: Mapping[str, SequenceDataset], task: Task, *, batch_size: int, device: str
) -> dict[str, dict[str, float]]:
    """Returns the metrics of a model on each split that has labels."""
    metrics = {}
    for split, data in splits.items():
        if data.labels is not None:
            outputs = predict(model, data, batch_size=batch_size, device=device)
            metrics[split] = task.metrics(outputs, data.labels)
    return metrics


def print_metrics(metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Prints a line for each split."""
    for split, values in metrics.items():
        print(f"{split}: " + ", ".join(f"{k} {v:.4f}" if k != "n" else f"n {v:.0f}" for k, v in values.items()), flush=True)


def used_options(options: TrainOptions) -> dict[str, Any]:
    """Returns the options in the form that `--config` reads."""
    used = {name: value for name, value in vars(options).items() if name not in NOT_WRITTEN}
    for name, value in used.items():
        if isinstance(value, Path):
            used[name] = str(value)
    if used.get("corrupt"):
        used["corrupt"] = [str(corruption) for corruption in used["corrupt"]]
    if used.get("sources"):
        used["sources"] = dict(used["sources"])
    for name in ("stream", "columns"):
        if used.get(name):
            used[name] = [f"{modality}={value}" for modality, value in used[name]]
    return used
