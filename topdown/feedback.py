r"""Feedback networks: from the encoding of a source to the logits of a mask for a target.

A network maps the encoding :math:`r_j` of a source, of shape :math:`(B, T, d_j)`, to logits :math:`h` of shape
:math:`(B, T, D_k)`; the sigmoid :math:`f = \sigma(h)` is the latch's. There is one output per pair (target k, source
j), because Eq. 4 of the paper adds :math:`f_j` and :math:`f_l` in the feature space of :math:`i_k`.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast

import torch
from torch import Tensor, nn

from topdown.backbone import lengths_keyword, takes_lengths
from topdown.lstm import SequenceLSTM
from topdown.masking import Combine, check_rule
from topdown.sequence import MAPPING, Lengths, lengths_of
from topdown.wiring import Sizes, Sources, Wiring, check_name

M = TypeVar("M", bound=nn.Module)
Logits: TypeAlias = dict[str, dict[str, Tensor]]
Network: TypeAlias = Callable[[int, int], nn.Module]
Kind: TypeAlias = Literal["linear", "lstm", "shared", "static"]
Feedback: TypeAlias = Kind | nn.Module | Callable[..., nn.Module]  # of two or of three arguments
Start: TypeAlias = Literal["identity", "random"]


class ModalityDict(nn.Module, Generic[M]):
    """Holds one module per modality, with any name.

    Like :class:`torch.nn.ModuleDict`, but a name may contain a dot, be empty, or be that of an attribute ("type",
    "keys"), which torch refuses. Such names, and those that begin with "%" or "_", are escaped in the keys of the state dict.

    Args:
        modules: Modules by name, in order.

    Raises:
        TypeError: if one of them is not a module.
        KeyError: on look-up of an unknown name, listing the names.

    Example:
        >>> by_name = ModalityDict({"text": nn.Linear(2, 1), "lidar.front": nn.Linear(3, 1)})
        >>> by_name["lidar.front"]
        Linear(in_features=3, out_features=1, bias=True)
        >>> list(by_name.state_dict())
        ['text.weight', 'text.bias', '%lidar%2Efront.weight', '%lidar%2Efront.bias']
    """

    def __init__(self, modules: Mapping[str, M]) -> None:
        super().__init__()
        self.names = {name: self._key(name) for name in modules}
        for name, module in modules.items():
            if not isinstance(module, nn.Module):
                raise TypeError(f"{name!r} must be a torch.nn.Module, got {type(module).__name__}")
            self.add_module(self.names[name], module)

    def _key(self, name: str) -> str:
        plain = name not in ("", "names", "training") and "." not in name and not name.startswith(("%", "_"))
        return name if plain and not hasattr(type(self), name) else "%" + name.replace("%", "%25").replace(".", "%2E")

    def __getitem__(self, name: str) -> M:
        if name not in self.names:
            raise KeyError(f"no module for {name!r}: there are {', '.join(map(repr, self.names))}")
        return cast(M, self._modules[self.names[name]])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> list[tuple[str, M]]:
        """Returns pairs of name and module, in order."""
        return [(name, self._modules[key]) for name, key in self.names.items()]  # type: ignore[misc]


#: Feedback without memory, :math:`h_t = W r_t + b`, of (source_size, target_size): torch's own layer, so that tools for linear
#: layers work on it. The paper's "MMLatch (no LSTM)" (Table 2); called `learnable_static_mask` in its public code.
LinearFeedback = nn.Linear


class LSTMFeedback(nn.Module):
    r"""Creates a feedback network with memory: the hidden states of a forward LSTM are the logits.

    As in the public code of the paper, the hidden size is that of the target and nothing follows the LSTM. Its states
    lie in :math:`(-1, 1)`, so with start="random" and without dropout **every mask stays within (0.269, 0.731)**; that is what
    the paper's Fig. 2 shows. With `projection=True`, as start="identity" has it, a linear map follows, and masks reach all of
    (0, 1), or (0, 2).

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
    return cast(Tensor, lstm(encoding.unsqueeze(1)).squeeze(1) if encoding.dim() == 2 else lstm(encoding, lengths))


