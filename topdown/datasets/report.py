"""Formats data set reports as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from topdown.datasets.data import SequenceDataset
from topdown.datasets.labels import labelled
from topdown.files import require


def data_table(splits: Mapping[str, SequenceDataset]) -> str:
    """Returns the reports of the splits as text: source, N, sizes, lengths, labels, and everything unusual."""
    rows = [("split", "N", "modality", "size", "dtype", "steps min/median/max", "padding", "replaced by 0")]
    notes = []
    for split, data in splits.items():
        for i, (name, entry) in enumerate(data.report["modalities"].items()):
            steps = entry.get("lengths")
            rows.append(
                (
                    split if i == 0 else "",
                    str(len(data)) if i == 0 else "",
                    name,
                    str(entry["size"]),
                    entry.get("dtype", "float32"),
                    f"{steps['minimum']} / {steps['median']:g} / {steps['maximum']}" if steps else "no time",
                    entry.get("padding", "none"),
                    ", ".join(f"{n} {kind}" for kind, n in entry.get("replaced", {}).items() if n) or "none",
                )
            )
            notes += [f"{split} {name}: {remark}" for remark in _notes(entry)]
        labels = data.report["labels"]
        if labels is None:
            notes.append(f"labels of {split}: none")
        elif (classes := _classes(data)) is not None:
            notes.append(f"labels of {split}: " + ", ".join(f"{name} {count}" for name, count in classes.items() if count))
        elif (columns := _label_columns(data)) is not None:
            notes.append(f"labels of {split}: {columns}")
        elif "minimum" in labels:
            span = f"{labels['minimum']:.2f} to {labels['maximum']:.2f}"
            notes.append(f"labels of {split}: {span}, {labels['zeros']:.1%} exactly 0")
        if labels is not None and labels.get("missing"):
            notes.append(f"{labels['missing']} of {len(data)} samples of {split} lack a label; losses and metrics leave it out")
        notes += [f"{split}: {remark}" for remark in _notes_of_split(data.report)]
    if "train" in splits:
        notes += [*_constant_features(splits["train"]), *_odd_classes(splits["train"])]
    train_classes = (_classes(splits["train"]) if "train" in splits else None) or {}
    for split, data in splits.items() if train_classes else ():
        for name in [name for name, count in (_classes(data) or {}).items() if count and not train_classes.get(name)]:
            notes.append(f"WARNING: {split} has the class {name}, of which train has no sample")
    report = next(iter(splits.values())).report
    return "\n".join([*_about(report), markdown(rows), *notes, *_notes_of_all(report)])


def absences(data: SequenceDataset) -> dict[str, int]:
    """Returns the number of samples in which each modality is absent; omits modalities that are always present.

    Example:
        >>> import numpy as np
        >>> absences(SequenceDataset.from_arrays({"a": [np.ones((1, 2)), np.ones((0, 2))], "b": np.ones((2, 3))}))
        {'a': 1}
    """
    return {name: count for name, steps in data.lengths.items() if (count := int((steps == 0).sum()))}


def _classes(data: SequenceDataset) -> dict[str, int] | None:
    """Returns the number of samples of each class; None where labels are no classes."""
    if data.labels is None or data.labels.is_floating_point() or data.labels.dim() != 1:
        return None
    labels = data.labels[labelled(data.labels)]
    if not len(labels) or int(labels.min()) < 0:
        return None
    counts = labels.bincount().tolist()
    names = data.report.get("class_names") or [str(i) for i in range(len(counts))]
    return dict(zip(names, [*counts, *[0] * (len(names) - len(counts))], strict=True))


def _label_columns(data: SequenceDataset) -> str | None:
    """Describes each of several labels: how many are 1, or their range; None for one label."""
    if data.labels is None or data.labels.dim() != 2 or data.labels.shape[1] < 2:
        return None
    said = []
    for name, column in zip(data.report.get("label_names") or range(data.labels.shape[1]), data.labels.T, strict=True):
        values = column[labelled(column)]
        if not len(values):
            said.append(f"{name} none")
        elif values.is_floating_point():
            said.append(f"{name} {float(values.min()):.6g} to {float(values.max()):.6g}")
        else:
            said.append(f"{name} {int((values == 1).sum())} of {len(values)}")
    return ", ".join(said)


def _constant_features(data: SequenceDataset) -> list[str]:
    """Returns remarks about constant features of the training samples, from which nothing can be learned."""
    notes = []
    for name, entry in data.report["modalities"].items():
        if constant := entry.get("constant"):
            first = constant["first"]
            feature = data.report["feature_names"][name][first] if data.report.get("feature_names") else first
            same = f"{constant['features']} of {entry['size']} features have one value in all samples, such as {feature!r}"
            notes.append(f"train {name}: {same}; nothing can be learned from them")
    return notes


MANY_CLASSES = 20  # of whole numbers, which may be no classes


def _odd_classes(data: SequenceDataset) -> list[str]:
    """Returns remarks about integers that may be no classes, and about classes that do not begin at 0."""
    counts, notes = _classes(data) or {}, []
    y = data.labels
    if y is not None and y.is_floating_point() and y.dim() == 1 and not data.report.get("label_names"):  # tables say so
        values = y[labelled(y)].unique()
        if len(values) <= MANY_CLASSES < len(y) and bool((values == values.round()).all()):
            what = f"labels are {len(values)} whole numbers in {y.dtype}, taken as numbers to predict"
            return [f"{what}; if they are classes, save them as integers"]
    if data.report.get("class_names") or not counts:
        return []
    if len(counts) > MANY_CLASSES:
        notes.append(f"WARNING: {len(counts)} classes of whole numbers; if they are numbers to predict, pass --task regression")
    elif not next(iter(counts.values())):
        first = next((name for name, count in counts.items() if count), "")
        notes.append(f"classes begin at {first}, so the model has an output for 0, too; number them from 0 to save it")
    return notes


NOTES = {
    "filled": "{} missing values got the mean of their feature",
    "all_zero_samples": "{} samples are all zeros",
    "samples_without_steps": "absent in {} samples",
    "samples_with_zeros_at_the_start": "{} samples begin with rows of zeros, kept",
    "samples_with_zeros_at_the_end": "{} samples end with rows of zeros, kept",
    "contradicted_hints": "{} lengths in the file contradict the rows",
    "unknown_words": "{} words have no vector, and got zeros",
    "words_without_frames": "{} words have no frame, and got zeros",
    "absent_videos": "{} videos are absent, and got zeros",
    "absent_samples": "{} samples are absent",
}


def _notes(entry: Mapping[str, Any]) -> list[str]:
    notes = [said.format(entry[key]) for key, said in NOTES.items() if entry.get(key)]
    ignored = ", ".join(f"{n} {kind}" for kind, n in entry.get("frame_values_ignored", {}).items() if n)
    if ignored:
        notes.append(f"{ignored} left out of averages over frames")
    if rounded := entry.get("rounded"):
        left, all_of_them = rounded["distinct"]
        what = f"float32 has {left} values for the {all_of_them} of feature {rounded['first']}"
        remedy = "kept in float64 until they are standardized, as they should be"
        notes.append(f"{what} ({rounded['features']} such features); {remedy}")
    return notes


def _notes_of_split(report: Mapping[str, Any]) -> list[str]:
    ids = report.get("ids", {})
    notes = (
        [f"{ids['duplicates']} samples have the id of another, such as {ids['examples'][0]}"] if ids.get("duplicates") else []
    )
    for other, shared in ids.get("shared", {}).items():
        notes.append(f"LEAK: {shared['count']} ids are in {other}, too, such as {shared['examples'][0]}")
    notes += [f"left out: {name!r} {why}" for name, why in report.get("left_out", {}).items()]
    if report.get("segments_without_words"):
        notes.append(f"{report['segments_without_words']} segments have no words, and got a step of zeros")
    if "subset_of" in report:
        notes.append(f"a subset of {report['subset_of']['samples']} samples, about all of which modalities are described")
    return notes


def _notes_of_all(report: Mapping[str, Any]) -> list[str]:
    notes = [*report.get("notes", [])]
    notes += [f"{name} is from {entry['from']}" for name, entry in report["modalities"].items() if "from" in entry]
    if report.get("files_not_used"):
        notes.append(f"not used: {', '.join(report['files_not_used'])}")
    if report.get("segments_in_no_fold"):
        notes.append(f"{report['segments_in_no_fold']} segments are in no fold, and were left out")
    if videos := report.get("videos_without_segments"):
        notes.append(f"{len(videos)} videos of the folds have no segments, such as {videos[0]}")
    return notes


def _about(report: Mapping[str, Any]) -> list[str]:
    source = report.get("source")
    if source is None:
        return []
    published = f"known as {source['known_as']}" if source["known_as"] else "not a file that is known here"
    return [f"{source['name']}: {source['layout']}, sha256 {source['sha256'][:16]}..., {published}", ""]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as a markdown table; the first row is the head.

    Raises:
        ImportError: without the extra `datasets`.

    Example:
        >>> print(markdown([("model", "MAE"), ("ours", "0.59")]))
        | model   | MAE   |
        |---------|-------|
        | ours    | 0.59  |
    """
    text: str = require("tabulate", "datasets").tabulate(rows[1:], rows[0], tablefmt="github", disable_numparse=True)
    return text
