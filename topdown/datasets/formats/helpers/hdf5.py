"""Opens HDF5 files safely: no links out of the file, no trust in declared sizes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import join_names
from topdown.datasets.formats.helpers.limits import ARRAY_OF_HDF5
from topdown.datasets.formats.source import Source
from topdown.datasets.raw_samples import Array
from topdown.files import require

MAGIC = b"\x89HDF\r\n\x1a\n"

# Patterns of the computational sequence of each modality, in the names of groups or files, in order of preference.
NAMES = {
    "text": ("glove", "vectors"),
    "audio": ("covarep", "coavarep", "opensmile"),
    "visual": (r"facet.?4.?2", "facet", "openface"),
    "labels": ("label",),
    "words": ("words",),
}


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Opens a file for reading.

    Raises:
        DataError: if it cannot be read, when it is opened and while it is read.
        ImportError: if h5py is missing.
    """
    h5py = require("h5py", "datasets")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except DataError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, UnicodeError, MemoryError) as error:
        if isinstance(error, PermissionError):
            raise DataError(
                f"{path}: cannot be read ({error.strerror or 'permission denied'}); check its permissions"
            ) from None
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not an HDF5 file, or damaged ({reason}); download it again") from None


def has(group: Any, name: str) -> bool:
    """Returns whether a group has a member or a link of a name, without following it.

    Raises:
        DataError: if it is not a group.
    """
    if not isinstance(group, require("h5py", "datasets").Group):
        raise DataError(f"{group.file.filename}: {group.name} is not a group")
    return group.get(name, getlink=True) is not None


def child(group: Any, name: str, where: str) -> Any:
    """Returns a member of a group, without following links.

    Raises:
        DataError: if it does not exist, or is a link.
    """
    h5py = require("h5py", "datasets")
    if not isinstance(group, h5py.Group):
        raise DataError(f"{where}: is not a group")
    link = group.get(name, getlink=True)
    if link is None:
        raise DataError(f"{where}: has no {name!r}")
    if not isinstance(link, h5py.HardLink):
        raise DataError(f"{where}: {name!r} is a link to another place ({type(link).__name__}), which is not followed")
    return group[name]


def groups(parent: Any, where: str) -> dict[str, Any]:
    """Returns the groups of a group.

    Raises:
        DataError: if a member is no group, or a link to somewhere else.
    """
    h5py = require("h5py", "datasets")
    members = {name: child(parent, name, where) for name in parent}
    for name, member in members.items():
        if not isinstance(member, h5py.Group):
            raise DataError(f"{where}: {name!r} is not a group")
    return members


def dataset(group: Any, name: str, where: str, kinds: str = "fiu") -> Any:
    """Returns an array of a group without reading it, and checks that this file holds all of it.

    Raises:
        DataError: if it is something else, or declares more than it can hold.
    """
    h5py = require("h5py", "datasets")
    member = child(group, name, where)
    if not isinstance(member, h5py.Dataset) or member.dtype.kind not in kinds or not member.shape:
        actual = f"{member.dtype} of shape {member.shape}" if isinstance(member, h5py.Dataset) else "a group"
        raise DataError(f"{where}: {name!r} is {actual}; expected an array of {'text' if kinds == 'S' else 'numbers'}")
    if member.is_virtual or member.external:
        raise DataError(f"{where}: {name!r} lies in another file, which is not followed")
    held = member.id.get_storage_size()
    if not ARRAY_OF_HDF5.allows(member.nbytes, held):
        raise DataError(f"{where}: {name!r} declares {member.nbytes} bytes, but holds {held}; the file is damaged")
    return member


def read_array(group: Any, name: str, where: str, kinds: str = "fiu") -> Array:
    """Reads an array (n, D) of a group, whose dimensions but the first become one: see :func:`dataset`."""
    array: Array = dataset(group, name, where, kinds)[()]
    return array.reshape(len(array), -1) if array.size else np.zeros((0, 0))


def check_streams(source: Source) -> Mapping[str, str]:
    """Returns the option `streams`, and checks its modalities.

    Raises:
        DataError: if it names another modality.
    """
    streams = source.options.streams or {}
    if unknown := set(streams) - {*source.wanted, "words", "labels"}:
        expected = f"the modalities are {list(source.wanted)}, and words and labels"
        raise DataError(f"streams name {join_names(sorted(unknown))}, but {expected}")
    return streams


def choose(modality: str, names: Mapping[str, str], wanted: Mapping[str, str], where: str) -> str | None:
    """Finds the computational sequence of a modality.

    Args:
        modality: Name of the modality.
        names: Text of each key that the patterns search.
        wanted: Keys that the user has chosen, by modality.
        where: Name of the place, for messages.

    Returns:
        Its key, or None if there is none.

    Raises:
        DataError: if several match, or the chosen one does not exist.
    """
    if modality in wanted:
        name = Path(wanted[modality]).name if wanted[modality] not in names else wanted[modality]
        if name not in names:
            raise DataError(f"{where}: has no {wanted[modality]!r} for {modality!r}; it has {join_names(sorted(names))}")
        return name
    for pattern in NAMES.get(modality, (re.escape(modality.lower()),)):
        fitting = [key for key, name in names.items() if re.search(pattern, name.lower())]
        if len(fitting) > 1:
            raise DataError(
                f"{where}: {sorted(fitting)} could all be {modality!r}; name one with streams={{{modality!r}: ...}}"
            )
        if fitting:
            return fitting[0]
    return None
