"""Loads train, validation and test splits from a file or folder and validates them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from topdown.datasets.cleaning import Training
from topdown.datasets.corruption import Moments
from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.formats.detect import read_source
from topdown.datasets.formats.helpers.folds import Folds
from topdown.datasets.formats.helpers.published_files import published_file
from topdown.datasets.formats.helpers.words import Embeddings
from topdown.datasets.formats.source import Content, Options, Source
from topdown.datasets.raw_samples import Sink, in_memory
from topdown.datasets.store import is_store, open_store


def load_splits(
    path: str | Path,
    *,
    modalities: Sequence[str] | None = None,
    folds: Folds | None = None,
    embeddings: Embeddings | None = None,
    streams: dict[str, str] | None = None,
    label: str | Sequence[str] | None = None,
    split: Sequence[float] | None = None,
    seed: int = 0,
    columns: Mapping[str, str | Sequence[str]] | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    moments: Mapping[str, Moments] | None = None,
) -> dict[str, SequenceDataset]:
    """Loads the splits of a file or a folder, and recognizes its layout by its content.

    - MulT's pickles, aligned or not (`mosei_senti_data.pkl`, `mosi_data_noalign.pkl`, IEMOCAP), and MultiBench's raw ones;
    - MMSA's pickles, aligned or not, and those of MMSA-FET; MAG-BERT's; the cache of MMLatch's public code (`mosei_avt.p`);
    - MultiBench's `mosi.hdf5` and `mosei.hdf5`, and a folder of `.csd` files of the CMU Multimodal SDK; both need `folds`;
    - a folder of tables, .csv, .parquet or Excel, or one table: see :mod:`topdown.datasets.formats.tables`;
    - an `.npz` archive of arrays: see :mod:`topdown.datasets.formats.archive`;
    - a store that `topdown prepare` made of any of these, which may be larger than memory.

    Padding is removed on either side. Values that are not finite in float32 become 0, a modality without steps is absent in a
    sample (length 0), and the report counts both. Only `folds` drop samples, which the report counts, or reorder them. No file
    is trusted: pickles cannot run code, and a file cannot claim more memory than its size justifies.

    Args:
        path: Path of the file or folder, which is read once.
        modalities: Names of the modalities to load, such as ("text", "audio"). (Default: text, audio and visual, or all that a
            file names)
        folds: Videos of each split: {"train": [...], "valid": [...], "test": [...]}, a JSON file of that, or the file of
            standard folds that comes with the SDK.
        embeddings: Vectors of words, for files that hold words alone: a mapping, or a text file such as GloVe's. Without it
            text of such a file is left out, and the report says so.
        streams: File or group of a modality, where several match.
        label: Column of the label in a table of labels; or several, of which those that exist are used. (Default: all
            columns but `id` and `split`)
        split: Shares of train, valid and test, for a random split of tables without a column `split`; or of train and valid,
            both drawn from train, for tables that have train and test alone. Each part has the same share of each class.
            (Default: none)
        seed: Random seed of that split. (Default: 0)
        columns: {modality: pattern of its columns, such as "audio_*", or several, "height,*width" or a list}, where one table
            holds all modalities. (Default: none)
        features: {modality: its columns in tables, in this order}; others are left out. (Default: all, as in the file)
        moments: Moments of the training data of a model, whose means fill gaps. (Default: those of the split "train")

    Returns:
        Splits, each a :class:`SequenceDataset` of float32 with a `report` of findings.

    Raises:
        DataError: in one line with the file, the split and the key: if it cannot be read, has an unknown layout, a modality is
            missing, numbers of samples differ, or a label is out of range.
        ImportError: if h5py is needed and missing.

    Example:
        >>> import numpy, tempfile
        >>> arrays = {"train.audio": numpy.ones((2, 5, 3)), "train.audio.lengths": [5, 2], "train.labels": [0.5, -1.0]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy.savez(folder + "/mine.npz", **arrays)
        ...     load_splits(folder + "/mine.npz")["train"].lengths
        {'audio': tensor([5, 2])}
    """
    path = Path(path)
    chosen = {"modalities": modalities, "folds": folds, "embeddings": embeddings, "streams": streams, "label": label}
    options = Options.of(**chosen, split=split, seed=seed, columns=columns, features=features)
    try:
        stored = is_store(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    if stored:
        options.only(path, "a store")
        return open_store(path, options.modalities)
    try:
        return make_splits(path, read_source(Source(path, options)), lambda split: in_memory, _training(moments))
    except MemoryError:
        raise DataError(
            f"{path}: does not fit into the memory of this machine; where there is more, make a store of it with "
            "`topdown prepare`, which needs next to none here"
        ) from None


def _training(moments: Mapping[str, Moments] | None) -> Training | None:
    """Returns the statistics of the training data that its moments hold."""
    if moments is None:
        return None
    exact = [name for name, statistics in moments.items() if statistics.mean.dtype == torch.float64]
    return Training(exact, lambda name: moments[name].mean.double().numpy())


def make_splits(
    path: Path, content: Content, sink_of: Callable[[str], Sink], training: Training | None = None
) -> dict[str, SequenceDataset]:
    """Makes data sets of the content of a file, with reports.

    Args:
        path: Path of the file.
        content: Content of the file, which is used up.
        sink_of: Function that returns the sink of a split.
        training: Statistics of the training samples. (Default: the split "train", or each split by itself)

    Raises:
        DataError: if features differ between splits, or a pickle repeats arrays to fill the memory.
    """
    wanted = sum(
        4 * max(1, int(stream.lengths.sum())) * stream.size
        for raw in content.splits.values()
        for stream in raw.streams.values()
        if stream.report.get("dtype") != "words"
    )
    if content.limit is not None and not content.limit.allows(wanted, content.size):
        raise DataError(f"{path}: refused, since its {content.size} bytes would become {wanted}; it repeats arrays")
    splits: dict[str, SequenceDataset] = {}
    order = list(content.splits)
    for split in sorted(order, key=lambda name: name != "train"):  # its means fill the gaps of all splits
        statistics = training or (splits["train"].as_training() if "train" in splits else None)
        splits[split] = SequenceDataset.from_split(content.splits.pop(split), f"{path}: {split}", sink_of(split), statistics)
    splits = {split: splits[split] for split in order}
    first = next(iter(splits), None)
    if first is None:
        raise DataError(f"{path}: holds no split")
    about: dict[str, Any] = {
        "name": path.name,
        "layout": content.layout,
        "sha256": content.sha256,
        "known_as": published_file(content.sha256),
    }
    about |= {"files": content.files} if content.files is not None else {}
    ids = {split: set(data.ids) for split, data in splits.items()} if _have_ids(splits) else {}
    for split, data in splits.items():
        if data.sizes != splits[first].sizes:
            raise DataError(
                f"{path}: {split} has features {data.sizes}, but {first} has {splits[first].sizes}; they must be the same"
            )
        shared = {other: sorted(ids[split] & ids[other]) for other in ids if other != split}
        data.report |= {
            "source": about,
            "ids": {**data.report["ids"], "shared": {k: {"count": len(v), "examples": v[:3]} for k, v in shared.items() if v}},
        }
    return splits


def _have_ids(splits: dict[str, SequenceDataset]) -> bool:
    return all(data.report["ids"]["given"] for data in splits.values())
