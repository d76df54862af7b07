"""``madpo doctor``: lists the versions and devices of this machine, and missing parts."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from madpo_isaac import console
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.errors import UserError

FOLDER = Path(__file__).resolve().parents[1]
"""Folder of this package."""
NEEDED: dict[str, str | None] = {
    "torch": "torch",
    "mujoco": "mujoco",
    "mjbatch": "mjbatch",
    "numpy": "numpy",
    "gymnasium-robotics": None,
    "hydra-core": "hydra",
    "omegaconf": "omegaconf",
    "tensorboard": "tensorboard",
    "rich": "rich",
    "safetensors": "safetensors",
    "pillow": "PIL",
    "imageio-ffmpeg": "imageio_ffmpeg",
}
"""Distributions that training needs, with the module to import; None if only files are needed."""
OPTIONAL = {
    "rl-games": ("rl_games", "algo=ppo"),
    "mujoco-warp": ("mujoco_warp", "physics on a GPU (extra gpu)"),
    "hydra-submitit-launcher": ("hydra_plugins.hydra_submitit_launcher", "clusters (cluster)"),
    "onnx": ("onnx", "export (extra export)"),
    "matplotlib": ("matplotlib", "pictures and plots"),
}
"""Optional distributions: the module and its purpose."""
SETTINGS = (
    *("cfg/config.yaml", "cfg/base/hands.yaml", "cfg/base/mamujoco.yaml"),
    "cfg/base/on_policy.yaml",
    *("cfg/recipes/harl.yaml", "cfg/recipes/paper.yaml", "cfg/recipes/tuned.yaml"),
    "cfg/hydra/launcher/slurm.yaml",
)
"""Files of settings beside those of tasks, algorithms and engines."""
MODELS = tuple(f"tasks/hands/models/{name}" for name in ("quad.xml", "quad.yaml", "shadow.yaml"))
"""Files of the tasks that are not code."""
LEAST_FREE = 2**30
"""Free bytes on the disk that a run needs at least."""


class Finding(NamedTuple):
    """One line of the table."""

    name: str
    state: str
    """ok, missing (training works without it) or error."""
    detail: str


def examine(runs_dir: Path) -> list[Finding]:
    """Examines everything that training uses; run folders will be below ``runs_dir``."""
    version = sys.version_info[:2]
    python = "ok" if (3, 10) <= version <= (3, 13) else "error"
    needed = [_package(name, module) for name, module in NEEDED.items()]
    optional = [_optional(name, *what) for name, what in OPTIONAL.items()]
    return [
        Finding("python", python, f"{platform.python_version()}, {platform.platform()}"),
        *needed,
        *optional,
        _checked("package", _complete) if _all_fine(needed) else _skipped("package"),
        _checked("devices", _devices),
        _checked("threads", _threads),
        _opengl(),
        _disk(runs_dir),
        _checked("physics", _physics) if _all_fine(needed) else _skipped("physics"),
    ]


def _all_fine(findings: list[Finding]) -> bool:
    return all(finding.state != "error" for finding in findings)


def _skipped(name: str) -> Finding:
    return Finding(name, "error", "not tried: packages are missing")


def _checked(name: str, describe: Callable[[], str]) -> Finding:
    """Returns the result of ``describe``, or the reason why it failed."""
    try:
        return Finding(name, "ok", describe())
    except Exception as problem:  # noqa: BLE001  whatever is wrong is what was asked for
        return Finding(name, "error", f"{type(problem).__name__}: {problem}")


def _package(name: str, module: str | None) -> Finding:
    def describe() -> str:
        if module is not None:
            importlib.import_module(module)
        return metadata.version(name)

    return _checked(name, describe)


def _optional(name: str, module: str, purpose: str) -> Finding:
    found = _package(name, module)
    if found.state == "ok":
        return found
    return Finding(name, "missing", f"for {purpose}; {found.detail}")


def expected() -> list[str]:
    """The data files of tasks and settings, relative to this package's folder."""
    from madpo_isaac.algos import ALGO_SCHEMAS
    from madpo_isaac.sim import SIM_SCHEMAS
    from madpo_isaac.tasks import TASKS

    groups = {"task": TASKS, "algo": ALGO_SCHEMAS, "sim": SIM_SCHEMAS}
    chosen = [f"cfg/{group}/{name}.yaml" for group, names in groups.items() for name in names]
    return [*SETTINGS, *chosen, *MODELS]


