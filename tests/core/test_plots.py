"""Pictures of masks, and what is said about single samples."""

import math
import re
import sys

import numpy as np
import pytest
import torch
from toys import Toy, batch

from topdown import LatchTrace, Site, TopDownLatch, explain, mask_profile
from topdown.profile import Change

pytest.importorskip("matplotlib")
from topdown.plots import plot_profile, plot_sample, write_page

SIZES = {"text": 300, "audio": 4}
INPUTS = batch(SIZES, dtype=torch.float32)
LENGTHS = torch.tensor([6, 2, 4])


def profile(masks, labels=(0, 1, 1)):
    return mask_profile([(masks, np.array(labels), LENGTHS)], classes=[0, 1])


def test_labels_may_be_numpy():
    masks = {"audio": torch.rand(3, 6, 4)}
    ours, expected = profile(masks), mask_profile([(masks, torch.tensor([0, 1, 1]), LENGTHS)], classes=[0, 1])
    assert torch.equal(ours["audio"].mean, expected["audio"].mean)


def test_profile_shows_the_values_around_neutral_and_names_the_strongest_features():
    masks = {"text": torch.full((3, 6, 300), 0.5), "audio": torch.full((3, 6, 4), 0.5)}
    masks["text"][:, :, 17], masks["text"][:, :, 200] = 0.9, 0.2
    shown = profile(masks)
    names = {"text": [f"word {i}" for i in range(300)]}
    figure = plot_profile(shown, feature_names=names, class_names=["calm", "loud"], neutral=0.5)
    text, audio, _ = figure.axes
    (image,) = text.images
    assert np.array_equal(image.get_array(), shown["text"].mean.numpy())
    assert image.norm(0.5) == pytest.approx(0.5)  # white
    assert image.norm(0.9) == pytest.approx(1.0)
    assert image.cmap(0.5)[:3] == pytest.approx((0.97, 0.97, 0.97), abs=0.02)
    labels = [label.get_text() for label in text.get_xticklabels()]
    assert {"word 17", "word 200"} <= set(labels)
    assert len(labels) <= 12
    assert [label.get_text() for label in audio.get_xticklabels()] == ["0", "1", "2", "3"]
    assert [label.get_text() for label in text.get_yticklabels()] == ["calm (N = 1)", "loud (N = 2)"]
    figure.savefig("/dev/null", format="png")


def test_classes_without_samples_and_masks_that_are_constant_are_drawn():
    shown = mask_profile([({"audio": torch.full((2, 3, 4), 0.5)}, torch.tensor([0, 0]), None)], classes=[0, 1])
    figure = plot_profile(shown, neutral=0.5)
    figure.savefig("/dev/null", format="png")
    image = figure.axes[0].images[0]
    assert np.ma.getmaskarray(image.get_array()).tolist() == [
        [False] * 4,
        [True] * 4,
    ]  # nothing is drawn where nothing is known
    assert image.norm(0.5) == pytest.approx(0.5)


def test_the_strongest_features_do_not_lie_on_one_another():
    mean = torch.full((3, 6, 300), 0.5)
    mean[:, :, 100:112] = torch.linspace(0.6, 0.7, 12)
    figure = plot_profile(profile({"text": mean}), neutral=0.5)
    ticks = figure.axes[0].get_xticks()
    assert min(np.diff(ticks)) >= 300 / 40
    assert 111 in ticks  # the strongest of its neighbours


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a"]}, r"class_names has 1 names, but must have 2: one for each of \(0, 1\)"),
        ({"feature_names": {"audio": ["a"]}}, r"feature_names\['audio'\] has 1 names, but must have 4: one for each of range"),
    ],
)
def test_missing_names_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        plot_profile(profile({"audio": torch.rand(3, 6, 4)}), **options)


def trace_of(**options):
    torch.manual_seed(0)
    return TopDownLatch(Toy({"text": 30, "audio": 4}), **options).trace(
        batch({"text": 30, "audio": 4}, dtype=torch.float32), LENGTHS
    )


