"""Latches that are compiled, exported, or run by ONNX Runtime give what eager ones give, for any batch and time."""

import subprocess
import sys
import threading

import pytest
import torch
from torch import nn
from toys import Toy, small_mult

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.lstm import SequenceLSTM

SIZES = {"text": 12, "audio": 7}
SHAPES = ((6, 21), (2, 3), (1, 60), (3, 1), (1, 1))
MODELS = [("lstm", "lstm"), ("mult", "linear")]

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # of compilers and exporters, about themselves
    pytest.mark.uncovered,
]


def make(backbone, feedback):
    torch.manual_seed(0)
    if backbone == "lstm":
        return TopDownLatch(LSTMBackbone(SIZES, hidden_size=8), feedback, start="random").eval()
    return TopDownLatch(small_mult(SIZES, size=8), feedback, start="random").eval()


def batch(size=4, steps=9):
    generator = torch.Generator().manual_seed(size)
    inputs = {name: torch.randn(size, steps, d, generator=generator) for name, d in SIZES.items()}
    return inputs, torch.randint(1, steps + 1, (size,), generator=generator)


class Positional(nn.Module):
    """A program that is exported takes tensors, not mappings."""

    def __init__(self, latch):
        super().__init__()
        self.latch = latch

    def forward(self, text, audio, lengths):
        return self.latch({"text": text, "audio": audio}, lengths)


def export(latch):
    inputs, lengths = batch()
    size, steps = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("time", min=1, max=500)
    shapes = {name: {0: size, 1: steps} for name in SIZES} | {"lengths": {0: size}}
    with torch.no_grad():
        return torch.export.export(Positional(latch), (*inputs.values(), lengths), dynamic_shapes=shapes, strict=False)


