"""The claims of docs/fidelity.md about the paper's divergence, each shown by its own numbers."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from madpo_isaac.divergence import gaussian_cs, gaussian_kl, kernel_cs

# Propositions 1 and 2: D in the half form of Eq. 13, -log(<p,q> / |p| |q|) ------------------------


def half_form(p, q):
    return -np.log((p * q).sum(-1) / np.sqrt((p * p).sum(-1) * (q * q).sum(-1)))


def renyi(p):
    """Quadratic Renyi entropy, -log sum p^2."""
    return -np.log((p * p).sum(-1))


@pytest.mark.parametrize(("large", "small", "d"), [(0.99, 0.01, 3.902075), (0.9, 0.1, 1.516347)])
def test_proposition_1_fails_for_two_actions(large, small, d):
    """The bound by the entropies is 0.02 or 0.2; both policies have the same entropy."""
    p, q = np.array([large, small]), np.array([small, large])
    assert half_form(p, q) == pytest.approx(d, abs=1e-6)
    assert renyi(p) == pytest.approx(renyi(q))
    assert half_form(p, q) > 7.0 * renyi(p)


def test_proposition_1_fails_for_narrow_gaussians():
    """Differential entropy log(2 s sqrt(pi)) is negative for s < 0.28, a divergence never is."""
    assert math.log(2.0 * 0.1 * math.sqrt(math.pi)) == pytest.approx(-1.037073, abs=1e-6)
    zero, one = torch.zeros(1, 1), torch.ones(1)
    assert gaussian_cs(zero, 0.1 * one, zero, 0.1 * one).item() == 0.0
    # N(0, 1) and N(3, 1): 9/4 in the half form, above the entropy log(2 sqrt(pi)) = 1.2655.
    assert gaussian_cs(zero, one, zero + 3.0, one).item() / 2.0 == pytest.approx(2.25)
    assert math.log(2.0 * math.sqrt(math.pi)) < 2.25


@pytest.mark.parametrize(("n", "share"), [(2, 0.26), (5, 0.13)])
def test_proposition_1_fails_often(n, share):
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(n), size=(2, 40_000))
    assert (half_form(p, q) > 0.5 * (renyi(p) + renyi(q))).mean() == pytest.approx(share, abs=0.01)


def test_no_bound_on_the_divergence_exists():
    """Proposition 2's lower bound -log n is below zero, and upwards there is no limit."""
    for distance in (1.0, 10.0, 100.0):
        mean = torch.full((1, 1), distance)
        value = gaussian_cs(mean, torch.ones(1), torch.zeros(1, 1), torch.ones(1)).item()
        assert value == pytest.approx(distance**2 / 2.0)


def test_maximizing_the_divergence_narrows_the_policy():
    """At equal widths dD/dlog s = -dmu^2 / (2 s^2): entropy enters with a minus sign.

    KL(p || q) does not push there, KL(q || p), as a function of p, does as D does.
    """
    log_s = torch.tensor([math.log(0.4)], dtype=torch.float64, requires_grad=True)
    far = torch.tensor([[0.4]], dtype=torch.float64)
    width = far[0]
    zero = torch.zeros_like(far)
    cs = gaussian_cs(far, log_s.exp(), zero, width)
    assert torch.autograd.grad(cs, log_s)[0].item() == pytest.approx(-0.5)
    forward = gaussian_kl(far, log_s.exp(), zero, width)
    assert torch.autograd.grad(forward, log_s)[0].item() == pytest.approx(0.0, abs=1e-9)


# The estimators ---------------------------------------------------------------------------------


def sample(n, seed):
    """1-d states, uniform on [-1, 1], and actions of two policies, N(s, 0.5) and N(s^2, 0.7)."""
    rng = np.random.default_rng(seed)
    s_p, s_q = rng.uniform(-1.0, 1.0, size=(2, n, 1))
    a_p = s_p + 0.5 * rng.normal(size=(n, 1))
    a_q = s_q**2 + 0.7 * rng.normal(size=(n, 1))
    return [torch.from_numpy(x) for x in (s_p, a_p, s_q, a_q)]


