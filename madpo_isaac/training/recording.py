"""Callbacks that record a run's numbers and show them."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich import box
from rich.live import Live
from rich.table import Table

from madpo_isaac import console
from madpo_isaac.errors import UserError
from madpo_isaac.runs.metrics import MetricsFile, TensorBoard
from madpo_isaac.training.callback import Callback
from madpo_isaac.training.run import Run

HIDDEN = ("lr", "skipped")
"""Metrics of agents that the table leaves out: 80 characters have no room for them."""


class Recorder(Callback):
    """Writes metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_start(self, run: Run) -> None:
        """Opens the file."""
        with self._named():
            self._file = MetricsFile(self._path)

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Writes one line."""
        with self._named():
            self._file.write(metrics)

    def flush(self) -> None:
        """Puts all lines on the disk: those that a checkpoint continues must not be missing."""
        with self._named():
            self._file.flush()

    def on_end(self, run: Run) -> None:
        """Closes the file."""
        with self._named():
            self._file.close()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as problem:
            raise UserError(f"Cannot write '{self._path}': {problem}.") from problem


class Curves(Callback):
    """Writes TensorBoard's event file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: TensorBoard | None = None

    def on_start(self, run: Run) -> None:
        """Opens the file."""
        self._writer = TensorBoard(self._folder, run.env_steps + 1)

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Writes one iteration."""
        assert self._writer is not None
        self._writer.write(metrics)

    def on_end(self, run: Run) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()


class ConsoleView(Callback):
    """One line an iteration; on a terminal also a live table below the lines."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._live = Live(console=console.out, auto_refresh=False, transient=True)

    def on_start(self, run: Run) -> None:
        """Prints what is about to run."""
        config, env = run.config, run.env
        self._first = run.iteration, run.wall_s
        agents = run.learner.agents
        named = ", ".join(f"{a.name} ({a.obs_dim} obs, {a.act_dim} act)" for a in agents)
        console.info(
            f"{config.task.name} with {config.algo.name}: {env.num_envs} environments on "
            f"{env.device} ({run.threads} threads), state {env.state_dim}, seed {config.seed}"
        )
        console.info(f"agents: {named}")
        console.info(f"run folder: {self._folder}")
        if console.out.is_terminal:
            self._live.start()

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Prints the line and refreshes the table."""
        console.info(self._line(metrics, run.config.max_iterations))
        if self._live.is_started:
            self._live.update(_table(metrics), refresh=True)

    def on_end(self, run: Run) -> None:
        """Removes the table."""
        self._live.stop()

    def _line(self, m: dict[str, Any], total: int) -> str:
        return (
            f"fps step: {m['fps_step']:.0f} "
            f"fps step and policy inference: {m['fps_step_infer']:.0f} "
            f"fps total: {m['fps_total']:.0f} "
            f"iteration: {m['iteration']}/{total} "
            f"env steps: {m['env_steps']} "
            f"return: {_show(m['episode_return'], '.2f')} "
            f"success: {_show(m['success_rate'], '.3f')} {_evaluated(m)}"
            f"ETA: {self._eta(m, total)}"
        )

    def _eta(self, m: dict[str, Any], total: int) -> datetime.timedelta:
        """Remaining time at the average pace since this process started."""
        iteration, wall_s = self._first
        pace = (m["wall_s"] - wall_s) / (m["iteration"] - iteration)
        return datetime.timedelta(seconds=round(pace * (total - m["iteration"])))


def _evaluated(m: dict[str, Any]) -> str:
    if "eval/return" not in m:
        return ""
    return f"evaluated: {m['eval/return']:.2f}, success {m['eval/success_rate']:.3f} "


def _table(metrics: dict[str, Any]) -> Table:
    """One row per agent, one column per metric."""
    agents = sorted(
        {key.split("/")[0] for key in metrics if key.startswith("agent")},
        key=lambda name: int(name.removeprefix("agent")),
    )
    columns = [key.split("/")[1] for key in metrics if key.startswith("agent0/")]
    columns = [name for name in columns if name not in HIDDEN]
    # One word a line and one blank between columns, so that 80 columns of a terminal suffice.
    headers = [column.replace("_", "\n") for column in columns]
    table = Table("agent", *headers, box=box.SIMPLE, padding=0, show_edge=False)
    for agent in agents:
        table.add_row(agent, *(_show(metrics[f"{agent}/{c}"], ".3g") for c in columns))
    return table


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
