"""Writes the files that every later version must load, into a folder of its own: python tests/saved/make.py

One folder per version: a trained model, the checkpoint of a training, a store, a comparison, saved feedback, and their outputs.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

import topdown
from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.comparison import compare, write_report
from topdown.datasets import SequenceDataset
from topdown.datasets.prepare import prepare
from topdown.training import fit
from topdown.training.model_file import Description, build_model, save_model
from topdown.training.tasks import Task

SIZES = {"audio": 3, "text": 2}
SEED = 7
TRAINING = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01}


def make_data(count: int = 16) -> SequenceDataset:
    """Returns samples of different length, the same on every machine."""
    random = np.random.RandomState(SEED)  # its numbers never change
    lengths = random.randint(1, 5, count)
    inputs = {name: [random.normal(size=(n, size)) for n in lengths] for name, size in SIZES.items()}
    return SequenceDataset.from_arrays(inputs, random.normal(size=count))


def make_backbone(sizes: dict[str, int]) -> LSTMBackbone:
    """Returns a small backbone."""
    return LSTMBackbone(sizes, hidden_size=2)


def make_latch() -> TopDownLatch[LSTMBackbone]:
    """Returns a latch with weights that are the same on every machine."""
    latch = TopDownLatch(make_backbone(SIZES), "shared", combine="max", align="pool")
    random = np.random.RandomState(SEED)
    with torch.no_grad():
        for parameter in latch.parameters():
            parameter.copy_(torch.from_numpy(random.normal(size=tuple(parameter.shape), scale=0.3)))
    return latch.eval()


def main() -> None:
    """Writes the files of this version."""
    folder = Path(__file__).parent / topdown.__version__
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    data, latch = make_data(), make_latch()
    latch.backbone.requires_grad_(False)
    latch.save_pretrained(folder / "latch")
    np.savez(folder / "backbone.npz", **{name: value.numpy() for name, value in latch.backbone.state_dict().items()})
    batch = data.batch(range(len(data)))
    with torch.no_grad():
        outputs, masks = latch(batch.inputs, batch.lengths), latch.masks(batch.inputs, batch.lengths)
    arrays = {f"train.{name}": x.numpy() for name, x in batch.inputs.items()}
    arrays |= {f"train.{name}.lengths": batch.lengths.numpy() for name in SIZES} | {"train.labels": batch.labels.numpy()}
    np.savez(folder / "data.npz", **arrays)
    prepare(folder / "data.npz", folder / "data.store")
    (folder / "data.npz").unlink()
    description = Description("lstm", SIZES, Task("regression", 1), size=2, latch={"feedback": "linear"})
    model = build_model(description, 0)
    fit(model, data, data, checkpoint=folder / "training.pt", **TRAINING)
    save_model(folder / "model.pt", model, description, data.moments(), {"seed": 0})
    with torch.no_grad():
        predictions = model.eval()(batch.inputs, batch.lengths)
    found = compare(make_backbone, {"train": data, "valid": data, "test": data}, feedback=["linear"], seeds=2, epochs=1,
                    alone=False, out=folder / "comparison")  # fmt: skip
    write_report(found, folder / "comparison")
    (folder / "comparison/report.html").unlink()
    expected = {"outputs": outputs, "predictions": predictions, **{f"mask {name}": mask for name, mask in masks.items()}}
    np.savez(folder / "expected.npz", **{name: value.numpy() for name, value in expected.items()})
    (folder / "verdict.txt").write_text(found.verdict + "\n")


if __name__ == "__main__":
    main()
