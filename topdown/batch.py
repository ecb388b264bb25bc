"""The inputs and lengths of one call, read and checked once."""

import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from topdown.sequence import Lengths, Steps, described, lengths_of, readable, valid_steps
from topdown.wiring import SAY_WHO, nearest

Inputs: TypeAlias = Mapping[str, Any]
Marks: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]


class BatchLengths:
    """Holds the lengths of one call; checks each tensor once, and makes the masks of equal lengths once.

    Args:
        raw: Lengths from the user: one tensor for all sequences, a mapping for those that it names, or None.
    """

    def __init__(self, raw: Lengths) -> None:
        self.raw = raw
        self.by_name = isinstance(raw, Mapping)
        self.sized_by: tuple[str, tuple[int, ...]] | None = None  # the first target or encoding, and its shape
        self._steps: dict[str, tuple[str, int]] = {}  # the first name that had lengths, and its number of steps
        self._checked: list[tuple[Tensor, int | None, Marks]] = []
        self._equal: dict[tuple[int | None, ...], Marks] = {}
        self.brought: dict[str, Steps] = {}  # encodings that came with lengths; they hold for a site of that name, too

    def check_names(self, names: Collection[str]) -> None:
        """Raises a ValueError if the lengths have an entry of another name."""
        for name in self.raw if isinstance(self.raw, Mapping) else ():
            if name not in names:
                raise ValueError(f"lengths name {name!r}, but the modalities are {nearest(name, names)}")

    def of(self, name: str, values: Tensor, steps: int | None = None) -> Steps:
        """Returns values with the lengths of their name; without lengths where all steps are valid.

        Args:
            name: Name of an input, a site or an encoding.
            values: Sequences of shape (B, T, D), or vectors of shape (B, D), whose lengths by name only tell in which samples
                they are present.
            steps: Number of steps that the lengths of a vector count. (Default: unknown)

        Raises:
            TypeError: if the lengths are no tensor of integers.
            ValueError: if their shape or a value does not fit, or another number of steps has used them.
        """
        if values.dim() == 3 and name in self.brought and self.brought[name].values.shape[1] == values.shape[1]:
            return self.brought[name]._replace(values=values)
        lengths, steps = lengths_of(self.raw, name), values.shape[1] if values.dim() == 3 else steps
        if lengths is None or (values.dim() == 2 and not self.by_name):
            return Steps(values)
        if steps is not None:
            first, first_steps = self._steps.setdefault(name if self.by_name else "", (name, steps))
            if steps != first_steps:
                remedy = "return topdown.Padded(values, lengths)" if self.by_name else "pass a mapping from modality to lengths"
                raise ValueError(f"lengths of {first!r} ({first_steps} steps) cannot serve {name!r} ({steps} steps): {remedy}")
        return self.check(lengths, name, values, steps)

    def check(self, lengths: Any, name: str, values: Tensor, steps: int | None = None) -> Steps:
        """Checks lengths, and returns values with them. Equal lengths share one tensor and one mask of valid steps."""
        steps = values.shape[1] if values.dim() == 3 else steps
        checked = [marks for tensor, n, marks in self._checked if tensor is lengths and n == steps]
        if not checked:
            checked = [self._check(lengths, name, steps, values.device)]
            self._checked.append((lengths, steps, checked[0]))
        integers, valid, present = checked[0]
        return Steps(values, integers, (), valid if values.dim() == 3 else None, present)

    def _check(self, lengths: Any, name: str, steps: int | None, device: torch.device) -> Marks:
        """Returns lengths as int64, and masks of valid steps and of samples that have any; None where that is all."""
        if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            kind = f"{getattr(lengths, 'dtype', type(lengths).__name__)}: use torch.as_tensor(lengths).long(), or mask.sum(1)"
            raise TypeError(f"lengths of {name!r} must be a tensor of integers, got {kind}")
        batch, least = len(lengths) if self.sized_by is None else self.sized_by[1][0], 1 if lengths is self.raw else 0
        if lengths.shape != (batch,):
            raise ValueError(f"lengths of {name!r} have shape {tuple(lengths.shape)} for {batch} samples: pass ({batch},)")
        numbers = lengths.tolist() if readable(lengths) else []
        most = sys.maxsize if steps is None else steps
        if numbers and not least <= min(numbers) <= max(numbers) <= most:
            at = next(i for i, n in enumerate(numbers) if not least <= n <= most)
            rule = f"a length must lie in {least}..{most}" + least * "; in a mapping, 0 means that it is absent"
            raise ValueError(f"lengths[{at}] of {name!r} is {numbers[at]}, but it has {most} steps: {rule}")
        if numbers and min(numbers) == steps:
            return None, None, None
        if numbers and (steps, *numbers) in self._equal:
            return self._equal[(steps, *numbers)]
        lengths = lengths.to(torch.int64)  # narrow types overflow in comparisons
        valid = None if steps is None else valid_steps(lengths, steps, device).unsqueeze(-1)
        marks = lengths, valid, None if least or (numbers and min(numbers) > 0) else lengths > 0
        self._equal.update({(steps, *numbers): marks} if numbers else {})
        return marks


