"""HATRPO (Kuba et al., 2022): heterogeneous-agent trust region policy optimization."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as fwd
from torch import Tensor

from madpo_isaac.algos.batch import AgentView, count
from madpo_isaac.algos.conjugate_gradient import conjugate_gradient
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.algos.objective import is_outside
from madpo_isaac.algos.registry import register_algorithm
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.algos.steps import tiles
from madpo_isaac.errors import UserError
from madpo_isaac.models.actor import log_prob
from madpo_isaac.settings import fraction, integer, not_negative, positive, setting, unit
from madpo_isaac.system.distributed import Ranks


@dataclass
class HatrpoConfig(AlgoConfig):
    """Hyper-parameters of the critic and of HATRPO's steps."""

    recipe_keys = ("kl_threshold",)
    rounds_products = False  # steps are chosen by differences of 1e-3 between policies
    kl_threshold: float = setting(0.03, positive)
    """Limit of a step's mean KL(old || new) per agent, in nats."""
    cg_iterations: int = setting(1, integer())
    """Fisher-vector products per agent to find the direction. With more of them the direction fits
    the noise of a batch of some thousand samples."""
    cg_tolerance: float = setting(1e-10, not_negative)
    """Squared norm of the residual at which the search for the direction stops earlier."""
    damping: float = setting(0.1, positive)
    """Number that is added to the diagonal of the Fisher matrix."""
    line_search_steps: int = setting(10, integer())
    """Largest number of steps that the line search tries."""
    backtrack: float = setting(0.8, fraction)
    """Length of a step of the line search relative to the step before."""
    accept_ratio: float = setting(0.5, unit)
    """A step is accepted if it gives at least this share of the improvement that the gradient
    predicts."""

    def check_rates(self) -> None:
        """Refuses settings that only gradient steps have."""
        self.check_limits()
        if self.lr_schedule == "adaptive":
            raise UserError(
                "algo.lr_schedule=adaptive does not work with hatrpo, whose policies have no "
                "learning rate."
            )
        steps: dict[str, Any] = dict.fromkeys(("actor_lr", "kl_target", "joint_kl_target"))
        steps |= {"entropy": "mean", "entropy_coef": 0.0, "value_aux_coef": 0.0, "actor_beta1": 0.9}
        for key, unused in steps.items():
            if getattr(self, key) != unused:
                raise UserError(
                    f"algo.{key}={getattr(self, key)} has no effect: hatrpo's policies take "
                    "natural-gradient steps, whose length algo.kl_threshold limits."
                )


@dataclass
class Trial:
    """The effect of a new policy on the batch, in float64."""

    improvement: float = 0.0
    """Growth of the surrogate mean(ratio * M)."""
    kl: float = 0.0
    """Mean KL(old || new)."""
    outside: float = 0.0
    """Share of ratios whose distance from 1 is larger than the clip range."""


