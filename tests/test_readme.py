"""What the README shows runs as it stands."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch's exporters, about themselves
@pytest.mark.parametrize(
    "number", [pytest.param(i, marks=pytest.mark.uncovered if "onnx" in block else ()) for i, block in enumerate(BLOCKS)]
)
def test_code_runs_and_prints_what_it_says(number, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    block = BLOCKS[number]
    if "topdown.export" in block:
        pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    if "transformers" in block:
        pytest.importorskip("transformers", reason="needs the extra 'models'")
    exec(compile(block, f"README.md, block {number}", "exec"), {})
    # A comment behind print(...) is what it prints.
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", block, flags=re.MULTILINE)
    assert expected
    assert [line for line in capsys.readouterr().out.splitlines() if "[torch.onnx]" not in line] == expected


def test_the_first_block_is_short_and_comes_early():
    assert len(BLOCKS) >= 2
    assert BLOCKS[0].count("\n") <= 26
    assert README[: README.index("```python")].count("\n") < 30
