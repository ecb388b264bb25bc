"""Every check of what users give to a latch, once, at the boundary; and the words of every message about it."""

from __future__ import annotations

import difflib
import inspect
import math
import numbers
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from topdown.feedback import FEEDBACK, LSTMFeedback
from topdown.masking import ALIGN, COMBINE
from topdown.sequence import Lengths, Padded, lengths_of, padded_lengths, readable
from topdown.sites import Site

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
SAY_WHO = "say who masks whom with sources={target: [sources]}"

# Options of a latch that may be set at any time: the kind of value, what must hold of it, and how to say so.
OPTIONS: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "combine": (object, lambda v: callable(v) or v in [*COMBINE], f"one of {[*COMBINE]} or a function of (J, B, T, D)"),
    "align": (object, lambda v: v in [*ALIGN], f"one of {[*ALIGN]}"),  # in a list: what was given may have no hash
    "encoder_grad": (bool, lambda v: True, "True or False"),
    "mask_dropout": (numbers.Real, lambda v: 0.0 <= v < 1.0, "a number in [0, 1)"),
    "scale": (numbers.Real, lambda v: 0.0 < v < math.inf, "a positive number"),
    "passes": (int, lambda v: v >= 1, "a whole number, at least 1"),
}


def check_option(name: str, value: Any) -> None:
    """Checks the value of an option.

    Raises:
        TypeError: if it is of the wrong kind.
        ValueError: if it is out of range, or not known.

    Example:
        >>> check_option("align", "typo")
        Traceback (most recent call last):
        ...
        ValueError: align='typo' must be one of ['error', 'interpolate', 'pool']
    """
    kind, holds, expected = OPTIONS[name]
    is_kind = isinstance(value, kind) and (kind in (bool, object) or not isinstance(value, bool))
    if not is_kind or not holds(value):
        raise (ValueError if is_kind else TypeError)(f"{name}={value!r} must be {expected}")


def check_sources(sources: Any) -> dict[str, list[str]] | None:
    """Checks the option `sources`, as far as it can be before names are known, and returns a copy.

    Raises:
        ValueError: if there is no target, or a target has no source or one twice.
    """
    if sources is None:
        return None
    if not isinstance(sources, Mapping) or not sources:
        raise ValueError(f"sources={sources!r} must name at least one target, as in {{'visual': ['text', 'audio']}}")
    for target, names in sources.items():
        if isinstance(names, str) or not names:
            raise ValueError(f"sources[{target!r}] = {names!r} must list at least one source, as in {{{target!r}: ['...']}}")
        if len(set(names)) != len(names):
            raise ValueError(f"sources[{target!r}] = {list(names)} names a source twice")
    return {target: list(names) for target, names in sources.items()}


def check_sites(sites: Any, model: nn.Module, what: str = "sites") -> dict[str, Site]:
    """Checks sites by name, and returns them.

    Args:
        sites: {name: Site or path}, or None.
        model: Module in which they are.
        what: Name of the argument, for messages. (Default: "sites")

    Raises:
        TypeError: if they are no mapping from names to sites or paths.
        ValueError: if the model has no such submodule.
    """
    sites = {} if sites is None else sites
    if not isinstance(sites, Mapping) or not all(isinstance(site, (str, Site)) for site in sites.values()):
        raise TypeError(f"{what}={sites!r} must be a mapping from names to Site(path, ...) or a path")
    found = {name: Site(site) if isinstance(site, str) else site for name, site in sites.items()}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, site in found.items():
        if not isinstance(name, str):
            raise TypeError(f"{what} must have names that are strings, got {name!r}")
        if isinstance(modules.get(site.path), torch.jit.ScriptModule):
            raise ValueError(
                f"{what}[{name!r}]: {site.path!r} is compiled by TorchScript, which has no hooks: choose another place"
            )
        if site.path not in modules:
            there = nearest(site.path, modules, most=5)
            raise ValueError(f"{what}[{name!r}]: {type(model).__name__} has no {site.path!r}, but {there}")
    return found


