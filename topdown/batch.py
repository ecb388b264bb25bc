"""The inputs and lengths of one call, read and checked once."""

from collections.abc import Collection, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from topdown.sequence import MAPPING, TIME_LAST, Lengths, WithLengths, along_batch, described, lengths_of, readable, valid_steps
from topdown.wiring import SAY_WHO, Wiring, nearest

Inputs: TypeAlias = Mapping[str, Any]

BATCH_FIRST = "make the model batch_first, or say Site(path, 't b d')"


class Batch:
    """Holds the inputs and the lengths of one call. It checks the lengths, and makes the marks of equal ones once.

    Args:
        inputs: Inputs by name.
        lengths: One tensor for all sequences, a mapping for those that it names, or None.
    """

    def __init__(self, inputs: Inputs, lengths: Lengths) -> None:
        self.inputs, self.lengths, self.by_name = inputs, lengths, isinstance(lengths, MAPPING)
        self.targets: dict[str, WithLengths] = {}  # inputs that masks multiply, as far as they are known before logits
        # Name and shape of the first target or encoding; others must have its batch size.
        self.first: tuple[str, tuple[int, ...]] | None = None
        # Name and steps of the first use of lengths, to refuse another number of steps; key "": one tensor for all.
        self._steps: dict[str, tuple[str, int]] = {}
        # Lengths, what they were checked for, their numbers and marks: modalities may share a tensor, or have equal numbers in
        # lengths of their own.
        self._checked: list[tuple[Tensor, Any, list[int] | None, Any]] = []

    def check_names(self, names: Collection[str]) -> None:
        """Raises a ValueError if the lengths have an entry of another name."""
        if stray := [n for n in (self.lengths if isinstance(self.lengths, Mapping) else ()) if n not in names]:
            raise ValueError(f"lengths name {stray[0]!r}, but the modalities are {nearest(stray[0], names)}")

    def with_lengths(self, name: str, values: Tensor, steps: int | None = None, grid: tuple[int, ...] = ()) -> WithLengths:
        """Returns values with the lengths of their name in the call, if it has any.

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
        lengths = lengths_of(self.lengths, name)
        is_sequence = values.dim() == 3
        if lengths is None or not (is_sequence or self.by_name):
            return WithLengths(values, None, grid)
        steps = values.shape[1] if is_sequence else steps
        if steps is not None:
            first, first_steps = self._steps.setdefault(name if self.by_name else "", (name, steps))
            if steps != first_steps:
                remedy = "return topdown.Padded(values, lengths)" if self.by_name else "pass a mapping from modality to lengths"
                raise ValueError(f"lengths of {first!r} ({first_steps} steps) cannot serve {name!r} ({steps} steps): {remedy}")
        return self.attach(lengths, name, values, steps, grid)

    def attach(self, lengths: Any, name: str, values: Tensor, steps: int | None, grid: tuple[int, ...]) -> WithLengths:
        """Returns values with lengths, checked: those of the call, or of an encoding. See :meth:`with_lengths`."""
        is_sequence = values.dim() == 3
        key = (values.shape[1] if is_sequence else steps, values.device, grid)
        same = [marks for tensor, of, _, marks in self._checked if tensor is lengths and of == key]
        checked, valid, present = same[0] if same else self._check(name, lengths, *key)
        valid = valid if is_sequence else None if present is None else along_batch(present, values)
        return WithLengths(values, checked, grid, valid, present)

    def _check(self, name: str, lengths: Any, steps: int | None, device: Any, grid: tuple[int, ...]) -> tuple[Any, ...]:
        """Checks lengths, and returns them as int64, valid, and present: see :class:`WithLengths`."""
        if not isinstance(lengths, Tensor) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            kind = f"{getattr(lengths, 'dtype', type(lengths).__name__)}: use torch.as_tensor(lengths).long(), or mask.sum(1)"
            raise TypeError(f"lengths of {name!r} must be a tensor of integers, got {kind}")
        samples, for_all = self.first[1][0] if self.first else len(lengths), lengths is self.lengths
        if lengths.shape != (samples,):
            raise ValueError(f"lengths of {name!r} have shape {tuple(lengths.shape)} for {samples} samples: pass ({samples},)")
        numbers = lengths.tolist() if readable(lengths) else []  # none: Python cannot read them
        if grid and (stray := {*numbers} - {0, steps}):
            raise ValueError(f"{name!r} is a map: its lengths are 0 or {steps}, not {max(stray)}; say '_', as in 'b d _ t'")
        least, most, shortest = int(for_all), float("inf") if steps is None else steps, min(numbers, default=0)
        if outside := [i for i, n in enumerate(numbers) if not least <= n <= most]:
            has, span = (f", but it has {steps} steps", f"lie in {least}..{steps}") if steps else ("", f"be at least {least}")
            rule = f"a length must {span}" + ("; in a mapping, 0 means that it is absent" if for_all else "")
            raise ValueError(f"lengths[{outside[0]}] of {name!r} is {numbers[outside[0]]}{has}: {rule}")
        if same := [marks for _, of, n, marks in self._checked if not for_all and n == numbers and of == (steps, device, grid)]:
            return same[0]  # type: ignore[no-any-return]
        n = lengths if lengths.dtype == torch.int64 else lengths.to(torch.int64)  # narrow types overflow in comparisons
        valid = None if steps is None or (numbers and shortest == steps) else valid_steps(n, steps, device).unsqueeze(-1)
        marks = (n, valid, None if for_all or (numbers and shortest > 0) else n > 0)
        self._checked.append((lengths, (steps, device, grid), numbers if numbers and not for_all else None, marks))
        return marks


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
    inputs = {k: batch.inputs.get(k) for k in sizes}
    return {k: batch.with_lengths(k, check_target(batch, k, x, sizes[k])) for k, x in inputs.items() if x is not None}


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
