import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mult_files import make_file

from topdown.experiments import DataError, load_splits
from topdown.experiments.pickles import load_arrays

MOSI = Path(__file__).parents[2] / "shared" / "data" / "mosi_small_data.pkl"
KEYS = {"text": "text", "audio": "audio", "visual": "vision"}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("unaligned", [False, True])
def test_samples_come_back_without_their_padding(tmp_path, protocol, unaligned):
    path = tmp_path / "data.pkl"
    content = make_file(path, protocol=protocol, unaligned=unaligned)
    splits = load_splits(path)
    assert list(splits) == ["train", "valid", "test"]
    for split, data in splits.items():
        source = content[split]
        assert data.aligned is not unaligned
        assert data.labels.dtype == torch.float32
        np.testing.assert_allclose(data.labels.numpy(), source["labels"][:, 0, 0], rtol=1e-6)
        assert data.ids[3] == "video3|0.0|1.5"
        for i, sample in enumerate(data):
            for ours, theirs in KEYS.items():
                rows = source[theirs][i]
                expected = rows[np.abs(rows).sum(-1).nonzero()[0][0] :]
                np.testing.assert_array_equal(sample.inputs[ours].numpy(), expected.astype(np.float32))


def test_a_zero_row_of_one_modality_is_not_padding_in_an_aligned_file(tmp_path):
    def unknown_words(content):
        content["train"]["text"][:] = 0  # in every sample
        content["train"]["audio"][0, -1] = 0

    content = make_file(tmp_path / "data.pkl", unknown_words)
    data = load_splits(tmp_path / "data.pkl")["train"]
    expected = (content["train"]["vision"] != 0).any(-1).sum(1)
    assert {name: n.tolist() for name, n in data.lengths.items()} == dict.fromkeys(KEYS, expected.tolist())


def test_what_is_not_finite_is_replaced_and_counted(tmp_path):
    def spoil(content):
        content["train"]["audio"][2, -1, :2] = -np.inf
        content["train"]["audio"][3, -1, 0] = np.inf
        content["test"]["vision"][0, -1, 1] = np.nan
        content["test"]["vision"][0, -1, 0] = np.finfo(np.float64).min  # -inf after np.nan_to_num

    make_file(tmp_path / "data.pkl", spoil)
    splits = load_splits(tmp_path / "data.pkl")
    found = {split: {k: m["replaced"] for k, m in data.report["modalities"].items()} for split, data in splits.items()}
    nothing = {"nan": 0, "+inf": 0, "-inf": 0, "beyond float32": 0}
    assert found["train"] == {"text": nothing, "audio": {**nothing, "+inf": 1, "-inf": 2}, "visual": nothing}
    assert found["valid"] == dict.fromkeys(KEYS, nothing)
    assert found["test"]["visual"] == {**nothing, "nan": 1, "beyond float32": 1}
    assert splits["train"][2].inputs["audio"][-1, :2].tolist() == [0, 0]
    assert all(r.values.isfinite().all() for data in splits.values() for r in data.sequences.values())


def test_the_report_says_what_was_found(tmp_path):
    def change(content):
        content["train"]["labels"][:6] = 0
        content["train"]["vision"][0, -2:] = 0

    content = make_file(tmp_path / "data.pkl", change, unaligned=True)
    report = load_splits(tmp_path / "data.pkl")["train"].report
    assert report["samples"] == 12
    assert report["aligned"] is False
    labels = content["train"]["labels"]
    assert report["labels"] == {
        "shape": [12, 1, 1],
        "minimum": labels.min(),
        "maximum": labels.max(),
        "zeros": 0.5,
    }
    audio = report["modalities"]["audio"]
    lengths = (content["train"]["audio"] != 0).any(-1).sum(1)
    assert audio["lengths"] == {"minimum": lengths.min(), "median": np.median(lengths), "maximum": lengths.max()}
    assert (audio["dtype"], audio["padding"], audio["size"], audio["steps"]) == ("float64", "left", 4, 11)
    assert report["modalities"]["visual"]["samples_with_zeros_at_the_end"] == 1
    assert audio["samples_with_zeros_at_the_end"] == 0


