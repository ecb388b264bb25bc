"""Who masks whom, which is decided once; the options of a latch with their checks; and names in error messages."""

import dataclasses
import difflib
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias, get_args

from typing_extensions import Self

from topdown.masking import COMBINE, Align

Sources: TypeAlias = Mapping[str, Sequence[str]]
Sizes: TypeAlias = Mapping[str, int]
Names: TypeAlias = Collection[str]

# Options: the type of the value, a condition on the value (which may have no hash), and both in words.
OPTIONS: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "start": (str, lambda v: v in ("identity", "random"), "'identity' or 'random'"),
    "combine": (object, lambda v: callable(v) or v in [*COMBINE], f"one of {[*COMBINE]} or a function of (J, B, T, D)"),
    "align": (object, lambda v: v in [*get_args(Align)], f"one of {[*get_args(Align)]}"),
    "encoder_grad": (bool, lambda v: True, "True or False"),
    "mask_dropout": (numbers.Real, lambda v: 0.0 <= v < 1.0, "a number in [0, 1)"),
    "scale": (numbers.Real, lambda v: 0.0 < v < float("inf"), "a positive number"),
    "passes": (int, lambda v: v >= 1, "a whole number, at least 1"),
}
SAY_WHO = "say who masks whom with sources={target: [sources]}"


@dataclasses.dataclass(frozen=True)
class Wiring:
    """Holds the targets and sources of a latch.

    Args:
        sources: The option `sources`, as the user passes it.
        sites: Site of each target that is not an input. (Default: none)
        pairs: {target: [sources]}, as decided. They are empty, as are the sizes, until feedback is built, and always for a
            latch that was made with a ready feedback module. (Default: {})
        target_sizes: Features D_k of each target. (Default: {})
        encoding_sizes: Size d_j of each encoding. (Default: {})

    Example:
        >>> Wiring(None).decide({"a": 3, "b": 2, "labels": 1}, {"a": 8, "b": 8}).pairs
        {'a': ['b'], 'b': ['a']}
    """

    sources: Sources | None
    sites: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pairs: Sources = dataclasses.field(default_factory=dict)
    target_sizes: Sizes = dataclasses.field(default_factory=dict)
    encoding_sizes: Sizes = dataclasses.field(default_factory=dict)

    def decide(self, targets: Sizes, encodings: Sizes) -> Self:
        """Returns a wiring with pairs and sizes, for the sizes of all possible targets and of all encodings."""
        pairs = who_masks_whom(self.sources, self.sites, targets, encodings)
        # Sizes may be integers of numpy, which JSON cannot hold.
        sizes = {j: int(size) for j, size in encodings.items()}
        return dataclasses.replace(self, pairs=pairs, target_sizes={k: int(targets[k]) for k in pairs}, encoding_sizes=sizes)


def who_masks_whom(sources: Sources | None, sites: Names, targets: Names, encodings: Names) -> dict[str, list[str]]:
    """Returns the sources of each target.

    Without `sources`, the targets are the sites, or else the inputs that have an encoding of their name. Every OTHER encoding
    masks a target; where there is no other, the encoding of its name does. A single encoding masks all sites.

    Args:
        sources: Sources of each target that the user named, or None.
        sites: Names of sites.
        targets: Names of sites and inputs.
        encodings: Names of encodings.

    Raises:
        ValueError: if a name does not match, or no rule decides which encoding belongs to which target.

    Example:
        >>> who_masks_whom(None, [], ["a", "b"], ["a", "b"]), who_masks_whom(None, [], ["a"], ["a"])
        ({'a': ['b'], 'b': ['a']}, {'a': ['a']})
        >>> who_masks_whom(None, ["layer.0", "layer.1"], ["layer.0", "layer.1"], ["text"])
        {'layer.0': ['text'], 'layer.1': ['text']}
    """
    if sources is not None:
        for site in sites:
            check_name(site, sources, "targets that sources= names", f"sites={[*sites]}: ")
        more = "; if encode() returns more encodings than encoding_sizes names, pass example_inputs="
        for target, names in sources.items():
            check_name(target, targets, "inputs and sites", f"sources[{target!r}] = {names}: ")
            for name in names:
                check_name(name, encodings, "encodings", f"sources[{target!r}] = {names}: ", more)
        return {target: list(names) for target, names in sources.items()}
    if sites and len(encodings) == 1:  # whatever its name
        return {k: [*encodings] for k in sites}
    possible = [*(sites or targets)]
    unmatched, extra = [k for k in possible if k not in encodings], [j for j in encodings if j not in possible]
    if len(unmatched) == len(possible) or (unmatched and extra):
        raise ValueError(f"inputs or sites {unmatched} and encodings {extra} have different names: {SAY_WHO}")
    return {k: [j for j in encodings if j != k] or [k] for k in possible if sites or k in encodings}


def check_sources(sources: Sources | None) -> dict[str, list[str]] | None:
    """Checks the option `sources`, as far as it can be before names are known, and returns a copy.

    Raises:
        ValueError: if there is no target, or a target has no source or one twice.
    """
    if sources is not None and (not isinstance(sources, Mapping) or not sources):
        raise ValueError(f"sources={sources!r} must name at least one target, as in {{'visual': ['text', 'audio']}}")
    for target, names in (sources or {}).items():
        if isinstance(names, str) or not names or len(set(names)) != len(names):
            raise ValueError(f"sources[{target!r}] = {names!r} must list sources, each once, as in {{{target!r}: ['...']}}")
    return None if sources is None else {target: list(names) for target, names in sources.items()}


def check_option(name: str, value: Any) -> Any:
    """Checks the value of an option, and returns it.

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
    return float(value) if kind is numbers.Real else value


def check_name(name: object, names: Names, role: str, before: str = "", after: str = "") -> None:
    """Raises a ValueError that lists the nearest names if a name is not among them."""
    if name not in names:
        raise ValueError(f"{before}{name!r} is not among the {role} {nearest(name, names)}{after}")


def nearest(name: object, names: Names) -> str:
    """Lists names for a message, the most similar ones first, and at most ten.

    Example:
        >>> nearest("txet", ["audio", "text"]), nearest("txet", ["audio"] * 20)
        ("['text', 'audio']", "['audio']")
    """
    similar = difflib.get_close_matches(str(name), list(dict.fromkeys(names)), n=10, cutoff=0.0)
    return f"{similar}" + (f" and {len({*names}) - 10} more" if len(similar) == 10 < len({*names}) else "")
