"""Modules by the name of a modality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


def escape(name: str) -> str:
    """Returns a name that torch takes for a module or a buffer, whatever characters it holds.

    Example:
        >>> escape("lidar.front")
        '%lidar%2Efront'
    """
    return "%" + name.replace("%", "%25").replace(".", "%2E")


class ModalityDict(nn.Module, Generic[M]):
    """Holds one module per modality, whatever the modality is called.

    Like :class:`torch.nn.ModuleDict`, but a name may contain a dot, be empty, or be that of an attribute ("type",
    "keys"), which torch refuses: such names are escaped in the keys of the state dict, all others are used as they are.

    Args:
        modules: Modules by name, in order.

    Raises:
        TypeError: if one of them is not a module.
        KeyError: on look-up of an unknown name, listing those that are there.

    Example:
        >>> by_name = ModalityDict({"text": nn.Linear(2, 1), "lidar.front": nn.Linear(3, 1)})
        >>> by_name["lidar.front"]
        Linear(in_features=3, out_features=1, bias=True)
        >>> list(by_name.state_dict())
        ['text.weight', 'text.bias', '%lidar%2Efront.weight', '%lidar%2Efront.bias']
    """

    def __init__(self, modules: Mapping[str, M]) -> None:
        super().__init__()
        self.names = tuple(modules)
        for name, module in modules.items():
            if not isinstance(module, nn.Module):
                raise TypeError(f"{name!r} must be a torch.nn.Module, got {type(module).__name__}")
            self.add_module(self._key(name), module)

    def _key(self, name: str) -> str:
        plain = name and "." not in name and not name.startswith(("%", "_")) and not hasattr(type(self), name)
        if plain and name not in ("names", "training"):
            return name
        return escape(name)

    def __getitem__(self, name: str) -> M:
        if name not in self.names:
            raise KeyError(f"no module for {name!r}: there are {', '.join(map(repr, self.names))}")
        return cast(M, self._modules[self._key(name)])

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> list[tuple[str, M]]:
        """Returns pairs of name and module, in order."""
        return [(name, self[name]) for name in self.names]
