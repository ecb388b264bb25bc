"""Options of the sentiment experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from topdown.datasets.errors import DataError
from topdown.experiments.run_files import KindOrNone
from topdown.training.options import DataOptions, Positive, TrainingOptions, Value


@dataclasses.dataclass(kw_only=True)
class SentimentOptions(DataOptions, TrainingOptions):
    """Experiment options.

    Args:
        data: a pickle such as mosei_senti_data.pkl, a folder of .csd files, a store ...
        subset: use N samples of each split, evenly spaced
        feedback: kinds of feedback: none, linear, lstm, shared, static
        seeds: runs of each kind, with seeds 0 to N-1
        samples: training samples of the synthetic data; by default 1000
        batch_size: batch size
        patience: epochs without a lower validation loss after which training stops
    """

    data: Annotated[Path | None, Value("PATH", Path)] = None
    subset: Positive | None = None
    feedback: list[KindOrNone] = dataclasses.field(default_factory=lambda: ["none", "linear", "lstm", "shared"])
    seeds: Positive = 5
    samples: Positive | None = None
    batch_size: Positive = 32
    patience: Positive = 10
    device: str = "cpu"

    @property
    def wants_aligned(self) -> bool | None:
        """Whether data must be word-aligned (True) or unaligned (False); None accepts both."""
        return None

    def check(self) -> None:
        """Checks that the options go together.

        Raises:
            DataError: if they do not.
        """
        if self.resume and self.out is None:
            raise DataError("--resume needs --out: the directory of the run to go on with")
        if self.data is not None and self.samples is not None:
            raise DataError("--samples is for synthetic data: leave it out, or leave out --data")
        for name in ("modalities", "folds", "embeddings", "stream", "label", "columns", "subset"):
            if self.data is None and getattr(self, name) is not None:
                raise DataError(f"--{name} is for --data: leave it out, or name a file")
