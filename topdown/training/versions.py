"""Records library versions and checks file formats."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

import topdown
from topdown.datasets.errors import DataError

FORMAT = 1  # of results.json, of the runs of a comparison, and of checkpoints of trainings


def versions() -> dict[str, Any]:
    """Returns the versions of the libraries that results depend on, and the number of threads of torch."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "topdown": topdown.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Checks that this version can read a file. A file without a format number has format 1.

    Raises:
        DataError: if the file has another format.
    """
    if (number := content.get("format", 1)) != FORMAT:
        raise DataError(f"{path}: has format {number!r}, but this version of topdown reads format {FORMAT}; update topdown")
