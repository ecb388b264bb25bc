"""Reads .npz archives.

An archive holds arrays `train.audio`, `train.audio.lengths`, `train.labels`, `train.ids`, and so on.
`<split>.<modality>` is (N, T, D) padded on the right, (N, D) without time, or, with `<split>.<modality>.lengths` that sum to
its rows, (sum of T, D): all sequences end to end. Ids of tokens are integers (N, T), or (sum of T,), with their lengths.
`<split>.labels` are numbers, or words, which are classes. The names define the splits, in the order of the archive.
"""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from topdown.datasets.arrays import from_arrays
from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import identifiers, join_names
from topdown.datasets.formats.helpers.limits import ARRAYS_OF_ARCHIVE
from topdown.datasets.formats.helpers.stand_ins import MOST_OF_NOTHING, checked_text
from topdown.datasets.formats.source import Content, Source
from topdown.datasets.labels import classes_of, words_of
from topdown.datasets.raw_samples import Array, RawSplit

MAGIC = b"PK"
TORCH_REMEDY = "load it with torch.load(..., weights_only=True) and give its arrays to SequenceDataset.from_arrays"
REMEDY = "save it again with np.savez"


def recognizes(source: Source) -> bool:
    """Returns whether this is an archive."""
    return source.start.startswith(MAGIC)


def read(source: Source) -> Content:
    """Reads the splits of an archive, and refuses pickles in it.

    Raises:
        DataError: naming the array that is missing, does not fit, or declares more bytes than it has.
    """
    path = source.path
    source.options.only(path, "an archive")
    splits: dict[str, dict[str, Array]] = {}
    for name, array in _arrays(path).items():
        split, dot, key = name.partition(".")
        if not dot or not key:
            raise DataError(f"{path}: {name!r} is not <split>.<modality>, <split>.labels or <split>.ids; rename it")
        splits.setdefault(split, {})[key] = array
    modalities, classes = source.options.modalities, _classes(splits, path)
    raw = {split: _split(members, modalities, classes, f"{path}: {split}") for split, members in splits.items()}
    return source.file_content("archive of arrays (.npz)", raw)


def _classes(splits: dict[str, dict[str, Array]], path: Path) -> list[str] | None:
    """Returns the classes of all splits, where labels are words."""
    words: dict[str, list[str] | None] = {}
    for split in [split for split, members in splits.items() if "labels" in members]:
        try:
            words[split] = words_of(splits[split]["labels"])
        except DataError as error:
            raise DataError(f"{path}: {split}: {error}") from None
    of_words = [split for split, listed in words.items() if listed is not None]
    if of_words and len(of_words) < len(words):
        other = next(split for split in words if split not in of_words)
        raise DataError(f"{path}: labels of {of_words[0]!r} are words, but those of {other!r} are numbers; give all as words")
    try:
        return classes_of([word for listed in words.values() for word in listed or ()]) or None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _split(members: dict[str, Array], modalities: tuple[str, ...] | None, classes: list[str] | None, where: str) -> RawSplit:
    labels, ids = members.pop("labels", None), members.pop("ids", None)
    if not members:
        raise DataError(f"{where}: has no modality")
    lengths = {name.removesuffix(".lengths"): members.pop(name) for name in list(members) if name.endswith(".lengths")}
    missing = [name for name in (*(modalities or ()), *lengths) if name not in members]
    if missing:
        raise DataError(f"{where}: has no {missing[0]!r}; it has {join_names(members)}")
    inputs: dict[str, Any] = {}
    for name in modalities or tuple(members):
        array = inputs[name] = members[name]
        if array.ndim in (1, 2) and name in lengths and not _are_padded_tokens(array, lengths[name]):
            valid = lengths.pop(name)
            if valid.shape == (len(array),) and valid.dtype.kind in "iu" and valid.sum() < len(array) and valid.max() <= 1:
                lengths[name] = valid  # vectors, absent in some samples
                continue
            if valid.ndim != 1 or valid.dtype.kind not in "iu" or (valid < 0).any() or valid.sum() != len(array):
                raise DataError(
                    f"{where}: {name + '.lengths'!r} must be integers that sum to the {len(array)} rows of {name!r}"
                )
            inputs[name] = np.split(array, np.cumsum(valid)[:-1].astype(np.int64))
    try:
        raw = from_arrays(inputs, labels, {name: valid for name, valid in lengths.items() if name in inputs}, None, classes)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    return raw._replace(ids=identifiers(ids, f"{where}: 'ids'"))


def _are_padded_tokens(array: Array, valid: Array) -> bool:
    """Returns whether an array is (N, T) ids of tokens with a length for each row, and no sequences end to end."""
    counts = array.ndim == 2 and array.dtype.kind in "iu" and valid.shape == (len(array),) and valid.dtype.kind in "iu"
    return counts and int(valid.max(initial=0)) > 1 and int(valid.sum()) != len(array)


def _arrays(path: Path) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/data.pkl") for name in archive.namelist()):
                raise DataError(f"{path}: was written by torch.save; {TORCH_REMEDY}")
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if len({member.filename for member in members}) != len(archive.infolist()):
                raise DataError(f"{path}: holds something other than arrays, or an array twice; {REMEDY}")
            size, file_size = sum(member.file_size for member in members), path.stat().st_size
            if not ARRAYS_OF_ARCHIVE.allows(size, file_size):
                raise DataError(f"{path}: would become {size} bytes of {file_size}; {REMEDY}")
            becomes = sum(_declared(archive, member, path) for member in members)
            if not ARRAYS_OF_ARCHIVE.allows(becomes, file_size):
                raise DataError(f"{path}: would become {becomes} bytes of {file_size}; {REMEDY}")
            return {member.filename.removesuffix(".npy"): _array(archive, member) for member in members}
    except DataError:
        raise
    except Exception as error:  # zipfile and numpy raise many types on damaged archives
        reason = f"{type(error).__name__}: {error}"[:200]
        raise DataError(f"{path}: not an archive of arrays, or damaged ({reason}); {REMEDY}") from None


def _declared(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> int:
    """Returns the bytes of an array in float32, from its header alone.

    Raises:
        DataError: if the header does not fit, or the array is not of plain numbers or text.
    """
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if header is None:
            raise DataError(f"{path}: {member.filename!r} is of an unknown version {version}; {REMEDY}")
        shape, _, dtype = header(file)
        if dtype.hasobject or dtype.kind not in "fiubUS":
            remedy = "save numbers or text: all sequences end to end, and '<split>.<modality>.lengths'"
            raise DataError(f"{path}: {member.filename!r} holds {dtype}; {remedy}")
        size = math.prod(shape) * dtype.itemsize
        if size + file.tell() != member.file_size:
            raise DataError(f"{path}: {member.filename!r} declares {size} bytes but has {member.file_size}; {REMEDY}")
    if 0 in shape and max(shape) > MOST_OF_NOTHING:
        raise DataError(f"{path}: {member.filename!r} has shape {shape}, which holds nothing; {REMEDY}")
    return math.prod(shape) * max(4, dtype.itemsize)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    with archive.open(member) as file:
        return checked_text(np.lib.format.read_array(file, allow_pickle=False))
