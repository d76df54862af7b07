"""The training loop: Algorithm 1 of the MADPO paper."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from torch import Tensor

from madpo_isaac.env import Step
from madpo_isaac.training.callback import Callback
from madpo_isaac.training.run import Run


def train(run: Run, callbacks: Sequence[Callback] = ()) -> None:
    """Trains up to ``max_iterations``, or until a callback sets ``run.stopping``.

    For MADPO this is Algorithm 1 of Dou et al. (NeurIPS 2024), and the other algorithms have the
    same loop. An iteration collects a rollout with the present policies. Then it updates the
    agents, one after another, and the critic. Everything else is done by callbacks: they evaluate,
    record, show, film and save, and they end a run that has too many unstable environments.

    Args:
        run: the run to train, from its present iteration on.
        callbacks: callbacks, called in this order, and in the reverse order at the end.
    """

    def watch(action: Tensor, step: Step) -> None:
        for callback in callbacks:
            callback.on_step(run, action, step)

    with contextlib.ExitStack() as ends:
        for callback in callbacks:
            callback.on_start(run)
            ends.callback(callback.on_end, run)
        run.start_clock()
        while run.iteration < run.config.max_iterations and not run.stopping:
            run.collect(watch)
            for callback in callbacks:
                callback.on_rollout(run)
            metrics = run.update()
            for callback in callbacks:
                callback.on_iteration(run, metrics)
