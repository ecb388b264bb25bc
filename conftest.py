"""Names that every doctest may use."""

from importlib.util import find_spec

import pytest
import torch

import topdown

collect_ignore = [] if find_spec("onnxscript") else ["topdown/onnx.py"]


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace.update(torch=torch, nn=torch.nn, topdown=topdown)