@register_algorithm("hatrpo", HatrpoConfig)
class HATRPO(HAPPO):
    """Agents take one natural-gradient step each, one after another.

    Agent i maximizes the surrogate mean(ratio * M) with M = preceding_ratio * advantage, subject to
    mean KL(old || new) < ``kl_threshold``. The direction x solves H x = g by conjugate gradient,
    where H is the Fisher matrix plus ``damping`` on its diagonal. The step sqrt(2 kl_threshold /
    x^T H x) x is shortened until it passes the line search. If no step passes, the policy does not
    change.

    The whole batch is one step, so ``epochs`` does not affect the policies, and ``num_minibatches``
    affects only the critic. Ratios are not clipped; ``clip_fraction`` is the share of them whose
    distance from 1 is larger than ``clip``.
    """

    config: HatrpoConfig

    def update_agent(self, view: AgentView) -> dict[str, Tensor]:
        """Takes the step; returns metrics.

        ``loss`` is minus the surrogate of the policy after the update. ``expected_improvement`` is
        the improvement that the gradient predicts for the accepted step, and ``step_kl`` is the
        mean KL(old || new) of this step; both are 0 if no step was accepted. If the surrogate or
        the gradient is not finite, no step is tried, and ``skipped`` is 1.
        """
        cfg, p = self.config, view.index
        old = self.actors.stack.flat[p].clone()
        value, gradient = self.surrogate_gradient(view, old)
        direction, residual = conjugate_gradient(
            lambda v: self.fisher_product(view, old, v) + cfg.damping * v,
            gradient,
            cfg.cg_iterations,
            cfg.cg_tolerance,
        )
        # x^T H x without another product: H x = g - residual.
        bend, length = direction @ (gradient - residual), torch.linalg.vector_norm(gradient)
        surrogate, curvature, norm = torch.stack((value, bend, length)).tolist()
        accepted, expected, trial = False, 0.0, Trial()
        finite = math.isfinite(surrogate + norm)
        if finite and curvature > 0.0 and math.isfinite(curvature):
            step = math.sqrt(2.0 * cfg.kl_threshold / curvature) * direction
            accepted, expected, trial = self.line_search(view, old, step, float(gradient @ step))
        step_stats = {
            "surrogate": surrogate + trial.improvement,
            "bonus": 0.0,
            "entropy_bonus": 0.0,
            "clip_fraction": trial.outside,
            "kl": trial.kl,
            "grad_norm": norm,
        }
        values = {
            "accepted": float(accepted),
            "expected_improvement": expected,
            "step_kl": trial.kl,
        }
        stats, extra = (
            {name: gradient.new_tensor(value) for name, value in named.items()}
            for named in (step_stats, values)
        )
        return {**self.step_metrics(p, [stats]), **extra}

    def surrogate_gradient(self, view: AgentView, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The surrogate mean(ratio * M) at the parameters ``flat`` (K,), and its gradient.

        Returns:
            The surrogate () and its gradient (K,), 0 at padded parameters; float64.
        """
        leaf = flat.clone().requires_grad_()
        net, rows = self.actors.stack.unpack(view.index, leaf), slice(0, len(view.obs))
        gradient = torch.zeros_like(flat, dtype=torch.float64)
        total = gradient.new_zeros(())
        for part in tiles(rows, self.tile):
            mean, std = self.actors.distribution(view.index, view.obs[part], net)
            ratio = torch.exp(log_prob(mean, std, view.action[part]) - view.old_log_prob[part])
            value = (ratio * view.weighted_advantage[part]).sum() / count(rows)
            gradient += torch.autograd.grad(value, leaf, retain_graph=True)[0]
            total += value.detach()
        both = self.ranks.mean(torch.cat((gradient, total[None])))
        return both[-1], both[:-1]

    def fisher_product(self, view: AgentView, flat: Tensor, vector: Tensor) -> Tensor:
        """Product of the policy's Fisher matrix at ``flat`` with a vector.

        The Hessian of mean KL(old || new) at new = old. For a diagonal Gaussian with mean m(s)
        and standard deviation s it is exactly E[J_m^T diag(1 / s^2) J_m] + J_s^T diag(2 / s^2)
        J_s: a forward-mode product with the Jacobians J, then a reverse-mode one, tile by tile.

        Args:
            view: the agent, at whose observations the mean is taken.
            flat: parameters of its policy. (K,)
            vector: float64. (K,)

        Returns:
            The product in float64, 0 at padded parameters. (K,)
        """
        leaf, product = flat.clone().requires_grad_(), torch.zeros_like(vector)
        rows = slice(0, len(view.obs))
        for part in tiles(rows, self.tile):
            with fwd.dual_level():
                dual = fwd.make_dual(leaf, vector.to(flat.dtype))
                net = self.actors.stack.unpack(view.index, dual)
                pair = self.actors.distribution(view.index, view.obs[part], net)
                (mean, mean_dot), (std, std_dot) = (fwd.unpack_dual(x) for x in pair)
            assert mean_dot is not None and std_dot is not None
            precision = std.detach().reciprocal().square() / count(rows)
            weights = (precision * mean_dot, 2.0 * count(part) * precision * std_dot)
            product += torch.autograd.grad((mean, std), leaf, [w.detach() for w in weights])[0]
        return self.ranks.mean(product)

    @torch.no_grad()
    def line_search(
        self, view: AgentView, old: Tensor, step: Tensor, expected: float
    ) -> tuple[bool, float, Trial]:
        """Tries step, ``backtrack`` * step, and so on, and takes the first that is good enough.

        A step is good enough if its KL is below ``kl_threshold`` and its improvement is positive
        and at least ``accept_ratio`` of the expected improvement.

        Args:
            view: the agent.
            old: its parameters. (K,)
            step: the full step. (K,)
            expected: improvement that the gradient predicts for the full step.

        Returns:
            True if a step was taken, the improvement expected of it, and its effect.
        """
        cfg, p = self.config, view.index
        mean, std = self.evaluate(p, view.obs, old)
        share = 1.0
        for _ in range(cfg.line_search_steps):
            new = (old + share * step).to(old.dtype)
            trial = compare(view, (mean, std), self.evaluate(p, view.obs, new), self.ranks)
            enough = trial.improvement >= cfg.accept_ratio * share * expected
            if trial.kl < cfg.kl_threshold and trial.improvement > 0.0 and enough:
                self.actors.stack.flat[p].copy_(new)
                return True, share * expected, trial
            share *= cfg.backtrack
        return False, 0.0, Trial()


def compare(
    view: AgentView, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], ranks: Ranks
) -> Trial:
    """Returns the effect of replacing one policy by another on the batch.

    Args:
        view: the agent, its actions and M.
        old: mean (B, d) and standard deviation (d,) of the old policy.
        new: mean and standard deviation of the policy that replaces it.
        ranks: the processes whose batches count.
    """
    mean, std, new_mean, new_std = (x.double() for x in (*old, *new))
    action, behavior = view.action.double(), view.old_log_prob.double()
    before = torch.exp(log_prob(mean, std, action) - behavior)
    after = torch.exp(log_prob(new_mean, new_std, action) - behavior)
    improvement = ((after - before) * view.weighted_advantage.double()).mean()
    kl = (new_std / std).log() - 0.5
    kl = kl + (std.square() + (mean - new_mean).square()) / (2.0 * new_std.square())
    outside = is_outside(after, view.clip).double().mean()
    return Trial(*ranks.mean(torch.stack((improvement, kl.sum(-1).mean(), outside))).tolist())
