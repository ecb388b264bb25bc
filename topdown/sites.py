"""Sites: places in a model where a mask acts or an encoding is read, through hooks that exist during one call."""

import contextlib
import copy
import dataclasses
import functools
import inspect
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from topdown.backbone import user_model
from topdown.batch import BATCH_FIRST, Batch, check_target, input_targets
from topdown.first_pass import copied
from topdown.masking import Masks, replaced
from topdown.sequence import ByName, WithLengths, described, flatten_times, lengths_of
from topdown.wiring import Names, Wiring, nearest

Pass: TypeAlias = Callable[[], Any]  # of a backbone, as a function without arguments
Key: TypeAlias = int | str
AtSites: TypeAlias = dict[str, Any]  # values at sites, tensors or packed sequences, in the layout of the model


@dataclasses.dataclass(frozen=True)
class Site:
    """Names the output, or the input, of a submodule.

    Args:
        path: Path of the submodule in the user's model, as in `model.get_submodule(path)`; "" is the model itself.
        layout: Letters of the dimensions, as in einops: "b" is the batch, "d" are the features, "_" is a dimension over which a
            mask is the same (and an encoding is averaged), and any other name is time or a position. "b d h w" gives one mask
            per position and channel of a feature map, "b d _ _" one per channel, and "t b d" is for layers with time first.
            (Default: "b t d", or "b d" for a tensor of two dimensions). Positions of source and target correspond by their
            order, not by their letters. Lengths of a map are 0 or all of its positions.
        at: "output" or "input" of the submodule. (Default: "output")
        index: Item of a tuple, a list, a mapping or an object; for an input, the position or the name of an argument. A tuple
            is a path of items: `Site("lstm", "_ b d", index=(1, 0))` is the last hidden state of a one-layer LSTM. None takes
            the tensor, or the first item. (Default: None)

    A :class:`torch.nn.utils.rnn.PackedSequence` can be an encoding, and is read as a padded batch with lengths. A mask cannot
    multiply it: choose a site before it is packed.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if `at` is unknown, or the layout does not name the batch and the features once each.

    Example:
        >>> Site("text_model.embeddings").path, Site("stem", "b d h w", at="input")
        ('text_model.embeddings', Site(path='stem', layout='b d h w', at='input', index=None))
    """

    path: str
    layout: str = "b t d"
    _: dataclasses.KW_ONLY
    at: Literal["output", "input"] = "output"
    index: Key | Sequence[Key] | None = None

    def __post_init__(self) -> None:
        """Checks the arguments."""
        if not isinstance(self.path, str) or not isinstance(self.layout, str):
            raise TypeError(f"a site needs the path of a submodule, as in Site('encoder.layer.0', 'b t d'), got {self}")
        if self.at not in ("output", "input"):
            raise ValueError(f"at={self.at!r} must be 'output' or 'input'")
        if isinstance(self.index, list):  # JSON turns a tuple into a list
            object.__setattr__(self, "index", tuple(self.index))
        if not all(type(key) in (int, str) for key in self.item_path()):
            raise TypeError(f"index={self.index!r} must be the number or the name of an item, a tuple of such, or None")
        names = [name for name in self.layout.split() if name != "_"]
        if not {"b", "d"} <= {*names} or len({*names}) < len(names) or not all(map(str.isidentifier, names)):
            raise ValueError(f"layout={self.layout!r} must name 'b' and 'd' once, and no other letter twice, as 'b d h w' does")

    def __str__(self) -> str:
        """Names the place for messages."""
        layout = "" if self.layout == "b t d" else f" ({self.layout})"
        return f"{self.at} of {self.path!r}" + "".join(f"[{key!r}]" for key in self.item_path()) + layout

    def item_path(self) -> tuple[Key, ...]:
        """Returns the path of items."""
        return self.index if isinstance(self.index, tuple) else () if self.index is None else (self.index,)

    def order(self, values: Tensor) -> tuple[list[int], int]:
        """Returns the dimensions of a tensor in the order batch, times, features, others; and the number without others.

        Raises:
            ValueError: if it has another number of dimensions than the layout.
        """
        letters = ("b d" if values.dim() == 2 and self.layout == "b t d" else self.layout).split()
        if len(letters) != values.dim():
            raise ValueError(f"the {self} has shape {tuple(values.shape)}: name its dimensions, as in Site(path, 'b d h w')")
        rank = {"b": 0, "d": 2, "_": 3}
        order = sorted(range(len(letters)), key=lambda dim: rank.get(letters[dim], 1))
        return order, len(letters) - letters.count("_")


