"""Kernel estimators of the conditional Cauchy-Schwarz divergence from samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from madpo_isaac.divergence.checks import (
    check_alike,
    check_columns,
    check_matrix,
    check_positive,
)
from madpo_isaac.divergence.fused import yu_fused
from madpo_isaac.divergence.gram import (
    LOGIT_ERROR,
    TILE,
    StateGram,
    center_of,
    rounding,
    scaled,
)
from madpo_isaac.divergence.logspace import Rows, printed_log, yu_log
from madpo_isaac.errors import unknown


@dataclass(frozen=True)
class Estimator:
    """An estimator: its sums and its units."""

    log_sums: Callable[..., tuple[Tensor, Tensor]]
    """Value and gradient for any width and rows, in float64 log space."""
    fused: Callable[..., tuple[Tensor, Tensor] | None] | None = None
    """Faster sums in the precision of the samples, used if they are exact enough; None if there are
    no such sums."""
    pairs_rows: bool = False
    """True if row i of p is compared with row i of q."""
    scale: float = 1.0
    """Number of the estimator's units in a nat: 1 for nats, 1 / log 2 for bits."""


ESTIMATORS = {
    "yu": Estimator(yu_log, yu_fused),
    "printed": Estimator(printed_log, pairs_rows=True),
    "official": Estimator(yu_log, yu_fused, scale=1.0 / math.log(2.0)),
}


def kernel_cs(
    states_p: Tensor,
    actions_p: Tensor,
    states_q: Tensor,
    actions_q: Tensor,
    *,
    state_width: float,
    action_width: float,
    variant: str = "yu",
    gram: StateGram | None = None,
    rows: Tensor | int | None = None,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
    tile: int = TILE,
) -> Tensor:
    r"""Conditional Cauchy-Schwarz divergence of p(a | s) and q(a | s), estimated from samples.

    D = -log((int p q)^2 / (int p^2 int q^2)), from Gaussian Grams K of the states and L of the
    actions, exp(-|x - y|^2 / (2 width^2)). One call costs O(n^2) time and O(n) memory beside what
    ``gram`` stores; the gradient is summed together with the value.

    * ``yu``: Gram sums of the *states* in the denominators, the consistent estimator of Eq. 7
      (Yu et al. 2023); in nats.
    * ``official``: the estimator of MADPO's released code, which is ``yu`` in bits. There the
      "actions" are the log-probabilities, per dimension, of stored actions, and both widths are 1.
    * ``printed``: Eq. 11 literally, Gram sums of the *actions* in the denominators; both cross
      terms have the sums of p. In nats. It is not a divergence and may be negative.

    Single precision holds 1e-4 relative for samples that differ by order one, at any width;
    policies one optimizer step apart need float64 or ``gaussian_cs`` once widths exceed 10.

    Args:
        states_p: (n, d_s), states of the current policy.
        actions_p: (n, d_a), its actions as functions of its parameters. Gradients flow here only.
        states_q: (m, d_s), states of the reference; passing the same states is three times faster.
        actions_q: (m, d_a), its actions.
        state_width: kernel width of the states, for example ``median_width(states_p)``.
        action_width: kernel width of the actions.
        variant: ``yu``, ``printed`` or ``official``.
        gram: ``StateGram`` of the two sets of states, so that several calls can share it.
        rows: sum over these rows only, (r,) indices or a number of rows to draw, against *all*
            columns: pass all n actions. Subsampling both sides would bias the value upwards.
        generator: a CPU generator for drawing ``rows``.
        mask: (d_a,), 0 or False for action dimensions left out (padding).
        tile: rows and columns evaluated at a time, where ``gram`` does not say.

    Returns:
        A scalar, in the dtype of ``actions_p``.

    Raises:
        ValueError: if shapes, dtypes, devices or widths do not fit or ``variant`` is unknown.
    """
    if variant not in ESTIMATORS:
        raise unknown("variant", variant, ESTIMATORS)
    estimator = ESTIMATORS[variant]
    _check_samples(states_p, actions_p, states_q, actions_q)
    state_width = check_positive("state_width", state_width)
    action_width = check_positive("action_width", action_width)
    gram = _gram_of(states_p, states_q, state_width, gram, tile)
    if estimator.pairs_rows and len(states_p) != len(states_q):
        raise ValueError(
            f"variant '{variant}' divides row i of q by row i of p and needs as many rows of both, "
            f"got states_p {tuple(states_p.shape)} and states_q {tuple(states_q.shape)}"
        )
    chosen = _choose_rows(rows, len(states_p), len(states_q), states_p.device, generator)
    if mask is not None:
        keep = _keep(mask, actions_p)
        actions_p, actions_q = actions_p[:, keep], actions_q[:, keep]
    value: Any = _KernelCS.apply(actions_p, actions_q, gram, action_width, estimator, chosen)
    return value


