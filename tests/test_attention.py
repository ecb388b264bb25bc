import numpy as np
import pytest
import torch
from toys import softmax

from topdown.adapters.attention import Attention, Projections, SymmetricAttention

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
    attention = Attention(sizes["input_size"], sizes["attention_size"])
    attention.projections.load_state_dict(stack(file, which, "qkv"))
    x, queries = file[f"in/{which}/x"], file[f"in/{which}/queries"]
    close(attention(x), file[f"out/{which}/self_nomask/out"])
    close(attention(x, LENGTHS), file[f"out/{which}/self_mask/out"])
    close(attention(x, queries=queries), file[f"out/{which}/query_nomask/out"])
    close(attention(x, LENGTHS, queries=queries), file[f"out/{which}/query_mask/out"])


def test_symmetric_attention_of_the_public_code(golden):
    file = golden("mmlatch_attention")
    attention = SymmetricAttention(file.config["S"]["attention_size"])
    attention.first.load_state_dict(stack(file, "S", ["qx", "kx", "vx"]))
    attention.second.load_state_dict(stack(file, "S", ["qy", "ky", "vy"]))
    first, second, short = (file[f"in/S/{name}"] for name in ("mod1", "mod2", "mod2_short"))
    for case, other, lengths in (("nomask", second, None), ("mask", second, LENGTHS), ("difflen", short, None)):
        # out1 has the queries of the second modality, out2 those of the first.
        a_kl, a_lk = attention.directions(first, other, lengths, lengths)
        close(a_kl, file[f"out/S/{case}/out2"])
        close(a_lk, file[f"out/S/{case}/out1"])
    close(attention(first, second, LENGTHS), file["out/S/mask/out1"] + file["out/S/mask/out2"])


def test_equation_one_against_numpy():
    attention = SymmetricAttention(4).double()
    r_k, r_l = torch.randn(2, 1, 3, 4, dtype=torch.float64)
    query, _, _ = (w.detach().numpy() for w in attention.first.weight.chunk(3))
    _, key, value = (w.detach().numpy() for w in attention.second.weight.chunk(3))
    k, other = r_k[0].numpy(), r_l[0].numpy()
    expected = softmax((k @ query.T) @ (other @ key.T).T / np.sqrt(4)) @ (other @ value.T) + k
    np.testing.assert_allclose(attention.directions(r_k, r_l)[0][0].detach().numpy(), expected, atol=1e-12)


def test_padded_keys_are_not_seen():
    attention = Attention(4)
    x = torch.randn(1, 5, 4)
    changed = x.clone()
    changed[:, 3:] = 1e6
    assert torch.equal(attention(x, torch.tensor([3]))[:, :3], attention(changed, torch.tensor([3]))[:, :3])


def test_each_projection_is_xavier():
    weight = Projections(300, 200).weight.detach()
    bound = (6 / (300 + 200)) ** 0.5
    for matrix in weight.chunk(3):
        assert matrix.abs().max() <= bound
        assert matrix.std() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_dropout_is_for_training():
    for attention, arguments in ((Attention(4, dropout=0.5), 1), (SymmetricAttention(4, dropout=0.5), 2)):
        x = [torch.randn(2, 5, 4)] * arguments
        assert not torch.equal(attention(*x), attention(*x))
        attention.eval()
        assert torch.equal(attention(*x), attention(*x))
