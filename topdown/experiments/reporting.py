"""What a run says while it goes on: the data that it found, and its epochs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping

from topdown.experiments.data import SequenceDataset
from topdown.experiments.files import require
from topdown.experiments.tables import markdown


def data_table(splits: Mapping[str, SequenceDataset]) -> str:
    """Lays out the reports of the splits: N, sizes, lengths, labels, and what was replaced."""
    rows = [("split", "N", "modality", "size", "steps min/median/max", "padding", "replaced by 0")]
    for split, data in splits.items():
        for i, (name, found) in enumerate(data.report["modalities"].items()):
            steps = found["lengths"]
            replaced = ", ".join(f"{count} {kind}" for kind, count in found["replaced"].items() if count) or "none"
            if found.get("empty_samples"):
                replaced += f"; {found['empty_samples']} samples are all zeros"
            if found.get("samples_with_zeros_at_the_end"):
                replaced += f"; {found['samples_with_zeros_at_the_end']} samples end in zero rows, kept"
            rows.append(
                (
                    split if i == 0 else "",
                    str(len(data)) if i == 0 else "",
                    name,
                    str(found["size"]),
                    f"{steps['minimum']} / {steps['median']:g} / {steps['maximum']}",
                    found.get("padding", "none"),
                    replaced,
                )
            )
    labels = [
        f"labels of {split}: {data.report['labels']['minimum']:.2f} to {data.report['labels']['maximum']:.2f}, "
        f"{data.report['labels']['zeros']:.1%} exactly 0"
        for split, data in splits.items()
    ]
    return "\n".join([markdown(rows), *labels])


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
    with require("tqdm").tqdm(total=epochs, desc=label, unit="epoch", file=sys.stderr) as bar:

        def show(record: Mapping[str, float]) -> None:
            bar.n = int(record["epoch"])
            bar.set_postfix(train=f"{record['train_loss']:.4f}", validation=f"{record['valid_loss']:.4f}")

        yield show
