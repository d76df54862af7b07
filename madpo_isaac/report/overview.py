"""Figures that put several aggregates side by side, or a result against a setting of the groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes

from madpo_isaac.report import statistics
from madpo_isaac.report.drawing import (
    COLORS,
    STYLE,
    Picture,
    drawn,
    error_bars,
    legend,
    make_panels,
)
from madpo_isaac.report.figures import draw_efficiency
from madpo_isaac.report.study import Study

Knobs = Mapping[str, tuple[str, float]]
"""Group to the setting that distinguishes it, and the setting's value."""


@matplotlib.rc_context(STYLE)
def efficiency(parts: Mapping[str, Study], folder: Path, reps: int) -> Picture | None:
    """Sample efficiency, a panel for each set of tasks; None if no set has two groups."""
    scores = {name: statistics.shared_scores(study) for name, study in parts.items()}
    shown = {name: found for name, found in scores.items() if found is not None}
    if not shown:
        return None
    figure, panels = make_panels(len(shown), (2.4, 2.1))
    for (name, found), axes in zip(shown.items(), panels, strict=True):
        draw_efficiency(axes, parts[name], found, reps)
        axes.set_title(name)
    study = parts[next(iter(shown))]
    legend(figure, study.groups)
    return drawn(figure, folder, "efficiency", "Sample efficiency", study.caption)


@matplotlib.rc_context(STYLE)
def sensitivity(study: Study, folder: Path, reps: int, knobs: Knobs) -> Picture:
    """Return at the end against each setting, a panel per task and setting.

    Dashed lines are groups without such a setting.
    """
    names = list(dict.fromkeys(name for name, _ in knobs.values()))
    figure, panels = make_panels(len(study.tasks) * len(names), (2.6, 2.2), columns=len(names))
    places = [(task, name) for task in study.tasks for name in names]
    for (task, name), axes in zip(places, panels, strict=True):
        each = {
            group: statistics.mean_curve(study.finals(task, group)[:, None], reps)
            for group in study.of_task(task)
        }
        _against(axes, study, each, knobs, name)
        axes.set_title(task)
        axes.set_ylabel("return at the end")
    legend(figure, [name for name in study.groups if name not in knobs])
    return drawn(figure, folder, "sensitivity", "Sensitivity to settings", study.caption)


@matplotlib.rc_context(STYLE)
def sensitivity_over_tasks(study: Study, folder: Path, reps: int, knobs: Knobs) -> Picture | None:
    """Interquartile mean over tasks at the end against each setting, a panel per setting.

    Dashed lines are groups without such a setting. None if no two groups are on every task.
    """
    scores = statistics.shared_scores(study)
    if scores is None:
        return None
    names = list(dict.fromkeys(name for name, _ in knobs.values()))
    figure, panels = make_panels(len(names), (2.8, 2.4))
    estimates = statistics.aggregates(scores.finals, reps)
    iqm = list(statistics.AGGREGATES).index("IQM")
    each = {
        group: statistics.Estimate(*(x[iqm : iqm + 1] for x in (e.value, e.low, e.high)))
        for group, e in estimates.items()
    }
    for name, axes in zip(names, panels, strict=True):
        _against(axes, study, each, knobs, name)
        axes.set_ylabel("IQM of normalized return" if scores.normalized else "IQM of return")
    legend(figure, [name for name in study.groups if name not in knobs])
    title = f"Sensitivity over {', '.join(scores.tasks)}"
    return drawn(figure, folder, "sensitivity_over_tasks", title, study.caption)


def _against(
    axes: Axes,
    study: Study,
    each: Mapping[str, statistics.Estimate],
    knobs: Knobs,
    name: str,
) -> None:
    """Draws estimates of one number, (1,), against the setting ``name``."""
    points = sorted((knobs[g][1], g) for g in each if g in knobs and knobs[g][0] == name)
    xs = [x for x, _ in points]
    if points:
        error_bars(axes, xs, [each[group] for _, group in points], name, COLORS[0])
    if len(xs) > 1 and min(xs) > 0.0 and max(xs) / min(xs) >= 4.0:
        axes.set_xscale("log", base=2 if max(xs) / min(xs) == 4.0 else 10)
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.minorticks_off()
    for k, group in enumerate(group for group in study.groups if group not in knobs):
        if group in each and np.isfinite(each[group].value).all():
            color, estimate = f"{0.25 + 0.3 * (k % 3)}", each[group]
            axes.axhline(float(estimate.value[0]), color=color, ls="--", label=group)
            if np.isfinite(estimate.low).all():
                axes.axhspan(estimate.low[0], estimate.high[0], color=color, alpha=0.08, lw=0)
    axes.set_xlabel(name)
