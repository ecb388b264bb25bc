"""Options of the model and of its latch, which `train` and `compare` share."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Annotated, Any, Literal

from topdown.training.options import DataOptions, Positive, Share, Value

BackboneName = Literal["lstm", "mult"]


def read_sources(text: str) -> tuple[str, list[str]]:
    """Reads TARGET=SOURCE,SOURCE."""
    target, equals, names = text.partition("=")
    if not (target and equals and all(names.split(","))):
        raise argparse.ArgumentTypeError(f"{text!r} is not TARGET=SOURCE, or TARGET=SOURCE,SOURCE")
    return target, names.split(",")


@dataclasses.dataclass(kw_only=True)
class LatchOptions:
    """Options of the latch.

    Args:
        combine: how masks of several sources become one
        passes: passes before the one that predicts
        scale: factor of the masks
        start: identity: begin as the model without feedback
        encoder_grad: let gradients through the first pass
        mask_dropout: dropout of the masks
        sources: who masks whom; all others by default
        align: where times differ; interpolate by default then
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
        """Returns the options as :class:`topdown.TopDownLatch` takes them, but for the kind of feedback."""
        names = ("combine", "passes", "scale", "start", "encoder_grad", "mask_dropout")
        chosen = {name: getattr(self, name) for name in names}
        sources = dict(self.sources) if self.sources else None
        return {**chosen, "sources": sources, "align": self.align or ("error" if aligned else "interpolate")}


@dataclasses.dataclass(kw_only=True)
class ModelOptions(LatchOptions, DataOptions):
    """Options of the model.

    Args:
        raw: leave features as they are; else they are standardized by the training split
        task: what to predict; labels tell by default
        backbone: the paper's baseline, or MulT; mult by default if times differ
        size: size of the encodings; 100 for lstm, 40 for mult by default
        layers: layers of MulT's transformers
        dropout: dropout of the backbone; that of its paper by default
    """

    raw: bool = False
    task: Literal["regression", "classification", "multilabel"] | None = None
    backbone: BackboneName | None = None
    size: Positive | None = None
    layers: Positive = 4
    dropout: Share | None = None
