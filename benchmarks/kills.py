"""Is anything lost or damaged when a run is killed? Kills commands at random moments, resumes them, and compares every bit.

    python benchmarks/kills.py [--kills 54] [--seed 0]

`topdown train`, `topdown compare` and the mosei example run once without interruption, in one and in two processes. Then each
is started again and killed at random moments, with SIGKILL, SIGTERM and SIGINT in turn, and resumed, until it ends. After each
kill every file must load; at the end weights, states of optimizer, scheduler and generators, predictions and metrics must have
the same bits as without interruption. In one process, SIGTERM and SIGINT must end with status 143 and 130, and say how to go
on. The script fails if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topdown.datasets.report import markdown
from topdown.training.versions import versions

ROOT = Path(__file__).parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
VARIES = ("command", "date", "seconds", "wall_seconds", "processes", "jobs", "out")  # in JSON, and in columns of tables
TRAIN = ["--epochs", "20", "--feedback", "linear", "--size", "8", "--batch-size", "4", "--patience", "20"]
COMPARE = ["--seeds", "3", "--feedback", "linear", "--epochs", "6", "--size", "8", "--no-diagnosis"]
EXAMPLE = ["--samples", "96", "--epochs", "4", "--seeds", "1", "--feedback", "none", "linear"]


def commands(data: Path) -> dict[tuple[str, int], list[str]]:
    """Returns the command lines by name and number of processes."""
    python, group = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    example = str(ROOT / "examples" / "mosei_lstm.py")
    return {
        ("train", 1): [*python, "-m", "topdown", "train", str(data), *TRAIN],
        ("train", 2): [*group, "-m", "topdown", "train", str(data), *TRAIN],
        ("compare", 1): [*python, "-m", "topdown", "compare", str(data), *COMPARE, "--jobs", "1"],
        ("compare", 2): [*python, "-m", "topdown", "compare", str(data), *COMPARE, "--jobs", "2"],
        ("mosei_lstm.py", 1): [*python, example, *EXAMPLE],
        ("mosei_lstm.py", 2): [*group, example, *EXAMPLE],
    }


def make_data(folder: Path) -> Path:
    """Writes tables of 120 samples of two modalities."""
    generator = np.random.default_rng(0)
    rows: dict[str, list[list[Any]]] = {"audio": [["id", "a", "b"]], "motion": [["id", "c", "d", "e"]]}
    labels: list[list[Any]] = [["id", "split", "label"]]
    for i in range(120):
        steps = int(generator.integers(2, 6))
        labels.append([i, "train" if i < 80 else "valid" if i < 100 else "test", f"{generator.normal():.6f}"])
        for name, table in rows.items():
            table += [[i, *(f"{x:.6f}" for x in generator.normal(size=len(rows[name][0]) - 1))] for _ in range(steps)]
    folder.mkdir()
    for name, table in {**rows, "labels": labels}.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(table)
    return folder


def start(command: list[str], out: Path, *, resume: bool) -> subprocess.Popen[str]:
    """Starts a command in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = [*command, "--out", str(out), *(["--resume"] if resume else [])]
    return subprocess.Popen(
        arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def kill(process: subprocess.Popen[str], number: int, moment: float) -> tuple[int, str]:
    """Sends a signal to all of a command some seconds after its first line; returns its status, and what it said at last."""
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(moment)
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
    _, said = process.communicate(timeout=120)
    return process.returncode, (said.strip().splitlines() or [""])[-1]


def contents(out: Path) -> Iterator[tuple[str, Any]]:
    """Yields every file of a directory with what it holds; raises an error if one cannot be read."""
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name.startswith("."):  # the lock, and files that were unfinished when they were killed
            continue
        if path.suffix == ".pt":
            yield name, torch.load(path, weights_only=True)
        elif path.suffix == ".json":
            yield name, json.loads(path.read_text())
        elif path.suffix in (".npz", ".npy"):
            loaded = np.load(path, allow_pickle=False)
            values = {key: loaded[key] for key in loaded} if path.suffix == ".npz" else {"values": loaded}
            record = json.loads(str(values.pop("record"))) if "record" in values else {}
            yield name, {**values, "record": record}
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                yield name, list(csv.DictReader(file))


def same(a: Any, b: Any) -> bool:
    """Returns whether two contents have the same bits, but for dates and times."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in {**a, **b} if key not in VARIES]
        return all(key in a and key in b and same(a[key], b[key]) for key in keys)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.tobytes() == b.tobytes())
    return bool(a == b or (a != a and b != b))


def differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """Returns the names of files that one side lacks, or whose contents differ."""
    return [name for name in {**ours, **theirs} if not (name in ours and name in theirs and same(ours[name], theirs[name]))]


def main() -> None:
    """Prints the table, and fails if anything was lost or damaged."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=54)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator, begun = random.Random(options.seed), time.time()
    rows: list[tuple[str, ...]] = [
        ("command", "processes", "kills (KILL, TERM, INT)", "ended before", "files that do not load", "wrong endings", "bits")
    ]
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        data = make_data(Path(scratch) / "data")
        for (name, processes), command in commands(data).items():
            whole = Path(scratch) / f"{name}-{processes}-whole"
            first = time.time()
            process = start(command, whole, resume=False)
            assert process.stdout is not None
            process.stdout.readline()
            lasts = time.time()
            _, said = process.communicate()
            if process.returncode:
                sys.exit(f"{name} in {processes} processes fails without a kill: {said}")
            lasts = time.time() - lasts
            expected = dict(contents(whole))
            killed, ended, damaged, wrong = Counter[str](), 0, 0, 0
            out, resume = Path(scratch) / f"{name}-{processes}-killed", False
            for count in range(options.kills // 6):
                number = SIGNALS[count % 3]
                status, last = kill(start(command, out, resume=resume), number, generator.uniform(0.0, lasts))
                resume = True
                killed[number.name.removeprefix("SIG")] += 1
                ended += status == 0
                try:
                    actual = dict(contents(out))
                except Exception as error:
                    damaged += 1
                    failures.append(f"{name}, {processes}, {number.name}: {error}")
                if processes == 1 and number != signal.SIGKILL and status != 0:
                    over = not damaged and not differing(actual, expected)  # the run was complete, and Python about to exit
                    right = over or (status == 128 + number and "go on with --resume" in last)
                    wrong += not right
                    failures += [] if right else [f"{name}, {number.name}: status {status}, {last!r}"]
                if status == 0 or generator.random() < 0.3:  # let it finish, and start again
                    process = start(command, out, resume=True)
                    process.communicate()
                    actual = dict(contents(out))
                    if process.returncode or (lost := differing(actual, expected)):
                        failures.append(f"{name}, {processes}: status {process.returncode}, other bits in {lost}")
                    out, resume = Path(scratch) / f"{name}-{processes}-killed-{count}", False
            if resume:
                process = start(command, out, resume=True)
                process.communicate()
                if process.returncode or (lost := differing(dict(contents(out)), expected)):
                    failures.append(f"{name}, {processes}: status {process.returncode}, other bits in {lost}")
            bits = "other" if any(f.startswith(f"{name}, {processes}: status") for f in failures) else "the same"
            counts = ", ".join(str(killed[key]) for key in ("KILL", "TERM", "INT"))
            rows.append(
                (name, str(processes), f"{sum(killed.values())} ({counts})", str(ended), str(damaged), str(wrong), bits)
            )
            print(f"{name}, {processes}: {time.time() - first:.0f} s", flush=True)
    print(f"\n{markdown(rows)}\n\n{time.time() - begun:.0f} s, seed {options.seed}, {time.strftime('%Y-%m-%d')}, {versions()}")
    if failures:
        sys.exit("\n".join(failures))


if __name__ == "__main__":
    main()
