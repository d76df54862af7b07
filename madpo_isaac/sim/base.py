"""Contract of all physics engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import mujoco
import torch
from torch import Tensor

from madpo_isaac.errors import UserError

SPEED_LIMIT = 1e4
"""Speed, m/s or rad/s, beyond which a simulation counts as unstable. Hands and robots stay below
1e2. The engines themselves report an error only from 1e10 on, which is too late for rewards."""


@dataclass
class SimConfig:
    """The physics engine."""

    name: str = "auto"
    """One of :data:`madpo_isaac.sim.ENGINES` or :data:`madpo_isaac.sim.BRIDGES`."""

    def check(self, device: str) -> SimConfig:
        """Checks rules that involve several settings; returns the settings of the engine to run.

        Args:
            device: device of the simulations, which may be that of another machine.

        Raises:
            UserError: naming the first bad value.
        """
        del device
        return self


class Sim(Protocol):
    """A batch of ``num_envs`` simulations of one model; N = num_envs.

    All tensors are float32 views of the engine's own memory: written in place, never rebound.
    Derived readings (``sensordata``, ``qfrc_actuator``, :meth:`field`) are those of the last
    substep, that is one substep behind ``qpos`` and ``qvel``; after :meth:`forward` they are
    current.
    """

    num_envs: int
    device: torch.device
    model: mujoco.MjModel
    qpos: Tensor
    """Generalized positions. (N, nq)"""
    qvel: Tensor
    """Generalized velocities; the angular part of a free joint is in the body frame. (N, nv)"""
    ctrl: Tensor
    """Actuator controls. (N, nu)"""
    qfrc_actuator: Tensor
    """Actuator forces in joint space, read only. (N, nv)"""
    sensordata: Tensor
    """Sensor readings, read only. (N, nsensordata)"""

    @property
    def qfrc_applied(self) -> Tensor:
        """Applied generalized forces. (N, nv)"""
        ...

    @property
    def xfrc_applied(self) -> Tensor:
        """Applied Cartesian wrenches, force then torque, world frame. (N, nbody, 6)"""
        ...

    def field(self, name: str, *, exact: bool = False) -> Tensor:
        """Returns MjData's field ``name`` of every simulation, live and read only. (N, ...)

        Args:
            name: a derived field such as ``xpos`` or ``cinert``, or ``qpos`` or ``qvel``.
            exact: True for the engine's own precision (float64 on the CPU) instead of float32.
                Differences over time need it, because float32 is too coarse far from the origin.
                A derived field is available in one precision only.

        The values are current after the next call of the engine, and so are those of exact
        ``qpos`` and ``qvel`` after a write.
        """
        ...

    def expand(self, name: str) -> Tensor:
        """Returns MjModel's field ``name`` of every simulation, to be written in place. (N, ...)

        The tensor has the engine's own precision (float64 on the CPU) and starts with the values
        of :attr:`model`. Fields that MuJoCo derives from others (``body_subtreemass`` from
        ``body_mass``) are not computed again: expand and write them, too. Call this before the
        first step, because an engine that records its steps cannot do it later. :meth:`reset` and
        :meth:`state_dict` do not change or contain these values.
        """
        ...

    def step(self, substeps: int) -> None:
        """Advances every simulation by ``substeps`` time steps."""
        ...

    def reset(self, mask: Tensor) -> None:
        """Puts the rows of ``mask`` (N,) bool back to the key pose.

        Velocities, controls, applied forces, warm start, time and warnings are cleared. Derived
        readings stay stale until :meth:`forward`.
        """
        ...

    def forward(self, mask: Tensor | None = None) -> None:
        """Recomputes derived readings of the rows of ``mask`` (N,) bool, by default of all rows."""
        ...

    def diverged(self) -> Tensor:
        """Returns the simulations that became unstable since their last reset. (N,) bool

        They have a number that is huge or not finite, or a speed above :data:`SPEED_LIMIT`.
        """
        ...

    def overflowed(self) -> Tensor:
        """Returns the simulations that ran out of room since the last call. (N,) bool

        Contacts or constraints were left out of their physics.
        """
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the exact state of every simulation."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict`; stepping on from it repeats the original bit for bit."""
        ...


def parse_device(device: str | torch.device) -> torch.device:
    """Returns ``device`` as a torch device; raises UserError for a kind that is not supported."""
    try:
        parsed = torch.device(device)
    except RuntimeError:
        raise UserError(f"Unknown device '{device}'. Allowed: cpu, cuda, cuda:<index>.") from None
    if parsed.type not in ("cpu", "cuda") or (parsed.type == "cpu" and parsed.index):
        raise UserError(f"Device '{device}' is not supported. Allowed: cpu, cuda, cuda:<index>.")
    return parsed


def check_device(device: str | torch.device) -> torch.device:
    """Returns ``device`` as a torch device; raises if it is unknown or not on this machine.

    ``cuda`` is the GPU of this process, see :func:`madpo_isaac.training.parallel.config_for_rank`.
    """
    checked = parse_device(device)
    if checked.type == "cuda" and (checked.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise UserError(f"Device '{device}' is not there: torch finds {found} CUDA devices.")
    if checked.type == "cuda" and checked.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return checked
