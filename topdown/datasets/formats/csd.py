"""Reads .csd folders of CMU-MOSEI and CMU-MOSI, and aligns them to words, without the SDK.

Each file is HDF5: /<root>/data/<video>/features (n, D) and intervals (n, 2) in seconds, in any order; the first key of a
file is its root, whatever it is called. Segments come from the file of labels, words from the file of words (or, without
one, from the vectors of words). A word belongs to a segment if they overlap, and a feature is averaged over all frames that
overlap the word; overlaps of up to 1e-5 s do not count, as in the SDK.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topdown.datasets.cleaning import KINDS, count_kinds
from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import SPLITS, as_text, check_range, join_names
from topdown.datasets.formats.helpers.folds import read_folds
from topdown.datasets.formats.helpers.hdf5 import check_streams, child, choose, dataset, groups, has, open_hdf5, read_array
from topdown.datasets.formats.helpers.limits import SAMPLES_OF_HDF5
from topdown.datasets.formats.helpers.words import LEFT_OUT, Embeddings, word_vectors
from topdown.datasets.formats.source import Content, Source
from topdown.datasets.raw_samples import Array, RawSplit, Stream

SHORTEST = 1e-5  # seconds


class Segment(NamedTuple):
    """A segment of a video: its number in it, its sentiment, and the intervals (T, 2) and the text of its words."""

    video: str
    number: int
    label: float
    words: Array
    tokens: list[str]


def recognizes(source: Source) -> bool:
    """Returns whether this is a folder of such files."""
    return source.is_folder and any(source.path.glob("*.csd"))


def read(source: Source) -> Content:
    """Reads the splits; features are read when they are used, one video at a time.

    Raises:
        DataError: naming the file and the video that does not fit.
    """
    folder, modalities = source.path, source.wanted
    _, folds, embeddings, streams = source.options[:4]
    streams = check_streams(source)
    paths = [path for path in sorted(folder.glob("*.csd")) if not path.name.startswith(".")]
    names = {path.name: f"{_root_name(path)} {path.stem}" for path in paths}
    labels = choose("labels", names, streams, str(folder))
    rest = {name: said for name, said in names.items() if name != labels}
    chosen = {modality: choose(modality, rest, streams, str(folder)) for modality in modalities}
    words = choose("words", rest, streams, str(folder)) or chosen.get("text") or choose("text", rest, streams, str(folder))
    if labels is None or words is None:
        raise DataError(f"{folder}: has no file of {'labels' if labels is None else 'words'} among {join_names(names)}")
    split_of = read_folds(folds, str(folder))
    segments = _segments(folder / labels, folder / words)
    members = {split: [s for s in segments if split_of.get(s.video) == split] for split in SPLITS}
    report = {
        "segments_in_no_fold": sum(s.video not in split_of for s in segments),
        "videos_without_segments": sorted(set(split_of) - {s.video for s in segments}),
        "files_not_used": sorted(set(rest) - {words, *chosen.values()}),
    }
    splits = {}
    for split, wanted in members.items():
        if not wanted:
            raise DataError(f"{folder}: {split}: none of its videos has a segment in {labels}")
        targets = np.array([s.label for s in wanted])
        ids = [f"{s.video}[{s.number}]" for s in wanted]
        check_range(targets, f"{folder}: {split}: {labels}: label of {ids[_furthest(targets)]}, labels")
        by_modality, left_out = {}, {}
        for modality, name in chosen.items():
            if name is not None:
                by_modality[modality] = _averages(folder / name, wanted)
            elif modality == "text" and embeddings is not None:
                by_modality[modality] = _embedded(wanted, embeddings)
            elif modality == "text":
                left_out[modality] = LEFT_OUT
            else:
                raise DataError(
                    f"{folder}: {split}: no file is {modality!r} among {join_names(rest)}; leave it out of modalities="
                )
        splits[split] = RawSplit(
            targets,
            ids,
            by_modality,
            {},
            {**report, "segments_without_words": sum(not len(s.words) for s in wanted), "left_out": left_out},
        )
    used = [labels, words, *(name for name in chosen.values() if name is not None)]
    files = [folder / name for name in sorted(set(used))]
    return source.folder_content("computational sequences (.csd)", splits, files, SAMPLES_OF_HDF5)


def _root_name(path: Path) -> str:
    """Returns the first key of a file, or "" for a file that cannot be read, which raises when it is used."""
    try:
        with open_hdf5(path) as file:
            return str(next(iter(file), ""))
    except DataError:
        return ""


def _data(file: Any, path: Path) -> Any:
    root = next(iter(file), None)
    if root is None:
        raise DataError(f"{path}: is empty; download it again")
    return child(child(file, root, str(path)), "data", f"{path}: {root}")


def _intervals(video: Any, count: int, where: str) -> Array:
    if count == 0:
        return np.zeros((0, 2))
    intervals = read_array(video, "intervals", where).astype(np.float64)
    if intervals.shape != (count, 2):
        raise DataError(f"{where}: has {count} features but intervals of shape {intervals.shape}; download it again")
    if not np.isfinite(intervals).all():
        raise DataError(f"{where}: an interval is not finite; download it again")
    return intervals


def _segments(labels: Path, words: Path) -> list[Segment]:
    segments = []
    with open_hdf5(labels) as label_file, open_hdf5(words) as word_file:
        videos, spoken = groups(_data(label_file, labels), str(labels)), _data(word_file, words)
        for name in sorted(videos):
            where = f"{labels}: {name}"
            features = read_array(videos[name], "features", where)
            if not features.size:
                raise DataError(f"{where}: its labels are empty")
            intervals, tokens = np.zeros((0, 2)), list[str]()
            if has(spoken, name):
                intervals, tokens = _words(child(spoken, name, str(words)), f"{words}: {name}")
            left = 10 * len(intervals) + len(features)  # a word is in one segment, or in two that overlap
            for number, (start, end) in enumerate(_intervals(videos[name], len(features), where)):
                inside = np.flatnonzero(_overlap(intervals, start, end))
                left -= len(inside)
                if left < 0:
                    raise DataError(f"{where}: each word is in more than ten segments; the intervals are damaged")
                said = [tokens[i] for i in inside] if tokens else []
                segments.append(Segment(name, number, float(features[number, 0]), intervals[inside], said))
    return segments


def _words(video: Any, where: str) -> tuple[Array, list[str]]:
    """Returns the intervals of the words of a video in order, and the words, unless the file holds their vectors."""
    features = dataset(video, "features", where, "fiuS")
    intervals = _intervals(video, len(features), where)
    order = np.argsort(intervals[:, 0], kind="stable")
    order = order[intervals[order, 1] - intervals[order, 0] > SHORTEST]
    tokens = [as_text(token, where) for token in features[()].reshape(-1).tolist()] if features.dtype.kind == "S" else []
    if tokens and len(tokens) != len(intervals):
        raise DataError(f"{where}: has {len(tokens)} words but {len(intervals)} intervals")
    return intervals[order], [tokens[i] for i in order] if tokens else []


def _embedded(segments: list[Segment], embeddings: Embeddings) -> Stream:
    vectors = word_vectors(embeddings, {word for s in segments for word in s.tokens})
    unknown = sum(vectors.unknown(s.tokens) for s in segments)
    report = {"dtype": "words", "padding": "none", "lengths_from": "the words", "unknown_words": unknown}
    return Stream(vectors.size, _steps(segments), (vectors.look_up(s.tokens or [""]) for s in segments), report)


def _steps(segments: list[Segment]) -> Array:
    """Returns the steps of each segment: its words, or one of zeros where nothing is said."""
    return np.array([max(1, len(s.words)) for s in segments])


def _averages(path: Path, segments: list[Segment]) -> Stream:
    sizes, dtypes, absent = {}, set(), set()
    with open_hdf5(path) as file:
        data = _data(file, path)
        for video in dict.fromkeys(s.video for s in segments):
            features = dataset(child(data, video, str(path)), "features", f"{path}: {video}") if has(data, video) else None
            if features is None or not features.size:
                absent.add(video)
                continue
            sizes[int(features.size) // len(features)] = video  # h5py 3.8 has a number of numpy
            dtypes.add(str(features.dtype))
    if not sizes:
        raise DataError(f"{path}: has none of the {len(absent)} videos of this split; check folds=")
    if len(sizes) != 1:
        raise DataError(f"{path}: has {len(sizes)} numbers of features, {dict(list(sizes.items())[:3])} (size: video)")
    report: dict[str, Any] = {
        "dtype": ", ".join(sorted(dtypes)),
        "padding": "none",
        "lengths_from": "the words",
        "from": path.name,
        "absent_videos": len(absent),
        "words_without_frames": 0,
        "frame_values_ignored": dict.fromkeys(KINDS, 0),
    }
    size = next(iter(sizes))
    return Stream(size, _steps(segments), _averaged(path, segments, size, report), report)


def _averaged(path: Path, segments: list[Segment], size: int, report: dict[str, Any]) -> Iterator[Array]:
    """Averages finite values over each word; zeros where there are none."""
    features: Array
    intervals: Array
    video, features, intervals = "", np.zeros((0, size), np.float32), np.zeros((0, 2))
    with open_hdf5(path) as file:
        data = _data(file, path)
        for segment in segments:
            if segment.video != video:
                video, features, intervals = segment.video, np.zeros((0, size), np.float32), np.zeros((0, 2))
                if has(data, video):
                    features = read_array(child(data, video, str(path)), "features", f"{path}: {video}")
                    intervals = _intervals(child(data, video, str(path)), len(features), f"{path}: {video}")
                    features = _as_float32(features, report["frame_values_ignored"]).reshape(-1, size)
            rows = np.zeros((max(1, len(segment.words)), size), np.float32)
            for row, (start, end) in zip(rows, segment.words, strict=False):
                frames = features[_overlap(intervals, start, end)].astype(np.float64)
                report["words_without_frames"] += not len(frames)
                finite = np.isfinite(frames)
                row[:] = np.where(finite, frames, 0).sum(0) / np.maximum(finite.sum(0), 1)
            yield rows


def _overlap(intervals: Array, start: float, end: float) -> Array:
    """Returns which intervals overlap one by more than the shortest time and the resolution of float32 at that time."""
    shortest = SHORTEST + abs(end) * float(np.finfo(np.float32).eps)
    overlap: Array = np.minimum(intervals[:, 1], end) - np.maximum(intervals[:, 0], start) > shortest
    return overlap


def _as_float32(features: Array, counts: dict[str, int]) -> Array:
    """Returns features in float32, and counts those that are not finite in it."""
    with np.errstate(over="ignore"):
        clean: Array = features.astype(np.float32)
    wrong = features[~np.isfinite(clean)]
    count_kinds(wrong, counts)
    return clean


def _furthest(labels: Array) -> int:
    """Returns the index of the label that is furthest from 0, or is nan."""
    return int(np.argmax(np.nan_to_num(np.abs(labels), nan=np.inf)))
