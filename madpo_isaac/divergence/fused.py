"""The fast form of Yu's estimator: four numbers and their gradient in one pass over the tiles."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.divergence.gram import FLUSH, StateGram, augmented, log_kernel, spans, upper_tiles

NARROW = 0.05
"""If a <L> is below this, all are summed as they are; otherwise as <L> - 1."""

LEAST = 1e-12
"""Below this, single precision has dropped too much of <L>: the sum has to run in log space."""


class Sums:
    """Sums over the pairs (i, j) of two samples x and y, for their two terms.

    With A_ij = u_i K_ij (rows), B_ij = t_j K_ij (columns) and L_ij = exp(-|x_i - y_j|^2 / 2):

    Attributes:
        mass: (2,) float64, sum_ij A_ij (L_ij - 1) and sum_ij B_ij (L_ij - 1); without the -1 for
            narrow kernels.
        grad: (2, n, d) float64, sum_j A_ij L_ij (x_i - y_j), and the same with B.
    """

    def __init__(
        self, x: Tensor, y: Tensor, u: Tensor, t: Tensor, *, narrow: bool, grad: bool
    ) -> None:
        """Starts from nothing.

        Args:
            x: (n, d), centered and divided by the width.
            y: (m, d), centered and divided by the width; x itself for pairs within one sample.
            u: (n,), factors of the rows.
            t: (m,), factors of the columns.
            narrow: whether to sum L itself.
            grad: whether to sum the gradient with respect to x.
        """
        self.x, self.u, self.narrow, self.with_grad = x, u, narrow, grad
        self.left, self.right = augmented(x)[0], augmented(y)[1]
        t = t[:, None]
        self.moments = torch.cat((torch.ones_like(t), t, y, t * y), 1)
        self.mass = torch.zeros(2, dtype=torch.float64, device=x.device)
        self.grad = torch.zeros((2, *x.shape), dtype=torch.float64, device=x.device)

    def add(
        self, rows: slice, cols: slice, kernel: Tensor, matched: Tensor | None = None
    ) -> Tensor | None:
        """Adds the pairs of a tile.

        Args:
            rows: of x.
            cols: of y.
            kernel: (r, c), the tile of K.
            matched: (r,), exact exponents -|x_i - y_i|^2 / 2 of a tile on the diagonal.

        Returns:
            K o L on the tile, (r, c), if gradients are summed.
        """
        exponent = log_kernel(self.left[rows], self.right[cols])
        if matched is not None:
            exponent.diagonal().copy_(matched)
        if self.narrow:
            summand = torch.threshold_(exponent, FLUSH, -torch.inf).exp_().mul_(kernel)
        else:
            summand = exponent.expm1_().mul_(kernel)
        by_row = summand @ self.moments[cols, :2]
        self.mass[0] += (self.u[rows] * by_row[:, 0]).double().sum()
        self.mass[1] += by_row[:, 1].double().sum()
        if not self.with_grad:
            return None
        kept = summand if self.narrow else summand.add_(kernel)
        self.add_gradient(rows, kept @ self.moments[cols])
        return kept

    def add_gradient(self, rows: slice, products: Tensor) -> None:
        """Adds to the gradient of ``rows``, given K o L times the columns' moments."""
        x, u, d = self.x[rows], self.u[rows, None], self.x.shape[1]
        self.grad[0, rows] += u * (products[:, :1] * x - products[:, 2 : 2 + d])
        self.grad[1, rows] += products[:, 1:2] * x - products[:, 2 + d :]


class SelfSums(Sums):
    """Pairs within one sample, each unordered pair of tiles evaluated once.

    The whole sum is ``total`` and its gradient with respect to x ``grad[0] + grad[1]``.
    """

    def __init__(self, x: Tensor, u: Tensor, *, narrow: bool, grad: bool) -> None:
        super().__init__(x, x, u, u, narrow=narrow, grad=grad)
        self.total = torch.zeros((), dtype=torch.float64, device=x.device)

    def add_pair(self, i: int, j: int, rows: slice, cols: slice, kernel: Tensor) -> None:
        """Adds the tiles (i, j) and (j, i), i <= j."""
        before = self.mass.clone()
        exact = self.x.new_zeros(len(kernel)) if i == j else None
        kept = self.add(rows, cols, kernel, exact)
        gained = self.mass - before
        self.total += gained[0] if i == j else gained.sum()
        if kept is not None and i < j:
            self.add_gradient(cols, kept.T @ self.moments[rows])


