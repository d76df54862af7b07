"""MADPO's comparisons of policies on a batch, and the one in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from madpo_isaac.algos.batch import AgentView, Batch, Rows, take
from madpo_isaac.divergence import bounded_divergence
from madpo_isaac.divergence.presets import DivergenceConfig
from madpo_isaac.env import AgentSpec

Columns = slice | Tensor
"""Columns of actions: a slice, or indices (k,) on the device; a list would be copied every time."""

Gaussian = tuple[Tensor, Tensor]
"""Mean (b, d) and standard deviation (d,) of a policy."""


@dataclass
class FixedPolicy:
    """A policy to compare with, evaluated once on a whole batch; pairs align by row."""

    view: AgentView
    """Its agent's observations and stored actions."""
    mean: Tensor
    """(B, d)"""
    std: Tensor
    """(d,)"""


class Comparison(ABC):
    """Measures divergences from fixed policies, summed over rows of the batch.

    Args:
        agents: all agents.
        config: MADPO's bonus, completed by its preset.
        seed: seed of the comparison's own random draws, on which the training's do not depend.
        device: where the policies are.
    """

    is_sum_over_rows: ClassVar[bool]
    """True if the divergence of a batch is the sum of the divergences of its parts."""
    batch: Batch

    def __init__(
        self, agents: Sequence[AgentSpec], config: DivergenceConfig, seed: int, device: torch.device
    ) -> None:
        del seed
        self._config = config
        self._pairs = {
            (i, j): _columns(*shared_actions(a, b), device)
            for i, a in enumerate(agents)
            for j, b in enumerate(agents)
            if i != j
        }

    def begin(self, batch: Batch) -> None:
        """Is called once per iteration, before any comparison."""
        self.batch = batch

    @abstractmethod
    def intra(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """Divergence of an agent from its own former policy, times the number of rows. ()"""

    @abstractmethod
    def paired(
        self,
        view: AgentView,
        rows: Rows,
        columns: tuple[Columns, Columns],
        mean: Tensor,
        std: Tensor,
        other: FixedPolicy,
    ) -> Tensor:
        """Divergence from another agent in ``columns`` of both, see :meth:`columns`.

        Times the number of rows. ()
        """

    def columns(self, p: int, q: int) -> tuple[Columns, Columns] | None:
        """Columns of p's and of q's actions that correspond; None if none do."""
        columns = self._pairs[p, q]
        return columns if count_columns(columns[0]) else None

    def inter(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """Divergence from another agent in the actions both have, times the number of rows. ()"""
        columns = self.columns(view.index, other.view.index)
        if columns is None:
            return mean.new_zeros(())
        return self.paired(view, rows, columns, mean, std, other)

    def state_dict(self) -> dict[str, Any]:
        """Returns the part of this iteration that the comparisons of the next one need."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        del state


class GaussianComparison(Comparison):
    """The closed form, bounded, per state."""

    is_sum_over_rows = True

    def change(self, mean: Tensor, std: Tensor, their_mean: Tensor, their_std: Tensor) -> Tensor:
        """Divergence of an agent from its own former policy in each of b states. (b,)"""
        return self._per_state(self._config.scale, mean, std, their_mean, their_std)

    def distance(self, columns: tuple[Columns, Columns], own: Gaussian, theirs: Gaussian) -> Tensor:
        """Divergence from another agent in each of b states. (b,)

        Args:
            columns: the actions to compare, see :meth:`Comparison.columns`.
            own: mean (b, d) and standard deviation (d,).
            theirs: those of the other agent.
        """
        (mean, std), (their_mean, their_std) = own, theirs
        mean, std = mean[:, columns[0]], std[columns[0]]
        their_mean, their_std = their_mean[:, columns[1]], their_std[columns[1]]
        cfg = self._config
        if cfg.standardize_inter:
            mean, their_mean = mean / std, their_mean / their_std
            std = their_std = torch.ones_like(std)
        return self._per_state(cfg.inter_scale or cfg.scale, mean, std, their_mean, their_std)

    def _per_state(
        self, scale: float | None, mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor
    ) -> Tensor:
        cfg = self._config
        assert cfg.bound is not None
        assert scale is not None
        return bounded_divergence(cfg.kind, cfg.bound, scale, mean_p, std_p, mean_q, std_q)

    def intra(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """See :meth:`Comparison.intra`."""
        del view
        return self.change(mean, std, take(other.mean, rows), other.std).sum()

    def paired(
        self,
        view: AgentView,
        rows: Rows,
        columns: tuple[Columns, Columns],
        mean: Tensor,
        std: Tensor,
        other: FixedPolicy,
    ) -> Tensor:
        """See :meth:`Comparison.paired`."""
        del view
        return self.distance(columns, (mean, std), (take(other.mean, rows), other.std)).sum()


def shared_actions(a: AgentSpec, b: AgentSpec) -> tuple[slice | list[int], slice | list[int]]:
    """Returns two agents' actions that correspond: those of equal roles, in the order of ``a``.

    If an agent has no roles, the first actions of both agents correspond, as many as both have.
    """
    if not (a.action_roles and b.action_roles):
        leading = slice(0, min(a.act_dim, b.act_dim))
        return leading, leading
    if a.action_roles == b.action_roles:
        return slice(0, a.act_dim), slice(0, b.act_dim)
    own, theirs = ({role: k for k, role in enumerate(_numbered(x.action_roles))} for x in (a, b))
    shared = [role for role in own if role in theirs]
    return [own[role] for role in shared], [theirs[role] for role in shared]


def _columns(
    own: slice | list[int], theirs: slice | list[int], device: torch.device
) -> tuple[Columns, Columns]:
    def on_device(x: slice | list[int]) -> Columns:
        return x if isinstance(x, slice) else torch.tensor(x, dtype=torch.long, device=device)

    return on_device(own), on_device(theirs)


def count_columns(columns: Columns) -> int:
    """Number of columns."""
    return columns.stop if isinstance(columns, slice) else len(columns)


def _numbered(roles: Sequence[str]) -> list[tuple[str, int]]:
    """Tells several actions of one role apart by their order."""
    seen: Counter[str] = Counter()
    numbered = []
    for role in roles:
        numbered.append((role, seen[role]))
        seen[role] += 1
    return numbered
