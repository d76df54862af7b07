"""A whole run: its checkpoint, its folder, its callbacks, and its end."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from madpo_isaac import console
from madpo_isaac.config import resume
from madpo_isaac.config.schema import Config
from madpo_isaac.evaluation import window
from madpo_isaac.evaluation.render import choose_backend
from madpo_isaac.runs.folder import RunFolder
from madpo_isaac.system import distributed, memory
from madpo_isaac.system.distributed import Ranks
from madpo_isaac.training import parallel
from madpo_isaac.training.callback import BestEffort, Callback
from madpo_isaac.training.loop import train
from madpo_isaac.training.policy import find_checkpoint
from madpo_isaac.training.recording import ConsoleView, Curves, Recorder
from madpo_isaac.training.run import Run
from madpo_isaac.training.saving import Checkpoints, StopOnSignal
from madpo_isaac.training.watching import Evaluation, Filming, Viewing
from madpo_isaac.training.weights_and_biases import WeightsAndBiases, check_installed
from madpo_isaac.training.worlds import WorldGuard


class Ended(NamedTuple):
    """The end of a run."""

    exit_code: int
    """0, or 128 plus the number of the signal that ended it."""
    folder: Path
    """The run folder; or the checkpoint, if it is in no run folder and nothing was left to do."""


def run(config: Config, overrides: Sequence[str] = ()) -> Ended:
    """Trains a configuration up to ``max_iterations``, from a checkpoint if one is given.

    Args:
        config: a validated configuration.
        overrides: settings of the command line, which the run folder records.

    Raises:
        UserError: something that the run needs is missing, the checkpoint cannot be continued, or
            a file cannot be read or written.
        RunFailed: too many environments became unstable, or too many gradients were not finite.
        KeyboardInterrupt: Ctrl-C was pressed a second time.
    """
    if config.capture_video:
        choose_backend()  # fails before anything is built
    if config.wandb_activate:
        check_installed()
    if not config.headless:
        window.check_display()
    ranks = distributed.join(config.multi_gpu)
    try:
        return _run(_settled(config, ranks), list(overrides), ranks)
    finally:
        ranks.leave()


def with_seed(config: Config) -> Config:
    """Returns the configuration; if its seed is -1, with a seed that is drawn."""
    if config.seed != -1:
        return config
    return replace(config, seed=int(np.random.SeedSequence().generate_state(1)[0]))


def _settled(config: Config, ranks: Ranks) -> Config:
    config = with_seed(config)
    if ranks.count == 1:
        return config
    path = str(find_checkpoint(config)) if config.checkpoint else ""
    return parallel.config_for_rank(config, ranks, path)


def _run(config: Config, overrides: list[str], ranks: Ranks) -> Ended:
    """Finds or makes the run folder, holds its lock, and trains."""
    work = Run(config, ranks)
    path = find_checkpoint(config) if config.checkpoint else None
    own = resume.folder_to_continue(config, path)
    with contextlib.ExitStack() as stack:
        if own is not None:
            stack.callback(own.release)
            own.acquire()
        if path is not None:
            source = RunFolder.of_checkpoint(path)
            apart = source is None or own is None or source.path != own.path
            work.restore(path, elsewhere=ranks.broadcast(apart))
            if work.iteration >= config.max_iterations:
                console.info(f"'{path}' is of iteration {work.iteration}: nothing left to do")
                return Ended(0, path if own is None else own.path)
        if own is not None:
            done = (work.iteration, work.env_steps, work.steps)
            own.reopen(config, overrides, path, *done)
        folder = own or RunFolder.create(config, overrides)
        stack.callback(folder.release)
        if ranks.any(not ranks.index and not (folder.nn / "best.pth").exists()):
            work.best_return = -math.inf  # the score belongs to a policy in another folder
        return Ended(_train(work, folder), folder.path)


def _train(work: Run, folder: RunFolder) -> int:
    """Trains in a folder and keeps its status.json."""
    signals = StopOnSignal()

    def mark(state: str) -> None:
        total, caught = work.config.max_iterations, signals.request.signal
        name = None if caught is None else caught.name
        facts = {"iteration": work.iteration, "max_iterations": total, "signal": name}
        folder.mark(state, **facts, **memory.peak_mb(work.env.device))

    mark("running")
    state = "failed"
    try:
        train(work, make_callbacks(work, folder, signals))
        cut_short = bool(signals.request) and work.iteration < work.config.max_iterations
        state = signals.request.outcome if cut_short else "finished"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    finally:
        mark(state)
    if not cut_short:
        return 0
    console.info(f"{state}: saved {folder.nn / 'last.pth'}")
    return signals.request.exit_code


def make_callbacks(work: Run, folder: RunFolder, signals: StopOnSignal) -> list[Callback]:
    """Returns the callbacks of a run; if there are several processes, the first one has most."""
    config = work.config
    shared = Path(work.ranks.broadcast(str(folder.path)))
    guard = WorldGuard(shared / "dumps")
    if work.ranks.index:
        return [guard, signals, Checkpoints(folder)]
    callbacks: list[Callback] = [guard]
    if config.capture_video:
        callbacks.append(BestEffort("clips", Filming(folder.path / "videos")))
    if not config.headless:
        callbacks.append(BestEffort("the viewer", Viewing()))
    if config.eval_frequency:
        callbacks.append(Evaluation(folder.path / "eval" / "training.json"))
    recorder = Recorder(folder.metrics)
    loggers = [BestEffort("TensorBoard curves", Curves(folder.summaries, folder.path / "videos"))]
    if config.wandb_activate:
        loggers.append(BestEffort("Weights & Biases", WeightsAndBiases(folder.path)))
    return [
        *callbacks,
        recorder,
        *loggers,
        BestEffort("lines on the console", ConsoleView(folder.path)),
        signals,
        Checkpoints(folder, recorder.flush),
    ]
