"""Faults that users met, by kind: each test was red before the kind was mended."""

import asyncio
import collections
import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from toys import Toy, batch, perturbed

import topdown
from topdown import Site, TopDownLatch
from topdown.adapters import CallableBackbone, HookedBackbone, LSTMBackbone
from topdown.sequence import Padded

SIZES = {"a": 4, "b": 3}
X = batch(SIZES, batch_size=64, dtype=torch.float32)
LENGTHS = torch.tensor([6, 2, 4])


class Watched(nn.Module):
    """Encodes each step by itself, through a layer of the user's with a state."""

    def __init__(self, make):
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(size, 5) for name, size in SIZES.items()})
        self.states = nn.ModuleDict({name: make(size) for name, size in SIZES.items()})
        self.head = nn.Linear(10, 1)
        self.input_sizes, self.encoding_sizes = dict(SIZES), dict.fromkeys(SIZES, 5)

    def encode(self, inputs):
        seen = {name: self.states[name](inputs[name].transpose(1, 2)).transpose(1, 2) for name in SIZES}
        return {name: torch.tanh(self.layers[name](x)) for name, x in seen.items()}

    def fuse(self, encodings):
        return self.head(torch.cat([*encodings.values()], -1).mean(1)).squeeze(-1)

    def forward(self, inputs):
        return self.fuse(self.encode(inputs))


class Observer(nn.Module):
    """Keeps the range of what it sees, in every mode, as quantization does for calibration."""

    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor(torch.inf))
        self.register_buffer("high", torch.tensor(-torch.inf))

    def forward(self, x):
        self.low.copy_(torch.minimum(self.low, x.detach().min()))
        self.high.copy_(torch.maximum(self.high, x.detach().max()))
        return x


# A. State that others copy, average, fold or load


