import pytest
import torch

from topdown import LatchTrace, explain, mask_profile


def test_means_over_valid_steps_then_over_samples_then_over_batches():
    masks = {
        "audio": torch.tensor([[[0.2, 1.0], [0.4, 0.0]], [[0.5, 0.5], [9.0, 9.0]]]),
        "patient": torch.tensor([[0.1], [0.3]]),
    }
    lengths = {"audio": torch.tensor([2, 1])}
    more = {"audio": torch.tensor([[[0.9, 0.7]]]), "patient": torch.tensor([[0.5]])}
    batches = [(masks, torch.tensor([-1, 2]), lengths), (more, torch.tensor([-1]), None)]
    profile = mask_profile(batches, range(-1, 3))
    # class -1: samples with means (0.3, 0.5) and (0.9, 0.7); class 2: one sample, one valid step
    torch.testing.assert_close(profile["audio"].mean[0], torch.tensor([0.6, 0.6], dtype=torch.float64))
    torch.testing.assert_close(profile["audio"].mean[3], torch.tensor([0.5, 0.5], dtype=torch.float64))
    assert profile["audio"].mean[1:3].isnan().all()
    assert profile["audio"].samples.tolist() == [2, 0, 0, 1]
    torch.testing.assert_close(profile["patient"].mean[[0, 3], 0], torch.tensor([0.3, 0.3], dtype=torch.float64))
    assert profile["audio"].classes == (-1, 0, 1, 2)


def test_errors():
    batch = ({"a": torch.zeros(2, 1)}, torch.tensor([0, 5]), None)
    with pytest.raises(ValueError, match=r"labels \[5\] are not among the classes \(0, 1\)"):
        mask_profile([batch], [0, 1])
    for labels in (torch.tensor([[0], [1]]), torch.tensor([0])):
        with pytest.raises(ValueError, match=r"labels have shape .*, but 'a' has 2 masks: one each"):
            mask_profile([(batch[0], labels, None)], [0, 1])
    with pytest.raises(ValueError, match="names a class twice"):
        mask_profile([batch], [0, 0])


def test_samples_that_lack_the_modality_do_not_count():
    masks = {"audio": torch.full((3, 2, 1), 0.5), "age": torch.full((3, 1), 0.5)}
    lengths = {"audio": torch.tensor([2, 0, 1]), "age": torch.tensor([1, 1, 0])}
    profile = mask_profile([(masks, torch.tensor([0, 0, 0]), lengths)], classes=[0])
    for name in masks:
        assert profile[name].mean.tolist() == [[0.5]]
        assert profile[name].samples.tolist() == [2]


def test_samples_without_the_target_do_not_count_in_the_averages_of_its_sources():
    masks = {"audio": torch.tensor([0.6, 0.4, 1.0]).view(3, 1, 1)}
    feedback = {"text": torch.tensor([0.5, 0.5, 0.0]).view(3, 1, 1), "visual": torch.tensor([0.7, 0.3, 1.0]).view(3, 1, 1)}
    trace = LatchTrace(None, masks, {"audio": feedback}, {})
    (change,) = explain(trace, {"audio": torch.tensor([1, 1, 0])}, top=1)[0]["audio"]
    assert (change.mask, change.average) == (pytest.approx(0.6), pytest.approx(0.5))
    assert change.source == "visual"  # .7 against .5 on average, where text is .5 against .5
