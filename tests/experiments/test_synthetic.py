import pytest
import torch

from topdown.experiments import synthetic_splits
from topdown.experiments.synthetic import AMPLITUDE, GROUPS, RATES, SIZES, feature_groups

NAMES = list(SIZES)


@pytest.fixture(scope="module")
def synthetic():
    return synthetic_splits((2000, 10, 20))


def test_sizes_lengths_and_labels_are_like_those_of_mosei(synthetic):
    data = synthetic.splits["train"]
    assert [len(d) for d in synthetic.splits.values()] == [2000, 10, 20]
    assert data.sizes == {"text": 300, "audio": 74, "visual": 35}
    assert data.aligned
    lengths = data.lengths["text"].double()
    assert 1 <= lengths.min() < 5
    assert lengths.max() == 50
    assert lengths.mean() == pytest.approx(21, abs=1)  # word-aligned MOSEI: 21.5, cut at 50 here
    assert (data.labels == 0).double().mean() == pytest.approx(0.2, abs=0.03)
    assert data.labels.abs().max() <= 3
    torch.testing.assert_close(data.labels * 3, (data.labels * 3).round())


def test_the_same_seed_gives_the_same_data():
    first, again, other = (synthetic_splits((3, 1, 1), seed=seed) for seed in (0, 0, 1))
    values = [s.splits["test"].sequences["audio"].values for s in (first, again, other)]
    assert torch.equal(values[0], values[1])
    assert values[0].shape != values[2].shape or not torch.equal(values[0], values[2])


@pytest.mark.parametrize("name", NAMES)
def test_every_other_modality_decides_on_as_many_features(name):
    decider, value = feature_groups(name).T
    own = NAMES.index(name)
    assert len(decider) == SIZES[name]
    for j in range(3):
        counts = [int(((decider == j) & (value == v)).sum()) for v in range(GROUPS)]
        assert len(set(counts)) == 1
        assert counts[0] >= (1 if j == own else 5)
    assert (decider == -1).sum() < 8


def test_relevant_features_carry_the_sentiment_and_others_do_not(synthetic):
    data, relevance = synthetic.splits["train"], synthetic.relevance["train"]
    codes = {}
    for own, name in enumerate(NAMES):  # read the codes where they are shown
        means = mean_over_time(data, name)
        decider, value = feature_groups(name).T
        pattern = pattern_of(data, name, means, decider, value, own)
        shown = torch.stack([(means * pattern)[:, (decider == own) & (value == v)].mean(1) for v in range(GROUPS)], 1)
        codes[own] = shown.argmax(1)
    for own, name in enumerate(NAMES):
        decider, value = feature_groups(name).T
        for j in set(range(3)) - {own}:
            expected = (codes[j].unsqueeze(1) == value) & (decider == j)
            agree = (relevance[name].bool() == expected)[:, decider == j].double().mean()
            assert agree > 0.97  # a code is read from noisy steps
    for name in NAMES:
        means = mean_over_time(data, name)
        decider, _ = feature_groups(name).T
        carried = (decider >= 0) & (decider != NAMES.index(name))
        for feature in carried.nonzero().flatten()[:5]:
            relevant = relevance[name][:, feature].bool()
            assert correlation(means[relevant, feature], data.labels[relevant]).abs() > 0.5
            assert correlation(means[~relevant, feature], data.labels[~relevant]).abs() < 0.15


def mean_over_time(data, name):
    ragged = data.sequences[name]
    sums = torch.zeros(len(data), data.sizes[name]).index_add(
        0, torch.repeat_interleave(torch.arange(len(data)), ragged.lengths), ragged.values
    )
    return sums / ragged.lengths.unsqueeze(1)


def pattern_of(data, name, means, decider, value, own):
    """The signs by which a code is shown: +1 in a third of the samples and -1 in the others, so the mean is -1/3."""
    return -means.mean(0).sign() * ((decider == own).float())


def correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def test_amplitude_is_weak_at_each_step(synthetic):
    assert AMPLITUDE < 1
    assert synthetic.splits["train"].sequences["text"].values.std() == pytest.approx(1.1, abs=0.1)


def test_unaligned_data_has_several_steps_for_each_word():
    splits, relevance = synthetic_splits((50, 5, 5), unaligned=True)
    data = splits["train"]
    assert not data.aligned
    assert data.report["aligned"] is False
    words = data.lengths["text"]
    for name, rate in RATES.items():
        assert ((data.lengths[name] - rate * words).abs() <= rate - 1).all()
        assert relevance["train"][name].shape == (50, SIZES[name])
        assert data.report["modalities"][name]["lengths"]["maximum"] == int(data.lengths[name].max())
