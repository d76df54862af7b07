"""Limits, symmetries, underflow and refusals of the kernel divergence."""

import math

import cs_oracle
import pytest
import torch
from test_kernel_cs import VARIANTS, dense, gradient, relative

from madpo_isaac.divergence import StateGram, kernel_cs, median_width

UNIT = {"state_width": 1.0, "action_width": 1.0}


@pytest.mark.parametrize("sigma", [500.0, 1000.0, 2000.0])
def test_wide_yu_sees_only_the_global_means(sigma):
    s_p, a_p, s_q, a_q = cs_oracle.data(300, 300, 5, 3)
    value = kernel_cs(s_p, a_p, s_q, a_q, state_width=sigma, action_width=sigma)
    wanted = (a_p.mean(0) - a_q.mean(0)).square().sum()
    assert sigma**2 * float(value) == pytest.approx(float(wanted), rel=1e-4)
    grad = gradient(kernel_cs, s_p, a_p, s_q, a_q, state_width=sigma, action_width=sigma)
    expected = (2.0 / 300 * (a_p.mean(0) - a_q.mean(0))).expand_as(grad)
    assert relative(sigma**2 * grad, expected) < 1e-3


@pytest.mark.parametrize("sigma", [500.0, 1000.0, 2000.0])
def test_wide_printed_shrinks_the_variance(sigma):
    s_p, a_p, s_q, a_q = cs_oracle.data(300, 300, 5, 3)
    settings = {"state_width": sigma, "action_width": sigma, "variant": "printed"}

    def variance(x):
        return x.var(0, correction=0).sum()

    wanted = variance(a_q) - variance(a_p) + (s_p.mean(0) - s_q.mean(0)).square().sum()
    value = kernel_cs(s_p, a_p, s_q, a_q, **settings)
    assert sigma**2 * float(value) == pytest.approx(float(wanted), rel=1e-4)
    # Maximizing it pulls every action toward the mean, and is blind to the mean itself.
    grad = gradient(kernel_cs, s_p, a_p, s_q, a_q, **settings)
    assert relative(sigma**2 * grad, -2.0 / 300 * (a_p - a_p.mean(0))) < 1e-4


def test_a_dense_evaluation_in_single_precision_loses_the_wide_value():
    sample = cs_oracle.data(300, 300, 5, 3)
    settings = {"state_width": 1000.0, "action_width": 1000.0}
    wanted = float(kernel_cs(*(x.double() for x in sample), **settings))
    assert float(kernel_cs(*sample, **settings)) == pytest.approx(wanted, rel=1e-4)
    assert abs(float(dense(*sample, **settings)) / wanted - 1.0) > 1e-3


def test_states_far_apart_leave_each_pair_alone():
    # K = 1 on the diagonal only: D = -2 log2 mean_i exp(-|x_i - y_i|^2 / 2).
    states = 100.0 * torch.arange(64.0)[:, None]
    _, a_p, _, _ = cs_oracle.data(64, 1, 1, 3)
    a_q = a_p + 0.01 * torch.randn(64, 3, generator=torch.Generator().manual_seed(5))
    value = kernel_cs(states, a_p, states, a_q, **UNIT, variant="official")
    moved = (a_p.double() - a_q.double()).square().sum(1)
    wanted = -2.0 * torch.log2(torch.exp(-0.5 * moved).mean())
    assert float(value) == pytest.approx(float(wanted), rel=1e-4)
    assert float(value) == pytest.approx(float(moved.mean()) / math.log(2.0), rel=1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [0.1, 1.0, 100.0])
def test_equal_samples_have_no_divergence_and_no_gradient(variant, width):
    s_p, a_p, _, _ = cs_oracle.data(40, 1, 3, 2)
    settings = {"state_width": width, "action_width": width, "variant": variant}
    assert abs(float(kernel_cs(s_p, a_p, s_p, a_p.clone(), **settings))) < 1e-6
    grad = gradient(kernel_cs, s_p, a_p, s_p, a_p.clone(), **settings)
    # The divergence is least at equality; Eq. 11 as printed is not a divergence.
    if variant != "printed":
        assert float(grad.abs().max()) < 2e-7 / width


