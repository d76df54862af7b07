"""Runs behind the figures and tables of the MADPO paper (Dou et al., NeurIPS 2024).

Hyper-parameters are those of the recipe and the presets (cfg/). ``Figure.chosen`` names the choices
that the paper, as far as it is known here, leaves open. The assignment of Figure 2 to multi-agent
MuJoCo and of Figure 3 to Bi-DexHands, and the tasks of Figures 5 and 6, come from descriptions of
the figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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

Variants = Mapping[str, tuple[str, ...]]
"""Settings of each variant by its name, which is the same in all figures."""

ALGORITHMS: Variants = {
    name: (f"algo={name}",) for name in ("madpo", "happo", "hatrpo", "a2po", "mappo")
}


def _madpo(**variants: str) -> Variants:
    """Variants of MADPO that differ in one setting, as name=setting."""
    return {f"madpo_{name}": ("algo=madpo", setting) for name, setting in variants.items()}


INCENTIVES: Variants = {
    "madpo": ALGORITHMS["madpo"],
    "happo": ALGORITHMS["happo"],
    **_madpo(kl="algo.divergence.kind=kl", entropy="algo.divergence.kind=entropy"),
}
LAMBDAS: Variants = {
    f"madpo_lam{lam}": ("algo=madpo", f"algo.divergence.lam={lam}") for lam in (0, 0.1, 0.2, 0.5, 1)
}
SIGMAS: Variants = {
    f"madpo_printed_sigma{sigma}": (
        *("algo=madpo", "algo.divergence.preset=printed", "algo.divergence.rows=256"),
        f"algo.divergence.sigma={sigma}",
    )
    for sigma in (500, 1000, 2000)
}
ORDERS: Variants = {
    "madpo": ALGORITHMS["madpo"],
    **_madpo(index="algo.agent_order=default", role="algo.agent_order=spec"),
}


@dataclass(frozen=True)
class Figure:
    """One figure or table: every variant on every task."""

    title: str
    tasks: tuple[str, ...]
    variants: Variants
    shows: str
    """Figure of the report that corresponds to it, or ``wall time``, a table."""
    by: tuple[str, ...] = ("algo",)
    """Settings by which the report groups runs."""
    per_suite: bool = False
    """True for one report per suite, since scores are aggregated over tasks."""
    chosen: str = ""


FIGURES: dict[str, Figure] = {
    "fig2": Figure(
        "Learning curves on multi-agent MuJoCo",
        *(MUJOCO, ALGORITHMS, "curves"),
        chosen="all ten scenarios, of which the paper has some in its appendix",
    ),
    "fig3": Figure(
        "Learning curves on Bi-DexHands",
        *(HANDS, ALGORITHMS, "curves"),
        chosen="all ten tasks, of which the paper has some in its appendix",
    ),
    "fig4": Figure(
        "Sample efficiency: interquartile mean over tasks",
        *((*MUJOCO, *HANDS), ALGORITHMS, "iqm"),
        per_suite=True,
        chosen="normalisation: 0 all runs' first point, 1 the best algorithm's end",
    ),
    "fig5": Figure(
        "What to explore with: Cauchy-Schwarz, KL, entropy, nothing",
        ("HalfCheetah-6x1", "ShadowHandDoorOpenInward", "Walker2d-3x2"),
        *(INCENTIVES, "curves"),
        by=("algo", "algo.divergence.kind"),
        chosen="coefficients: the presets'",
    ),
    "fig6": Figure(
        "Sensitivity to lambda and sigma",
        ("Walker2d-6x1", "ShadowHandDoorOpenInward"),
        {"happo": ALGORITHMS["happo"], **LAMBDAS, **SIGMAS},
        "sensitivity_lam",
        by=("algo", "algo.divergence.preset", "algo.divergence.lam", "algo.divergence.sigma"),
        chosen="the values; sigma with preset printed, which alone has one",
    ),
    "fig9": Figure(
        "Order of the agents' updates: random, by index, by role",
        ("HalfCheetah-6x1", "Walker2d-6x1", "Ant-8x1"),
        *(ORDERS, "curves"),
        by=("algo", "algo.agent_order"),
        chosen="the tasks",
    ),
    "table5": Figure(
        "Wall time",
        (
            *("Ant-2x4", "Walker2d-6x1", "HalfCheetah-6x1", "Humanoid-17x1"),
            *("ShadowHandDoorOpenInward", "ShadowHandDoorOpenOutward"),
        ),
        *(ALGORITHMS, "wall time"),
        chosen="nothing; times mean something with --jobs 1 on an idle machine",
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
    settings: tuple[str, ...] = ()
    """Further settings of every run."""


SCALES: dict[str, Scale] = {
    "smoke": Scale({"MA-MuJoCo": 6e4, "Bi-DexHands": 9.6e4}, (1, 2), tasks=2),
    "short": Scale({"MA-MuJoCo": 1e6, "Bi-DexHands": 2e6}, (1, 2, 3)),
    "paper": Scale({"MA-MuJoCo": 1e7, "Bi-DexHands": 2e7}, (1, 2, 3, 4, 5)),
}


def suite(task: str) -> str:
    """The suite of a task."""
    return next(name for name, tasks in SUITES.items() if task in tasks)
