"""Base of the tasks with two blocks on a table."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from madpo_isaac.tasks.hands.blocks import BLOCKS
from madpo_isaac.tasks.hands.objects import Vector
from madpo_isaac.tasks.hands.reach import ReachConfig, ReachTask


class BlockTask(ReachTask):
    """Base of tasks in which each hand moves a block to a place: the handles are the blocks."""

    tail_dim = 30
    objects = BLOCKS
    starts: ClassVar[tuple[Vector, Vector]]
    """Initial positions of the right and the left block, meters."""
    goals: ClassVar[tuple[Vector, Vector]]
    """Their places, meters."""

    def __init__(self, config: ReachConfig, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        self.poses, self.velocities = self.free_bodies(BLOCKS[0], 2)
        self.goal_positions = torch.tensor(self.goals, device=self.device)
        """``goals`` as a tensor. (2, 3)"""

    def handles(self) -> Tensor:
        """Centers of the blocks, meters. (N, 2, 3)"""
        return self.poses[..., :3]

    def distances(self, handles: Tensor) -> Tensor:
        """Returns the distances of the blocks to their places, meters. (N, 2)"""
        return torch.linalg.vector_norm(handles - self.goal_positions, dim=-1)

    def remaining(self, handles: Tensor) -> Tensor:
        """Returns the sum of the blocks' distances to their places, meters. (N,)"""
        return self.distances(handles).sum(1)
