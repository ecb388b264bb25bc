"""Several processes do what one does: the same losses at every step, every sample once, one writer."""

import json
import re
import runpy
import signal
import sys
import time
from pathlib import Path

import distributed_worker
import processes
import pytest
import sharded_worker
import torch
from hypothesis import given
from hypothesis import strategies as st

from topdown.datasets import BucketedSampler
from topdown.experiments import sentiment
from topdown.training.distributed import is_running, process_group, rank, total, world_size

pytestmark = pytest.mark.uncovered

EXAMPLE = Path(__file__).parents[2] / "examples" / "mosei_lstm.py"
TOLERANCE = 2e-5  # of float32 losses of about 1, after 24 steps whose sums are in another order


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What each process of a group of one and of two saw."""
    seen = {}
    for count in (1, 2):
        folder = tmp_path_factory.mktemp(f"of-{count}")
        assert processes.run_group(count, distributed_worker.main_of_group, folder) == [0] * count
        seen[count] = [json.loads((folder / f"{i}.json").read_text()) for i in range(count)]
    return seen


def test_losses_are_those_of_one_process_at_every_step(runs):
    (alone,), group = runs[1], runs[2]
    assert {seen["processes"] for seen in group} == {2}
    assert len(alone["steps"]) == 3 * 8
    for step, (loss, count) in enumerate(alone["steps"]):
        shares = [seen["steps"][step] for seen in group]
        assert sum(n for _, n in shares) == count
        assert sum(value for value, _ in shares) == pytest.approx(loss, abs=TOLERANCE * count)
    for seen in group:
        for ours, theirs in zip(seen["history"], alone["history"], strict=True):
            assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=TOLERANCE)
            assert ours["valid_loss"] == pytest.approx(theirs["valid_loss"], abs=TOLERANCE)


def test_every_process_has_all_outputs_and_decides_alike(runs):
    (alone,), group = runs[1], runs[2]
    for seen in group:
        assert seen["outputs"] == group[0]["outputs"]
        assert [(r["train_loss"], r["valid_loss"]) for r in seen["history"]] == [
            (r["train_loss"], r["valid_loss"]) for r in group[0]["history"]
        ]
        torch.testing.assert_close(torch.tensor(seen["outputs"]), torch.tensor(alone["outputs"]), atol=1e-4, rtol=0)


def test_another_number_of_processes_goes_on_where_one_died(runs, tmp_path):
    (alone,) = runs[1]
    survivor, killed = processes.run_group(2, distributed_worker.main_of_group, tmp_path, tmp_path / "state.pt", 3, 1)
    assert killed == -signal.SIGKILL
    assert survivor not in (0, None)
    history = torch.load(tmp_path / "state.pt", weights_only=True)["history"]
    assert len(history) in (1, 2)
    assert processes.run_group(1, distributed_worker.main_of_group, tmp_path, tmp_path / "state.pt") == [0]
    resumed = json.loads((tmp_path / "0.json").read_text())
    assert len(resumed["steps"]) == (3 - len(history)) * 8
    for ours, theirs in zip(resumed["history"], alone["history"], strict=True):
        assert ours["valid_loss"] == pytest.approx(theirs["valid_loss"], abs=TOLERANCE)


def run_late(printed, arguments):
    """Runs the example. The second process looks at the directory late: the first one must not have written there before."""
    check = sentiment.check_no_runs

    def check_late(*args, **options):
        time.sleep(0.5 * rank())
        check(*args, **options)

    sentiment.check_no_runs, sys.argv = check_late, [str(EXAMPLE), *arguments]
    with printed.open("a") as sys.stdout:
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_the_example_runs_in_two_processes_and_goes_on_in_one(tmp_path, capsys, monkeypatch):
    options = ["--samples", "48", "--feedback", "linear", "--seeds", "1", "--out", tmp_path / "out"]
    arguments = [*map(str, options), "--epochs", "1"]
    assert processes.run_group(2, run_late, tmp_path / "printed", arguments) == [0, 0]
    printed = (tmp_path / "printed").read_text()
    assert printed.count("Written to") == len(re.findall(r"\| train +\| 48 +\|", printed)) == 1
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["processes"] == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "checkpoints", "history.csv", "masks.csv", "masks.png", "results.json", "table.md"
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *arguments, "--resume"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert "2 of 2 runs are there already" in capsys.readouterr().out


def test_a_sharded_latch_trains_and_its_checkpoint_loads_without_shards(tmp_path):
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
        pytest.skip("gloo sums gradients for shards from torch 2.8 on")
    assert processes.run_group(2, sharded_worker.main, tmp_path / "found.json") == [0, 0]
    found = json.loads((tmp_path / "found.json").read_text())
    assert [*found] == ["lstm", "mult"]
    for name, values in found.items():
        assert values["parameters"] == "DTensor", name
        assert values["difference"] < 1e-5, name
        assert values["moved"] > 0.01, name


def run_and_tell(told, arguments):
    """Runs the example, and writes what it says on standard error into a file."""
    sys.argv = [str(EXAMPLE), *arguments]
    with told.open("a") as sys.stderr:
        runpy.run_path(str(EXAMPLE), run_name="__main__")


def test_wrong_input_ends_all_processes(tmp_path):
    codes = processes.run_group(2, run_and_tell, tmp_path / "told", ["--data", str(tmp_path / "nowhere.pkl")])
    assert codes == [2, 2]
    assert "nowhere.pkl: there is no such file; check the path" in (tmp_path / "told").read_text()


def test_alone_there_is_no_group():
    with process_group("cpu") as device:
        assert (device, is_running(), rank(), world_size()) == ("cpu", False, 0, 1)
        assert total(torch.tensor([3.0])).tolist() == [3]


@given(st.integers(2, 5), st.integers(0, 40), st.integers(0, 3))
def test_shares_of_all_epochs_hold_every_sample_once(count, more, epoch):
    lengths = torch.arange(1, count + more + 1) % 7 + 1
    shares = [BucketedSampler(lengths, count, epoch=epoch, rank=r, world_size=count) for r in range(count)]
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(len(lengths)))
