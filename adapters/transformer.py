"""Implements the crossmodal transformer of MulT."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from topdown.adapters.dropout import Dropout, dropout
from topdown.sequence import valid_steps

DropoutOn = Literal["keys", "weights"]
SMALL = 64 * 64  # largest number of weights of a head that are computed explicitly


class MultiheadAttention(nn.Module):
    r"""Multi-head attention within a sequence, or from one sequence to another.

    Attention dropout is the one thing that keeps torch's fused kernel for CPUs from being used: with it, torch computes
    the weights of all heads explicitly, in several copies (at T = 500 four times as slow, and most of the memory of
    training). On "keys", whole keys are dropped for all queries of a head at once, which costs nothing: a weight survives
    with the same probability, but those of one key together. On "weights" is the original, weight by weight.

    Query, key and value of one sequence come from one matrix product; between two sequences, key and value do.

    Args:
        size: D, the size of queries, keys and output.
        num_heads: Number of heads, by which `size` must be divisible.
        dropout: Share of the attention weights that is dropped in training.
        dropout_on: Unit of that dropout, "keys" or "weights". (Default: "keys")
        cross: Whether keys come from another sequence than queries. (Default: False)

    Example:
        >>> MultiheadAttention(40, 8, dropout=0.1, cross=True)(torch.zeros(2, 5, 40), torch.zeros(2, 9, 40), None).shape
        torch.Size([2, 5, 40])
    """

    def __init__(
        self, size: int, num_heads: int, *, dropout: float, dropout_on: DropoutOn = "keys", cross: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.dropout_on = dropout_on
        # Initialise as the single matrix (3D, D) of the public code, even where it is split in two.
        if cross:
            self.query, self.key_value = xavier(size, size, stacked=3 * size), xavier(size, 2 * size, stacked=3 * size)
        else:
            self.query_key_value = xavier(size, 3 * size)
        self.cross = cross
        self.output = xavier(size, size)

    def forward(self, queries: Tensor, keys: Tensor | None, bias: Tensor | None) -> Tensor:
        """Attends from one sequence to another, or to itself.

        Args:
            queries: Sequence of shape (B, T, D).
            keys: Sequence of shape (B, S, D), for attention across; None within `queries`.
            bias: What is added to the scores, of shape (B or 1, 1, T or 1, S): see :func:`attention_bias`; None for
                nothing.

        Returns:
            Attended values of shape (B, T, D).
        """
        if self.cross:
            query, (key, value) = self.query(queries), self.key_value(keys).chunk(2, dim=-1)
        else:
            query, key, value = self.query_key_value(queries).chunk(3, dim=-1)
        query, key, value = (x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        probability = self.dropout if self.training else 0.0
        if probability and self.dropout_on == "keys":
            value = value * dropout(torch.ones_like(value[..., :1]), probability)
            probability = 0.0
        attended = attend(query, key, value, bias, probability)
        result: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return result


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, probability: float) -> Tensor:
    r"""Computes :math:`\mathrm{softmax}(q k^\top / \sqrt{d} + b) \, v`, fused, or in three steps where that is faster.

    On a CPU, torch's fused kernel is made for long sequences: up to 64 steps or so, with the few numbers that a head has in
    MulT, two batched products and a softmax are faster (`benchmarks/mult.py`).

    Args:
        query: Queries of shape (B, heads, T, d).
        key: Keys of shape (B, heads, S, d).
        value: Values of shape (B, heads, S, d).
        bias: What is added to the scores, of shape (B or 1, 1, T or 1, S); None for nothing.
        probability: Share of the weights that is dropped.

    Returns:
        Attended values of shape (B, heads, T, d).
    """
    batch, heads, steps, size = query.shape
    bias = None if bias is None else bias.to(query.dtype)  # autocast does not convert it
    if query.device.type != "cpu" or torch.compiler.is_compiling() or steps * key.shape[2] > SMALL:
        return scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=probability)
    flat = [x.reshape(batch * heads, -1, size) for x in (query, key, value)]
    if bias is None:
        bias = query.new_zeros(1)
    else:
        bias = bias[0, 0] if len(bias) == 1 else bias.expand(-1, heads, -1, -1).reshape(batch * heads, *bias.shape[2:])
    scores = torch.baddbmm(bias, flat[0], flat[1].transpose(1, 2), alpha=size**-0.5)
    weights = nn.functional.dropout(scores.softmax(-1), probability, probability > 0.0)
    return torch.bmm(weights, flat[2]).view(batch, heads, steps, size)


class TransformerLayer(nn.Module):
    r"""Pre-norm transformer layer.

    .. math::
        x &\leftarrow x + \mathrm{MHA}(\mathrm{LN}_0(x), \mathrm{LN}_0(s))      & \text{the same norm for both} \\
        x &\leftarrow x + W_2 \, \mathrm{relu}(W_1 \, \mathrm{LN}_1(x))         & \text{of width } 4 D

    Args:
        size: D, the size of both sequences.
        num_heads: Number of heads of the attention.
        attention_dropout: Dropout on the attention weights. (Default: 0)
        relu_dropout: Dropout after the relu. (Default: 0)
        residual_dropout: Dropout on both terms that are added. (Default: 0)
        dropout_on: Unit of attention dropout: see :class:`MultiheadAttention`. (Default: "keys")
        cross: Whether the sequence attends to another one. (Default: False)

    Example:
        >>> layer = TransformerLayer(40, 8, cross=True)
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
        cross: bool = False,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(size)
        self.attention = MultiheadAttention(size, num_heads, dropout=attention_dropout, dropout_on=dropout_on, cross=cross)
        self.feedforward_norm = nn.LayerNorm(size)
        self.expand = xavier(size, 4 * size)
        self.contract = xavier(4 * size, size)
        self.relu_dropout = Dropout(relu_dropout)
        self.residual_dropout = Dropout(residual_dropout)

    def forward(self, sequence: Tensor, source: Tensor | None, bias: Tensor | None) -> Tensor:
        """Maps a sequence (B, T, D) to the same shape; it attends to `source` (B, S, D), or to itself when that is None."""
        normed = self.attention_norm(sequence)
        keys = None if source is None else self.attention_norm(source)
        sequence = sequence + self.residual_dropout(self.attention(normed, keys, bias))
        hidden = self.relu_dropout(torch.relu(self.expand(self.feedforward_norm(sequence))))
        result: Tensor = sequence + self.residual_dropout(self.contract(hidden))
        return result


