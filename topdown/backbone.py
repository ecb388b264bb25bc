"""The interface of a backbone: `encode`, which sees each modality, and `fuse`, which predicts from all of them."""

import functools
import inspect
from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol, TypeAlias, cast, runtime_checkable

import torch
from torch import Tensor, nn

from topdown.batch import Batch, Inputs, can_be_masked
from topdown.sequence import MAPPING, Lengths, Padded, WithLengths, described, lengths_of
from topdown.wiring import SAY_WHO, Sizes, Wiring, who_masks_whom


@runtime_checkable
class Backbone(Protocol):
    """Describes a model whose bottom-up pass has two halves.

    Any module with `encode` and `fuse` is a backbone; they may be methods or submodules. A latch calls these two and never
    `forward`. `encode` must not mix modalities, since the others mask each of them. Both get the lengths of the user if they
    have a parameter `lengths`, or take any keyword. The backbone decides how it treats padding and absent modalities.

    When the module also has the attributes `input_sizes` and `encoding_sizes` (mappings from modality to size), a latch builds
    its feedback from them at once; otherwise it reads the sizes from an example or from the first call.

    A backbone that wraps another model has it as its attribute `user_model`, to which the paths of sites are relative, and
    `uses_lengths=False` where that model takes no lengths. With `latch_class`, a function from the class of a latch to another
    class, it decides how its latch is called.
    """

    def encode(self, inputs: Inputs, lengths: Lengths = None) -> Mapping[str, Any]:
        """Encodes each modality by itself.

        Args:
            inputs: All inputs of the latch: a sequence of shape (B, T_k, D_k) or a vector of shape (B, D_k) per modality k that
                is masked, and others of any type; None or left out where a modality is absent.
            lengths: Number of valid steps of each sample, of shape (B,), or a mapping from modality to such a tensor.

        Returns:
            Encoding per modality, of shape (B, T_k, d_k), or (B, d_k) when it is pooled over time; or
            :class:`topdown.Padded`, where its lengths differ from those of its input. What is neither a floating-point tensor
            with two or more dimensions nor `Padded` is not an encoding, and reaches `fuse` as it is; it must not have the name
            of a source, or of an input that can be masked.
        """

    def fuse(self, encodings: Mapping[str, Any], lengths: Lengths = None) -> Any:
        """Predicts from the object that `encode` returned, itself and not a copy."""


def check_backbone(backbone: Any) -> Any:
    """Returns a backbone, or raises a TypeError if an object cannot serve as one."""
    kind = type(backbone).__name__
    if absent := [name for name in ("encode", "fuse") if not callable(getattr(backbone, name, None))]:
        raise TypeError(f"{kind} has no {' and no '.join(absent)}(): a backbone needs both; HookedBackbone wraps any model")
    if not isinstance(backbone, nn.Module):
        raise TypeError(f"the backbone must be a torch.nn.Module, got {kind}")
    return backbone


def user_model(backbone: nn.Module) -> nn.Module:
    """Returns the model to which paths are relative: the backbone, or the one that it wraps as its `user_model`."""
    return cast(nn.Module, getattr(backbone, "user_model", backbone))


TakesLengths: TypeAlias = Literal["required", "optional", "never"]


def takes_lengths(function: Any) -> TakesLengths:
    """Returns, from its signature, whether a function, or the `forward` of a module, takes `lengths`.

    A parameter `lengths` takes them, and so does `**kwargs`, except that of a decorator (with `functools.wraps`) around a
    function that takes none.

    Returns:
        "required" for a parameter without default, "optional" or "never".

    Example:
        >>> takes_lengths(lambda inputs, lengths: inputs), takes_lengths(lambda inputs, lengths=None: inputs)
        ('required', 'optional')
        >>> takes_lengths(nn.Linear(2, 3)), takes_lengths(lambda *args, **kwargs: args)
        ('never', 'optional')
    """
    function = getattr(function, "_orig_mod", function)  # which torch.compile sets
    function = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters
    except ValueError:  # a method of TorchScript, which accepts lengths=None, or a function written in C
        arguments = getattr(getattr(function, "schema", None), "arguments", ())
        return "required" if "lengths" in [argument.name for argument in arguments] else "never"
    if "lengths" in parameters:
        return "required" if parameters["lengths"].default is inspect.Parameter.empty else "optional"
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return "never"
    inner = getattr(function, "__wrapped__", function.func if isinstance(function, functools.partial) else None)
    return "optional" if inner is None else takes_lengths(inner)


def lengths_keyword(lengths: Lengths, takes: TakesLengths) -> dict[str, Lengths]:
    """Returns the keyword arguments of a function that may take `lengths`: see :func:`takes_lengths`.

    Example:
        >>> lengths_keyword(None, "required"), lengths_keyword(None, "optional"), lengths_keyword(torch.tensor([2]), "never")
        ({'lengths': None}, {}, {})
    """
    return {} if takes == "never" or (lengths is None and takes == "optional") else {"lengths": lengths}


