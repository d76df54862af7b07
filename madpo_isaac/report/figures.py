"""Figures of an ordinary report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from madpo_isaac.report import statistics
from madpo_isaac.report.chart import Figure, Interval, Line, Panel, step_unit
from madpo_isaac.report.lines import is_number
from madpo_isaac.report.runs import SHORT, Run, distinct
from madpo_isaac.report.study import POINTS, Study, label, natural, varied

CURVES = {
    "episode_return": ("curves", "episode return"),
    "success_rate": ("success", "success rate"),
    "eval/return": ("evaluations", "return of evaluations"),
}
"""Quantities drawn against steps: the file's name and the axis label."""
SENSITIVE = ("algo.divergence.lam", "algo.divergence.sigma", "algo.divergence.coef")
ENOUGH = 5
"""Runs of every group from which on a profile of one task is drawn."""


def curves(study: Study, reps: int, key: str = "episode_return") -> Figure:
    """Learning curves: mean over seeds and its 95 % bootstrap band, one panel per task.

    A dotted line marks the step at which runs are compared, if some runs go far beyond it.
    """
    file, name = CURVES[key]
    panels = []
    for task in study.tasks:
        unit, unit_name = step_unit(study.end(task))
        lines = []
        for group, runs in study.of_task(task).items():
            if group not in study.drawn:
                continue
            grid, values = study.whole_curves(task, group, key)
            known = np.isfinite(values).all(axis=0)
            if known.any():
                estimate = statistics.mean_curve(values[:, known], reps)
                each = dict(zip(distinct(runs), values[:, known], strict=True))
                lines.append(Line(group, grid[known] / unit, estimate, each))
        panels.append(
            Panel(
                f"environment steps ({unit_name})",
                task,
                name,
                lines,
                fixed=(-0.03, 1.03) if key == "success_rate" else None,
                upright=study.end(task) / unit if study.uneven(task) else None,
            )
        )
    title = f"{name.capitalize()}: mean and 95 % bootstrap band over seeds"
    panels = [panel for panel in panels if panel.lines] or panels
    return Figure(file, title, panels, study.drawn, study.caption)


def efficiency(study: Study, scores: statistics.Scores, reps: int) -> Figure:
    """Sample efficiency: interquartile mean over runs and tasks against steps."""
    title = f"Sample efficiency over {_count(scores.tasks)}"
    panels = [efficiency_panel(study, scores, reps)]
    return Figure("iqm", title, panels, study.drawn, study.caption)


def efficiency_panel(study: Study, scores: statistics.Scores, reps: int, title: str = "") -> Panel:
    """Sample efficiency of every group in one panel."""
    end = study.end(scores.tasks[0])
    unit, unit_name = step_unit(end)
    x = scores.share if scores.normalized else scores.share * end / unit
    lines = [
        Line(group, x, estimate)
        for group, estimate in statistics.iqm_curve(scores.curves, reps).items()
        if group in study.drawn
    ]
    of_one = f"environment steps ({unit_name})"
    x_label = "share of a task's steps" if scores.normalized else of_one
    y_label = "IQM of normalized return" if scores.normalized else "IQM of return"
    return Panel(x_label, title, y_label, lines)


def aggregate(study: Study, scores: statistics.Scores, reps: int) -> Figure:
    """Aggregate metrics at the end with their 95 % intervals."""
    estimates = statistics.aggregates(scores.finals, reps)
    every = list(statistics.AGGREGATES)
    names = every if scores.normalized else ["IQM", "mean"]  # of one task the median is the mean
    panels = []
    for name in names:
        k = every.index(name)
        bars = {g: Interval.at(e, k) for g, e in estimates.items() if g in study.drawn}
        values = [bar.value for bar in bars.values()]
        gap = name == "optimality gap"
        origin = float(gap) if scores.normalized else scores.beginning
        best = min(values) if gap else max(values)
        panels.append(Panel("", name, bars=bars, origin=origin, best=best))
    title = f"At the end, over {_count(scores.tasks)}"
    return Figure("aggregates", title, panels, study.drawn, study.caption)


def improvement(study: Study, scores: statistics.Scores, reps: int, name: str) -> Figure:
    """Probability that a run of a group beats one of the baseline."""
    estimates = statistics.improvement(scores.finals, name, reps)
    bars = {group: Interval.at(e, 0) for group, e in estimates.items() if group in study.drawn}
    panel = Panel(f"P(better than {name})", bars=bars, fixed=(-0.02, 1.02), upright=0.5)
    title = f"Probability of improvement on {name}"
    return Figure("improvement", title, [panel], study.drawn, study.caption)


