"""The same utterances of CMU-MOSI in two layouts; the files may not be redistributed: tests skip without them."""

from pathlib import Path

import pytest
import torch

from topdown.datasets import load_splits

FOLDER = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="needs the small extract of CMU-MOSI")


@pytest.fixture(scope="module")
def both():
    return load_splits(FOLDER / "mosi_small_data.pkl"), load_splits(FOLDER / "mosi_small_aligned_50.pkl")


def test_what_is_in_the_file_of_mult(both):
    splits, _ = both
    assert {split: len(data) for split, data in splits.items()} == {"train": 134, "valid": 55, "test": 40}
    assert splits["train"].sizes == {"text": 300, "audio": 74, "visual": 47}
    assert all(data.aligned for data in splits.values())
    minus = {split: data.report["modalities"]["audio"]["replaced"]["-inf"] for split, data in splits.items()}
    assert minus == {"train": 1, "valid": 0, "test": 1}
    # Unknown words at the start of an utterance are zero rows of text, and not padding.
    assert sum(int((sample.inputs["text"][0] == 0).all()) for data in splits.values() for sample in data) == 23


def test_both_layouts_give_the_same_samples(both):
    ours, theirs = both
    assert [data.report["source"]["layout"] for data in (ours["train"], theirs["train"])] == ["MulT", "MMSA"]
    assert [data.report["modalities"]["audio"]["padding"] for data in (ours["train"], theirs["train"])] == ["left", "right"]
    planted = []
    for split in ("train", "valid", "test"):
        assert torch.equal(ours[split].labels, theirs[split].labels)
        for i, (a, b) in enumerate(zip(ours[split], theirs[split], strict=True)):
            assert a.id.partition("[")[0] == b.id.partition("$")[0]  # segments are numbered in another way
            assert len(a.inputs["text"]) == len(b.inputs["text"])
            for name in ("audio", "visual"):
                assert a.inputs[name].shape == b.inputs[name].shape
                differ = (a.inputs[name] != b.inputs[name]).nonzero().tolist()
                planted += [(split, i, name, a.inputs[name][t, d].item()) for t, d in differ]
    assert planted == [("train", 3, "audio", 0.0), ("test", 5, "audio", 0.0)]
