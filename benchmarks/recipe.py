"""What would make masks learn more? Variants of feedback on synthetic data, where an oracle shows what there is to gain.

    python benchmarks/recipe.py [--seeds 1] [--samples 1000] [--variants NAME ...] [--out recipe.jsonl]

`--probe` tells instead how well a linear model reads the planted codes from the encodings, before and after some training.

Each variant trains the paper's baseline with feedback by the paper's protocol. Printed are the errors, the share of the
oracle's gap that is closed, and how masks rank relevant features above others (chance 0.5). Runs in --out are not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.datasets import SequenceDataset
from topdown.datasets.report import markdown
from topdown.experiments import fit, predict, synthetic_splits
from topdown.experiments.figures import relevance_auc
from topdown.experiments.synthetic import GROUPS, SIZES, feature_groups
from topdown.files import require

Splits = Mapping[str, SequenceDataset]
RATE = 5e-4  # of the paper


class LowRank(nn.Module):
    """Feedback through a few numbers: an encoding, averaged over time or not, becomes `rank` numbers, and these the logits."""

    def __init__(self, source_size: int, target_size: int, *, rank: int = 8, pooled: bool = True) -> None:
        super().__init__()
        self.down, self.up, self.pooled = nn.Linear(source_size, rank), nn.Linear(rank, target_size), pooled

    def forward(self, encoding: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Returns logits of shape (B, T, D)."""
        steps = encoding.shape[1]
        if self.pooled:
            count = encoding.new_full((len(encoding), 1, 1), steps) if lengths is None else lengths.clamp(min=1).view(-1, 1, 1)
            encoding = encoding.sum(1, keepdim=True) / count
        logits: Tensor = self.up(torch.tanh(self.down(encoding)))
        return logits.expand(-1, steps, -1)


class QuietFirstPass(TopDownLatch):
    """A latch whose first pass has no dropout."""

    def _encode_first(self, *arguments: Any, **options: Any) -> Any:
        training = self.backbone.training
        self.backbone.eval()
        try:
            return super()._encode_first(*arguments, **options)
        finally:
            self.backbone.train(training)


class BothPasses(nn.Module):
    """Predicts from the first pass, too, in training."""

    def __init__(self, latch: TopDownLatch) -> None:
        super().__init__()
        self.latch = latch

    def forward(self, inputs: Mapping[str, Tensor], lengths: Any = None) -> Any:
        """Returns a prediction, or in training those of both passes."""
        last = self.latch(inputs, lengths)
        if not self.training:
            return last
        with self.latch.disabled():
            return last, self.latch(inputs, lengths)


def loss_of_both(output: Any, labels: Tensor) -> Tensor:
    """Adds half of the error of the first pass."""
    last, first = output if isinstance(output, tuple) else (output, None)
    error = (last.view_as(labels) - labels).abs().mean()
    return cast(Tensor, error if first is None else error + 0.5 * (first.view_as(labels) - labels).abs().mean())


class Variant(NamedTuple):
    """One way to train feedback.

    Args:
        options: Options of the latch; None for none.
        rate: Factor of the learning rate of the feedback.
        latch: Class of the latch.
        both: Whether the first pass has a loss of its own.
        warm: Whether the backbone is trained by itself before.
        oracle: Whether irrelevant features are removed.
    """

    options: Mapping[str, Any] | None = None
    rate: float = 1.0
    latch: type[TopDownLatch] = TopDownLatch
    both: bool = False
    warm: bool = False
    oracle: bool = False


def with_options(feedback: Any, rate: float = 1.0, **more: Any) -> Variant:
    """Makes a variant of options of a latch."""
    own = {name: more.pop(name) for name in ("latch", "both", "warm") if name in more}
    return Variant({"feedback": feedback, **more}, rate, **own)


def low_rank(rank: int = 8, pooled: bool = True) -> Callable[[int, int], nn.Module]:
    """Makes a factory of low-rank feedback."""
    return lambda source, target: LowRank(source, target, rank=rank, pooled=pooled)


IDENTITY: dict[str, Any] = {"start": "identity"}
VARIANTS = {
    "none": Variant(),
    "oracle": Variant(oracle=True),
    **{kind: with_options(kind) for kind in ("linear", "lstm", "shared")},
    "static, identity, rate x 10": with_options("static", 10, **IDENTITY),
    "linear, identity": with_options("linear", **IDENTITY),
    "linear, rate x 10": with_options("linear", 10),
    "linear, identity, rate x 10": with_options("linear", 10, **IDENTITY),
    "shared, identity, rate x 10": with_options("shared", 10, **IDENTITY),
    "linear, identity, rate x 10, no dropout in the first pass": with_options("linear", 10, latch=QuietFirstPass, **IDENTITY),
    "linear, identity, rate x 10, loss on the first pass": with_options("linear", 10, both=True, **IDENTITY),
    "linear, identity, rate x 10, backbone trained before": with_options("linear", 10, warm=True, **IDENTITY),
    "linear, identity, rate x 10, encoder_grad": with_options("linear", 10, encoder_grad=True, **IDENTITY),
    "linear, rate x 10, product": with_options("linear", 10, combine="product"),
    "linear, identity, rate x 10, product": with_options("linear", 10, combine="product", **IDENTITY),
    "linear, identity, rate x 10, product, encoder_grad": with_options(
        "linear", 10, combine="product", encoder_grad=True, **IDENTITY
    ),
    "low rank": with_options(low_rank()),
    "low rank, rate x 10": with_options(low_rank(), 10),
    "low rank, rate x 30": with_options(low_rank(), 30),
    "low rank per step, rate x 10": with_options(low_rank(pooled=False), 10),
    "low rank, identity, rate x 10": with_options(low_rank(), 10, **IDENTITY),
    "low rank, encoder_grad": with_options(low_rank(), encoder_grad=True),
    "low rank, rate x 10, encoder_grad": with_options(low_rank(), 10, encoder_grad=True),
    "low rank, rate x 10, encoder_grad, no dropout in the first pass": with_options(
        low_rank(), 10, encoder_grad=True, latch=QuietFirstPass
    ),
    "low rank, rate x 10, product, scale 4": with_options(low_rank(), 10, combine="product", scale=4.0),
    "low rank, rate x 10, scale 2": with_options(low_rank(), 10, scale=2.0),
    "low rank, rate x 10, 2 passes": with_options(low_rank(), 10, passes=2),
}