def test_sample_shows_its_valid_steps_for_each_source():
    trace = trace_of(sources={"text": ["audio", "text"], "audio": ["text", "audio"]})
    words = {"audio": ["so", "be", "it", "then", "pad", "pad"]}
    figure = plot_sample(trace, 2, lengths=LENGTHS, step_names=words, feature_names={"audio": list("abcd")})
    panels = [axes for axes in figure.axes if axes.get_title() and "input" not in axes.get_title()]
    titles = [axes.get_title() for axes in panels]
    of_text, of_audio = ["mask of 'text'", "from 'audio'", "from 'text'"], ["mask of 'audio'", "from 'text'", "from 'audio'"]
    assert titles == of_text + of_audio
    by_title = dict(zip(titles[3:], panels[3:], strict=True))
    image = by_title["mask of 'audio'"].images[0].get_array()
    assert np.array_equal(image, trace.masks["audio"][2, :4].detach().T.numpy())
    source = by_title["from 'text'"].images[0].get_array()
    assert np.array_equal(source, trace.feedback["audio"]["text"][2, :4].detach().T.numpy())
    assert [t.get_text() for t in by_title["mask of 'audio'"].get_xticklabels()] == ["so", "be", "it", "then"]
    assert [t.get_text() for t in by_title["mask of 'audio'"].get_yticklabels()] == list("abcd")
    figure.savefig("/dev/null", format="png")


def test_vectors_and_images_are_shown_in_their_layout():
    sites = {"image": Site("stem", "b d h w"), "signal": Site("conv", "b d t")}
    masks = {"vector": torch.rand(2, 5), "image": torch.rand(2, 6, 3, 4), "signal": torch.rand(2, 4, 9)}
    asked = {"image": torch.rand(2, 12, 6), "signal": torch.rand(2, 1, 4)}
    feedback = {"vector": {"image": masks["vector"]}, "image": {"vector": asked["image"]}, "signal": {"image": asked["signal"]}}
    figure = plot_sample(LatchTrace(None, masks, feedback, {}, sites, 1.0), 1)
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == [f"mask of {name!r}" for name in masks]  # of one source, it is the mask
    shown = [np.array(axes.images[0].get_array()) for axes in panels]
    expected = [masks["vector"][1].unsqueeze(1), masks["image"][1].mean(0), masks["signal"][1]]
    for ours, wanted in zip(shown, expected, strict=True):
        np.testing.assert_allclose(ours, wanted.numpy(), rtol=1e-6)
    for axes in panels:  # one scale for all models: white is the neutral mask, and colours end at 0 and at twice that
        norm = axes.images[0].norm
        assert [float(norm(at)) for at in (0.0, 1.0, 2.0)] == pytest.approx([0.0, 0.5, 1.0])
        assert float(norm(1.1)) == pytest.approx(0.5 + 0.5 * math.asinh(20 * 0.1) / math.asinh(20))
    assert figure.axes[-1].get_ylabel() == "mask (white: 1, unchanged)"
    figure.savefig("/dev/null", format="png")


def test_profiles_and_changes_know_the_layout_of_sites():
    """A feature map (B, C, T) and the sequence (B, T, C) that it is."""
    sequence = torch.rand(4, 10, 3, dtype=torch.float64)
    labels, site = torch.tensor([0, 1, 0, 1]), {"x": Site("conv", "b d t")}
    expected = mask_profile([({"x": sequence}, labels, None)], [0, 1])["x"].mean
    ours = mask_profile([({"x": sequence.transpose(1, 2)}, labels, None)], [0, 1], sites=site)["x"].mean
    torch.testing.assert_close(ours, expected)
    with pytest.raises(ValueError, match=r"has shape \(4, 3, 5, 2\), which its site explains: pass sites=latch.sites"):
        mask_profile([({"x": torch.rand(4, 3, 5, 2)}, labels, None)], [0, 1])
    plain = explain(LatchTrace(None, {"x": sequence}, {"x": {"y": sequence}}, {}))
    placed = explain(LatchTrace(None, {"x": sequence.transpose(1, 2)}, {"x": {"y": sequence}}, {}, site))
    assert [[c.feature for c in s["x"]] for s in plain] == [[c.feature for c in s["x"]] for s in placed]
    with pytest.raises(ValueError, match=r"lengths name 'z', but the modalities are \['x'\]"):
        explain(LatchTrace(None, {"x": sequence}, {"x": {"y": sequence}}, {}), {"z": labels})


def test_what_is_no_trace_is_named():
    with pytest.raises(ValueError, match=r"the dict has no masks: pass what latch.trace\(\) returned"):
        plot_sample({"x": torch.rand(1, 2)}, 0)


def test_wrong_samples_and_empty_traces_are_named():
    with pytest.raises(ValueError, match="sample=3 is not among the 3 of the batch"):
        plot_sample(trace_of(), 3)
    with pytest.raises(ValueError, match=r"the LatchTrace has no masks: .*was the latch disabled"):
        plot_sample(LatchTrace(None, {}, {}, {}), 0)


