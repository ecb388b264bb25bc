"""What a user writes; checked by mypy --strict, without a cast: see test_types.py."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

from topdown import LatchTrace, LinearFeedback, LSTMFeedback, Padded, Site, TopDownLatch, in_first_pass
from topdown.adapters import CallableBackbone, HookedBackbone, LSTMBackbone


class Model(nn.Module):
    """A model of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"a": nn.Linear(3, 4), "b": nn.Linear(2, 4)})
        self.head = nn.Linear(8, 1)
        self.calls = 0

    def encode(self, inputs: Mapping[str, Tensor], lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Encodes each modality."""
        self.calls += not in_first_pass()
        return {name: layer(inputs[name]) for name, layer in self.layers.items()}

    def fuse(self, encodings: Mapping[str, Tensor]) -> Tensor:
        """Predicts."""
        prediction: Tensor = self.head(torch.cat([encodings["a"], encodings["b"]], dim=-1).mean(1))
        return prediction


def script() -> None:
    """Calls what the package offers; never run, only checked."""
    inputs = {"a": torch.zeros(2, 5, 3), "b": torch.zeros(2, 5, 2)}
    lengths = torch.tensor([5, 3])

    latch = TopDownLatch(Model(), "lstm", example_inputs=inputs)
    output: Tensor = latch(inputs, lengths)
    output = latch(a=inputs["a"], b=inputs["b"], lengths=lengths)
    assert_type(output.mean(), Tensor)
    assert_type(latch.masks(inputs, lengths)["a"], Tensor)
    assert_type(latch.masks(a=inputs["a"], b=inputs["b"])["a"], Tensor)
    trace = latch.trace(inputs, lengths)
    assert_type(trace, LatchTrace)
    assert_type(trace.masks["a"], Tensor)
    assert_type(trace.feedback["a"]["b"], Tensor)
    assert_type(latch.backbone, Model)
    assert_type(latch.backbone.calls, int)
    assert_type(latch.feedback["a"]["b"], nn.Module)
    assert_type([p.numel() for p in latch.feedback["a"]["b"].parameters()], list[int])
    with latch.disabled() as plain:
        assert_type(plain.backbone.head, nn.Linear)
    latch.combine = "max"
    latch.save_pretrained("folder", also=["head"])
    again = TopDownLatch[Model].from_pretrained(Model(), "folder")
    assert_type(again.backbone, Model)

    TopDownLatch(LSTMBackbone({"a": 3, "b": 2}), LinearFeedback, start="random", scale=2.0)
    TopDownLatch(LSTMBackbone({"a": 3, "b": 2}), lambda source, target: LSTMFeedback(source, target, projection=True))
    TopDownLatch(LSTMBackbone({"a": 3, "b": 2}), combine=lambda masks: masks.median(0).values)
    hooked = TopDownLatch(HookedBackbone(nn.Identity(), {"x": ""}), sites={"x": Site("", "b d h w"), "y": "layer"})
    assert_type(hooked.backbone, HookedBackbone)
    TopDownLatch(CallableBackbone(nn.Identity(), encode=lambda m, x: x, fuse=lambda m, r: r["a"]), sources={"a": ["b"]})
    assert_type(Padded(torch.zeros(2, 5, 3), lengths).lengths, Tensor | None)


def either(model: Model | LSTMBackbone) -> nn.Module:
    """Takes a latch around one of several backbones."""
    around: TopDownLatch = TopDownLatch(model)  # any backbone
    return around.backbone
