"""Networks and normalisers."""

from madpo_isaac.models.actor import Actors
from madpo_isaac.models.critic import Critic, LocalCritic, ValueNetworks
from madpo_isaac.models.moments import Moments
from madpo_isaac.models.value_norm import ValueNorm

__all__ = ["Actors", "Critic", "LocalCritic", "Moments", "ValueNetworks", "ValueNorm"]
