"""The tests behind `compare`: against scipy, against known distributions, and by hand."""

import math

import numpy as np
import pytest

from topdown.experiments.statistics import (
    Difference,
    bootstrap_error,
    holm,
    paired_difference,
    seeds_to_decide,
    spread_ratio,
)

stats = pytest.importorskip("scipy.stats")
RNG = np.random.default_rng(0)


def test_without_doubt_from_samples_it_is_the_paired_t_test():
    for count in (2, 3, 10):
        values = RNG.normal(0.3, 1.0, count)
        found, expected = paired_difference(values, 0.0, 500), stats.ttest_1samp(values, 0.0)
        interval = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_without_doubt_from_seeds_it_is_the_t_test_over_samples():
    values = RNG.normal(0.1, 1.0, 200)
    error = float(values.std(ddof=1) / math.sqrt(200))
    found = paired_difference([float(values.mean())] * 5, error, 200)
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue)


@pytest.mark.parametrize(("seed_spread", "sample_spread"), [(1.0, 0.0), (0.3, 3.0), (0.2, 8.0), (1.0, 8.0)])
def test_false_alarms_are_as_many_as_promised(seed_spread, sample_spread):
    """Differences d_si = seed effect + sample effect + noise, with mean 0: another test set and other seeds each time."""
    rng, alarms, seeds, samples = np.random.default_rng(1), 0, 6, 80
    for _ in range(600):
        d = (
            seed_spread * rng.normal(size=(seeds, 1))
            + sample_spread * rng.normal(size=samples)
            + rng.normal(size=(seeds, samples))
        )
        error = float(d.mean(0).std(ddof=1) / math.sqrt(samples))  # as the bootstrap finds it
        alarms += paired_difference(d.mean(1), error, samples).p < 0.05
    assert alarms / 600 < 0.075  # three standard errors above 5 %
    if sample_spread > 5 * seed_spread:  # a test over seeds alone is wrong by far
        assert alarms / 600 > 0.01


def test_a_test_over_seeds_alone_would_not_do():
    rng, alone, ours = np.random.default_rng(2), 0, 0
    for _ in range(200):
        d = 0.2 * rng.normal(size=(6, 1)) + 8.0 * rng.normal(size=80) + rng.normal(size=(6, 80))
        alone += stats.ttest_1samp(d.mean(1), 0.0).pvalue < 0.05
        ours += paired_difference(d.mean(1), float(d.mean(0).std(ddof=1) / math.sqrt(80)), 80).p < 0.05
    assert alone / 200 > 0.5
    assert ours / 200 < 0.1


def test_one_seed_says_nothing():
    found = paired_difference([0.5], 0.01, 100)
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1.0)
    assert seeds_to_decide(found, 0.05) is None


def test_equal_models_do_not_differ():
    found = paired_difference([0.0, 0.0, 0.0], 0.0, 100)
    assert (found.mean, found.p) == (0.0, 1.0)


def test_the_bootstrap_finds_the_standard_error_of_a_mean_and_of_a_ratio():
    values = RNG.exponential(size=900)
    assert bootstrap_error(lambda i: float(values[i].mean()), 900) == pytest.approx(values.std() / 30, rel=0.12)
    assert bootstrap_error(lambda i: 1.0, 900) == 0.0
    one, two = (bootstrap_error(lambda i: float(values[i].mean()), 900, seed=seed) for seed in (0, 0))
    assert one == two


def test_holm_by_hand():
    assert holm([]) == []
    assert holm([0.01, 0.02, 0.5]) == pytest.approx([0.03, 0.04, 0.5])
    assert holm([0.4, 0.6, 0.02, 0.03]) == pytest.approx([0.8, 0.8, 0.08, 0.09])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_spread_is_that_of_pitman_and_morgan():
    one, other = RNG.normal(0, 1, 12), RNG.normal(0, 4, 12)
    ratio, p = spread_ratio(one, other)
    assert ratio == pytest.approx(one.std(ddof=1) / other.std(ddof=1))
    # t of Pitman: (F - 1) sqrt(n - 2) / (2 sqrt(F (1 - r^2)))
    variances, r = ratio**2, np.corrcoef(one, other)[0, 1]
    t = (variances - 1) * math.sqrt(10) / (2 * math.sqrt(variances * (1 - r**2)))
    assert p == pytest.approx(2 * stats.t.sf(abs(t), 10))
    assert spread_ratio([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])[1] == 1.0
    assert spread_ratio([1.0, 2.0], [1.0, 2.0])[1] == 1.0


def test_the_seeds_that_would_decide_do():
    """With as many seeds as are said, four of five attempts find a difference of this size."""
    mean, spread = 0.5, 1.0
    pilot = Difference(mean, 0, 0, 0, seed_error=spread / math.sqrt(5), sample_error=0.0, seeds=5)
    needed = seeds_to_decide(pilot, 0.05)
    rng = np.random.default_rng(3)
    found = [stats.ttest_1samp(rng.normal(mean, spread, needed), 0.0).pvalue < 0.05 for _ in range(600)]
    assert np.mean(found) == pytest.approx(0.8, abs=0.05)
    assert seeds_to_decide(pilot, 0.01) > needed
    assert seeds_to_decide(pilot._replace(sample_error=0.3), 0.05) == math.inf  # the test set alone leaves more doubt
    assert seeds_to_decide(pilot._replace(mean=0.0), 0.05) is None
    assert seeds_to_decide(pilot._replace(mean=0.001), 0.05) == math.inf
