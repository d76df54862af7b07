"""Conclusion of a study that compares algorithms on several tasks: scores, ranking, and test."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from madpo_isaac.report import statistics
from madpo_isaac.report.runs import Run
from madpo_isaac.report.tables import Table

Scores = Mapping[str, Mapping[str, np.ndarray]]
"""Title of an arm to task to the scores of its runs, (runs,)."""
_LAST = 2
"""Evaluations that make the score of a run."""
_CHOSEN = 2
"""Arms that a ranking names."""


def score(run: Run | None) -> float:
    """Returns the mean return of a run's last two evaluations; 0 if it failed or has none."""
    if run is None:
        return 0.0
    returns = run.metrics.get("eval/return", np.zeros(0))
    returns = returns[np.isfinite(returns)][-_LAST:]
    return float(returns.mean()) if len(returns) else 0.0


def collect(runs: Iterable[tuple[str, str, Run | None]]) -> Scores:
    """Returns the scores of runs given as task, title of the arm, and run (None if it failed)."""
    found: dict[str, dict[str, list[float]]] = {}
    for task, arm, run in runs:
        found.setdefault(arm, {}).setdefault(task, []).append(score(run))
    return {arm: {task: np.array(x) for task, x in of.items()} for arm, of in found.items()}


def scores_csv(scores: Scores) -> str:
    """Returns the scores as CSV with a line for every run; runs are in the order of the plan."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["task", "arm", "run", "score"])
    for arm, of in scores.items():
        writer.writerows(
            [task, arm, k, repr(float(x))] for task, xs in of.items() for k, x in enumerate(xs, 1)
        )
    return text.getvalue()


def ranking(scores: Scores, baseline: str, control: str) -> str:
    """Ranks arms by their scores relative to the mean score of ``baseline``, averaged over tasks.

    A task on which the baseline's mean is not above zero has no ratio and is left out.

    Args:
        scores: scores of all arms.
        baseline: title of the arm to compare with.
        control: title of an arm that cannot be chosen either.

    Returns:
        A table in Markdown, and a sentence that names the two best.
    """
    bases = {task: float(x.mean()) for task, x in scores[baseline].items()}
    used = [task for task, base in bases.items() if base > 0.0]
    if not used:
        return f"{baseline} has no score above zero on any task, so that there is no ranking.\n"
    ratios = {arm: [of[task].mean() / bases[task] for task in used] for arm, of in scores.items()}
    order = sorted(ratios, key=lambda arm: -float(np.mean(ratios[arm])))
    rows = [[arm, *_texts(ratios[arm]), f"{np.mean(ratios[arm]):.3f}"] for arm in order]
    table = Table("", ["arm", *used, "average"], rows).markdown()
    best = [arm for arm in order if arm not in (baseline, control)][:_CHOSEN]
    named = " and ".join(f"'{arm}'" for arm in best)
    left = [task for task in bases if task not in used]
    dropped = f" Left out, since {baseline} scores zero or less: {', '.join(left)}." if left else ""
    return (
        f"Mean score divided by that of {baseline}:\n\n{table}\n"
        f"The arms with the highest average are {named}.{dropped}\n"
    )


def test(scores: Scores, baseline: str, control: str, reps: int) -> str:
    """Tests whether arms score higher than a baseline, and higher than a control.

    The statistic is the probability of improvement (Agarwal et al., 2021) averaged over tasks. Its
    intervals have a total level of 95 % by Bonferroni's rule.

    Args:
        scores: scores of all arms, as many runs for each task.
        baseline: title of the arm to compare with.
        control: title of the arm that an arm must beat as well to help because of what it is.
        reps: resamples of a bootstrap.

    Returns:
        Tables in Markdown, and a sentence about each arm.
    """
    tasks = list(scores[baseline])
    stacked = {arm: np.stack([of[task] for task in tasks], axis=1) for arm, of in scores.items()}
    means = {arm: _iqms(x, reps) for arm, x in stacked.items()}
    parts = [
        "Interquartile mean of the scores and its 95 % interval:\n",
        Table("", ["arm", *tasks], [[arm, *cells] for arm, cells in means.items()]).markdown(),
    ]
    arms = [arm for arm in stacked if arm not in (baseline, control)]
    if not arms:
        return "\n".join([*parts, "No arm was chosen to be tested.\n"])
    level = 100.0 - 5.0 / len(arms)
    rows, verdicts = [], []
    against = {
        other: statistics.improvement(
            {arm: stacked[arm] for arm in (*arms, other)}, other, reps, level
        )
        for other in (baseline, control)
    }
    for arm in arms:
        of_baseline, of_control = (_ends(against[other][arm]) for other in (baseline, control))
        rows.append([arm, _interval(*of_baseline), _interval(*of_control)])
        verdicts.append(f"* {arm} {_verdict(of_baseline, of_control, baseline, control)}")
    head = ["arm", f"against {baseline}", f"against {control}"]
    parts += [
        f"Probability that a run scores higher, averaged over tasks, and its {level:g} % "
        "interval:\n",
        Table("", head, rows).markdown(),
        "\n".join(verdicts) + "\n",
    ]
    return "\n".join(parts)


def _verdict(
    of_baseline: Sequence[float], of_control: Sequence[float], baseline: str, control: str
) -> str:
    """Returns the predicate about an arm, from value, low and high end of both comparisons."""
    if of_baseline[1] > 0.5:
        reason = (
            f"and scores higher than {control}, too"
            if of_control[1] > 0.5
            else f"but does not differ from {control}"
            if of_control[2] >= 0.5
            else f"but scores lower than {control}"
        )
        return f"helps: it scores higher than {baseline}, {reason}."
    if of_baseline[2] < 0.5:
        return f"hurts: it scores lower than {baseline}."
    return f"does not differ from {baseline} beyond chance."


def _iqms(scores: np.ndarray, reps: int) -> list[str]:
    """Returns the interquartile mean of each task, with its interval."""
    columns = {str(k): scores[:, [k]] for k in range(scores.shape[1])}
    found = statistics.aggregates(columns, reps)
    place = list(statistics.AGGREGATES).index("IQM")
    return [
        _interval(x.value[place], x.low[place], x.high[place], digits=1) for x in found.values()
    ]


def _ends(estimate: statistics.Estimate) -> tuple[float, float, float]:
    return float(estimate.value[0]), float(estimate.low[0]), float(estimate.high[0])


def _interval(value: float, low: float, high: float, digits: int = 3) -> str:
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _texts(values: Iterable[float]) -> list[str]:
    return [f"{value:.3f}" for value in values]
