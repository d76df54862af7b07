"""Checkpoints: plain tensors, numbers and text, written atomically, checked when read."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from madpo_isaac.errors import UserError

FORMAT_VERSION = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` to ``path`` so that a crash leaves either the old file or the new one."""
    temporary = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save({"format_version": FORMAT_VERSION, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as problem:
        raise UserError(f"Cannot write checkpoint '{path}': {problem}.") from problem
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def load(path: Path, device: torch.device) -> dict[str, Any]:
    """Reads a checkpoint onto ``device``; raises :class:`UserError` if it is none of ours."""
    if not os.path.isfile(path):
        raise UserError(f"Checkpoint '{path}' does not exist.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says it all
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # noqa: BLE001  torch raises many kinds for a damaged file
        kind = type(problem).__name__
        raise UserError(f"Checkpoint '{path}' is damaged or not a checkpoint ({kind}).") from None
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise UserError(f"'{path}' is not a checkpoint of this program.")
    if version > FORMAT_VERSION:
        raise UserError(
            f"Checkpoint '{path}' has format {version}; this version reads up to {FORMAT_VERSION}."
        )
    missing = [key for key in ("task", "algo", "iteration", "algo_state") if key not in content]
    if missing:
        raise UserError(f"Checkpoint '{path}' lacks {', '.join(missing)}.")
    return content


def find(name: str, runs_dir: Path, task: str, algo: str) -> Path:
    """Resolves a file, a run folder, ``latest`` or ``best`` to a checkpoint file."""
    if name in ("latest", "best"):
        file = "last.pth" if name == "latest" else "best.pth"
        found = [
            path for path in runs_dir.glob(f"*/nn/{file}") if _belongs(path.parents[1], task, algo)
        ]
        if not found:
            raise UserError(f"checkpoint={name}: no run of {task} with {algo} in '{runs_dir}'.")
        return max(found, key=lambda path: path.stat().st_mtime)
    path = Path(name)
    if os.path.isdir(path):
        return path / "nn" / "last.pth"
    return path


def _belongs(run: Path, task: str, algo: str) -> bool:
    try:
        config = OmegaConf.load(run / "config.yaml")
    except (OSError, ValueError, YAMLError):
        return False
    if not isinstance(config, DictConfig):
        return False
    names = [OmegaConf.select(config, f"{group}.name") for group in ("task", "algo")]
    return names == [task, algo]
