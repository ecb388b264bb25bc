"""Saves finished runs of a comparison, and loads them when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from topdown.comparison.differences import Runs
from topdown.comparison.variants import LINEAR, Metric, Row
from topdown.datasets.errors import DataError
from topdown.datasets.files import make_directory, read_json, write_json
from topdown.files import write_file
from topdown.training.versions import FORMAT, check_format

Array = np.ndarray[Any, Any]


class RunStore:
    """Stores finished runs in memory, and in a directory, if any."""

    # Settings that may differ between runs of a comparison: latches add runs; of the versions, torch and topdown must match.
    FREE = ("latches", "versions", "robust")

    def __init__(self, out: Path | None, configuration: Mapping[str, Any], labels: torch.Tensor, *, resume: bool) -> None:
        self.folder = None if out is None else out / "runs"
        self.labels = labels
        self.done: dict[tuple[str, bool, int], tuple[dict[str, Any], Array]] = {}
        self.options = {name: options for name, options in configuration["latches"].items()}
        if out is None or self.folder is None:
            return
        path = out / "runs" / "configuration.json"
        shared = {k: v for k, v in configuration.items() if k not in self.FREE}
        shared["training"] = {k: v for k, v in configuration["training"].items() if k != "device"}
        shared["versions"] = {name: configuration["versions"][name] for name in ("torch", "topdown")}
        fixed = json.loads(json.dumps(shared))
        if path.exists():
            if not resume:
                raise DataError(
                    f"{out}: holds runs of an earlier comparison; go on with --resume (resume=True), or choose another --out"
                )
            before = read_json(path)
            check_format(before, path)
            before.get("training", {}).pop("device", None)  # written by earlier versions
            if differ := [name for name in fixed if before.get(name) != fixed[name]]:
                raise DataError(f"{out}: {_difference(differ[0], before, fixed)}; repeat its options, or choose another --out")
        make_directory(self.folder)
        write_json(path, {"format": FORMAT, **fixed})
        write_file(self.folder / "labels.npy", lambda file: np.save(file, labels.numpy(), allow_pickle=False))
        for path in sorted(self.folder.glob("*.npz")):
            record, outputs = read_run(path)
            self.done[record["row"], record["gaps"], record["seed"]] = record, outputs

    def has(self, row: Row, seed: int, parameters: int | None, *, robust: bool) -> bool:
        """Returns whether a run with the same latch, width and size is finished, and tested for robustness if wanted."""
        record, _ = self.done.get((row.name, row.gaps, seed), (None, None))
        if record is None or (robust and row.name != LINEAR and "robustness" not in record):
            return False
        if parameters not in (None, record["parameters"]):
            return False
        return (record.get("latch"), record.get("width")) == (self._latch(row), row.width)

    def _latch(self, row: Row) -> Any:
        return json.loads(json.dumps(self.options.get(row.name)))

    def keep(self, row: Row, seed: int, record: dict[str, Any], outputs: Array) -> None:
        """Saves a run atomically."""
        record = {**record, "latch": self._latch(row), "width": row.width}
        self.done[row.name, row.gaps, seed] = record, outputs
        if self.folder is not None:
            text = json.dumps(record)
            write_file(self.folder / f"{row.slug}-seed{seed}.npz", lambda file: np.savez(file, record=text, outputs=outputs))

    def runs(self, wanted: Sequence[tuple[Row, int]], metric: Metric, kinds: Sequence[str], static: Sequence[str]) -> Runs:
        """Returns the wanted runs."""
        pairs = [self.done[row.name, row.gaps, seed] for row, seed in wanted]
        return Runs([record for record, _ in pairs], [outputs for _, outputs in pairs], self.labels, metric, kinds, static)


def _difference(name: str, before: Any, now: Any, path: str = "") -> str:
    """Describes which setting differs, down to the entry of a mapping."""
    old, new, path = before.get(name), now.get(name), f"{path}{name}"
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return _difference(next(k for k in old if old[k] != new[k]), old, new, f"{path}.")
    return f"was made with {path} {old}, not {new}"


def read_run(path: Path) -> tuple[dict[str, Any], Array]:
    """Reads a saved run.

    Raises:
        DataError: if the file is damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return json.loads(str(file["record"])), file["outputs"]
    except Exception as error:  # numpy and zipfile raise many types of errors on damaged files
        raise DataError(f"{path}: is damaged ({type(error).__name__}); delete it to run it again") from None
