"""Checkpoints: plain tensors, numbers and text, written atomically, checked when read."""

from __future__ import annotations

import contextlib
import io
import math
import os
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from madpo_isaac import pretrained
from madpo_isaac.errors import UserError, closest, nearest
from madpo_isaac.system.files import plain_settings, write_atomic, writing

FORMAT_VERSION = 1


def save(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` to ``path`` so that a crash leaves either the old file or the new one."""
    write([path], serialize(content))


def serialize(content: dict[str, Any]) -> io.BytesIO:
    """Returns ``content`` as bytes of a file; later changes of its tensors do not affect them."""
    data = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, **content}, data)
    return data


def write(paths: Sequence[Path], data: io.BytesIO) -> None:
    """Writes a serialized checkpoint under every one of ``paths``, in their order.

    All paths are in one folder.

    Raises:
        UserError: it cannot be written; the existing files are not changed.
    """
    *others, path = paths
    with writing(path, "checkpoint "):
        path.parent.mkdir(exist_ok=True)  # fails where the run folder was moved
        write_atomic(path, data.getbuffer(), others)


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint or a policy, whose tensors are then on the CPU.

    Raises:
        UserError: the file is neither.
    """
    if path.suffix == pretrained.SUFFIX and os.path.isfile(path):
        content = pretrained.load(path)
        _check_counters(path, content)
        return content
    content = unpack(path, "checkpoint")
    version = content.get("format_version") if isinstance(content, dict) else None
    if type(version) is not int or version < 1:
        raise UserError(f"'{path}' is not a checkpoint of this program.")
    if version > FORMAT_VERSION:
        raise UserError(
            f"Checkpoint '{path}' has format {version}; this version reads up to {FORMAT_VERSION}."
        )
    missing = [key for key in ("task", "algo", "iteration", "algo_state") if key not in content]
    if missing:
        raise UserError(f"Checkpoint '{path}' lacks {', '.join(missing)}.")
    _check_counters(path, content)
    return content


def _check_counters(path: Path, content: dict[str, Any]) -> None:
    """Raises UserError unless the counters of a run have possible values."""
    for key in ("iteration", "env_steps"):
        value = content.get(key, 0)
        if type(value) is not int or not 0 <= value < 2**63:
            raise UserError(f"Checkpoint '{path}' has {key}={value!r}, which is not a count.")
    for key in ("wall_s", "best_return"):
        value = content.get(key, 0.0)
        integral = isinstance(value, int) and abs(value) < 2**63
        if not integral and (not isinstance(value, float) or math.isnan(value)):
            raise UserError(f"Checkpoint '{path}' has {key}={value!r}, which is not a number.")


def unpack(path: Path, kind: str) -> Any:
    """Returns what :func:`save` wrote, tensors on the CPU; ``kind`` is the word for such a file.

    Raises:
        UserError: it cannot be read, or is no such file.
    """
    if not os.path.isfile(path):  # a device would be read for ever
        state = "is not a file" if os.path.exists(path) else "does not exist"
        raise UserError(f"{kind.capitalize()} '{path}' {state}.")
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch does not notice a changed byte
                raise zipfile.BadZipFile(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the error below says it all
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as problem:
        raise UserError(f"Cannot read {kind} '{path}': {problem.strerror}.") from None
    except Exception as problem:  # noqa: BLE001  torch raises many kinds for a damaged file
        reason = type(problem).__name__
        raise UserError(f"'{path}' is damaged or not a {kind} ({reason}).") from None


@contextlib.contextmanager
def using(path: Path) -> Iterator[None]:
    """Turns errors inside the block into one line: the checkpoint does not fit this version."""
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise UserError(f"Checkpoint '{path}' is not of this version ({reason}).") from problem


def find(name: str, runs_dir: Path, task: str | None = None, algo: str | None = None) -> Path:
    """Resolves a file, a run folder, ``latest`` or ``best`` to a checkpoint file.

    ``latest`` and ``best`` are of the newest run, of ``task`` and ``algo`` where these are given.
    The name of a policy that comes with the project stands for its file.
    """
    if name in ("latest", "best"):
        file = "last.pth" if name == "latest" else "best.pth"
        configs = runs_dir.glob("*/config.yaml")
        found = [path.parent for path in configs if _belongs(path.parent, task, algo)]
        if not found:
            kind = f" of {task}" * bool(task) + f" with {algo}" * bool(algo)
            raise UserError(f"checkpoint={name}: no run{kind} in '{runs_dir}'.")
        run = max(found, key=_last_sign)
        if not (run / "nn" / file).exists():
            raise UserError(
                f"checkpoint={name}: the newest run, '{run}', has no {file}: name a run folder or "
                "a file."
            )
        return run / "nn" / file
    if os.path.isdir(name):
        return Path(name) / "nn" / "last.pth"
    if not os.path.exists(name):
        if name in pretrained.names():
            return pretrained.find(name)
        others = ("latest", "best", *pretrained.names())
        hint = closest(name, [*others, *_resembling(Path(name))])
        raise UserError(f"Checkpoint '{name}' does not exist.{hint}")
    return Path(name)


def _resembling(path: Path) -> list[str]:
    """Returns the checkpoint that ``path`` would be if its first missing part had another name."""
    first = path
    while not first.parent.is_dir():
        first = first.parent
    found: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for other in first.parent.iterdir():
            meant = other / path.relative_to(first)
            if (meant / "nn").is_dir() or (meant.suffix == ".pth" and meant.is_file()):
                found[other.name] = str(meant)
    near = nearest(first.name, found)
    return [] if near is None else [found[near]]


def _last_sign(run: Path) -> float:
    """Returns the time at which a run last saved, or began; seconds since the epoch."""
    times = [os.stat(path).st_mtime for path in run.glob("nn/*.pth") if path.exists()]
    return max(times) if times else os.stat(run / "config.yaml").st_mtime


def _belongs(run: Path, task: str | None, algo: str | None) -> bool:
    try:
        config = plain_settings((run / "config.yaml").read_text(encoding="utf-8"), run)
        found = [OmegaConf.select(config, f"{group}.name") for group in ("task", "algo")]
    except (OSError, ValueError, OmegaConfBaseException):
        return False
    wanted = (task, algo)
    return all(has and want in (None, has) for has, want in zip(found, wanted, strict=True))
