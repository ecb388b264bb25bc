"""No pickle can run code, crash the interpreter, or take memory for what it does not hold."""

import contextlib
import hashlib
import io
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import torch
from layouts import mult_file

from topdown.datasets import DataError, load_splits
from topdown.datasets.formats.helpers.pickles import load_arrays
from topdown.datasets.formats.helpers.stand_ins import Makers


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Item:
    """A chain: the bound method of an object that another call returned."""

    def __reduce__(self):
        return getattr, (Call(__import__, "os"), "system")

    def __call__(self):
        """Only what can be called may be pickled as what is called."""


class Chain:
    def __reduce__(self):
        return Item(), ("touch {mark}",)


HOSTILE = {
    "os.system": Call(os.system, "touch {mark}"),
    "chain": Chain(),
    "nested": [({"a": (Call(os.system, "touch {mark}"),)},)],
    "key": {("a",): Call(os.system, "touch {mark}")},
    "exec": Call(exec, "open('{mark}', 'w')"),
    "numpy": Call(np.save, "{mark}", 1),
    "torch.load": Call(torch.load, "{mark}"),
    "bytes of torch": Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, "touch {mark}"), protocol=2)),
    "eval": Call(eval, "open('{mark}', 'w')"),
    "getattr": Call(getattr, "", "join"),
    "object array": np.array([Call(os.system, "touch {mark}")], dtype=object),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", range(6))
def test_pickles_that_would_run_code_are_refused_by_name(tmp_path, name, protocol):
    mark = tmp_path / "mark"
    path = tmp_path / "hostile.pkl"
    names = r"(posix.system|\w*builtin\w*\.\w+|numpy.save|torch\.\S+|hash of a tuple)"
    # Wherever it stands: alone, in a split, in place of an array of a file that is otherwise fine.
    for content in (HOSTILE[name], {"train": HOSTILE[name]}, None):
        if content is None:
            content = mult_file(path)
            content["train"]["audio"] = HOSTILE[name]
        raw = pickle.dumps(content, protocol=protocol)
        path.write_bytes(raw.replace(b"{mark}", str(mark).encode()) if protocol == 0 else raw)
        with pytest.raises(DataError, match=rf"hostile.pkl: refused, since it asks for {names}"):
            load_splits(path)
        assert not mark.exists()


