"""The paper's experiment: its LSTM baseline on CMU-MOSEI, without and with each kind of top-down feedback.

    python examples/mosei_lstm.py --data mosei_senti_data.pkl --feedback none linear lstm shared --seeds 5 --out results/lstm

Without --data it runs on a synthetic stand-in, and says so. All options: --help.
"""

from __future__ import annotations

from collections.abc import Sequence

from topdown.adapters import LSTMBackbone
from topdown.cli.sentiment import run_sentiment
from topdown.experiments.sentiment import Experiment
from topdown.experiments.tables import PUBLISHED_LSTM

EXPERIMENT = Experiment("mosei_lstm", "LSTM baseline", lambda sizes, options: LSTMBackbone(sizes), published=PUBLISHED_LSTM)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment; exits with status 2 and one line when something is wrong with the options or the data."""
    run_sentiment(argv, EXPERIMENT)


if __name__ == "__main__":
    main()
