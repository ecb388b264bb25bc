import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topdown.adapters.attention import attend
from topdown.adapters.dropout import Dropout, dropout


@given(st.floats(0.01, 0.99), st.integers(0, 2**16))
def test_as_many_elements_stay_as_should(probability, seed):
    torch.manual_seed(seed)
    count = 40_000
    kept = dropout(torch.ones(count), probability)
    rounded = round(probability * 2**16) / 2**16
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rounded)).item()}
    expected, deviation = count * (1 - probability), (count * probability * (1 - probability)) ** 0.5
    assert abs(int((kept != 0).sum()) - expected) < 6 * deviation + 1


def test_elements_are_independent_of_their_neighbours():
    # Four elements come from one draw: no bit of one may tell about another.
    kept = (dropout(torch.ones(400_000), 0.3) != 0).double().view(-1, 8)
    correlation = torch.corrcoef(kept.T) - torch.eye(8)
    assert correlation.abs().max() < 6 / 50_000**0.5


def test_gradients_pass_where_values_stay():
    values = torch.randn(7, 5, 3, dtype=torch.float64, requires_grad=True)
    output = dropout(values.transpose(0, 2), 0.4)
    output.sum().backward()
    scale = (output / values.transpose(0, 2)).detach()
    torch.testing.assert_close(values.grad, scale.transpose(0, 2))
    assert {round(x, 4) for x in scale.unique().tolist()} == {0.0, round(2**16 / (2**16 - round(0.4 * 2**16)), 4)}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 0), (5, 7)])
def test_any_shape_and_type(dtype, shape):
    output = dropout(torch.ones(shape, dtype=dtype), 0.5)
    assert (output.dtype, output.shape) == (dtype, shape)
    assert ((output == 0) | (output == 2)).all()


def test_all_or_nothing():
    values = torch.tensor([1.0, torch.inf, -2.0])
    assert dropout(values, 0.0) is values
    assert dropout(values, 0.5, training=False) is values
    assert dropout(values[::2], 1.0).eq(0).all()
    assert torch.equal(dropout(values, 1e-9), values)
    assert Dropout(0.5).eval()(values) is values
    assert isinstance(Dropout(0.5), torch.nn.Dropout)


def test_seeds_give_the_same_elements():
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(dropout(torch.ones(64), 0.5))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_attention_drops_weights_and_not_values():
    torch.manual_seed(0)
    query, key, value = torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.eye(5).expand(2, 5, 5)
    lengths = torch.tensor([5, 2])
    plain = attend(query, key, value, lengths, scale=0.5)
    outputs = torch.stack([attend(query, key, value, lengths, scale=0.5, probability=0.3) for _ in range(2000)])
    kept = outputs[:, plain > 0]
    scaled = kept[0][kept[0] > 0] / plain[plain > 0][kept[0] > 0]
    torch.testing.assert_close(scaled, torch.full_like(scaled, 2**16 / (2**16 - round(0.3 * 2**16))))
    assert outputs[:, plain == 0].eq(0).all()
    torch.testing.assert_close(outputs.mean(0), plain, atol=0.05, rtol=0)
