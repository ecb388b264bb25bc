"""MAG-BERT's pickles and MMLatch's cache: samples in lists, words and their vectors."""

import layouts
import numpy as np
import pytest
from layouts import GLOVE, all_data, load_content, same, save, with_words

from topdown.datasets import DataError, load_splits


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


def test_a_sample_without_steps_lacks_the_modality(tmp_path):
    content = layouts.cache(all_data())
    content[0][2]["audio"] = np.zeros((0, 4))
    content[0][3]["audio"] = []
    save(tmp_path / "x.pkl", content)
    data = load_splits(tmp_path / "x.pkl")["train"]
    assert data[2].inputs["audio"].shape == data[3].inputs["audio"].shape == (0, 4)
    assert data.lengths["audio"][:5].tolist()[2:4] == [0, 0]
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


@pytest.mark.parametrize("label", [[0.5, 0, 0, 0, 0, 0, 0], [[0.5, 1.0]], (0.5,), np.float32(0.5), 0.5])
def test_labels_of_one_sample_may_be_lists(tmp_path, label):
    content = layouts.cache(all_data())
    content[0][0]["label"] = label
    assert load_content(tmp_path / "x.pkl", content)["train"].labels[0] == 0.5


def test_the_first_sample_may_be_empty(tmp_path):
    content = layouts.cache(all_data())
    content[0][0]["audio"] = np.array([])
    assert load_content(tmp_path / "x.pkl", content)["train"][0].inputs["audio"].shape == (0, 4)


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


def test_tokens_that_are_no_numbers_are_unknown_words(tmp_path):
    content = layouts.cache(with_words(all_data()))
    content[0][0]["text"] = np.array([1.0, np.nan])
    loaded = load_content(tmp_path / "x.pkl", content, embeddings={"hello": [1.0]})
    assert loaded["train"][0].inputs["text"].tolist() == [[1], [0]]
