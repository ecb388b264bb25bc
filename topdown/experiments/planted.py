r"""Generates data in which one modality tells which half of another is reliable.

Modality `a` has two groups of four features and T steps. At each step one group shows the label :math:`y = \pm 1`, and the
other shows a stranger's label, which looks the same. Modality `b` says which group shows it. What changes is how often the
group does: once per sample, per segment of three steps, or at each step. Within a sample both groups have their turn equally
often.

A model that averages over time before it fuses can undo the first with a fusion that multiplies. It can undo neither of the
others: the averages of both groups are the same, :math:`(y + s) / 2`, and label and stranger can be told from one another in
three of four samples at best.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from topdown.datasets.data import SequenceDataset

Changes = Literal["sample", "segment", "step"]
GROUPS, WIDTH, SEGMENT = 2, 4, 3
NOISE = 0.5  # standard deviation at each feature and step; labels are 1 or -1


class Planted(NamedTuple):
    """Holds samples and the planted relevance of each feature of `a`, (N, T, 8), 1 where a feature shows the label."""

    data: SequenceDataset
    relevance: Tensor


def planted(samples: int, changes: Changes, *, steps: int = 12, cue: float = 1.0, seed: int = 0) -> Planted:
    """Generates samples.

    Args:
        samples: Number of samples.
        changes: How often the group that shows the label changes: once per "sample", "segment" or "step".
        steps: Number of steps T. (Default: 12)
        cue: Strength with which `b` shows the group, against noise of standard deviation 0.5. (Default: 1)
        seed: Random seed. (Default: 0)

    Returns:
        Samples with classes 0 and 1, and the relevance of each feature.

    Raises:
        ValueError: if `changes` is unknown.

    Example:
        >>> data, relevance = planted(4, "step")
        >>> data.sizes, relevance.shape, relevance.sum(-1).unique()
        ({'a': 8, 'b': 2}, torch.Size([4, 12, 8]), tensor([4.]))
    """
    if changes not in get_args(Changes):
        raise ValueError(f"changes={changes!r} must be one of {list(get_args(Changes))}")
    generator = torch.Generator("cpu").manual_seed(seed)
    draws = {"sample": 1, "segment": -(-steps // SEGMENT), "step": steps}[changes]
    # All groups are equally frequent, in random order, so that averages over time cannot tell them apart.
    order = torch.rand(samples, draws, generator=generator, device="cpu").argsort(1) if draws > 1 else None
    one = torch.randint(0, GROUPS, (samples, 1), generator=generator, device="cpu")
    drawn = one if order is None else order % GROUPS
    group = drawn.repeat_interleave(-(-steps // draws), 1)[:, :steps]
    relevant = torch.nn.functional.one_hot(group, GROUPS).bool()  # (N, T, groups)
    signs = torch.randint(0, 2, (samples, 2), generator=generator, device="cpu") * 2.0 - 1
    shown = torch.where(relevant, signs[:, :1, None], signs[:, 1:, None]).repeat_interleave(WIDTH, -1)
    a = shown + NOISE * torch.randn(shown.shape, generator=generator, device="cpu")
    b = cue * relevant + NOISE * torch.randn(relevant.shape, generator=generator, device="cpu")
    classes = (signs[:, 0] > 0).long()
    data = SequenceDataset.from_arrays({"a": a, "b": b}, classes)
    return Planted(data, relevant.repeat_interleave(WIDTH, -1).float())