class Transformer(nn.Module):
    r"""Stack of layers in which a sequence attends to a fixed source, or to itself.

    Both enter as :math:`\sqrt{D} u_t + PE_{t+1}` and the result passes a last layer norm.

    Args:
        size: D, the size of both sequences.
        num_layers: Number of layers.
        num_heads: Number of heads of every attention.
        embedding_dropout: Dropout on the embedded sequences. (Default: 0)
        attention_dropout: Dropout on the attention weights. (Default: 0)
        relu_dropout: Dropout after each relu. (Default: 0)
        residual_dropout: Dropout on the terms that each layer adds. (Default: 0)
        dropout_on: Unit of attention dropout: see :class:`MultiheadAttention`. (Default: "keys")
        cross: Whether the sequence attends to another one. (Default: False)

    Example:
        >>> Transformer(40, 2, 8, cross=True)(torch.zeros(2, 5, 40), torch.zeros(2, 9, 40)).shape
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
        cross: bool = False,
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
                    cross=cross,
                )
                for _ in range(num_layers)
            ]
        )
        self.norm = nn.LayerNorm(size)

    def forward(self, sequence: Tensor, source: Tensor | None = None, allowed: Tensor | None = None) -> Tensor:
        """Maps a sequence (B, T, D) to the same shape.

        Args:
            sequence: Sequence that attends.
            source: Sequence that it attends to, of shape (B, S, D); None within itself.
            allowed: True where attention may go, of shape (B or 1, 1, T or 1, S), or what :func:`attention_bias` makes of
                it, for use in several; None for everywhere.
        """
        bias = allowed if allowed is None or allowed.is_floating_point() else attention_bias(allowed, sequence.dtype)
        sequence = self._embed(sequence)
        source = None if source is None else self._embed(source)
        for layer in self.layers:
            sequence = layer(sequence, source, bias)
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
        steps: T, the number of steps.
        size: D, the size of each; a zero is appended when it is odd.
        device: Device of the result. (Default: torch's)
        dtype: Type of the result; half precision is rounded from single. (Default: float32)

    Returns:
        Positions of shape (T, D).

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
    r"""Returns which keys each query may attend to.

    Keys beyond their length are forbidden, except the first, so that each query attends to something. When `causal`, so is
    key j for query i when :math:`j > i + |n - m|`, for m valid queries and n valid keys: MulT's mask for sequences of different
    length.

    Args:
        steps: Steps T of the padded queries and S of the padded keys.
        lengths: Valid steps of queries and of keys, each of shape (B,) or None.
        causal: Whether the future is hidden.
        device: Device of the result.

    Returns:
        True where attention may go, of shape (B, 1, T, S), or (1, 1, T, S); None where it may go everywhere.

    Example:
        >>> attention_mask((2, 3), (None, None), causal=True, device=torch.device("cpu")).int()
        tensor([[[[1, 1, 0],
                  [1, 1, 1]]]], dtype=torch.int32)
    """
    queries, keys = steps
    valid = None if lengths[1] is None else valid_steps(lengths[1].clamp(min=1), keys, device)[:, None, None, :]
    if not causal:
        return valid
    devices = [n.device for n in lengths if n is not None] or [torch.device("cpu")]
    m = torch.full((1,), queries, device=devices[0]) if lengths[0] is None else lengths[0]
    n = torch.full((1,), keys, device=devices[0]) if lengths[1] is None else lengths[1]
    shift = (n - m).abs().to(device, non_blocking=True).view(-1, 1, 1, 1)
    query, key = torch.arange(queries, device=device).unsqueeze(1), torch.arange(keys, device=device)
    past = key <= query + shift
    return past if valid is None else past & valid


def attention_bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns the additive mask of attention scores: 0 where attention is allowed, else minus infinity.

    Compute it once for all layers, since each layer stores its bias until the backward pass.

    Example:
        >>> attention_bias(torch.tensor([True, False]), torch.float32)
        tensor([0., -inf])
    """
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -math.inf)


def xavier(input_size: int, output_size: int, *, stacked: int | None = None) -> nn.Linear:
    """Builds a linear layer with Xavier's uniform initialisation and zero bias, as in all of MulT's transformers.

    Args:
        input_size: Size of the input.
        output_size: Size of the output.
        stacked: Outputs of the larger matrix of which this one is a part, and whose initialisation it has. (Default: none)
    """
    layer = nn.Linear(input_size, output_size)
    bound = math.sqrt(6 / (input_size + (output_size if stacked is None else stacked)))
    nn.init.uniform_(layer.weight, -bound, bound)
    nn.init.zeros_(layer.bias)
    return layer
