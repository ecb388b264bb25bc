"""MulT's pickles: labels, ids, padding, and what is wrong with a file."""

import layouts
import numpy as np
import pytest
import torch
from layouts import KEYS, SPLITS, all_data, same, save, set_split, with_id_parts

from topdown.datasets import DataError, load_splits


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 7), (7,)])
def test_sentiment_is_the_first_column_of_labels(tmp_path, shape):
    splits = all_data()

    def change(content):
        for split, part in content.items():
            labels = np.full((len(splits[split].labels), *shape), 9.0)
            labels.reshape(len(labels), -1)[:, 0] = splits[split].labels
            part["labels"] = labels

    layouts.mult_file(tmp_path / "x.pkl", change)
    same(load_splits(tmp_path / "x.pkl"), with_id_parts(splits))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.array([b"a", b"b"] * 3, "S13"), ["a", "b"]),
        (np.array([["a"], ["b"]] * 3), ["a", "b"]),
        (np.array(["a", b"b"] * 3, dtype=object), ["a", "b"]),
        ([["a", 0.5, b"1"], ("b", 1, "2")] * 3, ["a|0.5|1", "b|1|2"]),
        (np.array([["a", "0", "1"], ["b", "1", "2"]] * 3, dtype=object), ["a|0|1", "b|1|2"]),
        (None, ["0", "1"]),
    ],
)
def test_ids_of_every_kind(tmp_path, ids, expected):
    layouts.mult_file(tmp_path / "x.pkl", lambda content: content["valid"].update(id=ids))
    loaded = load_splits(tmp_path / "x.pkl")
    assert loaded["valid"].ids[:2] == expected
    assert loaded["valid"].report["ids"]["given"] is (ids is not None)


def test_iemocap_has_a_label_for_each_emotion(tmp_path):
    emotions = {split: np.eye(2)[np.random.default_rng(0).integers(0, 2, (count, 4))] for split, count in SPLITS.items()}
    layouts.mult_file(tmp_path / "x.pkl", lambda content: [content[s].update(labels=y) for s, y in emotions.items()] and None)
    labels = load_splits(tmp_path / "x.pkl")["train"].labels
    assert labels.dtype == torch.int64
    np.testing.assert_array_equal(labels.numpy(), emotions["train"][..., 1])


def test_a_zero_row_of_one_modality_is_no_padding_in_an_aligned_file(tmp_path):
    splits = all_data()
    for data in splits.values():
        for text, audio in zip(data.inputs["text"], data.inputs["audio"], strict=True):
            text[:] = 0  # unknown words, everywhere
            audio[-1] = 0
    save(tmp_path / "x.pkl", layouts.mult(splits))
    loaded = load_splits(tmp_path / "x.pkl")
    same(loaded, with_id_parts(splits))
    assert loaded["train"].report["modalities"]["text"]["all_zero_samples"] == 12


@pytest.mark.parametrize("side", ["left", "right"])
def test_zero_rows_at_the_other_end_are_data_and_counted(tmp_path, side):
    splits = all_data(aligned=False)
    for i in (1, 3):
        splits["train"].inputs["audio"][i] = np.ones((4, 4))
        splits["train"].inputs["audio"][i][-1 if side == "left" else 0] = 0
    save(tmp_path / "x.pkl", layouts.mult(splits, side=side, unaligned=True, extra=2))
    loaded = load_splits(tmp_path / "x.pkl")
    same(loaded, with_id_parts(splits))
    found = loaded["train"].report["modalities"]["audio"]
    ends = {"left": "end", "right": "start"}
    assert found["padding"] == side
    assert {end: found[f"samples_with_zeros_at_the_{end}"] for end in ("start", "end")} == {
        end: 2 * (end == ends[side]) for end in ("start", "end")
    }


def test_without_zero_rows_there_is_no_padding(tmp_path):
    layouts.mult_file(
        tmp_path / "x.pkl", lambda content: [part[key].fill(2) for part in content.values() for key in KEYS.values()] and None
    )
    found = load_splits(tmp_path / "x.pkl")["train"].report["modalities"]["text"]
    assert (found["padding"], found["lengths"]["minimum"], found["steps"]) == ("none", 8, 8)


