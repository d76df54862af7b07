"""How MADPO compares policies on a batch: in closed form, or by kernels from samples."""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.algos.batch import AgentView, Batch, Rows, count
from madpo_isaac.divergence import StateGram, bounded_divergence, kernel_cs, median_width
from madpo_isaac.divergence.presets import DivergenceConfig, Preset
from madpo_isaac.env import AgentSpec

Columns = slice | Tensor
"""Of actions: a slice, or indices (k,) on the device, where a list would be copied every time."""

STORED_GRAM = 6000
"""Largest batch whose state Grams are kept, rather than made again for every call."""


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
    """Measures divergences from fixed policies, summed over rows of the batch."""

    batch: Batch

    def __init__(self, agents: Sequence[AgentSpec], device: torch.device) -> None:
        self._pairs = {
            (i, j): tuple(_columns(c, device) for c in shared_actions(a, b))
            for i, a in enumerate(agents)
            for j, b in enumerate(agents)
            if i != j
        }

    def begin(self, batch: Batch) -> None:
        """Called once an iteration, before any comparison."""
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
        own: Columns,
        mean: Tensor,
        std: Tensor,
        other: FixedPolicy,
        theirs: Columns,
    ) -> Tensor:
        """Divergence from another agent, the columns ``own`` against ``theirs``. ()"""

    def inter(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """Divergence from another agent in the actions both have, times the number of rows. ()"""
        own, theirs = self._pairs[view.index, other.view.index]
        if not count_columns(own):
            return mean.new_zeros(())
        return self.paired(view, rows, own, mean, std, other, theirs)

    def state_dict(self) -> dict[str, Any]:
        """Returns what the next iteration's comparisons need of this one."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        del state


class GaussianComparison(Comparison):
    """The closed form, bounded, per state."""

    def __init__(
        self, agents: Sequence[AgentSpec], config: DivergenceConfig, device: torch.device
    ) -> None:
        super().__init__(agents, device)
        self._config = config

    def _sum(self, mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor) -> Tensor:
        cfg = self._config
        assert cfg.bound is not None
        assert cfg.scale is not None
        return bounded_divergence(
            cfg.kind, cfg.bound, cfg.scale, mean_p, std_p, mean_q, std_q
        ).sum()

    def intra(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """See :meth:`Comparison.intra`."""
        del view
        return self._sum(mean, std, other.mean[rows], other.std)

    def paired(
        self,
        view: AgentView,
        rows: Rows,
        own: Columns,
        mean: Tensor,
        std: Tensor,
        other: FixedPolicy,
        theirs: Columns,
    ) -> Tensor:
        """See :meth:`Comparison.paired`."""
        del view
        their_mean = other.mean[rows][:, theirs]
        return self._sum(mean[:, own], std[own], their_mean, other.std[theirs])


class KernelComparison(Comparison):
    """The estimators of ``kernel_cs``: of Yu et al., of Eq. 11 and of the released code.

    * ``yu``: actions reparameterised with noise common to both policies, in units of the fixed
      policy's std, given the standardised joint state; median width of the states.
    * ``printed``: reparameterised actions against the previous iteration's own trajectory, or
      against the predecessor's actions in the same states; width sigma for both.
    * ``official``: log-probabilities per dimension of each agent's own stored actions given its
      own observations (the joint states where two agents observe different numbers); widths 1.
    """

    def __init__(
        self,
        agents: Sequence[AgentSpec],
        config: DivergenceConfig,
        preset: Preset,
        seed: int,
        device: torch.device,
    ) -> None:
        super().__init__(agents, device)
        self._agents, self._variant = agents, preset.estimator
        # Its own draws, so that those of the training do not depend on the preset.
        self._generator = torch.Generator().manual_seed(seed)
        self._sigma, self._rows = config.sigma, config.rows
        self._grams: dict[Any, StateGram] = {}
        self._seen: dict[int, Tensor] = {}
        self._trajectory: tuple[Tensor, Tensor] | None = None
        self._last: tuple[Tensor, ...] | None = None

    def begin(self, batch: Batch) -> None:
        """Draws the iteration's noise and forgets the Grams of the last one."""
        super().begin(batch)
        self._grams.clear()
        self._seen.clear()
        if self._variant == "printed":
            # Copies: the batch is a view of the rollout, which the next iteration overwrites.
            trajectory = batch.state.clone(), batch.action.clone()
            last, self._trajectory = self._trajectory, trajectory
            # A checkpoint's is on the CPU.
            self._last = last and tuple(
                cycled(x.to(batch.state.device), len(batch.state)) for x in last
            )
        width = max(agent.act_dim for agent in self._agents)
        noise = torch.randn(len(batch.state), width, generator=self._generator)
        self._noise = noise.to(batch.state.device)
        self._states, self._width = batch.state, 1.0
        if self._variant == "printed":
            assert self._sigma is not None
            self._width = self._sigma
        if self._variant == "yu":
            std = batch.state.std(0, correction=0)
            self._states = (batch.state - batch.state.mean(0)) / std.where(std > 1e-6, 1.0)
            with contextlib.suppress(ValueError):  # states all alike, which no width tells apart
                self._width = median_width(self._states, generator=self._generator)

    def intra(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """See :meth:`Comparison.intra`."""
        if self._variant == "official":
            action = view.action[rows]
            features = log_density(mean, std, action)
            theirs = log_density(other.mean[rows], other.std, action)
            seen = self._observed(view.index)
            return self._measure(("own", view.index), rows, seen, features, seen, theirs)
        p, q = self._actions(rows, mean, std, other.mean[rows], other.std)
        if self._variant == "printed":
            if self._last is None:
                return mean.new_zeros(())
            states, actions = self._last
            q = actions[:, self._agents[view.index].action_slice][rows]
            return self._measure("last", rows, self._states, p, states, q)
        return self._measure("joint", rows, self._states, p, self._states, q)

    def paired(
        self,
        view: AgentView,
        rows: Rows,
        own: Columns,
        mean: Tensor,
        std: Tensor,
        other: FixedPolicy,
        theirs: Columns,
    ) -> Tensor:
        """See :meth:`Comparison.paired`."""
        if self._variant != "official":
            their_mean = other.mean[rows][:, theirs]
            p, q = self._actions(rows, mean[:, own], std[own], their_mean, other.std[theirs])
            return self._measure("joint", rows, self._states, p, self._states, q)
        p = log_density(mean, std, view.action[rows])[:, own]
        q = log_density(other.mean[rows], other.std, other.view.action[rows])[:, theirs]
        key = (view.index, other.view.index)
        states = tuple(map(self._observed, key))
        if states[0].shape != states[1].shape:
            key, states = "joint", (self._states, self._states)
        return self._measure(key, rows, states[0], p, states[1], q)

    def _observed(self, p: int) -> Tensor:
        """Agent p's observations of the batch. (B, obs_dim)"""
        if p not in self._seen:
            self._seen[p] = self._agents[p].observe(self.batch.state)
        return self._seen[p]

    def _actions(
        self, rows: Rows, mean: Tensor, std: Tensor, their_mean: Tensor, their_std: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both policies' actions under the same noise, in the units of the variant. (b, d)"""
        noise = self._noise[rows, : mean.shape[1]]
        unit = their_std if self._variant == "yu" else 1.0
        return (mean + std * noise) / unit, (their_mean + their_std * noise) / unit

    def _measure(
        self, key: Any, rows: Rows, states_p: Tensor, p: Tensor, states_q: Tensor, q: Tensor
    ) -> Tensor:
        """The divergence of samples given states (B, d_s), times the number of rows. ()"""
        whole = count(rows) == len(states_p)
        gram = self._gram(key, states_p, states_q) if whole and isinstance(rows, slice) else None
        if gram is None:
            states_p, states_q = states_p[rows], states_q[rows]
        value = kernel_cs(
            states_p,
            p,
            states_q,
            q,
            state_width=self._width,
            action_width=self._width if self._variant == "printed" else 1.0,
            variant=self._variant,
            gram=gram,
            rows=self._rows,
            generator=self._generator,
        )
        return len(p) * value

    def _gram(self, key: Any, states_p: Tensor, states_q: Tensor) -> StateGram:
        """The state part of a comparison, which no epoch changes."""
        if key not in self._grams:
            store = len(states_p) <= STORED_GRAM
            self._grams[key] = StateGram(states_p, states_q, width=self._width, store=store)
        return self._grams[key]

    def state_dict(self) -> dict[str, Any]:
        """The generator, and the trajectory that ``printed`` compares with."""
        saved = {"generator": self._generator.get_state()}
        if self._trajectory is not None:
            saved.update(zip(("state", "action"), self._trajectory, strict=True))
        return saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self._generator.set_state(state["generator"])
        if "state" in state:
            self._trajectory = state["state"].clone(), state["action"].clone()


def cycled(x: Tensor, size: int) -> Tensor:
    """The first ``size`` rows of ``x``, which starts again where it ends. (size, ...)

    Batches differ in size where worlds went bad.
    """
    return x if len(x) == size else x[torch.arange(size, device=x.device) % len(x)]


def log_density(mean: Tensor, std: Tensor, action: Tensor) -> Tensor:
    """Log-density of each dimension of a diagonal Gaussian. (b, d), (d,), (b, d) -> (b, d)"""
    z = (action - mean) / std
    return -0.5 * z.square() - std.log() - 0.5 * math.log(2.0 * math.pi)


def shared_actions(a: AgentSpec, b: AgentSpec) -> tuple[slice | list[int], slice | list[int]]:
    """Which actions of two agents correspond: those of equal roles, in the order of ``a``.

    Where an agent names no roles, the leading ones that both have.
    """
    if not (a.action_roles and b.action_roles):
        leading = slice(0, min(a.act_dim, b.act_dim))
        return leading, leading
    if a.action_roles == b.action_roles:
        return slice(0, a.act_dim), slice(0, b.act_dim)
    theirs = {role: k for k, role in enumerate(_numbered(b.action_roles))}
    own = [k for k, role in enumerate(_numbered(a.action_roles)) if role in theirs]
    roles = list(_numbered(a.action_roles))
    return own, [theirs[roles[k]] for k in own]


def _columns(columns: slice | list[int], device: torch.device) -> Columns:
    if isinstance(columns, slice):
        return columns
    return torch.tensor(columns, dtype=torch.long, device=device)


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
