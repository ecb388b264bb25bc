from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import batch, softmax

from topdown import TopDownLatch
from topdown.adapters import MulTBackbone, transformer
from topdown.adapters.reference import mult_from_reference
from topdown.adapters.transformer import MultiheadAttention, Transformer, attention_mask, sinusoids
from topdown.sequence import valid_steps

MOSEI = {"text": 300, "audio": 74, "visual": 35}
SIZES = {"text": 6, "audio": 4, "visual": 3}
# 2.4 MB of weights: too large to be kept here.
GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "mult_full.npz"


def make(sizes=SIZES, **options):
    return MulTBackbone(sizes, **{"size": 8, "num_heads": 2, "num_layers": 2, **options}).double().eval()


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs the golden file of MulT")
@pytest.mark.parametrize("case", ["aligned", "unaligned", "unaligned_long_text"])
@pytest.mark.parametrize("causal", [True, False])
def test_public_code(case, causal):
    with np.load(GOLDEN) as file:
        prefix = "weights/w/"
        state = {key[len(prefix) :]: torch.from_numpy(file[key]) for key in file if key.startswith(prefix)}
        inputs = {k: torch.from_numpy(file[f"in/{case}/x_{k[0] if k != 'text' else 'l'}"]) for k in SIZES}
        expected = {
            key: torch.from_numpy(file[f"out/{case}/mask{int(causal)}/{key}"])
            for key in ("output", "last_hs", "h_ls", "h_as", "h_vs")
        }
    model = mult_from_reference(state, num_heads=5, causal=causal)
    assert not model.training

    def close(ours, theirs):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)

    encodings = model.encode(inputs)
    close(model(inputs), expected["output"])
    close(model.last_states(encodings), expected["last_hs"])
    for k, key in (("text", "h_ls"), ("audio", "h_as"), ("visual", "h_vs")):
        close(encodings[k].transpose(0, 1), expected[key])
    # With full lengths nothing changes.
    close(model(inputs, {k: torch.full((3,), x.shape[1]) for k, x in inputs.items()}), expected["output"])


@pytest.mark.skipif(not GOLDEN.exists(), reason="needs the golden file of MulT")
def test_a_modality_as_wide_as_the_model_is_not_projected():
    with np.load(GOLDEN) as file:
        prefix = "weights/w/"
        state = {key[len(prefix) :]: torch.from_numpy(file[key]) for key in file if key.startswith(prefix)}
    state["proj_a.weight"] = torch.randn(30, 30, 1)  # there, and never used
    model = mult_from_reference(state, num_heads=5, causal=True)
    x = torch.randn(2, 4, 30)
    assert torch.equal(model.projections["audio"](x.transpose(1, 2)).transpose(1, 2), x)


def test_positions_are_as_exact_as_the_model():
    positions = sinusoids(500, 40, dtype=torch.float64)
    angles = np.arange(1, 501)[:, None] * 10000.0 ** (-np.arange(20) / 19)
    np.testing.assert_allclose(positions, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-12)


def test_unknown_and_missing_keys_are_named():
    with pytest.raises(ValueError, match=r"not the state dict of a MulT MULTModel: 'proj_l.weight' is missing"):
        mult_from_reference({"out_layer.weight": torch.zeros(1, 180)}, num_heads=5, causal=True)


@pytest.mark.parametrize(
    ("size", "layers", "heads", "kernels", "parameters"),
    [
        (30, 5, 5, 1, 1_073_731),
        (30, 4, 10, 1, 874_651),
        (40, 4, 8, 1, 1_540_601),
        (40, 5, 10, 1, 1_892_441),
        (40, 4, 8, None, 1_540_601 + 2 * 40 * (74 + 35)),
        (40, 4, 8, 3, 1_540_601 + 2 * 40 * (74 + 35 + 300)),
    ],
)
def test_parameter_counts_of_the_public_code(size, layers, heads, kernels, parameters):
    backbone = MulTBackbone(MOSEI, size=size, num_layers=layers, num_heads=heads, kernel_sizes=kernels)
    assert count(backbone) == parameters


def numpy_layer_norm(x, norm):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * norm.weight.detach().numpy() + norm.bias.detach().numpy()


def numpy_linear(x, layer):
    return x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()


