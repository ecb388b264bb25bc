"""What the README and the pages of docs show runs as it stands."""

import re
from pathlib import Path

import processes
import pytest
import torch
import wrong_calls

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("frameworks", "many_processes")  # whose programs have tests of their own, or are parts of one
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}", marks=pytest.mark.uncovered)
    for page in PAGES
    if page.stem not in ELSEWHERE
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # of torch's exporters, about themselves
@pytest.mark.parametrize("block", BLOCKS)
def test_code_runs_and_prints_what_it_says(block, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    if "topdown.export" in block:
        pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
        pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    if "transformers" in block:
        pytest.importorskip("transformers", reason="needs the extra 'models'")
    exec(compile(block, "a block of a page", "exec"), names)
    if "topdown.export" in block:
        check_exported(**names)
    # A comment behind print(...) is what it prints.
    expected = re.findall(r"^\s*print\(.*\)  # (.*)$", block, flags=re.MULTILINE)
    assert expected
    assert [line for line in capsys.readouterr().out.splitlines() if "[torch.onnx]" not in line] == expected


def check_exported(model, program, **names):
    """The program and the file give what the model gives, for any batch and time."""
    import onnxruntime

    session = onnxruntime.InferenceSession("latch.onnx")
    assert {name for name, _ in model.named_parameters()} == set(program.state_dict)  # no weight is a constant
    for size, steps in ((6, 21), (2, 3), (1, 60), (3, 1), (1, 1)):
        inputs = torch.randn(size, steps, 30), torch.randn(size, steps, 7), torch.randint(1, steps + 1, (size,))
        expected = model(*inputs).detach()
        torch.testing.assert_close(program.module()(*inputs), expected, atol=1e-5, rtol=0)
        arrays = {argument.name: x.numpy() for argument, x in zip(session.get_inputs(), inputs, strict=True)}
        torch.testing.assert_close(torch.from_numpy(session.run(None, arrays)[0]), expected, atol=1e-5, rtol=0)
    torch.export.save(program, "latch.pt2")
    torch.save((inputs, expected), "expected.pt")
    process = processes.start(load_and_run, Path("latch.pt2").absolute(), Path("expected.pt").absolute())
    process.join()
    assert process.exitcode == 0


def load_and_run(path, expected):
    """In another process, which imports topdown, and which the exported program does not know."""
    program, (inputs, output) = torch.export.load(path), torch.load(expected)
    torch.testing.assert_close(program.module()(*inputs), output, atol=1e-6, rtol=0)


def test_the_readme_is_short_and_begins_with_code():
    assert len(README.splitlines()) <= 150
    first = re.search(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert first[1].count("\n") <= 26
    assert README[: first.start()].count("\n") < 30


MESSAGES = re.findall(r"<!-- case: (.*) -->\n`(.*)`\n", (ROOT / "docs" / "errors.md").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "message"), MESSAGES, ids=[case for case, _ in MESSAGES])
def test_messages_of_the_page_are_those_that_come(case, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (call,) = [call for name, call, *_ in wrong_calls.CALLS if name == case]
    with pytest.raises((TypeError, ValueError, RuntimeError)) as raised:
        call()
    assert message in str(raised.value)


def test_the_page_has_twenty_messages():
    assert len(MESSAGES) >= 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text)
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link
