"""Loads state dicts of the public reference codes into the adapters.

The public code of the paper is georgepar/mmlatch (its `AVTClassifier`), that of MulT is yaohungt/Multimodal-Transformer (its
`MULTModel`). Only tensors are rearranged; nothing is scaled, so that gradients can be mapped in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from topdown.adapters.lstm import LSTMBackbone
from topdown.adapters.mult import MulTBackbone
from topdown.feedback import LinearFeedback, LSTMFeedback, PairwiseFeedback
from topdown.latch import TopDownLatch

MODALITIES = ("text", "audio", "visual")
# Targets of the feedback units of the public code, and the modality that each of their two branches reads.
SOURCES = {"text": ["audio", "visual"], "audio": ["text", "visual"], "visual": ["text", "audio"]}
LAYER_NAMES = {
    "attention.output": "self_attn.out_proj",
    "attention_norm": "layer_norms.0",
    "feedforward_norm": "layer_norms.1",
    "expand": "fc1",
    "contract": "fc2",
}
LSTM_NAMES = tuple(f"{name}_l0{way}" for way in ("", "_reverse") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))


def mmlatch_from_reference(state_dict: Mapping[str, Tensor]) -> TopDownLatch | LSTMBackbone:
    """Builds the model of the paper's public code from its state dict.

    The result behaves like that code in evaluation mode (but for its dropout on masks, which never stops, and for what
    padded steps leak into ragged batches), and has its dropouts and its gradient through the first pass
    (`encoder_grad=True`; set it to False for the paper's).

    References:
        georgepar/mmlatch at commit 2d9bfc9, classes AVTClassifier, AVTEncoder, Feedback (mmlatch/mm.py)

    Args:
        state_dict: State dict of an `AVTClassifier` with one bidirectional LSTM layer and attention, with or without feedback.

    Returns:
        A :class:`topdown.TopDownLatch`, or an :class:`topdown.adapters.LSTMBackbone` when there is no feedback, in
        evaluation mode, called as model(inputs, lengths) with modalities text, audio and visual.

    Raises:
        ValueError: if keys are missing, or there are keys that this configuration does not have.

    Example:
        >>> mmlatch_from_reference({})
        Traceback (most recent call last):
        ...
        ValueError: this is not the state dict of an mmlatch AVTClassifier: 'classifier.weight' is missing
    """
    reference = _Reader(state_dict, "an mmlatch AVTClassifier")
    head = reference.take("classifier.weight")
    hidden_size = head.shape[1] // 2
    sizes = {k: reference.look(f"encoder.{k}.encoder.rnn.rnn.weight_ih_l0").shape[1] for k in MODALITIES}
    backbone = LSTMBackbone(
        sizes,
        hidden_size=hidden_size,
        output_size=head.shape[0],
        dropout=0.2,
        fusion_dropout=0.1,
        trimodal_residual=False,
        fusion_directions="concatenate",
        pooling="attention",
    )
    weights = {"head.weight": head, "head.bias": reference.take("classifier.bias")}
    for k in MODALITIES:
        weights |= reference.lstm(f"encoders.{k}.lstm", f"encoder.{k}.encoder.rnn.rnn")
        weights |= reference.attention(f"encoders.{k}.attention.projections", f"encoder.{k}.encoder.attention", "qkv")
    fuser = "encoder.fuser.att_fuser"
    # The first modality of "va" is visual: its x is our second.
    for pair, (first, second), (x, y) in (
        ("ta", ("text", "audio"), "xy"),
        ("tv", ("text", "visual"), "xy"),
        ("va", ("audio", "visual"), "yx"),
    ):
        ours = f"pairs.{first}.{second}"
        weights |= reference.attention(f"{ours}.first", f"{fuser}.{pair}", [kind + x for kind in "qkv"])
        weights |= reference.attention(f"{ours}.second", f"{fuser}.{pair}", [kind + y for kind in "qkv"])
    weights |= reference.attention("trimodal.query", f"{fuser}.tav", "q")
    weights |= reference.attention("trimodal.key_value", f"{fuser}.tav", "kv")
    weights |= reference.lstm("fusion", "encoder.fuser.rnn.rnn.rnn")
    weights |= reference.attention("pooling.projections", "encoder.fuser.rnn.attention", "qkv")
    model: TopDownLatch | LSTMBackbone = backbone
    if any(key.startswith("encoder.fm.") for key in state_dict):
        weights = {f"backbone.{key}": value for key, value in weights.items()}
        feedback, feedback_weights = _feedback(reference, dict.fromkeys(MODALITIES, hidden_size), sizes)
        model = TopDownLatch(backbone, feedback, start="random", encoder_grad=True, mask_dropout=0.2)
        weights |= {f"feedback.{key}": value for key, value in feedback_weights.items()}
    reference.check_empty()
    model.to(head.dtype).load_state_dict(weights)
    return model.eval()


def mult_from_reference(state_dict: Mapping[str, Tensor], *, num_heads: int, causal: bool) -> MulTBackbone:
    """Builds MulT from a state dict of its public code.

    The result behaves like that code in evaluation mode, but for what :class:`topdown.adapters.MulTBackbone` names: keys
    are masked by lengths, and every step has a position. It has the dropouts that are that code's defaults. A modality with as
    many features as the transformers are wide is not projected there; here its projection is the identity.

    References:
        yaohungt/Multimodal-Transformer at commit a670936, class MULTModel (src/models.py)

    Args:
        state_dict: State dict of a `MULTModel` which predicts from all three modalities.
        num_heads: Number of heads of the attentions; a state dict does not tell.
        causal: Whether it was trained with a future mask (`--attn_mask`, on by default); a state dict does not tell.

    Returns:
        A :class:`topdown.adapters.MulTBackbone` in evaluation mode with modalities text, audio and visual.

    Raises:
        ValueError: if keys are missing, or there are keys that this configuration does not have.

    Example:
        >>> mult_from_reference({}, num_heads=5, causal=True)
        Traceback (most recent call last):
        ...
        ValueError: this is not the state dict of a MulT MULTModel: 'out_layer.weight' is missing
    """
    reference = _Reader(state_dict, "a MulT MULTModel")
    head = reference.take("out_layer.weight")
    short = {"text": "l", "audio": "a", "visual": "v"}
    convolutions = {k: reference.take(f"proj_{letter}.weight") for k, letter in short.items()}
    model = MulTBackbone(
        {k: weight.shape[1] for k, weight in convolutions.items()},
        size=convolutions["text"].shape[0],
        num_heads=num_heads,
        num_layers=sum(key.startswith("trans_l_with_a.layers.") and key.endswith(".fc1.bias") for key in state_dict),
        output_size=head.shape[0],
        causal=causal,
        kernel_sizes={k: weight.shape[2] for k, weight in convolutions.items()},
        embedding_dropout=0.25,
        attention_dropout={"text": 0.1},
        output_dropout=0.0,
        dropout_on="weights",
    )
    weights = {"head.weight": head, "head.bias": reference.take("out_layer.bias")}
    for ours, theirs in (("expand", "proj1"), ("contract", "proj2")):
        weights |= {f"{ours}.{kind}": reference.take(f"{theirs}.{kind}") for kind in ("weight", "bias")}
    for k, letter in short.items():
        weights[f"projections.{k}.weight"] = convolutions[k]
        if convolutions[k].shape[0] == convolutions[k].shape[1]:  # that code has the parameter, but skips the projection
            weights[f"projections.{k}.weight"] = nn.init.dirac_(torch.empty_like(convolutions[k]))
        weights |= reference.transformer(f"memory.{k}", f"trans_{letter}_mem", len(model.memory[k].layers), cross=False)
        for j, transformer in model.crossmodal[k].items():
            theirs = f"trans_{letter}_with_{short[j]}"
            weights |= reference.transformer(f"crossmodal.{k}.{j}", theirs, len(transformer.layers), cross=True)
    reference.left = {key for key in reference.left if not key.endswith((".version", "._float_tensor"))}
    reference.check_empty()
    model.to(head.dtype).load_state_dict(weights)
    return model.eval()


def _feedback(reference: _Reader, encoding_sizes: dict[str, int], sizes: dict[str, int]) -> tuple[nn.Module, dict[str, Tensor]]:
    static = "encoder.fm.f1.mask1.weight" in reference.state
    network = LinearFeedback if static else _DroppedLSTMFeedback
    weights: dict[str, Tensor] = {}
    for unit, target in enumerate(SOURCES, start=1):
        for branch, source in enumerate(SOURCES[target], start=1):
            ours, theirs = f"{target}.{source}", f"encoder.fm.f{unit}.mask{branch}"
            if static:
                weights |= {f"{ours}.{kind}": reference.take(f"{theirs}.{kind}") for kind in ("weight", "bias")}
            else:
                weights |= reference.lstm(f"{ours}.lstm", f"{theirs}.rnn", both_ways=False)
    return PairwiseFeedback(network, encoding_sizes, sizes, SOURCES), weights


class _DroppedLSTMFeedback(LSTMFeedback):
    def __init__(self, source_size: int, target_size: int) -> None:
        super().__init__(source_size, target_size, dropout=0.1)


class _Reader:
    """Reads tensors from a state dict, and records which remain."""

    def __init__(self, state_dict: Mapping[str, Tensor], model: str) -> None:
        self.model = model
        self.state = dict(state_dict)
        self.left = set(state_dict)

    def look(self, key: str) -> Tensor:
        if key not in self.state:
            raise ValueError(f"this is not the state dict of {self.model}: {key!r} is missing")
        return self.state[key]

    def take(self, key: str) -> Tensor:
        tensor = self.look(key)
        self.left.discard(key)
        return tensor

    def lstm(self, ours: str, theirs: str, *, both_ways: bool = True) -> dict[str, Tensor]:
        names = LSTM_NAMES if both_ways else LSTM_NAMES[:4]
        return {f"{ours}.{name}": self.take(f"{theirs}.{name}") for name in names}

    def attention(self, ours: str, theirs: str, kinds: str | list[str]) -> dict[str, Tensor]:
        return {f"{ours}.weight": torch.cat([self.take(f"{theirs}.{kind}.weight") for kind in kinds])}

    def transformer(self, ours: str, theirs: str, layers: int, *, cross: bool) -> dict[str, Tensor]:
        weights = {f"{ours}.norm.{kind}": self.take(f"{theirs}.layer_norm.{kind}") for kind in ("weight", "bias")}
        for layer, kind in itertools.product(range(layers), ("weight", "bias")):
            a, b = f"{ours}.layers.{layer}", f"{theirs}.layers.{layer}"
            weights |= {f"{a}.{name}.{kind}": self.take(f"{b}.{other}.{kind}") for name, other in LAYER_NAMES.items()}
            stacked = self.take(f"{b}.self_attn.in_proj_{kind}")  # query, key and value, in this order
            size = len(stacked) // 3
            parts = {"query": stacked[:size], "key_value": stacked[size:]} if cross else {"query_key_value": stacked}
            weights |= {f"{a}.attention.{name}.{kind}": part for name, part in parts.items()}
        return weights

    def check_empty(self) -> None:
        if self.left:
            raise ValueError(f"this state dict has keys of another configuration of {self.model}: {sorted(self.left)}")
