import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topdown.datasets import BucketedSampler, SequenceDataset, data_loader
from topdown.datasets.batching import bucketed_batches

lengths_of_samples = st.lists(st.integers(1, 9), min_size=1, max_size=60).map(torch.tensor)


def make(count, seed=0):
    generator = np.random.default_rng(seed)
    inputs = {
        "a": [generator.normal(size=(n, 2)) for n in generator.integers(1, 9, count)],
        "v": generator.normal(size=(count, 3)),
    }
    return SequenceDataset.from_arrays(inputs, np.arange(float(count)))


@given(lengths_of_samples, st.integers(1, 12), st.integers(0, 99), st.integers(0, 9), st.integers(1, 5), st.integers(1, 3))
def test_processes_see_every_sample_once_in_as_many_steps(lengths, batch_size, seed, epoch, world_size, pool):
    if min(batch_size, len(lengths)) < world_size:
        with pytest.raises(ValueError, match="use fewer processes or larger batches"):
            BucketedSampler(lengths, batch_size, rank=0, world_size=world_size)
        return
    options = {"seed": seed, "epoch": epoch, "pool": pool}
    samplers = [BucketedSampler(lengths, batch_size, **options, rank=r, world_size=world_size) for r in range(world_size)]
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])}
    assert sorted(i for share in shares for batch in share for i in batch) == list(range(len(lengths)))
    assert all(batch for share in shares for batch in share)
    together = [sorted(i for share in step for i in share) for step in zip(*shares, strict=True)]
    alone = [sorted(b.tolist()) for b in bucketed_batches(lengths, batch_size, **options)]
    if len(lengths) % batch_size == 0:
        assert together == alone
    # Shares of a step differ by one sample at most.
    assert all(max(map(len, step)) - min(map(len, step)) <= 1 for step in zip(*shares, strict=True))


def test_a_sampler_takes_its_place_from_torch_distributed(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    sampler = BucketedSampler(torch.ones(9), 3)
    assert sampler.place() == (2, 3)


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="rank 2 is not among the 2 processes, 0 to 1"):
        BucketedSampler(torch.ones(9), 3, rank=2, world_size=2)
    with pytest.raises(ValueError, match="batch_size=0 must be a whole number, at least 1"):
        BucketedSampler(torch.ones(9), 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_the_batches_of_its_seed_and_epoch(workers):
    data = make(30)
    loader = data_loader(data, 4, seed=5, pool=2, workers=workers)
    for epoch in (1, 2):
        if epoch == 1:
            loader.batch_sampler.set_epoch(1)  # and from there it goes on by itself
        batches = list(loader)
        expected = [data.batch(i) for i in bucketed_batches(data.batch_lengths(), 4, seed=5, epoch=epoch, pool=2)]
        assert len(loader) == len(batches) == len(expected)
        for ours, theirs in zip(batches, expected, strict=True):
            assert torch.equal(ours.labels, theirs.labels)
            assert torch.equal(ours.lengths, theirs.lengths)
            assert all(torch.equal(ours.inputs[k], theirs.inputs[k]) for k in ("a", "v"))


@given(st.integers(1, 12), st.data())
def test_a_subset_holds_its_samples(count, data):
    whole = make(count)
    indices = data.draw(st.lists(st.integers(-count, count - 1), min_size=1, max_size=9))
    part = whole.subset(indices)
    assert part.labels.tolist() == whole.labels[indices].tolist()
    assert part.ids == [whole.ids[i] for i in indices]
    for ours, i in zip(part, indices, strict=True):
        assert torch.equal(ours.inputs["a"], whole[i].inputs["a"])
        assert torch.equal(ours.inputs["v"], whole[i].inputs["v"])
    assert part.sequences["a"].values is whole.sequences["a"].values  # nothing is copied
    assert part.report["samples"] == len(indices)
    assert part.report["subset_of"] == {"samples": count}
    assert part.report["modalities"]["a"]["dtype"] == "float64"  # what was found in the source stays
    assert part.report["modalities"]["a"]["lengths"]["maximum"] == max(len(sample.inputs["a"]) for sample in part)
    assert torch.equal(part.sequences["a"].all_rows(), torch.cat([whole[i].inputs["a"] for i in indices]))
    again = pickle.loads(pickle.dumps(part))
    assert torch.equal(again.batch([0]).inputs["a"], part.batch([0]).inputs["a"])


def test_a_subset_needs_samples():
    for indices in ([], [3], [-4]):
        with pytest.raises(IndexError):
            make(3).subset(indices)
