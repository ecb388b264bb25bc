r"""Corrupts data reproducibly: adds noise, or drops features, steps or modalities.

The random numbers of a modality depend on the seed of the sample and the name of the modality, not on the batch. So a sample is
corrupted in the same way in training, in evaluation, in a subset, and in a store that is larger than memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from topdown.datasets.errors import DataError
from topdown.datasets.precision import dtype_for

Kind = Literal["noise", "features", "steps", "missing"]


class Corruption(NamedTuple):
    """Holds the corruption of some samples.

    Args:
        kind: Kind; "missing" changes lengths instead.
        names: Modalities that are corrupted.
        severity: Severity of each sample, of shape (N,).
        seeds: Random seed of each sample, of shape (N,).
        scale: Standard deviation of each feature, of shape (D_k,) per modality, for noise.
    """

    kind: Kind
    names: tuple[str, ...]
    severity: Tensor
    seeds: Tensor
    scale: Mapping[str, Tensor]

    def subset(self, indices: Tensor) -> Corruption:
        """Returns the corruption of some of the samples."""
        return self._replace(severity=self.severity[indices], seeds=self.seeds[indices])

    def apply(self, inputs: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
        """Returns corrupted inputs (T_k, D_k) of a sample, and does not change its arguments."""
        severity = float(self.severity[index])
        if severity == 0.0:
            return dict(inputs)
        done = dict(inputs)
        for name in self.names:  # each has separate random numbers, so that it does not depend on the others
            seed = (int(self.seeds[index]) + zlib.crc32(name.encode())) % 2**63
            generator, x = torch.Generator("cpu").manual_seed(seed), inputs[name]
            if self.kind == "noise":
                done[name] = x + severity * self.scale[name].float() * torch.randn(x.shape, generator=generator, device="cpu")
            else:
                shape = (1, x.shape[1]) if self.kind == "features" else (len(x), *[1] * (x.dim() - 1))
                done[name] = x * (torch.rand(shape, generator=generator, device="cpu") >= severity)
        return done


def seeds_of(count: int, seed: int) -> Tensor:
    """Returns a random seed for each sample, of shape (N,)."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randint(0, 2**62, (count,), generator=generator, device="cpu")


def check_severity(kind: Kind, severity: float | Tensor, count: int) -> Tensor:
    """Returns the severity of each sample.

    Raises:
        DataError: if kind or severity is not possible.
    """
    if kind not in get_args(Kind):
        raise DataError(f"there is no corruption {kind!r}: use one of {list(get_args(Kind))}")
    values = torch.as_tensor(severity, dtype=torch.float64, device="cpu")
    if values.dim() and values.shape != (count,):
        raise DataError(f"severity has shape {tuple(values.shape)}: give one number, or one for each of {count} samples")
    most = float("inf") if kind == "noise" else 1.0
    if not bool(((values >= 0) & (values <= most) & values.isfinite()).all()):
        span = "at least 0, in standard deviations" if kind == "noise" else "between 0 and 1"
        raise DataError(f"severity of {kind!r} must be {span}, got {severity if not values.dim() else values.aminmax()}")
    return values.expand(count)


def draw_missing(lengths: Mapping[str, Tensor], names: tuple[str, ...], severity: Tensor, seeds: Tensor) -> dict[str, Tensor]:
    """Draws absent modalities; each sample keeps at least one.

    Args:
        lengths: Lengths of every modality, of shape (N,) each.
        names: Modalities that may become absent.
        severity: Probability, for each sample, that a modality becomes absent, of shape (N,).
        seeds: Random seed of each sample, of shape (N,).

    Returns:
        Lengths of every modality, 0 where it is absent.
    """
    drawn = {name: valid.clone() for name, valid in lengths.items()}
    for i in severity.nonzero().flatten().tolist():
        generator = torch.Generator("cpu").manual_seed(int(seeds[i]))
        draws = torch.rand(len(names) + 1, generator=generator, device="cpu", dtype=torch.float64)
        gone = [name for name, draw in zip(names, draws.tolist(), strict=False) if draw < severity[i] and lengths[name][i] > 0]
        if gone and all(name in gone or lengths[name][i] == 0 for name in lengths):
            del gone[int(draws[-1] * len(gone))]
        for name in gone:
            drawn[name][i] = 0
    return drawn


class Moments(NamedTuple):
    """Holds mean and standard deviation of each feature, of shape (D,) each, in float64 where float32 would round the mean."""

    mean: Tensor
    deviation: Tensor


def moments(chunks: Iterable[Tensor], size: int) -> Moments:
    """Returns mean and standard deviation of each feature over all rows of chunks (R, D); 0 without rows.

    Example:
        >>> moments([torch.tensor([[1.0], [5.0]]), torch.tensor([[3.0], [7.0]])], 1)
        Moments(mean=tensor([4.]), deviation=tensor([2.2361]))
    """
    count, start = 0, torch.zeros(size, dtype=torch.float64, device="cpu")
    total, squares = torch.zeros_like(start), torch.zeros_like(start)
    for chunk in chunks:
        if count == 0 and len(chunk):
            start = chunk[0].double()  # squares of values far from zero would round their deviations
        apart = chunk.double() - start
        count, total, squares = count + len(chunk), total + apart.sum(0), squares + apart.square().sum(0)
    mean = total / max(1, count)
    variance = (squares / max(1, count) - mean.square()).clamp(min=0.0)
    mean, deviation = start + mean, variance.sqrt()
    dtype = dtype_for(mean, deviation)
    return Moments(mean.to(dtype), deviation.to(dtype))
