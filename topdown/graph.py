"""One direction of an LSTM in code that is compiled or exported: operators of a graph.

Compilers and exporters take torch's LSTM apart, into as many cells as the example has steps. Here it is `topdown::lstm` where
no gradient is needed, and where oneDNN trains it, `topdown::lstm_training` and `topdown::lstm_backward`. They exist once
`topdown` has been imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from topdown.kernel import autocast_dtype, run_lstm

LSTM = 2  # number of this kind of recurrence in torch's operators
ONEDNN = torch.backends.mkldnn.is_available()  # whether this torch was built with it

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.6 does not tell


def run_in_graph(sequence: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
    """Does what :func:`topdown.kernel.run_lstm` does, in code that is compiled or exported."""
    dtype = autocast_dtype(sequence) or sequence.dtype  # graphs hold the casts of autocast, not autocast
    cast = sequence.to(dtype), [weight.to(dtype) for weight in weights]
    states: Tensor
    if not torch.is_grad_enabled() or _is_exporting():
        states = torch.ops.topdown.lstm(*cast)
    elif sequence.device.type == "cpu" and dtype == torch.float32 and ONEDNN:
        states = TrainedLSTM.apply(cast[0], *cast[1])[0].transpose(0, 1)  # type: ignore[no-untyped-call]
    else:  # torch's compiler knows no other LSTM that trains: this one is left out of the graph
        states = torch.compiler.disable(run_lstm)(sequence, weights, training)
    return states


class TrainedLSTM(torch.autograd.Function):
    """States of an LSTM, of shape (T, B, H), with a backward pass that is an operator, too."""

    @staticmethod
    def forward(*arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns what `topdown::lstm_training` does."""
        sequence, *weights = arguments
        found: tuple[Tensor, Tensor, Tensor] = torch.ops.topdown.lstm_training(sequence, weights)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        """Keeps everything."""
        _, cell, kept = output
        ctx.mark_non_differentiable(cell, kept)
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor, ...]:
        """Returns the gradients of the sequence and the weights."""
        sequence, *weights, states, cell, kept = ctx.saved_tensors
        inputs, matrix_ih, matrix_hh, bias = torch.ops.topdown.lstm_backward(gradient, sequence, weights, states, cell, kept)
        return inputs, matrix_ih, matrix_hh, bias, bias


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
    time_first, zero, options = _for_onednn(sequence, weights)
    if len(sequence) == 0:  # which oneDNN refuses
        return zero.new_zeros(len(time_first), *zero.shape), zero.clone(), zero.new_zeros(0, dtype=torch.uint8)
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
    if len(sequence) == 0:
        nothing, matrix_ih, matrix_hh, bias = (value.new_zeros(value.shape) for value in (sequence, *weights[:3]))
        return nothing, matrix_ih, matrix_hh, bias
    kept = kept.new_empty(0).set_(kept.untyped_storage())
    if kept.numel() == 0:  # oneDNN would read beyond it
        raise RuntimeError("what a compiled LSTM kept for its backward pass was copied without its storage")
    time_first, zero, options = _for_onednn(sequence, weights)
    forward = (time_first, *weights, zero, zero, states, states[-1], cell)
    backward = torch.ops.aten.mkldnn_rnn_layer_backward
    found = backward(*forward, gradient.contiguous(), zero, zero, **options, workspace=kept)
    return found[0].transpose(0, 1).contiguous(), *found[1:4]


@_lstm_backward.register_fake
def _(
    gradient: Tensor, sequence: Tensor, weights: Sequence[Tensor], states: Tensor, cell: Tensor, kept: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    inputs, matrix_ih, matrix_hh, bias = (value.new_empty(value.shape) for value in (sequence, *weights[:3]))
    return inputs, matrix_ih, matrix_hh, bias


def _for_onednn(sequence: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Returns a sequence with time first, an initial state, and the options of oneDNN's layer."""
    size = weights[1].shape[1]
    layer = {"mode": LSTM, "hidden_size": size, "num_layers": 1, "has_biases": True, "bidirectional": False}
    options = {"reverse": False, "batch_sizes": [], "batch_first": False, "train": True, **layer}
    return sequence.transpose(0, 1).contiguous(), sequence.new_zeros(len(sequence), size), options
