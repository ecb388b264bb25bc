"""Loads thousands of damaged files of every layout: each must load, or be a DataError; none may crash, hang or fill the memory.

    python tests/fuzz.py                       # 20,000 files of every layout
    python tests/fuzz.py --count 100 csd mult  # fewer

Every file is made from its layout and its number alone, so a failure can be repeated: `--first N --count 1`. Files are loaded
in a process of their own, so that one that crashes or hangs (10 seconds) is counted and named, and the rest goes on.
"""

import argparse
import collections
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import layouts
import processes

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.datasets import DataError, load_splits
from topdown.datasets.prepare import prepare
from topdown.training import load_model
from topdown.training.model_file import Description, build_model, save_model
from topdown.training.tasks import Task

COUNTS = {"train": 3, "valid": 2, "test": 2}
SECONDS = 10
WORDS = [0, 1, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]


def splits(aligned=True):
    return {split: layouts.random_data(split, count, aligned=aligned, longest=4) for split, count in COUNTS.items()}


def pickled(content, protocol=4):
    return lambda path: layouts.save(path, content(), protocol)


def store(path):
    layouts.save(path.with_suffix(".pkl"), layouts.mult(splits()))
    prepare(path.with_suffix(".pkl"), path)
    path.with_suffix(".pkl").unlink()


FOLDS = layouts.folds(splits())
WRITERS = {
    "mult": pickled(lambda: layouts.mult(splits())),
    "mult-protocol-0": pickled(lambda: layouts.mult(splits()), protocol=0),
    "mult-protocol-5": pickled(lambda: layouts.mult(splits(False), unaligned=True), protocol=5),
    "mmsa": pickled(lambda: layouts.mmsa(splits())),
    "mmsa-unaligned": pickled(lambda: layouts.mmsa(splits(False), unaligned=True)),
    "mmsa-fet-tensors": pickled(lambda: layouts.mmsa(splits(False), unaligned=True, tensors=True) | {"config": {"a": 1}}),
    "mag-bert": pickled(lambda: layouts.mag_bert(splits(False))),
    "mmlatch-cache": pickled(lambda: layouts.cache(splits(False))),
    "npz": lambda path: path.write_bytes(layouts.npz(splits(False))),
    "npz-compressed": lambda path: path.write_bytes(layouts.npz(splits(False), flat=True, compress=True)),
    "multibench": lambda path: layouts.multibench(path, splits(False)),
    "csd": lambda path: layouts.csd(path, splits()),
    "store": store,
    "tables": lambda path: tables(path),
    "topdown.json and safetensors": lambda path: make_latch().save_pretrained(path),
    "model.pt": lambda path: save_model(path, build_model(DESCRIPTION, 0), DESCRIPTION, None, {"seed": 0}),
}
REFUSALS = {"topdown.json and safetensors": ValueError}
DESCRIPTION = Description("lstm", {"a": 2, "b": 3}, Task("regression", 1), size=2, latch={"feedback": "linear"})


def make_latch():
    latch = TopDownLatch(LSTMBackbone({"a": 2, "b": 3}, hidden_size=2), "shared", sources={"a": ["b"]})
    latch.backbone.requires_grad_(False)
    return latch


def tables(path):
    path.mkdir()
    rows = "".join(f"s{i},{i}.5,{-i}e-1\n" for i in range(6) for _ in range(1 + i % 2))
    (path / "audio.csv").write_text("id,pitch,energy\n" + rows)
    names = ("train", "train", "valid", "test", "test", "train")
    (path / "labels.csv").write_text("id,split,mood\n" + "".join(f"s{i},{name},{i % 2}\n" for i, name in enumerate(names)))


def read(layout, path):
    """Reads a file or a folder in the way of its layout."""
    if layout == "topdown.json and safetensors":
        TopDownLatch.from_pretrained(make_latch().backbone, path)
    elif layout == "model.pt":
        load_model(path)
    else:
        for data in load_splits(path, **options(layout)).values():
            data.batch([0])


def options(layout):
    return {"folds": FOLDS} if layout in ("multibench", "csd") else {}


