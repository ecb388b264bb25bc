"""Rows of a comparison that say why feedback helps or not, and a sentence for each.

A fusion by FiLM shows whether the fusion is the problem. Masks that are constant in time show whether relevance changes within
samples. Feedback that reads inputs shows whether encodings hide what it needs.
"""

from __future__ import annotations

from collections.abc import Mapping

from topdown.comparison.differences import LEVEL, Compared, Runs, difference_of, pairs_of

FILM, AVERAGED, READS_INPUTS = "fusion by FiLM", "{}, averaged over time", "{}, reads inputs"


def diagnosis(runs: Runs, compared: Mapping[str, Compared]) -> list[str]:
    """Returns a sentence for each of these rows that there is."""
    lines = []
    if FILM in compared:
        c = compared[FILM]
        if c.p < LEVEL and c.difference.mean > 0:
            lines.append(f"{FILM!r} is better than none ({_by(c.difference.mean, c.p)}): improve the fusion first.")
        else:
            lines.append(
                f"{FILM!r} is not better than none ({_by(c.difference.mean, c.p)}): no sign that the fusion is the problem."
            )
    for kind in [kind for kind in runs.kinds if runs.of(AVERAGED.format(kind))]:
        d = difference_of(runs, pairs_of(runs, kind, AVERAGED.format(kind)))
        within = d.p < LEVEL and d.mean > 0
        said = "relevance changes within samples" if within else "no sign that relevance changes within samples"
        lines.append(f"{kind!r} against the same masks averaged over time: {_by(d.mean, d.p)}; {said}.")
    for kind in [kind for kind in runs.kinds if runs.of(READS_INPUTS.format(kind))]:
        d = difference_of(runs, pairs_of(runs, READS_INPUTS.format(kind), kind))
        better = d.p < LEVEL and d.mean > 0
        said = "encodings hide what it needs: let it read inputs" if better else "no sign that encodings hide what it needs"
        lines.append(f"{kind!r} that reads inputs, in one pass, against encodings: {_by(d.mean, d.p)}; {said}.")
    return lines


def _by(mean: float, p: float) -> str:
    return f"better by {mean:+.4f}, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"
