"""The interface of a backbone: `encode`, which sees each modality, and `fuse`, which predicts from all of them."""

from __future__ import annotations

import copy
import functools
import inspect
import numbers
from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

from topdown.sequence import Lengths

Inputs: TypeAlias = Mapping[str, Any]


@runtime_checkable
class Backbone(Protocol):
    """A model whose bottom-up pass has two halves.

    Any module with these two will do, be they methods or submodules. `encode` must keep the modalities apart, since each is
    masked by what the model has understood of the OTHERS. A latch calls these two and never `forward`. It hands `lengths`, when
    they were given, to whichever of them has that parameter; what they make of padding, and of a modality that is None or
    absent, is theirs to decide.

    When the module also has the attributes `input_sizes` and `encoding_sizes` (mappings from modality to size), a latch reads
    them and builds its feedback at once; otherwise it reads the sizes from an example or from the first call.

    A backbone that wraps another model has that as its `user_model`, to which the paths of sites are relative, and
    `uses_lengths=False` where that model takes none. What `encode` returns may have an attribute `grids`, the (H, W) of
    encodings whose steps are the positions of a map.
    """

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Mapping[str, Any]:
        """Encodes each modality by itself.

        Args:
            inputs: Everything that the latch was given: a sequence of shape (B, T_k, D_k) or a vector of shape (B, D_k) per
                modality k that is masked, and whatever else; None or absent where a modality is missing.
            lengths: Number of valid steps of each sample, of shape (B,), or a mapping from modality to such a tensor.

        Returns:
            Encoding per modality, of shape (B, T_k, d_k), or (B, d_k) when it is pooled over time; or
            :class:`topdown.sequence.Padded`, where the lengths of an encoding are others than those of its input. What is
            neither a tensor with two or more dimensions nor `Padded` is no encoding, and reaches `fuse` as it is.
        """

    def fuse(self, encodings: Mapping[str, Any], lengths: Lengths = None) -> Any:
        """Predicts from the very object that `encode` returned; returns whatever the model predicts."""


def user_model(backbone: nn.Module) -> nn.Module:
    """Returns the model to which paths are relative: the backbone, or the one that it wraps as its `user_model`."""
    model: nn.Module = getattr(backbone, "user_model", backbone)
    return model


TakesLengths: TypeAlias = Literal["needed", "optional", "no", "unknown"]


def takes_lengths(function: Any) -> TakesLengths:
    """Tells whether a function, or the `forward` of a module, has a parameter called `lengths`.

    A decorator or a module that hands everything on is judged by the one thing that it hands it to.

    Returns:
        "needed", "optional" or "no"; "unknown" where any keyword is taken.

    Example:
        >>> takes_lengths(lambda inputs, lengths: inputs), takes_lengths(lambda inputs, lengths=None: inputs)
        ('needed', 'optional')
        >>> takes_lengths(nn.Linear(2, 3)), takes_lengths(lambda *args, **kwargs: args)
        ('no', 'unknown')
    """
    function = function.func if isinstance(function, functools.partial) else function
    plain = inspect.isfunction(function) or inspect.ismethod(function)
    if not plain or any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function, follow_wrapped=False).parameters.values()):
        function = inspect.unwrap(function)
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(called, follow_wrapped=called is not function).parameters
    except ValueError:  # written in C
        return "no"
    if "lengths" in parameters:
        return "needed" if parameters["lengths"].default is inspect.Parameter.empty else "optional"
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return "no"
    cells = getattr(getattr(function, "__func__", function), "__closure__", None) or ()
    held = function.children() if isinstance(function, nn.Module) else (cell.cell_contents for cell in cells)
    inner = [part for part in held if callable(part)]
    hands_on = all(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values())
    return takes_lengths(inner[0]) if hands_on and len(inner) == 1 else "unknown"


def call(function: Callable[..., Any], value: object, lengths: Lengths, takes: TakesLengths) -> Any:
    """Calls a function with `lengths`, when there are any and it takes them: see :func:`takes_lengths`."""
    if takes == "no" or (lengths is None and takes != "needed"):
        return function(value)
    return function(value, lengths=lengths)


def fresh(value: Any) -> Any:
    """Returns a value that may be worked on in place: its tensors, containers, and objects that can be copied, are copies.

    Example:
        >>> ids = torch.tensor([1, 2])
        >>> fresh({"text": {"ids": ids}})["text"]["ids"].add_(1), ids
        (tensor([2, 3]), tensor([1, 2]))
    """
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) is dict:
        return {key: fresh(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)([fresh(part) for part in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(fresh, value))
    if isinstance(value, (dict, UserDict)):  # as a tokenizer returns
        mapping = copy.copy(value)
        for key in value:
            mapping[key] = fresh(value[key])
        return mapping
    if (
        torch.compiler.is_compiling()
        or value is None
        or isinstance(value, (str, bytes, numbers.Number, nn.Module))
        or callable(value)
    ):
        return value
    try:
        return copy.deepcopy(value)  # a cache of keys and values, for one
    except Exception:  # whatever such an object says to it; then it is shared
        return value
