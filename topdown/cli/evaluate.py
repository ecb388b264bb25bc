"""`topdown evaluate` and `topdown predict`: apply a trained model to data."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from topdown.cli.corruption import Corruptions, corrupted
from topdown.cli.options import refuse_unused
from topdown.cli.train import evaluate_splits, print_metrics
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.files import check_writable, make_directory, write_json
from topdown.datasets.formats.tables import is_one_table, is_table
from topdown.datasets.labels import labelled
from topdown.datasets.load import load_splits
from topdown.datasets.report import absences
from topdown.files import require, write_text
from topdown.latch import TopDownLatch
from topdown.masking import pool_mask
from topdown.plots import write_page
from topdown.sequence import lengths_of
from topdown.training.distributed import rank
from topdown.training.model_file import Trained, load_model
from topdown.training.options import DataOptions, File, Names, Number, Positive, Value
from topdown.training.prediction import masks_of, predict


@dataclasses.dataclass(kw_only=True)
class ApplyOptions(DataOptions):
    """Run options.

    Args:
        checkpoint: model.pt, which topdown train wrote
        data: a folder of tables (.csv, .tsv, .parquet, .xlsx) or .csd files, one table (with --columns), an .npz, a store, or
            a pickle or HDF5 file of CMU-MOSEI or CMU-MOSI
        modalities: modalities to read; by default those of the model, which must all be present
        label: column of the label in tables; by default that of the training
        columns: columns of a modality, where one table holds all modalities; by default those of the training
        split: names of splits to use; by default test; all splits if there is no test, or where samples are in no split
        batch_size: samples of a batch
        device: such as cpu or cuda; auto: a GPU if there is one
        force: replace files that exist
    """

    checkpoint: Annotated[Path, Value("CHECKPOINT", Path, positional=True)]
    data: Annotated[Path, Value("DATA", Path, positional=True)]
    split: Names | None = None
    batch_size: Positive = 32
    device: str = "auto"
    force: bool = False


@dataclasses.dataclass(kw_only=True)
class EvaluateOptions(ApplyOptions):
    """Options of `topdown evaluate`.

    Args:
        out: write metrics as JSON, too
        seed: random seed of the corruption
        corrupt: evaluate on corrupted data; KIND is noise (SEVERITY in standard deviations), features, steps or missing
            (SEVERITY is a share)
    """

    out: File | None = None
    seed: Number = 0
    corrupt: Corruptions | None = None


@dataclasses.dataclass(kw_only=True)
class PredictOptions(ApplyOptions):
    """Options of `topdown predict`.

    Args:
        out: .csv file to write (required)
        probabilities: add the probability of every class, or of every one of several labels
        masks: add the mask of every feature, averaged over the steps
        page: draw the masks of some samples as one HTML page
        samples: samples of that page
    """

    out: File
    probabilities: bool = False
    masks: bool = False
    page: File | None = None
    samples: Positive = 6


def evaluate(options: EvaluateOptions) -> None:
    """Prints the metrics of a model on labelled data."""
    if options.out is not None:
        _check_file(options.out, options)
    if not options.corrupt:
        refuse_unused(options, ["seed"], "is the random seed of a corruption: pass --corrupt, too")
    trained = load_model(options.checkpoint)
    splits = _splits(trained, options)
    if options.corrupt:
        splits = {name: corrupted(data, options.corrupt, options.seed) for name, data in splits.items()}
    if not any(data.labels is not None for data in splits.values()):
        raise DataError(f"{options.data}: has no labels to compare with; predict works without")
    for name, data in splits.items():
        if data.labels is not None:
            try:
                trained.description.task.check_labels(data.labels)
            except DataError as error:
                raise DataError(f"{options.data}: {name}: {error}") from None
    task = trained.description.task
    metrics = evaluate_splits(trained.model, splits, task, batch_size=options.batch_size, device=options.device)
    print_metrics(metrics)
    if options.out is not None and rank() == 0:
        make_directory(options.out.parent)
        write_json(options.out, metrics)


def predict_command(options: PredictOptions) -> None:
    """Writes the predictions of a model for every sample of some data, with their ids."""
    out = options.out
    for place in (out, *([options.page] if options.page is not None else [])):
        _check_file(place, options)
    if out.suffix.lower() != ".csv":
        raise DataError(f"{out}: predictions are written as comma-separated text; give a name that ends in .csv")
    if options.page is None:
        refuse_unused(options, ["samples"], "is the number of samples on a page: pass --page, too")
    if options.page == out:
        raise DataError(f"{out}: is named for predictions and for the page; give each a file of its own")
    if options.page is not None and options.page.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"{options.page}: the page is written as HTML; give a name that ends in .html")
    trained = load_model(options.checkpoint)
    latch = trained.model if isinstance(trained.model, TopDownLatch) else None
    if latch is None and (options.masks or options.page):
        raise DataError(
            f"{options.checkpoint}: is of a model without feedback, which has no masks; leave out --masks and --page"
        )
    if options.page is not None:
        require("matplotlib.figure", "plots")
    splits = _splits(trained, options)
    task, several = trained.description.task, len(splits) > 1
    if options.probabilities and task.name == "regression":
        raise DataError(f"{options.checkpoint}: is of regression, which has no probabilities; leave out --probabilities")
    masked = _mask_columns(trained) if latch is not None and options.masks else []
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = task.columns(trained.about.get("label_names") or ())
    of_all = [f"probability of {name}" for name in _outcomes(trained)] if options.probabilities else []
    table.writerow([*(["split"] if several else []), "id", *names, *of_all, *masked])
    first = torch.zeros(0)
    for split, data in splits.items():
        outputs = predict(trained.model, data, batch_size=options.batch_size, device=options.device)
        first = first if len(first) else outputs
        masks = mean_masks(latch, data, options.batch_size) if latch is not None and options.masks else [[]] * len(data)
        chances = task.probabilities(outputs) if options.probabilities else [[]] * len(data)
        for name, row, chance, of_sample in zip(data.ids, _named(trained, outputs), chances, masks, strict=True):
            table.writerow([*([split] if several else []), name, *row, *chance, *of_sample])
    if rank() == 0:
        make_directory(out.parent)
        write_text(out, text.getvalue())
        print(f"{sum(map(len, splits.values()))} predictions written to {out}")
        if latch is not None and options.page is not None:
            make_directory(options.page.parent)
            split, data = next(iter(splits.items()))
            count = _write_page(options.page, latch, data, trained, first, options.samples)
            where = "" if split == "all" else f" of {split}"
            what = f"{count} samples{where}, sorted by their predictions"
            print(f"masks of {what}, drawn in {options.page}")


def _check_file(path: Path, options: ApplyOptions) -> None:
    if not path.name or path.is_dir():
        raise DataError(f"{path}: is a directory; name a file")
    check_writable(path.parent)
    if path.exists() and path.resolve() in (options.checkpoint.resolve(), options.data.resolve()):
        raise DataError(f"{path}: is read by this command, and would be replaced; name another file")
    if path.exists() and not options.force:
        raise DataError(f"{path}: already exists; name another file, or pass --force to replace it")


def mean_masks(latch: TopDownLatch, data: SequenceDataset, batch_size: int) -> list[list[float | str]]:
    """Returns masks averaged over time, per sample and feature; empty where the modality is absent."""
    rows: list[list[float | str]] = [[] for _ in range(len(data))]
    for indices, batch, masks in masks_of(latch, data, batch_size=batch_size):
        for name in (name for name in data.sizes if name in masks):
            valid, size = lengths_of(batch.lengths, name), data.sizes[name]
            pooled = pool_mask(masks[name], valid).reshape(len(indices), size).cpu()
            for row, (i, values) in enumerate(zip(indices.tolist(), pooled.tolist(), strict=True)):
                present = valid is None or int(valid[row]) > 0
                rows[i] += [round(value, 6) for value in values] if present else [""] * size
    return rows


def _mask_columns(trained: Trained) -> list[str]:
    latch = trained.model
    targets = latch.wiring.target_sizes if isinstance(latch, TopDownLatch) else {}
    names = trained.about.get("feature_names") or {}
    sizes = {k: size for k, size in trained.description.input_sizes.items() if k in targets}
    return [f"mask {k} {names[k][i] if k in names else i}" for k, size in sizes.items() for i in range(size)]


def _splits(trained: Trained, options: ApplyOptions) -> dict[str, SequenceDataset]:
    """Returns the selected splits; by default `test`, or all if there is no `test` or some samples are in no split."""
    load_options = {**options.loading(), "modalities": options.modalities or list(trained.description.input_sizes)}
    features = trained.about.get("feature_names")
    if features and is_table(options.data):
        load_options["features"] = features
        if trained.about.get("one_table") and is_one_table(options.data):
            load_options["columns"] = load_options["columns"] or features
        load_options["label"] = options.label or tuple(trained.about.get("label_names") or ())
    splits = _as_drawn(load_splits(options.data, **load_options, moments=trained.moments), trained.about.get("drawn") or {})
    names = options.split or (["test"] if "test" in splits and "all" not in splits else list(splits))
    if missing := [name for name in names if name not in splits]:
        raise DataError(f"{options.data}: has no split {missing[0]!r}; it has {list(splits)}")
    if rank() == 0:
        for remark in dict.fromkeys(remark for name in names for remark in splits[name].report.get("notes", ())):
            print(remark, flush=True)
        for remark in [remark for name in names for remark in _unlike_training(trained, splits[name], name)]:
            print(remark, flush=True)
    return {name: trained.prepare(splits[name], f"{options.data}: {name}") for name in names}


def _unlike_training(trained: Trained, data: SequenceDataset, split: str) -> list[str]:
    """Returns warnings of modalities that are absent in some samples, but in no training sample."""
    in_training = trained.about.get("absent")
    absent = {} if in_training is None else {name: count for name, count in absences(data).items() if name not in in_training}
    where, remedy = f"of {len(data)} samples of {split}", "but in no training sample: do not trust their predictions"
    return [f"WARNING: {name!r} is absent in {count} {where}, {remedy}" for name, count in absent.items()]


def _as_drawn(splits: dict[str, SequenceDataset], drawn: Mapping[str, Sequence[str]]) -> dict[str, SequenceDataset]:
    """Restores the random split of the training: of all samples, or of `train` where `valid` was drawn from it."""
    undrawn = "all" if "test" in drawn else "train"
    as_before = [*splits] == ["all"] if undrawn == "all" else "train" in splits and "valid" not in splits
    if not drawn or not as_before:
        return splits
    data, of = splits[undrawn], {name: split for split, names in drawn.items() for name in names}
    indices: dict[str, list[int]] = {}
    for i, name in enumerate(data.ids):
        indices.setdefault(of.get(name, undrawn), []).append(i)
    parts = {split: data.subset(indices[split]) for split in dict.fromkeys((*drawn, undrawn)) if split in indices}
    return {**parts, **{split: other for split, other in splits.items() if split != undrawn}}


def _write_page(path: Path, latch: TopDownLatch, data: SequenceDataset, trained: Trained, outputs: Tensor, samples: int) -> int:
    """Writes a page with the masks of some samples, in the order of their predictions, and returns how many."""
    chosen = _spread(outputs, samples)
    batch = data.batch(chosen).to(next(latch.parameters()).device)
    with torch.no_grad():
        trace = latch.trace(batch.inputs, batch.lengths)
    classes = trained.about.get("class_names")
    titles = []
    for name, row in zip(batch.ids, _named(trained, outputs[chosen]), strict=True):
        probability = f" (p = {row.pop():.2f})" if trained.description.task.name == "classification" else ""
        titles.append(f"{name}: predicted {', '.join(str(value) for value in row)}{probability}")
    if batch.labels is not None:
        label_rows = zip(batch.labels, labelled(batch.labels), strict=True)
        labels = [(classes[y] if classes else y.tolist()) if valid.all() else "missing" for y, valid in label_rows]
        titles = [f"{title}, label {label}" for title, label in zip(titles, labels, strict=True)]
    write_page(path, trace, titles=titles, lengths=batch.lengths, feature_names=trained.about.get("feature_names"))
    return len(chosen)


def _named(trained: Trained, outputs: Tensor) -> list[list[Any]]:
    """Returns the predictions of each sample, with class names if there are any."""
    classes, rows = trained.about.get("class_names"), trained.description.task.rows(outputs)
    return [[classes[int(row[0])], *row[1:]] for row in rows] if classes else [list(row) for row in rows]


def _outcomes(trained: Trained) -> list[Any]:
    """Returns the names of classes, or of several labels, or their numbers."""
    task = trained.description.task
    names = trained.about.get("class_names" if task.name == "classification" else "label_names")
    return list(names or range(task.output_size))


def _spread(outputs: Tensor, count: int) -> list[int]:
    """Returns samples spread evenly over all predictions in their order."""
    value = outputs.argmax(1) if outputs.dim() == 2 and outputs.shape[1] > 1 else outputs.flatten()
    order = value.argsort(stable=True).tolist()
    count = min(count, len(order))
    return [order[i * (len(order) - 1) // max(1, count - 1)] for i in range(count)]
