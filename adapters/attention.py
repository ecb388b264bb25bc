r"""Single-head attention between and within modalities, with keys masked by their lengths.

.. math:: a(q; k, v) = \mathrm{softmax}\left( \frac{q k^T}{\sqrt{D}} \right) v

Projections have no bias and Xavier initialisation, as in the public code of the paper; query, key and value of one input come
from one matrix product, and so do key and value where the query has another input.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from topdown.adapters.dropout import dropout
from topdown.sequence import valid_steps


def stacked_linear(input_size: int, output_size: int, count: int) -> nn.Linear:
    """Builds a linear layer of several stacked matrices without bias, each with Xavier's uniform initialisation.

    Args:
        input_size: D, the size of the input.
        output_size: A, the size of each output.
        count: Number of matrices.

    Example:
        >>> stacked_linear(8, 6, 3)
        Linear(in_features=8, out_features=18, bias=False)
    """
    layer = nn.Linear(input_size, count * output_size, bias=False)
    for matrix in layer.weight.split(output_size):
        nn.init.xavier_uniform_(matrix)
    return layer


class SelfAttention(nn.Module):
    r"""Dot-product self-attention.

    Scores are divided by the square root of the input size D (also where A differs: the public code).

    Args:
        size: D, the size of the input.
        attention_size: A, the size of queries, keys, values and output. (Default: D)
        dropout: Dropout on the attention weights. (Default: 0)

    Example:
        >>> SelfAttention(8)(torch.zeros(2, 5, 8), torch.tensor([5, 3])).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, size: int, attention_size: int | None = None, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.projections = stacked_linear(size, size if attention_size is None else attention_size, 3)
        self.scale = size**-0.5
        self.dropout = dropout

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Attends to the valid steps of a sequence.

        Args:
            sequence: Sequence of shape (B, T, D).
            lengths: Number of valid steps, of shape (B,); None when all are valid.

        Returns:
            Attended values of shape (B, T, A).
        """
        query, key, value = self.projections(sequence).chunk(3, dim=-1)
        return attend(query, key, value, lengths, scale=self.scale, probability=self.dropout if self.training else 0.0)


class CrossAttention(nn.Module):
    r"""Dot-product cross-attention: the queries of one sequence attend to another sequence.

    Args:
        size: D, the size of both inputs and of the output.
        dropout: Dropout on the attention weights. (Default: 0)

    Example:
        >>> CrossAttention(8)(torch.zeros(2, 4, 8), torch.zeros(2, 5, 8), torch.tensor([5, 3])).shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = stacked_linear(size, size, 1)
        self.key_value = stacked_linear(size, size, 2)
        self.scale = size**-0.5
        self.dropout = dropout

    def forward(self, queries: Tensor, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Attends to the valid steps of a sequence.

        Args:
            queries: Sequence of the queries, of shape (B, T_q, D).
            sequence: Sequence of keys and values, of shape (B, T, D).
            lengths: Number of its valid steps, of shape (B,); None when all are valid.

        Returns:
            Attended values of shape (B, T_q, D).
        """
        key, value = self.key_value(sequence).chunk(2, dim=-1)
        probability = self.dropout if self.training else 0.0
        return attend(self.query(queries), key, value, lengths, scale=self.scale, probability=probability)


class SymmetricAttention(nn.Module):
    r"""Symmetric attention of two modalities, with separate projections.

    .. math::
        a_{kl} &= \mathrm{softmax}\left( \frac{(r_k W_k^Q) (r_l W_l^K)^T}{\sqrt{d}} \right) r_l W_l^V + r_k & \text{(Eq. 1)} \\
        m_{kl} &= a_{kl} + a_{lk} & \text{(Eq. 2)}

    Args:
        size: d, the size of the encodings of both.
        dropout: Dropout on the attention weights. (Default: 0)

    Example:
        >>> SymmetricAttention(8)(torch.zeros(2, 5, 8), torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, size: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = stacked_linear(size, size, 3)
        self.second = stacked_linear(size, size, 3)
        self.scale = size**-0.5
        self.dropout = dropout

    def forward(self, first: Tensor, second: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns m_kl of two sequences of the same lengths, each of shape (B, T, d), in that shape."""
        query_first, key_first, value_first = self.first(first).chunk(3, dim=-1)
        query_second, key_second, value_second = self.second(second).chunk(3, dim=-1)
        probability = self.dropout if self.training else 0.0
        from_first = attend(query_first, key_second, value_second, lengths, scale=self.scale, probability=probability)
        from_second = attend(query_second, key_first, value_first, lengths, scale=self.scale, probability=probability)
        return (from_first + first) + (from_second + second)


def attend(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, *, scale: float, probability: float = 0.0
) -> Tensor:
    """Returns softmax(scale * query key^T) value over the valid keys.

    Args:
        query: Queries of shape (B, T_q, A).
        key: Keys of shape (B, T, A).
        value: Values of shape (B, T, A); finite at padded steps.
        lengths: Number of valid keys, of shape (B,); None when all are valid. A sample without any attends to its first key.
        scale: Factor of the scores.
        probability: Probability of dropout on the attention weights. (Default: 0)

    Returns:
        Attended values of shape (B, T_q, A).

    Example:
        >>> value = torch.tensor([[[1.0], [3.0], [50.0]]])
        >>> attend(torch.zeros(1, 1, 1), torch.zeros(1, 3, 1), value, torch.tensor([2]), scale=1.0)
        tensor([[[2.]]])
    """
    valid = None if lengths is None else valid_steps(lengths.clamp(min=1), key.shape[1], key.device).unsqueeze(1)
    output: Tensor
    if probability and query.device.type == "cpu" and not torch.compiler.is_compiling():
        # Torch computes the same steps, since its fused kernel for CPUs has no dropout. This dropout is faster.
        scores = torch.matmul(query, key.transpose(1, 2)) * scale
        scores = scores if valid is None else scores.masked_fill(~valid, float("-inf"))
        output = torch.matmul(dropout(scores.softmax(-1), probability), value)
        return output
    # Without a dimension of heads, torch has neither a fused kernel nor a translation to ONNX.
    query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    valid = None if valid is None else valid.unsqueeze(1)
    output = scaled_dot_product_attention(query, key, value, attn_mask=valid, dropout_p=probability, scale=scale)
    return output.squeeze(1)
