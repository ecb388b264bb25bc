r"""Feedback networks: from what the model has understood of a source to the logits of a mask for a target.

A network maps the encoding :math:`r_j` of a source, of shape :math:`(B, T, d_j)`, to logits :math:`h` of shape
:math:`(B, T, D_k)`; the sigmoid :math:`f = \sigma(h)` is the latch's. There is one output per pair (target k, source
j), because Eq. 4 of the paper adds :math:`f_j` and :math:`f_l` in the feature space of :math:`i_k`.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from topdown.backbone import call, takes_lengths
from topdown.naming import ModalityDict
from topdown.recurrence import SequenceLSTM
from topdown.sequence import Lengths, lengths_of

Logits: TypeAlias = dict[str, dict[str, Tensor]]
Sizes: TypeAlias = Mapping[str, int]
Sources: TypeAlias = Mapping[str, Sequence[str]]
Network: TypeAlias = Callable[[int, int], nn.Module]
Factory: TypeAlias = Network | Callable[[Sizes, Sizes, Sources], nn.Module]


LinearFeedback = nn.Linear
"""Feedback without memory, :math:`h_t = W r_t + b`, of (source_size, target_size): torch's own layer, so that whatever tools do
to linear layers, they do to it. The paper's "MMLatch (no LSTM)" (Table 2); called `learnable_static_mask` in its public code.
"""


class LSTMFeedback(nn.Module):
    r"""Creates a feedback network with memory: the hidden states of a forward LSTM are the logits.

    As in the public code of the paper, the hidden size is that of the target and nothing follows the LSTM. Its states
    lie in :math:`(-1, 1)`, so **every mask stays within (0.269, 0.731)**; that is what the paper's Fig. 2 shows. With
    `projection=True` a linear map follows, and masks reach all of (0, 1).

    Args:
        source_size: Size d_j of the encodings of the source.
        target_size: Features D_k of the target.
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
        self.dropout = nn.Dropout(dropout)
        self.projection = nn.Linear(target_size, target_size) if projection else None

    def forward(self, encoding: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns the logits of a mask.

        Args:
            encoding: Encoding of shape (B, T, d_j), or (B, d_j), which counts as one step.
            lengths: Number of valid steps of each sample, of shape (B,), or None.

        Returns:
            Logits of shape (B, T, D_k), or (B, D_k).
        """
        logits: Tensor = self.dropout(over_time(self.lstm, encoding, lengths))
        return logits if self.projection is None else self.projection(logits)


def over_time(lstm: nn.Module, encoding: Tensor, lengths: Tensor | None) -> Tensor:
    """Runs an LSTM over a sequence (B, T, d), or over a pooled encoding (B, d) as a sequence of one step."""
    states: Tensor = lstm(encoding.unsqueeze(1)).squeeze(1) if encoding.dim() == 2 else lstm(encoding, lengths)
    return states


class PairwiseFeedback(ModalityDict[ModalityDict[nn.Module]]):
    """Creates one network per pair: `feedback[target][source]`.

    Args:
        network: Function (source_size, target_size) -> module that maps (encoding) or (encoding, lengths) to logits:
            :class:`LinearFeedback`, :class:`LSTMFeedback`, `torch.nn.Linear`, or one of your own.
        source_sizes: Size d_j of the encodings of each source.
        target_sizes: Features D_k of each target.
        sources: Sources of each target.

    Raises:
        TypeError: if `network` returns something else than a module.

    Example:
        >>> feedback = PairwiseFeedback(LinearFeedback, {"a": 4, "b": 6}, {"a": 3, "b": 2}, {"a": ["b"], "b": ["a"]})
        >>> feedback["a"]["b"]
        Linear(in_features=6, out_features=3, bias=True)
        >>> logits = feedback({"a": torch.zeros(1, 5, 4), "b": torch.zeros(1, 5, 6)})
        >>> logits["b"]["a"].shape
        torch.Size([1, 5, 2])
    """

    def __init__(self, network: Network, source_sizes: Sizes, target_sizes: Sizes, sources: Sources) -> None:
        super().__init__(
            {k: ModalityDict({j: network(source_sizes[j], target_sizes[k]) for j in names}) for k, names in sources.items()}
        )
        self._takes = {(k, j): takes_lengths(network) for k, networks in self.items() for j, network in networks.items()}

    def forward(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Logits:
        """Returns the logits {target: {source: (B, T_j, D_k)}} from all sources that are there.

        Args:
            encodings: Encoding of shape (B, T_j, d_j), or (B, d_j), per source.
            lengths: Lengths of shape (B,), or a mapping from source to such a tensor, or None.
        """
        logits: Logits = {target: {} for target in self}
        for target, source in self._takes:
            if source in encodings:
                r = encodings[source]
                valid = lengths_of(lengths, source) if r.dim() == 3 else None
                logits[target][source] = call(self[target][source], r, valid, self._takes[target, source])
        return logits


class SharedFeedback(nn.Module):
    r"""Creates one LSTM per source, run once for all its targets, and one linear map per pair.

    .. math:: h_{j \to k} = W_{jk} \, \mathrm{LSTM}_j(r_j) + b_{jk}

    The paper speaks of three feedback LSTMs, one per source. Their states cannot be masks of three targets of different
    width, hence the linear maps `head[target][source]` after `trunk[source]`. The logits are unbounded, so masks reach
    all of (0, 1).

    Args:
        source_sizes: Size d_j of the encodings of each source; also the hidden size of its LSTM.
        target_sizes: Features D_k of each target.
        sources: Sources of each target.
        bidirectional: Whether the LSTMs run both ways, their states summed: the paper's general statement about its
            LSTMs. (Default: False, as the feedback LSTMs of its public code, and half the cost)

    Example:
        >>> feedback = SharedFeedback({"a": 4, "b": 6}, {"a": 3, "b": 2}, {"a": ["b"], "b": ["a"]})
        >>> feedback({"a": torch.zeros(1, 5, 4), "b": torch.zeros(1, 5, 6)})["a"]["b"].shape
        torch.Size([1, 5, 3])
    """

    def __init__(self, source_sizes: Sizes, target_sizes: Sizes, sources: Sources, *, bidirectional: bool = False) -> None:
        super().__init__()
        used = {source: source_sizes[source] for names in sources.values() for source in names}
        trunk = partial(SequenceLSTM, bidirectional=bidirectional, directions="sum")
        self.trunk = ModalityDict({source: trunk(size, size) for source, size in used.items()})
        self.head = PairwiseFeedback(LinearFeedback, source_sizes, target_sizes, sources)

    def forward(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Logits:
        """Returns the logits {target: {source: (B, T_j, D_k)}} from all sources that are there.

        Args:
            encodings: Encoding of shape (B, T_j, d_j), or (B, d_j), per source.
            lengths: Lengths of shape (B,), or a mapping from source to such a tensor, or None.
        """
        there = {source: lstm for source, lstm in self.trunk.items() if source in encodings}
        logits: Logits = self.head({j: over_time(lstm, encodings[j], lengths_of(lengths, j)) for j, lstm in there.items()})
        return logits


class StaticFeedback(nn.Module):
    r"""Creates a learned mask that looks at nothing, :math:`h = b`: the control of every comparison.

    Args:
        source_size: Size of the encodings, of which nothing is used.
        target_size: Features D_k of the target.

    Example:
        >>> StaticFeedback(8, 3)(torch.randn(2, 5, 8))
        tensor([[0., 0., 0.],
                [0., 0., 0.]], grad_fn=<ExpandBackward0>)
    """

    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(target_size))

    def forward(self, encoding: Tensor) -> Tensor:
        """Returns the logits of shape (B, D_k), the same for all samples and steps.

        Args:
            encoding: Encoding of shape (B, T, d_j), or (B, d_j), of which only B is used.
        """
        return self.bias.expand(encoding.shape[0], -1)


# The factory of each kind of feedback.
FEEDBACK: dict[str, Factory] = {
    "linear": LinearFeedback,
    "lstm": LSTMFeedback,
    "shared": SharedFeedback,
    "static": StaticFeedback,
}


@contextlib.contextmanager
def made_like(like: Tensor | None) -> Iterator[None]:
    """Makes modules on the device of a tensor within a `with` block, whatever the default device is.

    Parameters that are made in inference mode could never be trained, so this is left.
    """
    with torch.inference_mode(False), contextlib.nullcontext() if like is None else like.device:
        yield


def build_feedback(kind: str | Factory, source_sizes: Sizes, target_sizes: Sizes, sources: Sources) -> nn.Module:
    """Builds the feedback of a latch from a kind or a factory: of all at once, if that needs three arguments, or of pairs.

    Raises:
        TypeError: if the factory returns something else than a module.
    """
    factory: Any = FEEDBACK[kind] if isinstance(kind, str) else kind
    makes_all = _takes(factory, 3) and not _takes(factory, 2)
    feedback = (factory if makes_all else partial(PairwiseFeedback, factory))(source_sizes, target_sizes, sources)
    if not isinstance(feedback, nn.Module):
        raise TypeError(f"the factory of the feedback returned a {type(feedback).__name__}: it must return a module")
    return feedback


def _takes(factory: Callable[..., nn.Module], count: int) -> bool:
    try:
        inspect.signature(factory).bind(*range(count))
    except (TypeError, ValueError):  # or it is written in C and does not say
        return False
    return True
