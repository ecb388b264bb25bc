"""The crossmodal transformer of MulT: one sequence attends to another, layer after layer."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from topdown.dropout import Dropout, dropout
from topdown.sequence import valid_steps

DropoutOn = Literal["keys", "weights"]


class MultiheadAttention(nn.Module):
    r"""Creates multi-head attention from one sequence to another, never with an explicit softmax.

    Attention dropout is the one thing that keeps torch's fused kernel for CPUs from being used: with it, torch computes
    the weights of all heads explicitly, in several copies (at T = 500 four times as slow, and most of the memory of
    training). On "keys", whole keys are dropped for all queries of a head at once, which costs nothing: a weight survives
    with the same probability, but those of one key together. On "weights" is the original, weight by weight.

    Args:
        size: Of queries, keys and output.
        num_heads: By which `size` must be divisible.
        dropout: Share of the attention weights that is dropped in training.
        dropout_on: "keys" or "weights".

    Example:
        >>> MultiheadAttention(40, 8, dropout=0.1)(torch.zeros(2, 5, 40), torch.zeros(2, 9, 40), None).shape
        torch.Size([2, 5, 40])
    """

    def __init__(self, size: int, num_heads: int, *, dropout: float, dropout_on: DropoutOn = "keys") -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.dropout_on = dropout_on
        self.projections = xavier(size, 3 * size)  # of query, key and value, in this order
        self.output = xavier(size, size)

    def forward(self, queries: Tensor, keys: Tensor, allowed: Tensor | None) -> Tensor:
        """Attends from queries (B, T, D) to keys (B, S, D), where `allowed` (B or 1, 1, T, S) is True or None."""
        size = self.output.in_features
        if queries is keys:
            query, key, value = self.projections(queries).chunk(3, dim=-1)
        else:
            query = linear(queries, self.projections.weight[:size], self.projections.bias[:size])
            key, value = linear(keys, self.projections.weight[size:], self.projections.bias[size:]).chunk(2, dim=-1)
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        probability = self.dropout if self.training else 0.0
        if probability and self.dropout_on == "keys":
            value = value * dropout(torch.ones_like(value[..., :1]), probability)
            probability = 0.0
        attended = scaled_dot_product_attention(query, key, value, attn_mask=allowed, dropout_p=probability)
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return result


class TransformerLayer(nn.Module):
    r"""Creates a pre-norm layer.

    .. math::
        x &\leftarrow x + \mathrm{MHA}(\mathrm{LN}_0(x), \mathrm{LN}_0(s))      & \text{the same norm for both} \\
        x &\leftarrow x + W_2 \, \mathrm{relu}(W_1 \, \mathrm{LN}_1(x))         & \text{of width } 4 D

    Args:
        size: D, of both sequences.
        num_heads: Of the attention.
        attention_dropout: On the attention weights.
        relu_dropout: After the relu.
        residual_dropout: On what is added, both times.
        dropout_on: See :class:`MultiheadAttention`.

    Example:
        >>> layer = TransformerLayer(40, 8)
        >>> layer(torch.zeros(2, 5, 40), torch.zeros(2, 9, 40), None).shape
        torch.Size([2, 5, 40])
    """

    def __init__(
        self,
        size: int,
        num_heads: int,
        *,
        attention_dropout: float = 0.0,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        dropout_on: DropoutOn = "keys",
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = MultiheadAttention(size, num_heads, dropout=attention_dropout, dropout_on=dropout_on)
        self.feedforward_norm = nn.LayerNorm(size)
        self.expand = xavier(size, 4 * size)
        self.contract = xavier(4 * size, size)
        self.relu_dropout = Dropout(relu_dropout)
        self.residual_dropout = Dropout(residual_dropout)

    def forward(self, sequence: Tensor, source: Tensor | None, allowed: Tensor | None) -> Tensor:
        """Maps a sequence (B, T, D) to the same shape; it attends to `source` (B, S, D), or to itself when that is None."""
        normed = self.attention_norm(sequence)
        keys = normed if source is None else self.attention_norm(source)
        sequence = sequence + self.residual_dropout(self.attention(normed, keys, allowed))
        hidden = self.relu_dropout(torch.relu(self.expand(self.feedforward_norm(sequence))))
        result: Tensor = sequence + self.residual_dropout(self.contract(hidden))
        return result


class Transformer(nn.Module):
    r"""Creates a stack of layers, in which a sequence attends to a source that stays the same, or to itself.

    Both enter as :math:`\sqrt{D} u_t + PE_{t+1}` and the result passes a last layer norm.

    Args:
        size: D, of both sequences.
        num_layers: How many layers.
        num_heads: Of every attention.
        embedding_dropout: On what enters.
        attention_dropout: On the attention weights.
        relu_dropout: After each relu.
        residual_dropout: On what each layer adds.
        dropout_on: See :class:`MultiheadAttention`.

    Example:
        >>> Transformer(40, 2, 8)(torch.zeros(2, 5, 40), torch.zeros(2, 9, 40)).shape
        torch.Size([2, 5, 40])
    """

    def __init__(
        self,
        size: int,
        num_layers: int,
        num_heads: int,
        *,
        embedding_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        relu_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        dropout_on: DropoutOn = "keys",
    ) -> None:
        super().__init__()
        self.embedding_dropout = Dropout(embedding_dropout)
        self.layers = nn.ModuleList(
            [
                TransformerLayer(
                    size,
                    num_heads,
                    attention_dropout=attention_dropout,
                    relu_dropout=relu_dropout,
                    residual_dropout=residual_dropout,
                    dropout_on=dropout_on,
                )
                for _ in range(num_layers)
            ]
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, sequence: Tensor, source: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """Maps a sequence (B, T, D) to the same shape.

        Args:
            sequence: What attends.
            source: What it attends to, of shape (B, S, D); None for itself.
            allowed: Where attention may go, broadcast to (B, heads, T, S); None for everywhere.
        """
        sequence = self._embed(sequence)
        source = None if source is None else self._embed(source)
        for layer in self.layers:
            sequence = layer(sequence, source, allowed)
        result: Tensor = self.norm(sequence)
        return result

    def _embed(self, sequence: Tensor) -> Tensor:
        _, steps, size = sequence.shape
        positions = sinusoids(steps, size, device=sequence.device, dtype=sequence.dtype)
        embedded: Tensor = self.embedding_dropout(math.sqrt(size) * sequence + positions)
        return embedded


def sinusoids(steps: int, size: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Returns the positional embedding of T steps, numbered from 1.

    .. math:: PE_n = [\sin(n w_0), \dots, \sin(n w_{h-1}), \cos(n w_0), \dots], \quad w_i = 10000^{-i / (h-1)}, \quad h = D / 2

    Args:
        steps: T.
        size: D; a zero is appended when it is odd.
        device: Where to make it.
        dtype: Of the result; half precision is rounded from single.

    Returns:
        Of shape (T, D).

    Example:
        >>> sinusoids(2, 4)[:, :2]
        tensor([[8.4147e-01, 1.0000e-04],
                [9.0930e-01, 2.0000e-04]])
    """
    half = size // 2
    wide = torch.promote_types(dtype, torch.float32)
    rates = torch.exp(torch.arange(half, device=device, dtype=wide) * (-math.log(10000) / max(half - 1, 1)))
    angles = torch.arange(1, steps + 1, device=device, dtype=wide).unsqueeze(1) * rates
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, size % 2)).to(dtype)


