"""Reads the pickles of MMSA and MMSA-FET: CMU-MOSEI, CMU-MOSI and SIMS, aligned or not.

A dict train/valid/test -> {text: (N, T, D), of BERT or anything else, audio, vision, regression_labels: (N,), id, and often
text_bert: (N, 3, T), audio_lengths, vision_lengths}. Row 1 of text_bert marks the valid steps of text, and in an aligned
file of everything: the step of [CLS] is a row of zeros in audio and vision there, and no padding. The stated lengths end at
the first row whose sum is 0, so they are often too short, and serve as hints only.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import KEYS, SPLITS, identifiers, numbers, sentiment
from topdown.datasets.formats.helpers.limits import SAMPLES_OF_PICKLE
from topdown.datasets.formats.helpers.padding import Cut, Rows, check_array, cut_padding, find_rows, find_side, stream
from topdown.datasets.formats.mult import find_all_rows, take_arrays, unread_parts
from topdown.datasets.formats.source import Content, Source, check_modalities, copied_splits, has_splits
from topdown.datasets.raw_samples import Array, RawSplit

# Keys that are read, and keys whose content follows from them.
READ = {*KEYS.values(), "regression_labels", "id", "text_bert", "audio_lengths", "vision_lengths", "text_lengths"}
READ |= {"raw_text", "annotations", "classification_labels"}


def recognizes(source: Source) -> bool:
    """Returns whether this is a dict of splits with labels for regression."""
    content = source.pickle.content
    return has_splits(content) and "regression_labels" in content["train"]


def read(source: Source) -> Content:
    """Reads the splits of an MMSA pickle: see :func:`topdown.datasets.formats.mult.read`.

    It is word-aligned when all modalities have as many steps, and stated lengths, if there are any, do not differ.

    Raises:
        DataError: naming the split and the key that is missing or does not fit.
    """
    check_modalities(source)
    source.options.only(source.path, "a pickle of arrays")
    content, modalities, where = copied_splits(source.pickle.content), source.wanted, source.where
    arrays: dict[str, dict[str, Array]] = {}
    labels, masks = {}, {}
    for split in SPLITS:
        place, part = f"{where}: {split}", content[split]
        labels[split] = sentiment(part.get("regression_labels"), f"{place}: 'regression_labels'")
        count = len(labels[split])
        masks[split] = _mask(part.get("text_bert"), count, f"{place}: 'text_bert'")
        arrays[split] = take_arrays(part, modalities)
        for name, array in arrays[split].items():
            if len(check_array(array, f"{place}: {KEYS[name]!r}")) != count:
                raise DataError(f"{place}: {KEYS[name]!r} has {len(array)} samples but 'regression_labels' has {count}")
    hints = {split: _all_hints(content[split], len(labels[split]), f"{where}: {split}") for split in SPLITS}
    aligned = all(
        len({array.shape[1] for array in arrays[split].values()}) == 1
        and len({hint.tobytes() for hint in hints[split].values()}) < 2
        for split in SPLITS
    )
    rows = {split: find_all_rows(arrays[split], aligned) for split in SPLITS}
    sides = {name: find_side([rows[split][name] for split in SPLITS], "right") for name in modalities}
    splits = {}
    for split in SPLITS:
        place = f"{where}: {split}"
        if aligned:
            hints[split] = dict.fromkeys(KEYS, next(iter(hints[split].values()))) if hints[split] else {}
        cuts = {}
        for name in modalities:
            nonzero = rows[split][name]
            mask = masks[split] if aligned or name == "text" else None
            if mask is not None and mask.steps == nonzero.steps:
                cuts[name] = _masked(nonzero, mask)
            else:
                cuts[name] = cut_padding(nonzero, sides[name], hints[split].get(name))
        ids = identifiers(content[split].get("id"), f"{place}: 'id'")
        streams = {name: stream(array, cuts[name]) for name, array in arrays.pop(split).items() if name in modalities}
        report = {"left_out": unread_parts(content, split, READ)}
        splits[split] = RawSplit(labels[split], ids, streams, {}, report)
    return source.pickle_content("MMSA-FET" if "config" in content else "MMSA", splits, SAMPLES_OF_PICKLE)


def _masked(rows: Rows, mask: Rows) -> Cut:
    """Keeps the steps of the mask, and rows beyond it that are not zero, which contradict it."""
    some = rows.stop > 0
    first = np.where(some & (rows.first < mask.first), rows.first, mask.first)
    stop = np.where(some & (rows.stop > mask.stop), rows.stop, mask.stop)
    side = "left" if (mask.first > 0).sum() > (mask.stop < mask.steps).sum() else "right"
    report = {
        "padding": side if ((mask.first > 0) | (mask.stop < mask.steps)).any() else "none",
        "lengths_from": "text_bert",
        "contradicted_hints": int(((first != mask.first) | (stop != mask.stop)).sum()),
    }
    return Cut(first, stop, report)


def _mask(bert: Any, count: int, where: str) -> Rows | None:
    """Returns the valid steps that row 1 of text_bert marks."""
    if bert is None:
        return None
    if not isinstance(bert, np.ndarray) or bert.ndim != 3 or bert.shape[1] != 3 or bert.dtype.kind not in "fiu":
        actual = f"shape {bert.shape} of {bert.dtype}" if isinstance(bert, np.ndarray) else f"a {type(bert).__name__}"
        raise DataError(f"{where} has {actual}; expected numbers of shape (N, 3, T)")
    if len(bert) != count:
        raise DataError(f"{where} has {len(bert)} samples but 'regression_labels' has {count}")
    mask = np.asarray(bert[:, 1])
    if len(wrong := np.flatnonzero(~np.isin(mask, (0, 1)).all(1))):
        raise DataError(f"{where}: the mask of sample {wrong[0]} holds other numbers than 0 and 1; the file is damaged")
    rows = find_rows({"mask": mask[..., None]})
    if len(wrong := np.flatnonzero(mask.sum(1) != rows.stop - rows.first)):
        raise DataError(f"{where}: the mask of sample {wrong[0]} has gaps; the file is damaged")
    return rows if rows.stop.any() else None


def _all_hints(part: dict[str, Any], count: int, where: str) -> dict[str, Array]:
    """Returns the lengths that the file states, by modality; nan and infinities become -1."""
    hints = {}
    for name, key in KEYS.items():
        lengths = part.get(f"{key}_lengths")
        if lengths is None:
            continue
        stated = numbers(lengths, f"{where}: '{key}_lengths'")
        if stated.size != count or len(stated) != count:
            raise DataError(f"{where}: '{key}_lengths' has shape {stated.shape} but 'regression_labels' has {count} entries")
        whole = np.nan_to_num(stated.reshape(count).astype(np.float64), nan=-1, posinf=-1, neginf=-1)
        hints[name] = whole.clip(-1, 2**40).astype(np.int64)
    return hints