def read_encodings(encoded: Any, batch: Batch, wiring: Wiring, any_input: bool, *, detach: bool) -> dict[str, WithLengths]:
    """Checks the result of `encode`, and returns the encodings that feedback reads, 0 where they are padded or absent.

    Args:
        encoded: Result of `encode`.
        batch: Inputs and lengths of the call.
        wiring: Sources, and sizes for which feedback was built.
        any_input: Whether lengths may name any input, or only modalities.
        detach: Whether to cut the gradient, which a model may have turned on within no_grad().

    Returns:
        Encodings of shape (B, T, d) or (B, d), with their lengths. Lengths of those without time say in which samples the
        modality is present.

    Raises:
        TypeError: if `encode` returned no mapping, or something else than a tensor where an encoding is needed.
        ValueError: if names, shapes, sizes or lengths do not fit.
    """
    if not isinstance(encoded, MAPPING):
        raise TypeError(f"encode() must return a mapping from modality to encoding, got {type(encoded).__name__}")
    wanted = {j for names in (wiring.sources or {}).values() for j in names}
    if wanted and not wiring.pairs:
        # Before sizes are known, for its error if the option names something that does not exist.
        who_masks_whom(wiring.sources, wiring.sites, [*wiring.sites, *batch.inputs], encoded)
    encodings: dict[str, WithLengths] = {}
    for name, returned in encoded.items():
        # HookedBackbone returns packed sequences, and feature maps (B, H, W, d), as WithLengths.
        r = returned.values if isinstance(returned, (Padded, WithLengths)) else returned
        if _is_source(name, r, batch, wiring, wanted):
            r = r.detach() if detach and r.requires_grad else r
            encodings[name] = _read_encoding(name, r, returned, batch, wiring.encoding_sizes)
    if lost := [name for name in wanted if name not in encoded and batch.inputs.get(name) is not None]:
        raise ValueError(f"encode() returned no {lost[0]!r}, which is a source and among the inputs, but {list(encoded)}")
    if batch.by_name and any([name not in encoded for name in batch.lengths or ()]):
        names = (*encoded, *batch.targets, *wiring.sites, *(wiring.sources or wiring.target_sizes), *wiring.encoding_sizes)
        batch.check_names([*names, *(batch.inputs if any_input else ())])
    return encodings


def _is_source(name: str, r: Any, batch: Batch, wiring: Wiring, wanted: Collection[str]) -> bool:
    """Returns whether feedback reads an item of the result of `encode`, or raises a TypeError if it should, but cannot.

    It reads those that the option `sources` names, or else all encodings, but none of an input that is absent: a learned token,
    say, encodes nothing. An item with the name of an input that can be masked must be an encoding.
    """
    x = batch.inputs.get(name)
    # An encoding needs no input if it stands for a site, or if its name is neither that of an input nor of a target.
    is_absent = x is None and (name in batch.inputs or name in wiring.target_sizes) and name not in wiring.sites
    is_encoding = isinstance(r, Tensor) and r.is_floating_point() and r.dim() > 1
    if r is None or is_absent or not (name in wanted if wanted else is_encoding or can_be_masked(x)):
        return False
    if not is_encoding or r.is_nested:
        raise TypeError(f"encode() returned {name!r} with {described(r)}: encodings are padded floats, (B, T, d) or (B, d)")
    return True


def _read_encoding(name: str, r: Tensor, returned: Any, batch: Batch, sizes: Sizes) -> WithLengths:
    """Checks one encoding r, which `encode` returned, and returns it with its lengths, 0 where it is padded or absent."""
    batch.first = batch.first or (name, tuple(r.shape))
    if (r.dim() > 3 and not isinstance(returned, WithLengths)) or r.shape[0] != batch.first[1][0]:
        shape = f"of shape {tuple(r.shape)} for a batch of {batch.first[1][0]}"
        raise ValueError(f"encode() returned {name!r} {shape}: feedback reads (B, T, d) or (B, d); {SAY_WHO}")
    if sizes and r.shape[-1] != sizes.get(name):
        built = sizes.get(name, f"{[*sizes]}: build it with all encodings, as by example_inputs=")
        raise ValueError(f"encode() returned {name!r} of size {r.shape[-1]}, but the feedback was built for {built}")
    _, n, valid, present = _lengths_of_encoding(name, r, returned, batch)
    return WithLengths(r if valid is None else torch.where(valid, r, 0.0), n, valid, present)


def _lengths_of_encoding(name: str, r: Tensor, returned: Any, batch: Batch) -> WithLengths:
    """Returns the lengths of an encoding r, with their marks, by the first case that fits. The values beside them do not count.

    1. It is a `Padded` with lengths, or at a site a packed sequence: these.
    2. It is a `Padded` without lengths, or the call has no lengths: all steps are valid.
    3. The input of its name is a target, and has as many steps: the lengths of this input.
    4. It has the steps of its input, or no steps to compare (a vector, a feature map, an input that is no tensor): the lengths
       of its name in the call.
    5. Its input is a vector, and the call has one tensor of lengths, which counts the steps of others: all steps are valid.
    6. Else the lengths of its name no longer fit: an error.
    """
    if isinstance(returned, (Padded, WithLengths)) and returned.lengths is not None:  # 1
        return batch.attach(returned.lengths, name, r, r.shape[1:-1])
    if batch.lengths is None or isinstance(returned, Padded):  # 2
        return WithLengths(r)
    target, x = batch.targets.get(name), batch.inputs.get(name)  # the input of this name, as a target and as it is
    if target and r.shape[:-1] == target.values.shape[:-1]:  # 3
        return target
    shape = x.shape if isinstance(x, Tensor) else torch.Size()
    is_vector = len(shape) == 2 and x.is_floating_point()  # type: ignore[union-attr]
    # Time of an input that is no target may be any dimension but the batch: the last one of stacked token ids, (B, 3, T).
    times = shape[1:-1] if target else shape[1:] if shape[:1] == r.shape[:1] else shape
    if r.dim() != 3 or len(shape) < 2 or r.shape[1] in times or lengths_of(batch.lengths, name) is None:  # 4
        # The lengths of a vector that was made of token ids (B, T) count these.
        return batch.with_lengths(name, r, shape[1:] if len(shape) == 2 and not is_vector else ())
    if is_vector and not batch.by_name:  # 5
        return WithLengths(r)
    change = f"{r.shape[1]} steps for an input of {described(x)}, whose lengths no longer fit"
    raise ValueError(f"encode() returned {name!r} {change}: return topdown.Padded(values, lengths), or pool to (B, d)")
