"""Networks and normalisers."""

from madpo_isaac.models.actor import Actors
from madpo_isaac.models.critic import Critic
from madpo_isaac.models.value_norm import ValueNorm

__all__ = ["Actors", "Critic", "ValueNorm"]
