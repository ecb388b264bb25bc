"""The feedback of a latch as files of its own: what was trained and every option, not the backbone. Needs the extra `hub`."""

from __future__ import annotations

import dataclasses
import difflib
import json
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from topdown.backbone import user_model
from topdown.files import require, write_file, write_json
from topdown.sites import Site

FORMAT = 1
OPTIONS, TENSORS = "topdown.json", "feedback.safetensors"
PARTS = ("feedback", "gates", "statistics")


def save(latch: Any, folder: str | Path, also: Collection[str]) -> None:
    """Writes the feedback of a latch: see :meth:`topdown.TopDownLatch.save_pretrained`."""
    safetensors = require("safetensors.torch", "hub")
    also = [also] if isinstance(also, str) else list(also)
    model = user_model(latch.backbone)
    tensors = _own(latch) | {f"also.{name}": value for path in also for name, value in _below(model, path).items()}
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
    left = [
        n for n, p in model.named_parameters() if p.requires_grad and not any(n == a or n.startswith(f"{a}.") for a in also)
    ]
    if left:
        remedy = "name them with also=[...], save the backbone yourself, or freeze it with latch.backbone.requires_grad_(False)"
        some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        warnings.warn(f"{len(left)} trainable parameters of the backbone are not saved ({some}): {remedy}", stacklevel=3)
    content_of_file = safetensors.save({name: value.detach().cpu().clone() for name, value in tensors.items()})
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / TENSORS, lambda file: file.write(content_of_file))
    write_json(folder / OPTIONS, content)


def load(make: Any, backbone: nn.Module, folder: str | Path, functions: Mapping[str, Any]) -> Any:
    """Makes a latch with saved feedback: see :meth:`topdown.TopDownLatch.from_pretrained`."""
    safetensors = require("safetensors.torch", "hub")
    folder = Path(folder)
    content = _read(folder)
    needed = content["functions"]
    if missing := [f"{name}= (it was {needed[name]})" for name in needed if name not in functions]:
        raise ValueError(f"{folder}: JSON cannot hold a function, so pass it again: {', '.join(missing)}")
    if stray := [name for name in functions if name not in needed]:
        raise ValueError(
            f"{folder}: {stray[0]} is saved as {content['options'].get(stray[0])!r}; set it on the latch afterwards"
        )
    _check_sizes(backbone, content, folder)
    if content["encodings"] != json.loads(json.dumps(_placed(getattr(backbone, "encodings", None)))):
        raise ValueError(f"{folder}: encodings were read at {content['encodings']}, but this backbone reads others")
    latch = make(
        backbone, **content["options"], **functions, sites={name: Site(**site) for name, site in content["sites"].items()}
    )
    if content["target_sizes"] is not None:
        latch._build(content["target_sizes"], content["source_sizes"], None)
    try:
        tensors: dict[str, Tensor] = safetensors.load((folder / TENSORS).read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {TENSORS}: save again") from None
    except Exception as error:  # of safetensors, which has one type of its own for all that can be wrong
        raise ValueError(f"{folder / TENSORS} cannot be read ({error}): it is truncated or no file of safetensors") from None
    if {name: list(value.shape) for name, value in tensors.items()} != content["tensors"]:
        raise ValueError(f"{folder}: {TENSORS} and {OPTIONS} were not saved together: save again")
    model = user_model(backbone)
    there = _own(latch) | {f"also.{name}": value for path in content["also"] for name, value in _below(model, path).items()}
    for name in {**there, **tensors}:
        saved, ours = tensors.get(name), there.get(name)
        if saved is None or ours is None or saved.shape != ours.shape:
            shapes = [None if value is None else tuple(value.shape) for value in (saved, ours)]
            raise ValueError(f"{folder}: {name!r} was saved with shape {shapes[0]}, but is {shapes[1]} here: another backbone?")
    with torch.no_grad():
        for name, value in there.items():
            value.copy_(tensors[name])
    return latch


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / OPTIONS).read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {OPTIONS}: pass a folder that save_pretrained has written") from None
    except ValueError as error:
        raise ValueError(f"{folder / OPTIONS} cannot be read ({error}): it is truncated or no JSON") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ValueError(f"{folder / OPTIONS} has format {found!r}, but this version of topdown reads format {FORMAT}")
    return content  # type: ignore[no-any-return]


def _placed(sites: Any) -> dict[str, Any]:
    """Returns sites as JSON has them; nothing for what are no sites."""
    found = sites.items() if isinstance(sites, Mapping) else ()
    return {name: dataclasses.asdict(site) for name, site in found if isinstance(site, Site)}


def _check_sizes(backbone: nn.Module, content: Mapping[str, Any], folder: Path) -> None:
    """Checks the sizes that a backbone tells against those that were saved."""
    for kind, attribute, what in (("target_sizes", "input_sizes", "inputs"), ("source_sizes", "encoding_sizes", "encodings")):
        declared = getattr(backbone, attribute, None)
        saved = {name: size for name, size in (content[kind] or {}).items() if name not in content["sites"]}
        if isinstance(declared, Mapping) and any(declared.get(name) != size for name, size in saved.items()):
            raise ValueError(f"{folder}: feedback was saved for {what} {saved}, but this backbone has {dict(declared)}")


def _own(latch: nn.Module) -> dict[str, Tensor]:
    """Returns all of the latch but its backbone, by the names of its state dict."""
    return {name: value for name, value in latch.state_dict().items() if name.partition(".")[0] in PARTS}


def _below(model: nn.Module, path: str) -> dict[str, Tensor]:
    """Returns the tensors of a submodule, or a parameter, by their names in the model.

    Raises:
        ValueError: if there are none.
    """
    found = {name: value for name, value in model.state_dict().items() if name == path or name.startswith(f"{path}.")}
    if not found:
        names = [name for name, _ in model.named_modules() if name]
        raise ValueError(
            f"{type(model).__name__} has no {path!r}, but {difflib.get_close_matches(path, names, n=5, cutoff=0.0)}"
        )
    return found


def _described(value: Any) -> str:
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"
