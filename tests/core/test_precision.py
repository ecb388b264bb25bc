"""Latches in half precision give what those in float32 give, within stated tolerances."""

import copy

import pytest
import torch

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
    return TopDownLatch(BACKBONES[backbone](), feedback, start="random").eval()


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
