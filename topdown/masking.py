r"""Pure functions of masks: align a mask with the time of its target, combine those of several sources, and apply the result.

.. math:: \tilde i_k = \frac{1}{2} (f_j + f_l) \odot i_k      (Eq. 4 of the paper)

The mask of a pair is :math:`f = \sigma(h)`, in (0, 1). The mask of a target combines those of its sources, each times c. Here h
are logits, f masks of pairs, r encodings, and x is a target.

References:
    MMLatch: Bottom-up Top-down Fusion for Multimodal Sentiment Analysis (Paraskevopoulos et al., 2022),
    https://arxiv.org/abs/2201.09828
"""

import copy
import functools
import math
from collections import UserDict
from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from topdown.sequence import TIME_LAST, ByName, WithLengths, along_batch, described, flatten_times, zero_padding

Combine: TypeAlias = Literal["mean", "max", "min", "product"] | Callable[[Tensor], Tensor]
Align: TypeAlias = Literal["error", "interpolate", "pool"]
Masks: TypeAlias = Mapping[str, Tensor]  # or logits; by target, or by source of one target

CAUSES = f" (the first is an encoding, the second a site or input; one step more may be a class token; {TIME_LAST})"
ALIGN_FIRST = "pass align='interpolate' or align='pool', or align them first"
# Functions of two masks. The sum becomes the mean by a division.
COMBINE: dict[str, Any] = {"mean": torch.add, "max": torch.maximum, "min": torch.minimum, "product": torch.mul}


def combine_masks(masks: Sequence[Tensor], rule: Combine = "mean", present: Sequence[Any] = (), c: float = 1.0) -> Tensor:
    r"""Combines the masks that the sources send to one target.

    .. math:: \tilde f_k = \frac{1}{J} \sum_j c f_{j \to k}      (Eq. 4 of the paper, J = 2, c = 1)

    A source that is absent in a sample drops out of a named rule. A user-defined rule gets c / 2 in its place, the mask of
    logits of 0.

    Args:
        masks: J masks, each of shape (B, T, D), or (B, 1, D) if it is the same at all steps.
        rule: "mean" (Eq. 4), "max", "min", "product", or a function from (J, B, T, D) to (B, T, D). (Default: "mean")
        present: Samples in which each source is present, of shape (B,), or None for all. A sample in which no
            source is present gets an arbitrary mask. (Default: every source is present in every sample)
        c: Factor of each mask before they are combined. (Default: 1)

    Returns:
        Mask of the target, of shape (B, T, D).

    Raises:
        ValueError: if a user-defined rule returns another shape.

    Example:
        >>> combine_masks([torch.zeros(2, 3, 4), torch.ones(2, 3, 4)]).unique()
        tensor([0.5000])
        >>> combine_masks([torch.full((1, 1, 1), 0.2), torch.full((1, 1, 1), 0.5)], "product")
        tensor([[[0.1000]]])
        >>> combine_masks([torch.full((2, 1), 0.2), torch.ones(2, 1)], present=[None, torch.tensor([True, False])]).flatten()
        tensor([0.6000, 0.2000])
    """
    marks = [None if p is None else along_batch(p, masks[0]) for p in present]
    if absent := [~p for p in marks if p is not None] if marks else []:
        # Before the factor c, which follows.
        ignored = 0.5 if callable(rule) else {"mean": 0.0, "max": 0.0, "min": math.inf, "product": 1.0 / c}[rule]
        masks = [mask if p is None else torch.where(p, mask, ignored) for mask, p in zip(masks, marks, strict=True)]
    if callable(rule):
        masks = torch.broadcast_tensors(*masks)
        stacked = torch.stack([flatten_times(mask) for mask in masks]) * c
        combined: Tensor = rule(stacked)
        if not isinstance(combined, Tensor) or combined.shape != stacked.shape[1:]:
            shape = tuple(stacked.shape)
            raise ValueError(f"combine took masks of shape {shape} and must return {shape[1:]}, got {described(combined)}")
        return combined.reshape(masks[0].shape)
    combined = functools.reduce(COMBINE[rule], masks)
    if rule == "mean":
        count: Any = (len(masks) - torch.stack(absent).sum(0)).clamp(min=1).type_as(combined) if absent else len(masks)
        # One division, so that the mean of masks of 1 is 1 exactly, for any number of them; none for two masks and c = 2.
        return combined if not absent and count == c else combined / (count / c)
    c = c ** len(masks) if rule == "product" else c
    return combined if c == 1.0 else combined * c