def missing_names(
    inputs: Mapping[str, Any], names: Collection[str], model: nn.Module, known: Collection[str] = ()
) -> list[str]:
    """Returns the names of sites that a call need not reach, since a modality is missing.

    That is any of them where an input is None, and those that are names of arguments, or of modalities, which are not given.

    Args:
        inputs: Inputs of the call.
        names: Names of the sites.
        model: Model that has them.
        known: Names of modalities. (Default: none)
    """
    if any(value is None for value in inputs.values()):
        return [*names]
    possible = {*inspect.signature(model.forward).parameters, *known}
    return [name for name in names if name not in inputs and name in possible]


def check_start(start: Any, scale: float) -> Any:
    """Checks the option `start`, and returns it.

    Raises:
        ValueError: if it is unknown, or the scale of the masks makes the start another one.
    """
    if start not in ("random", "identity"):
        raise ValueError(f"start={start!r} must be 'random' or 'identity'")
    if start == "identity" and scale != 1.0:
        raise ValueError(f"start='identity' begins with masks of 1, but scale={scale} makes them {scale}: leave out scale=")
    return start


def check_feedback(feedback: Any, sources: object) -> None:
    """Checks the option `feedback`.

    Raises:
        ValueError: if it is a string that names no kind, or there are `sources` beside a ready module.
        TypeError: if it is neither a kind, nor a factory, nor a module that can serve all pairs.
    """
    factories = (
        "a factory (source_size, target_size) -> module for pairs, or (source_sizes, target_sizes, sources) -> module for all"
    )
    expected = f"use one of {tuple(FEEDBACK)}, {factories}, or a module"
    if isinstance(feedback, str) and feedback not in FEEDBACK:
        raise ValueError(f"feedback={feedback!r} is not known: {expected}")
    if not isinstance(feedback, str) and not callable(feedback):
        raise TypeError(f"feedback={feedback!r} is neither a kind nor callable: {expected}")
    if isinstance(feedback, LSTMFeedback) or type(feedback).__module__.startswith("torch.nn.modules."):
        raise TypeError(
            f"feedback={feedback} is one network, but each pair of target and source needs its own: pass a factory "
            f"(source_size, target_size) -> module, such as the class {type(feedback).__name__} where its arguments fit"
        )
    if isinstance(feedback, nn.Module) and sources is not None:
        raise ValueError("a ready feedback module decides on its sources itself: leave out sources=")


def check_backbone(backbone: Any) -> None:
    """Checks that an object can serve as a backbone.

    Raises:
        TypeError: if it is no module, or `encode` or `fuse` is missing.
    """
    missing = [name for name in ("encode", "fuse") if not callable(getattr(backbone, name, None))]
    if missing:
        needs = "a backbone needs encode(inputs) -> {modality: encoding} and fuse(encodings) -> prediction"
        others = "topdown.adapters.HookedBackbone and CallableBackbone make one of any model"
        raise TypeError(f"{type(backbone).__name__} has no {' and no '.join(missing)}(): {needs}; {others}")
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"the backbone must be a torch.nn.Module, got {type(backbone).__name__}")


def nearest(name: object, names: Collection[str], most: int | None = None) -> str:
    """Lists names, those first that are most like one that is not among them.

    Args:
        name: Name that is not there.
        names: Names that are.
        most: Number of names to list. (Default: all)

    Example:
        >>> nearest("txet", ["audio", "text"]), nearest("txet", ["audio", "text", "visual"], most=1)
        ("['text', 'audio']", "['text'] and 2 more")
    """
    listed = list(dict.fromkeys(names))
    similar = difflib.get_close_matches(str(name), listed, n=most or 3, cutoff=0.0)
    if most is not None and len(listed) > most:
        return f"{similar} and {len(listed) - most} more"
    return str(list(dict.fromkeys([*similar, *listed])))


