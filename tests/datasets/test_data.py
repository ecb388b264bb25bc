import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topdown.datasets import DataError, SequenceDataset
from topdown.datasets.batching import bucketed_batches
from topdown.datasets.raw_samples import RawSplit, Stream

lengths_of_samples = st.lists(st.integers(1, 6), min_size=1, max_size=8)


def ragged(lengths, size, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=(n, size)).astype(np.float32) for n in lengths]


@given(lengths_of_samples, st.randoms())
def test_batches_hold_the_samples_padded_with_zeros(lengths, random):
    audio, text = ragged(lengths, 2), ragged(lengths[::-1], 3)
    data = SequenceDataset.from_arrays(
        {"audio": audio, "text": text, "vector": np.ones((len(lengths), 4))}, [0.5] * len(lengths)
    )
    indices = random.sample(range(len(lengths)), len(lengths))
    batch = data.batch(indices)
    assert data.aligned == (lengths == lengths[::-1])
    for name, arrays in (("audio", audio), ("text", text)):
        valid = batch.lengths if data.aligned else batch.lengths[name]
        assert valid.tolist() == [len(arrays[i]) for i in indices]
        assert batch.inputs[name].shape[1] == max(len(array) for array in arrays)
        for row, i in zip(batch.inputs[name].numpy(), indices, strict=True):
            np.testing.assert_array_equal(row[: len(arrays[i])], arrays[i])
            assert (row[len(arrays[i]) :] == 0).all()
            np.testing.assert_array_equal(data[i].inputs[name].numpy(), arrays[i])
    assert batch.inputs["vector"].shape == (len(lengths), 4)
    assert data.batch_lengths().tolist() == [max(pair) for pair in zip(lengths, lengths[::-1], strict=True)]


def test_padded_arrays_are_cut_to_their_lengths():
    padded = np.arange(12.0).reshape(2, 3, 2)
    data = SequenceDataset.from_arrays({"a": padded, "b": padded}, [1, 0], lengths={"a": [3, 1]}, ids=["x", "y"])
    assert data.labels.dtype == torch.int64
    assert data.lengths["a"].tolist() == [3, 1]
    assert data.lengths["b"].tolist() == [3, 3]
    assert data[1].inputs["a"].tolist() == [[6.0, 7.0]]
    assert data[-1].id == "y"
    assert [sample.id for sample in data] == ["x", "y"]
    assert data.sizes == {"a": 2, "b": 2}
    with pytest.raises(IndexError, match="sample 2 of 2"):
        data[2]


def test_vectors_alone():
    data = SequenceDataset.from_arrays({"a": np.ones((3, 2))}, [0.0, 1.0, 2.0])
    assert data.batch([0, 2]).lengths is None
    assert data.batch_lengths().tolist() == [1, 1, 1]
    assert data.ids == ["0", "1", "2"]


def test_masks_multiply_all_steps_of_a_sample():
    data = SequenceDataset.from_arrays({"a": [np.ones((2, 2)), np.ones((1, 2))], "v": np.ones((2, 1))}, [0.0, 1.0])
    masked = data.masked({"a": torch.tensor([[1.0, 0.0], [0.5, 2.0]]), "v": torch.tensor([[0.0], [3.0]])})
    assert masked[0].inputs["a"].tolist() == [[1, 0], [1, 0]]
    assert masked[1].inputs["a"].tolist() == [[0.5, 2.0]]
    assert masked.vectors["v"].tolist() == [[0], [3]]
    assert data[0].inputs["a"].tolist() == [[1, 1], [1, 1]]


def test_batches_count_from_the_end_too_and_name_what_is_not_there():
    data = SequenceDataset.from_arrays({"a": [np.full((3, 1), 1.0), np.full((2, 1), 2.0)]}, [1.0, 2.0])
    assert data.batch([-1, 0]).inputs["a"].flatten().tolist() == [2, 2, 0, 1, 1, 1]
    for indices, message in (([2], "sample 2 of 2"), ([-3], "sample -3 of 2"), ([], "at least one"), ([True, False], "bool")):
        with pytest.raises(IndexError, match=message):
            data.batch(indices)


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ({"a": np.ones((3, 2))}, {}, "'a' has 3 samples but there are 2 labels"),
        ({"a": np.ones((2, 2))}, {"ids": ["x"]}, "'ids' has 1 samples but there are 2 labels"),
        ({"a": [np.ones((2, 2)), np.ones((0, 2))]}, {}, r"^sample 1 has no steps, only zeros \(1 such samples\)"),
        ({"a": [np.ones((2, 2)), np.ones((1, 3))]}, {}, r"'a' must be a list of arrays \(T_i, D\) with one D"),
        ({"a": []}, {}, "'a' must be a list of arrays"),
        (
            {"a": [np.ones((2, 2)), np.ones((1, 2))]},
            {"lengths": [1, 1]},
            "'a' is a list of arrays, whose lengths are their own",
        ),
        ({"a": np.ones(2)}, {}, r"'a' has shape \(2,\): it must be"),
        ({"a": np.full((2, 2), np.nan)}, {}, "'a' has 4 values that are not finite, the first in sample 0"),
        ({"a": np.ones((2, 3, 2))}, {"lengths": [3, 4]}, r"lengths\[1\] of 'a' is 4, but it has 3 steps"),
        ({"a": np.ones((2, 3, 2))}, {"lengths": [3.0, 2.0]}, "lengths of 'a' must be 2 integers, got float64"),
        ({"a": np.ones((2, 3, 2))}, {"lengths": [3]}, r"lengths of 'a' must be 2 integers, got int64 of shape \(1,\)"),
    ],
)
def test_wrong_arrays_are_named(inputs, options, message):
    with pytest.raises(DataError, match=message):
        SequenceDataset.from_arrays(inputs, [0.0, 1.0], **options)


