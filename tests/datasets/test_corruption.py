"""Corruptions of data: what they do, that they are the same each time, and that they leave the source alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topdown.datasets import DataError, SequenceDataset, load_splits
from topdown.datasets.prepare import prepare

COUNT = 200


def make(count=COUNT, seed=0):
    rng = np.random.default_rng(seed)
    steps = rng.integers(2, 9, count)
    return SequenceDataset.from_arrays(
        {
            "a": [rng.normal(3, 2, (n, 20)) for n in steps],
            "b": [rng.normal(-1, 5, (n, 10)) for n in steps],
            "v": rng.normal(size=(count, 15)),
        },
        rng.normal(size=count),
    )


def rows(data, name):
    return torch.cat([data[i].inputs[name].reshape(-1, data.sizes[name]) for i in range(len(data))])


def test_noise_has_the_standard_deviation_that_was_asked_for():
    data = make()
    noisy = data.corrupt("noise", 0.5)
    for name, std in {"a": 2.0, "b": 5.0, "v": 1.0}.items():
        added = rows(noisy, name) - rows(data, name)
        assert float(added.std()) == pytest.approx(0.5 * std, rel=0.1)
        assert abs(float(added.mean())) < 0.1 * std
        torch.testing.assert_close(data.moments()[name].deviation, rows(data, name).std(0, correction=0), rtol=1e-4, atol=1e-5)
    doubled = data.corrupt("noise", 0.5, scale={name: 2 * found.deviation for name, found in data.moments().items()})
    torch.testing.assert_close(
        rows(doubled, "a") - rows(data, "a"), 2 * (rows(noisy, "a") - rows(data, "a")), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("kind", "axis"), [("features", 0), ("steps", 1)])
def test_features_and_steps_go_as_a_whole_and_as_often_as_asked_for(kind, axis):
    data = make()
    worse = data.corrupt(kind, 0.3)
    share = []
    for i in range(len(data)):
        before, after = data[i].inputs["a"], worse[i].inputs["a"]
        gone = (after == 0).all(axis)
        assert torch.equal(after, before * ~gone.unsqueeze(axis))
        share.append(gone.float().mean())
    assert float(torch.stack(share).mean()) == pytest.approx(0.3, abs=0.04)
    assert all(torch.equal(worse.lengths[k], n) for k, n in data.lengths.items())


def test_modalities_go_as_often_as_asked_for_and_one_stays():
    data = make()
    worse = data.corrupt("missing", 0.3)
    there = torch.stack([worse.lengths[name] > 0 for name in ("a", "b", "v")])
    assert there.any(0).all()
    assert float(there.float().mean()) == pytest.approx(0.7, abs=0.05)
    assert data.corrupt("missing", 1.0, modalities=["b"]).lengths["b"].sum() == 0
    only = data.corrupt("missing", 1.0)
    left = torch.stack([only.lengths[name] > 0 for name in ("a", "b", "v")]).sum(0)
    assert (left == 1).all()
    kept = torch.stack([only.lengths[name] > 0 for name in ("a", "b", "v")]).float().mean(1)
    assert (kept > 0.2).all()  # not always the same one
    again = only.corrupt("missing", 1.0, seed=5)  # what is left does not go
    assert all(torch.equal(again.lengths[k], n) for k, n in only.lengths.items())


@given(st.sampled_from(["noise", "features", "steps", "missing"]), st.floats(0, 1), st.integers(0, 5), st.integers(1, 7))
def test_a_sample_becomes_the_same_in_any_batch_and_subset(kind, severity, seed, batch_size):
    data = make(9)
    worse = data.corrupt(kind, severity, seed=seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    part = worse.subset(order)
    for number, i in enumerate(order.tolist()):
        for one in (part[number], data.corrupt(kind, severity, seed=seed)[i]):
            assert all(torch.equal(one.inputs[k], x) for k, x in worse[i].inputs.items())
    for indices in order.split(batch_size):
        batch = worse.batch(indices)
        for row, i in enumerate(indices.tolist()):
            for name, x in worse[i].inputs.items():
                got = batch.inputs[name][row]
                assert torch.equal(got[: len(x)], x)
                assert not got[len(x) :].any()


def test_seeds_and_severities():
    data = make(20)
    assert all(
        torch.equal(rows(data.corrupt(kind, 0.0), "a"), rows(data, "a")) for kind in ("noise", "features", "steps", "missing")
    )
    one, two = (rows(data.corrupt("noise", 0.5, seed=seed), "a") for seed in (0, 1))
    assert not torch.equal(one, two)
    severity = torch.tensor([0.0, 1.0] * 10)
    worse = data.corrupt("steps", severity)
    for i in range(20):
        assert torch.equal(worse[i].inputs["b"], data[i].inputs["b"] * (i % 2 == 0))
    both = data.corrupt("steps", 0.4).corrupt("noise", 1.0, modalities=["a"])
    assert torch.equal(rows(both, "b"), rows(data.corrupt("steps", 0.4), "b"))
    assert not torch.equal(rows(both, "a"), rows(data.corrupt("steps", 0.4), "a"))


def test_a_store_is_corrupted_as_it_is_read(tmp_path):
    data = make(12)
    members = {"train.labels": data.labels.numpy()}
    for name in "ab":
        members |= {f"train.{name}": rows(data, name).numpy(), f"train.{name}.lengths": data.lengths[name].numpy()}
    np.savez(tmp_path / "x.npz", **members)
    stored = prepare(tmp_path / "x.npz", tmp_path / "x.store")["train"].corrupt("noise", 0.5).corrupt("missing", 0.5)
    loaded = load_splits(tmp_path / "x.npz")["train"].corrupt("noise", 0.5).corrupt("missing", 0.5)
    one, two = stored.batch(range(12)), loaded.batch(range(12))
    assert all(torch.equal(one.inputs[k], two.inputs[k]) for k in "ab")
    assert all(torch.equal(one.lengths[k], two.lengths[k]) for k in "ab")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("blur", 0.5), {}, r"there is no corruption 'blur': use one of \['noise', 'features', 'steps', 'missing'\]"),
        (("steps", 1.5), {}, "severity of 'steps' must be between 0 and 1, got 1.5"),
        (("noise", -1.0), {}, "severity of 'noise' must be at least 0, in standard deviations, got -1.0"),
        (("noise", float("nan")), {}, "severity of 'noise' must be at least 0"),
        (("steps", torch.ones(3)), {}, r"severity has shape \(3,\): give one number, or one for each of 4 samples"),
        (("steps", 0.5), {"modalities": ["c"]}, r"there is no modality 'c' among \['a', 'b', 'v'\]"),
        (("steps", 0.5), {"modalities": "a"}, r"modalities='a': give a list of names"),
    ],
)
def test_what_cannot_be_done_is_named(arguments, options, message):
    with pytest.raises(DataError, match=message):
        make(4).corrupt(*arguments, **options)


def test_data_is_standardized_by_the_moments_of_others(tmp_path):
    train, test = make(40), make(10, seed=1)
    by = train.moments()
    for name in "abv":
        torch.testing.assert_close(by[name].mean, rows(train, name).mean(0), rtol=1e-4, atol=1e-5)
        done = rows(train.standardized(by), name)
        torch.testing.assert_close(done.mean(0), torch.zeros(done.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(done.std(0, correction=0), torch.ones(done.shape[1]), rtol=0, atol=1e-4)
        expected = (rows(test, name) - rows(train, name).mean(0)) / rows(train, name).std(0, correction=0)
        torch.testing.assert_close(rows(test.standardized(by), name), expected, rtol=1e-4, atol=1e-4)
    constant = SequenceDataset.from_arrays({"a": np.full((3, 2, 1), 7.0)})
    assert not constant.standardized(constant.moments()).batch([0, 1, 2]).inputs["a"].any()
    np.savez(tmp_path / "x.npz", **{"train.a": rows(train, "a").numpy(), "train.a.lengths": train.lengths["a"].numpy()})
    stored = prepare(tmp_path / "x.npz", tmp_path / "x.store")["train"]
    twice = stored.standardized(by).standardized(by)  # as values are read
    expected = train.standardized(by).standardized(by)
    torch.testing.assert_close(rows(twice, "a"), rows(expected, "a"), rtol=1e-4, atol=1e-5)


def test_corrupted_samples_are_not_masked():
    data = make(4)
    with pytest.raises(DataError, match="mask them first, then corrupt them"):
        data.corrupt("noise", 1.0).masked({name: torch.ones(4, size) for name, size in data.sizes.items()})
