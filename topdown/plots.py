"""Pictures of masks: on average per class, and in single samples. Needs the extra `plots`."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from topdown.files import require, write_text
from topdown.profile import LatchTrace, MaskProfile, as_sequence, explain
from topdown.sequence import Lengths, lengths_of
from topdown.sites import from_layout

Labels: TypeAlias = Sequence[object] | None
Names: TypeAlias = Mapping[str, Sequence[object]] | None


def plot_profile(
    profile: Mapping[str, MaskProfile], *, feature_names: Names = None, class_names: Labels = None, neutral: float = 1.0
) -> Any:
    """Draws the mean mask per class and feature, as the paper's Fig. 2: one panel per modality, classes over features.

    Args:
        profile: Result of :func:`topdown.mask_profile`.
        feature_names: Names of features per modality; of more than 12, those farthest from neutral are shown.
            (Default: their numbers)
        class_names: Names of the classes, in their order. (Default: the classes)
        neutral: Mask in the middle of the colours: 1 for a latch with start="identity" or scale=2, 1/2 for start="random".
            (Default: 1)

    Returns:
        Figure of matplotlib, with `savefig`.

    Raises:
        ValueError: if there are not as many names as features or classes.
        ImportError: without the extra `plots`.
    """
    if not profile:
        raise ValueError("there is no profile to draw: did the latch make any masks?")
    figure = _figure(6.5, 0.9 + sum(0.9 + 0.28 * len(p.classes) for p in profile.values()))
    grid = figure.subplots(len(profile), 1, squeeze=False)
    limit = max(1e-6, *(float((p.mean - neutral).abs().nan_to_num(0.0, posinf=0.0).max()) for p in profile.values()))
    for (axes,), (name, p) in zip(grid, profile.items(), strict=True):
        image = draw_profile(axes, p, title=f"mean masks of {name!r}", limit=limit, neutral=neutral, class_names=class_names)
        names = _names_of((feature_names or {}).get(name), range(p.mean.shape[1]), f"feature_names[{name!r}]")
        _name_features(axes.set_xticks, p.mean.T, neutral, names, 40, rotation=45, ha="right")
    figure.colorbar(image, ax=grid, label=f"mean mask (white: {neutral:g})")
    return figure


def draw_profile(
    axes: Any, profile: MaskProfile, *, title: str, limit: float, neutral: float = 1.0, class_names: Labels = None
) -> Any:
    """Draws one modality of :func:`plot_profile` into axes of matplotlib, and returns the image.

    Args:
        axes: Axes.
        profile: Masks of a modality.
        title: Title.
        limit: Distance from neutral at which colours end.
        neutral: Middle of the colours. (Default: 1)
        class_names: Names of the classes. (Default: the classes)
    """
    names = _names_of(class_names, profile.classes, "class_names")
    rows = [f"{name} (N = {count})" for name, count in zip(names, profile.samples.tolist(), strict=True)]
    axes.set_yticks(range(len(rows)), rows, fontsize=7, parse_math=False)
    return _draw(axes, profile.mean, title, require("matplotlib.colors", "plots").Normalize(neutral - limit, neutral + limit))


def plot_sample(
    trace: LatchTrace, sample: int, *, lengths: Lengths = None, step_names: Names = None, feature_names: Names = None
) -> Any:
    """Draws the masks of one sample: a row per target, with its mask, and that of each source where there are several.

    Steps are on the axis. A raw input stands beside its masks, in grey. All masks have one scale, from 0 through the neutral
    mask, which is white, to twice that, so that pictures of several models can be compared. A distance d from the neutral mask
    n is drawn as asinh(20 d / n), so that small ones are seen.

    Args:
        trace: Result of `latch.trace(...)`.
        sample: Number of the sample in the batch.
        lengths: Lengths of the batch, as the latch got them; padding is not shown. (Default: None)
        step_names: Names of the steps per target, such as the words of a sentence. (Default: their numbers)
        feature_names: Names of features per target; see :func:`plot_profile`. (Default: their numbers)

    Returns:
        Figure of matplotlib, with `savefig`. Where a site has two dimensions of time, as the positions of an image, they are
        shown as an image, averaged over features.

    Raises:
        ValueError: if it is not a trace, or there is no mask, no such sample, or too few names.
        ImportError: without the extra `plots`.
    """
    if not -(samples := _count_samples(trace)) <= sample < samples:
        raise ValueError(f"sample={sample} is not among the {samples} of the batch")
    neutral, inputs, sites = trace.neutral, trace.inputs or {}, trace.sites or {}
    columns = max(1 + bool(inputs) + len(f) * (len(f) > 1) for f in trace.feedback.values())
    height = max(2.8, *(min(6.0, f.shape[-1] / 50) for by_source in trace.feedback.values() for f in by_source.values()))
    figure = _figure(0.8 + 4.5 * columns, 0.3 + height * len(trace.masks))
    apart = max(0.0, *(float((m.detach() - neutral).abs().nan_to_num(0.0, 0.0).max()) for m in trace.masks.values()))
    meaning = ", unchanged" * (neutral == 1) + ", all less than 1 % from it" * (apart < 0.01 * neutral)
    for row, (target, mask) in enumerate(trace.masks.items()):
        counts, positions = lengths_of(lengths, target), from_layout(mask, sites[target]).shape[1:-1] if target in sites else ()
        panels = {f"mask of {target!r}": as_sequence(mask, target, trace.sites)}
        panels |= {f"from {j!r}": f for j, f in trace.feedback[target].items() if len(trace.feedback[target]) > 1}
        panels |= {f"input {target!r}": inputs[target]} if target in inputs else {}
        for column, (title, values) in enumerate(panels.items()):
            axes = figure.add_subplot(len(trace.masks), columns, row * columns + column + 1)
            x = torch.atleast_2d(values[sample].detach().float().cpu())
            shown = (x if counts is None or len(x) == 1 else x[: int(counts[sample])]).T  # features over steps
            if (n := shown.shape[1]) == 0:
                axes.set_title(f"{title}: absent from this sample", fontsize=9, parse_math=False)
                axes.set_axis_off()
                continue
            as_image = len(positions) == 2 and n == positions[0] * positions[1]
            scale = None if values is inputs.get(target) else _scale(neutral)
            _draw(axes, shown.mean(0).view(positions) if as_image else shown, title, scale)
            if not as_image:
                names = _names_of((feature_names or {}).get(target), range(len(shown)), f"feature_names[{target!r}]")
                _name_features(axes.set_yticks, shown, neutral if scale else float(shown.mean()), names, 16)
                axes.set(xlabel="step", ylabel="feature")
                steps = ["all steps"] if n == 1 else (step_names or {}).get(target)
                if steps is not None and len(steps) < n:
                    raise ValueError(f"step_names[{target!r}] has {len(steps)} names, but there are {n} steps")
                if steps is not None:
                    axes.set_xticks(range(n), map(str, steps[:n]), fontsize=7, rotation=60, ha="right", parse_math=False)
    if images := [image for axes in figure.axes for image in axes.images]:
        figure.colorbar(images[0], ax=figure.axes, label=f"mask (white: {neutral:g}{meaning})")
    return figure


def write_page(
    path: str | Path,
    trace: LatchTrace,
    *,
    samples: Sequence[int] | None = None,
    titles: Sequence[str] | None = None,
    lengths: Lengths = None,
    step_names: Sequence[Names] | None = None,
    feature_names: Names = None,
) -> None:
    """Writes one self-contained HTML page of samples: their masks, and the features that differ most from the average.

    Args:
        path: Path of the page.
        trace: Result of `latch.trace(...)`.
        samples: Numbers of the samples. (Default: all of the batch)
        titles: Title of each of these samples, such as its text, label and prediction. (Default: their numbers)
        lengths: Lengths of the batch. (Default: None)
        step_names: Names of the steps per target, for each of these samples. (Default: their numbers)
        feature_names: Names of features per target. (Default: their numbers)

    Raises:
        ValueError: as :func:`plot_sample`, or if there are not as many titles as samples.
        ImportError: without the extra `plots`.
    """
    count = _count_samples(trace)
    chosen = range(count) if samples is None else samples
    heads = _names_of(titles, [f"Sample {sample}" for sample in chosen], "titles")
    changes, sections = explain(trace, lengths), []
    for sample, head, names in zip(chosen, heads, step_names or [None] * len(chosen), strict=True):
        figure = plot_sample(trace, sample, lengths=lengths, step_names=names, feature_names=feature_names)
        rows = "<tr><th>target<th>feature<th>mask<th>average<th>against the average<th>most by</tr>"
        for target, c in [(k, c) for k, listed in changes[sample].items() for c in listed if count > 1]:
            feature = dict(enumerate((feature_names or {}).get(target, ()))).get(c.feature, c.feature)
            apart = "less than 1 % apart" if abs(c.mask - c.average) < 0.01 * trace.neutral else f"{c.mask - c.average:+.3f}"
            cells = (target, feature, f"{c.mask:.3f}", f"{c.average:.3f}", apart, c.source)
            rows += "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>"
        body = f"<div class=wide>{picture(figure, f'masks of {head}')}</div><div class=wide><table>{rows}</table></div>"
        sections.append(f"<section><h2>{html.escape(head)}</h2>{body}</section>")
    write_text(Path(path), Path(__file__).with_name("page.html").read_text("utf-8").replace("SECTIONS", "\n".join(sections)))


def picture(figure: Any, alt: str) -> str:
    """Returns a figure as an HTML element that needs no other file."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f"<img alt='{html.escape(alt)}' src='data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'>"


