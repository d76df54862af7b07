"""A video of a policy."""

from __future__ import annotations

from pathlib import Path

from madpo_isaac import console
from madpo_isaac.env import Policy, Step, VecEnv
from madpo_isaac.evaluation.player import play_steps
from madpo_isaac.evaluation.video import Clip
from madpo_isaac.runs.metrics import EpisodeTracker
from madpo_isaac.settings import MAX_COUNT
from madpo_isaac.tasks.settings import integer


def film(policy: Policy, env: VecEnv, path: str | Path, steps: int = 300, envs: int = 1) -> None:
    """Films a policy from a reset on and prints the path of the video.

    Args:
        policy: maps joint states (N, S) to joint actions (N, A).
        env: N environments of a task with pictures.
        path: the file; its name ends with .mp4 or .gif.
        steps: number of steps to film.
        envs: number of environments to show side by side, the first ones of the N.

    Raises:
        UserError: the file cannot be written, and an existing file is not changed; or a number is
            below 1.
    """
    steps = integer("steps", steps, 1, MAX_COUNT)
    envs = integer("envs", envs, 1, MAX_COUNT)
    clip = Clip(env, Path(path), min(envs, env.num_envs), steps)
    tracker = EpisodeTracker(env.num_envs, env.device)

    def watch(step: Step) -> None:
        tracker.add(step)
        clip.add(step, tracker.returns)

    try:
        play_steps(env, policy, steps, watch)
    finally:
        clip.close()
    console.info(f"wrote {path}")
