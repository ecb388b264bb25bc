"""A few hundred damaged files of every layout; `python tests/fuzz.py` loads many more."""

from pathlib import Path

import fuzz
import pytest

pytestmark = pytest.mark.uncovered

pytest.importorskip("h5py")


@pytest.mark.parametrize("layout", fuzz.WRITERS)
def test_damaged_files_load_or_are_refused(layout):
    outcomes, failures, grown = fuzz.fuzz(layout, 0, 25)
    assert failures == []
    assert outcomes["loaded"] + outcomes["refused"] == 25
    assert outcomes["refused"] > 0
    assert grown < 100


@pytest.mark.parametrize(
    ("wrong", "said"),
    [("1 / 0", "ZeroDivisionError in file 3"), ("os.abort()", "status -6 at file 3"), ("time.sleep(60)", "status -14")],
)
def test_what_goes_wrong_is_found(monkeypatch, tmp_path, wrong, said):
    """The harness itself: an error of another kind, a crash and a hang are told with their file, and the rest goes on."""
    here = str(Path(fuzz.__file__).parent)
    (tmp_path / "script.py").write_text(
        f"import os, sys, time\nsys.path.insert(0, {here!r})\nimport fuzz\nfuzz.SECONDS = 1\n"
        f"fuzz.load = lambda layout, path, files, number: 'refused' if number != 3 else {wrong}\nfuzz.main()\n"
    )
    monkeypatch.setattr(fuzz, "__file__", str(tmp_path / "script.py"))
    outcomes, failures, _ = fuzz.fuzz("npz", 0, 6)
    assert outcomes["refused"] == 5
    assert len(failures) == 1
    assert failures[0].startswith(said)
