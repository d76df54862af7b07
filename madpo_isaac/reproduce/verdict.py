"""Conclusion of a study that compares algorithms on several tasks: scores, ranking, and test."""

from __future__ import annotations

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
    rows = [
        [task, arm, str(k), repr(float(x))]
        for arm, of in scores.items()
        for task, xs in of.items()
        for k, x in enumerate(xs, 1)
    ]
    return Table("", ["task", "arm", "run", "score"], rows).csv()


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
    rows = [[arm, *(f"{x:.3f}" for x in (*ratios[arm], np.mean(ratios[arm])))] for arm in order]
    table = Table("", ["arm", *used, "average"], rows).markdown()
    best = [arm for arm in order if arm not in (baseline, control)][:_CHOSEN]
    named = " and ".join(f"'{arm}'" for arm in best)
    left = [task for task in bases if task not in used]
    dropped = f" Left out, since {baseline} scores zero or less: {', '.join(left)}." if left else ""
    return (
        f"Mean score divided by that of {baseline}:\n\n{table}\n"
        f"The arms with the highest average are {named}.{dropped}\n"
    )


def test(scores: Scores, baseline: str, controls: Sequence[str], reps: int) -> str:
    """Tests whether arms score higher than a baseline, and higher than controls.

    The statistic is the probability of improvement (Agarwal et al., 2021) averaged over tasks. Its
    intervals have a total level of 95 % by Bonferroni's rule.

    Args:
        scores: scores of all arms, as many runs for each task.
        baseline: title of the arm to compare with.
        controls: titles of arms that an arm must beat as well to help because of what it is.
        reps: resamples of a bootstrap.

    Returns:
        Tables in Markdown, and a sentence about each arm.
    """
    tasks = list(scores[baseline])
    stacked = {arm: np.stack([of[task] for task in tasks], axis=1) for arm, of in scores.items()}
    means = statistics.iqm_curve({arm: x[:, None] for arm, x in stacked.items()}, reps)
    parts = [
        "Interquartile mean of the scores and its 95 % interval:\n",
        Table("", ["arm", *tasks], [[arm, *_cells(x, 1)] for arm, x in means.items()]).markdown(),
    ]
    others = (baseline, *controls)
    arms = [arm for arm in stacked if arm not in others]
    if not arms:
        return "\n".join([*parts, "No arm was chosen to be tested.\n"])
    level = 100.0 - 5.0 / len(arms)
    rows, verdicts = [], []
    against = {
        other: statistics.improvement(
            {arm: stacked[arm] for arm in (*arms, other)}, other, reps, level
        )
        for other in others
    }
    for arm in arms:
        found = {other: against[other][arm] for other in others}
        rows.append([arm, *(cell for estimate in found.values() for cell in _cells(estimate, 3))])
        sides = {other: _side(estimate) for other, estimate in found.items()}
        verdicts.append(f"* {arm} {_verdict(baseline, sides)}")
    head = ["arm", *(f"against {other}" for other in others)]
    parts += [
        f"Probability that a run scores higher, averaged over tasks, and its {level:g} % "
        "interval:\n",
        Table("", head, rows).markdown(),
        "\n".join(verdicts) + "\n",
    ]
    return "\n".join(parts)


def _side(estimate: statistics.Estimate) -> int:
    """Returns 1 if a probability's interval is above one half, -1 if it is below, and else 0."""
    return int(estimate.low[0] > 0.5) - int(estimate.high[0] < 0.5)


def _verdict(baseline: str, sides: Mapping[str, int]) -> str:
    """Returns the predicate about an arm, from its :func:`_side` of the baseline and controls."""
    if sides[baseline] < 0:
        return f"hurts: it scores lower than {baseline}."
    if sides[baseline] == 0:
        return f"is not shown to differ from {baseline}."
    words = {
        1: "it scores higher than {}",
        0: "it is not shown to differ from {}",
        -1: "it scores lower than {}",
    }
    parts = ", ".join(words[side].format(other) for other, side in sides.items())
    kind = "helps because of what it is" if min(sides.values()) > 0 else "helps"
    return f"{kind}: {parts}."


def _cells(estimate: statistics.Estimate, digits: int) -> list[str]:
    """Returns every value of an estimate with its interval."""
    columns = zip(estimate.value, estimate.low, estimate.high, strict=True)
    return [f"{x:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]" for x, low, high in columns]
