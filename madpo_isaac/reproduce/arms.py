"""Arms of the figures: named sets of settings, for each method of computing MADPO's bonus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ENTROPY_FREE = "algo.entropy_coef=0"
"""No entropy bonus. The presets ``official`` and ``printed`` drop it anyway; here it is set, so
that the recorded configuration says so."""


@dataclass(frozen=True)
class Arm:
    """One curve of a figure."""

    title: str
    """Name in legends and tables."""
    settings: tuple[str, ...]
    knob: tuple[str, float] | None = None
    """Setting that a sweep varies, as figures call it, and its value."""


Arms = Mapping[str, Arm]
"""Arms by the name in their run folders; a name means the same arm in all figures."""

METHODS = {
    "gaussian": Arm("MADPO (closed form)", ("algo=madpo", "algo.divergence.preset=gaussian")),
    "official": Arm(
        "MADPO (released code)", ("algo=madpo", "algo.divergence.preset=official", ENTROPY_FREE)
    ),
    "printed": Arm(
        "MADPO (Eq. 11 as printed)",
        ("algo=madpo", "algo.divergence.preset=printed", ENTROPY_FREE),
    ),
}
"""The computation behind an arm that is called MADPO; docs/fidelity.md compares them."""

HAPPO: Arms = {"happo": Arm("HAPPO", ("algo=happo",))}
BASELINES: Arms = {
    **HAPPO,
    "hatrpo": Arm("HATRPO", ("algo=hatrpo",)),
    "a2po": Arm("A2PO", ("algo=a2po",)),
    "mappo": Arm("MAPPO", ("algo=mappo",)),
}
LAMBDAS = (0, 0.1, 0.2, 0.5, 1)
SIGMAS = {
    "gaussian": ("coef (there is no sigma)", "coef", (0.02, 0.06, 0.2)),
    "official": ("coef (the size of the tables' sigma)", "coef", (500, 1000, 2000)),
    "printed": ("sigma", "sigma", (500, 1000, 2000)),
}
"""By method: the label of the lines over sigma, the setting that they vary, and its values."""


def _alone(kind: str, title: str) -> Arm:
    """Returns an arm with one incentive of the closed form, or none, and no entropy bonus."""
    madpo = METHODS["gaussian"]
    return Arm(title, (*madpo.settings, ENTROPY_FREE, f"algo.divergence.kind={kind}"))


NO_INCENTIVE: Arms = {"only_none": _alone("none", "HAPPO without entropy bonus")}


def madpo(method: str) -> Arms:
    """Returns MADPO by a method."""
    return {f"madpo_{method}": METHODS[method]}


def algorithms(method: str) -> Arms:
    """Returns MADPO by a method beside the other algorithms."""
    return {**madpo(method), **BASELINES}


def incentives(method: str) -> Arms:
    """Returns arms that differ in the incentive alone: the entropy bonus is off in all of them."""
    cs = {"only_cs": _alone("cs", "Cauchy-Schwarz (closed form)")}
    if method != "gaussian":  # which has no entropy bonus by itself
        name = METHODS[method].title.replace("MADPO", "Cauchy-Schwarz")
        cs = {f"madpo_{method}": Arm(name, METHODS[method].settings)}
    return {
        **cs,
        "only_kl": _alone("kl", "KL (closed form)"),
        "only_entropy": _alone("entropy", "entropy"),
        **NO_INCENTIVE,
    }


def sensitivity(method: str) -> Arms:
    """Returns sweeps over lambda and over sigma (or the setting in its place), and HAPPO.

    If the method drops the entropy bonus, HAPPO without this bonus is added, too.
    """
    base = METHODS[method]
    label, key, values = SIGMAS[method]
    lines = HAPPO if method == "gaussian" else {**HAPPO, **NO_INCENTIVE}
    lambdas = {
        f"madpo_{method}_lam{x}": Arm(
            f"lambda {x}", (*base.settings, f"algo.divergence.lam={x}"), ("lambda", x)
        )
        for x in LAMBDAS
    }
    sigmas = {
        f"madpo_{method}_{key}{x}": Arm(
            f"{key} {x}", (*base.settings, f"algo.divergence.{key}={x}"), (label, x)
        )
        for x in values
    }
    return {**lines, **lambdas, **sigmas}


def orders(method: str) -> Arms:
    """Returns MADPO with three orders of the agents' updates."""
    settings = METHODS[method].settings
    return {
        f"madpo_{method}": Arm("random order", settings),
        f"madpo_{method}_index": Arm("order of indices", (*settings, "algo.agent_order=default")),
        f"madpo_{method}_role": Arm("order of roles", (*settings, "algo.agent_order=spec")),
    }


def costs(method: str) -> Arms:
    """Returns every algorithm and every way to compute MADPO's bonus, whatever the method."""
    del method
    every = {f"madpo_{name}": arm for name, arm in METHODS.items()}
    yu = Arm("MADPO (Yu et al.)", ("algo=madpo", "algo.divergence.preset=yu"))
    return {**BASELINES, **every, "madpo_yu": yu}
