"""ShadowHandTwoCatchUnderarm: two floating hands swap two eggs by throwing both."""

from __future__ import annotations

from dataclasses import dataclass

from madpo_isaac.tasks.hands.catch import CatchConfig, Underarm
from madpo_isaac.tasks.hands.objects import SECOND, egg_at


@dataclass
class Config(CatchConfig):
    """Settings of ShadowHandTwoCatchUnderarm."""


class Env(Underarm):
    """The hands of ShadowHandCatchUnderarm with an egg above each; rewards are summed."""

    # Half-way both goals would be in one place, where there is no room for two eggs.
    shapes = ("progress", "action_rate", "hold")
    solids = (egg_at((0.0, -0.39, 0.54)), egg_at((0.0, -0.78, 0.54), **SECOND))
    goals = ((0.0, -0.79, 0.54), (0.0, -0.38, 0.54))
