"""Gaussian Grams by tiles: the state part of the kernel estimators, computed once and reused."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from madpo_isaac.divergence.checks import (
    check_alike,
    check_columns,
    check_matrix,
    check_positive,
)

TILE = 512
"""Rows and columns of a tile: small enough for the cache, large enough to hide the loop."""

MAX_LOG_RANGE = 40.0
"""Largest range of log row sums that single-precision cross kernels represent with one shift."""

FLUSH = -69.0  # exp(-69) = 1e-30: smaller kernel values are zero, so that products stay normal
LOGIT_ERROR = 1e-4  # largest rounding error of an exponent that is left in single precision


def spans(n: int, tile: int) -> Iterator[slice]:
    """Yields the slices of at most ``tile`` that cover range(n)."""
    return (slice(start, min(start + tile, n)) for start in range(0, n, tile))


def upper_tiles(n: int, tile: int) -> Iterator[tuple[int, int, slice, slice]]:
    """Yields the tiles on and above the diagonal of an (n, n) matrix: numbers, rows, columns."""
    for i, rows in enumerate(spans(n, tile)):
        for j, cols in enumerate(spans(n, tile)):
            if i <= j:
                yield i, j, rows, cols


def scaled(x: Tensor, center: Tensor, width: float, dtype: torch.dtype) -> Tensor:
    """(x - center) / width, evaluated in float64 and rounded once to ``dtype``. (n, d)"""
    return ((x.detach().double() - center) / width).to(dtype)


def center_of(p: Tensor, q: Tensor) -> Tensor:
    """Mean of the two samples' means, in float64: distances are differences from it. (d,)"""
    return 0.5 * (p.detach().double().mean(0) + q.detach().double().mean(0))


def augmented(x: Tensor) -> tuple[Tensor, Tensor]:
    """Factors F, H (n, d + 2) with F_i . H_j = x_i . x_j - |x_i|^2 / 2 - |x_j|^2 / 2."""
    minus_half = -0.5 * x.square().sum(1, keepdim=True)
    one = torch.ones_like(minus_half)
    return torch.cat((x, minus_half, one), 1), torch.cat((x, one, minus_half), 1)


def log_kernel(left: Tensor, right: Tensor) -> Tensor:
    """-|x_i - y_j|^2 / 2 from ``augmented`` rows of x (n, d + 2) and y (m, d + 2). (n, m)"""
    return (left @ right.T).clamp_(max=0.0)


def rounding(x: Tensor) -> float:
    """Rounding error of ``log_kernel`` in x's precision, as a fraction of one. x: (n, d)"""
    return float(x.square().sum(1).max()) * torch.finfo(x.dtype).eps


def median_width(
    states_p: Tensor,
    states_q: Tensor | None = None,
    *,
    num_samples: int = 1000,
    generator: torch.Generator | None = None,
) -> float:
    """Median of the pairwise distances, the usual first guess of a kernel width.

    Args:
        states_p: (n, d), a sample, best standardized.
        states_q: (m, d), a second sample to pool with the first.
        num_samples: at most so many rows, drawn without replacement, are compared.
        generator: a CPU generator for the draw; None takes torch's global one.

    Returns:
        The median, in the units of the samples.

    Raises:
        ValueError: if a shape is wrong, fewer than two rows are left, or the median is zero.
    """
    check_matrix("states_p", states_p)
    pooled = states_p.detach()
    if states_q is not None:
        check_matrix("states_q", states_q)
        check_alike("states_q", states_q, "states_p", states_p)
        check_columns("states_q", states_q, "states_p", states_p)
        pooled = torch.cat((pooled, states_q.detach()))
    if min(num_samples, len(pooled)) < 2:
        raise ValueError(f"a median distance needs 2 rows, got {min(num_samples, len(pooled))}")
    if len(pooled) > num_samples:
        rows = torch.randperm(len(pooled), generator=generator)[:num_samples]
        pooled = pooled[rows.to(pooled.device)]
    median = float(torch.pdist(pooled.double()).median())
    if median == 0.0:
        raise ValueError(f"the median distance of {len(pooled)} rows is 0: set the width by hand")
    return median


