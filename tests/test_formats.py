"""Every layout, with every quirk that is known of it, gives the samples that were written, and says what it found."""

import hashlib
import json
import pickle
import struct
import tracemalloc
import zipfile

import layouts
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import KEYS, SPLITS, all_data, same, save

from topdown.datasets import DataError, load_splits
from topdown.datasets.prepare import prepare

pytest.importorskip("h5py")
GLOVE = "hello 1 2 3\nworld 4 5 6\nword0 .5 0 1\nword1 2 2 2\n. . . 7 8 9\n"


def with_id_parts(splits):
    return {split: data._replace(ids=[f"{i}|0.0|1.5" for i in data.ids]) for split, data in splits.items()}


def with_dollars(splits):
    return {split: data._replace(ids=[i.replace("[", "$_$")[:-1] for i in data.ids]) for split, data in splits.items()}


def write_and_load(layout, path, splits):
    """Writes samples in a layout, loads them, and returns them with the ids that the layout gives them."""
    if layout in ("mult", "mult unaligned", "mult right"):
        save(path, layouts.mult(splits, unaligned="un" in layout, side="right" if "right" in layout else "left"))
        return load_splits(path), with_id_parts(splits)
    if layout in ("mmsa", "mmsa unaligned", "fet front", "fet tensors"):
        options = {"side": "left"} if "front" in layout else {"tensors": "tensors" in layout}
        content = layouts.mmsa(splits, unaligned="un" in layout, **options)
        save(path, content | ({"config": {"align": None}} if "fet" in layout else {}))
        return load_splits(path), with_dollars(splits)
    if layout in ("mag", "cache"):
        save(path, layouts.mag_bert(splits) if layout == "mag" else layouts.cache(splits))
        return load_splits(path), splits
    if layout == "multibench":
        layouts.multibench(path, splits)
        return load_splits(path, folds=layouts.folds(splits)), splits
    if layout == "csd":
        layouts.csd(path, splits)
        return load_splits(path, folds=layouts.folds(splits)), splits
    if layout in ("npz padded", "npz flat"):
        path.write_bytes(layouts.npz(splits, flat="flat" in layout))
        return load_splits(path), splits
    save(path, layouts.mult(splits, unaligned=True))
    store = path.with_name(path.name + ".store")
    prepare(path, store)
    return load_splits(store), with_id_parts(splits)


ALIGNED = ("mult", "mult right", "mmsa", "csd")
LAYOUTS = (
    *ALIGNED,
    "mult unaligned",
    "mmsa unaligned",
    "fet front",
    "fet tensors",
    "mag",
    "cache",
    "multibench",
    "npz padded",
    "npz flat",
    "store",
)


@pytest.mark.parametrize("layout", LAYOUTS)
@given(seed=st.integers(0, 2**16), aligned=st.booleans(), counts=st.tuples(*[st.integers(1, 5)] * 3))
def test_what_is_written_comes_back(tmp_path_factory, layout, seed, aligned, counts):
    splits = {
        split: layouts.random_data(split, count, seed=seed, aligned=aligned or layout in ALIGNED)
        for split, count in zip(SPLITS, counts, strict=True)
    }
    loaded, expected = write_and_load(layout, tmp_path_factory.mktemp("round") / "data", splits)
    same(loaded, expected)


