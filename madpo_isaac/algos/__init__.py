"""Algorithms by the name users type."""

from madpo_isaac.algos.a2po import A2PO
from madpo_isaac.algos.base import OnPolicy
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.algos.hatrpo import HATRPO
from madpo_isaac.algos.ippo import IPPO
from madpo_isaac.algos.madpo import MADPO
from madpo_isaac.algos.mappo import MAPPO
from madpo_isaac.algos.registry import ALGO_SCHEMAS, ALGORITHMS, register_algorithm

AGENT_METRICS = tuple(
    dict.fromkeys(name for algorithm in ALGORITHMS.values() for name in algorithm.agent_metrics)
)
"""Metrics of an agent that only some algorithms have; in runs of the others they are null."""

__all__ = [
    "A2PO",
    "AGENT_METRICS",
    "ALGORITHMS",
    "ALGO_SCHEMAS",
    "HAPPO",
    "HATRPO",
    "IPPO",
    "MADPO",
    "MAPPO",
    "OnPolicy",
    "register_algorithm",
]
