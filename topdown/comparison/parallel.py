"""Trains the runs of a comparison one after the other, or in processes that joblib starts."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from topdown.comparison.variants import Plan, Row, run_row
from topdown.datasets.errors import DataError
from topdown.files import require

Array = np.ndarray[Any, Any]
Done = tuple[Row, int, dict[str, Any], Array]

_one_run = threading.Lock()  # runs seed the generators of their process, so a process has one run at a time


def run_all(plan: Plan, missing: Sequence[tuple[Row, int]], jobs: int | None) -> Iterator[Done]:
    """Yields each row and seed with its record and its outputs, as runs finish. Each run has one thread.

    Args:
        plan: Settings that all runs share.
        missing: Rows and seeds to run.
        jobs: Number of processes, as `n_jobs` of :class:`joblib.Parallel`: None is 1, unless `joblib.parallel_config` says
            otherwise.

    Raises:
        ValueError: if the plan cannot be sent to other processes.
        DataError: if a process was killed.
        ImportError: without the extra `experiments`.
    """
    joblib = require("joblib", "experiments")
    if joblib.effective_n_jobs(jobs) == 1:
        yield from (_run(plan, row, seed) for row, seed in missing)
        return
    # Pack once, as an array, which joblib writes to a file that all processes share, and dask sends to each worker once.
    packed = np.frombuffer(_pack(plan), np.uint8)
    parallel = joblib.Parallel(jobs, batch_size=1, return_as="generator_unordered")
    runs = parallel(joblib.delayed(_run_packed)(packed, row, seed) for row, seed in missing)
    try:
        yield from runs
    except BrokenProcessPool as error:
        if type(error).__name__ != "TerminatedWorkerError":
            raise DataError(
                f"a run failed in another process, with an error that cannot be sent here: use jobs=1 ({error})"
            ) from error
        remedy = "use fewer jobs, and go on with resume; what is done is kept if there is a directory"
        raise DataError(f"a process was killed, for lack of memory perhaps: {remedy}") from None
    finally:
        with warnings.catch_warnings():  # about cancelled runs
            warnings.simplefilter("ignore")
            runs.close()


def _pack(plan: Plan) -> bytes:
    try:
        packed: bytes = require("cloudpickle", "experiments").dumps(plan)
    except Exception as error:
        raise ValueError(f"other processes cannot be given what is compared ({error}): pass jobs=1") from None
    return packed


def _run_packed(packed: Array, row: Row, seed: int) -> Done:
    return _run(pickle.loads(packed.tobytes()), row, seed)  # written by _pack


def _run(plan: Plan, row: Row, seed: int) -> Done:
    with _one_run, _one_thread():
        return row, seed, *run_row(plan, row, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limits torch, and the libraries of numpy and scikit-learn, to one thread: sums depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with require("threadpoolctl", "experiments").threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