Sites: TypeAlias = Mapping[str, Site]


def from_layout(values: Tensor, site: Site) -> Tensor:
    """Returns values of a site with the batch first and features last: (B, T, D), (B, D) without time, or maps (B, H, W, D).

    Example:
        >>> from_layout(torch.zeros(2, 8, 4, 5), Site("stem", "b d h w")).shape
        torch.Size([2, 4, 5, 8])
        >>> from_layout(torch.zeros(2, 8, 4, 5), Site("stem", "b d _ _")).shape
        torch.Size([2, 8])
    """
    order, size = site.order(values)
    values = values.permute(order)
    return values.flatten(size).mean(-1) if values.dim() > size else values


def to_layout(mask: Tensor, like: Tensor, site: Site) -> Tensor:
    """Returns a mask in the layout of the values of its site: the inverse of :func:`from_layout`.

    Example:
        >>> mask, site = torch.rand(2, 4, 5, 8), Site("stem", "b d h w")
        >>> to_layout(mask, torch.zeros(2, 8, 4, 5), site)[1, 7, 3, 4] == mask[1, 3, 4, 7]
        tensor(True)
    """
    order, size = site.order(like)
    mask = mask.reshape(*mask.shape, *[1] * (like.dim() - size))
    return mask.permute([order.index(dim) for dim in range(like.dim())]).expand_as(like)


