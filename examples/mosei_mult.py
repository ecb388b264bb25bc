"""The last rows of the paper's Table 2: MulT on CMU-MOSEI, without and with each kind of top-down feedback.

    python examples/mosei_mult.py --data mosei_senti_data_noalign.pkl --feedback none lstm --seeds 5 --out results/mult

Takes word-aligned and unaligned files. Trained as MulT is (Tsai et al., 2019, Table 5, column MOSEI): Adam with learning rate
1e-3, batches of 16, gradients clipped to a norm of 1, 20 epochs, no early stop, and the best epoch is tested; as in its public
code, the learning rate is divided by 10 when the validation loss has not fallen for more than 20 epochs. Without --data it runs
on a synthetic stand-in, and says so. All options: --help.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

from topdown.adapters import MulTBackbone
from topdown.cli.options import LARGEST
from topdown.cli.sentiment import run_sentiment
from topdown.experiments.sentiment import Experiment
from topdown.experiments.tables import PUBLISHED_MULT


def build(sizes: Mapping[str, int], options: argparse.Namespace) -> MulTBackbone:
    """Makes the backbone: of the paper's size, or one that trains in seconds."""
    if (options.size or ("small" if options.data is None else "paper")) == "small":
        return MulTBackbone(sizes, size=16, num_heads=4, num_layers=2)
    return MulTBackbone(sizes)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds what MulT has and the LSTM baseline has not, and MulT's own protocol."""
    parser.add_argument(
        "--size",
        choices=("small", "paper"),
        help="d 16, 4 heads, 2 layers; or d 40, 8 heads, 4 layers, the default with --data",
    )
    aligned = parser.add_mutually_exclusive_group()
    aligned.add_argument("--aligned", action="store_true", default=None, help="insist on word-aligned data")
    aligned.add_argument(
        "--unaligned", action="store_false", dest="aligned", help="insist on unaligned data; without --data, make such data"
    )
    parser.set_defaults(batch_size=16, learning_rate=1e-3, epochs=20, patience=LARGEST)


EXPERIMENT = Experiment(
    "mosei_mult",
    "MulT",
    build,
    published=PUBLISHED_MULT,
    add_options=add_options,
    align="interpolate",
    protocol={"gradient_clip": 1.0, "decay": 0.1, "decay_after": 21},
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment; exits with status 2 and one line when something is wrong with the options or the data."""
    run_sentiment(argv, EXPERIMENT)


if __name__ == "__main__":
    main()