class StateGram:
    r"""State kernels K^{ab}_ij = exp(-|s^a_i - s^b_j|^2 / (2 h^2)), a, b in {p, q}, with row sums.

    Nothing here depends on the actions, so one object serves every epoch and minibatch of an
    iteration. If both samples have the same states, all four Grams are one symmetric matrix.

    Attributes:
        width: h.
        same: whether states_p and states_q are equal, row by row.
        log_pp, log_pq: (n,) float64, log sum_j K^{pp}_ij and log sum_j K^{pq}_ij.
        log_qq, log_qp: (m,) float64, the same for the rows of q.
        shift: cross tiles hold K^{pq} exp(-shift), against underflow of distant samples.
        narrow: whether sums over actions last ran as sums of small numbers; a hint, kept by them.
        exact: whether the cross tiles underflow even so; sums then have to run in log space.
    """

    def __init__(
        self,
        states_p: Tensor,
        states_q: Tensor | None = None,
        *,
        width: float,
        tile: int = TILE,
        store: bool = True,
    ) -> None:
        """Computes the row sums.

        Args:
            states_p: (n, d_s).
            states_q: (m, d_s); None for the states of p.
            width: h, in the units of the states.
            tile: rows and columns of a tile.
            store: keep the tiles, n^2 / 2 numbers for equal states, else 2 n^2; if False, every
                call makes them again, with memory linear in n.

        Raises:
            ValueError: if shapes, dtypes, devices, the width or the tile size do not fit.
        """
        states_q = states_p if states_q is None else states_q
        for name, states in (("states_p", states_p), ("states_q", states_q)):
            check_matrix(name, states)
        check_alike("states_q", states_q, "states_p", states_p)
        check_columns("states_q", states_q, "states_p", states_p)
        if tile < 1:
            raise ValueError(f"tile must be at least 1, got {tile}")
        self.width, self.tile, self.store = check_positive("state_width", width), tile, store
        self.dtype, self.device = states_p.dtype, states_p.device
        self.shapes = (tuple(states_p.shape), tuple(states_q.shape))
        self.same = states_p is states_q or (
            states_p.shape == states_q.shape and torch.equal(states_p, states_q)
        )
        self._states = (states_p.detach(), states_q.detach())
        self._center = center_of(states_p, states_q)
        self._factors = self._make_factors(states_p.dtype)
        self._tiles: dict[tuple[str, int, int], Tensor] = {}
        self.shift, self.narrow = 0.0, False
        self._sum_rows()

    def _make_factors(self, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
        """Augmented states; in float64 if ``dtype`` would round exponents too coarsely."""
        p, q = (scaled(s, self._center, self.width, dtype) for s in self._states)
        if dtype != torch.float64 and max(rounding(p), rounding(q)) > LOGIT_ERROR:
            return self._make_factors(torch.float64)
        factors_p = augmented(p)
        return {"p": factors_p, "q": factors_p if self.same else augmented(q)}

    def double_factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Augmented states of p and q in float64, for sums in log space; (n, d_s + 2) each."""
        return self._make_factors(torch.float64)

    def _sum_rows(self) -> None:
        self.log_pp = self._self_sums("pp")
        if self.same:
            self.log_qq = self.log_pq = self.log_qp = self.log_pp
            self.exact = False
            return
        self.log_qq = self._self_sums("qq")
        self.log_pq, self.log_qp = self._cross_sums()
        low, high = torch.cat((self.log_pq, self.log_qp)).aminmax()
        self.shift = 0.5 * float(low + high)
        self.exact = float(high - low) > MAX_LOG_RANGE

    def _self_sums(self, pair: str) -> Tensor:
        """Returns log sum_j K_ij of one sample: never below 0, as K_ii = 1. (n,)"""
        n = len(self._factors[pair[0]][0])
        total = torch.zeros(n, dtype=torch.float64, device=self.device)
        for i, j, rows, cols in upper_tiles(n, self.tile):
            tile = self.block(pair, i, j)
            total[rows] += tile.sum(1).double()
            if i < j:
                total[cols] += tile.sum(0).double()
        return total.log()

    def _cross_sums(self) -> tuple[Tensor, Tensor]:
        """Returns log sum_j K^{pq}_ij and log sum_i K^{pq}_ij, however small. (n,), (m,)"""
        left, right = self._factors["p"][0], self._factors["q"][1]
        by_row = torch.full((len(left),), -torch.inf, dtype=torch.float64, device=self.device)
        by_col = torch.full((len(right),), -torch.inf, dtype=torch.float64, device=self.device)
        for rows in spans(len(left), self.tile):
            for cols in spans(len(right), self.tile):
                tile = log_kernel(left[rows], right[cols])
                by_row[rows] = torch.logaddexp(by_row[rows], tile.logsumexp(1).double())
                by_col[cols] = torch.logaddexp(by_col[cols], tile.logsumexp(0).double())
        return by_row, by_col

    def block(self, pair: str, i: int, j: int) -> Tensor:
        """Tile (i, j) of K^{pair}; of K^{pq} exp(-shift) for ``pq``; not to be written to.

        Args:
            pair: ``pp``, ``qq`` or ``pq``.
            i: tile row.
            j: tile column; for one sample, or equal states, at least i.

        Returns:
            (<= tile, <= tile), in the dtype of the states.
        """
        key = ("pp" if self.same else pair, i, j)
        tile = self._tiles.get(key)
        if tile is None:
            tile = self._make_block(key[0], i, j)
            if self.store:
                self._tiles[key] = tile
        return tile

    def _make_block(self, pair: str, i: int, j: int) -> Tensor:
        left, right = self._factors[pair[0]][0], self._factors[pair[1]][1]
        size = self.tile
        tile = log_kernel(left[i * size : (i + 1) * size], right[j * size : (j + 1) * size])
        if pair == "pq":
            tile -= self.shift
        elif i == j:
            tile.diagonal().zero_()
        return torch.threshold_(tile, FLUSH, -torch.inf).exp_().to(self.dtype)
