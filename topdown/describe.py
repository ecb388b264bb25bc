"""What `print(latch)` says: options, what is masked where and by whom, and how many parameters train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from topdown.checks import who_masks_whom
from topdown.unbuilt import UnbuiltFeedback


def describe(latch: Any) -> str:
    """Describes a latch in a few lines."""
    shown = {k: v for k, v in latch.options().items() if v is not None and v != {} and v is not latch.feedback and k != "sites"}
    options = ", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in shown.items())
    return "\n".join([options, *_targets(latch), _counts(latch)])


def _targets(latch: Any) -> Iterator[str]:
    if latch.target_sizes is None and latch.sources is None:
        yield (
            "masks what the first call will show"
            if isinstance(latch.feedback, UnbuiltFeedback)
            else "masks what feedback names"
        )
        return
    sources = latch.sources or who_masks_whom(None, latch.target_sizes, latch.source_sizes)
    for target, names in sources.items():
        where = f"{target!r}, the {latch.sites[target].described()}," if target in latch.sites else f"the input {target!r}"
        yield f"masks {where} by {' and '.join(map(repr, names))}"


def _counts(latch: Any) -> str:
    if isinstance(latch.feedback, UnbuiltFeedback):
        return "feedback has no parameters yet"
    own = [module for module in (latch.feedback, latch.gates) if module is not None]
    learns, there = (sum(_count(module, trained) for module in own) for trained in (True, False))
    return f"trains {learns:,} of {there:,} parameters of feedback, {_share(latch.backbone)} of the backbone"


def _share(module: nn.Module) -> str:
    return f"{_count(module, True):,} of {_count(module, False):,}"


def _count(module: nn.Module, trained: bool) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
