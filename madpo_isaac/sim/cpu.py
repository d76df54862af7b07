"""MuJoCo's C engine on a thread pool, through mjbatch."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import NoReturn

import mujoco
import numpy as np
import torch
from mjbatch import Batch
from torch import Tensor

from madpo_isaac.errors import UserError
from madpo_isaac.sim.base import SPEED_LIMIT

_FATAL = slice(int(mujoco.mjtWarning.mjWARN_BADQPOS), int(mujoco.mjtWarning.mjWARN_BADCTRL) + 1)
"""Columns of the warnings of non-finite or huge positions, velocities, accelerations, controls."""
_FULL = slice(
    int(mujoco.mjtWarning.mjWARN_CONTACTFULL), int(mujoco.mjtWarning.mjWARN_CNSTRFULL) + 1
)
"""Columns of the warnings of too little memory for contacts or constraints."""


class MjBatchSim:
    """Fulfills :class:`madpo_isaac.sim.base.Sim` on the CPU; see there for shapes.

    Args:
        model: compiled model; keyframe 0, if there is one, is the key pose, else ``qpos0``.
        num_envs: number of simulations N.
        num_threads: worker threads, 0 for one per logical CPU.
    """

    def __init__(self, model: mujoco.MjModel, num_envs: int, num_threads: int = 0) -> None:
        _silence_warnings()
        self._pid = os.getpid()
        self.model = model
        self.num_envs = num_envs
        self.device = torch.device("cpu")
        self._batch = Batch(model, num_envs, num_threads)
        self.num_threads = self._batch.num_threads
        key = model.key_qpos[0] if model.nkey else model.qpos0
        self._forces: dict[str, Tensor] = {}
        self._readings: dict[str, Tensor] = {}
        self._key_qpos = torch.tensor(key, dtype=torch.float32)
        # float32 bindings are copies that mjbatch keeps in step with its float64 state: reading
        # one never rounds the state, and only elements that were written are copied in.
        self.qpos = self._bind("qpos")
        self.qvel = self._bind("qvel")
        self.ctrl = self._bind("ctrl")
        self.qfrc_actuator = self.field("qfrc_actuator")
        self.sensordata = self.field("sensordata")
        self._warmstart = torch.from_numpy(self._batch.bind("qacc_warmstart"))
        self._time = torch.from_numpy(self._batch.bind("time"))
        self._warning = torch.from_numpy(self._batch.bind("warning"))
        self._state = torch.from_numpy(self._batch.bind("state"))
        first, last = _columns(model, "qfrc_applied"), _columns(model, "xfrc_applied")
        self._applied = slice(first.start, last.stop)
        first, last = _columns(model, "qpos"), _columns(model, "qvel")
        self._moving = self._state[:, first.start : last.stop]
        self._fatal = self._warning[:, _FATAL, 1]
        self.reset(torch.ones(num_envs, dtype=torch.bool))
        self.forward()

    def _check_process(self) -> None:
        """Raises UserError in a forked child, which lacks the threads and would wait forever."""
        if self.num_threads > 1 and os.getpid() != self._pid:
            raise UserError(
                "These environments were made in another process, whose threads are not here after "
                "a fork: make them in the process that uses them, or with num_threads=1."
            )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "environments can be neither pickled nor copied: make others with tasks.make, and give "
            "them the state by load_state_dict(env.state_dict())"
        )

    @property
    def qfrc_applied(self) -> Tensor:
        """Applied generalized forces. (N, nv)"""
        return self._lazily("qfrc_applied")

    @property
    def xfrc_applied(self) -> Tensor:
        """Applied Cartesian wrenches, force then torque, world frame. (N, nbody, 6)"""
        return self._lazily("xfrc_applied")

    def _lazily(self, field: str) -> Tensor:
        """Binds an input on first use, since mjbatch compares every bound input at every call."""
        if field not in self._forces:
            self._forces[field] = self._bind(field)
        return self._forces[field]

    def _bind(self, field: str) -> Tensor:
        return torch.from_numpy(self._batch.bind(field, np.float32))

    def field(self, name: str, *, exact: bool = False) -> Tensor:
        """Returns MjData's field ``name``, float32 or if ``exact`` float64; see the contract."""
        if name in ("qpos", "qvel"):
            rows = self._state[:, _columns(self.model, name)]  # float64, a view
            return rows if exact else getattr(self, name)
        dtype = np.float64 if exact else np.float32
        if name not in self._readings:
            self._readings[name] = torch.from_numpy(self._batch.bind(name, dtype))
        reading = self._readings[name]
        if reading.dtype != (torch.float64 if exact else torch.float32):
            raise ValueError(f"field '{name}' is already in use as {reading.dtype}")
        return reading

    def expand(self, name: str) -> Tensor:
        """Returns MjModel's field ``name`` of every simulation, float64; see the contract."""
        return torch.from_numpy(self._batch.expand(name))

    def step(self, substeps: int) -> None:
        """Advances every simulation by ``substeps`` time steps on the thread pool."""
        self._check_process()
        self._batch.step(nstep=substeps)

    def reset(self, mask: Tensor) -> None:
        """Puts the rows of ``mask`` (N,) bool back to the key pose; see the contract."""
        ids = mask.nonzero()[:, 0]
        # A float32 number that equals the last one is no change to mjbatch. Where a pose or speed
        # was one by rounding alone, what was rounded off would reach the next episode.
        self._moving[ids] = self._moving[ids].float().double()
        self.qpos[ids] = self._key_qpos
        cleared = (self.qvel, self.ctrl, self._warmstart, self._time, self._warning)
        for field in (*cleared, *self._forces.values()):
            field.index_fill_(0, ids, 0)
        self._state[ids, self._applied] = 0.0  # forces, whether or not they are bound

    def forward(self, mask: Tensor | None = None) -> None:
        """Recomputes derived readings of the rows of ``mask`` (N,) bool, or of all rows."""
        self._check_process()
        self._batch.forward(None if mask is None else mask.numpy())

    def diverged(self) -> Tensor:
        """Returns the simulations that blew up since their reset. (N,) bool

        MuJoCo found huge or non-finite numbers, or a speed is above SPEED_LIMIT.
        """
        fast = ~(self.qvel.abs().amax(dim=1) <= SPEED_LIMIT)
        return self._fatal.any(dim=1) | fast

    def overflowed(self) -> Tensor:
        """Returns the simulations that ran out of room since the last call. (N,) bool"""
        full = self._warning[:, _FULL, 1]
        found = full.any(dim=1)
        full.zero_()
        return found

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the float64 integration states, warnings and the last derived readings."""
        state = self._state.clone()
        written = {"qpos": self.qpos, "qvel": self.qvel, "ctrl": self.ctrl, **self._forces}
        for field, value in written.items():
            # Writes since the last call are still in the float32 copies only.
            row = state[:, _columns(self.model, field)]
            flat = value.flatten(1)
            torch.where(row.float() == flat, row, flat.double(), out=row)
        return {
            "state": state,
            "warning": self._warning.clone(),
            **{name: reading.clone() for name, reading in self._readings.items()},
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict` exactly."""
        self._check_process()
        # The first forward call uses up pending writes, the second brings the float32 copies in
        # step with the new rows; it moves the warm start, so the rows are written once more.
        self._batch.forward()
        self._state.copy_(state["state"])
        self._batch.forward()
        self._state.copy_(state["state"])
        self._warning.copy_(state["warning"])
        for name, reading in self._readings.items():
            reading.copy_(state[name])


@functools.cache
def _silence_warnings() -> None:
    """Stops MuJoCo from writing its warnings into MUJOCO_LOG.TXT in the current folder.

    Warnings are read from the counters of every simulation instead. The handler is C code, since
    the engine's threads would call a Python one. An existing handler stays.
    """
    libraries = sorted(Path(mujoco.__file__).parent.glob("libmujoco*"))
    if not libraries:
        return
    handler = ctypes.c_void_p.in_dll(ctypes.CDLL(str(libraries[0])), "mju_user_warning")
    if not handler.value:
        ignore = ctypes.CDLL(None).strlen  # takes a text and does nothing with it
        handler.value = ctypes.cast(ignore, ctypes.c_void_p).value


def _columns(model: mujoco.MjModel, field: str) -> slice:
    """Returns the columns of ``field`` in the integration state; parts are in order of bits."""
    bit = int(getattr(mujoco.mjtState, f"mjSTATE_{field.upper()}"))
    before = int(mujoco.mjtState.mjSTATE_INTEGRATION) & (bit - 1)
    start = mujoco.mj_stateSize(model, before)
    return slice(start, start + mujoco.mj_stateSize(model, bit))
