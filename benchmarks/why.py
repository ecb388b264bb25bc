"""Why do masks learn so little? What the encodings know, and what the gradient says, on synthetic data with planted structure.

    python benchmarks/why.py [--samples 1000]

First, how well a linear model reads the planted code of a modality from its encodings, before and after some training. Then,
how well the gradient that masks would get, averaged over all samples of a code, ranks the features that this code makes
relevant above those that wait for another one: on the samples that the backbone learns from, and on others.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from topdown.adapters import LSTMBackbone
from topdown.datasets import SequenceDataset
from topdown.datasets.report import markdown
from topdown.experiments import synthetic_splits
from topdown.experiments.synthetic import GROUPS, SIZES, feature_groups
from topdown.files import require
from topdown.sequence import zero_padding
from topdown.training import fit, predict

Splits = Mapping[str, SequenceDataset]
Relevance = Mapping[str, Mapping[str, Tensor]]


def codes(relevance: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the planted code of each modality in each sample, from what it makes relevant in another one."""
    names, found = list(SIZES), {}
    for own, name in enumerate(names):
        other = names[(own + 1) % len(names)]
        groups = feature_groups(other)
        firsts = [int(((groups[:, 0] == own) & (groups[:, 1] == value)).nonzero()[0]) for value in range(GROUPS)]
        found[name] = relevance[other][:, firsts].argmax(1)
    return found


def scale_input_weights(backbone: nn.Module, factor: float) -> None:
    """Multiplies what the encoders of the baseline weight their inputs with."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.startswith("encoders") and "weight_ih" in name:
                parameter.mul_(factor)


def probe(splits: Splits, relevance: Relevance) -> None:
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
                        steps = cast(Tensor, batch.lengths)
                        parts.setdefault(name, []).append(zero_padding(r, steps).sum(1) / steps.view(-1, 1))
            read[split] = {name: torch.cat(found) for name, found in parts.items()}
        train, test = codes(relevance["train"]), codes(relevance["test"])
        for name in SIZES:
            model = linear.LogisticRegression(max_iter=2000).fit(read["train"][name].numpy(), train[name].numpy())
            accuracy = model.score(read["test"][name].numpy(), test[name].numpy())
            print(f"{name}, after {epochs} epochs: code read in {accuracy:.1%} of test samples (chance {1 / GROUPS:.0%})")


def rank_by_gradient(backbone: nn.Module, data: SequenceDataset, relevance: Mapping[str, Tensor]) -> dict[str, float]:
    r"""Ranks features by the gradient that masks would get.

    For a mask that multiplies a feature in all steps of a sample it is :math:`-\sum_t x_t \, \partial L / \partial x_t` at 1.

    Returns:
        Probability per modality that a feature which a code makes relevant is ranked above one of the same modality that waits
        for another value of that code, by the gradient averaged over all samples with the code.
    """
    pushed: dict[str, list[Tensor]] = {name: [] for name in SIZES}
    for indices in torch.arange(len(data)).split(50):
        batch = data.batch(indices)
        inputs = {name: x.clone().requires_grad_() for name, x in batch.inputs.items()}
        loss = (backbone.eval()(inputs, batch.lengths).squeeze(-1) - batch.labels).abs().sum()
        for (name, x), gradient in zip(inputs.items(), torch.autograd.grad(loss, list(inputs.values())), strict=True):
            pushed[name].append(-(gradient * x).detach().sum(1))
    found, known = {}, list(codes(relevance).values())
    for own, name in enumerate(SIZES):
        push, (decider, value) = torch.cat(pushed[name]), feature_groups(name).T
        ranks = []
        for other in (j for j in range(len(SIZES)) if j != own):
            for code in range(GROUPS):
                mean = push[known[other] == code].mean(0)
                relevant, waiting = (mean[(decider == other) & is_so] for is_so in (value == code, value != code))
                ranks.append((relevant.unsqueeze(1) > waiting).float().mean())
        found[name] = float(torch.stack(ranks).mean())
    return found


def gradients(splits: Splits, relevance: Relevance) -> str:
    """Returns how well masks' gradients rank features while the baseline without feedback learns, an epoch at a time."""
    rows = [("input weights", "epochs", "error in training, validation", "rank in training", "rank in validation")]
    for scale in (1.0, 0.1):
        torch.manual_seed(0)
        backbone = LSTMBackbone(SIZES)
        scale_input_weights(backbone, scale)
        for epoch in range(12):
            fit(backbone, splits["train"], splits["valid"], epochs=1, seed=epoch)
            if epoch + 1 not in (1, 2, 4, 8, 12):
                continue
            errors, ranks = list[str](), list[str]()
            for split in ("train", "valid"):
                data = splits[split]
                errors.append(f"{float((predict(backbone, data).view_as(data.labels) - data.labels).abs().mean()):.3f}")
                ranks.append(", ".join(f"{r:.2f}" for r in rank_by_gradient(backbone, data, relevance[split]).values()))
            rows.append((f"x {scale:g}", str(epoch + 1), ", ".join(errors), ranks[0], ranks[1]))
    return markdown(rows)


def main() -> None:
    """Prints both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1000)
    count = parser.parse_args().samples
    torch.set_num_threads(1)
    splits, relevance = synthetic_splits((count, count // 5, count * 2 // 5))
    probe(splits, relevance)
    print(gradients(splits, relevance))


if __name__ == "__main__":
    main()
