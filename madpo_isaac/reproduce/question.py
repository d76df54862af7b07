"""The study behind docs/question.md: does maximizing mutual policy divergence help?

``choose`` compares many forms of the bonus on some tasks, ``confirm`` the best of them on others,
with other seeds. Each has a scale of the same name, and both have the tuned recipe.
"""

from __future__ import annotations

from madpo_isaac.reproduce.arms import Arm, Arms
from madpo_isaac.reproduce.paper import Figure, Scale
from madpo_isaac.reproduce.verdict import Scores, ranking, test

_BEFORE = "algo.actor_beta1=0.9"
"""The tuned recipe's value when the study began."""
_BONUS = ("algo=madpo", "algo.divergence.preset=gaussian", _BEFORE)
_HAPPO = Arm("HAPPO", ("algo=happo", _BEFORE))


def _form(title: str, *settings: str) -> Arm:
    return Arm(title, (*_BONUS, *(f"algo.divergence.{text}" for text in settings)))


FORMS: Arms = {
    "happo": _HAPPO,
    "madpo": _form("MADPO"),
    "constant": _form("MADPO, constant coefficient", "decay_steps=0"),
    "lam0": _form("MADPO, own past only", "lam=0"),
    "lam1": _form("MADPO, other agent only", "lam=1"),
    "kl": _form("KL", "kind=kl"),
    "entropy_share": _form("entropy, share 0.1", "kind=entropy", "share=0.1", "decay_steps=0"),
    "share": _form("MADPO, share 0.1", "share=0.1", "decay_steps=0"),
    "follow_lr": _form("MADPO, coefficient follows the rate", "follow_lr=True", "decay_steps=0"),
    "reward": _form("MADPO, as a reward", "as_reward=True", "coef=0.5", "decay_steps=0"),
    "age10": _form("MADPO, past of ten iterations ago", "age=10"),
    "inter": _form("MADPO, standardized other agent", "standardize_inter=True", "inter_scale=1"),
}
"""Forms of the bonus, by the name of their run folders."""
CONFIRMED: Arms = {
    "happo": _HAPPO,
    "entropy": Arm(
        "entropy, coefficient 0.001", ("algo=happo", _BEFORE, "algo.entropy_coef=0.001")
    ),
    "momentum": Arm("HAPPO, beta1 of 0.98", ("algo=happo", "algo.actor_beta1=0.98")),
    **{name: FORMS[name] for name in ("constant", "madpo")},
}
"""Arms of the second part: HAPPO, the controls, and the forms that the first part chose.
docs/question.md says how, and why these are the controls."""


def forms(method: str) -> Arms:
    """Returns all forms, whatever the method: each of them says how its bonus is computed."""
    del method
    return FORMS


def chosen(scores: Scores, reps: int) -> str:
    """Returns the ranking that names the forms to confirm."""
    del reps
    return ranking(scores, FORMS["happo"].title, FORMS["entropy_share"].title)


def answer(scores: Scores, reps: int) -> str:
    """Returns the outcome of the test."""
    controls = [CONFIRMED[name].title for name in ("entropy", "momentum")]
    return test(scores, CONFIRMED["happo"].title, controls, reps)


def confirmed(method: str) -> Arms:
    """Returns the forms to confirm and the arms they are compared with."""
    del method
    return CONFIRMED


FIGURES: dict[str, Figure] = {
    "choose": Figure(
        "Forms of the divergence bonus",
        ("HalfCheetah-6x1", "Walker2d-3x2", "ShadowHandOver"),
        *(forms, "curves"),
        is_of_paper=False,
        conclude=chosen,
    ),
    "confirm": Figure(
        "The chosen forms on other tasks",
        ("Walker2d-6x1", "Ant-8x1", "ShadowHandOver", "ShadowHandCatchOver2Underarm"),
        *(confirmed, "curves"),
        settings={"ShadowHandOver": ("task.agents=fingers", "algo.hidden=[128,64]")},
        is_of_paper=False,
        conclude=answer,
    ),
}
_STEPS = {"MA-MuJoCo": 3e5, "Bi-DexHands": 4.8e5}
_EVALUATED = ("eval_frequency=50",)
SCALES: dict[str, Scale] = {
    "choose": Scale(_STEPS, (1, 2, 3), settings=_EVALUATED),
    "confirm": Scale(_STEPS, tuple(range(11, 21)), settings=_EVALUATED),
}
"""150 iterations with three evaluations."""
