"""Measures times of calls that alternate in one process, and peaks of memory in separate processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


def alternate(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Times calls in turn, in milliseconds, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, function in calls.items():
            start = time.perf_counter()
            function()
            if number:
                times[name].append((time.perf_counter() - start) * 1e3)
    return times


def ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> float:
    """Returns the median over rounds of the ratio of two times."""
    return statistics.median(a / b for a, b in zip(times[name], times[base], strict=True))


def in_a_process(script: str, *arguments: object) -> Any:
    """Runs a script with --worker and some arguments, and returns what it printed as JSON."""
    command = [sys.executable, script, "--worker", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def peak_mib(function: Callable[[], Any]) -> float:
    """Returns by how many MiB the peak of this process exceeds what it held before a call; Linux keeps count."""
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])
