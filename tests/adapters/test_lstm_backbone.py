import itertools

import pytest
import torch
from toys import batch

from topdown import TopDownLatch
from topdown.adapters import LSTMBackbone
from topdown.adapters.lstm import UnimodalEncoder
from topdown.adapters.reference import LSTM_NAMES, mmlatch_from_reference

MOSEI = {"text": 300, "audio": 74, "visual": 35}
REFERENCE = {"fusion_dropout": 0.1, "trimodal_residual": False, "fusion_directions": "concatenate", "pooling": "attention"}
SETS = ["seq", "static", "none"]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("case", ["sorted", "unsorted", "equal"])
def test_encoder_of_the_public_code_at_valid_steps(golden, case):
    file = golden("mmlatch_encoder")
    encoder = UnimodalEncoder(file.config["input_size"], file.config["projection_size"], dropout=0.2).eval()
    state = {f"lstm.{name}": file[f"weights/E/encoder.rnn.rnn.{name}"] for name in LSTM_NAMES}
    attention = [file[f"weights/E/encoder.attention.{kind}.weight"] for kind in "qkv"]
    encoder.load_state_dict({**state, "attention.projections.weight": torch.cat(attention)})
    lengths = file[f"in/E/{case}/lengths"]
    output, expected = encoder(file[f"in/E/{case}/x"], lengths), file[f"out/E/{case}/out"]
    for i, n in enumerate(lengths):
        torch.testing.assert_close(output[i, :n], expected[i, :n], rtol=0, atol=1e-5)


@pytest.mark.parametrize("case", ["sorted", "unsorted", "equal"])
def test_fusion_lstm_and_pooling_of_the_public_code_over_valid_steps(golden, case):
    file = golden("mmlatch_encoder")
    backbone = LSTMBackbone({"x": 1}, hidden_size=file.config["projection_size"], **REFERENCE).eval()
    backbone.fusion = type(backbone.fusion)(file.config["fuser_input_size"], file.config["projection_size"], bidirectional=True)
    backbone.fusion.load_state_dict({name: file[f"weights/F/rnn.rnn.{name}"] for name in LSTM_NAMES})
    attention = [file[f"weights/F/attention.{kind}.weight"] for kind in "qkv"]
    backbone.pooling.projections.load_state_dict({"weight": torch.cat(attention)})
    lengths, sequence = file[f"in/E/{case}/lengths"], file[f"out/F/{case}/att_seq"]
    backbone._concatenate = lambda encodings, own, valid: file[f"in/F/{case}/x"]
    backbone.head = torch.nn.Identity()
    pooled = backbone.fuse({"x": torch.zeros(*sequence.shape[:2], 8)}, lengths)
    expected = torch.stack([row[:n].sum(0) for row, n in zip(sequence, lengths, strict=True)])
    torch.testing.assert_close(pooled, expected, rtol=0, atol=1e-5)


class TestPublicCode:
    @pytest.fixture
    def file(self, golden):
        return golden("mmlatch_full_collator")

    @pytest.fixture
    def inputs(self, file):
        return {k: file[f"in/collator/{k}"] for k in MOSEI}, file["in/collator/lengths"]

    @pytest.mark.parametrize("which", SETS)
    def test_outputs_masks_and_encodings(self, file, inputs, which):
        model = mmlatch_from_reference(file.under(f"weights/{which}/"))
        expected = file.under(f"out/{which}/collator/")

        def close(ours, name):
            torch.testing.assert_close(ours, expected[name], rtol=0, atol=1e-5)

        close(model(*inputs), "out")
        if which == "none":
            assert isinstance(model, LSTMBackbone)
            for k, encoding in model.encode(*inputs).items():
                close(encoding, f"enc_{k}")
            return
        trace = model.trace(*inputs)
        for k, mask in model.masks(*inputs).items():
            close(mask, f"mask_{k}")
            close(trace.masks[k], f"mask_{k}")
            close(trace.encodings[k], f"stage1_enc_{k}")
        masked = {k: x * trace.masks[k] for k, x in inputs[0].items()}
        for k, encoding in model.backbone.encode(masked, inputs[1]).items():
            close(encoding, f"stage2_enc_{k}")

    @pytest.mark.parametrize(
        ("which", "gradients"),
        [*itertools.product(["seq", "static"], ["grad_full", "grad_stage1nograd"]), ("none", "grad_full")],
    )
    def test_every_gradient(self, file, inputs, which, gradients):
        model = mmlatch_from_reference(file.under(f"weights/{which}/"))
        if which != "none":
            assert model.encoder_grad  # as the public code
            model.encoder_grad = gradients == "grad_full"
        (model(*inputs) - file["in/collator/target"]).abs().mean().backward()
        golden_gradients = file.under(f"out/{which}/collator/{gradients}/")
        golden_gradients.pop("loss", None)
        # Tensors are only rearranged, so the gradients of the public code can be loaded like its weights.
        expected = dict(mmlatch_from_reference(golden_gradients).named_parameters())
        assert expected.keys() == dict(model.named_parameters()).keys()
        for name, p in model.named_parameters():
            torch.testing.assert_close(p.grad, expected[name].data, rtol=0, atol=1e-5, msg=name)

    def test_the_model_has_the_dropouts_of_the_public_code_and_is_in_evaluation_mode(self, file):
        model = mmlatch_from_reference(file.under("weights/seq/"))
        assert not model.training
        assert model.mask_dropout == 0.2
        assert model.feedback["text"]["audio"].dropout.p == 0.1
        assert model.backbone.encoders["text"].dropout.p == 0.2
        assert model.backbone.encoders["text"].attention.dropout == 0.2
        assert model.backbone.dropout.p == 0.1
        assert model.backbone.pairs["text"]["audio"].dropout == 0.1

    def test_unknown_and_missing_keys_are_named(self, file):
        state = file.under("weights/none/")
        with pytest.raises(ValueError, match=r"keys of another configuration of an mmlatch AVTClassifier: \['encoder.gate'\]"):
            mmlatch_from_reference({**state, "encoder.gate": torch.zeros(1)})
        del state["encoder.fuser.att_fuser.tav.k.weight"]
        with pytest.raises(ValueError, match=r"'encoder.fuser.att_fuser.tav.k.weight' is missing"):
            mmlatch_from_reference(state)