def profiles(study: Study, scores: statistics.Scores, reps: int) -> Figure | None:
    """Performance profiles of Agarwal et al. (2021): the share of runs with a score above tau.

    None for one task with few runs, because a profile of few numbers has only a few steps.
    """
    if not scores.normalized and min(map(len, scores.finals.values())) < ENOUGH:
        return None
    taus = statistics.thresholds(scores)
    lines = [
        Line(group, taus, estimate)
        for group, estimate in statistics.profiles(scores.finals, taus, reps).items()
        if group in study.drawn
    ]
    x_label = "normalized return tau" if scores.normalized else "return tau"
    panel = Panel(x_label, "", "share of runs above tau", lines, fixed=(-0.03, 1.03))
    title = f"Performance profiles at the end, over {_count(scores.tasks)}"
    return Figure("profiles", title, [panel], study.drawn, study.caption)


def sensitivity(study: Study, reps: int, key: str) -> Figure | None:
    """Return at the end against a numeric setting, one panel per task; None if it is constant.

    A line joins runs that agree in all other settings. Dashed lines are groups without the setting.
    """
    lines = {task: _lines(study, task, key) for task in study.tasks}
    tasks = [task for task in study.tasks if lines[task]]
    if not tasks:
        return None
    names = list(dict.fromkeys(name for task in tasks for name in lines[task]))
    panels = []
    for task in tasks:
        drawn = []
        for name, points in lines[task].items():
            each = [statistics.mean_curve(v[:, None], reps) for _, v in points]
            drawn.append(point_line(name, [x for x, _ in points], each))
        levels = {}
        for group, runs in study.of_task(task).items():
            finals = study.finals(task, group)
            if all(key not in run.settings for run in runs) and np.isfinite(finals).all():
                levels[group] = Interval(float(finals.mean()), np.nan, np.nan)
        x_label = key.removeprefix("algo.")
        panels.append(Panel(x_label, task, "return at the end", drawn, levels))
    short = key.split(".")[-1]
    every = list(dict.fromkeys([*names, *study.groups]))
    title = f"Sensitivity to {short}"
    return Figure(f"sensitivity_{short}", title, panels, every, study.caption)


def point_line(name: str, x: Sequence[float], each: Sequence[statistics.Estimate]) -> Line:
    """Returns points with error bars, joined by a line, from estimates of one number, (1,)."""
    ends = (
        np.array([getattr(estimate, end)[0] for estimate in each])
        for end in ("value", "low", "high")
    )
    return Line(name, np.array(x), statistics.Estimate(*ends), points=True)


def _lines(study: Study, task: str, key: str) -> dict[str, list[tuple[float, np.ndarray]]]:
    """Returns the points of each set of otherwise equal runs: a setting's value, finals (runs,)."""
    finals = [
        (run, float(final))
        for group, cell in study.of_task(task).items()
        for run, final in zip(cell, study.finals(task, group), strict=True)
        if is_number(run.settings.get(key))
    ]
    others = [name for name in varied([run for run, _ in finals]) if name != key]
    groups = [name for name in study.by if SHORT.get(name, name) != key]
    lines: dict[str, dict[float, list[float]]] = {}
    brief: dict[str, str] = {}
    for run, final in finals:
        alike = [name for name in others if not _follows(run, name, key)]
        name = label(run, ["algo", *alike])
        points = lines.setdefault(name, {})
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


def agents(study: Study, task: str, group: str) -> Figure | None:
    """Metrics of each agent's update, mean over seeds; None where no run has them."""
    runs = study.cells[task, group]
    found = [
        key.split("/")
        for run in runs
        for key, values in run.metrics.items()
        if key.startswith("agent") and np.isfinite(values).any()
    ]
    names = sorted({name for name, _ in found}, key=natural)
    metrics = dict.fromkeys(metric for _, metric in found)
    if not metrics:
        return None
    points = min(POINTS, *(len(run.metrics["env_steps"]) for run in runs))
    grid = study.end(task, group) * np.arange(1, points + 1) / points
    unit, unit_name = step_unit(study.end(task, group))
    panels = []
    for metric in metrics:
        lines = []
        for name in names:
            each = np.array([run.means(f"{name}/{metric}", grid, grid[0]) for run in runs])
            unknown = np.full(points, np.nan)
            estimate = statistics.Estimate(each.mean(axis=0), unknown, unknown)
            lines.append(Line(name, grid / unit, estimate))
        x_label = f"environment steps ({unit_name})"
        panels.append(Panel(x_label, metric.replace("_", " "), lines=lines))
    title = f"{task}, {group}: each agent"
    return Figure("agents", title, panels, names, study.caption)


def _count(tasks: Sequence[str]) -> str:
    return tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
