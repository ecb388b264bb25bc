"""Reads the files of a sentiment experiment, and checks that a resumed experiment has the same options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from topdown.datasets.errors import DataError
from topdown.datasets.files import read_json
from topdown.training.versions import check_format

KindOrNone = Literal["none", "linear", "lstm", "shared", "static"]
KINDS: tuple[str, ...] = get_args(KindOrNone)
ORACLE = "oracle"  # no feedback, on synthetic data without its irrelevant features
NOT_SAVED = "\nResults are not saved: pass --out DIR.\n"
RUN_KEYS = {"kind", "seed", "metrics", "validation", "validation_loss", "best_epoch", "epochs", "seconds", "history"}


def checkpoint_path(out: Path, kind: str, seed: int, *, unfinished: bool = False) -> Path:
    """Returns the path of the checkpoint of a run, finished or unfinished."""
    return out / "checkpoints" / f"{kind}-seed{seed}{'.unfinished' if unfinished else ''}.pt"


def check_no_runs(out: Path, *, resume: bool) -> None:
    """Checks that a directory holds no runs, unless the experiment is resumed.

    Raises:
        DataError: if there are runs, and the experiment is not resumed.
    """
    path = out / "results.json"
    if path.exists() and not resume:
        raise DataError(f"{path}: holds the results of an earlier run; go on with --resume, or choose another --out")


def read_runs(out: Path, configuration: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Reads the finished runs of a directory, and removes their unfinished checkpoints.

    Args:
        out: Path of the directory; it need not exist.
        configuration: Options, which must equal the earlier ones. Only the number of epochs may have grown: runs that used
            all epochs are trained again.

    Returns:
        Finished runs whose checkpoint exists.

    Raises:
        DataError: if earlier runs have other options or data, or cannot be read.
    """
    path = out / "results.json"
    if not path.exists():
        return []
    earlier = read_json(path, "choose another --out")
    check_format(earlier, path)
    try:
        before, runs = dict(earlier["configuration"]), list(earlier["runs"])
        damaged = [run for run in runs if not RUN_KEYS <= set(run) or run["kind"] not in (*KINDS, ORACLE)]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the results of this experiment ({error}); choose another --out") from None
    if damaged:
        raise DataError(f"{path}: not the results of this experiment, or of another version; choose another --out")
    for option, value in configuration.items():
        grown = option == "epochs" and isinstance(before.get(option), int) and before[option] < value
        if before.get(option) != value and not grown:
            raise DataError(
                f"{path}: was made with {option} {before.get(option)}, not {value}; "
                "repeat the options of the earlier run, or choose another --out"
            )
    finished = []
    for run in runs:
        if not checkpoint_path(out, run["kind"], run["seed"]).exists():
            print(f"{run['kind']} seed {run['seed']}: its checkpoint is missing, so it is trained again")
            continue
        most = configuration["epochs"]
        if run["epochs"] < most and run["epochs"] == run.get("most_epochs"):
            print(f"{run['kind']} seed {run['seed']}: ended after {run['epochs']} epochs, so it is trained again with {most}")
            continue
        checkpoint_path(out, run["kind"], run["seed"], unfinished=True).unlink(missing_ok=True)
        finished.append(run)
    return finished
