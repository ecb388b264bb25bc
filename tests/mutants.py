"""Does the suite notice when the core or an adapter is wrong? Changes one operator, constant or statement, and runs tests.

    python tests/mutants.py --out build/mutants [--count 400] [--seed 0] [--jobs 2]

First it runs the tests of the core and of the adapters once, and records which test runs which line. Then it draws mutants at
random: for each, it runs the tests that run its line, the fastest first, in a process of its own, until one fails. A mutant is
killed if a test fails, or if they run for longer than four minutes. Messages of errors, docstrings and annotations are not
changed. A control, which changes nothing, must survive first. It prints every survivor, and goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FILES = [*sorted((ROOT / "topdown").glob("*.py")), *sorted((ROOT / "adapters").glob("*.py"))]
TESTS = ["tests/core", "tests/adapters", *[str(path.relative_to(ROOT)) for path in FILES if path.parent.name == "topdown"]]
TESTS += ["topdown/adapters"]
# For lines that run in compiled code, in another process or in ONNX Runtime.
FALLBACK = ["tests/core/test_export.py", "tests/test_readme.py::test_code_runs_and_prints_what_it_says[serving-0]"]
TIMEOUT = 240
CONTROL = -1  # index of a mutant that changes nothing
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}


class Mutant(NamedTuple):
    """One change: the place in its file, and what changes."""

    file: str
    line: int
    index: int
    what: str


def changes(tree: ast.Module) -> Iterator[tuple[int, str, ast.AST, str, object]]:
    """Yields (line, description, node, field, new value) for each change that can be made to a module."""
    bodies = _bodies(tree)
    for node in _walk(tree):
        line = bodies.get(id(node), getattr(node, "lineno", 0))
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
            new = SWAPS[type(node.ops[0])]
            yield line, f"{type(node.ops[0]).__name__} -> {new.__name__}", node, "ops", [new()]
        elif isinstance(node, (ast.BoolOp, ast.BinOp, ast.AugAssign)) and type(node.op) in SWAPS:
            new = SWAPS[type(node.op)]
            yield line, f"{type(node.op).__name__} -> {new.__name__}", node, "op", new()
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            yield line, "not x -> x", node, "op", None
        elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
            new_value = not node.value if isinstance(node.value, bool) else node.value + 1
            yield line, f"{node.value} -> {new_value}", node, "value", new_value
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield line, "if x -> if not x", node, "test", ast.UnaryOp(ast.Not(), node.test)
        elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
            yield line, "return x -> return None", node, "value", ast.Constant(None)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield line, "statement removed", node, "value", ast.Constant(None)


def _bodies(tree: ast.Module) -> dict[int, int]:
    """Returns the first line of its function for each default of an argument: tests run the body, and not the default."""
    found = {}
    for function in [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]:
        code = [statement for statement in function.body if not isinstance(statement, ast.Expr)]
        found |= {id(node): code[0].lineno for node in ast.walk(function.args) if code}
    return found


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Walks over everything but docstrings, annotations, assertions and the errors that are raised."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "msg") or isinstance(node, (ast.Raise, ast.Assert, ast.JoinedStr)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _walk(child)


def mutated(path: Path, index: int) -> ast.Module:
    """Returns the tree of a file with one change."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if index == CONTROL:
        return tree
    _, _, node, field, new = list(changes(tree))[index]
    if isinstance(node, ast.UnaryOp) and field == "op":  # not x -> not (not x)
        node.operand = ast.UnaryOp(ast.Not(), copy.copy(node.operand))
    else:
        setattr(node, field, new)
    return ast.fix_missing_locations(tree)


def all_mutants() -> list[Mutant]:
    """Returns every mutant of every file."""
    made = []
    for path in FILES:
        for index, (line, what, *_) in enumerate(changes(ast.parse(path.read_text(encoding="utf-8")))):
            made.append(Mutant(str(path.relative_to(ROOT)), line, index, what))
    return made


def record_tests(out: Path, jobs: int) -> dict[str, dict[str, list[str]]]:
    """Runs the tests, and returns {file: {line: tests that run it, the fastest first}}."""
    path = out / "tests.json"
    if not path.exists():
        settings = out / "coveragerc"
        settings.write_text(f"[run]\nsource = {ROOT / 'topdown'}\n    {ROOT / 'adapters'}\ndata_file = {out / 'coverage'}\n")
        call = [sys.executable, "-m", "pytest", "-q", "-n", str(jobs), "-m", "not uncovered", "--durations=0", "-vv", *TESTS]
        call += [f"--cov-config={settings}", "--cov", "--cov-context=test", "--cov-report="]
        printed = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        seconds: dict[str, float] = {}
        for duration, test in re.findall(r"^([\d.]+)s \w+ +(.+)$", printed, flags=re.MULTILINE):
            seconds[test] = seconds.get(test, 0.0) + float(duration)
        path.write_text(json.dumps(_by_line(out / "coverage", seconds)))
    found: dict[str, dict[str, list[str]]] = json.loads(path.read_text())
    return found


