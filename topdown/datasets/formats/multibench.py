"""Reads the HDF5 files of MultiBench, mosi.hdf5 and mosei.hdf5.

A group for each computational sequence -> video[segment] -> features. Segments are aligned to words, and not padded.
The files do not say which segments are for training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import SPLITS, as_text, check_range, join_names
from topdown.datasets.formats.helpers.folds import read_folds
from topdown.datasets.formats.helpers.hdf5 import (
    MAGIC,
    check_streams,
    child,
    choose,
    dataset,
    groups,
    has,
    open_hdf5,
    read_array,
)
from topdown.datasets.formats.helpers.limits import SAMPLES_OF_HDF5
from topdown.datasets.formats.helpers.words import LEFT_OUT, Embeddings, word_vectors
from topdown.datasets.formats.source import Content, Source
from topdown.datasets.raw_samples import Array, RawSplit, Stream


def recognizes(source: Source) -> bool:
    """Returns whether this is an HDF5 file."""
    return source.start.startswith(MAGIC)


def read(source: Source) -> Content:
    """Reads the splits; features are read when they are used, one segment at a time.

    Raises:
        DataError: naming the group and the segment that is missing or does not fit.
    """
    path, modalities = source.path, source.wanted
    _, folds, embeddings, _ = source.options[:4]
    streams = check_streams(source)
    _check_not_one_sequence(path)
    with open_hdf5(path) as file:
        sequences = groups(file, str(path))
        everything = {name: name for name in sequences}
        label_group = choose("labels", everything, streams, str(path))
        if label_group is None:
            raise DataError(f"{path}: has no group of labels among {join_names(sorted(sequences))}")
        split_of = read_folds(folds, str(path))
        segments: dict[str, list[str]] = {split: [] for split in SPLITS}
        outside: list[str] = []
        for segment in sorted(sequences[label_group], key=_order):
            split = split_of.get(_order(segment)[0])
            (segments[split] if split else outside).append(segment)
        names = {name: name for name in sequences if name != label_group}
        chosen = {modality: choose(modality, names, streams, str(path)) for modality in modalities}
        words = choose("words", names, streams, str(path))
        splits = {}
        for split, members in segments.items():
            if not members:
                raise DataError(f"{path}: {split}: none of its segments is in the folds")
            place = f"{path}: {split}"
            labels = np.array([float(_label(sequences[label_group], name, f"{path}: {label_group}")) for name in members])
            check_range(labels, f"{place}: {label_group!r}")
            report: dict[str, Any] = {
                "segments_in_no_fold": len(outside),
                "videos_without_segments": sorted(set(split_of) - {_order(name)[0] for name in sequences[label_group]}),
                "left_out": {},
            }
            by_modality: dict[str, Stream] = {}
            for modality, group in chosen.items():
                if group is None and modality == "text" and words is not None:
                    if embeddings is None:
                        report["left_out"][modality] = LEFT_OUT
                    else:
                        by_modality[modality] = _words(path, sequences[words], words, members, embeddings)
                elif group is None:
                    raise DataError(
                        f"{path}: {split}: no group is {modality!r} among {join_names(sorted(names))}; "
                        "leave it out of modalities="
                    )
                else:
                    by_modality[modality] = _features(path, sequences[group], group, members)
            splits[split] = RawSplit(labels, members, by_modality, {}, report)
    return source.file_content("MultiBench (HDF5)", splits, SAMPLES_OF_HDF5)


def _check_not_one_sequence(path: Path) -> None:
    with open_hdf5(path) as file:
        first = child(file, next(iter(file)), str(path)) if len(file) == 1 else None
        if first is not None and has(first if hasattr(first, "keys") else file, "data"):
            raise DataError(
                f"{path}: is one computational sequence; give the folder that holds those of words, features and labels"
            )


def _features(path: Path, group: Any, name: str, members: list[str]) -> Stream:
    where = f"{path}: {name}"
    shapes: list[tuple[int, Any]] = []
    dtypes: set[str] = set()
    for member in members:
        features = dataset(child(group, member, where), "features", f"{where}: {member}") if has(group, member) else None
        shapes.append(
            (0, None) if features is None or not features.size else (len(features), int(features.size) // len(features))
        )
        dtypes |= set() if features is None else {str(features.dtype)}
    sizes = {size: member for (length, size), member in zip(shapes, members, strict=True) if length}
    if len(sizes) != 1:
        raise DataError(f"{where}: has {len(sizes)} numbers of features, {dict(list(sizes.items())[:3])} (size: segment)")
    report = {
        "dtype": ", ".join(sorted(dtypes)),
        "padding": "none",
        "lengths_from": "the arrays",
        "from": name,
        "absent_samples": sum(size is None for _, size in shapes),
    }
    lengths = np.array([length for length, _ in shapes])
    return Stream(next(iter(sizes)), lengths, _arrays(path, name, members), report)


def _arrays(path: Path, name: str, members: list[str]) -> Iterator[Array]:
    with open_hdf5(path) as file:
        group = groups(file, str(path))[name]
        for member in members:
            where = f"{path}: {name}: {member}"
            yield read_array(child(group, member, where), "features", where) if has(group, member) else np.zeros((0, 0))


def _words(path: Path, group: Any, name: str, members: list[str], embeddings: Embeddings) -> Stream:
    where = f"{path}: {name}"
    sentences: list[list[str]] = []
    for member in members:
        place = f"{where}: {member}"
        tokens: Array = np.zeros(0)
        if has(group, member):
            tokens = read_array(child(group, member, where), "features", place, "S").reshape(-1)
        sentences.append([as_text(token, place) for token in tokens.tolist()])
    vectors = word_vectors(embeddings, {word for sentence in sentences for word in sentence})
    unknown = sum(vectors.unknown(sentence) for sentence in sentences)
    report = {"dtype": "words", "padding": "none", "lengths_from": "the words", "from": name, "unknown_words": unknown}
    return Stream(vectors.size, np.array([len(sentence) for sentence in sentences]), map(vectors.look_up, sentences), report)


def _label(group: Any, name: str, where: str) -> Any:
    label = read_array(child(group, name, where), "features", f"{where}: {name}")
    if label.size == 0:
        raise DataError(f"{where}: {name}: its label is empty")
    return label.reshape(-1)[0]


def _order(segment: str) -> tuple[str, int]:
    """Parses `video[12]`."""
    match = re.fullmatch(r"(.*)\[(\d{1,9})\]", segment)
    return (match[1], int(match[2])) if match else (segment, 0)
