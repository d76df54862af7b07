"""Figures of the report, each as PNG and as PDF; text in the PDF stays text."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from madpo_isaac.report import statistics
from madpo_isaac.report.runs import AGENT_METRICS, SHORT, Run, is_number
from madpo_isaac.report.study import Study, label, natural, varied

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a $ in a name is a $
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")
"""Colors of Okabe and Ito, which color-blind readers can tell apart."""
CURVES = {
    "episode_return": ("curves", "episode return"),
    "success_rate": ("success", "success rate"),
    "eval/return": ("evaluations", "return of evaluations"),
}
"""Quantities drawn against steps: the file's name and the axis label."""
SENSITIVE = ("algo.divergence.lam", "algo.divergence.sigma", "algo.divergence.coef")
_COLUMNS = 5
_DPI, _PAGE_DPI = 300, 150
"""Resolution of a PNG, and the resolution at which a page shows it."""
_DASHES = ("-", "--", ":", "-.")
_HANDLE_WIDTH, _LETTER_WIDTH = 0.55, 0.062  # inches in a legend, with its gaps
_WIDEST = 30.0


@dataclass(frozen=True)
class Picture:
    """A figure that has been drawn."""

    name: str
    """Name of its files."""
    title: str
    png: bytes

    @property
    def width(self) -> int:
        """Returns the width of the picture on a page, in CSS pixels."""
        return int.from_bytes(self.png[16:20], "big") * _PAGE_DPI // _DPI


@matplotlib.rc_context(STYLE)
def curves(study: Study, folder: Path, reps: int, key: str = "episode_return") -> Picture:
    """Learning curves: mean over seeds and its 95 % bootstrap band, one panel per task.

    A dotted line marks the step at which runs are compared, if some runs go far beyond it.
    """
    figure, panels = _panels(len(study.tasks))
    for task, axes in zip(study.tasks, panels, strict=True):
        unit, unit_name = _unit(study.end(task))
        for group in study.of_task(task):
            grid, values = study.whole_curves(task, group, key)
            known = np.isfinite(values).all(axis=0)
            if known.any():
                estimate = statistics.mean_curve(values[:, known], reps)
                _band(axes, grid[known] / unit, estimate, study, group)
        if study.uneven(task):
            axes.axvline(study.end(task) / unit, color="grey", linestyle=":")
        if key == "success_rate":
            axes.set_ylim(-0.03, 1.03)
        axes.set_title(task)
        axes.set_xlabel(f"environment steps ({unit_name})")
    file, name = CURVES[key]
    panels[0].set_ylabel(name)
    _legend(figure, study.groups)
    return _drawn(
        figure, folder, file, f"{name.capitalize()}: mean and 95 % bootstrap band over seeds"
    )


@matplotlib.rc_context(STYLE)
def efficiency(study: Study, scores: statistics.Scores, folder: Path, reps: int) -> Picture:
    """Sample efficiency: interquartile mean over runs and tasks against steps."""
    figure, (axes,) = _panels(1, (4.2, 2.8))
    end = study.end(scores.tasks[0])
    unit, unit_name = _unit(end)
    for group, estimate in statistics.iqm_curve(scores.curves, reps).items():
        x = scores.share if scores.normalised else scores.share * end / unit
        _band(axes, x, estimate, study, group)
    of_one = f"environment steps ({unit_name})"
    axes.set_xlabel("share of a task's steps" if scores.normalised else of_one)
    axes.set_ylabel("IQM of normalised return" if scores.normalised else "IQM of return")
    _legend(figure, study.groups)
    return _drawn(figure, folder, "iqm", f"Sample efficiency over {_count(scores.tasks)}")


@matplotlib.rc_context(STYLE)
def aggregate(study: Study, scores: statistics.Scores, folder: Path, reps: int) -> Picture:
    """Aggregate metrics at the end with their 95 % intervals."""
    estimates = statistics.aggregates(scores.finals, reps)
    every = list(statistics.AGGREGATES)
    names = every if scores.normalised else ["IQM", "mean"]  # of one task the median is the mean
    figure, panels = _panels(len(names), (1.9, 0.5 + 0.22 * len(study.groups)), share_y=True)
    for name, axes in zip(names, panels, strict=True):
        k = every.index(name)
        each = {group: _at(estimate, k) for group, estimate in estimates.items()}
        _intervals(axes, each, study)
        axes.set_title(name)
    return _drawn(figure, folder, "aggregates", f"At the end, over {_count(scores.tasks)}")


