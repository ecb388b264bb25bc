"""Summarizes a comparison in one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from topdown.comparison.differences import LEVEL, Compared, Runs, difference_of, pairs_of
from topdown.comparison.statistics import holm, samples_to_decide
from topdown.comparison.variants import LINEAR, NONE, WIDENED, Metric

FIRST = "standardize the features, find a better backbone, or train it better, before all else"
MANY_SEEDS = 10_000
MOST_SEEDS = 30  # practical maximum


def verdict(runs: Runs, compared: Mapping[str, Compared]) -> str:
    """Says whether feedback beats no feedback and the controls."""
    return _of_feedback(runs, compared) + _of_linear(compared)


def _of_linear(compared: Mapping[str, Compared]) -> str:
    """Warns if a linear model is better than the backbone without feedback, which is then the problem."""
    simple = compared.get(LINEAR)
    if simple is None or simple.difference.mean <= 0:
        return ""
    verb = "is" if simple.p < LEVEL else "may be"
    what = f"{LINEAR!r} {verb} better than {NONE!r}, by {number(simple.difference.mean)} (p {probability(simple.p)})"
    return f" WARNING: {what}: {FIRST}."


def _of_feedback(runs: Runs, compared: Mapping[str, Compared]) -> str:
    """Says whether feedback helps."""
    dynamic = {row: compared[row] for row in runs.dynamic() if row in compared}
    if not dynamic:
        return "No kind of feedback was compared with no feedback."
    sure = [row for row, c in dynamic.items() if c.p < LEVEL and c.difference.mean > 0]
    if sure:
        return _better_than_none(runs, dynamic, sure)
    best = max(dynamic, key=lambda row: dynamic[row].difference.mean)
    result, said = dynamic[best], _said(runs, dynamic, best)
    d, samples = result.difference, len(runs.labels)
    if d.seeds < 2:
        return f"Nothing can be said from one seed: {best!r} {said}."
    if not math.isfinite(d.sample_error):
        why = "one test sample" if samples < 2 else f"{samples} test samples, many draws of which have no {runs.metric.name}"
        return f"Nothing can be said from {why}: {best!r} {said}."
    if all(c.p < LEVEL and c.difference.mean < 0 for c in dynamic.values()):
        return f"Feedback hurts here: the best kind, {best!r}, {said}."
    if d.mean <= 0 or result.seeds_to_decide is None:
        more = "no kind is better than none on average"
    else:
        more = _enough(result, LEVEL / len(dynamic))
    worst = min(dynamic, key=lambda row: dynamic[row].difference.mean)
    hurts = dynamic[worst]
    harm = f"; {worst!r} is worse than none (p {_equals(hurts.p)})" if hurts.p < LEVEL and hurts.difference.mean < 0 else ""
    return f"No evidence that feedback helps here: the best kind, {best!r}, {said}; {more}{harm}."


def _enough(compared: Compared, level: float) -> str:
    """Says how many seeds would decide, or how many test samples where seeds alone would not, or would be too many."""
    seeds = compared.seeds_to_decide
    assert seeds is not None
    larger = samples_to_decide(compared.difference, level, most_seeds=MOST_SEEDS) if seeds > MOST_SEEDS else None
    if larger is not None:
        alone = "no number of seeds" if math.isinf(seeds) else f"only {seeds_needed(seeds)} seeds or so"
        enough = f"about {larger[0]:,} test samples with {_count(larger[1], 'seed')}"
        more = f"more test samples are needed: {enough} would decide, and {alone} with these alone"
    elif math.isinf(seeds):
        more = "no number of seeds would decide: the test set is too small for a difference like this"
    else:
        more = f"{seeds_needed(seeds)} seeds or so would decide"
    return f"{more}, if the true difference equals the observed one"


def _better_than_none(runs: Runs, dynamic: Mapping[str, Compared], sure: Sequence[str]) -> str:
    """Says of kinds that are better than none whether one is better than every control, too, corrected for all kinds."""
    names = {WIDENED: "a model without feedback of as many parameters"} if runs.of(WIDENED) else {}
    names |= {row: "a static mask" for row in runs.static if runs.of(row)}
    against = {row: {control: difference_of(runs, pairs_of(runs, row, control)) for control in names} for row in sure}
    least = {row: max((c.p if c.mean > 0 else 1.0 for c in against[row].values()), default=0.0) for row in against}
    corrected = dict(zip(dynamic, holm([least.get(row, 1.0) for row in dynamic]), strict=True))
    winners = [row for row in sure if corrected[row] < LEVEL]
    best = max(winners or sure, key=lambda row: dynamic[row].difference.low)
    said = _said(runs, dynamic, best)
    if winners:
        beside = f", and is better than {_and(names.values())}, too" if names else ""
        return f"Feedback helps here: {best!r} {said}{beside}."
    ahead = [row for row, c in against[best].items() if c.mean < 0 and c.p < LEVEL]
    near = [row for row, c in against[best].items() if row not in ahead and (c.mean <= 0 or c.p >= LEVEL / len(dynamic))]
    parts = {"may do as well": near, "is better still" if len(ahead) < 2 else "are better still": ahead}
    doubts = " and ".join(f"{_and(names[row] for row in rows)} {what}" for what, rows in parts.items() if rows)
    return f"Feedback is better than none here, but {doubts}: {best!r} {said}."


def _said(runs: Runs, dynamic: Mapping[str, Compared], row: str) -> str:
    """Says how a kind of feedback differs from none, and how sure that is."""
    d, samples = dynamic[row].difference, len(runs.labels)
    low, high = (d.low, d.high) if d.mean >= 0 else (-d.high, -d.low)  # of the difference in the sentence, which has no sign
    counts = f"for {_count(len(dynamic), 'kind')}, {_count(d.seeds, 'seed')}, {_count(samples, 'test sample')}"
    interval = f"95 % interval {number(low)} to {number(high)}, p {_equals(dynamic[row].p)}"
    return f"{_by(d.mean, runs.metric)} ({interval} {counts})"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _and(names: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(names))


def _by(mean: float, metric: Metric) -> str:
    if mean == 0.0:
        return f"leaves {metric.name} as it is"
    verb = "lowers" if (mean > 0) == metric.lower_is_better else "raises"
    return f"{verb} {metric.name} by {number(abs(mean))}"


def number(value: float) -> str:
    """Formats a number with four decimals, or with two digits where these would be 0, except for rounding errors."""
    return f"{value:.2g}" if 1e-12 < abs(value) < 5e-5 else f"{value:.4f}" if math.isfinite(value) else str(value)


def seeds_needed(seeds: float | None) -> str:
    """Formats the number of seeds needed to decide."""
    if seeds is None:
        return ""
    return "never" if math.isinf(seeds) else f"{seeds:.0f}" if seeds <= MANY_SEEDS else f"more than {MANY_SEEDS:,}"


def probability(p: float) -> str:
    """Formats a probability."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _equals(p: float) -> str:
    return f"= {probability(p)}" if p >= 0.001 else probability(p)
