"""Values far from zero keep their digits until they are standardized: of float32, they would lose them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from topdown.datasets import DataError, SequenceDataset, load_splits
from topdown.datasets.prepare import prepare
from topdown.datasets.report import data_table
from topdown.training.scaled_output import ScaledOutput, target_moments

RNG = np.random.default_rng(0)
POSITIONS = 5_334_000 + 0.2 * RNG.normal(size=(200, 4, 1))
TIMES = 1.7e9 + np.arange(200.0)
EXACT = torch.from_numpy(((POSITIONS - POSITIONS.mean()) / POSITIONS.std()).astype(np.float32)).flatten(0, 1)


def as_arrays(folder):
    return SequenceDataset.from_arrays({"gps": POSITIONS}, TIMES)


def as_list(folder):
    return SequenceDataset.from_arrays({"gps": [*POSITIONS]}, TIMES)


def as_archive(folder):
    np.savez(folder / "a.npz", **{"train.gps": POSITIONS, "train.labels": TIMES})
    return load_splits(folder / "a.npz")["train"]


def as_store(folder):
    as_archive(folder)
    return prepare(folder / "a.npz", folder / "store")["train"]


def as_tables(folder):
    rows = [f"{i},{float(value)!r}" for i, sample in enumerate(POSITIONS) for value in sample[:, 0]]
    (folder / "gps.csv").write_text("\n".join(["id,north", *rows]))
    (folder / "labels.csv").write_text("\n".join(["id,split,at", *(f"{i},train,{float(y)!r}" for i, y in enumerate(TIMES))]))
    return load_splits(folder)["train"]


SOURCES = [as_arrays, as_list, as_archive, as_store, as_tables]


@pytest.mark.parametrize("source", SOURCES)
def test_values_far_from_zero_are_standardized_before_the_cast(source, tmp_path):
    data = source(tmp_path)
    moments = data.moments()["gps"]
    assert float(moments.mean) == pytest.approx(POSITIONS.mean(), abs=1e-6)
    assert float(moments.deviation) == pytest.approx(POSITIONS.std(), rel=1e-6)
    values = data.standardized(data.moments()).sequences["gps"].all_rows()
    assert values.dtype == torch.float32
    assert len(values.unique()) > 795  # of 800; float32 has 4
    torch.testing.assert_close(values, EXACT, rtol=0, atol=1e-5)
    assert data.batch([0, 1]).inputs["gps"].dtype == data[0].inputs["gps"].dtype == torch.float32
    assert data.labels.tolist() == TIMES.tolist()


@pytest.mark.parametrize("source", SOURCES)
def test_the_report_says_which_values_float32_would_lose(source, tmp_path):
    assert "float32 has 4 values for the 800 of feature 0 (1 such features)" in data_table({"train": source(tmp_path)})


def test_vectors_keep_their_digits():
    data = SequenceDataset.from_arrays({"gps": POSITIONS[:, 0], "b": np.ones((200, 2))}, TIMES)
    values = data.standardized(data.moments())
    assert len(torch.stack([sample.inputs["gps"] for sample in values]).unique()) == 200
    assert values.batch([0]).inputs["gps"].dtype == torch.float32


def test_large_integers_keep_their_digits():
    nanoseconds = 1_700_000_000_000_000_000 + 1_000_000 * np.arange(50).reshape(10, 5, 1)
    data = SequenceDataset.from_arrays({"time": nanoseconds}, np.zeros(10))
    assert len(data.standardized(data.moments()).sequences["time"].all_rows().unique()) == 50


def test_other_splits_are_as_exact_as_train(tmp_path):
    """One test sample has no spread of its own, and two far apart have too much: train decides."""
    for test in (POSITIONS[:1, :1], np.array([[[5_334_000.1]], [[5_934_000.3]]])):
        np.savez(tmp_path / "a.npz", **{"test.gps": test, "train.gps": POSITIONS, "train.labels": TIMES})
        splits = load_splits(tmp_path / "a.npz")
        found = splits["test"].standardized(splits["train"].moments()).sequences["gps"].all_rows().flatten()
        expected = (test.flatten() - POSITIONS.mean()) / POSITIONS.std()
        torch.testing.assert_close(found, torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5)


def test_ordinary_values_are_float32(tmp_path):
    values = RNG.normal(3.0, 1.0, (20, 5, 2))
    np.savez(tmp_path / "a.npz", **{"train.a": values, "train.labels": RNG.normal(size=20)})
    for data in (load_splits(tmp_path / "a.npz")["train"], prepare(tmp_path / "a.npz", tmp_path / "store")["train"]):
        assert data.sequences["a"].all_rows().dtype == data.labels.dtype == torch.float32
        assert data.sequences["a"].all_rows().tolist() == values.astype(np.float32).reshape(-1, 2).tolist()
        assert "rounded" not in data.report["modalities"]["a"]


def test_predictions_of_times_keep_their_digits():
    class Backbone(torch.nn.Module):
        def forward(self, inputs, lengths=None):
            return inputs["a"]

    model = ScaledOutput(Backbone(), *target_moments(torch.from_numpy(TIMES)))
    output = model({"a": torch.tensor([[0.0], [0.01]])})
    assert (output[1] - output[0]).item() == pytest.approx(0.01 * TIMES.std(), rel=1e-4)
    assert output[0].item() == TIMES.mean()


@pytest.mark.parametrize("form", ["list", "padded", "archive", "end to end", "store"])
def test_ids_of_tokens_stay_integers(form, tmp_path):
    ids = [np.array([101, 16_777_217, 102]), np.array([7])]
    padded, lengths = np.array([[101, 16_777_217, 102], [7, 0, 0]]), np.array([3, 1])
    arrays = {"train.text": padded, "train.text.lengths": lengths, "train.labels": np.array([0.0, 1.0])}
    if form == "end to end":
        arrays["train.text"] = np.concatenate(ids)
    np.savez(tmp_path / "a.npz", **arrays)
    if form == "list":
        data = SequenceDataset.from_arrays({"text": ids}, [0.0, 1.0])
    elif form == "padded":
        data = SequenceDataset.from_arrays({"text": padded}, [0.0, 1.0], lengths={"text": lengths})
    elif form == "store":
        data = prepare(tmp_path / "a.npz", tmp_path / "store")["train"]
    else:
        data = load_splits(tmp_path / "a.npz")["train"]
    assert [sample.inputs["text"].tolist() for sample in data] == [x.tolist() for x in ids]  # float32 has no 16,777,217
    batches = data.batch([0, 1]), data.collate([data[0], data[1]])
    for batch in batches:
        assert batch.inputs["text"].tolist() == padded.tolist()
        assert batch.inputs["text"].dtype == torch.int64
        assert batch.lengths.tolist() == [3, 1]
    assert data.standardized(data.moments()).batch([0, 1]).inputs["text"].tolist() == padded.tolist()


def test_integer_features_are_no_tokens():
    data = SequenceDataset.from_arrays({"a": np.array([[3, 4], [5, 6]])}, [0.0, 1.0])
    assert data.vectors["a"].tolist() == [[3.0, 4.0], [5.0, 6.0]]
    with pytest.raises(DataError, match="must be a list of arrays"):
        SequenceDataset.from_arrays({"a": [np.array([0.5]), np.array([0.5])]}, [0.0, 1.0])


@pytest.mark.parametrize("form", ["arrays", "list", "vectors", "archive", "store", "tables", "far", "far store"])
def test_gaps_get_the_mean_of_the_training_samples(form, tmp_path):
    """A feature of 37 +- 0.1 with a tenth missing had moments of 33.3 +- 11.1, where gaps counted as 0."""
    base = 5_334_000.0 if form.startswith("far") else 37.0
    values = base + 0.1 * np.random.default_rng(0).normal(size=(100, 5, 2))
    values = values[:, :1].repeat(5, 1) if form == "vectors" else values
    values[::10, :, 0] = np.nan
    train, test = values[:80], values[80:]
    arrays = {"test.x": test, "test.labels": np.zeros(20), "train.x": train, "train.labels": np.zeros(80)}
    np.savez(tmp_path / "x.npz", **arrays)
    if form in ("arrays", "list", "vectors"):
        given = {"arrays": train, "list": [*train], "vectors": train[:, 0]}[form]
        data = {"train": SequenceDataset.from_arrays({"x": given}, np.zeros(80))}
    elif form == "tables":
        rows = [
            f"{i},{t},{','.join('' if v != v else repr(float(v)) for v in step)}"
            for i, x in enumerate(values)
            for t, step in enumerate(x)
        ]
        (tmp_path / "tables").mkdir()
        (tmp_path / "tables/x.csv").write_text("\n".join(["id,t,a,b", *rows]))
        labels = [f"{i},{'train' if i < 80 else 'test'},0.5" for i in range(100)]
        (tmp_path / "tables/labels.csv").write_text("\n".join(["id,split,y", *labels]))
        data = load_splits(tmp_path / "tables", features={"x": ["a", "b"]})
    else:
        data = prepare(tmp_path / "x.npz", tmp_path / "store") if "store" in form else load_splits(tmp_path / "x.npz")
    moments = data["train"].moments()["x"]
    np.testing.assert_allclose(moments.mean.double().numpy(), np.nanmean(train, (0, 1)), rtol=1e-6 if base < 100 else 1e-10)
    share = np.isnan(train[..., 0]).mean()
    np.testing.assert_allclose(float(moments.deviation[0]), np.sqrt(1 - share) * np.nanstd(train[..., 0]), rtol=1e-3)
    for split, found in data.items():
        first = found.standardized(data["train"].moments())[0].inputs["x"].reshape(-1, 2)[:, 0]
        torch.testing.assert_close(first, torch.zeros_like(first), rtol=0, atol=1e-3)  # the mean of train, also in test
        count = int(np.isnan(train[:, :1] if form == "vectors" else {"train": train, "test": test}[split]).sum())
        assert found.report["modalities"]["x"]["filled"] == count
        assert f"{split} x: {count} missing values got the mean of their feature" in data_table(data)


def test_infinite_values_of_arrays_are_refused():
    with pytest.raises(DataError, match="'a' has 1 values that are not finite, the first in sample 2"):
        SequenceDataset.from_arrays({"a": np.array([[1.0], [np.nan], [np.inf], [2.0]])}, np.zeros(4))
