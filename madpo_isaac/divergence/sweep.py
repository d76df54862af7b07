"""The fast sweep of Yu's estimator: four numbers and their gradient in one pass over the tiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from madpo_isaac.divergence.gram import StateGram, augmented, log_kernel, spans

NEARLY_ONE = 0.95
"""Above this 1 - <L> has lost digits that a sum in log space keeps."""


class Sums:
    """What the pairs (i, j) of two samples x and y add to their two terms.

    With A_ij = u_i K_ij (rows), B_ij = t_j K_ij (columns) and L_ij = exp(-|x_i - y_j|^2 / 2):

    Attributes:
        lost: (2,) float64, sum_ij A_ij (1 - L_ij) and sum_ij B_ij (1 - L_ij).
        grad: (2, n, d) float64, sum_j A_ij L_ij (x_i - y_j), and the same with B.
    """

    def __init__(self, x: Tensor, y: Tensor, u: Tensor, t: Tensor, *, grad: bool) -> None:
        """Starts from nothing.

        Args:
            x: (n, d), centred and divided by the width.
            y: (m, d), likewise; x itself for the pairs within one sample.
            u: (n,), factors of the rows.
            t: (m,), factors of the columns.
            grad: whether to sum the gradient with respect to x.
        """
        self.x, self.u, self.with_grad = x, u, grad
        self.left, self.right = augmented(x)[0], augmented(y)[1]
        t = t[:, None]
        self.moments = torch.cat((torch.ones_like(t), t, y, t * y), 1)
        self.lost = torch.zeros(2, dtype=torch.float64, device=x.device)
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
        negative = exponent.expm1_().mul_(kernel)
        by_row = negative @ self.moments[cols, :2]
        self.lost[0] -= (self.u[rows] * by_row[:, 0]).double().sum()
        self.lost[1] -= by_row[:, 1].double().sum()
        if not self.with_grad:
            return None
        kept = negative.add_(kernel)
        self.pull(rows, kept @ self.moments[cols])
        return kept

    def pull(self, rows: slice, products: Tensor) -> None:
        """Adds to the gradient of ``rows``, given K o L times the columns' moments."""
        x, u, d = self.x[rows], self.u[rows, None], self.x.shape[1]
        self.grad[0, rows] += u * (products[:, :1] * x - products[:, 2 : 2 + d])
        self.grad[1, rows] += products[:, 1:2] * x - products[:, 2 + d :]


class SelfSums(Sums):
    """Pairs within one sample, each unordered pair of tiles evaluated once.

    The whole sum is ``total`` and its gradient with respect to x ``grad[0] + grad[1]``.
    """

    def __init__(self, x: Tensor, u: Tensor, *, grad: bool) -> None:
        super().__init__(x, x, u, u, grad=grad)
        self.total = torch.zeros((), dtype=torch.float64, device=x.device)

    def add_pair(self, i: int, j: int, rows: slice, cols: slice, kernel: Tensor) -> None:
        """Adds the tiles (i, j) and (j, i), i <= j."""
        before = self.lost.clone()
        exact = self.x.new_zeros(len(kernel)) if i == j else None
        kept = self.add(rows, cols, kernel, exact)
        gained = self.lost - before
        self.total += gained[0] if i == j else gained.sum()
        if kept is not None and i < j:
            self.pull(cols, kept.T @ self.moments[rows])


def _upper(n: int, tile: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Tiles on and above the diagonal."""
    for i, rows in enumerate(spans(n, tile)):
        for j, cols in enumerate(spans(n, tile)):
            if i <= j:
                yield i, j, rows, cols


def _sweep_same(gram: StateGram, cross: Sums, alone: list[SelfSums], exact: Tensor) -> None:
    """All sums for equal states: one tile of K serves every pair of samples."""
    for i, j, rows, cols in _upper(len(cross.x), gram.tile):
        kernel = gram.block("pp", i, j)
        for sums in alone:
            sums.add_pair(i, j, rows, cols, kernel)
        cross.add(rows, cols, kernel, exact[rows] if i == j else None)
        if i < j:
            cross.add(cols, rows, kernel.T)


def _sweep_two(gram: StateGram, cross: Sums, alone: dict[str, SelfSums]) -> None:
    """All sums for two sets of states."""
    for i, rows in enumerate(spans(len(cross.left), gram.tile)):
        for j, cols in enumerate(spans(len(cross.right), gram.tile)):
            cross.add(rows, cols, gram.block("pq", i, j))
    for pair, sums in alone.items():
        for i, j, rows, cols in _upper(len(sums.x), gram.tile):
            sums.add_pair(i, j, rows, cols, gram.block(pair, i, j))


def _factors(log_own: Tensor, log_row: Tensor, shift: float, dtype: torch.dtype) -> Tensor:
    """w_i exp(shift) / sum_j K_ij with w_i = (1 / k_i) / sum_l (1 / k_l), from logs. (n,)"""
    return (torch.log_softmax(-log_own, 0) - log_row + shift).exp().to(dtype)


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
        gram: the state kernels. It keeps m of the reference, which does not move between epochs.
        actions_q: the reference's actions as the caller passed them, the key of what is kept.
        x: (n, d), actions of p, centred and divided by the width.
        y: (m, d), actions of q, likewise.
        width: action width.
        grad: whether to compute the gradient.

    Returns:
        D (float64) and its gradient with respect to x (n, d), or None if a term is so small that
        it has to be summed in log space.
    """
    u = _factors(gram.log_pp, gram.log_pq, gram.shift, x.dtype)
    t = _factors(gram.log_qq, gram.log_qp, gram.shift, x.dtype)
    cross = Sums(x, y, u, t, grad=grad)
    alone = {"pp": SelfSums(x, _factors(gram.log_pp, gram.log_pp, 0.0, x.dtype), grad=grad)}
    lost_q = gram.recall(actions_q, width)
    if lost_q is None:
        alone["qq"] = SelfSums(y, _factors(gram.log_qq, gram.log_qq, 0.0, y.dtype), grad=False)
    if gram.same:
        _sweep_same(gram, cross, list(alone.values()), -0.5 * (x - y).square().sum(1))
    else:
        _sweep_two(gram, cross, alone)
    if lost_q is None:
        lost_q = alone["qq"].total
        gram.remember(actions_q, width, lost_q)
    lost_p = alone["pp"].total
    if bool(torch.stack((lost_p, lost_q, *cross.lost)).max() > NEARLY_ONE):
        return None
    value = torch.log1p(-lost_p) + torch.log1p(-lost_q) - torch.log1p(-cross.lost).sum()
    away = cross.grad[0] / (1.0 - cross.lost[0]) + cross.grad[1] / (1.0 - cross.lost[1])
    return value, away - alone["pp"].grad.sum(0) / (1.0 - lost_p)
