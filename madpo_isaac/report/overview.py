"""Figures that put several aggregates side by side, or a result against a setting of the groups."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from madpo_isaac.report import statistics
from madpo_isaac.report.chart import Figure, Interval, Panel
from madpo_isaac.report.figures import efficiency_panel, point_line
from madpo_isaac.report.study import Study

Knobs = Mapping[str, tuple[str, float]]
"""Group to the setting that distinguishes it, and the setting's value."""


def efficiency(parts: Mapping[str, Study], reps: int) -> Figure | None:
    """Sample efficiency, a panel for each set of tasks; None if no set has two groups."""
    scores = {name: statistics.shared_scores(study) for name, study in parts.items()}
    shown = {name: found for name, found in scores.items() if found is not None}
    if not shown:
        return None
    panels = [efficiency_panel(parts[name], found, reps, name) for name, found in shown.items()]
    names = list(dict.fromkeys(group for name in shown for group in parts[name].groups))
    caption = parts[next(iter(shown))].caption
    return Figure("efficiency", "Sample efficiency", panels, names, caption)


def sensitivity(study: Study, reps: int, knobs: Knobs) -> Figure:
    """Return at the end against each setting, a panel per task and setting.

    Dashed lines are groups without such a setting.
    """
    panels = []
    for task in study.tasks:
        each = {
            group: statistics.mean_curve(study.finals(task, group)[:, None], reps)
            for group in study.of_task(task)
        }
        panels += [_against(each, knobs, name, task, "return at the end") for name in _names(knobs)]
    names = [*_names(knobs), *study.groups]
    return Figure("sensitivity", "Sensitivity to settings", panels, names, study.caption)


def sensitivity_over_tasks(study: Study, reps: int, knobs: Knobs) -> Figure | None:
    """Interquartile mean over tasks at the end against each setting, a panel per setting.

    Dashed lines are groups without such a setting. None if no two groups are on every task.
    """
    scores = statistics.shared_scores(study)
    if scores is None:
        return None
    iqm = list(statistics.AGGREGATES).index("IQM")
    each = {
        group: statistics.Estimate(*(x[iqm : iqm + 1] for x in (e.value, e.low, e.high)))
        for group, e in statistics.aggregates(scores.finals, reps).items()
    }
    y_label = "IQM of normalized return" if scores.normalized else "IQM of return"
    panels = [_against(each, knobs, name, "", y_label) for name in _names(knobs)]
    names = [*_names(knobs), *study.groups]
    title = f"Sensitivity over {', '.join(scores.tasks)}"
    return Figure("sensitivity_over_tasks", title, panels, names, study.caption)


def _names(knobs: Knobs) -> list[str]:
    return list(dict.fromkeys(name for name, _ in knobs.values()))


def _against(
    each: Mapping[str, statistics.Estimate], knobs: Knobs, name: str, title: str, y_label: str
) -> Panel:
    """Returns estimates of one number, (1,), against the setting ``name``."""
    points = sorted((knobs[g][1], g) for g in each if g in knobs and knobs[g][0] == name)
    xs = [x for x, _ in points]
    lines = [point_line(name, xs, [each[group] for _, group in points])] if points else []
    log = len(xs) > 1 and min(xs) > 0.0 and max(xs) / min(xs) >= 4.0
    levels = {
        group: Interval.at(estimate, 0)
        for group, estimate in each.items()
        if group not in knobs and np.isfinite(estimate.value).all()
    }
    return Panel(name, title, y_label, lines, levels, x_ticks=xs if log else ())
