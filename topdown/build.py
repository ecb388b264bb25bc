"""The feedback of a latch, built once the sizes of its modalities are known."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from topdown import checks
from topdown.backbone import Inputs
from topdown.feedback import build_feedback, made_like
from topdown.first_pass import evaluating
from topdown.gates import Gates
from topdown.masks import Look, raw_targets, site_targets
from topdown.sequence import Lengths, Padded
from topdown.unbuilt import UnbuiltFeedback

_one_at_a_time = threading.RLock()  # or two threads would take the evaluation mode of one another for the model's own


def build_from(latch: Any, inputs: Inputs, lengths: Lengths) -> None:
    """Builds feedback of unknown sizes from what the backbone makes of some inputs, in evaluation mode; once."""
    if not isinstance(latch.feedback, UnbuiltFeedback):
        return
    with _one_at_a_time:
        if not isinstance(latch.feedback, UnbuiltFeedback):  # another thread was faster
            return
        checks.check_complete(inputs, latch.sources)
        with evaluating(latch.backbone):
            encoded, there = latch._encode_first(Look(inputs, {}, {}, {}), lengths, None, keep=False)
        known = checks.GivenLengths(lengths)
        encodings = latch._check_encodings(encoded, inputs, known)
        possible = checks.possible_targets(inputs, latch.sites, latch.sources)
        pairs = checks.who_masks_whom(latch.sources, possible, list(encodings if latch.sources is None else encoded))
        unknown = dict.fromkeys(pairs)
        targets = {**raw_targets(inputs, known, unknown, latch.sites), **site_targets(there, known, unknown, latch.sites)}
        build(latch, _sizes(targets), _sizes(encodings), next(iter(encodings.values())).values)


def build(latch: Any, target_sizes: dict[str, int], source_sizes: dict[str, int], like: Tensor | None = None) -> None:
    """Builds feedback of the type and on the device of an encoding, or of the backbone."""
    autocast = like is not None and not like.is_meta and torch.is_autocast_enabled(like.device.type)
    if like is None or autocast:  # then encodings have another type than weights
        like = next((p for p in latch.backbone.parameters() if p.is_floating_point() and not p.is_meta), like)
    kind, pairs = latch.kind, checks.who_masks_whom(latch.sources, target_sizes, source_sizes)
    latch.target_sizes, latch.source_sizes = {target: target_sizes[target] for target in pairs}, source_sizes
    with made_like(like):
        feedback = build_feedback(kind, source_sizes, target_sizes, pairs).train(latch.training)
        gates = Gates(target_sizes, pairs) if latch.start == "identity" else None
    latch.gates = gates if gates is None or like is None else gates.to(like.dtype)
    latch.feedback = feedback if like is None else feedback.to(like.dtype)
    latch.kind = kind


def _sizes(padded: Mapping[str, Padded]) -> dict[str, int]:
    return {name: tensor.values.shape[-1] for name, tensor in padded.items()}