def _complete() -> str:
    """Checks that all tasks can be imported and that all data files exist."""
    from madpo_isaac.sim import BRIDGES
    from madpo_isaac.tasks.registry import TASKS, load

    for task in TASKS:
        load(task)
    code = [f"tasks/bridges/{name}.py" for name in BRIDGES]
    missing = [name for name in (*code, *expected()) if not (FOLDER / name).is_file()]
    if missing:
        raise FileNotFoundError(f"'{FOLDER}' lacks {', '.join(missing)}")
    return f"{len(TASKS)} tasks in '{FOLDER}'"


def _devices() -> str:
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([f"cpu ({torch.backends.cpu.get_cpu_capability()})", *names])


def _threads() -> str:
    import torch

    from madpo_isaac.system import device

    usable, own = device.cores(), torch.get_num_threads()
    return f"{usable} usable of {os.cpu_count()}, torch uses {own} by itself"


def _opengl() -> Finding:
    """Pictures need it, training does not."""
    before = os.environ.get("MUJOCO_GL")
    try:
        from madpo_isaac.evaluation.render import choose_backend

        choose_backend()
        found = os.environ.get("MUJOCO_GL", "the platform's own")
    except (ImportError, UserError) as problem:
        return Finding("opengl", "missing", f"for pictures; {problem}")
    finally:
        if before is None:
            os.environ.pop("MUJOCO_GL", None)
    return Finding("opengl", "ok", found)


def _disk(runs_dir: Path) -> Finding:
    """Space and permission where runs go, or where their folder would be made."""
    try:
        place = _nearest(Path(os.path.realpath(runs_dir)))
        free = shutil.disk_usage(place).free
    except OSError as problem:
        return Finding("disk", "error", f"'{runs_dir}' cannot be used: {problem.strerror}")
    detail = f"{free / 2**30:.1f} GiB free for '{runs_dir}'"
    if not place.is_dir() or not os.access(place, os.W_OK):
        return Finding("disk", "error", f"'{place}' cannot be written")
    return Finding("disk", "ok" if free >= LEAST_FREE else "error", detail)


def _nearest(path: Path) -> Path:
    """Returns the longest part of a path that exists; raises OSError for a name too long."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return _nearest(path.parent)
    return path


def _physics() -> str:
    """A few steps of the smallest task: the engine runs and gives finite numbers."""
    from madpo_isaac import tasks

    env = tasks.make("HalfCheetah-2x3", num_envs=2, num_threads=1)
    state = env.reset()
    for _ in range(3):
        state = env.step(state.new_zeros(2, env.action_dim)).state
    if not state.isfinite().all():
        raise ValueError("states are not finite")
    return "steps HalfCheetah"


def main(argv: list[str]) -> int:
    """Prints the table; 0 if training would run, else 1. ``runs_dir=`` says where runs go."""
    parser = Parser("madpo doctor", "Lists versions and devices, and what training lacks.")
    parser.add_argument(
        "settings", nargs="*", metavar="runs_dir=FOLDER", help="folder where runs will go (runs)"
    )
    runs_dir = "runs"
    for argument in parser.parse(argv).settings:
        key, found, runs_dir = argument.partition("=")
        if key != "runs_dir" or not found or not runs_dir:
            raise UserError(f"'{argument}': doctor takes runs_dir=<folder> only.")
    findings = examine(Parser.path(runs_dir))
    width = max(len(finding.name) for finding in findings)
    for name, state, detail in findings:
        console.info(f"{name:<{width}}  {state:<7}  {' '.join(detail.split())}")
    failed = [finding.name for finding in findings if finding.state == "error"]
    if failed:
        console.error(f"training would not run: {', '.join(failed)}")
        return 1
    console.info("training would run")
    return 0
