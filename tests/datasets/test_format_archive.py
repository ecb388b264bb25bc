"""Archives of arrays of one's own, also hostile ones."""

import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch

from topdown.datasets import DataError, load_splits


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


def test_labels_that_are_words_are_classes_which_all_splits_share(tmp_path):
    labels = {"a": np.array(["sad", "", " glad"]), "b": np.array([b"calm"]), "c": np.array(["glad"])}
    arrays = {f"{split}.x": np.ones((len(words), 2)) for split, words in labels.items()}
    np.savez(tmp_path / "x.npz", **arrays, **{f"{split}.labels": words for split, words in labels.items()})
    loaded = load_splits(tmp_path / "x.npz")
    assert [data.report["class_names"] for data in loaded.values()] == [["calm", "glad", "sad"]] * 3
    assert [data.labels.tolist() for data in loaded.values()] == [[2, -100, 1], [0], [1]]
    nothing = {"d.x": np.ones((0, 2)), "d.labels": np.array([], str)}  # text, too
    for other, message in (
        ({"a.labels": np.array([["sad"]] * 3)}, r"y.npz: a: labels are words of shape \(3, 1\)"),
        ({"a.labels": np.array(["0.5", "1", "2"])}, "y.npz: labels are numbers as text, such as '0.5'"),
        ({"a.labels": labels["a"], **nothing}, "y.npz: d: "),
    ):
        np.savez(tmp_path / "y.npz", **arrays, **other)
        with pytest.raises(DataError, match=message):
            load_splits(tmp_path / "y.npz")
    np.savez(tmp_path / "y.npz", **arrays, **{"a.labels": labels["a"], "b.labels": [1]})
    with pytest.raises(DataError, match=r"labels of 'a' are words, but those of 'b' are numbers"):
        load_splits(tmp_path / "y.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"labels": [1.0]}, "'labels' is not <split>.<modality>"),
        ({"a.labels": np.ones(1)}, r"a: has no modality"),
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
