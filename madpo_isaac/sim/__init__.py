"""Physics engines behind one contract."""

from madpo_isaac.sim.base import BRIDGES, ENGINES, Sim, check_device, make_sim

__all__ = ["BRIDGES", "ENGINES", "Sim", "check_device", "make_sim"]