class _KernelCS(torch.autograd.Function):
    """Sums value and gradient in the forward pass; backward only scales the latter."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        actions_p: Tensor,
        actions_q: Tensor,
        gram: StateGram,
        width: float,
        estimator: Estimator,
        rows: Rows,
    ) -> Tensor:
        grad = actions_p.requires_grad
        value, gradient = _evaluate(actions_p, actions_q, gram, width, estimator, rows, grad)
        if grad:
            ctx.save_for_backward((gradient * (estimator.scale / width)).to(actions_p.dtype))
        return (value * estimator.scale).to(actions_p.dtype)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]  # torch decorates it away
        ctx: Any, *grad_outputs: Tensor
    ) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient, None, None, None, None, None


def _evaluate(
    actions_p: Tensor,
    actions_q: Tensor,
    gram: StateGram,
    width: float,
    estimator: Estimator,
    rows: Rows,
    grad: bool,
) -> tuple[Tensor, Tensor]:
    """D in nats and its gradient with respect to actions_p / width, both float64."""
    center = center_of(actions_p, actions_q)
    x, y = (scaled(a, center, width, actions_p.dtype) for a in (actions_p, actions_q))
    everything = rows[0] is None and not gram.exact
    if estimator.fused and everything and max(rounding(x), rounding(y)) < LOGIT_ERROR:
        result = estimator.fused(gram, x, y, grad=grad)
        if result is not None:
            return result
    x, y = (scaled(a, center, width, torch.float64) for a in (actions_p, actions_q))
    return estimator.log_sums(gram, x, y, rows, grad=grad)


def _check_samples(
    states_p: Tensor, actions_p: Tensor, states_q: Tensor, actions_q: Tensor
) -> None:
    named = (
        ("actions_p", actions_p),
        ("states_p", states_p),
        ("states_q", states_q),
        ("actions_q", actions_q),
    )
    for name, value in named:
        check_matrix(name, value)
        check_alike(name, value, "actions_p", actions_p)
    check_columns("states_q", states_q, "states_p", states_p)
    check_columns("actions_q", actions_q, "actions_p", actions_p)
    for side, states, actions in (("p", states_p, actions_p), ("q", states_q, actions_q)):
        if len(states) != len(actions):
            raise ValueError(
                f"states_{side} has shape {tuple(states.shape)} but actions_{side} "
                f"{tuple(actions.shape)}; each action needs its state"
            )


def _gram_of(
    states_p: Tensor, states_q: Tensor, width: float, gram: StateGram | None, tile: int
) -> StateGram:
    """The gram passed by the caller, checked, or one for this call only."""
    if gram is None:
        return StateGram(states_p, states_q, width=width, tile=tile, store=False)
    shapes = (tuple(states_p.shape), tuple(states_q.shape))
    if gram.shapes != shapes:
        raise ValueError(f"gram is of states of shapes {gram.shapes}, but the states have {shapes}")
    if gram.width != width:
        raise ValueError(f"gram has width {gram.width}, but state_width is {width}")
    if gram.dtype != states_p.dtype or gram.device != states_p.device:
        raise ValueError(
            f"gram is {gram.dtype} on {gram.device}, but the states are {states_p.dtype} "
            f"on {states_p.device}"
        )
    return gram


def _choose_rows(
    rows: Tensor | int | None,
    n: int,
    m: int,
    device: torch.device,
    generator: torch.Generator | None,
) -> Rows:
    """Row indices of p and q: the same where the samples are of one size, else drawn apart."""
    if rows is None:
        return None, None
    if isinstance(rows, Tensor):
        integer = rows.ndim == 1 and not rows.is_floating_point() and rows.dtype != torch.bool
        if not integer or len(rows) == 0 or n != m:
            raise ValueError(
                f"rows must be (r,) indices into two samples of one size, got {rows.dtype} of "
                f"shape {tuple(rows.shape)} for {n} and {m} rows"
            )
        if int(rows.min()) < 0 or int(rows.max()) >= n:
            raise ValueError(f"rows must lie in [0, {n}), got {int(rows.min())}..{int(rows.max())}")
        rows = rows.to(device, torch.long)
        return rows, rows
    if not 1 <= rows <= min(n, m):
        raise ValueError(f"rows must lie in [1, {min(n, m)}], got {rows}")
    draw = torch.randperm(n, generator=generator)[:rows].to(device)
    if n == m:
        return draw, draw
    return draw, torch.randperm(m, generator=generator)[:rows].to(device)


def _keep(mask: Tensor, actions: Tensor) -> Tensor:
    """Indices of the action dimensions that count. (k,)"""
    if mask.shape != actions.shape[1:] or not bool(mask.any()):
        raise ValueError(
            f"mask must have shape ({actions.shape[1]},) and keep a dimension, got "
            f"{tuple(mask.shape)} for actions of shape {tuple(actions.shape)}"
        )
    return mask.to(actions.device).nonzero()[:, 0]
