"""The data of an update: a rollout's valid steps as one batch, and one agent's share of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from madpo_isaac.algos.storage import Rollout
from madpo_isaac.system.distributed import Ranks

Rows = slice | Tensor
"""Rows of a batch: a slice, which needs no copy, or indices (b,)."""


@dataclass
class Batch:
    """The valid steps of a rollout, flattened to B rows (T N unless some steps were invalid)."""

    rollout: Rollout
    """The rollout that the rows come from."""
    state: Tensor
    """(B, S)"""
    action: Tensor
    """(B, A)"""
    log_prob: Tensor
    """Behavior policies' log-densities. (B, P)"""
    advantage: Tensor
    """Normalized advantages. (B,); (B, P) if every agent has its own value, as the next two"""
    returns: Tensor
    """(B,)"""
    value: Tensor
    """Normalized value predictions that ``value_clip`` starts from: those of the collection, in
    A2PO of the latest estimate. (B,)"""
    rows: Tensor | None = None
    """Indices of the rows among the T N steps (B,); None for all."""

    def pick(self, x: Tensor) -> Tensor:
        """The batch's rows of something with a value for every step. (T, N, ...) -> (B, ...)"""
        return pick(x, self.rows)

    def scatter(self, x: Tensor, fill: float) -> Tensor:
        """Puts rows (B,) back in their places, ``fill`` elsewhere. (T, N)"""
        shape = self.rollout.reward.shape
        if self.rows is None:
            return x.view(shape)
        return x.new_full((shape.numel(),), fill).index_copy(0, self.rows, x).view(shape)


@dataclass
class AgentView:
    """The data of one agent's update."""

    index: int
    clip: float
    """Clip range of the ratio."""
    obs: Tensor
    """Input of the first layer, see :meth:`madpo_isaac.models.Actors.inputs`. (B, in_dim)"""
    action: Tensor
    """(B, act_dim)"""
    old_log_prob: Tensor
    """(B,)"""
    weighted_advantage: Tensor
    """The M of Eq. 2: the advantage, in a sequence times the preceding ratio. (B,)"""
    value_target: Tensor | None = None
    """The normalized return, for networks that predict it. (B,)"""
    factor: Tensor | None = None
    """Multiplies pi_new / pi_old in the objective; the product is clipped. None for 1. (B,)"""


def pick(x: Tensor, rows: Tensor | None) -> Tensor:
    """Flattens time and environments and takes ``rows`` of them. (T, N, ...) -> (B, ...)"""
    flat = x.flatten(0, 1)
    return flat if rows is None else flat[rows]


def take(x: Tensor, rows: Rows) -> Tensor:
    """Some rows of a batch. (B, ...) -> (b, ...)"""
    # Six times as fast on a CPU as indexing with a tensor.
    return x[rows] if isinstance(rows, slice) else x.index_select(0, rows)


def normalized(advantage: Tensor, ranks: Ranks) -> Tensor:
    """Advantages (B, ...) with mean 0 and standard deviation 1 over the rows of all processes."""
    # In float64: the rounding of a float32 mean could be as large as the advantages' spread.
    exact = advantage.double()
    centered = exact - ranks.mean(exact.mean(0))
    std = ranks.mean(centered.square().mean(0)).sqrt()
    return (centered / (std + 1e-5)).to(advantage.dtype)


def count(rows: Rows) -> int:
    """Number of rows."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)