def test_reports_say_what_was_found(tmp_path):
    splits = all_data(aligned=False)
    splits["train"].labels[:3] = 0
    splits["train"].inputs["audio"][2][0, :2] = -np.inf
    splits["train"].inputs["audio"][3][0, 0] = np.inf
    splits["train"].inputs["visual"][4][0, 1] = np.nan
    content = layouts.mult(splits, unaligned=True)
    content["train"]["vision"][5, -1, 0] = np.finfo(np.float64).min  # -inf after np.nan_to_num
    content["test"]["id"][1] = content["test"]["id"][0]
    content["test"]["id"][2] = content["train"]["id"][7]
    save(tmp_path / "x.pkl", content)
    loaded = load_splits(tmp_path / "x.pkl")
    report = loaded["train"].report
    lengths = np.array([len(array) for array in splits["train"].inputs["audio"]])
    nothing = {"nan": 0, "+inf": 0, "-inf": 0, "beyond float32": 0}
    assert report["samples"] == 12
    assert report["aligned"] is False
    assert report["labels"] == {
        "shape": [12],
        "minimum": pytest.approx(splits["train"].labels.min()),
        "maximum": pytest.approx(splits["train"].labels.max()),
        "zeros": pytest.approx((splits["train"].labels == 0).mean()),
    }
    assert report["modalities"]["audio"] == {
        "size": 4,
        "lengths": {"minimum": lengths.min(), "median": np.median(lengths), "maximum": lengths.max()},
        "steps": content["train"]["audio"].shape[1],
        "dtype": "float64",
        "padding": "left",
        "lengths_from": "zero rows",
        "samples_with_zeros_at_the_start": 0,
        "samples_with_zeros_at_the_end": 0,
        "replaced": {**nothing, "+inf": 1, "-inf": 2},
        "first_replaced": 2,
        "all_zero_samples": 0,
        "samples_without_steps": 0,
    }
    assert report["modalities"]["visual"]["replaced"] == {**nothing, "nan": 1, "beyond float32": 1}
    assert loaded["train"][2].inputs["audio"][0, :2].tolist() == [0, 0]
    assert loaded["train"][5].inputs["visual"][-1, 0] == 0
    assert report["modalities"]["text"]["dtype"] == "float32"
    assert report["source"] == {
        "name": "x.pkl",
        "layout": "MulT",
        "sha256": hashlib.sha256((tmp_path / "x.pkl").read_bytes()).hexdigest(),
        "known_as": None,
    }
    shared = loaded["train"].ids[7]
    assert report["ids"] == {
        "given": True,
        "duplicates": 0,
        "examples": [],
        "shared": {"test": {"count": 1, "examples": [shared]}},
    }
    assert loaded["test"].report["ids"] == {
        "given": True,
        "duplicates": 1,
        "examples": ["test0[0]|0.0|1.5"],
        "shared": {"train": {"count": 1, "examples": [shared]}},
    }
    assert json.loads(json.dumps(report)) == report


def test_known_files_are_recognised(tmp_path, monkeypatch):
    from topdown.datasets.formats import known

    layouts.mult_file(tmp_path / "any name")
    sha256 = hashlib.sha256((tmp_path / "any name").read_bytes()).hexdigest()
    monkeypatch.setitem(known.KNOWN, sha256, "a file of this test")
    assert load_splits(tmp_path / "any name")["test"].report["source"]["known_as"] == "a file of this test"
    assert known.known_file("31007381c01dd346945ed8a64c7321239de5aaf1ef05bf112e952848a823186d") == "MulT's mosei_senti_data.pkl"
    assert len(known.KNOWN) == 9


# MulT ---------------------------------------------------------------------------------------------------------------------


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


def test_a_modality_that_is_all_zeros_keeps_one_step_and_is_counted(tmp_path):
    layouts.mult_file(tmp_path / "x.pkl", lambda content: content["train"]["audio"].__setitem__(4, 0), unaligned=True)
    data = load_splits(tmp_path / "x.pkl")["train"]
    assert data[4].inputs["audio"].tolist() == [[0, 0, 0, 0]]
    assert {k: n["samples_without_steps"] for k, n in data.report["modalities"].items()} == {"text": 0, "audio": 1, "visual": 0}
    assert {k: n["all_zero_samples"] for k, n in data.report["modalities"].items()} == {"text": 0, "audio": 1, "visual": 0}


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


def set_split(key, value):
    return lambda content: content["valid"].update({key: value(content["valid"].get(key))})


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


def test_options_that_mean_nothing_are_refused(tmp_path):
    layouts.mult_file(tmp_path / "x.pkl")
    with pytest.raises(DataError, match=r"x.pkl: is a pickle of arrays, for which folds= means nothing"):
        load_splits(tmp_path / "x.pkl", folds={"train": ["a"]})
    with pytest.raises(DataError, match=r"has no modality 'video'; it has \['text', 'audio', 'visual'\]"):
        load_splits(tmp_path / "x.pkl", modalities=["video"])
    with pytest.raises(DataError, match="modalities='text': give a list of names"):
        load_splits(tmp_path / "x.pkl", modalities="text")


def test_some_modalities_only(tmp_path):
    splits = all_data()
    save(tmp_path / "x.pkl", layouts.mult(splits))
    wanted = {s: data._replace(inputs={"visual": data.inputs["visual"]}) for s, data in with_id_parts(splits).items()}
    same(load_splits(tmp_path / "x.pkl", modalities=["visual"]), wanted)