def who_masks_whom(
    sources: Mapping[str, Sequence[str]] | None, inputs: Collection[str], encodings: Collection[str]
) -> dict[str, list[str]]:
    """Returns the sources of each target: those that were asked for, or for each name that has an encoding all others.

    Args:
        sources: Sources that were asked for, or None.
        inputs: Names of inputs and sites; without `sources`, of sites alone, or of inputs that may be of a modality.
        encodings: Names of encodings.

    Raises:
        ValueError: if a name does not match, or nobody can tell which encoding is whose own.

    Example:
        >>> who_masks_whom(None, ["a", "b"], ["a", "b"]), who_masks_whom(None, ["a"], ["a"])
        ({'a': ['b'], 'b': ['a']}, {'a': ['a']})
        >>> who_masks_whom(None, ["a", "b"], ["a", "b", "joint"])["a"]
        ['b', 'joint']
    """
    for target, names in (sources or {}).items():
        for name, there, what in [(target, inputs, "inputs and sites"), *((j, encodings, "encodings") for j in names)]:
            if name not in there:
                raise ValueError(f"sources[{target!r}] = {names}: {name!r} is not among the {what} {nearest(name, there)}")
    if sources is not None:
        return {target: list(names) for target, names in sources.items()}
    own = [name for name in inputs if name in encodings]
    left_on_both_sides = len(own) < len(inputs) and len(own) < len(encodings)
    if not own or left_on_both_sides:
        left = [name for name in inputs if name not in own], [name for name in encodings if name not in own]
        unclear = "have other names, so nobody can tell which encoding is whose own"
        raise ValueError(f"inputs or sites {left[0]} and encodings {left[1]} {unclear}: {SAY_WHO}")
    return {target: [name for name in encodings if name != target] or [target] for target in own}


def is_modality(value: Any) -> bool:
    """Tells whether an input can be one of a modality: neither missing, nor a number, a text, or one value per sample.

    Example:
        >>> is_modality(torch.zeros(3, 5)), is_modality(torch.zeros(3)), is_modality(None)
        (True, False, False)
    """
    return value.dim() > 1 if isinstance(value, Tensor) else not (value is None or isinstance(value, (str, numbers.Number)))


def possible_targets(inputs: Mapping[str, Any], sites: Collection[str], sources: object) -> list[str]:
    """Returns the names that may be targets: those asked for by `sources` of all, without them the sites, or modalities."""
    if sites and sources is None:
        return [*sites]
    return [*sites, *(name for name, value in inputs.items() if sources is not None or is_modality(value))]


class GivenLengths:
    """Lengths of one call, each checked once: a tensor serves all sequences, a mapping those that it names.

    Args:
        lengths: Lengths as they were given.
    """

    def __init__(self, lengths: Lengths) -> None:
        self.given = lengths
        self.by_name = isinstance(lengths, Mapping)
        self.batch: int | None = None  # known once targets or encodings are
        self.first = ""  # of them, in words
        self.checked: dict[str, tuple[str, int, Tensor | None]] = {}
        self.steps: dict[str, int] = {}  # of each modality that has asked
        self.padded: dict[str, Padded] = {}  # encodings that brought lengths of their own

    def of(self, name: str, steps: int | None) -> Tensor | None:
        """Returns the lengths of a modality that has some number of steps; None where all of them are valid.

        Where there are no steps, in a vector, lengths by name tell which samples have the modality, and a tensor nothing.

        Raises:
            TypeError: if they are no tensor of integers.
            ValueError: if their shape or a value does not fit, or they were those of another number of steps.
        """
        lengths = lengths_of(self.given, name)
        if steps is None:
            return self.check(lengths, name, sys.maxsize) if self.by_name and lengths is not None else None
        if name in self.padded and self.padded[name].values.shape[1] == steps:
            return self.padded[name].lengths
        self.steps[name] = steps
        if lengths is None:
            return None
        key = name if self.by_name else ""
        if key not in self.checked:
            self.checked[key] = name, steps, self.check(lengths, name, steps, least=0 if self.by_name else 1)
        first, first_steps, checked = self.checked[key]
        if steps != first_steps and self.by_name:
            remedy = "give the site another name, return topdown.sequence.Padded(values, lengths), keep T, or pool to (B, d)"
            raise ValueError(f"lengths of {name!r} cannot hold for {first_steps} steps and for {steps}: {remedy}")
        if steps != first_steps:
            found = f"{first!r} of {first_steps} steps and {name!r} of {steps}"
            raise ValueError(f"one tensor of lengths cannot hold for {found}: pass a mapping from modality to lengths")
        return checked

    def check(self, lengths: Any, name: str, steps: int, *, least: int = 0) -> Tensor | None:
        """Checks lengths of a modality, and returns them, or None when no step is padding; values only where `readable`."""
        if not isinstance(lengths, Tensor):
            got = type(lengths).__name__
            raise TypeError(f"lengths of {name!r} must be a tensor of integers, got {got}: use torch.as_tensor(lengths)")
        if lengths.dtype not in INTEGERS:
            remedy = "use lengths.long(), or mask.sum(1) for a mask of valid steps"
            raise TypeError(f"lengths of {name!r} must be a tensor of integers, got {lengths.dtype}: {remedy}")
        batch = len(lengths) if self.batch is None else self.batch
        if lengths.shape != (batch,):
            found = f"{tuple(lengths.shape)}, but it has {batch} samples: pass shape ({batch},)"
            raise ValueError(f"lengths of {name!r} have shape {found}")
        lengths = lengths.to(torch.int64)  # narrow types overflow in comparisons
        if readable(lengths) and len(wrong := ((lengths < least) | (lengths > steps)).nonzero()):
            i, n = int(wrong[0]), int(lengths[wrong[0]])
            hint = "; a mapping of lengths may say which modality a sample lacks" if least and not n else ""
            rule = f"a length must lie in {least}..{steps}{hint}"
            raise ValueError(f"lengths[{i}] of {name!r} is {n}, but it has {steps} steps: {rule}")
        return padded_lengths(lengths, steps)

    def check_names(self, known: Collection[str]) -> None:
        """Checks that lengths are of names that are known.

        Raises:
            ValueError: naming one that is not.
        """
        for name in self.given if isinstance(self.given, Mapping) else ():
            if name not in known:
                raise ValueError(f"lengths name {name!r}, but the modalities are {nearest(name, known)}")