def test_labels_are_finite():
    with pytest.raises(DataError, match=r"label 1 is not finite \(1 such labels\)"):
        SequenceDataset.from_arrays({"a": np.ones((2, 2))}, [0.0, float("inf")])


def test_labels_are_one_per_sample():
    with pytest.raises(DataError, match="there are no samples, since labels are empty"):
        SequenceDataset.from_arrays({"a": np.ones((2, 2))}, [])
    for labels in (np.ones((2, 2, 1)), np.float64(1)):
        with pytest.raises(DataError, match=r"labels have shape \("):
            SequenceDataset.from_arrays({"a": np.ones((2, 2))}, labels)
    several = SequenceDataset.from_arrays({"a": np.ones((2, 2))}, [[0, 1, 0], [1, 1, 0]])
    assert several.batch([1]).labels.tolist() == [[1, 1, 0]]


@pytest.mark.parametrize(
    ("labels", "classes", "numbers", "names"),
    [
        (["sad", "happy", None], None, [1, 0, -100], ["happy", "sad"]),
        (["sad", "happy", float("nan")], ["sad", "calm", "happy"], [0, 2, -100], ["sad", "calm", "happy"]),
        (np.array([b"b", b"", b"a"]), None, [1, -100, 0], ["a", "b"]),
        (np.array(["b", np.nan, "a"]), [b"a", " b "], [1, -100, 0], ["a", "b"]),  # of numpy, 'nan'
        (["None", "NA", "None"], None, [1, 0, 1], ["NA", "None"]),  # words, unlike cells of tables
        (["1", "0", "1"], ["0", "1"], [1, 0, 1], ["0", "1"]),
        ([True, False, True], ["no", "yes"], [1, 0, 1], ["no", "yes"]),
        ([1, -100, 0], ["no", "yes"], [1, -100, 0], ["no", "yes"]),
        (np.array(["cafe\u0301", " caf\u00e9 ", "b"], object), None, [1, 1, 0], ["b", "caf\u00e9"]),
        ([2, 0, 1], ["x", "y", "z"], [2, 0, 1], ["x", "y", "z"]),
    ],
)
def test_labels_may_be_words(labels, classes, numbers, names):
    data = SequenceDataset.from_arrays({"a": np.ones((3, 2))}, labels, classes=classes)
    assert (data.labels.tolist(), data.report["class_names"]) == (numbers, names)


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["sad", 1, "happy"], None, "labels are words, but one is 1: give all as words, or all as numbers"),
        ([["sad", "happy"]] * 3, None, r"labels are words of shape \(3, 2\): there must be one per sample"),
        (["sad", "calm", "happy"], ["happy", "sad"], r"label 1 is 'calm', which is not among the classes \['happy', 'sad'\]"),
        (
            [0, 1, 2],
            ["happy", "sad"],
            "there are 2 classes, but labels are int64 of shape .*, from 0 to 2: give words, or 0 to 1",
        ),
        ([0.0, 1.0, 0.5], ["happy", "sad"], "there are 2 classes, but labels are float64"),
        ([0, -1, 1], ["happy", "sad"], "there are 2 classes, but labels are int64 of shape .*, from -1 to 1"),
        (
            ["0.13", "-1.40", ""],
            None,
            "labels are numbers as text, such as '-1.40': give numbers, or classes= if they are names",
        ),
        (["b", "a", ""], ["", "a", "b"], "classes=.*: '' is there twice, or no word: name each class once"),
        (["b", "a", "a"], ["a", " a", "b"], "classes=.*: 'a' is there twice, or no word"),
        (["b", "a", "a"], "ab", "classes='ab': give a list of words, in the order of their numbers"),
        (["b", "a", "a"], {"b", "a"}, "classes=.*: give a list of words"),
        (np.array([{}, {}, {}]), None, "labels are of object: they must be numbers, or one word per sample"),
    ],
)
def test_words_that_are_no_classes_are_named(labels, classes, message):
    with pytest.raises(DataError, match=message):
        SequenceDataset.from_arrays({"a": np.ones((3, 2))}, labels, classes=classes)


