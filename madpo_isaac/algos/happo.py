"""HAPPO (Kuba et al., 2022): heterogeneous-agent PPO, Eq. 1 and 2 of the MADPO paper."""

from __future__ import annotations

from madpo_isaac.algos.base import OnPolicy
from madpo_isaac.algos.registry import register_algorithm
from madpo_isaac.algos.settings import AlgoConfig


@register_algorithm("happo", AlgoConfig)
class HAPPO(OnPolicy):
    """Agents are updated one after another on the advantage times ``preceding_ratio``.

    That is the shared update itself: a random order drawn each iteration, the clipped objective
    of Eq. 2 with M = preceding_ratio * advantage, preceding_ratio being the product of
    pi_new / pi_old of the agents already updated.
    """
