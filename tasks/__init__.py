"""Tasks: their simulations, observations, rewards and agents."""

from madpo_isaac.tasks.registry import TASKS, make

__all__ = ["TASKS", "make"]
