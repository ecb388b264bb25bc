"""Sites: where a mask acts, or an encoding is read, within a model whose forward is left as it is."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, TypeVar

import torch
import torch.utils.checkpoint
from torch import Tensor, nn

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Site:
    """The output, or the input, of a submodule.

    Args:
        path: Path of the submodule, relative to the user's model, as in `model.get_submodule(path)`; "" is the model itself.
        at: "output" or "input" of the submodule. (Default: "output")
        index: Item of a tuple, a list or a mapping; for an input, the position or the name of an argument. None takes the
            tensor, or the first item of what holds several. (Default: None)
        feature_dim: Dimension of the features. (Default: -1)
        time_dim: Dimension of time, or several that count as one, such as (2, 3) for the positions of an image of shape
            (B, C, H, W); None for none: all but batch and features are then masked alike. A tensor of two dimensions has no
            time. (Default: 1)
        batch_dim: Dimension of the batch; 1 for layers that take time first. (Default: 0)

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `at` is unknown, or a dimension is named twice.

    Example:
        >>> Site("text_model.embeddings").path, Site("stem", feature_dim=1, time_dim=(2, 3)).time_dim
        ('text_model.embeddings', (2, 3))
    """

    path: str
    _: dataclasses.KW_ONLY
    at: Literal["output", "input"] = "output"
    index: int | str | None = None
    feature_dim: int = -1
    time_dim: int | tuple[int, ...] | None = 1
    batch_dim: int = 0

    def __post_init__(self) -> None:
        """Checks the arguments."""
        if not isinstance(self.path, str):
            raise TypeError(f"a site needs the path of a submodule, such as 'encoder.layer.0', got {self.path!r}")
        if self.at not in ("output", "input"):
            raise ValueError(f"at={self.at!r} must be 'output' or 'input'")
        if isinstance(self.index, bool) or not isinstance(self.index, (int, str, type(None))):
            raise TypeError(f"index={self.index!r} must be the number or the name of an item, or None")
        if isinstance(self.time_dim, list):  # as JSON has it
            object.__setattr__(self, "time_dim", tuple(self.time_dim))
        named = (self.batch_dim, self.feature_dim, *self._times())
        if not all(isinstance(dim, int) and not isinstance(dim, bool) for dim in named):
            raise TypeError(f"{self.layout()} must be numbers of dimensions")
        if len(set(named)) < len(named):
            raise ValueError(f"{self.layout()} must be different dimensions")

    def __str__(self) -> str:
        """Names the place for messages."""
        return f"{self.at} of {self.path!r}" + ("" if self.index is None else f"[{self.index!r}]")

    def described(self) -> str:
        """Names the place, and the layout where it is not (B, T, D)."""
        plain = (self.feature_dim, self.time_dim, self.batch_dim) == (-1, 1, 0)
        return str(self) if plain else f"{self} ({self.layout()})"

    def layout(self) -> str:
        """Names the dimensions."""
        return f"feature_dim={self.feature_dim!r}, time_dim={self.time_dim!r}, batch_dim={self.batch_dim!r}"

    def order(self, values: Tensor) -> list[int]:
        """Returns the dimensions of batch, time, features, and all others, in this order.

        Raises:
            ValueError: if a tensor does not have them, or nobody has said which of four or more they are.
        """
        count, times = values.dim(), self._times()
        if count == 2 and self.time_dim == 1:
            times = ()  # a vector
        named = [dim % count if -count <= dim < count else count for dim in (self.batch_dim, *times, self.feature_dim)]
        untold = count > 3 and (self.feature_dim, self.time_dim) == (-1, 1)
        if untold or count in named or len(set(named)) < len(named):
            remedy = (
                "say which of them are features and time, as in Site(path, feature_dim=1, time_dim=(2, 3)) for (B, C, H, W)"
            )
            raise ValueError(f"the {self} has shape {tuple(values.shape)}, but {self.layout()}: {remedy}")
        return [*named, *(dim for dim in range(count) if dim not in named)]

    def grid(self, values: Tensor) -> tuple[int, ...]:
        """Returns the steps of each dimension of time."""
        return tuple(values.shape[dim] for dim in self.order(values)[1 : 1 + len(self._times())]) if values.dim() > 2 else ()

    def _times(self) -> tuple[Any, ...]:
        return self.time_dim if isinstance(self.time_dim, tuple) else () if self.time_dim is None else (self.time_dim,)


def to_sequence(values: Tensor, site: Site) -> Tensor:
    """Returns values of a site as a sequence of shape (B, T, D), or as vectors of shape (B, D) where there is no time.

    Dimensions that are neither batch, nor time, nor features are averaged.

    Example:
        >>> to_sequence(torch.zeros(2, 8, 4, 5), Site("stem", feature_dim=1, time_dim=(2, 3))).shape
        torch.Size([2, 20, 8])
        >>> to_sequence(torch.zeros(2, 8, 4, 5), Site("stem", feature_dim=1, time_dim=None)).shape
        torch.Size([2, 8])
    """
    order, steps = site.order(values), site.grid(values)
    values = values.permute(order)
    values = values.flatten(2 + len(steps)).mean(-1) if values.dim() > 2 + len(steps) else values
    return values.flatten(1, -2) if steps else values


def from_sequence(mask: Tensor, like: Tensor, site: Site) -> Tensor:
    """Returns a mask of shape (B, T, D) or (B, D) in the layout of the values of its site: the inverse of :func:`to_sequence`.

    Example:
        >>> mask, site = torch.rand(2, 20, 8), Site("stem", feature_dim=1, time_dim=(2, 3))
        >>> from_sequence(mask, torch.zeros(2, 8, 4, 5), site)[1, 7, 3, 4] == mask[1, 19, 7]
        tensor(True)
    """
    order, steps = site.order(like), site.grid(like)
    mask = mask.reshape(mask.shape[0], *steps, mask.shape[-1], *[1] * (like.dim() - 2 - len(steps)))
    return mask.permute([order.index(dim) for dim in range(like.dim())]).expand_as(like)


def run_with(
    run: Callable[[], T],
    model: nn.Module,
    sites: Mapping[str, Site],
    *,
    masks: Mapping[str, Tensor] | None = None,
    note: Callable[[str, Tensor], object] | None = None,
    optional: Collection[str] = (),
) -> T:
    """Runs something that calls a model, and masks or notes what is at sites of it, in the calling thread alone.

    Args:
        run: Function without arguments.
        model: Module that it calls.
        sites: Sites by name, each of which must be reached exactly once.
        masks: Masks in the layout of their sites, which multiply what is there. (Default: none)
        note: Function of the name of a site and the tensor there, before it is masked. (Default: none)
        optional: Names of sites that need not be reached. (Default: none)

    Returns:
        Result of `run`. In compiled code it runs uncompiled.

    Raises:
        RuntimeError: while a program is exported.
        ValueError: if a site is not reached, or reached twice, or its mask could not act or learn there.
        TypeError: if there is no tensor.

    Example:
        >>> model = nn.Sequential(nn.Identity(), nn.ReLU())
        >>> run_with(lambda: model(torch.ones(1, 2)), model, {"x": Site("0")}, masks={"x": torch.tensor([[3.0, 0.5]])})
        tensor([[3.0000, 0.5000]])
    """
    if not sites:
        return run()
    if torch.compiler.is_dynamo_compiling():
        inside = torch.compiler.disable(run_with)
        return inside(run, model, sites, masks=masks, note=note, optional=optional)  # type: ignore[no-any-return]
    if torch.compiler.is_compiling():
        raise RuntimeError(
            f"sites ({', '.join(sites)}) cannot be exported: give the model encode() and fuse(), and mask inputs"
        )
    masks, thread, learns = masks or {}, threading.get_ident(), torch.is_grad_enabled()
    reached: set[str] = set()
    handles = []

    def visit(name: str, held: Any, index: int | str | None) -> Any:
        tensor = _pick(held, index, sites[name])
        if name in reached:
            once = "choose a module that is called once, such as one that only this modality goes through"
            raise ValueError(f"{name!r}, the {sites[name]}, was reached twice in one call: {once}")
        reached.add(name)
        if note is not None:
            note(name, tensor)
        if name not in masks:
            return None
        if learns:
            _check_learns(name, sites[name], masks[name])
        if masks[name].shape != tensor.shape:
            found = f"{tuple(tensor.shape)}, but had {tuple(masks[name].shape)} in the first pass"
            raise ValueError(f"{name!r}, the {sites[name]}, has shape {found}: choose a site whose size masks do not change")
        return _put(held, index, tensor * masks[name].to(tensor.dtype))

    def hook_of(name: str) -> Callable[..., Any]:
        def after(module: nn.Module, args: Any, output: Any) -> Any:
            return visit(name, output, sites[name].index) if threading.get_ident() == thread else None

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
            if threading.get_ident() != thread or kwargs is None:  # torch tells another thread too late that it takes them
                return None
            index = _argument(module, args, kwargs, sites[name])
            by_name = isinstance(index, str)
            changed = visit(name, kwargs if by_name else args, index)
            return None if changed is None else (args, changed) if by_name else (changed, kwargs)

        return after if sites[name].at == "output" else before

    try:
        for name, site in sites.items():
            _check_compiled(name, site, model)
            module, hook = model.get_submodule(site.path), hook_of(name)
            if site.at == "output":
                handles.append(module.register_forward_hook(hook))
            else:
                handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        result = run()
    finally:
        for handle in handles:
            handle.remove()
    for name, site in sites.items():
        if name not in reached and name not in optional:
            remedy = "name a module that is called in encode(), as module(...), and in the same thread"
            raise ValueError(f"{name!r}, the {site}, was not reached in this call: {remedy}")
    return result


def _check_compiled(name: str, site: Site, model: nn.Module) -> None:
    """Checks that a site does not lie within compiled code, which would be compiled anew for each call."""
    parts = site.path.split(".")
    for count in range(len(parts) + 1):
        path = ".".join(parts[:count])
        module = model.get_submodule(path)
        itself = path == site.path
        if getattr(module, "_compiled_call_impl", None) is not None or (hasattr(module, "_orig_mod") and not itself):
            remedy = "choose a site outside of it, or leave it uncompiled"
            raise ValueError(f"{name!r}, the {site}, lies within {path!r}, which is compiled by itself: {remedy}")


def _check_learns(name: str, site: Site, mask: Tensor) -> None:
    """Checks that neither a mask nor its gradient is lost."""
    frame, within = inspect.currentframe(), False
    while frame is not None and not within and frame.f_code is not run_with.__code__:
        within = frame.f_code.co_filename == torch.utils.checkpoint.__file__
        frame = frame.f_back
    if within:
        why = "lies within activation checkpointing, which would run it again without its mask"
        raise ValueError(f"{name!r}, the {site}, {why}: choose the output of what comes before, or do not checkpoint this part")
    if mask.requires_grad and not torch.is_grad_enabled():
        why = "runs without gradients (torch.no_grad), so its feedback would never learn"
        raise ValueError(f"{name!r}, the {site}, {why}: freeze the model with requires_grad_(False) instead")


def _argument(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], site: Site) -> int | str:
    """Returns the position or the name of an argument, as it was given."""
    names = list(inspect.signature(module.forward).parameters)
    if isinstance(site.index, str):
        by_position = site.index not in kwargs and site.index in names
        return names.index(site.index) if by_position else site.index
    position = site.index or 0
    if position < len(args):
        return position
    named = (
        names[position] if site.index is not None and position < len(names) else next((n for n in names if n in kwargs), None)
    )
    return named if named in kwargs and named is not None else position


def _key(held: Any, index: int | str | None) -> Any:
    """Returns the key of an item of a mapping, or the index of one of a tuple or list: by name, by number, or the first."""
    if isinstance(held, Mapping):
        return index if isinstance(index, str) or index in held else list(held)[index or 0]
    if isinstance(index, str) and isinstance(held, tuple) and hasattr(held, "_fields"):
        return held._fields.index(index)
    return 0 if index is None else index


def _pick(held: Any, index: int | str | None, site: Site) -> Tensor:
    """Returns the tensor that something holds."""
    found = held
    if not isinstance(held, Tensor) or index is not None:
        try:
            if isinstance(held, (tuple, list, Mapping)):
                found = held[_key(held, index)]
            else:
                found = getattr(held, index if isinstance(index, str) else "")
        except (LookupError, AttributeError, TypeError, ValueError):
            count = f"{len(held)} items" if isinstance(held, (tuple, list)) else f"type {type(held).__name__}"
            has = f"keys {list(held)}" if isinstance(held, Mapping) else count
            raise TypeError(f"the {site} is not there; it has {has}, one of which index= can name") from None
    if isinstance(found, Tensor) and found.is_nested:
        remedy = "make nn.TransformerEncoder with enable_nested_tensor=False"
        raise TypeError(f"the {site} is a nested tensor, as torch's fast path in evaluation makes them: {remedy}")
    if not isinstance(found, Tensor) or not found.is_floating_point() or found.dim() < 2:
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise TypeError(f"the {site} is {got}: a site is a floating-point tensor with a batch and features")
    return found


def _put(held: Any, index: int | str | None, tensor: Tensor) -> Any:
    """Returns what something holds with another tensor in its place; what was given stays as it was."""
    if isinstance(held, Tensor):
        return tensor
    if isinstance(held, tuple):
        items = [*held]
        items[_key(held, index)] = tensor
        named = hasattr(held, "_fields")
        return type(held)(*items) if named else tuple(items) if type(held) is tuple else type(held)(items)
    if isinstance(held, (list, Mapping)):
        changed = copy.copy(held)
        changed[_key(held, index)] = tensor  # type: ignore[index]
        return changed
    if dataclasses.is_dataclass(held) and not isinstance(held, type):
        return dataclasses.replace(held, **{str(index): tensor})
    changed = copy.copy(held)
    setattr(changed, str(index), tensor)
    return changed
