"""Scenarios: the division of robots' joints among agents."""

from __future__ import annotations

from typing import NamedTuple


class Partition(NamedTuple):
    """A robot whose actuators are dealt to agents in contiguous blocks."""

    robot: str
    num_agents: int
    act_dim: int
    """Actuators of each agent."""

    def block(self, agent: int) -> slice:
        """Columns of the joint action that ``agent`` writes, which are its actuators."""
        return slice(agent * self.act_dim, (agent + 1) * self.act_dim)


SCENARIOS: dict[str, Partition] = {
    f"{robot}-{agents}x{joints}": Partition(robot, agents, joints)
    for robot, agents, joints in (
        ("Ant", 2, 4),
        ("Ant", 4, 2),
        ("Ant", 8, 1),
        ("Ant", 1, 8),
        ("HalfCheetah", 1, 6),
        ("HalfCheetah", 2, 3),
        ("HalfCheetah", 3, 2),
        ("HalfCheetah", 6, 1),
        ("Walker2d", 1, 6),
        ("Walker2d", 2, 3),
        ("Walker2d", 3, 2),
        ("Walker2d", 6, 1),
        ("Humanoid", 1, 17),
        ("Humanoid", 17, 1),
    )
}
"""Scenario by name. Blocks follow the model's actuators, as in HARL: of Ant-2x4, agent 0 drives
legs 4 and 1, agent 1 legs 2 and 3."""

ALIASES: dict[str, str] = {name.replace("-", "-v2-"): name for name in SCENARIOS}
"""The names the papers use, such as ``HalfCheetah-v2-2x3``."""

_ROLES = ("thigh", "shin", "leg", "foot", "hip", "ankle", "abdomen", "knee", "shoulder", "elbow")


def joint_role(joint: str) -> str:
    """Returns a joint's role without its side: ``right_hip_x`` gives ``hip``."""
    return next((role for role in _ROLES if role in joint), joint)