# MMSA ---------------------------------------------------------------------------------------------------------------------


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


# Lists of samples ---------------------------------------------------------------------------------------------------------


def with_words(splits):
    """Puts words in the place of the features of text."""
    words = [["hello", "world"], ["World", "unheard"], ["."]]
    return {s: d._replace(inputs={**d.inputs, "text": [words[i % 3] for i in range(len(d.ids))]}) for s, d in splits.items()}


@pytest.mark.parametrize("as_array", [False, True])
def test_words_without_vectors_are_left_out_and_said(tmp_path, as_array):
    splits = with_words(all_data(aligned=False))
    if as_array:
        splits = {
            s: d._replace(inputs={**d.inputs, "text": [np.array(w) for w in d.inputs["text"]]}) for s, d in splits.items()
        }
    save(tmp_path / "x.pkl", layouts.mag_bert(splits))
    (tmp_path / "glove.txt").write_text(GLOVE)
    loaded = load_splits(tmp_path / "x.pkl")
    same(loaded, {s: d._replace(inputs={k: v for k, v in d.inputs.items() if k != "text"}) for s, d in splits.items()})
    assert loaded["valid"].report["left_out"] == {"text": "holds words and no features: give vectors of words with embeddings="}
    text = load_splits(tmp_path / "x.pkl", embeddings=tmp_path / "glove.txt")["train"]
    assert text[0].inputs["text"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert text[1].inputs["text"].tolist() == [[4, 5, 6], [0, 0, 0]]
    assert text[2].inputs["text"].tolist() == [[0, 0, 0]]  # GloVe's ". . ." is another word
    assert text.report["modalities"]["text"]["unknown_words"] == 8
    mapped = load_splits(tmp_path / "x.pkl", embeddings={".": [9.0], "hello": [3.0]})["train"]
    assert mapped[2].inputs["text"].tolist() == [[9]]


def test_the_cache_of_mmlatch_names_its_words_by_number(tmp_path):
    content = layouts.cache(all_data())
    for part in content[:3]:
        for sample in part:
            sample["glove"] = sample.pop("text")
            sample["text"] = np.array([1, 2, 1])
    save(tmp_path / "mosei_avt.p", content)
    loaded = load_splits(tmp_path / "mosei_avt.p")["train"]
    assert list(loaded.sizes) == ["audio", "visual", "glove"]
    assert list(loaded.report["left_out"]) == ["text"]
    loaded = load_splits(tmp_path / "mosei_avt.p", embeddings={"hello": [1.0], "world": [2.0]}, modalities=["text", "audio"])[
        "train"
    ]
    assert loaded[0].inputs["text"].tolist() == [[1], [2], [1]]
    assert list(loaded.sizes) == ["text", "audio"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["dev"].clear(), "dev is empty; expected a list of samples"),
        (lambda c: c["dev"].__setitem__(1, (1, 2)), r"dev\[1\] is not \(\(words, visual, acoustic\), label, segment\)"),
        (
            lambda c: c["dev"].__setitem__(1, ((c["dev"][0][0][0], "x", np.ones((2, 4))), 1.0, "x")),
            r"dev\[1\]: 'visual' is a str",
        ),
        (lambda c: c["dev"].__setitem__(1, (c["dev"][0][0], 4.0, "x")), r"dev: label\[1\] is 4, outside"),
        (lambda c: c["dev"].__setitem__(1, (c["dev"][0][0], "x", "x")), r"dev\[1\]: its label is a list; expected numbers"),
        (lambda c: c["dev"].__setitem__(1, (c["dev"][0][0], 1.0, [])), r"dev\[1\] holds a list; expected text"),
        (
            lambda c: c["dev"].__setitem__(1, ((*c["dev"][0][0][:2], np.ones((2, 5))), 1.0, "x")),
            "'audio' has 2 numbers of features",
        ),
        (lambda c: c.pop("test") and None, "has no 'test'; a pickle of MAG-BERT is a dict of train, dev and test"),
    ],
)
def test_wrong_files_of_mag_bert_are_named(tmp_path, change, message):
    content = layouts.mag_bert(all_data())
    change(content)
    save(tmp_path / "x.pkl", content)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[0][2].pop("label") is None, r"train\[2\] is not a dict with \['label', 'segment_id', 'video_id'\]"),
        (lambda c: c[0][2].pop("audio") is None, r"train\[2\] has no 'audio'; it has"),
        (lambda c: c[0][2].update(audio=np.ones(4)), r"train\[2\]: 'audio' has shape \(4,\); expected \(T, D\)"),
        (lambda c: c[0][2].update(label=np.ones(0)), r"train\[2\]: its label is empty"),
        (lambda c: c[3].update(a="b"), "word2idx is not a dict from words to numbers"),
    ],
)
def test_wrong_caches_are_named(tmp_path, change, message):
    content = layouts.cache(all_data())
    change(content)
    save(tmp_path / "x.pkl", content)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.pkl")


