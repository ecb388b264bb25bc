"""An LSTM that is exact for padded batches, by torch's fused kernel."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from topdown.sequence import reverse_valid, zero_padding

Directions: TypeAlias = Literal["concatenate", "sum"]

_is_exporting = getattr(torch.compiler, "is_exporting", lambda: False)  # torch 2.6 lacks it


class SequenceLSTM(nn.RNNBase):
    r"""Creates a one-layer LSTM that is exact for padded batches: padding changes no valid output and no gradient.

    The parameters have the names, shapes and initialisation of :class:`torch.nn.LSTM`, so state dicts are
    interchangeable. The initial state is zero, and so is the output at padded steps.

    On CUDA the batch is packed (cuDNN). Elsewhere, and in compiled code, the padded batch goes through torch's fused kernel,
    and the backward direction runs as a forward LSTM on the sequence reversed within its length: the same values, 1.5 to 3
    times as fast as packing on a CPU.

    Args:
        input_size: D, the features of a step.
        hidden_size: H, the size of the hidden state of one direction.
        bidirectional: Whether a second LSTM runs from the last valid step to the first. (Default: False)
        directions: Treatment of the states of both directions, "concatenate" or "sum". (Default: "concatenate", as torch)

    Example:
        >>> lstm = SequenceLSTM(4, 3, bidirectional=True)
        >>> output = lstm(torch.randn(2, 5, 4), torch.tensor([5, 2]))
        >>> output.shape
        torch.Size([2, 5, 6])
        >>> bool(output[1, 2:].eq(0).all())
        True
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, bidirectional: bool = False, directions: Directions = "concatenate"
    ) -> None:
        super().__init__("LSTM", input_size, hidden_size, batch_first=True, bidirectional=bidirectional)
        self.directions = directions

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Runs the LSTM.

        Args:
            sequence: Sequences of shape (B, T, D).
            lengths: Number of valid steps of each sample, of shape (B,); None when all are valid.

        Returns:
            Hidden states of shape (B, T, H); (B, T, 2H), the forward direction first, where directions are concatenated. The
            backward state of a sample at step 0 has seen its whole sequence, the forward one at its last valid step.

        Raises:
            ValueError: if `sequence` is not of shape (B, T, D), or has no step.
        """
        if sequence.dim() != 3 or sequence.shape[-1] != self.input_size or sequence.shape[1] == 0:
            raise ValueError(f"the LSTM takes shape (B, T, {self.input_size}) with T > 0, got {tuple(sequence.shape)}")
        weights = [getattr(self, name) for name in self._flat_weights_names]  # four of each direction
        sequence = zero_padding(sequence, lengths)  # the input, too: 0 times nan is nan in the backward pass
        if sequence.is_cuda and not torch.compiler.is_compiling():
            return self._packed(sequence, lengths, weights)
        states = zero_padding(run_lstm(sequence, weights[:4], self.training), lengths)
        if not self.bidirectional:
            return states
        reverse = zero_padding(run_lstm(reverse_valid(sequence, lengths), weights[4:], self.training), lengths)
        return merge_directions(states, reverse_valid(reverse, lengths), self.directions)

    def _packed(self, sequence: Tensor, lengths: Tensor | None, weights: list[Tensor]) -> Tensor:
        batch, steps, _ = sequence.shape
        # A packed sequence has one step at least; the states of a sample without steps are set to zero afterwards.
        counts = torch.full((batch,), steps, device="cpu") if lengths is None else lengths.cpu().clamp(min=1)
        # torch would sort, too, but waits for the device to read the order.
        order = counts.argsort(descending=True)
        to_sorted, to_original = (i.to(sequence.device, non_blocking=True) for i in (order, order.argsort()))
        packed = pack_padded_sequence(sequence.index_select(0, to_sorted), counts[order], batch_first=True)
        zero = sequence.new_zeros(2 if self.bidirectional else 1, batch, self.hidden_size)
        # cuDNN has a backward pass only in training mode, and a frozen encoder in evaluation mode needs one for the masks.
        train = self.training or torch.is_grad_enabled()
        states, *_ = torch.lstm(packed.data, packed.batch_sizes, (zero, zero), weights, True, 1, 0.0, train, self.bidirectional)
        padded = pad_packed_sequence(packed._replace(data=states), batch_first=True, total_length=steps)[0]
        output, summed = padded.index_select(0, to_original), self.bidirectional and self.directions == "sum"
        return zero_padding(output.unflatten(-1, (2, -1)).sum(-2) if summed else output, lengths)


def merge_directions(forward: Tensor, backward: Tensor, directions: Directions) -> Tensor:
    """Returns the states of both directions as one, of shape (..., H) for "sum" and (..., 2H) for "concatenate".

    Example:
        >>> merge_directions(torch.ones(1, 2), torch.ones(1, 2), "sum")
        tensor([[2., 2.]])
    """
    return forward + backward if directions == "sum" else torch.cat([forward, backward], dim=-1)


def run_lstm(sequence: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
    """Runs one direction over all steps, in float32 where the machine has no LSTM of the type of the sequence.

    Args:
        sequence: Sequences of shape (B, T, D).
        weights: weight_ih, weight_hh, bias_ih and bias_hh of one direction, in the shapes of :class:`torch.nn.LSTM`.
        training: Whether the module is in training mode.

    Returns:
        Hidden states of shape (B, T, H), in the type of `sequence`, or of autocast.

    Example:
        >>> weights = [torch.zeros(12, 4), torch.zeros(12, 3), torch.zeros(12), torch.zeros(12)]
        >>> run_lstm(torch.ones(1, 2, 4), weights, training=False)
        tensor([[[0., 0., 0.],
                 [0., 0., 0.]]])
    """
    if torch.compiler.is_compiling():  # compilers and exporters would take torch's LSTM apart, into as many cells as steps
        if torch.is_grad_enabled() and not _is_exporting():
            return cast(Tensor, torch.compiler.disable(run_lstm)(sequence, weights, training))
        # The operator is in export.py. Graphs hold the casts of autocast, not autocast.
        dtype = autocast_dtype(sequence) or sequence.dtype
        return cast(Tensor, torch.ops.topdown.lstm(sequence.to(dtype), [weight.to(dtype) for weight in weights]))
    try:
        return _lstm(sequence, weights, training)
    except RuntimeError:  # "could not create a primitive descriptor ...": which types there are depends on the processor
        dtype = autocast_dtype(sequence) or sequence.dtype
        if sequence.device.type != "cpu" or dtype not in (torch.float16, torch.bfloat16):
            raise
        with torch.autocast("cpu", enabled=False):
            return _lstm(sequence.float(), [weight.float() for weight in weights], training).to(dtype)


def autocast_dtype(values: Tensor) -> torch.dtype | None:
    """Returns the type that autocast wants where these values are; None where it is off."""
    return torch.get_autocast_dtype(values.device.type) if torch.is_autocast_enabled(values.device.type) else None


def _lstm(sequence: Tensor, weights: Sequence[Tensor], training: bool) -> Tensor:
    zero = sequence.new_zeros(1, sequence.shape[0], weights[1].shape[1])
    # The mode is that of _packed, since compiled code on a GPU comes here.
    return torch.lstm(sequence, (zero, zero), [*weights], True, 1, 0.0, training or torch.is_grad_enabled(), False, True)[0]
