from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from toys import Toy

from topdown import LinearFeedback, LSTMFeedback, PairwiseFeedback, SequenceLSTM, SharedFeedback, TopDownLatch

SOURCES = {"a": ["b"], "b": ["a"]}
SIZES = ({"a": 4, "b": 6}, {"a": 3, "b": 2})


@pytest.mark.parametrize("case", ["sorted", "unsorted", "equal"])
@pytest.mark.parametrize("kind", ["seq", "static"])
def test_public_code(golden, kind, case):
    file = golden("mmlatch_feedback")
    names = dict(zip("xyz", ("text", "audio", "visual"), strict=True))
    sources = {"text": ["audio", "visual"], "audio": ["text", "visual"], "visual": ["text", "audio"]}
    target_sizes = dict(zip(names.values(), file.config["mods"], strict=True))
    network = LSTMFeedback if kind == "seq" else LinearFeedback
    feedback = PairwiseFeedback(network, dict.fromkeys(target_sizes, file.config["hidden_dim"]), target_sizes, sources)
    state = {}
    for unit, (target, pair) in enumerate(sources.items(), start=1):
        for branch, source in enumerate(pair, start=1):
            for key, value in file.under(f"weights/{kind}/f{unit}.mask{branch}.").items():
                state[f"{target}.{source}.{key.replace('rnn.', 'lstm.')}"] = value
    feedback.load_state_dict(state)
    encodings = {names[k]: file[f"in/{case}/hi_{k}"] for k in "xyz"}
    logits = feedback(encodings, file[f"in/{case}/lengths"])
    for unit, (target, pair) in enumerate(sources.items(), start=1):
        for branch, source in enumerate(pair, start=1):
            expected = file[f"out/{kind}/{case}/pre/f{unit}.mask{branch}"]
            torch.testing.assert_close(logits[target][source], expected, rtol=0, atol=1e-5)


@given(st.integers(0, 99), st.floats(0.1, 50))
def test_lstm_masks_stay_within_their_bounds_and_projected_ones_leave_them(seed, size):
    torch.manual_seed(seed)
    x = torch.randn(2, 5, 4) * size
    mask = torch.sigmoid(LSTMFeedback(4, 3)(x))
    assert mask.min() > 0.2689
    assert mask.max() < 0.7311
    projected = LSTMFeedback(4, 3, projection=True)
    with torch.no_grad():
        projected.projection.weight.fill_(0.0)
        projected.projection.bias.copy_(torch.tensor([-9.0, 0.0, 9.0]))
    assert torch.sigmoid(projected(x))[0, 0].tolist() == pytest.approx([0.000123, 0.5, 0.999877], abs=1e-6)


def test_dropout_is_on_the_states_of_the_lstm():
    network = LSTMFeedback(4, 3, projection=True, dropout=0.5)
    with torch.no_grad():
        network.projection.weight.copy_(torch.eye(3))
        network.projection.bias.fill_(7.0)
    x = torch.randn(2, 50, 4)
    states = network.lstm(x)
    ratio = (network(x) - 7.0) / states
    assert {0.0, 2.0} == set(ratio.detach().round(decimals=2).unique().tolist())
    torch.testing.assert_close(network.eval()(x), states + 7.0)


@pytest.mark.parametrize("network", [LinearFeedback, LSTMFeedback, nn.Linear])
def test_a_pooled_encoding_gives_one_mask(network):
    feedback = PairwiseFeedback(network, *SIZES, SOURCES)
    logits = feedback({"a": torch.randn(2, 4), "b": torch.randn(2, 5, 6)}, torch.tensor([5, 3]))
    assert logits["b"]["a"].shape == (2, 2)
    assert logits["a"]["b"].shape == (2, 5, 3)


def test_linear_feedback_is_a_matrix_and_a_bias():
    network = LinearFeedback(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[2.0, -1.0]]))
        network.bias.fill_(0.5)
    assert network(torch.tensor([[[3.0, 4.0]]])).tolist() == [[[2.5]]]


