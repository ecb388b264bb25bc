"""A training that is stopped after a step goes on with the next one, and a directory has one writer."""

import contextlib
import os
import resource
import shutil
import signal
import sys

import numpy as np
import processes
import pytest
import torch
import wrong_calls

from topdown.adapters import LSTMBackbone
from topdown.cli.main import main
from topdown.datasets import DataError, SequenceDataset
from topdown.training import Stopped, fit, load_model, locking, progress
from topdown.training.checkpoints import load_checkpoint
from topdown.training.distributed import process_group
from topdown.training.locking import locked
from topdown.training.stopping import stopped_after_a_step

LABELS = "id,split,y\n" + "".join(f"s{i},{'train' if i < 9 else 'valid' if i < 12 else 'test'},{i % 5}.5\n" for i in range(15))
AUDIO = "id,x,z\n" + "".join(f"s{i},{i % 7},{i % 3}\n" for i in range(15) for _ in range(2))


def data(count=12):
    rng = np.random.default_rng(0)
    return SequenceDataset.from_arrays({name: rng.normal(size=(count, 3, 2)) for name in "ab"}, rng.normal(size=count))


def model(dropout=0.2):  # so that random numbers count
    torch.manual_seed(0)
    return LSTMBackbone({"a": 2, "b": 2}, hidden_size=3, dropout=dropout)


def stop_at(*where):
    def on_step(epoch, step, steps):
        if (epoch, step) == where:
            raise Stopped

    return on_step


