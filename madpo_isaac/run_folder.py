"""The folder of one run: what goes where, and never over something that is there."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from madpo_isaac.config import Config
from madpo_isaac.errors import UserError

_PACKAGES = (
    "torch",
    "mujoco",
    "mjbatch",
    "numpy",
    "hydra-core",
    "gymnasium-robotics",
    "rl-games",
)


class RunFolder:
    """Paths inside ``runs/<experiment>/``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.nn = path / "nn"
        self.summaries = path / "summaries"
        self.metrics = path / "metrics.jsonl"

    @classmethod
    def create(cls, config: Config, overrides: list[str]) -> RunFolder:
        """Makes a new folder and records configuration and machine; refuses a used one."""
        runs = Path(config.runs_dir)
        path = runs / config.experiment
        try:
            if not config.experiment:
                path = _make_default(runs, config)
            elif path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise UserError(
                    f"'{path}' already holds a run. Choose another experiment=<name>, or continue "
                    f"it with checkpoint={path}."
                )
            folder = cls(path)
            for directory in (folder.nn, folder.summaries):
                directory.mkdir(parents=True, exist_ok=True)
            (path / "config.yaml").write_text(as_yaml(config))
            (path / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides))
            (path / "env.json").write_text(json.dumps(machine(), indent=2) + "\n")
        except OSError as problem:
            raise UserError(f"Cannot write run folder '{path}': {problem}.") from problem
        return folder

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> RunFolder | None:
        """Returns the run folder a checkpoint lies in, or None if it lies elsewhere."""
        path = checkpoint.resolve().parents[1]
        inside = checkpoint.resolve().parent.name == "nn" and (path / "config.yaml").is_file()
        return cls(path) if inside else None

    def drop_metrics_after(self, iteration: int) -> None:
        """Forgets metric lines newer than a checkpoint that training continues from."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_text().splitlines(keepends=True)
        kept = [line for line in lines if _iteration(line) <= iteration]
        temporary = self.metrics.with_suffix(".tmp")
        temporary.write_text("".join(kept))
        temporary.replace(self.metrics)


def _make_default(runs: Path, config: Config) -> Path:
    """Makes ``<Task>_<algo>_s<seed>_<date>``, numbered if another run took that name just now."""
    now = datetime.datetime.now().astimezone()
    name = f"{config.task.name}_{config.algo.name}_s{config.seed}_{now:%Y%m%d-%H%M%S}"
    runs.mkdir(parents=True, exist_ok=True)
    for path in (runs / name, *(runs / f"{name}-{k}" for k in range(2, 1000))):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise UserError(f"'{runs / name}' and the names after it are taken: give experiment=<name>.")


def _iteration(line: str) -> float:
    try:
        return json.loads(line)["iteration"]
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")  # half a line, left by a crash


def as_yaml(config: Config) -> str:
    """Returns the resolved configuration as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)


def machine() -> dict[str, Any]:
    """Returns versions, devices and the source revision."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu_threads": torch.get_num_threads(),
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git_revision": _git_revision(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
