r"""The latch: a backbone encodes its inputs, feedback turns the encodings into masks, and the backbone encodes masked inputs.

With inputs :math:`i_k` and encodings :math:`r_k` of the modalities :math:`k`, one call computes

.. math::
    r &= \mathrm{encode}(i) & \text{first pass, without gradient} \\
    f_{j \to k} &= \sigma(h_{j \to k}(r_j)) & \text{feedback, for every source } j \\
    \tilde i_k &= \tfrac{c}{J} \sum_j f_{j \to k} \odot i_k & \text{Eq. 4 of the paper} \\
    y &= \mathrm{fuse}(\mathrm{encode}(\tilde i)) & \text{second pass}

where c is 2 with start="identity", the default, in which all logits begin at 0, so that all masks begin at 1; else c is the
option `scale`, which is 1 in the paper.

:meth:`TopDownLatch.forward` is `read`, `compute_masks`, `predict`. The words for it:

- A *modality* is a name that an input, its encoding and its lengths share.
- The *backbone* is the user's model in two halves: `encode` makes an *encoding* of each modality by itself, and `fuse` predicts
  from all of them. The first pass is `encode` without side effects. Feedback runs after it, with gradient, in its own mode. The
  second pass is `encode` and `fuse`. With `passes` above 1, each further first pass sees inputs that are masked, too.
- A *source* is an encoding that feedback reads. A *target* is what a mask multiplies: an input, or the value at a *site* within
  the model. The layout of a site names the dimensions of this value. Source and target form a *pair*. By default every other
  encoding is a source of a target; a single modality is its own source. `Wiring` holds the pairs.
- *Feedback* is one module for all pairs. It maps the encodings to *logits*. The mask of a pair is their sigmoid; `align` brings
  it to the steps of the target. The mask of a target is what `combine` makes of those of all its sources, each times c.
- *Lengths* mark padding, and samples from which a modality is *absent*: as a source it is left out, and a target without any
  source keeps its values. An encoding has the lengths of its input, or those with which `encode` returns it, as `Padded`.
  `WithLengths` is a tensor with its lengths, checked; `Batch` holds the inputs and the lengths of one call.

Three special cases:

- Feedback of unknown sizes is built in the first call, from its *recipe*: a kind or a factory.
- A feedback module that is passed ready has no recipe. Its logits name the pairs, in each pass.
- A latch that is disabled makes no masks, so that `predict` is the backbone itself.

References:
    MMLatch: Bottom-up Top-down Fusion for Multimodal Sentiment Analysis (Paraskevopoulos et al., 2022),
    https://arxiv.org/abs/2201.09828
"""

import threading
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic

import torch
from torch import Tensor, nn
from typing_extensions import Self, TypeVar

from topdown import masking, saving
from topdown.backbone import TakesLengths, check_backbone, lengths_keyword, read_encodings, takes_lengths
from topdown.batch import Batch, Inputs, inputs_by_name, read_batch
from topdown.feedback import Feedback, PairwiseFeedback, Start, ZeroStart, build_feedback, check_feedback, check_logits
from topdown.first_pass import Disabled, FirstPass, copied, is_disabled
from topdown.masking import Align, Combine, Masks, apply_masks, source_masks, target_mask
from topdown.profile import LatchTrace
from topdown.sequence import ByName, Lengths, flatten_times, values_and_lengths
from topdown.sites import AtSites, Site, Sites, check_batch_first, check_sites, read_targets, run_at_sites, to_layout
from topdown.unbuilt import UnbuiltFeedback, check_complete, measure, parameter_like
from topdown.wiring import OPTIONS, Wiring, check_option, check_sources

_build_lock = threading.RLock()  # keeps two threads from both building feedback

Model = TypeVar("Model", bound=nn.Module, default=nn.Module)


