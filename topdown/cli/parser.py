"""Builds argument parsers from dataclasses: a flag for each field, with its type, default and help text."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import re
import typing
from pathlib import Path
from typing import Any, Literal, NoReturn

from topdown.datasets.errors import DataError
from topdown.datasets.files import read_json
from topdown.training.options import LARGEST, Value
from topdown.wiring import nearest


class OneLineParser(argparse.ArgumentParser):
    """Parser that reports errors on one line with exit status 2; its namespace holds only the options that were passed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            argument_default=argparse.SUPPRESS,
            **options,
        )

    def error(self, message: str) -> NoReturn:
        """Exits with the message, on one line."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def add_options(parser: argparse.ArgumentParser, options: type[Any]) -> None:
    """Adds an argument for each field of a dataclass. Fields of a base class form a group, named by its docstring."""
    hints, groups = typing.get_type_hints(options, include_extras=True), dict[type, Any]()
    for field in dataclasses.fields(options):
        owner = next(base for base in reversed(options.__mro__) if field.name in inspect.get_annotations(base))
        if owner not in groups:
            title = (inspect.getdoc(owner) or "").partition(".")[0]
            groups[owner] = parser if owner is options else parser.add_argument_group(title.lower())
        _add_option(parser, groups[owner], field, hints[field.name], _help(options, field.name))
    positional = [action for action in parser._actions if not action.option_strings]
    names = [f"[{action.metavar}]" if action.nargs == "?" else str(action.metavar) for action in positional]
    parser.usage = " ".join(["%(prog)s", *names, "[options]"])


def _help(options: type[Any], name: str) -> str:
    """Returns the entry of a field under "Args" in the docstring of its class, or of the first base that has one."""
    for base in options.__mro__:
        if entry := re.search(rf"^    {name}: (.*(?:\n     .*)*)", inspect.getdoc(base) or "", flags=re.MULTILINE):
            return " ".join(entry[1].split())
    raise LookupError(f"the docstring of {options.__name__} has no entry for {name}")


def _add_option(parser: argparse.ArgumentParser, group: Any, field: dataclasses.Field[Any], hint: Any, text: str) -> None:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    more: dict[str, Any] = {}
    if type(None) in typing.get_args(hint):  # X | None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    if several := typing.get_origin(hint) is list:
        (hint,) = typing.get_args(hint)
        more = {"nargs": "+", "action": "extend"}
    value = next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Value)), None)
    if hint is bool:
        more = {"action": "store_true"}
    elif value is not None:
        more |= {"type": value.read, "metavar": value.metavar}
    elif typing.get_origin(hint) is Literal:
        more |= {"choices": typing.get_args(hint)} | ({"metavar": "KIND"} if several else {})
    if not (hint is bool or default in (None, dataclasses.MISSING, LARGEST)):
        text += f" (default: {' '.join(default) if several else default})"
    more["help"] = text.replace("%", "%%")
    if value is not None and value.positional:
        parser.add_argument(
            field.name, **more, **({} if default is dataclasses.MISSING else {"nargs": "?", "default": default})
        )
        return
    flag = (value.flag if value is not None else None) or "--" + field.name.replace("_", "-")
    group.add_argument(flag, dest=field.name, required=default is dataclasses.MISSING, **more)


def read_config(parser: argparse.ArgumentParser, path: Path) -> dict[str, Any]:
    """Reads values of options from a JSON file: {"feedback": "shared", "batch_size": 16, ...}.

    Raises:
        DataError: if it cannot be read, or names an unknown option.
    """
    content = read_json(path, "give a JSON object of options")
    actions = {_name(flag): action for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
    values = {}
    for name, value in content.items():
        if value is None:  # None means the default
            continue
        action = actions.get(_name(name))
        if action is None or action.dest in ("help", "config"):
            names = [dest for dest in actions if dest not in ("help", "config")]
            raise DataError(f"{path}: there is no option {name!r} among {nearest(name, names)}")
        if action.dest in values:
            raise DataError(f"{path}: the option {name!r} is there twice")
        values[action.dest] = _checked(parser, action, value, path)
    return values


def _name(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _checked(parser: argparse.ArgumentParser, action: argparse.Action, value: Any, path: Path) -> Any:
    """Converts a JSON value as the command line converts its text."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise DataError(f"{path}: {action.dest!r} is {value!r}: give true or false")
        return value
    several = action.nargs == "+"
    if isinstance(value, (dict, list)) and not several:
        raise DataError(f"{path}: {action.dest!r} is a {type(value).__name__}: give one value")
    if isinstance(value, dict):
        value = [f"{name}={','.join(map(str, to)) if isinstance(to, list) else to}" for name, to in value.items()]
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(part, (str, int, float)) and not isinstance(part, bool) for part in values):
        raise DataError(f"{path}: {action.dest!r} is {json.dumps(value)}: give {'words or numbers' if several else 'a value'}")
    try:
        parts = [parser._get_value(action, str(part)) for part in values]
        for part in parts:
            parser._check_value(action, part)
    except argparse.ArgumentError as error:
        raise DataError(f"{path}: {action.dest!r}: {error.message}") from None
    return parts if several else parts[0]