@pytest.mark.parametrize("start", ["identity", "random"])
@pytest.mark.filterwarnings("ignore:masks near 1/2 shift")
def test_the_average_of_equal_weights_is_the_latch(start):
    torch.manual_seed(0)
    latch = perturbed(TopDownLatch(Watched(nn.BatchNorm1d), "linear", start=start))
    average = copy.deepcopy(latch)
    for _ in range(500):
        latch(X)
        for e, v in zip(average.state_dict().values(), latch.state_dict().values(), strict=True):
            if e.is_floating_point():
                e.lerp_(v, 0.02)
    for (name, e), v in zip(average.state_dict().items(), latch.state_dict().values(), strict=True):
        if e.is_floating_point():
            torch.testing.assert_close(e, v, atol=1e-3, rtol=1e-3, msg=name)
    ours, expected = average.eval().masks(X), latch.eval().masks(X)
    for name, mask in expected.items():
        torch.testing.assert_close(ours[name], mask, atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore:masks near 1/2 shift")
def test_an_observer_sees_both_passes():
    watched = Watched(lambda size: nn.Sequential(Observer(), nn.BatchNorm1d(size)))
    latch = TopDownLatch(watched, "linear", start="random").eval()
    latch(X)
    for name, (observer, _) in latch.backbone.states.items():
        masked = X[name] * latch.masks(X)[name]
        assert observer.high == torch.maximum(X[name].max(), masked.max())
        assert observer.low == torch.minimum(X[name].min(), masked.min())
        assert observer.high == X[name].max()  # the second pass alone sees about half of it


def test_lazy_modules_load_a_trained_state():
    trained = perturbed(TopDownLatch(Watched(nn.BatchNorm1d), "linear"))
    trained(X)
    latch = TopDownLatch(Watched(lambda size: nn.LazyBatchNorm1d()), "linear")
    assert latch.load_state_dict(trained.state_dict()).missing_keys == []
    assert torch.equal(latch.eval()(X), trained.eval()(X))


@contextlib.contextmanager
def empty_weights():
    """Turns every parameter that is registered into one on the meta device, as accelerate.init_empty_weights does."""
    register = nn.Module.register_parameter

    def on_meta(module, name, parameter):
        register(module, name, parameter)
        if parameter is not None:
            known = module._parameters[name]
            module._parameters[name] = type(known)(known.to("meta"), requires_grad=known.requires_grad)

    nn.Module.register_parameter = on_meta
    try:
        yield
    finally:
        nn.Module.register_parameter = register


@pytest.mark.parametrize("library", ["accelerate", "ours"])
@pytest.mark.parametrize("kind", ["linear", "lstm", "shared", "static", nn.Linear])
def test_weights_may_be_left_empty(library, kind):
    if library == "accelerate":
        empty = pytest.importorskip("accelerate", reason="needs accelerate").init_empty_weights
    with (empty if library == "accelerate" else empty_weights)():
        latch = TopDownLatch(LSTMBackbone({"text": 4, "audio": 3}, hidden_size=5), kind)
        TopDownLatch(Toy(SIZES, declare=False), kind)  # of unknown sizes
    assert {p.device.type for p in latch.parameters()} == {"meta"}


# B. Tools that take one call for one run


@pytest.mark.parametrize("passes", [1, 3])
def test_a_hook_can_tell_in_which_pass_it_is(passes):
    latch = perturbed(TopDownLatch(Watched(nn.BatchNorm1d), "linear", passes=passes))
    activations, gradients, every = [], [], []

    def collect(module, arguments, output):
        every.append(topdown.in_first_pass())
        if not topdown.in_first_pass():
            activations.append(output)
            output.register_hook(gradients.append)

    latch.backbone.layers["a"].register_forward_hook(collect)
    latch(X).sum().backward()
    assert every == [True] * passes + [False]
    assert (len(activations), len(gradients)) == (1, 1)
    expected = latch.backbone.eval().states["a"](X["a"].transpose(1, 2))  # and not in the middle of a call
    assert not topdown.in_first_pass()
    assert expected.shape == (64, 4, 6)


# C. State that outlives its block


def outputs_of(latch, x):
    with latch.disabled():
        while True:
            yield latch(x)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_blocks_in_generators_may_end_in_any_order(order):
    latch = perturbed(TopDownLatch(Toy(SIZES), "linear").float())
    plain = latch.backbone(X)
    generators = [outputs_of(latch, X), outputs_of(latch, X)]
    assert all(torch.equal(next(generator), plain) for generator in generators)
    generators[order[0]].close()
    assert torch.equal(next(generators[order[1]]), plain)
    assert latch.masks(X) == {}
    generators[order[1]].close()
    assert set(latch.masks(X)) == set(SIZES)
    assert not torch.equal(latch(X), plain)


def test_blocks_in_tasks_hold_for_their_own_task():
    latch = perturbed(TopDownLatch(Toy(SIZES), "linear").float())
    plain, masked, seen = latch.backbone(X), latch(X), []

    async def without(turns):
        with latch.disabled():
            for _ in range(turns):
                await asyncio.sleep(0)
                seen.append(torch.equal(latch(X), plain))

    async def with_feedback():
        for _ in range(4):
            await asyncio.sleep(0)
            seen.append(torch.equal(latch(X), masked))

    async def main():
        await asyncio.gather(without(1), without(3), with_feedback())

    asyncio.run(main())
    assert seen == [True] * 8
    assert torch.equal(latch(X), masked)


# F. Containers and kinds of data


class Encoding(collections.UserDict):
    """A mapping with attributes, as the tokenizers of Hugging Face return."""

    def __getattr__(self, name):
        if name == "data":
            raise AttributeError(name)
        return self.data[name]


class AttributeDict(dict):
    """The short way to a mapping with attributes."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class ByAttribute(Toy):
    def encode(self, inputs, lengths=None):
        return {"a": torch.tanh(self.layers[0](inputs.a)), "b": torch.tanh(self.layers[1](inputs.b))}


@pytest.mark.parametrize("make", [Encoding, AttributeDict, "transformers"])
def test_a_mapping_arrives_as_what_it_is(make):
    if make == "transformers":
        make = pytest.importorskip("transformers", reason="needs transformers").BatchEncoding
    latch = perturbed(TopDownLatch(ByAttribute(SIZES), "linear"))
    types = []
    encode = latch.backbone.encode
    latch.backbone.encode = lambda inputs, lengths=None: types.append(type(inputs)) or encode(inputs)
    latch.backbone = latch.backbone
    inputs = make({**X})
    expected = perturbed(TopDownLatch(Toy(SIZES), "linear"))
    expected.load_state_dict(latch.state_dict())
    assert torch.equal(latch(inputs), expected(X))
    assert types == [make, make]
    assert all(inputs[name] is x for name, x in X.items())
    with latch.disabled():
        assert torch.equal(latch(inputs), expected.backbone(X))


class Recurrent(nn.Module):
    """Reads the last states of a bidirectional LSTM of packed sequences."""

    def __init__(self):
        super().__init__()
        self.words, self.lstm = nn.Embedding(9, 4), nn.LSTM(4, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 1)

    def forward(self, ids, count):
        x = self.words(ids)
        packed = pack_padded_sequence(x, count, batch_first=True, enforce_sorted=False)
        _, (h, _) = self.lstm(packed)
        return self.head(h.transpose(0, 1).flatten(1)).squeeze(-1)


IDS = torch.randint(0, 9, (3, 6), generator=torch.Generator().manual_seed(0))


def test_an_item_of_an_item_is_read():
    model = Recurrent()
    site = Site("lstm", "_ b d", index=(1, 0))  # h_n of (output, (h_n, c_n)), of shape (directions, B, d)
    backbone = HookedBackbone(model, {"text": site})
    latch = TopDownLatch(backbone, "linear", sites={"text": "words"}, example_inputs={"ids": IDS, "count": LENGTHS})
    _, (h, _) = model.lstm(pack_padded_sequence(model.words(IDS), LENGTHS, batch_first=True, enforce_sorted=False))
    trace = latch.eval().trace(ids=IDS, count=LENGTHS)
    torch.testing.assert_close(trace.encodings["text"], h.mean(0))  # "_" is averaged
    assert torch.equal(trace.output, model(IDS, LENGTHS))


def test_a_packed_sequence_is_read_as_padded():
    model = Recurrent()
    latch = TopDownLatch(
        HookedBackbone(model, {"text": Site("lstm", index=0)}),
        "linear",
        sites={"text": "words"},
        start="random",
        example_inputs={"ids": IDS, "count": LENGTHS},
    ).eval()
    packed = pack_padded_sequence(model.words(IDS), LENGTHS, batch_first=True, enforce_sorted=False)
    states, lengths = nn.utils.rnn.pad_packed_sequence(model.lstm(packed)[0], batch_first=True)
    encoding = latch.backbone.encode({"ids": IDS, "count": LENGTHS})["text"]
    torch.testing.assert_close(encoding.values, states)
    assert torch.equal(encoding.lengths, lengths)
    trace = latch.trace(ids=IDS, count=LENGTHS, lengths={"text": LENGTHS})
    torch.testing.assert_close(trace.encodings["text"], states)
    alone = [latch(ids=IDS[i : i + 1, :n], count=LENGTHS[i : i + 1]) for i, n in enumerate(LENGTHS.tolist())]
    torch.testing.assert_close(trace.output, torch.cat(alone))


def test_a_site_that_is_packed_is_named():
    latch = TopDownLatch(HookedBackbone(Recurrent(), {"text": "words"}), sites={"text": Site("lstm", index=0)})
    with pytest.raises(TypeError, match=r"'text', the output of 'lstm'\[0\], is a PackedSequence: choose a site before"):
        latch(ids=IDS, count=LENGTHS, lengths={"text": LENGTHS})


# G. Signatures and names


class Mine(LSTMBackbone):
    def encode(self, *args, **kwargs):
        return super().encode(*args, **kwargs)

    def fuse(self, *args, **kwargs):
        return super().fuse(*args, **kwargs)


def test_lengths_reach_functions_with_any_keyword():
    sizes, outputs = {"a": 4, "b": 3}, []
    inputs = batch(sizes, dtype=torch.float32)
    for kind in (LSTMBackbone, Mine):
        torch.manual_seed(0)
        latch = TopDownLatch(kind(sizes, hidden_size=5, dropout=0.0), "lstm", start="random")
        outputs.append(latch(inputs, LENGTHS))
    assert torch.equal(*outputs)
    changed = {k: x.clone() for k, x in inputs.items()}
    for x in changed.values():
        x[1, 2:] = 7.0
    assert torch.equal(latch(changed, LENGTHS), outputs[1])


def test_names_are_shown_as_they_are(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    from topdown.plots import plot_profile, plot_sample, write_page

    name = "$x_1$ 100 % {a} \\alpha <b>"
    sizes = {name: 2, "b": 3}
    inputs = batch(sizes, dtype=torch.float32)
    latch = perturbed(TopDownLatch(Toy(sizes), "linear"))
    trace, names = latch.trace(inputs), {name: [name, 1], "b": [0, 1, 2]}
    steps = {name: [name] * 6, "b": [name] * 6}
    figure = plot_sample(trace, 0, feature_names=names, step_names=steps)
    figure.savefig(tmp_path / "sample.png")
    assert any(repr(name) in axes.get_title() for axes in figure.axes)
    profile = topdown.mask_profile([(trace.masks, torch.tensor([0, 1, 0]), None)], [0, 1])
    figure = plot_profile(profile, feature_names=names, class_names=[name, 1])
    figure.savefig(tmp_path / "profile.png")
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == [name, "1"]
    write_page(tmp_path / "page.html", trace, titles=[name, name, name], feature_names=names, step_names=[steps] * 3)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert page.count(f"<h2>{name.replace('<', '&lt;').replace('>', '&gt;')}</h2>") == 3


@pytest.mark.parametrize("kind", ["linear", "lstm", "shared", "static", lambda s, t: nn.Sequential(nn.Linear(s, t))])
def test_an_optimizer_over_backbone_and_feedback_opens_the_masks(kind):
    torch.manual_seed(0)
    latch = TopDownLatch(Toy(SIZES), kind, start="identity")
    rates = [{"params": latch.backbone.parameters()}, {"params": latch.feedback.parameters(), "lr": 0.1}]
    optimizer = torch.optim.Adam(rates, lr=0.01)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(latch.parameters()))
    for _ in range(3):
        optimizer.zero_grad()
        latch(X).square().sum().backward()
        optimizer.step()
    assert not any(mask.eq(1).any() for mask in latch.masks(X).values())
    latch.feedback.requires_grad_(False)
    assert {name.split(".")[0] for name, p in latch.named_parameters() if p.requires_grad} == {"backbone"}


class Told(LSTMBackbone):
    def encode(self, inputs, lengths=None):
        return {**super().encode(inputs, lengths), "told": inputs["told"]}

    def fuse(self, encodings, lengths=None):
        return super().fuse({k: r for k, r in encodings.items() if k != "told"}, lengths)


def test_an_example_wins_over_attributes():
    inputs = {**batch(SIZES, dtype=torch.float32), "told": torch.randn(3, 2)}
    backbone = Told(SIZES, hidden_size=5)
    latch = TopDownLatch(backbone, "linear", sources={"a": ["told"]}, example_inputs=inputs)
    assert latch.feedback["a"]["told"].in_features == 2
    assert list(latch.masks(inputs)) == ["a"]


class Deep(nn.Module):
    """Six layers over the steps of a text, and an encoding of it."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(9, 4)
        self.layers = nn.ModuleList([nn.Linear(4, 4) for _ in range(6)])
        self.head = nn.Linear(4, 1)

    def forward(self, ids):
        x = self.words(ids)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x.mean(1)).squeeze(-1)


