"""One hand without a task, to be looked at."""

from __future__ import annotations

import mujoco
import numpy as np

from madpo_isaac.env import AgentSpec
from madpo_isaac.tasks.hands.hand import Hand
from madpo_isaac.tasks.hands.scene import PREFIX, build_hand
from madpo_isaac.tasks.hands.stage import View


class HandAlone:
    """A hand at the place of a task's first one, in the model's own pose.

    It fulfills :class:`madpo_isaac.evaluation.render.Drawable`; an agent is a part of the hand.

    Args:
        hand: its data.
    """

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        starts = np.cumsum([0, *map(len, hand.parts.values())]).tolist()
        self.agents = tuple(
            AgentSpec(name, slice(start, start + len(joints)), 0, lambda state: state[:, :0])
            for start, (name, joints) in zip(starts, hand.parts.items(), strict=False)
        )
        model = self.scene(visual=True).compile()
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        self._joints = [model.joint(PREFIX + hand.full(name)).id for name in hand.driven]
        self.view = _view(model, data)

    def scene(self, *, visual: bool) -> mujoco.MjSpec:
        """Returns the scene."""
        return build_hand(self._hand, visual=visual)

    def pose(self, data: mujoco.MjData, index: int) -> None:
        """Leaves ``data`` as it is: there is one environment, which does not move."""

    def action_joints(self) -> list[int]:
        """Returns the joint of each drive."""
        return self._joints


def _view(model: mujoco.MjModel, data: mujoco.MjData) -> View:
    """Returns a camera from which all of the hand is seen."""
    shown = [g for g in range(model.ngeom) if model.geom_bodyid[g] > 0]
    center, radius = data.geom_xpos[shown], model.geom_rbound[shown, None]
    low, high = (center - radius).min(0), (center + radius).max(0)
    x, y, z = ((low + high) / 2.0).tolist()
    return View((x, y, z), 1.1 * float(np.linalg.norm(high - low)), 60.0, -45.0)
