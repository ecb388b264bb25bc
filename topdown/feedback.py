r"""Feedback networks: from what the model has understood of a source to the logits of a mask for a target.

A network maps the encoding :math:`r_j` of a source, of shape :math:`(B, T, d_j)`, to logits :math:`h` of shape
:math:`(B, T, D_k)`; the sigmoid :math:`f = \sigma(h)` is the latch's. There is one output per pair (target k, source
j), because Eq. 4 of the paper adds :math:`f_j` and :math:`f_l` in the feature space of :math:`i_k`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

from torch import Tensor, nn

from topdown.backbone import call, takes_lengths
from topdown.dropout import dropout
from topdown.naming import ModalityDict
from topdown.sequence import Lengths, SequenceLSTM, lengths_of, padded_lengths

Network: TypeAlias = Callable[[int, int], nn.Module]
Logits: TypeAlias = dict[str, dict[str, Tensor]]

FEEDBACK_KINDS = ("linear", "lstm", "shared")


class LinearFeedback(nn.Linear):
    r"""Creates a feedback network without memory: :math:`h_t = W r_t + b`.

    The paper's "MMLatch (no LSTM)" (Table 2); called `learnable_static_mask` in its public code.

    Args:
        source_size: d_j, the size of the encodings of the source.
        target_size: D_k, the features of the target.

    Example:
        >>> LinearFeedback(8, 12)(torch.zeros(2, 5, 8)).shape
        torch.Size([2, 5, 12])
    """

    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size)


class LSTMFeedback(nn.Module):
    r"""Creates a feedback network with memory: the hidden states of a forward LSTM are the logits.

    As in the public code of the paper, the hidden size is that of the target and nothing follows the LSTM. Its states
    lie in :math:`(-1, 1)`, so **every mask stays within (0.269, 0.731)**; that is what the paper's Fig. 2 shows. With
    `projection=True` a linear map follows, and masks reach all of (0, 1).

    Args:
        source_size: d_j, the size of the encodings of the source.
        target_size: D_k, the features of the target.
        projection: Whether a linear map D_k -> D_k follows the LSTM. (Default: False, the public code)
        dropout: Dropout on the states of the LSTM; without a projection a dropped one gives a mask of 1/2. (Default: 0; the
            public code has 0.1)

    Example:
        >>> LSTMFeedback(8, 12)(torch.zeros(2, 5, 8), torch.tensor([5, 3])).shape
        torch.Size([2, 5, 12])
    """

    def __init__(self, source_size: int, target_size: int, *, projection: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.lstm = SequenceLSTM(source_size, target_size)
        self.projection = nn.Linear(target_size, target_size) if projection else None
        self.dropout = dropout

    def forward(self, encoding: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the logits of a mask.

        Args:
            encoding: Of shape (B, T, d_j), or (B, d_j), which counts as one step.
            lengths: Number of valid steps of each sample, of shape (B,), or None.

        Returns:
            Of shape (B, T, D_k), or (B, D_k).
        """
        logits = over_time(self.lstm, encoding, lengths)
        if self.dropout:
            logits = dropout(logits, self.dropout, self.training)
        return logits if self.projection is None else self.projection(logits)


def over_time(lstm: SequenceLSTM, encoding: Tensor, lengths: Tensor | None) -> Tensor:
    """Runs an LSTM over a sequence (B, T, d), or over a pooled encoding (B, d) as a sequence of one step."""
    if encoding.dim() == 2:
        return lstm.forward(encoding.unsqueeze(1)).squeeze(1)
    return lstm.forward(encoding, padded_lengths(lengths, encoding.shape[1]))


class PairwiseFeedback(ModalityDict[ModalityDict[nn.Module]]):
    """Creates one network per pair: `feedback[target][source]`.

    Args:
        network: A function (source_size, target_size) -> module that maps (encoding) or (encoding, lengths) to logits:
            :class:`LinearFeedback`, :class:`LSTMFeedback`, `torch.nn.Linear`, or one of your own.
        source_sizes: The size d_j of the encodings of each source.
        target_sizes: The features D_k of each target.
        sources: The sources of each target.

    Raises:
        TypeError: if `network` returns something else than a module.

    Example:
        >>> feedback = PairwiseFeedback(LinearFeedback, {"a": 4, "b": 6}, {"a": 3, "b": 2}, {"a": ["b"], "b": ["a"]})
        >>> feedback["a"]["b"]
        LinearFeedback(in_features=6, out_features=3, bias=True)
        >>> logits = feedback({"a": torch.zeros(1, 5, 4), "b": torch.zeros(1, 5, 6)})
        >>> logits["b"]["a"].shape
        torch.Size([1, 5, 2])
    """

    _with_lengths: dict[tuple[str, str], bool]

    def __init__(
        self,
        network: Network,
        source_sizes: Mapping[str, int],
        target_sizes: Mapping[str, int],
        sources: Mapping[str, Sequence[str]],
    ) -> None:
        super().__init__(
            {
                target: ModalityDict({source: network(source_sizes[source], target_sizes[target]) for source in names})
                for target, names in sources.items()
            }
        )
        self._with_lengths = {
            (target, source): takes_lengths(network.forward)
            for target, networks in self.items()
            for source, network in networks.items()
        }

    def forward(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Logits:
        """Returns the logits {target: {source: (B, T_j, D_k)}} from all sources that are there.

        Args:
            encodings: Of shape (B, T_j, d_j), or (B, d_j), per source.
            lengths: Of shape (B,), or a mapping from source to such a tensor, or None.

        Raises:
            TypeError: if a network returns something else than a tensor.
        """
        return {
            target: {
                source: self._logits(network, encodings[source], lengths, source, target)
                for source, network in networks.items()
                if source in encodings
            }
            for target, networks in self.items()
        }

    def _logits(self, network: nn.Module, encoding: Tensor, lengths: Lengths, source: str, target: str) -> Tensor:
        valid = lengths_of(lengths, source) if encoding.dim() == 3 else None
        logits = call(network, encoding, valid, self._with_lengths[target, source])
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"the feedback network from {source!r} to {target!r} ({type(network).__name__}) must return a tensor "
                f"of logits, got {type(logits).__name__}"
            )
        return logits


