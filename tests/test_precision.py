"""Half precision, compiled and exported latches give what eager ones in float32 give, within stated tolerances."""

import copy

import pytest
import torch
from torch import nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone

SIZES = {"text": 12, "audio": 7, "visual": 5}
TOLERANCES = {torch.bfloat16: 3e-2, torch.float16: 4e-3}  # of outputs of about 0.1 to 1, with 8 and 11 bits
BACKBONES = {
    "lstm": lambda: LSTMBackbone(SIZES, hidden_size=8, dropout=0.0),
    "mult": lambda: MulTBackbone(SIZES, size=8, num_heads=2, num_layers=2),
}


def make(backbone, feedback):
    torch.manual_seed(0)
    return TopDownLatch(BACKBONES[backbone](), feedback).eval()


def batch(size=4, steps=9):
    generator = torch.Generator().manual_seed(size)
    inputs = {name: torch.randn(size, steps, d, generator=generator) for name, d in SIZES.items()}
    return inputs, torch.randint(1, steps + 1, (size,), generator=generator)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("feedback", ["linear", "lstm", "shared"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_autocast_is_close_to_float32(backbone, feedback, dtype):
    latch, (inputs, lengths) = make(backbone, feedback), batch()
    expected = latch(inputs, lengths)
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in latch.named_parameters()}
    latch.zero_grad()
    with torch.autocast("cpu", dtype=dtype):
        output = latch(inputs, lengths)
        masks = latch.masks(inputs, lengths)
    output.float().sum().backward()
    assert (output.float() - expected).abs().max() < TOLERANCES[dtype]
    assert all(mask.isfinite().all() and (mask > 0).all() and (mask < 1).all() for mask in masks.values())
    largest = max(g.abs().max() for g in gradients.values())
    for name, p in latch.named_parameters():
        assert (p.grad - gradients[name]).abs().max() < 10 * TOLERANCES[dtype] * largest, name


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_model_of_half_precision_runs(backbone, dtype):
    latch, (inputs, lengths) = make(backbone, "lstm"), batch()
    expected = latch(inputs, lengths)
    output = copy.deepcopy(latch).to(dtype)({name: x.to(dtype) for name, x in inputs.items()}, lengths)
    assert output.dtype == dtype
    assert (output.float() - expected).abs().max() < 3 * TOLERANCES[dtype]


class Positional(nn.Module):
    """A program that is exported takes tensors, not mappings."""

    def __init__(self, latch):
        super().__init__()
        self.latch = latch

    def forward(self, text, audio, visual, lengths):
        return self.latch({"text": text, "audio": audio, "visual": visual}, lengths)


@pytest.mark.filterwarnings("ignore")  # of the exporter about itself
@pytest.mark.parametrize("feedback", ["linear"])
def test_mult_is_exported_for_any_batch_and_time(feedback):
    latch = make("mult", feedback)
    inputs, lengths = batch()
    size, steps = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("time", min=2, max=500)
    shapes = {name: {0: size, 1: steps} for name in SIZES} | {"lengths": {0: size}}
    with torch.no_grad():
        program = torch.export.export(Positional(latch), (*inputs.values(), lengths), dynamic_shapes=shapes, strict=False)
    for shape in ((6, 21), (2, 3), (5, 60)):
        inputs, lengths = batch(*shape)
        torch.testing.assert_close(program.module()(*inputs.values(), lengths), latch(inputs, lengths), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_a_compiled_mult_is_one_graph_and_not_compiled_again_for_other_shapes():
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    latch, counter = make("mult", "linear"), CompileCounter()
    compiled = torch.compile(latch, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in ((4, 9), (5, 12), (3, 30), (7, 5)):
            inputs, lengths = batch(*shape)
            torch.testing.assert_close(compiled(inputs, lengths), latch(inputs, lengths), atol=1e-6, rtol=0)
    assert counter.frame_count == 1
