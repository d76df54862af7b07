"""Callbacks that look at the policy in training: evaluations, films and the viewer."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from madpo_isaac.env import Step
from madpo_isaac.evaluation.evaluate import Record, evaluate, means
from madpo_isaac.evaluation.video import Film, partial
from madpo_isaac.evaluation.window import Window
from madpo_isaac.system.byproduct import ByProduct
from madpo_isaac.training.callback import Callback
from madpo_isaac.training.factory import make_env
from madpo_isaac.training.run import Run

EVALUATION = 1
"""Number that makes the seed of evaluations different from that of the training."""


class Evaluation(Callback):
    """Scores the policy every ``eval_frequency`` iterations, with mean actions.

    It has environments of its own. Every evaluation starts from the same states, so that scores
    differ only because of the policy.

    Args:
        path: file to which the scores so far are written after each evaluation.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, ByProduct(f"'{path}'")

    def on_start(self, run: Run) -> None:
        """Makes the environments, and reads the scores that the run has so far."""
        cfg = run.config
        seed = int(np.random.SeedSequence((cfg.seed, EVALUATION)).generate_state(1)[0])
        self._env = make_env(cfg, cfg.eval_envs, seed, run.threads)
        self._beginning = copy.deepcopy(self._env.state_dict())
        self._record = Record(cfg.task.name, cfg.algo.name, cfg.seed)
        self._record.continue_from(self._path, run.env_steps)

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Evaluates if it is time, and adds the means to the iteration's metrics."""
        if run.iteration % run.config.eval_frequency:
            return
        self._env.load_state_dict(self._beginning)
        episodes = evaluate(run.learner.policy(), self._env, run.config.eval_episodes)
        self._record.add(run.env_steps, episodes)
        self._file.attempt(self._write)
        metrics |= {f"eval/{name}": value for name, value in means(episodes).items()}
        metrics["wall_s"] = run.wall_s

    def _write(self) -> None:
        self._path.parent.mkdir(exist_ok=True)  # fails where the run folder was moved
        self._record.write(self._path)


class Filming(Callback):
    """Films training into clips, see ``capture_video``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._film: Film | None = None

    def on_start(self, run: Run) -> None:
        """Finds out which clip comes next; removes one that a killed process left unfinished."""
        cfg = run.config
        for path in self._folder.glob(partial(Path("step_*.mp4")).name):
            with contextlib.suppress(OSError):  # a film is no reason to end a run
                path.unlink()
        self._film = Film(
            run.env,
            self._file,
            frequency=cfg.capture_video_freq,
            length=cfg.capture_video_len,
            count=cfg.capture_video_envs,
            step=run.steps,
        )

    def on_step(self, run: Run, action: Tensor, step: Step) -> None:
        """Films a step if it is in a clip."""
        assert self._film is not None
        self._film.add(step, run.tracker.returns)

    def _file(self, step: int) -> Path:
        """The file of the clip that starts with a step."""
        self._folder.mkdir(exist_ok=True)  # fails where the run folder was moved
        return self._folder / f"step_{step}.mp4"

    def on_end(self, run: Run) -> None:
        """Ends the clip under way."""
        if self._film is not None:
            self._film.close()


class NewClips:
    """Tells which clips have been finished since the last time.

    Args:
        folder: the clips' folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = self._all()

    def take(self) -> list[Path]:
        """Returns the new clips in the order of their steps."""
        new = self._all() - self._known
        self._known |= new
        return sorted(new, key=lambda path: (len(path.name), path.name))

    def _all(self) -> set[Path]:
        return set(self._folder.glob("step_*.mp4"))


class Viewing(Callback):
    """Shows the first environment in MuJoCo's viewer; training goes on if somebody closes it."""

    def __init__(self) -> None:
        self._window: Window | None = None

    def on_start(self, run: Run) -> None:
        """Opens the window."""
        self._window = Window(run.env)

    def on_step(self, run: Run, action: Tensor, step: Step) -> None:
        """Shows the state that the step led to."""
        assert self._window is not None
        self._window.show()

    def on_end(self, run: Run) -> None:
        """Closes the window."""
        if self._window is not None:
            self._window.close()