def _by_line(data_file: Path, seconds: dict[str, float]) -> dict[str, dict[str, list[str]]]:
    import coverage

    data = coverage.CoverageData(str(data_file))
    data.read()
    found: dict[str, dict[str, list[str]]] = {}
    for name in data.measured_files():
        lines = data.contexts_by_lineno(name)
        key = os.path.relpath(os.path.realpath(name), ROOT)
        for line, contexts in lines.items():
            tests = {context.rsplit("|", 1)[0] for context in contexts if context}
            found.setdefault(key, {})[str(line)] = sorted(tests, key=lambda test: (seconds.get(test, 0.0), test))
    return found


def run(mutant: Mutant, tests: list[str]) -> int:
    """Runs tests with a mutant, in a process that was forked for it, and returns the exit status of pytest."""
    import pytest

    target = str(ROOT / mutant.file)
    code = compile(mutated(ROOT / mutant.file, mutant.index), target, "exec", dont_inherit=True)
    read = SourceFileLoader.get_code
    SourceFileLoader.get_code = lambda self, name: code if os.path.realpath(self.path) == target else read(self, name)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    return int(pytest.main(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov", *tests]))


def start(mutant: Mutant, tests: list[str]) -> int:
    """Forks a process that runs tests with a mutant, and returns its number."""
    number = os.fork()
    if number == 0:
        os.setsid()
        try:
            os._exit(run(mutant, tests))
        except BaseException:
            os._exit(1)
    return number


def main() -> None:
    """Prints the share of mutants that were killed, and the survivors."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--again", action="store_true", help="run survivors again, against the tests as they are now")
    options = parser.parse_args()
    os.chdir(ROOT)
    options.out.mkdir(parents=True, exist_ok=True)
    by_line = record_tests(options.out.resolve(), options.jobs)
    results = options.out / "results.json"
    done: dict[str, str] = json.loads(results.read_text()) if results.exists() else {}
    if options.again:
        done = {key: outcome for key, outcome in done.items() if outcome != "survived"}
    mutants = all_mutants()
    drawn = random.Random(options.seed).sample(mutants, min(options.count, len(mutants)))
    waiting = [mutant for mutant in drawn if _key(mutant) not in done]
    import torch  # before processes are forked

    torch.set_num_threads(1)
    some = sorted({test for lines in by_line.values() for tests in lines.values() for test in tests[:1]})
    if os.waitpid(start(Mutant("topdown/latch.py", 0, CONTROL, "control"), some), 0)[1]:
        sys.exit("the tests fail without any change: run them first")
    running: dict[int, tuple[Mutant, float]] = {}
    while waiting or running:
        while waiting and len(running) < options.jobs:
            mutant = waiting.pop()
            tests = by_line.get(mutant.file, {}).get(str(mutant.line)) or FALLBACK
            running[start(mutant, tests)] = mutant, time.monotonic()
        for number, (mutant, begun) in list(running.items()):
            ended, status = os.waitpid(number, os.WNOHANG)
            late = time.monotonic() - begun > TIMEOUT
            if not ended and late:
                os.killpg(number, signal.SIGKILL)
                os.waitpid(number, 0)
            if ended or late:
                del running[number]
                code = None if late and not ended else os.waitstatus_to_exitcode(status)
                done[_key(mutant)] = "too slow" if code is None else "survived" if code in (0, 5) else "killed"
                results.write_text(json.dumps(done))
                print(f"{len(done)} {_key(mutant)}: {done[_key(mutant)]}, {time.monotonic() - begun:.0f} s", flush=True)
        time.sleep(0.05)
    outcomes = [done[_key(mutant)] for mutant in drawn]
    survivors = sorted(_key(mutant) for mutant in drawn if done[_key(mutant)] == "survived")
    print("\n".join(["", "survivors:", *survivors, ""]))
    killed = len(outcomes) - len(survivors)
    slow = outcomes.count("too slow")
    print(f"{killed} of {len(outcomes)} mutants killed ({killed / len(outcomes):.1%}), {slow} of them by time;")
    print(f"drawn from {len(mutants)} with seed {options.seed}, {time.strftime('%Y-%m-%d')}")


def _key(mutant: Mutant) -> str:
    return f"{mutant.file}:{mutant.line} [{mutant.index}] {mutant.what}"


if __name__ == "__main__":
    main()
