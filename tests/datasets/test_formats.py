"""Every layout, with every quirk that is known of it, gives the samples that were written, and says what it found."""

import hashlib
import json
import pickle
import tracemalloc

import layouts
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    SPLITS,
    all_data,
    changed,
    load_content,
    same,
    save,
    with_dollars,
    with_id_parts,
)

from topdown.datasets import DataError, load_splits
from topdown.datasets.prepare import prepare

pytest.importorskip("h5py")


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
@settings(max_examples=12)
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


def test_published_files_are_recognised(tmp_path, monkeypatch):
    from topdown.datasets.formats.helpers import published_files

    layouts.mult_file(tmp_path / "any name")
    sha256 = hashlib.sha256((tmp_path / "any name").read_bytes()).hexdigest()
    monkeypatch.setitem(published_files.PUBLISHED, sha256, "a file of this test")
    assert load_splits(tmp_path / "any name")["test"].report["source"]["known_as"] == "a file of this test"
    assert (
        published_files.published_file("31007381c01dd346945ed8a64c7321239de5aaf1ef05bf112e952848a823186d")
        == "MulT's mosei_senti_data.pkl"
    )
    assert len(published_files.PUBLISHED) == 9


def test_options_that_mean_nothing_are_refused(tmp_path):
    layouts.mult_file(tmp_path / "x.pkl")
    with pytest.raises(DataError, match=r"x.pkl: is a pickle of arrays, which does not support folds="):
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