class SharedFeedback(nn.Module):
    r"""Creates one LSTM per source, run once for all its targets, and one linear map per pair.

    .. math:: h_{j \to k} = W_{jk} \, \mathrm{LSTM}_j(r_j) + b_{jk}

    The paper speaks of three feedback LSTMs, one per source. Their states cannot be masks of three targets of different
    width, hence the linear maps `head[target][source]` after `trunk[source]`. The logits are unbounded, so masks reach
    all of (0, 1).

    Args:
        source_sizes: The size d_j of the encodings of each source; also the hidden size of its LSTM.
        target_sizes: The features D_k of each target.
        sources: The sources of each target.
        bidirectional: Whether the LSTMs run both ways, their states summed: the paper's general statement about its
            LSTMs. (Default: False, as the feedback LSTMs of its public code, and half the cost)

    Example:
        >>> feedback = SharedFeedback({"a": 4, "b": 6}, {"a": 3, "b": 2}, {"a": ["b"], "b": ["a"]})
        >>> feedback({"a": torch.zeros(1, 5, 4), "b": torch.zeros(1, 5, 6)})["a"]["b"].shape
        torch.Size([1, 5, 3])
    """

    def __init__(
        self,
        source_sizes: Mapping[str, int],
        target_sizes: Mapping[str, int],
        sources: Mapping[str, Sequence[str]],
        *,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        used = dict.fromkeys(source for names in sources.values() for source in names)
        self.trunk = ModalityDict(
            {name: SequenceLSTM(source_sizes[name], source_sizes[name], bidirectional=bidirectional) for name in used}
        )
        self.head = PairwiseFeedback(LinearFeedback, source_sizes, target_sizes, sources)

    def forward(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Logits:
        """Returns the logits {target: {source: (B, T_j, D_k)}} from all sources that are there.

        Args:
            encodings: Of shape (B, T_j, d_j), or (B, d_j), per source.
            lengths: Of shape (B,), or a mapping from source to such a tensor, or None.
        """
        states: dict[str, Tensor] = {}
        for source, lstm in self.trunk.items():
            if source in encodings:
                state = over_time(lstm, encodings[source], lengths_of(lengths, source))
                states[source] = state.unflatten(-1, (-1, lstm.hidden_size)).sum(-2) if lstm.bidirectional else state
        logits: Logits = self.head(states)
        return logits


def build_feedback(
    kind: Literal["linear", "lstm", "shared"] | Network,
    source_sizes: Mapping[str, int],
    target_sizes: Mapping[str, int],
    sources: Mapping[str, Sequence[str]],
) -> nn.Module:
    """Builds the feedback of a latch from a kind, or from a factory of networks for pairs.

    Raises:
        ValueError: if the kind is unknown.
    """
    if kind == "shared":
        return SharedFeedback(source_sizes, target_sizes, sources)
    if kind == "linear":
        return PairwiseFeedback(LinearFeedback, source_sizes, target_sizes, sources)
    if kind == "lstm":
        return PairwiseFeedback(LSTMFeedback, source_sizes, target_sizes, sources)
    return PairwiseFeedback(kind, source_sizes, target_sizes, sources)


def check_feedback(feedback: object) -> None:
    """Checks the `feedback` argument of a latch.

    Raises:
        ValueError: if it is a string that names no kind.
        TypeError: if it is neither a string, nor a module, nor callable.
    """
    expected = f"use one of {FEEDBACK_KINDS}, a factory (source_size, target_size) -> module, or a module"
    if isinstance(feedback, str):
        if feedback not in FEEDBACK_KINDS:
            raise ValueError(f"feedback={feedback!r} is not known: {expected}")
    elif not callable(feedback):
        raise TypeError(f"feedback={feedback!r} is neither a kind nor callable: {expected}")
