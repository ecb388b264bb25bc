"""Reads the pickles of MulT and MultiBench: CMU-MOSEI, CMU-MOSI and IEMOCAP, aligned or not.

A dict train/valid/test -> {text, audio, vision: (N, T, D), labels, id: (N, 3)}, padded with zero rows, usually on the
left (longer segments keep their last steps). The reader of MulT (yaohungt/Multimodal-Transformer, src/dataset.py) feeds the
padding to its model and replaces only -inf; here padding is removed, and every replaced value is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import KEYS, SPLITS, identifiers, numbers, sentiment
from topdown.datasets.formats.helpers.limits import SAMPLES_OF_PICKLE
from topdown.datasets.formats.helpers.padding import Rows, check_array, cut_padding, find_rows, find_side, stream
from topdown.datasets.formats.source import Content, Source, check_modalities, copied_splits, has_splits
from topdown.datasets.raw_samples import Array, RawSplit


def recognizes(source: Source) -> bool:
    """Returns whether this is a dict of splits."""
    return has_splits(source.pickle.content)


def read(source: Source) -> Content:
    """Reads the splits of a MulT pickle.

    When all modalities have as many steps the file is word-aligned, and a row is padding only where every modality is zero (an
    unknown word is a zero row of text alone); otherwise each modality has separate lengths.

    Raises:
        DataError: naming the split and the key that is missing or does not fit.
    """
    check_modalities(source)
    source.options.only(source.path, "a pickle of arrays")
    content, modalities, where = copied_splits(source.pickle.content), source.wanted, source.where
    arrays, labels = {}, {}
    for split in SPLITS:
        place = f"{where}: {split}"
        labels[split] = _labels(content[split].get("labels"), f"{place}: 'labels'")
        arrays[split] = take_arrays(content[split], modalities)
        for name, array in arrays[split].items():
            array = check_array(array, f"{place}: {KEYS[name]!r}")
            if len(array) != len(labels[split]):
                count = len(labels[split])
                raise DataError(
                    f"{place}: {KEYS[name]!r} has {len(array)} samples but 'labels' has {count}; the file is damaged"
                )
    aligned = all(len({array.shape[1] for array in arrays[split].values()}) == 1 for split in SPLITS)
    rows = {split: find_all_rows(arrays[split], aligned) for split in SPLITS}
    sides = {name: find_side([rows[split][name] for split in SPLITS], "left") for name in modalities}
    splits = {}
    for split in SPLITS:
        ids = identifiers(content[split].get("id"), f"{where}: {split}: 'id'")
        cuts = {name: cut_padding(rows[split][name], sides[name]) for name in modalities}
        report = {"left_out": unread_parts(content, split, {*KEYS.values(), "labels", "id"})}
        streams = {name: stream(array, cuts[name]) for name, array in arrays.pop(split).items() if name in modalities}
        splits[split] = RawSplit(labels[split], ids, streams, {}, report)
    return source.pickle_content("MulT", splits, SAMPLES_OF_PICKLE)


def take_arrays(part: dict[str, Any], modalities: tuple[str, ...]) -> dict[str, Any]:
    """Removes the arrays of a split from it, and returns those that are wanted or help to find padding."""
    arrays = {name: part.pop(key, None) for name, key in KEYS.items()}
    return {name: array for name, array in arrays.items() if name in modalities or isinstance(array, np.ndarray)}


def unread_parts(content: Mapping[str, Any], split: str, read: set[str]) -> dict[str, str]:
    """Lists parts of a file that are not read: labels beyond the first, keys of a split, and other keys beside the splits."""
    labels = content[split].get("labels")
    columns = labels.shape[-1] - 1 if isinstance(labels, np.ndarray) and labels.ndim > 1 and labels.shape[1:] != (4, 2) else 0
    unread = {key: "is not read" for key in content[split] if isinstance(key, str) and key not in read}
    unread |= {key: "is no split" for key in content if isinstance(key, str) and key not in (*SPLITS, "config")}
    return unread | ({"labels": f"has {columns} more columns, of emotions"} if columns else {})


def find_all_rows(arrays: dict[str, Array], aligned: bool) -> dict[str, Rows]:
    """Finds the rows of each modality that are not zero, or those of all together if they are aligned."""
    if aligned:
        return dict.fromkeys(arrays, find_rows(arrays))
    return {name: find_rows({name: array}) for name, array in arrays.items()}


def _labels(labels: Any, where: str) -> Array:
    labels = numbers(labels, where)
    if labels.shape[1:] == (4, 2):  # IEMOCAP: whether each of four emotions is present, one-hot
        emotions: Array = labels.argmax(-1)
        return emotions
    return sentiment(labels, where)
