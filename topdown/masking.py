r"""Masks as pure functions: align one with the time of its target, and combine those of several sources.

.. math:: \tilde i_k = \frac{1}{2} (f_j + f_l) \odot i_k      (Eq. 4 of the paper)

References:
    MMLatch: Bottom-up Top-down Fusion for Multimodal Sentiment Analysis (Paraskevopoulos et al., 2022),
    https://arxiv.org/abs/2201.09828
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from topdown.sequence import valid_steps, zero_padding

Combine: TypeAlias = Literal["mean", "max", "min", "product"] | Callable[[Tensor], Tensor]
Align: TypeAlias = Literal["error", "interpolate", "pool"]

COMBINE_RULES = ("mean", "max", "min", "product")
ALIGN_RULES = ("error", "interpolate", "pool")


def combine_masks(masks: Sequence[Tensor], rule: Combine = "mean") -> Tensor:
    r"""Combines the masks that the source modalities send to one target.

    .. math:: \tilde f_k = \frac{1}{J} \sum_j f_{j \to k}      (Eq. 4 of the paper, J = 2)

    Args:
        masks: J masks in [0, 1], each of shape (B, T, D), or (B, 1, D) where all steps are masked alike.
        rule: "mean" (Eq. 4), "max", "min", "product", or a function from (J, B, T, D) to (B, T, D). (Default: "mean")

    Returns:
        The mask of the target, of shape (B, T, D).

    Raises:
        ValueError: if there is no mask, the rule is unknown, or a rule of your own returns another shape.

    Example:
        >>> combine_masks([torch.zeros(2, 3, 4), torch.ones(2, 3, 4)]).unique()
        tensor([0.5000])
        >>> combine_masks([torch.full((1, 1, 1), 0.2), torch.full((1, 1, 1), 0.5)], "product")
        tensor([[[0.1000]]])
    """
    if not masks:
        raise ValueError("there is no mask to combine: a target needs at least one source")
    if callable(rule):
        shape = torch.broadcast_shapes(*(mask.shape for mask in masks))
        stacked = torch.stack([mask.expand(shape) for mask in masks])
        combined = rule(stacked)
        if not isinstance(combined, Tensor) or combined.shape != stacked.shape[1:]:
            got = tuple(combined.shape) if isinstance(combined, Tensor) else type(combined).__name__
            raise ValueError(
                f"combine took masks of shape {tuple(stacked.shape)} and must return {tuple(stacked.shape[1:])}, got {got}"
            )
        return combined
    if rule not in COMBINE_RULES:
        raise ValueError(f"combine={rule!r} is not known: use one of {COMBINE_RULES}, or a function (J, B, T, D) -> (B, T, D)")
    combined = masks[0]
    for mask in masks[1:]:
        if rule == "max":
            combined = torch.maximum(combined, mask)
        elif rule == "min":
            combined = torch.minimum(combined, mask)
        elif rule == "product":
            combined = combined * mask
        else:
            combined = combined + mask
    return combined / len(masks) if rule == "mean" else combined


def pool_mask(mask: Tensor, lengths: Tensor | None) -> Tensor:
    """Averages a mask over its valid steps, so that it masks all steps of a target alike.

    Args:
        mask: Of shape (B, T, D).
        lengths: Number of valid steps of each sample, of shape (B,), or None.

    Returns:
        Of shape (B, 1, D).

    Example:
        >>> pool_mask(torch.tensor([[[0.], [1.], [9.]]]), torch.tensor([2]))
        tensor([[[0.5000]]])
    """
    if lengths is None:
        return mask.mean(1, keepdim=True)
    return zero_padding(mask, lengths).sum(1, keepdim=True) / lengths.to(mask.device).view(-1, 1, 1)


def interpolate_mask(mask: Tensor, lengths: Tensor, target_steps: int, target_lengths: Tensor) -> Tensor:
    r"""Maps a mask onto the time of a target by relative position within the lengths.

    Step :math:`t` of a target with :math:`n` valid steps reads the source, of :math:`m` valid steps, at position
    :math:`t (m - 1) / (n - 1)`, linearly between its two neighbours: first meets first, last meets last, and equal
    lengths give the mask itself, exactly. A target of one step reads the first step of its source.

    Args:
        mask: Of shape (B, T_j, D).
        lengths: Valid steps m of the source, of shape (B,).
        target_steps: T_k, the steps of the padded target.
        target_lengths: Valid steps n of the target, of shape (B,).

    Returns:
        Of shape (B, T_k, D). Padded steps of the target repeat the last valid one.

    Example:
        >>> ramp = torch.tensor([[[0.0], [0.5], [1.0]]])
        >>> interpolate_mask(ramp, torch.tensor([3]), 5, torch.tensor([5])).flatten()
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    last = lengths.to(mask.device).unsqueeze(1) - 1
    target_last = target_lengths.to(mask.device).unsqueeze(1) - 1
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
    mask: Tensor,
    lengths: Tensor | None,
    target_steps: int,
    target_lengths: Tensor | None,
    *,
    align: Align = "error",
    source: str = "source",
    target: str = "target",
) -> Tensor:
    """Brings the mask of a source to the time of its target.

    A source that shares the time of its target (as many steps, and equal lengths) is used as it is. Otherwise "error"
    raises, "interpolate" maps by relative position (:func:`interpolate_mask`), and "pool" averages over valid steps
    (:func:`pool_mask`) each sample whose length differs from the target's. What happens to a sample depends on its own
    lengths alone, never on the batch that it is in. Compiled code does not compare lengths: with "error" it trusts that
    they are equal.

    Args:
        mask: Of shape (B, T_j, D).
        lengths: Valid steps of the source, of shape (B,), or None.
        target_steps: T_k, the steps of the padded target.
        target_lengths: Valid steps of the target, of shape (B,), or None.
        align: "error", "interpolate" or "pool". (Default: "error")
        source: The name of the source, for messages.
        target: The name of the target, for messages.

    Returns:
        Of shape (B, T_k, D), or (B, 1, D) where all steps are masked alike.

    Raises:
        ValueError: with "error", if the steps or the lengths differ.

    Example:
        >>> align_mask(torch.zeros(2, 9, 4), None, 7, None, source="audio", target="text")
        Traceback (most recent call last):
        ...
        ValueError: 'audio' has 9 steps but 'text' has 7: pass align='interpolate' or align='pool', or align them first
    """
    steps = mask.shape[1]
    if steps == target_steps and lengths is target_lengths:
        return mask
    if align == "pool" and lengths is target_lengths is None:
        return pool_mask(mask, None)
    remedy = "pass align='interpolate' or align='pool', or align them first"
    if align == "error" and steps != target_steps:
        raise ValueError(f"{source!r} has {steps} steps but {target!r} has {target_steps}: {remedy}")
    own = torch.full((mask.shape[0],), steps) if lengths is None else lengths
    other = torch.full((mask.shape[0],), target_steps) if target_lengths is None else target_lengths
    if align == "error":
        if torch.compiler.is_compiling() or torch.equal(own, other):
            return mask
        for name, given in ((source, lengths), (target, target_lengths)):
            if given is None:
                raise ValueError(f"lengths have no entry for {name!r}, so all its {steps} steps count: add it, or {remedy}")
        raise ValueError(f"{source!r} and {target!r} have {steps} steps but other lengths: {remedy}")
    if align == "interpolate":
        return interpolate_mask(mask, own, target_steps, other)
    fitted = torch.nn.functional.pad(mask[:, :target_steps], (0, 0, 0, max(0, target_steps - steps)))
    same = (own == other).to(mask.device).view(-1, 1, 1)
    return torch.where(same, fitted, pool_mask(mask, own))


def finite_padding(inputs: Tensor, lengths: Tensor | None) -> Tensor:
    """Replaces nan and inf at padded steps by 0, so that no gradient is poisoned there (0 times nan is nan).

    Args:
        inputs: Of shape (B, T, D).
        lengths: Number of valid steps of each sample, of shape (B,); None leaves everything as it is.

    Returns:
        Of shape (B, T, D), with every valid step and every finite value as it was.

    Example:
        >>> finite_padding(torch.tensor([[[torch.inf], [torch.nan], [7.0]]]), torch.tensor([1])).flatten()
        tensor([inf, 0., 7.])
    """
    if lengths is None:
        return inputs
    valid = valid_steps(lengths, inputs.shape[1], inputs.device).unsqueeze(-1)
    return torch.where(valid | inputs.isfinite(), inputs, torch.zeros_like(inputs))
