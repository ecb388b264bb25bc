"""Reads and writes memory-mapped stores.

A store is a folder of .npy and JSON files. It holds a flat array (R, D) of float32 and the lengths (N,) of each modality, and
the labels (N,) and ids of each split. `store.json`, which is written last, holds sizes, checksums and the report. Features of
which float32 would lose digits are float64, and ids of tokens (R,) int64.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import numpy as np
import torch

from topdown.datasets.cleaning import Cleaner
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.files import write_json
from topdown.datasets.raw_samples import Array, Sink
from topdown.datasets.unpadded import MappedArray, Ragged

MANIFEST = "store.json"
LAYOUT = "topdown store, version 1"
BLOCK = 2**14  # rows that are converted at a time


class StoreWriter:
    """Writes a store beside its destination, and moves it there when it is complete.

    Args:
        destination: Path of the new store, which must not exist.
        progress: Function that gets the name of an array, the number of rows that are written, and of all its rows.

    Raises:
        DataError: if the destination exists, or cannot be written.
    """

    def __init__(self, destination: Path, progress: Callable[[str, int, int], None] = lambda name, done, rows: None) -> None:
        if destination.exists() or destination.is_symlink():
            raise DataError(f"{destination}: already exists; choose another place, or remove it")
        self.destination, self.progress = destination, progress
        self.files: dict[str, dict[str, Any]] = {}
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            self.folder = destination.with_name(f".{destination.name}.unfinished-{secrets.token_hex(4)}")
            self.folder.mkdir()
        except OSError as error:
            raise DataError(f"{destination}: cannot be written ({error.strerror}); choose another place") from None

    def sink(self, split: str) -> Sink:
        """Returns a :data:`topdown.datasets.raw_samples.Sink` that writes the values of a split."""

        def write(name: str, shape: tuple[int, ...], arrays: Iterable[Array], cleaner: Cleaner | None = None) -> MappedArray:
            file_name, done, remaining = _file_name(split, name, "values.npy"), 0, iter(arrays)
            first = next(remaining, np.zeros((0, *shape[1:]), np.float32))
            arrays, dtype = itertools.chain([first], remaining), first.dtype.newbyteorder("<")
            if cleaner is not None and (cleaner.fills or first.dtype == np.float64):  # both need all values first
                values = self._set_aside(shape, arrays, dtype)
                cleaner.fill(values)
                dtype = cleaner.dtype(first.dtype).newbyteorder("<")
                arrays = (values[row : row + BLOCK] for row in range(0, shape[0], BLOCK))
            with self._file(file_name) as file:
                np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
                start = file.tell()
                for array in arrays:
                    file.write(np.ascontiguousarray(array, dtype).tobytes())
                    done += len(array)
                    self.progress(f"{split} {name}", done, shape[0])
            return MappedArray.of(self.folder / file_name, shape, start, dtype.str)

        return write

    def _set_aside(self, shape: tuple[int, ...], arrays: Iterable[Array], dtype: np.dtype[Any]) -> Array:
        """Writes arrays to a temporary file, and maps it into memory."""
        with tempfile.TemporaryFile(dir=self.folder) as file:
            for array in arrays:
                file.write(np.ascontiguousarray(array, dtype).tobytes())
            file.flush()
            return np.memmap(file, dtype, "r+", 0, shape) if math.prod(shape) else np.zeros(shape, dtype)

    def finish(self, splits: dict[str, SequenceDataset]) -> None:
        """Writes labels, lengths and ids, and moves the store to its destination."""
        described = {}
        for split, data in splits.items():
            if data.labels is not None:
                self._save(_file_name(split, "", "labels.npy"), data.labels.numpy())
            for name, ragged in data.sequences.items():
                self._save(_file_name(split, name, "lengths.npy"), ragged.lengths.numpy())
            for name, vector in data.vectors.items():
                self._save(_file_name(split, name, "vectors.npy"), vector.numpy())
            for name, marks in data.present.items():
                self._save(_file_name(split, name, "present.npy"), marks.numpy())
            with self._file(_file_name(split, "", "ids.json")) as file:
                file.write(json.dumps(data.ids).encode())
            described[split] = {
                "sequences": {name: list(ragged.values.shape) for name, ragged in data.sequences.items()},
                "vectors": list(data.vectors),
                "report": data.report,
            }
        write_json(self.folder / MANIFEST, {"layout": LAYOUT, "splits": described, "files": self.files})
        if self.destination.exists():
            raise DataError(f"{self.destination}: already exists; choose another place, or remove it")
        os.rename(self.folder, self.destination)

    def discard(self) -> None:
        """Removes an unfinished store."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _save(self, name: str, array: Array) -> None:
        with self._file(name) as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def _file(self, name: str) -> _HashedFile:
        return _HashedFile(self.folder / name, self.files)


