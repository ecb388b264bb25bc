"""The paper's Fig. 2: masks per feature and class of sentiment, and whether they say anything.

    python benchmarks/figure2.py --data mosei_senti_data.pkl --seeds 5 --out build/figure2

The paper says that masks "change almost monotonically as the sentiment value increases". Here that is measured: Spearman's
correlation of the mean mask of each feature with the class, the share of features that are monotone, and how masks vary
within and between samples, with a warning where they have become constants.
"""

from __future__ import annotations

import torch
from common.paper import LSTM, build_lstm, load, options

from topdown import TopDownLatch
from topdown.comparison.differences import COLLAPSED
from topdown.comparison.variants import mask_spread
from topdown.datasets.report import markdown
from topdown.experiments.figure2 import draw_masks, monotonicity, sentiment_profile
from topdown.training import fit


def main() -> None:
    """Prints the table and draws the figure."""
    chosen = options(__doc__)
    splits, source = load(chosen.data)
    training = {**LSTM, **({"epochs": chosen.epochs} if chosen.epochs else {})}
    lines, profiles, losses, warnings = [], {}, {}, []
    for seed in range(chosen.seeds):
        torch.manual_seed(seed)
        backbone = build_lstm(splits["train"].sizes, hidden_size=chosen.hidden_size)
        latch = TopDownLatch(backbone, "lstm", start="random")
        losses[seed] = fit(latch, splits["train"], splits["valid"], seed=seed, **training).best_loss
        profiles["lstm", seed] = sentiment_profile(latch, splits["test"])
        spread = mask_spread(latch, splits["test"])
        for name, profile in profiles["lstm", seed].items():
            found, own = monotonicity(profile), spread[name]
            span = float(profile.mean.nan_to_num().max() - profile.mean.nan_to_num(1.0).min())
            numbers = (float(found.correlation.abs().mean()), found.share, span, own["within"], own["between"], own["features"])
            lines.append([str(seed), name, *(f"{value:.4f}" for value in numbers)])
            if max(own["within"], own["between"]) < COLLAPSED:
                warnings.append(f"WARNING: seed {seed}: masks of {name} have become constants.")
    head = [
        "seed",
        "modality",
        "mean absolute Spearman",
        "share monotone",
        "range of class means",
        "std within",
        "between",
        "features",
    ]
    print(f"{source}\n\n{markdown([head, *lines])}\n\n" + "\n".join(warnings))
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        best = min(losses, key=lambda seed: losses[seed])
        draw_masks(chosen.out / "figure2.png", profiles, best={"lstm": best}, title=source)
        print(f"Drawn in {chosen.out / 'figure2.png'}")


if __name__ == "__main__":
    main()
