"""Samples that lack a modality: in arrays, files and stores, in batches, in training and in prediction."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone, MulTBackbone
from topdown.datasets import DataError, SequenceDataset, data_loader, load_splits
from topdown.datasets.cleaning import Cleaner
from topdown.datasets.prepare import prepare
from topdown.datasets.report import data_table
from topdown.training import fit, predict

RNG = np.random.default_rng(0)
STEPS = [5, 2, 4, 3, 6]


def arrays(steps, size):
    return [RNG.normal(size=(n, size)) for n in steps]


def aligned():
    """Sample 1 lacks b, samples 2 and 4 lack a; 4 is the longest."""
    a, b = arrays(STEPS, 3), arrays(STEPS, 2)
    a[2] = a[4] = b[1] = None
    return SequenceDataset.from_arrays({"a": a, "b": b}, [0.0, 1.0, 2.0, 3.0, 4.0], ids=list("vwxyz"))


def test_none_and_nothing_and_a_length_of_zero_say_the_same():
    data = aligned()
    padded = {name: np.zeros((5, 6, size)) for name, size in data.sizes.items()}
    for name, array in padded.items():
        for i in range(5):
            array[i, : data.lengths[name][i]] = data[i].inputs[name].numpy()
        array[data.lengths[name].numpy() == 0] = 7  # whatever stands there
    other = SequenceDataset.from_arrays(padded, lengths={name: steps.numpy() for name, steps in data.lengths.items()})
    empty = SequenceDataset.from_arrays({k: [data[i].inputs[k].numpy() for i in range(5)] for k in "ab"})
    for one in (data, other, empty):
        assert one.lengths["a"].tolist() == [5, 2, 0, 3, 0]
        assert one.lengths["b"].tolist() == [5, 0, 4, 3, 6]
        assert (one.aligned, one.complete) == (True, False)
        for i in range(5):
            assert all(torch.equal(one[i].inputs[k], data[i].inputs[k]) for k in "ab")


def test_batches_of_aligned_samples_have_one_time_though_the_longest_lacks_a_modality():
    batch = aligned().batch([4, 0, 1])
    assert {k: tuple(x.shape) for k, x in batch.inputs.items()} == {"a": (3, 6, 3), "b": (3, 6, 2)}
    assert {k: n.tolist() for k, n in batch.lengths.items()} == {"a": [0, 5, 2], "b": [6, 5, 0]}
    assert not batch.inputs["a"][0].any()
    assert not batch.inputs["b"][2].any()
    assert isinstance(aligned().batch([0, 3]).lengths, dict)  # in the same form, though these lack nothing


def test_a_batch_in_which_all_lack_a_modality_has_one_step_of_it():
    unaligned = SequenceDataset.from_arrays({"a": [None, np.ones((2, 3))], "b": arrays([4, 5], 2)})
    assert unaligned.batch([0]).inputs["a"].tolist() == [[[0, 0, 0]]]
    nowhere = SequenceDataset.from_arrays({"a": np.zeros((2, 3, 3)), "b": arrays([4, 5], 2)}, lengths={"a": [0, 0]})
    assert nowhere.batch([0]).inputs["a"].shape == (1, 4, 3)  # as many as the other has
    assert nowhere.sizes == {"a": 3, "b": 2}


def test_collating_is_batching():
    data = SequenceDataset.from_arrays(
        {"a": [None, *arrays([3, 2], 3)], "b": arrays([1, 3, 2], 2), "v": RNG.normal(size=(3, 4))},
        lengths={"v": [1, 0, 1]},
    )
    for source in (data, aligned(), aligned()[1:]):
        for indices, batch in zip(
            torch.arange(len(source)).split(2), DataLoader(source, 2, collate_fn=source.collate), strict=True
        ):
            expected = source.batch(indices)
            assert list(batch.inputs) == list(expected.inputs)
            assert all(torch.equal(batch.inputs[k], x) for k, x in expected.inputs.items())
            assert batch.lengths.keys() == expected.lengths.keys()
            assert all(torch.equal(batch.lengths[k], n) for k, n in expected.lengths.items())


def test_vectors_may_be_missing():
    vectors = np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]])
    data = SequenceDataset.from_arrays({"a": arrays([2, 1, 3], 3), "v": vectors}, lengths={"v": [1, 0, 1]})
    assert data.batch([0, 1]).lengths["v"].tolist() == [1, 0]
    assert data.batch([0, 1]).inputs["v"].tolist() == [[1, 2], [0, 0]]
    assert data[1].inputs["v"].shape == (0,)
    assert torch.equal(data.subset([0, 2]).batch([0, 1]).lengths, torch.tensor([2, 3]))  # which lack nothing
    assert data.report["modalities"]["v"]["samples_without_steps"] == 1
    steps = data.as_sequences()
    assert steps.lengths["v"].tolist() == [1, 0, 1]
    assert steps[2].inputs["v"].tolist() == [[3, 4]]
    assert list(steps.sizes) == ["a", "v"]


def test_a_sample_must_have_something():
    with pytest.raises(DataError, match=r"^sample 1 has no steps, only zeros \(1 such samples\); remove them"):
        SequenceDataset.from_arrays({"a": [np.ones((2, 1)), None], "v": np.ones((2, 1))}, lengths={"v": [1, 0]})
    data = aligned()
    gone = {k: r._replace(lengths=r.lengths * torch.tensor([1, 0, 1, 1, 1])) for k, r in data.sequences.items()}
    with pytest.raises(DataError, match=r"sample 1 has no modality at all: leave out such samples \(1 here\)"):
        SequenceDataset(gone, {})


def test_archives_and_stores_keep_what_is_missing(tmp_path):
    data = aligned()
    members = {"train.v": np.arange(5.0).reshape(5, 1), "train.v.lengths": [1, 0, 1, 1, 1]}
    for name in "ab":
        members[f"train.{name}"] = np.concatenate([data[i].inputs[name] for i in range(5)])
        members[f"train.{name}.lengths"] = data.lengths[name].numpy()
    np.savez(tmp_path / "x.npz", **members)
    prepare(tmp_path / "x.npz", tmp_path / "x.store")
    for path in (tmp_path / "x.npz", tmp_path / "x.store"):
        loaded = load_splits(path)["train"]
        batch = loaded.batch(range(5))
        assert {k: n.tolist() for k, n in batch.lengths.items()} == {
            "a": [5, 2, 0, 3, 0],
            "b": [5, 0, 4, 3, 6],
            "v": [1, 0, 1, 1, 1],
        }
        expected = data.batch(range(5))
        assert all(torch.equal(batch.inputs[k], expected.inputs[k].float()) for k in "ab")
        assert loaded.report["modalities"]["a"]["samples_without_steps"] == 2


@pytest.mark.parametrize("build", [LSTMBackbone, MulTBackbone])
@pytest.mark.parametrize("kind", ["shared", "linear"])
def test_training_and_prediction_with_missing_modalities(build, kind):
    torch.manual_seed(0)
    small = {"hidden_size": 4} if build is LSTMBackbone else {"size": 4, "num_heads": 2, "num_layers": 1}
    data = aligned()
    latch = TopDownLatch(build(data.sizes, **small), kind)
    before = copy.deepcopy(latch.state_dict())
    fit(latch, data, data, epochs=2, batch_size=2)
    assert all(not torch.equal(before[k], v) for k, v in latch.state_dict().items() if k.startswith("backbone.encode"))
    predictions = predict(latch, data, batch_size=5)
    for i in range(5):  # as alone, without the modality
        sample = {k: x.unsqueeze(0) for k, x in data[i].inputs.items() if len(x)}
        with torch.no_grad():
            torch.testing.assert_close(latch(sample)[0], predictions[i], rtol=0, atol=1e-6)


def test_loaders_of_incomplete_data_bring_every_sample_once():
    seen = [i for batch in data_loader(aligned(), 2) for i in batch.ids]
    assert sorted(seen) == list("vwxyz")


def test_features_of_one_value_are_named_in_the_report_of_the_training_samples(tmp_path):
    (tmp_path / "t").mkdir()
    cells = ["1.5,7,", "2.5,7,", "1.5,,4", "3.5,7,5"]  # power has one value and a gap; heat has two
    rows = [f"s{i // 2},{'train' if i < 4 else 'test'},{i // 2},{cell}" for i, cell in enumerate(cells * 2)]
    (tmp_path / "t/all.csv").write_text("\n".join(["id,split,label,a_speed,a_power,a_heat", *rows]) + "\n")
    table = data_table(load_splits(tmp_path / "t/all.csv", columns={"a": "a_*"}))
    note = "train a: 1 of 3 features have one value in all samples, such as 'a_power'; nothing can be learned from them"
    assert note in table
    assert table.count("one value") == 1  # of train, not of test


@pytest.mark.parametrize("chunk", [1, 2, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_of_one_value_are_found_in_any_pieces(chunk, dtype):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(14, 6)).astype(dtype)
    rows[:, 1], rows[:, 3], rows[:, 4] = 4.5, np.nan, 0.0
    rows[:5, 1] = np.nan
    rows[13, 4] = 1e-3
    cleaner = Cleaner(6, fills=True)
    for i in range(0, 14, chunk):
        cleaner.clean(rows[i : i + chunk], i)
    expected = [d for d in range(6) if len({*rows[:, d][np.isfinite(rows[:, d])].tolist()}) == 1]
    assert expected == [1]
    assert cleaner.report(lambda d: rows[:, d])["constant"] == {"features": 1, "first": 1}
