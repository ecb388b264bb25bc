r"""Are differences between models more than luck? Paired by seed, for other seeds and for other test samples alike.

Two models are trained with the same seeds and tested on the same samples. Their difference varies with the seed and with the
samples that happen to be in the test set; both count,

.. math:: s^2 = \frac{s_{\text{seeds}}^2}{S} + s_{\text{samples}}^2,

where the first is the variance of the S paired differences, and the second the bootstrap variance, over test samples, of their
mean. Leaving out the second finds "significant" differences on labels that mean nothing.

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


class Difference(NamedTuple):
    """How much better a model is than another.

    Args:
        mean: Mean paired difference, positive where the model is better.
        low: Lower end of its 95 % interval.
        high: Upper end of it.
        p: Probability of a difference as large, either way, if there were none; before any correction.
        seed_error: Standard error that comes of the seeds.
        sample_error: Standard error that comes of the test samples.
        seeds: Number of pairs.
    """

    mean: float
    low: float
    high: float
    p: float
    seed_error: float
    sample_error: float
    seeds: int


def paired_difference(differences: Sequence[float], sample_error: float, samples: int) -> Difference:
    """Tests whether paired differences, one per seed, are 0 on average, for other seeds and other test samples.

    Args:
        differences: Difference of each seed, positive where the model is better.
        sample_error: Standard error of their mean over test samples: see :func:`bootstrap_error`.
        samples: Number of test samples.

    Returns:
        Difference; its interval is infinite, and p is 1, for a single seed.

    Example:
        >>> found = paired_difference([1.0, 2.0, 3.0], 0.0, 100)
        >>> round(found.mean, 3), round(found.low, 3), round(found.p, 4)  # scipy.stats.ttest_1samp([1, 2, 3], 0)
        (2.0, -0.484, 0.0742)
    """
    stats = require("scipy.stats", "experiments")
    values = np.asarray(differences, float)
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Difference(mean, -math.inf, math.inf, 1.0, math.inf, sample_error, count)
    seed_error = float(values.std(ddof=1) / math.sqrt(count))
    error = math.hypot(seed_error, sample_error)
    if error == 0.0:
        return Difference(mean, mean, mean, float(mean == 0.0), 0.0, 0.0, count)
    freedom = error**4 / (seed_error**4 / (count - 1) + sample_error**4 / max(1, samples - 1))
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return Difference(mean, mean - half, mean + half, p, seed_error, sample_error, count)


def bootstrap_error(score: Callable[[Array], float], samples: int, *, seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Returns the standard deviation of a score over resamples of the test samples.

    Args:
        score: Function of the numbers of samples, of shape (N,), with repetitions.
        samples: Number N of samples.
        seed: Random seed. (Default: 0)
        resamples: Number of resamples. (Default: 400)

    Example:
        >>> values = np.random.default_rng(0).normal(size=400)
        >>> round(bootstrap_error(lambda i: float(values[i].mean()), 400) / float(values.std() / 20), 1)
        1.0
    """
    generator = np.random.default_rng(seed)
    scores = np.array([score(generator.integers(0, samples, samples)) for _ in range(resamples)])
    return float(np.nanstd(scores))


def holm(ps: Sequence[float]) -> list[float]:
    """Corrects probabilities for their number, so that the chance of any false alarm stays what it says (Holm, 1979).

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(np.argsort(ps, kind="stable").tolist()):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = largest
    return corrected


def spread_ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Compares the spread of two models over the same seeds (Pitman and Morgan).

    Args:
        one: Scores of a model, one per seed.
        other: Scores of another.

    Returns:
        Ratio of the standard deviations, and the probability of one as far from 1 if they were the same; nan and 1 where there
        are fewer than three seeds, or a model has no spread.
    """
    stats = require("scipy.stats", "experiments")
    a, b = np.asarray(one, float), np.asarray(other, float)
    if len(a) < 3 or a.std() == 0 or b.std() == 0:
        return float("nan"), 1.0
    ratio = float(a.std(ddof=1) / b.std(ddof=1))
    if min(np.ptp(a + b), np.ptp(a - b)) < 1e-9 * np.abs(a + b).max():  # one is the other, moved
        return ratio, 1.0
    return ratio, float(stats.pearsonr(a + b, a - b).pvalue)


def seeds_to_decide(difference: Difference, level: float, *, power: float = 0.8, most: int = 10_000) -> float | None:
    """Returns the seeds it takes to find a difference as large as it looks, in four of five attempts.

    Args:
        difference: Difference that was measured.
        level: Level of the test, such as 0.05 over the number of kinds.
        power: Share of attempts that find it. (Default: 0.8)
        most: Largest number that counts as possible. (Default: 10,000)

    Returns:
        Number of seeds; infinity if none would do, since the test samples alone leave more doubt than that, or if it is larger
        than `most`; None if it cannot be told from one seed, or there is no difference.

    Example:
        >>> seeds_to_decide(Difference(1.0, 0, 0, 0, seed_error=1.0, sample_error=0.0, seeds=4), 0.05)
        34
    """
    normal = require("scipy.stats", "experiments").norm
    if not math.isfinite(difference.seed_error) or difference.mean == 0.0:
        return None
    wanted = abs(difference.mean) / float(normal.ppf(1 - level / 2) + normal.ppf(power))  # standard error that would do
    left = wanted**2 - difference.sample_error**2
    if left <= 0.0:
        return math.inf
    of_one = difference.seed_error**2 * difference.seeds
    needed = math.ceil(of_one / left) + 2  # since the spread itself has to be estimated
    return needed if needed <= most else math.inf
