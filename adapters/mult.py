"""Implements MulT, the multimodal transformer for unaligned sequences."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

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
from topdown.adapters.transformer import DropoutOn, Transformer, attention_bias, attention_mask
from topdown.batch import Inputs
from topdown.feedback import ModalityDict
from topdown.sequence import Lengths, lengths_of, zero_padding


class MulTBackbone(nn.Module):
    r"""The multimodal transformer: each modality attends to every other one, whatever their lengths.

    .. math::
        p_k &= \mathrm{conv}_k(x_k)                                                        & (B, T_k, d) \\
        z_{k \leftarrow j} &= \mathrm{Transformer}_{kj}(p_k \text{ attends to } p_j)       & (B, T_k, d) \\
        r_k &= \mathrm{Transformer}_k(\|_{j \ne k} z_{k \leftarrow j})                     & (B, T_k, (K-1) d) \\
        h &= \|_k r_k[\text{last valid step}] \\
        y &= W (h + W_2 \, \mathrm{relu}(W_1 h))

    `encode` returns :math:`r_k`, so `TopDownLatch(MulTBackbone(...), align="interpolate")` is the last row of the paper's
    Table 2 (its public code does not contain it). With `lengths`, padding changes nothing; without, all steps are valid.

    Where this differs from the public code of MulT: keys beyond their length are masked (that code has no key padding mask),
    the last step is the last valid one, and every step has a position (that code gives none to a step whose first channel
    happens to be 0). Convolutions keep the number of steps. Attention dropout is on keys: see `dropout_on`.

    `kernel_sizes` and `attention_dropout` take a number for all modalities or a mapping; those not named in it have 3 and 0.

    References:
        Multimodal Transformer for Unaligned Multimodal Language Sequences (Tsai et al., 2019),
        https://arxiv.org/abs/1906.00295, Table 5, column MOSEI ("paper" below); yaohungt/Multimodal-Transformer ("code")

    Args:
        input_sizes: Features D_k of each modality, such as {"text": 300, "audio": 74, "visual": 35}; two or more.
        size: d, the size of the crossmodal transformers. (Default: 40, paper; code 30)
        num_heads: Number of heads of every attention; must divide `size`. (Default: 8, paper; code 5)
        num_layers: Layers of every transformer, but at least 3 of those that read all sources. (Default: 4, paper; code 5)
        output_size: Number of predicted values. (Default: 1)
        causal: Whether the future is hidden from attention. (Default: True, code)
        kernel_sizes: Kernels of the convolutions, odd; a number, or a mapping. (Default: 1 for the first modality, which is
            text in MOSEI, and 3 for others, paper; code 1)
        embedding_dropout: Dropout on the inputs of the first modality and on what enters a transformer. (Default: 0.3, paper;
            code 0.25)
        attention_dropout: Dropout on attention weights, by the source that is attended to; transformers that read all sources
            have that of the first modality. (Default: 0.1 for the first modality and 0 for others, code)
        relu_dropout: Dropout after the relu of each layer. (Default: 0.1, code)
        residual_dropout: Dropout on the terms that each layer adds. (Default: 0.1, paper and code)
        output_dropout: Dropout after the relu before the prediction. (Default: 0.1, paper; code 0)
        dropout_on: Unit of attention dropout: "keys", for all queries at once, which keeps attention fast and small, or
            "weights", one by one, as the code does: see :class:`topdown.adapters.transformer.MultiheadAttention`.
            (Default: "keys")

    Raises:
        ValueError: if there are fewer than two modalities, heads do not divide the size, a kernel is even, or a size is not
            positive.

    Example:
        >>> backbone = MulTBackbone({"text": 30, "audio": 7, "visual": 5}, num_layers=1)
        >>> inputs = {"text": torch.randn(2, 6, 30), "audio": torch.randn(2, 20, 7), "visual": torch.randn(2, 9, 5)}
        >>> backbone(inputs).shape
        torch.Size([2, 1])
        >>> backbone.encode(inputs)["audio"].shape
        torch.Size([2, 20, 80])
    """

    def __init__(
        self,
        input_sizes: Mapping[str, int],
        *,
        size: int = 40,
        num_heads: int = 8,
        num_layers: int = 4,
        output_size: int = 1,
        causal: bool = True,
        kernel_sizes: int | Mapping[str, int] | None = None,
        embedding_dropout: float = 0.3,
        attention_dropout: float | Mapping[str, float] | None = None,
        relu_dropout: float = 0.1,
        residual_dropout: float = 0.1,
        output_dropout: float = 0.1,
        dropout_on: DropoutOn = "keys",
    ) -> None:
        super().__init__()
        of_dropout = {"embedding_dropout": embedding_dropout, "relu_dropout": relu_dropout}
        of_dropout |= {"residual_dropout": residual_dropout, "output_dropout": output_dropout}
        sizes = {"size": size, "num_heads": num_heads, "num_layers": num_layers, "output_size": output_size}
        check_sizes(self, input_sizes, of_dropout, **sizes)
        names = list(input_sizes)
        if len(names) < 2:
            raise ValueError(f"MulT crosses modalities, so it needs at least two of them, got {names}")
        if size % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide size={size}: choose one that does")
        if dropout_on not in ("keys", "weights"):
            raise ValueError(f"dropout_on={dropout_on!r} is not known: use 'keys' or 'weights'")
        kernels = _by_name({names[0]: 1} if kernel_sizes is None else kernel_sizes, names, 3, "kernel_sizes")
        attention = _by_name(
            {names[0]: 0.1} if attention_dropout is None else attention_dropout, names, 0.0, "attention_dropout"
        )
        for name, kernel in kernels.items():
            if kernel < 1 or kernel % 2 != 1:
                raise ValueError(f"the kernel of {name!r} is {kernel}: it must be odd, to keep the number of steps")
        self.input_sizes = dict(input_sizes)
        self.encoding_sizes = dict.fromkeys(names, (len(names) - 1) * size)
        self.causal = causal

        def transformer(width: int, layers: int, dropout: float, *, cross: bool) -> Transformer:
            return Transformer(
                width,
                layers,
                num_heads,
                embedding_dropout=embedding_dropout,
                attention_dropout=dropout,
                relu_dropout=relu_dropout,
                residual_dropout=residual_dropout,
                dropout_on=dropout_on,
                cross=cross,
            )

        self.embedding_dropout = Dropout(embedding_dropout)
        self.projections = ModalityDict(
            {k: nn.Conv1d(D, size, int(kernels[k]), padding="same", bias=False) for k, D in input_sizes.items()}
        )
        self.crossmodal = ModalityDict(
            {
                k: ModalityDict({j: transformer(size, num_layers, attention[j], cross=True) for j in names if j != k})
                for k in names
            }
        )
        self.memory = ModalityDict(
            {k: transformer(self.encoding_sizes[k], max(num_layers, 3), attention[names[0]], cross=False) for k in names}
        )
        width = sum(self.encoding_sizes.values())
        self.expand, self.contract = nn.Linear(width, width), nn.Linear(width, width)
        self.output_dropout = Dropout(output_dropout)
        self.head = nn.Linear(width, output_size)

    def forward(self, inputs: Inputs, lengths: Lengths = None) -> Tensor:
        """Predicts from the inputs: `fuse(encode(inputs, lengths), lengths)`, of shape (B, output_size).

        Raises:
            ValueError: if a modality is unknown, all are absent, or a shape or a length does not fit.
            TypeError: if a modality is of another type than the model.
        """
        check_batch(inputs, lengths, self.input_sizes, self)
        return self.fuse(self.encode(inputs, lengths), lengths)

    def encode(self, inputs: Inputs, lengths: Lengths = None) -> dict[str, Tensor]:
        """Encodes each modality that is present, by attending to the others.

        Args:
            inputs: Sequence of shape (B, T_k, D_k) per modality; None or left out where it is absent.
            lengths: Number of valid steps of each sample, of shape (B,), or a mapping from modality to such a tensor, where 0
                marks an absent modality. :meth:`forward` or a latch has checked them.

        Returns:
            Encoding of shape (B, T_k, (K-1) d) per modality, zero at padded steps. The part of an absent source is zero.

        Raises:
            ValueError: if a modality is unknown, all are absent, or a shape does not fit.
            TypeError: if a modality is of another type than the model.
        """
        present = check_sequences(inputs, self.input_sizes, self)
        valid = {k: padded_lengths(lengths_of(lengths, k), sequence.shape[1]) for k, sequence in present.items()}
        projected = {k: self._project(k, sequence, valid[k]) for k, sequence in present.items()}
        encodings = {}
        biases: dict[tuple[int, int], Tensor | None] = {}
        for k, target in projected.items():
            crossed = []
            for j, transformer in self.crossmodal[k].items():
                if j not in projected:
                    crossed.append(torch.zeros_like(target))
                    continue
                bias = self._bias(target, projected[j], valid[k], valid[j], biases)
                crossed.append(zero_absent(transformer(target, projected[j], bias), valid[j]))
            bias = self._bias(target, target, valid[k], valid[k], biases)
            encodings[k] = zero_padding(self.memory[k](torch.cat(crossed, dim=-1), None, bias), valid[k])
        return encodings

    def fuse(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Tensor:
        """Predicts from the last valid step of each encoding.

        Args:
            encodings: Encoding of shape (B, T_k, (K-1) d) per modality.
            lengths: Lengths as in :meth:`encode`.

        Returns:
            Prediction of shape (B, output_size).
        """
        last = self.last_states(encodings, lengths)
        hidden = self.contract(self.output_dropout(torch.relu(self.expand(last))))
        prediction: Tensor = self.head(hidden + last)
        return prediction

    def last_states(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Tensor:
        """Returns the last valid steps of all modalities side by side, of shape (B, K (K-1) d); zero for absent ones."""
        present = present_encodings(encodings, self.input_sizes)
        states = {name: last_valid(encoding, lengths_of(lengths, name)) for name, encoding in present.items()}
        absent = torch.zeros_like(next(iter(states.values())))
        return torch.cat([states.get(name, absent) for name in self.input_sizes], dim=-1)

    def _bias(
        self, target: Tensor, source: Tensor, m: Tensor | None, n: Tensor | None, biases: dict[tuple[int, int], Tensor | None]
    ) -> Tensor | None:
        """Returns the additive attention mask of a pair; without lengths, pairs with equal steps share it."""
        steps = (target.shape[1], source.shape[1])
        if m is None and n is None and steps in biases:
            return biases[steps]
        allowed = attention_mask(steps, (m, n), causal=self.causal, device=target.device)
        bias = None if allowed is None else attention_bias(allowed, target.dtype)
        if m is None and n is None:
            biases[steps] = bias
        return bias

    def _project(self, name: str, sequence: Tensor, lengths: Tensor | None) -> Tensor:
        sequence = zero_padding(sequence, lengths)  # a kernel wider than 1 reads beyond the last step
        if name == next(iter(self.input_sizes)):
            sequence = self.embedding_dropout(sequence)
        return zero_padding(self.projections[name](sequence.transpose(1, 2)).transpose(1, 2), lengths)


def _by_name(value: float | Mapping[str, float], names: list[str], default: float, option: str) -> dict[str, float]:
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    unknown = [name for name in value if name not in names]
    if unknown:
        raise ValueError(f"{option} names {unknown}, but the modalities are {names}")
    return {name: value.get(name, default) for name in names}
