"""The script for GPUs compares models that do the same; the data of real sets are as they are described."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("scipy.stats")
pytestmark = pytest.mark.uncovered
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_the_script_for_gpus_compares_models_that_predict_the_same(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    from topdown.datasets import Batch

    torch.manual_seed(0)
    inputs = {name: torch.randn(2, 6, size) for name, size in gpu.SIZES.items()}
    batch = Batch(inputs=inputs, lengths=torch.tensor([6, 6]), labels=torch.randn(2), ids=["a", "b"])
    names = ("plain", "float32", "bfloat16")
    variants = gpu.make("MulT", "linear", batch, torch.device("cpu"), names)
    for variant in variants.values():
        variant.model.eval()
    with torch.no_grad():
        plain, ours, half = (variants[name].forward().float() for name in names)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)  # not a bit less than step by step
    torch.testing.assert_close(half, plain, atol=0.05, rtol=0)
    assert not torch.equal(half, ours)
    before = [p.detach().clone() for p in variants["float32"].model.parameters()]
    gpu.train_step(variants["float32"], batch.labels)
    moved = [not torch.equal(p, q) for p, q in zip(before, variants["float32"].model.parameters(), strict=True)]
    assert all(moved)
    rows = gpu.rows_of("LSTM", "none", batch, torch.device("cpu"), names, rounds=1)
    assert [row[2] for row in rows] == list(names)
    assert rows[0][4] == "1.00"


def test_windows_of_the_watch_turn_with_both_sensors(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from common.real_data import turned

    from topdown.datasets import SequenceDataset

    torch.manual_seed(0)
    windows = {name: torch.randn(40, 7, 3).numpy() for name in ("accel", "gyro")}
    data = SequenceDataset.from_arrays(windows, torch.arange(40))
    before, after = (found.batch(torch.arange(40)).inputs for found in (data, turned(data, 1, degrees=15.0)))
    for name, other in (("accel", "accel"), ("accel", "gyro")):  # lengths of vectors, and angles between the sensors
        products = [(x[name] * x[other]).sum(-1) for x in (before, after)]
        torch.testing.assert_close(products[1], products[0], atol=1e-5, rtol=0)
    found = torch.linalg.lstsq(before["accel"], after["accel"]).solution
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(40))
    assert torch.linalg.matrix_norm(found[1:] - found[:-1]).min() > 0.01  # each window by itself
    angles = torch.rad2deg(torch.acos((found.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2))
    assert 15 < angles.square().mean().sqrt() < 37  # 26, the length of three angles of 15
    again = turned(data, 2, degrees=15.0).batch(torch.arange(40)).inputs["accel"]
    assert not torch.allclose(again, after["accel"])


def test_arms_in_a_mirror_keep_the_sense_of_rotations(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import numpy as np
    from common.real_data import _watch

    rng = np.random.default_rng(0)
    accel, other = rng.normal(size=(2, 6, 5, 3))
    file = {"accel": accel, "gyro": np.cross(accel, other), "label": np.arange(6), "side": np.array([0, 1] * 3)}
    everything = np.arange(6)
    inputs = _watch(file, everything, everything, everything)["train"].batch(torch.arange(6)).inputs
    spread = {name: np.sqrt((file[name] ** 2).mean()) for name in ("accel", "gyro")}
    mirror = np.array([-1.0, 1.0, 1.0])
    left = np.cross(accel[1::2] * mirror, other[1::2] * mirror)  # what turns as the mirrored arm does
    for name, right, wanted in (("accel", accel[::2], accel[1::2] * mirror), ("gyro", file["gyro"][::2], left)):
        torch.testing.assert_close(inputs[name][::2], torch.tensor(right / spread[name]).float())
        torch.testing.assert_close(inputs[name][1::2], torch.tensor(wanted / spread[name]).float())


def test_overhead_measures_all_tables_by_default_and_fails_above_a_bound(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import overhead

    tables = {
        "first": lambda rounds: ([["head"], ["cell"]], []),
        "second": lambda rounds: ([["head"], ["other"]], ["too slow"]),
    }
    monkeypatch.setattr(overhead, "TABLES", tables)
    monkeypatch.setattr("sys.argv", ["overhead.py"])
    with pytest.raises(SystemExit, match="too slow"):
        overhead.main()
    printed = capsys.readouterr().out
    assert "cell" in printed
    assert "other" in printed
    measured = []
    monkeypatch.setattr(overhead, "work", lambda *names: measured.append(names))
    monkeypatch.setattr("sys.argv", ["overhead.py", "--worker", "LSTM", "none"])
    overhead.main()
    assert measured == [("LSTM", "none")]