def test_changes_against_the_average_by_hand():
    """Two sources, two samples; the second step of the second sample is padding."""
    first = torch.tensor([[[0.2, 0.6], [0.4, 0.6]], [[0.9, 0.5], [7.0, 7.0]]])
    second = torch.tensor([[[0.5, 0.9], [0.5, 0.7]], [[0.5, 0.1], [7.0, 7.0]]])
    trace = LatchTrace(None, {"a": (first + second) / 2}, {"a": {"b": first, "c": second}}, {})
    changes = explain(trace, torch.tensor([2, 1]), top=1)
    # Over time: b .3 .6 and .9 .5, c .5 .8 and .5 .1, so masks .4 .7 and .7 .3, on average .55 .5.
    expected = [
        [Change(1, 0.7, 0.5, "c"), Change(0, 0.4, 0.55, "b")],
        [Change(0, 0.7, 0.55, "b"), Change(1, 0.3, 0.5, "c")],
    ]
    for got, wanted in zip(changes, expected, strict=True):
        for ours, theirs in zip(got["a"], wanted, strict=True):
            assert ours.feature == theirs.feature
            assert ours.source == theirs.source
            assert (ours.mask, ours.average) == pytest.approx((theirs.mask, theirs.average), abs=1e-6)


def test_page_holds_everything(tmp_path):
    path = tmp_path / "page.html"
    write_page(path, trace_of(), samples=[0, 2], titles=["<one> & only", "two"], lengths=LENGTHS)
    page = path.read_text()
    assert page.count("src='data:image/png;base64,iVBOR") == 2
    assert "&lt;one&gt; &amp; only" in page
    assert "<one>" not in page
    assert not re.search(r"(src|href)\s*=\s*['\"]?(https?:|//)", page)
    assert page.count("<tr><td>") == 2 * (10 + 4)  # of ten, five either way
    with pytest.raises(ValueError, match="titles has 1 names, but must have 2"):
        write_page(path, trace_of(), samples=[0, 2], titles=["one"])


def test_a_missing_library_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'topdown-latch\[plots\]'"):
        plot_profile(profile({"audio": torch.rand(3, 6, 4)}))


def test_samples_that_lack_a_modality_do_not_count():
    """The third sample lacks the target, and the second its first source."""
    first = torch.tensor([[[0.8]], [[0.1]], [[0.5]]])
    second = torch.tensor([[[0.2]], [[0.6]], [[0.5]]])
    masks = torch.tensor([[[0.5]], [[0.6]], [[0.5]]])
    trace = LatchTrace(None, {"a": masks}, {"a": {"b": first, "c": second}}, {"b": first, "c": second})
    changes = explain(trace, {"a": torch.tensor([1, 1, 0]), "b": torch.tensor([1, 0, 1])})
    assert changes[2] == {}
    for sample, (mask, source) in enumerate([(0.5, "c"), (0.6, "c")]):
        (change,) = changes[sample]["a"]
        assert (change.mask, change.average) == pytest.approx((mask, 0.55))
        assert change.source == source
    plot_sample(trace, 2, lengths={"a": torch.tensor([1, 1, 0])}).savefig("/dev/null", format="png")
    with pytest.raises(ValueError, match="top=0 must be at least 1"):
        explain(trace, top=0)


def test_odd_values_and_names_are_drawn(tmp_path):
    masks = {"a": torch.tensor([[[0.5, float("inf")], [float("nan"), 0.2]]])}
    trace = LatchTrace(None, masks, {"a": {"b": masks["a"]}}, {})
    figure = plot_sample(trace, 0, step_names={"a": ["cost$_$", "$^$"]}, feature_names={"a": ["$", "b"]})
    figure.savefig("/dev/null", format="png")
    with pytest.raises(ValueError, match=r"step_names\['a'\] has 1 names, but there are 2 steps"):
        plot_sample(trace, 0, step_names={"a": ["so"]})
    write_page(tmp_path / "one.html", trace)  # of one sample: no average to compare with
    assert "<tr><td>" not in (tmp_path / "one.html").read_text()
    with pytest.raises(ValueError, match="has no masks"):
        write_page(tmp_path / "none.html", LatchTrace(None, {}, {}, {}))
    with pytest.raises(ValueError, match="there is no profile to draw"):
        plot_profile({})


