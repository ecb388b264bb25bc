"""Trains a model on any data, evaluates it, predicts with it, and compares kinds of feedback.

topdown train DATA --out results
topdown evaluate results/model.pt DATA
topdown predict results/model.pt NEW --out predictions.csv --page masks.html
topdown compare DATA --out comparison
topdown prepare DATA STORE
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from topdown.cli.compare import compare_command
from topdown.cli.corruption import parse_corruption
from topdown.cli.data_options import OneLineParser, add_data_options
from topdown.cli.evaluate import evaluate, predict_command
from topdown.cli.options import (
    HelpFormatter,
    add_latch_options,
    add_model_options,
    add_single_options,
    add_training_options,
    number,
    positive,
    read_config,
)
from topdown.cli.prepare import add_prepare_options, prepare_command
from topdown.cli.run import run_command
from topdown.cli.train import train
from topdown.datasets.errors import DataError
from topdown.experiments.run_files import KINDS

PROGRAM = "topdown"
COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "predict": predict_command,
    "compare": compare_command,
    "prepare": prepare_command,
}


def make_parser() -> tuple[OneLineParser, dict[str, OneLineParser]]:
    """Makes the parser of the program, and those of its commands."""
    parser = OneLineParser(prog=PROGRAM, description=(__doc__ or "").strip(), formatter_class=HelpFormatter, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)

    def command(name: str, what: str, example: str) -> OneLineParser:
        made = commands.add_parser(
            name,
            help=what,
            description=f"{what[0].upper()}{what[1:]}.",
            epilog=f"example: {PROGRAM} {example}",
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        return made

    own = command(
        "train",
        "train a model on the split `train`, choose its best epoch on `valid`, and test it on `test`",
        "train data/ --feedback shared --out results",
    )
    _add_data(own)
    _add_config(own)
    own.add_argument("--feedback", choices=KINDS, default="lstm", metavar="KIND", help=f"one of {', '.join(KINDS)}")
    add_latch_options(own)
    add_model_options(own)
    add_training_options(own)
    add_single_options(own)
    own.add_argument("--seed", type=number, default=0, metavar="N", help="random seed")
    _add_corruption(own, "train on data made worse, anew in each epoch")

    other = command(
        "evaluate",
        "compare the predictions of a trained model with labels",
        "evaluate results/model.pt data/ --corrupt noise:0.5:audio",
    )
    _add_use(other)
    other.add_argument("--out", type=Path, metavar="FILE", help="write metrics as JSON, too")
    other.add_argument("--seed", type=number, default=0, metavar="N", help="random seed of what is made worse")
    _add_corruption(other, "evaluate on data made worse")

    new = command(
        "predict",
        "write the predictions of a trained model for samples, with or without labels",
        "predict results/model.pt new/ --out predictions.csv --masks --page masks.html",
    )
    _add_use(new)
    new.add_argument("--out", type=Path, metavar="FILE", required=True, help="table of ids and predictions to write, .csv")
    new.add_argument("--masks", action="store_true", help="add the mask of every feature, averaged over the steps")
    new.add_argument("--page", type=Path, metavar="FILE", help="draw the masks of some samples as one HTML page")
    new.add_argument("--samples", type=positive, default=6, metavar="N", help="samples of that page")

    many = command(
        "compare",
        "tell whether feedback helps on some data: every kind against none, against a wider model, and against simpler ones",
        "compare data/ --seeds 10 --out comparison",
    )
    _add_data(many, optional=True)
    _add_config(many)
    kinds = ["static", *(kind for kind in KINDS if kind not in ("none", "static"))]
    many.add_argument(
        "--feedback",
        nargs="+",
        choices=kinds,
        default=kinds,
        metavar="KIND",
        help=f"of {', '.join(kinds)}; static, a control, is always there",
    )
    many.add_argument("--seeds", type=positive, default=10, metavar="N", help="runs of each row, with seeds 0 to N-1")
    many.add_argument("--jobs", type=positive, metavar="N", help="processes of one thread each; one per core by default")
    many.add_argument("--robust", action="store_true", help="test on noise, and without features, steps and modalities, too")
    many.add_argument("--gaps", action="store_true", help="train on random rates of missing steps, too, and test at 0 to 0.9")
    many.add_argument("--no-alone", action="store_true", help="leave out the rows of each modality alone")
    many.add_argument("--resume", action="store_true", help="go on with what --out holds; kinds and seeds may be added")
    many.add_argument("--from", dest="earlier", type=Path, metavar="DIR", help="make the report of an earlier comparison again")
    add_latch_options(many)
    add_model_options(many)
    add_training_options(many)

    store = command(
        "prepare",
        "make a store of a file or a folder of samples, once, which opens in milliseconds and may be larger than memory",
        "prepare mosei_senti_data_noalign.pkl mosei.store",
    )
    add_prepare_options(store)
    store.set_defaults(device="cpu", out=None)
    return parser, {"train": own, "evaluate": other, "predict": new, "compare": many, "prepare": store}


def _add_data(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    kinds = "a folder of .csv tables or .csd files, an .npz, a store, or a pickle of CMU-MOSEI"
    parser.add_argument("data", type=Path, nargs="?" if optional else None, metavar="DATA", help=kinds)


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="JSON of options, by their names here; the line wins")


def _add_use(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="model.pt of a training")
    _add_data(parser)
    add_data_options(parser)
    parser.add_argument("--split", nargs="+", metavar="NAME", help="splits to use; test by default, or all if there is none")
    parser.add_argument("--batch-size", type=positive, default=32, metavar="N", help="samples of a batch")
    parser.add_argument("--device", default="auto", help="such as cpu or cuda; auto: a GPU if there is one")


def _add_corruption(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--corrupt",
        nargs="+",
        type=parse_corruption,
        metavar="KIND:SEVERITY[:MODALITY,...]",
        help=f"{what}: noise, features, steps or missing",
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the program; exits with status 2 and one line when something is wrong with the options or the data."""
    parser, commands = make_parser()
    arguments = sys.argv[1:] if argv is None else list(argv)
    options = parser.parse_args(arguments)
    chosen = commands[options.command]
    if getattr(options, "config", None) is not None:
        try:
            chosen.set_defaults(**read_config(chosen, options.config))
        except DataError as error:
            chosen.error(str(error))
        options = parser.parse_args(arguments)
    run_command(chosen, options, lambda: COMMANDS[options.command](options))