def mutate(raw, generator):
    """Damages a file in one to four places."""
    raw = bytearray(raw)
    for _ in range(generator.integers(1, 5)):
        where = int(generator.integers(0, len(raw) + 1))
        length = int(generator.integers(1, 17))
        kind = generator.integers(0, 7)
        if kind == 0 and where < len(raw):
            raw[where] ^= 1 << int(generator.integers(0, 8))
        elif kind == 1:
            raw[where : where + length] = generator.bytes(length)
        elif kind == 2:
            del raw[where : where + length]
        elif kind == 3:
            raw[where:where] = raw[where : where + length * 8]
        elif kind == 4:
            size = int(generator.choice([1, 2, 4, 8]))
            word = int(generator.integers(0, len(WORDS)))
            raw[where : where + size] = (WORDS[word] & (2 ** (8 * size) - 1)).to_bytes(size, "little")
        elif kind == 5:
            opcodes = [
                value for name, value in vars(pickle).items() if name.isupper() and isinstance(value, bytes) and len(value) == 1
            ]
            raw[where : where + 1] = opcodes[int(generator.integers(0, len(opcodes)))]
        else:
            del raw[where:]
        raw = raw or bytearray(b"\0")
    return bytes(raw)


def load(layout, path, files, number):
    """Writes one damaged file, loads it, and says what happened."""
    generator = np.random.default_rng([zlib.crc32(layout.encode()), number])
    names = list(files)
    name = names[int(generator.integers(0, len(names)))]
    target = path / name if name else path
    target.write_bytes(mutate(files[name], generator))
    try:
        read(layout, path)
        return "loaded"
    except REFUSALS.get(layout, DataError) as error:
        return "refused" if "\n" not in str(error) and len(str(error)) < 1000 else f"a message of {len(str(error))} letters"
    finally:
        target.write_bytes(files[name])


def child(layout, first, count, progress, results, load):
    """Loads files in this process, and leaves word of the one at work, and of what happened."""
    sys.stderr = open(os.devnull, "w")
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30,) * 2)
    with tempfile.TemporaryDirectory() as folder, progress.open("w") as notes, results.open("a") as told:
        path = Path(folder) / "data"
        WRITERS[layout](path)
        files = {"": path.read_bytes()} if path.is_file() else {member.name: member.read_bytes() for member in path.iterdir()}
        read(layout, path)  # the first file imports libraries, which is no growth
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(first, first + count):
            notes.seek(0)
            notes.write(f"{number}\n")
            notes.flush()
            signal.alarm(SECONDS)
            try:
                outcome = load(layout, path, files, number)
            except Exception as error:  # whatever is no DataError is what we look for
                outcome = f"{type(error).__name__} in file {number}: {error}"[:200]
            signal.alarm(0)
            print(json.dumps(outcome), file=told, flush=True)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(json.dumps({"grown": grown / 1024}), file=told, flush=True)


def fuzz(layout, first, count, load=load):
    """Loads damaged files of a layout in processes of their own.

    Returns:
        How many loaded, how many were refused, what went wrong, and by how many MiB the memory of the process grew.
    """
    outcomes, failures, grown, end = collections.Counter(), [], 0.0, first + count
    with tempfile.TemporaryDirectory() as folder:
        progress, results = Path(folder) / "progress", Path(folder) / "results"
        while first < end:
            process = processes.start(child, layout, first, end - first, progress, results, load)
            process.join()
            if process.exitcode == 0:
                break
            first = int(progress.read_text() or first)
            failures.append(f"status {process.exitcode} at file {first}")
            first += 1
        for line in map(json.loads, results.read_text().splitlines()):
            if isinstance(line, dict):
                grown = max(grown, line["grown"])
            elif line in ("loaded", "refused"):
                outcomes[line] += 1
            else:
                failures.append(line)
    return outcomes, failures, grown


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("layouts", nargs="*", metavar="LAYOUT", help=f"of {', '.join(WRITERS)}; all by default")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    if unknown := set(arguments.layouts) - set(WRITERS):
        parser.error(f"no such layout: {', '.join(unknown)}")
    print("| layout | files | loaded | refused | failed | memory grew by MiB | s |\n|---|---|---|---|---|---|---|", flush=True)
    failed = False
    for layout in arguments.layouts or WRITERS:
        start = time.perf_counter()
        outcomes, failures, grown = fuzz(layout, arguments.first, arguments.count)
        row = (
            layout,
            arguments.count,
            outcomes["loaded"],
            outcomes["refused"],
            len(failures),
            round(grown),
            round(time.perf_counter() - start),
        )
        print("|", " | ".join(map(str, row)), "|", flush=True)
        print("".join(f"    {failure}\n" for failure in failures[:5]), end="", flush=True)
        failed |= bool(failures)
    sys.exit(failed)


if __name__ == "__main__":
    main()
