"""Versions of the libraries that results depend on."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

import topdown


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
