"""Divergences between Gaussian policies that can be maximised: per state, and with a bound."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.divergence.gaussian import gaussian_cs, gaussian_kl

BOUNDS = ("exp", "exp_dim", "clip", "tanh", "none")

_CLOSED_FORMS = {"cs": gaussian_cs, "kl": gaussian_kl}


def bounded_divergence(
    kind: str,
    bound: str,
    scale: float,
    mean_p: Tensor,
    std_p: Tensor,
    mean_q: Tensor,
    std_q: Tensor,
) -> Tensor:
    """D(p || q) per state, kept from growing without limit.

    Args:
        kind: ``cs`` or ``kl``.
        bound: ``exp``: 1 - exp(-D / (2 scale)), for ``cs`` and scale 1 one minus the cosine of the
            densities; ``exp_dim``: the mean of that over the dimensions; ``clip``: min(D, scale);
            ``tanh``: D between the policies with squashed means; ``none``: D.
        scale: in nats.
        mean_p: (n, d), the current policy. Gradients flow through p only.
        std_p: broadcastable to ``mean_p``.
        mean_q: (n, d), the reference.
        std_q: broadcastable to ``mean_q``.

    Returns:
        (n,)
    """
    divergence = _CLOSED_FORMS[kind]
    if bound == "tanh":
        mean_p, mean_q = mean_p.tanh(), mean_q.tanh()
    if bound == "exp_dim":
        columns = (x.unsqueeze(-1) for x in (mean_p, std_p, mean_q, std_q))
        per_dim = divergence(*columns, reduction="none")
        return -torch.expm1(per_dim / (-2.0 * scale)).mean(-1)
    value = divergence(mean_p, std_p, mean_q, std_q, reduction="none")
    if bound == "exp":
        return -torch.expm1(value / (-2.0 * scale))
    return value.clamp(max=scale) if bound == "clip" else value
