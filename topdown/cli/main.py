"""Trains a model on any data, evaluates it, predicts with it, and compares kinds of feedback.

topdown train DATA --out results
topdown evaluate results/model.pt DATA
topdown predict results/model.pt NEW --out predictions.csv --page masks.html
topdown compare DATA --out comparison
topdown prepare SOURCE DEST
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import topdown
from topdown.cli.compare import CompareOptions, compare_command
from topdown.cli.evaluate import EvaluateOptions, PredictOptions, evaluate, predict_command
from topdown.cli.parser import OneLineParser, add_options, read_config
from topdown.cli.prepare import PrepareOptions, prepare_command
from topdown.cli.run import run_command
from topdown.cli.train import TrainOptions, train
from topdown.datasets.errors import DataError

PROGRAM = "topdown"


class Command(NamedTuple):
    """Describes a command.

    Args:
        options: Class of its options.
        run: Function that runs it.
        what: What it does, in a sentence.
        example: A command line.
        config: Whether options may be in a file.
    """

    options: type[Any]
    run: Callable[[Any], None]
    what: str
    example: str
    config: bool = False


COMMANDS = {
    "train": Command(
        TrainOptions,
        train,
        "train a model on the split `train`, select its best epoch on `valid`, and test it on `test`",
        "train data/ --feedback shared --out results",
        config=True,
    ),
    "evaluate": Command(
        EvaluateOptions,
        evaluate,
        "compute the metrics of a trained model on labelled data",
        "evaluate results/model.pt data/ --corrupt noise:0.5:audio",
    ),
    "predict": Command(
        PredictOptions,
        predict_command,
        "write the predictions of a trained model for samples, with or without labels",
        "predict results/model.pt new/ --out predictions.csv --masks --page masks.html",
    ),
    "compare": Command(
        CompareOptions,
        compare_command,
        "compare each kind of feedback with no feedback, with a wider model and with simpler models",
        "compare data/ --seeds 10 --out comparison",
        config=True,
    ),
    "prepare": Command(
        PrepareOptions,
        prepare_command,
        "convert a file or a folder to a store, which opens in milliseconds and may be larger than memory",
        "prepare mosei_senti_data_noalign.pkl mosei.store",
    ),
}


def make_parser() -> tuple[OneLineParser, dict[str, OneLineParser]]:
    """Builds the parser of the program, and those of its commands."""
    parser = OneLineParser(prog=PROGRAM, description=(__doc__ or "").strip())
    parser.add_argument("--version", action="version", version=f"topdown-latch {topdown.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    parsers = {}
    for name, command in COMMANDS.items():
        what = f"{command.what[0].upper()}{command.what[1:]}."
        child = commands.add_parser(name, help=command.what, description=what, epilog=f"example: {PROGRAM} {command.example}")
        if command.config:
            child.add_argument(
                "--config",
                type=Path,
                metavar="FILE",
                help="JSON file of options by the names of their flags; flags on the command line override it",
            )
        add_options(child, command.options)
        parsers[name] = child
    return parser, parsers


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; exits with status 2 and one line when something is wrong with the options or the data."""
    parser, parsers = make_parser()
    values = vars(parser.parse_args(argv))
    command, chosen = COMMANDS[name := values.pop("command")], parsers[name]
    if (path := values.pop("config", None)) is not None:
        try:
            values = {**read_config(chosen, path), **values}
        except DataError as error:
            chosen.error(str(error))
    options = command.options(**values)
    run_command(chosen, options, lambda: command.run(options))
