import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topdown.masking import align_mask, combine_masks, interpolate_mask, pool_mask, target_mask
from topdown.sequence import WithLengths, valid_steps

RULES = ["mean", "max", "min", "product"]
shapes = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))


def masks(count, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@given(shapes, st.integers(0, 99))
def test_mean_of_two_is_equation_four(shape, seed):
    f_j, f_l = masks(2, shape, seed)
    expected = np.empty(shape)
    for index in np.ndindex(*shape):
        expected[index] = (f_j.numpy()[index] + f_l.numpy()[index]) / 2
    np.testing.assert_allclose(combine_masks([f_j, f_l]).numpy(), expected, rtol=0, atol=1e-16)


@given(st.integers(1, 4), shapes, st.integers(0, 99))
def test_rules_are_bounded_and_ordered(count, shape, seed):
    given_masks = masks(count, shape, seed)
    product, low, mean, high = (combine_masks(given_masks, rule) for rule in ("product", "min", "mean", "max"))
    slack = 1e-15
    assert (product >= 0).all()
    assert (product <= low).all()
    assert (low <= mean + slack).all()
    assert (mean <= high + slack).all()
    assert (high <= 1).all()


@given(st.sampled_from(RULES), st.permutations(range(3)), st.integers(0, 99))
def test_order_of_sources_does_not_matter(rule, order, seed):
    given_masks = masks(3, (2, 3, 4), seed)
    torch.testing.assert_close(combine_masks([given_masks[i] for i in order], rule), combine_masks(given_masks, rule))


@pytest.mark.parametrize("rule", RULES)
def test_one_source_is_itself(rule):
    (mask,) = masks(1, (2, 3, 4), 0)
    assert torch.equal(combine_masks([mask], rule), mask)


def test_own_rule_takes_all_masks_at_once():
    mask, pooled = torch.rand(2, 3, 4), torch.rand(2, 1, 4)
    combined = combine_masks([mask, pooled], lambda stacked: stacked.prod(0))
    torch.testing.assert_close(combined, mask * pooled)


@pytest.mark.parametrize(
    ("given_masks", "rule", "message"),
    [
        ([torch.zeros(2, 3, 4)], lambda m: m, r"must return \(2, 3, 4\), got shape \(1, 2, 3, 4\)"),
        ([torch.zeros(2, 3, 4)], lambda m: 1, r"must return \(2, 3, 4\), got type int"),
    ],
)
def test_wrong_rules_are_named(given_masks, rule, message):
    with pytest.raises(ValueError, match=message):
        combine_masks(given_masks, rule)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=4), st.integers(0, 99))