class PairwiseFeedback(ModalityDict[ModalityDict[nn.Module]]):
    """Creates one network per pair: `feedback[target][source]`.

    Args:
        network: Function (source_size, target_size) -> module that maps (encoding) or (encoding, lengths) to logits:
            :class:`LinearFeedback`, :class:`LSTMFeedback`, `torch.nn.Linear`, or a user-defined one.
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
        pairs = {k: {j: network(source_sizes[j], target_sizes[k]) for j in names} for k, names in sources.items()}
        super().__init__({target: ModalityDict(networks) for target, networks in pairs.items()})
        self._takes = {(k, j): takes_lengths(network) for k, networks in self.items() for j, network in networks.items()}

    def forward(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Logits:
        """Returns the logits {target: {source: (B, T_j, D_k) or (B, D_k)}} from all sources that are present.

        Args:
            encodings: Encoding of shape (B, T_j, d_j), or (B, d_j), per source.
            lengths: Lengths of shape (B,), or a mapping from source to such a tensor, or None.
        """
        logits: Logits = {}
        for k, networks in self.items():
            h = logits[k] = {}
            for j, network in networks.items():
                if (r := encodings.get(j)) is not None:
                    n = None if r.dim() == 2 else lengths_of(lengths, j)
                    h[j] = network(r, **lengths_keyword(n, self._takes[k, j]))
        return logits


class SharedFeedback(nn.Module):
    r"""Creates one LSTM per source, run once for all its targets, and one linear map per pair.

    .. math:: h_{j \to k} = W_{jk} \, \mathrm{LSTM}_j(r_j) + b_{jk}

    The paper speaks of three feedback LSTMs, one per source. Their states cannot be masks of three targets of different
    width, hence the linear maps `feedback[target][source]` after `trunk[source]`. The logits are unbounded, so masks reach
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
        used = {j: source_sizes[j] for names in sources.values() for j in names}
        trunk = partial(SequenceLSTM, bidirectional=bidirectional, directions="sum")
        self.trunk = ModalityDict({source: trunk(size, size) for source, size in used.items()})
        self.head = PairwiseFeedback(LinearFeedback, source_sizes, target_sizes, sources)

    def __getitem__(self, target: str) -> ModalityDict[nn.Module]:
        return self.head[target]

    def forward(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Logits:
        """Returns the logits {target: {source: (B, T_j, D_k) or (B, D_k)}} from all sources that are present.

        Args:
            encodings: Encoding of shape (B, T_j, d_j), or (B, d_j), per source.
            lengths: Lengths of shape (B,), or a mapping from source to such a tensor, or None.
        """
        states = {j: over_time(lstm, encodings[j], lengths_of(lengths, j)) for j, lstm in self.trunk.items() if j in encodings}
        return cast(Logits, self.head(states))


class StaticFeedback(nn.Module):
    r"""Creates a learned mask that does not read encodings, :math:`h = b`: the control of every comparison.

    Args:
        source_size: Size of the encodings, which it does not read.
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


class Affine(nn.Module):
    r"""Scales and shifts logits, :math:`h' = a \odot h + b`, with a and b of 0 at the start.

    Logits are limited to :math:`\pm 30`, beyond which the sigmoid hardly changes, since 0 times infinity is nan.

    Args:
        size: Features D_k of the target, each of which has a scale and a shift; None for one of each. (Default: None)

    Example:
        >>> Affine(2)(torch.tensor([[torch.inf, -3.0]]))
        tensor([[0., 0.]], grad_fn=<AddcmulBackward0>)
    """

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.weight, self.bias = (nn.Parameter(torch.zeros(() if size is None else (size,))) for _ in range(2))

    def forward(self, logits: Tensor) -> Tensor:
        """Maps logits of shape (B, T, D_k) or (B, D_k) to the same shape."""
        return torch.addcmul(self.bias, self.weight, logits.clamp(-30.0, 30.0))


class ZeroStart(nn.Module):
    """Adds a scale and a shift per pair and feature to user-defined feedback, so that its logits begin at 0.

    Args:
        network: Feedback of all pairs. `feedback[target][source]` is that of the network.
        wiring: Pairs and sizes. Where they are unknown, as for a ready module, one scale and one shift serve all pairs.
            (Default: unknown)
    """

    def __init__(self, network: nn.Module, wiring: Wiring | None = None) -> None:
        super().__init__()
        self.network, self.wiring = network, wiring or Wiring(None)
        sizes, sources = self.wiring.target_sizes, self.wiring.pairs
        self.pairs = ModalityDict({k: ModalityDict({j: Affine(sizes[k]) for j in names}) for k, names in sources.items()})
        self.shared = None if sources else Affine().to(next(network.parameters(), torch.empty(0)))
        self._takes = takes_lengths(network)

    def __getitem__(self, target: str) -> Any:
        return self.network[target]  # type: ignore[index]

    def forward(self, encodings: Mapping[str, Tensor], lengths: Lengths = None) -> Logits:
        """Returns the logits {target: {source: h'}}; arguments are those of the network."""
        logits = check_logits(self.network(encodings, **lengths_keyword(lengths, self._takes)), self.network, self.wiring)
        return {k: {j: (self.shared or self.pairs[k][j])(h) for j, h in of_k.items()} for k, of_k in logits.items()}


FEEDBACK = {"linear": LinearFeedback, "lstm": LSTMFeedback, "shared": SharedFeedback, "static": StaticFeedback}


def build_feedback(kind: Feedback, start: Start, combine: Combine, wiring: Wiring, like: Tensor | None) -> nn.Module:
    """Builds the feedback of a latch from a kind or a factory: of all at once, if that needs three arguments, or of pairs.

    With the start "identity" all logits begin at 0: the last map of a kind is zero, and :class:`ZeroStart` follows a factory.

    Args:
        kind: Kind or factory.
        start: "identity" or "random".
        combine: Rule that combines masks.
        wiring: Pairs and sizes.
        like: Tensor of the type and on the device that the parameters should have; None for torch's defaults.

    Raises:
        TypeError: if the factory returns something else than a module.
        ValueError: if a rule does not map ones to ones, with which the start "identity" begins.
    """
    factory: Any = FEEDBACK[kind] if isinstance(kind, str) else kind
    is_kind = factory in FEEDBACK.values()
    factory = partial(LSTMFeedback, projection=True) if factory is LSTMFeedback and start == "identity" else factory
    makes_all = _accepts(factory, 3) and not _accepts(factory, 2)
    factory = factory if makes_all else partial(PairwiseFeedback, factory)
    # Parameters that are created in inference mode cannot be trained.
    with torch.inference_mode(False), contextlib.nullcontext() if like is None else like.device:
        check_rule(combine, start, wiring.pairs, wiring.target_sizes)
        feedback = factory(wiring.encoding_sizes, wiring.target_sizes, wiring.pairs)
        if not isinstance(feedback, nn.Module):
            raise TypeError(f"the factory of the feedback returned a {type(feedback).__name__}: it must return a module")
        if start == "identity" and is_kind:
            for parameter in [p for m in feedback.modules() if isinstance(m, nn.Linear) for p in m.parameters()]:
                nn.init.zeros_(parameter)
        elif start == "identity":
            feedback = ZeroStart(feedback, wiring)
    return cast(nn.Module, feedback if like is None else feedback.to(like.dtype))


def _accepts(factory: Callable[..., Any], count: int) -> bool:
    with contextlib.suppress(TypeError, ValueError):  # or it is written in C and does not say
        return inspect.signature(factory).bind(*range(count)) is not None
    return False


def check_feedback(feedback: Any, sources: object) -> None:
    """Checks the option `feedback`.

    Raises:
        ValueError: if it is an unknown string, or `sources` are passed with a ready module.
        TypeError: if it is neither a kind, nor a factory, nor a module that can serve all pairs.
    """
    expected = f"use one of {[*FEEDBACK]}, a factory (source_size, target_size) -> module for pairs, or a module for all"
    if feedback not in [*FEEDBACK] and not callable(feedback):
        raise (ValueError if isinstance(feedback, str) else TypeError)(f"feedback={feedback!r} is not known: {expected}")
    if isinstance(feedback, (LSTMFeedback, StaticFeedback)) or type(feedback).__module__.startswith("torch.nn.modules."):
        raise TypeError(f"feedback={feedback} is one network, but each pair of target and source needs its own: pass a factory")
    if isinstance(feedback, nn.Module) and sources is not None:
        raise ValueError("a ready feedback module decides on its sources itself: leave out sources=")


def check_logits(logits: Any, network: nn.Module, wiring: Wiring) -> Logits:
    """Checks the result of feedback, and returns it.

    Args:
        logits: Result of a feedback module.
        network: The module.
        wiring: Targets and sources that it was built for; a ready module may name any.

    Raises:
        TypeError: if it is not a mapping of mappings of tensors.
        ValueError: if it names targets or sources that it was not built for.
    """
    if not isinstance(logits, MAPPING) or not all([isinstance(by_source, MAPPING) for by_source in logits.values()]):
        raise TypeError(f"{type(network).__name__} must return logits as {{target: {{source: tensor}}}}")
    for k, by_source in logits.items():
        for j, h in by_source.items():
            if not isinstance(h, Tensor):
                raise TypeError(f"the feedback from {j!r} to {k!r} must be a tensor of logits, got {type(h).__name__}")
            if wiring.pairs and j not in wiring.pairs.get(k, ()):
                before = f"{type(network).__name__} returned logits from {j!r} to {k!r}: "
                check_name(k, wiring.pairs, "targets", before)
                check_name(j, wiring.pairs[k], "sources", before)
    return logits  # type: ignore[return-value]
