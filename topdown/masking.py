r"""Masks as pure functions: align one with the time of its target, and combine those of several sources.

.. math:: \tilde i_k = \frac{1}{2} (f_j + f_l) \odot i_k      (Eq. 4 of the paper)

References:
    MMLatch: Bottom-up Top-down Fusion for Multimodal Sentiment Analysis (Paraskevopoulos et al., 2022),
    https://arxiv.org/abs/2201.09828
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from topdown.sequence import Padded, along_batch, valid_steps, zero_padding

Combine: TypeAlias = Literal["mean", "max", "min", "product"] | Callable[[Tensor], Tensor]
Grid: TypeAlias = tuple[int, ...]
Align: TypeAlias = Literal["error", "interpolate", "pool"]

# Each rule: two masks -> one, and the value of a mask of a source that a sample lacks.
COMBINE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "mean": (torch.add, 0.0),  # and divided by the number of masks
    "max": (torch.maximum, 0.0),
    "min": (torch.minimum, 1.0),
    "product": (torch.mul, 1.0),
}


def combine_masks(masks: Sequence[Tensor], rule: Combine = "mean", present: Sequence[Tensor | None] | None = None) -> Tensor:
    r"""Combines the masks that the source modalities send to one target.

    .. math:: \tilde f_k = \frac{1}{J} \sum_j f_{j \to k}      (Eq. 4 of the paper, J = 2)

    A source that a sample lacks drops out of the rule for that sample.

    Args:
        masks: J masks in [0, 1], each of shape (B, T, D), or (B, 1, D) where all steps are masked alike.
        rule: "mean" (Eq. 4), "max", "min", "product", or a function from (J, B, T, D) to (B, T, D). (Default: "mean")
        present: Samples that have each source, of shape (B,), or None where all do. A sample that has no source at all gets an
            arbitrary mask. (Default: None, every sample has every source)

    Returns:
        Mask of the target, of shape (B, T, D).

    Raises:
        ValueError: if there is no mask, or a rule of your own returns another shape.

    Example:
        >>> combine_masks([torch.zeros(2, 3, 4), torch.ones(2, 3, 4)]).unique()
        tensor([0.5000])
        >>> combine_masks([torch.full((1, 1, 1), 0.2), torch.full((1, 1, 1), 0.5)], "product")
        tensor([[[0.1000]]])
        >>> combine_masks([torch.full((2, 1), 0.2), torch.ones(2, 1)], present=[None, torch.tensor([True, False])]).flatten()
        tensor([0.6000, 0.2000])
    """
    if not masks:
        raise ValueError("there is no mask to combine: a target needs at least one source")
    there = [None] * len(masks) if present is None else list(present)
    if callable(rule):
        return _apply(rule, masks, there)
    reduce, neutral = COMBINE[rule]
    marks = [None if p is None else along_batch(p, masks[0]) for p in there]
    kept = [m if p is None else torch.where(p, m, neutral) for m, p in zip(masks, marks, strict=True)]
    combined = functools.reduce(reduce, kept)
    if rule != "mean":
        return combined
    missing = [~p for p in marks if p is not None]
    return combined / ((len(masks) - torch.stack(missing).sum(0)).clamp(min=1) if missing else len(masks))


def _apply(rule: Callable[[Tensor], Tensor], masks: Sequence[Tensor], present: Sequence[Tensor | None]) -> Tensor:
    shape = torch.broadcast_shapes(*(mask.shape for mask in masks))
    stacked = torch.stack([mask.expand(shape) for mask in masks])
    if torch.compiler.is_compiling() or all(p is None for p in present):  # compiled code takes every source as there
        return _checked(rule, stacked)
    there = torch.stack([torch.ones(shape[0], dtype=torch.bool, device="cpu") if p is None else p.cpu() for p in present])
    samples = [stacked[there[:, i], i : i + 1] if there[:, i].any() else stacked[:, i : i + 1] for i in range(shape[0])]
    return torch.cat([_checked(rule, sample) for sample in samples])


def _checked(rule: Callable[[Tensor], Tensor], stacked: Tensor) -> Tensor:
    combined = rule(stacked)
    if not isinstance(combined, Tensor) or combined.shape != stacked.shape[1:]:
        got = tuple(combined.shape) if isinstance(combined, Tensor) else type(combined).__name__
        shape = tuple(stacked.shape)
        raise ValueError(f"combine took masks of shape {shape} and must return {shape[1:]}, got {got}")
    return combined


def pool_mask(mask: Tensor, lengths: Tensor | None) -> Tensor:
    """Averages a mask over its valid steps, so that it masks all steps of a target alike.

    Args:
        mask: Mask of shape (B, T, D).
        lengths: Number of valid steps of each sample, of shape (B,), or None.

    Returns:
        Mask of shape (B, 1, D); zero for a sample without steps.

    Example:
        >>> pool_mask(torch.tensor([[[0.], [1.], [9.]]]), torch.tensor([2]))
        tensor([[[0.5000]]])
    """
    if lengths is None:
        return mask.mean(1, keepdim=True)
    return zero_padding(mask, lengths).sum(1, keepdim=True) / lengths.clamp(min=1).to(mask.device).view(-1, 1, 1)


def interpolate_mask(mask: Tensor, lengths: Tensor, target_steps: int, target_lengths: Tensor) -> Tensor:
    r"""Maps a mask onto the time of a target by relative position within the lengths.

    Step :math:`t` of a target with :math:`n` valid steps reads the source, of :math:`m` valid steps, at position
    :math:`t (m - 1) / (n - 1)`, linearly between its two neighbours: first meets first, last meets last, and equal
    lengths give the mask itself, exactly. A target of one step reads the first step of its source.

    Args:
        mask: Mask of shape (B, T_j, D).
        lengths: Valid steps m of the source, of shape (B,).
        target_steps: T_k, the steps of the padded target.
        target_lengths: Valid steps n of the target, of shape (B,).

    Returns:
        Mask of shape (B, T_k, D). Padded steps of the target repeat the last valid one.

    Example:
        >>> ramp = torch.tensor([[[0.0], [0.5], [1.0]]])
        >>> interpolate_mask(ramp, torch.tensor([3]), 5, torch.tensor([5])).flatten()
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    last = lengths.to(mask.device).clamp(min=1).unsqueeze(1) - 1
    target_last = target_lengths.to(mask.device).clamp(min=1).unsqueeze(1) - 1
    time = torch.minimum(torch.arange(target_steps, device=mask.device).unsqueeze(0), target_last)
    # In integers, so that equal lengths give whole positions and a fraction of exactly zero.
    spread = time * last
    span = target_last.clamp(min=1)
    below = torch.div(spread, span, rounding_mode="floor")
    wide = torch.promote_types(mask.dtype, torch.float32)
    fraction = ((spread - below * span).to(wide) / span).to(mask.dtype).unsqueeze(-1)
    above = torch.minimum(below + 1, last)
    samples = torch.arange(mask.shape[0], device=mask.device).unsqueeze(1)
    return torch.lerp(mask[samples, below], mask[samples, above], fraction)