@given(lengths_of_samples, st.integers(1, 5), st.integers(0, 99), st.integers(0, 9), st.integers(1, 3))
def test_every_sample_is_in_one_batch_and_the_order_is_the_same_again(lengths, batch_size, seed, epoch, pool):
    options = {"seed": seed, "epoch": epoch, "pool": pool}
    batches = bucketed_batches(torch.tensor(lengths), batch_size, **options)
    assert sorted(torch.cat(batches).tolist()) == list(range(len(lengths)))
    assert max(map(len, batches)) <= batch_size
    again = bucketed_batches(torch.tensor(lengths), batch_size, **options)
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


def test_epochs_differ_and_batches_hold_similar_lengths():
    lengths = torch.randint(1, 51, (640,), generator=torch.Generator().manual_seed(0))
    first, second = (bucketed_batches(lengths, 32, seed=0, epoch=epoch) for epoch in (1, 2))
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

    orders = [[b.tolist() for b in bucketed_batches(lengths, 32, seed=seed, epoch=1)] for seed in (0, 1)]
    assert orders[0] != orders[1]
    # Same lengths: what is in a batch, and where a batch is, both change.
    same = [bucketed_batches(torch.ones(64), 8, seed=0, epoch=epoch, pool=2) for epoch in (1, 2)]
    assert {frozenset(b.tolist()) for b in same[0]}.isdisjoint({frozenset(b.tolist()) for b in same[1]})
    longest = [int(lengths[b].max()) for b in first]
    assert longest != sorted(longest)

    def padding(batches):
        return sum(int(lengths[b].max()) * len(b) for b in batches) / int(lengths.sum())

    assert padding(first) < 1.1
    assert padding(bucketed_batches(lengths, 32, seed=0, epoch=1, pool=1)) > 1.5


def test_tensors_of_every_kind_are_taken():
    sequences = [torch.ones(3, 2, dtype=torch.bfloat16, requires_grad=True), torch.zeros(1, 2, dtype=torch.bfloat16)]
    data = SequenceDataset.from_arrays(
        {"a": sequences, "v": torch.ones(2, 1, dtype=torch.float16)}, torch.tensor([1.0, 2.0]), ids=torch.tensor([7, 8])
    )
    assert data[0].inputs["a"].tolist() == [[1, 1]] * 3
    assert data.ids == ["7", "8"]
    assert repr(data) == "SequenceDataset(2 samples, sizes={'a': 2, 'v': 1}, aligned=True)"
    ids = SequenceDataset.from_arrays({"v": np.ones((2, 1))}, [0.0, 1.0], ids=[b"a", "b"]).ids
    assert ids == ["a", "b"]


def test_padding_on_the_left_is_not_cut_at_the_end():
    left = np.zeros((3, 4, 2))
    left[:, 2:] = 1
    with pytest.raises(DataError, match="'a' is padded on the left: sample 0 ends in 2 steps after zeros; move sequences"):
        SequenceDataset.from_arrays({"a": left}, [0.0, 1.0, 2.0], lengths=[2, 2, 4])
    left[1, 0] = 5  # one sample begins at its first step, so lengths count from there: what is beyond is garbage
    assert SequenceDataset.from_arrays({"a": left}, [0.0, 1.0, 2.0], lengths=[2, 2, 4])[1].inputs["a"].tolist() == [
        [5, 5],
        [0, 0],
    ]


def test_what_does_not_fit_a_vector_or_a_mask_is_named():
    with pytest.raises(DataError, match=r"'v' has shape \(2, 1\), without time: give 2 lengths, 1 where"):
        SequenceDataset.from_arrays({"v": np.ones((2, 1))}, [0.0, 1.0], lengths={"v": [1, 2]})
    with pytest.raises(DataError, match=r"lengths name \['w'\], but the inputs are \['v'\]"):
        SequenceDataset.from_arrays({"v": np.ones((2, 1))}, [0.0, 1.0], lengths={"w": [1, 1]})
    with pytest.raises(DataError, match="'v' holds <U1: it must hold numbers"):
        SequenceDataset.from_arrays({"v": np.array([["x"], ["y"]])}, [0.0, 1.0])
    with pytest.raises(DataError, match="there are no inputs"):
        SequenceDataset.from_arrays({}, [0.0, 1.0])
    with pytest.raises(IndexError, match=r"use mask.nonzero\(\).flatten\(\) for a mask"):
        SequenceDataset.from_arrays({"v": np.ones((2, 1))}, [0.0, 1.0]).subset(torch.tensor([True, False]))


def test_a_modality_is_released_before_the_next_one_is_read():
    class Arrays(list):
        """A list that can be watched."""

    first, alive = Arrays([np.ones((2, 3))]), []
    watched = weakref.ref(first)

    def second():
        alive.append(watched() is not None)
        yield np.ones((2, 3))

    lengths = np.array([2])
    streams = {"a": Stream(3, lengths, first, {}), "b": Stream(3, lengths, second(), {})}
    del first
    SequenceDataset.from_split(RawSplit(None, None, streams, {}, {}), "inputs")
    assert alive == [False]
