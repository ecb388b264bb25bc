"""Tells by its content, never by its name, which layout a file or a folder has, and reads it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from topdown.experiments.errors import DataError
from topdown.experiments.formats import archive, hdf5
from topdown.experiments.formats.csd import file_hashes, read_csd
from topdown.experiments.formats.fields import some
from topdown.experiments.formats.folds import Folds
from topdown.experiments.formats.listed import read_cache, read_mag_bert
from topdown.experiments.formats.mmsa import read_mmsa
from topdown.experiments.formats.mult import KEYS, SPLITS, read_mult
from topdown.experiments.formats.multibench import read_multibench
from topdown.experiments.formats.pickles import load_arrays
from topdown.experiments.formats.words import Embeddings
from topdown.experiments.streams import RawSplit

KINDS = "a pickle of MulT, MMSA, MAG-BERT or MMLatch's cache, MultiBench's HDF5, a folder of .csd files, .npz, or a store"


class Options(NamedTuple):
    """What the user has decided: see :func:`topdown.experiments.load_splits`."""

    modalities: tuple[str, ...] | None = None
    folds: Folds | None = None
    embeddings: Embeddings | None = None
    streams: Mapping[str, str] | None = None

    def only(self, path: Path, what: str, *names: str) -> None:
        """Checks that no option is given but some.

        Raises:
            DataError: naming the option that has no meaning for this kind of file.
        """
        for name in ("folds", "embeddings", "streams"):
            if getattr(self, name) and name not in names:
                raise DataError(f"{path}: is {what}, for which {name}= means nothing; leave it out")


class Source(NamedTuple):
    """What a file or a folder holds.

    Args:
        kind: Its layout, in words.
        splits: The samples, as they are.
        sha256: Of the file, or of the hashes of all files.
        files: The SHA-256 of each file, of a folder.
        size: Bytes of all files; None of an archive, which is checked as a whole.
    """

    kind: str
    splits: dict[str, RawSplit]
    sha256: str
    files: dict[str, str] | None = None
    size: int | None = None


def read_source(path: Path, options: Options) -> Source:
    """Reads a file or a folder of any layout but a store.

    Raises:
        DataError: if it is of none, or anything about it does not fit.
    """
    try:
        folder = path.is_dir()
        start = b"" if folder else _start(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    wanted = options.modalities or tuple(KEYS)
    unknown = set(options.streams or {}) - {*wanted, "words", "labels"}
    if unknown:
        raise DataError(f"streams name {some(sorted(unknown))}, but the modalities are {list(wanted)}, and words and labels")
    if folder:
        if not any(path.glob("*.csd")):
            raise DataError(f"{path}: is a directory without .csd files, and not a store; give {KINDS}")
        splits, used = read_csd(path, wanted, options.folds, options.embeddings, options.streams or {})
        files = file_hashes(used)
        size = sum(file.stat().st_size for file in used)
        return Source("computational sequences (.csd)", splits, _together(files), files, size)
    if start.startswith(hdf5.MAGIC):
        return _read_hdf5(path, wanted, options)
    for magic, what in OTHERS.items():
        if start.startswith(magic):
            raise DataError(f"{path}: is {what}")
    if start.startswith(archive.MAGIC):
        options.only(path, "an archive")
        splits = archive.read_archive(path, options.modalities)
        return Source("archive of arrays (.npz)", splits, next(iter(file_hashes([path]).values())))
    return _read_pickle(path, wanted, options)


def _read_hdf5(path: Path, wanted: tuple[str, ...], options: Options) -> Source:
    with hdf5.open_hdf5(path) as file:
        if len(file) == 1 and hdf5.has(file[next(iter(file))] if _is_group(file) else file, "data"):
            raise DataError(
                f"{path}: is one computational sequence; give the folder that holds those of words, features and labels"
            )
    splits = read_multibench(path, wanted, options.folds, options.embeddings, options.streams or {})
    return Source("MultiBench (HDF5)", splits, next(iter(file_hashes([path]).values())), size=path.stat().st_size)


def _is_group(file: Any) -> bool:
    name = next(iter(file))
    return hasattr(hdf5.child(file, name, file.filename), "keys")


OTHERS = {
    b"version ": "a pointer of Git LFS and not the file itself: run `git lfs pull`",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
}
TORCH = 0x1950A86A20F9469CFC6C  # the first of the pickles that old versions of torch.save write


def _read_pickle(path: Path, wanted: tuple[str, ...], options: Options) -> Source:
    content, sha256, size = load_arrays(path)
    where = str(path)
    if isinstance(content, int) and content == TORCH:
        raise DataError(f"{path}: was written by torch.save; {archive.TORCH_REMEDY}")
    if isinstance(content, tuple) and len(content) == 4:
        options.only(path, "a cache of MMLatch", "embeddings")
        return Source(
            "MMLatch's cache", read_cache(content, options.modalities, where, options.embeddings, size), sha256, size=size
        )
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}, not data of a known layout; give {KINDS}")
    if unknown := [name for name in wanted if name not in KEYS]:
        raise DataError(f"{path}: has no modality {unknown[0]!r}; it has {list(KEYS)}")
    if isinstance(content.get("dev", content.get("valid")), (list, tuple)):
        options.only(path, "of MAG-BERT", "embeddings")
        missing = [key for key in ("train", "test") if key not in content]
        if missing:
            raise DataError(f"{path}: has no {missing[0]!r}; a pickle of MAG-BERT is a dict of train, dev and test")
        return Source("MAG-BERT", read_mag_bert(content, wanted, where, options.embeddings, size), sha256, size=size)
    options.only(path, "a pickle of arrays")
    missing = [split for split in SPLITS if not isinstance(content.get(split), dict)]
    if missing:
        raise DataError(
            f"{path}: has no {', '.join(missing)}; a pickle of MulT or MMSA is a dict of train, valid and test, "
            f"and this one has {some(key for key in content if isinstance(key, str))}"
        )
    content = {
        key: dict(value) if key in SPLITS else value for key, value in content.items()
    }  # one dict may stand for two splits
    if "regression_labels" in content["train"]:
        kind = "MMSA-FET" if "config" in content else "MMSA"
        return Source(kind, read_mmsa(content, wanted, where), sha256, size=size)
    return Source("MulT", read_mult(content, wanted, where), sha256, size=size)


def _start(path: Path) -> bytes:
    if not path.exists():
        raise DataError(f"{path}: there is no such file; check the path")
    with path.open("rb") as file:
        return file.read(8)


def _together(files: Mapping[str, str]) -> str:
    return hashlib.sha256("".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items())).encode()).hexdigest()