class _HashedFile(io.RawIOBase):
    """Writes a file, and records its size and its checksum when it is closed."""

    def __init__(self, path: Path, notes: dict[str, dict[str, Any]]) -> None:
        self.path, self.notes, self.hash, self.count = path, notes, hashlib.sha256(), 0
        self.file: IO[bytes] = path.open("xb", buffering=2**20)

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.count += len(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.count

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self.file.flush()
            os.fsync(self.file.fileno())
            self.file.close()
            self.notes[self.path.name] = {"bytes": self.count, "sha256": self.hash.hexdigest()}
        super().close()


def is_store(path: Path) -> bool:
    """Returns whether a folder is a finished store."""
    return (path / MANIFEST).is_file()


def open_store(path: Path, modalities: Sequence[str] | None = None) -> dict[str, SequenceDataset]:
    """Opens a store without reading its values.

    Sizes of all files are checked, and the checksums of the small ones; :func:`check_store` checks those of the values.

    Args:
        path: Path of the folder.
        modalities: Names of the modalities to open. (Default: all)

    Raises:
        DataError: if a file is missing or does not fit.
    """
    path = path.absolute()  # stays valid when the process changes its directory
    manifest = _manifest(path)
    try:
        for name, noted in manifest["files"].items():
            size = _inside(path, name).stat().st_size
            if size != noted["bytes"]:
                raise DataError(f"{path}: {name} has {size} bytes, not {noted['bytes']}; prepare the store again")
        return {split: _open_split(path, split, manifest, modalities) for split in manifest["splits"]}
    except FileNotFoundError as error:
        raise DataError(f"{path}: {Path(error.filename).name} is missing; prepare the store again") from None
    except OSError as error:
        raise DataError(f"{path}: {error.filename} cannot be read ({error.strerror}); check its permissions") from None
    except (LookupError, TypeError, AttributeError, ValueError, MemoryError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path}: {MANIFEST} is damaged ({type(error).__name__}: {error}); prepare the store again") from None


def check_store(path: Path) -> int:
    """Checks the checksums of all files of a store, and returns how many there are.

    Raises:
        DataError: naming the first file that is not as it was written.
    """
    open_store(path)
    files = _manifest(path)["files"]
    for name, noted in files.items():
        digest = hashlib.sha256()
        with _inside(path, name).open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        if digest.hexdigest() != noted["sha256"]:
            raise DataError(f"{path}: {name} is not as it was written; prepare the store again")
    return len(files)


def _manifest(path: Path) -> dict[str, Any]:
    if not is_store(path):
        raise DataError(f"{path}: is not a store; `topdown prepare` makes one")
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: {MANIFEST} cannot be read ({error}); prepare the store again") from None
    if not isinstance(manifest, dict) or manifest.get("layout") != LAYOUT:
        raise DataError(f"{path}: {MANIFEST} is not that of a {LAYOUT}; prepare the store again with this version")
    return manifest


def _open_split(path: Path, split: str, manifest: dict[str, Any], modalities: Sequence[str] | None) -> SequenceDataset:
    described, files = manifest["splits"][split], manifest["files"]
    names = (*described["sequences"], *described["vectors"])
    unknown = [name for name in modalities or () if name not in names]
    if unknown:
        raise DataError(f"{path}: {split}: has no modality {unknown[0]!r}; it has {list(names)}")
    sequences, vectors, present = {}, {}, {}
    for name in modalities or names:
        if name in described["sequences"]:
            lengths = torch.from_numpy(_load(path, _file_name(split, name, "lengths.npy"), files))
            values = _map(path, _file_name(split, name, "values.npy"), tuple(described["sequences"][name]))
            rows = values.shape[0]
            if lengths.dtype != torch.int64 or lengths.dim() != 1 or not ((lengths >= 0) & (lengths <= rows)).all():
                raise DataError(f"{path}: {split}: the lengths of {name!r} are damaged; prepare the store again")
            if int(lengths.sum()) != rows:
                raise DataError(f"{path}: {split}: the lengths of {name!r} do not fit its values; prepare the store again")
            sequences[name] = Ragged.packed(values, lengths)
        else:
            vectors[name] = torch.from_numpy(_load(path, _file_name(split, name, "vectors.npy"), files))
            if (marks := _file_name(split, name, "present.npy")) in files:
                present[name] = torch.from_numpy(_load(path, marks, files))
                if present[name].dtype != torch.bool or present[name].shape != vectors[name].shape[:1]:
                    raise DataError(f"{path}: {split}: the marks of absent {name!r} are damaged; prepare the store again")
    name = _file_name(split, "", "labels.npy")
    labels = None if described["report"].get("labels", name) is None else torch.from_numpy(_load(path, name, files))
    ids = json.loads(_bytes(path, _file_name(split, "", "ids.json"), files))
    if not isinstance(ids, list) or not all(isinstance(name, str) for name in ids):
        raise DataError(f"{path}: {split}: its ids are damaged; prepare the store again")
    if labels is not None and (labels.dtype not in (torch.float32, torch.float64, torch.int64) or labels.dim() not in (1, 2)):
        raise DataError(f"{path}: {split}: its labels are damaged; prepare the store again")
    report = {
        **described["report"],
        "modalities": {name: described["report"]["modalities"][name] for name in modalities or names},
    }
    return SequenceDataset(sequences, vectors, labels, ids, report, present=present)


def _load(path: Path, name: str, files: dict[str, Any]) -> Array:
    array: Array = np.load(io.BytesIO(_bytes(path, name, files)), allow_pickle=False)
    return array


def _bytes(path: Path, name: str, files: dict[str, Any]) -> bytes:
    content = _inside(path, name).read_bytes()
    if hashlib.sha256(content).hexdigest() != files[name]["sha256"]:
        raise DataError(f"{path}: {name} is not as it was written; prepare the store again")
    return content


def _map(path: Path, name: str, shape: tuple[int, ...]) -> MappedArray:
    try:
        with _inside(path, name).open("rb") as file:
            np.lib.format.read_magic(file)
            stored, fortran, dtype = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
    except Exception as error:  # numpy raises many types on a damaged header
        raise DataError(f"{path}: {name} has a damaged header ({type(error).__name__}); prepare the store again") from None
    if stored != shape or fortran or dtype.str not in (("<i8",) if len(shape) == 1 else ("<f4", "<f8")) or len(shape) > 2:
        raise DataError(f"{path}: {name} holds {dtype} of shape {stored}, not float32 of {shape}; prepare the store again")
    if start + dtype.itemsize * math.prod(shape) != (path / name).stat().st_size:
        raise DataError(f"{path}: {name} is cut short; prepare the store again")
    return MappedArray.of(path / name, shape, start, dtype.str)


def _inside(path: Path, name: str) -> Path:
    if os.path.basename(name) != name or name in ("", ".", ".."):
        raise DataError(f"{path}: {MANIFEST} names {name!r}, which is not a file of the store")
    if not stat.S_ISREG((path / name).lstat().st_mode):
        raise DataError(f"{path}: {name} is a link or a device; copy the files themselves")
    return path / name


def _file_name(split: str, modality: str, kind: str) -> str:
    parts = [quote(part, safe="", errors="surrogatepass").replace(".", "%2E") for part in (split, modality) if part]
    return ".".join([*parts, kind])
