"""Checkpoints written while training goes on."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from madpo_isaac.errors import UserError
from madpo_isaac.runs import checkpoint


class Saver:
    """Serialises at once and writes on a thread, since it is the disk that takes long.

    One write is under way at a time: the next one waits for it. What went wrong is raised by
    the call that follows.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._problem: UserError | None = None

    def save(self, paths: Sequence[Path], content: dict[str, Any]) -> None:
        """Writes ``content`` under every one of ``paths``, the last one last.

        Raises:
            UserError: the write before could not be done.
        """
        data = checkpoint.serialise(content)
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(paths, data), name="saver")
        self._thread.start()

    def wait(self) -> None:
        """Returns when everything is on the disk.

        Raises:
            UserError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        problem, self._problem = self._problem, None
        if problem is not None:
            raise problem

    def _write(self, paths: Sequence[Path], data: io.BytesIO) -> None:
        try:
            checkpoint.write(paths, data)
        except UserError as problem:
            self._problem = problem