@pytest.mark.parametrize("layout", ["t b d", "b d h w", "b d _ t"])
def test_samples_and_features_are_counted_in_the_layout_of_a_site(layout, tmp_path):
    site = Site("", layout)
    masks = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(0))  # (B, T, D)
    shapes = {"t b d": masks.transpose(0, 1), "b d h w": masks.transpose(1, 2).unflatten(2, (2, 3))}
    mask = shapes.get(layout, masks.transpose(1, 2).unsqueeze(2))
    trace = LatchTrace(None, {"x": mask}, {"x": {"y": masks}}, {}, {"x": site})
    profiles = mask_profile([({"x": mask}, torch.tensor([0, 1]), None)], [0, 1], sites={"x": site})
    torch.testing.assert_close(profiles["x"].mean, masks.double().mean(1))
    changes = explain(trace)
    assert len(changes) == 2
    means = masks.double().mean(1)
    assert {c.feature: pytest.approx(c.mask) for c in changes[1]["x"]} == dict(enumerate(means[1].tolist()))
    with pytest.raises(ValueError, match="sample=2 is not among the 2 of the batch"):
        plot_sample(trace, 2)
    write_page(tmp_path / "page.html", trace, feature_names={"x": ["left", "middle", "right"]})
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 2
    assert page.count("<td>right</td>") == 2


def test_changes_of_less_than_a_percent_are_called_so(tmp_path):
    """A public complaint: a mask of .843 against .843 on average was called attenuated."""
    masks = {"a": torch.tensor([[[0.843, 0.2]], [[0.8435, 0.8]]])}
    write_page(tmp_path / "page.html", LatchTrace(None, masks, {"a": {"b": masks["a"]}}, {}))
    cells = re.findall(r"<tr>((?:<td>.*?</td>)+)</tr>", (tmp_path / "page.html").read_text())
    rows = [tuple(re.findall(r"<td>(.*?)</td>", row)[1:5]) for row in cells]
    assert ("0", "0.843", "0.843", "less than 1 % apart") in rows
    assert ("1", "0.200", "0.500", "-0.300") in rows
    assert ("1", "0.800", "0.500", "+0.300") in rows


def test_a_raw_input_stands_beside_its_mask():
    """A public complaint: masks were shown without the signal that they multiply."""
    torch.manual_seed(0)
    inputs = batch({"text": 30, "audio": 4}, dtype=torch.float32)
    inputs["audio"][2, 0, 0] = 7.0
    figure = plot_sample(TopDownLatch(Toy({"text": 30, "audio": 4})).trace(inputs, LENGTHS), 2, lengths=LENGTHS)
    steps = int(LENGTHS[2])
    panels = {axes.get_title(): axes.images[0] for axes in figure.axes if axes.images and axes.get_title()}
    title = next(name for name in panels if name.startswith("input 'audio'"))
    signal, mask = panels[title], panels["mask of 'audio'"]
    assert np.array_equal(signal.get_array(), inputs["audio"][2, :steps].T.numpy())
    low = float(inputs["audio"][2, :steps].min())
    assert (signal.norm.vmin, signal.norm.vmax) == (pytest.approx(low), 7.0)
    assert title == f"input 'audio', {low:.3g} (white) to 7 (black)"
    assert signal.cmap.name == "Greys"
    assert mask.cmap.name == "RdBu_r"
    assert any(axes.get_ylabel() == "mask (white: 1, unchanged, all less than 1 % from it)" for axes in figure.axes)
    bar = next(axes for axes in figure.axes if axes.get_ylabel().startswith("mask"))
    assert bar.get_ylim() == pytest.approx((0.0, 2.0))  # the bar is that of the masks


def test_pictures_of_many_features_have_a_pixel_for_each():
    mean = torch.full((3, 6, 300), 0.5)
    wide = plot_profile(profile({"text": mean}), neutral=0.5)
    high = plot_sample(LatchTrace(None, {"text": mean}, {"text": {"audio": mean}}, {}), 0)
    for figure, side in ((wide, 0), (high, 1)):
        figure.draw_without_rendering()
        extent = figure.axes[0].get_window_extent()
        assert (extent.width, extent.height)[side] / figure.dpi * 110 >= 300  # pixels of a page


def test_a_latch_that_has_not_learned_is_white():
    """The neutral mask is 1 by default, as that of a latch."""
    figure = plot_profile(mask_profile([({"audio": torch.ones(2, 3, 4)}, torch.tensor([0, 1]), None)], classes=[0, 1]))
    (image,) = figure.axes[0].images
    assert np.allclose(image.norm(image.get_array()), 0.5)
    assert figure.axes[-1].get_ylabel() == "mean mask (white: 1)"


def test_small_changes_of_masks_are_seen_and_noise_is_not():
    for apart, expected in ((0.3, 0.8377), (0.03, 0.5771), (0.001, 0.5027)):  # 1/2 + asinh(20 apart) / (2 asinh(20))
        masks = {"a": torch.ones(2, 3, 4)}
        masks["a"][1, 2, 3] += apart
        figure = plot_sample(LatchTrace(None, masks, {"a": {"b": masks["a"]}}, {}, None, 1.0), 1)
        (image,) = figure.axes[0].images
        assert float(image.norm(1.0 + apart)) == pytest.approx(expected, abs=1e-4)
