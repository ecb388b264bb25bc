"""Pickles whose samples stand one by one in lists: MAG-BERT's, and the cache of the paper's public code.

MAG-BERT: a dict train/dev/test -> [((words, visual, acoustic), label, segment), ...].
MMLatch's cache: a tuple (train, dev, test, word2idx); each split a list of dicts with an array per modality, video_id,
segment_id, and label, whose first column is the sentiment. Neither pads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from topdown.experiments.errors import DataError
from topdown.experiments.formats.fields import as_list, check_range, numbers, some, text
from topdown.experiments.formats.words import LEFT_OUT, Embeddings, word_vectors
from topdown.experiments.streams import Array, RawSplit, Stream

Samples = list[tuple[dict[str, Any], float, str]]  # modalities, sentiment, and name of each
OF_CACHE = {"video_id", "segment_id", "label"}


def read_mag_bert(
    content: Mapping[str, Any], modalities: tuple[str, ...], where: str, embeddings: Embeddings | None, size: int
) -> dict[str, RawSplit]:
    """Reads a pickle of MAG-BERT; see :func:`topdown.experiments.formats.mult.read_mult`.

    Words become vectors of `embeddings`; without them text is left out, and the report says so.
    """
    splits = {}
    for split, key in {"train": "train", "valid": "dev" if "dev" in content else "valid", "test": "test"}.items():
        samples: Samples = []
        for i, entry in enumerate(_entries(content[key], f"{where}: {key}")):
            there = f"{where}: {key}[{i}]"
            parts = as_list(entry) or []
            inputs = as_list(parts[0]) if len(parts) == 3 else None
            if inputs is None or len(inputs) != 3:
                raise DataError(f"{there} is not ((words, visual, acoustic), label, segment)")
            words, visual, acoustic = inputs
            named = {"text": words, "audio": acoustic, "visual": visual}
            samples.append((named, _label(parts[1], there), text(parts[2], there)))
        splits[split] = _raw(samples, modalities, f"{where}: {key}", embeddings, text, size)
    return splits


def read_cache(
    content: tuple[Any, ...], modalities: tuple[str, ...] | None, where: str, embeddings: Embeddings | None, size: int
) -> dict[str, RawSplit]:
    """Reads a cache of MMLatch's public code, with whatever modalities it holds; see :func:`read_mag_bert`."""
    word_of = _vocabulary(content[3], f"{where}: word2idx")
    splits = {}
    for split, part in zip(("train", "valid", "test"), content[:3], strict=True):
        samples: Samples = []
        for i, entry in enumerate(_entries(part, f"{where}: {split}")):
            there = f"{where}: {split}[{i}]"
            if not isinstance(entry, dict) or not OF_CACHE <= set(entry):
                raise DataError(f"{there} is not a dict with {sorted(OF_CACHE)}")
            inputs = {str(key): value for key, value in entry.items() if key not in OF_CACHE}
            name = f"{text(entry['video_id'], there)}[{text(entry['segment_id'], there)}]"
            samples.append((inputs, _label(entry["label"], there), name))
        wanted = tuple(samples[0][0]) if modalities is None else modalities
        splits[split] = _raw(samples, wanted, f"{where}: {split}", embeddings, word_of, size)
    return splits


def _raw(
    samples: Samples,
    modalities: tuple[str, ...],
    where: str,
    embeddings: Embeddings | None,
    word_of: Callable[[Any, str], str],
    size: int,
) -> RawSplit:
    labels = np.array([label for _, label, _ in samples])
    check_range(labels, f"{where}: label")
    streams, left_out = {}, {}
    for name in modalities:
        arrays = []
        for i, (inputs, _, _) in enumerate(samples):
            if name not in inputs:
                raise DataError(f"{where}[{i}] has no {name!r}; it has {some(inputs)}")
            arrays.append(inputs[name])
        if not _are_words(next((array for array in arrays if not _is_empty(array)), arrays[0])):
            streams[name] = _features(arrays, name, where)
        elif embeddings is None:
            left_out[name] = LEFT_OUT
        else:
            tokens = [_tokens(array, f"{where}[{i}]: {name!r}") for i, array in enumerate(arrays)]
            if sum(map(len, tokens)) > size:
                raise DataError(f"{where}: refused, since {name!r} has more words than the file has bytes; it repeats lists")
            words = [[word_of(token, f"{where}[{i}]: {name!r}") for token in part] for i, part in enumerate(tokens)]
            streams[name] = _embedded(words, embeddings)
    if not streams:
        raise DataError(f"{where}: {', '.join(map(repr, left_out))} {LEFT_OUT}")
    return RawSplit(labels, [name for _, _, name in samples], streams, {}, {"left_out": left_out} if left_out else {})


