"""MADPO's bonus, with one preset per source; docs/fidelity.md lists where the sources disagree."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from madpo_isaac.divergence.bounds import BOUNDS
from madpo_isaac.errors import UserError
from madpo_isaac.settings import integer, not_negative, one_of, positive, setting, unit

KINDS = ("cs", "kl", "entropy", "none")
"""Kinds of the bonus, see :class:`DivergenceConfig`."""

VARIANTS = ("share", "follow_lr", "as_reward", "age", "inter_scale", "standardize_inter")
"""Settings that only the closed form has."""


@dataclass(frozen=True)
class Preset:
    """The measure of a bonus and its weights."""

    estimator: str
    """gaussian: closed form; yu, printed, official: variants of ``kernel_cs``."""
    coef: float | None
    """Coefficient of the bonus; None for 1 / sigma."""
    lam: float | None = None
    """Weight of the inter-agent term; None for the recipe's."""
    bound: str = "none"
    scale: float = 1.0
    keep_entropy: bool = True
    """True if the entropy bonus is added, too."""
    swap: bool = False
    """True if lam is the weight of the intra-agent term, and 1 - lam that of the other."""
    previous: str = "iteration"
    """Age of the policy of the intra-agent term: one ``iteration`` or one ``minibatch``."""
    predecessor: str = "order"
    """The other agent of the inter-agent term: the one updated before (``order``), or the one with
    the previous ``index``."""


PRESETS: dict[str, Preset] = {
    "gaussian": Preset("gaussian", coef=0.06, bound="exp", scale=0.1),
    "official": Preset(
        "official",
        coef=1000.0,
        lam=0.05,
        keep_entropy=False,
        previous="minibatch",
        predecessor="index",
    ),
    "printed": Preset("printed", coef=None, keep_entropy=False),
    "printed_alg1": Preset("printed", coef=None, keep_entropy=False, swap=True),
    "yu": Preset("yu", coef=1.0),
}


