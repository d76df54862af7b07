"""What is simulated and rewarded."""

from madpo_isaac.tasks.registry import TASKS, make

__all__ = ["TASKS", "make"]
