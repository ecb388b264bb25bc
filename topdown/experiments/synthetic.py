r"""Generates a stand-in for CMU-MOSEI, in which other modalities determine which features of a modality are informative.

Sizes (300, 74, 35), lengths and labels are like those of word-aligned MOSEI; the content is planted. Every sample has a
sentiment y and, for every modality k, a code :math:`c_k \in \{0, 1, 2\}`, drawn independently. The features of k are

- a tenth that shows :math:`c_k` itself,
- two halves, one per other modality j. Each half is cut into three groups of features. Group number :math:`c_j` carries
  the sentiment as modality k sees it, :math:`y + \eta_k`; each of the other two carries the sentiment of a stranger, drawn
  from the same distribution,
- noise in what remains, and on top of everything.

With `unaligned`, audio and visual have a random number of steps for each word of text; nothing else changes.

No modality alone tells which of its features are reliable; the others do. A feature is *relevant* when it
shows a code or carries the true sentiment; an oracle multiplies all others by zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from topdown.datasets.data import SequenceDataset
from topdown.datasets.unpadded import Ragged

SIZES = {"text": 300, "audio": 74, "visual": 35}
RATES = {"text": 1, "audio": 4, "visual": 3}  # steps for each word, when unaligned
GROUPS = 3
AMPLITUDE = 0.5  # amplitude of the planted patterns; noise has standard deviation 1 at each step
VIEW_NOISE = 0.7  # standard deviation of eta_k, by which the modalities disagree about the sentiment of a sample
DISCLAIMER = "SYNTHETIC DATA: a stand-in for CMU-MOSEI with planted structure; no figure here says anything about MOSEI."


class Synthetic(NamedTuple):
    """Holds the splits and the planted relevance: {split: {modality: (N, D_k)}}, 1 where a feature is relevant, else 0."""

    splits: dict[str, SequenceDataset]
    relevance: dict[str, dict[str, Tensor]]


def synthetic_splits(samples: tuple[int, int, int] = (1000, 200, 400), *, seed: int = 0, unaligned: bool = False) -> Synthetic:
    """Generates the three splits.

    Args:
        samples: Number of samples for train, valid and test.
        seed: Random seed; the same data for the same seed.
        unaligned: Whether audio has about 4 and visual about 3 steps for each word. (Default: False, one for each)

    Returns:
        Splits, with labels as in MOSEI (multiples of 1/3 in [-3, 3], a fifth of them exactly 0) and aligned modalities, and
        the relevance of each feature in each sample.

    Example:
        >>> splits, relevance = synthetic_splits((8, 2, 2))
        >>> splits["train"].sizes
        {'text': 300, 'audio': 74, 'visual': 35}
        >>> relevance["train"]["audio"].shape
        torch.Size([8, 74])
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    patterns = {k: torch.randint(0, 2, (size,), generator=generator, device="cpu") * 2.0 - 1 for k, size in SIZES.items()}
    generated = {
        split: _split(count, patterns, generator, unaligned)
        for split, count in zip(("train", "valid", "test"), samples, strict=True)
    }
    return Synthetic({k: data for k, (data, _) in generated.items()}, {k: relevant for k, (_, relevant) in generated.items()})


def feature_groups(name: str) -> Tensor:
    """Returns the role of each feature of a modality.

    Returns:
        Numbers of shape (D_k, 2): the modality whose code decides on the feature, and the value of the code for which it is
        informative. A feature that shows the code of its own modality has its own number and the value that it shows;
        noise has (-1, -1).

    Example:
        >>> feature_groups("visual")[:6].tolist()
        [[2, 0], [2, 1], [2, 2], [0, 0], [0, 0], [0, 0]]
    """
    names = list(SIZES)
    index = names.index(name)
    shown = max(GROUPS, SIZES[name] // 10 // GROUPS * GROUPS)
    group = (SIZES[name] - shown) // ((len(names) - 1) * GROUPS)
    rows = [[index, value] for value in range(GROUPS) for _ in range(shown // GROUPS)]
    rows += [[j, value] for j in range(len(names)) if j != index for value in range(GROUPS) for _ in range(group)]
    rows += [[-1, -1]] * (SIZES[name] - len(rows))
    return torch.tensor(rows, device="cpu")


def _sentiment(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    thirds = ((torch.randn(shape, generator=generator, device="cpu") * 1.15 + 0.35) * 3).round()
    thirds = torch.where(thirds == 0, torch.randint(0, 2, shape, generator=generator, device="cpu") * 2.0 - 1, thirds)
    neutral = torch.rand(shape, generator=generator, device="cpu") < 0.2
    return torch.where(neutral, 0.0, thirds / 3).clamp(-3, 3)


def _split(
    count: int, patterns: dict[str, Tensor], generator: torch.Generator, unaligned: bool
) -> tuple[SequenceDataset, dict[str, Tensor]]:
    labels = _sentiment((count,), generator)
    codes = torch.randint(0, GROUPS, (count, len(SIZES)), generator=generator, device="cpu")
    words = torch.exp(torch.randn(count, generator=generator, device="cpu") * 0.55 + 2.9).round().clamp(1, 50).long()
    sequences, relevance = {}, {}
    for index, (name, size) in enumerate(SIZES.items()):
        decider, value = feature_groups(name).T
        matches = codes[:, decider.clamp(min=0)] == value  # (N, D_k)
        view = labels + torch.randn(count, generator=generator, device="cpu") * VIEW_NOISE
        # One stranger for each group of features, as there is one sentiment for each group.
        strangers = _sentiment((count, len(SIZES), GROUPS), generator)[:, decider.clamp(min=0), value.clamp(min=0)]
        carried = torch.where(matches, view.unsqueeze(1), strangers)
        carried = torch.where(decider == index, matches * 2.0 - 1, carried).masked_fill(decider < 0, 0.0)
        lengths = words
        if unaligned and RATES[name] > 1:
            lengths = words * RATES[name] + torch.randint(
                1 - RATES[name], RATES[name], (count,), generator=generator, device="cpu"
            )
        mean = AMPLITUDE * carried * patterns[name]
        noise = torch.randn(int(lengths.sum()), size, generator=generator, device="cpu")
        sequences[name] = Ragged.packed(mean.repeat_interleave(lengths, 0) + noise, lengths)
        relevance[name] = ((decider == index) | (matches & (decider >= 0))).float()
    data = SequenceDataset(sequences, {}, labels)
    data.report["synthetic"] = True
    return data, relevance
