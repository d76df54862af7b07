"""Closed-form Cauchy-Schwarz divergence of diagonal Gaussian policies."""

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
            unbounded form must not be maximised over means: it grows as their squared distance.
        mask: (d,) or broadcastable to ``mean_p``, 0 for dimensions left out (padding).

    Returns:
        (..., n) for ``none``, else (...,).

    Raises:
        ValueError: if shapes do not fit or ``reduction`` is unknown.
    """
    if reduction not in REDUCTIONS:
        raise unknown("reduction", reduction, REDUCTIONS)
    if mean_p.shape != mean_q.shape:
        raise ValueError(
            f"mean_p has shape {tuple(mean_p.shape)} but mean_q {tuple(mean_q.shape)}; "
            "the policies must be compared at the same states and dimensions"
        )
    for name, std in (("std_p", std_p), ("std_q", std_q)):
        try:
            fits = torch.broadcast_shapes(std.shape, mean_p.shape) == mean_p.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"{name} of shape {tuple(std.shape)} does not broadcast to {tuple(mean_p.shape)}"
            )
    mean_q, std_q = mean_q.detach(), std_q.detach()
    var = std_p.square() + std_q.square()
    distance = (mean_p - mean_q).square() / var
    # log((s^2 + t^2) / (2 s t)) = log1p((s - t)^2 / (2 s t)): exact near s = t.
    spread = torch.log1p((std_p - std_q).square() / (2.0 * std_p * std_q))
    if reduction == "pooled":
        value = _pooled(distance, std_p, std_q, mask)
    else:
        per_dim = distance + spread
        value = (per_dim if mask is None else per_dim * mask).sum(-1)
    if bounded:
        value = -torch.expm1(-0.5 * value)
    return value.mean(-1) if reduction == "mean" else value


def _pooled(distance: Tensor, std_p: Tensor, std_q: Tensor, mask: Tensor | None) -> Tensor:
    """-2 log E<p,q> + log E<p,p> + log E<q,q> over the states, each by logsumexp. (...,)"""

    def log_mean(per_dim: Tensor) -> Tensor:
        log_density = per_dim.expand_as(distance)
        if mask is not None:
            log_density = log_density * mask
        # The sum over states divides by n in all three terms: 2 log n - log n - log n = 0.
        return torch.logsumexp(log_density.sum(-1), dim=-1)

    cross = log_mean(-0.5 * distance - 0.5 * torch.log(std_p.square() + std_q.square()))
    own_p = log_mean(-0.5 * torch.log(2.0 * std_p.square()))
    own_q = log_mean(-0.5 * torch.log(2.0 * std_q.square()))
    return -2.0 * cross + own_p + own_q
