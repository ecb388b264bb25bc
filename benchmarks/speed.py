"""How fast is a training step? Ours against a plain implementation of the paper's public model, side by side.

    python benchmarks/speed.py [--threads 2] [--batches 12] [--rounds 5]

Both see the same samples, of sizes 300/74/35 and with lengths like those of word-aligned MOSEI, in batches of 32. The plain
one pads batches in random order, packs, and has Adam as torch makes it; ours pads batches of similar length, and Adam is fused.
Rounds alternate between all models in one process; printed are medians over rounds of the milliseconds per step, and of the
ratio to plain with (or without) feedback in the same round; then
the same for inference, in batches and for one utterance of 20 steps, eager and by ONNX Runtime (extra `onnx`).
Before that, the plain model and ours are checked to be equal, in outputs and gradients, where both are defined.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import torch
from common.measure import alternate, ratio
from common.plain import SIZES, PlainModel
from torch import Tensor, nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.adapters.reference import mmlatch_from_reference
from topdown.datasets import SequenceDataset
from topdown.datasets.batch import Batch
from topdown.datasets.batching import bucketed_batches
from topdown.datasets.report import markdown
from topdown.files import require
from topdown.training.versions import versions

Predict: TypeAlias = Callable[[Batch], Any]

BATCH_SIZE = 32
AIMS = {"ours, none": 3.5, "ours, lstm": 4.0, "ours, shared": 4.5}  # times as fast as plain, a training step
INFERENCE_AIM, SINGLE_AIM = 3.0, 2.0


def mosei_like(count: int, seed: int = 1) -> SequenceDataset:
    """Makes samples of noise with the lengths of word-aligned MOSEI: mean 21.5, a long tail up to 100."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.exp(torch.randn(count, generator=generator) * 0.55 + 2.9).round().clamp(1, 100).long().tolist()
    inputs = {k: [torch.randn(n, size, generator=generator).numpy() for n in lengths] for k, size in SIZES.items()}
    return SequenceDataset.from_arrays(inputs, torch.randn(count, generator=generator).numpy())


def check_equal(feedback: bool) -> float:
    """Checks that plain and ours give the same output and gradients, and returns the largest difference."""
    torch.manual_seed(0)
    plain = PlainModel(feedback).eval()
    ours = mmlatch_from_reference(plain.state_dict())
    inputs = {k: torch.randn(4, 7, size) for k, size in SIZES.items()}
    a, b = plain(inputs), ours(inputs, torch.full((4,), 7))
    a.abs().sum().backward()
    b.abs().sum().backward()
    gradients = mmlatch_from_reference({name: p.grad for name, p in plain.named_parameters() if p.grad is not None})
    differences = [(a - b).detach().abs().max()]
    for (name, p), q in zip(ours.named_parameters(), gradients.parameters(), strict=True):
        if p.grad is None:
            raise AssertionError(f"{name} has no gradient")
        differences.append((p.grad - q).detach().abs().max())
    worst = float(torch.stack(differences).max())
    if worst > 1e-4:
        raise AssertionError(f"the plain model and ours differ by {worst}")
    return worst


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, data: SequenceDataset, *, plain: bool) -> float:
    """Trains once on all samples; returns milliseconds per step, the making of batches included."""
    start = time.perf_counter()
    order = torch.randperm(len(data))
    batches = order.split(BATCH_SIZE)
    if not plain:
        batches = bucketed_batches(data.batch_lengths(), BATCH_SIZE, seed=int(order[0]), epoch=0)
    for indices in batches:
        batch = data.batch(indices)
        optimizer.zero_grad(set_to_none=True)
        output = model(batch.inputs) if plain else model(batch.inputs, batch.lengths)
        (output.squeeze(-1) - batch.labels).abs().mean().backward()
        optimizer.step()
    return (time.perf_counter() - start) / len(batches) * 1e3


