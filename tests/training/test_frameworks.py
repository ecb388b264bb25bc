"""The programs of docs/frameworks.md run as they stand, each where its framework is installed."""

import ast
import os
import re
import runpy
import sys
import traceback
from pathlib import Path

import processes
import pytest

pytestmark = pytest.mark.uncovered

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "frameworks.md").read_text(encoding="utf-8")
PROGRAMS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, flags=re.DOTALL))


@pytest.fixture
def run(tmp_path):
    for name, program in PROGRAMS.items():
        (tmp_path / name).write_text(program, encoding="utf-8")

    def call(name, *args, needs=(), group=0):
        for module in needs:
            pytest.importorskip(module, reason="its framework is not installed")
        if group:  # with the environment that torchrun gives
            codes = processes.run_group(group, run_program, tmp_path, name, args)
        else:
            process = processes.start(run_program, tmp_path, name, args)
            process.join(120)
            codes = [process.exitcode]
        said = "".join(path.read_text("utf-8") for path in sorted(tmp_path.glob("said by *")))
        assert codes == [0] * max(1, group), said[-3000:]
        return said

    return call


def run_program(folder, name, args):
    """Runs a program in the process, as python does; what it and its own processes print goes to a file."""
    os.chdir(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(ROOT)])  # of processes that it starts
    sys.path = [str(folder), str(ROOT), *[path for path in sys.path if not path.startswith(str(ROOT / "tests"))]]
    sys.argv = [name, *args]
    code, alive = 0, []
    with open(f"said by {os.environ.get('RANK', 'all')}", "w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
        try:
            # Its variables stay alive, since torch 2.13 may wait forever for a thread of gloo where Python frees a DDP module.
            alive.append(runpy.run_path(name, run_name="__main__"))
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # at once: frameworks leave threads and processes


def seen(output):
    """Samples of each process, from what it printed."""
    found = re.findall(r"process (\d) saw (\d+) samples, (\d+) of them different: (\[.*?\])", output)
    assert all(count == different for _, count, different, _ in found)
    return {process: ast.literal_eval(ids) for process, _, _, ids in found}


EVERYONE = sorted(str(i) for i in range(163))


def test_a_loop_of_ones_own(run):
    lines = run("plain.py").splitlines()
    assert len(lines) == 2
    assert list(ast.literal_eval(lines[0])) == ["163", "164", "165"]  # in the order of the data


def test_lightning(run):
    shares = seen(run("with_lightning.py", "2", needs=["lightning"], group=2))
    assert len(shares) == 2
    assert sorted(i for share in shares.values() for i in share) == EVERYONE


def test_accelerate(run):
    shares = seen(run("with_accelerate.py", needs=["accelerate"], group=2))
    assert len(shares) == 2
    assert sorted(i for share in shares.values() for i in share) == EVERYONE


def test_trainer(run, tmp_path):
    output = run("with_trainer.py", str(tmp_path / "out"), needs=["accelerate", "transformers"])
    assert "trained 2 epochs, best accuracy 0." in output
    assert "predicted (40, 2)" in output


def test_skorch(run):
    output = run("with_skorch.py", needs=["skorch", "sklearn"])
    assert re.search(r"best of two learning rates: 0.0\d+, accuracy 0\.\d\d", output)


def test_the_page_has_a_program_for_each():
    assert set(PROGRAMS) == {
        "frameworks_data.py",
        "plain.py",
        "with_lightning.py",
        "with_accelerate.py",
        "with_trainer.py",
        "with_skorch.py",
    }