def test_one_encoding_is_the_source_of_every_site():
    sites = {f"h{i}": f"layers.{i}" for i in range(6)}
    latch = TopDownLatch(HookedBackbone(Deep(), {"text": "layers.5"}), "linear", sites=sites, example_inputs={"ids": IDS})
    assert latch.wiring.pairs == {name: ["text"] for name in sites}
    assert set(latch.masks(ids=IDS)) == set(sites)
    perturbed(latch)
    masks = latch.masks(ids=IDS, lengths=LENGTHS)
    for lengths in ({"text": LENGTHS}, {name: LENGTHS for name in ("text", *sites)}):
        for name, mask in latch.masks(ids=IDS, lengths=lengths).items():
            torch.testing.assert_close(mask, masks[name])


def test_a_pooled_encoding_and_a_sequence_share_lengths():
    """Token ids are pooled to (B, d) and audio keeps its time: one tensor of lengths serves both."""

    class Tokens(Toy):
        def encode(self, inputs, lengths):
            words = torch.nn.functional.one_hot(inputs["text"], 9).to(inputs["a"].dtype)[..., :4]
            return {"text": words.mean(1), "a": torch.tanh(self.layers[0](inputs["a"]))}

        def fuse(self, encodings, lengths):
            return encodings["a"].mean((1, 2))

    inputs = {"text": IDS, "a": batch({"a": 4}, dtype=torch.float32)["a"]}
    latch = TopDownLatch(Tokens({"a": 4}, declare=False), "linear", sources={"a": ["text", "a"]}, start="random")
    by_name = {"text": LENGTHS, "a": LENGTHS}
    trace = latch.trace(inputs, by_name)
    assert trace.encodings["text"].shape == (3, 4)
    assert trace.encodings["a"][1, 2:].eq(0).all()
    torch.testing.assert_close(trace.masks["a"], latch.trace(inputs, LENGTHS).masks["a"])
    assert isinstance(Padded(*trace.encodings["a"][:2]), Padded)


