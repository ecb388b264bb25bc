import json
import re
import stat
import sys

import pytest

from topdown.datasets import DataError
from topdown.datasets.files import check_writable, make_directory, write_json
from topdown.datasets.report import data_table
from topdown.experiments import synthetic_splits
from topdown.files import require, write_text
from topdown.training.progress import show_training, tensorboard, write_history

RECORD = {"epoch": 1, "train_loss": 0.5, "valid_loss": 0.25, "learning_rate": 5e-4, "seconds": 1.0}


def test_json_is_strict_and_files_are_readable_by_others(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": float("nan"), "b": [1.5, float("inf")], 3: ("x",)})
    assert json.loads(path.read_text()) == {"a": None, "b": [1.5, None], "3": ["x"]}
    assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_directories_that_cannot_be_made_are_named(tmp_path):
    make_directory(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: cannot be written to \(File exists\); choose another --out"):
        make_directory(tmp_path / "file")


def test_directories_are_checked_before_they_are_made(tmp_path, monkeypatch):
    check_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"out: .*file is not a directory; choose another --out"):
        check_writable(tmp_path / "file" / "out")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # as for a user who is not root
    with pytest.raises(DataError, match="may not be written to; choose another --out"):
        check_writable(tmp_path / "a")


def test_a_missing_library_names_the_extra():
    assert require("json", "plots") is json
    with pytest.raises(ImportError, match=r"no_such is not installed: pip install 'topdown-latch\[plots\]'"):
        require("no_such.library", "plots")


def test_the_data_table_shows_whatever_is_odd():
    splits = synthetic_splits((4, 2, 2)).splits
    report = splits["train"].report
    odd = {
        "replaced": {"nan": 0, "-inf": 2},
        "all_zero_samples": 1,
        "samples_with_zeros_at_the_end": 3,
        "dtype": "float64",
        "from": "c.csd",
    }
    report["modalities"]["audio"] |= {**odd, "frame_values_ignored": {"nan": 0, "-inf": 5}}
    report["ids"] |= {"duplicates": 2, "examples": ["a"], "shared": {"test": {"count": 1, "examples": ["b"]}}}
    report |= {
        "source": {"name": "x.pkl", "layout": "MulT", "sha256": "0123456789abcdef0", "known_as": "MulT's x.pkl"},
        "left_out": {"text": "holds words"},
        "segments_in_no_fold": 4,
        "segments_without_words": 6,
        "videos_without_segments": ["v", "w"],
        "files_not_used": ["a.csd", "b.csd"],
    }
    table = data_table(splits)
    assert table.startswith("x.pkl: MulT, sha256 0123456789abcdef..., known as MulT's x.pkl\n\n| split")
    assert re.search(r"audio +\| 74 +\| float64 +\|[^|]+\| none +\| 2 -inf ", table)
    for note in (
        "train audio: 1 samples are all zeros",
        "train audio: 3 samples end with rows of zeros, kept",
        "train audio: 5 -inf left out of averages over frames",
        "train: 2 samples have the id of another, such as a",
        "train: LEAK: 1 ids are in test, too, such as b",
        "train: left out: 'text' holds words",
        "audio is from c.csd",
        "not used: a.csd, b.csd",
        "4 segments are in no fold, and were left out",
        "train: 6 segments have no words, and got a step of zeros",
        "2 videos of the folds have no segments, such as v",
    ):
        assert f"\n{note}\n" in f"{table}\n"
    assert re.search(r"\nlabels of valid: -?\d.\d\d to -?\d.\d\d, \d+.\d% exactly 0\n", table)
    part = data_table({"train": splits["train"].subset([0, 1])})
    assert part.startswith("x.pkl: MulT")
    assert "\ntrain: a subset of 4 samples, about all of which modalities are described\n" in part


def test_epochs_are_plain_lines_where_there_is_no_terminal(capsys):
    with show_training("lstm seed 0", 9) as show:
        show.on_epoch(RECORD)
        assert show.on_step is None
    expected = "lstm seed 0  epoch 1/9  train 0.5000  validation 0.2500  learning rate 5.00e-04  1.0 s\n"
    assert capsys.readouterr().out == expected


def test_steps_are_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with show_training("lstm seed 0", 9) as show:
        for step in (1, 2, 3, 4):
            show.on_step(2, step, 4)  # of a training that goes on
        show.on_epoch({**RECORD, "epoch": 2})
    captured = capsys.readouterr()
    assert captured.out == ""
    shown = captured.err
    assert "lstm seed 0" in shown
    assert "epoch 2/9" in shown
    assert "8/36" in shown
    assert "train=0.5000, validation=0.2500" in shown


def test_errors_are_one_line_of_readable_length():
    assert str(DataError("a\nb\r\nc\u2028d")) == "a b c d"
    long = str(DataError("begin " + "x" * 5000 + " end"))
    assert long.startswith("begin x")
    assert long.endswith("x end")
    assert len(long) == 900


def test_histories_are_a_table(tmp_path):
    histories = [({"kind": "none"}, [RECORD]), ({"kind": "lstm"}, [RECORD, {**RECORD, "epoch": 2, "other": 3}])]
    write_history(tmp_path / "history.csv", histories)
    assert (tmp_path / "history.csv").read_text().splitlines() == [
        "kind,epoch,train_loss,valid_loss,learning_rate,seconds,other",
        "none,1,0.5,0.25,0.0005,1.0,",
        "lstm,1,0.5,0.25,0.0005,1.0,",
        "lstm,2,0.5,0.25,0.0005,1.0,3",
    ]


def test_losses_are_written_for_tensorboard(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tensorboard(tmp_path, "lstm") as write:
        write(RECORD)
        write({**RECORD, "epoch": 2, "valid_loss": 0.125})
    found = events.EventAccumulator(str(tmp_path / "lstm"))
    found.Reload()
    assert [(e.step, e.value) for e in found.Scalars("valid_loss")] == [(1, 0.25), (2, 0.125)]


def test_tensorboard_is_asked_for_by_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'topdown-latch\[tensorboard\]'"), tensorboard(tmp_path):
        pass
    with tensorboard(None) as write:
        write(RECORD)


def test_a_library_that_a_library_needs_is_named(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import needed_by_half_installed")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"needed_by_half_installed is not installed: pip install 'topdown-latch\[plots\]'"):
        require("half_installed", "plots")
