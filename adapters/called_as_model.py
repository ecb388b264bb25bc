"""Gives a latch the signature of the model that it wraps."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any, cast

from torch import nn

from topdown.sequence import Lengths

Parameters = tuple[tuple[str, Any, bool], ...]  # name, kind, and whether it has a default


class CalledAsModel(nn.Module):
    """Mixin: calls a latch around a :class:`HookedBackbone` with the arguments of its model.

    Tools that read signatures, such as Hugging Face's Trainer, find the inputs and the labels of the model.
    """

    backbone: Any
    _built_from: tuple[type[nn.Module], Parameters]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the latch with the arguments of the model, beside which there may be `lengths`."""
        return super().forward(*bind(self.backbone.model, args, kwargs))

    def masks(self, *args: Any, **kwargs: Any) -> Any:
        """Returns masks: see :meth:`topdown.TopDownLatch.masks`."""
        return super().masks(*bind(self.backbone.model, args, kwargs))  # type: ignore[misc]

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """Returns masks, encodings and output: see :meth:`topdown.TopDownLatch.trace`."""
        return super().trace(*bind(self.backbone.model, args, kwargs))  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        state: tuple[Any, ...] = super().__reduce_ex__(2)  # type: ignore[assignment]
        return _empty, self._built_from, *state[2:]


def latch_class(base: Any, model: nn.Module) -> type[nn.Module]:
    """Returns the class of latches around a model, whose `forward` has the signature of the model's.

    A subclass of the user that overrides `forward` is returned unchanged.
    """
    if issubclass(base, CalledAsModel) or base.forward.__module__ != "topdown.latch":
        return cast(type[nn.Module], base)
    parameters = inspect.signature(model.forward).parameters.values()
    return _latch_class(base, tuple((p.name, p.kind, p.default is not p.empty) for p in parameters))


@functools.cache
def _latch_class(base: Any, parameters: Parameters) -> type[nn.Module]:
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return CalledAsModel.forward(self, *args, **kwargs)

    receiver = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    shown = [inspect.Parameter(name, kind, default=None if optional else receiver.empty) for name, kind, optional in parameters]
    if not any(p.kind == p.POSITIONAL_ONLY for p in shown):
        receiver = receiver.replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward.__signature__ = inspect.Signature([receiver, *shown])  # type: ignore[attr-defined]
    forward.__doc__ = CalledAsModel.forward.__doc__
    namespace = {"forward": forward, "_built_from": (base, parameters), "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (CalledAsModel, base), namespace)


def _empty(base: Any, parameters: Parameters) -> nn.Module:
    latch_type = _latch_class(base, parameters)
    return latch_type.__new__(latch_type)


def bind(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Mapping[str, Any], Lengths]:
    """Returns the arguments of a call by the names of the model's `forward`, and the lengths.

    A mapping with names of `forward` holds the arguments by name, and lengths may follow it.

    Raises:
        TypeError: if there are too many arguments, or one is passed twice.

    Example:
        >>> class Model(nn.Module):
        ...     def forward(self, image, text=None): ...
        >>> bind(Model(), (1, 2), {}), bind(Model(), ({"image": 1},), {"lengths": 3})
        (({'image': 1, 'text': 2}, None), ({'image': 1}, 3))
    """
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    named = dict(kwargs)
    lengths = named.pop("lengths", None)
    if len(args) in (1, 2) and isinstance(args[0], Mapping) and not named and (not names or {*args[0]} & {*names}):
        return args[0], args[1] if len(args) == 2 else lengths
    if len(args) > len(names):
        takes = f"({', '.join(map(str, parameters))})"
        remedy = "pass each by its name, or wrap the model in a module whose forward names all arguments"
        raise TypeError(f"the model takes {takes}, but got {len(args)} positional arguments: {remedy}")
    if twice := [name for name in names[: len(args)] if name in kwargs]:
        raise TypeError(f"{twice[0]!r} is there twice, as a positional argument and by name: pass it once")
    named.update({name: value for name, value in zip(names, args)})  # noqa: B905  torch 2.6 compiles no `strict=`
    lengths = named.pop("lengths", lengths)
    return named, lengths
