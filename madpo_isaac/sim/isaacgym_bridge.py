"""The trainer's side of Isaac Gym: starts the server in its own Python and talks to it."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.errors import UserError
from madpo_isaac.settings import positive, setting
from madpo_isaac.sim import isaacgym_server as server
from madpo_isaac.sim.base import SimConfig

WRITTEN_FOR = "1.0rc4"
"""The version of isaacgym (Preview 4) whose interface the server uses."""
PATIENCE = 5.0
"""Seconds that a server has to end after it was told to."""


@dataclass
class IsaacGymConfig(SimConfig):
    """Isaac Gym, which runs in a process of its own."""

    python: str = ""
    """Interpreter of Isaac Gym: Python 3.6 to 3.8 with isaacgym and bidexhands."""
    timeout: float = setting(600.0, positive)
    """Seconds to wait for any answer of Isaac Gym; the first one comes after building the task."""

    def check(self, device: str) -> SimConfig:
        """See :meth:`SimConfig.check`."""
        if not self.python:
            raise UserError(
                "sim=isaacgym needs sim.python=<interpreter>, a Python 3.6 to 3.8 that has "
                "isaacgym and bidexhands."
            )
        return super().check(device)


class IsaacGymBridge:
    """A Bi-DexHands task in another process, stepped through shared memory.

    The other process always ends with the thread that makes the bridge: it reads the end of the
    socket, and if it does not read, Linux kills it.

    Args:
        python: interpreter with isaacgym and bidexhands.
        timeout: seconds to wait for an answer; building the task is one.
        task: its name in Bi-DexHands.
        num_envs: number of environments N.
        device: where PhysX runs, cpu or cuda:<index>.
        seed: seed of all random numbers of the server.
        episode_length: length of an episode in steps.

    Raises:
        UserError: the server cannot be started, ends, has another version, builds something
            else or does not answer. It is then stopped.
    """

    def __init__(
        self,
        python: str,
        timeout: float,
        *,
        task: str,
        num_envs: int,
        device: str,
        seed: int,
        episode_length: int,
    ) -> None:
        self._python, self._timeout = python, timeout
        shm = Path("/dev/shm")
        memory = tempfile.TemporaryFile(dir=shm if shm.is_dir() else None)  # noqa: SIM115
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        weakref.finalize(self, self._log.close)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with theirs, memory:
            fds = theirs.fileno(), memory.fileno()
            try:
                self.process = subprocess.Popen(
                    [str(Path(python).expanduser()), server.__file__, *map(str, fds)],
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C is for the trainer, which ends both
                )
            except OSError as problem:
                ours.close()
                raise UserError(
                    f"sim.python='{python}' cannot be started: {problem.strerror}."
                ) from problem
            theirs.close()
            ours.settimeout(timeout)
            self._stream = ours.makefile("rwb")
            ours.close()  # the stream keeps it open
            self._close = weakref.finalize(self, _end, self.process, self._stream.close)
            request = {"task": task, "num_envs": num_envs, "device": device, "seed": seed}
            needed = {"protocol": server.PROTOCOL, "isaacgym": WRITTEN_FOR}
            ready = self._ask(**needed, episode_length=episode_length, **request)
            self._check(ready, task, num_envs)
            self.state_dim: int = ready["state_dim"]
            self.hand_dim: int = ready["hand_dim"]
            self.action_dim: int = ready["action_dim"]
            self.max_episode_length: int = ready["max_episode_length"]
            self.step_dt: float = ready["step_dt"]
            self._memory = mmap.mmap(memory.fileno(), 0)
        shared = server.arrays(self._memory, num_envs, self.action_dim, self.state_dim)
        self._shared = {name: torch.from_numpy(array) for name, array in shared.items()}

    def _check(self, ready: dict[str, Any], task: str, num_envs: int) -> None:
        """Makes sure that the server has built the requested task."""
        wanted = {"protocol": server.PROTOCOL, "task": task, "num_envs": num_envs}
        for key, value in wanted.items():
            if ready.get(key) != value:
                self.close()
                raise UserError(
                    f"Isaac Gym's server in '{self._python}' has {key}={ready.get(key)}; "
                    f"sim=isaacgym needs {key}={value}."
                )

    def __getitem__(self, name: str) -> Tensor:
        """Returns an array shared with the server as a live tensor on the CPU."""
        return self._shared[name]

    def reset(self) -> None:
        """Starts all episodes; ``state`` is current afterwards."""
        self._ask(do="reset")

    def step(self) -> None:
        """Takes a step with the array ``action``; the other arrays are current afterwards."""
        self._ask(do="step")

    def close(self) -> None:
        """Ends the server."""
        self._close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and returns the answer."""
        if not self._close.alive:
            raise UserError("Isaac Gym's server has ended.")
        try:
            self._stream.write(json.dumps(request).encode() + b"\n")
            self._stream.flush()
            line = self._stream.readline()
        except TimeoutError:
            _kill(self.process)  # it would not listen
            self.close()
            raise UserError(
                f"Isaac Gym's server did not answer within sim.timeout={self._timeout:g} s."
                f"{self._last_words()}"
            ) from None
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            self.close()
            raise UserError(
                f"Isaac Gym's server ended unexpectedly (exit code {self.process.returncode})."
                f"{self._last_words()}"
            )
        try:
            answer = dict(json.loads(line))
        except (TypeError, ValueError):
            _kill(self.process)
            self.close()
            raise UserError(
                f"'{self._python}' answers '{line[:60].decode(errors='replace').strip()}', which "
                "is not what Isaac Gym's server says."
            ) from None
        if "error" in answer:
            self.close()
            reason = " ".join(answer["error"].split()).rstrip(".")
            raise UserError(f"Isaac Gym's server in '{self._python}': {reason}.")
        return answer

    def _last_words(self) -> str:
        """Returns the server's last output, which mostly says why it ended."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return f" Its last line: {lines[-1].strip()}" if lines else ""


def _end(process: subprocess.Popen[bytes], hang_up: Callable[[], None]) -> None:
    """Closes the socket, which ends a server that listens, and kills a server that does not."""
    with contextlib.suppress(OSError):
        hang_up()
    try:
        process.wait(PATIENCE if process.poll() is None else 0.0)
    except subprocess.TimeoutExpired:
        _kill(process)
        process.wait()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a server, and the script that started it if there is one."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # it leads a session, so a group of its own