def attention_mask(
    steps: tuple[int, int], lengths: tuple[Tensor | None, Tensor | None], *, causal: bool, device: torch.device
) -> Tensor | None:
    r"""Tells which keys each query may attend to.

    Keys beyond their length are forbidden. When `causal`, so is key j for query i when :math:`j > i + |n - m|`, for m
    valid queries and n valid keys: MulT's mask for sequences of different length.

    Args:
        steps: T of the padded queries and S of the padded keys.
        lengths: Valid steps of queries and of keys, each of shape (B,) or None.
        causal: Whether the future is hidden.
        device: Where to make it.

    Returns:
        Of shape (B, 1, T, S), or (1, 1, T, S), True where attention may go; None where it may go everywhere.

    Example:
        >>> attention_mask((2, 3), (None, None), causal=True, device=torch.device("cpu")).int()
        tensor([[[[1, 1, 0],
                  [1, 1, 1]]]], dtype=torch.int32)
    """
    queries, keys = steps
    valid = None if lengths[1] is None else valid_steps(lengths[1], keys, device)[:, None, None, :]
    if not causal:
        return valid
    m = torch.tensor([queries]) if lengths[0] is None else lengths[0]
    n = torch.tensor([keys]) if lengths[1] is None else lengths[1]
    shift = (n - m).abs().to(device).view(-1, 1, 1, 1)
    query, key = torch.arange(queries, device=device).unsqueeze(1), torch.arange(keys, device=device)
    past = key <= query + shift
    return past if valid is None else past & valid


def xavier(input_size: int, output_size: int) -> nn.Linear:
    """Makes a linear map with Xavier's uniform initialisation and no bias at the start, as all of MulT's transformers."""
    layer = nn.Linear(input_size, output_size)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
