"""Whatever is done to a latch, in any order: its promises hold after each step (hypothesis), and its gradients are right."""

import copy
import pickle
import tempfile

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn
from toys import Toy

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone

SIZES = {"a": 3, "b": 2, "c": 2}
LENGTHS = torch.tensor([4, 2, 3])
BACKBONES = {
    "steps": lambda: Toy(SIZES, encoding_size=4),
    "pooled": lambda: Toy(SIZES, encoding_size=4, pooled=["b"]),
    "lstm": lambda: LSTMBackbone(SIZES, hidden_size=4, dropout=0.0),
}


def make_inputs(seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(3, 4, size, generator=generator, dtype=dtype) for name, size in SIZES.items()}


def hooks_of(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [(name, kind) for name, m in model.named_modules() for kind in kinds if getattr(m, kind)]


class Latches(RuleBasedStateMachine):
    """A latch, and the rules that change it."""

    @initialize(
        backbone=st.sampled_from([*BACKBONES]),
        feedback=st.sampled_from(["linear", "lstm", "shared", "static"]),
        start=st.sampled_from(["identity", "random"]),
    )
    def make(self, backbone, feedback, start):
        torch.manual_seed(0)
        self.kind, self.trained, self.inputs, self.lengths = backbone, False, make_inputs(0), None
        self.options = {"feedback": feedback, "start": start}
        self.latch = TopDownLatch(BACKBONES[backbone](), feedback, start=start)
        self.run = self.latch

    def call(self, latch, inputs=None, lengths=None):
        inputs = self.inputs if inputs is None else inputs
        return latch(inputs, self.lengths if lengths is None else lengths)

    @rule(seed=st.integers(0, 3))
    def see_other_inputs(self, seed):
        self.inputs = make_inputs(seed)

    @rule()
    def take_lengths(self):
        self.lengths = LENGTHS

    @rule()
    def take_no_lengths(self):
        self.lengths = None

    @rule(name=st.sampled_from([*SIZES]))
    def lose_a_modality(self, name):
        present = [k for k, x in self.inputs.items() if x is not None]
        if len(present) > 1:
            self.inputs = {**self.inputs, name: None}

    @rule()
    def train(self):
        self.latch.train()
        trainable = [p for p in self.latch.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(trainable or [nn.Parameter(torch.zeros(1))], 0.05)
        optimizer.zero_grad()
        output = self.call(self.latch)
        if output.requires_grad:
            output.square().sum().backward()
            optimizer.step()
            self.trained = True
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in self.latch.parameters())

    @rule()
    def evaluate(self):
        self.latch.eval()

    @rule()
    def deepcopy(self):
        self.latch = self.run = copy.deepcopy(self.latch)

    @rule()
    def pickle(self):
        self.latch = self.run = pickle.loads(pickle.dumps(self.latch))

    @rule()
    def save_and_load(self):
        pytest.importorskip("safetensors")
        self.latch.backbone.requires_grad_(False)
        with tempfile.TemporaryDirectory() as folder:
            self.latch.save_pretrained(folder)
            loaded = TopDownLatch.from_pretrained(self.latch.backbone, folder).train(self.latch.training)
        assert loaded.options() == self.latch.options()
        self.latch = self.run = loaded

    @rule()
    def compile(self):
        self.run = torch.compile(self.latch, backend="eager")

    @rule(frozen=st.booleans())
    def freeze_the_feedback(self, frozen):
        self.latch.feedback.requires_grad_(not frozen)

    @rule(combine=st.sampled_from(["mean", "max", "min", "product"]), passes=st.integers(1, 2), encoder_grad=st.booleans())
    def change_options(self, combine, passes, encoder_grad):
        self.latch.combine, self.latch.passes, self.latch.encoder_grad = combine, passes, encoder_grad
        self.run = self.latch

    @precondition(lambda self: self.options["start"] == "random")
    @rule(scale=st.sampled_from([1.0, 2.0]))
    def change_the_scale(self, scale):
        self.latch.scale = scale
        self.run = self.latch

    @rule()
    def swap_the_backbone(self):
        self.latch.backbone = BACKBONES[self.kind]().train(self.latch.training)
        self.run = self.latch

    @invariant()
    def disabled_it_is_the_backbone(self):
        with torch.no_grad(), self.latch.disabled():
            output, backbone = self.call(self.latch), self.latch.backbone
            assert torch.equal(output, backbone.fuse(backbone.encode(self.inputs, self.lengths), self.lengths))
            assert self.latch.masks(self.inputs, self.lengths) == {}

    @invariant()
    def it_begins_as_the_backbone(self):
        if self.options["start"] == "identity" and not self.trained:
            with torch.no_grad():
                output = self.call(self.latch)
                with self.latch.disabled():
                    assert torch.equal(output, self.call(self.latch))

    @invariant()
    def padding_does_not_matter(self):
        padding = torch.arange(4) >= LENGTHS.unsqueeze(1)
        garbage = {k: x if x is None else x.masked_fill(padding.unsqueeze(-1), 1e6) for k, x in self.inputs.items()}
        with torch.no_grad():
            ours, theirs = self.call(self.latch, lengths=LENGTHS), self.call(self.latch, garbage, LENGTHS)
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)

    @invariant()
    def a_call_leaves_nothing_behind(self):
        modes = {name: module.training for name, module in self.latch.named_modules()}
        before = {name: value.clone() for name, value in self.latch.state_dict().items()}
        inputs = {k: x if x is None else x.clone() for k, x in self.inputs.items()}
        with torch.no_grad():
            first, second = self.call(self.latch), self.call(self.latch)
        assert torch.equal(first, second)
        assert {name: module.training for name, module in self.latch.named_modules()} == modes
        assert all(torch.equal(value, before[name]) for name, value in self.latch.state_dict().items())
        assert all(x is None or torch.equal(x, inputs[k]) for k, x in self.inputs.items())
        assert hooks_of(self.latch) == []

    @invariant()
    def compiled_it_gives_the_same(self):
        if self.run is not self.latch:
            with torch.no_grad():
                torch.testing.assert_close(self.call(self.run), self.call(self.latch), atol=1e-5, rtol=1e-5)


Latches.TestCase.settings = settings(
    max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLatches = Latches.TestCase

FORMS = {"none": None, "all": torch.tensor([4, 2]), "mapping": {"a": torch.tensor([4, 2]), "b": torch.tensor([3, 1])}}


@pytest.mark.parametrize("feedback", ["linear", "lstm", "shared", "static"])
@pytest.mark.parametrize("combine", ["mean", "max", "min", "product"])
@pytest.mark.parametrize("lengths", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("align", ["error", "interpolate", "pool"])
def test_gradients_are_those_of_finite_differences(feedback, combine, lengths, align):
    if align == "error" and isinstance(lengths, dict):
        lengths = {"a": lengths["a"], "b": lengths["a"]}
    torch.manual_seed(0)
    sizes = {"a": 2, "b": 1}
    latch = TopDownLatch(Toy(sizes, encoding_size=2), feedback, combine=combine, align=align, start="random", encoder_grad=True)
    latch.double().eval()
    inputs = {name: torch.randn(2, 4, size, dtype=torch.float64, requires_grad=True) for name, size in sizes.items()}
    names = [name for name, _ in latch.named_parameters()]

    def run(a, b, *parameters):
        return torch.func.functional_call(latch, dict(zip(names, parameters, strict=True)), ({"a": a, "b": b}, lengths))

    assert torch.autograd.gradcheck(run, (*inputs.values(), *latch.parameters()), fast_mode=True)
