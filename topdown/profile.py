"""What masks do: on average per class and feature, as in the paper's Fig. 2, and in single samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topdown.masking import pool_mask
from topdown.masks import LatchTrace
from topdown.sequence import Lengths, lengths_of, zero_missing
from topdown.sites import Site, to_sequence


class MaskProfile(NamedTuple):
    """Average masks of one modality.

    Args:
        mean: Mean mask of each class and feature, of shape (C, D); nan for a class without samples.
        samples: Number of samples of each class, of shape (C,).
        classes: C classes, in the order of the rows.
    """

    mean: Tensor
    samples: Tensor
    classes: tuple[int, ...]


def mask_profile(
    batches: Iterable[tuple[Mapping[str, Tensor], Any, Lengths]],
    classes: Sequence[int],
    *,
    sites: Mapping[str, Site] | None = None,
) -> dict[str, MaskProfile]:
    r"""Averages masks over the samples of each class.

    .. math:: \bar f_{c} = \frac{1}{N_c} \sum_{n: y_n = c} \frac{1}{T_n} \sum_{t \le T_n} f_{n,t}

    Each sample that has the modality counts once, however long it is; padded steps do not count. Sums are kept in float64, so
    a data set may be as large as it likes.

    References:
        MMLatch (Paraskevopoulos et al., 2022), Fig. 2: visual masks over the test samples of seven sentiment classes.

    Args:
        batches: Triples (masks, labels, lengths): masks of shape (B, T_k, D_k) or (B, D_k) per modality, as
            `latch.masks(inputs, lengths)` returns them; integer classes of shape (B,), a tensor or an array of numpy; and the
            lengths of the batch.
        classes: Classes to tell apart, such as range(-3, 4).
        sites: Sites of the latch, `latch.sites`, if it has any: they say how masks are laid out. (Default: none)

    Returns:
        A :class:`MaskProfile` per modality.

    Raises:
        ValueError: if a label is none of the classes, a class is named twice, or there is not one label per sample.

    Example:
        >>> masks = {"audio": torch.tensor([[[0.2], [0.4]], [[0.5], [0.9]]])}
        >>> profile = mask_profile([(masks, torch.tensor([0, 1]), torch.tensor([2, 1]))], classes=[0, 1])
        >>> profile["audio"].mean.flatten()
        tensor([0.3000, 0.5000], dtype=torch.float64)
    """
    classes = tuple(classes)
    if len(set(classes)) != len(classes):
        raise ValueError(f"classes={classes} names a class twice")
    sums: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}
    for masks, given, lengths in batches:
        labels = torch.as_tensor(given)
        members = labels.detach().cpu().view(-1, 1) == torch.tensor(classes, device="cpu")
        if not bool(members.any(1).all()):
            stray = sorted(set(labels[~members.any(1).to(labels.device)].tolist()))
            raise ValueError(f"labels {stray} are not among the classes {classes}")
        members = members.to(torch.float64)
        for name, mask in masks.items():
            if labels.shape != (len(mask),):
                raise ValueError(f"labels have shape {tuple(labels.shape)}, but {name!r} has {len(mask)} masks: one each")
            valid = lengths_of(lengths, name)
            mask = _over_time(as_sequence(mask, name, sites), valid)
            present = members if valid is None else zero_missing(members, valid.cpu())
            sums[name] = sums.get(name, 0.0) + present.T @ mask
            counts[name] = counts.get(name, 0) + present.sum(0)
    return {name: MaskProfile(sums[name] / counts[name].unsqueeze(1), counts[name].to(torch.int64), classes) for name in sums}


def as_sequence(mask: Tensor, name: str, sites: Mapping[str, Site] | None) -> Tensor:
    """Returns a mask of shape (B, T, D) or (B, D), whatever the layout of its site is, in float64 on the CPU.

    Raises:
        ValueError: if it has more dimensions, and there is no site that says which they are.
    """
    mask = mask.detach().cpu().to(torch.float64)
    if sites is not None and name in sites:
        return to_sequence(mask, sites[name])
    if mask.dim() > 3:
        raise ValueError(f"the mask of {name!r} has shape {tuple(mask.shape)}, which its site explains: pass sites=latch.sites")
    return mask


class Change(NamedTuple):
    """A feature that a mask keeps more, or less, in one sample than it does on average.

    Args:
        feature: Number of the feature.
        mask: Mask of the sample, averaged over its valid steps.
        average: The same, averaged over all samples.
        source: Source whose own mask differs most from its average in the same direction.
    """

    feature: int
    mask: float
    average: float
    source: str


def explain(trace: LatchTrace, lengths: Lengths = None, *, top: int = 5) -> list[dict[str, list[Change]]]:
    """Tells what was kept and what was attenuated in each sample, against the average of the batch, and by which source.

    Args:
        trace: Result of `latch.trace(...)` for a batch of some samples.
        lengths: Lengths of the batch. (Default: None)
        top: Number of features that are kept most, and of those that are attenuated most. (Default: 5)

    Returns:
        Changes per sample and target, those that are kept most first. A sample that lacks a modality is not counted, and has no
        changes for it; a batch of one sample differs in nothing from its average.

    Raises:
        ValueError: if lengths name what is neither target nor source, or `top` is less than 1.

    Example:
        >>> masks = {"audio": torch.tensor([[[0.2, 0.5]], [[0.8, 0.5]]])}
        >>> trace = LatchTrace(None, masks, {"audio": {"text": masks["audio"]}}, {})
        >>> explain(trace, top=1)[1]["audio"][0]
        Change(feature=0, mask=0.8000..., average=0.5000..., source='text')
    """
    if top < 1:
        raise ValueError(f"top={top} must be at least 1")
    for name in lengths if isinstance(lengths, Mapping) else ():
        if name not in trace.masks and name not in trace.encodings:
            raise ValueError(f"lengths name {name!r}, but the targets are {[*trace.masks]}")
    found: list[dict[str, list[Change]]] = [{} for _ in next(iter(trace.masks.values()), ())]
    for target, mask in trace.masks.items():
        valid = lengths_of(lengths, target)
        there = {j: _present(lengths_of(lengths, j), mask) for j in trace.feedback[target]}
        by_source = {j: _over_time(f.detach().double().cpu(), valid) for j, f in trace.feedback[target].items()}
        averages = {j: f[there[j]].mean(0) for j, f in by_source.items()}
        pooled, present = _over_time(as_sequence(mask, target, trace.sites), valid), _present(valid, mask)
        average = pooled[present].mean(0)
        for sample in present.nonzero().flatten().tolist():
            row = pooled[sample]
            order = (row - average).argsort(descending=True, stable=True).tolist()
            chosen = order if len(order) <= 2 * top else order[:top] + order[-top:]
            changes = {j: f[sample] - averages[j] for j, f in by_source.items() if there[j][sample]}
            found[sample][target] = [
                Change(d, float(row[d]), float(average[d]), _most(changes, d, float(row[d] - average[d]))) for d in chosen
            ]
    return found


def _present(lengths: Tensor | None, mask: Tensor) -> Tensor:
    return torch.ones(len(mask), dtype=torch.bool, device="cpu") if lengths is None else lengths.cpu() > 0


def _most(changes: Mapping[str, Tensor], feature: int, change: float) -> str:
    """Returns the source that differs most in the direction of a change; nothing where a sample has no source."""
    sign = 1.0 if change >= 0 else -1.0
    return max(changes, key=lambda j: sign * float(changes[j][feature]), default="")


def _over_time(mask: Tensor, lengths: Tensor | None) -> Tensor:
    """Averages a mask (B, T, D) over valid steps; one of a single step, or without time, holds for all of them."""
    if mask.dim() == 2:
        return mask
    return pool_mask(mask, None if lengths is None or mask.shape[1] == 1 else lengths.cpu()).squeeze(1)
