"""HAPPO (Kuba et al., 2022): heterogeneous-agent PPO, Eq. 1 and 2 of the MADPO paper."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from madpo_isaac.algos.base import OnPolicy
from madpo_isaac.algos.batch import AgentView, Batch
from madpo_isaac.algos.registry import register_algorithm
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.algos.steps import Stats


@register_algorithm("happo", AlgoConfig)
class HAPPO(OnPolicy):
    """Updates agents one after another; each update takes account of the changes before it.

    Each agent ascends the clipped objective of Eq. 1 with the factor M of Eq. 2: the advantage
    times ``preceding_ratio``, the product of pi_new / pi_old of the agents already updated. The
    order is drawn again in each iteration, unless ``agent_order`` says otherwise.

    Algorithms that change a part of the sequence override the hooks :meth:`agent_order`,
    :meth:`weighted_advantage` and :meth:`update_agent`.
    """

    def update_actors(self, batch: Batch) -> dict[str, Tensor]:
        """Updates all agents in sequence; returns metrics by name."""
        metrics: dict[str, Tensor] = {}
        preceding_ratio = torch.ones_like(batch.advantage)
        for p in self.agent_order():
            view = self.view(batch, p, self.weighted_advantage(batch, preceding_ratio))
            self.begin_agent(view)
            stats = {**self.update_agent(view), "preceding_ratio": preceding_ratio.mean()}
            preceding_ratio = preceding_ratio * self.finish_agent(view, stats)
            metrics.update({f"agent{p}/{name}": value for name, value in stats.items()})
        return metrics

    def agent_order(self) -> Iterable[int]:
        """Returns the order in which agents are updated in this iteration.

        It may be an iterator that decides after each agent.
        """
        indices = range(len(self.agents))
        if self.config.agent_order == "default":
            return list(indices)
        if self.config.agent_order == "spec":
            roles = list(dict.fromkeys(agent.role for agent in self.agents))
            return sorted(indices, key=lambda p: roles.index(self.agents[p].role))
        return torch.randperm(len(self.agents), generator=self.order_generator).tolist()

    def weighted_advantage(self, batch: Batch, preceding_ratio: Tensor) -> Tensor:
        """The factor M of Eq. 2, by which the next agent's ratio is multiplied. (B,)"""
        return preceding_ratio * batch.advantage

    def update_agent(self, view: AgentView) -> dict[str, Tensor]:
        """Ascends the clipped objective (Eq. 1) of one agent; returns means over its steps."""
        history: list[Stats] = []
        for _ in range(self.config.epochs):
            for minibatch in self.minibatches(len(view.obs)):
                history += self.policy_step([view], minibatch)
            self.rates.follow(view.index, history[-1]["kl"])
        rate = self.rates.of(view.index).clone()
        return {**self.step_metrics(view.index, history), "lr": rate}
