"""A few hundred damaged files of every layout; `python tests/fuzz.py` loads many more."""

import os
import signal
import time

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


def fail(layout, path, files, number):
    return "refused" if number != 3 else 1 / 0


def crash(layout, path, files, number):
    return "refused" if number != 3 else os.abort()


def hang(layout, path, files, number):
    if number == 3:
        signal.alarm(1)  # in place of 10 seconds
        time.sleep(60)
    return "refused"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(fail, "ZeroDivisionError in file 3"), (crash, "status -6 at file 3"), (hang, "status -14 at file 3")],
)
def test_what_goes_wrong_is_found(wrong, said):
    """The harness itself: an error of another kind, a crash and a hang are told with their file, and the rest goes on."""
    outcomes, failures, _ = fuzz.fuzz("npz", 0, 6, load=wrong)
    assert outcomes["refused"] == 5
    assert len(failures) == 1
    assert failures[0].startswith(said)
