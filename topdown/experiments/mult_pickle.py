"""MulT's pickles of CMU-MOSI and CMU-MOSEI: `mosei_senti_data.pkl`, `mosi_data.pkl`, aligned or not.

A dict train/valid/test -> {text, audio, vision: (N, T, D), labels: (N, 1, 1), id: (N, 3)}, padded with zero rows on the left
(longer segments keep their last steps). The reader of MulT (yaohungt/Multimodal-Transformer, src/dataset.py) feeds the
padding to its model and replaces -inf alone; here padding is removed, and every replaced value is counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from topdown.experiments.data import DataError, Ragged, SequenceDataset
from topdown.experiments.pickles import load_arrays

SPLITS = ("train", "valid", "test")
KEYS = {"text": "text", "audio": "audio", "visual": "vision"}
LABEL_LIMIT = 3.0

Array = np.ndarray[Any, Any]


def load_splits(path: str | Path) -> dict[str, SequenceDataset]:
    """Loads the three splits of a MulT pickle, checked and clean.

    - Leading zero rows are padding and go. When all modalities have as many steps the file is word-aligned, and a row is
      padding only where every modality is zero (an unknown word is a zero row of text alone); otherwise each modality has
      its own lengths, and one that is all zeros in some sample keeps one zero row there, and is counted.
    - Values that are not finite, in float32, become 0 and are counted in the report.
    - Nothing else is changed: no sample is dropped, none is reordered.

    Args:
        path: The file. It is read with an unpickler that refuses to run code.

    Returns:
        {"train", "valid", "test"}: each a :class:`SequenceDataset` of float32 with modalities text, audio and visual, labels
        of shape (N,) in [-3, 3], and a `report` of what was found.

    Raises:
        DataError: in one line with the file, the split and the key: if the file cannot be read, is not of this layout, numbers
            of samples differ, a label is out of range, a sample is all zeros, or a feature is never finite.
    """
    content = load_arrays(path)
    missing = [split for split in SPLITS if not isinstance(content, dict) or not isinstance(content.get(split), dict)]
    if missing:
        raise DataError(f"{path}: has no {', '.join(missing)}; a MulT pickle is a dict of train, valid and test")
    splits = {split: _read_split(content[split], f"{path}: {split}") for split in SPLITS}
    for split, data in splits.items():
        if data.sizes != splits["train"].sizes:
            raise DataError(
                f"{path}: {split} has features {data.sizes}, but train has {splits['train'].sizes}; the file is damaged"
            )
    return splits


def _read_split(split: dict[str, Any], where: str) -> SequenceDataset:
    missing = [key for key in [*KEYS.values(), "labels"] if not isinstance(split.get(key), np.ndarray)]
    if missing:
        raise DataError(f"{where}: has no array {', '.join(map(repr, missing))}; it has {sorted(map(str, split))}")
    labels = _labels(split["labels"], where)
    arrays: dict[str, Array] = {name: np.asarray(split.pop(key)) for name, key in KEYS.items()}
    for name, array in arrays.items():
        key = KEYS[name]
        if array.ndim != 3 or array.dtype.kind not in "fiu" or 0 in array.shape[1:]:
            raise DataError(f"{where}: {key!r} has shape {array.shape} of {array.dtype}; expected numbers of shape (N, T, D)")
        if len(array) != len(labels):
            raise DataError(f"{where}: {key!r} has {len(array)} samples but 'labels' has {len(labels)}; the file is damaged")
    ids = _ids(split.get("id"), len(labels), where)
    filled = {name: (array != 0).any(-1) for name, array in arrays.items()}  # nan and inf are not zero
    aligned = len({array.shape[1] for array in arrays.values()}) == 1
    if aligned:
        filled = dict.fromkeys(filled, np.logical_or.reduce(list(filled.values())))
    empty = np.flatnonzero(~np.logical_or.reduce([rows.any(1) for rows in filled.values()]))
    if len(empty):
        raise DataError(f"{where}: sample {empty[0]} has no steps, only zeros ({len(empty)} such samples); remove them")
    sequences, modalities = {}, {}
    for name in list(arrays):
        sequences[name], modalities[name] = _read_modality(arrays.pop(name), filled[name], f"{where}: {KEYS[name]!r}")
    report = {
        "samples": len(labels),
        "aligned": aligned,
        "labels": {
            "shape": list(split["labels"].shape),
            "minimum": float(labels.min()),
            "maximum": float(labels.max()),
            "zeros": float((labels == 0).mean()),
        },
        "modalities": modalities,
    }
    return SequenceDataset(sequences, {}, torch.from_numpy(labels.astype(np.float32)), ids, report)


def _read_modality(array: Array, filled: Array, where: str) -> tuple[Ragged, dict[str, Any]]:
    steps, size = array.shape[1:]
    empty = ~filled.any(1)
    first = np.where(empty, steps - 1, filled.argmax(1))
    trailing = int((filled[:, ::-1].argmax(1)[~empty] > 0).sum())
    kept = np.arange(steps) >= first[:, None]
    values = array[kept]
    usable = np.abs(values) <= np.finfo(np.float32).max  # nan compares as False
    if len(never := np.flatnonzero(~usable.any(0))):
        raise DataError(f"{where}: feature {never[0]} is never finite ({len(never)} such features); leave it out of the file")
    replaced = {
        "nan": int(np.isnan(values).sum()),
        "+inf": int(np.isposinf(values).sum()),
        "-inf": int(np.isneginf(values).sum()),
    }
    replaced["beyond float32"] = int((~usable).sum()) - sum(replaced.values())
    values = np.where(usable, values, 0).astype(np.float32)
    lengths = steps - first
    report = {
        "size": size,
        "steps": steps,
        "dtype": str(array.dtype),
        "padding": "left" if first.any() else "none",
        "lengths": {"minimum": int(lengths.min()), "median": float(np.median(lengths)), "maximum": int(lengths.max())},
        "replaced": replaced,
        "empty_samples": int(empty.sum()),
        "samples_with_zeros_at_the_end": trailing,
    }
    return Ragged(torch.from_numpy(values), torch.from_numpy(np.cumsum([0, *lengths]))), report


def _labels(labels: Array, where: str) -> Array:
    labels = np.asarray(labels)
    middle = labels.shape[1:-1]  # of (N, 1, 1), or (N, 1, 7) with sentiment first
    if labels.dtype.kind not in "fiu" or labels.ndim not in (1, 2, 3) or 0 in labels.shape or middle not in ((), (1,)):
        raise DataError(
            f"{where}: 'labels' has shape {labels.shape} of {labels.dtype}; expected one sentiment per sample, (N, 1, 1)"
        )
    labels = labels.reshape(len(labels), -1)[:, 0].astype(np.float64)
    wrong = np.flatnonzero(~(np.abs(labels) <= LABEL_LIMIT))
    if len(wrong):
        raise DataError(
            f"{where}: label {wrong[0]} is {labels[wrong[0]]:g}, outside [-3, 3] ({len(wrong)} such labels); "
            "sentiment is scaled to that range"
        )
    return labels


def _ids(ids: Any, count: int, where: str) -> list[str] | None:
    if ids is None:
        return None
    rows = ids.tolist() if isinstance(ids, np.ndarray) else ids
    if not isinstance(rows, (list, tuple)) or len(rows) != count:
        found = f"{len(rows)} entries" if isinstance(rows, (list, tuple)) else f"a {type(rows).__name__}"
        raise DataError(f"{where}: 'id' has {found} but 'labels' has {count}; the file is damaged")
    return ["|".join(map(_text, row)) if isinstance(row, (list, tuple)) else _text(row) for row in rows]


def _text(part: Any) -> str:
    return part.decode("utf-8", "replace") if isinstance(part, bytes) else str(part)
