"""Measures the cost of a latch around three linear encoders against two passes written by hand."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from common.measure import alternate, ratio
from topdown import TopDownLatch
from topdown.batch import Inputs

SMALL_SIZES = {"text": 30, "audio": 12, "visual": 8}
SMALL_BOUND = 1.5


class Toy(nn.Module):
    """Predicts one number from three linear encoders."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({name: nn.Linear(features, size) for name, features in SMALL_SIZES.items()})
        self.head = nn.Linear(3 * size, 1)
        self.input_sizes, self.encoding_sizes = SMALL_SIZES, dict.fromkeys(SMALL_SIZES, size)

    def encode(self, inputs: Inputs) -> dict[str, Tensor]:
        """Encodes each modality."""
        return {name: torch.tanh(encoder(inputs[name])) for name, encoder in self.encoders.items()}

    def fuse(self, encodings: dict[str, Tensor]) -> Tensor:
        """Averages over time."""
        prediction: Tensor = self.head(torch.cat([*encodings.values()], dim=-1).mean(1))
        return prediction


def by_hand(latch: TopDownLatch[Toy], inputs: Inputs, lengths: Tensor | None = None) -> Tensor:
    """Runs the two passes of a latch with linear feedback, start="identity" and the mean, without checks."""
    with torch.no_grad():
        encodings = latch.backbone.encode(inputs)
        if lengths is not None:
            steps = torch.arange(inputs["text"].shape[1], device=lengths.device)
            valid = (steps < lengths.unsqueeze(1)).unsqueeze(-1)
            encodings = {name: torch.where(valid, r, 0.0) for name, r in encodings.items()}
    masked = {}
    for target, x in inputs.items():
        masks = [torch.sigmoid(network(encodings[source])) for source, network in latch.feedback[target].items()]
        masked[target] = x * (masks[0] + masks[1])
    return latch.backbone.fuse(latch.backbone.encode(masked))


def small_models(rounds: int, calls: int = 100) -> tuple[list[tuple[str, ...]], list[str]]:
    """Returns the table of calls around the toy, and the ratios that are above the bound."""
    torch.manual_seed(0)
    latch = TopDownLatch(Toy(), "linear")
    inputs = {name: torch.randn(8, 10, size) for name, size in SMALL_SIZES.items()}
    tensor = torch.tensor([10, 4, 7, 9, 2, 5, 10, 8])
    mapping = {name: tensor.clone() for name in SMALL_SIZES}
    variants: dict[str, Callable[[], Any]] = {
        "bare": lambda: latch.backbone.fuse(latch.backbone.encode(inputs)),
        "by hand": lambda: by_hand(latch, inputs),
        "by hand, lengths": lambda: by_hand(latch, inputs, tensor),
        "latch": lambda: latch(inputs),
        "latch, lengths": lambda: latch(inputs, tensor),
        "latch, mapping of lengths": lambda: latch(inputs, mapping),
    }
    rows: list[tuple[str, ...]] = [("call", "gradients", "us", "of by hand", "of by hand, lengths")]
    failures = []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            times = alternate({name: functools.partial(repeat, variant, calls) for name, variant in variants.items()}, rounds)
        for name, values in times.items():
            costs = [ratio(times, name, base) for base in ("by hand", "by hand, lengths")]
            rows.append((name, str(gradients), f"{statistics.median(values) / calls * 1e3:.0f}", *(f"{c:.2f}" for c in costs)))
            if name.startswith("latch") and costs["lengths" in name] > SMALL_BOUND:
                failures.append(f"{name}, gradients {gradients}: {costs['lengths' in name]:.2f} times the passes by hand")
    return rows, failures


def repeat(function: Callable[[], Any], calls: int) -> None:
    """Calls a function many times."""
    for _ in range(calls):
        function()