def _count_samples(trace: LatchTrace) -> int:
    if not (masks := getattr(trace, "masks", None)):
        raise ValueError(f"the {type(trace).__name__} has no masks: pass what latch.trace() returned; was the latch disabled?")
    return next(len(as_sequence(mask, name, trace.sites)) for name, mask in masks.items())


def _figure(width: float, height: float) -> Any:
    return require("matplotlib.figure", "plots").Figure(figsize=(width, height), layout="constrained")


def _scale(neutral: float) -> Any:
    """Returns the scale of colours of masks: see :func:`plot_sample`."""
    stretch = (lambda v: np.arcsinh(20 * (v / neutral - 1)), lambda v: neutral * (1 + np.sinh(v) / 20))
    return require("matplotlib.colors", "plots").FuncNorm(stretch, vmin=0.0, vmax=2 * neutral)


def _draw(axes: Any, x: Tensor, title: str, scale: Any) -> Any:
    """Draws masks in a scale, from blue over white to red; or an input, from its lowest value to its highest, in grey."""
    low, high = [float(extreme) for extreme in x.nan_to_num(0.0, 0.0, 0.0).aminmax()]
    title = title if scale else f"{title}, {low:.3g} (white) to {high:.3g} (black)"
    norm = scale or require("matplotlib.colors", "plots").Normalize(low, high)
    axes.set_title(title, fontsize=9, parse_math=False)  # names are not formulas
    return axes.imshow(x.numpy(), "RdBu_r" if scale else "Greys", norm=norm, aspect="auto", interpolation="nearest")


def _name_features(ticks: Any, values: Tensor, neutral: float, names: Sequence[str], room: int, **style: Any) -> None:
    """Names features, of shape (D, ...), all of them if they are few, or those that are farthest from neutral.

    Args:
        ticks: Function that sets the ticks.
        values: Masks.
        neutral: Mask from which distances are measured.
        names: Names of all features.
        room: Number of names for which there would be room side by side.
        style: Style of the names.
    """
    apart: list[int] = []
    for feature in (values.double() - neutral).abs().nan_to_num(0.0).amax(1).topk(min(12, len(names))).indices.tolist():
        if all(abs(feature - other) >= len(names) / room for other in apart):  # or their names would lie on one another
            apart.append(feature)
    ticks(sorted(apart), [names[feature] for feature in sorted(apart)], fontsize=7, parse_math=False, **style)


def _names_of(names: Labels, values: Sequence[object], option: str) -> list[str]:
    labels = values if names is None else names
    if len(labels) != len(values):
        raise ValueError(f"{option} has {len(labels)} names, but must have {len(values)}: one for each of {values}")
    return [str(label) for label in labels]
