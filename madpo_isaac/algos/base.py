"""The on-policy update that all algorithms share; each algorithm overrides some hooks of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from madpo_isaac.algos.batch import AgentView, Batch, Rows, normalized, pick, take
from madpo_isaac.algos.objective import clipped_objective, is_outside, kl_estimate, value_loss
from madpo_isaac.algos.rates import ActorRates
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.algos.steps import Faults, Stats, gradient_step, minibatches, shares_of
from madpo_isaac.algos.storage import Rollout, append_dimensions, gae
from madpo_isaac.env import VecEnv
from madpo_isaac.models import Actors, Critic, Moments, ValueNetworks, ValueNorm
from madpo_isaac.models.actor import Decision, Std, entropy, log_prob
from madpo_isaac.models.moments import RowMoments
from madpo_isaac.system.device import known_all_false
from madpo_isaac.system.distributed import ALONE, Ranks

CPU_TILE = 2**19
"""Rows times width of the widest layer in one forward and backward pass on a CPU. The gradient of a
minibatch is the sum over such tiles, whose activations stay in the cache."""


class OnPolicy(ABC):
    """Base of the algorithms: collection, advantages, the critic, and a policy's gradient step.

    If observations are normalized, collection and update use the same moments. The moments take in
    the batch after the update.

    An algorithm defines in :meth:`update_actors` how its policies learn. The hooks are called in
    this order: :meth:`begin_update`, :meth:`begin_agent`, :meth:`begin_minibatch`, :meth:`bonus`
    and :meth:`agent_updated`.

    Args:
        config: hyper-parameters.
        env: environments that tell the agents, widths and device; the object does not keep them.
        init_generator: CPU generator of the initial weights.
        generator: generator on the device for actions and minibatches.
    """

    shares_parameters = False
    """All agents have one network."""
    agent_metrics: tuple[str, ...] = ("preceding_ratio",)
    """Metrics of an agent that not every algorithm has: their columns are null in other runs."""

    def __init__(
        self,
        config: AlgoConfig,
        env: VecEnv,
        init_generator: torch.Generator,
        generator: torch.Generator,
    ) -> None:
        self.config, self.agents, self.device = config, env.agents, env.device
        self.generator = generator
        self.order_generator = torch.Generator().manual_seed(init_generator.initial_seed() + 1)
        self.actors = self.build_actors(env, init_generator)
        self.critic = self.build_critic(env, init_generator)
        self.value_norm = ValueNorm(env.device)
        self.actor_optimizers = self.actors.optimizers(
            config.actor_lr or 0.0, config.max_grad_norm, config.actor_beta1
        )
        self.critic_optimizer = self.critic.optimizer(config.critic_lr, config.max_grad_norm)
        self.rates = ActorRates(config, self.actor_optimizers, len(env.agents))
        self.entropy_coef = config.entropy_coef
        self.critic_only = False
        """True while ``critic_warmup`` lasts."""
        self.faults = Faults()
        self.ranks = ALONE
        on_cpu = env.device.type == "cpu"
        self.tile = max(256, CPU_TILE // max(config.hidden)) if on_cpu else 2**31

    def join(self, ranks: Ranks) -> None:
        """Trains together with other processes from now on, with the first process's parameters.

        Every process draws its own actions and minibatches. Gradients, statistics and decisions
        use the batches of all processes, so that all have the same parameters, order of agents and
        normalizers.
        """
        own = self.generator.get_state()
        self.load_state_dict(ranks.broadcast(self.state_dict()))
        self.generator.set_state(own)
        self.ranks = ranks

    # Hooks ------------------------------------------------------------------------------------

    def build_actors(self, env: VecEnv, generator: torch.Generator) -> Actors:
        """Returns untrained policies, their weights drawn from ``generator``."""
        config = self.config
        return Actors(
            env.agents,
            config.networks(generator, env.device),
            std=Std(config.init_std, config.max_std, config.std_scale),
            output_gain=config.output_gain,
            shared=self.shares_parameters,
            normalize=config.running_moments,
            value_head=config.value_aux_coef > 0.0,
        )

    def build_critic(self, env: VecEnv, generator: torch.Generator) -> ValueNetworks:
        """Returns the critic, its weights drawn from ``generator``."""
        return Critic(
            env.state_dim,
            self.config.networks(generator, env.device),
            view=env.critic_view,
            normalize=self.config.running_moments,
        )

    def begin_update(self, batch: Batch) -> None:  # noqa: B027  a hook that may do nothing
        """Is called once per iteration, before the first agent."""

    @abstractmethod
    def update_actors(self, batch: Batch) -> dict[str, Tensor]:
        """Improves all policies on a batch; returns metrics by name."""

    def begin_agent(self, view: AgentView) -> None:  # noqa: B027
        """Is called before an agent's epochs."""

    def begin_minibatch(self, view: AgentView, rows: Rows) -> None:  # noqa: B027
        """Is called before the gradient of a minibatch, with all rows of it."""

    def bonus(self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor) -> Tensor:
        """Returns a bonus that is added to the objective, as its sum over ``rows``. ()

        Args:
            view: the agent being updated.
            rows: b rows of the batch.
            mean: its current means there, differentiable. (b, act_dim)
            std: its current standard deviation, differentiable. (act_dim,)
        """
        del view, rows, mean
        return std.new_zeros(())

    def agent_updated(self, view: AgentView, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
        """Is called after an agent's epochs with its new policy on the batch; returns metrics."""
        del view, mean, std
        return {}

    # Collection -------------------------------------------------------------------------------

    def freeze(self) -> Callable[[list[Tensor]], Decision]:
        """Returns the current policies as a function from observations to sampled actions."""
        policy = self.actors.freeze()
        return lambda observations: policy.act(observations, self.generator)

    def final_value(self, truncated: Tensor, final_state: Tensor) -> Tensor | None:
        """Normalized values of ``final_state`` (N, S) where ``truncated`` (N,), else 0.

        None where nothing was truncated. A GPU is not asked for the rows, since it would
        synchronize: there all are evaluated.
        """
        if known_all_false(truncated):
            return None
        if truncated.is_cpu:
            value = final_state.new_zeros(len(truncated), *self.critic.value_shape)
            value[truncated] = self.critic.values(final_state[truncated], self.tile)
            return value
        value = self.critic.values(final_state, self.tile)
        return value.masked_fill(~append_dimensions(truncated, value), 0.0)

    # Update -----------------------------------------------------------------------------------

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Improves all agents and the critic on one rollout; returns scalar metrics by name."""
        batch = self._prepare(rollout)
        if self.critic_only:
            history = self.fit_critic(batch, self.config.critic_epochs)
            metrics = {**self._unmoved(batch), **self.critic_metrics(history)}
        else:
            self.begin_update(batch)
            metrics = {**self.update_actors(batch), **self.update_critic(batch)}
        if self.config.running_moments:
            moments = RowMoments.of(batch.state, self.ranks)
            if not self.critic_only:
                self.actors.update_moments(batch.state, moments, self.ranks)
            self.critic.update_moments(batch.state, moments, self.ranks)
        means = self.ranks.mean(torch.stack([value.double() for value in metrics.values()]))
        metrics = dict(zip(metrics, means, strict=True))
        if not self.critic_only:
            self.rates.follow_update(metrics)
        return metrics

    def _unmoved(self, batch: Batch) -> dict[str, Tensor]:
        """The metrics of policies that were not updated; NaN for those of gradient steps."""
        zero, metrics = batch.advantage.new_zeros(()), {}
        steps = ["loss", "clip_fraction", "grad_norm", *["value_aux_loss"] * self.actors.heads]
        for p, agent in enumerate(self.agents):
            _, std = self.evaluate(p, self.actors.inputs(p, agent.observe(batch.state[:1])))
            own = dict.fromkeys(steps, zero + math.nan) | dict.fromkeys(("skipped", "kl"), zero)
            own |= {"lr": self.rates.of(p).clone()} if self.config.actor_lr else {}
            own["entropy"] = entropy(std)
            metrics |= {f"agent{p}/{name}": value for name, value in own.items()}
        return metrics

    @torch.no_grad()
    def finish_agent(self, view: AgentView, stats: dict[str, Tensor]) -> Tensor:
        """Measures an agent's new policy, adding to ``stats``; returns pi_new / pi_old. (B,)"""
        mean, std = self.evaluate(view.index, view.obs)
        log_ratio = log_prob(mean, std, view.action) - view.old_log_prob
        ratio = log_ratio.exp()
        stats["kl"] = kl_estimate(ratio, log_ratio).mean()
        stats["entropy"] = entropy(std)
        stats.update(self.agent_updated(view, mean, std))
        return ratio

    def _prepare(self, rollout: Rollout) -> Batch:
        """Computes values, advantages and returns, and flattens time and environments."""
        rows = self._valid_rows(rollout)
        value, next_value = self.evaluate_states(rollout, rollout.final_value)
        advantage = self.estimate_advantage(rollout, value, next_value)
        returns = advantage + self.value_norm.denormalize(value)
        return Batch(
            rollout=rollout,
            state=pick(rollout.state, rows),
            action=pick(rollout.action, rows),
            log_prob=pick(rollout.log_prob, rows),
            advantage=normalized(pick(advantage, rows), self.ranks),
            returns=pick(returns, rows),
            value=pick(value, rows),
            rows=rows,
        )

    def _valid_rows(self, rollout: Rollout) -> Tensor | None:
        """The valid steps (B,), None for all; as many in every process, so that they weigh alike.

        Where steps of some processes are invalid, the others leave out their last steps.
        """
        rows = rollout.valid_rows()
        total = rollout.valid.numel()
        size = self.ranks.least(total if rows is None else len(rows))
        if size == total:
            return None
        return torch.arange(size, device=self.device) if rows is None else rows[:size]

    def evaluate_states(self, rollout: Rollout, final_value: Tensor) -> tuple[Tensor, Tensor]:
        """The critic's present values of a rollout's states, normalized.

        Args:
            rollout: T steps of N environments.
            final_value: values of the states that truncated steps led to. (T, N)

        Returns:
            Values of the states the actions were chosen in, and of those they led to. (T, N) each
        """
        value = self.critic.values(rollout.state.flatten(0, 1), self.tile)
        value = value.unflatten(0, rollout.reward.shape)
        last = self.critic.values(rollout.last_state, self.tile)
        next_value = torch.cat((value[1:], last[None]))
        return value, torch.where(
            append_dimensions(rollout.truncated, value), final_value, next_value
        )

    def estimate_advantage(
        self, rollout: Rollout, value: Tensor, next_value: Tensor, trace: Tensor | None = None
    ) -> Tensor:
        """Advantages (T, N) from normalized values (T, N), see :func:`gae`."""
        return gae(
            self.config.reward_scale * rollout.reward,
            self.value_norm.denormalize(value),
            self.value_norm.denormalize(next_value),
            rollout.terminated,
            rollout.truncated,
            self.config.gamma,
            self.config.gae_lambda,
            self.config.time_limit,
            trace,
            rollout.valid,
        )

    def view(self, batch: Batch, p: int, weighted_advantage: Tensor) -> AgentView:
        """Returns agent p's part of a batch, to learn from with the factor M (B,)."""
        agent = self.agents[p]
        return AgentView(
            index=p,
            clip=self.config.clip,
            obs=self.actors.inputs(p, agent.observe(batch.state)),
            action=batch.action[:, agent.action_slice],
            old_log_prob=batch.log_prob[:, p],
            weighted_advantage=weighted_advantage,
            value_target=self.value_target(batch, p) if self.actors.heads else None,
        )

    def value_target(self, batch: Batch, p: int) -> Tensor:
        """The returns that agent p's network learns to predict, normalized. (B,)"""
        returns = batch.returns if batch.returns.dim() == 1 else batch.returns[:, p]
        return self.value_norm.normalize(returns)

    @torch.no_grad()
    def evaluate(self, p: int, obs: Tensor, flat: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Agent p's policy at obs (B, in_dim), without gradient.

        Args:
            p: the agent.
            obs: see :meth:`madpo_isaac.models.Actors.inputs`.
            flat: its parameters at another time, a copy of row p of ``actors.stack.flat``; None
                for the current ones.

        Returns:
            Mean (B, d) and standard deviation (d,), which later steps do not change.
        """
        net = None if flat is None else self.actors.stack.unpack(p, flat)
        parts = [self.actors.distribution(p, rows, net) for rows in obs.split(self.tile)]
        return torch.cat([mean for mean, _ in parts]), parts[0][1].clone()

    def minibatches(self, size: int) -> list[Rows]:
        """The minibatches of one epoch; every row appears once."""
        return minibatches(size, self.config.num_minibatches, self.generator, self.device)

    def policy_step(self, views: Sequence[AgentView], minibatch: Rows) -> list[Stats]:
        """Takes a step on the policies of some agents, or of all; returns each one's statistics."""
        for view in views:
            self.begin_minibatch(view, minibatch)
        optimizers, gradient = self.actor_optimizers, self.actors.stack.grad
        if len(views) == 1 and len(optimizers) > 1:
            optimizers = [optimizers[views[0].index]]
            gradient = optimizers[0].gradient
        losses = [partial(self.policy_loss, view) for view in views]
        return gradient_step(optimizers, gradient, losses, minibatch, self.tile, self.ranks)

    def step_metrics(self, p: int, history: Sequence[Stats]) -> dict[str, Tensor]:
        """Metrics of agent p's steps, whose statistics are those of :meth:`policy_step`."""
        name = f"agent{p} ({self.agents[p].name})"
        means, skipped = self.faults.summary(name, history)
        return {
            "loss": -(means["surrogate"] + means["bonus"] + means["entropy_bonus"]),
            "clip_fraction": means["clip_fraction"],
            **{name: means[name] for name in ("value_aux_loss",) if name in means},
            "grad_norm": means["grad_norm"],
            "skipped": skipped,
        }

    def policy_loss(self, view: AgentView, rows: Rows, size: int) -> tuple[Tensor, Stats]:
        """Some rows' share of an agent's loss in a minibatch of ``size`` rows, see ``Share``."""
        mean, std, value = self.actors.outputs(view.index, take(view.obs, rows))
        log_ratio = self.log_ratio(view, rows, mean, std)
        ratio = log_ratio.exp()
        kl = kl_estimate(ratio.detach(), log_ratio.detach()).sum()
        ratio, surrogate = self.surrogate(view, rows, ratio)
        bonus = self.bonus(view, rows, mean, std)
        entropy_bonus = self._entropy_weight(size) * len(mean) * entropy(std)
        stats = shares_of(
            size,
            surrogate=surrogate,
            bonus=bonus,
            entropy_bonus=entropy_bonus,
            clip_fraction=is_outside(ratio.detach(), view.clip).sum(),
            kl=kl,
        )
        loss = -(surrogate + bonus + entropy_bonus) / size
        if value is not None and view.value_target is not None:
            error = F.smooth_l1_loss(value, take(view.value_target, rows), reduction="sum")
            loss = loss + self.config.value_aux_coef * error / size
            stats["value_aux_loss"] = error.detach() / size
        return loss, stats

    def log_ratio(self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor) -> Tensor:
        """Log of pi_new / pi_old of an agent's actions at b rows, for its present policy. (b,)"""
        return log_prob(mean, std, take(view.action, rows)) - take(view.old_log_prob, rows)

    def surrogate(self, view: AgentView, rows: Rows, ratio: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the ratio that is clipped (b,), and the sum of the clipped objective. ()

        ``ratio`` is pi_new / pi_old at the rows; some algorithms multiply it by a factor. (b,)
        """
        if view.factor is not None:
            ratio = ratio * take(view.factor, rows)
        weighted_advantage = take(view.weighted_advantage, rows)
        return ratio, clipped_objective(ratio, weighted_advantage, view.clip).sum()

    def _entropy_weight(self, size: int) -> float:
        """Coefficient of the mean entropy in a minibatch of ``size`` rows."""
        return self.entropy_coef * (size if self.config.entropy == "sum" else 1)

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Fits the critic to the returns; returns means over its minibatches."""
        return self.critic_metrics(self.fit_critic(batch, self.config.critic_epochs))

    def critic_metrics(self, history: Sequence[Stats]) -> dict[str, Tensor]:
        """Metrics of the critic's steps, whose statistics are those of :meth:`fit_critic`."""
        means, skipped = self.faults.summary("critic", history)
        return {
            "critic/loss": means["value_loss"],
            "critic/grad_norm": means["grad_norm"],
            "critic/skipped": skipped,
        }

    def fit_critic(self, batch: Batch, epochs: int) -> list[Stats]:
        """Takes some epochs' steps on the critic; returns each one's statistics."""
        history: list[Stats] = []
        inputs = self.critic.inputs(batch.state)
        optimizer, loss = self.critic_optimizer, partial(self.critic_loss, batch, inputs)
        for _ in range(epochs):
            for minibatch in self.minibatches(len(batch.state)):
                self.value_norm.update(take(batch.returns, minibatch), self.ranks)
                history += gradient_step(
                    [optimizer], optimizer.gradient, [loss], minibatch, self.tile, self.ranks
                )
        return history

    def critic_loss(
        self, batch: Batch, inputs: Sequence[Tensor], rows: Rows, size: int
    ) -> tuple[Tensor, Stats]:
        """Some rows' share of the critic's loss in a minibatch of ``size`` rows, see ``Share``.

        ``inputs`` are the inputs of the critic's networks for the whole batch.
        """
        cfg, target = self.config, self.value_norm.normalize(take(batch.returns, rows))
        value = self.critic.evaluate([take(x, rows) for x in inputs])
        old = take(batch.value, rows)
        loss = value_loss(value, target, old, cfg.value_clip, cfg.huber_delta)
        loss = cfg.value_coef * loss.sum() / size
        stats = {"value_loss": loss.detach() / math.prod(self.critic.value_shape)}
        return loss / self.critic.num_sharing, stats

    def set_progress(self, done: float, env_steps: int = 0) -> None:
        """Sets learning rates for ``done`` in [0, 1] of the training, after ``env_steps``.

        The critic's decays linearly with the actors', and else stays as it is.
        """
        self.critic_only = env_steps < self.config.critic_warmup
        self.rates.set_progress(done)
        scale = 1.0 - done if self.config.lr_schedule == "linear" else 1.0
        self.critic_optimizer.lr.fill_(self.config.critic_lr * scale)

    # Resume -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Returns parameters, moments, normalizers and generators."""
        return {
            "actors": self.actors.stack.flat.clone(),
            "critic": self.critic.stack.flat.clone(),
            "value_norm": self.value_norm.state_dict(),
            "moments": {
                name: [moments.state_dict() for moments in owner.moments]
                for name, owner in self._observers().items()
            },
            # The spelling of keys is the checkpoint format's.
            "actor_optimisers": [optimizer.state_dict() for optimizer in self.actor_optimizers],
            "critic_optimiser": self.critic_optimizer.state_dict(),
            "actor_rates": self.rates.state_dict(),
            "generator": self.generator.get_state(),
            "order_generator": self.order_generator.get_state(),
        }

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restores the policies only, enough to play."""
        self.actors.stack.flat.copy_(state["actors"])
        self._load_moments(state, "actors")

    def begin_with_policy(self, state: dict[str, Any]) -> None:
        """Restores the policies only, to train them; adaptive rates, new as they are, begin low."""
        self._restore_policy(state)
        self.rates.begin_low()

    def _restore_policy(self, state: dict[str, Any]) -> None:
        self.load_policy(state)
        if self.config.std_on_restore == "initial":
            self.actors.reset_std()

    def _load_moments(self, state: dict[str, Any], name: str) -> None:
        # Checkpoints had none before observations could be normalized.
        saved = state.get("moments", {}).get(name, [])
        moments = [Moments.load(tensors, self.device) for tensors in saved]
        self._observers()[name].moments = moments

    def _observers(self) -> dict[str, Actors | ValueNetworks]:
        return {"actors": self.actors, "critic": self.critic}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`; ``std_on_restore=initial`` resets the policies' std."""
        self._restore_policy(state)
        self.critic.stack.flat.copy_(state["critic"])
        self.value_norm.load_state_dict(state["value_norm"])
        self._load_moments(state, "critic")
        saved = zip(self.actor_optimizers, state["actor_optimisers"], strict=True)
        for optimizer, moments in saved:
            optimizer.load_state_dict(moments)
        self.critic_optimizer.load_state_dict(state["critic_optimiser"])
        self.rates.load_state_dict(state["actor_rates"])
        self.generator.set_state(state["generator"])
        self.order_generator.set_state(state["order_generator"])
