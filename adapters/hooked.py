"""A backbone out of a model that nobody may edit: its encodings are read where the model computes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from topdown.backbone import takes_lengths
from topdown.checks import check_sites, missing_names
from topdown.sequence import Lengths
from topdown.sites import Site, run_with, to_sequence


class Run(dict[str, Tensor]):
    """Encodings of one run of a model, and what the model returned.

    Args:
        encodings: Encodings by name.
        output: Output of the model.
        grids: Steps of each dimension of time of encodings.
    """

    def __init__(self, encodings: Mapping[str, Tensor], output: Any, grids: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(encodings)
        self.output, self.grids = output, grids


class HookedBackbone(nn.Module):
    """Wraps any model, whose forward stays as it is, so that a latch can read what it has understood.

    The latch is then called as the model is, `latch(**batch)`, with whatever that takes, and returns what the model returns.
    Masks act at `sites=` of the latch, or on raw inputs of the model that are features. Each look is one call of the model, so
    that the first one goes on to the end.

    The model does not say where a sequence ends: pass `lengths={"text": attention_mask.sum(1)}`, by the names of encodings and
    sites, or feedback takes padding for steps. Padding must be on the right. Arguments are given by name: a model that takes
    one mapping is called as latch(batch=mapping), whatever the name of that argument is.

    Args:
        model: Module that is called as model(**inputs).
        encodings: Place of each encoding in the model, as a path or a :class:`topdown.Site`. Several dimensions of time are
            read as one, and what is neither batch, nor time, nor features is averaged.

    Raises:
        TypeError: if `encodings` is no mapping from names to places.
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
        >>> latch(ids=torch.tensor([[1, 2, 3]])).shape, latch.masks(ids=torch.tensor([[1, 2, 3]]))["text"].shape
        (torch.Size([1, 2]), torch.Size([1, 3, 4]))
    """

    def __init__(self, model: nn.Module, encodings: Mapping[str, Site | str]) -> None:
        super().__init__()
        self.model = model
        self.encodings = check_sites(encodings, model, "encodings")
        if not self.encodings:
            raise ValueError("encodings={} must name at least one, as in {'text': 'encoder'}")
        self.uses_lengths = takes_lengths(model) in ("needed", "optional")

    @property
    def user_model(self) -> nn.Module:
        """The model, to which the paths of sites are relative."""
        return self.model

    def extra_repr(self) -> str:
        """Shows where encodings are read."""
        return "\n".join(f"reads {name!r} at the {site.described()}" for name, site in self.encodings.items())

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Calls the model, without any feedback."""
        return self.model(*args, **inputs)

    def encode(self, inputs: Mapping[str, Any], lengths: Lengths = None) -> Run:
        """Runs the model.

        Args:
            inputs: Arguments of the model, by name.
            lengths: Lengths, which reach the model only where it has a parameter of that name.

        Returns:
            Encodings of shape (B, T, d) or (B, d) by name, with the output of the model as their attribute `output`.

        Raises:
            ValueError: if the model does not reach the place of an encoding, or reaches it twice.
        """
        found: dict[str, Tensor] = {}
        grids: dict[str, tuple[int, ...]] = {}

        def read(name: str, values: Tensor) -> None:
            found[name] = to_sequence(values, self.encodings[name])
            grids[name] = self.encodings[name].grid(values)

        more = {"lengths": lengths} if lengths is not None and self.uses_lengths else {}
        missing = missing_names(inputs, self.encodings, self.model)
        output = run_with(lambda: self.model(**inputs, **more), self.model, self.encodings, note=read, optional=missing)
        return Run({name: found[name] for name in self.encodings if name in found}, output, grids)

    def fuse(self, encodings: Run) -> Any:
        """Returns the output of the run."""
        return encodings.output
