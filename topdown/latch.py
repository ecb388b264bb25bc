r"""The latch: a backbone looks, what it has understood masks what it sees, and it looks again.

With inputs :math:`i_k` and encodings :math:`r_k` of the modalities :math:`k`, one call computes

.. math::
    r &= \mathrm{encode}(i) & \text{first pass, without gradient} \\
    f_{j \to k} &= \sigma(h_{j \to k}(r_j)) & \text{feedback, for every source } j \ne k \\
    \tilde i_k &= \tfrac{1}{J} \sum_j f_{j \to k} \odot i_k & \text{Eq. 4 of the paper} \\
    y &= \mathrm{fuse}(\mathrm{encode}(\tilde i)) & \text{second pass}

References:
    MMLatch: Bottom-up Top-down Fusion for Multimodal Sentiment Analysis (Paraskevopoulos et al., 2022),
    https://arxiv.org/abs/2201.09828
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from topdown.backbone import (
    Backbone,
    Inputs,
    call,
    check_backbone,
    check_encodings,
    check_inputs,
    check_logits,
    encoding_lengths,
    takes_lengths,
)
from topdown.dropout import dropout
from topdown.feedback import Network, build_feedback, check_feedback
from topdown.masking import ALIGN_RULES, COMBINE_RULES, Align, Combine, align_mask, combine_masks, finite_padding, pool_mask
from topdown.sequence import Lengths, lengths_of, padded_lengths, zero_padding
from topdown.sources import check_sources, resolve_sources
from topdown.unbuilt import UnbuiltFeedback

_build_lock = threading.Lock()


class LatchTrace(NamedTuple):
    """What happened in one call of a latch.

    Args:
        output: What `fuse` returned after the second pass.
        masks: The mask that multiplied each target, of shape (B, T_k, D_k), or (B, D_k).
        feedback: {target: {source: f_j}}: the masks before they were combined, in the time of the target.
        encodings: The encodings r_j that the masks were made from: those of the first pass (of the last pass but one
            when `passes` is above 1).
    """

    output: Any
    masks: dict[str, Tensor]
    feedback: dict[str, dict[str, Tensor]]
    encodings: dict[str, Tensor]


class TopDownLatch(nn.Module):
    r"""Wraps a backbone so that what it has understood of the other modalities masks the inputs of each one.

    The latch is called as latch(inputs, lengths) and returns what the backbone's `fuse` returns; it never calls the backbone's
    `forward`. The backbone stays the user's own module, under `latch.backbone`; its parameters keep their names behind that
    prefix.

    When the sizes of inputs and encodings are unknown, feedback is built in the first call (as torch's lazy modules are).
    Until then an optimizer, a parameter count or a state dict raises an error instead of missing the feedback.

    Args:
        backbone: A module with `encode(inputs[, lengths])` and `fuse(encodings[, lengths])`: see
            :class:`topdown.Backbone`.
        feedback: The networks that turn encodings, 0 at padded steps, into logits of masks. "lstm": one LSTM per pair of
            target and source (the paper's public code); "linear": one linear map per pair (the paper's "no LSTM"); "shared":
            one LSTM per source and a linear map per pair; a factory (source_size, target_size) -> module for pairs, such as
            `torch.nn.Linear`, whose modules take (encoding) or (encoding, lengths); or a ready module called as
            feedback(encodings[, lengths]) -> {target: {source: logits}}, with the lengths that were given, as a mapping of
            those that hold where a tensor does not hold for every sequence. (Default: "lstm")
        combine: How masks of several sources become one: "mean" (Eq. 4), "max", "min", "product", or a function from
            (J, B, T, D) to (B, T, D). (Default: "mean")
        sources: {target: [sources]}; targets that are not named are not masked. None masks every input with every
            other modality (Eq. 4), and a modality that is alone with itself. Inputs and encodings that are not named here
            may have any shape. (Default: None)
        align: What to do with a source whose time differs from its target's: "error", "interpolate" by relative
            position within the lengths, or "pool" over valid steps; see :func:`topdown.masking.align_mask`. A pooled
            encoding masks all steps alike, and a target without time takes the average over the source's steps, in
            every case. (Default: "error"; the paper's modalities are word-aligned)
        encoder_grad: Whether gradients flow through the encoders in the first pass. May be set later.
            (Default: False, Section 3 of the paper; its public code does the opposite)
        mask_dropout: Dropout on the masks, in training only. (Default: 0; the public code has 0.2, in evaluation too)
        scale: Masks are scale times the combined ones; with 2 and zero logits the inputs are untouched. (Default: 1,
            the paper)
        passes: How often feedback is applied. Each pass masks the raw inputs anew. With `encoder_grad=False` gradients
            reach the feedback from the last one alone. (Default: 1, the paper)
        example_inputs: Inputs from which to read the sizes at once, when the backbone does not have them as attributes
            `input_sizes` and `encoding_sizes`. The backbone encodes them once, in evaluation mode.

    Raises:
        TypeError: if `backbone` is not a module with `encode` and `fuse`, or `feedback` is of the wrong kind.
        ValueError: if an option has an unknown value.

    Example:
        >>> class Toy(nn.Module):
        ...     def encode(self, inputs):
        ...         return {name: torch.tanh(x) for name, x in inputs.items()}
        ...     def fuse(self, encodings):
        ...         return sum(r.mean(dim=(1, 2)) for r in encodings.values())
        >>> inputs = {"audio": torch.randn(2, 5, 4), "text": torch.randn(2, 5, 3)}
        >>> latch = TopDownLatch(Toy(), example_inputs=inputs)
        >>> latch(inputs).shape
        torch.Size([2])
        >>> {name: mask.shape for name, mask in latch.masks(inputs).items()}
        {'audio': torch.Size([2, 5, 4]), 'text': torch.Size([2, 5, 3])}
        >>> with latch.disabled():
        ...     torch.equal(latch(inputs), latch.backbone.fuse(latch.backbone.encode(inputs)))
        True
    """

    backbone: nn.Module
    feedback: nn.Module

    def __init__(
        self,
        backbone: nn.Module,
        feedback: Literal["linear", "lstm", "shared"] | nn.Module | Network = "lstm",
        *,
        combine: Combine = "mean",
        sources: Mapping[str, Sequence[str]] | None = None,
        align: Align = "error",
        encoder_grad: bool = False,
        mask_dropout: float = 0.0,
        scale: float = 1.0,
        passes: int = 1,
        example_inputs: Inputs | None = None,
    ) -> None:
        super().__init__()
        check_backbone(backbone)
        check_feedback(feedback)
        if not callable(combine) and combine not in COMBINE_RULES:
            raise ValueError(f"combine={combine!r} is not known: use one of {COMBINE_RULES}, or a function")
        if align not in ALIGN_RULES:
            raise ValueError(f"align={align!r} is not known: use one of {ALIGN_RULES}")
        if not 0.0 < scale < float("inf"):
            raise ValueError(f"scale={scale} must be a positive number")
        if not 0.0 <= mask_dropout < 1.0:
            raise ValueError(f"mask_dropout={mask_dropout} must lie in [0, 1)")
        if isinstance(passes, bool) or not isinstance(passes, int) or passes < 1:
            raise ValueError(f"passes={passes!r} must be a whole number, at least 1")
        if not isinstance(backbone, nn.Module):
            raise TypeError(f"the backbone must be a torch.nn.Module, got {type(backbone).__name__}")
        self.backbone = backbone
        self.combine = combine
        self.sources = None if sources is None else check_sources(sources)
        self.align = align
        self.encoder_grad = encoder_grad
        self.mask_dropout = mask_dropout
        self.scale = scale
        self.passes = passes
        self.input_sizes: dict[str, int] | None = None
        self.encoding_sizes: dict[str, int] | None = None
        self._encode_takes_lengths = takes_lengths(self._model.encode)
        self._feedback_takes_lengths = not isinstance(feedback, nn.Module) or takes_lengths(feedback.forward)
        self._fuse_takes_lengths = takes_lengths(self._model.fuse)
        self._disabled_in: list[int] = []
        if isinstance(feedback, nn.Module):
            if sources is not None:
                raise ValueError("a ready feedback module decides on its sources itself: leave out sources=")
            self.feedback = feedback
            return
        self.feedback = UnbuiltFeedback(feedback)
        input_sizes = getattr(backbone, "input_sizes", None)
        encoding_sizes = getattr(backbone, "encoding_sizes", None)
        if isinstance(input_sizes, Mapping) and isinstance(encoding_sizes, Mapping):
            self._build(dict(input_sizes), dict(encoding_sizes), None)
        elif example_inputs is not None:
            self._build_from(example_inputs)

    def forward(self, inputs: Inputs, lengths: Lengths = None) -> Any:
        """Looks, masks, and looks again.

        Args:
            inputs: A sequence of shape (B, T_k, D_k) or a vector of shape (B, D_k) per modality k. A modality that is
                None or absent drops out of the mean, and a target none of whose sources is there is not masked.
            lengths: Number of valid steps of each sample, of shape (B,), on the CPU; or a mapping from modality to such
                a tensor, when modalities are not aligned. None when all steps are valid.

        Returns:
            What `backbone.fuse` returns.

        Raises:
            TypeError: if inputs, lengths or what `encode` returns are of the wrong kind.
            ValueError: if shapes do not fit, naming the modality.
        """
        return self._look_again(self._first_pass(inputs, lengths)[0], lengths)

    def masks(self, inputs: Inputs, lengths: Lengths = None) -> dict[str, Tensor]:
        """Returns the masks {target: (B, T_k, D_k)} that :meth:`forward` would apply; none while disabled.

        They have a gradient, for regularizers; call within `torch.no_grad()` where that is not wanted.

        Args:
            inputs: As in :meth:`forward`.
            lengths: As in :meth:`forward`.
        """
        return self._first_pass(inputs, lengths)[1]

    def trace(self, inputs: Inputs, lengths: Lengths = None) -> LatchTrace:
        """Returns the output together with the masks and what they were made from; only the output while disabled.

        Args:
            inputs: As in :meth:`forward`.
            lengths: As in :meth:`forward`.
        """
        masked, masks, feedback, encodings = self._first_pass(inputs, lengths)
        return LatchTrace(self._look_again(masked, lengths), masks, feedback, encodings)

    @contextlib.contextmanager
    def disabled(self) -> Iterator[TopDownLatch]:
        """Turns the feedback off within a `with` block, in the current thread (a compiled latch: in all threads).

        The latch then returns fuse(encode(inputs)) of its backbone, bit for bit; there are no masks to be had.
        """
        thread = threading.get_ident()
        self._disabled_in.append(thread)
        try:
            yield self
        finally:
            self._disabled_in.remove(thread)

    def extra_repr(self) -> str:
        """Shows the options that are not modules."""
        combine = self.combine if isinstance(self.combine, str) else getattr(self.combine, "__name__", "function")
        return (
            f"combine={combine}, align={self.align}, encoder_grad={self.encoder_grad}, "
            f"mask_dropout={self.mask_dropout}, scale={self.scale}, passes={self.passes}"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_disabled_in": []}  # a copy made within disabled() is not disabled

    @property
    def _used(self) -> set[str] | None:
        return None if self.sources is None else {name for names in self.sources.values() for name in names}

    @property
    def _model(self) -> Backbone:
        return cast(Backbone, self.backbone)

    def _is_disabled(self) -> bool:
        # A compiler cannot ask for the thread: a compiled latch is disabled for all threads at once.
        here = torch.compiler.is_compiling() or threading.get_ident() in self._disabled_in
        return bool(self._disabled_in) and here

    def _look_again(self, masked: Inputs, lengths: Lengths) -> Any:
        encodings = call(self._model.encode, masked, lengths, self._encode_takes_lengths)
        return call(self._model.fuse, encodings, lengths, self._fuse_takes_lengths)

    def _first_pass(
        self, inputs: Inputs, lengths: Lengths
    ) -> tuple[Inputs, dict[str, Tensor], dict[str, dict[str, Tensor]], dict[str, Tensor]]:
        if self._is_disabled():
            return inputs, {}, {}, {}
        present = check_inputs(inputs, lengths)
        valid = {k: lengths_of(lengths, k) if x.dim() == 3 else None for k, x in present.items()}
        padded = {k: n for k, n in valid.items() if padded_lengths(n, present[k].shape[1]) is not None}
        present = {k: finite_padding(x, padded[k]) if k in padded else x for k, x in present.items()}
        masked: Inputs = {**inputs, **present}
        for _ in range(self.passes):
            encodings, own = self._encode(masked, present, lengths)
            feedback = self._feedback(encodings, own, present, valid, lengths)
            masks = {target: self._mask(list(f.values()), present[target]) for target, f in feedback.items()}
            masked = {**inputs, **present, **{k: present[k] * mask for k, mask in masks.items()}}
        return masked, masks, feedback, encodings

    def _encode(
        self, masked: Inputs, present: dict[str, Tensor], lengths: Lengths
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns the encodings of a first pass, 0 at padded steps, and the lengths of those that have any."""
        with contextlib.nullcontext() if self.encoder_grad else torch.no_grad():
            encodings = call(self._model.encode, masked, lengths, self._encode_takes_lengths)
        if not self.encoder_grad and not torch.compiler.is_compiling():
            torch.clear_autocast_cache()  # torch 2.6 would hand weights without gradient to the second pass
        known = [*masked, *(self.encoding_sizes or {}), *(encodings if isinstance(encodings, Mapping) else ())]
        if isinstance(lengths, Mapping) and (unknown := [name for name in lengths if name not in known]):
            raise ValueError(f"lengths name {unknown}, but the modalities are {sorted(set(known))}")
        encodings = check_encodings(encodings, present, lengths, self._used)
        if isinstance(self.feedback, UnbuiltFeedback):
            missing = [name for name, value in masked.items() if value is None]
            if missing:
                raise ValueError(
                    f"{missing} are None, but the latch reads the sizes of all modalities from its first call: "
                    "pass example_inputs= with all of them"
                )
            self._build(_sizes(present), _sizes(encodings), next(iter(encodings.values())))
        self._check_known(present, encodings)
        described = {k: encoding_lengths(k, r, present, lengths) for k, r in encodings.items()}
        own = {k: valid for k, valid in described.items() if valid is not None}
        return {k: zero_padding(r, own.get(k)) if r.dim() == 3 else r for k, r in encodings.items()}, own

    def _check_known(self, present: dict[str, Tensor], encodings: dict[str, Tensor]) -> None:
        if self.input_sizes is None or self.encoding_sizes is None:  # a ready feedback module
            return
        for what, given, sizes in (("inputs", present, self.input_sizes), ("encodings", encodings, self.encoding_sizes)):
            if self.sources is None and (unknown := [name for name in given if name not in sizes]):
                raise ValueError(
                    f"{what} {unknown} are unknown: the feedback was built for {list(sizes)}; build it with all modalities "
                    "(example_inputs=), or say who masks whom with sources={target: [sources]}"
                )
        for name, size in self.encoding_sizes.items():
            if name in encodings and encodings[name].shape[-1] != size:
                raise ValueError(
                    f"encode() gave {name!r} of size {encodings[name].shape[-1]}, but the feedback was built for {size}"
                )

    def _feedback(
        self,
        encodings: dict[str, Tensor],
        own: dict[str, Tensor],
        present: dict[str, Tensor],
        valid: Mapping[str, Tensor | None],
        lengths: Lengths,
    ) -> dict[str, dict[str, Tensor]]:
        described: Lengths = own or None
        if isinstance(lengths, Tensor) and all(k in own for k, r in encodings.items() if r.dim() == 3):
            described = lengths
        logits = call(self.feedback, encodings, described, self._feedback_takes_lengths)
        if not isinstance(logits, Mapping) or not all(isinstance(by_source, Mapping) for by_source in logits.values()):
            raise TypeError(f"{type(self.feedback).__name__} must return logits as {{target: {{source: tensor}}}}")
        masks: dict[str, dict[str, Tensor]] = {}
        for target, by_source in logits.items():
            if target not in present or not by_source:
                continue
            masks[target] = {}
            for source, h in by_source.items():
                check_logits(h, source, target, present[target])
                fits = source in encodings and h.dim() == 3 and h.shape[1] == encodings[source].shape[1]
                masks[target][source] = self._aligned(
                    torch.sigmoid(h), own.get(source) if fits else None, source, target, present[target], valid[target]
                )
        return masks

    def _aligned(
        self, mask: Tensor, lengths: Tensor | None, source: str, target: str, inputs: Tensor, target_lengths: Tensor | None
    ) -> Tensor:
        if inputs.dim() == 2:
            return mask if mask.dim() == 2 else pool_mask(mask, lengths).squeeze(1)
        if mask.dim() == 2:
            return mask.unsqueeze(1)
        return align_mask(mask, lengths, inputs.shape[1], target_lengths, align=self.align, source=source, target=target)

    def _mask(self, masks: list[Tensor], inputs: Tensor) -> Tensor:
        mask = combine_masks(masks, self.combine)
        mask = (mask if self.scale == 1.0 else mask * self.scale).expand_as(inputs)
        return dropout(mask, self.mask_dropout, self.training)

    def _build_from(self, example_inputs: Inputs) -> None:
        present = check_inputs(example_inputs, None)
        training = {module: module.training for module in self.backbone.modules()}
        try:
            self.backbone.eval()
            with torch.no_grad():
                encodings = call(self._model.encode, example_inputs, None, self._encode_takes_lengths)
        finally:
            for module, mode in training.items():
                module.training = mode
        encodings = check_encodings(encodings, present, None, self._used)
        self._build(_sizes(present), _sizes(encodings), next(iter(encodings.values())))

    def _build(self, input_sizes: dict[str, int], encoding_sizes: dict[str, int], like: Tensor | None) -> None:
        with _build_lock, torch.inference_mode(False):  # parameters made in inference mode could never be trained
            unbuilt = self.feedback
            if not isinstance(unbuilt, UnbuiltFeedback):  # another thread was faster
                return
            sources = resolve_sources(self.sources, input_sizes, encoding_sizes)
            feedback = build_feedback(unbuilt.kind, encoding_sizes, input_sizes, sources)
            if like is None or torch.is_autocast_enabled(like.device.type):  # then encodings have another type than weights
                like = next((p for p in self.backbone.parameters() if p.is_floating_point()), like)
            self.input_sizes, self.encoding_sizes = input_sizes, encoding_sizes
            feedback.train(self.training)
            self.feedback = feedback if like is None else feedback.to(device=like.device, dtype=like.dtype)


def _sizes(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: tensor.shape[-1] for name, tensor in tensors.items()}
