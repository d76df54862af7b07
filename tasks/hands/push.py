"""ShadowHandPushBlock: each hand pushes a block over a table to a place of its own."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from madpo_isaac.env import Reading
from madpo_isaac.settings import setting
from madpo_isaac.tasks.hands import readings
from madpo_isaac.tasks.hands.block_task import BlockTask
from madpo_isaac.tasks.hands.blocks import BLOCKS, Blocks
from madpo_isaac.tasks.hands.reach import ABOVE_TABLE, ReachConfig
from madpo_isaac.tasks.hands.stage import View
from madpo_isaac.tasks.settings import size


@dataclass
class Config(ReachConfig):
    """Settings of ShadowHandPushBlock; the numbers are Bi-DexHands'."""

    episode_length: int = 125
    max_finger_distance: float = setting(1.2, size)
    success_distance: float = setting(0.1, size)
    """Meters from each block to its place up to which the episode counts as a success."""


class Env(BlockTask):
    """Hand 0 pushes the right block (at +y), hand 1 the left one, 0.2 m away from themselves.

    The tail of the joint state: the right block's pose xyzw (7), linear velocity (3), angular
    velocity x 0.2 (3) and position once more (3), the left one's position (3), the places of the
    left (3) and the right one (3), five zeros, which keep the size of Bi-DexHands; world frame.
    """

    config: Config  # pyright: ignore[reportIncompatibleVariableOverride]
    transition_scale = 0.5
    orientation_scale = 0.1
    placements = ABOVE_TABLE
    view = View(lookat=(0.1, 0.0, 0.66), distance=1.25, azimuth=30.0, elevation=-40.0)
    starts = ((0.0, 0.2, 0.625), (0.0, -0.2, 0.625))
    goals = ((-0.2, 0.2, 0.625), (-0.2, -0.2, 0.625))

    def scenery(self) -> Blocks:
        """Returns the blocks on their table."""
        return Blocks(self.starts, self.goals, table_friction=0.5, table_depth=1.0)

    def observe_tail(self, out: Tensor) -> None:
        """Writes blocks and places into ``out`` (N, 30)."""
        self.observe_free(self.poses[:, 0], self.velocities[:, 0], out[:, :13])
        out[:, 13:19] = self.handles().flatten(1)
        out[:, 19:25] = self.goal_positions.flip(0).flatten()
        out[:, 25:] = 0.0

    def tail_readings(self) -> list[Reading]:
        """Returns the meaning of the columns of the tail."""
        right, left = BLOCKS
        again = readings.of_points(f"{right}/again", left, f"{left}/place", f"{right}/place")
        zeros = readings.constant("zero", 5)
        return self.free_readings(right) + again + zeros

    def score(
        self, handles: Tensor, fingers: Tensor, near: Tensor
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reward: 7.4 - finger distances - 5 times the distances of the blocks to their places."""
        distance = self.distances(handles)
        reward = 7.4 - fingers.sum(1) - 5.0 * distance.sum(1)
        terms = {"right_distance": distance[:, 0], "left_distance": distance[:, 1]}
        return reward, (distance <= self.config.success_distance).all(1), terms
