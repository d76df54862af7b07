"""Physics engines behind one contract."""

from madpo_isaac.sim.base import Sim, SimConfig, check_device, parse_device
from madpo_isaac.sim.factory import (
    BRIDGES,
    ENGINES,
    SIM_SCHEMAS,
    WarpConfig,
    make_sim,
    register_engine,
)

__all__ = [
    "BRIDGES",
    "ENGINES",
    "SIM_SCHEMAS",
    "Sim",
    "SimConfig",
    "WarpConfig",
    "check_device",
    "make_sim",
    "parse_device",
    "register_engine",
]
