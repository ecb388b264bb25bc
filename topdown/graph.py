"""One direction of an LSTM as one operator of a graph, for compilers and exporters.

They take torch's LSTM apart, into as many cells as the example has steps. Compiled and exported, :class:`topdown.SequenceLSTM`
is therefore `topdown::lstm` where no gradient is needed, and `topdown::lstm_training`, which keeps what its backward pass
needs, where oneDNN trains LSTMs. Both exist once `topdown` has been imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topdown.recurrence import run_lstm

LSTM = 2  # number of this kind of recurrence in torch's operators


@torch.library.custom_op("topdown::lstm", mutates_args=())
def _lstm(sequence: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return run_lstm(sequence, weights, training=False).contiguous()


@_lstm.register_fake
def _(sequence: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return sequence.new_empty(*sequence.shape[:2], weights[1].shape[1])


@torch.library.custom_op("topdown::lstm_training", mutates_args=())
def _lstm_training(sequence: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Returns states of shape (T, B, H), the last cell state, of shape (B, H), and what oneDNN keeps for its backward pass.

    Only oneDNN knows the size of that, and compilers leave the graph for sizes they do not know: it is told to be empty.
    """
    time_first, zero = _time_first(sequence, weights)
    options = {"reverse": False, "batch_sizes": [], "batch_first": False, "train": True, **_layer(weights)}
    with torch.enable_grad():  # else oneDNN keeps nothing
        states, _, cell, kept = torch.ops.aten.mkldnn_rnn_layer(time_first, *weights, zero, zero, **options)
    return states, cell, kept[:0]


@_lstm_training.register_fake
def _(sequence: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, size = *sequence.shape[:2], weights[1].shape[1]
    empty = sequence.new_empty
    return empty(steps, batch, size), empty(batch, size), empty(0, dtype=torch.uint8)


@torch.library.custom_op("topdown::lstm_backward", mutates_args=())
def _lstm_backward(
    gradient: Tensor, sequence: Tensor, weights: Sequence[Tensor], states: Tensor, cell: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the gradients of the sequence, of both matrices, and of either bias."""
    time_first, zero = _time_first(sequence, weights)
    options = {"reverse": False, "batch_sizes": [], "batch_first": False, "train": True, **_layer(weights)}
    kept = kept.new_empty(0).set_(kept.untyped_storage())
    if kept.numel() == 0:  # oneDNN would read beyond it
        raise RuntimeError(
            "what a compiled LSTM kept for its backward pass was copied without its storage: do so outside graphs"
        )
    forward = (time_first, *weights, zero, zero, states, states[-1], cell)
    backward = torch.ops.aten.mkldnn_rnn_layer_backward
    found = backward(*forward, gradient.contiguous(), zero, zero, **options, workspace=kept)
    inputs, matrix_ih, matrix_hh, bias = (grad.to(sequence.dtype) for grad in found[:4])
    return inputs.transpose(0, 1).contiguous(), matrix_ih, matrix_hh, bias


@_lstm_backward.register_fake
def _(
    gradient: Tensor, sequence: Tensor, weights: Sequence[Tensor], states: Tensor, cell: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, matrix_ih, matrix_hh, bias = (value.new_empty(value.shape) for value in (sequence, *weights[:3]))
    return inputs, matrix_ih, matrix_hh, bias


def _keep(ctx: Any, inputs: tuple[Tensor, Sequence[Tensor]], output: tuple[Tensor, Tensor, Tensor]) -> None:
    sequence, weights = inputs
    ctx.save_for_backward(sequence, *weights, *output)


def _differentiate(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, list[Tensor]]:
    sequence, *weights, states, cell, kept = ctx.saved_tensors
    inputs, matrix_ih, matrix_hh, bias = torch.ops.topdown.lstm_backward(gradient, sequence, weights, states, cell, kept)
    return inputs, [matrix_ih, matrix_hh, bias, bias]


_lstm_training.register_autograd(_differentiate, setup_context=_keep)


def _time_first(sequence: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns the sequence as oneDNN wants it, and an initial state."""
    return sequence.transpose(0, 1).contiguous(), sequence.new_zeros(len(sequence), weights[1].shape[1])


def _layer(weights: Sequence[Tensor]) -> dict[str, Any]:
    return {"mode": LSTM, "hidden_size": weights[1].shape[1], "num_layers": 1, "has_biases": True, "bidirectional": False}
