"""A lock on a run folder that ends with the process that holds it."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_LONGEST = 1024
"""Bytes of the longest path on macOS."""


def is_alive(pid: int) -> bool:
    """Returns whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # another user's
        pass
    return pid > 0


class Lock:
    """An exclusive flock(2) on a file, which stays when the lock is released.

    If the file were removed, two processes could lock two files of one name. The kernel releases
    the lock when the process ends, however it ends. It holds for other machines if the file system
    passes locks on. NFS does so unless it is mounted with ``nolock`` or ``local_lock``. On a file
    system without locks, every process gets the lock.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Takes the lock without waiting; returns False where another process has it.

        Raises:
            OSError: the file cannot be made.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno not in _UNSUPPORTED:
                os.close(descriptor)
                if isinstance(problem, BlockingIOError):
                    return False
                raise
        self._descriptor = descriptor
        return True

    def lost(self) -> bool:
        """Returns whether the file that is locked is no longer the one of this name."""
        if self._descriptor is None:
            return False
        try:
            found = os.stat(self.path)
        except OSError:
            return True
        held = os.fstat(self._descriptor)
        return (held.st_dev, held.st_ino) != (found.st_dev, found.st_ino)

    def folder(self) -> Path | None:
        """The folder of the file that is locked, by the name it has now, where that can be told.

        None if another process may hold a lock there: the file was replaced.
        """
        if not self.lost():
            return self.path.parent
        try:
            descriptor = self._descriptor or 0
            found = _name(descriptor)
            moved = Lock(found)
            moved._descriptor = descriptor
            deleted = not os.fstat(descriptor).st_nlink
        except OSError:
            return None
        return None if deleted or moved.lost() else found.parent

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _name(descriptor: int) -> Path:
    """Returns the present name of an open file; raises OSError if it cannot be told."""
    get_path = getattr(fcntl, "F_GETPATH", None)
    if get_path is not None:  # macOS, which has no /proc
        answer = fcntl.fcntl(descriptor, get_path, bytes(_LONGEST))
        return Path(os.fsdecode(answer.rstrip(b"\0")))
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
