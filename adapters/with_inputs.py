"""Adds raw inputs to the encodings that feedback may read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from topdown.adapters.wrapped import WrappedBackbone
from topdown.first_pass import in_first_pass
from topdown.sequence import Lengths, Padded, lengths_of


def input_name(name: str) -> str:
    """Returns the name of an input among the encodings of :class:`WithInputs`.

    Example:
        >>> input_name("video")
        'input video'
    """
    return f"input {name}"


def check_names(names: Sequence[str]) -> None:
    """Raises a TypeError if names are one string instead of a list."""
    if isinstance(names, str):
        raise TypeError(f"names={names!r} is one string: give a list, as in [{names!r}]")


def read_other_inputs(names: Sequence[str]) -> dict[str, list[str]]:
    """Returns `sources=` of a latch around :class:`WithInputs` in which each modality is masked by the inputs of all others.

    Example:
        >>> read_other_inputs(["audio", "video"])
        {'audio': ['input video'], 'video': ['input audio']}
    """
    check_names(names)
    return {k: [input_name(j) for j in names if j != k] or [input_name(k)] for k in names}


class Encoded(dict[str, Any]):
    """Holds the encodings and additional sources of feedback, and the result of the backbone."""

    def __init__(self, items: Mapping[str, Any], returned: Any) -> None:
        super().__init__(items)
        self.returned = returned


class MoreSources(WrappedBackbone):
    """Base class: adds sources for feedback to the encodings of a backbone; `fuse` does not read them."""

    def more(self, inputs: Mapping[str, Any], lengths: Lengths, encoded: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the additional sources."""
        raise NotImplementedError

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Mapping[str, Any]:
        """Encodes as the backbone does, and adds sources."""
        encoded = super().encode(inputs, lengths)
        return Encoded({**encoded, **self.more(inputs, lengths, encoded)}, encoded)

    def fuse(self, encodings: Any, lengths: Lengths = None) -> Any:
        """Fuses the encodings of the backbone."""
        return super().fuse(encodings.returned, lengths)


class WithInputs(MoreSources):
    """Wraps a backbone, and returns its raw inputs beside the encodings, as "input audio" and so on.

    Encodings that are recurrent, or averaged over time, no longer say what each step said. Name in `sources=` what feedback
    reads: `{"audio": ["input video"]}`, or `{"audio": ["video", "input video"]}` for both.

    Args:
        backbone: Module with `encode` and `fuse`.
        names: Inputs that feedback may read: floating-point (B, T, D) or (B, D). (Default: all of these)
        only: Whether feedback reads inputs alone. Then the first pass does not run the backbone: a call costs one pass.
            (Default: False)

    Example:
        >>> import torch
        >>> from topdown import TopDownLatch
        >>> from topdown.adapters import LSTMBackbone
        >>> backbone = WithInputs(LSTMBackbone({"a": 3, "b": 2}, hidden_size=4), only=True)
        >>> latch = TopDownLatch(backbone, "linear", sources=read_other_inputs(["a", "b"]))
        >>> latch.feedback["a"]["input b"]
        Linear(in_features=2, out_features=3, bias=True)
        >>> latch({"a": torch.zeros(1, 5, 3), "b": torch.zeros(1, 5, 2)}).shape
        torch.Size([1, 1])
    """

    def __init__(self, backbone: nn.Module, names: Sequence[str] | None = None, *, only: bool = False) -> None:
        super().__init__(backbone)
        if names is not None:
            check_names(names)
        self.names, self.only = names, only
        sizes, encoding_sizes = (getattr(backbone, name, None) for name in ("input_sizes", "encoding_sizes"))
        if isinstance(sizes, Mapping) and isinstance(encoding_sizes, Mapping):
            self.input_sizes = dict(sizes)
            read = {input_name(k): size for k, size in sizes.items() if names is None or k in names}
            self.encoding_sizes = {**({} if only else encoding_sizes), **read}

    def more(self, inputs: Mapping[str, Any], lengths: Lengths, encoded: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the raw inputs."""
        read = {k: x for k, x in inputs.items() if _is_feature(x) and (self.names is None or k in self.names)}
        return {input_name(k): Padded(x, lengths_of(lengths, k)) for k, x in read.items()}

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Mapping[str, Any]:
        """Encodes as the backbone does, and adds raw inputs; with `only`, the first pass returns the inputs alone."""
        return self.more(inputs, lengths, {}) if self.only and in_first_pass() else super().encode(inputs, lengths)


def _is_feature(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (2, 3)
