"""Loads word vectors for files that store words in place of text features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from topdown.datasets.errors import DataError
from topdown.datasets.raw_samples import Array

Embeddings = str | Path | Mapping[str, Any]  # or anything with [] and `in`, such as gensim's vectors
LEFT_OUT = "holds words and no features: give vectors of words with embeddings="


class WordVectors(NamedTuple):
    """Holds a vector of size D for each word."""

    vectors: Mapping[str, Array]
    size: int

    def look_up(self, words: Sequence[str]) -> Array:
        """Returns the vectors of some words, of shape (T, D); zeros for one that is unknown."""
        result = np.zeros((len(words), self.size), np.float32)
        for row, word in zip(result, words, strict=True):
            vector = self.vectors.get(word, self.vectors.get(word.lower()))
            if vector is not None:
                row[:] = vector
        return result

    def unknown(self, words: Iterable[str]) -> int:
        """Counts the words that have no vector."""
        return sum(word not in self.vectors and word.lower() not in self.vectors for word in words)


def _mapped(source: Any, wanted: set[str]) -> WordVectors:
    """Reads vectors from a mapping, or from any object with [] and `in`."""
    try:
        vectors = {word: np.asarray(source[word], np.float32) for word in wanted if word in source}
    except (TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"embeddings of {type(source).__name__} give no vectors ({error}); expected a mapping or a file"
        ) from None
    shapes = {vector.shape for vector in vectors.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 1:
        actual = f"vectors of shapes {sorted(map(str, shapes))[:3]}" if shapes else "none of the words"
        raise DataError(f"embeddings have {actual}; they must have vectors (D,) of words that occur")
    return WordVectors(vectors, next(iter(shapes))[0])


def word_vectors(source: Embeddings, words: Iterable[str]) -> WordVectors:
    """Reads the vectors of some words.

    Args:
        source: A mapping from words to vectors, or a text file with a word and its numbers on each line, as GloVe's are; its
            first line may hold the numbers of words and features.
        words: Words that are needed; others are skipped.

    Raises:
        DataError: if the file cannot be read, or vectors differ in size.
    """
    wanted = {form for word in words for form in (word, word.lower())}
    vectors: dict[str, Array] = {}
    if not isinstance(source, (str, Path)):
        return _mapped(source, wanted)
    size = 0
    try:
        with Path(source).open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                parts = line.rstrip("\n").split(" ")  # words of GloVe may be other white space
                if number == 1 and len(parts) == 2:
                    continue  # the header of word2vec's text format
                size = size or len(parts) - 1
                word = " ".join(parts[: len(parts) - size])  # a few words of GloVe hold spaces
                if word in wanted or not word:
                    vectors[word] = np.array(parts[len(parts) - size :] if word else parts[1:], np.float32)
                    if not word or size < 1:
                        raise DataError(f"{source}: line {number} has {len(parts) - 1} numbers, but line 1 has {size}")
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(
            f"{source}: cannot be read as vectors of words ({reason}); expected a word and numbers on each line"
        ) from None
    if not size:
        raise DataError(f"{source}: holds no vectors; expected a word and numbers on each line")
    return WordVectors(vectors, size)
