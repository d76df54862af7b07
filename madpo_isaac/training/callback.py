"""The contract between the training loop and the callbacks that watch, guard, save or show it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from madpo_isaac.env import Step
from madpo_isaac.system.byproduct import ByProduct

if TYPE_CHECKING:
    from madpo_isaac.training.run import Run


class Callback:
    """Base of all callbacks, whose methods do nothing; a callback overrides some of them.

    The loop calls them in order. A callback may set ``run.stopping`` to end the run after this
    iteration; an exception ends it at once.
    """

    def on_start(self, run: Run) -> None:
        """Is called before the first iteration."""

    def on_step(self, run: Run, action: Tensor, step: Step) -> None:
        """Is called with the joint actions (N, A) and the outcome of every step of training."""

    def on_rollout(self, run: Run) -> None:
        """Is called between collection and update, with the policies that collected the rollout.

        ``run.episodes`` holds the statistics of the rollout's finished episodes.
        """

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Is called after the update with the iteration's metrics, to which it may add entries."""

    def on_end(self, run: Run) -> None:
        """Is called after the last iteration, however the run ends, in reverse order."""


class BestEffort(Callback):
    """An optional callback: if it fails, there is a warning, and training goes on without it.

    Args:
        name: name of the callback in the warning.
        callback: the callback that may fail.
    """

    def __init__(self, name: str, callback: Callback) -> None:
        self._callback, self._work = callback, ByProduct(name)

    def on_start(self, run: Run) -> None:
        """See :class:`Callback`."""
        self._attempt(run, lambda: self._callback.on_start(run))

    def on_step(self, run: Run, action: Tensor, step: Step) -> None:
        """See :class:`Callback`."""
        self._attempt(run, lambda: self._callback.on_step(run, action, step))

    def on_rollout(self, run: Run) -> None:
        """See :class:`Callback`."""
        self._attempt(run, lambda: self._callback.on_rollout(run))

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """See :class:`Callback`."""
        self._attempt(run, lambda: self._callback.on_iteration(run, metrics))

    def on_end(self, run: Run) -> None:
        """See :class:`Callback`."""
        self._work.attempt(lambda: self._callback.on_end(run))

    def _attempt(self, run: Run, work: Callable[[], None]) -> None:
        if not self._work.given_up and not self._work.attempt(work):
            with contextlib.suppress(Exception):  # the failure has been told
                self._callback.on_end(run)
