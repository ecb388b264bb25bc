"""The same seed gives the same bits in every process; other threads and batch sizes stay within a tolerance."""

import multiprocessing
import os
import sys

import numpy as np
import processes
import pytest
import torch
import wrong_calls

from topdown.adapters import LSTMBackbone
from topdown.cli.main import main
from topdown.comparison import compare
from topdown.datasets import SequenceDataset, load_splits
from topdown.training import fit, predict
from topdown.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.uncovered

THREADS_TOLERANCE = 1e-5  # of outputs of about 1 in float32, after training with another number of threads
BATCH_TOLERANCE = 1e-6  # of outputs of about 1 in float32, in batches of another size
SMALL = ["--epochs", "2", "--size", "4", "--batch-size", "4", "--feedback", "linear"]
LABELS = "id,split,y\n" + "".join(f"s{i},{'train' if i < 16 else 'valid' if i < 20 else 'test'},{i % 5}.5\n" for i in range(24))
AUDIO = "id,x,z\n" + "".join(f"s{i},{i % 7},{i % 3}\n" for i in range(24) for _ in range(1 + i % 3))
TEXT = "id,u,v,w\n" + "".join(f"s{i},{i % 2},{i % 5},{i % 4}\n" for i in range(24) for _ in range(1 + i % 3))


def write(folder):
    wrong_calls.tables(AUDIO, LABELS, name=folder)
    (folder / "text.csv").write_text(TEXT)


def run(folder, data):
    """Trains, predicts and compares, in a process of its own."""
    os.chdir(folder)
    sys.stdout = open(os.devnull, "w")
    main(["train", str(data), "--out", "trained", *SMALL])
    main(["predict", "trained/model.pt", str(data), "--out", "predictions.csv", "--masks"])
    compare(build, load_splits(data), feedback=["linear"], seeds=1, alone=False, out="compared", epochs=2, batch_size=4)


def build(sizes):
    return LSTMBackbone(sizes, hidden_size=4)


def test_two_processes_give_the_same_bits(tmp_path):
    write(tmp_path / "data")
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    started = [processes.start(run, folder, tmp_path / "data") for folder in folders]
    for process in started:
        process.join()
    assert [process.exitcode for process in started] == [0, 0]
    one, two = (load_checkpoint(folder / "trained/model.pt")["model"] for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = ((folder / "predictions.csv").read_text() for folder in folders)
    assert one == two
    assert one.count("\n") == 5  # a head, and four test samples
    names = sorted(path.name for path in (folders[0] / "compared/runs").glob("*.npz"))
    assert len(names) == 4  # linear model, none, static, linear
    for name in names:
        one, two = (np.load(folder / "compared/runs" / name)["outputs"] for folder in folders)
        assert one.tobytes() == two.tobytes(), name


def data(count=40):
    rng = np.random.default_rng(0)
    steps = rng.integers(1, 9, count)
    inputs = {name: [rng.normal(size=(n, 5)) for n in steps] for name in "ab"}
    return SequenceDataset.from_arrays(inputs, rng.normal(size=count))


def trained(workers=0):
    torch.manual_seed(0)
    model = LSTMBackbone({"a": 5, "b": 5}, hidden_size=16)
    fit(model, data(), data(), epochs=2, batch_size=8, learning_rate=0.01, workers=workers)
    return model


def test_workers_change_no_bit():
    one, two = trained(), trained(workers=2)
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))
    for child in multiprocessing.active_children():
        child.join(1)


def test_threads_change_less_than_the_tolerance():
    before = torch.get_num_threads()
    outputs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        outputs.append(predict(trained(), data()))
    torch.set_num_threads(before)
    torch.testing.assert_close(*outputs, atol=THREADS_TOLERANCE, rtol=0)


def test_batches_of_any_size_predict_the_same_within_the_tolerance():
    model = trained()
    whole = predict(model, data(), batch_size=40)
    for size in (1, 7, 32):
        torch.testing.assert_close(predict(model, data(), batch_size=size), whole, atol=BATCH_TOLERANCE, rtol=0)
