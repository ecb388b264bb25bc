"""What tells settings apart: data sets by a sample of their values, functions by their code and by what they hold."""

from __future__ import annotations

import functools
import hashlib
import json
from types import CodeType, FunctionType
from typing import Any

import torch

from topdown.datasets.data import SequenceDataset

LOOKED_AT = 64  # samples of a data set, evenly spaced, whose values count


def fingerprint(data: SequenceDataset) -> str:
    """Tells data sets apart by their labels, ids, sizes and lengths, and by the values of some samples."""
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


def named(function: object) -> Any:
    """Returns a name for a function that another function of that name does not have.

    Example:
        >>> named("mae"), named(torch.nn.Linear), named(lambda x: x + 1) == named(lambda x: x + 2)
        ('mae', 'Linear', False)
    """
    if isinstance(function, str):
        return function
    if isinstance(function, functools.partial):
        held = [named(function.func), *map(_plain, function.args), *(f"{k}={_plain(v)}" for k, v in function.keywords.items())]
        return f"{held[0]}({', '.join(held[1:])})"
    if isinstance(function, FunctionType):
        held = [_plain(cell.cell_contents) for cell in function.__closure__ or ()]
        content = json.dumps([_code(function.__code__), held, _plain(function.__defaults__), _plain(function.__kwdefaults__)])
        return f"{function.__qualname__} {hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return getattr(function, "__qualname__", type(function).__qualname__)


def _code(code: CodeType) -> list[Any]:
    constants = [_code(value) if isinstance(value, CodeType) else _plain(value) for value in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names)]


def _plain(value: Any) -> str:
    """Describes a value that a function holds: plain ones as they are, all else by name, since it may be anything."""
    if isinstance(value, dict):
        return str({str(key): _plain(held) for key, held in value.items()})
    if isinstance(value, (list, tuple)):
        return str([_plain(held) for held in value])
    if isinstance(value, (str, int, float, bool, bytes, type(None))):
        return repr(value)
    return str(named(value))
