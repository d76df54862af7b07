"""Divergences between Gaussian policies that can be maximized: per state, and with a bound."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from madpo_isaac.divergence.gaussian import gaussian_cs, gaussian_kl
from madpo_isaac.errors import unknown

Policy = tuple[Tensor, Tensor]
"""Mean (n, d) and standard deviation, broadcastable to it."""

CLOSED_FORMS: dict[str, Callable[..., Tensor]] = {"cs": gaussian_cs, "kl": gaussian_kl}


def bounded_divergence(
    kind: str,
    bound: str,
    scale: float,
    mean_p: Tensor,
    std_p: Tensor,
    mean_q: Tensor,
    std_q: Tensor,
) -> Tensor:
    """D(p || q) per state with a bound, so that it cannot grow without limit.

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

    Raises:
        ValueError: if ``kind`` or ``bound`` is unknown, or shapes do not fit.
    """
    for name, value, allowed in (("kind", kind, CLOSED_FORMS), ("bound", bound, _BOUNDED)):
        if value not in allowed:
            raise unknown(name, value, allowed)
    return _BOUNDED[bound](CLOSED_FORMS[kind], scale, (mean_p, std_p), (mean_q, std_q))


def _exp(divergence: Callable[..., Tensor], scale: float, p: Policy, q: Policy) -> Tensor:
    return -torch.expm1(divergence(*p, *q, reduction="none") / (-2.0 * scale))


def _exp_dim(divergence: Callable[..., Tensor], scale: float, p: Policy, q: Policy) -> Tensor:
    columns = (x.unsqueeze(-1) for x in (*p, *q))
    per_dim = divergence(*columns, reduction="none")
    return -torch.expm1(per_dim / (-2.0 * scale)).mean(-1)


def _clip(divergence: Callable[..., Tensor], scale: float, p: Policy, q: Policy) -> Tensor:
    return divergence(*p, *q, reduction="none").clamp(max=scale)


def _tanh(divergence: Callable[..., Tensor], scale: float, p: Policy, q: Policy) -> Tensor:
    del scale
    return divergence(p[0].tanh(), p[1], q[0].tanh(), q[1], reduction="none")


def _none(divergence: Callable[..., Tensor], scale: float, p: Policy, q: Policy) -> Tensor:
    del scale
    return divergence(*p, *q, reduction="none")


_BOUNDED = {"exp": _exp, "exp_dim": _exp_dim, "clip": _clip, "tanh": _tanh, "none": _none}

BOUNDS = tuple(_BOUNDED)
