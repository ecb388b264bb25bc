"""The options of the sentiment experiment."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from topdown.feedback import FEEDBACK

KINDS = ("none", *FEEDBACK)
ORACLE = "oracle"  # no feedback, on synthetic data without its irrelevant features
LARGEST = 10_000_000
# Options that may differ between a run and its continuation.
FREE_OPTIONS = ("feedback", "seeds", "out", "device", "resume", "workers")


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line, and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        """Exits with the message, on one line whatever it holds."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def sentiment_parser(name: str) -> OneLineParser:
    """Makes the parser of the experiment called `name`."""
    parser = OneLineParser(
        prog=f"{name}.py",
        description="Trains a baseline with each kind of top-down feedback and compares them as the paper's Table 1 does. "
        "Without --data it runs on synthetic data, and trains an oracle too: the baseline without irrelevant features.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="PATH", help="a pickle such as mosei_senti_data.pkl, a folder of .csd files, a store ...")
    add_data_options(parser)
    add("--subset", type=_positive, metavar="N", help="use only N samples of each split, evenly spaced, for a quick run")
    add("--feedback", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=f"of {', '.join(KINDS)}")
    add("--seeds", type=_positive, default=5, metavar="N", help="runs of each kind, with seeds 0 to N-1")
    add("--epochs", type=_positive, default=100, metavar="N", help="at most; training stops early")
    add("--batch-size", type=_positive, default=32, metavar="N", help="samples of a batch")
    add("--learning-rate", type=_rate, default=5e-4, metavar="X", help="of Adam, at the start")
    add("--patience", type=_positive, default=10, metavar="N", help="epochs without a fall before training stops")
    add("--samples", type=_positive, metavar="N", help="training samples of the synthetic data; 1000 by default")
    add("--out", type=Path, metavar="DIR", help="where to write results; nothing is written without it")
    add("--device", default="cpu", help="such as cpu or cuda")
    add("--workers", type=_number, default=0, metavar="N", help="processes that make batches beside the training")
    add("--resume", action="store_true", help="go on with what --out holds")
    return parser


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Adds what :func:`topdown.experiments.load_splits` takes beside a path."""
    add = parser.add_argument
    add(
        "--modalities",
        nargs="+",
        metavar="NAME",
        help="which to use; text, audio and visual by default",
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


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0 and at most {LARGEST:,}")
    return int(text)


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1 and at most {LARGEST:,}")
    return value


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return value