def _features(arrays: list[Any], name: str, where: str) -> Stream:
    clean: list[Array] = []
    for i, array in enumerate(arrays):
        array = numbers(array, f"{where}[{i}]: {name!r}") if not _is_empty(array) else np.zeros((0, 0), np.float32)
        if array.ndim != 2:
            raise DataError(f"{where}[{i}]: {name!r} has shape {array.shape}; expected (T, D)")
        clean.append(array)
    sizes = {array.shape[1]: i for i, array in enumerate(clean) if len(array)}
    if len(sizes) != 1:
        raise DataError(
            f"{where}: {name!r} has {len(sizes)} numbers of features, {dict(list(sizes.items())[:3])} (size: sample)"
        )
    dtypes = sorted({str(array.dtype) for array in clean if len(array)})
    found = {"dtype": ", ".join(dtypes), "padding": "none", "lengths_from": "the arrays"}
    return Stream(next(iter(sizes)), np.array([len(array) for array in clean]), clean, found)


def _embedded(words: list[list[str]], embeddings: Embeddings) -> Stream:
    vectors = word_vectors(embeddings, {word for sentence in words for word in sentence})
    found = {
        "dtype": "words",
        "padding": "none",
        "lengths_from": "the words",
        "unknown_words": sum(vectors.unknown(sentence) for sentence in words),
    }
    return Stream(vectors.size, np.array([len(sentence) for sentence in words]), map(vectors.look_up, words), found)


def _entries(part: Any, where: str) -> list[Any]:
    entries = as_list(part)
    if not entries:
        raise DataError(f"{where} is {'empty' if entries == [] else f'a {type(part).__name__}'}; expected a list of samples")
    return entries


def _are_words(value: Any) -> bool:
    """Tells words, or their numbers, from features, which have two dimensions."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind in "SUO" or value.ndim == 1
    return isinstance(value, (list, tuple)) and not (value and isinstance(value[0], np.ndarray))


def _tokens(value: Any, where: str) -> list[Any]:
    tokens = as_list(value.reshape(-1) if isinstance(value, np.ndarray) else value)
    if tokens is None:
        raise DataError(f"{where}: words are a {type(value).__name__}; expected a list")
    return tokens


def _is_empty(value: Any) -> bool:
    return value.shape[:1] == (0,) if isinstance(value, np.ndarray) else isinstance(value, (list, tuple)) and not value


def _label(value: Any, where: str) -> float:
    """Returns the sentiment: a number, or the first of an array."""
    for _ in range(2):  # [[0.5, 0.0, ...]]
        value = value[0] if isinstance(value, (list, tuple)) and value else value
    label = numbers(value if isinstance(value, np.ndarray) and value.ndim else [value], f"{where}: its label")
    if label.size == 0:
        raise DataError(f"{where}: its label is empty")
    return float(label.reshape(-1)[0])


def _vocabulary(word2idx: Any, where: str) -> Callable[[Any, str], str]:
    """Returns what makes a word of its number, or of itself."""
    if not isinstance(word2idx, dict) or not all(isinstance(i, (int, np.integer)) for i in word2idx.values()):
        raise DataError(f"{where} is not a dict from words to numbers")
    words: dict[Any, str] = {int(i): text(word, where) for word, i in word2idx.items()}
    return lambda token, there: words.get(token, "") if isinstance(token, (int, float, np.number)) else text(token, there)
