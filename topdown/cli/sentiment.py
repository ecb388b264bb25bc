"""The command line of the mosei examples."""

from __future__ import annotations

from collections.abc import Sequence

from topdown.cli.parser import OneLineParser, add_options
from topdown.cli.run import run_command
from topdown.datasets.errors import DataError
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
    name = experiment.name
    parser = OneLineParser(
        prog=f"{name}.py",
        description="Trains a baseline with each kind of top-down feedback and compares them as the paper's Table 1 does.\n"
        "Without --data it runs on synthetic data, and trains an oracle too: the baseline without irrelevant features.",
        epilog=f"example: python examples/{name}.py --data mosei_senti_data.pkl --feedback none lstm --out results/{name}",
    )
    add_options(parser, experiment.options)
    options = experiment.options(**vars(parser.parse_args(argv)))
    try:
        options.check()
    except DataError as error:
        parser.error(str(error))
    run_command(parser, options, lambda: run_experiment(options, experiment))
