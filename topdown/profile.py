"""What masks do: on average per class and feature, as in the paper's Fig. 2, and in single samples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topdown.batch import Batch
from topdown.masking import Masks, pool_mask
from topdown.sequence import Lengths, flatten_times, lengths_of
from topdown.sites import Sites, from_layout


class LatchTrace(NamedTuple):
    """Holds the output of one call of a latch, and the values that led to it.

    Args:
        output: Result of `fuse` after the second pass.
        masks: Mask that multiplied each target, of shape (B, T_k, D_k), or (B, D_k); at a site, in the layout of the site.
        feedback: {target: {source: mask}}: the mask of each source before masks are combined, times c, in the
            time of the target.
        encodings: Encodings r_j from which the masks were computed, 0 at padded steps: those of the last first pass.
        sites: Sites of the latch, which say how masks at sites are laid out. (Default: none)
        neutral: Mask that a single source with logits of 0 gives: 1 with start="identity", else half the scale. (Default: 0.5)
        inputs: Inputs that masks multiplied, for pictures. (Default: none)
    """

    output: Any
    masks: dict[str, Tensor]
    feedback: dict[str, dict[str, Tensor]]
    encodings: dict[str, Tensor]
    sites: Sites | None = None
    neutral: float = 0.5
    inputs: Mapping[str, Tensor] | None = None


class MaskProfile(NamedTuple):
    """Average masks of one modality.

    Args:
        mean: Mean mask of each class and feature, of shape (C, D); nan for a class without samples.
        samples: Number of samples of each class, of shape (C,).
        classes: C classes, in the order of the rows.
    """

    mean: Tensor
    samples: Tensor
    classes: tuple[int, ...]


def mask_profile(
    batches: Iterable[tuple[Masks, Any, Lengths]], classes: Sequence[int], *, sites: Sites | None = None
) -> dict[str, MaskProfile]:
    r"""Averages masks over the samples of each class.

    .. math:: \bar f_{c} = \frac{1}{N_c} \sum_{n: y_n = c} \frac{1}{T_n} \sum_{t \le T_n} f_{n,t}

    Each sample that has the modality counts once, however long it is; padded steps do not count. Sums are kept in float64, for
    data sets of any size.

    References:
        MMLatch (Paraskevopoulos et al., 2022), Fig. 2: visual masks over the test samples of seven sentiment classes.

    Args:
        batches: Triples (masks, labels, lengths): masks of shape (B, T_k, D_k) or (B, D_k) per modality, as
            `latch.masks(inputs, lengths)` returns them; integer classes of shape (B,), a tensor or an array of numpy; and the
            lengths of the batch.
        classes: Classes, such as range(-3, 4).
        sites: Sites of the latch, `latch.sites`, if it has any: they say how masks are laid out. (Default: none)

    Returns:
        A :class:`MaskProfile` per modality.

    Raises:
        ValueError: if a label is none of the classes, a class is named twice, or there is not one label per sample.

    Example:
        >>> masks = {"audio": torch.tensor([[[0.2], [0.4]], [[0.5], [0.9]]])}
        >>> profile = mask_profile([(masks, torch.tensor([0, 1]), torch.tensor([2, 1]))], classes=[0, 1])
        >>> profile["audio"].mean.flatten()
        tensor([0.3000, 0.5000], dtype=torch.float64)
    """
    if len(set(classes)) != len(classes):
        raise ValueError(f"classes={tuple(classes)} names a class twice")
    sums, counts = dict[str, Tensor](), dict[str, Tensor]()
    for masks, label_values, lengths in batches:
        labels = torch.as_tensor(label_values)
        if stray := sorted({*labels.flatten().tolist()} - {*classes}):
            raise ValueError(f"labels {stray} are not among the classes {tuple(classes)}")
        members = (labels.detach().cpu().view(-1, 1) == torch.tensor(classes, device="cpu")).to(torch.float64)
        for name, mask in masks.items():
            n = lengths_of(lengths, name)
            mask = _over_time(as_sequence(mask, name, sites), n)
            if labels.shape != (len(mask),):
                raise ValueError(f"labels have shape {tuple(labels.shape)}, but {name!r} has {len(mask)} masks: one each")
            present = members if n is None else members * (n.cpu() > 0).unsqueeze(1)
            sums[name] = sums.get(name, 0.0) + present.T @ mask
            counts[name] = counts.get(name, 0) + present.sum(0)
    return {k: MaskProfile(sums[k] / counts[k].unsqueeze(1), counts[k].to(torch.int64), tuple(classes)) for k in sums}


def as_sequence(mask: Tensor, name: str, sites: Sites | None) -> Tensor:
    """Returns a mask of any layout as a sequence (B, T, D) or vectors (B, D), in float64 on the CPU.

    Raises:
        ValueError: if it has more dimensions, and no site that names them.
    """
    mask = mask.detach().cpu().to(torch.float64)
    if sites is not None and name in sites:
        return flatten_times(from_layout(mask, sites[name]))
    if mask.dim() > 3:
        raise ValueError(f"the mask of {name!r} has shape {tuple(mask.shape)}, which its site explains: pass sites=latch.sites")
    return mask


class Change(NamedTuple):
    """Describes a feature whose mask is higher, or lower, in one sample than on average.

    Args:
        feature: Number of the feature.
        mask: Mask of the sample, averaged over its valid steps.
        average: The same, averaged over all samples.
        source: Source with the mask that differs most from its average in the same direction.
    """

    feature: int
    mask: float
    average: float
    source: str


def explain(trace: LatchTrace, lengths: Lengths = None, *, top: int = 5) -> list[dict[str, list[Change]]]:
    """Lists the features that a mask raises and lowers most in each sample, against the average of the batch, with the source.

    Args:
        trace: Result of `latch.trace(...)` for a batch of some samples.
        lengths: Lengths of the batch. (Default: None)
        top: Number of features that are raised most, and of those that are lowered most. (Default: 5)

    Returns:
        Changes per sample and target, features that are raised most first. A sample without a modality does not count, and has
        no changes for it. A batch of one sample does not differ from its average.

    Raises:
        ValueError: if lengths have an entry that is neither target nor source, or `top` is less than 1.

    Example:
        >>> masks = {"audio": torch.tensor([[[0.2, 0.5]], [[0.8, 0.5]]])}
        >>> trace = LatchTrace(None, masks, {"audio": {"text": masks["audio"]}}, {})
        >>> explain(trace, top=1)[1]["audio"][0]
        Change(feature=0, mask=0.8000..., average=0.5000..., source='text')
    """
    if top < 1:
        raise ValueError(f"top={top} must be at least 1")
    Batch({}, lengths).check_names([*trace.masks, *trace.encodings])
    sequences = {target: as_sequence(mask, target, trace.sites) for target, mask in trace.masks.items()}
    changes: list[dict[str, list[Change]]] = [{} for _ in next(iter(sequences.values()), ())]
    for target, mask in sequences.items():
        n = lengths_of(lengths, target)
        by_source = {j: _over_time(f.detach().double().cpu(), n) for j, f in trace.feedback[target].items()}
        pooled, marks = _over_time(mask, n), _present(n, mask)
        present = {j: _present(lengths_of(lengths, j), mask) & marks for j in by_source}
        averages = {j: f[present[j]].mean(0) for j, f in by_source.items()}
        average = pooled[marks].mean(0)
        for sample in marks.nonzero().flatten().tolist():
            apart = pooled[sample] - average
            order = apart.argsort(descending=True, stable=True).tolist()
            chosen = order if len(order) <= 2 * top else order[:top] + order[-top:]
            along = {j: (f[sample] - averages[j]) * apart for j, f in by_source.items() if present[j][sample]}
            most = {d: max(along, key=lambda j: along[j][d], default="") for d in chosen}
            changes[sample][target] = [Change(d, float(pooled[sample, d]), float(average[d]), most[d]) for d in chosen]
    return changes


def _present(lengths: Tensor | None, mask: Tensor) -> Tensor:
    return torch.ones(len(mask), dtype=torch.bool, device="cpu") if lengths is None else lengths.cpu() > 0


def _over_time(mask: Tensor, lengths: Tensor | None) -> Tensor:
    """Averages a mask (B, T, D) over valid steps; one of a single step, or without time, holds for all of them."""
    return mask if mask.dim() == 2 else pool_mask(mask, lengths if mask.shape[1] > 1 else None).squeeze(1)
