"""Options of the model and of its latch, which `train` and `compare` share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from topdown.datasets.errors import DataError
from topdown.training.options import Positive, Rate, Share, SplitOptions, Value, by_name

BackboneName = Literal["lstm", "mult"]


def read_sources(text: str) -> tuple[str, list[str]]:
    """Reads TARGET=SOURCE,SOURCE."""
    target, equals, names = text.partition("=")
    if not (target and equals and all(names.split(","))):
        raise argparse.ArgumentTypeError(f"{text!r} is not TARGET=SOURCE, or TARGET=SOURCE,SOURCE")
    return target, names.split(",")


def refuse_unused(options: Any, names: Iterable[str], reason: str) -> None:
    """Raises an error for options that would be ignored.

    Args:
        options: Dataclass of options.
        names: Names of those that have no effect here.
        reason: Reason, and the remedy.

    Raises:
        DataError: naming the first one whose value is not its default.
    """
    for field in dataclasses.fields(options):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if field.name in names and getattr(options, field.name) != default:
            raise DataError(f"--{field.name.replace('_', '-')} {reason}")


@dataclasses.dataclass(kw_only=True)
class LatchOptions:
    """Options of the feedback (the latch).

    Args:
        combine: rule that combines the masks of several sources
        passes: number of passes that compute masks, before the last one
        scale: factor of the masks, only with --start random
        start: identity: the initial model equals the one without feedback; random: initial masks are near 1/2 (the paper)
        encoder_grad: let gradients flow through the first pass
        mask_dropout: dropout on the masks
        sources: sources of each target; by default all other modalities
        align: how to align a source whose number of steps differs from the target's; by default interpolate if modalities are
            not aligned
    """

    combine: Literal["mean", "max", "min", "product"] = "mean"
    passes: Positive = 1
    scale: Annotated[float, Value("X", float)] = 1.0
    start: Literal["identity", "random"] = "identity"
    encoder_grad: bool = False
    mask_dropout: Share = 0.0
    sources: list[Annotated[tuple[str, list[str]], Value("TARGET=SOURCE,...", read_sources)]] | None = None
    align: Literal["error", "interpolate", "pool"] | None = None

    def latch(self, *, aligned: bool) -> dict[str, Any]:
        """Returns the options of :class:`topdown.TopDownLatch`, except the kind of feedback."""
        names = ("combine", "passes", "scale", "start", "encoder_grad", "mask_dropout")
        chosen = {name: getattr(self, name) for name in names}
        sources = by_name(self.sources, "sources")
        return {**chosen, "sources": sources, "align": self.align or ("error" if aligned else "interpolate")}


@dataclasses.dataclass(kw_only=True)
class ModelOptions(LatchOptions, SplitOptions):
    """Model options.

    Args:
        raw: do not standardize features and regression targets; by default by the statistics of the training split
        task: what to predict; by default derived from the labels
        feedback_learning_rate: initial learning rate of the feedback; by default that of all parameters
        class_weight: balanced: rare classes count as much as frequent ones in the loss
        backbone: the paper's LSTM baseline, or MulT; by default mult if modalities are not aligned
        size: hidden size of the backbone; by default 100 for lstm, 40 for mult
        layers: layers of the transformers of MulT
        dropout: dropout of the backbone; by default that of its paper
    """

    raw: bool = False
    task: Literal["regression", "classification", "multilabel"] | None = None
    feedback_learning_rate: Rate | None = None
    class_weight: Literal["balanced"] | None = None
    backbone: BackboneName | None = None
    size: Positive | None = None
    layers: Positive = 4
    dropout: Share | None = None
