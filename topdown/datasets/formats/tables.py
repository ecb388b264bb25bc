"""A folder of tables, as people have them: one per modality, and `labels`. pandas reads them (extra `datasets`).

`audio.csv` has a row for each step, in their order, with its sample in the column `id` and a feature in each other column; a
table in which no sample has two rows is one of vectors. A sample without rows lacks the modality. `labels.csv` has a row for
each sample: its `id`, its `split` (train, valid, test or their usual synonyms), and one label in each other column. Without it,
or without that column, all samples are one split, "all", unless the option `split` draws one.

Tables may be .csv, .tsv, .parquet, .xlsx or .xls. The separator, a decimal comma, the encoding and the words for a missing cell
are found, and the report says what was found. A missing cell gets the mean of its column over the training samples. Integers,
words and booleans in a single column of labels are classes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import join_names
from topdown.datasets.formats.helpers.random_split import draw_split
from topdown.datasets.formats.helpers.table_files import SUFFIXES, Table, numbers, read_table
from topdown.datasets.formats.source import Found, Source
from topdown.datasets.raw_samples import Array, RawSplit, Stream
from topdown.files import require
from topdown.wiring import nearest

SPLITS = {"training": "train", "val": "valid", "dev": "valid", "validation": "valid", "eval": "valid", "testing": "test"}


def recognizes(source: Source) -> bool:
    """Returns whether a source is a folder of tables, or one table."""
    return any(_tables(source.path)) if source.is_folder else source.path.suffix.lower() in SUFFIXES


def read(source: Source) -> Found:
    """Reads the tables.

    Raises:
        DataError: naming the file, the line and the column that does not fit.
        ImportError: without the extra `datasets`.
    """
    options, folder = source.options, source.path
    options.only(folder, "a folder of tables", "label", "split", "columns")
    labels, chosen = _by_modality(source)
    tables = {name: _Modality(table, columns) for name, (table, columns) in chosen.items()}
    notes = [note for table in tables.values() for note in table.notes]
    if labels is None:
        ids = list(dict.fromkeys(i for table in tables.values() for i in table.ids))
        values, splits = None, None
        names, classes = list[str](), list[str]()
        if options.label:
            raise DataError(f"{folder}: has no table called 'labels', so label={options.label!r} means nothing; add one")
    else:
        ids, values, names, splits, classes, more = _labels(labels, options.label, chosen)
        notes += more
    for name, table in tables.items():
        if stray := sorted(set(table.ids) - set(ids)):
            what = f"{len(stray)} ids are not in {labels.path.name if labels else 'labels'}, such as {stray[0]!r}"
            raise DataError(f"{chosen[name][0].path}: {what}; leave them out, or add them")
    everywhere = {i for table in tables.values() for i in table.ids}
    if options.modalities is None and (lost := [i for i in ids if i not in everywhere]):
        raise DataError(f"{labels.path if labels else folder}: {lost[0]!r} has no rows in any table ({len(lost)} such ids)")
    if options.split is not None:
        if splits is not None:
            raise DataError(f"{labels.path if labels else folder}: has a column 'split' already; leave out split=")
        splits = draw_split(options.split, options.seed, values)
        notes.append(f"split at random with seed {options.seed}" + (", each class alike" if classes or _whole(values) else ""))
    splits = splits or ["all"] * len(ids)
    train = [i for i, split in zip(ids, splits, strict=True) if split == "train"] or ids
    for table in tables.values():
        table.fill(train)
    feature_names = {name: table.features for name, table in tables.items()}
    found = {"feature_names": feature_names, "label_names": names, "notes": [*dict.fromkeys(notes)]}
    made = {}
    for split in dict.fromkeys(splits):
        at = [i for i, other in enumerate(splits) if other == split]
        parts = {name: table.of([ids[i] for i in at]) for name, table in tables.items()}
        vectors = {name: part for name, part in parts.items() if not isinstance(part, Stream)}
        made[split] = RawSplit(
            None if values is None else values[at],
            [ids[i] for i in at],
            {name: part for name, part in parts.items() if isinstance(part, Stream)},
            {name: vector for name, (vector, _) in vectors.items()},
            found | ({"class_names": classes} if classes else {}),
            {name: there for name, (_, there) in vectors.items() if not there.all()},
        )
    used = [*dict.fromkeys(table.path for table, _ in chosen.values()), *([labels.path] if labels else [])]
    return source.folder_found("folder of tables", made, used, None)


def _tables(folder: Path) -> Iterator[Path]:
    """Yields the tables of a folder; files whose names begin with a dot are none."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield path


