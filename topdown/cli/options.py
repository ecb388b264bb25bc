"""Options of commands that train, and `--config`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from topdown.cli.data_options import add_data_options
from topdown.datasets.errors import DataError
from topdown.wiring import nearest

LARGEST = 10_000_000


class HelpFormatter(argparse.HelpFormatter):
    """Shows descriptions and examples as they are written, and defaults where there are any to show."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(indent + line for line in text.splitlines())

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.nargs != 0 and action.default not in (None, argparse.SUPPRESS, LARGEST)
        default = " ".join(action.default) if isinstance(action.default, list) else action.default
        return f"{action.help or ''} (default: {default})".replace("%", "%%") if shown else action.help or ""


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Adds options of a training, its results and its device."""
    add = parser.add_argument
    add("--epochs", type=positive, default=100, metavar="N", help="at most; training stops early")
    add("--batch-size", type=positive, default=32, metavar="N", help="samples of a batch")
    add("--learning-rate", type=rate, default=5e-4, metavar="X", help="of Adam, at the start")
    add("--patience", type=positive, default=10, metavar="N", help="epochs without a fall before training stops")
    add("--out", type=Path, metavar="DIR", help="where to write results; nothing is kept without it")
    add("--device", default="auto", help="such as cpu or cuda; auto: a GPU if there is one")


def add_single_options(parser: argparse.ArgumentParser) -> None:
    """Adds what has a meaning for trainings one after the other."""
    add = parser.add_argument
    add("--workers", type=number, default=0, metavar="N", help="processes that make batches beside the training")
    add("--resume", action="store_true", help="go on with what --out holds; --epochs may have grown")
    add("--tensorboard", type=Path, metavar="DIR", help="write losses for TensorBoard, too (extra tensorboard)")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds options of the data, the task and the backbone."""
    add_data_options(parser)
    add = parser.add_argument
    add("--raw", action="store_true", help="leave features as they are; else they are standardized by the training split")
    add("--task", choices=("regression", "classification", "multilabel"), help="what to predict; labels tell by default")
    add("--backbone", choices=("lstm", "mult"), help="the paper's baseline, or MulT; mult by default if times differ")
    add("--size", type=positive, metavar="N", help="size of the encodings; 100 for lstm, 40 for mult by default")
    add("--layers", type=positive, default=4, metavar="N", help="layers of MulT's transformers")
    add("--dropout", type=share, metavar="X", help="dropout of the backbone; that of its paper by default")


def add_latch_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a latch but for the kind of feedback."""
    add = parser.add_argument
    add("--combine", choices=("mean", "max", "min", "product"), default="mean", help="how masks of several sources become one")
    add("--passes", type=positive, default=1, metavar="N", help="passes before the one that predicts")
    add("--scale", type=float, default=1.0, metavar="X", help="factor of the masks")
    add("--start", choices=("identity", "random"), default="identity", help="identity: begin as the model without feedback")
    add("--encoder-grad", action="store_true", help="let gradients through the first pass")
    add("--mask-dropout", type=share, default=0.0, metavar="X", help="dropout of the masks")
    add("--sources", nargs="+", type=_sources, metavar="TARGET=SOURCE,...", help="who masks whom; all others by default")
    add("--align", choices=("error", "interpolate", "pool"), help="where times differ; interpolate by default then")


def latch_arguments(options: argparse.Namespace, *, aligned: bool) -> dict[str, Any]:
    """Returns the options of a latch as :class:`topdown.TopDownLatch` takes them, but for the kind of feedback."""
    names = ("combine", "passes", "scale", "start", "encoder_grad", "mask_dropout")
    chosen = {name: getattr(options, name) for name in names}
    sources = dict(options.sources) if options.sources else None
    return {**chosen, "sources": sources, "align": options.align or ("error" if aligned else "interpolate")}


def read_config(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """Reads values of options from a JSON file: {"feedback": "shared", "batch_size": 16, ...}.

    Raises:
        DataError: if it cannot be read, or names an option that there is not.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read ({error}); give a JSON object of options") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: holds a {type(content).__name__}; give a JSON object of options")
    actions = {action.dest: action for action in parser._actions if action.option_strings}
    found = {}
    for name, value in content.items():
        action = actions.get(name.replace("-", "_"))
        if action is None or action.dest in ("help", "config"):
            there = [dest for dest in actions if dest not in ("help", "config")]
            raise DataError(f"{path}: there is no option {name!r} among {nearest(name, there)}")
        found[action.dest] = _checked(parser, action, value, path)
    return found


def _checked(parser: argparse.ArgumentParser, action: argparse.Action, value: Any, path: Path) -> Any:
    """Returns a value of JSON as the command line would have it."""
    if value is None or action.nargs == 0:
        if value is not None and not isinstance(value, bool):
            raise DataError(f"{path}: {action.dest!r} is {value!r}: give true or false")
        return value
    several = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    if isinstance(value, (dict, list)) and not several:
        raise DataError(f"{path}: {action.dest!r} is a {type(value).__name__}: give one value")
    if isinstance(value, dict):
        value = [f"{name}={','.join(to) if isinstance(to, list) else to}" for name, to in value.items()]
    try:
        parts = [parser._get_value(action, str(part)) for part in (value if isinstance(value, list) else [value])]
        for part in parts:
            parser._check_value(action, part)
    except argparse.ArgumentError as error:
        raise DataError(f"{path}: {action.dest!r}: {error.message}") from None
    return parts if several else parts[0]


def best_device(device: str) -> str:
    """Returns the device that was asked for, or the best there is."""
    if device != "auto":
        return device
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def number(text: str) -> int:
    """Takes a whole number of at least 0."""
    if not text.isdecimal() or int(text) > LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0 and at most {LARGEST:,}")
    return int(text)


def positive(text: str) -> int:
    """Takes a whole number of at least 1."""
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1 and at most {LARGEST:,}")
    return value


def rate(text: str) -> float:
    """Takes a number above 0 and at most 1."""
    value = _float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and at most 1")
    return value


def share(text: str) -> float:
    """Takes a number of at least 0 and below 1."""
    value = _float(text)
    if not 0.0 <= value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0 and below 1")
    return value


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _sources(text: str) -> tuple[str, list[str]]:
    target, equals, names = text.partition("=")
    if not (target and equals and all(names.split(","))):
        raise argparse.ArgumentTypeError(f"{text!r} is not TARGET=SOURCE, or TARGET=SOURCE,SOURCE")
    return target, names.split(",")