def test_an_exported_latch_gives_the_same_for_any_batch_and_time(tmp_path):
    """Of a MulT; tests/test_readme.py has LSTMs, and loads a program in another process."""
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    pytest.importorskip("onnxscript", reason="needs the extra 'onnx'")
    from topdown.export import translations

    latch = make("mult", "linear")
    program = export(latch)
    assert {f"latch.{name}" for name, _ in latch.named_parameters()} == set(program.state_dict)  # no weight as a constant
    with torch.no_grad():
        onnx = torch.onnx.export(program, dynamo=True, custom_translation_table=translations(), verbose=False, optimize=False)
    onnx.save(tmp_path / "latch.onnx")
    session = runtime.InferenceSession(tmp_path / "latch.onnx")
    for shape in SHAPES:
        inputs, lengths = batch(*shape)
        expected = latch(inputs, lengths).detach()
        torch.testing.assert_close(program.module()(*inputs.values(), lengths), expected, atol=1e-5, rtol=0)
        arrays = {name: x.numpy() for name, x in inputs.items()} | {"lengths": lengths.numpy()}
        torch.testing.assert_close(torch.from_numpy(session.run(None, arrays)[0]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("backbone", "feedback"), MODELS)
def test_a_compiled_latch_is_one_graph_and_not_compiled_again_for_other_shapes(backbone, feedback):
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    latch, counter = make(backbone, feedback), CompileCounter()
    compiled = torch.compile(latch, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for shape in ((4, 9), (5, 12), (3, 30), (7, 5)):
            inputs, lengths = batch(*shape)
            torch.testing.assert_close(compiled(inputs, lengths), latch(inputs, lengths), atol=1e-6, rtol=0)
    assert counter.frame_count == 1


def test_a_compiled_latch_that_is_the_first_of_a_thread_is_compiled_once():
    """Compilers guard on whether a flag of the thread is there, which the first call set."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    latch, counter = TopDownLatch(Toy(SIZES), "linear").eval(), CompileCounter()
    compiled = torch.compile(latch, backend=counter, fullgraph=True, dynamic=True)

    def run():
        with torch.no_grad():
            for shape in ((4, 9), (5, 12)):
                compiled(*batch(*shape))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert counter.frame_count == 1


def test_a_compiled_latch_can_be_disabled():
    torch._dynamo.reset()
    latch, (inputs, lengths) = TopDownLatch(Toy(SIZES), "linear").eval(), batch()
    compiled = torch.compile(latch, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(inputs, lengths), latch(inputs, lengths))
    with latch.disabled():
        assert torch.equal(compiled(inputs, lengths), latch.backbone(inputs, lengths))
    torch.testing.assert_close(compiled(inputs, lengths), latch(inputs, lengths))
    by_name = {name: lengths.clone() for name in SIZES}
    torch.testing.assert_close(compiled(inputs, by_name), latch(inputs, lengths))


@pytest.mark.parametrize(("kind", "graphs", "shapes"), [("linear", 1, ((4, 9), (6, 21))), ("lstm", None, ((4, 9),))])
def test_a_compiled_training_step_has_the_same_gradients(kind, graphs, shapes):
    """A latch without LSTMs is one graph; LSTMs run outside of the graphs."""
    from torch._dynamo.testing import CompileCounter

    check_gradients(TopDownLatch(Toy(SIZES), kind), CompileCounter(), graphs, shapes)


def check_gradients(latch, counter, graphs, shapes):
    torch._dynamo.reset()
    compiled, counts = torch.compile(latch, backend=counter), []
    for shape in shapes:
        (inputs, lengths), gradients = batch(*shape), []
        for called in (latch, compiled):
            latch.zero_grad()
            called(inputs, lengths).square().sum().backward()
            gradients.append([p.grad.clone() for p in latch.parameters()])
        torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-5)
        counts.append(counter.frame_count)
    assert graphs is None or counts[0] == graphs


def test_a_compiled_lstm_trains_in_a_type_that_onednn_does_not_know():
    torch._dynamo.reset()
    torch.manual_seed(0)
    lstm, found = SequenceLSTM(4, 3).double(), []
    sequence, lengths = torch.randn(2, 5, 4, dtype=torch.float64), torch.tensor([5, 2])
    for called in (lstm, torch.compile(lstm, backend="aot_eager")):
        found.append(torch.autograd.grad(called(sequence, lengths).square().sum(), list(lstm.parameters())))
    torch.testing.assert_close(*found)


def test_a_compiled_lstm_trains_within_autocast():
    torch._dynamo.reset()
    torch.manual_seed(0)
    lstm, found = SequenceLSTM(4, 3), []
    sequence, lengths = torch.randn(2, 5, 4), torch.tensor([5, 2])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for called in (lstm, torch.compile(lstm, backend="aot_eager")):
            found.append(torch.autograd.grad(called(sequence, lengths).float().square().sum(), list(lstm.parameters())))
    assert found[1][0].dtype == torch.float32
    torch.testing.assert_close(*found, atol=1e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_compiled_lstm_gives_the_type_of_autocast(dtype):
    torch._dynamo.reset()
    torch.manual_seed(0)
    lstm = SequenceLSTM(4, 3, bidirectional=True)
    sequence, lengths = torch.randn(2, 5, 4), torch.tensor([5, 2])
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        expected = lstm(sequence, lengths)
        states = torch.compile(lstm, backend="aot_eager", fullgraph=True)(sequence, lengths)
    assert states.dtype == expected.dtype == dtype
    torch.testing.assert_close(states, expected, atol=2e-2, rtol=0)


def test_a_compiled_lstm_trains_on_no_samples():
    torch._dynamo.reset()
    lstm, sequence = SequenceLSTM(4, 3), torch.randn(0, 5, 4, requires_grad=True)
    states = torch.compile(lstm, backend="aot_eager")(sequence)
    assert states.shape == (0, 5, 3)
    states.sum().backward()
    assert sequence.grad.shape == sequence.shape
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in lstm.parameters())


@pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="torch 2.6 refuses both")
def test_function_transforms_of_a_compiled_lstm_are_right_or_refused():
    torch._dynamo.reset()
    lstm, sequence = SequenceLSTM(4, 3), torch.randn(2, 5, 4)

    def loss(parameters, sequence):
        return torch.func.functional_call(lstm, parameters, (sequence,)).square().sum()

    gradient, parameters = torch.func.grad(loss), dict(lstm.named_parameters())
    found = torch.compile(gradient, backend="aot_eager")(parameters, sequence)
    torch.testing.assert_close(found, gradient(parameters, sequence))
    forward = torch.compile(lambda x: torch.func.jvp(lambda y: loss(parameters, y), (x,), (x,)), backend="aot_eager")
    with pytest.raises(RuntimeError):  # torch has no forward mode for LSTMs
        forward(sequence)


def test_the_operator_is_well_formed():
    lstm = SequenceLSTM(4, 3)
    sequence, weights = torch.randn(2, 5, 4), [weight.detach() for weight in lstm._flat_weights]
    torch.library.opcheck(torch.ops.topdown.lstm.default, (sequence, weights))


def test_importing_topdown_brings_the_operator_and_neither_compiler_nor_exporter():
    code = (
        "import sys, topdown.adapters, torch; torch.ops.topdown.lstm; print({'onnxscript', 'torch._dynamo'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"