def _by_modality(source: Source) -> tuple[Table | None, dict[str, tuple[Table, list[str]]]]:
    """Returns the table of labels, and the table and the columns of each wanted modality."""
    paths: dict[str, Path] = {}
    for path in _tables(source.path) if source.is_folder else [source.path]:
        if path.stem in paths:
            raise DataError(f"{path}: {paths[path.stem].name} has the same name; keep one of them")
        paths[path.stem] = path
    if source.options.columns is not None:
        if len(paths) != 1:
            raise DataError(f"{source.path}: columns= is for one table, but there are {join_names(paths)}; leave it out")
        table = read_table(next(iter(paths.values())))
        patterns = source.options.columns
        return table, {name: (table, _matching(table, patterns[name])) for name in _wanted(source, patterns)}
    if not source.is_folder:
        what = f"is one table; give the folder that holds all of them, {source.path.parent}"
        raise DataError(f"{source.path}: {what}, or say which columns are a modality, columns={{'audio': 'a_*'}}")
    stems = {stem.lower(): stem for stem in paths}
    labels = read_table(paths.pop(stems["labels"])) if "labels" in stems else None
    if not paths:
        raise DataError(f"{source.path}: has no table of a modality beside {labels.path.name if labels else 'labels'}")
    found = {name: read_table(paths[name]) for name in _wanted(source, paths)}
    return labels, {name: (table, list(table.frame.columns)) for name, table in found.items()}


def _wanted(source: Source, there: Mapping[str, Any]) -> list[str]:
    names = [*(source.options.modalities or there)]
    if missing := [name for name in names if name not in there]:
        raise DataError(f"{source.path}: has no {missing[0]}.csv; it has {join_names(there)}")
    return names


def _matching(table: Table, pattern: str) -> list[str]:
    columns = [column for column in table.frame.columns if fnmatch.fnmatchcase(column, pattern)]
    if not columns:
        raise DataError(f"{table.path}: no column is like {pattern!r} among {join_names(table.frame.columns)}")
    return [column for column in ("id",) if column not in columns] + columns


class _Modality:
    """The rows of one modality, by sample."""

    def __init__(self, table: Table, columns: list[str]) -> None:
        frame, place = table.frame, table.column("id")
        self.features = [name for name in columns if name != place and name != "id"]
        if not self.features:
            raise DataError(f"{table.path}: has no column beside 'id': give each feature one")
        if not len(frame):
            raise DataError(f"{table.path}: has no rows; leave the table out")
        self.notes = [f"{table.path.name}: {note}" for note in table.notes]
        values = numbers(table, self.features, "give each feature as a number")
        gaps = {name: int(count) for name, count in zip(self.features, np.isnan(values).sum(0), strict=True) if count}
        self.notes += [
            f"{table.path.name}: {count} empty cells in {name!r}, filled with its mean" for name, count in gaps.items()
        ]
        codes, ids = require("pandas", "datasets").factorize(frame[place])
        if (parts := 1 + int((np.diff(codes) != 0).sum())) > len(ids):
            what = f"rows of one id stand apart ({parts} runs of {len(ids)} ids), and are taken in the order of the file"
            self.notes.append(f"{table.path.name}: {what}")
        self.ids = [str(name) for name in ids]
        self.rows = values if parts == len(ids) else values[codes.argsort(kind="stable")]
        counts = np.bincount(codes, minlength=len(ids))
        self.is_sequence = counts.max(initial=0) > 1
        self.place = dict(zip(self.ids, zip((np.cumsum(counts) - counts).tolist(), counts.tolist(), strict=True), strict=True))

    def fill(self, names: list[str]) -> None:
        """Fills empty cells with the mean of their column over some samples; a column without numbers there stays empty."""
        gaps = np.isnan(self.rows)
        if gaps.any():
            rows = np.concatenate(
                [self.rows[start : start + count] for start, count in (self.place.get(i, (0, 0)) for i in names)]
            )
            counts = (~np.isnan(rows)).sum(0)
            means = np.where(counts > 0, np.nansum(rows, 0) / np.maximum(counts, 1), np.nan)
            self.rows = np.where(gaps, means, self.rows)

    def of(self, names: list[str]) -> Stream | tuple[Array, Array]:
        """Returns the sequences of some samples, or their vectors and which of them are there."""
        places = [self.place.get(name, (0, 0)) for name in names]
        lengths = np.array([count for _, count in places])
        arrays = [self.rows[start : start + count] for start, count in places]
        if self.is_sequence:
            return Stream(len(self.features), lengths, arrays, {"dtype": "text"})
        vectors = np.zeros((len(names), len(self.features)))
        vectors[lengths > 0] = np.concatenate([np.zeros((0, len(self.features))), *arrays])
        return vectors, lengths


