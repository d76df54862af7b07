"""A2PO (Wang et al., ICLR 2023): agent-by-agent policy optimization."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from madpo_isaac.algos.batch import AgentView, Batch, normalized
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.algos.registry import register_algorithm
from madpo_isaac.algos.settings import AGENT_ORDERS, AlgoConfig
from madpo_isaac.algos.steps import Stats
from madpo_isaac.settings import one_of, setting, unit
from madpo_isaac.system.distributed import ALONE, Ranks


@dataclass
class A2poConfig(AlgoConfig):
    """HAPPO's hyper-parameters and A2PO's order and clip ranges."""

    agent_order: str = setting("semi_greedy", one_of((*AGENT_ORDERS, "semi_greedy")))
    """semi_greedy: by turns the agent whose actions matter most and a random one; or one of the
    orders of the other algorithms."""
    clip_weight: float = setting(0.5, unit)
    """The k-th of n agents has the clip range clip * (clip_weight * k / n + 1 - clip_weight)."""


@register_algorithm("a2po", A2poConfig)
class A2PO(HAPPO):
    """Every agent learns from the advantage of a joint policy that includes all updates before it.

    With rho_t the product of pi_new / pi_old of the agents already updated, an agent's advantage is

        A_t = delta_t + sum_{k >= 1} gamma^k [prod_{j=1..k} lambda min(1, rho_{t+j})] delta_{t+k}

    within the episode, with values that are evaluated again. The objective is E[min(l A,
    clip(l, 1 - e, 1 + e) A)] with l = pi_new / pi_old * clip(rho, 1 - e / 2, 1 + e / 2). The k-th
    of n agents has the range e = clip * (clip_weight * k / n + 1 - clip_weight).

    The critic learns after each agent from that agent's returns. The agents divide its
    ``critic_epochs`` among them, so an iteration has as many steps of the critic as in the other
    algorithms. The state after a truncated step is not stored, so it keeps its value of the
    collection.
    """

    config: A2poConfig

    def begin_update(self, batch: Batch) -> None:
        """Starts a new sequence of agents."""
        self._batch = batch
        # In units of the return: the normalizer moves while the critic learns between agents.
        self._final_value = self.value_norm.denormalize(batch.rollout.final_value)
        self._preceding_ratio = torch.ones_like(batch.advantage)
        self._turn = 0
        self._critic_history: list[Stats] = []

    def agent_order(self) -> Iterable[int]:
        """Semi-greedy: the remaining agent with the largest score, a random one, and so on."""
        if self.config.agent_order != "semi_greedy":
            return super().agent_order()
        scores = influence(self._batch.advantage, self._batch.log_prob, self.ranks)
        remaining = scores.argsort(descending=True, stable=True).tolist()
        order: list[int] = []
        while remaining:
            order.append(remaining.pop(0))
            if remaining:
                drawn = torch.randint(len(remaining), (), generator=self.order_generator)
                order.append(remaining.pop(int(drawn)))
        return order

    def weighted_advantage(self, batch: Batch, preceding_ratio: Tensor) -> Tensor:
        """The next agent's advantage, normalized; the preceding ratio goes into its ratio. (B,)"""
        if self._turn > 0:
            self._fit_share(batch)
            self._estimate_again(batch, preceding_ratio)
        self._preceding_ratio = preceding_ratio
        self._turn += 1
        return batch.advantage

    def begin_agent(self, view: AgentView) -> None:
        """Sets the clip range, which widens from agent to agent."""
        weight, done = self.config.clip_weight, self._turn / len(self.agents)
        view.clip = self.config.clip * (weight * done + 1.0 - weight)

    def update_agent(self, view: AgentView) -> dict[str, Tensor]:
        """Ascends the clipped objective on the ratio times the clipped preceding ratio."""
        half = 0.5 * view.clip
        factor = self._preceding_ratio.clamp(1.0 - half, 1.0 + half)
        return super().update_agent(dataclasses.replace(view, factor=factor))

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Fits the critic to the last agent's returns; returns means over all agents' steps."""
        self._fit_share(batch)
        return self.critic_metrics(self._critic_history)

    def _fit_share(self, batch: Batch) -> None:
        """Fits the critic for the share of ``critic_epochs`` of the agent just updated."""
        total, agents = self.config.critic_epochs, len(self.agents)
        share = total * self._turn // agents - total * (self._turn - 1) // agents
        self._critic_history += self.fit_critic(batch, share)

    def _estimate_again(self, batch: Batch, preceding_ratio: Tensor) -> None:
        """Computes values, advantages and returns again, for the present policies."""
        rollout = batch.rollout
        value, next_value = self.evaluate_states(
            rollout, self.value_norm.normalize(self._final_value)
        )
        trace = batch.scatter(preceding_ratio.clamp(max=1.0), 1.0)
        advantage = self.estimate_advantage(rollout, value, next_value, trace)
        batch.advantage = normalized(batch.pick(advantage), self.ranks)
        batch.returns = batch.pick(advantage + self.value_norm.denormalize(value))
        batch.value = batch.pick(value)


def influence(advantage: Tensor, log_prob: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Returns the part of the advantage's variance that each agent's own action accounts for.

    With z the agent's standardized action, log pi = const - |z|^2 / 2. Where the advantage is
    linear in independent z_i with coefficients b_i(s), -Cov(A^2, log pi_i) = E|b_i(s)|^2, that is
    the mean square of the agent's local advantage E[A | s, a_i]. The authors rank by mean |A / V|
    with a critic for each agent; one common critic gives every agent the same A / V.

    Args:
        advantage: (B,)
        log_prob: log-density of each agent's action under the behavior policy. (B, P)
        ranks: the processes whose batches count.

    Returns:
        Scores, larger for more. (P,)
    """
    square = advantage.double().square()
    centered = square - ranks.mean(square.mean())
    return ranks.mean(-centered @ log_prob.double() / len(advantage))
