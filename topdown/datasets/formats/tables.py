"""A folder of tables: one .csv per modality, and `labels.csv`, each with a head and a column `id`.

`audio.csv` has a row for each step, in their order, with its sample in `id` and a feature in each other column; a table in
which no sample has two rows is one of vectors. A sample without rows lacks the modality, and an empty cell is no number (it
becomes 0, and is counted). `labels.csv` has a row for each sample, with one label in each column but `id` and `split`, whose
splits are train, valid and test, or any others. Without it, or without that column, all samples are one split, "all".
"""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import join_names
from topdown.datasets.formats.source import Found, Source
from topdown.datasets.raw_samples import Array, RawSplit, Stream

LABELS = "labels.csv"


def recognizes(source: Source) -> bool:
    """Tells whether this is a folder of tables."""
    return source.is_folder and any(source.path.glob("*.csv"))


def read(source: Source) -> Found:
    """Reads the tables.

    Raises:
        DataError: naming the file, the line and the column that does not fit.
    """
    folder = source.path
    source.options.only(folder, "a folder of tables")
    paths = {path.stem: path for path in sorted(folder.glob("*.csv")) if path.name != LABELS}
    if missing := [name for name in source.options.modalities or () if name not in paths]:
        raise DataError(f"{folder}: has no {missing[0]}.csv; it has {join_names(paths)}")
    paths = {name: paths[name] for name in source.options.modalities or paths}
    if not paths:
        raise DataError(f"{folder}: has no table of a modality beside {LABELS}")
    tables = {name: _Table(path) for name, path in paths.items()}
    used = list(paths.values())
    if (folder / LABELS).is_file():
        ids, labels, label_names, splits = _labels(folder / LABELS)
        used.append(folder / LABELS)
    else:
        ids, labels, label_names = list(dict.fromkeys(i for table in tables.values() for i in table.ids)), None, list[str]()
        splits = ["all"] * len(ids)
    for name, table in tables.items():
        if stray := sorted(set(table.ids) - set(ids)):
            raise DataError(
                f"{paths[name]}: {len(stray)} ids are not in {LABELS}, such as {stray[0]!r}; leave them out, or add them"
            )
    made = {}
    for split in dict.fromkeys(splits):
        chosen = [i for i, other in enumerate(splits) if other == split]
        names = [ids[i] for i in chosen]
        parts = {name: table.of(names) for name, table in tables.items()}
        streams = {name: part for name, part in parts.items() if isinstance(part, Stream)}
        vectors = {name: part for name, part in parts.items() if not isinstance(part, Stream)}
        made[split] = RawSplit(
            None if labels is None else labels[chosen],
            names,
            streams,
            {name: values for name, (values, _) in vectors.items()},
            {"feature_names": {name: table.features for name, table in tables.items()}, "label_names": label_names},
            {name: there for name, (_, there) in vectors.items() if not there.all()},
        )
    return source.folder_found("folder of tables (.csv)", made, used, None)


class _Table:
    """The rows of one modality, by sample."""

    def __init__(self, path: Path) -> None:
        rows = _rows(path)
        head = next(rows)[1]
        self.features = [name for name in head if name != "id"]
        if not self.features:
            raise DataError(f"{path}: has no column beside 'id': give each feature one")
        place, values, of_rows = head.index("id"), array("d"), []
        for line, row in rows:
            of_rows.append(row[place])
            values.extend(_number(cell, path, line, name) for name, cell in zip(head, row, strict=True) if name != "id")
        self.ids = list(dict.fromkeys(of_rows))
        numbers = {name: i for i, name in enumerate(self.ids)}
        groups = np.array([numbers[name] for name in of_rows], np.int64)
        self.rows = np.asarray(values, np.float64).reshape(-1, len(self.features))[groups.argsort(kind="stable")]
        self.counts = np.bincount(groups, minlength=len(self.ids))
        self.starts = dict(zip(self.ids, (np.cumsum(self.counts) - self.counts).tolist(), strict=True))
        self.steps = dict(zip(self.ids, self.counts.tolist(), strict=True))

    def of(self, names: list[str]) -> Stream | tuple[Array, Array]:
        """Returns the sequences of some samples, or their vectors and which of them are there."""
        arrays = [self.rows[self.starts.get(i, 0) :][: self.steps.get(i, 0)] for i in names]
        lengths = np.array([len(rows) for rows in arrays])
        if self.counts.max(initial=0) > 1:
            return Stream(len(self.features), lengths, arrays, {"dtype": "text"})
        vectors = np.zeros((len(names), len(self.features)))
        vectors[lengths > 0] = np.concatenate([np.zeros((0, len(self.features))), *arrays])
        return vectors, lengths


def _labels(path: Path) -> tuple[list[str], Array | None, list[str], list[str]]:
    """Returns ids, labels (N,) or (N, K) or None, the names of the labels, and the split of each sample."""
    rows = _rows(path)
    head = next(rows)[1]
    columns = [name for name in head if name not in ("id", "split")]
    samples = [(line, dict(zip(head, row, strict=True))) for line, row in rows]
    ids = [row["id"] for _, row in samples]
    if len(set(ids)) < len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise DataError(f"{path}: the id {twice!r} is there twice; give every sample one row")
    labels: Any = None
    if columns and samples:
        cells = [[row[name] for name in columns] for _, row in samples]
        values = np.array([[_number(row[name], path, line, name) for name in columns] for line, row in samples])
        if len(wrong := np.flatnonzero(~np.isfinite(values).all(1))):
            raise DataError(
                f"{path}, line {samples[wrong[0]][0]}: a label is missing; leave out such samples ({len(wrong)} here)"
            )
        whole = all(cell.strip().lstrip("+-").isdecimal() for row in cells for cell in row)
        labels = (values.astype(np.int64) if whole else values)[:, 0 if len(columns) == 1 else slice(None)]
    return ids, labels, columns, [row.get("split") or "all" for _, row in samples]


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the head, and then the rows of a table, with the number of their line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            head = [name.strip() for name in next(reader, [])]
            if "id" not in head or len(set(head)) < len(head):
                raise DataError(
                    f"{path}: its first line must name its columns, once each, one of them 'id'; it is {join_names(head)}"
                )
            yield 1, head
            for row in reader:
                if len(row) != len(head) and row:
                    raise DataError(f"{path}, line {reader.line_num}: has {len(row)} cells, but there are {len(head)} columns")
                if row:
                    yield reader.line_num, [cell.strip() for cell in row]
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read ({error}); save it as comma-separated text in UTF-8") from None


def _number(cell: str, path: Path, line: int, column: str) -> float:
    try:
        return float(cell) if cell else float("nan")
    except ValueError:
        remedy = "give classes as 0, 1, 2 ..." if path.name == LABELS else "give each feature as a number"
        raise DataError(f"{path}, line {line}: {cell[:40]!r} in column {column!r} is no number; {remedy}") from None
