"""Physics engines behind one contract."""

from madpo_isaac.sim.base import ENGINES, Sim, SimConfig, engine_for, make_sim

__all__ = ["ENGINES", "Sim", "SimConfig", "engine_for", "make_sim"]