def numpy_transformer(transformer, x, source, allowed):
    """The equations of MulT's encoder for one sequence (T, D), in plain loops over layers and heads."""
    size = x.shape[-1]

    def embed(u):
        half = size // 2
        rates = 10000.0 ** (-np.arange(half) / (half - 1))
        angles = np.arange(1, len(u) + 1)[:, None] * rates
        return np.sqrt(size) * u + np.concatenate([np.sin(angles), np.cos(angles)], 1)

    x, s = embed(x), None if source is None else embed(source)
    for layer in transformer.layers:
        queries = numpy_layer_norm(x, layer.attention_norm)
        keys = queries if s is None else numpy_layer_norm(s, layer.attention_norm)
        names = ("query", "key_value") if layer.attention.cross else ("query_key_value",)
        parts = [getattr(layer.attention, name) for name in names]
        weight, bias = (np.concatenate([getattr(part, kind).detach().numpy() for part in parts]) for kind in ("weight", "bias"))
        q, k, v = (
            y @ weight[i * size : (i + 1) * size].T + bias[i * size : (i + 1) * size]
            for i, y in enumerate((queries, keys, keys))
        )
        heads, width = [], size // layer.attention.num_heads
        for h in range(layer.attention.num_heads):
            part = slice(h * width, (h + 1) * width)
            scores = np.where(allowed, q[:, part] @ k[:, part].T / np.sqrt(width), -np.inf)
            heads.append(softmax(scores) @ v[:, part])
        x = x + numpy_linear(np.concatenate(heads, -1), layer.attention.output)
        hidden = np.maximum(numpy_linear(numpy_layer_norm(x, layer.feedforward_norm), layer.expand), 0)
        x = x + numpy_linear(hidden, layer.contract)
    return numpy_layer_norm(x, transformer.norm)


@pytest.mark.parametrize(("steps", "keys"), [(5, 5), (4, 7), (7, 3)])
@pytest.mark.parametrize("causal", [True, False])
def test_transformer_against_numpy(steps, keys, causal):
    transformer, within = Transformer(8, 2, 2, cross=True).double(), Transformer(8, 2, 2).double()
    for p in (*transformer.parameters(), *within.parameters()):
        torch.nn.init.normal_(p, std=0.3)
    x, source = torch.randn(steps, 8).double(), torch.randn(keys, 8).double()
    allowed = np.array([[not causal or j < i + 1 + abs(keys - steps) for j in range(keys)] for i in range(steps)])
    mask = attention_mask((steps, keys), (None, None), causal=causal, device=x.device)
    result = transformer(x[None], source[None], mask)[0].detach().numpy()
    np.testing.assert_allclose(result, numpy_transformer(transformer, x.numpy(), source.numpy(), allowed), atol=1e-6)
    allowed = np.array([[not causal or j <= i for j in range(steps)] for i in range(steps)])
    mask = attention_mask((steps, steps), (None, None), causal=causal, device=x.device)
    result = within(x[None], None, mask)[0].detach().numpy()
    np.testing.assert_allclose(result, numpy_transformer(within, x.numpy(), None, allowed), atol=1e-6)


def test_prediction_by_hand():
    backbone = make()
    inputs = batch(SIZES)
    h = torch.cat([encoding[:, -1] for encoding in backbone.encode(inputs).values()], -1)
    expected = backbone.head(h + backbone.contract(torch.relu(backbone.expand(h))))
    torch.testing.assert_close(backbone(inputs), expected, rtol=0, atol=1e-14)


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4), st.booleans())
def test_mask_of_ragged_sequences(pairs, causal):
    queries, keys = (torch.tensor(column) for column in zip(*pairs, strict=True))
    mask = attention_mask((6, 6), (queries, keys), causal=causal, device=torch.device("cpu"))
    for b, (m, n) in enumerate(pairs):
        for i in range(m):
            expected = [j < n and (not causal or j < i + 1 + abs(m - n)) for j in range(6)]
            assert mask.expand(-1, -1, 6, -1)[b, 0, i].tolist() == expected
    assert mask.any(-1).all()  # every query, padded or not, sees something


@pytest.mark.parametrize("align", ["interpolate", "pool"])
@pytest.mark.parametrize("kind", [None, "lstm", "shared"])
@settings(max_examples=10)
@given(lengths=st.lists(st.tuples(*[st.integers(1, 6)] * 3), min_size=2, max_size=3), seed=st.integers(0, 99))
def test_a_sample_depends_neither_on_padding_nor_on_its_company(align, kind, lengths, seed):
    lengths = dict(zip(SIZES, torch.tensor(lengths).T, strict=True))
    model = make(kernel_sizes=5)
    if kind is not None:
        model = TopDownLatch(model, kind, align=align).double().eval()
    inputs = batch(SIZES, batch_size=len(lengths["text"]), seed=seed)
    for k, x in inputs.items():
        x[~valid_steps(lengths[k], 6)] = float("nan")
    output = model(inputs, lengths)
    for i in range(len(output)):
        alone = {k: x[i : i + 1, : lengths[k][i]] for k, x in inputs.items()}
        torch.testing.assert_close(model(alone), output[i : i + 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_garbage_in_the_padding_changes_no_gradient(garbage):
    lengths = torch.tensor([6, 2, 4])
    latch = TopDownLatch(make(), "linear", encoder_grad=True).double()
    gradients = []
    for fill in (0.0, garbage):
        inputs = {k: torch.where(valid_steps(lengths, 6).unsqueeze(-1), x, fill) for k, x in batch(SIZES).items()}
        latch.zero_grad()
        latch(inputs, lengths).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in latch.named_parameters()})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_causal_attention_does_not_see_the_future():
    inputs = batch(SIZES)
    changed = {k: x.clone() for k, x in inputs.items()}
    for x in changed.values():
        x[:, 4:] += 1
    for causal in (True, False):
        backbone = make(causal=causal, kernel_sizes=1)
        first, second = backbone.encode(inputs), backbone.encode(changed)
        assert all(torch.equal(first[k][:, :4], second[k][:, :4]) == causal for k in SIZES)


