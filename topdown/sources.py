"""Who masks whom: the sources of each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def check_sources(sources: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Checks what can be checked before sizes are known, and returns a copy.

    Raises:
        ValueError: if there is no target, or a target has no source or one twice.

    Example:
        >>> check_sources({"text": "audio"})
        Traceback (most recent call last):
        ...
        ValueError: sources['text'] = 'audio' must list at least one source, as in {'text': ['...']}
    """
    if not isinstance(sources, Mapping) or not sources:
        raise ValueError(f"sources={sources!r} must name at least one target, as in {{'visual': ['text', 'audio']}}")
    for target, names in sources.items():
        if isinstance(names, str) or not names:
            raise ValueError(f"sources[{target!r}] = {names!r} must list at least one source, as in {{{target!r}: ['...']}}")
        if len(set(names)) != len(names):
            raise ValueError(f"sources[{target!r}] = {list(names)} names a source twice")
    return {target: list(names) for target, names in sources.items()}


def resolve_sources(
    sources: Mapping[str, Sequence[str]] | None, input_sizes: Mapping[str, int], encoding_sizes: Mapping[str, int]
) -> Mapping[str, Sequence[str]]:
    """Returns the sources of each target; by default every other encoding, and a modality that is alone has itself.

    Raises:
        ValueError: if a target is no input, or a source no encoding.

    Example:
        >>> resolve_sources(None, {"a": 3, "b": 2}, {"a": 5, "b": 5}), resolve_sources(None, {"a": 3}, {"a": 5})
        ({'a': ['b'], 'b': ['a']}, {'a': ['a']})
    """
    if sources is None:
        return {k: [j for j in encoding_sizes if j != k] or list(encoding_sizes) for k in input_sizes}
    for target, names in sources.items():
        for name, sizes, what in [(target, input_sizes, "inputs"), *((j, encoding_sizes, "encodings") for j in names)]:
            if name not in sizes:
                raise ValueError(f"sources[{target!r}] = {names}: {name!r} is not among the {what} {list(sizes)}")
    return sources
