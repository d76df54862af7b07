"""Callbacks that save a run, and that end it after a signal."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from madpo_isaac.errors import UserError
from madpo_isaac.runs import checkpoint
from madpo_isaac.runs.folder import RunFolder
from madpo_isaac.system.signals import StopRequest
from madpo_isaac.training.callback import Callback
from madpo_isaac.training.run import Moment, Run

SAVE_INTERVAL = 60.0
"""Largest number of seconds between two checkpoints, if an iteration takes less."""


class StopOnSignal(Callback):
    """Ends the run after the iteration in which a process gets a signal; see StopRequest."""

    def __init__(self) -> None:
        self.request = StopRequest()
        self._listening = contextlib.ExitStack()

    def on_start(self, run: Run) -> None:
        """Begins to listen."""
        self._listening.enter_context(self.request.listening())

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Asks all processes."""
        run.stopping |= self.request.agreed(run.ranks)

    def on_end(self, run: Run) -> None:
        """Restores the earlier handlers of signals."""
        self._listening.close()


class Checkpoints(Callback):
    """Keeps the best policy in best.pth, and the newest state of the run in last.pth.

    The best policy is the one with the highest return of an evaluation. Without evaluations it is
    the one with the highest mean return of the episodes that ended in one rollout; best.pth then
    has the policies that collected this rollout, from before the update. This callback comes last,
    after those that record the iteration and those that may end the run.

    Args:
        folder: the run folder.
        flush: function that puts the metrics up to now on the disk; it is called before saving.
    """

    def __init__(self, folder: RunFolder, flush: Callable[[], None] = lambda: None) -> None:
        self._folder, self._flush = folder, flush
        self._saver = Saver()
        self._saved_at = -float("inf")

    def on_start(self, run: Run) -> None:
        """Starts to measure the time since the last checkpoint."""
        self._looked_at = time.monotonic()

    def on_rollout(self, run: Run) -> None:
        """Saves the policies that have collected the rollout if they are the best so far."""
        if not run.config.eval_frequency:
            self._compare(run, run.episodes["episode_return"], run.beginning)

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Saves after the first iteration, at regular times, at the end, and a new best policy."""
        cfg = run.config
        if cfg.eval_frequency and run.iteration % cfg.eval_frequency == 0:
            self._compare(run, run.ranks.broadcast(metrics.get("eval/return")), run.now())
        now = time.monotonic()
        took, self._looked_at = now - self._looked_at, now  # the next one takes about as long
        overdue = now + took - self._saved_at > SAVE_INTERVAL
        numbered = bool(cfg.save_frequency) and run.iteration % cfg.save_frequency == 0
        last = run.stopping or run.iteration == cfg.max_iterations
        if run.ranks.any(overdue) or numbered or last:
            self._saved_at = now
            # last.pth comes last: whoever continues from it finds the other as it was.
            self._save(run, [f"ep_{run.iteration}"] * numbered + ["last"], run.now())

    def on_end(self, run: Run) -> None:
        """Waits until everything is on the disk."""
        with self._explained():
            self._saver.wait()

    def _compare(self, run: Run, score: float | None, moment: Moment) -> None:
        if score is not None and score > run.best_return:
            run.best_return = score
            self._save(run, ["best"], moment)

    def _save(self, run: Run, names: Sequence[str], moment: Moment) -> None:
        self._folder.check_lock()
        self._flush()
        content = run.checkpoint(moment)
        if not run.ranks.index:
            with self._explained():
                self._saver.save([self._folder.nn / f"{name}.pth" for name in names], content)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Names the cause where a file cannot be written because the folder was moved."""
        try:
            yield
        except UserError:
            self._folder.check_lock()
            raise


class Saver:
    """Serializes at once and writes in a thread, because the disk takes longer.

    There is one write at a time, and the next one waits for it. An error is raised by the next
    call.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None

    def save(self, paths: Sequence[Path], content: dict[str, Any]) -> None:
        """Writes ``content`` to all ``paths``, in their order.

        Raises:
            UserError: the previous write has failed.
        """
        data = checkpoint.serialize(content)
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
        except Exception as problem:  # noqa: BLE001  whatever it is, wait() raises it
            self._problem = problem
