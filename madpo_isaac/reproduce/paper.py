"""Figures and tables of the MADPO paper (Dou et al., NeurIPS 2024), and the scales to run them at.

Section 5.1 of the paper states that Figure 2 is on multi-agent MuJoCo and Figure 3 on Bi-DexHands,
with ten scenarios each, which Figures 7 and 8 show in full. Hyper-parameters are those of the
recipe and the presets (cfg/). ``Figure.chosen`` names the details that the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from madpo_isaac.reproduce import arms
from madpo_isaac.reproduce.arms import Arms
from madpo_isaac.reproduce.verdict import Scores

MUJOCO = (
    *("HalfCheetah-2x3", "Walker2d-2x3", "Ant-4x2", "Humanoid-17x1", "HalfCheetah-3x2"),
    *("HalfCheetah-6x1", "Walker2d-3x2", "Walker2d-6x1", "Ant-2x4", "Ant-8x1"),
)
HANDS = (
    *("ShadowHandOver", "ShadowHandCatchUnderarm", "ShadowHandCatchOver2Underarm"),
    *("ShadowHandCatchAbreast", "ShadowHandDoorOpenInward", "ShadowHandDoorOpenOutward"),
    *("ShadowHandDoorCloseInward", "ShadowHandDoorCloseOutward", "ShadowHandPen"),
    "ShadowHandBlockStack",
)
SUITES = {"MA-MuJoCo": MUJOCO, "Bi-DexHands": HANDS}
PANELS = {
    **SUITES,
    **{
        robot: tuple(task for task in MUJOCO if task.startswith(robot))
        for robot in ("Ant", "HalfCheetah", "Walker2d")
    },
}
"""Panels of Figure 4: the tasks over which each aggregates."""
RECIPES = ("paper", "tuned")


@dataclass(frozen=True)
class Figure:
    """One figure or table: every arm on every task."""

    title: str
    tasks: tuple[str, ...]
    arms: Callable[[str], Arms]
    """Arms for a method, one of :data:`arms.METHODS`."""
    shows: str
    """Picture of the report that corresponds to it, or ``wall time``, a table."""
    panels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Sets of tasks over which to aggregate, each with a report of its own."""
    chosen: str = ""
    settings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Further settings of some tasks."""
    is_of_paper: bool = True
    conclude: Callable[[Scores, int], str] | None = None
    """Text in ``verdict.md`` from the scores of all runs and the resamples of a bootstrap."""


FIGURES: dict[str, Figure] = {
    "fig2": Figure(
        "Learning curves on multi-agent MuJoCo",
        *(MUJOCO, arms.algorithms, "curves"),
        chosen="the scenarios; the paper shows some of Figure 7's ten here",
    ),
    "fig3": Figure(
        "Learning curves on Bi-DexHands",
        *(HANDS, arms.algorithms, "curves"),
        chosen="the tasks; the paper shows some of Figure 8's ten here",
    ),
    "fig4": Figure(
        "Sample efficiency: interquartile mean over tasks",
        *((*MUJOCO, *HANDS), arms.algorithms, "efficiency"),
        panels=PANELS,
        chosen="normalization: 0 is all runs' first point, 1 the best algorithm's end",
    ),
    "fig5": Figure(
        "Incentives: Cauchy-Schwarz, KL, entropy, none",
        ("HalfCheetah-6x1", "ShadowHandDoorOpenInward", "Walker2d-3x2"),
        *(arms.incentives, "curves"),
        chosen="the coefficient of KL and of the entropy is the closed form's",
    ),
    "fig6": Figure(
        "Sensitivity to lambda and sigma",
        ("Walker2d-6x1", "ShadowHandDoorOpenInward"),
        *(arms.sensitivity, "sensitivity"),
        chosen="the values",
    ),
    "fig7": Figure(
        "Learning curves on all ten scenarios of multi-agent MuJoCo",
        *(MUJOCO, arms.algorithms, "curves"),
    ),
    "fig8": Figure(
        "Learning curves on all ten tasks of Bi-DexHands",
        *(HANDS, arms.algorithms, "curves"),
    ),
    "fig9": Figure(
        "Order of the agents' updates: random, by index, by role",
        ("HalfCheetah-6x1", "Walker2d-6x1", "Ant-8x1"),
        *(arms.orders, "curves"),
        chosen="the tasks",
    ),
    "fig10": Figure(
        "Sensitivity to lambda and sigma, aggregated over tasks",
        ("Walker2d-6x1", "ShadowHandDoorOpenInward", "HalfCheetah-6x1", "Ant-4x2"),
        *(arms.sensitivity, "sensitivity_over_tasks"),
        chosen="the values; the tasks: those of Figure 6 and two more robots; "
        "normalization: 0 is all runs' first point, 1 the best arm's end",
    ),
    "table5": Figure(
        "Wall time and memory",
        (
            *("Ant-2x4", "Walker2d-6x1", "HalfCheetah-6x1", "Humanoid-17x1"),
            *("ShadowHandDoorOpenInward", "ShadowHandDoorOpenOutward"),
        ),
        *(arms.costs, "wall time"),
        chosen="the arms; times mean something with --jobs 1 on an idle machine",
    ),
}


@dataclass(frozen=True)
class Scale:
    """Extent of a reproduction."""

    steps: Mapping[str, float]
    """Environment steps of a run, by suite."""
    seeds: tuple[int, ...]
    tasks: int | None = None
    """Number of the figure's tasks, taken by turns from each suite; None for all."""
    rows: int | None = None
    """Rows of a minibatch that the kernel estimators sum over; None for all."""
    settings: tuple[str, ...] = ()
    """Further settings of every run."""
    only: tuple[str, ...] = ()
    """Names of the tasks to take, whatever their number; () for all of the figure's."""


SCALES: dict[str, Scale] = {
    "smoke": Scale({"MA-MuJoCo": 6e4, "Bi-DexHands": 9.6e4}, (1, 2), tasks=2, rows=64),
    "short": Scale({"MA-MuJoCo": 1e6, "Bi-DexHands": 2e6}, (1, 2, 3), rows=256),
    "paper": Scale({"MA-MuJoCo": 1e7, "Bi-DexHands": 2e7}, (1, 2, 3, 4, 5)),
}


def suite(task: str) -> str:
    """Returns the suite of a task."""
    return next(name for name, tasks in SUITES.items() if task in tasks)
