"""One direction of an LSTM as one operator of a graph, `topdown::lstm`, for compilers and exporters.

They take torch's LSTM apart, into as many cells as the example has steps. Where no gradient is needed, and in exported
programs, :class:`topdown.SequenceLSTM` is therefore this operator, which exists once `topdown` has been imported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from topdown.recurrence import run_lstm


@torch.library.custom_op("topdown::lstm", mutates_args=())
def _lstm(sequence: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return run_lstm(sequence, weights, training=False).contiguous()


@_lstm.register_fake
def _(sequence: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return sequence.new_empty(*sequence.shape[:2], weights[1].shape[1])
