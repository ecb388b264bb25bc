"""Draws the paper's Fig. 2, the mean mask per feature and sentiment class, and writes its values."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from topdown.datasets.data import SequenceDataset
from topdown.datasets.report import markdown
from topdown.files import require, write_file, write_text
from topdown.latch import TopDownLatch
from topdown.masking import pool_mask
from topdown.plots import draw_profile
from topdown.profile import MaskProfile, mask_profile
from topdown.sequence import lengths_of
from topdown.training.prediction import masks_of

CLASSES = {-3: "neg++", -2: "neg+", -1: "neg", 0: "neu", 1: "pos", 2: "pos+", 3: "pos++"}

Profiles = Mapping[tuple[str, int], Mapping[str, MaskProfile]]


def sentiment_profile(
    latch: TopDownLatch, data: SequenceDataset, *, batch_size: int = 32, device: str | torch.device | None = None
) -> dict[str, MaskProfile]:
    """Averages the masks of a latch per sentiment class, labels rounded to -3..3, over a data set."""
    batches = masks_of(latch, data, batch_size=batch_size, device=device)
    return mask_profile(((m, b.labels.clamp(-3, 3).round().long(), b.lengths) for _, b, m in batches), list(CLASSES))


class Monotonicity(NamedTuple):
    """Holds how the mean mask of each feature changes with the class.

    Args:
        correlation: Spearman's correlation with the class, of shape (D,); 0 for a feature that does not change.
        share: Share of features whose mean mask is monotone.
    """

    correlation: Tensor
    share: float


def monotonicity(profile: MaskProfile) -> Monotonicity:
    """Measures whether mean masks rise or fall with the class, over the classes that have samples.

    Args:
        profile: Mean masks per class; classes in their order.

    Raises:
        ImportError: if scipy is missing.

    Example:
        >>> mean = torch.tensor([[0.1, 0.5], [0.2, 0.4], [0.4, 0.6]])
        >>> monotonicity(MaskProfile(mean, torch.ones(3), (0, 1, 2))).share
        0.5
    """
    stats = require("scipy.stats", "experiments")
    mean = profile.mean[profile.samples > 0].double()
    if len(mean) < 2:
        return Monotonicity(torch.full((mean.shape[1],), float("nan"), dtype=torch.float64), float("nan"))
    ranks = torch.from_numpy(stats.rankdata(mean.numpy(), axis=0))
    ranks = ranks - ranks.mean(0)
    order = torch.arange(len(mean), dtype=torch.float64, device="cpu") - (len(mean) - 1) / 2
    norm = (ranks.square().sum(0) * order.square().sum()).sqrt()
    correlation = torch.where(norm > 0, (ranks * order.unsqueeze(1)).sum(0) / norm.clamp(min=1e-12), 0.0)
    steps = mean.diff(dim=0)
    return Monotonicity(correlation, float(((steps >= 0).all(0) | (steps <= 0).all(0)).double().mean()))


def mask_change_table(profiles: Profiles) -> str:
    """Returns a table of how masks change with sentiment; the paper says that they "change almost monotonically".

    Args:
        profiles: Mean masks of the runs.

    Returns:
        A markdown table with a row for each run and modality.

    Raises:
        ImportError: without the extra `experiments`.
    """
    rows = [["feedback", "seed", "modality", "mean absolute Spearman's correlation", "share monotone", "range of class means"]]
    for (kind, seed), by_name in profiles.items():
        for name, profile in by_name.items():
            trend, present = monotonicity(profile), profile.mean[profile.samples > 0]
            numbers = (float(trend.correlation.abs().mean()), trend.share, float(present.max() - present.min()))
            rows.append([kind, str(seed), name, *(f"{number:.4f}" for number in numbers)])
    return "Mean masks of features against the class of sentiment (Fig. 2):\n\n" + markdown(rows)


def relevance_auc(
    latch: TopDownLatch,
    data: SequenceDataset,
    relevance: Mapping[str, Tensor],
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
) -> dict[str, float]:
    """Compares masks with the planted relevance of features.

    Args:
        latch: Latch whose masks to compare.
        data: Samples, N of them.
        relevance: Marks per modality, of shape (N, D_k), 1 where a feature is relevant in a sample, else 0.
        batch_size: Samples of a batch.
        device: Device to compute on. (Default: that of the latch)

    Returns:
        Probability per modality that, within a sample, a relevant feature has a higher mask (averaged over time) than one
        that is not, averaged over samples: 1 is perfect, 0.5 is chance.
    """
    sums: dict[str, float] = {}
    for indices, batch, masks in masks_of(latch, data, batch_size=batch_size, device=device):
        for name, mask in masks.items():
            pooled = pool_mask(mask, lengths_of(batch.lengths, name)).squeeze(1).cpu()
            for sample, relevant in zip(pooled, relevance[name][indices].bool(), strict=True):
                difference = sample[relevant].unsqueeze(1) - sample[~relevant]
                auc = (difference > 0).double().mean() + 0.5 * (difference == 0).double().mean()
                sums[name] = sums.get(name, 0.0) + float(auc)
    return {name: value / len(data) for name, value in sums.items()}


def write_mask_table(path: Path, profiles: Profiles, *, data: str) -> None:
    """Writes masks.csv: a row per run, modality, feature and class, with the mean mask, the number of samples, and `data`.

    A class is that of labels clipped to [-3, 3] and rounded, halves to even.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("feedback", "seed", "modality", "feature", "class", "mean_mask", "samples", "data"))
    for (kind, seed), by_name in profiles.items():
        for name, profile in by_name.items():
            for feature, column in enumerate(profile.mean.T.tolist()):
                for label, mean, count in zip(profile.classes, column, profile.samples.tolist(), strict=True):
                    table.writerow((kind, seed, name, feature, label, f"{mean:.6f}" if count else "", count, data))
    write_text(path, text.getvalue())


