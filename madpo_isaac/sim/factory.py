"""Engines by the name users type, and the factory of simulations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import mujoco
import torch

from madpo_isaac.errors import UserError, unknown
from madpo_isaac.plugins import refuse_taken
from madpo_isaac.settings import integer, one_of, setting
from madpo_isaac.sim.base import Sim, SimConfig, check_device
from madpo_isaac.sim.isaacgym_bridge import IsaacGymConfig

MAX_ROOM = 10**5

Build = Callable[[Any, mujoco.MjModel, int, torch.device, int], Sim]
"""Builds simulations from settings, model, their number, device and number of threads."""

ENGINES: dict[str, Build] = {}
"""Engines by the name users type: ``mujoco`` is mjbatch, MuJoCo's C engine on a thread pool;
``warp`` is MuJoCo Warp, for GPUs; ``auto`` is ``warp`` on a GPU and else ``mujoco``."""

BRIDGES = ("isaacgym", "isaaclab")
"""Simulators that bring environments of their own, of the bimanual tasks; they have no Sim."""

SIM_SCHEMAS: dict[str, type[SimConfig]] = {"isaacgym": IsaacGymConfig, "isaaclab": SimConfig}
"""The settings of each engine and bridge."""


def register_engine(name: str, settings: type[SimConfig] = SimConfig) -> Callable[[Build], Build]:
    """Returns a decorator that makes a function an engine: ``sim=<name>`` simulates with it.

    The function takes an object of ``settings``, the model, the number of simulations, the device
    and the number of threads (0 for one per core).

    Args:
        name: name on the command line; ``cfg/sim/<name>.yaml`` has the defaults.
        settings: the dataclass of its settings.

    Raises:
        UserError: another engine has this name.
    """

    def add(build: Build) -> Build:
        known = ENGINES.get(name)
        owner = None if known is None else known.__module__
        refuse_taken("an engine", name, "" if name in BRIDGES else owner, build.__module__)
        ENGINES[name], SIM_SCHEMAS[name] = build, settings
        return build

    return add


def make_sim(
    engine: str | SimConfig,
    model: mujoco.MjModel,
    num_envs: int,
    device: str | torch.device = "cpu",
    num_threads: int = 0,
) -> Sim:
    """Builds ``num_envs`` simulations of ``model`` on ``engine``, one of :data:`ENGINES`.

    ``num_threads`` is for the engine that has threads, 0 for one per core.
    """
    name = engine if isinstance(engine, str) else engine.name
    if name not in ENGINES:
        raise unknown("sim", name, (*ENGINES, *BRIDGES))
    kind = SIM_SCHEMAS[name]
    settings = engine if isinstance(engine, kind) else kind(name)
    return ENGINES[name](settings, model, num_envs, check_device(device), num_threads)


# Engines ----------------------------------------------------------------------------------------


@register_engine("mujoco")
def _mujoco(
    settings: SimConfig, model: mujoco.MjModel, num_envs: int, device: torch.device, threads: int
) -> Sim:
    from madpo_isaac.sim.cpu import MjBatchSim

    if device.type != "cpu":
        raise UserError(
            f"sim=mujoco runs on the CPU: use sim_device=cpu or sim=warp, not '{device}'."
        )
    return MjBatchSim(model, num_envs, threads)


@dataclass
class WarpConfig(SimConfig):
    """MuJoCo Warp, whose memory for contacts and constraints is set aside at the start."""

    nconmax: int | None = setting(None, integer(1, MAX_ROOM))
    """Room for contacts, as the mean over simulations; null for twice the need of random motion."""
    njmax: int | None = setting(None, integer(1, MAX_ROOM))
    """Room for constraints in each simulation; null for twice the need of random motion."""
    solver: str = setting("newton", one_of(("newton", "cg")))
    """newton: Newton's method; cg: conjugate gradient, which converges more slowly, but may work at
    stiff contacts at which Newton's method in float32 gives NaN."""


@register_engine("warp", WarpConfig)
def _warp(
    settings: WarpConfig, model: mujoco.MjModel, num_envs: int, device: torch.device, threads: int
) -> Sim:
    prepare_warp()
    from madpo_isaac.sim.mjwarp import WarpSim

    return WarpSim(model, num_envs, device, settings.nconmax, settings.njmax, settings.solver)


@dataclass
class AutoConfig(WarpConfig):
    """The engine that fits the device; the settings are those of MuJoCo Warp."""

    def check(self, device: str) -> SimConfig:
        """Returns the settings of ``warp`` on a GPU, else of ``mujoco``, which has none."""
        if str(device).startswith("cuda"):
            return WarpConfig("warp", self.nconmax, self.njmax, self.solver)
        default = WarpConfig()
        for key in ("nconmax", "njmax", "solver"):
            if (value := getattr(self, key)) != getattr(default, key):
                raise UserError(f"sim.{key}={value} works with sim=warp only.")
        return SimConfig("mujoco")


@register_engine("auto", AutoConfig)
def _auto(
    settings: AutoConfig, model: mujoco.MjModel, num_envs: int, device: torch.device, threads: int
) -> Sim:
    return make_sim(settings.check(str(device)), model, num_envs, device, threads)


def prepare_warp() -> None:
    """Makes sure that MuJoCo Warp can be imported, and that it is silent.

    Raises:
        UserError: if a package is missing, or if versions do not match.
    """
    try:
        found = metadata.version("mujoco-warp")
        metadata.version("warp-lang")
    except metadata.PackageNotFoundError as problem:
        raise UserError(
            f"sim=warp needs the package {problem.name}: pip install -e '.[gpu]' in the clone of "
            "this project."
        ) from None
    if found.split(".")[:2] != mujoco.__version__.split(".")[:2]:
        raise UserError(
            f"mujoco-warp {found} does not fit mujoco {mujoco.__version__}: install "
            f"mujoco-warp=={mujoco.__version__}."
        )
    import warp

    warp.config.log_level = warp.LOG_WARNING
