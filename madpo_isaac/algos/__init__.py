"""Algorithms by the name users type."""

from __future__ import annotations

from madpo_isaac.algos.a2po import A2PO
from madpo_isaac.algos.base import OnPolicy
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.algos.hatrpo import HATRPO
from madpo_isaac.algos.madpo import MADPO

ALGORITHMS: dict[str, type[OnPolicy]] = {
    "happo": HAPPO,
    "madpo": MADPO,
    "hatrpo": HATRPO,
    "a2po": A2PO,
}

__all__ = ["A2PO", "ALGORITHMS", "HAPPO", "HATRPO", "MADPO", "OnPolicy"]