@pytest.mark.parametrize("modalities", [2, 3, 4])
def test_any_number_of_modalities_with_any_names(modalities):
    sizes = {f"m{i}.x": i + 2 for i in range(modalities)}
    backbone = make(sizes, output_size=3)
    inputs = batch(sizes)
    encodings = backbone.encode(inputs)
    assert {k: r.shape for k, r in encodings.items()} == dict.fromkeys(sizes, (3, 6, (modalities - 1) * 8))
    assert backbone.encoding_sizes == {k: r.shape[-1] for k, r in encodings.items()}
    assert backbone(inputs).shape == (3, 3)


@pytest.mark.parametrize("missing", SIZES)
def test_what_needs_a_missing_modality_is_zero(missing):
    backbone, inputs = make(), batch(SIZES)
    inputs[missing] = None
    encodings = backbone.encode(inputs)
    assert list(encodings) == [k for k in SIZES if k != missing]
    last = backbone.last_states(encodings).unflatten(-1, (3, 16))
    assert [(last[:, i] == 0).all().item() for i in range(3)] == [k == missing for k in SIZES]
    del inputs[missing]
    assert torch.equal(backbone(inputs), backbone({**inputs, missing: None}))


def test_every_parameter_gets_a_gradient():
    latch = TopDownLatch(make(), "shared", align="interpolate", start="random").double()
    latch(batch(SIZES), torch.tensor([6, 2, 4])).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in latch.parameters())


@pytest.mark.parametrize("dropout_on", ["keys", "weights"])
def test_attention_dropout_keeps_the_mean_and_says_what_it_drops(dropout_on):
    attention = MultiheadAttention(4, 2, dropout=0.5, dropout_on=dropout_on, cross=True)
    with torch.no_grad():
        attention.query.weight.zero_()  # all keys alike: weights of 1/6
        attention.output.weight.copy_(torch.eye(4))
    queries, keys = torch.randn(400, 5, 4), torch.randn(1, 6, 4).expand(400, 6, 4)
    expected = attention.eval()(queries, keys, None)[0]
    dropped = attention.train()(queries, keys, None)
    torch.testing.assert_close(dropped.mean(0), expected, rtol=0, atol=0.1)
    assert dropped.std(0).min() > 0.01
    # Dropped keys are the same for all queries; dropped weights are not.
    assert torch.allclose(dropped[:, :1], dropped, atol=1e-6) == (dropout_on == "keys")


def test_dropouts_of_the_paper_and_of_the_public_code():
    backbone = MulTBackbone(MOSEI)
    assert [backbone.crossmodal[k][j].layers[0].attention.dropout for k, j in (("audio", "text"), ("text", "audio"))] == [
        0.1,
        0,
    ]
    assert backbone.memory["visual"].layers[0].attention.dropout == 0.1
    assert backbone.embedding_dropout.p == backbone.memory["text"].embedding_dropout.p == 0.3
    assert backbone.output_dropout.p == 0.1
    own = MulTBackbone(MOSEI, attention_dropout={"visual": 0.2}, kernel_sizes={"audio": 5})
    assert own.crossmodal["text"]["visual"].layers[0].attention.dropout == 0.2
    assert own.memory["text"].layers[0].attention.dropout == 0
    assert [own.projections[k].kernel_size for k in MOSEI] == [(3,), (5,), (3,)]


