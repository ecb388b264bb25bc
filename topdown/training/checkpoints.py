"""Saves and restores the state of a training, and refuses checkpoints of another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from topdown.datasets.errors import DataError
from topdown.files import write_file
from topdown.latch import TopDownLatch
from topdown.training.distributed import rank, wait
from topdown.training.fingerprints import named
from topdown.training.random_state import random_state, set_random_state
from topdown.training.stopping import Begun
from topdown.training.versions import FORMAT, check_format


class Progress(NamedTuple):
    """Holds the progress of a training between two steps. Model, optimizer and scheduler have states of their own."""

    best_epoch: int
    best_loss: float
    best_weights: dict[str, Tensor]
    history: list[dict[str, float]]
    begun: Begun | None = None  # of the epoch that follows, if it stopped after a step

    def updated(self, record: dict[str, float], model: nn.Module) -> Progress:
        """Returns the state after one more epoch."""
        history = [*self.history, record]
        if record["valid_loss"] < self.best_loss:
            return Progress(int(record["epoch"]), record["valid_loss"], state_of(model), history)
        return self._replace(history=history, begun=None)


def save_training(path: Path, parts: Mapping[str, Any], settings: object, progress: Progress, device: torch.device) -> None:
    """Writes a checkpoint from which the training can be resumed."""
    state = {name: state_of(part) if isinstance(part, nn.Module) else part.state_dict() for name, part in parts.items()}
    state |= {"format": FORMAT, "settings": settings, **progress._asdict(), "random": random_state(device)}
    if rank() == 0:
        save_checkpoint(state, path)
    wait()


def resume_training(path: Path, parts: Mapping[str, Any], settings: Mapping[str, object], device: torch.device) -> Progress:
    """Loads a checkpoint into a model, an optimizer and a scheduler, and returns the progress.

    Raises:
        DataError: if the checkpoint is of another training, or of another model.
    """
    state = load_checkpoint(path, device)
    check_format(state if isinstance(state, dict) else {}, path)
    if (before := state.get("settings")) != settings:
        every = dict.fromkeys([*before, *settings]) if isinstance(before, dict) else settings
        differ = [name for name in every if not isinstance(before, dict) or before.get(name) != settings.get(name)]
        saved = {name: before.get(name) for name in differ} if isinstance(before, dict) else before
        wanted = {name: settings.get(name) for name in differ}
        raise DataError(f"{path}: of a training with {saved}, not {wanted}; delete it to train anew")
    try:
        load_state(parts["model"], state["model"])
    except (KeyError, RuntimeError):
        raise DataError(f"{path}: of another model; delete it to train anew") from None
    parts["optimizer"].load_state_dict(state["optimizer"])
    parts["scheduler"].load_state_dict(state["scheduler"])
    set_random_state(state["random"], device)
    return Progress(*(state[name] for name in Progress._fields))


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint atomically. `torch.load(path, weights_only=True)` can read it."""
    try:
        write_file(path, lambda file: torch.save(_without_numpy(state), file))
    except RuntimeError as error:  # from torch's writer, if the disk is full
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _without_numpy(value: Any) -> Any:
    """Converts numpy scalars to Python numbers, since `torch.load` must run code to read numpy scalars."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {key: _without_numpy(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_without_numpy(part) for part in value)
    return value


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Reads a checkpoint without running code.

    Raises:
        DataError: if the file does not exist, or is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name a checkpoint") from None
    except Exception as error:  # torch.load raises many types of errors on a damaged file
        raise DataError(f"{path}: not a checkpoint ({type(error).__name__}); delete it to train anew") from None
    return state


def latch_options(model: nn.Module) -> dict[str, dict[str, Any]]:
    """Returns the options of all latches in a model by their paths. Functions and modules are represented by their names."""
    latches = {}
    for path, module in model.named_modules():
        if isinstance(module, TopDownLatch):
            options = module.options()
            options["sites"] = {name: dataclasses.asdict(site) for name, site in options["sites"].items()}
            latches[_plain(f"{path}.").rstrip(".")] = {
                name: named(value) if callable(value) else value for name, value in options.items()
            }
    return latches


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of the state dict, with the names of the uncompiled model."""
    return {_plain(name): value.detach().clone() for name, value in model.state_dict().items()}


def load_state(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Loads the result of :func:`state_of` into a model, which may be compiled.

    Raises:
        KeyError, RuntimeError: if the names or shapes are those of another model.
    """
    names = {_plain(name): name for name in model.state_dict()}
    model.load_state_dict({names[name]: value for name, value in values.items()})


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")