# Other cases of the kinds


class Pair(nn.Module):
    """Encodes each step of two modalities; `encoder` may see the inputs before."""

    def __init__(self, encoder=None):
        super().__init__()
        self.layers = nn.ModuleDict({name: nn.Linear(size, 5) for name, size in SIZES.items()})
        self.input_sizes, self.encoding_sizes = dict(SIZES), dict.fromkeys(SIZES, 5)
        self.before = encoder or (lambda inputs: inputs)

    def encode(self, inputs):
        seen = self.before(inputs)
        return {name: layer(seen[name]) for name, layer in self.layers.items()}

    def fuse(self, encodings):
        return sum(r.mean((1, 2)) for r in encodings.values())


def test_an_encoding_is_that_of_its_site_though_the_model_goes_on_in_place():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv1d(4, 4, 1), nn.BatchNorm1d(4)

        def forward(self, x):
            y = self.norm(self.conv(x))
            y += x
            return nn.functional.relu(y, inplace=True).mean((1, 2))

    model = Residual().eval()
    backbone = HookedBackbone(model, {"x": Site("norm", "b d t")})
    latch = TopDownLatch(backbone, "linear", sites={"first": Site("conv", "b d t")}, sources={"first": ["x"]}).eval()
    x = torch.randn(2, 4, 6)
    expected = model.norm(model.conv(x)).transpose(1, 2)
    torch.testing.assert_close(latch.trace(x=x).encodings["x"], expected)


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict, collections.UserDict])
def test_compiled_code_changes_copies_of_inputs_of_any_mapping(kind):
    torch._dynamo.reset()
    latch = TopDownLatch(Pair(lambda inputs: {"a": inputs["a"].mul_(2.0), "b": inputs["b"]}), "linear", start="random")
    eager, compiled = (kind({name: x.clone() for name, x in X.items()}) for _ in range(2))
    expected = latch(eager)
    torch.testing.assert_close(torch.compile(latch, backend="eager")(compiled), expected)
    assert torch.equal(eager["a"], X["a"])
    assert torch.equal(compiled["a"], X["a"])


