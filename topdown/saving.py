"""The feedback of a latch as files of its own: what was trained and every option, not the backbone. Needs the extra `hub`."""

from __future__ import annotations

import dataclasses
import functools
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from topdown.backbone import user_model
from topdown.build import build
from topdown.checks import OPTIONS, nearest
from topdown.files import require, write_file, write_text
from topdown.sites import Site

FORMAT = 1
OPTIONS_FILE, TENSORS_FILE = "topdown.json", "feedback.safetensors"
CONTENT = {"options": dict, "functions": dict, "sites": dict, "encodings": dict, "also": list, "tensors": dict}


def save(latch: Any, folder: str | Path, also: Collection[str]) -> None:
    """Writes the feedback of a latch: see :meth:`topdown.TopDownLatch.save_pretrained`."""
    safetensors = require("safetensors.torch", "hub")
    also = [also] if isinstance(also, str) else list(also)
    tensors = {**_own(latch), **_parts(latch.backbone, also)}
    options = {name: value for name, value in latch.options().items() if name != "sites"}
    functions = {name: _described(value) for name, value in options.items() if callable(value)}
    content = {
        "format": FORMAT,
        "options": {name: value for name, value in options.items() if name not in functions},
        "functions": functions,
        "sites": _placed(latch.sites),
        "encodings": _placed(getattr(latch.backbone, "encodings", None)),
        "target_sizes": latch.target_sizes,
        "source_sizes": latch.source_sizes,
        "also": also,
        "tensors": {name: list(value.shape) for name, value in tensors.items()},
    }
    text = json.dumps(content, indent=1) + "\n"
    values = safetensors.save({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()})
    _warn_of_what_is_left(latch.backbone, also)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / TENSORS_FILE, lambda file: file.write(values))
    write_text(folder / OPTIONS_FILE, text)


def load(make: Any, backbone: nn.Module, folder: str | Path, functions: Mapping[str, Any]) -> Any:
    """Makes a latch with saved feedback: see :meth:`topdown.TopDownLatch.from_pretrained`."""
    safetensors = require("safetensors.torch", "hub")
    folder = Path(folder)
    content = _read(folder)
    needed, options = content["functions"], content["options"]
    if missing := [f"{name}= (it was {needed[name]})" for name in needed if name not in functions]:
        raise ValueError(f"{folder}: JSON cannot hold a function, so pass it again: {', '.join(missing)}")
    if stray := [name for name in functions if name not in needed]:
        raise ValueError(f"{folder}: {stray[0]} is saved as {options.get(stray[0])!r}; set it on the latch afterwards")
    _check_backbone(backbone, content, folder)
    given = {**options, **functions}
    latch = make(
        backbone,
        given["feedback"],
        sites={name: Site(**site) for name, site in content["sites"].items()},
        sources=options["sources"],
        start=options["start"],
    )
    for name in OPTIONS:  # which may have been set to what cannot be constructed, such as a scale with start="identity"
        setattr(latch, name, given[name])
    if content["target_sizes"] is not None and not isinstance(given["feedback"], nn.Module):
        build(latch, content["target_sizes"], content["source_sizes"])
    try:
        tensors: dict[str, Tensor] = safetensors.load((folder / TENSORS_FILE).read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {TENSORS_FILE}: save again") from None
    except Exception as error:  # of safetensors, which has one type of its own for all that can be wrong
        raise ValueError(f"{folder / TENSORS_FILE} cannot be read ({error}): it is truncated, or no safetensors") from None
    if {name: list(value.shape) for name, value in tensors.items()} != content["tensors"]:
        raise ValueError(f"{folder}: {TENSORS_FILE} and {OPTIONS_FILE} were not saved together: save again")
    there = {**_own(latch), **_parts(backbone, content["also"])}
    for name in {**there, **tensors}:
        saved, ours = tensors.get(name), there.get(name)
        if saved is None or ours is None or saved.shape != ours.shape:
            shapes = [None if value is None else tuple(value.shape) for value in (saved, ours)]
            other = "feedback or backbone" if name.startswith("feedback.") else "backbone"
            raise ValueError(f"{folder}: {name!r} was saved with shape {shapes[0]}, but is {shapes[1]} here: another {other}?")
        if ours.is_meta:
            raise ValueError(f"{folder}: {name!r} is on the meta device, which holds no values: move it with to_empty() first")
    with torch.no_grad():
        for name, value in there.items():
            value.copy_(tensors[name])
    return latch


def _read(folder: Path) -> dict[str, Any]:
    """Reads and checks topdown.json."""
    path = folder / OPTIONS_FILE
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {OPTIONS_FILE}: pass a folder that save_pretrained has written") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): it is truncated or no JSON") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT or isinstance(found, bool):
        raise ValueError(f"{path} has format {found!r}, but this version of topdown reads format {FORMAT}")
    wrong = [name for name, kind in CONTENT.items() if not isinstance(content.get(name), kind)]
    sizes = [content.get(name) for name in ("target_sizes", "source_sizes")]
    wrong += ["sizes"] if not all(size is None or _are_sizes(size) for size in sizes) else []
    names = {"feedback", "sources", "start", *OPTIONS}
    if wrong or {*content["options"], *content["functions"]} != names or not all(isinstance(n, str) for n in content["also"]):
        raise ValueError(f"{path} is not as save_pretrained writes it: look at {wrong or 'options'}, or save again")
    try:
        _ = [Site(**site) for site in content["sites"].values()]
    except TypeError as error:
        raise ValueError(f"{path} is not as save_pretrained writes it: look at sites ({error})") from None
    return content  # type: ignore[no-any-return]


