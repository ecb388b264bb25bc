"""Names that every doctest may use."""

import numpy as np
import pytest
import torch

import topdown


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace.update(np=np, torch=torch, nn=torch.nn, topdown=topdown)
