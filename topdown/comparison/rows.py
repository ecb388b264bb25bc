"""Selects the rows of a comparison: simpler models, no feedback, a wider model, kinds of feedback, and diagnostic rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from topdown.comparison.diagnosis import AVERAGED, FILM, READS_INPUTS
from topdown.comparison.variants import (
    LINEAR,
    NONE,
    STATIC,
    WIDENED,
    Plan,
    Row,
    check_forward,
    count_parameters,
    find_width,
    make_model,
)
from topdown.datasets.report import absences
from topdown.feedback import FEEDBACK, StaticFeedback

Feedback = Sequence[str] | Mapping[str, Any]
KINDS = (STATIC, *(kind for kind in FEEDBACK if kind != STATIC))


def kinds_of(feedback: Feedback, latch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the options of the latch of each kind of feedback, including the control "static".

    Args:
        feedback: Kinds, or {name: kind, or options of a latch}.
        latch: Options of every latch.

    Raises:
        ValueError: if a kind has the name of another row.
    """
    return with_static({name: _options(value, latch) for name, value in _by_name(feedback).items()}, latch)


def with_static(kinds: dict[str, dict[str, Any]], latch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns kinds of feedback including a control: the kind "static", which does not read encodings.

    Raises:
        ValueError: if another kind has its name.
    """
    if not kinds or static_kinds(kinds):
        return kinds
    if STATIC in kinds:
        raise ValueError(f"feedback has a kind called {STATIC!r}, which is the name of a control: call it otherwise")
    return {STATIC: _options(STATIC, latch), **kinds}


def static_kinds(latches: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns the kinds of feedback that do not read encodings, from the options of their latches."""
    kinds = {name: options.get("feedback") for name, options in latches.items()}
    return [name for name, kind in kinds.items() if kind == STATIC or kind is StaticFeedback]


def make_rows(
    plan: Plan, kinds: Mapping[str, Mapping[str, Any]], *, alone: bool, gaps: bool, diagnose: bool = False
) -> tuple[list[Row], dict[str, str]]:
    """Returns the rows of a comparison, and the reason for each row that is left out."""
    left_out: dict[str, str] = {}
    rows = [Row(LINEAR)] if plan.task is not None else []
    if plan.task is None:
        left_out[LINEAR] = "its task is unknown, since loss and metric are user-defined: pass task="
    names = tuple(plan.splits["train"].sizes)
    for name in names if alone and len(names) > 1 else ():
        row = Row(f"{name} alone", modalities=(name,))
        absent = sum(absences(data).get(name, 0) for data in plan.splits.values())
        if absent:
            left_out[row.name] = f"it is absent from {absent} samples"
            continue
        try:
            model = make_model(plan, row, 0)
            takes = getattr(getattr(model, "backbone", model), "input_sizes", {name: None})
            if set(takes) != {name}:
                left_out[row.name] = f"build returns a model of {', '.join(map(repr, takes))} where {name!r} alone is wanted"
                continue
            check_forward(plan, row, model)
        except Exception as error:  # a model that needs the others may raise any error
            kind = "" if isinstance(error, ValueError) else f"building or calling it raises {type(error).__name__}: "
            left_out[row.name] = f"{kind}{error}"
            continue
        rows.append(row)
    rows.append(Row(NONE))
    _needed(plan, rows[-1])
    latches = [Row(name, latch=options) for name, options in kinds.items()]
    sizes = {row.name: count_parameters(_needed(plan, row)) for row in latches}
    width = find_width(plan, max(sizes.values(), default=0))
    if width is not None and sizes:
        rows.append(Row(WIDENED, width=width))
    elif sizes:
        no_widen = "there is no wider model: pass widen="
        left_out[WIDENED] = no_widen if plan.widen is None else "no factor gives it as many parameters as the largest latch has"
    rows += latches
    for row in _diagnostic_rows(kinds) if diagnose else ():
        try:
            check_forward(plan, row, make_model(plan, row, 0))
        except Exception as error:  # a backbone with one encoding, or with encodings that are not tensors, may raise any error
            left_out[row.name] = f"{type(error).__name__}: {error}"
            continue
        rows.append(row)
    if twice := [row.name for i, row in enumerate(rows) if row.name in [other.name for other in rows[:i]]]:
        raise ValueError(f"feedback has a kind called {twice[0]!r}, which is the name of another row: call it otherwise")
    if gaps:
        rows += [row._replace(gaps=True) for row in rows if row.name == NONE or row.latch is not None]
    return rows, left_out


def _needed(plan: Plan, row: Row) -> nn.Module:
    """Builds and checks the model of a row that every comparison needs."""
    try:
        return check_forward(plan, row, make_model(plan, row, 0))
    except Exception as error:
        kind = "" if isinstance(error, (ValueError, TypeError)) else f"{type(error).__name__}: "
        raise ValueError(f"the row {row.name!r} cannot be computed: {kind}{error}") from error


def _diagnostic_rows(kinds: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Returns the diagnostic rows, for the first kind of feedback that reads encodings."""
    rows = [Row(FILM, form="film")]
    for kind in [kind for kind in kinds if kind not in static_kinds(kinds)][:1]:
        rows.append(Row(AVERAGED.format(kind), latch=kinds[kind], form="averages"))
        rows.append(Row(READS_INPUTS.format(kind), latch=kinds[kind], form="inputs"))
    return rows


def _by_name(feedback: Feedback) -> dict[str, Any]:
    if isinstance(feedback, str):
        raise ValueError(f"feedback={feedback!r}: give a list of kinds, or a mapping from names to them")
    named_kinds = dict(feedback) if isinstance(feedback, Mapping) else {str(kind): kind for kind in feedback}
    if taken := [name for name in named_kinds if name in (NONE, WIDENED, LINEAR)]:
        raise ValueError(
            f"feedback has a kind called {taken[0]!r}, which is the name of another row: leave it out, or call it otherwise"
        )
    return named_kinds


def _options(value: Any, latch: Mapping[str, Any]) -> dict[str, Any]:
    return {**latch, **value} if isinstance(value, Mapping) else {**latch, "feedback": value}
