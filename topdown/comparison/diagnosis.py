"""Explains why feedback helps or not, from diagnostic rows.

A fusion by FiLM shows whether the fusion is the problem. Masks that are constant in time show whether relevance changes within
samples. Feedback that reads inputs shows whether encodings hide what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from topdown.comparison.differences import LEVEL, Compared, Runs, difference_of, pairs_of

FILM, AVERAGED, READS_INPUTS = "fusion by FiLM", "{}, averaged over time", "{}, reads inputs"


def diagnosis(runs: Runs, compared: Mapping[str, Compared]) -> list[str]:
    """Returns a sentence for each diagnostic row of a comparison."""
    lines = []
    if FILM in compared:
        c = compared[FILM]
        said = _said(c.difference.mean, c.p, "improve the fusion first", "the fusion is the problem")
        lines.append(f"{FILM!r} against none: {_by(c.difference.mean, c.p)}; {said}.")
    for kind in [kind for kind in runs.kinds if runs.of(AVERAGED.format(kind))]:
        d = difference_of(runs, pairs_of(runs, kind, AVERAGED.format(kind)))
        said = _said(d.mean, d.p, "relevance changes within samples", "relevance changes within samples")
        lines.append(f"{kind!r} against the same masks averaged over time: {_by(d.mean, d.p)}; {said}.")
    for kind in [kind for kind in runs.kinds if runs.of(READS_INPUTS.format(kind))]:
        d = difference_of(runs, pairs_of(runs, READS_INPUTS.format(kind), kind))
        said = _said(d.mean, d.p, "encodings hide what it needs: let it read inputs", "encodings hide what it needs")
        lines.append(f"{kind!r} that reads inputs, in one pass, against encodings: {_by(d.mean, d.p)}; {said}.")
    return lines


def _said(mean: float, p: float, conclusion: str, what: str) -> str:
    """Returns the conclusion from a significant gain, doubt for a gain that may be luck, or that there is no sign of it."""
    if mean <= 0:
        return f"no sign that {what}"
    return conclusion if p < LEVEL else f"these seeds and samples cannot tell whether {what}"


def _by(mean: float, p: float) -> str:
    return f"better by {mean:+.4f}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