def test_official_is_yu_in_bits():
    sample = cs_oracle.data(30, 20, 3, 2)
    yu, official = (kernel_cs(*sample, **UNIT, variant=v) for v in ("yu", "official"))
    assert float(official) == pytest.approx(float(yu) / math.log(2.0), rel=1e-6)


def test_printed_may_be_negative():
    s_p, a_p, s_q, a_q = cs_oracle.data(60, 60, 2, 2, same=True, shift=0.0)
    value = kernel_cs(s_p, a_p, s_q, 0.2 * a_q, **UNIT, variant="printed")
    assert float(value) < 0.0
    assert float(kernel_cs(s_p, a_p, s_q, 0.2 * a_q, **UNIT)) > 0.0


def test_symmetries():
    s_p, a_p, s_q, a_q = cs_oracle.data(40, 40, 3, 2)

    def pair(variant):
        forth = kernel_cs(s_p, a_p, s_q, a_q, **UNIT, variant=variant)
        return forth, kernel_cs(s_q, a_q, s_p, a_p, **UNIT, variant=variant)

    forth, back = pair("yu")
    torch.testing.assert_close(forth, back, rtol=1e-5, atol=0.0)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    shuffled = kernel_cs(s_p[order], a_p[order], s_q, a_q, **UNIT)
    torch.testing.assert_close(forth, shuffled, rtol=1e-5, atol=0.0)
    shifted = kernel_cs(s_p + 100.0, a_p - 50.0, s_q + 100.0, a_q - 50.0, **UNIT)
    torch.testing.assert_close(forth, shifted, rtol=1e-4, atol=0.0)
    printed = pair("printed")
    assert abs(float(printed[0] - printed[1])) > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [0.1, 1.0])
def test_underflow_of_unrelated_states(variant, width):
    sample = cs_oracle.data(12, 12, 111, 2)
    settings = {"state_width": width, "action_width": 1.0, "variant": variant}
    value = kernel_cs(*sample, **settings)
    wanted = float(cs_oracle.oracle(*sample, **settings))
    assert float(value) == pytest.approx(wanted, rel=1e-4)
    grad = gradient(kernel_cs, *sample, **settings)
    double = gradient(kernel_cs, *(x.double() for x in sample), **settings)
    assert bool(grad.isfinite().all()) and relative(grad.double(), double) < 1e-3
    if width == 0.1 and variant == "yu":
        assert not bool(dense(*sample, **settings).isfinite())


@pytest.mark.parametrize("variant", VARIANTS)
def test_underflow_of_everything(variant):
    s_p, a_p, s_q, a_q = cs_oracle.data(20, 20, 111, 20, shift=3.0)
    settings = {"state_width": 0.1, "action_width": 0.1, "variant": variant}
    value = kernel_cs(s_p, a_p, s_q + 10.0, a_q, **settings)
    grad = gradient(kernel_cs, s_p, a_p, s_q + 10.0, a_q, **settings)
    assert float(value) > 100.0 and bool(grad.isfinite().all()) and bool(grad.any())


@pytest.mark.parametrize("same", [True, False])
def test_repeated_states_and_actions(same):
    s_p, a_p, s_q, a_q = (x[:1].repeat(8, 1) for x in cs_oracle.data(8, 8, 3, 2, same=same))
    value = kernel_cs(s_p, a_p, s_q, a_q, **UNIT)
    # Equal rows in each sample: every mean is one kernel value, D = |a - b|^2.
    wanted = float((a_p[0] - a_q[0]).square().sum())
    assert float(value) == pytest.approx(wanted, rel=1e-5)


def test_single_rows():
    sample = cs_oracle.data(1, 1, 3, 2)
    wanted = float((sample[1] - sample[3]).square().sum())
    assert float(kernel_cs(*sample, **UNIT)) == pytest.approx(wanted, rel=1e-5)


