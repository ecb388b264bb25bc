"""What would make masks learn more? Variants of feedback on synthetic data, where an oracle shows what there is to gain.

    python benchmarks/recipe.py [--seeds 1] [--samples 1000] [--variants NAME ...] [--out recipe.jsonl]

benchmarks/why.py says what stands in the way.

Each variant trains the paper's baseline with feedback by the paper's protocol. Printed are the errors, the share of the
oracle's gap that is closed, and how masks rank relevant features above others (chance 0.5). Runs in --out are not done again.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from recipe_models import (
    BothPasses,
    Entropy,
    QuietFirstPass,
    Reconstruction,
    Sparsity,
    WithTerm,
    linear,
    loss_of_both,
    loss_with_term,
    low_rank,
    reads_by,
    tells_codes,
)
from torch import Tensor, nn
from torch.nn.functional import one_hot
from why import codes, scale_input_weights

from topdown import LSTMFeedback, SharedFeedback, TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.datasets import SequenceDataset
from topdown.datasets.report import markdown
from topdown.experiments import synthetic_splits
from topdown.experiments.figure2 import relevance_auc
from topdown.experiments.synthetic import GROUPS, SIZES
from topdown.training import fit, predict

Splits = Mapping[str, SequenceDataset]
RATE = 5e-4  # of the paper
SECOND = 1000  # added to the seed of a second model


class Variant(NamedTuple):
    """One way to train feedback.

    Args:
        options: Options of the latch; None for none.
        rate: Factor of the learning rate of the feedback.
        latch: Class of the latch.
        both: Whether the first pass has a loss of its own.
        warm: Whether the backbone is trained by itself before.
        oracle: Whether irrelevant features are removed.
        told: Whether feedback reads the planted codes instead of encodings.
        reader: Whether feedback reads the encodings of a baseline that was trained before, while another one learns to predict.
        pretuned: Whether feedback that reads a baseline is trained around that baseline, frozen, before it meets the new one.
        averaged: Whether the predictions of two baselines are averaged: what two trainings are worth without feedback.
        term: Makes another term of the loss.
        input_scale: Factor of the input weights of the encoders at the start.
        noise: Noise on the inputs in training, in their standard deviations.
    """

    options: Mapping[str, Any] | None = None
    rate: float = 1.0
    latch: type[TopDownLatch] = TopDownLatch
    both: bool = False
    warm: bool = False
    oracle: bool = False
    told: bool = False
    reader: bool = False
    pretuned: bool = False
    averaged: bool = False
    term: Callable[[], nn.Module] | None = None
    input_scale: float = 1.0
    noise: float = 0.0


def with_options(feedback: Any, rate: float = 1.0, **more: Any) -> Variant:
    """Makes a variant of options of a latch."""
    own = {name: more.pop(name) for name in set(Variant._fields) - {"options", "rate"} if name in more}
    return Variant({"feedback": feedback, "start": "random", **more}, rate, **own)


POOLED = linear(pooled=True, dropout=0.5)
BIDIRECTIONAL = functools.partial(SharedFeedback, bidirectional=True)
PROJECTION = functools.partial(LSTMFeedback, projection=True)
IDENTITY: dict[str, Any] = {"start": "identity"}
VARIANTS = {
    "none": Variant(),
    "oracle": Variant(oracle=True),
    "two baselines, averaged": Variant(averaged=True),
    **{kind: with_options(kind) for kind in ("linear", "lstm", "shared")},
    "lstm, rate x 10": with_options("lstm", 10),
    "lstm, projection": with_options(PROJECTION),
    "lstm, projection, rate x 10": with_options(PROJECTION, 10),
    "shared, bidirectional": with_options(BIDIRECTIONAL),
    "shared, bidirectional, rate x 10": with_options(BIDIRECTIONAL, 10),
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
    "low rank, rate x 10, sparsity": with_options(low_rank(), 10, term=Sparsity),
    "low rank, rate x 10, entropy": with_options(low_rank(), 10, term=Entropy),
    "low rank, rate x 10, reconstruction of targets": with_options(
        low_rank(), 10, term=functools.partial(Reconstruction, "target")
    ),
    "low rank, rate x 10, reconstruction of sources": with_options(
        low_rank(), 10, term=functools.partial(Reconstruction, "source")
    ),
    "low rank, rate x 10, mask dropout": with_options(low_rank(), 10, mask_dropout=0.2),
    "low rank, rate x 10, source dropout": with_options(low_rank(source_dropout=0.3), 10),
    "none, noise on inputs": Variant(noise=1.0),
    "lstm, noise on inputs": with_options("lstm", noise=1.0),
    "shared, noise on inputs": with_options("shared", noise=1.0),
    "static, identity, rate x 10, noise on inputs": with_options("static", 10, noise=1.0, **IDENTITY),
    "linear, rate x 10, noise on inputs": with_options("linear", 10, noise=1.0),
    "shared, rate x 10, noise on inputs": with_options("shared", 10, noise=1.0),
    "low rank, noise on inputs": with_options(low_rank(), noise=1.0),
    "low rank, rate x 10, noise on inputs": with_options(low_rank(), 10, noise=1.0),
    "low rank, rate x 10, noise 0.5 on inputs": with_options(low_rank(), 10, noise=0.5),
    "low rank, rate x 10, noise 2 on inputs": with_options(low_rank(), 10, noise=2.0),
    "low rank per step, rate x 10, noise on inputs": with_options(low_rank(pooled=False), 10, noise=1.0),
    "low rank, rate x 30, product, noise on inputs": with_options(low_rank(), 30, combine="product", noise=1.0),
    "pooled, dropout, rate x 30, product, noise on inputs": with_options(POOLED, 30, combine="product", noise=1.0),
    "none, small input weights": Variant(input_scale=0.1),
    "oracle, small input weights": Variant(oracle=True, input_scale=0.1),
    "linear, small input weights, rate x 30, product": with_options("linear", 30, input_scale=0.1, combine="product"),
    "low rank, small input weights, rate x 10": with_options(low_rank(), 10, input_scale=0.1),
    "low rank, small input weights, rate x 30, product": with_options(low_rank(), 30, input_scale=0.1, combine="product"),
    "shared, small input weights, rate x 30, product": with_options("shared", 30, input_scale=0.1, combine="product"),
    "pooled, dropout, small input weights, rate x 30, product": with_options(POOLED, 30, input_scale=0.1, combine="product"),
    "reader, linear, rate x 30, product": with_options("linear", 30, reader=True, combine="product"),
    "reader, linear, small input weights, rate x 30, product": with_options(
        "linear", 30, reader=True, input_scale=0.1, combine="product"
    ),
    "reader, pooled, dropout, rate x 30, product": with_options(POOLED, 30, reader=True, combine="product"),
    "reader, pooled, dropout, small input weights, rate x 30, product": with_options(
        POOLED, 30, reader=True, input_scale=0.1, combine="product"
    ),
    "reader, pooled, dropout, small input weights, rate x 30, product, feedback trained before": with_options(
        POOLED, 30, reader=True, pretuned=True, input_scale=0.1, combine="product"
    ),
    "reader, pooled, dropout, small input weights, rate x 30, product, noise on inputs": with_options(
        POOLED, 30, reader=True, input_scale=0.1, combine="product", noise=1.0
    ),
    "codes told, linear, rate x 10": with_options("linear", 10, told=True),
    "codes told, linear, rate x 30, product": with_options("linear", 30, told=True, combine="product"),
    "codes told, linear, small input weights, rate x 10": with_options("linear", 10, told=True, input_scale=0.1),
    "codes told, linear, small input weights, rate x 30, product": with_options(
        "linear", 30, told=True, input_scale=0.1, combine="product"
    ),
}


def run(name: str, seed: int, splits: Splits, relevance: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Any]:
    """Trains a variant and returns its record."""
    variant, training = VARIANTS[name], dict[str, Any]()
    if variant.oracle:
        splits = {split: data.masked(relevance[split]) for split, data in splits.items()}
    if variant.told:
        splits = {split: with_codes(data, relevance[split]) for split, data in splits.items()}
    torch.manual_seed(seed)
    reader = LSTMBackbone(SIZES)
    if variant.reader or variant.averaged:
        fit(reader, splits["train"], splits["valid"], seed=seed)
    torch.manual_seed(seed + SECOND * (variant.reader or variant.averaged))
    backbone: nn.Module = LSTMBackbone(SIZES)
    scale_input_weights(backbone, variant.input_scale)
    if variant.warm:
        fit(backbone, splits["train"], splits["valid"], seed=seed)
    seen = tells_codes(backbone) if variant.told else reads_by(reader, backbone) if variant.reader else backbone
    sources = getattr(seen, "sources", None)
    latch = None if variant.options is None else variant.latch(seen, sources=sources, **variant.options)
    if variant.rate != 1.0:
        slow = {id(parameter) for parameter in backbone.parameters()}

        def optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            every = list(parameters)
            groups: list[dict[str, Any]] = [{"params": [p for p in every if id(p) in slow]}]
            groups.append({"params": [p for p in every if id(p) not in slow], "lr": RATE * variant.rate})
            return torch.optim.Adam(groups, RATE, fused=True)

        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau
        training = {"optimizer": optimizer, "scheduler": lambda steps: plateau(steps, "min", 0.5, 1, 0.0, "abs")}
    if latch is not None and variant.pretuned:
        first = variant.latch(reads_by(reader, copy.deepcopy(reader)), sources=sources, **(variant.options or {}))
        fit(first, splits["train"], splits["valid"], seed=seed, **training)
        latch.feedback.load_state_dict(first.feedback.state_dict())
    model: nn.Module = latch or backbone
    if latch is not None and variant.both:
        model, training["loss"] = BothPasses(latch), loss_of_both
    if latch is not None and variant.term is not None:
        model, training["loss"] = WithTerm(latch, variant.term()), loss_with_term
    if variant.noise:
        training["augment"] = lambda data, epoch: data.corrupt("noise", variant.noise, seed=epoch)
    found = fit(model, splits["train"], splits["valid"], seed=seed, **training)
    test = splits["test"]
    prediction = predict(model, test)
    if variant.averaged:
        prediction = (prediction + predict(reader, test)) / 2
    error = float((prediction.view_as(test.labels) - test.labels).abs().mean())
    record = {"variant": name, "seed": seed, "test": error, "validation": found.best_loss, "best_epoch": found.best_epoch}
    return record | ({} if latch is None else {"rank": relevance_auc(latch, test, relevance["test"])})


def with_codes(data: SequenceDataset, relevance: Mapping[str, Tensor]) -> SequenceDataset:
    """Returns samples that have the planted code of each modality as a vector, too."""
    vectors = {f"code of {name}": one_hot(code, GROUPS).float() for name, code in codes(relevance).items()}
    return SequenceDataset(data.sequences, vectors, data.labels, data.ids, data.report)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.samples
    splits, relevance = synthetic_splits((count, count // 5, count * 2 // 5))
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
    for name in options.variants:
        seeds = range(options.seeds)
        validation, test = (mean(records, name, key, seeds) for key in ("validation", "test"))
        none, oracle = (mean(records, other, "test", seeds) for other in ("none", "oracle"))
        share = "" if name in ("none", "oracle") or not none > oracle else f"{(none - test) / (none - oracle):.0%}"
        own = [records[name, seed] for seed in seeds]
        ranks = ", ".join(f"{sum(r['rank'][k] for r in own) / len(own):.2f}" for k in own[0].get("rank", ()))
        rows.append((name, str(len(own)), f"{validation:.3f}", f"{test:.3f}", share, ranks))
    print(markdown(rows))


def mean(records: Mapping[tuple[str, int], Mapping[str, Any]], name: str, key: str, seeds: Sequence[int]) -> float:
    """Returns the mean of a variant over seeds, nan where one is missing: a row is compared with none on its own seeds."""
    return sum(float(records[name, seed][key]) if (name, seed) in records else math.nan for seed in seeds) / len(seeds)


if __name__ == "__main__":
    main()