def run(name: str, seed: int, splits: Splits, relevance: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Trains a variant and returns its record."""
    variant, training = VARIANTS[name], dict[str, Any]()
    if variant.oracle:
        splits = {split: data.masked(relevance[split]) for split, data in splits.items()}
    torch.manual_seed(seed)
    backbone = LSTMBackbone(splits["train"].sizes)
    if variant.warm:
        fit(backbone, splits["train"], splits["valid"], seed=seed)
    latch = None if variant.options is None else variant.latch(backbone, **variant.options)
    if variant.rate != 1.0:
        slow = {id(parameter) for parameter in backbone.parameters()}

        def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            every = list(parameters)
            groups: list[dict[str, Any]] = [{"params": [p for p in every if id(p) in slow]}]
            groups.append({"params": [p for p in every if id(p) not in slow], "lr": RATE * variant.rate})
            return torch.optim.Adam(groups, RATE, fused=True)

        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        training = {"optimizer": optimizer, "scheduler": lambda steps: plateau(steps, "min", 0.5, 1, 0.0, "abs")}
    model: nn.Module = latch or backbone
    if latch is not None and variant.both:
        model, training["loss"] = BothPasses(latch), loss_of_both
    found = fit(model, splits["train"], splits["valid"], seed=seed, **training)
    test = splits["test"]
    error = float((predict(model, test).view_as(test.labels) - test.labels).abs().mean())
    record = {"variant": name, "seed": seed, "test": error, "validation": found.best_loss, "best_epoch": found.best_epoch}
    return record | ({} if latch is None else {"rank": relevance_auc(latch, test, relevance["test"])})


def codes(relevance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the planted code of each modality in each sample, from what it makes relevant in another one."""
    names, found = list(SIZES), {}
    for own, name in enumerate(names):
        other = names[(own + 1) % len(names)]
        groups = feature_groups(other)
        firsts = [int(((groups[:, 0] == own) & (groups[:, 1] == value)).nonzero()[0]) for value in range(GROUPS)]
        found[name] = relevance[other][:, firsts].argmax(1)
    return found


def probe(splits: Splits, relevance: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Prints the test accuracy of logistic regression from encodings, averaged over time, to the code of their modality."""
    linear: Any = require("sklearn.linear_model", "test")
    torch.manual_seed(0)
    backbone = LSTMBackbone(splits["train"].sizes)
    for epochs in (0, 8):
        if epochs:
            fit(backbone, splits["train"], splits["valid"], epochs=epochs)
        read: dict[str, dict[str, Tensor]] = {}
        for split in ("train", "test"):
            data, parts = splits[split], dict[str, list[Tensor]]()
            with torch.inference_mode():
                for i in torch.arange(len(data)).split(50):
                    batch = data.batch(i)
                    for name, r in backbone.eval().encode(batch.inputs, batch.lengths).items():
                        parts.setdefault(name, []).append(r.sum(1) / cast(Tensor, batch.lengths).view(-1, 1))
            read[split] = {name: torch.cat(found) for name, found in parts.items()}
        train, test = codes(relevance["train"]), codes(relevance["test"])
        for name in SIZES:
            model = linear.LogisticRegression(max_iter=2000).fit(read["train"][name].numpy(), train[name].numpy())
            accuracy = model.score(read["test"][name].numpy(), test[name].numpy())
            print(f"{name}, after {epochs} epochs: code read in {accuracy:.1%} of test samples (chance {1 / GROUPS:.0%})")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--probe", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.samples
    splits, relevance = synthetic_splits((count, count // 5, count * 2 // 5))
    if options.probe:
        probe(splits, relevance)
        return
    lines = options.out.read_text().splitlines() if options.out is not None and options.out.exists() else []
    records = {(record["variant"], record["seed"]): record for record in map(json.loads, lines)}
    for seed in range(options.seeds):
        for name in options.variants:
            if (name, seed) not in records:
                records[name, seed] = run(name, seed, splits, relevance)
                if options.out is not None:
                    with options.out.open("a") as file:
                        file.write(json.dumps(records[name, seed]) + "\n")
    rows = [("variant", "seeds", "validation", "test", "gap closed", "rank of relevant features")]
    mean = {name: _mean(records, name, "test") for name in options.variants}
    for name in options.variants:
        own = [record for (variant, _), record in records.items() if variant == name]
        none, oracle = _mean(records, "none", "test"), _mean(records, "oracle", "test")
        share = "" if name in ("none", "oracle") or not none > oracle else f"{(none - mean[name]) / (none - oracle):.0%}"
        ranks = ", ".join(f"{sum(r['rank'][k] for r in own) / len(own):.2f}" for k in own[0].get("rank", ()))
        rows.append((name, str(len(own)), f"{_mean(records, name, 'validation'):.3f}", f"{mean[name]:.3f}", share, ranks))
    print(markdown(rows))


def _mean(records: Mapping[tuple[str, int], Mapping[str, Any]], name: str, key: str) -> float:
    own = [record[key] for (variant, _), record in records.items() if variant == name] or [float("nan")]
    return float(sum(own) / len(own))


if __name__ == "__main__":
    main()
