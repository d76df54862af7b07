"""Tasks: their simulations, observations, rewards and agents."""

from madpo_isaac.tasks.registry import TASKS, make, register_task

__all__ = ["TASKS", "make", "register_task"]
