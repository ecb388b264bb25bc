"""Does feedback learn to use the status flags of real sensors? As well as gating by hand?

    pip install --no-deps aeon; python benchmarks/flags.py --data DIR --out results/flags [--seeds 5] [--jobs 2]

DIR holds watch.npz; aeon brings JapaneseVowels, whose twelve coefficients are two "sensors" here. In segments, one of both
sensors is stuck, noisy or dropped, two fifths of all steps together. A third modality tells which one, step by step, as the
status flags of sensors do; or nothing tells, and the other sensor would have to. Beside feedback stand models that get the
flags as inputs of every encoder (early fusion), fusion by FiLM, and gating by hand, which multiplies by the flags.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common.rows import gain, mean_score, merged
from torch import Tensor, nn

from topdown.comparison import compare
from topdown.datasets import SequenceDataset
from topdown.datasets.report import markdown
from topdown.files import write_text
from topdown.sequence import lengths_of, zero_padding
from topdown.training.versions import versions

Array = np.ndarray[Any, Any]
Splits = dict[str, SequenceDataset]
SENSORS, FLAGS = ("first", "second"), "flags"
EARLY, BY_HAND, CLEAN = "flags in every encoder", "gated by hand", "without corruption"
SHOWN = (CLEAN, "none", "none, widened", "static", "fusion by FiLM", EARLY, BY_HAND, "linear", "linear, reads inputs")
SIZE = 32


def watch(folder: Path) -> tuple[list[list[Array]], Array, list[Array]]:
    """Returns the sequences of both sensors, labels, and indices of train, valid and test."""
    with np.load(folder / "watch.npz", allow_pickle=False) as file:
        sensors = [[*file[name].astype(np.float64)[:, ::2]] for name in ("accel", "gyro")]
        return sensors, file["label"], [file[f"{split}_idx"] for split in ("train", "val", "test")]


def vowels(folder: Path) -> tuple[list[list[Array]], Array, list[Array]]:
    """Returns the same for JapaneseVowels: nine speakers; every fifth training sample is for validation."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("aeon is not installed: pip install --no-deps aeon")
    place = Path(spec.submodule_search_locations[0]) / "datasets/data/JapaneseVowels"
    rows, count = [], []
    for part in ("TRAIN", "TEST"):
        text = (place / f"JapaneseVowels_{part}.ts").read_text().splitlines()
        lines = [line for line in text if line.strip() and line[0] not in "#@"]
        count.append(len(lines))
        rows += [line.split(":") for line in lines]
    values = [np.array([[float(cell) for cell in channel.split(",")] for channel in row[:-1]]).T for row in rows]
    numbers = np.arange(count[0])
    indices = [numbers[numbers % 5 > 0], numbers[numbers % 5 == 0], np.arange(count[0], sum(count))]
    return [[x[:, :6] for x in values], [x[:, 6:] for x in values]], np.array([int(row[-1]) - 1 for row in rows]), indices