def _fused_same(gram: StateGram, cross: Sums, alone: list[SelfSums], exact: Tensor) -> None:
    """All sums for equal states: one tile of K serves every pair of samples."""
    for i, j, rows, cols in upper_tiles(len(cross.x), gram.tile):
        kernel = gram.block("pp", i, j)
        for sums in alone:
            sums.add_pair(i, j, rows, cols, kernel)
        cross.add(rows, cols, kernel, exact[rows] if i == j else None)
        if i < j:
            cross.add(cols, rows, kernel.T)


def _fused_two(gram: StateGram, cross: Sums, alone: dict[str, SelfSums]) -> None:
    """All sums for two sets of states."""
    for i, rows in enumerate(spans(len(cross.left), gram.tile)):
        for j, cols in enumerate(spans(len(cross.right), gram.tile)):
            cross.add(rows, cols, gram.block("pq", i, j))
    for pair, sums in alone.items():
        for i, j, rows, cols in upper_tiles(len(sums.x), gram.tile):
            sums.add_pair(i, j, rows, cols, gram.block(pair, i, j))


def _factors(log_own: Tensor, log_row: Tensor, shift: float, dtype: torch.dtype) -> Tensor:
    """w_i exp(shift) / sum_j K_ij with w_i = (1 / k_i) / sum_l (1 / k_l), from logs. (n,)"""
    return (torch.log_softmax(-log_own, 0) - log_row + shift).exp().to(dtype)


def _log(mass: Tensor, narrow: bool) -> Tensor:
    """log<L>, from <L> or from <L> - 1."""
    return mass.log() if narrow else mass.clamp(min=-1.0).log1p()


def _all_sums(gram: StateGram, x: Tensor, y: Tensor, grad: bool) -> tuple[Sums, list[SelfSums]]:
    """Sums across the samples, and within p and q."""
    u = _factors(gram.log_pp, gram.log_pq, gram.shift, x.dtype)
    t = _factors(gram.log_qq, gram.log_qp, gram.shift, x.dtype)
    cross = Sums(x, y, u, t, narrow=gram.narrow, grad=grad)
    within = [("pp", x, gram.log_pp, grad), ("qq", y, gram.log_qq, False)]
    alone = {
        pair: SelfSums(z, _factors(log, log, 0.0, z.dtype), narrow=gram.narrow, grad=with_grad)
        for pair, z, log, with_grad in within
    }
    if gram.same:
        _fused_same(gram, cross, list(alone.values()), -0.5 * (x - y).square().sum(1))
    else:
        _fused_two(gram, cross, alone)
    return cross, list(alone.values())


def _all_logs(
    gram: StateGram, x: Tensor, y: Tensor, grad: bool
) -> tuple[Tensor, Sums, SelfSums, float]:
    """log<L>_pp, _qq, _pq and _qp (4,), the sums of their gradients, and the least <L>."""
    cross, alone = _all_sums(gram, x, y, grad)
    mass = torch.cat((torch.stack([sums.total for sums in alone]), cross.mass))
    logs = _log(mass, gram.narrow)
    return logs, cross, alone[0], float(logs.min().exp())


def yu_fused(gram: StateGram, x: Tensor, y: Tensor, *, grad: bool) -> tuple[Tensor, Tensor] | None:
    r"""Yu's estimator over all pairs, in the precision of the actions.

    The state-only constants of the four terms cancel, which leaves

        D = log<L>_pp + log<L>_qq - log<L>_pq - log<L>_qp,
        <L>_ab = sum_i w^a_i sum_j kap^{ab}_ij L^{ab}_ij,

    kap the rows of K divided by their sums and w^a_i proportional to 1 / sum_j K^{aa}_ij. For
    wide kernels <L> - 1 is summed, so that nearly equal terms do not cancel, else <L>.

    Args:
        gram: the state kernels. It keeps which of the two sums served last.
        x: (n, d), actions of p, centered and divided by the width.
        y: (m, d), actions of q, centered and divided by the width.
        grad: whether to compute the gradient.

    Returns:
        D (float64) and its gradient with respect to x (n, d), or None if a term is so small that
        it has to be summed in log space.
    """
    logs, cross, alone, least = _all_logs(gram, x, y, grad)
    if gram.narrow != (least < NARROW):
        gram.narrow = not gram.narrow
        logs, cross, alone, least = _all_logs(gram, x, y, grad)
    if least < LEAST:
        return None
    pp, qq, pq, qp = logs
    away = cross.grad[0] / pq.exp() + cross.grad[1] / qp.exp()
    return pp + qq - (pq + qp), away - alone.grad.sum(0) / pp.exp()
