"""Builds the site: `make docs`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import topdown
from topdown.cli.main import make_parser

project, author, version = "topdown-latch", "the topdown-latch developers", topdown.__version__
copyright = "2026 the topdown-latch developers"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme, html_title = "furo", "topdown-latch"
exclude_patterns = ["_build"]
autodoc_member_order, autodoc_typehints, napoleon_use_rtype = "bysource", "signature", False
myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
nb_execution_mode, nb_execution_raise_on_error, nb_execution_timeout = "cache", True, 120
suppress_warnings = ["myst.header"]
nitpicky = False


def link_files(app: Any, name: str, source: list[str]) -> None:
    """Shows links to files of the repository, which are no pages, as their paths."""
    source[0] = re.sub(r"\[([^]]+)\]\(\.\./([^)]+)\)", r"\1 (`\2`)", source[0])


def write_commands(app: Any) -> None:
    """Writes the help texts of all commands as a page."""
    _, commands = make_parser()
    parts = [
        "# Commands\n\n`topdown COMMAND`, or `python -m topdown COMMAND`. Options may stand in a JSON file: `--config FILE`.\n"
    ]
    parts += [f"## topdown {name}\n\n```text\n{command.format_help().rstrip()}\n```\n" for name, command in commands.items()]
    path, text = Path(app.srcdir) / "commands.md", "\n".join(parts)
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def setup(app: Any) -> None:
    """Registers both."""
    app.connect("source-read", link_files)
    app.connect("builder-inited", write_commands)
