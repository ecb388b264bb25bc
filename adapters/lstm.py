"""The baseline of the paper (its Sections 2 and 3): LSTM encoders, cross-modal attention, and an LSTM that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from topdown.adapters.attention import CrossAttention, SelfAttention, SymmetricAttention
from topdown.adapters.dropout import Dropout
from topdown.adapters.inputs import (
    check_batch,
    check_sequences,
    check_sizes,
    last_valid,
    padded_lengths,
    present_encodings,
    zero_absent,
)
from topdown.batch import Inputs
from topdown.feedback import ModalityDict
from topdown.lstm import Directions, SequenceLSTM, merge_directions
from topdown.sequence import Lengths, lengths_of, zero_padding


class UnimodalEncoder(nn.Module):
    r"""Encoder of one modality: a bidirectional LSTM, its directions summed, then self-attention.

    The output of the attention replaces that of the LSTM; there is no residual (the paper's text and its public code).

    Args:
        input_size: D, the features of a step.
        hidden_size: d, the size of an encoding.
        dropout: Dropout on the hidden states and on the attention weights.

    Example:
        >>> UnimodalEncoder(4, 8, dropout=0.2)(torch.zeros(2, 5, 4), torch.tensor([5, 3])).shape
        torch.Size([2, 5, 8])
    """

    def __init__(self, input_size: int, hidden_size: int, *, dropout: float) -> None:
        super().__init__()
        self.lstm = SequenceLSTM(input_size, hidden_size, bidirectional=True, directions="sum")
        self.attention = SelfAttention(hidden_size, dropout=dropout)
        self.dropout = Dropout(dropout)

    def forward(self, sequence: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encodes a sequence (B, T, D) as (B, T, d)."""
        encoding: Tensor = self.attention(self.dropout(self.lstm(sequence, lengths)), lengths)
        return encoding


class LSTMBackbone(nn.Module):
    r"""The paper's baseline: unimodal encoders, cross-modal fusion, and an LSTM whose last state predicts.

    With encodings :math:`r_k` of three modalities T, A, V (the first plays the part of text),

    .. math::
        m_{kl} &= a_{kl} + a_{lk}                                   & \text{Eqs. 1 and 2, for every pair} \\
        a_{AVT} &= \mathrm{attention}(m_{AV} \to r_T) + m_{AV}      & \text{Eq. 1 with inputs } m_{AV}, r_T \\
        o &= r_T \| r_A \| r_V \| m_{TA} \| m_{TV} \| m_{AV} \| a_{AVT}   & \text{Eq. 3, up to the order} \\
        y &= W \, h_{\text{last}}(\mathrm{LSTM}(o)) + b

    The last hidden state is that of the forward LSTM at the last valid step plus that of the backward LSTM at the first.
    Any number K of modalities is allowed: :math:`o` holds K encodings and K (K - 1) / 2 pairs, and the tri-modal term only
    when K = 3, so its width is d, 3d, 7d, 10d for K = 1, 2, 3, 4. Every term that needs an absent modality is zero.

    The defaults are the paper's. Where its public code differs there is a keyword; the code's values are
    `fusion_dropout=0.1, trimodal_residual=False, fusion_directions="concatenate", pooling="attention"`, and
    :func:`topdown.adapters.reference.mmlatch_from_reference` sets them. In one thing this backbone follows neither: keys
    are masked by `lengths` in all attentions and padded steps never count.

    References:
        MMLatch: Bottom-up Top-down Fusion for Multimodal Sentiment Analysis (Paraskevopoulos et al., 2022),
        https://arxiv.org/abs/2201.09828

    Args:
        input_sizes: Features D_k of each modality, such as {"text": 300, "audio": 74, "visual": 35}.
        hidden_size: d, the hidden size of all LSTMs and of all attentions. (Default: 100, Section 3)
        output_size: Number of predicted values: 1 for regression, or the number of classes. (Default: 1)
        dropout: Dropout on hidden states and attention weights of the encoders. (Default: 0.2, Section 3)
        fusion_dropout: Dropout in the fusion. (Default: `dropout`, Section 3; the public code has 0.1)
        trimodal_residual: Whether the tri-modal attention adds its query, as Eq. 1 does. (Default: True)
        fusion_directions: Treatment of the directions of the fusion LSTM, "sum" or "concatenate". (Default: "sum", Section 3)
        pooling: State that predicts: "last", the last hidden one (Section 2), or "attention", self-attention over the hidden
            states, summed over the valid steps (the public code). (Default: "last")

    Raises:
        ValueError: if there is no modality or an option has an unknown value.

    Example:
        >>> backbone = LSTMBackbone({"text": 30, "audio": 7, "visual": 5}, hidden_size=8)
        >>> inputs = {k: torch.randn(2, 6, size) for k, size in backbone.input_sizes.items()}
        >>> backbone(inputs, torch.tensor([6, 4])).shape
        torch.Size([2, 1])
        >>> backbone.encode(inputs)["audio"].shape
        torch.Size([2, 6, 8])
    """

    def __init__(
        self,
        input_sizes: Mapping[str, int],
        *,
        hidden_size: int = 100,
        output_size: int = 1,
        dropout: float = 0.2,
        fusion_dropout: float | None = None,
        trimodal_residual: bool = True,
        fusion_directions: Directions = "sum",
        pooling: Literal["last", "attention"] = "last",
    ) -> None:
        super().__init__()
        of_dropout = {"dropout": dropout, "fusion_dropout": fusion_dropout}
        check_sizes(self, input_sizes, of_dropout, hidden_size=hidden_size, output_size=output_size)
        if not input_sizes:
            raise ValueError("input_sizes is empty: name at least one modality, as in {'text': 300}")
        if fusion_directions not in ("sum", "concatenate"):
            raise ValueError(f"fusion_directions={fusion_directions!r} is not known: use 'sum' or 'concatenate'")
        if pooling not in ("last", "attention"):
            raise ValueError(f"pooling={pooling!r} is not known: use 'last' or 'attention'")
        self.input_sizes = dict(input_sizes)
        self.encoding_sizes = dict.fromkeys(input_sizes, hidden_size)
        self.trimodal_residual = trimodal_residual
        self.fusion_directions = fusion_directions
        fusion_dropout = dropout if fusion_dropout is None else fusion_dropout
        names = list(input_sizes)
        self.encoders = ModalityDict({k: UnimodalEncoder(input_sizes[k], hidden_size, dropout=dropout) for k in names})
        self.pairs = ModalityDict(
            {
                k: ModalityDict({j: SymmetricAttention(hidden_size, dropout=fusion_dropout) for j in names[i + 1 :]})
                for i, k in enumerate(names[:-1])
            }
        )
        self.trimodal = CrossAttention(hidden_size, dropout=fusion_dropout) if len(names) == 3 else None
        width = len(names) + len(names) * (len(names) - 1) // 2 + (len(names) == 3)
        self.fusion = SequenceLSTM(width * hidden_size, hidden_size, bidirectional=True)
        state_size = 2 * hidden_size if fusion_directions == "concatenate" else hidden_size
        self.pooling = SelfAttention(state_size, dropout=fusion_dropout) if pooling == "attention" else None
        self.dropout = Dropout(fusion_dropout)
        self.head = nn.Linear(state_size, output_size)

    def forward(self, inputs: Inputs, lengths: Lengths = None) -> Tensor:
        """Predicts from the inputs: `fuse(encode(inputs, lengths), lengths)`, of shape (B, output_size).

        Raises:
            ValueError: if a modality is unknown, all are absent, or a shape or a length does not fit.
            TypeError: if a modality is of another type than the model.
        """
        check_batch(inputs, lengths, self.input_sizes, self)
        return self.fuse(self.encode(inputs, lengths), lengths)

    def encode(self, inputs: Inputs, lengths: Lengths = None) -> dict[str, Tensor]:
        """Encodes each modality that is present.

        Args:
            inputs: Sequence of shape (B, T, D_k) per modality; None or left out where it is absent.
            lengths: Number of valid steps of each sample, of shape (B,), or a mapping from modality to such a tensor, where 0
                marks an absent modality. :meth:`forward` or a latch has checked them.

        Returns:
            Encoding of shape (B, T, d) per modality.

        Raises:
            ValueError: if a modality is unknown, all are absent, or a shape does not fit.
            TypeError: if a modality is of another type than the model.
        """
        present = check_sequences(inputs, self.input_sizes, self)
        return {
            name: self.encoders[name](sequence, padded_lengths(lengths_of(lengths, name), sequence.shape[1]))
            for name, sequence in present.items()
        }

    def fuse(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Tensor:
        """Predicts from the encodings.

        Args:
            encodings: Encoding of shape (B, T, d) per modality, with the same T.
            lengths: Lengths as in :meth:`encode`; those of a sample must be equal for all modalities that are present.

        Returns:
            Prediction of shape (B, output_size).

        Raises:
            ValueError: if the steps or the lengths of two modalities differ.
        """
        present = present_encodings(encodings, self.input_sizes)
        by_name = {name: lengths_of(lengths, name) for name in present}
        valid = padded_lengths(_common_lengths(present, by_name), next(iter(present.values())).shape[1])
        if isinstance(lengths, Mapping):
            present = {name: zero_padding(encoding, by_name[name]) for name, encoding in present.items()}
        elif valid is not None:
            present = {name: zero_padding(encoding, valid) for name, encoding in present.items()}
        terms = self._concatenate(present, by_name if isinstance(lengths, Mapping) else {}, valid)
        forward, backward = self.fusion(terms, valid).chunk(2, dim=-1)
        if self.pooling is None:
            last = merge_directions(last_valid(forward, valid), backward[:, 0], self.fusion_directions)
            return self._predict(self.dropout(last))
        states = merge_directions(forward, backward, self.fusion_directions)
        attended = self.pooling(self.dropout(states), valid)
        return self._predict(zero_padding(attended, valid).sum(1))

    def _concatenate(
        self, encodings: dict[str, Tensor], by_name: Mapping[str, Tensor | None], lengths: Tensor | None
    ) -> Tensor:
        """Returns o of Eq. 3; `by_name` are the lengths of each modality, 0 where it is absent in a sample."""
        absent = torch.zeros_like(next(iter(encodings.values())))
        pairs = {
            (first, second): zero_absent(
                self.pairs[first][second](encodings[first], encodings[second], lengths), by_name.get(first), by_name.get(second)
            )
            for first, second in combinations(encodings, 2)
        }
        terms = [encodings.get(name, absent) for name in self.input_sizes]
        terms += [pairs.get(pair, absent) for pair in combinations(self.input_sizes, 2)]
        if self.trimodal is not None:
            text, *others = self.input_sizes
            queries = pairs.get((others[0], others[1]))
            if queries is None or text not in encodings:
                terms.append(absent)
            else:
                attended = self.trimodal(queries, encodings[text], lengths)
                attended = attended + queries if self.trimodal_residual else attended
                terms.append(zero_absent(attended, *by_name.values()))
        return torch.cat(terms, dim=-1)

    def _predict(self, state: Tensor) -> Tensor:
        prediction: Tensor = self.head(state)
        return prediction


def _common_lengths(encodings: Mapping[str, Tensor], by_name: Mapping[str, Tensor | None]) -> Tensor | None:
    """Returns the lengths of all modalities together, of shape (B,).

    Raises:
        ValueError: if the steps of two modalities differ, or the lengths of two that are present in a sample.
    """
    first, *others = encodings
    batch, steps = encodings[first].shape[:2]
    devices = [n.device for n in by_name.values() if n is not None]
    full = torch.full((batch,), steps, device=devices[0] if devices else None)
    common = by_name[first]
    remedy = (
        "LSTMBackbone puts modalities side by side at each step; align them first, or use a backbone for unaligned modalities"
    )
    for name in others:
        if encodings[name].shape[1] != steps:
            raise ValueError(f"{name!r} has {encodings[name].shape[1]} steps but {first!r} has {steps}: {remedy}")
        if by_name[name] is not common:
            mine, theirs = (full if n is None else n for n in (by_name[name], common))
            differ = (mine != theirs) & (mine > 0) & (theirs > 0)
            if not torch.compiler.is_compiling() and bool(differ.any()):
                raise ValueError(f"{name!r} has different lengths than {first!r}: {remedy}")
            common = torch.maximum(mine, theirs)
    return common
