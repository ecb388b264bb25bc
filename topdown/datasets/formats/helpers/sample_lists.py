"""Reads samples that are stored as lists, one entry per sample, without padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import as_list, check_range, join_names, numbers
from topdown.datasets.formats.helpers.words import LEFT_OUT, Embeddings, word_vectors
from topdown.datasets.formats.source import Source
from topdown.datasets.raw_samples import Array, RawSplit, Stream

Samples = list[tuple[dict[str, Any], float, str]]  # modalities, sentiment, and name of each


def raw_split(
    samples: Samples, modalities: tuple[str, ...], where: str, source: Source, word_of: Callable[[Any, str], str]
) -> RawSplit:
    """Makes a split of samples; words become vectors, or are left out without embeddings, and the report says so.

    Args:
        samples: Modalities, sentiment and name of each.
        modalities: Names of those that are wanted.
        where: Name of the split, for messages.
        source: Source of the samples.
        word_of: Function from a token to a word.

    Raises:
        DataError: naming the sample and the modality that does not fit.
    """
    embeddings, size = source.options.embeddings, source.pickle.size
    labels = np.array([label for _, label, _ in samples])
    check_range(labels, f"{where}: label")
    streams, left_out = {}, {}
    for name in modalities:
        arrays = []
        for i, (inputs, _, _) in enumerate(samples):
            if name not in inputs:
                raise DataError(f"{where}[{i}] has no {name!r}; it has {join_names(inputs)}")
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
    report = {"dtype": ", ".join(dtypes), "padding": "none", "lengths_from": "the arrays"}
    return Stream(next(iter(sizes)), np.array([len(array) for array in clean]), clean, report)


def _embedded(words: list[list[str]], embeddings: Embeddings) -> Stream:
    vectors = word_vectors(embeddings, {word for sentence in words for word in sentence})
    report = {
        "dtype": "words",
        "padding": "none",
        "lengths_from": "the words",
        "unknown_words": sum(vectors.unknown(sentence) for sentence in words),
    }
    return Stream(vectors.size, np.array([len(sentence) for sentence in words]), map(vectors.look_up, words), report)


def entries(part: Any, where: str) -> list[Any]:
    """Returns the samples of a split.

    Raises:
        DataError: if it is no list, or empty.
    """
    samples = as_list(part)
    if not samples:
        raise DataError(f"{where} is {'empty' if samples == [] else f'a {type(part).__name__}'}; expected a list of samples")
    return samples


def _are_words(value: Any) -> bool:
    """Returns whether a value holds words or their numbers; features have two dimensions."""
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


def label_of(value: Any, where: str) -> float:
    """Returns the sentiment: a number, or the first of an array."""
    for _ in range(2):  # [[0.5, 0.0, ...]]
        value = value[0] if isinstance(value, (list, tuple)) and value else value
    label = numbers(value if isinstance(value, np.ndarray) and value.ndim else [value], f"{where}: its label")
    if label.size == 0:
        raise DataError(f"{where}: its label is empty")
    return float(label.reshape(-1)[0])
