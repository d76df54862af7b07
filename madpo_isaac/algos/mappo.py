"""MAPPO (Yu et al., 2022): all agents are updated at once, with a centralised critic."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.algos.base import AgentView, Batch, OnPolicy, Rows, count
from madpo_isaac.config import MappoConfig


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
        history = [
            self._step(views, rows)
            for _ in range(self.config.epochs)
            for rows in self._minibatches(len(batch.state))
        ]
        metrics: dict[str, Tensor] = {}
        for view, means in zip(views, torch.stack(history).mean(0), strict=True):
            loss, clip_fraction, grad_norm = means
            stats = {"loss": loss, "clip_fraction": clip_fraction, "grad_norm": grad_norm}
            stats["preceding_ratio"] = one.mean()
            self.finish_agent(view, stats)
            metrics.update({f"agent{view.index}/{name}": x for name, x in stats.items()})
        return metrics

    def _step(self, views: list[AgentView], minibatch: Rows) -> Tensor:
        """One gradient step; returns each agent's loss, clip fraction and gradient norm. (P, 3)"""
        size, sums = count(minibatch), []
        for optimiser in self.actor_optimisers:
            optimiser.zero_grad()
        for view in views:
            self.begin_minibatch(view, minibatch)
            tiles = [self._actor_tile(view, rows, size) for rows in self._tiles(minibatch)]
            sums.append(torch.stack(tiles).sum(0))
        # The views' gradients have added up in the rows they share.
        self.actors.stack.grad.div_(len(views) // len(self.actor_optimisers))
        norms = torch.stack([optimiser.step() for optimiser in self.actor_optimisers])
        return torch.cat((torch.stack(sums), norms.expand(len(views))[:, None]), dim=1)
