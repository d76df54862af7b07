"""MAPPO (Yu et al., 2022): all agents are updated at once, with a centralized critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from madpo_isaac.algos.base import OnPolicy
from madpo_isaac.algos.batch import Batch
from madpo_isaac.algos.registry import register_algorithm
from madpo_isaac.algos.settings import AlgoConfig, RunSettings
from madpo_isaac.algos.steps import Stats
from madpo_isaac.errors import UserError


@dataclass
class MappoConfig(AlgoConfig):
    """Hyper-parameters of MAPPO and IPPO, which update all agents at once."""

    share_parameters: bool = True
    """True: all agents share one network, and with IPPO one critic; False: each agent has its
    own."""

    def check(self, run: RunSettings) -> None:
        """See :meth:`AlgoConfig.check`."""
        super().check(run)
        if self.agent_order != "random":
            raise UserError(
                f"algo.agent_order={self.agent_order} has no effect: {self.name} updates all "
                "agents at once."
            )


@register_algorithm("mappo", MappoConfig)
class MAPPO(OnPolicy):
    """Ascends the clipped objective of all agents at once, regardless of the others' changes.

    The preceding ratio stays 1. All agents take the same minibatches. With ``share_parameters``
    the loss is the mean over the agents, and there is one optimizer. Otherwise each agent has its
    own loss and optimizer.
    """

    config: MappoConfig

    @property
    def shares_parameters(self) -> bool:
        """All agents have one network."""
        return self.config.share_parameters

    def advantage_of(self, batch: Batch, p: int) -> Tensor:
        """Agent p's advantage. (B,)"""
        del p
        return batch.advantage

    def update_actors(self, batch: Batch) -> dict[str, Tensor]:
        """Updates all agents at once; returns metrics by name."""
        indices = range(len(self.agents))
        views = [self.view(batch, p, self.advantage_of(batch, p)) for p in indices]
        for view in views:
            self.begin_agent(view)
        history: list[list[Stats]] = []
        for _ in range(self.config.epochs):
            parts = self.minibatches(len(batch.state))
            history += [self.policy_step(views, minibatch) for minibatch in parts]
            # Agents that share a network share its rate, which follows their mean divergence.
            kls = torch.stack([stats["kl"] for stats in history[-1]])
            for index, kl in enumerate(kls.view(len(self.actor_optimizers), -1).mean(1)):
                self.rates.follow(index, kl)
        one = batch.log_prob.new_ones(())
        metrics: dict[str, Tensor] = {}
        for p, view in enumerate(views):
            own = self.step_metrics(p, [step[p] for step in history])
            own |= {"preceding_ratio": one, "lr": self.rates.of(p).clone()}
            self.finish_agent(view, own)
            metrics.update({f"agent{p}/{name}": value for name, value in own.items()})
        return metrics
