"""MuJoCo Warp: all simulations in batched kernels on a GPU, or on Warp's CPU device for tests.

Forward, reset and every number of substeps are recorded once as a graph and replayed. A graph
keeps addresses: arrays of model and data are written in place and never replaced, except by
:meth:`WarpSim.expand`, which drops the graphs.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import mujoco_warp as mjw
import torch
import warp as wp
from torch import Tensor

from madpo_isaac.sim.base import SPEED_LIMIT
from madpo_isaac.sim.buffers import probe

_SIZE_LIMIT = 1e10
"""Positions beyond which MuJoCo's C engine calls a simulation bad (mjMAXVAL)."""
_DROPPED = int(
    mjw.OverflowType.NEFC
    | mjw.OverflowType.NJMAX_NNZ
    | mjw.OverflowType.BROADPHASE
    | mjw.OverflowType.NARROWPHASE
    | mjw.OverflowType.CCD
)
"""Overflows that lose contacts or constraints; the others are limits on iterations."""
_STATE = (
    *("time", "qpos", "qvel", "act", "ctrl", "qacc_warmstart", "qfrc_applied", "xfrc_applied"),
    *("mocap_pos", "mocap_quat", "overflow"),
)
"""Fields that a step reads from the past; a step computes all other fields again."""
SOLVERS = {"newton": mujoco.mjtSolver.mjSOL_NEWTON, "cg": mujoco.mjtSolver.mjSOL_CG}
_LEAST_POOL = 512
"""Contacts of all simulations together: few simulations have no mean to rely on."""
_NOT_KEPT = ("dof_M0",)
"""Constants of the C engine that Warp does not need, since it computes the full inertia matrix."""

wp.init()


