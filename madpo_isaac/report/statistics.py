"""Intervals and aggregates over seeds and tasks.

The definitions are those of Agarwal et al., *Deep Reinforcement Learning at the Edge of the
Statistical Precipice*, NeurIPS 2021, and the numbers are those of their library rliable 1.2.0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from madpo_isaac.evaluation import stats
from madpo_isaac.report.study import Study


def _iqm(scores: np.ndarray) -> np.ndarray:
    """Means of the middle half, (R,) of scores (R, runs, tasks), or (R, P) of (R, runs, tasks, P).

    A quarter of the scores, rounded down, is left out at each end.
    """
    flat = scores.reshape(len(scores), -1, *scores.shape[3:])
    return stats.iqm(np.moveaxis(flat, 1, -1))


AGGREGATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "IQM": _iqm,
    "median": lambda scores: np.median(scores.mean(axis=1), axis=1),
    "mean": lambda scores: scores.mean(axis=(1, 2)),
    "optimality gap": lambda scores: 1 - np.minimum(scores, 1).mean(axis=(1, 2)),
}
"""Metrics of scores (R, runs, tasks), (R,) each. The median is that of the tasks' means."""
_AT_ONCE = 2_000_000
"""Numbers of resamples that are in memory at a time."""


@dataclass(frozen=True)
class Estimate:
    """Values with the ends of their intervals, all of one shape; NaN without intervals."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def bootstrap(
    scores: Mapping[str, Any],
    function: Callable[..., np.ndarray],
    reps: int,
    level: float = 95.0,
) -> dict[str, Estimate]:
    """Stratified percentile bootstrap of ``function`` over runs; the same numbers every time.

    Args:
        scores: a name to an array (runs, tasks, ...), or to two of them for functions of two.
        function: from R samples of the scores, (R, runs, tasks, ...), to a vector of each, (R, V).
        reps: resamples.
        level: level of the intervals, in percent.
    """
    tails = [(100.0 - level) / 2, (100.0 + level) / 2]
    # A stream that NumPy has frozen, so that a report repeats itself with every version.
    generator = np.random.RandomState(0)
    result = {}
    for name, given in scores.items():
        samples = given if isinstance(given, list) else [given]
        point = function(*(sample[None] for sample in samples))[0]
        most = max(1, _AT_ONCE // sum(sample.size for sample in samples))
        counts = [min(most, reps - done) for done in range(0, reps, most)]
        drawn = [function(*_resamples(samples, n, generator)) for n in counts]
        low, high = np.percentile(np.concatenate(drawn), tails, axis=0)
        if min(len(sample) for sample in samples) < 2:  # a single run says nothing of its scatter
            low = high = np.full_like(point, np.nan, dtype=float)
        result[name] = Estimate(point, low, high)
    return result


def _resamples(
    samples: Sequence[np.ndarray], count: int, generator: np.random.RandomState
) -> list[np.ndarray]:
    """Draws as many runs as there are, with replacement, for each task and each later axis.

    Returns ``count`` such samples of each array, (count, runs, tasks, ...); several arrays take
    their draws by turns.
    """
    if len(samples) == 1:
        chosen = [generator.choice(len(samples[0]), (count, *samples[0].shape))]
    else:
        turns = [[generator.choice(len(x), x.shape) for x in samples] for _ in range(count)]
        chosen = [np.stack(draws) for draws in zip(*turns, strict=True)]
    pairs = zip(samples, chosen, strict=True)
    return [np.take_along_axis(sample[None], draws, axis=1) for sample, draws in pairs]


def mean_curve(curves: np.ndarray, reps: int) -> Estimate:
    """Mean over runs (runs, P) and its band, (P,) each."""
    return bootstrap({"": curves[:, None]}, lambda x: x.mean(axis=(1, 2)), reps)[""]


def iqm_curve(scores: Mapping[str, np.ndarray], reps: int) -> dict[str, Estimate]:
    """Interquartile means over runs and tasks of scores (runs, tasks, P), (P,) each."""
    return bootstrap(scores, _iqm, reps)


def aggregates(scores: Mapping[str, np.ndarray], reps: int) -> dict[str, Estimate]:
    """:data:`AGGREGATES` of scores (runs, tasks), in their order."""
    return bootstrap(scores, lambda x: np.stack([f(x) for f in AGGREGATES.values()], axis=1), reps)


def improvement(
    scores: Mapping[str, np.ndarray], baseline: str, reps: int, level: float = 95.0
) -> dict[str, Estimate]:
    """Probability that a run of a group beats one of ``baseline``, averaged over tasks, (1,)."""

    def better(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        x, y = x[:, :, None], y[:, None]
        return np.mean((x > y) + 0.5 * (x == y), axis=(1, 2, 3))[:, None]

    pairs = {group: [x, scores[baseline]] for group, x in scores.items() if group != baseline}
    return bootstrap(pairs, better, reps, level)


def profiles(scores: Mapping[str, np.ndarray], taus: np.ndarray, reps: int) -> dict[str, Estimate]:
    """Performance profiles: the share of scores (runs, tasks) above each of ``taus``, (T,)."""

    def share(x: np.ndarray) -> np.ndarray:
        return (x[..., None] > taus).mean(axis=(1, 2))

    return bootstrap(scores, share, reps)


def t_half_width(values: np.ndarray) -> float:
    """Half of the 95 % Student-t interval of the mean; NaN of fewer than two values."""
    n = len(values)
    if n < 2:
        return float("nan")
    return float(special.stdtrit(n - 1, 0.975) * np.std(values, ddof=1) / n**0.5)


@dataclass(frozen=True)
class Scores:
    """Curves of the groups that every task has."""

    curves: dict[str, np.ndarray]
    """Group to (runs, tasks, P)."""
    tasks: list[str]
    share: np.ndarray
    """Share of a task's steps at each point, (P,)."""
    normalized: bool
    """0 is the mean of all runs at their first point, 1 the best group's mean at the end."""
    beginning: float
    """The mean score of all runs at their first point."""

    @property
    def finals(self) -> dict[str, np.ndarray]:
        """Group to the scores at the end, (runs, tasks)."""
        return {group: curves[:, :, -1] for group, curves in self.curves.items()}


