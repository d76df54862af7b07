"""Files that are complete at every moment, even if the process or the machine is killed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from madpo_isaac.errors import UserError, reason_of

_TEMPORARY = ".madpo-"
_TAIL = 2**16
"""Bytes at the end of a file in which its last line lies."""


def write_atomic(path: Path, data: bytes | memoryview, links: Sequence[Path] = ()) -> None:
    """Replaces ``path`` by ``data``; a reader sees the old file or the new one, never a part.

    Args:
        path: the file to write. Its folder has to exist; a hidden file there is used, too.
        data: the content; it is on the disk before the file gets its name.
        links: further names in the same folder for the same content, which are made first.

    Raises:
        OSError: the disk is full, the folder cannot be written, ...; the old files are untouched.
    """
    temporary = _beside(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        for other in links:
            _link(temporary, other)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    sync_folder(path.parent)


@contextlib.contextmanager
def writing(path: Path, kind: str = "") -> Iterator[None]:
    """Turns an OSError inside the block into one line: ``path`` cannot be written.

    Args:
        path: the file or folder.
        kind: what it is, such as "run folder ".

    Raises:
        UserError: in place of the OSError.
    """
    try:
        yield
    except OSError as problem:
        raise UserError(f"Cannot write {kind}'{path}': {problem}.") from problem


def parse_json(text: str) -> Any:
    """Reads JSON; raises ValueError for every error in it, including too deep nesting."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """Returns the JSON object in a file; empty if there is none."""
    try:
        return _object(path.read_text(errors="replace")) or {}
    except OSError:
        return {}


def last_json(path: Path) -> dict[str, Any]:
    """Returns the last whole JSON object of a file of one or of many lines; empty without one."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - _TAIL, 0))
            text = file.read().decode(errors="replace")
    except OSError:
        return {}
    objects = (_object(part) for part in (text, *reversed(text.splitlines())))
    return next((found for found in objects if found is not None), {})


def _object(text: str) -> dict[str, Any] | None:
    try:
        found = parse_json(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings with dotted keys."""
    result: dict[str, Any] = {}
    for key, value in tree.items():
        inner = flat(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        result |= {f"{prefix}{key}": value} if inner is None else inner
    return result


@contextlib.contextmanager
def reading_settings(where: Path) -> Iterator[None]:
    """Turns what goes wrong with a file of settings into an error that names it."""
    wrong = (OSError, AssertionError, ValueError, RecursionError, YAMLError, OmegaConfBaseException)
    try:
        yield
    except wrong as problem:
        raise UserError(
            f"The configuration in '{where}' cannot be used: {reason_of(problem)}."
        ) from problem


def plain_settings(text: Any, where: Path) -> DictConfig:
    """Reads settings in YAML from a file that may have come from elsewhere.

    Args:
        text: content of the file.
        where: the file.

    Raises:
        UserError: it holds no settings, or a reference such as ``${oc.env:HOME}``, which would
            put something of this machine into them.
    """
    with reading_settings(where):
        content = OmegaConf.create(text) if isinstance(text, str) else None
    if not isinstance(content, DictConfig):
        raise UserError(f"'{where}' holds no configuration.")
    if found := re.search(r"\$\{[^}]*\}?", str(OmegaConf.to_container(content, resolve=False))):
        raise UserError(
            f"The configuration in '{where}' refers to '{found[0]}': write the value itself."
        )
    return content


def write_json(path: Path, content: Any, indent: int | None = None) -> None:
    """Replaces ``path`` and makes its folder; raises :class:`UserError` if it cannot."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content, indent=indent, allow_nan=False)
        write_atomic(path, f"{text}\n".encode())


def check_writable(folder: Path) -> None:
    """Makes a folder and a file in it, which goes again; raises :class:`UserError` if it cannot."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def sync_folder(folder: Path) -> None:
    """Puts the names in ``folder`` on the disk, where the file system can."""
    with contextlib.suppress(OSError):
        _sync(folder)


def _beside(path: Path) -> Path:
    """Returns a name in the same folder that no file has, whoever else writes ``path`` now."""
    return path.with_name(f"{_TEMPORARY}{secrets.token_hex(8)}.tmp")


def remove_temporary(folder: Path) -> None:
    """Removes what a killed process left in a folder in which nobody else writes."""
    for path in folder.glob(f"{_TEMPORARY}*.tmp"):
        path.unlink(missing_ok=True)


def is_temporary(name: str) -> bool:
    """Returns whether a file of this name is one that :func:`write_atomic` has not finished."""
    return name.startswith(_TEMPORARY) and name.endswith(".tmp")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    """Makes ``target`` another name of ``source``, or a copy where there are no hard links."""
    temporary = _beside(target)
    try:
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())
            _sync(temporary)
        temporary.replace(target)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