def _are_sizes(sizes: Any) -> bool:
    return isinstance(sizes, dict) and all(type(size) is int and 0 < size < 2**24 for size in sizes.values())


def _check_backbone(backbone: nn.Module, content: Mapping[str, Any], folder: Path) -> None:
    """Checks what a backbone tells of itself against what was saved."""
    encodings = json.loads(json.dumps(_placed(getattr(backbone, "encodings", None))))
    if content["encodings"] != encodings:
        raise ValueError(f"{folder}: encodings were read at {content['encodings']}, but this backbone reads {encodings}")
    for kind, attribute, what in (("target_sizes", "input_sizes", "inputs"), ("source_sizes", "encoding_sizes", "encodings")):
        declared = getattr(backbone, attribute, None)
        saved = {name: size for name, size in (content[kind] or {}).items() if name not in content["sites"]}
        if isinstance(declared, Mapping) and any(declared.get(name) != size for name, size in saved.items()):
            raise ValueError(f"{folder}: feedback was saved for {what} {saved}, but this backbone has {dict(declared)}")


def _placed(sites: Any) -> dict[str, Any]:
    """Returns sites as JSON has them; nothing for what are no sites."""
    found = sites.items() if isinstance(sites, Mapping) else ()
    return {name: dataclasses.asdict(site) for name, site in found if isinstance(site, Site)}


def _own(latch: Any) -> dict[str, Tensor]:
    """Returns the parameters and statistics of a latch without its backbone, by the names of its state dict."""
    found = {name: value for name, value in latch.state_dict().items() if not name.startswith("backbone.")}
    unused = tuple(f"statistics.{number}." for number in range(latch.passes, len(latch.statistics)))
    return {name: value for name, value in found.items() if not name.startswith(unused)}


def _parts(backbone: nn.Module, also: Collection[str]) -> dict[str, Tensor]:
    """Returns the tensors of submodules, and parameters, of the user's model.

    Raises:
        ValueError: if the model has nothing at a path, or something else than tensors.
    """
    model = user_model(backbone)
    found: dict[str, Tensor] = {}
    for path in also:
        below = {name: value for name, value in model.state_dict().items() if name == path or name.startswith(f"{path}.")}
        if not below:
            there = nearest(path, [name for name, _ in model.named_modules() if name], most=5)
            raise ValueError(f"{type(model).__name__} has no {path!r}, but {there}")
        if stray := [name for name, value in below.items() if not isinstance(value, Tensor)]:
            raise ValueError(f"{stray[0]!r} is no tensor, which safetensors cannot hold: save the backbone yourself")
        found |= {f"also.{name}": value for name, value in below.items()}
    return found


def _warn_of_what_is_left(backbone: nn.Module, also: Collection[str]) -> None:
    """Warns about parameters of the backbone that are trained and not saved."""
    model = user_model(backbone)
    inner = model.named_parameters(remove_duplicate=False)
    saved = {id(p) for name, p in inner if any(name == path or name.startswith(f"{path}.") for path in also)}
    names = {id(p): name for name, p in [*backbone.named_parameters(), *model.named_parameters()]}
    left = [names[id(p)] for p in backbone.parameters() if p.requires_grad and id(p) not in saved]
    if left:
        remedy = "name them with also=[...], save the backbone yourself, or freeze it with latch.backbone.requires_grad_(False)"
        some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        warnings.warn(f"{len(left)} trainable parameters of the backbone are not saved ({some}): {remedy}", stacklevel=4)


def _described(value: Any) -> str:
    if isinstance(value, functools.partial):
        inside = [*map(_described, (value.func, *value.args)), *(f"{k}={_described(v)}" for k, v in value.keywords.items())]
        return f"partial({', '.join(inside)})"
    if not callable(value):
        return repr(value)
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