def _labels(
    table: Table, label: str | None, modalities: Mapping[str, tuple[Table, list[str]]]
) -> tuple[list[str], Array | None, list[str], list[str] | None, list[str], list[str]]:
    """Returns ids, labels (N,) or (N, K) or None, their names, splits or None, names of classes, and notes."""
    frame, place, split = table.frame, table.column("id"), table.column("split")
    features = {name for other, columns in modalities.values() if other is table for name in columns}
    if features:  # one table with everything has a row for each step
        frame = frame.drop_duplicates(place)
        table = table._replace(frame=frame)
    ids = [str(name) for name in frame[place]]
    if len(set(ids)) < len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise DataError(f"{table.path}: the id {twice!r} is there twice; give every sample one row")
    columns = [name for name in frame.columns if name not in (place, split) and name not in features]
    if label is not None:
        found = [name for name in columns if name.lower() == label.lower()]
        if not found:
            raise DataError(f"{table.path}: has no column {label!r}; it has {nearest(label, columns)}")
        columns = found
    notes = [f"{table.path.name}: {note}" for note in table.notes]
    splits = None
    if split is not None:
        if lacking := np.flatnonzero(frame[split].isna()).tolist():
            raise DataError(f"{table.line(lacking[0])}: has no split ({len(lacking)} such rows); give each sample one")
        splits = [SPLITS.get(name, name) for name in (str(value).strip().lower() for value in frame[split])]
    if not columns or not len(frame):
        return ids, None, [], splits, [], notes
    if len(wrong := np.flatnonzero(frame[columns].isna().any(axis=1))):
        what = f"a label is missing; leave out such samples ({len(wrong)} here)"
        raise DataError(f"{table.line(int(wrong[0]))}: {what}")
    if len(columns) == 1 and (classes := _classes(frame[columns[0]])):
        of = {name: i for i, name in enumerate(classes)}
        values = np.array([of[str(value).strip()] for value in frame[columns[0]]], np.int64)
        counts = ", ".join(f"{name} {count}" for name, count in zip(classes, np.bincount(values).tolist(), strict=True))
        return ids, values, columns, splits, classes, [*notes, f"{len(classes)} classes in {columns[0]!r}: {counts}"]
    choose = " or name the column of the label with label= (--label)" if len(columns) > 1 else ""
    values = numbers(table, columns, f"give labels as numbers,{choose}" if choose else "give classes as 0, 1, 2 ...")
    whole = all(dtype.kind in "iub" for dtype in frame[columns].dtypes)
    if not whole and len(columns) == 1 and (values == np.round(values)).all():
        notes.append(
            f"labels in {columns[0]!r} have a decimal point, so they are numbers; write classes as 0, 1, 2 or as words"
        )
    values = (values.astype(np.int64) if whole else values)[:, 0 if len(columns) == 1 else slice(None)]
    return ids, values, columns, splits, [], notes


def _classes(column: Any) -> list[str]:
    """Returns the names of the classes in a column of words or booleans, in order; none for numbers."""
    pandas = require("pandas", "datasets")
    if pandas.api.types.is_bool_dtype(column):
        return [str(value) for value in (False, True)]
    if pandas.api.types.is_numeric_dtype(column):
        return []
    if pandas.to_numeric(column, errors="coerce").notna().any():
        return []  # numbers with a slip among them
    return sorted({str(value).strip() for value in column})


def _whole(values: Array | None) -> bool:
    return values is not None and values.ndim == 1 and values.dtype.kind == "i"
