"""MuJoCo Warp against the CPU engine: the same states and actions, one control step.

    python benchmarks/parity.py [device=cuda:0] [tasks=ShadowHandOver,...] [states=10]
                                [out=parity.json]

Environments of the CPU engine move under random actions for some steps; their positions,
velocities and controls are copied to Warp, and both take the same step. Shown are the largest and
the median difference over states of position, velocity, joint state and reward.
"""

from __future__ import annotations

import torch
from gpu import show
from settings import read, run, save
from torch import Tensor

from madpo_isaac import tasks
from madpo_isaac.env import VecEnv

TASKS = ["ShadowHandOver", "ShadowHandDoorOpenOutward", "Ant-4x2"]
WARM_UP = 12


def compare(task: str, device: str, states: int) -> dict:
    """Differences after one control step from ``states`` random states."""
    reference: VecEnv = tasks.make(task, states, sim="mujoco", seed=1, num_threads=1)
    warp: VecEnv = tasks.make(task, states, device=device, sim="warp", seed=1)
    generator = torch.Generator().manual_seed(2)

    def action() -> Tensor:
        return 2.0 * torch.rand(states, reference.action_dim, generator=generator) - 1.0

    reference.reset()
    warp.reset()
    for _ in range(WARM_UP):
        reference.step(action())
    for name in ("qpos", "qvel", "ctrl"):
        getattr(warp.sim, name).copy_(getattr(reference.sim, name))
    chosen = action()
    ours, theirs = reference.step(chosen), warp.step(chosen.to(warp.device))
    pairs = {
        "qpos": (reference.sim.qpos, warp.sim.qpos),
        "qvel": (reference.sim.qvel, warp.sim.qvel),
        "state": (ours.final_state, theirs.final_state),
        "reward": (ours.reward[:, None], theirs.reward[:, None]),
    }
    row: dict = {"task": task, "bad": int(theirs.diverged.sum())}
    for name, (a, b) in pairs.items():
        error = (a - b.cpu()).abs().amax(1)
        row |= {f"{name}_max": float(error.max()), f"{name}_median": float(error.median())}
    return row


def main(argv: list[str]) -> None:
    given = read(argv, device="cuda:0", tasks=TASKS, states=10)
    rows = [compare(task, given.device, given.states) for task in given.tasks]
    show("Differences between engines after one control step", rows)
    save(given, parity=rows)


if __name__ == "__main__":
    run(main, __doc__)
