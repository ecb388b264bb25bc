"""Reads the pickles of MMLatch, the cache of the paper's public code.

A tuple (train, dev, test, word2idx), without padding. Each split is a list of dicts with an array per modality, video_id,
segment_id, and label, whose first column is the sentiment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import SPLITS, as_text
from topdown.datasets.formats.helpers.limits import SAMPLES_OF_PICKLE
from topdown.datasets.formats.helpers.sample_lists import Samples, entries, label_of, raw_split
from topdown.datasets.formats.source import Content, Source

NO_MODALITIES = {"video_id", "segment_id", "label"}


def recognizes(source: Source) -> bool:
    """Returns whether this is a tuple of four."""
    return isinstance(source.pickle.content, tuple) and len(source.pickle.content) == 4


def read(source: Source) -> Content:
    """Reads the splits, with whatever modalities they hold; words become vectors of the option `embeddings`.

    Raises:
        DataError: naming the split and the sample that does not fit.
    """
    source.options.only(source.path, "a cache of MMLatch", "embeddings")
    content, where, modalities = source.pickle.content, source.where, source.options.modalities
    word_of = _vocabulary(content[3], f"{where}: word2idx")
    splits = {}
    for split, part in zip(SPLITS, content[:3], strict=True):
        samples: Samples = []
        for i, entry in enumerate(entries(part, f"{where}: {split}")):
            place = f"{where}: {split}[{i}]"
            if not isinstance(entry, dict) or not NO_MODALITIES <= set(entry):
                raise DataError(f"{place} is not a dict with {sorted(NO_MODALITIES)}")
            inputs = {str(key): value for key, value in entry.items() if key not in NO_MODALITIES}
            name = f"{as_text(entry['video_id'], place)}[{as_text(entry['segment_id'], place)}]"
            samples.append((inputs, label_of(entry["label"], place), name))
        wanted = tuple(samples[0][0]) if modalities is None else modalities
        splits[split] = raw_split(samples, wanted, f"{where}: {split}", source, word_of)
    return source.pickle_content("MMLatch's cache", splits, SAMPLES_OF_PICKLE)


def _vocabulary(word2idx: Any, where: str) -> Callable[[Any, str], str]:
    """Returns a function from a word, or its number, to the word."""
    if not isinstance(word2idx, dict) or not all(isinstance(i, (int, np.integer)) for i in word2idx.values()):
        raise DataError(f"{where} is not a dict from words to numbers")
    words: dict[Any, str] = {int(i): as_text(word, where) for word, i in word2idx.items()}
    return lambda token, place: words.get(token, "") if isinstance(token, (int, float, np.number)) else as_text(token, place)