@dataclass
class DivergenceConfig:
    """MADPO's bonus: coef * [lam * inter + (1 - lam) * intra]; null takes the preset's value."""

    kind: str = setting("cs", one_of(KINDS))
    """cs: Cauchy-Schwarz divergence; kl: KL(policy || reference) in its place; entropy: the
    policy's own entropy in its place; none: no bonus, which is HAPPO. (Fig. 5)"""
    preset: str = setting("gaussian", one_of(PRESETS))
    """gaussian: closed form for Gaussian policies; or a kernel estimator, for reproduction only:
    official (released code), printed (Eq. 11), printed_alg1 (Algorithm 1), yu (Yu et al.)."""
    coef: float | None = setting(None, not_negative)
    """Coefficient of the bonus. null: the recipe's for gaussian, or 0.06 if the recipe has none;
    official 1000, yu 1, printed 1 / sigma."""
    lam: float | None = setting(None, unit)
    """Weight of the inter-agent term. null: 0.05 for official, otherwise the recipe's."""
    sigma: float | None = setting(None, positive)
    """Kernel width of the printed presets. null: the recipe's (Tables 2 and 4 of the paper)."""
    bound: str | None = setting(None, one_of(BOUNDS))
    """Limit of the bonus of preset gaussian, which would grow without one. exp, per state:
    1 - exp(-D / (2 scale)); exp_dim: its mean over action dimensions; clip: min(D, scale); tanh: D
    between policies with squashed means; none: D itself, which diverges in practice."""
    scale: float | None = setting(None, positive)
    """Scale of bound, in nats; null for 0.1 with gaussian. At a divergence of twice the scale, the
    gradient of the bound exp has fallen to a third."""
    rows: int | None = setting(None, integer())
    """Rows of a minibatch that the kernel estimators sum over, against all columns; null for all.
    They are drawn again at every step, and the cost is proportional to their number."""
    decay_steps: float | None = setting(None, not_negative)
    """Environment steps after which the coefficient has fallen linearly to zero; 0 keeps it
    constant. null: the recipe's for gaussian, 0 for the other presets."""
    share: float | None = setting(None, positive)
    """Wanted norm of the bonus's gradient, relative to that of the clipped objective's gradient. In
    each iteration the first minibatch of each agent gives its coefficient, which never exceeds
    ``coef``; ``coef`` is then 1 by default. With ``decay_steps`` the share falls to 0, too."""
    follow_lr: bool = False
    """True: the coefficient is proportional to the agent's learning rate, and it is ``coef`` at
    ``algo.actor_lr``. With adaptive rates, the KL target decides the rate."""
    as_reward: bool = False
    """True: the bonus is added to the rewards of a rollout, and the objective has no bonus. The
    added number is the mean over agents of the weighted divergences of the policies that collected
    the rollout, multiplied by (1 - gamma) and by the standard deviation of returns, so that
    ``coef`` does not depend on the scale of a task's rewards. The predecessor is the agent with
    the previous index."""
    age: int = setting(1, integer(1, 1000))
    """The intra-agent term compares a policy with the one that collected the rollout of this many
    iterations ago."""
    inter_scale: float | None = setting(None, positive)
    """``scale`` of the inter-agent term; null if both terms have the same scale."""
    standardize_inter: bool = False
    """True: the inter-agent term compares mean / std of two agents' actions, both with std 1."""

    def check(self, minibatch: int) -> None:
        """Checks the settings against the preset; ``minibatch`` is the rows of a minibatch.

        Raises:
            UserError: naming the first bad value.
        """
        key = "algo.divergence"
        if self.sigma is not None and PRESETS[self.preset].coef is not None:
            raise UserError(
                f"{key}.sigma={self.sigma} has no effect: {key}.preset={self.preset} has none."
            )
        if self.rows is not None:
            integer(1, minibatch)(f"{key}.rows", self.rows)
        if self.preset == "gaussian":
            if self.rows is not None:
                raise UserError(f"{key}.rows={self.rows} works with the kernel presets only.")
            self._check_variants()
            return
        for text in self._chosen(("scale", *VARIANTS)):
            raise UserError(f"{key}.{text} works with {key}.preset=gaussian only.")
        if self.kind not in ("cs", "none"):
            raise UserError(f"{key}.kind={self.kind} works with {key}.preset=gaussian only.")
        if self.kind == "none" and self.rows is not None:
            raise UserError(f"{key}.rows={self.rows} has no effect: {key}.kind=none has no bonus.")
        if self.bound not in (None, "none"):
            raise UserError(f"{key}.bound={self.bound} works with {key}.preset=gaussian only.")

    def _chosen(self, names: Sequence[str]) -> list[str]:
        """Returns those of the settings that have no default's value, as name=value.

        The record of a run has the preset's values in place of null.
        """
        filled = fill_from_preset(DivergenceConfig(preset=self.preset))
        values = {name: getattr(self, name) for name in names}
        return [
            f"{name}={value}"
            for name, value in values.items()
            if value not in (getattr(DivergenceConfig, name), getattr(filled, name))
        ]

    def _check_variants(self) -> None:
        key = "algo.divergence"
        if self.kind == "none":
            for text in self._chosen(("share", "follow_lr")):
                raise UserError(f"{key}.{text} has no effect: {key}.kind=none has no bonus.")
        if self.bound in ("none", "tanh"):
            for text in self._chosen(("scale", "inter_scale")):
                raise UserError(
                    f"{key}.{text} has no effect: {key}.bound={self.bound} has no scale."
                )
        if self.kind not in ("cs", "kl"):
            pairs = ("as_reward", "age", "bound", "scale", "inter_scale", "standardize_inter")
            for text in self._chosen(pairs):
                raise UserError(
                    f"{key}.{text} has no effect: {key}.kind={self.kind} compares nothing."
                )
        if self.follow_lr and self.share is not None:
            raise UserError(
                f"{key}.follow_lr=True contradicts {key}.share={self.share}, which sets the bonus "
                "whatever the rate is."
            )
        if self.as_reward and self.share is not None:
            raise UserError(
                f"{key}.share={self.share} has no effect: {key}.as_reward=True leaves the "
                "objective as it is."
            )
        if self.as_reward and self.follow_lr:
            raise UserError(
                f"{key}.follow_lr=True has no effect: {key}.as_reward=True has one coefficient "
                "for all agents."
            )


def fill_from_preset(
    config: DivergenceConfig,
    lam: float = 0.2,
    sigma: float = 1e3,
    coef: float | None = None,
    decay_steps: float = 0.0,
) -> DivergenceConfig:
    """Returns ``config`` with values in place of None.

    They are those of the preset. If the preset has none, they are ``lam``, ``sigma``, ``coef`` and
    ``decay_steps``, which are the recipe's. For the closed form the recipe's ``coef`` comes first.
    """
    preset = PRESETS[config.preset]
    filled = dataclasses.replace(config)
    if filled.sigma is None and preset.coef is None:
        filled.sigma = sigma
    if filled.coef is None and filled.share is not None:
        filled.coef = 1.0
    if filled.coef is None:
        own = 1.0 / filled.sigma if filled.sigma is not None else preset.coef
        filled.coef = coef if preset.estimator == "gaussian" and coef is not None else own
    if filled.decay_steps is None:
        filled.decay_steps = decay_steps if preset.estimator == "gaussian" else 0.0
    if filled.lam is None:
        filled.lam = lam if preset.lam is None else preset.lam
    if filled.bound is None:
        filled.bound = preset.bound
    if filled.scale is None:
        filled.scale = preset.scale
    return filled
