"""Physics engines behind one contract."""

from madpo_isaac.sim.base import (
    BRIDGES,
    ENGINES,
    Sim,
    SimConfig,
    WarpConfig,
    check_device,
    engine_for,
)
from madpo_isaac.sim.factory import make_sim

__all__ = [
    "BRIDGES",
    "ENGINES",
    "Sim",
    "SimConfig",
    "WarpConfig",
    "check_device",
    "engine_for",
    "make_sim",
]
