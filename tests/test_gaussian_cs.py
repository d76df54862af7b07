"""The closed-form Cauchy-Schwarz divergence against numerical integration and hand results."""

import math

import mpmath as mp
import numpy as np
import pytest
import torch
from scipy import stats

from madpo_isaac.divergence import gaussian_cs

ALL = [(r, b) for r in ("mean", "none", "pooled") for b in (False, True)]


def integrated(m, s, n, t):
    """-log((int p q)^2 / (int p^2 int q^2)) of two scalar Gaussians by quadrature."""
    with mp.workdps(40):
        m, s, n, t = (mp.mpf(float(x)) for x in (m, s, n, t))
        reach = 14 * max(s, t)
        points = sorted({min(m, n) - reach, m, n, (m + n) / 2, max(m, n) + reach})

        def product(*pairs):
            return mp.quad(lambda x: mp.fprod(mp.npdf(x, *pair) for pair in pairs), points)

        cross = product((m, s), (n, t))
        own_p, own_q = product((m, s), (m, s)), product((n, t), (n, t))
        return float(-mp.log(cross**2 / (own_p * own_q)))


def draw(n=6, d=3, seed=0, dtype=torch.float64):
    """Means (n, d) and per-state standard deviations (n, d) of two policies."""
    generator = torch.Generator().manual_seed(seed)
    m, q = torch.randn(2, n, d, generator=generator, dtype=torch.float64)
    s, t = 0.2 + torch.rand(2, n, d, generator=generator, dtype=torch.float64)
    return tuple(x.to(dtype) for x in (m, s, q, t))


@pytest.mark.parametrize(
    ("m", "s", "n", "t"),
    [(0, 1, 0, 1), (0, 1, 3, 1), (0.3, 0.4, -0.2, 0.4), (1, 0.1, 0.5, 2), (0, 0.3655, 0.01, 0.37)],
)
def test_one_dimension_against_quadrature(m, s, n, t):
    value = gaussian_cs(*(torch.tensor([[x]], dtype=torch.float64) for x in (m, s, n, t)))
    assert value.item() == pytest.approx(integrated(m, s, n, t), rel=1e-10, abs=1e-14)


