"""Small backbones, and plain numpy loops to compare with."""

import contextlib
import time

import numpy as np
import torch
from torch import nn

from topdown.adapters import MulTBackbone
from topdown.sequence import lengths_of, zero_padding


class Toy(nn.Module):
    """Encodes each step by itself and averages what it saw over valid steps; knows lengths."""

    def __init__(self, sizes, encoding_size=5, pooled=(), declare=True):
        super().__init__()
        self.names = list(sizes)
        self.layers = nn.ModuleList([nn.Linear(size, encoding_size) for size in sizes.values()])
        self.head = nn.Linear(encoding_size, 2)
        self.pooled = pooled
        if declare:
            self.input_sizes = dict(sizes)
            self.encoding_sizes = dict.fromkeys(sizes, encoding_size)

    def encode(self, inputs, lengths=None):
        encodings = {}
        for name, layer in zip(self.names, self.layers, strict=True):
            x = inputs.get(name)
            if x is None:
                continue
            if x.dim() == 3:
                x = zero_padding(x, lengths_of(lengths, name))
            r = torch.tanh(layer(x))
            encodings[name] = self._mean(r, lengths_of(lengths, name)) if name in self.pooled else r
        return encodings

    def fuse(self, encodings, lengths=None):
        means = [self._mean(r, lengths_of(lengths, k)) if r.dim() == 3 else r for k, r in encodings.items()]
        return self.head(sum(means))

    def forward(self, inputs, lengths=None):
        return self.fuse(self.encode(inputs, lengths), lengths)

    @staticmethod
    def _mean(r, lengths):
        if lengths is None:
            return r.mean(1)
        return zero_padding(r, lengths).sum(1) / lengths.unsqueeze(1).to(r.dtype)


class NoLengths(nn.Module):
    """Has no parameter `lengths`, no sizes, and returns a structure."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(size, 4) for name, size in sizes.items()})

    def encode(self, inputs):
        return {name: self.layers[name](x) for name, x in inputs.items()}

    def fuse(self, encodings):
        return {"score": sum(r.mean(dim=tuple(range(1, r.dim()))) for r in encodings.values()), "names": tuple(encodings)}


class Constant(nn.Module):
    """A feedback network that returns the same logit everywhere."""

    value = float("inf")

    def __init__(self, source_size, target_size):
        super().__init__()
        self.target_size = target_size

    def forward(self, encoding):
        return torch.full((*encoding.shape[:-1], self.target_size), self.value, dtype=encoding.dtype)


class Zero(Constant):
    value = 0.0


def perturbed(latch):
    """Moves feedback away from its start, as training does, so that its masks say something."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in latch.feedback.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return latch


def batch(sizes, batch_size=3, steps=6, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {k: torch.randn(batch_size, steps, size, generator=generator, dtype=dtype) for k, size in sizes.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(x, w_ih, w_hh, b_ih, b_hh):
    """One sequence (T, D) through one LSTM, gates in the order i, f, g, o."""
    hidden = w_hh.shape[1]
    h, c, out = np.zeros(hidden), np.zeros(hidden), []
    for step in x:
        i, f, g, o = np.split(w_ih @ step + b_ih + w_hh @ h + b_hh, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        out.append(h)
    return np.array(out)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def small_mult(sizes, **options):
    """A MulT of one layer in each transformer; those over time have three at least otherwise, as in the public code."""
    model = MulTBackbone(sizes, **{"size": 4, "num_heads": 2, "num_layers": 1, **options})
    for _, transformer in model.memory.items():
        transformer.layers = transformer.layers[:1]
    return model


@contextlib.contextmanager
def single_process_group():
    """A group of this process alone, for what runs within DistributedDataParallel."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
        # A thread of gloo needs the GIL to free finished work; a group that ends earlier holds it, and waits for the thread.
        time.sleep(0.2)
    finally:
        torch.distributed.destroy_process_group()
