"""Algorithms by the name users type."""

from __future__ import annotations

from madpo_isaac.algos.base import OnPolicy
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.algos.ippo import IPPO
from madpo_isaac.algos.madpo import MADPO
from madpo_isaac.algos.mappo import MAPPO

ALGORITHMS: dict[str, type[OnPolicy]] = {
    "happo": HAPPO,
    "ippo": IPPO,
    "madpo": MADPO,
    "mappo": MAPPO,
}

__all__ = ["ALGORITHMS", "HAPPO", "IPPO", "MADPO", "MAPPO", "OnPolicy"]