def draw_masks(
    path: Path, profiles: Profiles, *, best: Mapping[str, int], title: str, relevance: Mapping[str, Tensor] | None = None
) -> None:
    """Draws masks.png: a row per kind of feedback (its best seed), a column per modality, classes over features.

    Args:
        path: Path of the picture.
        profiles: Profiles of all runs.
        best: Seed to show of each kind.
        title: Title of the figure.
        relevance: Share of the samples in which each feature is relevant, (D_k,) per modality, where it is known: features
            that always are relevant get a mark above, those that never are one below. (Default: unknown)

    Raises:
        ImportError: if matplotlib is missing.
    """
    figures = require("matplotlib.figure", "experiments")
    shown = {kind: profiles[kind, seed] for kind, seed in best.items() if (kind, seed) in profiles}
    names = list(next(iter(shown.values())))
    figure = figures.Figure(figsize=(6.0 * len(names), 1.2 + 3.4 * len(shown)), layout="constrained")
    figure.suptitle(title, fontsize=10)
    grid = figure.subplots(len(shown), len(names), squeeze=False)
    # All panels share one scale. Otherwise noise in one of them looks like structure.
    means = torch.cat([profile.mean.flatten() for by_name in shown.values() for profile in by_name.values()])
    limit = max(float((means - 0.5).abs().nan_to_num(0.0).max()), 1e-6)
    for axes_row, (kind, by_name) in zip(grid, shown.items(), strict=True):
        for axes, name in zip(axes_row, names, strict=True):
            heading = f"{name} masks, feedback {kind!r}, seed {best[kind]}"
            image = draw_profile(
                axes,
                by_name[name],
                title=heading,
                limit=limit,
                neutral=0.5,
                class_names=[CLASSES[label] for label in by_name[name].classes],
            )
            axes.set_xlabel("feature", fontsize=8)
            if relevance is not None:
                top, bottom = -0.5, len(by_name[name].classes) - 0.5
                for place, marker, features in ((top, "v", relevance[name] == 1), (bottom, "x", relevance[name] == 0)):
                    at = features.nonzero().flatten().tolist()
                    (marks,) = axes.plot(at, [place] * len(at), marker, color="black", markersize=4, clip_on=False)
                    marks.set_in_layout(False)  # otherwise matplotlib shrinks the axes to make room
                axes.set_xlabel("feature (triangle above: relevant in every sample; x below: in none)", fontsize=8)
    figure.colorbar(image, ax=grid, label="mean mask (white: 0.5)")
    write_file(path, lambda file: figure.savefig(file, format="png", dpi=130))
