r"""Single-head attention between and within modalities, with keys masked by their lengths.

.. math:: a(q; k, v) = \mathrm{softmax}\left( \frac{q k^T}{\sqrt{D}} \right) v

Projections have no bias and Xavier initialisation, as in the public code of the paper; query, key and value of one
input come from one matrix product.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from topdown.dropout import dropout
from topdown.sequence import valid_steps


class Projections(nn.Linear):
    r"""Maps an input to query, key and value: the matrices :math:`W^Q, W^K, W^V`, stacked in this order.

    Args:
        size: D, the size of the input.
        attention_size: A, the size of query, key and value.

    Example:
        >>> [p.shape for p in Projections(8, 6).split(torch.zeros(2, 5, 8))]
        [torch.Size([2, 5, 6]), torch.Size([2, 5, 6]), torch.Size([2, 5, 6])]
    """

    def __init__(self, size: int, attention_size: int) -> None:
        super().__init__(size, 3 * attention_size, bias=False)

    def reset_parameters(self) -> None:
        """Draws each of the three matrices from Xavier's uniform distribution."""
        for matrix in self.weight.chunk(3):
            nn.init.xavier_uniform_(matrix)

    def split(self, sequence: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value of a sequence (B, T, D), each of shape (B, T, A)."""
        query, key, value = self(sequence).chunk(3, dim=-1)
        return query, key, value

    def query(self, sequence: Tensor) -> Tensor:
        """Returns the query alone."""
        return nn.functional.linear(sequence, self.weight.chunk(3)[0])

    def key_value(self, sequence: Tensor) -> tuple[Tensor, Tensor]:
        """Returns key and value alone."""
        size = self.out_features // 3
        key, value = nn.functional.linear(sequence, self.weight[size:]).chunk(2, dim=-1)
        return key, value


class Attention(nn.Module):
    r"""Creates dot-product attention: within a sequence, or from the queries of another one.

    Scores are divided by the square root of the input size D (also where A differs: the public code).

    Args:
        size: D, the size of the input.
        attention_size: A, the size of queries, keys, values and output; D by default.
        dropout: Dropout on the attention weights. (Default: 0)

    Example:
        >>> attention = Attention(8)
        >>> attention(torch.zeros(2, 5, 8), torch.tensor([5, 3])).shape
        torch.Size([2, 5, 8])
        >>> attention(torch.zeros(2, 5, 8), torch.tensor([5, 3]), queries=torch.zeros(2, 4, 8)).shape
        torch.Size([2, 4, 8])
    """

    def __init__(self, size: int, attention_size: int | None = None, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.projections = Projections(size, size if attention_size is None else attention_size)
        self.dropout = dropout

    def forward(self, sequence: Tensor, lengths: Tensor | None = None, *, queries: Tensor | None = None) -> Tensor:
        """Attends to the valid steps of a sequence.

        Args:
            sequence: Where keys and values come from, of shape (B, T, D).
            lengths: Its number of valid steps, of shape (B,); None when all are valid.
            queries: Where the queries come from, of shape (B, T_q, D); the sequence itself by default.

        Returns:
            Of shape (B, T, A), or (B, T_q, A).
        """
        if queries is None:
            query, key, value = self.projections.split(sequence)
        else:
            query, (key, value) = self.projections.query(queries), self.projections.key_value(sequence)
        scale = self.projections.in_features**-0.5
        return attend(query, key, value, lengths, scale=scale, probability=self.dropout if self.training else 0.0)


class SymmetricAttention(nn.Module):
    r"""Creates the symmetric attention of two modalities, with projections of its own for each.

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
        self.first = Projections(size, size)
        self.second = Projections(size, size)
        self.dropout = dropout

    def forward(self, first: Tensor, second: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns m_kl of two sequences of the same length, each of shape (B, T, d), in that shape."""
        from_first, from_second = self.directions(first, second, lengths, lengths)
        return from_first + from_second

    def directions(
        self, first: Tensor, second: Tensor, first_lengths: Tensor | None = None, second_lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns a_kl and a_lk apart, for sequences (B, T_k, d) and (B, T_l, d), which may differ in time."""
        query_first, key_first, value_first = self.first.split(first)
        query_second, key_second, value_second = self.second.split(second)
        scale = self.first.in_features**-0.5
        probability = self.dropout if self.training else 0.0
        from_first = attend(query_first, key_second, value_second, second_lengths, scale=scale, probability=probability)
        from_second = attend(query_second, key_first, value_first, first_lengths, scale=scale, probability=probability)
        return from_first + first, from_second + second


def attend(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, *, scale: float, probability: float = 0.0
) -> Tensor:
    """Returns softmax(scale * query key^T) value over the valid keys.

    Args:
        query: Of shape (B, T_q, A).
        key: Of shape (B, T, A).
        value: Of shape (B, T, A); finite at padded steps.
        lengths: Number of valid keys, of shape (B,); None when all are valid.
        scale: What scores are multiplied by.
        probability: Of dropout on the attention weights. (Default: 0)

    Returns:
        Of shape (B, T_q, A).

    Example:
        >>> value = torch.tensor([[[1.0], [3.0], [50.0]]])
        >>> attend(torch.zeros(1, 1, 1), torch.zeros(1, 3, 1), value, torch.tensor([2]), scale=1.0)
        tensor([[[2.]]])
    """
    valid = None if lengths is None else valid_steps(lengths, key.shape[1], key.device).unsqueeze(1)
    output: Tensor
    if probability and query.device.type == "cpu" and not torch.compiler.is_compiling():
        # What torch does there, too, since its fused attention has no dropout on a CPU; but with a dropout that costs less.
        scores = torch.matmul(query, key.transpose(1, 2)) * scale
        scores = scores if valid is None else scores.masked_fill(~valid, float("-inf"))
        output = torch.matmul(dropout(scores.softmax(-1), probability), value)
        return output
    # With a dimension of heads: without one, torch has no fused attention for it, and no translation to ONNX.
    query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    valid = None if valid is None else valid.unsqueeze(1)
    output = scaled_dot_product_attention(query, key, value, attn_mask=valid, dropout_p=probability, scale=scale)
    return output.squeeze(1)


def check_same_time(encodings: dict[str, Tensor], owner: str) -> None:
    """Checks that all sequences have the same number of steps.

    Raises:
        ValueError: naming two modalities that differ.
    """
    (first, reference), *others = encodings.items()
    for name, sequence in others:
        if sequence.shape[1] != reference.shape[1]:
            raise ValueError(
                f"{name!r} has {sequence.shape[1]} steps but {first!r} has {reference.shape[1]}: {owner} puts modalities "
                "side by side at each step; align them first, or use a backbone for unaligned modalities"
            )
