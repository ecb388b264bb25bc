"""`topdown prepare`: creates a store, or verifies one."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from topdown.datasets.errors import DataError
from topdown.datasets.prepare import Progress, prepare
from topdown.datasets.report import data_table
from topdown.datasets.store import check_store
from topdown.files import require
from topdown.training.options import SplitOptions, Value


@dataclasses.dataclass(kw_only=True)
class PrepareOptions(SplitOptions):
    """Options of `topdown prepare`.

    Args:
        source: a file or a folder of samples
        destination: path of the new store, which must not exist
        check: only verify the checksums of the store SOURCE
    """

    source: Annotated[Path, Value("SOURCE", Path, positional=True)]
    destination: Annotated[Path | None, Value("DEST", Path, positional=True)] = None
    check: bool = False


def prepare_command(options: PrepareOptions) -> None:
    """Creates a store, or verifies one."""
    if options.check == (options.destination is not None):
        raise DataError("give SOURCE and DEST, or --check and a store")
    if options.destination is None:
        print(f"{options.source}: checksums of {check_store(options.source)} files are correct")
        return
    with _progress() as progress:
        splits = prepare(options.source, options.destination, **options.loading(), progress=progress)
    print(f"{data_table(splits)}\n{options.destination}: written")


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
