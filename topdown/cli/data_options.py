"""Options of commands that load data."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, with exit status 2."""

    def error(self, message: str) -> NoReturn:
        """Exits with the message, on one line."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds what :func:`topdown.datasets.load_splits` takes beside a path."""
    add = parser.add_argument
    add(
        "--modalities",
        nargs="+",
        metavar="NAME",
        help="which to use; text, audio and visual of MOSEI, or all that a file names, by default",
    )
    add("--folds", type=Path, metavar="FILE", help="videos of each split, for .csd and HDF5: JSON, or the SDK's standard folds")
    add(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="vectors of words, such as GloVe's, for files that hold words alone",
    )
    add(
        "--stream",
        action="append",
        type=_pair,
        metavar="NAME=FILE",
        help="which .csd file or group is a modality",
    )


def data_options(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the arguments that :func:`add_data_options` asks for."""
    streams = dict(options.stream) if options.stream else None
    return {"modalities": options.modalities, "folds": options.folds, "embeddings": options.embeddings, "streams": streams}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FILE")
    return name, value
