"""ShadowHandOver: one hand throws an egg to the other, palms up, 0.25 m away."""

from __future__ import annotations

from dataclasses import dataclass

from madpo_isaac.tasks.hands.goal_task import GoalConfig, GoalTask
from madpo_isaac.tasks.hands.objects import egg_at
from madpo_isaac.tasks.hands.scene import Placement
from madpo_isaac.tasks.hands.stage import View

PLACEMENTS = (
    Placement((0.0, 0.0, 0.5), (1.0, 0.0, 0.0, 0.0)),
    Placement((0.0, -1.0, 0.5), (0.0, 0.0, 0.0, 1.0)),
)
EGG = egg_at((0.0, -0.39, 0.54))


@dataclass
class Config(GoalConfig):
    """Settings of ShadowHandOver."""


class Env(GoalTask):
    """Two fixed hands, palms up and fingertips 3 cm apart, and the egg above the first."""

    placements = PLACEMENTS
    solids = (EGG,)
    goals = ((0.0, -0.64, 0.54),)
    view = View(lookat=(0.0, -0.5, 0.47), distance=0.95, azimuth=30.0, elevation=-38.0)
