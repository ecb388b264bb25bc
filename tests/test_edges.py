"""The smallest and the largest that users bring: batches of one and of none, one step and ten thousand, one feature."""

import numpy as np
import pytest
import torch
from toys import Toy

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.datasets import DataError, SequenceDataset
from topdown.training import fit, predict

SIZES = {"a": 3, "b": 1}  # one feature
KINDS = ["linear", "lstm", "shared", "static"]


def inputs(batch, steps):
    return {name: torch.randn(batch, steps, size) for name, size in SIZES.items()}


@pytest.mark.parametrize("feedback", KINDS)
@pytest.mark.parametrize(("batch", "steps"), [(1, 5), (2, 1), (1, 1), (1, 10_000)])
def test_a_sample_is_what_it_is_in_any_company(feedback, batch, steps):
    latch = TopDownLatch(Toy(SIZES), feedback).eval()
    x = inputs(batch, steps)
    with torch.no_grad():
        output = latch(x)
        alone = torch.cat([latch({name: value[i : i + 1] for name, value in x.items()}) for i in range(batch)])
        assert torch.equal(output, latch.backbone(x))  # as it begins
        full = latch(x, torch.full((batch,), steps))
    torch.testing.assert_close(output, alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output, full, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("feedback", KINDS)
def test_lengths_of_one_give_what_one_step_gives(feedback):
    latch = TopDownLatch(Toy(SIZES), feedback).eval()
    x = inputs(3, 6)
    with torch.no_grad():
        padded = latch(x, torch.ones(3, dtype=torch.int64))
        torch.testing.assert_close(padded, latch({name: value[:, :1] for name, value in x.items()}), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("feedback", ["linear", "static"])
def test_a_batch_of_none_gives_none(feedback):
    latch = TopDownLatch(Toy(SIZES), feedback).eval()
    assert latch(inputs(0, 4)).shape == (0, 2)
    assert {name: mask.shape for name, mask in latch.masks(inputs(0, 4)).items()} == {"a": (0, 4, 3), "b": (0, 4, 1)}


def data(labels):
    rng = np.random.default_rng(0)
    return SequenceDataset.from_arrays({name: rng.normal(size=(len(labels), 3, size)) for name, size in SIZES.items()}, labels)


def model(outputs=1):
    torch.manual_seed(0)
    return TopDownLatch(LSTMBackbone(SIZES, hidden_size=3, output_size=outputs), "linear")


def test_a_class_may_be_absent_from_a_split():
    train, valid = data(np.arange(12) % 3), data(np.arange(8) % 2)
    found = fit(model(3), train, valid, loss="cross_entropy", epochs=2)
    assert predict(found.model, valid).shape == (8, 3)
    other = fit(model(3), valid, train, loss="cross_entropy", epochs=2)
    assert np.isfinite([record["valid_loss"] for record in other.history]).all()


@pytest.mark.parametrize("standardize", [False, True])
def test_constant_labels_are_learned(standardize):
    found = fit(model(), data(np.full(12, 7.0)), data(np.full(8, 7.0)), epochs=2, standardize_targets=standardize)
    assert np.isfinite(found.best_loss)
    if standardize:
        torch.testing.assert_close(predict(found.model, data(np.full(8, 7.0))).mean(), torch.tensor(7.0), atol=1.0, rtol=0)


def test_an_empty_split_is_named():
    with pytest.raises(
        DataError, match=r"there are no samples, since labels are empty: give at least one, or leave out the split"
    ):
        data(np.zeros(0))
