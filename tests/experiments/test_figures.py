import csv

import numpy as np
import pytest
import torch
from torch import nn
from toys import Toy

from topdown import MaskProfile, TopDownLatch
from topdown.datasets import SequenceDataset
from topdown.experiments.figure2 import draw_masks, monotonicity, relevance_auc, sentiment_profile, write_mask_table


class First(nn.Module):
    """The mask of each step is sigmoid of the first value of the source's encoding plus the number of the feature."""

    def __init__(self, source_size, target_size):
        super().__init__()
        self.features = target_size

    def forward(self, encoding):
        return encoding[..., :1] * 0 + torch.arange(self.features, dtype=encoding.dtype)


@pytest.fixture
def latch():
    return TopDownLatch(Toy({"a": 3, "b": 2}), First, start="random")


@pytest.fixture
def data():
    arrays = {name: [torch.randn(n, size).numpy() for n in (3, 1, 2, 5)] for name, size in (("a", 3), ("b", 2))}
    return SequenceDataset.from_arrays(arrays, [-2.6, 0.2, 0.5, 7.0])


def test_profile_of_rounded_labels(latch, data):
    profile = sentiment_profile(latch, data, batch_size=2)["a"]
    assert profile.samples.tolist() == [1, 0, 0, 2, 0, 0, 1]  # -2.6 -> -3; 0.2 and 0.5 -> 0; 7 is clipped
    expected = torch.sigmoid(torch.arange(3.0)).double()
    torch.testing.assert_close(profile.mean[3], expected, rtol=0, atol=1e-6)
    assert profile.mean[1].isnan().all()


def test_auc_by_hand(latch, data):
    # Masks rise with the number of the feature.
    relevance = {"a": torch.tensor([[0, 0, 1.0]] * 3 + [[1.0, 0, 0]]), "b": torch.tensor([[0, 1.0], [1.0, 0]] * 2)}
    auc = relevance_auc(latch, data, relevance, batch_size=3)
    assert auc == pytest.approx({"a": 0.75, "b": 0.5})


def test_equal_masks_are_chance(data):
    latch = TopDownLatch(Toy({"a": 3, "b": 2}), "linear")
    for p in latch.feedback.parameters():
        nn.init.zeros_(p)
    relevance = {"a": torch.tensor([[0, 0, 1.0]] * 4), "b": torch.tensor([[0, 1.0]] * 4)}
    assert relevance_auc(latch, data, relevance) == pytest.approx({"a": 0.5, "b": 0.5})


PROFILE = {"a": MaskProfile(torch.tensor([[0.25, 0.5], [float("nan")] * 2]), torch.tensor([4, 0]), (-3, -2))}


def test_masks_are_those_of_evaluation(data):
    latch = TopDownLatch(Toy({"a": 3, "b": 2}), First, mask_dropout=0.9, start="random").train()
    expected = torch.sigmoid(torch.arange(3.0)).double()
    torch.testing.assert_close(sentiment_profile(latch, data)["a"].mean[3], expected, rtol=0, atol=1e-6)
    relevance = {"a": torch.tensor([[0, 0, 1.0]] * 4), "b": torch.tensor([[0, 1.0]] * 4)}
    assert relevance_auc(latch.train(), data, relevance) == pytest.approx({"a": 1.0, "b": 1.0})


def test_csv(tmp_path):
    write_mask_table(tmp_path / "masks.csv", {("lstm", 1): PROFILE}, data="mine")
    rows = list(csv.DictReader((tmp_path / "masks.csv").read_text().splitlines()))
    assert len(rows) == 4
    assert rows[2] == {
        "feedback": "lstm",
        "seed": "1",
        "modality": "a",
        "feature": "1",
        "class": "-3",
        "mean_mask": "0.500000",
        "samples": "4",
        "data": "mine",
    }
    assert rows[3]["mean_mask"] == ""


def test_figure(tmp_path):
    from matplotlib.image import imread

    profiles = {("lstm", 1): PROFILE, ("lstm", 0): PROFILE, ("linear", 0): PROFILE}
    draw_masks(tmp_path / "masks.png", profiles, best={"none": 0, "lstm": 1, "linear": 0}, title="t")
    image = imread(tmp_path / "masks.png")
    assert image.shape[0] > 500
    assert image[..., :3].std() > 0.05  # something was drawn


def test_monotonicity_is_that_of_spearman():
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(0)
    mean = torch.rand(7, 20, generator=generator, dtype=torch.float64)
    mean[:, 3] = torch.linspace(0.2, 0.7, 7)
    mean[:, 4] = -mean[:, 3]
    mean[:, 5] = 0.5  # never changes: monotone, and uncorrelated
    samples = torch.tensor([3, 5, 0, 2, 9, 9, 1])  # no sample of the third class
    mean[2] = float("nan")
    found = monotonicity(MaskProfile(mean, samples, tuple(range(-3, 4))))
    there = [0, 1, 3, 4, 5, 6]
    for feature in range(20):
        expected = 0.0 if feature == 5 else stats.spearmanr(there, mean[there, feature].numpy()).statistic
        assert float(found.correlation[feature]) == pytest.approx(expected)
    monotone = [bool((d >= 0).all() or (d <= 0).all()) for d in np.diff(mean[there].numpy(), axis=0).T]
    assert found.share == pytest.approx(np.mean(monotone))
    assert monotone[3:6] == [True] * 3


def test_panels_have_room_beside_their_marks(tmp_path):
    """Two kinds, and marks that stand out of the axes or are none; matplotlib warns where it finds no room."""
    torch.manual_seed(0)
    sizes = {"text": 300, "audio": 74, "visual": 35}
    classes = tuple(range(-3, 4))
    of_kind = {
        k: MaskProfile(0.5 + 0.1 * torch.rand(7, d), torch.ones(7, dtype=torch.int64), classes) for k, d in sizes.items()
    }
    relevance = {k: torch.full((d,), 0.5) for k, d in sizes.items()}
    relevance["visual"][:3], relevance["visual"][-2:] = 1.0, 0.0
    profiles = {("linear", 0): of_kind, ("lstm", 0): of_kind}
    draw_masks(tmp_path / "masks.png", profiles, best={"linear": 0, "lstm": 0}, title="masks", relevance=relevance)
    assert (tmp_path / "masks.png").stat().st_size > 0
