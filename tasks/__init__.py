"""What is simulated and rewarded."""

from tasks.registry import TASKS, make

__all__ = ["TASKS", "make"]
