"""The inputs and lengths of one call, read and checked once."""

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from topdown.sequence import MAPPING, TIME_LAST, Lengths, WithLengths, along_batch, described, lengths_of, readable, valid_steps
from topdown.wiring import SAY_WHO, Wiring, nearest

Inputs: TypeAlias = Mapping[str, Any]
Marks: TypeAlias = tuple[Tensor, Tensor | None, Tensor | None]  # lengths, valid and present: see WithLengths

BATCH_FIRST = "make the model batch_first, or say Site(path, 't b d')"


class Batch:
    """Holds the inputs and the lengths of one call, over all its passes. It checks lengths, and makes equal ones one tensor.

    Args:
        inputs: Inputs by name.
        lengths: One tensor for all sequences, a mapping for those that it names, or None.
    """

    def __init__(self, inputs: Inputs, lengths: Lengths) -> None:
        self.inputs, self.lengths, self.by_name = inputs, lengths, isinstance(lengths, MAPPING)
        # Inputs that masks multiply; none while sizes are unknown, or with a ready module: see topdown.sites.read_targets.
        self.targets: dict[str, WithLengths] = {}
        # Name and shape of the first target or encoding that is checked. Others must have its batch size.
        self.first: tuple[str, tuple[int, ...]] | None = None
        # Name and steps of the first use of lengths, to refuse another number of steps; key "": one tensor for all.
        self._steps: dict[str, tuple[str, int]] = {}
        # Marks that were made: for which times and device, from which tensor, from which numbers. The numbers are left out if
        # equal lengths may not share the marks: one tensor for all may not be 0, lengths by name may.
        self._made: list[tuple[Any, Tensor, list[int], Marks]] = []

    def check_names(self, names: Collection[str]) -> None:
        """Raises a ValueError if the lengths have an entry of another name."""
        if stray := [n for n in (self.lengths if isinstance(self.lengths, Mapping) else ()) if n not in names]:
            raise ValueError(f"lengths name {stray[0]!r}, but the modalities are {nearest(stray[0], names)}")

    def with_lengths(self, name: str, values: Tensor, times: tuple[int, ...] = ()) -> WithLengths:
        """Returns values with the lengths of their name in the call, if it has any.

        Args:
            name: Name of an input, a site or an encoding.
            values: Sequences, or vectors, for which lengths by name say in which samples they are present.
            times: Of vectors, what their lengths count, such as the T of token ids (B, T) that are pooled to (B, d). (Default:
                unknown)

        Raises:
            TypeError: if the lengths are not a tensor of integers.
            ValueError: if their shape or a value does not fit, or they were used for another number of steps.
        """
        lengths, times = lengths_of(self.lengths, name), values.shape[1:-1] or times
        if lengths is None or not (self.by_name or values.dim() > 2):
            return WithLengths(values)
        if times:
            steps = math.prod(times)
            first, first_steps = self._steps.setdefault(name if self.by_name else "", (name, steps))
            if steps != first_steps:
                remedy = "return topdown.Padded(values, lengths)" if self.by_name else "pass a mapping from modality to lengths"
                raise ValueError(f"lengths of {first!r} ({first_steps} steps) cannot serve {name!r} ({steps} steps): {remedy}")
        return self.attach(lengths, name, values, times)

    def attach(self, lengths: Any, name: str, values: Tensor, times: tuple[int, ...]) -> WithLengths:
        """Returns values with lengths, those of the call or of an encoding, checked: see :meth:`with_lengths`.

        Lengths that are equal, or are the same tensor, come back as one tensor with the same marks.
        """
        key, for_all = (times, values.device), lengths is self.lengths
        made = [marks for of, tensor, _, marks in self._made if tensor is lengths and of == key]
        if not made:
            numbers = check_lengths(name, lengths, (self.first or (name, values.shape))[1][0], times, least=int(for_all))
            equal = [marks for of, _, n, marks in self._made if numbers and n == numbers and of == key and not for_all]
            made = equal or [make_marks(lengths, numbers, times, values.device, for_all)]
            self._made.append((key, lengths, [] if for_all else numbers, made[0]))
        n, valid, present = made[0]
        if values.dim() == 2:
            valid = None if present is None else along_batch(present, values)
        return WithLengths(values, n, valid, present)


