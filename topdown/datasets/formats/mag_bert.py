"""Reads the pickles of MAG-BERT.

A dict train/dev/test -> [((words, visual, acoustic), label, segment), ...], without padding.
"""

from __future__ import annotations

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import as_list, as_text
from topdown.datasets.formats.helpers.limits import SAMPLES_OF_PICKLE
from topdown.datasets.formats.helpers.sample_lists import Samples, entries, label_of, raw_split
from topdown.datasets.formats.source import Content, Source, check_modalities


def recognizes(source: Source) -> bool:
    """Returns whether this is a dict of lists."""
    content = source.pickle.content
    return isinstance(content, dict) and isinstance(content.get("dev", content.get("valid")), (list, tuple))


def read(source: Source) -> Content:
    """Reads the splits; words become vectors of the option `embeddings`.

    Raises:
        DataError: naming the split and the sample that does not fit.
    """
    check_modalities(source)
    source.options.only(source.path, "of MAG-BERT", "embeddings")
    content, where = source.pickle.content, source.where
    missing = [key for key in ("train", "test") if key not in content]
    if missing:
        raise DataError(f"{where}: has no {missing[0]!r}; a pickle of MAG-BERT is a dict of train, dev and test")
    splits = {}
    for split, key in {"train": "train", "valid": "dev" if "dev" in content else "valid", "test": "test"}.items():
        samples: Samples = []
        for i, entry in enumerate(entries(content[key], f"{where}: {key}")):
            place = f"{where}: {key}[{i}]"
            parts = as_list(entry) or []
            inputs = as_list(parts[0]) if len(parts) == 3 else None
            if inputs is None or len(inputs) != 3:
                raise DataError(f"{place} is not ((words, visual, acoustic), label, segment)")
            words, visual, acoustic = inputs
            named = {"text": words, "audio": acoustic, "visual": visual}
            samples.append((named, label_of(parts[1], place), as_text(parts[2], place)))
        splits[split] = raw_split(samples, source.wanted, f"{where}: {key}", source, as_text)
    return source.pickle_content("MAG-BERT", splits, SAMPLES_OF_PICKLE)
