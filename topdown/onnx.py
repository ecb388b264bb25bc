"""ONNX: the operator `topdown::lstm` of exported programs as ONNX's own LSTM. Needs the extra `onnx`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

try:
    from onnxscript import opset18
except ImportError as error:
    raise ImportError("ONNX export needs the extra 'onnx': pip install 'topdown-latch[onnx]'") from error

op: Any = opset18


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Returns what `torch.onnx.export(..., dynamo=True, custom_translation_table=translations())` needs for a latch with LSTMs.

    Importing this module raises an ImportError where the extra is not installed.

    Example:
        >>> list(translations())
        [<OpOverload(op='topdown.lstm', overload='default')>]
    """
    return {torch.ops.topdown.lstm.default: _lstm}


def _lstm(sequence: Any, weights: Sequence[Any]) -> Any:
    weight_ih, weight_hh, bias_ih, bias_hh = weights
    size = int(weight_hh.shape[1])
    bias = op.Concat(_gates(bias_ih, size), _gates(bias_hh, size), axis=1)
    states, _, _ = op.LSTM(
        op.Transpose(sequence, perm=[1, 0, 2]), _gates(weight_ih, size), _gates(weight_hh, size), bias, hidden_size=size
    )
    return op.Transpose(op.Squeeze(states, op.Constant(value_ints=[1])), perm=[1, 0, 2])  # (T, 1, B, H) to (B, T, H)


def _gates(tensor: Any, size: int) -> Any:
    """Turns torch's order of gates (input, forget, cell, output) into that of ONNX, for its one direction."""
    zero = op.Constant(value_ints=[0])
    parts = [
        op.Slice(tensor, op.Constant(value_ints=[gate * size]), op.Constant(value_ints=[(gate + 1) * size]), zero)
        for gate in (0, 3, 1, 2)
    ]
    return op.Unsqueeze(op.Concat(*parts, axis=0), zero)
