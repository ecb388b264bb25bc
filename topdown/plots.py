"""Pictures of masks: on average per class, and in single samples. Needs the extra `plots`."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from topdown.files import require, write_text
from topdown.masks import LatchTrace
from topdown.profile import MaskProfile, as_sequence, explain
from topdown.sequence import Lengths, lengths_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Names = Mapping[str, Sequence[str]]
COLOURS = "RdBu_r"  # red where a mask keeps more than the neutral one, blue where less, white between
SHOWN = 12  # features that are named, of many


def plot_profile(
    profile: Mapping[str, MaskProfile],
    *,
    feature_names: Names | None = None,
    class_names: Sequence[str] | None = None,
    neutral: float = 0.5,
) -> Figure:
    """Draws the mean mask per class and feature, as the paper's Fig. 2: one panel per modality, classes over features.

    Args:
        profile: Result of :func:`topdown.mask_profile`.
        feature_names: Names of features per modality; of more than 12 those alone are shown that are farthest from neutral.
            (Default: their numbers)
        class_names: Names of the classes, in their order. (Default: the classes)
        neutral: Mask that changes nothing in what matters, the middle of the colours: 1/2 for masks in (0, 1), 1 for those
            of a latch with start="identity" or scale=2. (Default: 0.5)

    Returns:
        Figure of matplotlib, with `savefig`.

    Raises:
        ValueError: if there are not as many names as features or classes.
        ImportError: without the extra `plots`.
    """
    if not profile:
        raise ValueError("there is no profile to draw: did the latch make any masks?")
    figure: Figure = _figure(6.5, 0.9 + sum(0.9 + 0.28 * len(p.classes) for p in profile.values()))
    grid = figure.subplots(len(profile), 1, squeeze=False)
    limit = _limit([p.mean for p in profile.values()], neutral)
    for (axes,), (name, p) in zip(grid, profile.items(), strict=True):
        image = draw_profile(axes, p, title=f"mean masks of {name!r}", limit=limit, neutral=neutral, class_names=class_names)
        _name_features(
            axes.set_xticks, p.mean.T, neutral, _names_of(feature_names, name, p.mean.shape[1]), rotation=45, ha="right"
        )
    figure.colorbar(image, ax=grid, label=f"mean mask (white: {neutral:g})")
    return figure


def draw_profile(
    axes: Any,
    profile: MaskProfile,
    *,
    title: str,
    limit: float,
    neutral: float = 0.5,
    class_names: Sequence[str] | None = None,
) -> Any:
    """Draws one modality of :func:`plot_profile` into axes of matplotlib, and returns the image.

    Args:
        axes: Axes.
        profile: Masks of a modality.
        title: Title.
        limit: Distance from neutral at which colours end.
        neutral: Middle of the colours. (Default: 0.5)
        class_names: Names of the classes. (Default: the classes)
    """
    names = [str(label) for label in profile.classes] if class_names is None else [_plain(name) for name in class_names]
    if len(names) != len(profile.classes):
        raise ValueError(f"there are {len(names)} class_names, but {len(profile.classes)} classes: {list(profile.classes)}")
    rows = [f"{name} (N = {count})" for name, count in zip(names, profile.samples.tolist(), strict=True)]
    image = _draw(axes, profile.mean, neutral, limit)
    axes.set_yticks(range(len(rows)), rows, fontsize=7)
    axes.set_title(title, fontsize=9)
    return image


def plot_sample(
    trace: LatchTrace,
    sample: int,
    *,
    lengths: Lengths = None,
    step_names: Names | None = None,
    feature_names: Names | None = None,
) -> Figure:
    """Draws the masks of one sample: a row per target, with its mask and what each source asked for; steps on the axis.

    Args:
        trace: Result of `latch.trace(...)`.
        sample: Number of the sample in the batch.
        lengths: Lengths of the batch, as the latch was given them; padding is not shown. (Default: None)
        step_names: Names of the steps per target, such as the words of a sentence. (Default: their numbers)
        feature_names: Names of features per target; see :func:`plot_profile`. (Default: their numbers)

    Returns:
        Figure of matplotlib, with `savefig`. Where a site has two dimensions of time, as the positions of an image, they are
        shown as an image, averaged over features.

    Raises:
        TypeError: if it is no trace.
        ValueError: if there is no mask, no such sample, or too few names.
        ImportError: without the extra `plots`.
    """
    if not isinstance(trace, LatchTrace):
        raise TypeError(f"plot_sample takes what latch.trace(...) returns, got {type(trace).__name__}")
    if not trace.masks:
        raise ValueError("the trace has no masks: was the latch disabled?")
    columns = 1 + max(len(by_source) for by_source in trace.feedback.values())
    figure: Figure = _figure(4.5 * columns, 0.3 + 2.8 * len(trace.masks))
    grid = figure.subplots(len(trace.masks), columns, squeeze=False)
    for row, (target, mask) in zip(grid, trace.masks.items(), strict=True):
        if not -len(mask) <= sample < len(mask):
            raise ValueError(f"sample={sample} is not among the {len(mask)} of the batch")
        known, site = lengths_of(lengths, target), trace.sites.get(target)
        image = site.grid(mask) if site is not None and len(site.grid(mask)) == 2 else None
        panels = {f"mask of {target!r}": (as_sequence(mask, target, trace.sites), trace.neutral)}
        panels |= {f"asked for by {source!r}": (f, 0.5) for source, f in trace.feedback[target].items()}
        for axes, (title, (values, middle)) in zip(row, panels.items(), strict=False):
            steps = None if known is None or values.dim() != 3 or values.shape[1] == 1 else int(known[sample])
            shown = _of_sample(values, sample, steps)
            if shown.shape[1] == 0:
                axes.set_axis_off()
                axes.set_title(f"{title}: missing in this sample", fontsize=9)
                continue
            as_image = image is not None and shown.shape[1] == image[0] * image[1]
            picture = shown.mean(0).view(image) if as_image and image is not None else shown
            figure.colorbar(_draw(axes, picture, middle, _limit([picture], middle)), ax=axes)
            axes.set_title(title, fontsize=9)
            if as_image:
                continue
            _name_features(axes.set_yticks, shown, middle, _names_of(feature_names, target, len(shown)), room=16)
            if step_names is not None and target in step_names and shown.shape[1] > 1:
                named = [_plain(name) for name in step_names[target]][: shown.shape[1]]
                if len(named) < shown.shape[1]:
                    raise ValueError(f"step_names[{target!r}] has {len(named)} names, but there are {shown.shape[1]} steps")
                axes.set_xticks(range(len(named)), named, fontsize=7, rotation=60, ha="right")
            elif shown.shape[1] > 1:
                axes.set_xlabel("step", fontsize=8)
            else:
                axes.set_xticks([0], ["all steps"], fontsize=7)
        for axes in row[len(panels) :]:
            axes.set_axis_off()
    return figure


def write_page(
    path: str | Path,
    trace: LatchTrace,
    *,
    samples: Sequence[int] | None = None,
    titles: Sequence[str] | None = None,
    lengths: Lengths = None,
    step_names: Sequence[Names] | None = None,
    feature_names: Names | None = None,
    top: int = 5,
) -> None:
    """Writes one HTML page, with everything in it, of some samples: their masks, and what these kept and took away.

    Args:
        path: Path of the page.
        trace: Result of `latch.trace(...)`.
        samples: Numbers of the samples. (Default: all of the batch)
        titles: Title of each of these samples, such as its text, label and prediction. (Default: their numbers)
        lengths: Lengths of the batch. (Default: None)
        step_names: Names of the steps per target, for each of these samples. (Default: their numbers)
        feature_names: Names of features per target. (Default: their numbers)
        top: Features that are listed for each target, both ways. (Default: 5)

    Raises:
        ValueError: as :func:`plot_sample`, or if there are not as many titles as samples.
        ImportError: without the extra `plots`.
    """
    if not trace.masks:
        raise ValueError("the trace has no masks: was the latch disabled?")
    chosen = list(range(len(next(iter(trace.masks.values()))))) if samples is None else list(samples)
    heads = [f"Sample {sample}" for sample in chosen] if titles is None else list(titles)
    if len(heads) != len(chosen):
        raise ValueError(f"there are {len(heads)} titles for {len(chosen)} samples")
    changes = explain(trace, lengths, top=top)
    sections = []
    for i, (sample, head) in enumerate(zip(chosen, heads, strict=True)):
        names = None if step_names is None else step_names[i]
        figure = plot_sample(trace, sample, lengths=lengths, step_names=names, feature_names=feature_names)
        rows = "".join(
            f"<tr><td>{html.escape(target)}</td><td>{html.escape(_feature(feature_names, target, c.feature))}</td>"
            f"<td>{c.mask:.3f}</td><td>{c.average:.3f}</td><td>{'kept' if c.mask > c.average else 'attenuated'}</td>"
            f"<td>{html.escape(c.source)}</td></tr>"
            for target, listed in (changes[sample].items() if len(changes) > 1 else ())
            for c in listed
        )
        sections.append(
            f"<section><h2>{html.escape(head)}</h2><div class=wide>{picture(figure, f'masks of {head}')}</div>"
            f"<div class=wide><table><tr><th>target<th>feature<th>mask<th>average"
            f"<th>against the average<th>most by</tr>{rows}</table></div></section>"
        )
    write_text(Path(path), PAGE.replace("SECTIONS", "\n".join(sections)))


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Masks</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; color: #222 }
section { border-top: 1px solid #ccc; padding: 1rem 0 } h2 { font-size: 1.1rem } img { width: 100%; min-width: 44rem }
.wide { overflow-x: auto } table { border-collapse: collapse } th, td { padding: .2rem .7rem; text-align: left }
tr:nth-child(even) { background: #f4f4f4 }
</style>
<h1>What the model was allowed to see</h1>
<p>Red: a feature is kept more than a neutral mask would keep it; blue: less.
The tables compare with the average of all samples.</p>
SECTIONS
</html>
"""


