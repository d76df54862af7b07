"""Closed-form divergences of diagonal Gaussian policies."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.errors import unknown

REDUCTIONS = ("mean", "none", "pooled")


def gaussian_cs(
    mean_p: Tensor,
    std_p: Tensor,
    mean_q: Tensor,
    std_q: Tensor,
    *,
    reduction: str = "mean",
    bounded: bool = False,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Conditional Cauchy-Schwarz divergence D = -log((int p q)^2 / (int p^2 int q^2)), in nats.

    For one state and diagonal Gaussians p = N(m, s^2), q = N(n, t^2) it is, by the Gaussian
    product integral, the sum over dimensions of

        (m - n)^2 / (s^2 + t^2) + log((s^2 + t^2) / (2 s t)),

    which is twice the 1/2-form of Eq. 13 of the MADPO paper. Gradients flow through p only.

    Args:
        mean_p: (..., n, d), the current policy at n states.
        std_p: broadcastable to ``mean_p``, positive.
        mean_q: (..., n, d), the reference policy at the same states.
        std_q: broadcastable to ``mean_q``, positive.
        reduction: ``none`` gives D per state; ``mean`` its mean over states; ``pooled`` Eq. 7
            with the batch's states as the state measure, each integral averaged before the log.
        bounded: replace D by 1 - exp(-D / 2), in [0, 1): one minus the cosine of p and q. The
            unbounded form must not be maximized over means: it grows as their squared distance.
        mask: (d,) or broadcastable to ``mean_p``, 0 for dimensions left out (padding).

    Returns:
        (..., n) for ``none``, else (...,).

    Raises:
        ValueError: if shapes do not fit or ``reduction`` is unknown.
    """
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    _check_shapes(mean_p, std_p, mean_q, std_q, mask)
    mean_q, std_q = mean_q.detach(), std_q.detach()
    if mask is not None:  # make masked dimensions equal, whatever they hold
        kept = mask.bool()
        mean_p, mean_q = mean_p.where(kept, 0.0), mean_q.where(kept, 0.0)
        std_p, std_q = std_p.where(kept, 1.0), std_q.where(kept, 1.0)
    var = std_p.square() + std_q.square()
    distance = (mean_p - mean_q).square() / var
    # log((s^2 + t^2) / (2 s t)) = log1p((s - t)^2 / (2 s t)): exact near s = t.
    width_term = torch.log1p((std_p - std_q).square() / (2.0 * std_p * std_q))
    value = (distance + width_term).sum(-1)
    if reduction == "pooled":
        value = _pooled(value, std_p.expand_as(mean_p), std_q.expand_as(mean_p))
    if bounded:
        value = -torch.expm1(-0.5 * value)
    return value.mean(-1) if reduction == "mean" else value


def _pooled(per_state: Tensor, std_p: Tensor, std_q: Tensor) -> Tensor:
    """Eq. 7 from the per-state divergences (..., n), without cancellation near equality. (...,)

    With a^2 = <p,p>, b^2 = <q,q> and <p,q> = a b exp(-D_s / 2) at each state, and u, v the vectors
    a, b over the states scaled to length one,

        D = -2 log(sum(a b exp(-D_s / 2)) / sum(a b)) - 2 log(1 - |u - v|^2 / 2).
    """
    log_a = -0.5 * std_p.log().sum(-1)
    log_b = -0.5 * std_q.log().sum(-1)
    log_weight = torch.log_softmax(log_a + log_b, dim=-1)
    missing = (log_weight.exp() * torch.expm1(-0.5 * per_state)).sum(-1)
    near = torch.log1p(missing.clamp(min=-0.5))
    far = torch.logsumexp(log_weight - 0.5 * per_state, dim=-1)
    agreement = torch.where(missing > -0.5, near, far)
    u = torch.exp(log_a - 0.5 * torch.logsumexp(2.0 * log_a, dim=-1, keepdim=True))
    v = torch.exp(log_b - 0.5 * torch.logsumexp(2.0 * log_b, dim=-1, keepdim=True))
    return -2.0 * agreement - 2.0 * torch.log1p(-0.5 * (u - v).square().sum(-1))


def gaussian_kl(
    mean_p: Tensor,
    std_p: Tensor,
    mean_q: Tensor,
    std_q: Tensor,
    *,
    reduction: str = "mean",
) -> Tensor:
    """Kullback-Leibler divergence KL(p || q) = int p log(p / q), in nats.

    Args:
        mean_p: (..., n, d), the current policy at n states. Gradients flow through p only.
        std_p: broadcastable to ``mean_p``, positive.
        mean_q: (..., n, d), the reference policy at the same states.
        std_q: broadcastable to ``mean_q``, positive.
        reduction: ``none`` gives it per state; ``mean`` the mean over states.

    Returns:
        (..., n) for ``none``, else (...,).

    Raises:
        ValueError: if shapes do not fit or ``reduction`` is unknown.
    """
    if reduction not in REDUCTIONS[:2]:
        raise unknown("reduction", reduction, REDUCTIONS[:2])
    _check_shapes(mean_p, std_p, mean_q, std_q, None)
    mean_q, std_q = mean_q.detach(), std_q.detach()
    ratio = std_p / std_q
    distance = ((mean_p - mean_q) / std_q).square()
    value = (0.5 * (ratio.square() - 1.0 + distance) - ratio.log()).sum(-1)
    return value.mean(-1) if reduction == "mean" else value


def _check_shapes(
    mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor, mask: Tensor | None
) -> None:
    if mean_p.shape != mean_q.shape:
        raise ValueError(
            f"mean_p has shape {tuple(mean_p.shape)} but mean_q {tuple(mean_q.shape)}; "
            "the policies must be compared at the same states and dimensions"
        )
    for name, tensor in (("std_p", std_p), ("std_q", std_q), ("mask", mask)):
        if tensor is not None:
            _check_broadcast(name, tensor, mean_p)


def _check_broadcast(name: str, tensor: Tensor, like: Tensor) -> None:
    try:
        fits = torch.broadcast_shapes(tensor.shape, like.shape) == like.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name} of shape {tuple(tensor.shape)} does not broadcast to {tuple(like.shape)}"
        )