def test_shared_feedback_runs_each_trunk_once():
    sources = {"a": ["b", "c"], "b": ["a", "c"], "c": ["a", "b"]}
    sizes = {"a": 4, "b": 6, "c": 5}
    feedback = SharedFeedback(sizes, sizes, sources)
    calls = []
    for name, lstm in feedback.trunk.items():
        original = lstm.forward
        lstm.forward = lambda *args, name=name, original=original: (calls.append(name), original(*args))[1]
    encodings = {k: torch.randn(2, 3, size) for k, size in sizes.items()}
    logits = feedback(encodings, torch.tensor([3, 2]))
    assert calls == ["b", "c", "a"]
    state = feedback.trunk["c"](encodings["c"], torch.tensor([3, 2]))
    torch.testing.assert_close(logits["a"]["c"], feedback.head["a"]["c"](state))


def test_shared_feedback_may_run_both_ways():
    feedback = SharedFeedback(*SIZES, SOURCES, bidirectional=True)
    encodings = {"a": torch.randn(2, 3, 4), "b": torch.randn(2, 3, 6)}
    both = SequenceLSTM(6, 6, bidirectional=True)
    both.load_state_dict(feedback.trunk["b"].state_dict())
    forward, backward = both(encodings["b"]).chunk(2, -1)
    expected = feedback.head["a"]["b"](forward + backward)
    torch.testing.assert_close(feedback(encodings)["a"]["b"], expected)


@pytest.mark.parametrize("declare", [True, False])
def test_a_latch_takes_a_factory_of_all_networks(declare):
    inputs = {"a": torch.randn(2, 3, 3), "b": torch.randn(2, 3, 2)}
    factory = partial(SharedFeedback, bidirectional=True)
    latch = TopDownLatch(Toy(SIZES[1], declare=declare), factory, sources={"a": ["b"]}, example_inputs=inputs)
    network = latch.feedback.network  # followed by a scale and a shift, since masks begin at 1
    assert [(name, trunk.bidirectional, trunk.input_size) for name, trunk in network.trunk.items()] == [("b", True, 5)]
    assert latch.masks(inputs)["a"].shape == (2, 3, 3)
    assert isinstance(TopDownLatch(Toy(SIZES[1]), SharedFeedback).feedback, SharedFeedback)


def of_all(source_sizes, target_sizes, pairs):
    return SharedFeedback(source_sizes, target_sizes, pairs)


def of_pairs(source_size, target_size, sources=1):
    return nn.Linear(source_size, target_size * sources)


@pytest.mark.parametrize(
    ("factory", "kind"),
    [
        (of_all, SharedFeedback),
        (of_pairs, PairwiseFeedback),
        (partial(of_pairs, sources=1), PairwiseFeedback),
        (partial(PairwiseFeedback, nn.Linear), PairwiseFeedback),
        (lambda *sizes: nn.Linear(*sizes), PairwiseFeedback),
        (lambda s, t, names, bias=True: SharedFeedback(s, t, names), SharedFeedback),
    ],
)
def test_a_factory_of_all_is_known_by_the_three_arguments_that_it_needs(factory, kind):
    latch = TopDownLatch(Toy(SIZES[1]), factory, start="random")
    assert type(latch.feedback) is kind
    assert type(TopDownLatch(Toy(SIZES[1]), factory).feedback.network) is kind
    assert set(latch.masks({"a": torch.randn(2, 3, 3), "b": torch.randn(2, 3, 2)})) == {"a", "b"}


def test_a_factory_that_makes_no_module_is_named():
    with pytest.raises(TypeError, match="the factory of the feedback returned a dict: it must return a module"):
        TopDownLatch(Toy(SIZES[1]), lambda source_sizes, target_sizes, sources: {})


class Astray(nn.Module):
    """Returns logits for names that are not there."""

    def __init__(self, target, source):
        super().__init__()
        self.target, self.source, self.layer = target, source, nn.Linear(5, 3)

    def forward(self, encodings):
        return {self.target: {self.source: self.layer(encodings["b"])}}