def test_interpolation_equals_numpy(pairs, seed):
    sources, targets = (torch.tensor(column) for column in zip(*pairs, strict=True))
    mask = masks(1, (len(pairs), 9, 2), seed)[0]
    result = interpolate_mask(mask, sources, 9, targets)
    for b, (m, n) in enumerate(pairs):
        at = np.linspace(0, m - 1, n)  # a single step is the first one, as here
        for feature in range(2):
            expected = np.interp(at, np.arange(m), mask[b, :m, feature].numpy())
            np.testing.assert_allclose(result[b, :n, feature].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("steps", [2, 5, 50, 500])
def test_interpolation_of_a_ramp_is_a_ramp(steps):
    ramp = torch.linspace(0, 1, 37, dtype=torch.float64).view(1, 37, 1)
    result = interpolate_mask(ramp, torch.tensor([37]), steps, torch.tensor([steps])).flatten()
    torch.testing.assert_close(result, torch.linspace(0, 1, steps, dtype=torch.float64), rtol=0, atol=1e-15)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_equal_lengths_interpolate_to_the_mask_itself(lengths):
    mask = torch.rand(len(lengths), 7, 2)
    lengths = torch.tensor(lengths)
    result = interpolate_mask(mask, lengths, 7, lengths)
    for row, expected, n in zip(result, mask, lengths, strict=True):
        assert torch.equal(row[:n], expected[:n])


def test_pooling_averages_valid_steps_only():
    mask = torch.tensor([[[0.2], [0.4], [float("nan")]], [[0.5], [0.7], [0.9]]])
    torch.testing.assert_close(pool_mask(mask, torch.tensor([2, 3])).flatten(), torch.tensor([0.3, 0.7]))
    torch.testing.assert_close(pool_mask(mask[1:], None).flatten(), torch.tensor([0.7]))


def aligned(mask, lengths, target_steps, target_lengths, align, names=("source", "target")):
    target = WithLengths(torch.zeros(len(mask), target_steps, mask.shape[-1]), target_lengths)
    return align_mask(WithLengths(mask, lengths), target, align, names=names)


def test_a_shared_time_is_used_as_it_is():
    mask, lengths = torch.rand(2, 5, 3), torch.tensor([5, 2])
    valid = valid_steps(lengths, 5)
    for align in ("error", "interpolate", "pool"):
        assert aligned(mask, lengths, 5, lengths, align) is mask
        assert torch.equal(aligned(mask, lengths, 5, lengths.clone(), align)[valid], mask[valid])
        # No lengths and full lengths are the same.
        assert torch.equal(aligned(mask, None, 5, torch.tensor([5, 5]), align), mask)


def test_pooling_leaves_a_sample_alone_whose_length_is_its_targets():
    mask = torch.rand(2, 5, 3)
    result = aligned(mask, torch.tensor([3, 5]), 4, torch.tensor([3, 4]), "pool")
    assert torch.equal(result[0, :3], mask[0, :3])
    torch.testing.assert_close(result[1], mask[1].mean(0).expand(4, 3))
    longer = aligned(mask, torch.tensor([3, 5]), 7, torch.tensor([3, 7]), "pool")
    assert torch.equal(longer[0, :3], mask[0, :3])


def test_another_time_without_lengths():
    ramp = torch.linspace(0, 1, 3).view(1, 3, 1)
    assert aligned(ramp, None, 5, None, "interpolate").flatten().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert aligned(ramp, None, 5, None, "pool").flatten().tolist() == [0.5] * 5
    # Only one of the two has lengths.
    assert aligned(ramp, torch.tensor([2]), 3, None, "interpolate").flatten().tolist() == [0, 0.25, 0.5]


def test_error_names_both_modalities():
    with pytest.raises(ValueError, match="'audio' has 9 steps but 'text' has 7: pass align='interpolate' or align='pool'"):
        aligned(torch.zeros(1, 9, 1), None, 7, None, "error", ("audio", "text"))
    with pytest.raises(ValueError, match="'audio' and 'text' have 7 steps but different lengths"):
        aligned(torch.zeros(1, 7, 1), torch.tensor([3]), 7, torch.tensor([4]), "error", ("audio", "text"))
    with pytest.raises(ValueError, match="lengths have no entry for 'audio', so all its 7 steps count: add it"):
        aligned(torch.zeros(1, 7, 1), None, 7, torch.tensor([4]), "error", ("audio", "text"))


def test_interpolation_in_bfloat16_is_as_fine_as_its_values():
    ramp = torch.linspace(0, 1, 500).view(1, 500, 1)
    exact = interpolate_mask(ramp, torch.tensor([500]), 333, torch.tensor([333]))
    coarse = interpolate_mask(ramp.bfloat16(), torch.tensor([500]), 333, torch.tensor([333]))
    torch.testing.assert_close(coarse.float(), exact, rtol=0, atol=0.004)


def test_a_mask_is_one_where_no_source_is_present_and_learns_nothing_from_padding():
    mask = torch.full((3, 2, 1), 0.25, requires_grad=True)
    x = WithLengths(mask, torch.tensor([1, 2, 2]), valid_steps(torch.tensor([1, 2, 2]), 2).unsqueeze(-1))
    present = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True, False, False])}
    encodings = {name: WithLengths(mask, present=marks) for name, marks in present.items()}
    result = target_mask({"a": mask, "b": mask}, encodings, x, ["a", "b"], "mean", 1.0, 0.0)
    assert result.flatten().tolist() == [0.25, 0.25, 0.25, 0.25, 1.0, 1.0]
    with_another = {**encodings, "c": WithLengths(mask)}
    always = target_mask({"a": mask, "c": mask}, with_another, x, ["a", "c"], "mean", 1.0, 0.0)
    assert always.flatten().tolist() == [0.25] * 6
    (gradient,) = torch.autograd.grad((result * torch.tensor([1.0, torch.nan]).view(1, 2, 1))[:1].sum(), mask)
    assert gradient[0].flatten().tolist() == [1.0, 0.0]


@pytest.mark.parametrize("rule", RULES)
def test_the_scale_acts_before_masks_are_combined(rule):
    f = masks(3, (2, 3, 4), 0)
    torch.testing.assert_close(combine_masks(f, rule, c=2.0), combine_masks([2.0 * mask for mask in f], rule))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_a_source_that_is_absent_in_a_sample_drops_out(rule, scale):
    f = masks(3, (2, 3, 4), 0)
    present = [None, torch.tensor([True, False]), torch.tensor([True, True])]
    combined = combine_masks(f, rule, present, scale)
    torch.testing.assert_close(combined[0], combine_masks(f, rule, (), scale)[0])
    torch.testing.assert_close(combined[1], combine_masks([f[0], f[2]], rule, (), scale)[1])


def test_a_rule_of_the_users_gets_a_neutral_mask_where_a_source_is_absent():
    f = masks(2, (2, 3, 4), 0)
    seen = []
    combine_masks(f, lambda stacked: seen.append(stacked) or stacked.mean(0), [None, torch.tensor([True, False])], 2.0)
    (stacked,) = seen  # one call, whatever is absent
    torch.testing.assert_close(stacked[1, 0], 2 * f[1][0])
    assert stacked[1, 1].eq(1.0).all()
    torch.testing.assert_close(stacked[0], 2 * f[0])


def test_the_mask_of_a_padded_sequence_for_a_map_is_its_mean_over_valid_steps():
    mask = torch.tensor([[[0.1], [0.3], [9.0]], [[0.2], [0.4], [0.6]]])
    source, target = WithLengths(mask, torch.tensor([2, 3])), WithLengths(torch.zeros(2, 2, 2, 1))
    assert align_mask(source, target, "pool", ("a", "b")).flatten().tolist() == pytest.approx([0.2, 0.4])
