"""Facts that no other test needs: what a latch prints, packed sequences on any device, defaults of reports."""

import importlib
import inspect

import pytest
import torch
from toys import Toy

import topdown
from topdown import LatchTrace, SequenceLSTM, TopDownLatch, explain
from topdown.plots import draw_profile, plot_sample, write_page
from topdown.sequence import Padded, readable

SIZES = {"a": 3, "b": 2}


def test_a_latch_prints_who_masks_whom_and_what_trains():
    latch = TopDownLatch(Toy(SIZES), "linear")
    latch.backbone.requires_grad_(False)
    text = repr(latch)
    assert "masks 'a' by 'b'" in text
    assert "masks 'b' by 'a'" in text
    assert "trains 30 of 30 parameters of the feedback" in text  # 5 x 3 + 3 and 5 x 2 + 2
    assert "trains 0 of 47 parameters of the backbone" in text  # 3 x 5 + 5, 2 x 5 + 5 and 5 x 2 + 2


@pytest.mark.parametrize("directions", ["sum", "concatenate"])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("lengths", [None, torch.tensor([1, 4, 2])])
def test_packed_sequences_give_what_padded_ones_give(directions, bidirectional, lengths):
    """A GPU packs; the same function runs on a CPU."""
    torch.manual_seed(0)
    lstm = SequenceLSTM(3, 4, bidirectional=bidirectional, directions=directions)
    x = torch.randn(3, 4, 3)
    expected = lstm(x, lengths)
    weights = [getattr(lstm, name) for name in lstm._flat_weights_names]
    torch.testing.assert_close(lstm._packed(x, lengths, weights), expected, atol=1e-6, rtol=1e-5)


def test_lengths_on_a_device_are_not_read():
    assert readable(torch.tensor([1, 2]))
    assert not readable(torch.empty(2, dtype=torch.int64, device="meta"))


def absent_trace():
    mask = torch.full((2, 3, 4), 0.7)
    return LatchTrace(None, {"audio": mask}, {"audio": {"text": mask}}, {})


def test_an_absent_modality_is_named_in_its_panel():
    pytest.importorskip("matplotlib")
    figure = plot_sample(absent_trace(), 1, lengths={"audio": torch.tensor([3, 0])})
    assert [axes.get_title() for axes in figure.axes] == ["mask of 'audio': absent from this sample"]


def test_names_of_steps_for_another_number_of_samples_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="zip"):
        write_page(tmp_path / "page.html", absent_trace(), step_names=[{"audio": ["x", "y", "z"]}])


def test_reports_have_the_defaults_that_they_document():
    assert inspect.signature(explain).parameters["top"].default == 5
    assert inspect.signature(draw_profile).parameters["neutral"].default == 1.0


def test_lengths_of_an_encoding_hold_for_its_site_only_with_as_many_steps():
    """A site of the name of a `Padded` encoding has its lengths, or those of the call if it has other steps."""
    from topdown.batch import Batch
    from topdown.sites import Site, read_targets
    from topdown.wiring import Wiring

    batch, wiring = Batch({}, {"a": torch.tensor([4, 3])}), Wiring(None, {"a": Site("layer")}, {"a": ["a"]})
    short = batch.attach(torch.tensor([2, 1]), "a", torch.zeros(2, 2, 5), (2,))
    for steps, expected in ((2, [2, 1]), (4, [4, 3])):
        targets = read_targets(batch, {"a": ["a"]}, {"a": short}, {"a": torch.zeros(2, steps, 7)}, wiring)
        assert targets["a"].lengths.tolist() == expected
    assert isinstance(Padded(torch.zeros(1, 2, 3), None), tuple)


def test_packages_need_no_import_of_their_own():
    """A public complaint: `topdown.adapters` did not follow from `import topdown`, and dir() mixed names."""
    packages = ["adapters", "cli", "comparison", "datasets", "experiments", "plots", "training"]
    for name in packages:
        assert topdown.__getattr__(name) is importlib.import_module(f"topdown.{name}")
    with pytest.raises(AttributeError, match="module 'topdown' has no attribute 'adaptors'"):
        topdown.adaptors  # noqa: B018
    assert dir(topdown) == sorted([*topdown.__all__, *packages, "__version__"])