def align_mask(
    mask: Padded,
    target: Padded,
    align: Align = "error",
    *,
    names: tuple[str, str] = ("source", "target"),
    grids: tuple[Grid, Grid] = ((), ()),
) -> Tensor:
    """Brings the mask of a source to the time of its target.

    A mask without time masks all steps alike, and a target without time takes the average over the valid steps of the mask. A
    source that shares the time of its target (as many steps, and equal lengths) is used as it is. Otherwise "error" raises,
    "interpolate" maps by relative position (:func:`interpolate_mask`), and "pool" averages over valid steps
    (:func:`pool_mask`) each sample whose length differs from the target's. What happens to a sample depends on its own
    lengths alone, never on the batch that it is in. Compiled code does not compare lengths: with "error" it trusts that
    they are equal.

    Args:
        mask: Mask of shape (B, T_j, D) or (B, D), with the lengths of the source.
        target: Target of shape (B, T_k, D) or (B, D), with its lengths.
        align: "error", "interpolate" or "pool". (Default: "error")
        names: Names of source and target, for messages.
        grids: Steps of each dimension of time of source and target, where there are several: positions (H, W) of a map. Maps of
            other sizes are interpolated in all their dimensions. (Default: time has one dimension)

    Returns:
        Mask of shape (B, T_k, D), or (B, 1, D) where all steps are masked alike; (B, D) for a target without time.

    Raises:
        ValueError: with "error", if the steps or the lengths differ.

    Example:
        >>> align_mask(Padded(torch.zeros(2, 9, 4)), Padded(torch.zeros(2, 7, 4)), names=("audio", "text"))
        Traceback (most recent call last):
        ...
        ValueError: 'audio' has 9 steps but 'text' has 7: pass align='interpolate' or align='pool', or align them first
    """
    if target.values.dim() == 2:
        return mask.values if mask.values.dim() == 2 else pool_mask(*mask).squeeze(1)
    if mask.values.dim() == 2:
        return mask.values.unsqueeze(1)
    if grids[0] != grids[1] and len(max(grids, key=len)) > 1:
        return _between_grids(mask.values, align, names, grids)
    if mask.values.shape[1] == target.values.shape[1] and mask.lengths is target.lengths:
        return mask.values
    return ALIGN[align](mask, target, names)


