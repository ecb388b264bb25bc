"""The last rows of the paper's Table 2: MulT on CMU-MOSEI, without and with each kind of top-down feedback.

    python examples/mosei_mult.py --data mosei_senti_data_noalign.pkl --feedback none lstm --seeds 5 --out results/mult

Takes word-aligned and unaligned files. Trained as MulT is (Tsai et al., 2019, Table 5, column MOSEI): Adam with learning rate
1e-3, batches of 16, gradients clipped to a norm of 1, 20 epochs, no early stop, and the best epoch is tested; as in its public
code, the learning rate is divided by 10 when the validation loss has not fallen for more than 20 epochs. Without --data it runs
on a synthetic stand-in, and says so. All options: --help.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from topdown.adapters import MulTBackbone
from topdown.cli.sentiment import run_sentiment
from topdown.datasets import DataError
from topdown.experiments.options import SentimentOptions
from topdown.experiments.sentiment import Experiment
from topdown.experiments.tables import PUBLISHED_MULT
from topdown.training.options import LARGEST, Positive, Rate


@dataclasses.dataclass(kw_only=True)
class MultOptions(SentimentOptions):
    """Options of MulT, and its own protocol.

    Args:
        size: small: d 16, 4 heads, 2 layers; paper: d 40, 8 heads, 4 layers, the default with --data
        aligned: insist on word-aligned data
        unaligned: insist on unaligned data; without --data, make such data
    """

    size: Literal["small", "paper"] | None = None
    aligned: bool = False
    unaligned: bool = False
    batch_size: Positive = 16
    learning_rate: Rate = 1e-3
    epochs: Positive = 20
    patience: Positive = LARGEST

    @property
    def wants_aligned(self) -> bool | None:
        """Whether data must be word-aligned (True) or unaligned (False); None accepts both."""
        return self.aligned if self.aligned or self.unaligned else None

    def check(self) -> None:
        """Checks that the options go together."""
        super().check()
        if self.aligned and self.unaligned:
            raise DataError("data cannot be both: leave out --aligned or --unaligned")


def build(sizes: Mapping[str, int], options: MultOptions) -> MulTBackbone:
    """Builds the backbone in the size of the paper, or in one that trains in seconds."""
    if (options.size or ("small" if options.data is None else "paper")) == "small":
        return MulTBackbone(sizes, size=16, num_heads=4, num_layers=2)
    return MulTBackbone(sizes)


EXPERIMENT = Experiment(
    "mosei_mult",
    "MulT",
    build,
    published=PUBLISHED_MULT,
    options=MultOptions,
    align="interpolate",
    protocol={"gradient_clip": 1.0, "decay": 0.1, "decay_after": 21},
)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the experiment; exits with status 2 and one line when something is wrong with the options or the data."""
    run_sentiment(argv, EXPERIMENT)


if __name__ == "__main__":
    main()