class Batch(NamedTuple):
    """Holds the arguments of one call.

    Args:
        inputs: Inputs by name.
        lengths: Lengths of the call.
        targets: Those inputs that masks multiply, of shape (B, T_k, D_k) or (B, D_k), with their lengths.
    """

    inputs: Inputs
    lengths: BatchLengths
    targets: dict[str, Steps]


def merge_names(inputs: Any, named: Mapping[str, Any]) -> Inputs:
    """Returns the inputs of a call, which are one mapping or keywords.

    Raises:
        TypeError: if there are both, or something else than a mapping.
    """
    if inputs is None:
        return named
    if named or not isinstance(inputs, Mapping):
        kind = f"{type(inputs).__name__} beside {[*named]}: call latch(inputs) or latch(text=...)"
        raise TypeError(f"inputs must be one mapping, or each input by its name, got {kind}")
    return inputs


def read_batch(inputs: Inputs, lengths: Lengths, sizes: Mapping[str, int]) -> Batch:
    """Checks the inputs and lengths of a call, and reads the targets among the inputs.

    Args:
        inputs: Inputs by name.
        lengths: Lengths of the call.
        sizes: Features D_k of each target among the inputs.

    Raises:
        TypeError: if a name is no string, or a target or lengths are of the wrong kind.
        ValueError: if there is no input, or a shape does not fit.
    """
    if stray := [name for name in inputs if not isinstance(name, str)]:
        raise TypeError(f"names of inputs must be strings, got {stray[0]!r} ({type(stray[0]).__name__})")
    if all([value is None for value in inputs.values()]):
        raise ValueError(f"there is no input: all of {list(inputs)} are None" if inputs else "there is no input: it is empty")
    batch_lengths = BatchLengths(lengths)
    return Batch(inputs, batch_lengths, read_inputs(inputs, batch_lengths, sizes))


def read_inputs(inputs: Inputs, lengths: BatchLengths, sizes: Mapping[str, int | None]) -> dict[str, Steps]:
    """Returns the targets among the inputs: see :func:`read_targets`."""
    if None in sizes.values() and not {*sizes} & {*inputs}:
        raise ValueError(f"the feedback masks {[*sizes]}, but the inputs are {nearest(next(iter(sizes)), inputs)}")
    return read_targets({name: Steps(inputs[name]) for name in sizes if inputs.get(name) is not None}, lengths, sizes)


def read_targets(values: Mapping[str, Steps], lengths: BatchLengths, sizes: Mapping[str, int | None]) -> dict[str, Steps]:
    """Checks the values that masks multiply, and returns them with their lengths.

    Args:
        values: Inputs, or values at sites, as sequences.
        lengths: Lengths of the call.
        sizes: Features D_k of each target, or None where they are unknown.

    Raises:
        TypeError: if a mask cannot multiply a value.
        ValueError: if a shape does not fit.
    """
    targets: dict[str, Steps] = {}
    for name, (x, brought, grid, *_) in values.items():
        if not can_be_masked(x):
            raise TypeError(f"{name!r} has {described(x)}: a mask multiplies floating-point (B, T, D) or (B, D); {SAY_WHO}")
        if (size := sizes[name]) is not None and size != x.shape[-1]:
            raise ValueError(f"{name!r} has {x.shape[-1]} features, but the feedback was built for {size}")
        if x.shape[1] == 0:
            raise ValueError(f"{name!r} has no steps: leave it out, or pass None, where it is absent")
        lengths.sized_by = lengths.sized_by or (name, tuple(x.shape))
        if x.shape[0] != lengths.sized_by[1][0]:
            shapes = "{!r} has shape {} but {!r} has shape {}".format(name, tuple(x.shape), *lengths.sized_by)
            raise ValueError(f"{shapes}: all modalities must have the same batch size")
        steps = lengths.of(name, x) if brought is None else lengths.check(brought, name, x)
        targets[name] = steps._replace(grid=grid) if grid else steps
    return targets


def check_batch_first(batch: Batch) -> None:
    """Raises a ValueError if encodings, or values at sites, have another number of samples than all inputs."""
    counts, sized_by = [x.shape[0] for x in batch.inputs.values() if isinstance(x, Tensor) and x.dim()], batch.lengths.sized_by
    if counts and not torch.compiler.is_compiling() and sized_by is not None and sized_by[1][0] not in counts:
        remedy = f"but the inputs have {counts[0]} samples: make the model batch_first, or say Site(path, 't b d')"
        raise ValueError("{!r} has shape {}, {}".format(*sized_by, remedy))


def can_be_masked(value: Any) -> bool:
    """Tells whether a value has the type and shape of a target."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (2, 3)
