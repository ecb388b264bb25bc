r"""Tests paired differences over seeds and test samples.

Two models are trained with the same seeds and tested on the same samples. Their difference varies with the seed and with the
samples that happen to be in the test set; both count,

.. math:: s^2 = \frac{s_{\text{seeds}}^2}{S} + s_{\text{samples}}^2,

where the first is the variance of the S paired differences, and the second the bootstrap variance, over test samples, of their
mean. Without the second, differences on random labels can be "significant". Noise of one seed and one sample counts in both,
so that the test is conservative: where that is most of the noise, the rate of false positives is a fifth of 5 %.

References:
    Holm, A simple sequentially rejective multiple test procedure (1979); Pitman (1939) and Morgan (1939) for paired variances;
    Welch (1947) and Satterthwaite (1946) for the degrees of freedom
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from topdown.files import require

Array = np.ndarray[Any, Any]
RESAMPLES = 400
UNDEFINED = 0.9  # share of resamples that must have a score
CERTAIN = 30.0  # standard errors beyond which a difference is certain to be detected


class Difference(NamedTuple):
    """Holds the difference between two models.

    Args:
        mean: Mean paired difference, positive where the model is better.
        low: Lower end of its 95 % interval.
        high: Upper end of it.
        p: Two-sided p-value under no difference, before any correction.
        seed_error: Standard error due to the seeds.
        sample_error: Standard error due to the test samples; infinite where it cannot be estimated.
        lasting_error: The part of it that more seeds do not reduce.
        seeds: Number of pairs.
        samples: Number of test samples.
    """

    mean: float
    low: float
    high: float
    p: float
    seed_error: float
    sample_error: float
    lasting_error: float
    seeds: int
    samples: int


def paired_difference(
    differences: Sequence[float], sample_error: float, samples: int, *, lasting_error: float | None = None
) -> Difference:
    """Tests whether paired differences, one per seed, have mean 0 over other seeds and other test samples.

    Args:
        differences: Difference of each seed, positive where the model is better.
        sample_error: Standard error of their mean over test samples: see :func:`bootstrap_errors`.
        samples: Number of test samples.
        lasting_error: The part of it that more seeds do not reduce. (Default: all of it)

    Returns:
        Difference; its interval is infinite, and p is 1, for a single seed, and for an infinite `sample_error`.

    Example:
        >>> difference = paired_difference([1.0, 2.0, 3.0], 0.0, 100)
        >>> round(difference.mean, 3), round(difference.low, 3), round(difference.p, 4)  # scipy.stats.ttest_1samp([1, 2, 3], 0)
        (2.0, -0.484, 0.0742)
    """
    stats = require("scipy.stats", "experiments")
    values = np.asarray(differences, float)
    mean, count = float(values.mean()), len(values)
    seed_error = float(values.std(ddof=1) / math.sqrt(count)) if count > 1 else math.inf
    error = math.hypot(seed_error, sample_error)
    if not math.isfinite(error):
        low, high, p = -math.inf, math.inf, 1.0
    elif error == 0.0:
        low, high, p = mean, mean, float(mean == 0.0)
    else:
        freedom = _freedom(seed_error, count, sample_error, samples)
        half = float(stats.t.ppf(0.975, freedom)) * error
        low, high, p = mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, freedom))
    lasting = sample_error if lasting_error is None else lasting_error
    return Difference(mean, low, high, p, seed_error, sample_error, lasting, count, samples)


def _freedom(seed_error: float, seeds: int, sample_error: float, samples: int) -> float:
    """Returns the degrees of freedom of the sum of both (Welch and Satterthwaite)."""
    error = math.hypot(seed_error, sample_error)
    return error**4 / (seed_error**4 / (seeds - 1) + sample_error**4 / max(1, samples - 1))


def bootstrap_errors(
    scores: Callable[[Array], Sequence[float]], samples: int, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Bootstraps the standard error of a mean score over test samples, and the part that more seeds do not reduce.

    Noise of one score and one sample averages out over scores; noise of a sample that all scores share does not.

    Args:
        scores: Function of the numbers of samples, of shape (N,), with repetitions; returns a score for each seed, nan where it
            is not defined.
        samples: Number N of samples.
        seed: Random seed. (Default: 0)
        resamples: Number of resamples. (Default: 400)

    Returns:
        Both; infinite for a single sample, and where more than a tenth of the resamples have no score.

    Example:
        >>> values = np.random.default_rng(0).normal(size=400)
        >>> error, lasting = bootstrap_errors(lambda i: [float(values[i].mean())] * 3, 400)
        >>> round(error / float(values.std() / 20), 1), round(lasting / error, 6)
        (1.0, 1.0)
    """
    generator = np.random.default_rng(seed)
    resampled = np.array([scores(generator.integers(0, samples, samples)) for _ in range(resamples)])
    resampled = resampled[np.isfinite(resampled).all(1)]
    if samples < 2 or len(resampled) < UNDEFINED * resamples:
        return math.inf, math.inf
    unbiased, seeds = samples / (samples - 1), resampled.shape[1]  # variances over resamples are (N - 1) / N too small
    of_mean, of_one = float(resampled.mean(1).var()) * unbiased, float(resampled.var(0).mean()) * unbiased
    interaction = max(0.0, of_one - of_mean) / max(1, seeds - 1)  # of seeds and samples: its variance in the mean
    return math.sqrt(of_mean), math.sqrt(max(0.0, of_mean - interaction))


