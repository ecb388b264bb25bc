"""Converts any file or folder of samples, once, into a store that opens in milliseconds and may be larger than memory.

    python -m topdown.datasets.prepare mosei_senti_data_noalign.pkl mosei.store
    python -m topdown.datasets.prepare --check mosei.store

The store appears when it is complete, and never otherwise; what is there already is not overwritten. Folders of .csd files and
HDF5 are read one video at a time; a pickle is read into memory as a whole, once.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from topdown.datasets.data import SequenceDataset
from topdown.datasets.errors import DataError
from topdown.datasets.formats.detect import read_source
from topdown.datasets.formats.folds import Folds
from topdown.datasets.formats.source import Options, Source
from topdown.datasets.formats.words import Embeddings
from topdown.datasets.load import make_splits
from topdown.datasets.options import OneLineParser, add_data_options, data_options
from topdown.datasets.report import data_table
from topdown.datasets.store import StoreWriter, check_store, is_store, open_store
from topdown.files import require

Progress = Callable[[str, int, int], None]


def prepare(
    source: str | Path,
    destination: str | Path,
    *,
    modalities: Sequence[str] | None = None,
    folds: Folds | None = None,
    embeddings: Embeddings | None = None,
    streams: dict[str, str] | None = None,
    progress: Progress = lambda name, done, rows: None,
) -> dict[str, SequenceDataset]:
    """Makes a store of a file or a folder.

    Args:
        source: File or folder that :func:`topdown.datasets.load_splits` reads, but no store.
        destination: Path of the store to be.
        modalities: Option of :func:`topdown.datasets.load_splits`.
        folds: Option of :func:`topdown.datasets.load_splits`.
        embeddings: Option of :func:`topdown.datasets.load_splits`.
        streams: Option of :func:`topdown.datasets.load_splits`.
        progress: Function that is called with the name of an array, the rows that are written, and all its rows.

    Returns:
        Splits of the store.

    Raises:
        DataError: if the source cannot be used, or there is something at the destination; nothing is left of it then.
    """
    source, destination = Path(source), Path(destination)
    options = Options(None if modalities is None else tuple(modalities), folds, embeddings, streams)
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


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command; exits with status 2 and one line when something is wrong, and 130 when it is interrupted."""
    parser = OneLineParser(
        prog="python -m topdown.datasets.prepare",
        description="Makes a store of a file or a folder of samples, for --data of the examples and for load_splits.",
        allow_abbrev=False,
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="a file or a folder of samples")
    parser.add_argument("destination", type=Path, nargs="?", metavar="DEST", help="the store to be; nothing may be there")
    parser.add_argument("--check", action="store_true", help="check the checksums of the store SOURCE, and make nothing")
    add_data_options(parser)
    options = parser.parse_args(argv)
    if options.check == (options.destination is not None):
        parser.error("give SOURCE and DEST, or --check and a store")
    try:
        if options.check:
            count = check_store(options.source)
            print(f"{options.source}: {count} files are as they were written")
            return
        with _progress() as progress:
            splits = prepare(options.source, options.destination, **data_options(options), progress=progress)
        print(f"{data_table(splits)}\n{options.destination}: written")
    except (DataError, ImportError) as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; nothing was written to {options.destination}", file=sys.stderr)
        raise SystemExit(130) from None


@contextlib.contextmanager
def _progress() -> Iterator[Progress]:
    """Shows a bar on a terminal, and a line for each array elsewhere."""
    if not sys.stderr.isatty():
        yield lambda name, done, rows: print(f"{name}: {rows} rows", flush=True) if done == rows else None
        return
    with require("tqdm", "datasets").tqdm(unit=" rows", unit_scale=True) as bar:

        def show(name: str, done: int, rows: int) -> None:
            if bar.desc != f"{name}: ":
                bar.reset(rows)
                bar.set_description(name)
            bar.update(done - bar.n)

        yield show


if __name__ == "__main__":
    main()
