"""Comparisons of policies by kernel estimators of the divergence, from samples of actions."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from madpo_isaac.algos.batch import AgentView, Batch, Rows, count, take
from madpo_isaac.algos.comparison import Columns, Comparison, FixedPolicy
from madpo_isaac.divergence import StateGram, kernel_cs, median_width
from madpo_isaac.divergence.presets import DivergenceConfig
from madpo_isaac.env import AgentSpec

STORED_GRAM = 6000
"""Largest batch whose state Grams are stored; for a larger batch every call computes them again."""


class KernelComparison(Comparison):
    """Base of the comparisons by an estimator of ``kernel_cs``; each has its states and actions.

    The kernel widths are 1 unless a subclass sets them.
    """

    is_sum_over_rows = False
    variant: ClassVar[str]
    """Name of the estimator in ``kernel_cs``."""

    def __init__(
        self, agents: Sequence[AgentSpec], config: DivergenceConfig, seed: int, device: torch.device
    ) -> None:
        super().__init__(agents, config, seed, device)
        self._agents = agents
        self._generator = torch.Generator().manual_seed(seed)
        self._grams: dict[Any, StateGram] = {}
        self._state_width = self._action_width = 1.0

    def begin(self, batch: Batch) -> None:
        """Draws the iteration's noise and forgets the Grams of the last one."""
        super().begin(batch)
        self._grams.clear()
        width = max(agent.act_dim for agent in self._agents)
        noise = torch.randn(len(batch.state), width, generator=self._generator)
        self._noise = noise.to(batch.state.device)
        self._states = batch.state

    def paired(
        self,
        view: AgentView,
        rows: Rows,
        columns: tuple[Columns, Columns],
        mean: Tensor,
        std: Tensor,
        other: FixedPolicy,
    ) -> Tensor:
        """See :meth:`Comparison.paired`; the actions have the same noise and states."""
        own, theirs = columns
        del view
        their_mean, their_std = take(other.mean, rows)[:, theirs], other.std[theirs]
        p, q = self._actions(rows, mean[:, own], std[own], their_mean, their_std)
        p, q = (self.in_units(actions, their_std) for actions in (p, q))
        return self._measure("joint", rows, self._states, p, self._states, q)

    def in_units(self, actions: Tensor, std: Tensor) -> Tensor:
        """The actions (b, d) that :meth:`paired` compares with a policy that has ``std`` (d,)."""
        del std
        return actions

    def _actions(
        self, rows: Rows, mean: Tensor, std: Tensor, their_mean: Tensor, their_std: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Both policies' actions under the same noise. (b, d) each"""
        noise = take(self._noise[:, : mean.shape[1]], rows)
        return mean + std * noise, their_mean + their_std * noise

    def _measure(
        self, key: Any, rows: Rows, states_p: Tensor, p: Tensor, states_q: Tensor, q: Tensor
    ) -> Tensor:
        """The divergence of samples given states (B, d_s), times the number of rows. ()

        The state Grams of a whole batch are kept under ``key`` for the iteration.
        """
        whole = count(rows) == len(states_p)
        gram = self._gram(key, states_p, states_q) if whole and isinstance(rows, slice) else None
        if gram is None:
            states_p, states_q = take(states_p, rows), take(states_q, rows)
        value = kernel_cs(
            states_p,
            p,
            states_q,
            q,
            state_width=self._state_width,
            action_width=self._action_width,
            variant=self.variant,
            gram=gram,
            rows=self._config.rows and min(self._config.rows, len(p)),
            generator=self._generator,
        )
        return len(p) * value

    def _gram(self, key: Any, states_p: Tensor, states_q: Tensor) -> StateGram:
        """The state part of a comparison, which no epoch changes."""
        if key not in self._grams:
            store = len(states_p) <= STORED_GRAM
            width = self._state_width
            self._grams[key] = StateGram(states_p, states_q, width=width, store=store)
        return self._grams[key]

    def state_dict(self) -> dict[str, Any]:
        """Returns the generator's state."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        self._generator.set_state(state["generator"])


class YuComparison(KernelComparison):
    """The consistent estimator of Yu et al. (2023), between reparameterized actions.

    The actions of both policies have the same noise and are in units of the fixed policy's
    standard deviation. The states are the standardized joint ones, and their kernel has the
    median of their distances as its width.
    """

    variant = "yu"

    def begin(self, batch: Batch) -> None:
        """Standardizes the states and measures their median distance."""
        super().begin(batch)
        std = batch.state.std(0, correction=0)
        self._states = (batch.state - batch.state.mean(0)) / std.where(std > 1e-6, 1.0)
        self._state_width = 1.0
        with contextlib.suppress(ValueError):  # states all alike, which no width tells apart
            self._state_width = median_width(self._states, generator=self._generator)

    def intra(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """See :meth:`Comparison.intra`."""
        everything = slice(0, mean.shape[1])
        return self.paired(view, rows, (everything, everything), mean, std, other)

    def in_units(self, actions: Tensor, std: Tensor) -> Tensor:
        """Divides by the fixed policy's standard deviation."""
        return actions / std


class PrintedComparison(KernelComparison):
    """The estimator of Eq. 11 as printed, between reparameterized actions; both widths are sigma.

    An agent's own past is the trajectory of the previous iteration, its states and actions; the
    predecessor's actions are reparameterized in the same states with the same noise.
    """

    variant = "printed"

    def __init__(
        self, agents: Sequence[AgentSpec], config: DivergenceConfig, seed: int, device: torch.device
    ) -> None:
        super().__init__(agents, config, seed, device)
        assert config.sigma is not None
        self._state_width = self._action_width = config.sigma
        self._trajectory: tuple[Tensor, Tensor] | None = None
        self._last: tuple[Tensor, ...] | None = None

    def begin(self, batch: Batch) -> None:
        """Moves on to this iteration's trajectory."""
        super().begin(batch)
        # Copies: the batch is a view of the rollout, which the next iteration overwrites.
        trajectory = batch.state.clone(), batch.action.clone()
        last, self._trajectory = self._trajectory, trajectory
        # A checkpoint's is on the CPU.
        self._last = last and tuple(
            cycled(x.to(batch.state.device), len(batch.state)) for x in last
        )

    def intra(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """See :meth:`Comparison.intra`."""
        if self._last is None:
            return mean.new_zeros(())
        p, _ = self._actions(rows, mean, std, take(other.mean, rows), other.std)
        states, actions = self._last
        q = take(actions[:, self._agents[view.index].action_slice], rows)
        return self._measure("last", rows, self._states, p, states, q)

    def state_dict(self) -> dict[str, Any]:
        """Adds the trajectory to compare with."""
        saved = super().state_dict()
        if self._trajectory is not None:
            saved.update(zip(("state", "action"), self._trajectory, strict=True))
        return saved

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        super().load_state_dict(state)
        if "state" in state:
            self._trajectory = state["state"].clone(), state["action"].clone()


class OfficialComparison(KernelComparison):
    """The estimator of the released code, between log-probabilities per action dimension.

    They are those of each agent's own stored actions given its own observations, or given the
    joint states where two agents observe different numbers. Both widths are 1.
    """

    variant = "official"

    def begin(self, batch: Batch) -> None:
        """Forgets the observations of the last iteration."""
        super().begin(batch)
        self._seen: dict[int, Tensor] = {}

    def intra(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor, other: FixedPolicy
    ) -> Tensor:
        """See :meth:`Comparison.intra`."""
        action, seen = take(view.action, rows), self._observed(view.index)
        p = log_density(mean, std, action)
        q = log_density(take(other.mean, rows), other.std, action)
        return self._measure(("own", view.index), rows, seen, p, seen, q)

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
        own, theirs = columns
        p = log_density(mean, std, take(view.action, rows))[:, own]
        q = log_density(take(other.mean, rows), other.std, take(other.view.action, rows))[:, theirs]
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


def cycled(x: Tensor, size: int) -> Tensor:
    """The first ``size`` rows of ``x``, which starts again where it ends. (size, ...)

    Batches differ in size where steps were invalid.
    """
    return x if len(x) == size else x[torch.arange(size, device=x.device) % len(x)]


def log_density(mean: Tensor, std: Tensor, action: Tensor) -> Tensor:
    """Log-density of each dimension of a diagonal Gaussian. (b, d), (d,), (b, d) -> (b, d)"""
    z = (action - mean) / std
    return -0.5 * z.square() - std.log() - 0.5 * math.log(2.0 * math.pi)
