"""Runs a command in one or several processes, and turns errors into one line and an exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from topdown.cli.parser import OneLineParser
from topdown.datasets.errors import DataError
from topdown.files import require
from topdown.training.distributed import process_group, rank
from topdown.training.stopping import Stopped


def run_command(parser: OneLineParser, options: Any, work: Callable[[], None]) -> None:
    """Runs the function of a command. An error is one line on standard error.

    Args:
        parser: Parser of the command.
        options: Options of the command; `device`, if there is one, becomes that of this process.
        work: Function to run, in each process of a group if there is one.

    Raises:
        SystemExit: with status 2 if an option or the data cannot be used; with 130 if interrupted; with 143 if terminated; with
            1 if nothing reads the output any more.
    """
    for stream in (sys.stdout, sys.stderr):  # text that the terminal cannot encode must not end the run
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    out: Path | None = getattr(options, "out", None)
    how_to_go_on = (
        f"; go on with --resume --out {out}, and the options as they were" if out and hasattr(options, "resume") else ""
    )
    try:
        with contextlib.ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                before = signal.signal(signal.SIGTERM, _stop)
                stack.callback(signal.signal, signal.SIGTERM, before)
            options.device = stack.enter_context(process_group(best_device(getattr(options, "device", "cpu"))))
            if rank():  # only the first process prints
                stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
            _check_device(options.device)
            if sys.stdout.isatty():  # fails before hours of training
                require("tqdm", "experiments")
            work()
    except (ImportError, ValueError) as error:  # includes DataError, and errors of latches and backbones
        parser.error(str(error))
    except BrokenPipeError:  # such as by `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # otherwise Python reports an error at exit
        print(f"{parser.prog}: stopped, since nothing reads its output any more{how_to_go_on}", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        parser.error(f"{error.filename or out}: {error.strerror}; free some space, or choose another place to write to")
    except KeyboardInterrupt as error:
        number = error.number if isinstance(error, Stopped) else int(signal.SIGINT)
        what = "terminated" if number == signal.SIGTERM else "interrupted"
        print(f"{parser.prog}: {what}{how_to_go_on}", file=sys.stderr)
        raise SystemExit(128 + number) from None


def _stop(number: int, frame: Any) -> None:
    raise Stopped(number)


def best_device(device: str) -> str:
    """Returns the device; "auto" is an accelerator if there is one."""
    if device != "auto":
        return device
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if accelerator is None else accelerator.type


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = "no such device" if "Expected one of" in str(error) else str(error).partition("\n")[0]
        raise DataError(f"--device {device}: not available here ({reason}); use cpu") from None
