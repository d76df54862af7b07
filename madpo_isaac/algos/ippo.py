"""IPPO (de Witt et al., 2020): MAPPO with a value of each agent's own observation."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.algos.batch import Batch
from madpo_isaac.algos.mappo import MAPPO, MappoConfig
from madpo_isaac.algos.registry import register_algorithm
from madpo_isaac.env import VecEnv
from madpo_isaac.models import LocalCritic, ValueNetworks


@register_algorithm("ippo", MappoConfig)
class IPPO(MAPPO):
    """Each agent learns from its own observations and from the reward that all agents share.

    Values, returns and advantages have a column per agent. One normalizer scales all returns.
    """

    def build_critic(self, env: VecEnv, generator: torch.Generator) -> ValueNetworks:
        """Returns a critic of each agent's observation, shared if the actors are."""
        return LocalCritic(self.actors, self.config.networks(generator, env.device))

    def advantage_of(self, batch: Batch, p: int) -> Tensor:
        """Agent p's own advantage. (B,)"""
        return batch.advantage[:, p]
