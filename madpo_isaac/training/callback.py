"""The contract between the training loop and everything that watches, guards, saves or shows it."""

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
    """Base of all callbacks; override what is needed.

    The loop calls them in order. A callback may set ``run.stopping`` to end the run after this
    iteration; an exception ends it at once.
    """

    def on_start(self, run: Run) -> None:
        """Called before the first iteration."""

    def on_step(self, run: Run, action: Tensor, step: Step) -> None:
        """Called with the joint actions (N, A) and the outcome of every step of training."""

    def on_rollout(self, run: Run) -> None:
        """Called between collection and update: the policies are those that have acted.

        ``run.episodes`` holds what the rollout's finished episodes reached.
        """

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Called after the update with the iteration's metrics, to which it may add."""

    def on_end(self, run: Run) -> None:
        """Called after the last iteration, however the run ends; in reverse order."""


class BestEffort(Callback):
    """A callback that the run can do without: if it fails, it is given up, and training goes on.

    Args:
        name: what is given up, for the message.
        callback: what may fail.
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
