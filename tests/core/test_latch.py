"""What a latch promises, for every kind of feedback: the contract."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from toys import Constant, NoLengths, Toy, Zero, batch, perturbed, sigmoid, small_mult

from topdown import LatchTrace, LSTMFeedback, Padded, PairwiseFeedback, SharedFeedback, TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.sequence import valid_steps

SIZES = {"text": 7, "audio": 4, "visual": 3}
KINDS = ["linear", "lstm", "shared", nn.Linear, lambda a, b: LSTMFeedback(a, b, projection=True)]
BACKBONES = {
    "toy": Toy,
    "lstm": lambda sizes: LSTMBackbone(sizes, hidden_size=5),
    "mult": small_mult,
}
LENGTHS = torch.tensor([6, 2, 4])

every_kind = pytest.mark.parametrize("kind", KINDS, ids=["linear", "lstm", "shared", "nn.Linear", "projected"])
every_backbone = pytest.mark.parametrize("build", BACKBONES.values(), ids=BACKBONES)


every_start = pytest.mark.parametrize("start", ["identity", "random"])


def make(build, kind, *, start="random", **options):
    latch = TopDownLatch(build(SIZES), kind, start=start, **options).double().eval()
    return perturbed(latch) if start == "identity" else latch


@every_backbone
@pytest.mark.parametrize("lengths", [None, LENGTHS])
@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize(("kind", "scale"), [(Constant, 1.0), (Zero, 2.0)], ids=["inf", "zero logits, scale 2"])
def test_a_mask_of_ones_is_the_backbone_bit_for_bit(build, kind, scale, lengths, passes):
    inputs = batch(SIZES)
    for combine in ("mean", "max", "min", "product"):
        latch = make(build, kind, scale=scale, combine=combine, passes=passes)
        assert torch.equal(latch(inputs, lengths), latch.backbone(inputs, lengths))
        assert all((mask == 1).all() for mask in latch.masks(inputs, lengths).values())


@every_backbone
@every_kind
@every_start
def test_disabled_is_the_backbone_bit_for_bit(build, kind, start):
    latch, inputs = make(build, kind, start=start), batch(SIZES)
    masked = latch(inputs, LENGTHS)
    with latch.disabled() as same:
        assert same is latch
        with latch.disabled():
            pass
        assert torch.equal(latch(inputs, LENGTHS), latch.backbone(inputs, LENGTHS))
        assert latch.masks(inputs, LENGTHS) == {}
    assert torch.equal(latch(inputs, LENGTHS), masked)
    assert not torch.allclose(masked, latch.backbone(inputs, LENGTHS))


def test_an_error_within_disabled_turns_the_feedback_on_again():
    latch, inputs = make(Toy, "linear"), batch(SIZES)
    expected = latch(inputs)
    with pytest.raises(KeyError), latch.disabled():
        raise KeyError
    assert torch.equal(latch(inputs), expected)


def test_equation_four_against_a_numpy_loop():
    latch, inputs = make(Toy, "linear"), batch(SIZES)
    encodings = latch.backbone.encode(inputs)
    masks = latch.masks(inputs)
    masked = {}
    for k in SIZES:
        j, i = (other for other in SIZES if other != k)
        f = {}
        for source in (j, i):
            network = latch.feedback[k][source]
            f[source] = sigmoid(
                encodings[source].detach().numpy() @ network.weight.detach().numpy().T + network.bias.detach().numpy()
            )
        masked[k] = np.empty_like(inputs[k].numpy())
        for b, t, d in np.ndindex(*inputs[k].shape):
            mask = (f[j][b, t, d] + f[i][b, t, d]) / 2
            assert abs(mask - masks[k][b, t, d].item()) < 1e-14
            masked[k][b, t, d] = mask * inputs[k][b, t, d].item()
    expected = latch.backbone({k: torch.from_numpy(x) for k, x in masked.items()})
    torch.testing.assert_close(latch(inputs), expected, rtol=0, atol=1e-14)


@every_kind
@every_start
@pytest.mark.parametrize("combine", ["mean", "max", "min", "product", lambda f: f.median(0).values])
def test_masks_are_in_bounds_and_what_trace_says(kind, start, combine):
    latch, inputs = make(Toy, kind, start=start, combine=combine), batch(SIZES)
    trace = latch.trace(inputs, LENGTHS)
    assert isinstance(trace, LatchTrace)
    assert torch.equal(trace.output, latch(inputs, LENGTHS))
    masks = latch.masks(inputs, LENGTHS)
    assert list(masks) == list(SIZES)
    for k, mask in masks.items():
        assert mask.shape == inputs[k].shape
        assert (mask >= 0).all()
        assert (mask <= (1 if start == "random" else 4 if combine == "product" else 2)).all()
        assert torch.equal(mask, trace.masks[k])
        assert set(trace.feedback[k]) == set(SIZES) - {k}
        if combine == "mean":
            torch.testing.assert_close(mask, sum(trace.feedback[k].values()) / 2)
    valid = valid_steps(LENGTHS, 6)
    for k, encoding in latch.backbone.encode(inputs, LENGTHS).items():
        assert torch.equal(trace.encodings[k][valid], encoding[valid])


def test_lstm_masks_have_the_bounds_of_the_public_code():
    masks = make(Toy, "lstm").masks({k: x * 100 for k, x in batch(SIZES).items()})
    assert all(mask.min() > 0.2689 and mask.max() < 0.7311 for mask in masks.values())


@every_backbone
@every_kind
@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_garbage_in_the_padding_changes_nothing(build, kind, garbage):
    latch = make(build, kind, start="identity", encoder_grad=True, passes=2)
    valid = valid_steps(LENGTHS, 6)
    clean = {k: x * valid.unsqueeze(-1) for k, x in batch(SIZES).items()}
    results = []
    for fill in (0.0, garbage):
        inputs = {k: torch.where(valid.unsqueeze(-1), x, fill).requires_grad_() for k, x in clean.items()}
        latch.zero_grad()
        output = latch(inputs, LENGTHS)
        output.square().sum().backward()
        gradients = {name: p.grad for name, p in latch.named_parameters()} | {k: x.grad[valid] for k, x in inputs.items()}
        results.append((output, {k: m[valid] for k, m in latch.masks(inputs, LENGTHS).items()}, gradients))
    (clean_output, clean_masks, clean_gradients), (output, masks, gradients) = results
    assert torch.equal(output, clean_output)
    assert all(torch.equal(masks[k], clean_masks[k]) for k in SIZES)
    assert gradients.keys() == clean_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, clean_gradients[name]), name


@every_backbone
@every_kind
@settings(max_examples=4)
@given(st.permutations(range(4)), st.lists(st.integers(1, 6), min_size=4, max_size=4), st.integers(0, 99))
def test_a_sample_does_not_depend_on_its_company(build, kind, order, lengths, seed):
    lengths = torch.tensor(lengths)
    latch, inputs = make(build, kind, start="identity"), batch(SIZES, batch_size=4, seed=seed)
    trace = latch.trace(inputs, lengths)
    permuted = latch({k: x[order] for k, x in inputs.items()}, lengths[order])
    torch.testing.assert_close(permuted, trace.output[order], rtol=0, atol=1e-12)
    for i, n in enumerate(lengths.tolist()):
        alone = latch.trace({k: x[i : i + 1, :n] for k, x in inputs.items()})
        torch.testing.assert_close(alone.output, trace.output[i : i + 1], rtol=0, atol=1e-12)
        for k, mask in alone.masks.items():
            torch.testing.assert_close(mask[0], trace.masks[k][i, :n], rtol=0, atol=1e-12)


@every_kind
@pytest.mark.parametrize("align", ["interpolate", "pool"])
@settings(max_examples=15)
@given(st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=2, max_size=4), st.integers(0, 99))
def test_unaligned_samples_do_not_depend_on_their_company(kind, align, lengths, seed):
    lengths = dict(zip(SIZES, torch.tensor(lengths).T, strict=True))
    latch = make(Toy, kind, align=align)
    steps = {k: int(n.max()) for k, n in lengths.items()}
    inputs = {k: x[:, : steps[k]] for k, x in batch(SIZES, batch_size=len(lengths["text"]), seed=seed).items()}
    output = latch(inputs, lengths)
    for i in range(len(output)):
        alone = {k: x[i : i + 1, : lengths[k][i]] for k, x in inputs.items()}
        torch.testing.assert_close(latch(alone), output[i : i + 1], rtol=0, atol=1e-12)


def test_another_time_is_an_error_by_default():
    inputs = {**batch(SIZES), "audio": torch.zeros(3, 9, 4, dtype=torch.float64)}
    with pytest.raises(ValueError, match="'audio' has 9 steps but 'text' has 6: pass align='interpolate'"):
        make(Toy, "linear")(inputs)


def test_evaluation_is_deterministic_and_training_drops_masks():
    latch, inputs = make(Toy, "linear", mask_dropout=0.5), batch(SIZES)
    assert torch.equal(latch(inputs), latch(inputs))
    plain = latch.masks(inputs)["text"]
    latch.train()
    dropped = latch.masks(inputs)["text"]
    kept = dropped != 0
    assert 0.2 < kept.double().mean() < 0.8
    torch.testing.assert_close(dropped[kept], 2 * plain[kept])
    assert not torch.equal(latch(inputs), latch(inputs))


@every_kind
@every_start
def test_every_feedback_parameter_gets_a_gradient(kind, start):
    for options in ({}, {"encoder_grad": True}, {"passes": 3}, {"combine": "product"}):
        latch = make(Toy, kind, start=start, **options)
        latch(batch(SIZES), LENGTHS).square().sum().backward()
        for name, p in latch.named_parameters():
            assert p.grad is not None, (name, options)
            assert p.grad.isfinite().all()
            assert p.grad.abs().sum() > 0, (name, options)


@every_kind
def test_without_encoder_grad_encoders_learn_from_the_second_pass_alone(kind):
    inputs = batch(SIZES)
    latch = make(Toy, kind)
    gradients = {}
    for encoder_grad in (False, True):
        latch.encoder_grad = encoder_grad
        latch.zero_grad()
        latch(inputs, LENGTHS).square().sum().backward()
        gradients[encoder_grad] = {name: p.grad.clone() for name, p in latch.named_parameters()}
    masks = {k: mask.detach() for k, mask in latch.masks(inputs, LENGTHS).items()}
    latch.zero_grad()
    latch.backbone({k: inputs[k] * masks[k] for k in SIZES}, LENGTHS).square().sum().backward()
    for name, p in latch.backbone.named_parameters():
        torch.testing.assert_close(gradients[False][f"backbone.{name}"], p.grad, rtol=1e-12, atol=1e-14)
    for name in gradients[True]:
        same = torch.allclose(gradients[False][name], gradients[True][name], rtol=1e-10, atol=1e-14)
        assert same == (not name.startswith("backbone.layers")), name


def test_several_passes_mask_the_raw_inputs_anew():
    latch, inputs = make(Toy, "linear", passes=2), batch(SIZES)
    once = TopDownLatch(latch.backbone, latch.feedback, start="random")
    first = once.masks(inputs)
    second = once.masks({k: inputs[k] * first[k] for k in SIZES})
    for k, mask in latch.masks(inputs).items():
        torch.testing.assert_close(mask, second[k], rtol=0, atol=1e-14)
    torch.testing.assert_close(latch(inputs), latch.backbone({k: inputs[k] * second[k] for k in SIZES}))


@pytest.mark.parametrize("absent", [lambda x: x.pop("audio"), lambda x: x.update(audio=None)], ids=["absent", "None"])
def test_a_missing_modality_drops_out_of_the_mean(absent):
    latch, inputs = make(Toy, "linear"), batch(SIZES)
    full = latch.trace(inputs)
    absent(inputs)
    trace = latch.trace(inputs, dict.fromkeys(SIZES, LENGTHS))
    assert list(trace.masks) == ["text", "visual"]
    torch.testing.assert_close(trace.masks["text"][0], full.feedback["text"]["visual"][0])
    assert list(trace.feedback["visual"]) == ["text"]


def test_a_target_without_sources_is_not_masked():
    latch, inputs = make(Toy, "linear"), batch(SIZES)
    assert latch.masks({"text": inputs["text"]}) == {}
    assert torch.equal(latch({"text": inputs["text"]}), latch.backbone({"text": inputs["text"]}))


def test_sources_may_be_chosen():
    latch = make(Toy, "linear", sources={"text": ["audio"], "visual": ["visual", "text"]})
    assert {k: list(networks) for k, networks in latch.feedback.items()} == {"text": ["audio"], "visual": ["visual", "text"]}
    assert list(latch.masks(batch(SIZES))) == ["text", "visual"]


def test_one_modality_alone_feeds_back_to_itself():
    latch = TopDownLatch(Toy({"ecg": 4}), "linear")
    assert list(latch.feedback["ecg"]) == ["ecg"]
    assert latch.masks(batch({"ecg": 4}, dtype=torch.float32))["ecg"].shape == (3, 6, 4)


@given(
    st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True), st.integers(1, 4), st.sampled_from(["lstm", "shared"])
)
def test_any_names_and_sizes(names, size, kind):
    sizes = {name: size + i for i, name in enumerate(names)}
    latch = TopDownLatch(Toy(sizes), kind)
    inputs = batch(sizes, dtype=torch.float32)
    assert latch(inputs, LENGTHS).shape == (3, 2)
    assert {k: m.shape for k, m in latch.masks(inputs).items()} == {k: x.shape for k, x in inputs.items()}


@every_kind
def test_sequences_vectors_and_pooled_encodings_mix(kind):
    sizes = {"text": 7, "audio": 4, "patient": 3}
    latch = TopDownLatch(Toy(sizes, pooled=["audio"]), kind, start="random").double().eval()
    inputs = batch(sizes)
    inputs["patient"] = inputs["patient"][:, 0]
    trace = latch.trace(inputs, LENGTHS)
    assert {k: m.shape for k, m in trace.masks.items()} == {k: x.shape for k, x in inputs.items()}
    # The pooled audio and the vector mask all steps of text alike.
    assert torch.equal(trace.masks["text"], trace.masks["text"][:, :1].expand(3, 6, 7))
    # A vector takes the average over the valid steps of a sequence.
    logits = latch.feedback(trace.encodings, LENGTHS)["patient"]["text"]
    expected = torch.stack([torch.sigmoid(h[:n]).mean(0) for h, n in zip(logits, LENGTHS, strict=True)])
    torch.testing.assert_close(trace.feedback["patient"]["text"], expected)
    for i, n in enumerate(LENGTHS):
        alone = {k: x[i : i + 1, :n] if x.dim() == 3 else x[i : i + 1] for k, x in inputs.items()}
        torch.testing.assert_close(latch(alone), trace.output[i : i + 1])


@pytest.mark.parametrize("align", ["error", "interpolate", "pool"])
def test_lengths_belong_to_sequences_alone(align):
    class Tokens(Toy):  # a vector becomes a sequence of one step
        def encode(self, inputs, lengths=None):
            encodings = super().encode(inputs, lengths)
            return {k: r.unsqueeze(1) if r.dim() == 2 else r for k, r in encodings.items()}

        def fuse(self, encodings, lengths=None):
            return self.head(sum(r.mean(1) for r in encodings.values()))

    sizes = {"text": 7, "patient": 3}
    inputs = batch(sizes)
    inputs["patient"] = inputs["patient"][:, 0]
    latch = TopDownLatch(Tokens(sizes), Zero, align=align, start="random").double()
    if align == "error":
        with pytest.raises(ValueError, match="'patient' has 1 steps but 'text' has 6"):
            latch.masks(inputs, LENGTHS)
        return
    assert all((mask == 0.5).all() for mask in latch.masks(inputs, LENGTHS).values())


@pytest.mark.parametrize("built", ["first call", "example", "ready"])
def test_a_joint_encoding_has_lengths_where_they_name_it(built):
    class Joint(Toy):
        def encode(self, inputs, lengths=None):
            a = super().encode(inputs, lengths)["a"]
            return {"a": a, "joint": a.flip(1)}

        def fuse(self, encodings, lengths=None):
            return super().fuse({"a": encodings["a"]}, lengths)

    sizes = {"a": 3}
    sources = {"a": ["joint"]}
    inputs = batch(sizes)
    options = {"sources": sources} if built != "ready" else {}
    kind = "linear" if built != "ready" else PairwiseFeedback(nn.Linear, {"joint": 5}, sizes, sources)
    example = {"example_inputs": batch(sizes, dtype=torch.float32)} if built == "example" else {}
    latch = TopDownLatch(Joint(sizes, declare=False), kind, start="random", **options, **example)
    if built == "first call":
        latch({k: x.float() for k, x in inputs.items()})
    latch = latch.double()
    assert latch.masks(inputs, {"a": LENGTHS, "joint": LENGTHS})["a"].shape == (3, 6, 3)
    assert torch.equal(latch.masks(inputs, LENGTHS)["a"], latch.masks(inputs, {"a": LENGTHS, "joint": LENGTHS})["a"])
    # Never guessed from how far the batch is padded.
    with pytest.raises(ValueError, match="lengths have no entry for 'joint', so all its 6 steps count: add it"):
        latch.masks(inputs, {"a": LENGTHS})
    with pytest.raises(ValueError, match=r"lengths name 'jiont', but the modalities are \['joint', 'a'\]"):
        latch.masks(inputs, {"jiont": LENGTHS})


def test_a_vector_pools_by_the_lengths_of_the_source():
    sizes = {"text": 7, "audio": 4, "patient": 3}
    latch = TopDownLatch(Toy(sizes), "linear", align="pool", start="random").double().eval()
    inputs = batch(sizes)
    inputs["patient"] = inputs["patient"][:, 0]
    lengths = {"text": torch.tensor([6, 2, 4]), "audio": torch.tensor([1, 5, 3])}
    trace = latch.trace(inputs, lengths)
    for source, own in lengths.items():
        logits = latch.feedback[("patient")][source](trace.encodings[source])
        expected = torch.stack([torch.sigmoid(h[:n]).mean(0) for h, n in zip(logits, own, strict=True)])
        torch.testing.assert_close(trace.feedback["patient"][source], expected)


def test_networks_see_zeros_at_padded_steps():
    class Sums(nn.Module):  # no lengths, and not step by step
        def __init__(self, source_size, target_size):
            super().__init__()
            self.layer = nn.Linear(source_size, target_size)

        def forward(self, encoding):
            return self.layer(encoding.sum(1))

    class Careless(Toy):
        def encode(self, inputs, lengths=None):
            return super().encode(inputs)

    latch = TopDownLatch(Careless(SIZES), Sums, start="random").double()
    inputs = batch(SIZES)
    changed = {k: torch.where(valid_steps(LENGTHS, 6).unsqueeze(-1), x, 9.0) for k, x in inputs.items()}
    masks, others = latch.masks(inputs, LENGTHS), latch.masks(changed, LENGTHS)
    assert all(torch.equal(masks[k], others[k]) for k in SIZES)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (None, None),
        (LENGTHS, {"text": LENGTHS, "audio": LENGTHS}),
        ({"text": LENGTHS, "audio": LENGTHS}, {"text": LENGTHS, "audio": LENGTHS}),
        ({"text": LENGTHS, "audio": LENGTHS + 0}, {"text": LENGTHS, "audio": LENGTHS}),
        ({"text": LENGTHS}, {"text": LENGTHS}),
    ],
)
def test_a_ready_feedback_gets_the_lengths_of_its_encodings(lengths, expected):
    seen = []

    class Watching(nn.Module):
        def forward(self, encodings, lengths):
            seen.append(lengths)
            return {}

    sizes = {"text": 7, "audio": 4}
    TopDownLatch(Toy(sizes), Watching()).double()(batch(sizes), lengths)
    if isinstance(expected, dict):
        assert {k: n.tolist() for k, n in seen[0].items()} == {k: n.tolist() for k, n in expected.items()}
    else:
        assert seen[0] is expected


def test_a_missing_modality_stays_none_for_the_backbone():
    seen = []

    class Watching(Toy):
        def encode(self, inputs, lengths=None):
            seen.append(dict(inputs))
            return super().encode(inputs, lengths)

    TopDownLatch(Watching(SIZES), "linear").double()({**batch(SIZES), "audio": None})
    assert [list(inputs) for inputs in seen] == [list(SIZES)] * 2
    assert all(inputs["audio"] is None for inputs in seen)


def test_mask_dropout_is_drawn_for_each_step_and_masks_may_exceed_one():
    sizes = {"text": 7, "audio": 4}
    latch = TopDownLatch(Toy(sizes, pooled=["audio"]), Constant, mask_dropout=0.5, start="random").double().train()
    mask = latch.masks(batch(sizes))["text"]
    assert not torch.equal(mask, mask[:, :1].expand_as(mask))
    latch = TopDownLatch(Toy(sizes), Constant, scale=3.0, start="random").double()
    assert (latch.masks(batch(sizes))["text"] == 3).all()


def test_a_backbone_without_lengths_that_returns_a_structure():
    latch = TopDownLatch(NoLengths({"a": 3, "b": 2}), "lstm")
    inputs = batch({"a": 3, "b": 2}, dtype=torch.float32)
    output = latch(inputs, LENGTHS)
    assert output["names"] == ("a", "b")
    assert output["score"].shape == (3,)
    with latch.disabled():
        assert torch.equal(latch(inputs)["score"], latch.backbone.fuse(latch.backbone.encode(inputs))["score"])


def test_a_ready_feedback_module_serves():
    sizes = dict.fromkeys(SIZES, 5)
    sources = {"text": ["audio"]}
    for feedback in (SharedFeedback(sizes, SIZES, sources), PairwiseFeedback(LSTMFeedback, sizes, SIZES, sources)):
        latch = TopDownLatch(Toy(SIZES, declare=False), feedback, start="random").double()
        assert latch.feedback is feedback
        assert list(latch.masks(batch(SIZES))) == ["text"]
    with pytest.raises(ValueError, match="decides on its sources itself"):
        TopDownLatch(Toy(SIZES), feedback, sources=sources)


@pytest.mark.parametrize("start", ["identity", "random"])
def test_a_rule_gets_the_masks_of_its_sources_in_order_however_one_is_absent(start):
    def first(masks):
        return masks[0]

    latch = make(Toy, "linear", start=start, sources={"visual": ["text", "audio"]}, combine=first)
    inputs, present = batch(SIZES), torch.tensor([6, 6, 6])
    lengths = {"text": torch.zeros(3, dtype=torch.int64), "audio": present, "visual": present}
    left_out = latch.masks({**inputs, "text": None})["visual"]
    neutral = torch.full_like(left_out, 1.0 if start == "identity" else 0.5)
    assert torch.equal(left_out, neutral)
    assert torch.equal(latch.masks(inputs, lengths)["visual"], neutral)


def test_each_pass_has_the_lengths_that_its_encodings_came_with():
    class Drops(Toy):
        """Keeps the first steps, fewer in its second call."""

        def encode(self, inputs, lengths=None):
            self.count = getattr(self, "count", 0) + 1
            steps = 4 if self.count == 1 else 3
            audio = super().encode(inputs, lengths)["audio"][:, :steps]
            return {"audio": Padded(audio, torch.tensor([steps, 2, 1])), "text": inputs["text"].new_ones(3, 5)}

        def fuse(self, encodings, lengths=None):
            return encodings["audio"].values.mean(1)

    inputs = batch({"text": 7, "audio": 4})
    latch = TopDownLatch(Drops({"text": 7, "audio": 4}), "linear", sources={"text": ["audio"]}, align="pool", passes=2)
    encodings = latch.double().trace(inputs, LENGTHS).encodings
    assert encodings["audio"].ne(0).any(-1).sum(1).tolist() == [3, 2, 1]


def test_a_block_that_is_entered_twice_ends_with_the_outer_one():
    latch, inputs = make(Toy, "linear"), batch(SIZES)
    block = latch.disabled()
    with block:
        with block:
            pass
        assert latch.masks(inputs) == {}
    assert latch.masks(inputs)