def check_sites(sites: Any, model: nn.Module, option: str = "sites") -> dict[str, Site]:
    """Checks sites by name, and returns them.

    Args:
        sites: {name: Site or path}, or None.
        model: Model in which they are, or a backbone around it.
        option: Name of the argument, for messages. (Default: "sites")

    Raises:
        TypeError: if they are not a mapping from names to sites or paths.
        ValueError: if the model has no such submodule.
    """
    items: Any = sites.items() if isinstance(sites, Mapping) else () if sites is None else [(None, None)]
    if not all(isinstance(name, str) and isinstance(site, (str, Site)) for name, site in items):
        raise TypeError(f"{option}={sites!r} must be a mapping from names to Site(path, ...) or a path")
    checked = {name: Site(site) if isinstance(site, str) else site for name, site in items}
    model = user_model(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    for place, path in [(f"{option}[{name!r}]", site.path) for name, site in checked.items()]:
        if path not in modules:
            raise ValueError(f"{place}: {type(model).__name__} has no {path!r}, but {nearest(path, modules)}")
        if isinstance(modules[path], torch.jit.ScriptModule):
            raise ValueError(f"{place}: {path!r} is compiled by TorchScript, which has no hooks: choose another place")
    return checked


def read_targets(batch: Batch, names: Names, r: ByName, at_sites: AtSites, wiring: Wiring) -> ByName:
    """Returns the targets of a pass, checked, with their lengths: inputs, and values at sites, batch first and features last.

    A site has the lengths of the encoding of the same name, or of the only encoding if the call has none for the name, where
    these have as many steps; else the lengths of the name in the call.

    Args:
        batch: Inputs and lengths of the call.
        names: Names of the targets. One that is absent is left out.
        r: Encodings of the pass.
        at_sites: Values in the layout of their sites.
        wiring: Sites, and the sizes of targets as far as they are known.

    Raises:
        TypeError: if a mask cannot multiply a value.
        ValueError: if a shape does not fit, or feedback masks inputs none of which is in the call.
    """
    unread = [k for k in names if k not in batch.targets and k not in wiring.sites]  # absent, or of unknown size
    if unread and not wiring.pairs and not {*unread} & {*batch.inputs}:
        raise ValueError(f"the feedback masks {unread}, but the inputs are {nearest(unread[0], batch.inputs)}")
    inputs = {**batch.targets, **input_targets(batch, dict.fromkeys(unread))} if unread else batch.targets
    return {**inputs, **{k: _read_site(batch, k, value, r, wiring) for k, value in at_sites.items() if k in names}}


def _read_site(batch: Batch, name: str, value: Any, encodings: ByName, wiring: Wiring) -> WithLengths:
    """Returns the value at one site as a target: see :func:`read_targets`."""
    if isinstance(value, PackedSequence):
        raise TypeError(f"{name!r}, the {wiring.sites[name]}, is a PackedSequence: choose a site before it is packed")
    x = from_layout(value, wiring.sites[name])
    check_target(batch, name, flatten_times(x), wiring.target_sizes.get(name))
    is_only = len(wiring.encoding_sizes or encodings) == 1 and lengths_of(batch.lengths, name) is None
    r = encodings.get(name) or (next(iter(encodings.values()), None) if is_only else None)
    if r and r.lengths is not None and x.shape[1:-1] and r.values.shape[1:-1] == x.shape[1:-1]:
        return r._replace(values=x)
    return batch.with_lengths(name, x)


def check_batch_first(batch: Batch, sites: Sites) -> None:
    """Raises a ValueError if encodings have another number of samples than all inputs, none of which is a target."""
    counts = [] if batch.targets else [x.shape[0] for x in batch.inputs.values() if isinstance(x, Tensor) and x.dim()]
    is_first = all([site.layout.split()[0] == "b" for site in sites.values()])
    if counts and is_first and batch.first and not torch.compiler.is_compiling() and batch.first[1][0] not in counts:
        raise ValueError("{!r} has shape {}, but the inputs have {} samples: {}".format(*batch.first, counts[0], BATCH_FIRST))


def run_at_sites(run: Pass, backbone: nn.Module, sites: Sites, masks: Masks, inputs: Any, names: Names) -> tuple[Any, AtSites]:
    """Runs a function that calls a backbone, and reads and masks the values at sites, in the calling thread alone.

    Each site must be reached exactly once. One without a mask may be left out in two cases: an input is None; or the site has
    the name of a modality, or of an argument of the model, that the call leaves out.

    Args:
        run: Function without arguments.
        backbone: Backbone that it calls.
        sites: Sites by name.
        masks: Masks in the layout of their sites, which multiply the values.
        inputs: Inputs of the call.
        names: Names of modalities, which a call may leave out, as far as they are known; none if each site has a mask.

    Returns:
        Result of the function, and the values at the sites before they are masked, in their layout.

    Raises:
        RuntimeError: while a program is exported.
        ValueError: if a site is not reached, or reached twice, or its mask could not act or learn.
        TypeError: if a site has no tensor.

    Example:
        >>> model, masks = nn.Sequential(nn.Identity(), nn.ReLU()), {"x": torch.tensor([[3.0, 0.5]])}
        >>> run_at_sites(lambda: model(torch.ones(1, 2)), model, {"x": Site("0")}, masks, {}, ())[0]
        tensor([[3.0000, 0.5000]])
    """
    if torch.compiler.is_dynamo_compiling():  # compilers do not see hooks that come and go
        return torch.compiler.disable(run_at_sites)(run, backbone, sites, masks, inputs, names)  # type: ignore[no-any-return]
    if torch.compiler.is_compiling():
        raise RuntimeError(f"sites ({', '.join(sites)}) cannot be exported: give the model encode() and fuse(), mask inputs")
    model, is_absent = user_model(backbone), any(value is None for value in inputs.values())
    left_out = {*inspect.signature(model.forward).parameters, *(names if model is backbone else ())} - {*inputs}
    thread, learns, values = threading.get_ident(), torch.is_grad_enabled(), dict[str, Any]()
    places = {name: f"{name!r}, the {site}," for name, site in sites.items()}

    def visit(name: str, container: Any, keys: tuple[Key, ...]) -> Any:
        value, mask = _pick(container, keys, sites[name]), masks.get(name)
        if name in values:
            raise ValueError(f"{places[name]} runs more than once in a call: choose a module that runs once, outside of loops")
        values[name] = copied(value) if mask is None else value  # the model may change it in place
        if mask is None:
            return None
        if learns:
            _check_learns(places[name], mask, run_at_sites.__code__)
        if mask.shape != value.shape:
            shapes = f"{tuple(mask.shape)} in the first pass, but now {tuple(value.shape)}"
            raise ValueError(f"{places[name]} had shape {shapes}: choose a site whose size masks do not change")
        return _put(container, keys, value * mask.to(value.dtype))

    def hook(name: str, module: nn.Module, arguments: Any, last: Any = None) -> Any:  # last: the output, or named arguments
        keys, at_output = sites[name].item_path(), sites[name].at == "output"
        if threading.get_ident() != thread or (last is None and not at_output):  # in other threads torch may not pass names
            return None
        if at_output:
            return visit(name, last, keys or (() if isinstance(last, (Tensor, PackedSequence)) else (0,)))
        bound = inspect.signature(module.forward).bind(*arguments, **last)
        if (changed := visit(name, bound.arguments, keys or (0,))) is None:
            return None
        bound.arguments = changed
        return bound.args, bound.kwargs

    with contextlib.ExitStack() as handles:
        for name, site in sites.items():
            _check_not_compiled(places[name], site.path, model)
            module = model.get_submodule(site.path)
            before = functools.partial(module.register_forward_pre_hook, with_kwargs=True)
            register = module.register_forward_hook if site.at == "output" else before
            handles.enter_context(register(functools.partial(hook, name)))
        result = run()
    if unreached := [places[k] for k in sites if k not in values and (k in masks or not (is_absent or k in left_out))]:
        raise ValueError(f"{unreached[0]} was not reached in this call: choose a module that each pass runs, in its own thread")
    return result, values


def _check_not_compiled(place: str, path: str, model: nn.Module) -> None:
    """Raises an error for a site within compiled code, which torch would compile anew for each call."""
    for outer in ["", *[path[:end] for end, letter in enumerate(f"{path}.") if letter == "."]]:
        module = model.get_submodule(outer)
        if (hasattr(module, "_orig_mod") and outer != path) or getattr(module, "_compiled_call_impl", None) is not None:
            raise ValueError(f"{place} lies within {outer!r}, which is compiled by itself: choose a site outside of it")


def _check_learns(place: str, mask: Tensor, outside: Any) -> None:
    """Raises an error if a mask, or its gradient, would be lost. It looks at callers, up to the code `outside`."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not outside:
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            raise ValueError(f"{place} lies within activation checkpointing, which runs again without its mask: move it out")
        frame = frame.f_back
    if mask.requires_grad and not torch.is_grad_enabled():
        raise ValueError(f"{place} runs within no_grad(), so feedback cannot learn: freeze with requires_grad_(False) instead")


def _key(container: Any, key: Key) -> Any:
    """Returns the key of an item: in a mapping by name or by number, in a named tuple by the name of a field."""
    if isinstance(container, Mapping):
        return key if isinstance(key, str) or key in container else list(container)[key]
    return container._fields.index(key) if isinstance(key, str) and hasattr(container, "_fields") else key


def _item(container: Any, key: Key) -> Any:
    return container[_key(container, key)] if isinstance(container, (tuple, list, Mapping)) else getattr(container, str(key))


def _pick(container: Any, keys: tuple[Key, ...], site: Site) -> Any:
    """Returns the tensor or the packed sequence of a site."""
    value = container
    try:
        for key in keys:
            value = _item(value, key)
    except (LookupError, AttributeError, TypeError, ValueError):
        items = f"{len(value)} items" if isinstance(value, (tuple, list)) else f"type {type(value).__name__}"
        items = f"keys {list(value)}" if isinstance(value, Mapping) else items
        raise TypeError(f"the {site} does not exist; it has {items}, one of which index= can name") from None
    tensor = value.data if isinstance(value, PackedSequence) else value
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() < 2:
        remedy = f": name one of its items, as in index={(*keys, 0)}" if isinstance(value, (tuple, list, Mapping)) else ""
        raise TypeError(f"the {site} has {described(tensor)}, but a site is a floating-point tensor (B, ..., D){remedy}")
    if tensor.is_nested:
        raise TypeError(f"the {site} is a nested tensor: make nn.TransformerEncoder with enable_nested_tensor=False")
    return value


def _put(container: Any, keys: tuple[Key, ...], value: Any) -> Any:
    """Returns a container with another item; the container that the model has stays as it is."""
    if not keys:
        return value
    key, inner = _key(container, keys[0]), _put(_item(container, keys[0]), keys[1:], value)
    if isinstance(container, Mapping):
        return replaced(container, {key: inner})
    if isinstance(container, (tuple, list)):
        items = [inner if i == key % len(container) else item for i, item in enumerate(container)]
        return type(container)(*items) if hasattr(container, "_fields") else type(container)(items)
    changed = copy.copy(container)
    object.__setattr__(changed, str(key), inner)  # also of a frozen dataclass
    return changed
