"""Assigns videos to training, validation and test where a file does not."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from topdown.datasets.errors import DataError
from topdown.datasets.formats.helpers.fields import SPLITS

Folds = str | Path | Mapping[str, Sequence[str]]
REMEDY = "give folds=, a JSON file {train: [video ids], valid: [...], test: [...]}, or the SDK's file of standard folds"


def read_folds(folds: Folds | None, where: str) -> dict[str, str]:
    """Returns the split of each video.

    Args:
        folds: A mapping from train, valid (or dev) and test to the ids of videos, or a file: JSON of such a mapping, or the
            Python file of the CMU Multimodal SDK that assigns `standard_train_fold` and so on, which is parsed, and not run.
        where: Name of the data, for messages.

    Raises:
        DataError: if there are none, they cannot be read, or a video is in two.
    """
    if folds is None:
        raise DataError(f"{where}: does not say which videos are for training; {REMEDY}")
    if not isinstance(folds, (str, Path, Mapping)):
        raise DataError(f"folds are a {type(folds).__name__}; {REMEDY}")
    content = folds if isinstance(folds, Mapping) else _read(Path(folds))
    if "valid" in content and "dev" in content:
        raise DataError(f"{where}: folds have both 'valid' and 'dev'; leave one out")
    named = {"valid" if key == "dev" else key: value for key, value in content.items()}
    where = "folds" if isinstance(folds, Mapping) else str(folds)
    split_of: dict[str, str] = {}
    for split in SPLITS:
        videos = named.get(split)
        if not isinstance(videos, (list, tuple)) or not videos or not all(isinstance(video, str) for video in videos):
            raise DataError(f"{where}: has no list of video ids for {split!r}; {REMEDY}")
        for video in videos:
            if split_of.setdefault(video, split) != split:
                raise DataError(f"{where}: video {video!r} is in {split_of[video]} and in {split}; leave it in one")
    return split_of


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); {REMEDY}") from None
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = _assignments(content)
    if not isinstance(parsed, dict):
        raise DataError(f"{path}: holds no folds; {REMEDY}")
    return parsed


def _assignments(content: str) -> dict[str, Any] | None:
    """Reads `standard_train_fold = [...]` and the like."""
    try:
        nodes = [node for node in ast.parse(content).body if isinstance(node, ast.Assign)]
        assigned = {target.id: node.value for node in nodes for target in node.targets if isinstance(target, ast.Name)}
        return {split: ast.literal_eval(assigned[f"standard_{split}_fold"]) for split in SPLITS}
    except (SyntaxError, ValueError, KeyError, RecursionError, MemoryError):
        return None