def holm(ps: Sequence[float]) -> list[float]:
    """Corrects p-values for multiple testing (Holm, 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(np.argsort(ps, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def samples_to_decide(difference: Difference, level: float, *, most_seeds: int) -> tuple[int, int] | None:
    """Returns how many test samples and seeds detect a difference of the observed size with a power of 80 %.

    Errors due to the test samples fall with the square root of their number; those due to the seeds do not.

    Args:
        difference: Difference that was measured.
        level: Level of the test, such as 0.05 over the number of kinds.
        most_seeds: Maximum number of seeds.

    Returns:
        Both, the former with two digits; None if no number of samples is enough, or for a single seed or no difference.

    Example:
        >>> pilot = Difference(1.0, 0, 0, 0, seed_error=0.1, sample_error=1.0, lasting_error=1.0, seeds=4, samples=100)
        >>> samples_to_decide(pilot, 0.05, most_seeds=30)  # with any number of seeds, 100 (1.96 + 0.84)^2 = 785
        (800, 19)
    """
    for doubled in np.arange(0.25, 20.0, 0.25):
        samples = math.ceil(float(f"{difference.samples * 2.0**doubled:.1e}"))
        shrunk = math.sqrt(difference.samples / samples)
        larger = difference._replace(
            sample_error=difference.sample_error * shrunk, lasting_error=difference.lasting_error * shrunk, samples=samples
        )
        seeds = seeds_to_decide(larger, level)
        if seeds is None:
            return None
        if seeds <= most_seeds:
            return samples, int(seeds)
    return None


def spread_ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Compares the standard deviations of two models over the same seeds (Pitman and Morgan).

    Args:
        one: Scores of a model, one per seed.
        other: Scores of another.

    Returns:
        Ratio of the standard deviations, and its p-value under equal standard deviations; nan and 1 for fewer than three
        seeds, or where a model has no spread.
    """
    stats = require("scipy.stats", "experiments")
    a, b = np.asarray(one, float), np.asarray(other, float)
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan"), 1.0
    ratio = float(a.std(ddof=1) / b.std(ddof=1))
    if min(np.ptp(a + b), np.ptp(a - b)) < 1e-9 * np.abs(a + b).max():  # one is the other, shifted
        return ratio, 1.0
    return ratio, float(stats.pearsonr(a + b, a - b).pvalue)


def seeds_to_decide(difference: Difference, level: float, *, power: float = 0.8) -> float | None:
    """Returns the number of seeds that detect a difference of the observed size with a power of 80 %.

    Args:
        difference: Difference that was measured.
        level: Level of the test, such as 0.05 over the number of kinds.
        power: Probability of detecting it. (Default: 0.8)

    Returns:
        Number of seeds; infinity if none is enough, since the error due to the test samples is too large; None for a single
        seed or no difference.

    Example:
        >>> pilot = Difference(1.0, 0, 0, 0, seed_error=1.0, sample_error=0.0, lasting_error=0.0, seeds=4, samples=100)
        >>> seeds_to_decide(pilot, 0.05)
        34
    """
    stats = require("scipy.stats", "experiments")
    d, lasting = difference, difference.lasting_error
    if not math.isfinite(d.seed_error) or d.mean == 0.0:
        return None

    def finds(from_seeds: float, freedom: float) -> bool:
        error = math.hypot(from_seeds, lasting)
        if error == 0.0 or abs(d.mean) / error > CERTAIN:
            return True
        with np.errstate(divide="ignore"):  # of scipy 1.11
            achieved = float(stats.nct.sf(stats.t.ppf(1 - level / 2, freedom), freedom, abs(d.mean) / error))
        return achieved >= power

    if not math.isfinite(lasting) or not finds(0.0, max(1, d.samples - 1)):
        return math.inf
    of_one = math.sqrt(d.seeds * (d.seed_error**2 + d.sample_error**2 - lasting**2))  # standard error that one seed adds

    def enough(seeds: int) -> bool:
        from_seeds = of_one / math.sqrt(seeds)
        return from_seeds + lasting == 0.0 or finds(from_seeds, _freedom(from_seeds, seeds, lasting, d.samples))

    too_few, most = 1, 2
    while not enough(most):
        too_few, most = most, 2 * most
    while most - too_few > 1:
        middle = (too_few + most) // 2
        too_few, most = (too_few, middle) if enough(middle) else (middle, most)
    return most
