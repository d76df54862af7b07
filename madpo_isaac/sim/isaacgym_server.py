#!/usr/bin/env python
"""Serves one Bi-DexHands task on Isaac Gym to a trainer in another process.

Runs under the Python that Isaac Gym needs, 3.6 to 3.8, with isaacgym, bidexhands and their
dependencies only; nothing of this project is imported. The trainer starts it with two inherited
file descriptors: a Unix socket and a file to share memory through.

Socket: one line of JSON each way. The first request names the task to build, and the answer
describes it. Further requests are {"do": "reset"} and {"do": "step"}. An answer with "error" is the
last one. The trainer hangs up to end.
Memory: float32 arrays in a row, N environments: action (N, A), state (N, S), reward, done,
truncated, success (N each). The trainer writes the action before a step and reads the rest after.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import sys
from typing import Any

import numpy as np

PROTOCOL = 1
PER_ENV = ("reward", "done", "truncated", "success")
PR_SET_PDEATHSIG = 1


def layout(num_envs: int, action_dim: int, state_dim: int) -> list:
    """Returns name and shape of the shared arrays, in order."""
    wide = [("action", (num_envs, action_dim)), ("state", (num_envs, state_dim))]
    return wide + [(name, (num_envs,)) for name in PER_ENV]


def arrays(memory: mmap.mmap, num_envs: int, action_dim: int, state_dim: int) -> dict:
    """Returns the shared arrays by name."""
    found, start = {}, 0
    for name, shape in layout(num_envs, action_dim, state_dim):
        size = int(np.prod(shape))
        found[name] = np.frombuffer(memory, np.float32, size, start).reshape(shape)
        start += 4 * size
    return found


def version_of(package: str) -> str:
    """Returns the installed version of a package."""
    if sys.version_info >= (3, 8):  # noqa: UP036
        from importlib.metadata import version  # novermin

        return version(package)
    import pkg_resources

    return pkg_resources.get_distribution(package).version


def build(request: dict) -> Any:
    """Makes the task as bidexhands.make does, which reads the command line and a relative path."""
    import isaacgym  # noqa: F401  before torch, which bidexhands imports

    found, needed = version_of("isaacgym"), request["isaacgym"]
    if found != needed:
        raise RuntimeError(f"isaacgym {found} is installed, {needed} is needed")
    import bidexhands

    device = request["device"]
    sys.argv = [
        "bidexhands",
        f"--num_envs={request['num_envs']}",
        f"--episode_length={request['episode_length']}",
        f"--seed={request['seed']}",
        f"--sim_device={device}",
        f"--rl_device={device}",
        f"--pipeline={'cpu' if device == 'cpu' else 'gpu'}",
        "--headless",
    ]
    os.chdir(os.path.dirname(os.path.abspath(str(bidexhands.__file__))))
    return bidexhands.make(request["task"], "happo")


class Server:
    """One task and the memory it is shared through."""

    def __init__(self, request: dict, memory_fd: int) -> None:
        self.env = build(request)
        self.task = task = self.env.task
        self.num_envs, self.state_dim = task.obs_buf.shape
        self.action_dim = 2 * self.env.num_actions  # those of one hand
        sizes = (self.num_envs, self.action_dim, self.state_dim)
        size = 4 * sum(int(np.prod(shape)) for _, shape in layout(*sizes))
        os.ftruncate(memory_fd, size)
        self.shared = arrays(mmap.mmap(memory_fd, size), *sizes)

    def describe(self) -> dict:
        """Returns a description of the task."""
        return {
            "protocol": PROTOCOL,
            "task": type(self.task).__name__,
            "num_envs": self.num_envs,
            "state_dim": self.state_dim,
            "hand_dim": self.env.num_hand_obs,
            "action_dim": self.action_dim,
            "max_episode_length": int(self.task.max_episode_length),
            "step_dt": float(self.task.sim_params.dt) * self.task.control_freq_inv,
        }

    def reset(self) -> None:
        """Starts all episodes; bidexhands takes a step with small random actions for it."""
        self.task.reset_buf[:] = 1
        _, state, _ = self.env.reset()
        self.shared["state"][:] = self.on_host(state[:, 0])

    def step(self) -> None:
        """Takes a step with the shared action.

        An environment whose episode ended, or whose numbers are not finite, is reset by its next
        step: what is written of it now is the state that ended the episode.
        """
        import torch

        task, shared = self.task, self.shared
        action = torch.from_numpy(shared["action"].copy()).to(self.env.rl_device)
        _, state, reward, _, _, _ = self.env.step([action])
        shared["state"][:] = self.on_host(state[:, 0])
        shared["reward"][:] = self.on_host(reward[:, 0, 0])
        bad = ~np.isfinite(shared["state"].sum(axis=1) + shared["reward"])
        task.reset_buf[torch.from_numpy(bad).to(task.reset_buf.device)] = 1
        done = self.on_host(task.reset_buf) > 0
        shared["done"][:] = done
        shared["truncated"][:] = done & (self.on_host(task.progress_buf) >= task.max_episode_length)
        shared["success"][:] = self.on_host(task.successes) > 0

    @staticmethod
    def on_host(tensor: Any) -> np.ndarray:
        """Returns a tensor of the simulator as an array."""
        return tensor.detach().cpu().numpy()


def serve(stream: Any, memory_fd: int) -> None:
    """Answers requests until there are no more, as when the trainer has died."""

    def answer(content: dict) -> None:
        stream.write(json.dumps(content).encode() + b"\n")
        stream.flush()

    server = None
    for line in stream:
        request = json.loads(line.decode())
        try:
            if server is None:
                if request["protocol"] != PROTOCOL:
                    raise RuntimeError(f"the server speaks protocol {PROTOCOL}")
                server = Server(request, memory_fd)
                answer(server.describe())
            else:
                {"reset": server.reset, "step": server.step}[request["do"]]()
                answer({})
        except Exception as problem:  # noqa: BLE001  whatever it is, the trainer has to know
            answer({"error": f"{type(problem).__name__}: {problem}"})
            return


def main() -> None:
    """Serves through the descriptors named on the command line: socket, memory."""
    # Also a simulator that hangs has to end with the trainer; Isaac Gym runs on Linux only.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    here = os.path.dirname(os.path.abspath(__file__))  # where modules are that are none of ours
    sys.path[:] = [folder for folder in sys.path if folder != here]
    socket_fd, memory_fd = map(int, sys.argv[1:3])
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, socket_fd)
    try:
        serve(connection.makefile("rwb"), memory_fd)
    except (BrokenPipeError, ConnectionResetError):
        pass  # the trainer is gone
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # Isaac Gym may crash or hang when Python takes it down


if __name__ == "__main__":
    main()