def _between_grids(mask: Tensor, align: Align, names: tuple[str, str], grids: tuple[Grid, Grid]) -> Tensor:
    """Brings a mask of shape (B, H W, D), say, to a map of another size."""
    own, other = grids
    if align == "pool":
        return mask.mean(1, keepdim=True)
    if align == "error" or len(own) != len(other) or len(own) > 3:
        kind = [f"positions {grid}" if len(grid) > 1 else "one dimension of time" for grid in grids]
        remedy = "pass align='pool'" + (" or align='interpolate'" if align == "error" and len(own) == len(other) else "")
        raise ValueError(f"{names[0]!r} has {kind[0]} but {names[1]!r} has {kind[1]}: {remedy}")
    maps = mask.transpose(1, 2).unflatten(2, own)
    mode = {2: "bilinear", 3: "trilinear"}[len(own)]
    return torch.nn.functional.interpolate(maps, other, mode=mode, align_corners=True).flatten(2).transpose(1, 2)


def _insist(mask: Padded, target: Padded, names: tuple[str, str]) -> Tensor:
    source, target_name = names
    remedy = "pass align='interpolate' or align='pool', or align them first"
    steps, target_steps = mask.values.shape[1], target.values.shape[1]
    if steps != target_steps:
        raise ValueError(f"{source!r} has {steps} steps but {target_name!r} has {target_steps}: {remedy}")
    own, other = _all_lengths(mask), _all_lengths(target)
    # A sample that lacks one of the two has nothing to be aligned.
    if torch.compiler.is_compiling() or bool(((own == other) | (own == 0) | (other == 0)).all()):
        return mask.values
    for name, lengths in ((source, mask.lengths), (target_name, target.lengths)):
        if lengths is None:
            raise ValueError(f"lengths have no entry for {name!r}, so all its {steps} steps count: add it, or {remedy}")
    raise ValueError(f"{source!r} and {target_name!r} have {steps} steps but other lengths: {remedy}")


def _interpolate(mask: Padded, target: Padded, names: tuple[str, str]) -> Tensor:
    return interpolate_mask(mask.values, _all_lengths(mask), target.values.shape[1], _all_lengths(target))


def _pool(mask: Padded, target: Padded, names: tuple[str, str]) -> Tensor:
    pooled, steps = pool_mask(*mask), target.values.shape[1]
    if mask.lengths is target.lengths is None:
        return pooled
    fitted = torch.nn.functional.pad(mask.values[:, :steps], (0, 0, 0, max(0, steps - mask.values.shape[1])))
    return torch.where(along_batch(_all_lengths(mask) == _all_lengths(target), pooled), fitted, pooled)


def _all_lengths(padded: Padded) -> Tensor:
    values, lengths = padded
    return torch.full(values.shape[:1], values.shape[1], device=values.device) if lengths is None else lengths.to(values.device)


ALIGN: dict[str, Callable[[Padded, Padded, tuple[str, str]], Tensor]] = {
    "error": _insist,
    "interpolate": _interpolate,
    "pool": _pool,
}


def finite_padding(inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Replaces nan and inf at padded steps by 0, so that no gradient is poisoned there (0 times nan is nan).

    Args:
        inputs: Sequences of shape (B, T, D); vectors of shape (B, D) have no padding.
        lengths: Number of valid steps of each sample, of shape (B,); None leaves everything as it is.

    Returns:
        Sequences of shape (B, T, D), with every valid step and every finite value as it was.

    Example:
        >>> finite_padding(torch.tensor([[[torch.inf], [torch.nan], [7.0]]]), torch.tensor([1])).flatten()
        tensor([inf, 0., 7.])
    """
    if lengths is None or inputs.dim() == 2:
        return inputs
    valid = valid_steps(lengths, inputs.shape[1], inputs.device).unsqueeze(-1)
    return torch.where(valid | inputs.isfinite(), inputs, torch.zeros_like(inputs))