def test_a_sample_without_steps_gets_one_of_zeros(tmp_path):
    content = layouts.cache(all_data())
    content[0][2]["audio"] = np.zeros((0, 4))
    content[0][3]["audio"] = []
    save(tmp_path / "x.pkl", content)
    data = load_splits(tmp_path / "x.pkl")["train"]
    assert data[2].inputs["audio"].tolist() == data[3].inputs["audio"].tolist() == [[0, 0, 0, 0]]
    assert data.report["modalities"]["audio"]["samples_without_steps"] == 2


def test_a_pickle_that_repeats_an_array_is_refused(tmp_path):
    content = layouts.cache(all_data())
    long = np.ones((1000, 4))
    for sample in content[0]:
        sample["audio"] = long
    for _ in range(400):
        content[0].append(dict(content[0][0]))
    save(tmp_path / "x.pkl", content)
    with pytest.raises(DataError, match=r"refused, since its \d+ bytes would become \d+; it repeats arrays"):
        load_splits(tmp_path / "x.pkl")


@pytest.mark.parametrize(
    ("content", "message"),
    [("a b c\n", "could not convert"), ("a 1 2\nb 1\n", "line 2 has 1 numbers, but line 1 has 2"), ("", "holds no vectors")],
)
def test_wrong_vectors_of_words_are_named(tmp_path, content, message):
    save(tmp_path / "x.pkl", layouts.cache(with_words(all_data())))
    (tmp_path / "glove.txt").write_text(content.replace("a", "hello").replace("b", "world"))
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.pkl", embeddings=tmp_path / "glove.txt")
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        load_splits(tmp_path / "x.pkl", embeddings=tmp_path / "nowhere")
    with pytest.raises(DataError, match="embeddings have vectors of shapes"):
        load_splits(tmp_path / "x.pkl", embeddings={"hello": [1.0], "world": [1.0, 2.0]})


# An archive of one's own -------------------------------------------------------------------------------------------------


def test_archives_hold_any_modalities_and_splits(tmp_path):
    np.savez(
        tmp_path / "x.npz",
        **{
            "a.heart": np.ones((3, 5, 2)),
            "a.age": np.ones((3, 1)),
            "a.labels": [0, 1, 2],
            "b.heart": np.ones((1, 4, 2)),
            "b.age": np.ones((1, 1)),
            "b.labels": [1],
        },
    )
    loaded = load_splits(tmp_path / "x.npz")
    assert {split: len(data) for split, data in loaded.items()} == {"a": 3, "b": 1}
    assert loaded["a"].labels.dtype == torch.int64
    assert loaded["a"].vectors["age"].shape == (3, 1)
    assert loaded["b"].lengths["heart"].tolist() == [4]
    assert load_splits(tmp_path / "x.npz", modalities=["age"])["a"].sizes == {"age": 1}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": [1.0]}, "'labels' is not <split>.<modality>"),
        ({"a.x": np.ones((1, 2, 2))}, r"a: has no 'labels'; it has 'x'"),
        ({"a.x": np.ones((1, 2, 2)), "a.labels": [1.0], "a.y.lengths": [1]}, r"a: has no 'y'; it has 'x'"),
        (
            {"a.x": np.ones((3, 2)), "a.x.lengths": [1, 1], "a.labels": [1.0, 2.0]},
            "'x.lengths' must be integers that sum to the 3 rows",
        ),
        (
            {"a.x": np.ones((2, 2, 2)), "a.x.lengths": [1, 3], "a.labels": [1.0, 2.0]},
            r"a: lengths\[1\] of 'x' is 3, but it has 2 steps",
        ),
        ({"a.x": np.ones((2, 2, 2)), "a.labels": [1.0]}, r"a: 'x' has 2 samples but there are 1 labels"),
        ({"a.x": np.array([{}], dtype=object), "a.labels": [1.0]}, r"'a.x.npy' holds object"),
        ({"a.x": np.ones((1, 2)), "a.labels": [np.nan]}, r"a: label 0 is not finite"),
    ],
)
def test_wrong_archives_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.npz")


