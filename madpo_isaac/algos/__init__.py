"""Algorithms by the name users type."""

from __future__ import annotations

from madpo_isaac.algos.a2po import A2PO
from madpo_isaac.algos.base import OnPolicy
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.algos.hatrpo import HATRPO
from madpo_isaac.algos.ippo import IPPO
from madpo_isaac.algos.madpo import MADPO
from madpo_isaac.algos.mappo import MAPPO

ALGORITHMS: dict[str, type[OnPolicy]] = {
    "happo": HAPPO,
    "hatrpo": HATRPO,
    "ippo": IPPO,
    "madpo": MADPO,
    "mappo": MAPPO,
    "a2po": A2PO,
}

AGENT_METRICS = tuple(
    dict.fromkeys(name for algorithm in ALGORITHMS.values() for name in algorithm.agent_metrics)
)
"""What any of them reports of an agent beyond what all do; runs of the others have null there."""

__all__ = [
    "A2PO",
    "AGENT_METRICS",
    "ALGORITHMS",
    "HAPPO",
    "HATRPO",
    "IPPO",
    "MADPO",
    "MAPPO",
    "OnPolicy",
]
