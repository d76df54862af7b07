"""Playing whole episodes, every environment equally many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from madpo_isaac.env import VecEnv


def play_episodes(
    env: VecEnv, act: Callable[[Tensor], Tensor], episodes: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Plays ``episodes`` full episodes in every environment with the actions of ``act``.

    Every environment counts equally often, so short episodes are not over-represented.

    Returns:
        Return, length and success of each episode, three tensors (num_envs * episodes,).
    """
    shape = (episodes, env.num_envs)
    scores = torch.zeros(3, *shape, device=env.device)
    running = torch.zeros(2, env.num_envs, device=env.device)
    finished = torch.zeros(env.num_envs, dtype=torch.long, device=env.device)
    columns = torch.arange(env.num_envs, device=env.device)
    state = env.reset()
    for _ in range(episodes * env.max_episode_length):
        step = env.step(act(state))
        running += torch.stack((step.reward, torch.ones_like(step.reward)))
        counted = (step.terminated | step.truncated) & (finished < episodes)
        row = finished.clamp(max=episodes - 1)
        result = torch.stack((running[0], running[1], step.log["success"]))
        scores[:, row, columns] = torch.where(counted, result, scores[:, row, columns])
        finished += counted
        running.masked_fill_(step.terminated | step.truncated, 0.0)
        state = step.state
    return scores[0].flatten(), scores[1].flatten(), scores[2].flatten()
