"""One direction of an LSTM over all steps of a padded batch: as torch has it, and as one operator of a graph.

Compilers and exporters take torch's LSTM apart, into as many cells as the example has steps. Where no gradient is needed,
and in exported programs, it is therefore one operator, `topdown::lstm`, which exists once `topdown` has been imported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.6 does not tell


def run_lstm(sequence: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
    """Runs one direction over all steps.

    In float32 where float16 is asked for on a CPU, whose fused kernel does not know it; the states are float16 then.

    Args:
        sequence: Of shape (B, T, D).
        weights: weight_ih, weight_hh, bias_ih and bias_hh of one direction, in the shapes of :class:`torch.nn.LSTM`.
        training: Whether a backward pass may follow.

    Returns:
        Hidden states, of shape (B, T, H).

    Example:
        >>> weights = [torch.zeros(12, 4), torch.zeros(12, 3), torch.zeros(12), torch.zeros(12)]
        >>> run_lstm(torch.ones(1, 2, 4), weights, training=False)
        tensor([[[0., 0., 0.],
                 [0., 0., 0.]]])
    """
    if sequence.device.type == "cpu" and torch.float16 in (sequence.dtype, _autocast_dtype("cpu")):
        with torch.autocast("cpu", enabled=False):
            return run_lstm(sequence.float(), [weight.float() for weight in weights], training).half()
    zero = sequence.new_zeros(1, sequence.shape[0], weights[1].shape[1])
    output: Tensor = torch.lstm(sequence, (zero, zero), list(weights), True, 1, 0.0, training, False, True)[0]
    return output


def run_lstm_in_graph(sequence: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
    """Does what :func:`run_lstm` does, in code that is compiled or exported; a training step leaves the graph for it."""
    if torch.is_grad_enabled() and not _is_exporting():
        from topdown.uncompiled import run_lstm_uncompiled

        states: Tensor = run_lstm_uncompiled(sequence, weights, training)
    else:
        dtype = _autocast_dtype(sequence.device.type) or sequence.dtype  # graphs hold the casts of autocast, not autocast
        states = _lstm(sequence.to(dtype), [weight.to(dtype) for weight in weights])
    return states


@torch.library.custom_op("topdown::lstm", mutates_args=())
def _lstm(sequence: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return run_lstm(sequence, weights, training=False).contiguous()


@_lstm.register_fake
def _(sequence: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return sequence.new_empty(*sequence.shape[:2], weights[1].shape[1])


def _autocast_dtype(device_type: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