def check_lengths(name: str, lengths: Any, samples: int, times: tuple[int, ...], least: int) -> list[int]:
    """Checks lengths, and returns their numbers; none where Python may not read them.

    Raises:
        TypeError: if they are not a tensor of integers.
        ValueError: if their shape or a value does not fit.
    """
    if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        kind = f"{getattr(lengths, 'dtype', type(lengths).__name__)}: use torch.as_tensor(lengths).long(), or mask.sum(1)"
        raise TypeError(f"lengths of {name!r} must be a tensor of integers, got {kind}")
    if lengths.shape != (samples,):
        raise ValueError(f"lengths of {name!r} have shape {tuple(lengths.shape)} for {samples} samples: pass ({samples},)")
    numbers, steps = lengths.tolist() if readable(lengths) else [], math.prod(times)
    if len(times) > 1 and (stray := {*numbers} - {0, steps}):
        raise ValueError(f"{name!r} is a map: its lengths are 0 or {steps}, not {max(stray)}; say '_', as in 'b d _ t'")
    if outside := [i for i, n in enumerate(numbers) if n < least or (times and n > steps)]:
        has, span = (f", but it has {steps} steps", f"lie in {least}..{steps}") if times else ("", f"be at least {least}")
        rule = f"a length must {span}" + ("; in a mapping, 0 means that it is absent" if least else "")
        raise ValueError(f"lengths[{outside[0]}] of {name!r} is {numbers[outside[0]]}{has}: {rule}")
    return numbers


def make_marks(lengths: Tensor, numbers: list[int], times: tuple[int, ...], device: torch.device, for_all: bool) -> Marks:
    """Returns checked lengths as int64, valid and present; the latter are None where they would mark nothing."""
    n = lengths if lengths.dtype == torch.int64 else lengths.to(torch.int64)  # narrow types overflow in comparisons
    steps, shortest = math.prod(times), min(numbers, default=0)
    valid = valid_steps(n, steps, device).view(-1, *times, 1) if times and shortest < steps else None
    return n, valid, None if for_all or shortest > 0 else n > 0


def inputs_by_name(inputs: Any, named: Mapping[str, Any]) -> Inputs:
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


def read_batch(inputs: Inputs, lengths: Lengths, wiring: Wiring) -> Batch:
    """Checks the inputs and lengths of a call, and reads the targets among the inputs.

    Args:
        inputs: Inputs by name.
        lengths: Lengths of the call.
        wiring: Targets, with the features D_k that feedback was built for.

    Raises:
        TypeError: if a name is not a string, or a target or lengths are of the wrong kind.
        ValueError: if there is no input, or a shape does not fit.
    """
    if stray := [name for name in inputs if not isinstance(name, str)]:
        raise TypeError(f"names of inputs must be strings, got {stray[0]!r} ({type(stray[0]).__name__})")
    if all([value is None for value in inputs.values()]):
        raise ValueError(f"there is no input: all of {list(inputs)} are None" if inputs else "there is no input: it is empty")
    batch = Batch(inputs, lengths)
    batch.targets = input_targets(batch, {k: size for k, size in wiring.target_sizes.items() if k not in wiring.sites})
    return batch


def input_targets(batch: Batch, sizes: Mapping[str, int | None]) -> dict[str, WithLengths]:
    """Returns the inputs that masks multiply, checked, with their lengths. Absent ones are left out.

    Args:
        batch: Inputs and lengths of the call.
        sizes: Features D_k of each, or None where they are unknown.
    """
    inputs: dict[str, Any] = {k: batch.inputs[k] for k in sizes if batch.inputs.get(k) is not None}
    return {k: batch.with_lengths(k, check_target(batch, k, x, sizes[k])) for k, x in inputs.items()}


def check_target(batch: Batch, name: str, x: Any, size: int | None) -> Tensor:
    """Returns a value that masks multiply: an input, or the value at a site, as a sequence.

    Raises:
        TypeError: if a mask cannot multiply it.
        ValueError: if its shape does not fit.
    """
    if not can_be_masked(x):
        raise TypeError(f"{name!r} has {described(x)}: a mask multiplies floating-point (B, T, D) or (B, D); {SAY_WHO}")
    shape = x.shape
    batch.first = batch.first or (name, tuple(shape))
    if size is not None and size != shape[-1]:
        raise ValueError(f"{name!r} has {shape[-1]} features, but the feedback was built for {size}: {TIME_LAST}")
    if shape[1] == 0:
        raise ValueError(f"{name!r} has no steps: leave it out, or pass None, where it is absent")
    if shape[0] != batch.first[1][0]:
        shapes = "{!r} has shape {} but {!r} has shape {}".format(name, tuple(shape), *batch.first)
        raise ValueError(f"{shapes}: all modalities must have the same batch size; if time is first, {BATCH_FIRST}")
    return cast(Tensor, x)


def can_be_masked(value: Any) -> bool:
    """Returns whether a value has the type and shape of a target."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (2, 3) and not value.is_nested
