"""Factory of physics engines."""

from __future__ import annotations

from importlib import metadata

import mujoco
import torch

from madpo_isaac.errors import UserError
from madpo_isaac.sim.base import Sim, SimConfig, WarpConfig, check_device, engine_for


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
    settings = SimConfig(engine) if isinstance(engine, str) else engine
    name, checked = engine_for(settings.name, device), check_device(device)
    if name == "mujoco":
        from madpo_isaac.sim.cpu import MjBatchSim

        if checked.type != "cpu":
            raise UserError(f"sim=mujoco runs on the CPU: use sim_device=cpu, not '{device}'.")
        return MjBatchSim(model, num_envs, num_threads)
    prepare_warp()
    from madpo_isaac.sim.mjwarp import WarpSim

    chosen = settings if isinstance(settings, WarpConfig) else WarpConfig()
    return WarpSim(model, num_envs, checked, chosen.nconmax, chosen.njmax, chosen.solver)


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
            f"sim=warp needs the package {problem.name}: pip install 'madpo-isaac[gpu]', or in "
            "this folder pip install -e '.[gpu]'."
        ) from None
    if found.split(".")[:2] != mujoco.__version__.split(".")[:2]:
        raise UserError(
            f"mujoco-warp {found} does not go with mujoco {mujoco.__version__}: install "
            f"mujoco-warp=={mujoco.__version__}."
        )
    import warp

    warp.config.log_level = warp.LOG_WARNING
