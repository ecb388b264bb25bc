"""Trains in a group of processes, and writes what each process saw; see test_distributed.py."""

import json
import os
import signal
from pathlib import Path

import torch

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.experiments import synthetic_splits
from topdown.training import protocol
from topdown.training.distributed import process_group, rank, world_size
from topdown.training.prediction import predict
from topdown.training.protocol import fit


def main(folder, checkpoint=None, epochs=3, die=""):
    splits = synthetic_splits((61, 21, 10)).splits
    steps = []
    mae = protocol.LOSSES["mae"]

    def record(output, labels):
        value = mae(output, labels)
        if output.requires_grad:
            steps.append((value.item() * len(labels), len(labels)))
        return value

    protocol.LOSSES["mae"] = record
    torch.manual_seed(rank())  # the first process decides on the weights
    model = TopDownLatch(LSTMBackbone(splits["train"].sizes, hidden_size=4, dropout=0.0), "lstm", start="random")

    def watch(record):
        if die and record["epoch"] == 2 and rank() == int(die):
            os.kill(os.getpid(), signal.SIGKILL)

    result = fit(
        model, splits["train"], splits["valid"], batch_size=8, epochs=int(epochs), learning_rate=0.01,
        checkpoint=Path(checkpoint) if checkpoint else None, on_epoch=watch,
    )  # fmt: skip
    outputs = predict(model, splits["test"], batch_size=3)
    seen = {"steps": steps, "history": result.history, "outputs": outputs.flatten().tolist(), "processes": world_size()}
    Path(folder, f"{rank()}.json").write_text(json.dumps(seen))


def main_of_group(*arguments):
    with process_group("cpu"):
        main(*arguments)
