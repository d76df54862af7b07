"""Stands for Bi-DexHands: the interface of its MultiVecTaskPython over a made-up task.

FAKE_BIDEXHANDS says what is to go wrong.
"""

import argparse
import os
import sys
import time
from types import SimpleNamespace

FAULT = os.environ.get("FAKE_BIDEXHANDS", "")
HAND, TAIL, ACTIONS = 187, 24, 20


def make(task_name, algo):
    if pid_file := os.environ.get("FAKE_PID"):
        with open(pid_file, "w") as file:
            file.write(str(os.getpid()))
    if FAULT == "hang":
        time.sleep(1000)
    if FAULT == "quit":  # as base_task.py does
        print("*** Failed to create sim")
        sys.exit()
    if FAULT == "raise":
        raise ValueError("something is\nwrong")
    if algo != "happo" or not os.path.isfile(f"cfg/{task_name}.yaml"):
        raise FileNotFoundError(f"cfg/{task_name}.yaml")
    import torch

    parser = argparse.ArgumentParser()
    for name in ("num_envs", "episode_length", "seed"):
        parser.add_argument(f"--{name}", type=int)
    for name in ("sim_device", "rl_device", "pipeline"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--headless", action="store_true")
    args = parser.parse_args()
    assert args.headless and (args.sim_device, args.rl_device, args.pipeline) == ("cpu",) * 2 + (
        "cpu",
    )
    kind = "ShadowHandPen" if FAULT == "other task" else task_name
    return VecTask(type(kind, (Task,), {})(args, torch), torch)


class Task:
    """State: a counter of episodes, the age, the seed, then the last action, then zeros.

    An episode ends by itself when the first and the third action exceed 0.9.
    """

    control_freq_inv = 1

    def __init__(self, args, torch):
        self.torch = torch
        n, self.max_episode_length = args.num_envs, args.episode_length
        self.sim_params = SimpleNamespace(dt=1 / 60)
        self.obs_buf = torch.zeros(n, 2 * HAND + TAIL)
        self.obs_buf[:, 2] = args.seed % 1000
        self.rew_buf = torch.zeros(n)
        self.reset_buf = torch.ones(n, dtype=torch.long)
        self.progress_buf = torch.zeros(n, dtype=torch.long)
        self.successes = torch.zeros(n)

    def step(self, actions):
        ids = self.reset_buf.nonzero()[:, 0]
        self.obs_buf[ids, 0] += 1
        self.progress_buf[ids] = 0
        self.successes[ids] = 0
        self.progress_buf += 1
        self.obs_buf[:, 1] = self.progress_buf
        self.obs_buf[:, 10:50] = actions
        self.rew_buf[:] = actions.sum(1)
        self.successes[:] = self.torch.maximum(self.successes, (actions[:, 1] > 0.9).float())
        ends = (actions[:, 0] > 0.9) & (actions[:, 2] > 0.9)
        over = ends | (self.progress_buf >= self.max_episode_length)
        self.reset_buf[:] = over.long()
        if FAULT == "nan" and self.progress_buf[0] == 3:
            self.obs_buf[0, 7] = float("nan")
        if FAULT == "raise in step" and self.progress_buf[0] == 3:
            raise RuntimeError("PhysX is out of memory")
        if FAULT == "die in step" and self.progress_buf[0] == 3:
            os.abort()


class VecTask:
    num_actions, num_hand_obs, rl_device = ACTIONS, HAND, "cpu"

    def __init__(self, task, torch):
        self.task, self.torch = task, torch

    def _views(self):
        state = self.task.obs_buf.clamp(-5.0, 5.0)
        return state[:, None, : HAND + TAIL].repeat(1, 2, 1), state[:, None].repeat(1, 2, 1)

    def reset(self):
        n = len(self.task.rew_buf)
        self.task.step(0.01 * (1 - 2 * self.torch.rand(n, 2 * ACTIONS)))
        return (*self._views(), None)

    def step(self, actions):
        self.task.step(self.torch.hstack(tuple(actions)).clamp(-1.0, 1.0))
        reward = self.task.rew_buf[:, None, None].repeat(1, 2, 1)
        done = self.task.reset_buf[:, None].repeat(1, 2)
        return (*self._views(), reward, done, self.torch.empty(2, 0), None)
