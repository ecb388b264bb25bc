import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from toys import numpy_lstm

from topdown import SequenceLSTM
from topdown.adapters.inputs import last_valid
from topdown.batch import Batch
from topdown.sequence import reverse_valid, valid_steps, zero_padding


def packed(lstm, x, lengths):
    states, _ = lstm(pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False))
    return pad_packed_sequence(states, batch_first=True, total_length=x.shape[1])[0]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[9, 7, 4, 1], [2, 9, 1, 7], [9, 9, 9, 9]])
def test_equals_packed_torch_lstm_in_values_and_gradients(bidirectional, lengths):
    ours = SequenceLSTM(5, 3, bidirectional=bidirectional).double()
    theirs = nn.LSTM(5, 3, batch_first=True, bidirectional=bidirectional).double()
    theirs.load_state_dict(ours.state_dict())
    lengths = torch.tensor(lengths)
    x = torch.randn(4, 9, 5, dtype=torch.float64, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    weight = torch.randn(4, 9, 6 if bidirectional else 3, dtype=torch.float64)
    a, b = ours(x, lengths), packed(theirs, y, lengths)
    (a * weight).sum().backward()
    (b * weight).sum().backward()
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    torch.testing.assert_close(x.grad, y.grad, rtol=0, atol=1e-12)
    for (name, p), (_, q) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-12, msg=name)


def test_equals_a_numpy_loop():
    lstm = SequenceLSTM(4, 3).double()
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    weights = [p.detach().numpy() for p in (lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0)]
    expected = [numpy_lstm(x[0].numpy(), *weights), numpy_lstm(x[1, :4].numpy(), *weights)]
    output = lstm(x, torch.tensor([6, 4])).detach().numpy()
    np.testing.assert_allclose(output[0], expected[0], atol=1e-12)
    np.testing.assert_allclose(output[1, :4], expected[1], atol=1e-12)
    assert (output[1, 4:] == 0).all()


def test_without_lengths_all_steps_are_valid():
    lstm = SequenceLSTM(4, 3, bidirectional=True).double()
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    torch.testing.assert_close(lstm(x), lstm(x, torch.tensor([6, 6])), rtol=0, atol=0)


@pytest.mark.parametrize("garbage", [1e6, float("nan"), float("inf")])
def test_garbage_in_the_padding_changes_no_output_and_no_gradient(garbage):
    lstm = SequenceLSTM(4, 3, bidirectional=True).double()
    lengths = torch.tensor([6, 2])
    clean = zero_padding(torch.randn(2, 6, 4, dtype=torch.float64), lengths)
    dirty = torch.where(valid_steps(lengths, 6).unsqueeze(-1), clean, garbage)
    outputs, gradients = [], []
    for x in (clean, dirty):
        lstm.zero_grad()
        x = x.clone().requires_grad_()
        output = lstm(x, lengths)
        output.square().sum().backward()
        outputs.append(output)
        gradients.append([x.grad, *(p.grad.clone() for p in lstm.parameters())])
    assert torch.equal(*outputs)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_packed_path_of_cuda_gives_the_same_values():
    lstm = SequenceLSTM(4, 3, bidirectional=True).double()
    x, lengths = torch.randn(3, 6, 4, dtype=torch.float64), torch.tensor([2, 6, 5])
    weights = [getattr(lstm, name) for name in lstm._flat_weights_names]
    torch.testing.assert_close(lstm._packed(x, lengths, weights), lstm(x, lengths), rtol=0, atol=1e-12)
    torch.testing.assert_close(lstm._packed(x, None, weights), lstm(x), rtol=0, atol=1e-12)
    none = torch.tensor([0, 6, 5])
    torch.testing.assert_close(lstm._packed(x, none, weights), lstm(x, none), rtol=0, atol=1e-12)


