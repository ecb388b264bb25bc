"""Scripts of the paper's tables and its Fig. 2 print figures of the data; that for GPUs compares models that do the same."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from layouts import mult_file

pytest.importorskip("scipy.stats")
pytestmark = pytest.mark.uncovered
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(name, *arguments):
    command = [
        sys.executable,
        str(BENCHMARKS / name),
        "--epochs",
        "1",
        "--seeds",
        "2",
        "--hidden-size",
        "4",
        *map(str, arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def cells(output):
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in output.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows}


def test_table_1_has_measured_rows_and_published_ones_marked(tmp_path):
    mult_file(tmp_path / "x.pkl")
    output = run("table1.py", "--data", tmp_path / "x.pkl", "--out", tmp_path / "out")
    rows = cells(output)
    assert {"Baseline, average of 2", "Baseline + MMLatch, best by validation", "Baseline, widened, average of 2"} <= set(rows)
    assert rows["*published, CMU-MOSEI:* Baseline + MMLatch, average"] == [
        "52.0 ± 0.2",
        "82.4 ± 0.3",
        "82.5 ± 0.3",
        "0.585 ± 0.002",
        "0.700 ± 0.004",
    ]
    assert "feedback" in output.splitlines()[-1].lower()
    again = cells(run("table1.py", "--data", tmp_path / "x.pkl", "--out", tmp_path / "out"))
    assert again == rows  # from the runs that are there


def test_figure_2_has_a_row_for_each_modality_and_a_picture(tmp_path):
    mult_file(tmp_path / "x.pkl")
    output = run("figure2.py", "--data", tmp_path / "x.pkl", "--out", tmp_path / "out")
    rows = [line.split("|")[1:4] for line in output.splitlines() if line.startswith("| ")][1:]
    assert [(seed.strip(), name.strip()) for seed, name, _ in rows] == [
        (s, m) for s in "01" for m in ("text", "audio", "visual")
    ]
    assert all(0 <= float(value) <= 1 for *_, value in rows)
    assert (tmp_path / "out" / "figure2.png").read_bytes().startswith(b"\x89PNG")


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
    monkeypatch.syspath_prepend(str(BENCHMARKS / "real"))
    from data import turned

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
    monkeypatch.syspath_prepend(str(BENCHMARKS / "real"))
    import numpy as np
    from data import _watch

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
