"""ShadowHandBlockStack: two hands stack two blocks in the middle of a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.env import Reading
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands import readings
from madpo_isaac.tasks.hands.block_task import BlockTask
from madpo_isaac.tasks.hands.blocks import BLOCKS, Blocks
from madpo_isaac.tasks.hands.reach import ReachConfig
from madpo_isaac.tasks.hands.scene import Placement
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.settings import size


@dataclass
class Config(ReachConfig):
    """Settings of ShadowHandBlockStack; the numbers are Bi-DexHands'."""

    episode_length: int = 250
    max_finger_distance: float = setting(0.75, size)
    reset_block_pos_noise: float = setting(0.0, size)
    """Half-width of the noise of the blocks' start along x and y, meters."""
    target_distance: float = setting(0.07, size)
    """Meters from each block to its place below which stacking is rewarded."""


class Env(BlockTask):
    """Hand 0 takes the right block (at +y) to the middle, hand 1 puts the left one on top.

    The tail of the joint state: of each block pose xyzw (7), linear velocity (3) and angular
    velocity x 0.2 (3), world frame; four zeros, which keep the size of Bi-DexHands.
    """

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]
    transition_scale = 0.2
    orientation_scale = 0.02
    placements = (
        Placement.euler((0.0, 0.6, 0.7), 3.14159, 0.0, 3.14),
        Placement.euler((0.0, -0.6, 0.7), 3.14159, 0.0, 0.0),
    )
    view = View(lookat=(0.0, 0.0, 0.64), distance=1.2, azimuth=150.0, elevation=-38.0)
    starts = ((0.0, 0.1, 0.625), (0.0, -0.1, 0.625))
    goals = ((0.0, 0.0, 0.625), (0.0, 0.0, 0.675))

    def __init__(self, config: Config, num_envs: int, **kwargs: Any) -> None:
        super().__init__(config, num_envs, **kwargs)
        self._starts = torch.tensor(self.starts, device=self.device)

    def scenery(self) -> Blocks:
        """Returns the blocks on their table."""
        return Blocks(
            self.starts, self.goals, hand_friction=0.5, cube_friction=0.25, table_friction=0.2
        )

    def reset_object(self, mask: Tensor) -> None:
        """Moves the blocks by noise in the plane of the table."""
        noise = self.config.reset_block_pos_noise * self.uniform(4).unflatten(1, (2, 2))
        self.write_rows(self.poses[..., :2], mask, self._starts[:, :2] + noise)

    def observe_tail(self, out: Tensor) -> None:
        """Writes the blocks into ``out`` (N, 30)."""
        self.observe_free(self.poses, self.velocities, out[:, :26].unflatten(1, (2, 13)))
        out[:, 26:] = 0.0

    def tail_readings(self) -> list[Reading]:
        """Returns the meaning of the columns of the tail."""
        blocks = [column for b in BLOCKS for column in self.free_readings(b)]
        return blocks + readings.constant("zero", 4)

    def score(
        self, handles: Tensor, fingers: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reward: 1.5 - finger distances + near * 2 (0.24 - d) + close * 50 (0.05 - h).

        d sums the blocks' distances to their places, close says that each is below
        ``target_distance``, h is how far the left block is from its height.
        """
        distance = self.distances(handles)
        close = (distance < self.config.target_distance).all(1)
        stack = close * 50.0 * (0.05 - (handles - self.goal_positions)[:, 1, 2].abs())
        carry = near * 2.0 * (0.24 - distance.sum(1))
        reward = 1.5 - fingers.sum(1) + carry + stack
        terms = {"right_distance": distance[:, 0], "left_distance": distance[:, 1]}
        return reward, stack > 1.0, terms
