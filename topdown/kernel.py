"""One direction of an LSTM by torch's fused kernel."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


def run_lstm(sequence: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
    """Runs one direction over all steps, in float32 where the machine has no LSTM of the type that is asked for.

    Args:
        sequence: Sequences of shape (B, T, D).
        weights: weight_ih, weight_hh, bias_ih and bias_hh of one direction, in the shapes of :class:`torch.nn.LSTM`.
        training: Whether a backward pass may follow.

    Returns:
        Hidden states of shape (B, T, H), in the type of `sequence`, or of autocast.

    Example:
        >>> weights = [torch.zeros(12, 4), torch.zeros(12, 3), torch.zeros(12), torch.zeros(12)]
        >>> run_lstm(torch.ones(1, 2, 4), weights, training=False)
        tensor([[[0., 0., 0.],
                 [0., 0., 0.]]])
    """
    if sequence.device.type == "cpu":
        dtype = autocast_dtype(sequence) or sequence.dtype
        if dtype in (torch.float16, torch.bfloat16) and not _cpu_has_lstm(dtype, torch.is_grad_enabled()):
            with torch.autocast("cpu", enabled=False):
                return _lstm(sequence.float(), [weight.float() for weight in weights], training).to(dtype)
    return _lstm(sequence, weights, training)


def autocast_dtype(values: Tensor) -> torch.dtype | None:
    """Returns the type that autocast wants where these values are; None where it is off."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _lstm(sequence: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
    zero = sequence.new_zeros(1, sequence.shape[0], weights[1].shape[1])
    output: Tensor = torch.lstm(sequence, (zero, zero), list(weights), True, 1, 0.0, training, False, True)[0]
    return output


@functools.cache
def _cpu_has_lstm(dtype: torch.dtype, grad: bool) -> bool:
    """Tries a small one: which instructions the fused LSTM needs depends on torch, the machine and the environment."""
    with torch.inference_mode(False), torch.set_grad_enabled(grad), torch.autocast("cpu", dtype=dtype):
        weights = [torch.zeros(shape, requires_grad=True, device="cpu") for shape in ((4, 1), (4, 1), (4,), (4,))]
        try:
            _lstm(torch.zeros(1, 2, 1, device="cpu"), weights, training=grad)
        except RuntimeError:  # "could not create a primitive descriptor ..."
            return False
    return True
