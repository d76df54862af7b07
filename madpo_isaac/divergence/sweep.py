"""The fast sweep of Yu's estimator: four numbers and their gradient in one pass over the tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.divergence.gram import StateGram, augmented, log_kernel, spans

NEARLY_ONE = 0.95
"""Above this 1 - <L> has lost digits that a sum in log space keeps."""


class Sums:
    """What the pairs (i, j) of two samples x and y add to their two terms.

    With A_ij = u_i K_ij (rows) and B_ij = t_j K_ij (columns), E = 1 - L and
    L_ij = exp(-|x_i - y_j|^2 / 2):

    Attributes:
        lost: (2,) float64, sum_ij A_ij E_ij and sum_ij B_ij E_ij.
        grad: two (n, d) float64, sum_j A_ij L_ij (x_i - y_j), and the same for B.
    """

    def __init__(self, x: Tensor) -> None:
        self.lost = torch.zeros(2, dtype=torch.float64, device=x.device)
        shape = (2, *x.shape)
        self.grad = torch.zeros(shape, dtype=torch.float64, device=x.device)


def _weighted(kernel: Tensor, exponent: Tensor, grad: bool) -> tuple[Tensor, Tensor]:
    """K o (L - 1) and, if asked for, K o L, from K and log L; overwrites ``exponent``."""
    lost = exponent.expm1_().mul_(kernel)
    return lost, lost + kernel if grad else lost


def _moments(y: Tensor, t: Tensor) -> Tensor:
    """Columns 1, t, y, t y. (n, 2 + 2 d)"""
    t = t[:, None]
    return torch.cat((torch.ones_like(t), t, y, t * y), 1)


def _add_grad(out: Tensor, u: Tensor, x: Tensor, products: Tensor) -> None:
    """Adds u_i (S1 x - S y)_i and (S t x - S t y)_i to ``out`` (2, n, d), given S @ moments."""
    d = x.shape[1]
    out[0] += u[:, None] * (products[:, :1] * x - products[:, 2 : 2 + d])
    out[1] += products[:, 1:2] * x - products[:, 2 + d :]


def cross_sums(
    gram: StateGram, x: Tensor, y: Tensor, u: Tensor, t: Tensor, *, grad: bool
) -> Sums:
    """Sums over all pairs of p (rows, actions x (n, d)) and q (columns, actions y (m, d)).

    Args:
        gram: the state kernels.
        x: (n, d), centred and divided by the width.
        y: (m, d), likewise.
        u: (n,), factors of the rows.
        t: (m,), factors of the columns.
        grad: whether to sum the gradient with respect to x.
    """
    sums, left, right, moments = Sums(x), augmented(x)[0], augmented(y)[1], _moments(y, t)
    matched = -0.5 * (x - y).square().sum(1) if gram.same else None
    for i, rows in enumerate(spans(len(x), gram.tile)):
        for j, cols in enumerate(spans(len(y), gram.tile)):
            flip = gram.same and i > j
            kernel = gram.block("pq", j, i).T if flip else gram.block("pq", i, j)
            exponent = log_kernel(left[rows], right[cols])
            if matched is not None and i == j:
                exponent.diagonal().copy_(matched[rows])
            lost, kept = _weighted(kernel, exponent, grad)
            by_row = lost @ moments[cols, :2]
            sums.lost[0] -= (u[rows] * by_row[:, 0]).double().sum()
            sums.lost[1] -= by_row[:, 1].double().sum()
            if grad:
                _add_grad(sums.grad[:, rows], u[rows], x[rows], kept @ moments[cols])
    return sums


def self_sums(gram: StateGram, pair: str, x: Tensor, u: Tensor, *, grad: bool) -> Sums:
    """Sums over all pairs of one sample with itself, each unordered pair evaluated once.

    ``lost[0]`` holds the whole sum; the gradient with respect to x is ``grad[0] + grad[1]``.

    Args:
        gram: the state kernels.
        pair: ``pp`` or ``qq``.
        x: (n, d), centred and divided by the width.
        u: (n,), factors of the rows.
        grad: whether to sum the gradient.
    """
    sums, (left, right), moments = Sums(x), augmented(x), _moments(x, u)
    for i, rows in enumerate(spans(len(x), gram.tile)):
        for j, cols in enumerate(spans(len(x), gram.tile)):
            if j < i:
                continue
            exponent = log_kernel(left[rows], right[cols])
            if i == j:
                exponent.diagonal().zero_()
            lost, kept = _weighted(gram.block(pair, i, j), exponent, grad)
            by_row = lost @ moments[cols, :2]
            sums.lost[0] -= (u[rows] * by_row[:, 0]).double().sum()
            if j > i:
                sums.lost[0] -= by_row[:, 1].double().sum()
            if grad:
                _add_grad(sums.grad[:, rows], u[rows], x[rows], kept @ moments[cols])
                if j > i:
                    _add_grad(sums.grad[:, cols], u[cols], x[cols], kept.T @ moments[rows])
    return sums


def _factors(log_own: Tensor, log_row: Tensor, shift: float, dtype: torch.dtype) -> Tensor:
    """w_i exp(shift) / sum_j K_ij with w_i = (1 / k_i) / sum_l (1 / k_l), from logs. (n,)"""
    return (torch.log_softmax(-log_own, 0) - log_row + shift).exp().to(dtype)


def _reference(gram: StateGram, actions_q: Tensor, y: Tensor, width: float) -> Tensor:
    """1 - <L>_qq, kept in the gram: neither q's states nor its actions move between epochs."""
    kept = gram.reference
    if (
        kept is not None
        and kept[0] is actions_q
        and kept[1:3] == (actions_q._version, width)
        and not kept[3]
    ):
        return kept[4]
    u = _factors(gram.log_qq, gram.log_qq, 0.0, y.dtype)
    lost = self_sums(gram, "qq", y, u, grad=False).lost[0]
    gram.reference = (actions_q, actions_q._version, width, False, lost)
    return lost


