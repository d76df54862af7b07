"""Keeps what reports have read of metrics.jsonl, for the next report about the same runs."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np

from madpo_isaac.report import lines
from madpo_isaac.system.files import write_atomic

_WORTH = 2**18
"""Bytes of a metrics.jsonl from which on it is kept: smaller ones are read as fast."""
_SETTLED = 2.0
"""Seconds since the last write after which another one is sure to change a file's time."""
_KEPT = 30 * 86400.0
"""Seconds for which a file is kept that no report uses."""


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Does :func:`lines.read_columns`, at once if a report has read the file as it is now.

    The file is the same if its path, number (inode), size and times are. One that was written to
    just now is not kept, nor is one that changes meanwhile. The cache is the folder
    ``madpo_isaac/report`` in ``XDG_CACHE_HOME``, by default ``~/.cache``; where it cannot be
    written, nothing is kept.
    """
    folder, stamp = _folder(), _stamp(path)
    if folder is None or stamp is None:
        return lines.read_columns(path)
    kept = folder / _digest(os.fsencode(path.resolve()))
    columns = _load(kept, stamp)
    if columns is None:
        columns = lines.read_columns(path)
        if columns and stamp == _stamp(path):
            _save(kept, stamp, columns)
    return columns


def _stamp(path: Path) -> str | None:
    """Returns a checksum of what would change with the columns; None for a file not to be kept."""
    try:
        at = path.stat()
    except OSError:
        return None
    if at.st_size < _WORTH or time.time() - at.st_mtime < _SETTLED:
        return None
    state = (at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns)
    return _digest(f"{state} {_reader()}".encode())


@functools.cache
def _reader() -> str:
    """Returns a checksum of the code that reads: another version may read something else."""
    return _digest(Path(lines.__file__).read_bytes())


def _load(kept: Path, stamp: str) -> dict[str, np.ndarray] | None:
    """Returns the columns from a file; None if it is not there, damaged, or of another stamp."""
    try:
        content = kept.read_bytes()
    except OSError:
        return None
    checksum, _, content = content.partition(b"\n")
    if checksum != _digest(content).encode():
        return None
    head, _, numbers = content.partition(b"\n")
    known, keys = json.loads(head)
    if known != stamp:
        return None
    with contextlib.suppress(OSError):
        os.utime(kept)
    table = np.frombuffer(numbers, "<f8").reshape(len(keys), -1)
    return dict(zip(keys, table.astype(float), strict=True))


def _save(kept: Path, stamp: str, columns: dict[str, np.ndarray]) -> None:
    head = json.dumps([stamp, list(columns)]).encode()
    table = np.stack(list(columns.values())).astype("<f8")
    content = head + b"\n" + table.tobytes()
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        _tidy(kept.parent)
        write_atomic(kept, _digest(content).encode() + b"\n" + content)


@functools.cache
def _tidy(folder: Path) -> None:
    """Removes what no report has used for long."""
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _KEPT:
                path.unlink()


def _folder() -> Path | None:
    """Returns the folder of the cache; None where there is no home folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    return base / "madpo_isaac" / "report" if base.is_absolute() else None


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