def test_an_empty_modality_of_an_unaligned_file_keeps_one_zero_row_and_is_counted(tmp_path):
    def silent(content):
        content["train"]["audio"][4] = 0

    make_file(tmp_path / "data.pkl", silent, unaligned=True)
    data = load_splits(tmp_path / "data.pkl")["train"]
    assert data[4].inputs["audio"].tolist() == [[0, 0, 0, 0]]
    assert data.report["modalities"]["audio"]["empty_samples"] == 1


def test_ids_may_be_absent_or_text(tmp_path):
    make_file(tmp_path / "data.pkl", lambda content: content["train"].pop("id") is None or None)
    assert load_splits(tmp_path / "data.pkl")["train"].ids[3] == "3"
    make_file(tmp_path / "data.pkl", lambda content: content["train"].update(id=[f"v{i}" for i in range(12)]))
    assert load_splits(tmp_path / "data.pkl")["train"].ids[3] == "v3"


def set_split(key, value):
    return lambda content: content["valid"].update({key: value(content["valid"].get(key))})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: [1], "has no train, valid, test; a MulT pickle is a dict"),
        (lambda content: content.pop("valid") and None, "has no valid; a MulT pickle is a dict of train, valid and test"),
        (lambda content: content["valid"].pop("audio") is None, "valid: has no array 'audio'; it has"),
        (set_split("vision", lambda a: a[:4]), "valid: 'vision' has 4 samples but 'labels' has 6"),
        (set_split("labels", lambda a: a[:4]), "valid: 'text' has 6 samples but 'labels' has 4"),
        (set_split("id", lambda a: a[:4]), "valid: 'id' has 4 entries but 'labels' has 6"),
        (set_split("labels", lambda a: a * 0 + 3.5), r"valid: label 0 is 3.5, outside \[-3, 3\] \(6 such labels\)"),
        (set_split("labels", lambda a: a * np.nan), "valid: label 0 is nan, outside"),
        (set_split("labels", lambda a: np.zeros((6, 4, 2))), r"valid: 'labels' has shape \(6, 4, 2\)"),
        (set_split("labels", lambda a: np.array(1.0)), r"valid: 'labels' has shape \(\) of float64"),
        (set_split("id", lambda a: 5), "valid: 'id' has a int but 'labels' has 6"),
        (set_split("audio", lambda a: a[:, :0]), r"valid: 'audio' has shape \(6, 0, 4\)"),
        (set_split("audio", lambda a: a[..., :3]), r"valid has features .*'audio': 3.*, but train has .*'audio': 4"),
        (set_split("labels", lambda a: a.astype(str)), "valid: 'labels' has shape .* of <U"),
        (set_split("audio", lambda a: a[..., 0]), r"valid: 'audio' has shape \(6, 8\) of float64"),
        (set_split("audio", lambda a: a * np.nan), r"valid: 'audio': feature 0 is never finite \(4 such features\)"),
        (
            lambda c: [c["valid"][k].__setitem__(2, 0) for k in KEYS.values()] and None,
            "valid: sample 2 has no steps, only zeros",
        ),
    ],
)
def test_wrong_files_are_named(tmp_path, change, message):
    path = tmp_path / "data.pkl"
    make_file(path, change)
    with pytest.raises(DataError, match=message) as caught:
        load_splits(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {
    "os.system": Call(os.system, "touch {mark}"),
    "eval": Call(eval, "open('{mark}', 'w')"),
    "getattr": Call(getattr, "", "join"),
    "object array": np.array([Call(os.system, "touch {mark}")], dtype=object),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_pickles_that_would_run_code_are_refused_by_name(tmp_path, name):
    mark = tmp_path / "mark"
    payload = HOSTILE[name]
    for protocol in range(6):
        raw = pickle.dumps({"train": payload}, protocol=protocol)
        path = tmp_path / "hostile.pkl"
        path.write_bytes(raw.replace(b"{mark}", str(mark).encode()) if protocol == 0 else raw)
        with pytest.raises(
            DataError, match=r"hostile.pkl: refused, since it would call (posix.system|\w*builtin\w*\.(eval|getattr))"
        ):
            load_splits(path)
        assert not mark.exists()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a pickle, or cut short"),
        (b"hello", "not a pickle, or cut short"),
        (pickle.dumps(np.ones(9))[:-20], "not a pickle, or cut short"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000\ntS'b'\ntR.", "refused.*shape .1000000000"),
        (
            b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'12345678'\ntR.",
            "refused.*numpy's scalar for object",
        ),
        (b"c_codecs\nencode\n(VAAAA\nVzlib\ntR.", "refused.*codecs.encode with 'zlib'"),
        (b"Phello\n.", "refused.*persistent_load"),
    ],
)
def test_damaged_and_crafted_pickles_are_refused(tmp_path, raw, message):
    path = tmp_path / "data.pkl"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=message):
        load_arrays(path)


