"""Files that earlier versions wrote load, and give what they gave; files of a format to come are refused by a sentence."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from topdown import TopDownLatch
from topdown.comparison import read_comparison
from topdown.datasets import DataError, load_splits
from topdown.datasets.store import check_store
from topdown.training import fit, load_model
from topdown.training.checkpoints import load_checkpoint

SAVED = Path(__file__).parent / "saved"
VERSIONS = sorted(SAVED.glob("[0-9]*"))
TOLERANCE = 1e-6  # of float32, on any machine

every_version = pytest.mark.parametrize("folder", VERSIONS, ids=lambda p: p.name)


def load_make():
    spec = importlib.util.spec_from_file_location("make", SAVED / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = load_make()
DATA = make.make_data()
BATCH = DATA.batch(range(len(DATA)))


def same(found, path, name):
    with np.load(path / "expected.npz", allow_pickle=False) as expected:
        torch.testing.assert_close(found.detach(), torch.from_numpy(expected[name]), atol=TOLERANCE, rtol=0)


@every_version
def test_saved_feedback(folder):
    backbone = make.make_backbone(make.SIZES)
    with np.load(folder / "backbone.npz", allow_pickle=False) as weights:
        backbone.load_state_dict({name: torch.from_numpy(weights[name]) for name in weights})
    latch = TopDownLatch.from_pretrained(backbone, folder / "latch").eval()
    assert (latch.combine, latch.align, latch.options()["feedback"]) == ("max", "pool", "shared")
    same(latch(BATCH.inputs, BATCH.lengths), folder, "outputs")
    for name, mask in latch.masks(BATCH.inputs, BATCH.lengths).items():
        same(mask, folder, f"mask {name}")


@every_version
def test_a_trained_model(folder):
    trained = load_model(folder / "model.pt")
    same(trained.model(BATCH.inputs, BATCH.lengths), folder, "predictions")
    assert trained.moments.keys() == make.SIZES.keys()


@every_version
def test_a_training_goes_on(folder, tmp_path):
    shutil.copy(folder / "training.pt", tmp_path)
    before = load_checkpoint(folder / "training.pt")["history"]
    model = load_model(folder / "model.pt").model
    found = fit(model, DATA, DATA, checkpoint=tmp_path / "training.pt", **{**make.TRAINING, "epochs": 3})
    assert found.history[:2] == before
    assert [record["epoch"] for record in found.history] == [1, 2, 3]


@every_version
def test_a_store(folder):
    assert check_store(folder / "data.store") > 0
    data = load_splits(folder / "data.store")["train"]
    again = data.batch(range(len(data)))
    assert torch.equal(again.lengths, BATCH.lengths)
    assert torch.equal(again.labels, BATCH.labels)
    assert all(torch.equal(again.inputs[name], x) for name, x in BATCH.inputs.items())


@every_version
def test_a_comparison(folder):
    found = read_comparison(folder / "comparison")
    assert found.verdict.startswith((folder / "verdict.txt").read_text().strip())  # later versions may say more
    assert {"none", "linear", "static"} <= set(found.runs.names())


def of_the_future(path, **changes):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))


def test_formats_to_come_are_refused_by_a_sentence(tmp_path):
    shutil.copytree(VERSIONS[-1], tmp_path / "saved")
    folder = tmp_path / "saved"
    of_the_future(folder / "latch/topdown.json", format=2)
    with pytest.raises(ValueError, match=r"topdown.json has format 2, but this version of topdown reads format 1"):
        TopDownLatch.from_pretrained(make.make_backbone(make.SIZES), folder / "latch")
    of_the_future(folder / "comparison/results.json", format=2)
    with pytest.raises(DataError, match=r"results.json: has format 2, but this version of topdown reads format 1; update"):
        read_comparison(folder / "comparison")
    of_the_future(folder / "data.store/store.json", layout="topdown store, version 2")
    with pytest.raises(DataError, match=r"store.json is not that of a topdown store, version 1"):
        load_splits(folder / "data.store")
    for name in ("training.pt", "model.pt"):
        state = load_checkpoint(folder / name)
        torch.save({**state, "format": 2 if name == "training.pt" else "topdown model, version 2"}, folder / name)
    model = make.make_backbone(make.SIZES)
    with pytest.raises(DataError, match=r"training.pt: has format 2, but this version of topdown reads format 1; update"):
        fit(model, DATA, DATA, checkpoint=folder / "training.pt", **make.TRAINING)
    with pytest.raises(DataError, match=r"model.pt: is not a topdown model, version 1"):
        load_model(folder / "model.pt")