@pytest.mark.parametrize("start", ["random", "identity"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("A", "b"), r"Astray returned logits from 'b' to 'A': 'A' is not among the targets \['b', 'a'\]"),
        (("a", "bb"), r"Astray returned logits from 'bb' to 'a': 'bb' is not among the sources \['b'\]"),
    ],
)
def test_names_that_feedback_was_not_built_for_are_named(start, names, message):
    latch = TopDownLatch(Toy(SIZES[1]), lambda source_sizes, target_sizes, sources: Astray(*names), start=start)
    with pytest.raises(ValueError, match=message):
        latch({"a": torch.randn(2, 3, 3), "b": torch.randn(2, 3, 2)})


def test_sources_that_feed_nobody_have_no_trunk():
    feedback = SharedFeedback(*SIZES, {"a": ["b"]})
    assert list(feedback.trunk) == ["b"]
    assert list(feedback({"a": torch.zeros(1, 2, 4), "b": torch.zeros(1, 2, 6)})) == ["a"]


@pytest.mark.parametrize("feedback", [PairwiseFeedback(LSTMFeedback, *SIZES, SOURCES), SharedFeedback(*SIZES, SOURCES)])
def test_absent_sources_are_left_out(feedback):
    logits = feedback({"a": torch.zeros(1, 2, 4)})
    assert logits["a"] == {}
    assert list(logits["b"]) == ["a"]


def test_networks_may_take_lengths_by_name():
    class Counts(nn.Module):
        def __init__(self, source_size, target_size):
            super().__init__()
            self.size = target_size

        def forward(self, encoding, lengths=None):
            return lengths.view(-1, 1, 1).expand(-1, encoding.shape[1], self.size).float()

    feedback = PairwiseFeedback(Counts, *SIZES, SOURCES)
    encodings = {"a": torch.zeros(2, 3, 4), "b": torch.zeros(2, 3, 6)}
    lengths = {"a": torch.tensor([1, 2]), "b": torch.tensor([3, 1])}
    assert feedback(encodings, lengths)["a"]["b"][:, 0, 0].tolist() == [3, 1]


def test_logits_that_are_no_tensor_are_named():
    latch = TopDownLatch(Toy({"a": 3, "b": 2}), nn.LSTM)
    with pytest.raises(TypeError, match="the feedback from 'b' to 'a' must be a tensor of logits, got tuple"):
        latch({"a": torch.zeros(1, 2, 3), "b": torch.zeros(1, 2, 2)})


@pytest.mark.parametrize("start", ["identity", "random"])
def test_logits_of_a_pair_that_feedback_was_not_built_for_are_named(start):
    class Itself(PairwiseFeedback):
        def forward(self, encodings, lengths=None):
            return {"a": {"a": super().forward(encodings, lengths)["a"]["b"]}}

    def factory(source_sizes, target_sizes, sources):
        return Itself(LinearFeedback, source_sizes, target_sizes, sources)

    latch = TopDownLatch(Toy({"a": 3, "b": 3}), factory, start=start)
    with pytest.raises(ValueError, match=r"returned logits from 'a' to 'a': 'a' is not among the sources \['b'\]"):
        latch({"a": torch.zeros(2, 4, 3), "b": torch.zeros(2, 4, 3)})


def test_a_network_that_changes_the_number_of_steps_is_named():
    class Halves(nn.Linear):
        def forward(self, encoding):
            return super().forward(encoding[:, ::2])

    latch = TopDownLatch(Toy({"a": 3, "b": 3}), Halves, align="interpolate", start="random")
    with pytest.raises(ValueError, match=r"from 'b' returned logits of shape \(2, 2, 3\) for 'a' .*, the steps as encoded"):
        latch({"a": torch.zeros(2, 4, 3), "b": torch.zeros(2, 4, 3)})


def test_lengths_of_a_target_without_an_encoding_may_come_with_the_first_call():
    class Told(nn.Module):
        def encode(self, inputs):
            return {"text": inputs["text"], "seen": inputs["visual"].mean(1)}

        def fuse(self, encodings):
            return encodings["seen"].sum(1)

    inputs = {"text": torch.randn(2, 4, 3), "visual": torch.randn(2, 4, 2)}
    lengths = torch.tensor([4, 2])
    latch = TopDownLatch(Told(), "linear", sources={"visual": ["text"]})
    first = latch(inputs, {"visual": lengths, "text": lengths})
    assert torch.equal(latch(inputs, {"visual": lengths, "text": lengths}), first)
