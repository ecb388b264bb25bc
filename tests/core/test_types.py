"""A user's script needs no cast: mypy --strict and pyright find nothing in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("types")


@pytest.mark.uncovered
def test_mypy_finds_nothing_in_a_script_of_a_users(tmp_path):
    pytest.importorskip("mypy", reason="needs mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--config-file", "", FOLDER / "user.py"]
    environment = {**os.environ, "MYPYPATH": str(FOLDER.parents[2])}
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
