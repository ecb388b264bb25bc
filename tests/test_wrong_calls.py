"""Every wrong call of tests/wrong_calls.py raises an error of ours, which names the object, the facts and the remedy."""

import traceback

import pytest
import wrong_calls

from topdown.cli.main import main

LIBRARIES = ("/torch/", "/numpy/", "/pandas/", "/matplotlib/", "/sklearn/", "/h5py/", "/safetensors/", "/joblib/")
CALLS_THE_USER_MODEL = "torch/nn/modules/module.py"  # forward of a user's module got other arguments


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("call", "error", "words"), [pytest.param(*rest, id=name) for name, *rest in wrong_calls.CALLS])
def test_a_wrong_call_is_named(call, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error) as raised:
        call()
    assert words
    assert [word for word in words if word not in str(raised.value)] == [], str(raised.value)
    last = traceback.extract_tb(raised.value.__traceback__)[-1].filename
    assert CALLS_THE_USER_MODEL in last or not any(library in last for library in LIBRARIES), last


@pytest.mark.parametrize(("command", "words"), wrong_calls.COMMANDS, ids=[command for command, _ in wrong_calls.COMMANDS])
def test_a_wrong_command_gets_one_line(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wrong_calls.tables()
    wrong_calls.file("text.pt", "hello")
    wrong_calls.file("bad.json", '{"feedbak": "lstm"}')
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        main(command.split())
    said = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert [word for word in words if word not in said[-1]] == [], said
    assert len([line for line in said if not line.startswith("usage:")]) == 1, said
    assert sorted(tmp_path.rglob("*")) == before


def test_there_are_many_of_them():
    assert len(wrong_calls.CALLS) + len(wrong_calls.COMMANDS) >= 150