@pytest.mark.slow
def test_three_dimensions_are_the_sum_of_their_integrals():
    """Densities of independent dimensions multiply, so do the integrals; their logs add."""
    m, s, n, t = draw(n=2)
    value = gaussian_cs(m, s, n, t, reduction="none")
    for row in range(2):
        parts = [integrated(m[row, k], s[row, k], n[row, k], t[row, k]) for k in range(3)]
        assert value[row].item() == pytest.approx(sum(parts), rel=1e-10)
    assert gaussian_cs(m, s, n, t).item() == pytest.approx(value.mean().item(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("reduction", "bounded"), ALL)
def test_equal_policies_have_zero_divergence_and_zero_gradient(reduction, bounded, dtype):
    m, s = draw(dtype=dtype)[:2]
    for std in (s, s[0]):
        p = [x.clone().requires_grad_() for x in (m, std)]
        value = gaussian_cs(*p, m, std, reduction=reduction, bounded=bounded)
        value.sum().backward()
        tolerance = 1e-6 if dtype == torch.float32 else 1e-14
        if reduction == "pooled":
            # A ratio of sums over states: zero up to their rounding.
            assert value.abs().max() < tolerance
            assert all(x.grad.abs().max() < 10 * tolerance for x in p)
        else:
            assert not value.any()
            assert not any(x.grad.any() for x in p)


@pytest.mark.parametrize(("s", "dmu", "expected"), [(1.0, 3.0, 4.5), (0.5, 0.2, 0.08)])
def test_equal_widths_give_the_scaled_squared_distance(s, dmu, expected):
    """dmu^2 / (2 s^2): half of each variance enters the product integral's exponent."""
    one = torch.tensor([[s]], dtype=torch.float64)
    for reduction in ("mean", "none", "pooled"):
        value = gaussian_cs(one * 0 + dmu, one, one * 0, one, reduction=reduction)
        assert value.item() == pytest.approx(expected, rel=1e-12)
        value = gaussian_cs(one * 0 + dmu, one, one * 0, one, reduction=reduction, bounded=True)
        assert value.item() == pytest.approx(1.0 - math.exp(-expected / 2.0), rel=1e-12)


def test_equal_means_give_the_log_of_mean_over_geometric_mean():
    """s = 1, t = 2: log((1 + 4) / (2 * 1 * 2)) = log(5/4)."""
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    assert gaussian_cs(zero, one, zero, 2 * one).item() == pytest.approx(math.log(1.25), rel=1e-12)


def test_the_width_shrinks_where_only_means_differ():
    """At s = t the derivative by log s is -dmu^2 / (2 t^2), here -1/2 * (0.8 / 0.4)^2 = -2."""
    log_s = torch.tensor([[math.log(0.4)]], dtype=torch.float64, requires_grad=True)
    mean = torch.tensor([[0.8]], dtype=torch.float64)
    gaussian_cs(mean, log_s.exp(), mean - 0.8, log_s.detach().exp()).backward()
    assert log_s.grad.item() == pytest.approx(-2.0, rel=1e-12)


def test_bounded_is_one_minus_the_cosine_and_stays_below_one():
    m, s, n, t = draw(n=40, seed=2)
    plain = gaussian_cs(m, s, n, t, reduction="none").numpy()
    value = gaussian_cs(m, s, n, t, reduction="none", bounded=True).numpy()
    np.testing.assert_allclose(value, 1.0 - np.sqrt(np.exp(-plain)), rtol=1e-10)
    assert value.min() >= 0.0
    assert value.max() < 1.0
    mean = gaussian_cs(m, s, n, t, bounded=True)
    assert mean.item() == pytest.approx(value.mean(), rel=1e-12)
    far = gaussian_cs(m + 1e6, s, n, t, bounded=True)
    assert far.item() == 1.0


def test_it_is_symmetric_and_never_negative():
    m, s, n, t = draw(n=200, seed=3)
    for reduction in ("none", "pooled"):
        value = gaussian_cs(m, s, n, t, reduction=reduction)
        torch.testing.assert_close(value, gaussian_cs(n, t, m, s, reduction=reduction))
        assert value.min() >= 0.0


# Pooled over states -----------------------------------------------------------------------------


def pooled(m, s, n, t):
    """-log(E<p,q>^2 / (E<p,p> E<q,q>)) of (n, d) arrays with the integrals written out."""

    def expectation(a, u, b, v):
        return stats.norm.pdf(a, b, np.sqrt(u**2 + v**2)).prod(1).mean()

    cross = expectation(m, s, n, t)
    return -math.log(cross**2 / (expectation(m, s, m, s) * expectation(n, t, n, t)))


@pytest.mark.parametrize("seed", range(3))
def test_pooled_averages_each_integral_over_the_states(seed):
    m, s, n, t = draw(n=30, seed=seed)
    value = gaussian_cs(m, s, n, t, reduction="pooled")
    expected = pooled(*(x.numpy() for x in (m, s, n, t)))
    assert value.shape == ()
    assert value.item() == pytest.approx(expected, rel=1e-12)
    value = gaussian_cs(m, s, n, t, reduction="pooled", bounded=True)
    assert value.item() == pytest.approx(1.0 - math.exp(-expected / 2.0), rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_pooled_is_at_most_the_mean_for_state_independent_widths(seed):
    """The mean of exponentials is at least the exponential of the mean (Jensen)."""
    m, s, n, t = draw(n=30, seed=seed)
    both = [gaussian_cs(m, s[0], n, t[0], reduction=r).item() for r in ("pooled", "mean")]
    assert both[0] < both[1]
    expected = pooled(m.numpy(), s[:1].numpy(), n.numpy(), t[:1].numpy())
    assert both[0] == pytest.approx(expected, rel=1e-12)


def test_pooled_survives_policies_whose_overlap_underflows():
    """20 dimensions 60 widths apart: exp(-36000) is no double; D = 20 * 60^2 / 2 at each state."""
    zero, one = torch.zeros(5, 20), torch.ones(20)
    value = gaussian_cs(zero, one, zero + 60.0, one, reduction="pooled")
    assert value.item() == pytest.approx(36_000.0, rel=1e-5)


# Float32 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dmu", "ds"), [(1e-3, 0.0), (0.0, 1e-3), (1e-4, 1e-4), (3e-5, 1e-5)])
def test_float32_is_accurate_near_equality(dmu, ds):
    """Steps of one optimizer update: D is down to 1e-9, far below the rounding of log(1)."""
    p = torch.tensor([[0.2 + dmu]]), torch.tensor([[0.3655 + ds]])
    q = torch.tensor([[0.2]]), torch.tensor([[0.3655]])
    expected = integrated(*(x.item() for x in (*p, *q)))
    assert gaussian_cs(*p, *q).item() == pytest.approx(expected, rel=1e-4)
    value = gaussian_cs(*p, *q, bounded=True).item()
    assert value == pytest.approx(-math.expm1(-expected / 2.0), rel=1e-4)


def test_float32_pooled_is_accurate_near_equality():
    generator = torch.Generator().manual_seed(0)
    n = torch.randn(200, 20, generator=generator)
    m = n + 4e-4 * torch.randn(200, 20, generator=generator)
    std = torch.full((20,), 0.3655)
    exact = gaussian_cs(*(x.double() for x in (m, std, n, std)), reduction="pooled").item()
    assert 1e-6 < exact < 1e-4
    value = gaussian_cs(m, std, n, std, reduction="pooled").item()
    assert value == pytest.approx(exact, rel=1e-4)


# Gradients --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reduction", "bounded"), ALL)
def test_gradient_against_finite_differences(reduction, bounded):
    m, s, n, t = draw(n=4)
    mask = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)

    def divergence(mean, std):
        options = {"reduction": reduction, "bounded": bounded}
        return gaussian_cs(mean, std, n, t, **options), gaussian_cs(
            mean, std, n, t, mask=mask, **options
        )

    for std in (s, s[0]):
        p = [x.clone().requires_grad_() for x in (m, std)]
        assert torch.autograd.gradcheck(divergence, p)


@pytest.mark.parametrize("reduction", ["mean", "none", "pooled"])
def test_only_the_first_policy_receives_a_gradient(reduction):
    tensors = [x.requires_grad_() for x in draw()]
    gaussian_cs(*tensors, reduction=reduction).sum().backward()
    assert all(x.grad.any() for x in tensors[:2])
    assert all(x.grad is None for x in tensors[2:])


# Shapes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("reduction", "bounded"), ALL)
def test_mask_drops_dimensions(reduction, bounded):
    m, s, n, t = draw()
    options = {"reduction": reduction, "bounded": bounded}
    kept = gaussian_cs(*(x[:, [0, 2]] for x in (m, s, n, t)), **options)
    for mask in (torch.tensor([1, 0, 1]), torch.tensor([True, False, True]).expand(6, 3)):
        torch.testing.assert_close(gaussian_cs(m, s, n, t, mask=mask, **options), kept)


@pytest.mark.parametrize("reduction", ["mean", "none", "pooled"])
def test_masked_dimensions_may_be_padded_with_zero_widths(reduction):
    m, s, n, t = draw()
    kept = gaussian_cs(m, s, n, t, reduction=reduction)
    padded = [torch.nn.functional.pad(x, (0, 2)) for x in (m, s, n, t)]
    p = [x.requires_grad_() for x in padded[:2]]
    mask = torch.tensor([1, 1, 1, 0, 0])
    value = gaussian_cs(*p, *padded[2:], reduction=reduction, mask=mask)
    torch.testing.assert_close(value, kept)
    value.sum().backward()
    assert all(x.grad.isfinite().all() for x in p)


@pytest.mark.parametrize("reduction", ["mean", "none", "pooled"])
def test_leading_batch_dimensions(reduction):
    pairs = [draw(seed=seed) for seed in range(2)]
    stacked = gaussian_cs(*map(torch.stack, zip(*pairs, strict=True)), reduction=reduction)
    assert stacked.shape == ((2, 6) if reduction == "none" else (2,))
    single = [gaussian_cs(*pair, reduction=reduction) for pair in pairs]
    torch.testing.assert_close(stacked, torch.stack(single))


def test_mismatched_means_are_an_error():
    m, s, n, t = draw()
    for other in (n[:, :2], n[:4], n[None]):
        shape = str(tuple(other.shape)).replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(ValueError, match=rf"mean_p has shape \(6, 3\) but mean_q {shape}"):
            gaussian_cs(m, s, other, t)


@pytest.mark.parametrize("name", ["std_p", "std_q"])
@pytest.mark.parametrize("shape", [(2,), (6, 2), (5, 3), (2, 6, 3)])
def test_widths_that_do_not_broadcast_are_an_error(name, shape):
    m, s, n, t = draw()
    arguments = {"mean_p": m, "std_p": s, "mean_q": n, "std_q": t, name: torch.ones(shape)}
    with pytest.raises(ValueError) as error:
        gaussian_cs(**arguments)
    for part in (name, str(shape), "(6, 3)"):
        assert part in str(error.value)


@pytest.mark.parametrize("shape", [(2,), (6, 2), (5, 3), (2, 6, 3)])
def test_a_mask_that_does_not_fit_is_an_error(shape):
    with pytest.raises(ValueError) as error:
        gaussian_cs(*draw(), mask=torch.ones(shape))
    for part in ("mask", str(shape), "(6, 3)"):
        assert part in str(error.value)


def test_unknown_reduction_names_the_closest():
    with pytest.raises(ValueError, match=r"reduction 'pool'\. Did you mean 'pooled'\?"):
        gaussian_cs(*draw(), reduction="pool")
