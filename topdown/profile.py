"""What masks do on average: per class and per feature, as in the paper's Fig. 2."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from topdown.masking import pool_mask
from topdown.sequence import Lengths, lengths_of, zero_missing


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
    batches: Iterable[tuple[Mapping[str, Tensor], Tensor, Lengths]], classes: Sequence[int]
) -> dict[str, MaskProfile]:
    r"""Averages masks over the samples of each class.

    .. math:: \bar f_{c} = \frac{1}{N_c} \sum_{n: y_n = c} \frac{1}{T_n} \sum_{t \le T_n} f_{n,t}

    Each sample that has the modality counts once, however long it is; padded steps do not count. Sums are kept in float64, so
    a data set may be as large as it likes.

    References:
        MMLatch (Paraskevopoulos et al., 2022), Fig. 2: visual masks over the test samples of seven sentiment classes.

    Args:
        batches: Triples (masks, labels, lengths): masks of shape (B, T_k, D_k) or (B, D_k) per modality, as
            `latch.masks(inputs, lengths)` returns them; integer classes of shape (B,); and the lengths of the batch.
        classes: Classes to tell apart, such as range(-3, 4).

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
    for masks, labels, lengths in batches:
        members = labels.detach().cpu().view(-1, 1) == torch.tensor(classes, device="cpu")
        if not bool(members.any(1).all()):
            stray = sorted(set(labels[~members.any(1).to(labels.device)].tolist()))
            raise ValueError(f"labels {stray} are not among the classes {classes}")
        members = members.to(torch.float64)
        for name, mask in masks.items():
            if labels.shape != (len(mask),):
                raise ValueError(f"labels have shape {tuple(labels.shape)}, but {name!r} has {len(mask)} masks: one each")
            mask, valid = mask.detach().cpu().to(torch.float64), lengths_of(lengths, name)
            if mask.dim() == 3:
                mask = pool_mask(mask, valid).squeeze(1)
            present = members if valid is None else zero_missing(members, valid.cpu())
            sums[name] = sums.get(name, 0.0) + present.T @ mask
            counts[name] = counts.get(name, 0) + present.sum(0)
    return {name: MaskProfile(sums[name] / counts[name].unsqueeze(1), counts[name].to(torch.int64), classes) for name in sums}