def test_parameter_counts_of_the_public_code():
    backbone = LSTMBackbone(MOSEI, **REFERENCE)
    assert count(backbone) == 1_633_801
    assert [count(backbone.encoders[k]) for k in MOSEI] == [351_600, 170_800, 139_600]
    assert count(backbone.pairs) + count(backbone.trimodal) == 210_000
    assert count(backbone.fusion) + count(backbone.pooling) == 761_600
    assert count(backbone.head) == 201
    assert count(TopDownLatch(backbone, "lstm", start="random")) == 2_741_153
    assert count(TopDownLatch(backbone, "linear", start="random")) == 1_716_419


def test_parameter_count_of_the_paper():
    # encoders and attentions as above; fusion 2 * (4H (7H + H) + 8H); head H + 1; no pooling attention
    assert count(LSTMBackbone(MOSEI)) == 351_600 + 170_800 + 139_600 + 210_000 + 2 * (400 * 800 + 800) + 101


def test_equations_of_the_paper_by_hand():
    backbone = LSTMBackbone({"t": 3, "a": 2, "v": 2}, hidden_size=4).double().eval()
    inputs = batch({"t": 3, "a": 2, "v": 2}, batch_size=1, steps=5)
    r = backbone.encode(inputs)

    def attend(queries, source, w_q, w_kv):
        w_k, w_v = w_kv.chunk(2)
        scores = (queries @ w_q.T) @ (source @ w_k.T).transpose(1, 2) / 2  # sqrt(d) = 2
        return scores.softmax(-1) @ (source @ w_v.T) + queries

    def symmetric(k, j):
        pair = backbone.pairs[k][j]
        first, second = pair.first.weight, pair.second.weight
        return attend(r[k], r[j], first[:4], second[4:]) + attend(r[j], r[k], second[:4], first[4:])

    m_ta, m_tv, m_av = symmetric("t", "a"), symmetric("t", "v"), symmetric("a", "v")
    a_avt = attend(m_av, r["t"], backbone.trimodal.query.weight, backbone.trimodal.key_value.weight)
    o = torch.cat([r["t"], r["a"], r["v"], m_ta, m_tv, m_av, a_avt], -1)
    states = torch.nn.LSTM(28, 4, batch_first=True, bidirectional=True).double()
    states.load_state_dict(backbone.fusion.state_dict())
    _, (last, _) = states(o)
    expected = backbone.head(last[0] + last[1])
    torch.testing.assert_close(backbone(inputs), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("option", REFERENCE)
def test_each_option_of_the_public_code_changes_the_model(option):
    inputs = batch(MOSEI, dtype=torch.float32)
    outputs = []
    for options in ({}, {option: REFERENCE[option]}):
        torch.manual_seed(1)
        backbone = LSTMBackbone(MOSEI, hidden_size=8, **options)
        backbone.train(option == "fusion_dropout")
        torch.manual_seed(2)
        outputs.append(backbone(inputs))
    assert not torch.allclose(*outputs)


def test_dropouts_drop():
    backbone = LSTMBackbone({"x": 3}, hidden_size=50, dropout=0.5)
    assert backbone.dropout.p == backbone.encoders["x"].attention.dropout == 0.5  # the fusion follows
    x, seen = torch.randn(2, 4, 3), {}
    backbone.encoders["x"].attention.register_forward_pre_hook(lambda module, arguments: seen.update(states=arguments[0]))
    backbone.head.register_forward_pre_hook(lambda module, arguments: seen.update(last=arguments[0]))
    backbone({"x": x})
    assert 0.3 < (seen["states"] == 0).double().mean() < 0.7
    assert 0.3 < (seen["last"] == 0).double().mean() < 0.7
    pooled = LSTMBackbone({"x": 3}, hidden_size=50, dropout=0.5, pooling="attention")
    pooled.pooling.register_forward_pre_hook(lambda module, arguments: seen.update(pooled=arguments[0]))
    pooled({"x": x})
    assert 0.3 < (seen["pooled"] == 0).double().mean() < 0.7


@pytest.mark.parametrize("dtype", [torch.int16, torch.uint8, torch.int64])
def test_lengths_of_any_integer_type_serve(dtype):
    for options in ({}, {"pooling": "attention"}):
        backbone = LSTMBackbone(MOSEI, hidden_size=4, **options).eval()
        inputs, lengths = batch(MOSEI, dtype=torch.float32), torch.tensor([6, 2, 4])
        assert torch.equal(backbone(inputs, lengths.to(dtype)), backbone(inputs, lengths))


def test_nothing_to_fuse_is_named():
    with pytest.raises(ValueError, match="there is no encoding"):
        LSTMBackbone(MOSEI, hidden_size=4).fuse({})


@pytest.mark.parametrize(("modalities", "terms"), [(1, 1), (2, 3), (3, 7), (4, 10), (5, 15)])
def test_any_number_of_modalities(modalities, terms):
    sizes = {f"m{i}.x": i + 1 for i in range(modalities)}
    backbone = LSTMBackbone(sizes, hidden_size=4, output_size=3)
    assert backbone.fusion.input_size == terms * 4
    assert (backbone.trimodal is not None) == (modalities == 3)
    assert backbone(batch(sizes, dtype=torch.float32), torch.tensor([6, 2, 4])).shape == (3, 3)


@pytest.mark.parametrize("missing", MOSEI)
def test_terms_of_a_missing_modality_are_zero(missing):
    backbone = LSTMBackbone(MOSEI, hidden_size=4).eval()
    inputs = batch(MOSEI, dtype=torch.float32)
    inputs[missing] = None
    encodings = backbone.encode(inputs)
    assert list(encodings) == [k for k in MOSEI if k != missing]
    o = backbone._concatenate(encodings, {}, None).unflatten(-1, (7, 4))
    zero = [(o[:, :, i] == 0).all().item() for i in range(7)]
    terms = [{"text"}, {"audio"}, {"visual"}, {"text", "audio"}, {"text", "visual"}, {"audio", "visual"}, set(MOSEI)]
    assert zero == [missing in term for term in terms]
    del inputs[missing]
    assert torch.equal(backbone(inputs), backbone({**inputs, missing: None}))


def test_garbage_in_the_padding_of_encodings_does_not_reach_the_prediction():
    backbone = LSTMBackbone(MOSEI, hidden_size=4).eval()
    lengths = torch.tensor([6, 2, 4])
    encodings = backbone.encode(batch(MOSEI, dtype=torch.float32), lengths)
    clean = backbone.fuse(encodings, lengths)
    for encoding in encodings.values():
        encoding[1, 2:] = float("nan")
    assert torch.equal(backbone.fuse(encodings, lengths), clean)


@pytest.mark.parametrize(
    ("change", "lengths", "message"),
    [
        (
            {"smell": torch.zeros(3, 6, 2)},
            None,
            r"input 'smell' is not among the modalities \['visual', 'text', 'audio'\]",
        ),
        ({"text": torch.zeros(3, 300)}, None, r"'text' has shape \(3, 300\), but LSTMBackbone takes \(B, T, 300\)"),
        ({"text": torch.zeros(3, 6, 30)}, None, r"'text' has shape \(3, 6, 30\), but LSTMBackbone takes \(B, T, 300\)"),
        (dict.fromkeys(MOSEI), None, "all of .* are absent"),
        (
            {"audio": torch.zeros(3, 7, 74)},
            None,
            "'audio' has 7 steps but 'text' has 6: LSTMBackbone puts modalities side by side",
        ),
        ({}, {"text": torch.tensor([6, 2, 4])}, "'audio' has different lengths than 'text'"),
        ({}, {k: torch.tensor([6, 2, 4 + (k == "visual")]) for k in MOSEI}, "'visual' has different lengths than 'text'"),
        ({}, torch.tensor([6, 2, 9]), r"lengths\[2\] of 'text' is 9"),
    ],
)
def test_wrong_inputs_are_named(change, lengths, message):
    with pytest.raises(ValueError, match=message):
        LSTMBackbone(MOSEI, hidden_size=4)({**batch(MOSEI, dtype=torch.float32), **change}, lengths)


def test_a_mapping_of_equal_lengths_serves():
    backbone = LSTMBackbone(MOSEI, hidden_size=4).eval()
    inputs, lengths = batch(MOSEI, dtype=torch.float32), torch.tensor([6, 2, 4])
    by_name = {k: lengths.clone() for k in MOSEI}
    assert torch.equal(backbone(inputs, by_name), backbone(inputs, lengths))
    assert torch.equal(backbone(inputs, {"audio": torch.tensor([6, 6, 6])}), backbone(inputs))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_sizes": {}}, "input_sizes is empty"),
        ({"pooling": "max"}, "pooling='max' is not known"),
        ({"fusion_directions": "mean"}, "fusion_directions='mean' is not known"),
    ],
)
def test_wrong_options_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LSTMBackbone(**{"input_sizes": MOSEI, **arguments})