class Memory:
    """An object with a tensor of a graph, which cannot be copied deeply, in a list."""

    def __init__(self, state):
        self.states = [state * 1.0]


def test_an_object_with_tensors_of_a_graph_is_changed_once_a_call():
    def remember(inputs):
        inputs["memory"].states[0] = inputs["memory"].states[0] + 1.0
        inputs["memory"].states.append(None)
        return inputs

    latch = TopDownLatch(Pair(remember), "linear")
    memory = Memory(torch.zeros(2, requires_grad=True))
    latch({**X, "memory": memory})
    assert memory.states[0].tolist() == [1.0, 1.0]
    assert len(memory.states) == 2


def test_a_generator_cannot_be_read_twice():
    latch = TopDownLatch(Pair(), "linear")
    with pytest.raises(TypeError, match="a generator can be read once, but a latch encodes twice: pass a list"):
        latch({**X, "words": (word for word in "abc")})


def test_a_site_with_a_mask_must_be_reached_again():
    class Remembers(nn.Module):
        """Encodes words once, and reads them from memory afterwards."""

        def __init__(self):
            super().__init__()
            self.words, self.layer, self.memory = nn.Embedding(9, 4), nn.Linear(4, 4), {}

        def encode(self, inputs):
            key = tuple(inputs["ids"].flatten().tolist())
            if key not in self.memory:
                self.memory[key] = self.words(inputs["ids"])
            return {"text": self.layer(self.memory[key])}

        def fuse(self, encodings):
            return encodings["text"].mean((1, 2))

    latch = TopDownLatch(Remembers(), "linear", sites={"text": "words"}, example_inputs={"ids": IDS})
    with pytest.raises(ValueError, match="'text', the output of 'words', was not reached in this call"):
        latch(ids=IDS.flip(0))


