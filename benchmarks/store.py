"""What does data cost that is larger than memory? Opening, training from a store, and reading a pickle, in time and memory.

    python benchmarks/store.py --folder /somewhere/with/8/GB [--gigabytes 5] [--threads 2] [--rounds 5]

1. A store of so many gigabytes of noise, of sizes 300/74/35 and with lengths like those of word-aligned MOSEI, is written
   through the writer that `prepare` uses, one sample at a time, then opened, then trained on; each in a process of its own,
   whose peak of resident memory is read from the system. Batches are drawn from all of it.
2. Training steps of the paper's model with LSTM feedback on the same samples from a store and from memory, in one process,
   alternating; medians over rounds. The same for making batches alone.
3. A MulT pickle of one gigabyte (float64, 50 steps, padded on the left) is loaded; its peak of memory over its size.

Everything is written below the folder, and removed at the end.
"""

from __future__ import annotations

import argparse
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.datasets import SequenceDataset, data_loader, load_splits
from topdown.datasets.raw_samples import Array, RawSplit, Stream
from topdown.datasets.report import markdown
from topdown.datasets.store import StoreWriter
from topdown.training.versions import versions

SIZES = {"text": 300, "audio": 74, "visual": 35}
GIGABYTE = 10**9


def make_lengths(count: int) -> Array:
    """Returns lengths like those of word-aligned MOSEI: a mean of 21.5, a long tail up to 100."""
    generator = np.random.default_rng(0)
    return np.exp(generator.normal(2.9, 0.55, count)).round().clip(1, 100).astype(np.int64)


def noise(lengths: Array, size: int) -> Iterator[Array]:
    """Yields a sequence for each length; windows of one block of noise, which costs nothing to make."""
    block = np.random.default_rng(1).normal(size=(4096, size)).astype(np.float32)
    for i, length in enumerate(lengths):
        start = i * 37 % (len(block) - int(length))
        yield block[start : start + length]


def write_store(path: Path, count: int) -> None:
    """Writes a store of `count` training samples, and a few of the other splits."""
    writer, splits = StoreWriter(path), {}
    for split, n in {"train": count, "valid": 64, "test": 64}.items():
        lengths = make_lengths(n)
        streams = {name: Stream(size, lengths, noise(lengths, size), {}) for name, size in SIZES.items()}
        labels = np.random.default_rng(2).normal(size=n).clip(-3, 3)
        splits[split] = SequenceDataset.from_split(RawSplit(labels, None, streams, {}, {}), split, writer.sink(split))
    writer.finish(splits)


def make_model() -> torch.nn.Module:
    """Makes the paper's model with LSTM feedback."""
    torch.manual_seed(0)
    return TopDownLatch(LSTMBackbone(SIZES), "lstm", start="random").train()


def train(model: torch.nn.Module, data: SequenceDataset, steps: int, epoch: int = 1) -> None:
    """Takes training steps."""
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    loader = data_loader(data, 32)
    loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
    for batch, _ in zip(loader, range(steps), strict=False):
        optimizer.zero_grad()
        (model(batch.inputs, batch.lengths).squeeze(-1) - batch.labels).abs().mean().backward()
        optimizer.step()


def child(task: str, path: Path, threads: int) -> None:
    """Runs one task in this process, and prints its seconds and the peak of memory before and after."""
    torch.set_num_threads(threads)
    model = make_model()
    before = peak()
    start = time.perf_counter()
    if task == "open":
        load_splits(path)
    elif task == "load":
        load_splits(path)
    elif task == "train":
        train(model, load_splits(path)["train"], 1000)
    seconds = time.perf_counter() - start
    print(seconds, before, peak())