def call(**changes):
    s_p, a_p, s_q, a_q = cs_oracle.data(6, 6, 3, 2)
    arguments = {"states_p": s_p, "actions_p": a_p, "states_q": s_q, "actions_q": a_q} | UNIT
    return kernel_cs(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"variant": "offical"}, "Unknown variant 'offical'. Did you mean 'official'"),
        ({"state_width": 0.0}, "state_width must be positive and finite, got 0.0"),
        ({"action_width": -1.0}, "action_width must be positive and finite, got -1.0"),
        ({"action_width": math.inf}, "action_width must be positive and finite, got inf"),
        ({"state_width": math.nan}, "state_width must be positive and finite, got nan"),
        ({"states_p": torch.zeros(6)}, r"states_p must have shape \(n, d\), got \(6,\)"),
        ({"states_q": torch.zeros(0, 3)}, r"states_q must have shape \(n, d\), got \(0, 3\)"),
        ({"states_q": torch.zeros(6, 4)}, r"states_q has shape \(6, 4\) but states_p \(6, 3\)"),
        ({"actions_q": torch.zeros(6, 3)}, r"actions_q has shape \(6, 3\) but actions_p \(6, 2\)"),
        ({"actions_p": torch.zeros(5, 2)}, r"states_p has shape \(6, 3\) but actions_p \(5, 2\)"),
        ({"actions_q": torch.zeros(5, 2)}, r"states_q has shape \(6, 3\) but actions_q \(5, 2\)"),
        ({"actions_q": torch.zeros(6, 2).double()}, "actions_q has dtype torch.float64"),
        ({"actions_p": torch.zeros(6, 2).int()}, "must be float32 or float64, got torch.int32"),
        ({"states_q": torch.zeros(6, 3, device="meta")}, "states_q is on meta"),
        ({"mask": torch.ones(3)}, r"mask must have shape \(2,\) .* got \(3,\)"),
        ({"mask": torch.zeros(2)}, "keep a dimension"),
        ({"rows": 0}, r"rows must lie in \[1, 6\], got 0"),
        ({"rows": 7}, r"rows must lie in \[1, 6\], got 7"),
        ({"rows": torch.tensor([0, 6])}, r"rows must lie in \[0, 6\), got 0..6"),
        ({"rows": torch.tensor([0.5])}, r"indices .* got torch.float32 of shape \(1,\)"),
        ({"rows": torch.ones(6, dtype=torch.bool)}, "indices .* got torch.bool"),
        ({"tile": 0}, "tile must be at least 1, got 0"),
    ],
)
def test_refusals(changes, words):
    with pytest.raises(ValueError, match=words):
        call(**changes)


def test_printed_refuses_samples_of_different_sizes():
    sample = cs_oracle.data(6, 5, 3, 2)
    with pytest.raises(ValueError, match=r"states_p \(6, 3\) and states_q \(5, 3\)"):
        kernel_cs(*sample, **UNIT, variant="printed")
    with pytest.raises(ValueError, match="for 6 and 5 rows"):
        kernel_cs(*sample, **UNIT, rows=torch.tensor([1, 2]))


def test_gram_of_something_else_is_refused():
    states = cs_oracle.data(6, 6, 3, 2)[0]
    for gram, words in (
        (StateGram(states[:5], width=1.0), r"gram is of states of shapes \(\(5, 3\), \(5, 3\)\)"),
        (StateGram(states, width=2.0), "gram has width 2.0, but state_width is 1.0"),
        (StateGram(states.double(), width=1.0), "gram is torch.float64"),
    ):
        with pytest.raises(ValueError, match=words):
            call(gram=gram)


def test_gram_and_median_refusals():
    states = torch.randn(6, 3)
    with pytest.raises(ValueError, match=r"states_q has shape \(6, 2\) but states_p \(6, 3\)"):
        StateGram(states, states[:, :2], width=1.0)
    with pytest.raises(ValueError, match="state_width must be positive and finite, got -1"):
        StateGram(states, width=-1.0)
    with pytest.raises(ValueError, match=r"states_q has shape \(6, 2\)"):
        median_width(states, states[:, :2])
    with pytest.raises(ValueError, match="needs 2 rows, got 1"):
        median_width(states[:1])
    with pytest.raises(ValueError, match="the median distance of 6 rows is 0"):
        median_width(torch.ones(6, 3))