def truth():
    """Eq. 7 by quadrature over the states: the pooled closed form on a fine grid."""
    grid = torch.linspace(-1.0, 1.0, 4001, dtype=torch.float64)[:, None]
    widths = (torch.tensor([w], dtype=torch.float64) for w in (0.5, 0.7))
    p, q = widths
    return gaussian_cs(grid, p, grid**2, q, reduction="pooled").item()


def test_only_yu_estimates_the_divergence_of_policies():
    """The estimate from 2000 samples of each policy, with a width that suits them."""
    widths = {"state_width": 0.2, "action_width": 0.2}
    found = {
        variant: np.mean([kernel_cs(*sample(2000, k), **widths, variant=variant) for k in (0, 1)])
        for variant in ("yu", "printed", "official")
    }
    assert found["yu"] == pytest.approx(truth(), rel=0.1)
    assert found["official"] == pytest.approx(found["yu"] / math.log(2.0), rel=1e-9)
    assert found["printed"] > 2.0 * truth()


def test_eq_11_does_not_depend_on_where_the_policies_differ():
    """Same states, and the action's mean moved by a constant: Eq. 7 sees it, Eq. 11 hardly."""
    rng = np.random.default_rng(0)
    state = torch.from_numpy(rng.uniform(-1.0, 1.0, size=(1000, 1)))
    noise, other = (torch.from_numpy(0.3 * rng.normal(size=(1000, 1))) for _ in range(2))
    widths = {"state_width": 1e3, "action_width": 1e3}

    def value(shift, variant):
        return kernel_cs(state, state + shift + noise, state, state + other, **widths,
                         variant=variant).item() * 1e6  # fmt: skip

    assert value(1.0, "yu") == pytest.approx(1.0, rel=0.1)
    assert value(1.0, "printed") - value(0.0, "printed") == pytest.approx(0.0, abs=1e-4)


def test_the_released_inter_term_does_not_see_means():
    """log pi(a | s) of an agent's own actions is -eps^2 / 2 - log s, whatever the mean."""
    rng = np.random.default_rng(0)
    state, noise, other = (rng.normal(size=(300, d)) for d in (5, 2, 2))
    features = {}
    for shift in (0.0, 5.0):
        action = shift + 0.4 * noise
        features[shift] = stats.norm.logpdf(action, shift, 0.4)
    their = stats.norm.logpdf(0.4 * other, 0.0, 0.4)
    values = [
        kernel_cs(
            *(torch.from_numpy(x) for x in (state, features[shift], state, their)),
            state_width=1.0,
            action_width=1.0,
            variant="official",
        ).item()
        for shift in (0.0, 5.0)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-9)
    assert values[0] > 0.1
    shifts = torch.zeros(300, 2), torch.full((300, 2), 5.0)
    width = torch.full((2,), 0.4)
    exact = [gaussian_cs(shift, width, torch.zeros(300, 2), width).item() for shift in shifts]
    assert exact[0] == 0.0
    assert exact[1] == pytest.approx(2 * 25.0 / 0.32)


def test_the_released_intra_term_is_a_squared_log_ratio():
    """With unrelated states K is the identity: D = -2 log2 mean exp(-|dlogp|^2 / 2)."""
    rng = np.random.default_rng(0)
    state, before = 3.0 * rng.normal(size=(200, 111)), rng.normal(size=(200, 2))
    change = 0.02 * rng.normal(size=(200, 2))
    tensors = (torch.from_numpy(x) for x in (state, before + change, state, before))
    value = kernel_cs(*tensors, state_width=1.0, action_width=1.0, variant="official").item()
    assert value == pytest.approx((change**2).sum(1).mean() / math.log(2.0), rel=1e-2)


@pytest.mark.parametrize("d_s", [17, 111])
def test_no_width_is_right_in_many_dimensions(d_s):
    """Policies 0.4 apart in units of their width: 0.16 / 2 a dimension. Widths give anything."""
    rng = np.random.default_rng(0)
    state = torch.from_numpy(rng.normal(size=(400, d_s)))
    first, second = (torch.from_numpy(rng.normal(size=(400, 2))) for _ in range(2))
    exact = 2 * 0.4**2 / 2.0
    values = [
        kernel_cs(state, first + 0.4, state, second, state_width=w, action_width=1.0).item()
        for w in (math.sqrt(2 * d_s), math.sqrt(2 * d_s) / 4.0)
    ]
    assert values[0] < 0.7 * exact
    assert values[1] > 2.0 * exact
