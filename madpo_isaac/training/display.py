"""The live view of a run in a terminal: a fixed number of lines, whatever the terminal's size."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from madpo_isaac import console

BARS = "▁▂▃▄▅▆▇█"
POINTS = 256
"""Largest number of values that a trend keeps."""
HIDDEN = ("lr", "skipped")
"""Metrics of agents that the table leaves out: the skipped steps are in the line of faults."""
FIRST = ("entropy", "kl")
LAST = ("loss", "clip_fraction", "grad_norm", "value_aux_loss")
"""Metrics of agents that are shown first, and those that are shown last; if there is no room, the
last ones are left out."""
_ASCII = str.maketrans(f"{BARS}━╌…", ".,:;+*%#=-~")
"""Stand-ins where a terminal's encoding lacks these letters."""
_CELL = 11
"""Characters of a column of the agents' table, with the blank before it."""
_LABEL = 10
_LEAST_ROWS = 3


class Trend:
    """A quantity over the iterations: its newest value, its best value, and its course.

    It keeps at most :data:`POINTS` points. When there are more, neighbors are averaged.
    """

    def __init__(self) -> None:
        self.last: float | None = None
        self.best: float | None = None
        self.best_at = 0
        """Iteration of the best value."""
        self._points: list[float] = []
        self._under_way: list[float] = []
        self._stride = 1

    def add(self, value: float | None, iteration: int) -> None:
        """Takes in the value of an iteration; None or NaN if it has none."""
        if value is None or not math.isfinite(value):
            return
        self.last = value
        if self.best is None or value > self.best:
            self.best, self.best_at = value, iteration
        self._under_way.append(value)
        if len(self._under_way) == self._stride:
            self._points.append(_mean(self._under_way))
            self._under_way.clear()
        if len(self._points) == POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [_mean(pair) for pair in pairs]
            self._stride *= 2

    def sparkline(self, width: int) -> str:
        """Returns the course as bars between its lowest and its highest value.

        Args:
            width: the largest number of characters.
        """
        points = [*self._points, *([_mean(self._under_way)] if self._under_way else [])]
        count = min(width, len(points))
        if count < 1:
            return ""
        ends = [k * len(points) // count for k in range(count + 1)]
        shown = [_mean(points[a:b]) for a, b in itertools.pairwise(ends)]
        low, span = min(shown), max(shown) - min(shown)
        top = len(BARS) - 1
        return "".join(BARS[round(top * (x - low) / span) if span else top // 2] for x in shown)


@dataclass
class View:
    """The state of a run as a renderable of rich; it fits into the terminal it is rendered for."""

    title: str
    folder: str
    agents: Sequence[str]
    """Names of the agents, in their order."""
    iterations: int
    """``max_iterations``."""
    evaluates: bool
    """True if there is a line for evaluations."""
    has_success: bool = True
    """False if there is no line for success, see :attr:`VecEnv.has_success`."""
    returns: Trend = field(default_factory=Trend)
    success: Trend = field(default_factory=Trend)
    evaluations: Trend = field(default_factory=Trend)
    faults: dict[str, int] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """The newest line of metrics.jsonl; empty before the first one."""
    remaining: str = ""
    """Time left; empty before the first iteration has ended."""

    def add(self, metrics: Mapping[str, Any], remaining: str) -> None:
        """Takes in an iteration's line of metrics.jsonl."""
        self.metrics, self.remaining = metrics, remaining
        iteration = metrics["iteration"]
        self.returns.add(metrics.get("episode_return"), iteration)
        self.success.add(metrics.get("success_rate"), iteration)
        self.evaluations.add(metrics.get("eval/return"), iteration)
        skipped = sum(x or 0 for key, x in metrics.items() if key.endswith("/skipped"))
        new = {
            "unstable": metrics.get("nan_resets") or 0,
            "overflows": metrics.get("overflows") or 0,
            "skipped steps": skipped,
        }
        self.faults = {name: self.faults.get(name, 0) + int(x) for name, x in new.items()}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yields the lines; the last line of the terminal stays free for the cursor."""
        for line in self.lines(options.max_width, console.height - 1):
            yield Text(line.translate(_ASCII) if options.ascii_only else line, no_wrap=True)

    def lines(self, width: int, height: int) -> list[str]:
        """Returns the lines for a terminal of ``width`` and ``height`` characters.

        If there is no room, lines are left out; progress, time, return and success stay longest.
        """
        width -= 1  # with one column free, no terminal starts a new line
        state = [self._progress(width), self._times()]
        state.append(_trend("return", self.returns, width))
        if self.has_success:
            state.append(_trend("success", self.success, width))
        if self.evaluates:
            state.append(_trend("evaluated", self.evaluations, width))
        state += [self._speed(), self._faults()]
        room = height - len(state)
        head = [self.title, f"{'folder':<{_LABEL}}{self.folder}"][: max(room, 0)]
        room -= len(head) + 1
        table = self._table(width, room)
        lines = [*head, *state, *([""] if table else []), *table]
        return [_cut(line, width) for line in lines[: max(height, 1)]]

    def _progress(self, width: int) -> str:
        done = self.metrics.get("iteration", 0)
        text = f"iteration {done}/{self.iterations}, {steps(self.metrics.get('env_steps', 0))}"
        length = max(5, min(40, width - _LABEL - len(text) - 8))
        full = round(length * done / max(self.iterations, 1))
        bar = "━" * full + "╌" * (length - full)
        return f"{100 * done // max(self.iterations, 1):>3} %     {bar}  {text}"

    def _times(self) -> str:
        if not self.remaining:
            return f"{'time':<{_LABEL}}the first iteration is under way"
        elapsed = console.hours(self.metrics["wall_s"])
        return f"{'time':<{_LABEL}}{elapsed} elapsed, {self.remaining} remaining (ETA)"

    def _speed(self) -> str:
        if not self.metrics:
            return f"{'steps/s':<{_LABEL}}-"
        total, collected, physics = (
            f"{self.metrics[key]:,.0f}" for key in ("fps_total", "fps_step_infer", "fps_step")
        )
        return f"{'steps/s':<{_LABEL}}{total} in all, {collected} collecting, {physics} simulating"

    def _faults(self) -> str:
        found = ", ".join(f"{count} {name}" for name, count in self.faults.items() if count)
        return f"{'faults':<{_LABEL}}{found or 'none'}"

    def _table(self, width: int, height: int) -> list[str]:
        """Returns one row for each agent, or where they do not fit their lowest to highest."""
        first = max(map(len, (*self.agents, f"highest of {len(self.agents)}")))
        columns = agent_columns(self.metrics)[: max(0, (width - first) // _CELL)]
        if not columns or height < 2 + _LEAST_ROWS:
            return []
        heads = [_two_lines(column) for column in columns]
        rows = [("", [top for top, _ in heads]), ("agent", [low for _, low in heads])]
        values = [
            [self.metrics.get(f"agent{p}/{column}") for column in columns]
            for p in range(len(self.agents))
        ]
        if len(values) + 2 <= height:
            each = zip(self.agents, values, strict=True)
            rows += [(name, [show(x, ".3g") for x in row]) for name, row in each]
        else:
            for name, of in (("lowest", min), ("mean", _mean), ("highest", max)):
                known = [[x for x in c if x is not None] for c in zip(*values, strict=True)]
                cells = [show(of(column) if column else None, ".3g") for column in known]
                rows.append((f"{name} of {len(values)}", cells))
        return [
            f"{name:<{first}}" + "".join(f"{cell[: _CELL - 1]:>{_CELL}}" for cell in cells)
            for name, cells in rows
        ]


def agent_columns(metrics: Mapping[str, Any]) -> list[str]:
    """Returns the metrics that some agent has: algorithms leave others empty."""
    split = [key.split("/", 1) for key, x in metrics.items() if x is not None and "/" in key]
    names = [name for agent, name in split if agent.startswith("agent")]
    found = [name for name in dict.fromkeys(names) if name not in HIDDEN]
    first, last = ([name for name in names if name in found] for names in (FIRST, LAST))
    return [*first, *(name for name in found if name not in (*FIRST, *LAST)), *last]


def _trend(name: str, trend: Trend, width: int) -> str:
    best = "" if trend.best is None else f"best {trend.best:.5g} at iteration {trend.best_at}"
    text = f"{name:<{_LABEL}}{show(trend.last, '.5g'):<12}{best:<30}"
    return text + trend.sparkline(min(60, max(0, width - len(text))))


def _two_lines(name: str) -> tuple[str, str]:
    """Returns the two lines of a column's head."""
    top, _, low = name.rpartition("_")
    return top.replace("_", " "), low


def _cut(line: str, width: int) -> str:
    line = line.rstrip()
    return line if len(line) <= width else line[: max(width - 1, 0)] + "…"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def show(value: float | None, form: str) -> str:
    """Returns a number in a format, or ``-`` if there is none."""
    return "-" if value is None else format(value, form)


def steps(count: int) -> str:
    """Returns a number of environment steps with four digits, such as ``12.8 M steps``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.4g} {unit} steps"
    return f"{count} steps"
