import gc
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from topdown.comparison.statistics import bootstrap_errors
from topdown.training.random_state import manual_seed

settings.register_profile("tests", deadline=None, derandomize=True, max_examples=10, print_blob=True)
settings.load_profile("tests")
torch.set_num_threads(1)
gc.set_threshold(100_000, 20, 20)  # a collection looks at all objects of torch and its modules, thousands of times


@pytest.fixture(autouse=True)
def _seed():
    manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def _fewer_resamples(request):
    """Draws a tenth of the resamples of a bootstrap in tests of comparisons, where 400 took a fifth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.parent == Path(__file__).parent / "comparison" and request.path.stem != "test_statistics":
            patch.setitem(bootstrap_errors.__kwdefaults__, "resamples", 40)
        yield


class Golden:
    """Measured inputs, weights, outputs and gradients of a public reference code: tests/golden/README.md."""

    def __init__(self, name):
        with np.load(Path(__file__).parent / "golden" / f"{name}.npz", allow_pickle=False) as file:
            self.arrays = {key: file[key] for key in file}

    @property
    def config(self):
        return json.loads(str(self.arrays["config_json"]))

    def __getitem__(self, key):
        return torch.from_numpy(self.arrays[key])

    def under(self, prefix):
        return {key[len(prefix) :]: self[key] for key in self.arrays if key.startswith(prefix)}


@pytest.fixture(scope="session")
def golden():
    return Golden