class Lying:
    """A dtype that holds objects and denies it."""

    def __reduce__(self):
        state = (3, "|", None, ("f",), {"f": (np.dtype("O"), 0)}, 8, 1, 0)
        return np.dtype, ("V8", False, True), state


class Pointers:
    def __reduce__(self):
        return np.ndarray, ((12,), Lying(), b"ABCDEFGH" * 12)


def test_types_that_lie_about_their_content_are_refused(tmp_path):
    path = tmp_path / "data.pkl"
    for payload in (Lying(), Pointers()):
        make_file(path, lambda content, payload=payload: content["train"].update(id=payload))
        with pytest.raises(DataError, match="refused, since it would call numpy's dtype for 'V8'"):
            load_splits(path)
    lying_state = b"cnumpy\ndtype\n(S'O8'\nI00\nI01\ntR(I3\nS'|'\nN(S'f'\ntN tb."
    path.write_bytes(lying_state)
    with pytest.raises(DataError):
        load_arrays(path)


def test_memory_of_arrays_is_out_of_reach(tmp_path):
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    objects = b"(I1\n(I2\ntcnumpy\ndtype\n(S'O8'\nI00\nI01\ntRI00\n(lI7\naI8\natb"
    numbers = b"(I1\n(I1\ntcnumpy\ndtype\n(S'i8'\nI00\nI01\ntRI00\nS'12345678'\ntb"
    view = b"cnumpy.core.numeric\n_frombuffer\n(g0\ncnumpy\ndtype\n(S'i8'\nI00\nI01\ntR(I2\ntS'C'\ntR."
    crafted = {
        "a view of another array": (head + b"p0\n" + objects + view, "_frombuffer with a _Pending"),
        "a second state": (head + numbers + numbers + b".", "setstate with shape"),
        "fewer objects than the shape": (head + objects.replace(b"(I2\n", b"(I5\n") + b".", "another number of objects"),
        "no objects": (head + objects.replace(b"(lI7\naI8\na", b"(l") + b".", "another number of objects"),
        "items without size": (
            head + numbers.replace(b"'i8'", b"'S0'").replace(b"(I1\nt", b"(I1000000000\nt") + b".",
            "setstate for",
        ),
        "a negative shape": (head + numbers.replace(b"(I1\nt", b"(I-1\nt") + b".", "setstate with shape"),
    }
    path = tmp_path / "data.pkl"
    for raw, message in crafted.values():
        path.write_bytes(raw)
        with pytest.raises(DataError, match=message):
            load_arrays(path)
    path.write_bytes(head + objects + b".")
    assert load_arrays(path).tolist() == [7, 8]
    path.write_bytes(head + b"p0\n" + numbers + b"I0\nI5\ns.")  # an item set in an array
    with pytest.raises(DataError):
        load_arrays(path)


