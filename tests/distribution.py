"""Checks what the distributions in a folder hold: python tests/distribution.py dist

The wheel holds both packages, `py.typed` and the license, and neither tests nor data. The sdist holds the tests, too.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

import topdown

PACKAGES = ("", "adapters", "datasets", "datasets/formats", "datasets/formats/helpers", "training", "comparison")
NEEDED = ["topdown/py.typed", "topdown/page.html", *[str(Path("topdown", name, "__init__.py")) for name in PACKAGES]]
NEEDED += ["topdown/experiments/__init__.py", "topdown/cli/main.py", "topdown/adapters/reference.py"]
OF_SDIST = ["tests/conftest.py", "tests/golden/README.md", "Makefile", "constraints.txt", "docs/conf.py", "examples/gate.py"]
OF_SDIST += ["adapters/__init__.py", "RELEASING.md", "SECURITY.md", "LICENSE", "topdown/py.typed"]
SUFFIXES = (".py", ".typed", ".html")
LARGEST = 1_500_000  # bytes of the wheel


def check_wheel(path: Path) -> None:
    """Raises an AssertionError if something is missing from a wheel, or should not be in it."""
    names = zipfile.ZipFile(path).namelist()
    about = f"topdown_latch-{topdown.__version__}.dist-info"
    assert [name for name in NEEDED if name not in names] == []
    code = [name for name in names if not name.startswith(about)]
    assert [name for name in code if not (name.startswith("topdown/") and name.endswith(SUFFIXES))] == []
    assert f"{about}/licenses/LICENSE" in names
    assert path.stat().st_size < LARGEST


def check_sdist(path: Path) -> None:
    """Raises an AssertionError if something is missing from an sdist, or should not be in it."""
    root = f"topdown_latch-{topdown.__version__}/"
    names = [member.name.removeprefix(root) for member in tarfile.open(path).getmembers()]
    assert [name for name in OF_SDIST if name not in names] == []
    assert [name for name in names if name.startswith((".venv", "build", "results", "data")) or "__pycache__" in name] == []


def main() -> None:
    """Checks one wheel and one sdist."""
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    check_wheel(wheel)
    check_sdist(sdist)
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes; {sdist.name}: {sdist.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
