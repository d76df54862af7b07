"""Algorithms by the name users type."""

from __future__ import annotations

from madpo_isaac.algos.base import OnPolicy
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.algos.madpo import MADPO

ALGORITHMS: dict[str, type[OnPolicy]] = {"happo": HAPPO, "madpo": MADPO}

__all__ = ["ALGORITHMS", "HAPPO", "MADPO", "OnPolicy"]