def peak() -> float:
    """Returns the peak of resident memory of this process in bytes; Linux alone says it without that of the parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


def in_a_process(task: str, path: Path, threads: int) -> tuple[float, float, float]:
    """Runs :func:`child` in a new process."""
    command = [sys.executable, __file__, "--folder", ".", "--threads", str(threads), "--child", task, str(path)]
    seconds, before, after = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
    return seconds, before, after


def alternate(calls: dict[str, Callable[[int], Any]], rounds: int) -> dict[str, list[float]]:
    """Times calls in turn, each with the number of the round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, function in calls.items():
            start = time.perf_counter()
            function(number)
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def compare(folder: Path, rounds: int, steps: int = 60) -> list[tuple[str, ...]]:
    """Compares steps and batches from a store and from memory."""
    write_store(folder / "half", 14_000)
    stored = load_splits(folder / "half")["train"]
    arrays = {
        name: [a.numpy() for a in ragged.all_rows().split(ragged.lengths.tolist())] for name, ragged in stored.sequences.items()
    }
    held = SequenceDataset.from_arrays(arrays, stored.labels.numpy())
    if not all(torch.equal(stored.batch([3, 5]).inputs[name], held.batch([3, 5]).inputs[name]) for name in SIZES):
        raise AssertionError("the store and the memory hold different samples")
    models = {"store": make_model(), "memory": make_model()}
    places = {"store": stored, "memory": held}
    training = alternate({k: lambda n, k=k: train(models[k], places[k], steps, n) for k in places}, rounds)  # type: ignore[misc]

    def batches(data: SequenceDataset, epoch: int) -> None:
        loader = data_loader(data, 32)
        loader.batch_sampler.epoch = epoch  # type: ignore[union-attr]
        for _ in loader:
            pass

    making = alternate({k: lambda n, k=k: batches(places[k], n) for k in places}, rounds)  # type: ignore[misc]
    table: list[tuple[str, ...]] = []
    for what, times, count in (("a training step", training, steps), ("making a batch", making, -(-14_000 // 32))):
        median = {k: statistics.median(values) / count * 1000 for k, values in times.items()}
        ratio = statistics.median(a / b for a, b in zip(times["store"], times["memory"], strict=True))
        table.append((what, f"{median['memory']:.2f} ms", f"{median['store']:.2f} ms", f"{ratio:.3f}"))
    return table


def write_pickle(path: Path, size: int) -> int:
    """Writes a MulT pickle of about so many bytes, and returns how many."""
    count = size // (50 * sum(SIZES.values()) * 8)
    content: dict[str, dict[str, Array]] = {}
    for split, n in {"train": count * 8 // 10, "valid": count // 10, "test": count // 10}.items():
        lengths = make_lengths(n).clip(1, 50)
        content[split] = {}
        for name, d in SIZES.items():
            array = np.zeros((n, 50, d))
            for sample, values in zip(array, noise(lengths, d), strict=True):
                sample[50 - len(values) :] = values
            content[split]["vision" if name == "visual" else name] = array
        content[split]["labels"] = np.zeros((n, 1, 1))
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=4)
    return path.stat().st_size


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where to write; as many gigabytes, and three more")
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]), arguments.threads)
        return
    folder = Path(tempfile.mkdtemp(prefix="store-benchmark-", dir=arguments.folder))
    try:
        rows = [("what", "measured", "aim")]
        count = int(arguments.gigabytes * GIGABYTE / (4 * sum(SIZES.values()) * float(make_lengths(10_000).mean())))
        start = time.perf_counter()
        write_store(folder / "large", count)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in (folder / "large").iterdir())
        rows.append((f"writing a store of {size / GIGABYTE:.2f} GB, N = {count + 128}", f"{seconds:.0f} s", ""))
        seconds, _, _ = in_a_process("open", folder / "large", arguments.threads)
        rows.append(("opening it", f"{seconds * 1000:.0f} ms", "milliseconds"))
        seconds, before, after = in_a_process("train", folder / "large", arguments.threads)
        rows.append(
            ("1000 training steps on it: peak memory", f"{after / GIGABYTE:.2f} GB (before: {before / GIGABYTE:.2f})", "1.5 GB")
        )
        size = write_pickle(folder / "mult.pkl", GIGABYTE)
        seconds, _, after = in_a_process("load", folder / "mult.pkl", arguments.threads)
        ratio = (after - before) / size
        rows.append(
            (f"loading a MulT pickle of {size / GIGABYTE:.2f} GB: {seconds:.1f} s, peak over its size", f"{ratio:.2f}", "1.6")
        )
        (folder / "mult.pkl").unlink()
        print(versions())
        print(markdown(rows))
        print(markdown([("what", "from memory", "from a store", "ratio (aim 1.10)"), *compare(folder, arguments.rounds)]))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
