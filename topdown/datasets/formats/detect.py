"""Finds the layout of a file or a folder by its content, never by its name, and reads it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from topdown.datasets.errors import DataError
from topdown.datasets.formats import archive, csd, mag_bert, mmlatch_cache, mmsa, mult, multibench, tables
from topdown.datasets.formats.helpers.fields import SPLITS, join_names
from topdown.datasets.formats.source import Content, Source

# Layouts in the order in which they are tried. Each is a module with recognizes(source) and read(source).
LAYOUTS: tuple[ModuleType, ...] = (csd, tables, multibench, archive, mmlatch_cache, mag_bert, mmsa, mult)
KINDS = (
    "a pickle of MulT, MMSA, MAG-BERT or MMLatch's cache, MultiBench's HDF5, a folder of .csd files or of .csv tables, .npz, "
    "or a store"
)
TORCH = 0x1950A86A20F9469CFC6C  # the first of the pickles that old versions of torch.save write
OTHERS = {
    b"version ": "a pointer of Git LFS and not the file itself: run `git lfs pull`",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"BZh": "compressed with bzip2: unpack it first",
    b"\xfd7zXZ": "compressed with xz: unpack it first",
}


def read_source(source: Source) -> Content:
    """Reads a file or a folder of any layout but a store.

    Raises:
        DataError: if it has none of them, or does not fit its layout.
    """
    for magic, what in OTHERS.items():
        if source.start.startswith(magic):
            raise DataError(f"{source.path}: is {what}")
    for layout in LAYOUTS:
        if layout.recognizes(source):
            content: Content = layout.read(source)
            return content
    raise DataError(f"{source.path}: {_explain(source)}")


def _explain(source: Source) -> str:
    """Describes a source whose layout is unknown."""
    if source.is_folder:
        return f"is a directory without .csd files, and not a store; give {KINDS}"
    content: Any = source.pickle.content
    if isinstance(content, int) and content == TORCH:
        return f"was written by torch.save; {archive.TORCH_REMEDY}"
    if not isinstance(content, dict):
        return f"holds a {type(content).__name__}, not data of a known layout; give {KINDS}"
    missing = ", ".join(split for split in SPLITS if not isinstance(content.get(split), dict))
    keys = join_names(key for key in content if isinstance(key, str))
    return f"has no {missing}; a pickle of MulT or MMSA is a dict of train, valid and test, and this one has {keys}"
