"""What adapters do when nobody says otherwise: the values of the papers, and dropout nowhere but where it was asked for."""

import inspect

import pytest
import torch
from torch import nn
from toys import NoLengths

from topdown import TopDownLatch
from topdown.adapters import FiLM, LSTMBackbone, MulTBackbone, WithInputs
from topdown.adapters.attention import CrossAttention, SelfAttention, SymmetricAttention, attend
from topdown.adapters.transformer import Transformer, TransformerLayer

SIZES = {"a": 3, "b": 2}
# LSTMBackbone: Section 3 of MMLatch. MulTBackbone: Table 5 of MulT (Tsai et al., 2019), CMU-MOSEI.
OF_THE_PAPERS = {
    LSTMBackbone: {
        "hidden_size": 100,
        "dropout": 0.2,
        "trimodal_residual": True,
        "fusion_directions": "sum",
        "pooling": "last",
    },
    MulTBackbone: {"size": 40, "num_heads": 8, "num_layers": 4, "causal": True, "embedding_dropout": 0.3, "relu_dropout": 0.1},
}


@pytest.mark.parametrize("adapter", OF_THE_PAPERS)
def test_defaults_are_those_of_the_papers(adapter):
    parameters = inspect.signature(adapter).parameters
    assert {name: parameters[name].default for name in OF_THE_PAPERS[adapter]} == OF_THE_PAPERS[adapter]


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: SelfAttention(4), 1),
        (lambda: CrossAttention(4), 2),
        (lambda: SymmetricAttention(4), 2),
        (lambda: TransformerLayer(4, 2), 1),
        (lambda: Transformer(4, num_heads=2, num_layers=1), 1),
    ],
)
def test_blocks_have_no_dropout_by_default(make, count):
    torch.manual_seed(0)
    block, inputs = make(), [torch.randn(2, 5, 4) for _ in range(count)]
    if isinstance(block, TransformerLayer):
        inputs += [None, None]
    first, second = block.train()(*inputs), block.eval()(*inputs)
    torch.testing.assert_close(first, second, atol=1e-6, rtol=0)


def test_attention_has_no_dropout_by_default():
    query, key, value = torch.randn(3, 2, 5, 4)
    expected = (query @ key.transpose(1, 2)).softmax(-1) @ value
    torch.testing.assert_close(attend(query, key, value, None, scale=1.0), expected, atol=1e-6, rtol=1e-5)


def test_film_is_its_equation():
    torch.manual_seed(0)
    backbone = LSTMBackbone(SIZES, hidden_size=4, dropout=0.0)
    film = FiLM(backbone, backbone.encoding_sizes)
    for parameter in film.maps.parameters():
        nn.init.normal_(parameter)
    inputs = {name: torch.randn(2, 5, size) for name, size in SIZES.items()}
    r, changed = backbone.encode(inputs), film.encode(inputs)
    for k, j in (("a", "b"), ("b", "a")):
        gamma, beta = film.maps[k](r[j].mean(1)).unsqueeze(1).split(4, -1)
        torch.testing.assert_close(changed[k], (1 + gamma) * r[k] + beta, atol=1e-6, rtol=1e-5)


def test_film_reads_nothing_of_a_vector_that_is_absent():
    class Tables(nn.Module):
        def encode(self, inputs):
            return dict(inputs)

        def fuse(self, encodings):
            return encodings

    film = FiLM(Tables(), {"a": 3, "b": 2})
    for parameter in film.maps.parameters():
        nn.init.normal_(parameter)
    inputs, lengths = {"a": torch.randn(2, 3), "b": torch.randn(2, 2)}, {"a": torch.tensor([1, 0]), "b": torch.tensor([1, 1])}
    before = film(inputs, lengths)["b"]
    inputs["a"][1] = torch.nan
    assert torch.equal(film(inputs, lengths)["b"], before)


def test_inputs_stand_beside_the_encodings_by_default():
    backbone = WithInputs(LSTMBackbone(SIZES, hidden_size=4))
    inputs = {name: torch.randn(2, 5, size) for name, size in SIZES.items()}
    assert [*backbone.encode(inputs)] == ["a", "b", "input a", "input b"]
    latch = TopDownLatch(backbone, "linear")
    assert {k: [*latch.feedback[k]] for k in SIZES} == {"a": ["b", "input a", "input b"], "b": ["a", "input a", "input b"]}


def test_sizes_are_declared_only_where_both_are_known():
    half = NoLengths(SIZES)
    half.input_sizes = SIZES
    assert not hasattr(WithInputs(half), "encoding_sizes")


def test_dropout_of_embeddings_is_for_the_first_modality_alone():
    torch.manual_seed(0)
    mult = MulTBackbone(SIZES, size=4, num_heads=2, num_layers=1, embedding_dropout=0.9).train()
    inputs = {name: torch.ones(2, 5, size) for name, size in SIZES.items()}
    torch.testing.assert_close(mult._project("b", inputs["b"], None), mult.eval()._project("b", inputs["b"], None))
    assert not torch.equal(mult.train()._project("a", inputs["a"], None), mult.eval()._project("a", inputs["a"], None))


def test_only_a_vector_gets_the_remedy_for_vectors():
    model = LSTMBackbone(SIZES, hidden_size=4)
    with pytest.raises(ValueError, match=r"shape \(2, 3\).*unsqueeze\(1\)"):
        model({"a": torch.ones(2, 3), "b": torch.ones(2, 5, 2)})
    with pytest.raises(ValueError, match=r"\(2, 5, 4\), but LSTMBackbone takes \(B, T, 3\)$"):
        model({"a": torch.ones(2, 5, 4), "b": torch.ones(2, 5, 2)})
