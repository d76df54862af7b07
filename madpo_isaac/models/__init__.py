"""Networks and normalizers."""

from madpo_isaac.models.actor import Actors
from madpo_isaac.models.critic import Critic, LocalCritic, ValueNetworks
from madpo_isaac.models.modules import NetworkSpec
from madpo_isaac.models.moments import Moments
from madpo_isaac.models.networks import NETWORKS, register_network
from madpo_isaac.models.protocol import Networks, NetworkSettings
from madpo_isaac.models.residual import ResidualNetwork
from madpo_isaac.models.value_norm import ValueNorm

__all__ = [
    "NETWORKS",
    "Actors",
    "Critic",
    "LocalCritic",
    "Moments",
    "NetworkSettings",
    "NetworkSpec",
    "Networks",
    "ResidualNetwork",
    "ValueNetworks",
    "ValueNorm",
    "register_network",
]