@contextlib.contextmanager
def refused(message, memory):
    """Checks that there is an error, and how much memory it took."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message):
            yield
        assert tracemalloc.get_traced_memory()[1] < memory
    finally:
        tracemalloc.stop()


def tensor(numel, size, stride, offset=0, data=b"12345678", kind="FloatStorage"):
    """A pickled torch tensor that says what it likes about itself."""
    inner = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, inner, protocol=2)
    inner.write(
        b"\x80\x02(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02NtQ."
    )
    pickle.dump(["0"], inner, protocol=2)
    inner.write(struct.pack("<q", numel) + data)
    raw = inner.getvalue()
    numbers = b"".join(b"I%d\n" % n for n in size) + b"t(" + b"".join(b"I%d\n" % n for n in stride)
    storage = b"ctorch.storage\n_load_from_bytes\nB" + struct.pack("<I", len(raw)) + raw + b"\x85R"
    return b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I%d\n(" % offset + numbers + b"tI00\n}tR."


def test_crafted_tensors_are_refused(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(tensor(2, (2,), (1,)))
    assert load_arrays(path).content.tobytes() == b"12345678"
    crafted = {
        "for 1000000000 values where there are 8 bytes": tensor(10**9, (2,), (1,)),
        "for -1 values": tensor(-1, (2,), (1,)),
        r"size \(3,\) of 2 values": tensor(2, (3,), (1,)),
        r"size \(2,\) of 2 values": tensor(2, (2,), (1,), offset=1),
        r"with size \(1, 2\)": tensor(2, (1, 2), (1, -1)),
        r"size \(1, 2\)": tensor(2, (1, 2), (1,)),
        "many more bytes than it has": tensor(2, (10**9,), (0,)),
        "torch.QInt8Storage": tensor(2, (2,), (1,), kind="QInt8Storage"),
    }
    for message, raw in crafted.items():
        path.write_bytes(raw)
        with refused(message, 2**20):
            load_arrays(path)


def test_tensors_are_read_as_arrays(tmp_path):
    base = torch.arange(24.0).view(4, 6)
    content = {
        "plain": base,
        "part": base.t()[1:4, ::2],
        "half": torch.ones(3, dtype=torch.float16),
        "bool": torch.tensor([True, False]),
        "whole": torch.arange(3),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
    }
    for protocol in range(2, 6):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        read = load_arrays(tmp_path / "x.pkl").content
        for name, value in content.items():
            np.testing.assert_array_equal(read[name], value.numpy(), err_msg=name)
            assert read[name].dtype == value.numpy().dtype


BOMBS = {
    "hash of nested tuples": b"\x80\x04}" + b")" + b"\x85" * 50_000 + b"K\x01s.",
    "hash of nested tuples at once": b"\x80\x04(" + b")" + b"\x85" * 50_000 + b"K\x01d.",
    "nested tuples": b"\x80\x04)" + b"\x85" * 50_000 + b".",
    "nested lists": b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b".",
    "a memo of two thousand million": b"\x80\x04Nr\xff\xff\xff\x7f0.",
    "bytes that are not there": b"\x80\x04B" + struct.pack("<I", 10**9) + b"x.",
    "a bytearray that is not there": b"\x80\x05\x96" + struct.pack("<Q", 10**9) + b"x.",
    "a frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 10**9) + b"x.",
    "a long that is not there": b"\x80\x04\x8b" + struct.pack("<i", 10**9) + b"x.",
    "text that is not there": b"\x80\x04\x8d" + struct.pack("<Q", 10**9) + b"x.",
    "a set": b"\x80\x04\x8f(K\x01\x90.",
    "an extension": b"\x80\x04\x82\x01.",
    "the same text, encoded again and again": b"\x80\x02c_codecs\nencode\nq\x00X"
    + struct.pack("<I", 100_000)
    + b"a" * 100_000
    + b"q\x01"
    + b"h\x00h\x01\x85R" * 1000
    + b".",
}

PAIRS = b"(" + b"".join(b"K%cN\x86" % (i % 256) for i in range(5000)) + b"e"
BOMBS["the same pairs, made a dict again and again"] = (
    b"\x80\x02ccollections\nOrderedDict\nq\x000]" + PAIRS + b"\x85q\x010](" + b"h\x00h\x01R" * 10_000 + b"e."
)
BOMBS["numbers that all have the same hash"] = (
    b"\x80\x02}("
    + b"".join(b"\x8a%c%bN" % (len(e), e) for e in map(pickle.encode_long, range(2**61 - 1, 2**74, 2**61 - 1)))
    + b"u."
)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_do_not_go_off(tmp_path, name):
    (tmp_path / "x.pkl").write_bytes(BOMBS[name])
    with refused("not a pickle|refused", 64 * 2**20):
        load_splits(tmp_path / "x.pkl")


def test_every_truncation_of_a_file_is_an_error(tmp_path):
    mult_file(tmp_path / "x.pkl")
    raw = (tmp_path / "x.pkl").read_bytes()
    for length in range(0, len(raw), 97):
        (tmp_path / "x.pkl").write_bytes(raw[:length])
        with pytest.raises(DataError, match="not a pickle, or cut short"):
            load_splits(tmp_path / "x.pkl")


def test_the_hash_is_of_the_whole_file(tmp_path):
    raw = pickle.dumps({"a": np.arange(3000.0)}, protocol=4) + b"more"
    (tmp_path / "x.pkl").write_bytes(raw)
    loaded = load_arrays(tmp_path / "x.pkl")
    assert (loaded.sha256, loaded.size) == (hashlib.sha256(raw).hexdigest(), len(raw))


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
        (b"\x80\x04\x8f.", "refused.*set"),
        (b"\x80\x04(\x91.", "refused.*set"),
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
        mult_file(path, lambda content, payload=payload: content["train"].update(id=payload))
        with pytest.raises(DataError, match="refused, since it asks for numpy's dtype for 'V8'"):
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
        "a view of another array": (head + b"p0\n" + objects + view, "_frombuffer with a Pending"),
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
    assert load_arrays(path).content.tolist() == [7, 8]
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
    read = load_arrays(tmp_path / "data.pkl").content
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
    with pytest.raises(DataError, match="refused, since it asks for"):
        load_arrays(tmp_path / "data.pkl")
    assert Makers._encode.__defaults__ == ("utf-8",)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i8", "S3", "U2", "?", "<f2", "O", "<c16"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_plain_type_are_read(tmp_path, dtype, order):
    array = np.asfortranarray if order == "F" else np.ascontiguousarray
    expected = array(np.arange(6).reshape(2, 3).astype(dtype))
    for protocol in range(6):
        (tmp_path / "data.pkl").write_bytes(pickle.dumps([expected, expected[0, 1], np.str_("")], protocol=protocol))
        read, scalar, empty = load_arrays(tmp_path / "data.pkl").content
        np.testing.assert_array_equal(np.asarray(read), expected)
        assert read.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")  # numpy itself swaps when it reads
        assert scalar == expected[0, 1]
        assert empty == ""


def test_scalars_and_containers_are_read(tmp_path):
    content = {"a": np.float64(1.5), "b": [1, "x", b"y", None, (2.0, True)], "c": np.array(["ab", None], dtype=object)}
    for protocol in range(6):
        (tmp_path / "data.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
        read = load_arrays(tmp_path / "data.pkl").content
        assert (read["a"], read["b"], read["c"].tolist()) == (1.5, content["b"], ["ab", None])
