"""Between the passes: what masks multiply, and how logits become masks."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topdown import checks
from topdown.backbone import Inputs
from topdown.masking import Align, Combine, Grid, align_mask, combine_masks, finite_padding
from topdown.sequence import Padded, along_batch, present_samples
from topdown.sites import Site, to_sequence


class Look(NamedTuple):
    """Results of the first passes, and the inputs of the second one."""

    masked: Inputs
    masks: dict[str, Tensor]
    feedback: dict[str, dict[str, Tensor]]
    encodings: dict[str, Padded]


class LatchTrace(NamedTuple):
    """Everything that one call of a latch made.

    Args:
        output: Result of `fuse` after the second pass.
        masks: Mask that multiplied each target, of shape (B, T_k, D_k), or (B, D_k); at a site, of the shape of what is there.
        feedback: {target: {source: f_j}}: the masks before they were combined, in the time of the target.
        encodings: Encodings r_j that the masks were made from, 0 at padded steps: those of the first pass (of the last pass but
            one when `passes` is above 1).
        sites: Sites of the latch, which say how masks at sites are laid out. (Default: none)
        neutral: Mask where feedback says nothing: 1 with start="identity", else half the scale. (Default: 0.5)
    """

    output: Any
    masks: dict[str, Tensor]
    feedback: dict[str, dict[str, Tensor]]
    encodings: dict[str, Tensor]
    sites: Mapping[str, Site] = MappingProxyType({})
    neutral: float = 0.5


def raw_targets(
    inputs: Inputs, lengths: checks.GivenLengths, sizes: Mapping[str, int | None], sites: Mapping[str, Site]
) -> dict[str, Padded]:
    """Returns the inputs that masks multiply, with what is not finite in their padding set to 0.

    Args:
        inputs: Inputs of a call.
        lengths: Lengths of the call.
        sizes: Features of each target, where they are known.
        sites: Sites, whose names are not those of raw inputs.
    """
    raw = checks.check_targets(inputs, lengths, {name: size for name, size in sizes.items() if name not in sites})
    return {name: Padded(finite_padding(*target), target.lengths) for name, target in raw.items()}


def site_targets(
    there: Mapping[str, Tensor], lengths: checks.GivenLengths, sizes: Mapping[str, int | None], sites: Mapping[str, Site]
) -> dict[str, Padded]:
    """Returns what masks multiply at sites, as sequences.

    Args:
        there: Values at sites, in their own layout.
        lengths: Lengths of the call.
        sizes: Features of each target, where they are known.
        sites: Sites by name.
    """
    sequences = {name: to_sequence(values, sites[name]) for name, values in there.items()}
    return checks.check_targets(sequences, lengths, {name: size for name, size in sizes.items() if name in sites})


def masked_inputs(inputs: Inputs, raw: Mapping[str, Padded], masks: Mapping[str, Tensor]) -> Inputs:
    """Returns the inputs of the next pass.

    Args:
        inputs: Inputs of the call.
        raw: Those that masks multiply.
        masks: Masks by name; a target without one stays as it is.
    """
    return {**inputs, **{k: x.values * masks[k].to(x.values.dtype) if k in masks else x.values for k, x in raw.items()}}


def masks_by_source(
    logits: Mapping[str, Mapping[str, Tensor]],
    encodings: Mapping[str, Padded],
    targets: Mapping[str, Padded],
    align: Align,
    grids: tuple[Mapping[str, Grid], Mapping[str, Grid]],
) -> dict[str, dict[str, Tensor]]:
    """Returns {target: {source: f_j}} of the targets that are there, in their time.

    Args:
        logits: Logits of shape (B, T_j, D_k), or (B, D_k), by target and source.
        encodings: Encodings from which they were made.
        targets: Targets of shape (B, T_k, D_k), or (B, D_k).
        align: Treatment of a source whose time differs from its target's.
        grids: Steps of each dimension of time of encodings and of targets that have several.

    Raises:
        ValueError: if shapes or times do not fit.
    """
    feedback: dict[str, dict[str, Tensor]] = {k: {} for k in logits if k in targets}
    for k, j in [(target, source) for target in feedback for source in logits[target]]:
        lengths = encodings[j].lengths if j in encodings and encodings[j].values.dim() == 3 else None
        mask = torch.sigmoid(checks.check_fit(logits[k][j], targets[k].values, j, k))
        both = grids[0].get(j, ()), grids[1].get(k, ())
        feedback[k][j] = align_mask(Padded(mask, lengths), targets[k], align, names=(j, k), grids=both)
    return feedback


def combine_present(
    by_source: Mapping[str, Tensor], encodings: Mapping[str, Padded], combine: Combine, *, relative: bool
) -> tuple[Tensor, Tensor | None]:
    """Combines the masks of a target.

    Args:
        by_source: Masks of each source.
        encodings: Encodings from which they were made; their lengths tell which samples have a source.
        combine: Rule by which several masks become one.
        relative: Whether the result is relative to that of masks which are 1/2 everywhere, which becomes 1.

    Returns:
        Mask, and the samples that have any of the sources, of shape (B,), or None where all do.

    Raises:
        ValueError: if the rule makes 0 of masks of 1/2, to which nothing is relative.
    """
    present = [present_samples(encodings[source].lengths) if source in encodings else None for source in by_source]
    masks = list(by_source.values())
    mask = combine_masks(masks, combine, present)
    if relative:
        half = torch.full((), 0.5, dtype=mask.dtype, device=mask.device)
        neutral = combine_masks([half.expand(m.shape) for m in masks], combine, present)
        if callable(combine) and not torch.compiler.is_compiling() and not bool(neutral.all()):
            raise ValueError("start='identity' needs a rule combine= that makes no 0 of masks which are 1/2 everywhere")
        mask = mask / neutral
    marks = [p for p in present if p is not None]
    return mask, torch.stack(marks).any(0) if len(marks) == len(present) else None


def neutral_where_absent(mask: Tensor, present: Tensor | None) -> Tensor:
    """Returns a mask that is 1 in samples that have none of its sources.

    Example:
        >>> neutral_where_absent(torch.zeros(2, 1, 1), torch.tensor([True, False])).flatten()
        tensor([0., 1.])
    """
    return mask if present is None else torch.where(along_batch(present, mask), mask, 1.0)