def shared_scores(study: Study) -> Scores | None:
    """Scores for aggregation over tasks; None if fewer than two groups have runs on every task.

    Each group has the same number of runs on every task: the first ones, as many as its smallest
    task has. With one task scores are returns; with several tasks they are normalized per task.
    """
    tasks = study.tasks
    groups = [g for g in study.groups if all((t, g) in study.cells for t in tasks)]
    if len(groups) < 2:
        return None
    points = min(len(study.grid(task)) for task in tasks)
    share = np.arange(1, points + 1) / points
    seeds = {g: min(len(study.cells[t, g]) for t in tasks) for g in groups}
    raw = {
        (task, group): study.curves(task, group, "episode_return", share * study.end(task))
        for task in tasks
        for group in groups
    }
    known = np.all([np.isfinite(c).all(axis=0) for c in raw.values()], axis=0)  # (P,)
    if not known.any():
        return None
    zero, one = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 1.0)
    if len(tasks) > 1:
        for task in tasks:
            every = [raw[task, group][:, known] for group in groups]
            zero[task] = float(np.concatenate(every)[:, 0].mean())
            one[task] = float(max(curves[:, -1].mean() for curves in every))
    span = {t: one[t] - zero[t] if one[t] > zero[t] else max(abs(zero[t]), 1e-6) for t in tasks}
    curves = {
        group: np.stack(
            [(raw[t, group][: seeds[group], known] - zero[t]) / span[t] for t in tasks], axis=1
        )
        for group in groups
    }
    first = np.mean(np.concatenate([x[:, :, 0].ravel() for x in curves.values()]))
    return Scores(curves, tasks, share[known], len(tasks) > 1, float(first))


def thresholds(scores: Scores) -> np.ndarray:
    """Returns 60 scores at which to draw profiles. (60,)

    They reach from the least score to the greatest, but not far below the beginning: a run that
    diverges would take the whole axis.
    """
    every = np.concatenate([x.ravel() for x in scores.finals.values()])
    most = float(every.max())
    least = max(float(every.min()), scores.beginning - 0.25 * abs(most - scores.beginning))
    return np.linspace(least, most, 60)
