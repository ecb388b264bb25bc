"""Defines the source that readers open, and their result.

Each module of a layout has the same two functions: `recognizes(source)` returns whether a source has the layout, by its content
and never by its name, and `read(source)` reads it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import KEYS, SPLITS
from topdown.datasets.formats.helpers.folds import Folds
from topdown.datasets.formats.helpers.limits import Limit
from topdown.datasets.formats.helpers.pickles import Loaded, load_arrays
from topdown.datasets.formats.helpers.words import Embeddings
from topdown.datasets.raw_samples import RawSplit


class Options(NamedTuple):
    """Options of :func:`topdown.datasets.load_splits`."""

    modalities: tuple[str, ...] | None = None
    folds: Folds | None = None
    embeddings: Embeddings | None = None
    streams: Mapping[str, str] | None = None
    label: str | tuple[str, ...] | None = None
    split: tuple[float, ...] | None = None
    seed: int = 0
    columns: Mapping[str, str | Sequence[str]] | None = None
    features: Mapping[str, Sequence[str]] | None = None

    @classmethod
    def of(cls, *, modalities: Any, label: Any, split: Any, **others: Any) -> Options:
        """Returns the options with tuples in place of other sequences.

        Raises:
            DataError: if modalities are no list of names.
        """
        if isinstance(modalities, str) or (modalities is not None and not len(modalities)):
            raise DataError(f"modalities={modalities!r}: give a list of names")
        lists: dict[str, Any] = {"modalities": modalities, "label": label, "split": split}
        others |= {name: v if v is None or isinstance(v, str) else tuple(v) for name, v in lists.items()}
        return cls(**others)

    def only(self, path: Path, what: str, *names: str) -> None:
        """Checks that only supported options are set.

        Raises:
            DataError: naming the option that is not supported.
        """
        for name in ("folds", "embeddings", "streams", "label", "split", "columns", "features"):
            if getattr(self, name) and name not in names:
                raise DataError(f"{path}: is {what}, which does not support {name}=; leave it out")


class Content(NamedTuple):
    """Content of a file or a folder.

    Args:
        layout: Name of its layout.
        splits: Samples, before they are cleaned.
        sha256: Hash of the file, or of the hashes of all files.
        files: Hash of each file of a folder.
        size: Bytes of all files.
        limit: Limit of the memory of the samples; None where the reader checks it.
    """

    layout: str
    splits: dict[str, RawSplit]
    sha256: str
    files: dict[str, str] | None = None
    size: int = 0
    limit: Limit | None = None


class Source:
    """A file or folder, read lazily.

    Args:
        path: Path.
        options: Options of the user.

    Raises:
        DataError: if it does not exist, or cannot be read.
    """

    def __init__(self, path: Path, options: Options) -> None:
        self.path, self.options = path, options
        self.wanted = options.modalities or tuple(KEYS)
        self.where = str(path)
        try:
            if not path.exists():
                raise DataError(f"{path}: there is no such file; check the path")
            self.is_folder = path.is_dir()
            self.start = b"" if self.is_folder else _start(path)
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None

    @cached_property
    def pickle(self) -> Loaded:
        """Content of a pickle, and its hash; readers remove the arrays that they use. None for a folder."""
        return Loaded(None, "", 0) if self.is_folder else load_arrays(self.path)

    def file_content(self, layout: str, splits: dict[str, RawSplit], limit: Limit | None = None) -> Content:
        """Returns the content of this file."""
        (sha256,) = file_hashes([self.path]).values()
        return Content(layout, splits, sha256, size=self.path.stat().st_size, limit=limit)

    def pickle_content(self, layout: str, splits: dict[str, RawSplit], limit: Limit) -> Content:
        """Returns the content of this pickle, which was hashed as it was read."""
        return Content(layout, splits, self.pickle.sha256, size=self.pickle.size, limit=limit)

    def folder_content(self, layout: str, splits: dict[str, RawSplit], used: Sequence[Path], limit: Limit | None) -> Content:
        """Returns the content of some files of this folder."""
        files = file_hashes(used)
        together = "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))
        sha256 = hashlib.sha256(together.encode()).hexdigest()
        return Content(layout, splits, sha256, files, sum(path.stat().st_size for path in used), limit)


def has_splits(content: Any) -> bool:
    """Returns whether a pickle holds a dict of the three splits."""
    return isinstance(content, dict) and all(isinstance(content.get(split), dict) for split in SPLITS)


def copied_splits(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content with a copy of the dict of each split, since two splits may be one dict."""
    return {key: dict(value) if key in SPLITS else value for key, value in content.items()}


def check_modalities(source: Source) -> None:
    """Checks that the requested modalities are among the three of a pickle.

    Raises:
        DataError: naming the one that it does not have.
    """
    if unknown := [name for name in source.wanted if name not in KEYS]:
        raise DataError(f"{source.path}: has no modality {unknown[0]!r}; it has {list(KEYS)}")


def file_hashes(paths: Sequence[Path]) -> dict[str, str]:
    """Returns the SHA-256 of each file, by its name."""
    hashes = {}
    for path in paths:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
        hashes[path.name] = digest.hexdigest()
    return hashes


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(8)