@matplotlib.rc_context(STYLE)
def improvement(
    study: Study, scores: statistics.Scores, folder: Path, reps: int, name: str
) -> Picture:
    """Probability that a run of a group beats one of the baseline."""
    estimates = statistics.improvement(scores.finals, name, reps)
    size = (3.6, 0.6 + 0.22 * len(estimates))
    figure, (axes,) = _panels(1, size)
    _intervals(axes, {group: _at(e, 0) for group, e in estimates.items()}, study)
    axes.axvline(0.5, color="grey", linestyle=":")
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"P(better than {name})")
    return _drawn(figure, folder, "improvement", f"Probability of improvement on {name}")


@matplotlib.rc_context(STYLE)
def sensitivity(study: Study, folder: Path, reps: int, key: str) -> Picture | None:
    """Return at the end against a numeric setting, one panel per task; None if it is constant.

    A line joins runs that agree in all other settings. Dashed lines are groups without the setting.
    """
    lines = {task: _lines(study, task, key) for task in study.tasks}
    tasks = [task for task in study.tasks if lines[task]]
    if not tasks:
        return None
    names = list(dict.fromkeys(name for task in tasks for name in lines[task]))
    figure, panels = _panels(len(tasks), (2.4, 2.2))
    for task, axes in zip(tasks, panels, strict=True):
        for name, points in lines[task].items():
            each = [statistics.mean_curve(v[:, None], reps) for _, v in points]
            colour = COLOURS[names.index(name) % len(COLOURS)]
            _error_bars(axes, [x for x, _ in points], each, name, colour)
        for k, (group, runs) in enumerate(study.of_task(task).items()):
            finals = study.finals(task, group)
            if all(key not in run.settings for run in runs) and np.isfinite(finals).all():
                axes.axhline(finals.mean(), color=f"{0.2 + 0.15 * (k % 4)}", ls="--", label=group)
        axes.set_title(task)
        axes.set_xlabel(key.removeprefix("algo."))
    panels[0].set_ylabel("return at the end")
    _legend(figure, [*names, *study.groups])
    short = key.split(".")[-1]
    return _drawn(figure, folder, f"sensitivity_{short}", f"Sensitivity to {short}")


def _lines(study: Study, task: str, key: str) -> dict[str, list[tuple[float, np.ndarray]]]:
    """Returns the points of each set of otherwise equal runs: a setting's value, finals (runs,)."""
    runs = [r for cell in study.of_task(task).values() for r in cell]
    runs = [r for r in runs if is_number(r.settings.get(key))]
    others = [name for name in varied(runs) if name != key]
    stop, window = study.end(task), study.window(task)
    groups = [name for name in study.by if SHORT.get(name, name) != key]
    lines: dict[str, dict[float, list[float]]] = {}
    brief: dict[str, str] = {}
    for run in runs:
        alike = [name for name in others if not _follows(run, name, key)]
        name = label(run, ["algo", *alike])
        points = lines.setdefault(name, {})
        final = run.mean("episode_return", stop, window)
        points.setdefault(float(run.settings[key]), []).append(final)
        brief[name] = label(run, groups)
    shown = sorted((name for name, points in lines.items() if len(points) > 1), key=natural)
    # What groups are made by is enough where it tells all of them apart.
    enough = len(set(brief.values())) == len(brief)
    return {
        brief[name] if enough else name: [(x, np.array(v)) for x, v in sorted(lines[name].items())]
        for name in shown
    }


def _follows(run: Run, name: str, key: str) -> bool:
    """Returns whether one setting follows from another: coef of preset printed is 1 / sigma."""
    coef, sigma = "algo.divergence.coef", "algo.divergence.sigma"
    if (name, key) != (coef, sigma):
        return False
    x, y = (run.settings.get(name) for name in (coef, sigma))
    return is_number(x) and is_number(y) and abs(x * y - 1.0) < 1e-6


