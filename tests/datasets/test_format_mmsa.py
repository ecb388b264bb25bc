"""MMSA's pickles: masks of BERT, stated lengths, and what is wrong with a file."""

import layouts
import numpy as np
import pytest
from layouts import all_data, same, save, set_split, with_dollars

from topdown.datasets import DataError, load_splits


@pytest.mark.parametrize("bert_dtype", [np.float32, np.int64])
def test_aligned_mmsa_counts_the_steps_of_the_bert_mask(tmp_path, bert_dtype):
    splits = layouts.with_pieces(all_data())
    content = layouts.mmsa(splits, hints=False)
    for part in content.values():
        part["text_bert"] = part["text_bert"].astype(bert_dtype)
    assert (content["train"]["audio"][:, 0] == 0).all()  # [CLS]
    save(tmp_path / "x.pkl", content)
    loaded = load_splits(tmp_path / "x.pkl")
    same(loaded, with_dollars(splits))
    found = loaded["train"].report["modalities"]["audio"]
    assert (found["padding"], found["lengths_from"], found["contradicted_hints"]) == ("right", "text_bert", 0)


def test_rows_beyond_the_bert_mask_are_kept_and_counted(tmp_path):
    splits = all_data()
    content = layouts.mmsa(splits)
    short = next(i for i, array in enumerate(splits["train"].inputs["text"]) if len(array) > 2)
    content["train"]["text_bert"][short, 1, len(splits["train"].inputs["text"][short]) - 1 :] = 0
    save(tmp_path / "x.pkl", content)
    loaded = load_splits(tmp_path / "x.pkl")
    same(loaded, with_dollars(splits))
    assert loaded["train"].report["modalities"]["text"]["contradicted_hints"] == 1


def test_stated_lengths_are_hints(tmp_path):
    splits = all_data(aligned=False)
    splits["train"].inputs["audio"][1] = np.concatenate([np.ones((2, 4)), np.zeros((2, 4))])  # silence at the end
    splits["train"].inputs["audio"][2] = np.array([[1, -1, 0, 0.0], [2, 2, 2, 2]])  # a row that sums to 0
    content = layouts.mmsa(splits, unaligned=True)
    content["train"]["audio_lengths"][2] = 1
    content["train"]["audio_lengths"][3] = 999
    save(tmp_path / "x.pkl", content)
    loaded = load_splits(tmp_path / "x.pkl")
    same(loaded, with_dollars(splits))
    found = loaded["train"].report["modalities"]["audio"]
    assert found["contradicted_hints"] == 3
    assert found["lengths_from"] == "zero rows and the lengths in the file, whichever is longer"
    for side in ("left", "right"):  # lengths of 1, as MMSA's own script gave for padding in front
        content = layouts.mmsa(all_data(aligned=False), unaligned=True, side=side)
        content["train"]["vision_lengths"] = np.ones(12)
        save(tmp_path / "x.pkl", content)
        loaded = load_splits(tmp_path / "x.pkl")
        same(loaded, with_dollars(all_data(aligned=False)))
        assert loaded["train"].report["modalities"]["visual"]["padding"] == side
        steps = [len(array) for array in all_data(aligned=False)["train"].inputs["visual"]]
        assert loaded["train"].report["modalities"]["visual"]["contradicted_hints"] == sum(n != 1 for n in steps)


def test_mmsa_without_any_lengths(tmp_path):
    save(tmp_path / "x.pkl", layouts.mmsa(all_data(), bert=False, hints=False))
    same(load_splits(tmp_path / "x.pkl"), with_dollars(all_data()))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("tensors", [False, True])
def test_mmsa_fet(tmp_path, side, tensors):
    splits = all_data(aligned=False)
    content = layouts.mmsa(splits, side=side, unaligned=True, tensors=tensors) | {
        "config": {"bert_model": "x", "nested": {"a": [1]}}
    }
    save(tmp_path / "x.pkl", content, protocol=2 if tensors else 4)
    loaded = load_splits(tmp_path / "x.pkl")
    same(loaded, with_dollars(splits))
    report = loaded["train"].report
    assert report["source"]["layout"] == "MMSA-FET"
    assert {m["padding"] for m in report["modalities"].values()} == {side}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_split("audio_lengths", lambda a: a[:4]), r"valid: 'audio_lengths' has shape \(4,\) but 'regression_labels' has 6"),
        (set_split("audio_lengths", lambda a: [[1, 2]] * 6), r"valid: 'audio_lengths' is a list; expected numbers"),
        (set_split("text_bert", lambda a: a[:4]), r"valid: 'text_bert' has 4 samples"),
        (set_split("text_bert", lambda a: a[:, 0]), r"valid: 'text_bert' has shape \(6, 9\) of float32"),
        (set_split("text_bert", lambda a: a + 1), r"valid: 'text_bert': the mask of sample 0 holds other numbers than 0 and 1"),
        (
            set_split("text_bert", lambda a: a * 0 + [1, 0, 1, 1, 1, 0, 0, 0, 0]),
            "valid: 'text_bert': the mask of sample 0 has gaps",
        ),
        (set_split("regression_labels", lambda a: a + 9), r"valid: 'regression_labels'\[0\] is .*, outside"),
        (lambda content: content["valid"].pop("vision") is None, "valid: 'vision' is missing"),
        (set_split("vision", lambda a: a[:2]), "valid: 'vision' has 2 samples but 'regression_labels' has 6"),
    ],
)
def test_wrong_files_of_mmsa_are_named(tmp_path, change, message):
    content = layouts.mmsa(all_data())
    change(content)
    save(tmp_path / "x.pkl", content)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.pkl")