def test_odd_sizes_have_positions():
    assert sinusoids(3, 5).shape == (3, 5)
    assert (sinusoids(3, 5)[:, 4] == 0).all()
    np.testing.assert_allclose(sinusoids(3, 2), [[np.sin(n), np.cos(n)] for n in (1, 2, 3)], atol=1e-7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {"text": 3}}, r"needs at least two of them, got \['text'\]"),
        ({"num_heads": 3}, "num_heads=3 does not divide size=8"),
        ({"num_heads": 0}, "num_heads=0 of MulTBackbone must be at least 1"),
        ({"num_layers": -1}, "num_layers=-1 of MulTBackbone must be at least 1"),
        ({"kernel_sizes": 1.5}, "the kernel of 'text' is 1.5: it must be odd"),
        ({"kernel_sizes": 2}, "the kernel of 'text' is 2: it must be odd"),
        ({"kernel_sizes": {"smell": 3}}, r"kernel_sizes names \['smell'\], but the modalities are"),
        ({"attention_dropout": {"smell": 0.3}}, r"attention_dropout names \['smell'\]"),
        ({"dropout_on": "heads"}, "dropout_on='heads' is not known"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("change", "lengths", "message"),
    [
        ({"smell": torch.zeros(3, 6, 2)}, None, r"input 'smell' is not among the modalities"),
        ({"text": torch.zeros(3, 6)}, None, r"'text' has shape \(3, 6\), but MulTBackbone takes \(B, T, 6\)"),
        ({"audio": torch.zeros(2, 6, 4).double()}, None, "'audio' has 2 samples but 'text' has 3"),
        ({"audio": torch.zeros(3, 0, 4).double()}, None, "'audio' has no steps: leave it out"),
        ({}, {"txt": torch.tensor([6, 2, 4])}, r"lengths name 'txt', but the modalities are \['text'"),
        (dict.fromkeys(SIZES), None, "all of .* are absent"),
        ({}, {"audio": torch.tensor([6, 2, 9])}, r"lengths\[2\] of 'audio' is 9"),
    ],
)
def test_wrong_inputs_are_named(change, lengths, message):
    with pytest.raises(ValueError, match=message):
        make()({**batch(SIZES), **change}, lengths)


@pytest.mark.parametrize("probability", [0.0, 0.5])
@pytest.mark.parametrize("mask", [None, "causal", "lengths"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_short_attention_equals_fused_attention(monkeypatch, mask, dtype, probability):
    steps, keys = 5, 9
    lengths = (torch.tensor([5, 2, 3]), torch.tensor([9, 1, 4])) if mask == "lengths" else (None, None)
    device = torch.device("cpu")
    allowed = None if mask is None else transformer.attention_mask((steps, keys), lengths, causal=True, device=device)
    results = {}
    for small in (0, transformer.SMALL):
        monkeypatch.setattr(transformer, "SMALL", small)
        torch.manual_seed(1)
        query, key, value = (torch.randn(3, 2, n, 4, dtype=dtype, requires_grad=True) for n in (steps, keys, keys))
        torch.manual_seed(2)
        bias = None if allowed is None else transformer.attention_bias(allowed, dtype)
        output = transformer.attend(query, key, value, bias, probability)
        output.float().square().sum().backward()
        results[small] = [output, query.grad, key.grad, value.grad]
    if probability:  # other random numbers: the mean over many is the same
        assert not torch.equal(*(results[small][0] for small in results))
        return
    tolerance = 1e-12 if dtype == torch.float64 else 0.05
    for ours, fused in zip(*results.values(), strict=True):
        torch.testing.assert_close(ours, fused, rtol=tolerance, atol=tolerance)
        assert ours.dtype == dtype


def test_weights_of_short_attention_are_dropped_as_often_as_asked_for():
    value = torch.ones(1, 1, 50, 1)
    query, key = torch.zeros(1, 1, 50, 1), torch.zeros(1, 1, 50, 1)
    torch.manual_seed(0)
    outputs = transformer.attend(query, key, value, None, 0.3)
    assert float(outputs.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(outputs.std()) == pytest.approx((0.3 / 0.7 / 50) ** 0.5, rel=0.4)


def test_the_layers_of_all_pairs_of_the_same_steps_share_one_mask():
    """Each keeps what it was given until its backward pass: with ten thousand steps a copy of each layer is gigabytes."""
    model = make(causal=True).train()
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, MultiheadAttention):
            module.register_forward_pre_hook(lambda _, given, name=name: seen.__setitem__(name, given[2]))
    model({k: torch.randn(2, 6 if k == "text" else 9, size, dtype=torch.float64) for k, size in SIZES.items()})
    shapes = {}
    for bias in seen.values():
        shapes.setdefault(tuple(bias.shape[-2:]), set()).add(bias.data_ptr())
    assert {shape: len(places) for shape, places in shapes.items()} == {(6, 9): 1, (6, 6): 1, (9, 6): 1, (9, 9): 1}
    assert len(seen) > 4 * 2
