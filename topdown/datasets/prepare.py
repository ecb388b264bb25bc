"""Converts any file or folder of samples, once, into a store that opens in milliseconds and may be larger than memory.

    topdown prepare mosei_senti_data_noalign.pkl mosei.store
    topdown prepare --check mosei.store

The store appears only when it is complete, and overwrites nothing. Folders of .csd files and HDF5 are read one video at a
time; a pickle is read into memory as a whole, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.formats.detect import read_source
from topdown.datasets.formats.helpers.folds import Folds
from topdown.datasets.formats.helpers.words import Embeddings
from topdown.datasets.formats.source import Options, Source
from topdown.datasets.load import make_splits
from topdown.datasets.store import StoreWriter, is_store, open_store

Progress = Callable[[str, int, int], None]


def prepare(
    source: str | Path,
    destination: str | Path,
    *,
    modalities: Sequence[str] | None = None,
    folds: Folds | None = None,
    embeddings: Embeddings | None = None,
    streams: dict[str, str] | None = None,
    label: str | Sequence[str] | None = None,
    split: Sequence[float] | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    features: Mapping[str, Sequence[str]] | None = None,
    progress: Progress = lambda name, done, rows: None,
) -> dict[str, SequenceDataset]:
    """Makes a store of a file or a folder.

    Args:
        source: File or folder that :func:`topdown.datasets.load_splits` reads, but no store.
        destination: Path of the new store.
        modalities: Option of :func:`topdown.datasets.load_splits`.
        folds: Option of :func:`topdown.datasets.load_splits`.
        embeddings: Option of :func:`topdown.datasets.load_splits`.
        streams: Option of :func:`topdown.datasets.load_splits`.
        label: Option of :func:`topdown.datasets.load_splits`.
        split: Option of :func:`topdown.datasets.load_splits`.
        seed: Option of :func:`topdown.datasets.load_splits`.
        columns: Option of :func:`topdown.datasets.load_splits`.
        features: Option of :func:`topdown.datasets.load_splits`.
        progress: Function that gets the name of an array, the number of rows that are written, and of all its rows.

    Returns:
        Splits of the store.

    Raises:
        DataError: if the source cannot be used, or the destination exists; the unfinished store is removed.
    """
    source, destination = Path(source), Path(destination)
    chosen = {"modalities": modalities, "folds": folds, "embeddings": embeddings, "streams": streams, "label": label}
    options = Options.of(**chosen, split=split, seed=seed, columns=columns, features=features)
    if is_store(source):
        raise DataError(f"{source}: is a store already; copy it")
    writer = StoreWriter(destination, progress)
    try:
        writer.finish(make_splits(source, read_source(Source(source, options)), writer.sink))
    except OSError as error:
        raise DataError(
            f"{destination}: cannot be written ({error.strerror}); free some space or choose another place"
        ) from None
    except MemoryError:
        raise DataError(f"{source}: does not fit into the memory of this machine; prepare it where there is more") from None
    finally:
        writer.discard()  # a finished store has another name by now
    return open_store(destination)
