"""Writes and reads the feedback of a latch, with every option and without the backbone. Needs the extra `hub`."""

import dataclasses
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from topdown.backbone import user_model
from topdown.files import require, write_file, write_text
from topdown.sites import Site
from topdown.wiring import OPTIONS, Names, Wiring, check_name, nearest

FORMAT, OPTIONS_FILE, TENSORS_FILE = 1, "topdown.json", "feedback.safetensors"
SIZES, DECLARED = ("target_sizes", "source_sizes"), ("input_sizes", "encoding_sizes")  # in the file, and of a backbone

Options: TypeAlias = Mapping[str, Any]


def save(folder: Path, feedback: nn.Module, backbone: nn.Module, wiring: Wiring, options: Options, also: Names) -> None:
    """Writes the feedback of a latch: see :meth:`topdown.TopDownLatch.save_pretrained`."""
    also = [also] if isinstance(also, str) else list(also)
    tensors = {**feedback.state_dict(prefix="feedback."), **_parts(backbone, also)}
    functions = {k: re.sub(" at 0x[0-9a-f]+", "", repr(v).partition("(\n")[0]) for k, v in options.items() if callable(v)}
    content: dict[str, Any] = {"format": FORMAT, "functions": functions, "encodings": _encodings(backbone), "also": also}
    content |= {"target_sizes": wiring.target_sizes, "source_sizes": wiring.encoding_sizes, "declared": _declared(backbone)}
    content["options"] = {name: value for name, value in options.items() if name not in functions}
    content["tensors"] = {name: list(value.shape) for name, value in tensors.items()}
    text = json.dumps(content, indent=1, default=dataclasses.asdict) + "\n"
    values = require("safetensors.torch", "hub").save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})
    _warn_of_parameters_not_saved(backbone, also)
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / TENSORS_FILE, lambda file: file.write(values))
    write_text(folder / OPTIONS_FILE, text)


