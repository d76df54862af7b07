"""Physics engines behind one contract."""

from madpo_isaac.sim.base import ENGINES, Sim, make_sim

__all__ = ["ENGINES", "Sim", "make_sim"]