def corrupted(sensors: list[list[Array]], seed: int) -> tuple[list[list[Array]], list[Array]]:
    """Corrupts one sensor at a time, in segments, and returns the sensors and the flags (T, 2), 1 where one is wrong."""
    random = np.random.default_rng(seed)
    worse, flags = [[x.copy() for x in sensor] for sensor in sensors], []
    for i in range(len(sensors[0])):
        steps = len(sensors[0][i])
        flag, at = np.zeros((steps, 2)), 0
        while at < steps:
            end = min(steps, at + int(random.integers(max(2, steps // 8), max(3, steps // 4))))
            if random.random() < 0.4:
                which, kind = int(random.integers(2)), int(random.integers(3))
                x = worse[which][i]
                stuck = np.repeat(x[at : at + 1], end - at, 0)
                noise = 2.0 * random.normal(size=stuck.shape)  # sensors are standardized before
                x[at:end] = (stuck, noise, np.zeros_like(stuck))[kind]
                flag[at:end, which] = 1.0
            at = end
        flags.append(flag)
    return worse, flags


def splits_of(sensors: list[list[Array]], flags: list[Array] | None, labels: Array, indices: list[Array]) -> Splits:
    """Returns the three splits."""
    inputs: dict[str, Any] = dict(zip(SENSORS, sensors, strict=True)) | ({} if flags is None else {FLAGS: flags})
    data = SequenceDataset.from_arrays(inputs, labels)
    return {name: data.subset(i.tolist()) for name, i in zip(("train", "valid", "test"), indices, strict=True)}


class Sensors(nn.Module):
    """One convolution per modality, mean over valid steps, and a layer that fuses."""

    def __init__(self, sizes: Mapping[str, int], factor: float = 1.0, *, outputs: int, early: bool = False) -> None:
        super().__init__()
        size, self.early = round(SIZE * factor), early
        taken = {k: n + (2 if early and k != FLAGS else 0) for k, n in sizes.items()}
        self.encoders = nn.ModuleDict({k: nn.Conv1d(n, size, 5, padding=2) for k, n in taken.items()})
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * size * len(sizes), size), nn.ReLU(), nn.Linear(size, outputs))

    def encode(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, size)."""
        found = {}
        for k, encoder in self.encoders.items():
            x = torch.cat([inputs[k], inputs[FLAGS]], -1) if self.early and k != FLAGS else inputs[k]
            found[k] = zero_padding(encoder(x.transpose(1, 2)).transpose(1, 2).relu(), lengths_of(lengths, k))
        return found

    def fuse(self, encodings: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Returns logits of shape (B, outputs)."""
        parts = []
        for k, r in encodings.items():
            n = lengths_of(lengths, k)
            parts += [r.sum(1) / (r.shape[1] if n is None else n.to(r.device).unsqueeze(1)), r.amax(1)]
        logits: Tensor = self.head(torch.cat(parts, -1))
        return logits

    def forward(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Encodes and fuses."""
        return self.fuse(self.encode(inputs, lengths), lengths)


def main() -> None:
    """Compares on every set, with and without flags, and writes flags.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    start: float = time.time()
    rows: list[tuple[str, ...]] = [("set", "flags", "N test", *SHOWN, "linear over none", "linear over the hand")]
    for name, read in {"watch": watch, "vowels": vowels}.items():
        sensors, labels, indices = read(options.data)
        train = [[x for i in indices[0] for x in sensor[i]] for sensor in sensors]
        moments = [(np.mean(steps, 0), np.std(steps, 0)) for steps in train]
        sensors = [[(x - m) / s for x in sensor] for sensor, (m, s) in zip(sensors, moments, strict=True)]
        worse, flags = corrupted(sensors, seed=0)
        made = functools.partial(Sensors, outputs=int(labels.max()) + 1)
        training: dict[str, Any] = {"epochs": 40, "patience": 8, "learning_rate": 2e-3, "batch_size": 32, "alone": False}
        shared: dict[str, Any] = {"seeds": options.seeds, "jobs": options.jobs, "resume": True, **training}
        by_hand = [[x * (1 - f[:, [k]]) for x, f in zip(worse[k], flags, strict=True)] for k in range(2)]
        for told in (flags, None):
            place = options.out / f"{name}-{'flags' if told else 'no-flags'}"
            found = compare(
                made,
                splits_of(worse, told, labels, indices),
                widen=made,
                feedback=["linear"],
                diagnose=True,
                latch={"sources": {k: [j for j in (*SENSORS, FLAGS) if j != k and (told or j != FLAGS)] for k in SENSORS}},
                out=place,
                **shared,
            )
            others = {
                CLEAN: compare(made, splits_of(sensors, told, labels, indices), feedback=[], out=place / "clean", **shared)
            }
            if told:
                early = functools.partial(made, early=True)
                others[EARLY] = compare(
                    early, splits_of(worse, told, labels, indices), feedback=[], out=place / "early", **shared
                )
                others[BY_HAND] = compare(
                    made, splits_of(by_hand, told, labels, indices), feedback=[], out=place / "hand", **shared
                )
            runs = merged(found.runs, {row: other.runs for row, other in others.items()})
            gains = [gain(runs, "linear", other) if runs.of(other) else None for other in ("none", BY_HAND)]
            said = ["" if g is None else f"{g[0]:+.3f} ({g[1]:+.3f} to {g[2]:+.3f})" for g in gains]
            scores = [f"{mean_score(runs, row):.3f}" if runs.of(row) else "" for row in SHOWN]
            rows.append((name, "yes" if told else "no", str(len(indices[2])), *scores, *said))
            command = f"python benchmarks/flags.py --seeds {options.seeds}"
            about = f"`{command}`, {time.strftime('%Y-%m-%d')}, {time.time() - start:.0f} s, {versions()}. Test accuracy."
            write_text(options.out / "flags.md", f"{about}\n\n{markdown(rows)}\n")
            print(markdown(rows), flush=True)


if __name__ == "__main__":
    main()