def yu_sweep(
    gram: StateGram, actions_q: Tensor, x: Tensor, y: Tensor, width: float, *, grad: bool
) -> tuple[Tensor, Tensor] | None:
    r"""Yu's estimator over all pairs, in the precision of the actions.

    The state-only constants of the four terms cancel, which leaves

        D = log<L>_pp + log<L>_qq - log<L>_pq - log<L>_qp,
        <L>_ab = sum_i w^a_i sum_j kap^{ab}_ij L^{ab}_ij,

    kap the rows of K divided by their sums and w^a_i proportional to 1 / sum_j K^{aa}_ij. Each
    <L> = 1 - m is accumulated as m, so that nearly equal terms do not cancel for wide kernels.

    Args:
        gram: the state kernels.
        actions_q: the reference's actions as passed by the caller, key of what is kept.
        x: (n, d), actions of p, centred and divided by the width.
        y: (m, d), actions of q, likewise.
        width: action width.
        grad: whether to compute the gradient.

    Returns:
        D (float64) and its gradient with respect to x (n, d), or None if a term is so small that
        it has to be summed in log space.
    """
    own = _factors(gram.log_pp, gram.log_pp, 0.0, x.dtype)
    u = _factors(gram.log_pp, gram.log_pq, gram.shift, x.dtype)
    t = _factors(gram.log_qq, gram.log_qp, gram.shift, x.dtype)
    cross = cross_sums(gram, x, y, u, t, grad=grad)
    if bool((cross.lost > NEARLY_ONE).any()):
        return None
    alone = self_sums(gram, "pp", x, own, grad=grad)
    lost_p, lost_q = alone.lost[0], _reference(gram, actions_q, y, width)
    if bool((torch.stack((lost_p, lost_q)) > NEARLY_ONE).any()):
        return None
    value = torch.log1p(-lost_p) + torch.log1p(-lost_q) - torch.log1p(-cross.lost).sum()
    away = cross.grad[0] / (1.0 - cross.lost[0]) + cross.grad[1] / (1.0 - cross.lost[1])
    return value, away - alone.grad.sum(0) / (1.0 - lost_p)
