"""Converts tables to samples by the columns id, split, label and features."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import join_names, normalized
from topdown.datasets.formats.helpers.random_split import draw_split
from topdown.datasets.formats.helpers.table_files import Table, numbers
from topdown.datasets.labels import MISSING
from topdown.datasets.raw_samples import Array, RawSplit, Stream
from topdown.files import require
from topdown.wiring import nearest

SPLITS = {"training": "train", "val": "valid", "dev": "valid", "validation": "valid", "eval": "valid", "testing": "test"}
TOKENS = ("token", "token_id", "token_ids", "input_id", "input_ids")
Label = str | Sequence[str] | None


def make_samples(
    labels: Table | None,
    modalities: Mapping[str, tuple[Table, list[str]]],
    label: Label,
    shares: Sequence[float] | None,
    seed: int,
    features: Mapping[str, Sequence[str]] | None,
    where: str,
) -> dict[str, RawSplit]:
    """Makes the samples of each split.

    Args:
        labels: Table with a row for each sample, or None.
        modalities: Table of each modality, and its columns there.
        label: Option of :func:`topdown.datasets.load_splits`.
        shares: Shares of a random split, or None.
        seed: Random seed of that split.
        features: Option of :func:`topdown.datasets.load_splits`.
        where: Name of the source, for messages.

    Raises:
        DataError: naming the table, the line and the column that does not fit.
    """
    place = str(labels.path) if labels else where
    tables = {name: _Modality(table, columns, (features or {}).get(name)) for name, (table, columns) in modalities.items()}
    notes = [remark for table in tables.values() for remark in table.notes]
    if labels is None:
        if isinstance(label, str):
            raise DataError(f"{where}: has no table 'labels', which label={label!r} needs; add one")
        parsed = _Labels([*dict.fromkeys(i for table in tables.values() for i in table.ids)], None, [], None, [], [])
    else:
        parsed = _read_labels(labels, label, modalities)
    ids, values, splits = parsed.ids, parsed.values, parsed.splits
    notes += parsed.notes
    for name, table in tables.items():
        if stray := sorted(set(table.ids) - set(ids)):
            what = f"{len(stray)} ids are not in {labels.path.name if labels else 'labels'}, such as {stray[0]!r}"
            raise DataError(f"{modalities[name][0].path}: {what}; leave them out, or add them")
    everywhere = {i for table in tables.values() for i in table.ids}
    if lost := [i for i in ids if i not in everywhere]:
        raise DataError(f"{place}: {lost[0]!r} has no rows in any table ({len(lost)} such ids) of {join_names(tables)}")
    if shares is not None:
        splits = _drawn(splits, shares, seed, values, place)
        alike = parsed.classes or (values is not None and values.ndim == 1 and values.dtype.kind == "i")
        what = "split at random" if len(shares) == 3 else "valid drawn from train at random"
        notes.append(f"{what} with seed {seed}" + (", each class alike" if alike else ""))
    splits = splits or ["all"] * len(ids)
    feature_names = {name: table.features for name, table in tables.items()}
    about = {"feature_names": feature_names, "label_names": parsed.names, "notes": [*dict.fromkeys(notes)]}
    samples = {}
    usual = ["train", "valid", "test"]
    for split in sorted(dict.fromkeys(splits), key=lambda name: usual.index(name) if name in usual else len(usual)):
        at = [i for i, other in enumerate(splits) if other == split]
        parts = {name: table.of([ids[i] for i in at]) for name, table in tables.items()}
        vectors = {name: part for name, part in parts.items() if not isinstance(part, Stream)}
        samples[split] = RawSplit(
            None if values is None else values[at],
            [ids[i] for i in at],
            {name: part for name, part in parts.items() if isinstance(part, Stream)},
            {name: vector for name, (vector, _) in vectors.items()},
            about | ({"class_names": parsed.classes} if parsed.classes else {}),
            {name: lengths for name, (_, lengths) in vectors.items() if not lengths.all()},
            fills=True,
        )
    return samples


def _drawn(splits: list[str] | None, shares: Sequence[float], seed: int, values: Array | None, place: str) -> list[str]:
    """Draws splits of samples that have none, with three shares; or valid from train, with two."""
    if splits is None:
        if len(shares) == 2:
            what = "has no column 'split' with samples of 'train', which two shares divide"
            raise DataError(f"{place}: {what}; give three (--split 0.7 0.15 0.15)")
        return draw_split(shares, seed, values)
    if len(shares) != 2:
        remedy = "leave out split= (--split), or give two shares, which draw valid from train"
        raise DataError(f"{place}: has a column 'split' already; {remedy}")
    if "valid" in splits or "train" not in splits:
        existing = f"has the splits {sorted(set(splits))}, so that valid cannot be drawn from train"
        raise DataError(f"{place}: {existing}; leave out split= (--split)")
    at = [i for i, name in enumerate(splits) if name == "train"]
    parts = dict(zip(at, draw_split(shares, seed, None if values is None else values[at]), strict=True))
    return [parts.get(i, name) for i, name in enumerate(splits)]


class _Modality:
    """The rows of one modality, by sample.

    Args:
        table: Table.
        columns: Columns that may be features.
        wanted: Features to use, in this order; the report names the others. (Default: all)
    """

    def __init__(self, table: Table, columns: list[str], wanted: Sequence[str] | None = None) -> None:
        frame, place = table.frame, table.column("id")
        available = [name for name in columns if name != place and name != "id"]
        self.features = available if wanted is None else [*wanted]
        self.notes = [f"{table.path.name}: {remark}" for remark in table.notes]
        if missing := [name for name in self.features if name not in available]:
            raise DataError(f"{table.path}: has no column {missing[0]!r}, which is wanted; it has {join_names(available)}")
        if unused := [name for name in available if name not in self.features]:
            self.notes.append(f"{table.path.name}: columns that are not used: {', '.join(unused)}")
        if not self.features:
            raise DataError(f"{table.path}: has no column beside 'id': give each feature one")
        if not len(frame):
            raise DataError(f"{table.path}: has no rows; leave the table out")
        values = numbers(
            table,
            self.features,
            "give each feature as a number, leave the cell empty where it is missing, or leave the column out",
        )
        gaps = {name: int(count) for name, count in zip(self.features, np.isnan(values).sum(0), strict=True) if count}
        self.notes += [
            f"{table.path.name}: {count} empty cells in {name!r}, filled with the mean of the training samples"
            for name, count in gaps.items()
        ]
        self.are_tokens = len(self.features) == 1 and self.features[0].lower() in TOKENS and not gaps
        if self.are_tokens and not (values == np.round(values)).all():
            raise DataError(f"{table.path}: {self.features[0]!r} must hold ids of tokens, which are whole numbers")
        codes, ids = require("pandas", "datasets").factorize(frame[place])
        if (parts := 1 + int((np.diff(codes) != 0).sum())) > len(ids):
            what = f"rows of an id are not contiguous ({parts} runs of {len(ids)} ids); they are joined in file order"
            self.notes.append(f"{table.path.name}: {what}")
        self.ids = [str(name) for name in ids]
        self.rows = values if parts == len(ids) else values[codes.argsort(kind="stable")]
        counts = np.bincount(codes, minlength=len(ids))
        self.is_sequence = counts.max(initial=0) > 1
        self.place = dict(zip(self.ids, zip((np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True), strict=True))

    def of(self, names: list[str]) -> Stream | tuple[Array, Array]:
        """Returns the sequences of some samples, or their vectors and lengths, 1 or 0."""
        places = [self.place.get(name, (0, 0)) for name in names]
        lengths = np.array([count for _, count in places])
        arrays = [self.rows[start : start + count] for start, count in places]
        if self.are_tokens:
            return Stream(1, lengths, [array[:, 0].astype(np.int64) for array in arrays], {"dtype": "int64"}, tokens=True)
        if self.is_sequence:
            return Stream(len(self.features), lengths, arrays, {"dtype": "float64"})
        vectors = np.zeros((len(names), len(self.features)))
        vectors[lengths > 0] = np.concatenate([np.zeros((0, len(self.features))), *arrays])
        return vectors, lengths


class _Labels(NamedTuple):
    """Holds a parsed table of labels: values are of shape (N,) or (N, K), and classes have names where they are words."""

    ids: list[str]
    values: Array | None
    names: list[str]
    splits: list[str] | None
    classes: list[str]
    notes: list[str]


def _read_labels(table: Table, label: Label, modalities: Mapping[str, tuple[Table, list[str]]]) -> _Labels:
    frame, place, split = table.frame, table.column("id"), table.column("split")
    features = {name for other, columns in modalities.values() if other is table for name in columns}
    columns, notes = _label_columns(table, label, {place, split, *features}), [f"{table.path.name}: {n}" for n in table.notes]
    if features:  # one table with everything has a row for each step
        if unused := [name for name in frame.columns if name not in {place, split, *features, *columns}]:
            notes.append(f"{table.path.name}: columns that are not used: {', '.join(unused)}")
        frame = _one_row_each(table, place, [*columns, *([split] if split else [])])
        table = table._replace(frame=frame)
    ids = [str(name) for name in frame[place]]
    if len(set(ids)) < len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise DataError(f"{table.path}: the id {twice!r} is there twice; give every sample one row")
    splits = None
    if split is not None:
        if empty := np.flatnonzero(frame[split].isna()).tolist():
            raise DataError(f"{table.line(empty[0])}: has no split ({len(empty)} such rows); give each sample one")
        splits = [SPLITS.get(name, name) for name in (str(value).strip().lower() for value in frame[split])]
    if not columns or not len(frame):
        return _Labels(ids, None, [], splits, [], notes)
    missing = frame[columns].isna().to_numpy()
    if missing.all():
        raise DataError(f"{table.path}: every label is missing; leave out the column, or the table")
    if len(columns) == 1 and (classes := _classes(frame[columns[0]].dropna())):
        of = {name: i for i, name in enumerate(classes)}
        cells = zip(frame[columns[0]], missing[:, 0], strict=True)
        values = np.array([MISSING if gone else of[normalized(value)] for value, gone in cells], np.int64)
        totals = np.bincount(values[values != MISSING], minlength=len(classes)).tolist()
        counts = ", ".join(f"{name} {count}" for name, count in zip(classes, totals, strict=True))
        notes.append(f"{len(classes)} classes in {columns[0]!r}: {counts}")
        return _Labels(ids, values, columns, splits, classes, notes)
    one = f"name the one of {join_names(columns)} that is the label, with label= (--label)"
    values = numbers(table, columns, one if len(columns) > 1 else "give classes as 0, 1, 2 ...")
    if len(infinite := np.flatnonzero(np.isinf(values).any(1))):
        raise DataError(f"{table.line(int(infinite[0]))}: a label is infinite ({len(infinite)} such rows); leave it empty")
    whole = all(_are_whole(table, name) for name in columns)
    if not whole and len(columns) == 1 and (values == np.round(values))[~missing].all():
        notes.append(
            f"labels in {columns[0]!r} have a decimal point, so they are numbers; write classes as 0, 1, 2 or as words"
        )
    if whole:
        values = np.where(missing, MISSING, values).astype(np.int64)
    values = values[:, 0 if len(columns) == 1 else slice(None)]
    return _Labels(ids, values, columns, splits, [], notes)


def _label_columns(table: Table, label: Label, others: Collection[str | None]) -> list[str]:
    """Returns the columns of the labels: those that `label` names, or all that have no other role."""
    columns = [name for name in table.frame.columns if name not in others]
    if not isinstance(label, str):
        return columns if label is None else [name for name in label if name in columns]
    matching = [name for name in columns if name.lower() == normalized(label).lower()]
    if not matching:
        raise DataError(f"{table.path}: has no column {label!r}; it has {nearest(label, columns)}")
    return matching


def _one_row_each(table: Table, place: str | None, columns: list[str]) -> Any:
    """Returns a row for each id, with its first value of each column.

    Raises:
        DataError: if a column has several values for one id.
    """
    first = table.frame.drop_duplicates(place).copy()
    for name in columns:
        by_id = table.frame.groupby(place, sort=False)[name]
        if len(several := by_id.nunique()[lambda counts: counts > 1]):
            what = f"{name!r} has several values for the id {several.index[0]!r} ({len(several)} such ids)"
            raise DataError(f"{table.path}: {what}; give all rows of a sample the same, or name another column with --label")
        first[name] = first[place].map(by_id.first())
    return first


def _classes(column: Any) -> list[str]:
    """Returns the names of the classes in a column of words or booleans, in order; none for numbers."""
    pandas = require("pandas", "datasets")
    if pandas.api.types.is_bool_dtype(column) or all(isinstance(value, bool) for value in column):
        return [str(value) for value in (False, True)]
    if pandas.api.types.is_numeric_dtype(column):
        return []
    if pandas.to_numeric(column, errors="coerce").notna().any():
        return []  # numbers with a slip among them
    return sorted({normalized(value) for value in column})


def _are_whole(table: Table, name: str) -> bool:
    """Returns whether a column holds whole numbers; where cells are missing, pandas reads those as floating-point."""
    column = table.frame[name]
    missing = column.isna().to_numpy()
    if column.dtype.kind in "iub" or not missing.any():
        return bool(column.dtype.kind in "iub")
    if not table.separator:  # of a binary file or a frame, which has no text
        present = column[~missing].astype(float)
        return bool((present == present.round()).all())
    cells = list(table.cells(name))
    return all(re.fullmatch(r"[+-]?\d+", cells[row]) for row in column.index[~missing])