class Program(nn.Module):
    """A model as a function of tensors alone, for graphs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, text: Tensor, audio: Tensor, visual: Tensor, lengths: Tensor) -> Tensor:
        """Predicts."""
        output: Tensor = self.model({"text": text, "audio": audio, "visual": visual}, lengths)
        return output


def eager(model: nn.Module, *, plain: bool) -> Predict:
    """Returns a function that predicts for a batch; the plain model takes no lengths."""
    model.eval()

    def predict(batch: Batch) -> Any:
        with torch.inference_mode():
            return model(batch.inputs) if plain else model(batch.inputs, batch.lengths)

    return predict


def onnx_runtime(model: nn.Module, threads: int) -> Predict:
    """Returns a function that predicts for a batch by ONNX Runtime."""
    onnxruntime: Any = require("onnxruntime", "onnx")
    from topdown.export import translations  # also needs the extra

    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    example = (*(torch.randn(2, 9, size) for size in SIZES.values()), torch.tensor([9, 4]))
    shapes = (*({0: batch, 1: time},) * len(SIZES), {0: batch})
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about itself
        program = torch.export.export(Program(model).eval(), example, dynamic_shapes=shapes)
        graph: Any = torch.onnx.export(program, dynamo=True, custom_translation_table=translations(), verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning threads would slow the next measurement
    session = onnxruntime.InferenceSession(graph.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def predict(batch: Batch) -> Any:
        values = [x.numpy() for x in (*batch.inputs.values(), cast(Tensor, batch.lengths))]
        return torch.from_numpy(session.run(None, dict(zip(names, values, strict=True)))[0])

    return predict


def over(predict: Predict, data: SequenceDataset, *, plain: bool) -> Callable[[], None]:
    """Returns a function that predicts for all samples, in batches as in training."""
    batches = torch.arange(len(data)).split(BATCH_SIZE)
    if not plain:
        batches = tuple(data.batch_lengths().argsort(stable=True).split(BATCH_SIZE))

    def run() -> None:
        for indices in batches:
            predict(data.batch(indices))

    return run


def repeated(predict: Predict, batch: Batch) -> Callable[[], None]:
    """Returns a function that predicts for a batch ten times."""

    def run() -> None:
        for _ in range(10):
            predict(batch)

    return run


def inference_table(models: Mapping[str, nn.Module], data: SequenceDataset, rounds: int, threads: int) -> str:
    """Compares inference: batches of 32, and one utterance of 20 steps alone; ONNX Runtime agrees with eager to 1e-5."""
    inputs = {k: torch.randn(1, 20, size) for k, size in SIZES.items()}
    one_utterance = Batch(inputs=inputs, lengths=torch.tensor([20]), labels=None, ids=["0"])
    predictors = {}
    for name, model in models.items():
        predictors[name] = eager(model, plain=name.startswith("plain"))
        if not name.startswith("plain"):
            predictors[f"{name}, ONNX Runtime"] = fast = onnx_runtime(model, threads)
            for batch in (one_utterance, data.batch(range(5))):
                torch.testing.assert_close(fast(batch), predictors[name](batch), atol=1e-5, rtol=0)
    many = alternate({k: over(p, data, plain=k.startswith("plain")) for k, p in predictors.items()}, rounds)
    one = alternate({k: repeated(p, one_utterance) for k, p in predictors.items()}, rounds)
    rows = [("model", "ms/batch", "times as fast as plain", "aim", "ms for one utterance", "times as fast as plain", "aim")]
    for name in predictors:
        base = "plain, none" if "none" in name else "plain, lstm"
        rows.append(
            (
                name,
                f"{statistics.median(many[name]) / (len(data) / BATCH_SIZE):.1f}",
                f"{ratio(many, base, name):.2f}",
                "" if name == base else str(INFERENCE_AIM),
                f"{statistics.median(one[name]) / 10:.2f}",
                f"{ratio(one, base, name):.2f}",
                "" if name == base else str(SINGLE_AIM),
            )
        )
    return markdown(rows)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for feedback in (False, True):
        print(f"plain equals ours (feedback {feedback}): largest difference {check_equal(feedback):.1e}")
    torch.manual_seed(0)
    data = mosei_like(BATCH_SIZE * options.batches)
    models: dict[str, nn.Module] = {"plain, none": PlainModel(False), "plain, lstm": PlainModel(True)}
    models["ours, none"] = LSTMBackbone(SIZES)
    for kind in ("lstm", "shared", "linear"):
        models[f"ours, {kind}"] = TopDownLatch(LSTMBackbone(SIZES), kind, start="random")
    optimizers = {
        name: torch.optim.Adam(model.parameters(), lr=5e-4, fused=not name.startswith("plain"))
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(options.rounds + 1):
        for name, model in models.items():
            times[name].append(epoch(model, optimizers[name], data, plain=name.startswith("plain")))
    steps = {name: values[1:] for name, values in times.items()}
    rows = [("model", "ms/step", "range", "times as fast as plain", "aim", "parameters")]
    for name, milliseconds in steps.items():
        base = "plain, none" if name.endswith("none") else "plain, lstm"
        rows.append(
            (
                name,
                f"{statistics.median(milliseconds):.0f}",
                f"{min(milliseconds):.0f} to {max(milliseconds):.0f}",
                f"{ratio(steps, base, name):.2f}",
                str(AIMS.get(name, "")),
                f"{sum(p.numel() for p in models[name].parameters()):,}",
            )
        )
    print(f"{versions()}, batches of {BATCH_SIZE}, {options.batches} a round, {options.rounds} rounds after one to warm up")
    print(markdown(rows))
    print(inference_table(models, data, options.rounds, options.threads))


if __name__ == "__main__":
    main()
