"""The operator `topdown::lstm`, one direction of an LSTM in graphs that are exported or compiled, and its ONNX form.

It exists once `topdown` has been imported. The ONNX form needs the extra `onnx`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from topdown.files import require
from topdown.lstm import run_lstm


@torch.library.custom_op("topdown::lstm", mutates_args=(), schema="(Tensor sequence, Tensor[] weights) -> Tensor")
def _lstm(sequence: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return run_lstm(sequence, weights, training=False).contiguous()


@_lstm.register_fake  # the shape of the result, for tracing
def _(sequence: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return sequence.new_empty(*sequence.shape[:2], weights[1].shape[1])


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Returns what `torch.onnx.export(..., dynamo=True, custom_translation_table=translations())` needs for a latch with LSTMs.

    Raises:
        ImportError: without the extra `onnx`.
    """
    op: Any = require("onnxscript", "onnx").opset18

    def number(value: int) -> Any:
        return op.Constant(value_ints=[value])

    def gates(tensor: Any, size: int) -> Any:
        """Turns torch's order of gates (input, forget, cell, output) into that of ONNX, for its one direction."""
        parts = [op.Slice(tensor, number(gate * size), number((gate + 1) * size), number(0)) for gate in (0, 3, 1, 2)]
        return op.Unsqueeze(op.Concat(*parts, axis=0), number(0))

    def lstm(sequence: Any, weights: Sequence[Any]) -> Any:
        weight_ih, weight_hh, bias_ih, bias_hh = weights
        size = int(weight_hh.shape[1])
        matrices = [gates(weight, size) for weight in (weight_ih, weight_hh)]
        biases = op.Concat(gates(bias_ih, size), gates(bias_hh, size), axis=1)
        states, _, _ = op.LSTM(op.Transpose(sequence, perm=[1, 0, 2]), *matrices, biases, hidden_size=size)
        return op.Transpose(op.Squeeze(states, number(1)), perm=[1, 0, 2])  # (T, 1, B, H) to (B, T, H)

    return {torch.ops.topdown.lstm.default: lstm}
