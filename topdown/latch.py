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
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from topdown import checks, saving
from topdown.backbone import Inputs, call, fresh, takes_lengths, user_model
from topdown.build import build, build_from
from topdown.describe import describe
from topdown.disabled import Disabled, is_disabled
from topdown.feedback import Factory
from topdown.first_pass import Statistics, run_untouched
from topdown.gates import Gates
from topdown.masking import Align, Combine
from topdown.masks import (
    LatchTrace,
    Look,
    combine_present,
    masked_inputs,
    masks_by_source,
    neutral_where_absent,
    raw_targets,
    site_targets,
)
from topdown.sequence import Lengths, Padded, zero_missing, zero_padding
from topdown.sites import Site, from_sequence, run_with
from topdown.unbuilt import UnbuiltFeedback

T = TypeVar("T")
Values = dict[str, Tensor]


class TopDownLatch(nn.Module):
    r"""Wraps a backbone so that what it has understood of the other modalities masks the inputs of each one.

    The latch is called as latch(inputs, lengths), or by name as latch(text=..., audio=..., lengths=...), and returns what the
    backbone's `fuse` returns; it never calls the backbone's `forward`. The backbone stays the user's own module, under
    `latch.backbone`; its parameters keep their names behind that prefix.

    After a call the backbone is as if it had run once, on the masked inputs: the first pass moves no running statistics (it
    has its own, see :mod:`topdown.first_pass`) and changes nothing that was given. What it counts in plain attributes, it
    counts in both passes; a module that changes its buffers in evaluation mode, too, changes them in both.

    When the sizes of targets and encodings are unknown, feedback is built in the first call, which then encodes once more (as
    torch's lazy modules are). Until then an optimizer, a parameter count or a state dict raises an error instead of missing
    the feedback.

    Args:
        backbone: Module with `encode(inputs[, lengths])` and `fuse(encodings[, lengths])`: see :class:`topdown.Backbone`.
        feedback: Networks that turn encodings, 0 at padded steps, into logits of masks. "lstm": one LSTM per pair of
            target and source (the paper's public code); "linear": one linear map per pair (the paper's "no LSTM"); "shared":
            one LSTM per source and a linear map per pair; "static": a learned vector per pair, which looks at nothing; a
            factory (source_size, target_size) -> module for pairs, such as `torch.nn.Linear`, whose modules take (encoding) or
            (encoding, lengths); a factory that needs three arguments, (source_sizes, target_sizes, sources) -> module for all,
            such as `partial(SharedFeedback, bidirectional=True)`; or a ready module, as that makes, called as
            feedback(encodings[, lengths]) -> {target: {source: logits}}, with lengths as a mapping from those encodings that
            have any. (Default: "lstm")
        combine: Rule by which masks of several sources become one: "mean" (Eq. 4), "max", "min", "product", or a function from
            (J, B, T, D) to (B, T, D). (Default: "mean")
        sources: {target: [sources]}; targets that are not named are not masked, and inputs and encodings that are not named
            may be anything. None masks every input that has an encoding of its name with every OTHER encoding (Eq. 4), and
            one that is alone with itself. (Default: None)
        sites: {target: place in the model}: masks multiply the output or input of submodules in place of raw inputs; see
            :class:`topdown.Site`, or a path alone. Without `sources` the sites are the only targets; with them, raw inputs may
            be targets beside sites. (Default: None, raw inputs)
        align: Treatment of a source whose time differs from its target's: "error", "interpolate" by relative
            position within the lengths, or "pool" over valid steps; see :func:`topdown.masking.align_mask`. (Default:
            "error"; the paper's modalities are word-aligned)
        start: "random": masks begin wherever the networks begin, near 1/2 (the paper); "identity": the latch begins as the
            backbone, bit for bit (in training with dropout the two draw other random numbers). Each mask is then relative to
            that of a network that says nothing, in (0, 2) for "mean", and :mod:`topdown.gates` open in training. (Default:
            "random", the paper)
        encoder_grad: Whether gradients flow through the encoders in the first pass. (Default: False, Section 3 of the paper;
            its public code does the opposite)
        mask_dropout: Dropout on the masks, in training only. (Default: 0; the public code has 0.2, in evaluation too)
        scale: Factor of the combined masks; with 2 and zero logits the inputs are untouched. (Default: 1, the paper)
        passes: Number of times that feedback is applied. Each pass masks the raw inputs anew. With `encoder_grad=False`
            gradients reach the feedback from the last one alone. (Default: 1, the paper)
        example_inputs: Inputs from which to read the sizes at once, when the backbone does not have them as attributes
            `input_sizes` and `encoding_sizes`. The backbone encodes them once, in evaluation mode. (Default: None)

    All options but `feedback`, `sources`, `sites` and `start` may be set later, as attributes.

    Raises:
        TypeError: if `backbone` is not a module with `encode` and `fuse`, or an option is of the wrong kind.
        ValueError: if an option has an unknown value, or nobody can tell who masks whom.

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

    backbone: Any  # a Backbone that is a module
    feedback: nn.Module
    gates: nn.Module | None
    kind: Any  # of feedback, as it was asked for; None where a module was given

    def __init__(
        self,
        backbone: nn.Module,
        feedback: Literal["linear", "lstm", "shared", "static"] | nn.Module | Factory = "lstm",
        *,
        combine: Combine = "mean",
        sources: Mapping[str, Sequence[str]] | None = None,
        sites: Mapping[str, Site | str] | None = None,
        align: Align = "error",
        start: Literal["random", "identity"] = "random",
        encoder_grad: bool = False,
        mask_dropout: float = 0.0,
        scale: float = 1.0,
        passes: int = 1,
        example_inputs: Inputs | None = None,
    ) -> None:
        super().__init__()
        checks.check_backbone(backbone)
        checks.check_feedback(feedback, sources)
        self.backbone = backbone
        self.feedback = feedback if isinstance(feedback, nn.Module) else UnbuiltFeedback()
        self.kind = None if isinstance(feedback, nn.Module) else feedback
        self.sources = checks.check_sources(sources)
        self.sites = checks.check_sites(sites, user_model(backbone))
        self.start = checks.check_start(start, scale)
        self.gates = Gates() if start == "identity" and isinstance(feedback, nn.Module) else None
        self.combine = combine
        self.align = align
        self.encoder_grad = encoder_grad
        self.mask_dropout = mask_dropout
        self.scale = scale
        self.statistics = nn.ModuleList()  # of each first pass
        self.passes = passes
        self.target_sizes: dict[str, int] | None = None  # unknown until feedback is built, and for a ready module
        self.source_sizes: dict[str, int] | None = None
        sizes, encoding_sizes = (getattr(backbone, name, None) for name in ("input_sizes", "encoding_sizes"))
        if isinstance(feedback, nn.Module):
            return
        if isinstance(sizes, Mapping) and isinstance(encoding_sizes, Mapping) and not self.sites:
            build(self, dict(sizes), dict(encoding_sizes))
        elif example_inputs is not None:
            checks.check_inputs(example_inputs)
            build_from(self, example_inputs, None)

    def forward(self, inputs: Inputs | None = None, lengths: Lengths = None, **by_name: Any) -> Any:
        """Looks, masks, and looks again.

        Args:
            inputs: Sequence of shape (B, T_k, D_k) or vector of shape (B, D_k) per modality k that is masked, and whatever else
                the backbone takes; or each by its name, as keywords. A modality that is None or absent drops out of the
                mean, and a target none of whose sources is there is not masked.
            lengths: Number of valid steps of each sample, of shape (B,), on the CPU, which serves all modalities; or a mapping
                from modality to such a tensor, where 0 says that a sample lacks the modality. (Default: None, all steps of all
                samples are valid)

        Returns:
            Result of `backbone.fuse`.

        Raises:
            TypeError: if inputs, lengths or what `encode` returns are of the wrong kind.
            ValueError: if shapes do not fit, naming the modality.
        """
        inputs = checks.merge_names(inputs, by_name)
        if self.sites and torch.compiler.is_dynamo_compiling():
            return torch.compiler.disable(self.forward)(inputs, lengths)  # compilers do not see hooks that come and go
        return self._predict(self._look(inputs, lengths), lengths)

    def masks(self, inputs: Inputs | None = None, lengths: Lengths = None, **by_name: Any) -> dict[str, Tensor]:
        """Returns the masks {target: mask} that :meth:`forward` would apply, in the layout of the targets; none while disabled.

        They have a gradient, for regularizers; call within `torch.no_grad()` where that is not wanted.

        Args:
            inputs: Inputs as in :meth:`forward`.
            lengths: Lengths as in :meth:`forward`.
            by_name: Inputs by name, in place of a mapping.
        """
        return self._look(checks.merge_names(inputs, by_name), lengths, keep=False).masks

    def trace(self, inputs: Inputs | None = None, lengths: Lengths = None, **by_name: Any) -> LatchTrace:
        """Returns the output together with masks, feedback and encodings; only the output while disabled.

        It moves no running statistics, not even in training.

        Args:
            inputs: Inputs as in :meth:`forward`.
            lengths: Lengths as in :meth:`forward`.
            by_name: Inputs by name, in place of a mapping.
        """
        look = self._look(checks.merge_names(inputs, by_name), lengths, keep=False)
        output = run_untouched(lambda: self._predict(look, lengths), self.backbone)
        neutral = 1.0 if self.start == "identity" else 0.5 * self.scale
        encodings = {name: r.values for name, r in look.encodings.items()}
        return LatchTrace(output, look.masks, look.feedback, encodings, self.sites, neutral)

    def disabled(self) -> Disabled:
        """Turns the feedback off within a `with` block, in the current thread.

        The latch then returns fuse(encode(inputs)) of its backbone, bit for bit; there are no masks to be had.
        """
        return Disabled(self)

    def options(self) -> dict[str, Any]:
        """Returns the options by name: another latch with these, around the same backbone, does the same."""
        feedback = self.feedback if self.kind is None else self.kind
        return {"feedback": feedback, **{name: getattr(self, name) for name in ("sources", "sites", "start", *checks.OPTIONS)}}

    def save_pretrained(self, folder: str | Path, also: Collection[str] = ()) -> None:
        """Writes what is the latch's own, feedback.safetensors, and every option, topdown.json, without the backbone.

        What is in the way is replaced, each file whole or not at all. Options that are functions are not saved, but named.

        Args:
            folder: Folder, which is made if it is not there.
            also: Paths of submodules or parameters of the user's model that are saved, too, such as ["head"]. (Default: none)

        Raises:
            RuntimeError: if the feedback is not built yet.
            ValueError: if the model has nothing at a path.
            ImportError: without the extra `hub`.

        A UserWarning says which other trainable parameters are left out.
        """
        saving.save(self, folder, also)

    @classmethod
    def from_pretrained(cls, backbone: nn.Module, folder: str | Path, **functions: Any) -> TopDownLatch:
        """Returns a latch around a backbone with feedback that :meth:`save_pretrained` wrote; no example is needed.

        Args:
            backbone: Module like the one that was wrapped; what was saved with `also=` is loaded into it.
            folder: Folder that was written.
            functions: Options that were functions or modules, which JSON cannot hold.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is truncated or of another format, sites, sizes or names are not those of this backbone, or a
                function is missing; the message says which.
            ImportError: without the extra `hub`.
        """
        return cast(TopDownLatch, saving.load(cls, backbone, folder, functions))

    def extra_repr(self) -> str:
        """Shows the options, what is masked by whom, and how many parameters train."""
        return describe(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("sources", "sites", "start") and name in self.__dict__:
            raise ValueError(f"{name} cannot change, since it says which parameters there are: make a new latch")
        if name in checks.OPTIONS:
            checks.check_option(name, value)
            value = float(value) if checks.OPTIONS[name][0] is numbers.Real else value
        super().__setattr__(name, value)
        if name == "passes":
            self.statistics.extend([Statistics(self.backbone).train(self.training) for _ in range(len(self.statistics), value)])
        elif name == "backbone":
            checks.check_sites(self.__dict__.get("sites"), user_model(value))
            self._takes_lengths = {part: takes_lengths(getattr(value, part)) for part in ("encode", "fuse")}
        elif name == "feedback":
            self.kind = None  # a module of the user's; whoever builds one says which kind it is
            self._feedback_takes_lengths = takes_lengths(value)

    def _look(self, inputs: Inputs, lengths: Lengths, *, keep: bool = True) -> Look:
        """Runs the first passes, each on the raw inputs times the masks of the one before.

        Args:
            inputs: Inputs of the call.
            lengths: Lengths of the call.
            keep: Whether the statistics of the first passes follow. (Default: True)
        """
        if is_disabled(self):
            return Look(inputs, {}, {}, {})
        checks.check_inputs(inputs)
        build_from(self, inputs, lengths)  # the first time, if sizes are unknown
        known = checks.GivenLengths(lengths)
        sizes: Mapping[str, int | None] = self.target_sizes or {}
        raw = raw_targets(inputs, known, sizes, self.sites)
        look = Look(masked_inputs(inputs, raw, {}), {}, {}, {})
        for statistics in list(self.statistics)[: self.passes]:
            encoded, there = self._encode_first(look, lengths, cast(Statistics, statistics), keep=keep)
            encodings = self._check_encodings(encoded, inputs, known)
            logits = self._logits(encodings)
            if self.target_sizes is None:  # a ready module names the targets
                sizes = dict.fromkeys(logits)
                raw = raw_targets(inputs, known, sizes, self.sites)
            targets = {**raw, **site_targets(there, known, sizes, self.sites)}
            grids = getattr(encoded, "grids", {}), {name: self.sites[name].grid(values) for name, values in there.items()}
            checks.check_samples(known, inputs)
            feedback = masks_by_source(logits, encodings, targets, self.align, grids)
            masks = {name: self._mask(f, encodings, targets[name].values) for name, f in feedback.items()}
            masks = {k: from_sequence(m, there[k], self.sites[k]) if k in there else m for k, m in masks.items()}
            look = Look(masked_inputs(inputs, raw, masks), masks, feedback, encodings)
        return look

    def _predict(self, look: Look, lengths: Lengths) -> Any:
        """Runs the second pass, or the only one of a latch that is disabled."""
        fuse, takes = self.backbone.fuse, self._takes_lengths["fuse"]
        return self._at_sites(lambda: call(fuse, self._encode(look.masked, lengths), lengths, takes), look, look.masks, {})

    def _encode(self, inputs: Inputs, lengths: Lengths) -> Any:
        return call(self.backbone.encode, inputs, lengths, self._takes_lengths["encode"])

    def _at_sites(self, run: Callable[[], T], look: Look, names: Collection[str], there: Values) -> T:
        """Runs the backbone with the masks of a look at the sites of some names, and notes what is there before."""
        sites = {name: site for name, site in self.sites.items() if name in names}
        model, built = user_model(self.backbone), not isinstance(self.feedback, UnbuiltFeedback)
        modalities = () if model is not self.backbone else self.source_sizes or ()
        missing = checks.missing_names(look.masked, sites, model, modalities) if built and sites else ()
        return run_with(run, model, sites, masks=look.masks, note=there.__setitem__, optional=missing)

    def _encode_first(self, look: Look, lengths: Lengths, statistics: Statistics | None, *, keep: bool) -> tuple[Any, Values]:
        """Encodes without a trace in the backbone, in the given inputs, or in the gradients of the backbone.

        Returns:
            Result of `encode`, and the values at the sites.
        """
        # Within parametrize.cached() weights that are made without a gradient would be those of the second pass, too.
        with_graph = self.encoder_grad or bool(getattr(parametrize, "_cache_enabled", 0))
        there: Values = {}

        def encode() -> Any:
            with contextlib.nullcontext() if with_graph else torch.no_grad():
                return self._at_sites(lambda: self._encode(fresh(dict(look.masked)), fresh(lengths)), look, self.sites, there)

        encoded = run_untouched(encode, self.backbone, statistics, keep=keep)
        if not with_graph and not torch.compiler.is_compiling():
            torch.clear_autocast_cache()  # torch 2.6 would hand weights without gradient to the second pass
        return encoded, there

    def _check_encodings(self, encoded: Any, inputs: Inputs, known: checks.GivenLengths) -> dict[str, Padded]:
        """Returns the encodings that feedback reads, 0 at padded steps and in samples that lack the modality."""
        used = None if self.sources is None else {name for names in self.sources.values() for name in names}
        encodings = checks.check_encodings(encoded, inputs, known, used, self.source_sizes)
        takes = {*self._takes_lengths.values()} != {"no"} and getattr(self.backbone, "uses_lengths", True)
        known.check_names(
            [*(inputs if takes else ()), *encoded, *self.sites, *(self.target_sizes or inputs), *(self.source_sizes or ())]
        )
        clean = {k: zero_padding(*r) if r.values.dim() == 3 else zero_missing(*r) for k, r in encodings.items()}
        return {k: Padded(r if self.encoder_grad else r.detach(), encodings[k].lengths) for k, r in clean.items()}

    def _logits(self, encodings: Mapping[str, Padded]) -> dict[str, dict[str, Tensor]]:
        """Calls the feedback."""
        values = {name: r.values for name, r in encodings.items()}
        lengths = {name: r.lengths for name, r in encodings.items() if r.lengths is not None and r.values.dim() == 3}
        given = call(self.feedback, values, lengths or None, self._feedback_takes_lengths)
        logits = checks.check_logits(given, self.feedback, self.target_sizes, self.source_sizes)
        return logits if self.gates is None else self.gates(logits)

    def _mask(self, by_source: Mapping[str, Tensor], encodings: Mapping[str, Padded], inputs: Tensor) -> Tensor:
        """Returns the mask of a target; 1 where a sample has none of its sources."""
        mask, present = combine_present(by_source, encodings, self.combine, relative=self.start == "identity")
        mask = (mask if self.scale == 1.0 else mask * self.scale).expand_as(inputs)
        return neutral_where_absent(nn.functional.dropout(mask, self.mask_dropout, self.training), present)
