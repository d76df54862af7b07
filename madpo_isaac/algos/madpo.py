"""MADPO (Dou et al., NeurIPS 2024): HAPPO plus a mutual policy divergence bonus."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.algos.batch import AgentView, Batch, Rows, take
from madpo_isaac.algos.comparison import Comparison, FixedPolicy, GaussianComparison
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.algos.kernels import OfficialComparison, PrintedComparison, YuComparison
from madpo_isaac.algos.registry import register_algorithm
from madpo_isaac.algos.settings import AlgoConfig, RunSettings
from madpo_isaac.algos.steps import tiles
from madpo_isaac.algos.storage import Rollout
from madpo_isaac.divergence.presets import PRESETS, DivergenceConfig, fill_from_preset
from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.models.actor import entropy
from madpo_isaac.system.precision import network_products

COMPARISONS: dict[str, type[Comparison]] = {
    "gaussian": GaussianComparison,
    "yu": YuComparison,
    "printed": PrintedComparison,
    "official": OfficialComparison,
}
"""The measure of the divergence for a preset's estimator."""


@dataclass
class MadpoConfig(AlgoConfig):
    """HAPPO's hyper-parameters and the divergence."""

    recipe_keys = ("lam", "sigma", "coef", "decay_steps")
    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)

    def take(self, recipe: Callable[[str], Any]) -> None:
        """Fills in the numbers that the divergence's preset takes from the recipe."""
        self.divergence = fill_from_preset(self.divergence, *map(recipe, self.recipe_keys))

    def check(self, run: RunSettings) -> None:
        """See :meth:`AlgoConfig.check`."""
        super().check(run)
        self.divergence.check(run.num_envs * self.horizon // self.num_minibatches)
        if run.multi_gpu and self.divergence.preset != "gaussian":
            raise UserError(
                f"multi_gpu=True works with algo.divergence.preset=gaussian only, not with "
                f"{self.divergence.preset}: a kernel estimator is not a sum over processes."
            )


@register_algorithm("madpo", MadpoConfig)
class MADPO(HAPPO):
    """Adds coef * [lam D(pi_i || updated predecessor) + (1 - lam) D(pi_i || previous pi_i)].

    See Eq. 3 and 10. The predecessor is the agent that was updated just before in this iteration;
    the first agent has none. "Previous" is the policy before the previous iteration's update, or
    with ``age`` before that of an earlier iteration. (If it were the behavior policy, the gradient
    would vanish in the first epoch.) The preset ``official`` compares with other policies, as the
    released code does.
    """

    config: MadpoConfig
    agent_metrics = ("preceding_ratio", "divergence_intra", "divergence_inter")

    def __init__(
        self,
        config: AlgoConfig,
        env: VecEnv,
        init_generator: torch.Generator,
        generator: torch.Generator,
    ) -> None:
        super().__init__(config, env, init_generator, generator)
        self.divergence = div = fill_from_preset(self.config.divergence)
        self.preset = PRESETS[div.preset]
        assert div.coef is not None
        assert div.lam is not None
        self._full_coef = self.coef = div.coef
        self._left = 1.0
        """Share of the coefficient that its decay has left."""
        self.inter_weight = 1.0 - div.lam if self.preset.swap else div.lam
        if not self.preset.keep_entropy and div.kind != "none":
            self.entropy_coef = 0.0
        self._recent = self.actors.stack.flat.repeat(div.age, 1, 1)
        """Policies that collected the last ``age`` rollouts, oldest first. (age, P, n)"""
        self._previous = self.actors.stack.flat.clone()
        self._steered: Tensor | None = None
        """The present agent's coefficient, if its gradient is steered. ()"""
        self._reference: FixedPolicy | None = None
        self._predecessor: FixedPolicy | None = None
        seed = init_generator.initial_seed() + 3
        self.comparison = COMPARISONS[self.preset.estimator](env.agents, div, seed, env.device)
        if not self.comparison.is_sum_over_rows:
            self.tile = 2**31
        if self.preset.previous == "minibatch":
            other = torch.Generator().manual_seed(init_generator.initial_seed() + 2)
            self._previous = self.build_actors(env, other).stack.flat

    @property
    def _compares(self) -> bool:
        return self.divergence.kind in ("cs", "kl")

    def set_progress(self, done: float, env_steps: int = 0) -> None:
        """Sets learning rates, and the coefficient of the bonus, if they decay."""
        super().set_progress(done, env_steps)
        decay = self.divergence.decay_steps
        self._left = max(0.0, 1.0 - env_steps / decay) if decay else 1.0
        self.coef = self._full_coef * self._left

    def begin_update(self, batch: Batch) -> None:
        """Makes the policies of ``age`` iterations ago the previous ones; keeps this batch's."""
        if self.preset.previous == "iteration":
            self._previous.copy_(self._recent[0])
            self._recent = torch.cat((self._recent[1:], self.actors.stack.flat[None]))
        self._predecessor = None
        if self._compares:
            self.comparison.begin(batch)

    def begin_agent(self, view: AgentView) -> None:
        """Evaluates the policies to compare with on the batch, once for all epochs."""
        self._steered = None
        if not self._compares:
            return
        if self.preset.previous == "iteration":
            self._reference = self._fixed(view, self._previous[view.index])
        if self.preset.predecessor == "index":
            self._predecessor = None
            if view.index > 0:
                batch = self.comparison.batch
                other = self.view(batch, view.index - 1, batch.advantage)
                self._predecessor = self._fixed(other)

    def begin_minibatch(self, view: AgentView, rows: Rows) -> None:
        """Updates the reference, if it is the policy of one gradient step ago."""
        if self.divergence.share is not None and self._steered is None:
            self._steered = self._coefficient_of_share(view, rows, self.divergence.share)
        if self._compares and self.preset.previous == "minibatch":
            self._reference = self._fixed(view, self._previous[view.index])
            self._previous[view.index].copy_(self.actors.stack.flat[view.index])

    def bonus(self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor) -> Tensor:
        """The divergence bonus of Eq. 10, summed over ``rows``. ()"""
        if self.divergence.kind == "none" or self.divergence.as_reward:
            return super().bonus(view, rows, mean, std)
        return self._coefficient(view) * self._measure(view, rows, mean, std)

    def estimate_advantage(
        self, rollout: Rollout, value: Tensor, next_value: Tensor, trace: Tensor | None = None
    ) -> Tensor:
        """See :meth:`OnPolicy.estimate_advantage`; with ``as_reward`` rewards include the bonus."""
        if self.divergence.as_reward and self._compares:
            rollout = dataclasses.replace(rollout, reward=self._reward(rollout))
        return super().estimate_advantage(rollout, value, next_value, trace)

    def agent_updated(self, view: AgentView, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
        """Reports both divergences of the updated policy, which becomes the next predecessor."""
        if not self._compares:
            return {}
        intra, inter = self._divergences(view, slice(0, len(mean)), mean, std)
        self._predecessor = FixedPolicy(view, mean, std)
        return {
            "divergence_intra": intra / len(mean),
            "divergence_inter": inter / len(mean),
        }

    def _measure(self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor) -> Tensor:
        """The bonus without its coefficient, summed over ``rows``. ()"""
        if self.divergence.kind == "entropy":
            return len(mean) * entropy(std)
        intra, inter = self._divergences(view, rows, mean, std)
        return self.inter_weight * inter + (1.0 - self.inter_weight) * intra

    def _coefficient(self, view: AgentView) -> Tensor | float:
        """The present coefficient of an agent's bonus. ()"""
        coef = self.coef if self._steered is None else self._steered
        if self.divergence.follow_lr:
            return coef * self.rates.of(view.index) / (self.config.actor_lr or 1.0)
        return coef

    def _coefficient_of_share(self, view: AgentView, rows: Rows, share: float) -> Tensor:
        """The coefficient at which the bonus's gradient has a share of the objective's. ()"""
        optimizer = self.actor_optimizers[view.index]

        def norm(term: Callable[[Rows, Tensor, Tensor], Tensor]) -> Tensor:
            optimizer.zero_grad()
            for part in tiles(rows, self.tile):
                mean, std = self.actors.distribution(view.index, take(view.obs, part))
                value = term(part, mean, std)
                with network_products():
                    value.backward()
            self.ranks.add_up(optimizer.gradient, optimizer.gradient.new_zeros(1))
            return torch.linalg.vector_norm(optimizer.gradient)

        def objective(part: Rows, mean: Tensor, std: Tensor) -> Tensor:
            return self.surrogate(view, part, self.log_ratio(view, part, mean, std).exp())[1]

        # A bonus without a gradient gets the largest coefficient, which changes nothing.
        coefficient = share * norm(objective) / norm(partial(self._measure, view))
        return self._left * coefficient.nan_to_num(0.0).clamp(max=self._full_coef)

    def _reward(self, rollout: Rollout) -> Tensor:
        """A rollout's rewards with the bonus of the policies that collected it. (T, N)"""
        assert isinstance(self.comparison, GaussianComparison)
        state, total = rollout.state.flatten(0, 1), rollout.reward.new_zeros(())
        predecessor = None
        for p, agent in enumerate(self.agents):
            obs = self.actors.inputs(p, agent.observe(state))
            policy = self.evaluate(p, obs)
            change = self.comparison.change(*policy, *self.evaluate(p, obs, self._recent[0, p]))
            total = total + (1.0 - self.inter_weight) * change
            columns = self.comparison.columns(p, p - 1) if p else None
            if predecessor is not None and columns is not None:
                distance = self.comparison.distance(columns, policy, predecessor)
                total = total + self.inter_weight * distance
            predecessor = policy
        unit = (1.0 - self.config.gamma) * self.value_norm.mean_std()[1] / self.config.reward_scale
        bonus = self.coef * unit * total / len(self.agents)
        return rollout.reward + bonus.view_as(rollout.reward)

    def _fixed(self, view: AgentView, flat: Tensor | None = None) -> FixedPolicy:
        """The agent's policy with the parameters ``flat``, or its current ones, on the batch."""
        return FixedPolicy(view, *self.evaluate(view.index, view.obs, flat))

    def _divergences(
        self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Intra- and inter-agent divergence summed over ``rows``."""
        assert self._reference is not None
        intra = self.comparison.intra(view, rows, mean, std, self._reference)
        if self._predecessor is None:
            return intra, torch.zeros_like(intra)
        return intra, self.comparison.inter(view, rows, mean, std, self._predecessor)

    def state_dict(self) -> dict[str, Any]:
        """Adds the earlier policies and the comparison's own state."""
        return {
            **super().state_dict(),
            "behaviour": self._recent.clone(),
            "previous": self._previous.clone(),
            "comparison": self.comparison.state_dict(),
        }

    def begin_with_policy(self, state: dict[str, Any]) -> None:
        """Restores the policies, which are then the earlier ones, too."""
        super().begin_with_policy(state)
        self._recent.copy_(self.actors.stack.flat)
        if self.preset.previous == "iteration":
            self._previous.copy_(self.actors.stack.flat)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        super().load_state_dict(state)
        self._recent.copy_(state["behaviour"])
        self._previous.copy_(state["previous"])
        self.comparison.load_state_dict(state["comparison"])
