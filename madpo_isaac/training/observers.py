"""Observers of a run: they receive every iteration's metrics and show or record them."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.live import Live
from rich.table import Table

from madpo_isaac import console
from madpo_isaac.runs.metrics import MetricsFile, TensorBoard

if TYPE_CHECKING:
    from madpo_isaac.training.runner import Runner


class Observer:
    """Base of all observers; override what is needed."""

    def on_start(self, runner: Runner) -> None:
        """Called once before the first iteration."""

    def on_iteration(self, metrics: dict[str, Any]) -> None:
        """Called after every iteration with its metrics (the line of metrics.jsonl)."""

    def on_save(self) -> None:
        """Called before a checkpoint is written: the record up to here belongs to it."""

    def on_end(self) -> None:
        """Called once after the last iteration, also when the run is interrupted."""


class Recorder(Observer):
    """Writes metrics.jsonl and the TensorBoard summaries."""

    def on_start(self, runner: Runner) -> None:
        """Opens the files of the run folder."""
        self._writers = (
            MetricsFile(runner.folder.metrics),
            TensorBoard(runner.folder.summaries, runner.env_steps + 1),
        )

    def on_iteration(self, metrics: dict[str, Any]) -> None:
        """Writes one iteration."""
        for writer in self._writers:
            writer.write(metrics)

    def on_save(self) -> None:
        """Puts the files on the disk."""
        for writer in self._writers:
            writer.flush()

    def on_end(self) -> None:
        """Closes the files."""
        for writer in self._writers:
            writer.close()


class ConsoleView(Observer):
    """One line an iteration; on a terminal also a live table below the lines."""

    def on_start(self, runner: Runner) -> None:
        """Prints what is about to run."""
        config = runner.config
        self._total = config.max_iterations
        self._first: tuple[int, float] | None = None
        env = runner.env
        agents = ", ".join(f"{a.name} ({a.obs_dim} obs, {a.act_dim} act)" for a in runner.agents)
        console.info(
            f"{config.task.name} with {config.algo.name}: {env.num_envs} environments on "
            f"{env.device} ({runner.threads} threads), state {env.state_dim}, seed {config.seed}"
        )
        console.info(f"agents: {agents}")
        console.info(f"run folder: {runner.folder.path}")
        self._live = Live(console=console.out, auto_refresh=False, transient=True)
        if console.out.is_terminal:
            self._live.start()

    def on_iteration(self, metrics: dict[str, Any]) -> None:
        """Prints the line and refreshes the table."""
        console.info(self._line(metrics))
        if self._live.is_started:
            self._live.update(_table(metrics), refresh=True)

    def on_end(self) -> None:
        """Removes the table."""
        self._live.stop()

    def _line(self, m: dict[str, Any]) -> str:
        return (
            f"fps step: {m['fps_step']:.0f} "
            f"fps step and policy inference: {m['fps_step_infer']:.0f} "
            f"fps total: {m['fps_total']:.0f} "
            f"iteration: {m['iteration']}/{self._total} "
            f"env steps: {m['env_steps']} "
            f"return: {_show(m['episode_return'], '.2f')} "
            f"success: {_show(m['success_rate'], '.3f')} {_evaluated(m)}"
            f"ETA: {self._eta(m)}"
        )

    def _eta(self, m: dict[str, Any]) -> datetime.timedelta | str:
        """Remaining time at the average pace since this process started."""
        first = self._first = self._first or (m["iteration"] - 1, m["wall_s"] - m["iteration_s"])
        pace = (m["wall_s"] - first[1]) / (m["iteration"] - first[0])
        return datetime.timedelta(seconds=round(pace * (self._total - m["iteration"])))


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
    columns = [name for name in columns if name != "lr"]  # 80 characters have no room for it
    columns.remove("skipped")  # seldom anything but 0, and 80 columns are few
    # One word a line and one blank between columns, so that 80 columns of a terminal suffice.
    headers = [column.replace("_", "\n") for column in columns]
    table = Table("agent", *headers, box=box.SIMPLE, padding=0, show_edge=False)
    for agent in agents:
        table.add_row(agent, *(_show(metrics[f"{agent}/{c}"], ".3g") for c in columns))
    return table


def _show(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
