"""The command line of the mosei examples."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from topdown.cli.data_options import OneLineParser, add_data_options, data_options
from topdown.cli.options import HelpFormatter, add_single_options, add_training_options, positive
from topdown.cli.run import run_command
from topdown.experiments.run_files import KINDS
from topdown.experiments.sentiment import Experiment, run_experiment


def run_sentiment(argv: Sequence[str] | None, experiment: Experiment) -> None:
    """Runs an experiment as a command.

    Args:
        argv: Command line, without the program; sys.argv[1:] if None.
        experiment: Experiment to run.

    Raises:
        SystemExit: with status 2 after one line on standard error, if an option or the data cannot be used; with 130 if
            interrupted; with 1 if nothing reads its output any more.
    """
    parser = sentiment_parser(experiment.name)
    if experiment.add_options is not None:
        experiment.add_options(parser)
    options = parser.parse_args(argv)
    _check_options(options, parser)
    run_command(parser, options, lambda: run_experiment(options, experiment, data_options(options)))


def sentiment_parser(name: str) -> OneLineParser:
    """Makes the parser of the experiment called `name`."""
    parser = OneLineParser(
        prog=f"{name}.py",
        description="Trains a baseline with each kind of top-down feedback and compares them as the paper's Table 1 does.\n"
        "Without --data it runs on synthetic data, and trains an oracle too: the baseline without irrelevant features.",
        epilog=f"example: python examples/{name}.py --data mosei_senti_data.pkl --feedback none lstm --out results/{name}",
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="PATH", help="a pickle such as mosei_senti_data.pkl, a folder of .csd files, a store ...")
    add_data_options(parser)
    add("--subset", type=positive, metavar="N", help="use only N samples of each split, evenly spaced, for a quick run")
    add(
        "--feedback",
        nargs="+",
        choices=KINDS,
        default=[k for k in KINDS if k != "static"],
        metavar="KIND",
        help=f"of {', '.join(KINDS)}",
    )
    add("--seeds", type=positive, default=5, metavar="N", help="runs of each kind, with seeds 0 to N-1")
    add("--samples", type=positive, metavar="N", help="training samples of the synthetic data; 1000 by default")
    add_training_options(parser)
    add_single_options(parser)
    parser.set_defaults(device="cpu")
    return parser


def _check_options(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    if options.resume and options.out is None:
        parser.error("--resume needs --out: the directory of the run to go on with")
    if options.data is not None and options.samples is not None:
        parser.error("--samples is for synthetic data: leave it out, or leave out --data")
    for name, value in {**data_options(options), "subset": options.subset}.items():
        if options.data is None and value is not None:
            flag = name.removesuffix("s") if name == "streams" else name
            parser.error(f"--{flag} is for --data: leave it out, or name a file")
