"""The tests behind `compare`: against scipy, against known distributions, and by hand."""

import math

import numpy as np
import pytest

from topdown.comparison.statistics import (
    Difference,
    bootstrap_errors,
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
    assert bootstrap_errors(lambda i: [float(values[i].mean())], 900)[0] == pytest.approx(values.std() / 30, rel=0.12)
    assert bootstrap_errors(lambda i: [1.0], 900) == (0.0, 0.0)
    one, two = (bootstrap_errors(lambda i: [float(values[i].mean())], 900, seed=seed) for seed in (0, 0))
    assert one == two


def test_the_bootstrap_tells_what_seeds_would_take_away_from_what_they_would_not():
    rng, seeds, samples = np.random.default_rng(5), 5, 400
    values = 0.5 * rng.normal(size=samples) + 2.0 * rng.normal(size=(seeds, samples))
    error, lasting = bootstrap_errors(lambda i: values[:, i].mean(1).tolist(), samples, resamples=3000)
    assert error == pytest.approx(math.sqrt((0.25 + 4.0 / seeds) / samples), rel=0.1)
    assert lasting == pytest.approx(math.sqrt(0.25 / samples), rel=0.25)


@pytest.mark.parametrize("samples", [2, 3, 5])
def test_few_samples_give_no_more_false_alarms_than_promised(samples):
    rng, alarms = np.random.default_rng(4), 0
    for _ in range(200):
        d = rng.normal(size=samples) + 0.1 * rng.normal(size=(4, samples))
        error, lasting = bootstrap_errors(lambda i, d=d: d[:, i].mean(1).tolist(), samples, resamples=100)
        alarms += paired_difference(d.mean(1), error, samples, lasting_error=lasting).p < 0.05
    assert alarms / 200 < 0.1


def test_what_samples_cannot_tell_is_unknown():
    assert bootstrap_errors(lambda i: [1.0, 2.0], 1) == (math.inf, math.inf)
    undefined = iter([True, False] * 200)
    assert bootstrap_errors(lambda i: [math.nan if next(undefined) else 1.0], 50) == (math.inf, math.inf)
    seldom = iter(([True] + [False] * 19) * 20)
    assert bootstrap_errors(lambda i: [math.nan if next(seldom) else 1.0], 50) == (0.0, 0.0)
    found = paired_difference([1.0, 1.1, 0.9], math.inf, 1)
    assert (found.low, found.high, found.p) == (-math.inf, math.inf, 1.0)
    assert seeds_to_decide(found, 0.05) == math.inf


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


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0, 4.0])
def test_the_seeds_that_would_decide_do(effect):
    """With as many seeds as are said, four of five attempts find a difference of this size, and with one less, fewer."""
    pilot = Difference(effect, 0, 0, 0, seed_error=1 / math.sqrt(5), sample_error=0.0, lasting_error=0.0, seeds=5, samples=100)
    needed = seeds_to_decide(pilot, 0.0125)
    rng = np.random.default_rng(3)

    def power(seeds):
        return np.mean(stats.ttest_1samp(rng.normal(effect, 1.0, (1500, seeds)), 0.0, axis=1).pvalue < 0.0125)

    assert power(needed) > 0.77
    if needed > 3:
        assert power(needed - 1) < 0.83
    assert seeds_to_decide(pilot, 0.001) > needed


def test_seeds_do_not_take_away_what_the_test_samples_leave_open():
    pilot = Difference(0.5, 0, 0, 0, seed_error=0.4, sample_error=0.3, lasting_error=0.1, seeds=5, samples=100)
    needed = seeds_to_decide(pilot, 0.05)
    assert 5 < needed < math.inf
    assert seeds_to_decide(pilot._replace(lasting_error=0.3), 0.05) == math.inf
    assert seeds_to_decide(pilot._replace(mean=0.0), 0.05) is None
    assert 1e5 < seeds_to_decide(pilot._replace(mean=0.001, lasting_error=0.0), 0.05) < 1e8