class TopDownLatch(nn.Module, Generic[Model]):
    r"""Wraps a backbone so that encodings of the other modalities mask the inputs of each modality.

    Call it as latch(inputs, lengths), or by name as latch(text=..., audio=..., lengths=...). It returns the result of the
    backbone's `fuse`, and never calls the backbone's `forward`. The backbone is the attribute `latch.backbone`; its parameters
    keep their names behind that prefix.

    A call leaves the backbone as if it had run once, on the masked inputs: in the first pass every module with buffers is in
    evaluation mode (see :mod:`topdown.first_pass`), and the inputs are copies. Code that does not depend on the mode,
    such as a counter or a hook, can ask :func:`topdown.in_first_pass`.

    When the sizes of targets and encodings are unknown, the first call builds the feedback, and encodes once more for it (as
    torch's lazy modules do). Until then an optimizer, a parameter count or a state dict raises an error.

    Args:
        backbone: Module with `encode(inputs[, lengths])` and `fuse(encodings[, lengths])`: see :class:`topdown.Backbone`.
        feedback: Networks from encodings, which are 0 at padded steps, to the logits of masks. (Default: "lstm") One of

            - "lstm": one LSTM per pair of target and source (the paper's public code);
            - "linear": one linear map per pair (the paper's "no LSTM");
            - "shared": one LSTM per source, and one linear map per pair;
            - "static": one learned vector per pair, which does not read encodings;
            - a factory (source_size, target_size) -> module for one pair, such as `partial(LSTMFeedback, dropout=0.1)`; the
              module takes (encoding) or (encoding, lengths);
            - a factory (source_sizes, target_sizes, sources) -> module for all pairs, such as
              `partial(SharedFeedback, bidirectional=True)`;
            - a module for all pairs, called as feedback(encodings[, lengths]) -> {target: {source: logits}}.
        combine: Rule that combines the masks of several sources: "mean" (Eq. 4), "max", "min", "product", or a function from
            (J, B, T, D) to (B, T, D), or (J, B, D) to (B, D) for a target without time. It is called once per target, and gets
            a neutral mask for a source that is absent. With the start "identity" it must map ones to ones. (Default: "mean")
        sources: {target: [sources]}; only these targets are masked, and inputs and encodings that it does not name may have
            any type. (Default: None. Each input that has an encoding of its name is a target, and all other encodings are its
            sources, as in Eq. 4; a single modality is its own source)
        sites: {target: Site or path}: masks multiply the output or the input of a submodule, in place of a raw input; see
            :class:`topdown.Site`. Without `sources` the sites are the only targets; with `sources`, raw inputs may be targets,
            too. For its lengths see :func:`topdown.sites.read_targets`. (Default: None, raw inputs)
        align: Treatment of a source whose steps differ from those of its target: "error", "interpolate" by relative position
            within the lengths, or "pool" over valid steps; see :func:`topdown.masking.align_mask`. (Default: "error"; the
            paper's modalities are word-aligned)
        start: "identity": the latch begins as the backbone, bit for bit (in training with dropout the two draw other random
            numbers). The last map of each pair begins at zero, and the mask is 2 sigmoid(h), in (0, 2). "lstm" then has a
            projection, and a scale and a shift follow a user-defined network. "random": the mask is sigmoid(h), in (0, 1),
            and begins near 1/2 (the paper). (Default: "identity": training begins at the unchanged model)
        encoder_grad: Whether gradients flow through the encoders in the first pass. (Default: False, Section 3 of the paper;
            its public code does the opposite)
        mask_dropout: Dropout on the masks, in training only. (Default: 0; the public code has 0.2, in evaluation too)
        scale: Factor of each mask before they are combined, only with start="random"; 2 makes masks of zero logits 1.
            (Default: 1, the paper)
        passes: Number of first passes; `encode` runs once more. Each pass masks the raw inputs with the masks of the one
            before. With `encoder_grad=False` only the last one passes gradients to the feedback. (Default: 1, the paper)
        example_inputs: Inputs from which the sizes are read at once, in place of attributes of the backbone. The backbone
            encodes them once, in evaluation mode. A ready module needs none. (Default: None: sizes are the attributes
            `input_sizes` and `encoding_sizes`, or unknown until the first call)

    All options but `feedback`, `sources`, `sites` and `start` may be set later, as attributes. `latch.feedback` is the module,
    within a :class:`topdown.feedback.ZeroStart` if it was passed with start="identity". One that is set later is used as it is,
    with the pairs of the latch: nothing makes its logits begin at 0.

    Raises:
        TypeError: if `backbone` is not a module with `encode` and `fuse`, or an option is of the wrong kind.
        ValueError: if an option has an unknown value, or no rule decides who masks whom.

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

    backbone: Model
    feedback: PairwiseFeedback  # or any module with feedback[target][source]; a user-defined module may lack it

    def __init__(
        self,
        backbone: Model,
        feedback: Feedback = "lstm",
        *,
        combine: Combine = "mean",
        sources: Mapping[str, Sequence[str]] | None = None,
        sites: Mapping[str, Site | str] | None = None,
        align: Align = "error",
        start: Start = "identity",
        encoder_grad: bool = False,
        mask_dropout: float = 0.0,
        scale: float = 1.0,
        passes: int = 1,
        example_inputs: Inputs | None = None,
    ) -> None:
        super().__init__()
        check_backbone(backbone)
        check_feedback(feedback, sources)
        # A backbone around a model may ask for a latch that is called with the arguments of that model, and passes them on to
        # the methods here: see topdown.adapters.called_as_model.
        if latch_class := getattr(backbone, "latch_class", None):
            self.__class__ = latch_class(type(self))
        self.wiring = Wiring(check_sources(sources), check_sites(sites, backbone))
        self._takes_lengths: dict[str, TakesLengths] = {}  # of encode, fuse and feedback; __setattr__ fills it
        self.backbone, self.start = backbone, start  # before the options that are checked against them
        self.combine, self.align, self.encoder_grad = combine, align, encoder_grad
        self.mask_dropout, self.scale, self.passes = mask_dropout, scale, passes
        if start == "random" and scale == 1.0 and any("running_mean" in name for name, _ in backbone.named_buffers()):
            warnings.warn("masks near 1/2 shift the statistics of batch norm: pass start='identity' or scale=2", stacklevel=2)
        if isinstance(feedback, nn.Module):
            self._set_feedback(feedback if start == "random" else ZeroStart(feedback), None)
        else:
            self._set_feedback(UnbuiltFeedback(), feedback)
        sizes: Any = [getattr(backbone, attribute, None) for attribute in ("input_sizes", "encoding_sizes")]
        if example_inputs is not None:
            self._build_from(inputs_by_name(example_inputs, {}), None)
        elif self._unbuilt and not self.sites and all(isinstance(size, Mapping) for size in sizes):
            self._build(self.wiring.decide(*sizes))

    def forward(self, inputs: Inputs | None = None, lengths: Lengths = None, **named: Any) -> Any:
        """Encodes, masks, and encodes again.

        Args:
            inputs: Sequence of shape (B, T_k, D_k) or vector of shape (B, D_k) per modality k that is masked, and all other
                inputs of the backbone. A modality that is None or left out is absent: it drops out of the mean, and a target
                without any source is not masked.
            lengths: Number of valid steps of each sample, of shape (B,), for all modalities; or a mapping from modality to such
                a tensor, where 0 means that the modality is absent in that sample. On the CPU their values are checked.
                (Default: None, all steps are valid)
            named: Inputs by name, in place of a mapping.

        Returns:
            Result of `backbone.fuse`.

        Raises:
            TypeError: if inputs, lengths or what `encode` returns are of the wrong kind.
            ValueError: if shapes do not fit, naming the modality.
        """
        batch = self.read(inputs, lengths, named)
        masks, *_ = self.compute_masks(batch)
        return self.predict(batch, masks)

    def read(self, inputs: Inputs | None, lengths: Lengths, named: Inputs) -> Batch:
        """Checks the arguments of a call. It builds feedback of unknown sizes, for which it encodes once more.

        A disabled latch checks nothing.
        """
        inputs = inputs_by_name(inputs, named)
        if is_disabled(self):
            return Batch(inputs, lengths)
        if self._unbuilt:
            self._build_from(inputs, lengths)
        return read_batch(inputs, lengths, self.wiring)

    def compute_masks(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]], ByName]:
        """Runs the first passes, each on the raw inputs times the masks of the one before; none while the latch is disabled.

        Masks multiply their targets in the next pass: inputs in :func:`topdown.masking.apply_masks`, values at sites in
        :func:`topdown.sites.run_at_sites`.

        Returns:
            The mask of each target, in its layout; the mask sigmoid(logits) of each pair, with the steps of the target; and the
            encodings that they were computed from.
        """
        if is_disabled(self):
            return {}, {}, {}
        masks: dict[str, Tensor] = {}
        c, sites, dropout = self.c, self.wiring.sites, self.mask_dropout if self.training else 0.0
        for _ in range(self.passes):
            encodings, at_sites = self._encode(batch, masks)  # no gradient reaches the masks before, unless encoder_grad
            logits = check_logits(self._run("feedback", *values_and_lengths(encodings)), self.feedback, self.wiring)
            pairs = self.wiring.pairs or {k: [*h] for k, h in logits.items()}  # the latter with a ready feedback module
            check_batch_first(batch, sites)  # before errors of values at sites, which would name lengths as the cause
            # Inputs are in the batch already, except with a ready module; values at sites are new in each pass.
            targets = read_targets(batch, pairs, encodings, at_sites, self.wiring)
            # Masks of pairs, with the steps of the target; of no target that is absent, or whose sources all are.
            f = {k: source_masks(h, encodings, targets[k], self.align, k) for k, h in logits.items() if h and k in targets}
            masks = {k: target_mask(f[k], encodings, targets[k], pairs[k], self.combine, c, dropout) for k in f}
            # At sites, from batch first and features last to the layout of the model.
            masks.update({k: to_layout(masks[k], at_sites[k], sites[k]) for k in at_sites if k in masks})
        return masks, f, encodings

    def predict(self, batch: Batch, masks: Masks) -> Any:
        """Runs the second pass, fuse(encode(inputs x masks)): the only pass of a latch that is disabled."""
        inputs = apply_masks(batch.inputs, masks, self.wiring.sites)
        run: Any = lambda: self._run("fuse", self._run("encode", inputs, batch.lengths), batch.lengths)  # noqa: E731
        sites = {k: site for k, site in self.wiring.sites.items() if k in masks}  # each of which the pass must reach
        return run_at_sites(run, self.backbone, sites, masks, inputs, ())[0] if sites else run()

    def _encode(self, batch: Batch, masks: Masks) -> tuple[ByName, AtSites]:
        """Runs `encode` in a first pass, and returns encodings as feedback reads them, and the values at sites before masks."""
        backbone, sites, may_be_absent = self.backbone, self.wiring.sites, self.wiring.encoding_sizes
        inputs = copied(apply_masks(batch.inputs, masks, sites) if masks else batch.inputs)
        lengths = None if self._takes_lengths["encode"] == "never" else copied(batch.lengths)
        run = partial(self._run, "encode", inputs, lengths)
        with torch.set_grad_enabled(self.encoder_grad and torch.is_grad_enabled()), FirstPass(backbone):
            encoded, at_sites = run_at_sites(run, backbone, sites, masks, inputs, may_be_absent) if sites else (run(), {})
        if not self.encoder_grad and not torch.compiler.is_compiling():
            torch.clear_autocast_cache()  # torch 2.6 keeps weights that were cast without gradient for the second pass
        return read_encodings(encoded, batch, self.wiring, self._lengths_name_any_input, detach=not self.encoder_grad), at_sites

    def _run(self, name: str, value: Any, lengths: Lengths) -> Any:
        """Runs "encode" or "fuse" of the backbone, or the "feedback", with lengths if it takes them."""
        function = self.feedback if name == "feedback" else getattr(self.backbone, name)
        return function(value, **lengths_keyword(lengths, self._takes_lengths[name]))

    def masks(self, inputs: Inputs | None = None, lengths: Lengths = None, **named: Any) -> dict[str, Tensor]:
        """Returns the masks {target: mask} that :meth:`forward` would apply, in the layout of the targets; none while disabled.

        It runs the first passes alone, and changes no buffer: feedback counts as part of them here. Its modules with buffers,
        such as a batch norm of your own, are in evaluation mode, so that in training their masks may not be those of the next
        call, and within it :func:`topdown.in_first_pass` is true. It builds feedback
        of unknown sizes, as any first call does. Masks have a gradient, for regularizers. Values at padded steps, and in
        samples in which the target is absent, have no meaning.

        Args:
            inputs: Inputs as in :meth:`forward`.
            lengths: Lengths as in :meth:`forward`.
            named: Inputs by name, in place of a mapping.
        """
        batch = self.read(inputs, lengths, named)
        with FirstPass(self.feedback):
            return self.compute_masks(batch)[0]

    def trace(self, inputs: Inputs | None = None, lengths: Lengths = None, **named: Any) -> LatchTrace:
        """Runs :meth:`forward`, and returns its output with masks, feedback and encodings, which are empty while disabled.

        Args:
            inputs: Inputs as in :meth:`forward`.
            lengths: Lengths as in :meth:`forward`.
            named: Inputs by name, in place of a mapping.
        """
        batch = self.read(inputs, lengths, named)
        masks, by_source, encodings = self.compute_masks(batch)
        scaled = {k: {j: self.c * flatten_times(mask) for j, mask in f.items()} for k, f in by_source.items()}
        r, _ = values_and_lengths(encodings)
        # Targets among the inputs; with a ready module the batch does not know them.
        raw = {k: batch.inputs[k] for k in {**batch.targets, **masks} if k not in self.sites}
        return LatchTrace(self.predict(batch, masks), masks, scaled, r, self.sites, 0.5 * self.c, raw)

    def disabled(self) -> Disabled[Self]:
        """Returns a context manager that disables the feedback of the latch.

        Within the block, in the same thread or asyncio task, the latch returns fuse(encode(inputs)) of its backbone, bit for
        bit, and has no masks. Blocks may overlap and end in any order. A compiled latch does not distinguish between the tasks
        of one thread.
        """
        return Disabled(self)

    def options(self) -> dict[str, Any]:
        """Returns the options by name: `TopDownLatch(backbone, **latch.options())` has the same."""
        ready = self.feedback.network if isinstance(self.feedback, ZeroStart) else self.feedback
        options = {"feedback": self._recipe or ready, "sources": self._recipe and self.wiring.sources, "sites": self.sites}
        return options | {name: getattr(self, name) for name in OPTIONS}

    def save_pretrained(self, folder: str | Path, also: Collection[str] = ()) -> None:
        """Writes the feedback, feedback.safetensors, and every option, topdown.json, without the backbone.

        It replaces files of these names, each one whole or not at all. A warning names trainable parameters of the backbone
        that are not saved.

        Args:
            folder: Folder, which is created if need be.
            also: Paths of submodules, or parameters, of the user's model to write too, such as ["head"]. (Default: none)

        Raises:
            ValueError: if the model has no such submodule.
            RuntimeError: if the feedback is not built yet.
            ImportError: without the extra `hub`.
        """
        saving.save(Path(folder), self.feedback, self.backbone, self.wiring, self.options(), also)

    @classmethod
    def from_pretrained(cls, backbone: Model, folder: str | Path, **functions: Any) -> Self:
        """Loads feedback that :meth:`save_pretrained` has written into a new latch around a backbone.

        Args:
            backbone: Backbone like that of the saved latch; parts of it that were saved are loaded into it.
            folder: Folder with both files.
            functions: Options that are functions (`combine=`, a factory as `feedback=`) or a ready feedback module, which JSON
                cannot hold; and `example_inputs=`, if the saved latch needed it.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is truncated or of another format, sites, sizes or names are not those of this backbone, or a
                function is missing; the message says which.
            ImportError: without the extra `hub`.
        """
        saved, tensors = saving.read(Path(folder), backbone, functions)
        latch = cls(backbone, **saved["options"], **functions)
        if saved["target_sizes"] and latch._recipe:
            latch._build(latch.wiring.decide(saved["target_sizes"], saved["source_sizes"]))
        saving.copy_tensors(tensors, latch.feedback, backbone, saved["also"])
        return latch

    @property
    def c(self) -> float:
        """The factor of the mask of each pair: 2 with start="identity", since 2 sigmoid(0) = 1, and else the option `scale`."""
        return 2.0 if self.start == "identity" else self.scale

    # Whether the first call has to build the feedback. A ready module has no pairs either, but no recipe.
    _unbuilt = property(lambda self: self._recipe is not None and not self.wiring.pairs)

    @property
    def sites(self) -> Sites:
        """The site of each target that is not an input."""
        return self.wiring.sites

    def extra_repr(self) -> str:
        """Shows the options, who masks whom, and how many parameters train."""
        options = {k: v for k, v in self.options().items() if v is not None and not isinstance(v, nn.Module) and k != "sites"}
        lines = [", ".join(f"{name}={getattr(value, '__name__', value)}" for name, value in options.items())]
        for target, sources in (self.wiring.pairs or self.wiring.sources or {}).items():
            site = f" ({self.sites[target]})" if target in self.sites else ""
            lines.append(f"masks {target!r}{site} by {' and '.join(map(repr, sources))}")
        for name in () if self._unbuilt else ("feedback", "backbone"):
            counts = [sum(p.numel() for p in getattr(self, name).parameters() if p.requires_grad or every) for every in (0, 1)]
            lines.append("trains {:,} of {:,} parameters of the {}".format(*counts, name))
        return "\n".join(lines)

    def __setattr__(self, name: str, value: Any) -> None:
        """Checks a new option, backbone or feedback, and reads from the signatures of the latter two if they take lengths."""
        if name in ("sources", "sites") or (name == "start" and name in self.__dict__):
            raise ValueError(f"{name} cannot change, since the parameters depend on it: make a new latch")
        value = check_option(name, value) if name in OPTIONS else check_backbone(value) if name == "backbone" else value
        if name == "scale" and value != 1.0 and self.start == "identity":
            raise ValueError(f"scale={value} goes with start='random': with start='identity' masks begin at 1 by themselves")
        if name == "combine":
            masking.check_rule(value, self.start, self.wiring.pairs, self.wiring.target_sizes)
        if name == "feedback":
            return self._set_feedback(value, None)
        super().__setattr__(name, value)
        if name == "backbone":
            check_sites(self.sites, value)
            takes = {half: takes_lengths(getattr(value, half)) for half in ("encode", "fuse")}
            self._takes_lengths = {**self._takes_lengths, **takes}
            # Since a backbone that takes lengths may need those of inputs that are no modalities.
            self._lengths_name_any_input = getattr(value, "uses_lengths", {*takes.values()} != {"never"})

    def _set_feedback(self, feedback: nn.Module, recipe: Any) -> None:
        """Sets the feedback, and the option of which it is built, a kind or a factory; None for a ready module."""
        super().__setattr__("feedback", feedback)
        self._recipe, self._takes_lengths = recipe, {**self._takes_lengths, "feedback": takes_lengths(feedback)}

    def _build(self, wiring: Wiring, like: Tensor | None = None) -> None:
        feedback = build_feedback(self._recipe, self.start, self.combine, wiring, parameter_like(self.backbone, like))
        self._set_feedback(feedback.train(self.training), self._recipe)
        self.wiring = wiring  # last: other threads see either all of it or none

    def _build_from(self, inputs: Inputs, lengths: Lengths) -> None:
        """Builds the feedback from the sizes of inputs and of their encodings, in evaluation mode; only once."""
        with _build_lock:
            if self._unbuilt:  # else it was passed, or another thread has built it
                batch = read_batch(inputs, lengths, self.wiring)
                check_complete(batch, self.wiring)
                with FirstPass(self.backbone, evaluating=True):
                    encodings, at_sites = self._encode(batch, {})
                self._build(measure(batch, encodings, at_sites, self.wiring), next(iter(encodings.values())).values)
