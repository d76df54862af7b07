"""Callbacks that record a run's numbers and show them."""

from __future__ import annotations

import math
import shlex
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.live import Live

from madpo_isaac import console
from madpo_isaac.evaluation.video import as_gif
from madpo_isaac.runs.folder import continuing
from madpo_isaac.runs.metrics import MetricsFile, TensorBoard
from madpo_isaac.system.byproduct import ByProduct
from madpo_isaac.system.files import writing
from madpo_isaac.training.callback import Callback
from madpo_isaac.training.display import View, show, steps
from madpo_isaac.training.run import Run
from madpo_isaac.training.watching import NewClips


class Recorder(Callback):
    """Writes metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, run: Run) -> None:
        """Opens the file."""
        with writing(self._path):
            self._file = MetricsFile(self._path)

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Writes one line."""
        with writing(self._path):
            self._file.write(metrics)

    def flush(self) -> None:
        """Puts all lines on the disk, since a checkpoint must not be newer than this file."""
        with writing(self._path):
            self._file.flush()

    def on_end(self, run: Run) -> None:
        """Closes the file."""
        with writing(self._path):
            self._file.close()


class Curves(Callback):
    """Writes TensorBoard's event file: curves, configuration, hyper-parameters and clips.

    Args:
        folder: where the event file goes.
        videos: folder of the clips.
    """

    def __init__(self, folder: Path, videos: Path) -> None:
        self._folder = folder
        self._new, self._clips = NewClips(videos), ByProduct("clips in TensorBoard")
        self._writer: TensorBoard | None = None

    def on_start(self, run: Run) -> None:
        """Opens the file."""
        self._writer = TensorBoard(self._folder, run.env_steps + 1)
        self._writer.describe(run.config_yaml)

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Writes one iteration."""
        assert self._writer is not None
        self._writer.write(metrics)
        if run.config.capture_video:
            self._clips.attempt(lambda: self._show_clips(run.env_steps))

    def _show_clips(self, step: int) -> None:
        assert self._writer is not None
        for path in self._new.take():
            self._writer.show("clips", step, as_gif(path))

    def on_end(self, run: Run) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()


class ConsoleView(Callback):
    """A live view of the run in a terminal; without a terminal, one line per iteration."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._live = Live(console=console.out, auto_refresh=False, transient=True)

    def on_start(self, run: Run) -> None:
        """Prints the run folder and the main settings."""
        config, env = run.config, run.env
        self._first = run.iteration, run.wall_s
        agents = run.learner.agents
        threads = "1 thread" if run.threads == 1 else f"{run.threads} threads"
        named = ", ".join(f"{a.name} ({a.obs_dim} obs, {a.act_dim} act)" for a in agents)
        _introduce(
            f"{config.task.name} with {config.algo.name}: {env.num_envs} environments on "
            f"{env.device} ({threads}), state {env.state_dim}, seed {config.seed}"
        )
        _introduce(f"agents: {named}")
        console.info(f"run folder: {self._folder}")
        self._view = View(
            title=f"{config.task.name} with {config.algo.name}, seed {config.seed}",
            folder=str(self._folder),
            agents=[agent.name for agent in agents],
            iterations=config.max_iterations,
            evaluates=bool(config.eval_frequency),
            has_success=run.env.has_success,
        )
        if console.out.is_terminal:
            self._live.start()
            self._live.update(self._view, refresh=True)

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Shows the iteration."""
        remaining = self._remaining(metrics, run.config.max_iterations)
        self._view.add(metrics, remaining)
        if self._live.is_started:
            self._live.update(self._view, refresh=True)
        else:
            total, wins = run.config.max_iterations, run.env.has_success
            console.info(plain_line(metrics, total, remaining, has_success=wins))

    def on_end(self, run: Run) -> None:
        """Removes the view; if the run has ended well, prints its results and the next commands."""
        if not self._live.is_started:
            return
        self._live.stop()
        ended = run.stopping or run.iteration >= run.config.max_iterations
        if ended and self._view.metrics:
            for line in closing(self._view, run.best_return, self._folder):
                console.info(line)

    def _remaining(self, m: dict[str, Any], total: int) -> str:
        """Returns the time left at the average pace since this process started."""
        iteration, wall_s = self._first
        pace = (m["wall_s"] - wall_s) / (m["iteration"] - iteration)
        return console.hours(pace * (total - m["iteration"]))


def _introduce(text: str) -> None:
    """Prints a line, which a terminal gets broken between words."""
    width = console.out.width if console.out.is_terminal else len(text)
    console.info(textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False))


def plain_line(
    m: Mapping[str, Any], total: int, remaining: str, *, has_success: bool = True
) -> str:
    """Returns an iteration's numbers in one line of at most 120 characters."""
    success, evaluated = f"success: {show(m.get('success_rate'), '.3f')} ", ""
    if "eval/return" in m:
        rate = f"/{m['eval/success_rate']:.3f}" if has_success else ""
        evaluated = f"evaluated: {m['eval/return']:.5g}{rate} "
    return (
        f"iteration: {m['iteration']}/{total} {steps(m['env_steps'])} "
        f"return: {show(m['episode_return'], '.5g')} "
        f"{success if has_success else ''}{evaluated}"
        f"fps: {m['fps_total']:.0f} ETA: {remaining}"
    )


def closing(view: View, best_return: float, folder: Path) -> list[str]:
    """Returns the lines at the end of a run: its results, its best policy, and next commands."""
    best, run = folder / "nn" / "best.pth", shlex.quote(str(folder))
    score = view.evaluations if view.evaluates else view.returns
    when = f" at iteration {score.best_at}" if score.best == best_return else ""
    reached = f"best return {best_return:.5g}{when}: {best}"
    done, m = view.metrics["iteration"], view.metrics
    policy = shlex.quote(str(best if math.isfinite(best_return) else best.with_name("last.pth")))
    following = [f"madpo play {policy}", f"madpo eval {policy}", f"madpo report {run}"]
    if done < view.iterations:
        following.insert(0, f"python train.py {continuing(folder)}")
    took = console.hours(m["wall_s"])
    return [
        f"{done} of {view.iterations} iterations, {steps(m['env_steps'])} in {took}",
        reached
        if math.isfinite(best_return)
        else "nothing has been scored: there is no best policy",
        "next:",
        *(f"  {command}" for command in following),
    ]