@matplotlib.rc_context(STYLE)
def agents(study: Study, folder: Path, task: str, group: str) -> Picture | None:
    """Metrics of each agent's update, mean over seeds; None where no run has them."""
    runs = study.cells[task, group]
    found = {key.split("/")[0] for run in runs for key in run.metrics if key.startswith("agent")}
    names = sorted(found, key=natural)
    columns = {key for run in runs for key, x in run.metrics.items() if np.isfinite(x).any()}
    keys = [m for m in AGENT_METRICS if any(f"{name}/{m}" in columns for name in names)]
    if not keys:
        return None
    iterations = min(len(run.metrics["env_steps"]) for run in runs)
    points = min(iterations, 100)
    grid = study.end(task, group) * np.arange(1, points + 1) / points
    unit, unit_name = _unit(study.end(task, group))
    figure, panels = _panels(len(keys), (1.9, 1.7), columns=4)
    for metric, axes in zip(keys, panels, strict=True):
        for name in names:
            each = [run.means(f"{name}/{metric}", grid, grid[0]) for run in runs]
            axes.plot(grid / unit, np.mean(each, axis=0), lw=0.9, label=name)
        axes.set_title(metric.replace("_", " "))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    title = f"{task}, {group}: each agent against environment steps ({unit_name})"
    return _drawn(figure, folder, f"agents_{slug(task)}_{slug(group)}", title)


def slug(name: str) -> str:
    """Returns a name that is valid for files."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name)


# Drawing ----------------------------------------------------------------------------------------


def _panels(
    count: int,
    size: tuple[float, float] = (2.2, 1.9),
    columns: int = _COLUMNS,
    share_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Returns a figure with ``count`` panels of ``size`` inches, in rows of about equal length."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    width = max(size[0] * columns + 0.4, 3.2)
    figure = Figure((width, size[1] * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    panels = list(grid.flat)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]


def _band(
    axes: Axes, x: np.ndarray, estimate: statistics.Estimate, study: Study, group: str
) -> None:
    colour = _colour(study, group)
    dashes = _DASHES[study.groups.index(group) // len(COLOURS) % len(_DASHES)]
    marker = "o" if len(x) == 1 else ""
    axes.plot(x, estimate.value, color=colour, ls=dashes, marker=marker, ms=3, label=group)
    axes.fill_between(x, estimate.low, estimate.high, color=colour, alpha=0.18, linewidth=0)


def _intervals(axes: Axes, each: dict[str, tuple[float, float, float]], study: Study) -> None:
    for row, (group, (value, low, high)) in enumerate(each.items()):
        colour = _colour(study, group)
        axes.barh(row, high - low, left=low, height=0.6, color=colour, alpha=0.4)
        axes.plot([value, value], [row - 0.3, row + 0.3], color=colour, lw=2)
    axes.use_sticky_edges = False
    axes.margins(x=0.05)
    axes.set_yticks(range(len(each)), list(each))
    axes.set_ylim(len(each) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _error_bars(
    axes: Axes, x: Sequence[float], each: Sequence[statistics.Estimate], name: str, colour: str
) -> None:
    values, low, high = (
        np.array([getattr(e, end)[0] for e in each]) for end in ("value", "low", "high")
    )
    spread = np.nan_to_num(np.array([values - low, high - values]).clip(min=0.0))
    axes.errorbar(x, values, yerr=spread, marker="o", ms=3, capsize=2, color=colour, label=name)


def _at(estimate: statistics.Estimate, k: int) -> tuple[float, float, float]:
    return float(estimate.value[k]), float(estimate.low[k]), float(estimate.high[k])


def _colour(study: Study, group: str) -> str:
    return COLOURS[study.groups.index(group) % len(COLOURS)]


def _legend(figure: Figure, order: Sequence[str]) -> None:
    """Puts one legend below all panels, in as many columns as its longest name leaves room for."""
    handles = {}
    for axes in figure.axes:
        found, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    names = [name for name in order if name in handles]
    width = _HANDLE_WIDTH + _LETTER_WIDTH * max(map(len, names), default=0)
    width = min(width, _WIDEST)
    figure.set_figwidth(max(figure.get_figwidth(), width + 0.2))
    columns = max(1, min(4, len(names), int(figure.get_figwidth() / width)))
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(names) // columns))
    figure.legend([handles[n] for n in names], names, loc="outside lower center", ncols=columns)


def _unit(steps: float) -> tuple[float, str]:
    """Returns the unit in which to count steps that go up to ``steps``."""
    return (1e6, "millions") if steps >= 1e5 else (1e3, "thousands")


def _count(tasks: Sequence[str]) -> str:
    return tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"


def _drawn(figure: Figure, folder: Path, name: str, title: str) -> Picture:
    """Writes the files and keeps the PNG for the page."""
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    # Without dates, so that equal runs give equal files.
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    (folder / f"{name}.png").write_bytes(buffer.getvalue())
    return Picture(name, title, buffer.getvalue())