class WarpSim:
    """Fulfills :class:`madpo_isaac.sim.base.Sim` with MuJoCo Warp; see there for shapes.

    Everything is float32. On a GPU two equal runs differ in their last bits, since the order of
    contacts depends on the threads that find them.

    Args:
        model: compiled model; keyframe 0, if there is one, is the key pose, else ``qpos0``.
        num_envs: number of simulations N.
        device: ``cpu`` or a CUDA device.
        nconmax: room for contacts, including the broad phase's candidates, as the mean over
            simulations; None for twice the need that :func:`probe` finds.
        njmax: room for constraints in each simulation; None for twice the need.
        solver: ``newton`` or ``cg``, which replaces the model's.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        num_envs: int,
        device: torch.device,
        nconmax: int | None = None,
        njmax: int | None = None,
        solver: str = "newton",
    ) -> None:
        self.model = model
        self.num_envs = num_envs
        self._device = wp.device_from_torch(device)
        self.device = torch.device(wp.device_to_torch(self._device))
        supported = _with_solver(model, solver)
        with wp.ScopedDevice(self._device):
            self._model: Any = mjw.put_model(supported)
            self._model.opt.warn_overflow = 0  # it prints from the kernel; the bits are set anyway
            if not self._device.is_cpu:
                self._model.opt.graph_conditional &= wp.is_conditional_graph_supported()
            if nconmax is None or njmax is None:
                found = probe(supported, self._model)
                nconmax, njmax = nconmax or found[0], njmax or found[1]
            self.nconmax, self.njmax = nconmax, njmax
            pool = max(nconmax * num_envs, _LEAST_POOL)
            self._data: Any = mjw.make_data(supported, num_envs, naconmax=pool, njmax=njmax)
            self._mask = wp.zeros(num_envs, dtype=wp.bool)
        self._graphs: dict[tuple[str, int], Any] = {}
        self._readings: dict[str, Tensor] = {}
        self._expanded: dict[str, Tensor] = {}
        self._chosen = wp.to_torch(self._mask)
        arrays = {name: getattr(self._data, name) for name in _STATE}
        self._state = {name: wp.to_torch(array) for name, array in arrays.items() if array.size}
        key = model.key_qpos[0] if model.nkey else model.qpos0
        self._key_qpos = torch.tensor(key, dtype=torch.float32, device=self.device)
        self.qpos = self._state["qpos"]
        self.qvel = self._state["qvel"]
        self.ctrl = self._view("ctrl")
        self.qfrc_actuator = self.field("qfrc_actuator")
        self.sensordata = self.field("sensordata")
        self.reset(torch.ones(num_envs, dtype=torch.bool, device=self.device))
        self.forward()

    @property
    def qfrc_applied(self) -> Tensor:
        """Applied generalized forces. (N, nv)"""
        return self._state["qfrc_applied"]

    @property
    def xfrc_applied(self) -> Tensor:
        """Applied Cartesian wrenches, force then torque, world frame. (N, nbody, 6)"""
        return self._state["xfrc_applied"]

    def _view(self, name: str) -> Tensor:
        array = getattr(self._data, name)
        if not array.size:  # which Warp cannot wrap
            return torch.zeros(array.shape, device=self.device)
        return wp.to_torch(array)

    def field(self, name: str, *, exact: bool = False) -> Tensor:
        """Returns MjData's field ``name`` in float32, the only precision of this engine."""
        del exact
        if name in ("qpos", "qvel"):
            return getattr(self, name)
        if name not in self._readings:
            self._readings[name] = self._view(name)
        return self._readings[name]

    def expand(self, name: str) -> Tensor:
        """Returns MjModel's field ``name`` of every simulation, float32; see the contract."""
        if name not in self._expanded:
            self._expanded[name] = self._expand(name)
        return self._expanded[name]

    def _expand(self, name: str) -> Tensor:
        rows = (self.num_envs,)
        if name in _NOT_KEPT:
            values = torch.tensor(getattr(self.model, name), dtype=torch.float32)
            return values.to(self.device).repeat(*rows, *(1,) * values.dim())
        shared: Any = getattr(self._model, name, None)
        if not isinstance(shared, wp.array) or shared.shape[0] != 1:
            raise ValueError(f"MuJoCo Warp has no field '{name}' of every simulation")
        with wp.ScopedDevice(self._device):
            own: Any = wp.empty(rows + shared.shape[1:], dtype=shared.dtype)
        view = wp.to_torch(own)
        view.copy_(wp.to_torch(shared).expand_as(view))
        own._is_batched = True  # as put_model marks what it makes for every world
        setattr(self._model, name, own)
        self._graphs.clear()
        return view

    def step(self, substeps: int) -> None:
        """Advances every simulation by ``substeps`` time steps in one graph."""

        def steps() -> None:
            for _ in range(substeps):
                mjw.step(self._model, self._data)

        self._replay("step", steps, substeps)

    def reset(self, mask: Tensor) -> None:
        """Puts the rows of ``mask`` (N,) bool back to the key pose; see the contract."""
        self._chosen.copy_(mask)
        self._replay("reset", lambda: mjw.reset_data(self._model, self._data, self._mask))
        torch.where(mask[:, None], self._key_qpos, self.qpos, out=self.qpos)

    def forward(self, mask: Tensor | None = None) -> None:
        """Recomputes derived readings of the rows of ``mask`` (N,) bool, or of all rows.

        It computes all rows, and restores the readings of the others.
        """
        before = {} if mask is None else {k: x.clone() for k, x in self._readings.items()}
        self._replay("forward", lambda: mjw.forward(self._model, self._data))
        for name, old in before.items():
            now = self._readings[name]
            assert mask is not None
            torch.where(mask.view(-1, *(1,) * (now.dim() - 1)), now, old, out=now)

    def diverged(self) -> Tensor:
        """Returns the simulations that blew up since their reset. (N,) bool

        A number that is not finite stays so until a reset; a huge or fast one may pass.
        """
        sound = self.qvel.abs().amax(dim=1) <= SPEED_LIMIT
        return ~(sound & (self.qpos.abs().amax(dim=1) <= _SIZE_LIMIT))

    def overflowed(self) -> Tensor:
        """Returns the simulations that lost contacts or constraints since the last call; (N,)."""
        bits = self._state["overflow"]
        lost = (bits & _DROPPED) != 0
        bits.zero_()
        return lost

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the integration states, and the last derived readings."""
        return {name: x.clone() for name, x in (self._state | self._readings).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict` exactly."""
        for name, x in (self._state | self._readings).items():
            x.copy_(state[name])

    # Graphs -----------------------------------------------------------------------------------

    def _replay(self, name: str, work: Callable[[], None], count: int = 1) -> None:
        """Runs ``work`` from its graph, which is recorded at the first call."""
        with wp.ScopedDevice(self._device):
            if (name, count) not in self._graphs:
                self._graphs[name, count] = self._record(work)
            wp.capture_launch(self._graphs[name, count])

    def _record(self, work: Callable[[], None]) -> Any:
        """Returns the graph of ``work``; a first run without effect compiles the kernels."""
        state = self.state_dict()
        work()
        self.load_state_dict(state)
        with _no_garbage_collection(), wp.ScopedCapture(force_module_load=False) as capture:
            work()
        return capture.graph


def _with_solver(model: mujoco.MjModel, solver: str) -> mujoco.MjModel:
    """Returns ``model`` with one of Warp's two solvers, which solve the same problem."""
    chosen = SOLVERS[solver]
    if model.opt.solver == chosen:
        return model
    model = copy.copy(model)
    model.opt.solver = chosen
    return model


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Delays garbage collection: a graph freed during a recording would become part of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
