"""The inputs and lengths of one call, read and checked once."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from topdown.sequence import MAPPING, TIME_LAST, Lengths, Steps, along_batch, described, lengths_of, readable, valid_steps
from topdown.wiring import SAY_WHO, nearest

Inputs: TypeAlias = Mapping[str, Any]

BATCH_FIRST = "make the model batch_first, or say Site(path, 't b d')"


class Batch:
    """Holds the inputs and the lengths of one call. It checks each tensor of lengths once, and computes its masks once.

    Args:
        inputs: Inputs by name.
        lengths: One tensor for all sequences, a mapping for those that it names, or None.
        disabled: Whether the latch is disabled, and the batch is not checked. (Default: False)
    """

    def __init__(self, inputs: Inputs, lengths: Lengths, *, disabled: bool = False) -> None:
        self.inputs, self.lengths, self.disabled, self.by_name = inputs, lengths, disabled, isinstance(lengths, MAPPING)
        self.targets: dict[str, Steps] = {}  # inputs that masks multiply, of shape (B, T_k, D_k) or (B, D_k)
        self.padded: dict[str, Steps] = {}  # lengths of sites: of the Padded encoding of their name, or of the only encoding
        self.first: tuple[str, tuple[int, ...]] | None = None  # name and shape of the first target or encoding
        # Name and steps of the first use of lengths, to refuse another number of steps; key "": one tensor for all.
        self._steps: dict[str, tuple[str, int]] = {}
        # Tensors of lengths that were checked, by steps, device and grid: modalities may share one tensor.
        self._checked: list[tuple[Tensor, tuple[Any, ...], Steps]] = []
        # The same by values, so that equal lengths in several tensors have one tensor, and one mask.
        self._equal: dict[tuple[Any, ...], Steps] = {}

    def check_names(self, names: Collection[str]) -> None:
        """Raises a ValueError if the lengths have an entry of another name."""
        if stray := [n for n in (self.lengths if isinstance(self.lengths, Mapping) else ()) if n not in names]:
            raise ValueError(f"lengths name {stray[0]!r}, but the modalities are {nearest(stray[0], names)}")

    def with_lengths(self, name: str, values: Tensor, steps: int | None = None, grid: tuple[int, ...] = ()) -> Steps:
        """Returns values with the lengths of their name; without lengths where all steps are valid.

        Args:
            name: Name of an input, a site or an encoding.
            values: Sequences of shape (B, T, D), or vectors of shape (B, D), for which lengths by name say in which
                samples they are present.
            steps: Number of steps that the lengths of a vector count. (Default: unknown)
            grid: Size of each dimension where the steps are positions of a map. (Default: they are times)

        Raises:
            TypeError: if the lengths are not a tensor of integers.
            ValueError: if their shape or a value does not fit, or they were used for another number of steps.
        """
        is_sequence, lengths = values.dim() == 3, lengths_of(self.lengths, name) if self.by_name else self.lengths
        steps = values.shape[1] if is_sequence else steps
        padded = self.padded.get(name) if self.padded and values is not self.inputs.get(name) else None
        if padded and padded.values.dim() == values.dim() == 3 and padded.values.shape[1] == steps and padded.grid == grid:
            return padded._replace(values=values)
        if lengths is None or not (is_sequence or self.by_name):
            return Steps(values, None, grid)
        if steps is not None:
            first, first_steps = self._steps.setdefault(name if self.by_name else "", (name, steps))
            if steps != first_steps:
                remedy = "return topdown.Padded(values, lengths)" if self.by_name else "pass a mapping from modality to lengths"
                raise ValueError(f"lengths of {first!r} ({first_steps} steps) cannot serve {name!r} ({steps} steps): {remedy}")
        return self.check(lengths, name, values, steps, grid)

    def check(self, lengths: Any, name: str, values: Tensor, steps: int | None = None, grid: tuple[int, ...] = ()) -> Steps:
        """Checks lengths, and returns values with them. Equal lengths give the same tensor and the same masks."""
        is_sequence = values.dim() == 3
        key = (values.shape[1] if is_sequence else steps, values.device, grid)
        same = [first for tensor, of, first in self._checked if tensor is lengths and of == key]
        first = same[0] if same else self._check(lengths, name, values, key[0], grid)
        self._checked.append((lengths, key, first))
        valid = first.valid if is_sequence else None if first.present is None else along_batch(first.present, values)
        return Steps(values, first.lengths, grid, valid, first.present)

    def _check(self, lengths: Any, name: str, values: Tensor, steps: int | None, grid: tuple[int, ...]) -> Steps:
        """Checks lengths, and returns values with them as int64 and with their masks; with none where all steps are valid."""
        if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            kind = f"{getattr(lengths, 'dtype', type(lengths).__name__)}: use torch.as_tensor(lengths).long(), or mask.sum(1)"
            raise TypeError(f"lengths of {name!r} must be a tensor of integers, got {kind}")
        batch, for_all = self.first[1][0] if self.first else len(lengths), lengths is self.lengths
        if lengths.shape != (batch,):
            raise ValueError(f"lengths of {name!r} have shape {tuple(lengths.shape)} for {batch} samples: pass ({batch},)")
        numbers = lengths.tolist() if readable(lengths) else []
        if grid and (stray := {*numbers} - {0, steps}):
            raise ValueError(f"{name!r} is a map: its lengths are 0 or {steps}, not {max(stray)}; say '_', as in 'b d _ t'")
        key = (values.device, steps, for_all, *numbers)
        if numbers and key in self._equal:  # symbolic sizes have no hash
            return self._equal[key]
        least, most, shortest = int(for_all), math.inf if steps is None else steps, min(numbers, default=0)
        if numbers and not least <= shortest <= max(numbers) <= most:
            at = next(i for i, n in enumerate(numbers) if not least <= n <= most)
            has, span = (f", but it has {steps} steps", f"lie in {least}..{steps}") if steps else ("", f"be at least {least}")
            rule = f"a length must {span}" + ("; in a mapping, 0 means that it is absent" if for_all else "")
            raise ValueError(f"lengths[{at}] of {name!r} is {numbers[at]}{has}: {rule}")
        if numbers and shortest == steps:
            return Steps(values)
        lengths = lengths if lengths.dtype == torch.int64 else lengths.to(torch.int64)  # narrow types overflow in comparisons
        valid = None if steps is None else valid_steps(lengths, steps, values.device).unsqueeze(-1)
        steps_of_all = Steps(values, lengths, (), valid, None if for_all or (numbers and shortest > 0) else lengths > 0)
        self._equal.update({key: steps_of_all} if numbers else {})
        return steps_of_all


def merge_names(inputs: Any, named: Mapping[str, Any]) -> Inputs:
    """Returns the inputs of a call, which are one mapping or keywords.

    Raises:
        TypeError: if there are both, or something else than a mapping.
    """
    if inputs is None:
        return named
    if named or not isinstance(inputs, MAPPING):
        kind = type(inputs).__name__ + f" beside {[*named]}" * bool(named)
        raise TypeError(f"inputs must be one mapping, or each input by its name, got {kind}: call latch(text=...)")
    return inputs


def read_batch(inputs: Inputs, lengths: Lengths, sizes: Mapping[str, int]) -> Batch:
    """Checks the inputs and lengths of a call, and reads the targets among the inputs.

    Args:
        inputs: Inputs by name.
        lengths: Lengths of the call.
        sizes: Features D_k of each target among the inputs.

    Raises:
        TypeError: if a name is not a string, or a target or lengths are of the wrong kind.
        ValueError: if there is no input, or a shape does not fit.
    """
    if stray := [name for name in inputs if not isinstance(name, str)]:
        raise TypeError(f"names of inputs must be strings, got {stray[0]!r} ({type(stray[0]).__name__})")
    if all([value is None for value in inputs.values()]):
        raise ValueError(f"there is no input: all of {list(inputs)} are None" if inputs else "there is no input: it is empty")
    batch = Batch(inputs, lengths)
    batch.targets = read_inputs(batch, sizes)
    return batch


def read_inputs(batch: Batch, sizes: Mapping[str, int | None]) -> dict[str, Steps]:
    """Returns the targets among the inputs: see :func:`read_targets`. Of unknown sizes, one at least must be an input."""
    if None in [*sizes.values()] and not {*sizes} & {*batch.inputs}:
        raise ValueError(f"the feedback masks {[*sizes]}, but the inputs are {nearest(next(iter(sizes)), batch.inputs)}")
    return read_targets(batch, [(k, x, None, ()) for k in sizes if (x := batch.inputs.get(k)) is not None], sizes)


def read_targets(batch: Batch, values: Sequence[tuple[Any, ...]], sizes: Mapping[str, int | None]) -> dict[str, Steps]:
    """Checks the values that masks multiply, and returns them with their lengths.

    Args:
        batch: Inputs and lengths of the call.
        values: Name, tensor, lengths and grid of each: of an input, or of the values at a site, as a sequence.
        sizes: Features D_k of each target, or None where they are unknown.

    Raises:
        TypeError: if a mask cannot multiply a value.
        ValueError: if a shape does not fit.
    """
    targets: dict[str, Steps] = {}
    for name, x, n, grid in values:
        if not can_be_masked(x):
            raise TypeError(f"{name!r} has {described(x)}: a mask multiplies floating-point (B, T, D) or (B, D); {SAY_WHO}")
        shape, size = x.shape, sizes[name]
        batch.first = batch.first or (name, tuple(shape))
        if size is not None and size != shape[-1]:
            raise ValueError(f"{name!r} has {shape[-1]} features, but the feedback was built for {size}: {TIME_LAST}")
        if shape[1] == 0:
            raise ValueError(f"{name!r} has no steps: leave it out, or pass None, where it is absent")
        if shape[0] != batch.first[1][0]:
            shapes = "{!r} has shape {} but {!r} has shape {}".format(name, tuple(shape), *batch.first)
            raise ValueError(f"{shapes}: all modalities must have the same batch size; if time is first, {BATCH_FIRST}")
        targets[name] = batch.with_lengths(name, x, None, grid) if n is None else batch.check(n, name, x, None, grid)
    return targets


def check_batch_first(batch: Batch) -> None:
    """Raises a ValueError if encodings, or values at sites, have another number of samples than all inputs."""
    counts = [x.shape[0] for x in batch.inputs.values() if isinstance(x, Tensor) and x.dim()]
    if counts and not torch.compiler.is_compiling() and batch.first is not None and batch.first[1][0] not in counts:
        raise ValueError("{!r} has shape {}, but the inputs have {} samples: {}".format(*batch.first, counts[0], BATCH_FIRST))


def can_be_masked(value: Any) -> bool:
    """Returns whether a value has the type and shape of a target."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (2, 3)