def test_packed_path_of_cuda_does_not_wait_to_hear_the_order_of_lengths():
    lstm = SequenceLSTM(4, 3, bidirectional=True).to("meta")  # a device without values, of which nothing can be asked
    weights = [getattr(lstm, name) for name in lstm._flat_weights_names]
    states = lstm._packed(torch.empty(3, 5, 4, device="meta"), torch.tensor([2, 5, 3]), weights)
    assert states.shape == (3, 5, 6)
    assert states.is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_equals_cpu():
    lstm = SequenceLSTM(4, 3, bidirectional=True)
    x, lengths = torch.randn(3, 6, 4), torch.tensor([2, 6, 5])
    expected = lstm(x, lengths)
    torch.testing.assert_close(lstm.cuda()(x.cuda(), lengths).cpu(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 0, 4)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(ValueError, match=r"shape \(B, T, 4\) with T > 0, got \(2, "):
        SequenceLSTM(4, 3)(torch.zeros(shape))


@given(st.lists(st.integers(1, 8), min_size=1, max_size=5))
def test_reversing_within_lengths_is_its_own_inverse(lengths):
    x = torch.randn(len(lengths), 8, 2)
    reversed_ = reverse_valid(x, torch.tensor(lengths))
    for row, back, n in zip(x, reversed_, lengths, strict=True):
        assert torch.equal(back[:n], row[:n].flip(0))
        assert torch.equal(back[n:], row[n:])
    assert torch.equal(reverse_valid(reversed_, torch.tensor(lengths)), x)


def test_last_valid_step():
    x = torch.arange(12.0).view(2, 3, 2)
    assert last_valid(x, torch.tensor([1, 3])).tolist() == [[0.0, 1.0], [10.0, 11.0]]
    assert last_valid(x, torch.tensor([1, 3], dtype=torch.uint8)).tolist() == [[0.0, 1.0], [10.0, 11.0]]
    assert last_valid(x, None).tolist() == [[4.0, 5.0], [10.0, 11.0]]
    assert last_valid(x, torch.tensor([0, 2])).tolist() == [[0.0, 0.0], [8.0, 9.0]]


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([3, 2], TypeError, "must be a tensor of integers, got list: use torch.as_tensor"),
        (torch.tensor([3.0, 2.0]), TypeError, r"must be a tensor of integers, got torch.float32: use .*\.long\(\)"),
        (torch.tensor([[True, False]]), TypeError, r"got torch.bool: use .* or mask.sum\(1\)"),
        (torch.tensor([3]), ValueError, r"'audio' have shape \(1,\) for 2 samples"),
        (torch.tensor([3, 6]), ValueError, r"lengths\[1\] of 'audio' is 6, but it has 5 steps: a length must lie in 0..5"),
        (torch.tensor([-1, 5]), ValueError, r"lengths\[0\] of 'audio' is -1"),
    ],
)
def test_wrong_lengths_are_named(lengths, error, message):
    batch = Batch({}, None)
    batch.first = ("text", (2, 5, 4))
    with pytest.raises(error, match=message):
        batch.attach(lengths, "audio", torch.zeros(2, 5, 4), (5,))


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_lengths_of_any_integer_type_serve(dtype):
    lstm = SequenceLSTM(4, 3, bidirectional=True)
    x = torch.randn(2, 5, 4)
    assert torch.equal(lstm(x, torch.tensor([5, 3], dtype=dtype)), lstm(x, torch.tensor([5, 3])))


def test_masks_of_equal_lengths_are_on_the_device_of_their_values():
    lengths, batch = torch.tensor([2, 3]), Batch({}, {"a": torch.tensor([2, 3]), "b": torch.tensor([2, 3])})
    a, b = (batch.with_lengths(k, torch.zeros(2, 4, 1, device=device)) for k, device in (("a", "cpu"), ("b", "meta")))
    assert (a.valid.device.type, b.valid.device.type) == ("cpu", "meta")
    shared = Batch({}, lengths)
    assert shared.with_lengths("a", torch.zeros(2, 4, 1)).valid is shared.with_lengths("b", torch.zeros(2, 4, 2)).valid
    assert shared.with_lengths("c", torch.zeros(2, 4, 1, device="meta")).valid.device.type == "meta"
