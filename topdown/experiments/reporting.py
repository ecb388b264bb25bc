"""Progress of a run, epoch by epoch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping

from topdown.files import require


@contextlib.contextmanager
def show_epochs(label: str, epochs: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """Shows epochs as a progress bar when the output is a terminal, and as plain lines elsewhere.

    Yields:
        A function to call with the record of each epoch.

    Raises:
        ImportError: on a terminal, if tqdm is missing.
    """
    if not sys.stdout.isatty():
        yield lambda record: print(
            f"{label}  epoch {record['epoch']:.0f}/{epochs}  train {record['train_loss']:.4f}  "
            f"validation {record['valid_loss']:.4f}  learning rate {record['learning_rate']:.2e}  {record['seconds']:.1f} s",
            flush=True,
        )
        return
    with require("tqdm", "experiments").tqdm(total=epochs, desc=label, unit="epoch", file=sys.stderr) as bar:

        def show(record: Mapping[str, float]) -> None:
            bar.n = int(record["epoch"])
            bar.set_postfix(train=f"{record['train_loss']:.4f}", validation=f"{record['valid_loss']:.4f}")

        yield show
