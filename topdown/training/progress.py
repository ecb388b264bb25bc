"""Shows the progress of a training on a terminal, and writes its history as a table and for TensorBoard."""

from __future__ import annotations

import contextlib
import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from topdown.datasets.data import SequenceDataset
from topdown.files import require, write_text
from topdown.training.distributed import rank
from topdown.training.options import TrainingOptions
from topdown.training.protocol import Fit, fit
from topdown.training.stopping import stopped_after_a_step

Record = Mapping[str, float]


class Callbacks(NamedTuple):
    """Holds callbacks for :func:`topdown.training.fit`.

    Args:
        on_epoch: Function to call with the record of each epoch.
        on_step: Function to call after each step; None where nothing shows steps.
    """

    on_epoch: Callable[[dict[str, float]], None]
    on_step: Callable[[int, int, int], None] | None


@contextlib.contextmanager
def show_training(label: str, epochs: int) -> Iterator[Callbacks]:
    """Context manager that shows a progress bar of steps on a terminal, and a line for each epoch elsewhere.

    The remaining time counts all `epochs`; training may stop earlier.

    Yields:
        Functions to call.

    Raises:
        ImportError: on a terminal, if tqdm is missing.
    """
    if not sys.stdout.isatty():
        yield Callbacks(
            lambda record: print(
                f"{label}  epoch {record['epoch']:.0f}/{epochs}  train {record['train_loss']:.4f}  validation "
                f"{record['valid_loss']:.4f}  learning rate {record['learning_rate']:.2e}  {record['seconds']:.1f} s",
                flush=True,
            ),
            None,
        )
        return
    with require("tqdm", "experiments").tqdm(desc=label, unit="step", file=sys.stderr) as bar:

        def on_step(epoch: int, step: int, steps: int) -> None:
            if bar.total is None:
                bar.reset(total=epochs * steps)
                bar.initial = bar.n = (epoch - 1) * steps  # of a resumed training
            bar.set_description(f"{label}, epoch {epoch}/{epochs}", refresh=False)
            bar.update()

        def on_epoch(record: Record) -> None:
            bar.set_postfix(train=f"{record['train_loss']:.4f}", validation=f"{record['valid_loss']:.4f}")

        yield Callbacks(on_epoch, on_step)


def show_line(line: str) -> None:
    """Prints a line; on a terminal it replaces the line before."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{line}", end="", flush=True)
    else:
        print(line, flush=True)


def write_history(path: Path, histories: Sequence[tuple[Mapping[str, Any], Sequence[Record]]]) -> None:
    """Writes history.csv, with a row for each epoch of each training.

    Args:
        path: Path of the table.
        histories: Pairs of names and values that are the same for a whole training, and the records of its epochs.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    rows = [{**about, **record} for about, history in histories for record in history]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table.writerow(columns)
    table.writerows([row.get(name, "") for name in columns] for row in rows)
    write_text(path, text.getvalue())


@contextlib.contextmanager
def tensorboard(folder: str | Path | None, about: str = "") -> Iterator[Callable[[Record], None]]:
    """Context manager that writes losses and learning rates for TensorBoard, in process 0. Without a folder it does nothing.

    Yields:
        A function to call with the record of each epoch.

    Raises:
        ImportError: if tensorboard is missing.
    """
    if folder is not None:
        require("tensorboard", "tensorboard")
    if folder is None or rank():
        yield lambda record: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(Path(folder) / about)) as writer:

        def write(record: Record) -> None:
            for name in ("train_loss", "valid_loss", "learning_rate"):
                writer.add_scalar(name, record[name], int(record["epoch"]))

        yield write


def fit_and_show(
    model: nn.Module, splits: Mapping[str, SequenceDataset], options: TrainingOptions, seed: int, label: str, **more: Any
) -> Fit:
    """Trains a model with the options of a command, and shows the progress.

    Args:
        model: Model to train.
        splits: Samples, of which `train` and `valid` are used.
        options: Options of the training.
        seed: Random seed.
        label: Name of the training.
        more: Further options of :func:`topdown.training.fit`.
    """
    batch_size, patience = options.batches(len(splits["train"]))
    writer = tensorboard(options.tensorboard, label.replace(" ", "-"))
    with show_training(label, options.epochs) as show, writer as write, stopped_after_a_step() as check:

        def on_epoch(record: dict[str, float]) -> None:
            show.on_epoch(record)
            write(record)

        def on_step(epoch: int, step: int, steps: int) -> None:
            if show.on_step is not None:
                show.on_step(epoch, step, steps)
            check()

        return fit(
            model,
            splits["train"],
            splits["valid"],
            seed=seed,
            learning_rate=options.learning_rate,
            batch_size=batch_size,
            epochs=options.epochs,
            patience=patience,
            device=options.device,
            workers=options.workers,
            on_epoch=on_epoch,
            on_step=on_step,
            **more,
        )
