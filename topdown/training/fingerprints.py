"""Fingerprints of settings, used to refuse resuming a different run."""

from __future__ import annotations

import functools
import hashlib
import json
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from topdown.datasets.data import SequenceDataset

LOOKED_AT = 64  # evenly spaced samples of a data set whose values are hashed


def fingerprint(data: SequenceDataset) -> str:
    """Returns a hash of a data set: its labels, ids, sizes and lengths, and the values of some samples."""
    digest = hashlib.sha256(b"" if data.labels is None else data.labels.numpy().tobytes())
    digest.update(json.dumps([data.ids, data.sizes]).encode())
    for lengths in data.lengths.values():
        digest.update(lengths.numpy().tobytes())
    for i in torch.linspace(0, len(data) - 1, min(LOOKED_AT, len(data)), device="cpu").long().tolist():
        for values in data[i].inputs.values():
            digest.update(values.contiguous().numpy().tobytes())
    for corruption in data.corruptions:
        digest.update(json.dumps([corruption.kind, corruption.names]).encode())
        digest.update(corruption.severity.numpy().tobytes() + corruption.seeds.numpy().tobytes())
    return digest.hexdigest()[:16]


def named(function: object, depth: int = 3) -> Any:
    """Returns a function's name with a hash of its code and captured values.

    The hash covers captured values, and global plain values, functions and classes of the same file, down to `depth`. It
    covers the type and the shapes of the state of a module, and only the name of a class of torch or topdown.

    Example:
        >>> named("mae"), named(torch.nn.Linear), named(lambda x: x + 1) == named(lambda x: x + 2)
        ('mae', 'Linear', False)
    """
    if isinstance(function, str):
        return function
    if isinstance(function, functools.partial):
        held = [*map(_plain, function.args), *(f"{name}={_plain(value)}" for name, value in function.keywords.items())]
        return f"{named(function.func, depth)}({', '.join(held)})"
    if isinstance(function, MethodType):
        return f"{_plain(function.__self__, depth)}.{named(function.__func__, depth)}"
    if isinstance(function, FunctionType):
        held = [
            _plain(cell.cell_contents, depth - 1) for cell in function.__closure__ or () if cell.cell_contents is not function
        ]
        defaults = [_plain(function.__defaults__, depth - 1), _plain(function.__kwdefaults__, depth - 1)]
        global_values = [_plain(function.__globals__[name], depth - 1) for name in _global_names(function)]
        return f"{function.__qualname__} {_short([_code(function.__code__, depth), held, defaults, global_values])}"
    if isinstance(function, torch.nn.Module):
        shapes = [[name, None if is_lazy(value) else list(value.shape)] for name, value in function.state_dict().items()]
        return f"{type(function).__qualname__} {_short(shapes)}"
    if isinstance(function, type) and depth > 0 and not function.__module__.startswith(("torch.", "topdown.")):
        methods = {name: value for name, value in vars(function).items() if isinstance(value, FunctionType)}
        return f"{function.__qualname__} {_short([[name, named(value, depth - 1)] for name, value in sorted(methods.items())])}"
    if isinstance(function, (type, BuiltinFunctionType)) or depth <= 0:
        return getattr(function, "__qualname__", type(function).__qualname__)
    return f"{type(function).__qualname__} {_short(_plain(getattr(function, '__dict__', {}), depth - 1))}"


def _global_names(function: FunctionType) -> list[str]:
    """Returns the global names of a function that refer to plain values, or to functions and classes of its file."""
    values, plain = function.__globals__, (str, int, float, bool, tuple, list, dict, set, frozenset)
    return [
        name
        for name in dict.fromkeys(_names(function.__code__))
        if isinstance(values.get(name), plain)
        or (isinstance(values.get(name), (FunctionType, type)) and values[name].__module__ == function.__module__)
    ]


def _names(code: CodeType) -> list[str]:
    """Returns the global names of code, and of the functions within it."""
    inner = [name for value in code.co_consts if isinstance(value, CodeType) for name in _names(value)]
    return [*code.co_names, *inner]


def _short(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:8]


def _code(code: CodeType, depth: int) -> list[Any]:
    constants = [_code(value, depth) if isinstance(value, CodeType) else _plain(value, depth) for value in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _plain(value: Any, depth: int = 3) -> str:
    """Describes a captured value: a plain value by itself, any other by the name of its type."""
    if isinstance(value, dict):
        return str({str(key): _plain(held, depth - 1) for key, held in value.items()})
    if isinstance(value, (list, tuple)):
        return str([_plain(held, depth - 1) for held in value])
    if isinstance(value, (set, frozenset)):
        return str(sorted(_plain(held, depth - 1) for held in value))
    if isinstance(value, (str, int, float, bool, bytes, type(None))):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {_short(value.detach().cpu().tolist())}"
    return str(named(value, depth - 1)) if depth > 0 else type(value).__qualname__
