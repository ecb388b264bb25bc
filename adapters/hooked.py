"""Reads encodings from an unmodified model with forward hooks."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from topdown.adapters.called_as_model import latch_class
from topdown.backbone import takes_lengths
from topdown.sequence import Lengths, WithLengths
from topdown.sites import Site, check_sites, from_layout, run_at_sites


class Run(dict[str, Any]):
    """Holds the encodings of one run of a model, and the output of the model.

    Args:
        encodings: Encodings by name: tensors, or `WithLengths` of packed sequences and of maps.
        output: Output of the model.
    """

    def __init__(self, encodings: Mapping[str, Any], output: Any) -> None:
        super().__init__(encodings)
        self.output = output


class HookedBackbone(nn.Module):
    """Wraps any model, without a change to its forward, so that a latch can read encodings inside it.

    Call the latch as the model, by position or by name; it returns the result of the model, and its `forward` shows the
    signature of the model's. A mapping that has names of these parameters is taken for keyword arguments. Masks act at the
    `sites=` of the latch, or on raw inputs of the model that are features. Each pass is one call of the whole model.

    The latch cannot know where a sequence ends: pass `lengths={"text": attention_mask.sum(1)}`, by the names of encodings and
    sites. Padding must be on the right.

    Args:
        model: Module that is called with inputs by name, or by position where its forward takes them so alone.
        encodings: Site or path of each encoding in the model; see :class:`topdown.Site`.

    Raises:
        TypeError: if the model is not a module, or `encodings` is not a mapping from names to sites or paths.
        ValueError: if it is empty, or the model has no such submodule.

    Example:
        >>> import torch
        >>> from topdown import TopDownLatch
        >>> class Model(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.words, self.body, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        ...     def forward(self, ids):
        ...         return self.head(self.body(self.words(ids)).mean(1))
        >>> latch = TopDownLatch(HookedBackbone(Model(), {"text": "body"}), sites={"text": "words"})
        >>> latch(ids=torch.tensor([[1, 2, 3]])).shape, latch.masks(torch.tensor([[1, 2, 3]]))["text"].shape
        (torch.Size([1, 2]), torch.Size([1, 3, 4]))
    """

    def __init__(self, model: nn.Module, encodings: Mapping[str, Site | str]) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
        self.model = model
        self.encodings = check_sites(encodings, model, "encodings")
        if not self.encodings:
            raise ValueError("encodings={} must name at least one, as in {'text': 'encoder'}")
        self.uses_lengths = takes_lengths(model) != "never"
        parameters = inspect.signature(model.forward).parameters.values()
        self.positional = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]

    def latch_class(self, base: type[nn.Module]) -> type[nn.Module]:
        """Returns the class of latches around this backbone: see :class:`CalledAsModel`."""
        return latch_class(base, self.model)

    @property
    def user_model(self) -> nn.Module:
        """The model, to which the paths of sites are relative."""
        return self.model

    def extra_repr(self) -> str:
        """Shows the sites of the encodings."""
        return "\n".join(f"reads {name!r} at the {site}" for name, site in self.encodings.items())

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Calls the model, without any feedback."""
        return self.model(*args, **inputs)

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Run:
        """Runs the model.

        Args:
            inputs: Arguments of the model, by name.
            lengths: Lengths, which reach the model only if it takes them.

        Returns:
            Encodings by name, of shape (B, T, d) or (B, d), or feature maps (B, H, W, d), with the output of the model as their
            attribute `output`.

        Raises:
            ValueError: if the model does not reach the site of an encoding, or reaches it twice.
        """
        more = {"lengths": lengths} if lengths is not None and self.uses_lengths else {}
        first = [inputs[name] for name in self.positional if name in inputs]
        more |= {name: value for name, value in inputs.items() if name not in self.positional}
        output, values = run_at_sites(lambda: self.model(*first, **more), self, self.encodings, {}, inputs, ())
        encodings: dict[str, Any] = {}
        for name, site in self.encodings.items():
            if name in values:
                packed = isinstance(values[name], PackedSequence)
                r, n = pad_packed_sequence(values[name], batch_first=True) if packed else (values[name], None)
                r = from_layout(r, site)
                encodings[name] = WithLengths(r, n) if packed or r.dim() > 3 else r
        return Run(encodings, output)

    def fuse(self, encodings: Run) -> Any:
        """Returns the output of the run."""
        return encodings.output
