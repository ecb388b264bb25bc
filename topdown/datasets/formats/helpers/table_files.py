"""Reads a table with pandas; errors name the line."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import join_names, normalized
from topdown.datasets.raw_samples import Array
from topdown.files import require

BEGINNING = 2**16  # bytes of a text file from which its format is detected
MISSING_WORDS = ("", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "<NA>")
SUFFIXES = (".csv", ".tsv", ".parquet", ".xlsx", ".xls")
COLUMNS = "its first line must name its columns, once each, one of them 'id'"


class Table(NamedTuple):
    """Holds a table that was read.

    Args:
        path: Path of the file; for a frame of the user, its name.
        frame: pandas.DataFrame, whose index is that of its rows in the file, or that of a user's frame.
        separator: Separator of cells in a text file; empty for other files.
        encoding: Encoding of a text file.
        notes: Decisions of the reader, for the report.
    """

    path: Path
    frame: Any
    separator: str
    encoding: str
    notes: list[str]

    def column(self, name: str) -> str | None:
        """Returns the column of a name, in any case."""
        return next((column for column in self.frame.columns if column.lower() == name), None)

    def cells(self, name: str) -> Iterator[str]:
        """Yields the cells of a column of a text file, as they are written."""
        rows = (cells for _, cells in _rows(self) if cells)
        at = [normalized(head) for head in next(rows)].index(name)
        return (cells[at] for cells in rows)

    def line(self, row: int) -> str:
        """Returns the place of a row for messages: its line in a text file, its number, or its index in a frame of the user."""
        index = self.frame.index[row]
        if self.path.suffix.lower() not in SUFFIXES:
            return f"{self.path}, row {index}"
        if not self.separator:
            return f"{self.path}, row {index + 2}"
        lines = [line for line, cells in _rows(self) if cells]
        return f"{self.path}, line {lines[index + 1]}"


def read_table(path: Path) -> Table:
    """Reads a table with pandas.

    Raises:
        DataError: if it cannot be read, has no rows, or its columns have no names.
        ImportError: without the extra `datasets`.
    """
    pandas = require("pandas", "datasets")
    is_text = path.suffix.lower() in (".csv", ".tsv")
    try:
        table = _sniff(path) if is_text else Table(path, None, "", "", [])
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    try:
        if path.suffix.lower() == ".parquet":
            frame = pandas.read_parquet(path)
        elif path.suffix.lower() in (".xlsx", ".xls"):
            frame = pandas.read_excel(path)
        else:
            frame = _read_text(table)
    except ImportError as error:
        raise DataError(f"{path}: needs a library that is not installed ({error}); install it, or save as .csv") from None
    except Exception as error:  # pandas raises many types
        if is_text:
            _check_rows(table)
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: cannot be read ({said}); save it as comma-separated text in UTF-8") from None
    return _checked(table, frame)


def table_of(frame: Any, name: str) -> Table:
    """Returns a table of a pandas.DataFrame, whose ids may be its index.

    Raises:
        DataError: if it is no frame, or its columns do not fit.
        ImportError: without the extra `datasets`.
    """
    if not isinstance(frame, require("pandas", "datasets").DataFrame):
        raise DataError(f"{name!r} is a {type(frame).__name__}: give a pandas.DataFrame with a column 'id'")
    frame = frame.reset_index() if str(frame.index.name).lower() == "id" else frame.copy(deep=False)
    return _checked(Table(Path(name), None, "", "", []), frame)


def _checked(table: Table, frame: Any) -> Table:
    """Returns a table with its frame, whose columns have names, one of them 'id', and whose rows all have one."""
    path = table.path
    frame.columns = [normalized(name) for name in frame.columns]
    head = _head(table) if table.separator else list(frame.columns)
    if unnamed := [i for i, name in enumerate(head) if not name.strip() or name.startswith("Unnamed: ")]:
        what = "it may be the index of pandas, which index=False leaves out"
        raise DataError(f"{path}: column {unnamed[0] + 1} has no name: {what}, or give it one")
    if "id" not in [name.lower() for name in frame.columns] or len({name.strip() for name in head}) < len(head):
        raise DataError(f"{path}: {COLUMNS}; it is {join_names(head)}")
    table = table._replace(frame=frame)
    if len(frame) and table.separator and bool(frame.iloc[:, -1].isna().any()):
        _check_rows(table)  # pandas fills up rows that are too short
    place = table.column("id")
    names = {name: normalized(name) for name in frame[place].dropna().unique()}
    if composed := sum(name != str(old).strip() for old, name in names.items()):
        remark = f"{composed} ids were normalized to Unicode NFC"
        table = table._replace(notes=[*table.notes, remark])
    if any(name != stripped for name, stripped in names.items()):
        frame[place] = frame[place].map(names)
    if empty := np.flatnonzero(frame[place].isna() | (frame[place] == "")).tolist():
        raise DataError(f"{table.line(empty[0])}: has no id ({len(empty)} such rows); give each row the id of its sample")
    return table


def _read_text(table: Table) -> Any:
    pandas = require("pandas", "datasets")
    decimal = "," if "decimal comma" in table.notes else "."
    form = {"sep": table.separator, "encoding": table.encoding, "index_col": False, "skipinitialspace": True}
    names = pandas.read_csv(table.path, **form, nrows=0).columns  # as pandas calls them, such as "id "
    identifiers = {name: str for name in names if normalized(name).lower() == "id"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of rows with more cells than columns
        return pandas.read_csv(table.path, **form, decimal=decimal, dtype=identifiers, low_memory=False)


def _check_rows(table: Table) -> None:
    """Raises a DataError for the first row whose number of cells differs from the number of columns."""
    count = len(_head(table))
    for line, cells in _rows(table):
        if cells and len(cells) != count:
            raise DataError(f"{table.path}, line {line}: has {len(cells)} cells, but there are {count} columns")


def _sniff(path: Path) -> Table:
    """Detects separator, decimal comma and encoding of a text file from its beginning."""
    with path.open("rb") as file:
        start = file.read(BEGINNING)
    encodings = ("utf-16",) if start[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "cp1252")
    encoding = next((name for name in encodings if _decodes(path, name)), None)
    if encoding is None:
        raise DataError(f"{path}: is no text in {' or '.join(encodings)}; save it as UTF-8")
    notes = ["read as Windows-1252, since it is not UTF-8"] if encoding == "cp1252" else []
    if not start.strip():
        raise DataError(f"{path}: is empty; its first line must name its columns, one of them 'id'")
    lines = [line for line in start.decode(encoding, "replace").splitlines() if line.strip()]
    separator = max(",;\t|", key=lines[0].count)
    if separator != ",":
        notes.append(f"separator {'tab' if separator == chr(9) else separator}")
        comma, point = r"[+-]?\d+,\d+", r"[+-]?\d*\.\d+"
        text = "\n".join(lines[1:-1] if len(start) == BEGINNING else lines[1:])  # the last line may be cut off
        if not _has_cell(text, comma, separator) and not _has_cell(text, point, separator):
            text = path.read_text(encoding)  # decimals may begin far below
        if _has_cell(text, comma, separator) and not _has_cell(text, point, separator):
            notes.append("decimal comma")
    return Table(path, None, separator, encoding, notes)


def _has_cell(text: str, pattern: str, separator: str) -> bool:
    between = re.escape(separator)
    return re.search(rf"(?m)(?:^|{between})[ ]*(?:{pattern})[ ]*\r?(?:{between}|$)", text) is not None


def _decodes(path: Path, encoding: str) -> bool:
    try:
        with path.open(encoding=encoding) as text:
            while text.read(2**20):
                pass
    except UnicodeError:
        return False
    return True


def _rows(table: Table) -> Iterator[tuple[int, list[str]]]:
    """Yields the rows of a text file with their lines, for messages."""
    with table.path.open(encoding=table.encoding, newline="") as file:
        reader = csv.reader(file, delimiter=table.separator)
        try:
            for row in reader:
                yield reader.line_num, [cell.strip() for cell in row]
        except csv.Error as error:  # of a NUL, before Python 3.11
            raise DataError(f"{table.path}, line {reader.line_num + 1}: {error}; save it as text") from None


def _head(table: Table) -> list[str]:
    return next(cells for _, cells in _rows(table) if cells)


def numbers(table: Table, columns: list[str], remedy: str) -> Array:
    """Returns columns as float64, with nan for cells that are missing.

    Raises:
        DataError: naming the line and the column of a cell that is no number.
    """
    pandas = require("pandas", "datasets")
    for name in columns:
        cells = table.frame[name]
        if cells.dtype.kind in "mM" or pandas.api.types.is_datetime64_any_dtype(cells):
            raise DataError(f"{table.path}: column {name!r} holds dates; give numbers, such as seconds")
        if not pandas.api.types.is_numeric_dtype(cells):
            stripped = cells.map(lambda cell: cell.strip() if isinstance(cell, str) else cell)
            cells = stripped.mask(stripped.isin(MISSING_WORDS))  # pandas finds those that no blank follows
            wrong = pandas.to_numeric(cells, errors="coerce").isna() & cells.notna()
            if wrong.any():
                row = int(np.flatnonzero(wrong)[0])
                said = f"{str(cells.iloc[row])[:40]!r} in column {name!r} is no number"
                raise DataError(f"{table.line(row)}: {said}; {remedy}")
            table.frame[name] = pandas.to_numeric(cells)
    values: Array = table.frame[columns].to_numpy(np.float64, na_value=np.nan)
    return values