def merge_names(inputs: Any, by_name: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the inputs of a call, given as a mapping or each by its name.

    Raises:
        TypeError: if they are given in both ways, or as something else than a mapping.
    """
    if inputs is None:
        return by_name
    if by_name or not isinstance(inputs, Mapping):
        got = type(inputs).__name__ + (f" beside {[*by_name]}" if by_name else "")
        raise TypeError(f"inputs must be one mapping, or each input by its name, got {got}: call latch(text=...)")
    return inputs


def check_complete(inputs: Mapping[str, Any], sources: Mapping[str, Sequence[str]] | None) -> None:
    """Checks that no modality is missing in the inputs from which sizes are read.

    Raises:
        ValueError: naming those that are None.
    """
    named = inputs if sources is None else {name for target, names in sources.items() for name in (target, *names)}
    if missing := [name for name, value in inputs.items() if value is None and name in named]:
        reason = "but the latch reads the sizes of all modalities from its first call"
        raise ValueError(f"{missing} are None, {reason}: pass example_inputs= with all of them")


def check_inputs(inputs: Mapping[str, Any]) -> None:
    """Checks that there is any input, under names that are strings.

    Raises:
        TypeError: if a name is no string.
        ValueError: if there is nothing.
    """
    if stray := [name for name in inputs if not isinstance(name, str)]:
        raise TypeError(f"names of inputs must be strings, got {stray[0]!r} ({type(stray[0]).__name__})")
    if all(value is None for value in inputs.values()):
        raise ValueError(f"there is no input: all of {list(inputs)} are None" if inputs else "there is no input: it is empty")


def check_targets(inputs: Mapping[str, Any], lengths: GivenLengths, sizes: Mapping[str, int | None]) -> dict[str, Padded]:
    """Checks the inputs that masks multiply, and returns them.

    Args:
        inputs: Inputs of the call.
        lengths: Lengths of the call.
        sizes: Features of each target, or None where they are unknown.

    Returns:
        Targets that are there, of shape (B, T, D) or (B, D), with their lengths.

    Raises:
        TypeError: if a target cannot be masked.
        ValueError: if a shape does not fit.
    """
    if None in [*sizes.values()] and not any([name in inputs for name in sizes]):  # as a ready module named them
        raise ValueError(f"the feedback masks {[*sizes]}, but the inputs are {nearest(next(iter(sizes)), inputs)}")
    targets: dict[str, Padded] = {}
    for name, size in sizes.items():
        value = inputs.get(name)
        if value is None:
            continue
        if not _can_be_masked(value):
            rule = f"a mask multiplies floating-point inputs of shape (B, T, D) or (B, D); {SAY_WHO}"
            raise TypeError(f"{name!r} has {_described(value)}: {rule}")
        if size is not None and size != value.shape[-1]:
            raise ValueError(f"{name!r} has {value.shape[-1]} features, but the feedback was built for {size}")
        if value.shape[1] == 0:
            raise ValueError(f"{name!r} has no steps: leave it out, or pass None, where it is missing")
        if lengths.batch is None:
            lengths.batch, lengths.first = value.shape[0], f"{name!r} has shape {tuple(value.shape)}"
        if value.shape[0] != lengths.batch:
            found = f"{name!r} has shape {tuple(value.shape)} but {lengths.first}"
            raise ValueError(f"{found}: all modalities must have the same batch size")
        targets[name] = Padded(value, lengths.of(name, value.shape[1] if value.dim() == 3 else None))
    return targets


def check_encodings(
    encodings: Any,
    inputs: Mapping[str, Any],
    lengths: GivenLengths,
    used: Collection[str] | None,
    sizes: Mapping[str, int] | None,
) -> dict[str, Padded]:
    """Checks what `encode` returned, and returns what feedback reads.

    Args:
        encodings: Result of `encode`.
        inputs: Inputs of the call.
        lengths: Lengths of the call.
        used: Names that feedback reads; None for all encodings.
        sizes: Sizes for which feedback was built; None while they are unknown.

    Returns:
        Encodings that are there, of shape (B, T, d) or (B, d), with their lengths. Of those without time, lengths only tell
        which samples have the modality.

    Raises:
        TypeError: if `encode` returned no mapping, or something else than a tensor where an encoding is needed.
        ValueError: if an encoding is not known, is neither (B, T, d) nor (B, d), has another size, or its steps don't fit the
            given lengths.
    """
    if not isinstance(encodings, Mapping):
        raise TypeError(f"encode() must return a mapping from modality to encoding, got {type(encodings).__name__}")
    found: dict[str, Padded] = {}
    for name, given in encodings.items():
        value = given.values if isinstance(given, Padded) else given
        needed = _can_be_masked(inputs.get(name)) if used is None else name in used
        if value is None or not (needed or (used is None and _is_encoding(value))):
            continue
        if not _is_encoding(value):
            rule = "an encoding must be a floating-point tensor (B, T, d) or (B, d)"
            raise TypeError(f"encode() gave {name!r} with {_described(value)}: {rule}")
        if lengths.batch is None:
            lengths.batch, lengths.first = value.shape[0], f"encode() gave {name!r} of shape {tuple(value.shape)}"
        if value.dim() > 3 or value.shape[0] != lengths.batch:
            what = f"encode() gave {name!r} of shape {tuple(value.shape)} for a batch of {lengths.batch}"
            raise ValueError(f"{what}: feedback reads (B, T, d), or (B, d) when it is pooled; {SAY_WHO}")
        if sizes is not None and name not in sizes:
            remedy = f"build it with all modalities (example_inputs=), or {SAY_WHO}"
            raise ValueError(f"encoding {name!r} is unknown: the feedback was built for {list(sizes)}; {remedy}")
        if sizes is not None and value.shape[-1] != sizes[name]:
            raise ValueError(f"encode() gave {name!r} of size {value.shape[-1]}, but the feedback was built for {sizes[name]}")
        if isinstance(given, Padded):
            own = None if given.lengths is None else lengths.check(given.lengths, name, value.shape[1])
            if value.dim() == 3:
                lengths.padded[name] = Padded(value, own)
        else:
            own = _encoding_lengths(name, value, inputs.get(name), lengths)
        found[name] = Padded(value, own)
    for name in used or ():
        if name not in encodings and inputs.get(name) is not None:
            raise ValueError(f"encode() gave no {name!r}, which is a source and among the inputs, but {list(encodings)}")
    return found


def _encoding_lengths(name: str, encoding: Tensor, own: Any, lengths: GivenLengths) -> Tensor | None:
    """Returns the lengths of an encoding, which are those of its name."""
    is_ids = isinstance(own, Tensor) and own.dim() == 2 and not own.is_floating_point()
    if encoding.dim() == 2:
        return lengths.of(name, own.shape[1] if is_ids and lengths.by_name else None)
    steps = encoding.shape[1]
    if isinstance(own, Tensor) and own.dim() > 1 and lengths_of(lengths.given, name) is not None:
        if steps not in ([lengths.steps[name]] if name in lengths.steps else own.shape[1:]):
            if own.dim() == 2 and not is_ids and not lengths.by_name:  # a vector
                return None
            remedy = "return topdown.sequence.Padded(values, lengths), keep T, or pool to (B, d)"
            found = f"encode() gave {name!r} {steps} steps for an input of shape {tuple(own.shape)}"
            raise ValueError(f"{found}, whose lengths no longer fit: {remedy}")
    return lengths.of(name, steps)


def check_samples(lengths: GivenLengths, inputs: Mapping[str, Any]) -> None:
    """Checks that what a model has at a site, or returns as an encoding, has as many samples as some input.

    Raises:
        ValueError: if none has.
    """
    counts = [x.shape[0] for x in inputs.values() if isinstance(x, Tensor) and x.dim() > 0]
    if counts and not torch.compiler.is_compiling() and lengths.batch is not None and lengths.batch not in counts:
        remedy = "make the model batch_first, or say Site(path, batch_dim=1, time_dim=0)"
        raise ValueError(f"{lengths.first}, but the inputs have {counts[0]} samples: the batch comes first; {remedy}")


def check_logits(
    logits: Any, owner: nn.Module, targets: Collection[str] | None = None, sources: Collection[str] | None = None
) -> dict[str, dict[str, Tensor]]:
    """Checks what feedback returned, and returns it, without targets that have no source.

    Args:
        logits: Result of a feedback module.
        owner: The module.
        targets: Names of the targets that it was built for. (Default: whatever it names)
        sources: Names of the encodings that it was built for. (Default: whatever it names)

    Raises:
        TypeError: if it is no mapping of mappings of tensors.
        ValueError: if it names targets or sources that it was not built for.
    """
    if not isinstance(logits, Mapping) or not all(isinstance(by_source, Mapping) for by_source in logits.values()):
        raise TypeError(f"{type(owner).__name__} must return logits as {{target: {{source: tensor}}}}")
    found = {target: dict(by_source) for target, by_source in logits.items() if by_source}
    for target, source, h in [(k, j, h) for k, by_source in found.items() for j, h in by_source.items()]:
        if not isinstance(h, Tensor):
            raise TypeError(f"the feedback from {source!r} to {target!r} must be a tensor of logits, got {type(h).__name__}")
        for name, known, what in ((target, targets, "targets"), (source, sources, "sources")):
            if known is not None and name not in known:
                said = f"{type(owner).__name__} returned logits from {source!r} to {target!r}"
                raise ValueError(f"{said}: {name!r} is not among the {what} {nearest(name, known)}")
    return found


def check_fit(logits: Tensor, target: Tensor, source: str, name: str) -> Tensor:
    """Checks the logits of one pair of a source and a target, and returns them.

    Raises:
        ValueError: if their shape does not fit the target.
    """
    if logits.dim() not in (2, 3) or logits.shape[0] != target.shape[0] or logits.shape[-1] != target.shape[-1]:
        what = f"the feedback from {source!r} gave logits of shape {tuple(logits.shape)} for {name!r}"
        raise ValueError(f"{what}, whose inputs have shape {tuple(target.shape)}: the batch and the last size must be the same")
    return logits


def _can_be_masked(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() in (2, 3)


def _is_encoding(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 1


def _described(value: Any) -> str:
    return f"shape {tuple(value.shape)} and {value.dtype}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
