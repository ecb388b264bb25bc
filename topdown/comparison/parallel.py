"""Trains the runs of a comparison in several processes."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from topdown.comparison.variants import Plan, Row, run_row
from topdown.datasets.errors import DataError


def run_all(plan: Plan, missing: Sequence[tuple[Row, int]], jobs: int) -> Iterator[tuple[Row, int, dict[str, Any], Any]]:
    """Yields each row and seed with its record and its outputs, as they are done, in processes of one thread.

    Raises:
        ValueError: if other processes cannot be given the plan.
        DataError: if a process was killed.
    """
    if jobs == 1 or len(missing) < 2:
        with _one_thread():
            for row, seed in missing:
                yield row, seed, *run_row(plan, row, seed)
        return
    try:
        packed = pickle.dumps(plan)
    except Exception as error:
        remedy = "define functions at the top of a module, or pass jobs=1"
        raise ValueError(f"other processes cannot be given what is compared ({error}): {remedy}") from None
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(min(jobs, len(missing)), context, _begin, (packed,))
    try:
        pending = {pool.submit(_run, row, seed): (row, seed) for row, seed in missing}
        for done in concurrent.futures.as_completed(pending):
            yield *pending[done], *done.result()
    except BrokenProcessPool:
        remedy = "use fewer jobs, and go on with resume; what is done is kept if there is a directory"
        raise DataError(f"a process was killed, for lack of memory perhaps: {remedy}") from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_plan: Plan | None = None  # of a process that was begun to run rows of it


def _begin(packed: bytes) -> None:
    global _plan
    torch.set_num_threads(1)
    _plan = pickle.loads(packed)


def _run(row: Row, seed: int) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    assert _plan is not None
    return run_row(_plan, row, seed)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