def test_a_modality_that_is_all_zeros_is_missing_and_counted(tmp_path):
    layouts.mult_file(tmp_path / "x.pkl", lambda content: content["train"]["audio"].__setitem__(4, 0), unaligned=True)
    data = load_splits(tmp_path / "x.pkl")["train"]
    assert data[4].inputs["audio"].shape == (0, 4)
    assert data.batch([4, 0]).lengths["audio"].tolist()[0] == 0
    assert {k: n["samples_without_steps"] for k, n in data.report["modalities"].items()} == {"text": 0, "audio": 1, "visual": 0}
    assert {k: n["all_zero_samples"] for k, n in data.report["modalities"].items()} == {"text": 0, "audio": 0, "visual": 0}


@pytest.mark.parametrize("unaligned", [False, True])
def test_a_sample_without_anything_is_an_error(tmp_path, unaligned):
    def silence(content):
        for key in KEYS.values():
            content["train"][key][4] = 0

    layouts.mult_file(tmp_path / "x.pkl", silence, unaligned=unaligned)
    with pytest.raises(DataError, match=r"x.pkl: train: sample 4 has no steps, only zeros \(1 such samples\); remove them"):
        load_splits(tmp_path / "x.pkl")


def test_a_feature_that_is_never_finite_is_an_error(tmp_path):
    layouts.mult_file(tmp_path / "x.pkl", lambda c: c["valid"]["audio"].__setitem__((..., 1), -np.inf))
    with pytest.raises(DataError, match=r"x.pkl: valid: 'audio': feature 1 is never finite \(1 such features\)"):
        load_splits(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: [1], "holds a list, not data of a known layout; give a pickle of MulT"),
        (
            lambda content: content.pop("valid") and None,
            r"has no valid; a pickle of MulT or MMSA is a dict of train, valid and test",
        ),
        (lambda content: content["valid"].pop("audio") is None, "valid: 'audio' is missing"),
        (set_split("vision", lambda a: a[:4]), "valid: 'vision' has 4 samples but 'labels' has 6"),
        (set_split("labels", lambda a: a[:4]), "valid: 'text' has 6 samples but 'labels' has 4"),
        (set_split("id", lambda a: a[:4]), "valid: 'ids' has 4 samples but there are 6 labels"),
        (set_split("labels", lambda a: a * 0 + 3.5), r"valid: 'labels'\[0\] is 3.5, outside \[-3, 3\] \(6 such labels\)"),
        (set_split("labels", lambda a: a * np.nan), r"valid: 'labels'\[0\] is nan, outside"),
        (set_split("labels", lambda a: np.zeros((6, 4, 3))), r"valid: 'labels' has shape \(6, 4, 3\)"),
        (set_split("labels", lambda a: np.array(1.0)), r"valid: 'labels' has shape \(\); expected one"),
        (set_split("labels", lambda a: None), r"valid: 'labels' is missing"),
        (set_split("id", lambda a: 5), "valid: 'id' is a int"),
        (set_split("id", lambda a: [{}] * 6), "valid: 'id' holds a dict; expected text"),
        (set_split("audio", lambda a: a[:, :0]), r"valid: 'audio' has shape \(6, 0, 4\)"),
        (set_split("audio", lambda a: a[..., :3]), r"valid has features .*'audio': 3.*, but train has .*'audio': 4"),
        (set_split("labels", lambda a: a.astype(str)), "valid: 'labels' is <U"),
        (set_split("audio", lambda a: a[..., 0]), r"valid: 'audio' has shape \(6, 8\) of float64"),
        (set_split("audio", lambda a: a.astype(str)), r"valid: 'audio' has shape \(6, 8, 4\) of <U"),
    ],
)
def test_wrong_files_are_named(tmp_path, change, message):
    path = tmp_path / "data.pkl"
    layouts.mult_file(path, change)
    with pytest.raises(DataError, match=message) as caught:
        load_splits(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