def picture(figure: Any, alt: str) -> str:
    """Returns a figure as an HTML element that needs no other file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    data = base64.b64encode(file.getvalue()).decode()
    return f"<img alt='{html.escape(alt, quote=True)}' src='data:image/png;base64,{data}'>"


def _figure(width: float, height: float) -> Any:
    return require("matplotlib.figure", "plots").Figure(figsize=(width, height), layout="constrained")


def _draw(axes: Any, values: Tensor, neutral: float, limit: float) -> Any:
    limits = {"vmin": neutral - limit, "vmax": neutral + limit}
    return axes.imshow(values.numpy(), aspect="auto", interpolation="nearest", cmap=COLOURS, **limits)


def _limit(values: Sequence[Tensor], neutral: float) -> float:
    """Returns the largest distance from neutral; one scale for all, or noise in one panel looks like structure in another."""
    distances = torch.cat([(v.double() - neutral).abs().flatten() for v in values])
    return max(float(distances.nan_to_num(0.0, posinf=0.0).max()), 1e-6)


def _of_sample(values: Tensor, sample: int, steps: int | None) -> Tensor:
    """Returns what is shown of a sample: features over valid steps."""
    shown = values[sample].detach().float().cpu()
    return (shown.unsqueeze(0) if shown.dim() == 1 else shown[:steps]).T


def _name_features(ticks: Any, values: Tensor, neutral: float, names: Sequence[str], room: int = 40, **style: Any) -> None:
    """Names features, of shape (D, ...), all of them if they are few, or those that are farthest from neutral.

    Args:
        ticks: Function that sets the ticks.
        values: Masks.
        neutral: Mask from which distances are measured.
        names: Names of all features.
        room: Number of names for which there would be room side by side.
        style: Style of the names.
    """
    strength = (values.double() - neutral).abs().nan_to_num(0.0).amax(1)
    chosen = sorted(strength.topk(min(SHOWN, len(names))).indices.tolist())
    gap = len(names) / room  # neighbours whose names would lie on one another
    apart: list[int] = []
    for feature in sorted(chosen, key=lambda d: -float(strength[d])):
        if all(abs(feature - other) >= gap for other in apart):
            apart.append(feature)
    apart.sort()
    ticks(apart, [names[feature] for feature in apart], fontsize=7, **style)


def _names_of(names: Names | None, target: str, count: int) -> list[str]:
    given = None if names is None else names.get(target)
    if given is not None and len(given) != count:
        raise ValueError(f"feature_names[{target!r}] has {len(given)} names, but there are {count} features")
    return [str(feature) for feature in range(count)] if given is None else [_plain(name) for name in given]


def _plain(name: str) -> str:
    """Returns a name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")


def _feature(names: Names | None, target: str, feature: int) -> str:
    return str(feature) if names is None or target not in names else names[target][feature]
