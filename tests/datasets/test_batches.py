"""Batches and data sets as frameworks take them: moved, shared out, split, sliced and put together again."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, random_split
from torch.utils.data._utils.pin_memory import pin_memory

from topdown.adapters import LSTMBackbone
from topdown.datasets import DataError, SequenceDataset, data_loader, load_splits
from topdown.datasets.batch import Batch
from topdown.datasets.prepare import prepare
from topdown.training import fit, predict


def make(count, seed=0, aligned=False):
    generator = np.random.default_rng(seed)
    steps = generator.integers(1, 9, count)
    other = steps if aligned else generator.integers(1, 9, count)
    inputs = {
        "a": [generator.normal(size=(n, 2)) for n in steps],
        "b": [generator.normal(size=(n, 4)) for n in other],
        "v": generator.normal(size=(count, 3)),
    }
    return SequenceDataset.from_arrays(inputs, np.arange(float(count)), ids=[f"id{i}" for i in range(count)])


def assert_same(ours, theirs):
    assert list(ours) == list(theirs) == ["inputs", "lengths", "labels", "ids"]
    assert ours.ids == theirs.ids
    assert torch.equal(ours.labels, theirs.labels)
    assert all(torch.equal(ours.inputs[name], theirs.inputs[name]) for name in theirs.inputs)
    if isinstance(theirs.lengths, dict):
        assert all(torch.equal(ours.lengths[name], theirs.lengths[name]) for name in theirs.lengths)
    else:
        assert torch.equal(ours.lengths, theirs.lengths)


@pytest.mark.parametrize("aligned", [True, False])
def test_samples_are_collated_as_batches_are_made(aligned):
    data = make(20, aligned=aligned)
    assert isinstance(data, Dataset)
    for batch, indices in zip(DataLoader(data, 8, collate_fn=data.collate), torch.arange(20).split(8), strict=True):
        assert_same(batch, data.batch(indices))
    assert isinstance(data.batch([0, 1]).lengths, torch.Tensor if aligned else dict)


def test_data_sets_are_split_sliced_and_joined():
    data = make(20)
    parts = random_split(data, [15, 5], generator=torch.Generator().manual_seed(0))
    seen = [i for part in parts for batch in DataLoader(part, 4, collate_fn=data.collate) for i in batch.ids]
    assert sorted(seen) == sorted(data.ids)
    joined = ConcatDataset([data, make(3, seed=1)])
    assert [len(batch.ids) for batch in DataLoader(joined, 10, collate_fn=data.collate)] == [10, 10, 3]
    part = data[2:9:3]
    assert isinstance(part, SequenceDataset)
    assert part.ids == ["id2", "id5", "id8"]
    assert data[-1].id == "id19"
    with pytest.raises(IndexError):
        data[20:]


def test_samples_of_other_modalities_are_not_collated():
    data, other = make(3), SequenceDataset.from_arrays({"a": [np.ones((2, 2))]}, [0.0], ids=["x"])
    with pytest.raises(DataError, match=r"sample 'x' has \['a'\], but 'id0' has \['a', 'b', 'v'\]"):
        data.collate([data[0], other[0]])
    with pytest.raises(DataError, match="there is no sample: a batch takes at least one"):
        data.collate([])


def test_a_batch_is_a_mapping_that_is_rebuilt_from_one():
    batch = make(5).batch([3, 1])
    assert batch.ids == batch["ids"] == ["id3", "id1"]
    assert set(dict(**batch)) == {"inputs", "lengths", "labels", "ids"}
    for rebuilt in (
        type(batch)({k: v for k, v in batch.items()}),  # as Hugging Face does
        type(batch)(list(batch.items())),  # as torch's scatter does
        copy.copy(batch),
        copy.deepcopy(batch),
        pickle.loads(pickle.dumps(batch)),
        pin_memory(batch) if torch.cuda.is_available() else batch,
    ):
        assert isinstance(rebuilt, Batch)
        assert_same(rebuilt, batch)
    moved = batch.to(torch.device("meta"), non_blocking=False)
    assert moved.labels.is_meta
    assert all(x.is_meta for x in moved.inputs.values())
    assert moved.lengths is batch.lengths  # on the CPU, where packing needs them
    assert moved.ids == batch.ids


@pytest.mark.parametrize("workers", [0, 2])
def test_an_ordered_loader_keeps_the_order(workers):
    data = make(11)
    loader = data_loader(data, 4, shuffle=False, workers=workers)
    for _ in range(2):
        assert [i for batch in loader for i in batch.ids] == data.ids
    assert len(loader) == 3


def in_a_group(monkeypatch, rank, world_size):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("count", "world_size"), [(100, 2), (97, 3), (33, 2), (9, 4)])
def test_a_loader_made_before_the_group_shares_each_epoch(monkeypatch, count, world_size, shuffle):
    data = make(count)
    loaders = [data_loader(data, 8, shuffle=shuffle) for _ in range(world_size)]
    orders = []
    for _ in range(2):
        shares = []
        for rank, loader in enumerate(loaders):
            in_a_group(monkeypatch, rank, world_size)
            shares.append([batch.ids for batch in loader])
            assert len(loader) == len(shares[-1])
        assert len({len(share) for share in shares}) == 1
        assert sorted(i for share in shares for ids in share for i in ids) == sorted(data.ids)
        orders.append(shares[0][0])
    assert (orders[0] == orders[1]) is not shuffle  # another order in each epoch


@pytest.mark.parametrize(("count", "world_size"), [(1000, 2), (997, 2), (65, 2), (100, 3), (9, 4)])
def test_whoever_else_shares_batches_out_sees_every_sample_once(monkeypatch, count, world_size):
    shard = pytest.importorskip("accelerate.data_loader").BatchSamplerShard
    data = make(count)
    loaders = [data_loader(data, 32 if count > 9 else 4) for _ in range(world_size)]
    for _ in range(2):
        seen = []
        for rank, loader in enumerate(loaders):
            in_a_group(monkeypatch, rank, world_size)
            sampler = shard(loader.batch_sampler, world_size, rank)
            batches = list(sampler)
            assert len(sampler) == len(batches)
            seen += [i for batch in batches for i in batch]
        assert sorted(seen) == list(range(count))


def test_too_few_samples_are_named_when_an_epoch_begins(monkeypatch):
    loader = data_loader(make(3), 2)
    in_a_group(monkeypatch, 0, 4)
    with pytest.raises(ValueError, match="a batch of 2 of 3 samples does not give each of 4 processes one"):
        next(iter(loader))


def test_new_data_has_no_labels(tmp_path):
    inputs = {"a": [np.ones((3, 2)), np.zeros((1, 2))], "v": np.ones((2, 3))}
    data = SequenceDataset.from_arrays(inputs, ids=["x", "y"])
    assert data.labels is None
    assert (len(data), data.report["labels"]) == (2, None)
    assert data.batch([1, 0]).labels is None
    assert data.batch([1, 0]).to("meta").labels is None
    assert data[0].label is None
    assert data.collate([data[0], data[1]]).labels is None
    assert [batch.ids for batch in data_loader(data, 2, shuffle=False)] == [["x", "y"]]
    assert data.subset([1]).labels is None
    np.savez(tmp_path / "new.npz", **{"new.a": np.ones((4, 5, 2)), "new.ids": np.array(["p", "q", "r", "s"])})
    loaded = load_splits(tmp_path / "new.npz")["new"]
    assert loaded.labels is None
    assert loaded.ids == ["p", "q", "r", "s"]
    prepare(tmp_path / "new.npz", tmp_path / "store")
    stored = load_splits(tmp_path / "store")["new"]
    assert stored.labels is None
    assert torch.equal(stored.batch([2, 0]).inputs["a"], loaded.batch([2, 0]).inputs["a"])
    model = LSTMBackbone(loaded.sizes, hidden_size=4)
    assert predict(model, loaded).shape == (4, 1)
    with pytest.raises(DataError, match="the training data has no labels"):
        fit(model, loaded, loaded)
    with pytest.raises(DataError, match="'v' has 3 samples but 'a' has 2"):
        SequenceDataset.from_arrays({**inputs, "v": np.ones((3, 3))})
    labelled = SequenceDataset.from_arrays(inputs, [0.0, 1.0])
    with pytest.raises(DataError, match="1 of 2 samples have no label, but the others have"):
        data.collate([data[0], labelled[1]])


@pytest.mark.parametrize(("count", "world_size"), [(30, 1), (100, 3), (33, 2), (9, 4)])
def test_the_batches_of_a_loader_are_whole_for_whoever_else_asks(monkeypatch, count, world_size):
    """As many as every process can take the same number of, each epoch in another order, also between epochs of the loader."""
    in_a_group(monkeypatch, 0, world_size)
    loader = data_loader(make(count), 8)
    orders = []
    for _ in range(3):
        batches = list(loader.batch_sampler)
        assert len(batches) == len(loader.batch_sampler)
        assert len(batches) % world_size == 0
        assert sorted(i for batch in batches for i in batch) == list(range(count))
        orders.append(batches)
        assert sum(len(batch.ids) for batch in loader) == sum(
            len(batch[::world_size]) for batch in loader.batch_sampler.batches()
        )
    assert orders[0] != orders[1] != orders[2]
    assert list(loader.batch_sampler) != list(loader.batch_sampler)  # an epoch of its own each
