"""Names that every doctest may use."""

import pytest
import torch

import topdown


@pytest.fixture(autouse=True)
def _names(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace.update(torch=torch, nn=torch.nn, topdown=topdown)
