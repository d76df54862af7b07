"""Figures of the report, each as PNG and as PDF; text in the PDF stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from madpo_isaac.report import statistics
from madpo_isaac.report.drawing import (
    COLORS,
    STYLE,
    Picture,
    band,
    drawn,
    error_bars,
    intervals,
    legend,
    make_panels,
    step_unit,
)
from madpo_isaac.report.runs import AGENT_METRICS, SHORT, Run, is_number
from madpo_isaac.report.study import Study, label, natural, varied

CURVES = {
    "episode_return": ("curves", "episode return"),
    "success_rate": ("success", "success rate"),
    "eval/return": ("evaluations", "return of evaluations"),
}
"""Quantities drawn against steps: the file's name and the axis label."""
SENSITIVE = ("algo.divergence.lam", "algo.divergence.sigma", "algo.divergence.coef")


@matplotlib.rc_context(STYLE)
def curves(study: Study, folder: Path, reps: int, key: str = "episode_return") -> Picture:
    """Learning curves: mean over seeds and its 95 % bootstrap band, one panel per task.

    A dotted line marks the step at which runs are compared, if some runs go far beyond it.
    """
    figure, panels = make_panels(len(study.tasks))
    for task, axes in zip(study.tasks, panels, strict=True):
        unit, unit_name = step_unit(study.end(task))
        for group in study.of_task(task):
            grid, values = study.whole_curves(task, group, key)
            known = np.isfinite(values).all(axis=0)
            if known.any():
                estimate = statistics.mean_curve(values[:, known], reps)
                band(axes, grid[known] / unit, estimate, study, group)
        if study.uneven(task):
            axes.axvline(study.end(task) / unit, color="gray", linestyle=":")
        if key == "success_rate":
            axes.set_ylim(-0.03, 1.03)
        axes.set_title(task)
        axes.set_xlabel(f"environment steps ({unit_name})")
    file, name = CURVES[key]
    panels[0].set_ylabel(name)
    legend(figure, study.groups)
    title = f"{name.capitalize()}: mean and 95 % bootstrap band over seeds"
    return drawn(figure, folder, file, title, study.caption)


@matplotlib.rc_context(STYLE)
def efficiency(study: Study, scores: statistics.Scores, folder: Path, reps: int) -> Picture:
    """Sample efficiency: interquartile mean over runs and tasks against steps."""
    figure, (axes,) = make_panels(1, (4.2, 2.8))
    draw_efficiency(axes, study, scores, reps)
    legend(figure, study.groups)
    title = f"Sample efficiency over {_count(scores.tasks)}"
    return drawn(figure, folder, "iqm", title, study.caption)


def draw_efficiency(axes: Axes, study: Study, scores: statistics.Scores, reps: int) -> None:
    """Draws the sample efficiency of every group into one panel."""
    end = study.end(scores.tasks[0])
    unit, unit_name = step_unit(end)
    for group, estimate in statistics.iqm_curve(scores.curves, reps).items():
        x = scores.share if scores.normalized else scores.share * end / unit
        band(axes, x, estimate, study, group)
    of_one = f"environment steps ({unit_name})"
    axes.set_xlabel("share of a task's steps" if scores.normalized else of_one)
    axes.set_ylabel("IQM of normalized return" if scores.normalized else "IQM of return")


@matplotlib.rc_context(STYLE)
def aggregate(study: Study, scores: statistics.Scores, folder: Path, reps: int) -> Picture:
    """Aggregate metrics at the end with their 95 % intervals."""
    estimates = statistics.aggregates(scores.finals, reps)
    every = list(statistics.AGGREGATES)
    names = every if scores.normalized else ["IQM", "mean"]  # of one task the median is the mean
    figure, panels = make_panels(len(names), (1.9, 0.5 + 0.22 * len(study.groups)), share_y=True)
    for name, axes in zip(names, panels, strict=True):
        k = every.index(name)
        each = {group: _at(estimate, k) for group, estimate in estimates.items()}
        intervals(axes, each, study)
        axes.set_title(name)
    title = f"At the end, over {_count(scores.tasks)}"
    return drawn(figure, folder, "aggregates", title, study.caption)


@matplotlib.rc_context(STYLE)
def improvement(
    study: Study, scores: statistics.Scores, folder: Path, reps: int, name: str
) -> Picture:
    """Probability that a run of a group beats one of the baseline."""
    estimates = statistics.improvement(scores.finals, name, reps)
    size = (3.6, 0.6 + 0.22 * len(estimates))
    figure, (axes,) = make_panels(1, size)
    intervals(axes, {group: _at(e, 0) for group, e in estimates.items()}, study)
    axes.axvline(0.5, color="gray", linestyle=":")
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel(f"P(better than {name})")
    title = f"Probability of improvement on {name}"
    return drawn(figure, folder, "improvement", title, study.caption)


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
    figure, panels = make_panels(len(tasks), (2.4, 2.2))
    for task, axes in zip(tasks, panels, strict=True):
        for name, points in lines[task].items():
            each = [statistics.mean_curve(v[:, None], reps) for _, v in points]
            color = COLORS[names.index(name) % len(COLORS)]
            error_bars(axes, [x for x, _ in points], each, name, color)
        for k, (group, runs) in enumerate(study.of_task(task).items()):
            finals = study.finals(task, group)
            if all(key not in run.settings for run in runs) and np.isfinite(finals).all():
                axes.axhline(finals.mean(), color=f"{0.2 + 0.15 * (k % 4)}", ls="--", label=group)
        axes.set_title(task)
        axes.set_xlabel(key.removeprefix("algo."))
    panels[0].set_ylabel("return at the end")
    legend(figure, [*names, *study.groups])
    short = key.split(".")[-1]
    title = f"Sensitivity to {short}"
    return drawn(figure, folder, f"sensitivity_{short}", title, study.caption)


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
    unit, unit_name = step_unit(study.end(task, group))
    figure, panels = make_panels(len(keys), (1.9, 1.7), columns=4)
    for metric, axes in zip(keys, panels, strict=True):
        for name in names:
            each = [run.means(f"{name}/{metric}", grid, grid[0]) for run in runs]
            axes.plot(grid / unit, np.mean(each, axis=0), lw=0.9, label=name)
        axes.set_title(metric.replace("_", " "))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    title = f"{task}, {group}: each agent against environment steps ({unit_name})"
    return drawn(figure, folder, f"agents_{slug(task)}_{slug(group)}", title, study.caption)


def slug(name: str) -> str:
    """Returns a name that is valid for files."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name)


def _at(estimate: statistics.Estimate, k: int) -> tuple[float, float, float]:
    return float(estimate.value[k]), float(estimate.low[k]), float(estimate.high[k])


def _count(tasks: Sequence[str]) -> str:
    return tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
