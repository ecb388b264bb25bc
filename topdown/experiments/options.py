"""The options of the sentiment experiment."""

from __future__ import annotations

import argparse
from pathlib import Path

from topdown.datasets.options import OneLineParser, add_data_options
from topdown.feedback import FEEDBACK

KINDS = ("none", *FEEDBACK)
ORACLE = "oracle"  # no feedback, on synthetic data without its irrelevant features
LARGEST = 10_000_000
# Options that may differ between a run and its continuation.
FREE_OPTIONS = ("feedback", "seeds", "out", "device", "resume", "workers")


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
    add(
        "--feedback",
        nargs="+",
        choices=KINDS,
        default=[k for k in KINDS if k != "static"],
        metavar="KIND",
        help=f"of {', '.join(KINDS)}",
    )
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
