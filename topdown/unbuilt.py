"""Feedback of unknown sizes, which the first call measures."""

import numbers
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from topdown.batch import Batch
from topdown.sequence import ByName
from topdown.sites import AtSites, read_targets
from topdown.wiring import Wiring, who_masks_whom


def refuse(*arguments: Any, **named: Any) -> NoReturn:
    """Raises an error that says how to build the feedback."""
    raise RuntimeError("feedback of unknown sizes has no parameters yet: call the latch once, or pass example_inputs=")


class UnbuiltParameter(UninitializedParameter):
    """Stands for the parameters to come; raises an error when an optimizer, a count or a function asks for it."""

    # Every optimizer asks for the first; setting the last would have no lasting effect.
    is_leaf, shape, requires_grad = property(refuse), property(refuse), property(lambda parameter: True, refuse)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs what moves a module to another type or device, and raises the error for everything else."""
        try:
            return super().__torch_function__(func, types, args, kwargs)  # type: ignore[no-untyped-call]
        except ValueError:
            return refuse()


class UnbuiltFeedback(nn.Module):
    """Holds the place of feedback until the first call measures the sizes.

    Raises:
        RuntimeError: when it is called, saved or loaded, or when a tool asks for its parameters.

    Example:
        >>> import torch
        >>> torch.optim.Adam(UnbuiltFeedback().parameters())
        Traceback (most recent call last):
        ...
        RuntimeError: feedback of unknown sizes has no parameters yet: call the latch once, or pass example_inputs=
    """

    forward = _save_to_state_dict = _load_from_state_dict = refuse

    def __init__(self) -> None:
        super().__init__()
        # Not through register_parameter, which some tools replace.
        self._parameters["to_come"] = UnbuiltParameter()  # type: ignore[assignment]


def check_complete(batch: Batch, wiring: Wiring) -> None:
    """Raises a ValueError if a modality is absent in the call that measures the sizes."""
    names = {n for k, sources in (wiring.sources or {}).items() for n in (k, *sources)} or {*(wiring.sites or batch.inputs)}
    if absent := [name for name, value in batch.inputs.items() if value is None and name in names]:
        raise ValueError(f"{absent} are None, but the first call measures all modalities: pass example_inputs=")


def measure(batch: Batch, encodings: ByName, at_sites: AtSites, wiring: Wiring) -> Wiring:
    """Decides a wiring for the sizes in a call.

    Args:
        batch: Inputs of the call.
        encodings: Encodings by name.
        at_sites: Values at sites.
        wiring: Wiring without pairs and sizes.

    Raises:
        ValueError: if a site was not reached, or no rule decides who masks whom.
    """
    if unreached := [f"{k!r}, the {site}," for k, site in wiring.sites.items() if k not in at_sites]:
        raise ValueError(f"{unreached[0]} was not reached in this call, which measures sizes: pass others as example_inputs=")
    inputs = [name for name, value in batch.inputs.items() if wiring.sources is not None or is_modality(value)]
    pairs = who_masks_whom(wiring.sources, wiring.sites, [*wiring.sites, *inputs], encodings)
    targets = read_targets(batch, pairs, encodings, at_sites, wiring)
    return wiring.decide(*({name: x.values.shape[-1] for name, x in group.items()} for group in (targets, encodings)))


def is_modality(value: Any) -> bool:
    """Returns whether an input can be a modality: it is neither absent, nor a number, a string, or one value per sample.

    Example:
        >>> is_modality(torch.zeros(3, 5)), is_modality(torch.zeros(3)), is_modality(None)
        (True, False, False)
    """
    return value.dim() > 1 if isinstance(value, Tensor) else not (value is None or isinstance(value, (str, numbers.Number)))


def parameter_like(backbone: nn.Module, encoding: Tensor | None) -> Tensor | None:
    """Returns a tensor with the type and the device for parameters of feedback; None if there is none.

    It is an encoding; before the first call, or within autocast, it is a parameter of the backbone.
    """
    fits = encoding is not None and (encoding.is_meta or not torch.is_autocast_enabled(encoding.device.type))
    return encoding if fits else next((p for p in backbone.parameters() if p.is_floating_point() and not p.is_meta), encoding)
