"""MAPPO (Yu et al., 2022): all agents are updated at once, with a centralised critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from madpo_isaac.algos.base import KL, AgentView, Batch, OnPolicy, Rows, count
from madpo_isaac.algos.registry import register_algorithm
from madpo_isaac.algos.settings import AlgoConfig, RunSettings
from madpo_isaac.errors import UserError


@dataclass
class MappoConfig(AlgoConfig):
    """Hyper-parameters of MAPPO and IPPO, which update all agents at once."""

    share_parameters: bool = True
    """One network acts for all agents (IPPO: one values all); False: each has its own."""

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
    """The clipped objective of every agent, none knowing what the others change.

    The preceding ratio stays 1. All agents take the same minibatches. With ``share_parameters``
    the loss is the mean over the agents and one optimiser steps; else each agent has its own.
    """

    config: MappoConfig

    @property
    def shares_parameters(self) -> bool:
        """All agents have one network."""
        return self.config.share_parameters

    def update_actors(self, batch: Batch) -> dict[str, Tensor]:
        """Updates all agents at once; returns metrics by name."""
        one = torch.ones_like(batch.log_prob[:, 0])
        views = [self._view(batch, p, one) for p in range(len(self.agents))]
        for view in views:
            self.begin_agent(view)
        history: list[Tensor] = []
        for _ in range(self.config.epochs):
            history += [self._step(views, rows) for rows in self._minibatches(len(batch.state))]
            # Agents that share a network share its rate, which follows their mean divergence.
            kls = history[-1][:, KL].view(len(self.actor_optimisers), -1).mean(1)
            for index, kl in enumerate(kls):
                self.rates.follow(index, kl)
        metrics: dict[str, Tensor] = {}
        for view in views:
            steps = [rows[view.index] for rows in history]
            stats = {**self.step_metrics(view.index, steps), "preceding_ratio": one.mean()}
            stats["lr"] = self.rates.of(view.index).clone()
            self.finish_agent(view, stats)
            metrics.update({f"agent{view.index}/{name}": x for name, x in stats.items()})
        return metrics

    def _step(self, views: list[AgentView], minibatch: Rows) -> Tensor:
        """One gradient step; returns the agents' rows of a history of steps. (P, 6)"""
        size, sums = self.ranks.count * count(minibatch), []
        for optimiser in self.actor_optimisers:
            optimiser.zero_grad()
        for view in views:
            self.begin_minibatch(view, minibatch)
            tiles = [self._actor_tile(view, rows, size) for rows in self._tiles(minibatch)]
            sums.append(torch.stack(tiles).sum(0))
        # The views' gradients have added up in the rows they share.
        self.actors.stack.grad.div_(len(views) // len(self.actor_optimisers))
        terms = self.ranks.add_up(self.actors.stack.grad, torch.stack(sums))
        # One network for all takes part in the loss of all; else each agent's loss is its own.
        losses = terms.sum(1).view(len(self.actor_optimisers), -1).sum(1)
        steps = zip(self.actor_optimisers, losses, strict=True)
        norms = torch.stack([optimiser.step(loss) for optimiser, loss in steps])
        return torch.cat((terms, norms.expand(len(views))[:, None]), dim=1)
