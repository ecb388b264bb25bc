import numpy as np
import pytest
import torch
from toys import softmax

from topdown.adapters.attention import CrossAttention, SelfAttention, SymmetricAttention, stacked_linear

LENGTHS = torch.tensor([6, 3, 1])  # of the key masks in the golden file


def stack(file, where, kinds):
    return {"weight": torch.cat([file[f"weights/{where}/{kind}.weight"] for kind in kinds])}


def close(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("which", ["A", "R"])
def test_attention_of_the_public_code(golden, which):
    file = golden("mmlatch_attention")
    assert file.config["lengths"] == LENGTHS.tolist()
    sizes = file.config[which]
    attention = SelfAttention(sizes["input_size"], sizes["attention_size"])
    attention.projections.load_state_dict(stack(file, which, "qkv"))
    x, queries = file[f"in/{which}/x"], file[f"in/{which}/queries"]
    close(attention(x), file[f"out/{which}/self_nomask/out"])
    close(attention(x, LENGTHS), file[f"out/{which}/self_mask/out"])
    if sizes["input_size"] == sizes["attention_size"]:
        across = CrossAttention(sizes["input_size"])
        across.query.load_state_dict(stack(file, which, "q"))
        across.key_value.load_state_dict(stack(file, which, "kv"))
        close(across(queries, x), file[f"out/{which}/query_nomask/out"])
        close(across(queries, x, LENGTHS), file[f"out/{which}/query_mask/out"])


def test_symmetric_attention_of_the_public_code(golden):
    file = golden("mmlatch_attention")
    attention = SymmetricAttention(file.config["S"]["attention_size"])
    attention.first.load_state_dict(stack(file, "S", ["qx", "kx", "vx"]))
    attention.second.load_state_dict(stack(file, "S", ["qy", "ky", "vy"]))
    first, second = (file[f"in/S/{name}"] for name in ("mod1", "mod2"))
    for case, other, lengths in (("nomask", second, None), ("mask", second, LENGTHS)):
        close(attention(first, other, lengths), file[f"out/S/{case}/out1"] + file[f"out/S/{case}/out2"])


def test_equation_one_against_numpy():
    attention = SymmetricAttention(4).double()
    r_k, r_l = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    expected = np.zeros((3, 4))
    for mine, other, r, s in (("first", "second", r_k, r_l), ("second", "first", r_l, r_k)):
        query, _, _ = (w.detach().numpy() for w in getattr(attention, mine).weight.chunk(3))
        _, key, value = (w.detach().numpy() for w in getattr(attention, other).weight.chunk(3))
        x, y = r[0].numpy(), s[0].numpy()
        expected += softmax((x @ query.T) @ (y @ key.T).T / np.sqrt(4)) @ (y @ value.T) + x
    np.testing.assert_allclose(attention(r_k, r_l)[0].detach().numpy(), expected, atol=1e-12)


def test_padded_keys_are_not_seen():
    attention = SelfAttention(4)
    x = torch.randn(1, 5, 4)
    changed = x.clone()
    changed[:, 3:] = 1e6
    assert torch.equal(attention(x, torch.tensor([3]))[:, :3], attention(changed, torch.tensor([3]))[:, :3])


def test_each_projection_is_xavier():
    weight = stacked_linear(300, 200, 3).weight.detach()
    bound = (6 / (300 + 200)) ** 0.5
    for matrix in weight.chunk(3):
        assert matrix.abs().max() <= bound
        assert matrix.std() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_dropout_is_for_training():
    for attention, arguments in (
        (SelfAttention(4, dropout=0.5), 1),
        (CrossAttention(4, dropout=0.5), 2),
        (SymmetricAttention(4, dropout=0.5), 2),
    ):
        x = [torch.randn(2, 5, 4)] * arguments
        assert not torch.equal(attention(*x), attention(*x))
        attention.eval()
        assert torch.equal(attention(*x), attention(*x))
