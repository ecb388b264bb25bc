"""Two sensors of a smart watch: does what the gyroscope shows help to read the accelerometer?

    python examples/watch.py WATCH.npz [--epochs 10]

WATCH.npz holds windows `accel` and `gyro` of shape (N, T, 3), classes `label`, and `train_idx` and `test_idx`: here seven
exercises of ten people, split by person. One run with and one without feedback prove nothing; they show how it is done.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from topdown import TopDownLatch, mask_profile


class Watch(nn.Module):
    """One small convolutional encoder per sensor, whose states are averaged over time."""

    def __init__(self, classes: int, size: int = 32) -> None:
        super().__init__()
        self.sensors = nn.ModuleDict({name: nn.Conv1d(3, size, 9, padding=4) for name in ("accel", "gyro")})
        self.head = nn.Sequential(nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, classes))

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, size)."""
        return {name: torch.relu(layer(inputs[name].transpose(1, 2))).transpose(1, 2) for name, layer in self.sensors.items()}

    def fuse(self, encodings: dict[str, Tensor]) -> Tensor:
        """Returns logits of shape (B, classes)."""
        logits: Tensor = self.head(torch.cat([r.mean(1) for r in encodings.values()], dim=-1))
        return logits


def main(path: str | Path, epochs: int = 10) -> None:
    """Trains with and without feedback, and prints the masks of each exercise."""
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in ("accel", "gyro", "label", "label_names", "train_idx", "test_idx")}
    train, test = data["train_idx"], data["test_idx"]
    inputs, labels = {}, torch.from_numpy(data["label"])
    for name in ("accel", "gyro"):
        x = data[name].astype(np.float32)
        inputs[name] = torch.from_numpy((x - x[train].mean((0, 1))) / x[train].std((0, 1)))
    for feedback in (False, True):
        torch.manual_seed(0)
        latch = TopDownLatch(Watch(len(data["label_names"])), "linear", example_inputs={k: x[:1] for k, x in inputs.items()})
        model = latch if feedback else _Plain(latch.backbone)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        for _ in range(epochs):
            for batch in torch.from_numpy(train)[torch.randperm(len(train))].split(32):
                loss = nn.functional.cross_entropy(model({k: x[batch] for k, x in inputs.items()}), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            right = model.eval()({k: x[test] for k, x in inputs.items()}).argmax(1) == labels[test]
        print(f"accuracy on people not seen before, {'with' if feedback else 'without'} feedback: {right.float().mean():.3f}")
    with torch.no_grad():
        masks = latch.masks({k: x[test] for k, x in inputs.items()})
    profile = mask_profile([(masks, data["label"][test], None)], classes=range(len(data["label_names"])))["accel"]
    for name, row in zip(data["label_names"], profile.mean, strict=True):
        print(f"mean mask of the accelerometer, {name}: " + " ".join(f"{value:.2f}" for value in row))


class _Plain(nn.Module):
    """The backbone alone."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.backbone.fuse(self.backbone.encode(inputs))
        return logits


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("path", metavar="WATCH.npz")
    parser.add_argument("--epochs", type=int, default=10, help="(default: %(default)s)")
    options = parser.parse_args()
    main(options.path, options.epochs)