@pytest.mark.parametrize("where", [(1, 1), (2, 2), (2, 4), (3, 3)])  # an epoch has four steps
def test_a_stopped_training_goes_on_with_the_next_step(where, tmp_path):
    options = {"epochs": 3, "batch_size": 3, "learning_rate": 0.01}
    whole = fit(model(), data(), data(), checkpoint=tmp_path / "whole.pt", **options)
    with pytest.raises(Stopped):
        fit(model(), data(), data(), checkpoint=tmp_path / "stopped.pt", on_step=stop_at(*where), **options)
    kept = load_checkpoint(tmp_path / "stopped.pt")
    assert (len(kept["history"]) + 1, kept["begun"][0]) == where
    steps = []
    found = fit(model(), data(), data(), checkpoint=tmp_path / "stopped.pt", on_step=lambda *s: steps.append(s[:2]), **options)
    assert steps[0] == ((where[0], where[1] + 1) if where[1] < 4 else (where[0] + 1, 1))
    assert len(steps) == 12 - 4 * (where[0] - 1) - where[1]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    keys = ("train_loss", "valid_loss", "learning_rate")
    assert [[r[k] for k in keys] for r in found.history] == [[r[k] for k in keys] for r in whole.history]


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_command_that_is_stopped_says_how_to_go_on(number, status, word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong_calls.tables(AUDIO, LABELS)
    options = ["--epochs", "3", "--size", "4", "--batch-size", "3", "--feedback", "linear"]
    main(["train", "data", "--out", "whole", *options])
    real, calls = progress.stopped_after_a_step, []

    @contextlib.contextmanager
    def with_a_signal():
        with real() as check:

            def after(*step):
                calls.append(step)
                if len(calls) == 5:
                    signal.raise_signal(number)
                check()

            yield after

    monkeypatch.setattr(progress, "stopped_after_a_step", with_a_signal)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        main(["train", "data", "--out", "out", *options])
    assert ended.value.code == status
    assert f"{word}; go on with --resume --out out" in capsys.readouterr().err
    assert signal.getsignal(number) is before
    assert load_checkpoint(tmp_path / "out/training.pt")["begun"][0] == 2  # of the second epoch
    main(["train", "data", "--out", "out", "--resume", *options])
    ours, theirs = (load_checkpoint(tmp_path / name / "model.pt")["model"] for name in ("out", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_directory_has_one_writer(tmp_path):
    with locked(tmp_path):
        with pytest.raises(DataError, match=rf"process {os.getpid()} writes there; wait for it, or choose another"):
            with locked(tmp_path):
                pass
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path), locked(None):
        pass


def test_a_lock_that_was_removed_meanwhile_is_not_taken_for_the_one_that_is_there(tmp_path, monkeypatch):
    flock, removed = locking.fcntl.flock, []

    def late(file, how):  # another process ends its own lock between open and flock
        if not removed:
            removed.append((tmp_path / ".lock").unlink())
        flock(file, how)

    monkeypatch.setattr(locking.fcntl, "flock", late)
    with locked(tmp_path):
        assert (tmp_path / ".lock").exists()
        with pytest.raises(DataError, match="writes there"), locked(tmp_path):
            pass


def test_a_command_does_not_write_where_another_one_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong_calls.tables(AUDIO, LABELS)
    (tmp_path / "out").mkdir()
    with locked(tmp_path / "out"):
        for command in ("train", "compare"):
            with pytest.raises(SystemExit) as ended:
                main([command, "data", "--out", "out", "--epochs", "1", "--size", "4"])
            assert ended.value.code == 2
            assert f"out: process {os.getpid()} writes there; wait for it" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def limited(folder, arguments, said):
    """Trains where no file may be larger than 4 KiB, as on a disk that is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    os.chdir(folder)
    sys.stdout = open(os.devnull, "w")
    with said.open("w") as file, contextlib.redirect_stderr(file):
        main(arguments)


def test_a_full_disk_is_one_line_and_leaves_no_half_of_a_file(tmp_path):
    wrong_calls.tables(AUDIO, LABELS, name=tmp_path / "data")
    arguments = ["train", "data", "--out", "out", "--epochs", "2", "--size", "8", "--feedback", "none"]
    process = processes.start(limited, tmp_path, arguments, tmp_path / "said")
    process.join()
    assert process.exitcode == 2
    (line,) = (tmp_path / "said").read_text().splitlines()
    assert line.endswith("File too large; free some space, or choose another place to write to")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json"]


def test_a_directory_that_vanishes_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong_calls.tables(AUDIO, LABELS)
    real = progress.stopped_after_a_step

    @contextlib.contextmanager
    def vanishing():
        with real():
            yield lambda *step: shutil.rmtree("out", ignore_errors=True)

    monkeypatch.setattr(progress, "stopped_after_a_step", vanishing)
    with pytest.raises(SystemExit) as ended:
        main(["train", "data", "--out", "out", "--epochs", "2", "--size", "4", "--feedback", "none"])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert "out/.training.pt" in last
    assert last.endswith("No such file or directory; free some space, or choose another place to write to")


@pytest.mark.parametrize("length", [0, 100, 3000])
def test_a_truncated_checkpoint_is_one_line(length, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong_calls.tables(AUDIO, LABELS)
    options = ["train", "data", "--out", "out", "--epochs", "1", "--size", "4", "--feedback", "none"]
    main(options)
    path = tmp_path / "out/training.pt"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(SystemExit) as ended:
        main([*options, "--resume"])
    assert ended.value.code == 2
    assert "training.pt: not a checkpoint" in capsys.readouterr().err.splitlines()[-1]
    assert path.stat().st_size == length


def go_on(folder, found):
    """Goes on with a training, in one of several processes."""
    with process_group("cpu"):
        fitted = fit(model(0.0), data(), data(), checkpoint=folder / "stopped.pt", epochs=2, batch_size=6, learning_rate=0.0)
    found.with_suffix(f".{os.environ['RANK']}").write_text(repr(fitted.history[0]["train_loss"]))


def test_losses_of_a_stopped_epoch_count_once_in_several_processes(tmp_path):
    """With a rate of 0 and no dropout the loss of an epoch is that of one process."""
    options = {"epochs": 2, "batch_size": 6, "learning_rate": 0.0}
    with pytest.raises(Stopped):
        fit(model(0.0), data(), data(), checkpoint=tmp_path / "stopped.pt", on_step=stop_at(1, 1), **options)
    expected = fit(model(0.0), data(), data(), **options).history[0]["train_loss"]
    assert processes.run_group(2, go_on, tmp_path, tmp_path / "found.txt") == [0, 0]
    losses = [float((tmp_path / f"found.{i}").read_text()) for i in range(2)]
    assert losses[0] == losses[1]
    assert losses[0] == pytest.approx(expected, rel=1e-5)


def stopped_by_a_signal(folder, name, step_of_the_signal):
    """Trains in one of several processes, of which the second one gets a signal in a step."""
    steps = []
    with process_group("cpu"), contextlib.suppress(Stopped), stopped_after_a_step() as check:

        def on_step(epoch, step, of):
            steps.append(step)
            if len(steps) == step_of_the_signal and os.environ["RANK"] == "1":
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)  # torchrun sends one more
            check()

        options = {"epochs": 3, "batch_size": 4, "learning_rate": 0.01}
        fit(model(), data(), data(), checkpoint=folder / name, on_step=on_step, **options)


def test_processes_stop_after_the_same_step_and_go_on_with_the_same_bits(tmp_path):
    assert processes.run_group(2, stopped_by_a_signal, tmp_path, "whole.pt", None) == [0, 0]
    assert processes.run_group(2, stopped_by_a_signal, tmp_path, "stopped.pt", 5) == [0, 0]  # an epoch has three steps
    kept = load_checkpoint(tmp_path / "stopped.pt")
    assert (len(kept["history"]), kept["begun"][0], kept["begun"][1].shape, len(kept["begun"][3])) == (1, 2, (2,), 2)
    assert kept["begun"][1][0] != kept["begun"][1][1]  # each process keeps its own sum: their total has other last bits
    assert processes.run_group(2, stopped_by_a_signal, tmp_path, "stopped.pt", None) == [0, 0]
    whole, found = (load_checkpoint(tmp_path / name) for name in ("whole.pt", "stopped.pt"))
    assert len(whole["history"]) == len(found["history"]) == 3
    assert [r["train_loss"] for r in found["history"]] == [r["train_loss"] for r in whole["history"]]
    assert all(torch.equal(found["model"][name], value) for name, value in whole["model"].items())


def test_a_second_signal_ends_at_once_and_leaves_the_checkpoint_of_the_last_epoch(tmp_path):
    options = {"epochs": 2, "batch_size": 3, "learning_rate": 0.01, "checkpoint": tmp_path / "stopped.pt"}
    passes, interrupted = [], model()

    def two_signals(module, arguments, output):
        passes.extend([None] * module.training)
        if len(passes) == 6:  # in the second step of the second epoch, whose first step changed the weights
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    interrupted.register_forward_hook(two_signals)
    with pytest.raises(Stopped), stopped_after_a_step() as check:
        fit(interrupted, data(), data(), on_step=check, **options)
    assert len(load_checkpoint(tmp_path / "stopped.pt")["history"]) == 1
    found = fit(model(), data(), data(), **options).model.state_dict()
    whole = fit(model(), data(), data(), **{**options, "checkpoint": None}).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_a_model_of_another_name_loads_beside_an_unfinished_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong_calls.tables(AUDIO, LABELS)
    main(["train", "data", "--out", "out", "--epochs", "1", "--size", "4", "--feedback", "none"])
    (tmp_path / "out/model.pt").rename(tmp_path / "out/best.pt")
    assert load_model(tmp_path / "out/best.pt").description.size == 4
