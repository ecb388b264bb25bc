"""Reads a folder of tables, one per modality, with pandas (extra `datasets`).

`audio.csv` has a row for each step, in their order, with its sample in the column `id` and a feature in each other column; a
table in which no sample has two rows is one of vectors. The modality is absent in samples without rows. `labels.csv` has a row
for each sample: its `id`, its `split` (train, valid, test or their usual synonyms), and one label in each other column. Without
it, or without that column, all samples are one split, "all", unless the option `split` draws one.

Tables may be .csv, .tsv, .parquet, .xlsx or .xls. The separator, a decimal comma, the encoding and the words for a missing cell
are detected, and the report names them. A missing cell gets the mean of its column over the training samples; a missing
label is left out of losses and metrics. Integers, words and booleans in a single column of labels are classes.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import join_names, normalized
from topdown.datasets.formats.helpers.table_files import SUFFIXES, Table, read_table
from topdown.datasets.formats.helpers.table_samples import make_samples
from topdown.datasets.formats.source import Content, Source


def recognizes(source: Source) -> bool:
    """Returns whether a source is a folder of tables, or one table."""
    return is_table(source.path)


def is_one_table(path: Path) -> bool:
    """Returns whether a path is one table, or a folder of one alone."""
    return len([*_tables(path)]) == 1 if path.is_dir() else is_table(path)


def is_table(path: Path) -> bool:
    """Returns whether a path is a folder of tables, or one table."""
    return any(_tables(path)) if path.is_dir() else path.suffix.lower() in SUFFIXES


def read(source: Source) -> Content:
    """Reads the tables.

    Raises:
        DataError: naming the file, the line and the column that does not fit.
        ImportError: without the extra `datasets`.
    """
    options = source.options
    options.only(source.path, "a folder of tables", "label", "split", "columns", "features")
    labels, chosen = _by_modality(source)
    samples = make_samples(labels, chosen, options.label, options.split, options.seed, options.features, source.where)
    used = [*dict.fromkeys(table.path for table, _ in chosen.values()), *([labels.path] if labels else [])]
    return source.folder_content("folder of tables", samples, used, None)


def _tables(folder: Path) -> Iterator[Path]:
    """Yields the tables of a folder; files whose names begin with a dot, or as Excel's locks do, are none."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith((".", "~$")) and path.is_file():
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
        raise DataError(f"{source.path}: {what}, or say which columns are a modality, as in --columns audio=a_*")
    stems = {stem.lower(): stem for stem in paths}
    labels = read_table(paths.pop(stems["labels"])) if "labels" in stems else None
    if not paths:
        raise DataError(f"{source.path}: has no table of a modality beside {labels.path.name if labels else 'labels'}")
    options = source.options
    if (
        labels is None
        and not options.modalities
        and (like := [path for stem, path in paths.items() if stem.lower() in ("label", "target", "targets")])
    ):
        raise DataError(f"{like[0]}: is named like a table of labels; call it labels{like[0].suffix}")
    tables = {name: read_table(paths[name]) for name in _wanted(source, paths)}
    for table in tables.values() if labels is None and options.features is None else ():
        if of_labels := [column for column in table.frame.columns if column.lower() in ("split", "label")]:
            what = f"has a column {of_labels[0]!r}, as one table with everything has"
            remedy = "say which columns are a modality, as in --columns audio=a_*, or put id, split and label into labels.csv"
            raise DataError(f"{table.path}: {what}; {remedy}")
    return labels, {name: (table, list(table.frame.columns)) for name, table in tables.items()}


def _wanted(source: Source, available: Mapping[str, Any]) -> list[str]:
    names = [*(source.options.modalities or available)]
    if missing := [name for name in names if name not in available]:
        raise DataError(f"{source.path}: has no {missing[0]}.csv; it has {join_names(available)}")
    return names


def _matching(table: Table, pattern: str | Sequence[str]) -> list[str]:
    """Returns the columns that match a pattern, or one of several, in a list or separated by commas."""
    names = [*table.frame.columns]

    def like(one: str) -> list[str]:
        one = normalized(one)
        return [one] if one in names else [column for column in names if fnmatch.fnmatchcase(column, one)]

    several = [*pattern] if not isinstance(pattern, str) else [pattern] if like(pattern) else pattern.split(",")
    matches = {one: like(one) for one in several}
    if unmatched := [one for one, columns in matches.items() if not columns]:
        raise DataError(f"{table.path}: no column matches {unmatched[0]!r} among {join_names(names)}")
    chosen = [column for column in names if any(column in columns for columns in matches.values())]
    return [column for column in ("id",) if column not in chosen] + chosen