def read(folder: Path, backbone: nn.Module, functions: Options) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns the content of topdown.json and the tensors, checked: see :meth:`topdown.TopDownLatch.from_pretrained`."""
    safetensors, content = require("safetensors.torch", "hub"), _read_json(folder / OPTIONS_FILE)
    needed, options = content["functions"], content["options"]
    if absent := [f"{name}= (it was {needed[name]})" for name in needed if name not in functions]:
        raise ValueError(f"{folder}: JSON cannot hold a function, so pass it again: {', '.join(absent)}")
    for name in {*functions} - {*needed, "example_inputs"}:
        check_name(name, {*options, *needed}, "options of the saved latch", f"{folder}: ")
        raise ValueError(f"{folder}: {name} is saved as {options[name]!r}; set it on the latch afterwards, or leave it out")
    if content["encodings"] != _encodings(backbone):
        raise ValueError(f"{folder}: encodings were read at {content['encodings']}, but are at {_encodings(backbone)} here")
    for attribute, sizes in _declared(backbone).items():
        if not (saved := content["declared"].get(attribute, {})).items() <= sizes.items():
            raise ValueError(f"{folder}: saved for {attribute} {saved}, but this backbone has {sizes}: make it of these sizes")
    try:
        tensors: dict[str, Tensor] = safetensors.load((folder / TENSORS_FILE).read_bytes())
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {TENSORS_FILE}: save again") from None
    except Exception as error:  # safetensors raises one type of error for every fault
        raise ValueError(f"{folder / TENSORS_FILE} cannot be read ({error}): it is truncated, or not safetensors") from None
    if {name: list(value.shape) for name, value in tensors.items()} != content["tensors"]:
        raise ValueError(f"{folder}: {TENSORS_FILE} and {OPTIONS_FILE} were not saved together: save again")
    return content, tensors


def copy_tensors(saved: Mapping[str, Tensor], feedback: nn.Module, backbone: nn.Module, also: Names) -> None:
    """Copies saved tensors into the feedback of a latch and parts of its backbone.

    Raises:
        ValueError: if names or shapes differ, or a tensor has no values.
    """
    tensors = {**feedback.state_dict(prefix="feedback."), **_parts(backbone, also)}
    for name in {**tensors, **saved}:
        shapes = [tuple(group[name].shape) if name in group else None for group in (saved, tensors)]
        if shapes[0] != shapes[1]:
            raise ValueError("{!r} was saved with shape {}, but is {} here: is it another model?".format(name, *shapes))
        if tensors[name].is_meta:
            raise ValueError(f"{name!r} is on the meta device, which holds no values: move it with to_empty() first")
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(saved[name])


def _read_json(path: Path) -> dict[str, Any]:
    """Reads and checks topdown.json."""
    try:
        content: Any = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"{path.parent} has no {path.name}: pass a folder that save_pretrained has written") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}): it is truncated, or not JSON") from None
    version = content.get("format") if isinstance(content, dict) else None
    if type(version) is not int or version != FORMAT:
        raise ValueError(f"{path} has format {version!r}, but this version of topdown reads format {FORMAT}")
    try:
        wrong = {*content["options"], *content["functions"]} ^ {"feedback", "sources", "sites", *OPTIONS}
        wrong |= {name for name in ("functions", "tensors") if not isinstance(content[name], dict)}
        wrong |= {path for path in content["also"] if not isinstance(path, str)}
        sizes = [item for name in SIZES for item in (content[name] or {}).items()]
        content["declared"] = {name: dict(declared) for name, declared in content.get("declared", {}).items()}
        wrong |= {name for name, size in sizes if type(size) is not int or not 0 < size < 2**24}
        for parent, name in ((content["options"], "sites"), (content, "encodings")):
            parent[name] = {key: Site(**site) for key, site in parent[name].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wrong = {f"{type(error).__name__}: {error}"}
    if wrong:
        raise ValueError(f"{path} is not as save_pretrained writes it: look at {[*wrong]}, or save again")
    return content  # type: ignore[no-any-return]


def _declared(backbone: nn.Module) -> dict[str, dict[str, int]]:
    """Returns the sizes that a backbone has as attributes."""
    return {a: {k: int(n) for k, n in v.items()} for a in DECLARED if isinstance(v := getattr(backbone, a, None), Mapping)}


def _encodings(backbone: nn.Module) -> dict[str, Site]:
    """Returns the sites at which a :class:`topdown.adapters.HookedBackbone` reads encodings."""
    encodings = getattr(backbone, "encodings", None)
    return {k: site for k, site in encodings.items() if isinstance(site, Site)} if isinstance(encodings, Mapping) else {}


def _parts(backbone: nn.Module, also: Names) -> dict[str, Tensor]:
    """Returns the tensors of submodules, and parameters, of the user's model.

    Raises:
        ValueError: if the model has nothing at a path, or something else than tensors.
    """
    model = user_model(backbone)
    tensors: dict[str, Tensor] = {}
    for path in also:
        below = {f"also.{k}": value for k, value in model.state_dict().items() if f"{k}.".startswith(path and f"{path}.")}
        if not below:
            raise ValueError(f"{type(model).__name__} has no {path!r}, but {nearest(path, dict(model.named_modules()))}")
        if stray := [name for name, value in below.items() if not isinstance(value, Tensor)]:
            raise ValueError(f"{stray[0]!r} is not a tensor, and safetensors cannot hold it: save the backbone yourself")
        tensors |= below
    return tensors


def _warn_of_parameters_not_saved(backbone: nn.Module, also: Names) -> None:
    model = user_model(backbone)
    inner = model.named_parameters(remove_duplicate=False)
    saved = {id(p) for name, p in inner if any(f"{name}.".startswith(path and f"{path}.") for path in also)}
    names = {id(p): name for name, p in [*backbone.named_parameters(), *model.named_parameters()]}
    if left := [names[id(p)] for p in backbone.parameters() if p.requires_grad and id(p) not in saved]:
        remedy = "name them with also=[...], save the backbone yourself, or freeze it with latch.backbone.requires_grad_(False)"
        some = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        warnings.warn(f"{len(left)} trainable parameters of the backbone are not saved ({some}): {remedy}", stacklevel=4)