def test_checkpoints_of_torch_are_no_archives(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    with pytest.raises(DataError, match=r"x.pt: was written by torch.save; load it with torch.load\(..., weights_only=True\)"):
        load_splits(tmp_path / "x.pt")


def test_paths_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.pkl: there is no such file; check the path"):
        load_splits(tmp_path / "nowhere.pkl")
    with pytest.raises(DataError, match=r"is a directory without \.csd files, and not a store"):
        load_splits(tmp_path)
    with pytest.raises(DataError, match=r"cannot be read|no such file"):
        load_splits("/dev/null/data.pkl")


def test_pickles_of_python_2_are_read(tmp_path):
    splits = all_data()
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(layouts.mult(splits), protocol=2))
    same(load_splits(tmp_path / "x.pkl"), with_id_parts(splits))


def bomb(path, change):
    """Writes an archive of one array after a change of what it says about itself."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 2), }"
    name, body = change("a.x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 16)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, body)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, body: (name, body + bytes(2**27)), r"would become \d+ bytes of \d+; save it again"),
        (lambda name, body: (name, body.replace(b"(1, 2, 2)", b"(10**9,)")), "not an archive of arrays, or damaged"),
        (lambda name, body: (name, body.replace(b"(1, 2, 2)", b"(1000000,")), "not an archive of arrays, or damaged"),
        (lambda name, body: (name, body.replace(b"(1, 2, 2)", b"(10000, )")), "declares 40000 bytes but has 88"),
        (lambda name, body: (name, body.replace(b"'<f4'", b"'|O8'")), "'a.x.npy' holds object"),
        (lambda name, body: (name, body.replace(b"\x01\x00", b"\x07\x00", 1)), "of an unknown version"),
        (lambda name, body: (name, b""), "not an archive of arrays, or damaged"),
        (lambda name, body: ("../x", body), "holds something other than arrays"),
    ],
)
def test_hostile_archives_are_refused(tmp_path, change, message):
    bomb(tmp_path / "x.npz", change)
    assert (tmp_path / "x.npz").stat().st_size < 2**18
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


# What files do that nobody expects ------------------------------------------------------------------------------------------


def load_content(path, content, **options):
    save(path, content)
    return load_splits(path, **options)


def changed(**keys):
    content = layouts.mult(all_data())
    content["train"].update(keys)
    return content


def test_what_is_not_read_is_said(tmp_path):
    content = changed(extra=np.ones(3))
    content["more"] = {"text": np.ones((1, 2, 3))}
    for split, count in SPLITS.items():
        content[split]["labels"] = np.zeros((count, 1, 7))
    report = load_content(tmp_path / "x.pkl", content)["train"].report
    assert report["left_out"] == {"extra": "is not read", "more": "is no split", "labels": "has 6 more columns, of emotions"}
    for split, count in SPLITS.items():
        content[split]["labels"] = np.zeros((count, 4))
    with pytest.raises(DataError, match=r"'labels' has shape \(12, 4\); expected one sentiment per sample"):
        load_content(tmp_path / "x.pkl", content)


def test_only_what_is_wanted_must_be_there(tmp_path):
    for content in (layouts.mult(all_data()), layouts.mmsa(all_data())):
        for part in content.values():
            del part["vision"]
        assert list(load_content(tmp_path / "x.pkl", content, modalities=["text", "audio"])["train"].sizes) == ["text", "audio"]
        with pytest.raises(DataError, match="train: 'vision' is missing"):
            load_content(tmp_path / "x.pkl", content)
    part = layouts.mult(all_data())["train"]
    same_thrice = load_content(tmp_path / "x.pkl", {"train": part, "valid": part, "test": part})
    assert same_thrice["train"].ids == same_thrice["test"].ids
    assert same_thrice["train"].report["ids"]["shared"]["test"]["count"] == 12


@pytest.mark.parametrize("label", [[0.5, 0, 0, 0, 0, 0, 0], [[0.5, 1.0]], (0.5,), np.float32(0.5), 0.5])
def test_labels_of_one_sample_may_be_lists(tmp_path, label):
    content = layouts.cache(all_data())
    content[0][0]["label"] = label
    assert load_content(tmp_path / "x.pkl", content)["train"].labels[0] == 0.5


def test_the_first_sample_may_be_empty(tmp_path):
    content = layouts.cache(all_data())
    content[0][0]["audio"] = np.array([])
    assert load_content(tmp_path / "x.pkl", content)["train"][0].inputs["audio"].tolist() == [[0, 0, 0, 0]]


def test_words_of_vectors_may_be_any_text(tmp_path):
    save(tmp_path / "x.pkl", layouts.cache(with_words(all_data())))
    (tmp_path / "glove.txt").write_text("\x85 4 5 6\nhello 1 2 3\n\xa0 7 8 9\n", encoding="utf-8")
    assert load_splits(tmp_path / "x.pkl", embeddings=tmp_path / "glove.txt")["train"][0].inputs["text"][0].tolist() == [
        1,
        2,
        3,
    ]

    class Vectors:  # asked as a mapping is, but none
        def __contains__(self, word):
            return word == "hello"

        def __getitem__(self, word):
            return [5.0]

    assert load_splits(tmp_path / "x.pkl", embeddings=Vectors())["train"][0].inputs["text"][0].tolist() == [5]
    for wrong, message in (
        ({"hello": "abc"}, "embeddings of dict give no vectors"),
        (5, "embeddings of int give no vectors"),
        ({}, "none of the words"),
    ):
        with pytest.raises(DataError, match=message):
            load_splits(tmp_path / "x.pkl", embeddings=wrong)


REPEATED = [["a"] * 3000, np.ones((2, 4)), np.ones((2, 3))]
HOSTILE = {
    "ids of nothing": (changed(id=np.empty((20_000_000, 0), "i1")), "setstate with shape"),
    "ids without end": (changed(id=[10**5000] * 12), "'id' holds a int; expected text"),
    "a key without end": ({10**5000: 1}, "hash of a huge number"),
    "labels that repeat": (changed(labels=[np.zeros(100_000)] * 3000), "'labels' is a list; expected numbers"),
    "words that repeat": (
        {k: [(REPEATED, 0.5, "x")] * 300 for k in ("train", "dev", "test")},
        "more words than the file has bytes",
    ),
    "letters that do not exist": (
        changed(id=np.array(["\U0010ffff"] * 12)),
        "a letter that does not exist",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_content_that_is_crafted_is_refused(tmp_path, name):
    content, message = HOSTILE[name]
    raw = pickle.dumps(content, protocol=4).replace("\U0010ffff".encode("utf-32-le"), b"\xff\xff\xff\x7f")
    (tmp_path / "x.pkl").write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.pkl", embeddings={"a": [1.0]} if "words" in name else None)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def test_tokens_that_are_no_numbers_are_unknown_words(tmp_path):
    content = layouts.cache(with_words(all_data()))
    content[0][0]["text"] = np.array([1.0, np.nan])
    loaded = load_content(tmp_path / "x.pkl", content, embeddings={"hello": [1.0]})
    assert loaded["train"][0].inputs["text"].tolist() == [[1], [0]]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS and not the file itself"),
        (b"\x1f\x8b\x08", "is compressed with gzip: unpack it first"),
        (b"PK\x05\x06" + bytes(18), "holds no split"),
    ],
)
def test_other_files_are_told_from_damaged_ones(tmp_path, raw, message):
    (tmp_path / "x.pkl").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        load_splits(tmp_path / "x.pkl")


def test_old_files_of_torch_are_told_from_pickles(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.dt", _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match=r"x\.dt: was written by torch.save; load it with torch.load"):
        load_splits(tmp_path / "x.dt")


@pytest.mark.parametrize(
    "arrays",
    [
        {"train.audio": np.ones((100, 600, 1000), "i1"), "train.labels": np.zeros(100)},
        {"train.audio": np.empty((10**8, 5, 0)), "train.labels": [0.5, 1.0]},
        {"train.audio": np.ones((2, 5, 3)), "train.labels": [0.5, 1.0], "train.ids": np.empty((20_000_000, 0), "i1")},
    ],
)
def test_archives_that_would_fill_the_memory_are_refused(tmp_path, arrays):
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"would become|which holds nothing"):
        load_splits(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