class Scripted(nn.Module):
    """An encoder with lengths, in TorchScript."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(3, 5)

    def forward(
        self,
        inputs: dict[str, torch.Tensor],
        lengths: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        r = {"a": self.a(inputs["a"]), "b": self.b(inputs["b"])}
        if lengths is None:
            return r
        valid = (torch.arange(r["a"].shape[1]) < lengths.unsqueeze(1)).unsqueeze(-1).to(r["a"].dtype)
        return {"a": r["a"] * valid, "b": r["b"] * valid}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of TorchScript, about itself
def test_lengths_reach_an_encoder_in_torchscript():
    class Around(nn.Module):
        def __init__(self, encode):
            super().__init__()
            self.encode = encode

        def fuse(self, encodings):
            return sum(r.sum((1, 2)) for r in encodings.values())

    encoder = Scripted()
    inputs = batch(SIZES, dtype=torch.float32)
    latch = TopDownLatch(Around(torch.jit.script(encoder)), "linear", example_inputs=inputs)
    for lengths in (LENGTHS, None):
        torch.testing.assert_close(latch(inputs, lengths), latch.backbone.fuse(encoder(inputs, lengths)))


def test_a_rule_is_checked_when_it_is_set():
    latch = TopDownLatch(Pair(), "linear", combine=lambda masks: masks.mean(0))
    with pytest.raises(ValueError, match="combine= must map masks of 1 to 1"):
        latch.combine = lambda masks: masks.sum(0) * 2.0
    latch.combine = lambda masks: masks.amax(0)
    assert torch.equal(latch(X), latch.backbone.fuse(latch.backbone.encode(X)))
    TopDownLatch(Pair(), "linear", start="random").combine = lambda masks: masks.sum(0) * 2.0


def test_networks_keep_their_source_when_one_is_set_again():
    sizes = {"a": 4, "b": 3, "c": 3}
    latch = TopDownLatch(LSTMBackbone(sizes, hidden_size=5), "linear", start="random").eval()
    inputs = batch(sizes, dtype=torch.float32)
    expected = latch(inputs)
    networks = latch.feedback["a"]
    network = networks.b
    del networks.b
    networks.b = network
    assert torch.equal(latch(inputs), expected)


@pytest.mark.parametrize("samples", [2, 7])
def test_a_model_with_time_first_has_its_inputs_so_too(samples):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.head = nn.Linear(4, 5), nn.LSTM(5, 5), nn.Linear(5, 1)

        def forward(self, x):
            return self.head(self.lstm(self.embed(x))[0].mean(0)).squeeze(-1)

    backbone = HookedBackbone(Recurrent(), {"x": Site("lstm", "t b d")})
    latch = TopDownLatch(backbone, "linear", sites={"x": Site("embed", "t b d")}, start="random")
    latch(x=torch.randn(7, 7, 4))
    x = torch.randn(7, samples, 4)
    mask = latch.masks(x=x)["x"]
    assert mask.shape == (7, samples, 5)
    single = torch.cat([latch.masks(x=x[:, i : i + 1])["x"] for i in range(samples)], 1)
    torch.testing.assert_close(mask, single)


def test_a_mapping_that_cannot_be_made_again_serves_sites():
    class Record(collections.abc.Mapping):
        def __init__(self, ids, *, checked):
            self.ids = ids

        def __getitem__(self, name):
            return {"ids": self.ids}[name]

        def __iter__(self):
            return iter(["ids"])

        def __len__(self):
            return 1

    model = Deep()
    backbone = CallableBackbone(
        model, encode=lambda m, inputs: {"text": m.layers[0](m.words(inputs["ids"]))}, fuse=lambda m, r: m.head(r["text"])
    )
    latch = TopDownLatch(backbone, "linear", sites={"words": "words"}, example_inputs={"ids": IDS})
    assert torch.equal(latch(Record(IDS, checked=True)), latch(ids=IDS))


def test_functions_that_take_no_lengths_have_the_names_of_modalities_alone():
    backbone = CallableBackbone(
        nn.Linear(4, 5), encode=lambda m, inputs: {"a": m(inputs["a"])}, fuse=lambda m, r: r["a"].mean((1, 2))
    )
    latch = TopDownLatch(backbone, "linear", sources={"a": ["a"]})
    inputs = {"a": torch.randn(3, 6, 4), "ids": IDS}
    latch(inputs, {"a": LENGTHS})
    with pytest.raises(ValueError, match=r"lengths name 'ids', but the modalities are \['a'\]"):
        latch(inputs, {"ids": LENGTHS})


def test_time_first_is_named_where_a_site_and_an_encoding_differ():
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.head = nn.Linear(4, 5), nn.LSTM(5, 5), nn.Linear(5, 1)

        def forward(self, x):
            return self.head(self.lstm(self.embed(x).transpose(0, 1))[0].mean(0)).squeeze(-1)

    latch = TopDownLatch(HookedBackbone(TimeFirst(), {"x": "lstm"}), "linear", sites={"x": "embed"})
    with pytest.raises(ValueError, match=r"if time is first, make the model batch_first, or say Site\(path, 't b d'\)"):
        latch(x=torch.zeros(3, 6, 4))


def test_an_example_that_is_no_mapping_is_named():
    with pytest.raises(TypeError, match="inputs must be one mapping, or each input by its name, got Tensor: call latch"):
        TopDownLatch(Pair(), "linear", example_inputs=torch.zeros(2, 5, 4))