def test_messages_stay_short(tmp_path):
    laughs = b"(lp0\n" + b"".join(b"(lp%d\ng%d\nag%d\na" % (i + 1, i, i) for i in range(40))
    (tmp_path / "data.pkl").write_bytes(b"cnumpy\ndtype\n(" + laughs + b"tR.")
    with pytest.raises(DataError) as caught:
        load_arrays(tmp_path / "data.pkl")
    assert len(str(caught.value)) < 600


def test_arrays_within_containers_and_arrays_are_arrays(tmp_path):
    inner = np.arange(3.0)
    shared = [inner, (inner, {"x": inner})]
    content = {"a": shared, "b": shared, "c": np.array([inner, None], dtype=object)}
    content["self"] = content
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(content, protocol=4))
    read = load_arrays(tmp_path / "data.pkl")
    assert read["self"] is read
    assert read["a"] is read["b"]
    for array in (read["a"][0], read["a"][1][0], read["a"][1][1]["x"], read["c"][0]):
        assert type(array) is np.ndarray
        assert array.tolist() == [0, 1, 2]
    read["a"][0][0] = 5  # writable, as any array
    assert read["c"][1] is None


@pytest.mark.parametrize(
    "raw",
    [
        b"c_codecs\nencode\n(N(dS'__defaults__'\n(S'zlib'\ntstb.",  # a function with new defaults
        b"c_codecs\nencode\n}S'x'\nI1\nsb.",
        b"cnumpy\nndarray\n(I4\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\ntS'f8'\nI00\nS'12345678'\ntb.",
    ],
)
def test_the_stand_ins_cannot_be_changed(tmp_path, raw):
    (tmp_path / "data.pkl").write_bytes(raw)
    with pytest.raises(DataError, match="refused, since it would call"):
        load_arrays(tmp_path / "data.pkl")
    assert "encode" in str(load_arrays.__globals__["_encode"])
    assert load_arrays.__globals__["_encode"].__defaults__ == ("utf-8",)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", "S3", "U2", "?", "<f2", "O", "<c16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_plain_type_are_read(tmp_path, dtype, order):
    array = np.asfortranarray if order == "F" else np.ascontiguousarray
    expected = array(np.arange(6).reshape(2, 3).astype(dtype))
    for protocol in range(6):
        (tmp_path / "data.pkl").write_bytes(pickle.dumps([expected, expected[0, 1], np.str_("")], protocol=protocol))
        read, scalar, empty = load_arrays(tmp_path / "data.pkl")
        np.testing.assert_array_equal(np.asarray(read), expected)
        assert read.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")  # numpy itself swaps when it reads
        assert scalar == expected[0, 1]
        assert empty == ""


def test_scalars_and_containers_are_read(tmp_path):
    content = {"a": np.float64(1.5), "b": [1, "x", b"y", None, (2.0, True)], "c": np.array(["ab", None], dtype=object)}
    for protocol in range(6):
        (tmp_path / "data.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        read = load_arrays(tmp_path / "data.pkl")
        assert (read["a"], read["b"], read["c"].tolist()) == (1.5, content["b"], ["ab", None])


def test_paths_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.pkl: there is no such file; check the path"):
        load_splits(tmp_path / "nowhere.pkl")
    with pytest.raises(DataError, match="is a directory; name a file in it"):
        load_splits(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        load_splits(Path("/dev/null/data.pkl"))


@pytest.mark.skipif(not MOSI.exists(), reason="needs the small extract of CMU-MOSI, which may not be redistributed")
def test_real_cmu_mosi():
    splits = load_splits(MOSI)
    assert {split: len(data) for split, data in splits.items()} == {"train": 134, "valid": 55, "test": 40}
    assert splits["train"].sizes == {"text": 300, "audio": 74, "visual": 47}
    assert all(data.aligned for data in splits.values())
    minus = {split: data.report["modalities"]["audio"]["replaced"]["-inf"] for split, data in splits.items()}
    assert minus == {"train": 1, "valid": 0, "test": 1}
    # Unknown words at the start of an utterance are zero rows of text, and not padding.
    leading = sum(int((sample.inputs["text"][0] == 0).all()) for data in splits.values() for sample in data)
    assert leading == 23
