"""The kernel estimators in float64 log space: any width, any rows, Eq. 11 as printed."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.divergence.gram import StateGram, augmented, log_kernel, spans

Factors = tuple[Tensor, Tensor]
Rows = tuple[Tensor | None, Tensor | None]


class Sample:
    """One policy's sample, with the rows that sums run over.

    Attributes:
        states: augmented states in float64, (n, d_s + 2) twice.
        x: (n, d) float64, actions, centered and divided by the width.
        rows: (r,) indices of the rows; columns are always all.
    """

    def __init__(self, states: Factors, x: Tensor, rows: Tensor | None) -> None:
        self.states, self.x = states, x.double()
        everything = torch.arange(len(x), device=x.device) if rows is None else rows
        self.rows, self.actions = everything, augmented(self.x)


class PairGradient:
    """Gradients as they are summed: with respect to the rows of one sample, the columns of other.

    ``rows`` and ``cols`` hold sum_j c_ij (x_i - y_j) and sum_i c_ij (y_j - x_i), (n, d) each.
    """

    def __init__(self, a: Sample, b: Sample) -> None:
        self.rows, self.cols = torch.zeros_like(a.x), torch.zeros_like(b.x)

    def add(self, a: Sample, b: Sample, rows: Tensor, cols: slice, weight: Tensor) -> None:
        """Adds the pairs of a tile with coefficients ``weight`` (r, c)."""
        x, y = a.x[rows], b.x[cols]
        self.rows.index_add_(0, rows, weight.sum(1, keepdim=True) * x - weight @ y)
        self.cols[cols] += weight.sum(0)[:, None] * y - weight.T @ x

    def scale(self, factor: Tensor) -> None:
        """Multiplies the sums."""
        self.rows *= factor
        self.cols *= factor


def _action_tile(a: Sample, b: Sample, rows: Tensor, cols: slice) -> Tensor:
    return log_kernel(a.actions[0][rows], b.actions[1][cols])


def log_row_sums(a: Sample, b: Sample, tile: int) -> Tensor:
    """Returns log sum_j L_ij over all columns, for the rows of ``a``. (r,)"""
    parts = []
    for span in spans(len(a.rows), tile):
        rows = a.rows[span]
        total = torch.full((len(rows),), -torch.inf, dtype=torch.float64, device=rows.device)
        for cols in spans(len(b.x), tile):
            total = torch.logaddexp(total, _action_tile(a, b, rows, cols).logsumexp(1))
        parts.append(total)
    return torch.cat(parts)


def log_term(
    a: Sample, b: Sample, offset: Tensor, tile: int, *, grad: bool
) -> tuple[Tensor, Tensor, PairGradient]:
    """Returns log T, T = sum_ij exp(log K_ij + log L_ij - offset_i), by a running maximum.

    Args:
        a: the rows' sample.
        b: the columns' sample.
        offset: (r,), logs of the denominators.
        tile: rows and columns of a tile.
        grad: whether to sum gradients.

    Returns:
        log T, the share of every row in T (r,), and the gradient with coefficients of sum 1.
    """
    top = torch.tensor(-torch.inf, dtype=torch.float64, device=offset.device)
    share, gradient = torch.zeros_like(offset), PairGradient(a, b)
    for span in spans(len(a.rows), tile):
        rows = a.rows[span]
        for cols in spans(len(b.x), tile):
            logit = log_kernel(a.states[0][rows], b.states[1][cols])
            logit += _action_tile(a, b, rows, cols)
            logit -= offset[span, None]
            peak = torch.maximum(top, logit.max())
            if bool(peak > top):
                share *= torch.exp(top - peak)
                gradient.scale(torch.exp(top - peak))
                top = peak
            weight = logit.sub_(top).exp_()
            share[span] += weight.sum(1)
            if grad:
                gradient.add(a, b, rows, cols, weight)
    total = share.sum()
    gradient.scale(1.0 / total)
    return top + total.log(), share / total, gradient


def softmax_gradient(
    a: Sample, b: Sample, coef: Tensor, log_sum: Tensor, tile: int
) -> PairGradient:
    """Returns the gradient of the denominators: coefficients coef_i L_ij / sum_l L_il."""
    gradient = PairGradient(a, b)
    for span in spans(len(a.rows), tile):
        rows = a.rows[span]
        for cols in spans(len(b.x), tile):
            weight = (_action_tile(a, b, rows, cols) - log_sum[span, None]).exp_()
            gradient.add(a, b, rows, cols, weight.mul_(coef[span, None]))
    return gradient


def _samples(gram: StateGram, x: Tensor, y: Tensor, rows: Rows) -> tuple[Sample, Sample]:
    states = gram.double_factors()
    return Sample(states["p"], x, rows[0]), Sample(states["q"], y, rows[1])


def yu_log(
    gram: StateGram,
    x: Tensor,
    y: Tensor,
    rows: Rows,
    *,
    grad: bool,
) -> tuple[Tensor, Tensor]:
    """Yu's estimator, for any rows against all columns.

    Args:
        gram: the state kernels.
        x: (n, d), actions of p, centered and divided by the width.
        y: (m, d), actions of q, centered and divided by the width.
        rows: indices of the rows of p and of q; None for all.
        grad: whether to compute the gradient.

    Returns:
        D (float64) and its gradient with respect to x (n, d).
    """
    p, q = _samples(gram, x, y, rows)
    tile, own_p, own_q = gram.tile, gram.log_pp[p.rows], gram.log_qq[q.rows]
    pp, _, gradient_pp = log_term(p, p, 2.0 * own_p, tile, grad=grad)
    qq, _, _ = log_term(q, q, 2.0 * own_q, tile, grad=False)
    pq, _, gradient_pq = log_term(p, q, own_p + gram.log_pq[p.rows], tile, grad=grad)
    qp, _, gradient_qp = log_term(q, p, own_q + gram.log_qp[q.rows], tile, grad=grad)
    return (
        pp + qq - pq - qp,
        gradient_pq.rows + gradient_qp.cols - gradient_pp.rows - gradient_pp.cols,
    )


def printed_log(
    gram: StateGram,
    x: Tensor,
    y: Tensor,
    rows: Rows,
    *,
    grad: bool,
) -> tuple[Tensor, Tensor]:
    r"""Eq. 11 of the MADPO paper as printed: the *action* Grams in the denominators.

    With l^{ab}_i = sum_j L^{ab}_ij, and the current policy's l^{pp} in both cross terms,

        D = log sum_i (K L)^{pp}_i / (l^{pp}_i)^2     + log sum_i (K L)^{qq}_i / (l^{qq}_i)^2
          - log sum_i (K L)^{pq}_i / (l^{pp}_i l^{pq}_i)
          - log sum_i (K L)^{qp}_i / (l^{pp}_i l^{qp}_i).

    Arguments and result are those of ``yu_log``; both samples have n rows.
    """
    p, q = _samples(gram, x, y, rows)
    tile = gram.tile
    l_pp, l_qq = log_row_sums(p, p, tile), log_row_sums(q, q, tile)
    l_pq, l_qp = log_row_sums(p, q, tile), log_row_sums(q, p, tile)
    pp, share_pp, gradient_pp = log_term(p, p, 2.0 * l_pp, tile, grad=grad)
    qq, _, _ = log_term(q, q, 2.0 * l_qq, tile, grad=False)
    pq, share_pq, gradient_pq = log_term(p, q, l_pp + l_pq, tile, grad=grad)
    qp, share_qp, gradient_qp = log_term(q, p, l_pp + l_qp, tile, grad=grad)
    value = pp + qq - pq - qp
    if not grad:
        return value, torch.zeros_like(p.x)
    own = softmax_gradient(p, p, 2.0 * share_pp - share_pq - share_qp, l_pp, tile)
    row = softmax_gradient(p, q, share_pq, l_pq, tile)
    col = softmax_gradient(q, p, share_qp, l_qp, tile)
    denominators = own.rows + own.cols - row.rows - col.cols
    numerators = gradient_pq.rows + gradient_qp.cols - gradient_pp.rows - gradient_pp.cols
    return value, numerators + denominators