def check_rule(rule: Combine, start: str, pairs: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> None:
    """Raises a ValueError if a user-defined rule does not map ones to ones, with which the start "identity" begins."""
    for k, sources in pairs.items() if callable(rule) and start == "identity" else ():
        if not (combine_masks([torch.ones(1, 1, sizes[k])] * len(sources), rule) - 1.0).abs().max() <= 1e-6:  # or it is nan
            raise ValueError("combine= must map masks of 1 to 1 where start='identity': normalise it, or pass 'random'")


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
    dtype = torch.promote_types(mask.dtype, torch.float32)
    # Not mean(), which on a GPU multiplies by a rounded 1 / T, so that the mean of masks of 1/2 would not be 1/2.
    count: Any = mask.shape[1] if lengths is None else lengths.clamp(min=1).to(mask.device, dtype).view(-1, 1, 1)
    return torch.div(zero_padding(mask, lengths).sum(1, keepdim=True, dtype=dtype), count).to(mask.dtype)


def interpolate_mask(mask: Tensor, lengths: Tensor, target_steps: int, target_lengths: Tensor) -> Tensor:
    r"""Maps a mask onto the time of a target by relative position within the lengths.

    Step :math:`t` of a target with :math:`n` valid steps reads the source, of :math:`m` valid steps, at position
    :math:`t (m - 1) / (n - 1)`, linearly between its two neighbours: first meets first, last meets last, and equal
    lengths give the mask itself, exactly. A target of one step reads the first step of its source.

    Args:
        mask: Mask of shape (B, T_j, D).
        lengths: Valid steps m of the source, of shape (B,), or (1,) for all samples.
        target_steps: T_k, the steps of the padded target.
        target_lengths: Valid steps n of the target, of shape (B,), or (1,).

    Returns:
        Mask of shape (B, T_k, D). Padded steps of the target repeat the last valid one.

    Example:
        >>> ramp = torch.tensor([[[0.0], [0.5], [1.0]]])
        >>> interpolate_mask(ramp, torch.tensor([3]), 5, torch.tensor([5])).flatten()
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
    """
    device, samples = mask.device, torch.arange(mask.shape[0], device=mask.device).unsqueeze(1)
    last, target_last = (n.to(device).clamp(min=1).unsqueeze(1) - 1 for n in (lengths, target_lengths))
    time = torch.minimum(torch.arange(target_steps, device=device).unsqueeze(0), target_last)
    # In integers, so that equal lengths give whole positions and a fraction of exactly zero.
    spread, span = time * last, target_last.clamp(min=1)
    below = torch.div(spread, span, rounding_mode="floor")
    fraction = (spread - below * span).to(torch.promote_types(mask.dtype, torch.float32)) / span
    above = mask[samples, torch.minimum(below + 1, last)]
    return torch.lerp(mask[samples, below], above, fraction.to(mask.dtype).unsqueeze(-1))


def align_mask(mask: WithLengths, target: WithLengths, align: Align, names: tuple[str, str]) -> Tensor:
    """Brings the mask of a source to the time of its target.

    A mask without time masks all steps alike, and a target without time takes the average over the valid steps of the mask. A
    source that shares the time of its target (as many steps, and equal lengths; or a map of the same size) is used as it is.
    Otherwise "error" raises, "interpolate" maps by relative position (:func:`interpolate_mask`), and "pool" averages over valid
    steps (:func:`pool_mask`) each sample whose length differs from the target's. The result for a sample depends on its own
    lengths alone, never on its batch. Compiled code does not compare lengths: with "error" it trusts that they are equal. Maps
    of different sizes are interpolated in all their dimensions.

    Args:
        mask: Mask of shape (B, T_j, D) or (B, D), or of a map, (B, H, W, D), with the lengths of the source.
        target: Target of shape (B, T_k, D) or (B, D), or a map, with its lengths.
        align: "error", "interpolate" or "pool".
        names: Names of source and target, for messages.

    Returns:
        Mask of shape (B, T_k, D), or (B, 1, D) if it is the same at all steps; (B, D) for a target without time; accordingly
        for a map.

    Raises:
        ValueError: with "error", if the steps or the lengths differ.

    Example:
        >>> align_mask(WithLengths(torch.zeros(2, 9, 4)), WithLengths(torch.zeros(2, 7, 4)), "error", ("audio", "text"))
        Traceback (most recent call last):
        ...
        ValueError: 'audio' has 9 steps but 'text' has 7: pass align='interpolate' or align='pool', or align them first ...
    """
    times, target_times = mask.values.shape[1:-1], target.values.shape[1:-1]
    is_map = len(times) > 1 or len(target_times) > 1
    if times == target_times and (len(times) != 1 or mask.lengths is target.lengths):  # Batch makes equal ones one
        return mask.values
    if not times or not target_times or (is_map and align == "pool"):  # the same at all steps
        vector = pool_mask(flatten_times(mask.values), mask.lengths).squeeze(1) if times else mask.values
        return vector.reshape(vector.shape[0], *[1] * len(target_times), vector.shape[-1])
    if is_map:
        return _between_maps(mask.values, target_times, align, names)
    steps, target_steps = times[0], target_times[0]
    if align == "error" and steps != target_steps:
        raise ValueError(f"{names[0]!r} has {steps} steps but {names[1]!r} has {target_steps}: {ALIGN_FIRST}{CAUSES}")
    m, n = (v.new_full((1,), v.shape[1], dtype=torch.int64) if n is None else n.to(v.device) for v, n, *_ in (mask, target))
    if align == "interpolate":
        return interpolate_mask(mask.values, m, target_steps, n)
    if align == "pool":
        # Not max(target_steps - steps, 0), which exporters refuse.
        fitted = torch.nn.functional.pad(mask.values, (0, 0, 0, target_steps))[:, :target_steps]
        return torch.where(along_batch(n == m, fitted), fitted, pool_mask(mask.values, mask.lengths))
    if not torch.compiler.is_compiling() and not bool(((n == m) | (n == 0) | (m == 0)).all()):  # absent ones need no alignment
        if mask.lengths is None or target.lengths is None:
            name = names[0] if mask.lengths is None else names[1]
            hint = f"add it (or correct one that counts all), pass one tensor for all, or {ALIGN_FIRST}"
            raise ValueError(f"lengths have no entry for {name!r}, so all its {steps} steps count: {hint}")
        raise ValueError(f"{names[0]!r} and {names[1]!r} have {steps} steps but different lengths: {ALIGN_FIRST}")
    return mask.values


def _between_maps(mask: Tensor, target_times: tuple[int, ...], align: Align, names: tuple[str, str]) -> Tensor:
    """Interpolates a mask to a map of another size; one of the two may be a sequence over time, which is an error."""
    times = mask.shape[1:-1]
    same_rank = len(times) == len(target_times) <= 3
    if align == "error" or not same_rank:
        remedy = "pass align='pool'" + (" or align='interpolate'" if same_rank else "")
        shown = [tuple(n) if len(n) > 1 else "(T,)" for n in (times, target_times)]
        raise ValueError(f"{names[0]!r} has positions {shown[0]} but {names[1]!r} has {shown[1]}: {remedy}")
    maps = (mask - 0.5).movedim(-1, 1)  # about 1/2, so that the mask of logits of 0 is exact
    mode = {2: "bilinear", 3: "trilinear"}[len(times)]
    return torch.nn.functional.interpolate(maps, target_times, mode=mode, align_corners=True).movedim(1, -1) + 0.5


def source_masks(h: Masks, r: ByName, x: WithLengths, align: Align, target: str) -> dict[str, Tensor]:
    r"""Returns the mask of each source for one target, :math:`f = \sigma(h)`, with the steps of the target.

    Args:
        h: Logits of each source, of shape (B, T_j, D_k) or (B, D_k).
        r: Encodings that they were computed from. A user-defined feedback may name a source without an encoding.
        x: Target, of which shape and lengths matter here; :func:`apply_masks` multiplies.
        align: Treatment of a source whose steps differ: see :func:`align_mask`.
        target: Name of the target, for messages.

    Raises:
        ValueError: if a shape or the number of steps does not fit.
    """
    f: dict[str, Tensor] = {}
    shape = x.values.shape
    for j, logits in h.items():
        f[j], encoding, dim = torch.sigmoid(logits), r.get(j) or WithLengths(logits), logits.dim()
        # The common case: nothing to align, since equal lengths are one tensor. Dimensions first, or exporters would compare T
        # with D.
        if dim == encoding.values.dim() == x.values.dim() < 4 and logits.shape == shape and encoding.lengths is x.lengths:
            continue
        times = encoding.values.shape[1:-1]
        changed = dim == 3 and len(times) > 0 and logits.shape[1] != math.prod(times)
        if dim not in (2, 3) or changed or logits.shape[0] != shape[0] or logits.shape[-1] != shape[-1]:
            expected = tuple(flatten_times(x.values).shape)
            shapes = f"{j!r} returned logits of shape {tuple(logits.shape)} for {target!r} of shape {expected}"
            raise ValueError(f"the feedback from {shapes}: the batch and the last size must be the same, the steps as encoded")
        mask = f[j].unflatten(1, times) if dim == 3 and len(times) > 1 else f[j]
        # Lengths of a vector say where it is present; a mask for all steps has none to align.
        f[j] = align_mask(WithLengths(mask, encoding.lengths if times else None), x, align, names=(j, target))
    return f


def target_mask(f: Masks, r: ByName, x: WithLengths, sources: Iterable[str], rule: Combine, c: float, p: float) -> Tensor:
    """Returns the mask of one target, in its shape: combined, and with dropout.

    ====================  ==============================================================================
    absent                effect
    ====================  ==============================================================================
    a source, everywhere  `f` lacks it. A user-defined rule gets c / 2 in its place.
    a source, in samples  It is not `present` there. The same, in these samples: see :func:`combine_masks`.
    all sources           The mask is 1: the target keeps its values.
    ====================  ==============================================================================

    Args:
        f: Masks of the sources that are present in the batch, from :func:`source_masks`.
        r: Encodings, which say in which samples each source is present.
        x: Target, of which shape and lengths matter here.
        sources: Sources of the target, in the order in which a user-defined rule gets their masks.
        rule: Rule of :func:`combine_masks`.
        c: Factor of each mask.
        p: Probability of dropout on the mask.
    """
    marks: list[Any] = [r[j].present for j in f if j in r and r[j].present is not None]  # of sources that may be absent
    names = [*(sources if callable(rule) else f)]
    masks = [f[j] if j in f else torch.full_like(next(iter(f.values())), 0.5) for j in names]
    mask = combine_masks(masks, rule, [r[j].present if j in r else None for j in names] if marks else (), c)
    mask = mask if mask.shape == x.values.shape else mask.expand_as(x.values)
    mask = torch.dropout(mask, p, True) if p else mask
    if len(marks) == len(f):  # all sources may be absent
        mask = torch.where(along_batch(torch.stack(marks).any(0), mask), mask, 1.0)
    # Without a gradient at padded steps, which may hold anything: 0 times nan would be nan.
    return torch.where(x.valid, mask, mask.detach()) if x.valid is not None and mask.requires_grad else mask


def apply_masks(inputs: Mapping[str, Any], masks: Masks, sites: Collection[str] = ()) -> Mapping[str, Any]:
    """Returns the inputs of the next pass: targets times their masks, and all other inputs unchanged; not those at sites.

    Example:
        >>> masked = apply_masks({"a": torch.ones(1, 2), "b": "text"}, {"a": torch.full((1, 2), 0.5)})
        >>> masked["a"], masked["b"]
        (tensor([[0.5000, 0.5000]]), 'text')
    """
    masked = {k: inputs[k] * mask.type_as(inputs[k]) for k, mask in masks.items() if k not in sites}
    return replaced(inputs, masked) if masked else inputs


def replaced(mapping: Mapping[str, Any], items: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns a mapping of the same type in which some keys have other values; the mapping itself stays as it is.

    Raises:
        TypeError: if the type cannot be copied.

    Example:
        >>> from collections import OrderedDict
        >>> replaced(OrderedDict(a=1, b=2), {"b": 3})["b"]
        3
    """
    if type(mapping) is dict:
        return {**mapping, **items}
    try:
        if not isinstance(mapping, MutableMapping):
            return type(mapping)({**mapping, **items})  # type: ignore[call-arg]
        shared = {id(value): value for value in mapping.values()}  # a memo, with which deepcopy keeps these values
        changed: Any = copy.copy(mapping) if isinstance(mapping, (dict, UserDict)) else copy.deepcopy(mapping, shared)
        for key in items:
            changed[key] = items[key]
        attributes = getattr(changed, "__dict__", {})  # which hold the items, too, in the output of Hugging Face's models
        attributes.update({key: items[key] for key in items if key in attributes})
        return changed  # type: ignore[no-any-return]
    except Exception as error:
        raise TypeError(f"a {type(mapping).__name__} cannot be copied with masks in it ({error}): pass dict(inputs)") from error
