"""Measures a training step and inference on a GPU, beside the plain models, in half precision, compiled, and their stalls.

    python benchmarks/gpu.py [--rounds 20] [--batch-size 32]

Needs CUDA, and says so where there is none; `--device cpu` only checks that the script works. There is one batch, already on
the device, of lengths as in word-aligned MOSEI that are alike. Plain is the public model of the paper written down directly
(benchmarks/plain.py), and MulT with attention and its dropout step by step, in a latch like ours (benchmarks/mult.py); neither
masks padding. All variants of a backbone with one kind of feedback alternate in one process; printed are medians in
milliseconds, and of the ratio to plain in the same round; the peak of memory over what was held before a step; how often a
forward pass made the host wait for the device, which should be 0, since lengths stay on the CPU; and how many graphs were
compiled for training.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import warnings
from collections.abc import Callable, Collection
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from common.measure import alternate, ratio
from common.plain import SIZES, PlainModel
from mult import explicit_attention
from speed import mosei_like
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone, transformer
from topdown.adapters.transformer import DropoutOn
from topdown.datasets import Batch, data_loader
from topdown.datasets.report import markdown
from topdown.training.versions import versions

TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
VARIANTS = ("plain", "float32", *TYPES, "compiled")


class Variant(NamedTuple):
    """Holds one way to run a model: forward pass on a batch, optimizer, and number of compiled graphs."""

    model: nn.Module
    forward: Callable[[], Tensor]
    optimizer: torch.optim.Optimizer
    graphs: Callable[[], str] = lambda: ""


def make_model(backbone: str, kind: str, dropout_on: DropoutOn = "keys") -> nn.Module:
    """Makes a backbone, bare or in a latch."""
    torch.manual_seed(0)
    model = LSTMBackbone(SIZES) if backbone == "LSTM" else MulTBackbone(SIZES, dropout_on=dropout_on)
    return model if kind == "none" else TopDownLatch(model, kind, start="random")  # type: ignore[arg-type]


def make(backbone: str, kind: str, batch: Batch, device: torch.device, names: Collection[str]) -> dict[str, Variant]:
    """Makes variants of a model; the plain LSTM model has feedback LSTMs or none."""

    def variant(model: nn.Module, forward: Callable[[nn.Module], Any], **more: Any) -> Variant:
        moved = model.to(device)
        return Variant(moved, lambda: forward(moved), torch.optim.Adam(moved.parameters(), fused=True), **more)

    def ours(model: nn.Module) -> Any:
        return model(batch.inputs, batch.lengths)

    def explicit(model: nn.Module) -> Any:
        with patch.object(transformer, "attend", explicit_attention):
            return model(batch.inputs)

    def within(dtype: torch.dtype, model: nn.Module) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            return ours(model)

    plain = PlainModel(kind != "none") if backbone == "LSTM" else make_model(backbone, kind, "weights")
    variants = {"plain": variant(plain, (lambda model: model(batch.inputs)) if backbone == "LSTM" else explicit)}
    variants["float32"] = variant(make_model(backbone, kind), ours)
    variants |= {name: variant(make_model(backbone, kind), functools.partial(within, t)) for name, t in TYPES.items()}
    counter: Any = CompileCounterWithBackend("inductor")
    compiled: Any = torch.compile(make_model(backbone, kind).to(device), backend=counter)
    variants["compiled"] = variant(compiled, ours, graphs=lambda: str(counter.frame_count))
    return {name: variants[name] for name in names}


def train_step(variant: Variant, labels: Tensor) -> None:
    """Takes a training step."""
    variant.model.train()
    variant.optimizer.zero_grad(set_to_none=True)
    (variant.forward().float().squeeze(-1) - labels).abs().mean().backward()
    variant.optimizer.step()


def inference(variant: Variant) -> None:
    """Predicts."""
    variant.model.eval()
    with torch.no_grad():
        variant.forward()


def finished(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """Returns a function that waits until the device is done."""

    def run() -> None:
        function()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def peak_mib(function: Callable[[], None], device: torch.device) -> str:
    """Returns the peak of a call over what was held before, in MiB; unknown but on CUDA."""
    if device.type != "cuda":
        return ""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    function()
    return f"{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f}"


def waits(function: Callable[[], None], device: torch.device) -> str:
    """Counts how often a call makes the host wait for the device."""
    if device.type != "cuda":
        return ""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return str(sum("synchroniz" in str(warning.message) for warning in caught))


def rows_of(
    backbone: str, kind: str, batch: Batch, device: torch.device, names: Collection[str], rounds: int
) -> list[tuple[str, ...]]:
    """Measures variants of a model."""
    torch._dynamo.reset()  # models compiled before count towards a limit, beyond which torch compiles nothing
    name = "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"  # before torch 2.7
    setattr(torch._dynamo.config, name, 64)
    variants = make(backbone, kind, batch, device, names)
    training = {name: functools.partial(train_step, variant, batch.labels) for name, variant in variants.items()}
    predicting = {name: functools.partial(inference, variant) for name, variant in variants.items()}
    steps = alternate({name: finished(function, device) for name, function in training.items()}, rounds)
    graphs = {name: variant.graphs() for name, variant in variants.items()}  # before inference compiles more
    passes = alternate({name: finished(function, device) for name, function in predicting.items()}, rounds)
    for variant in variants.values():
        variant.optimizer.zero_grad(set_to_none=True)  # frees the gradients of the last step
    return [
        (
            backbone,
            kind,
            name,
            f"{statistics.median(steps[name]):.2f}",
            f"{ratio(steps, 'plain', name):.2f}",
            f"{statistics.median(passes[name]):.2f}",
            f"{ratio(passes, 'plain', name):.2f}",
            peak_mib(training[name], device),
            waits(predicting[name], device),
            graphs[name],
        )
        for name in variants
    ]


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--backbones", nargs="+", choices=("LSTM", "MulT"), default=("LSTM", "MulT"))
    parser.add_argument("--kinds", nargs="+", default=("none", "linear", "shared", "lstm"))
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS, help="beside plain")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("gpu.py needs CUDA, and there is none here")
    data = mosei_like(options.batch_size * 20)
    batch = next(iter(data_loader(data, options.batch_size, pin_memory=device.type == "cuda"))).to(device)
    names = tuple(dict.fromkeys(("plain", *options.variants)))
    head: list[tuple[str, ...]] = [
        (
            *("backbone", "feedback", "variant", "training ms", "times as fast as plain", "inference ms"),
            *("times as fast as plain", "peak MiB", "waits in forward", "graphs"),
        )
    ]
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, to check the script alone"
    steps = batch.inputs["text"].shape[1]
    print(f"{name}, {versions()}, {options.batch_size} samples of up to {steps} steps, {options.rounds} rounds after one")
    print(f"TF32: LSTMs {torch.backends.cudnn.allow_tf32}, other products {torch.backends.cuda.matmul.allow_tf32}")
    for backbone in options.backbones:
        for kind in options.kinds:
            print(f"\n{markdown(head + rows_of(backbone, kind, batch, device, names, options.rounds))}", flush=True)


if __name__ == "__main__":
    main()
