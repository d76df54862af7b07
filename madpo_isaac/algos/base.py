"""The on-policy update all algorithms share; an algorithm overrides its small hooks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from madpo_isaac.algos.batch import AgentView, Batch, Rows, count, normalised, pick
from madpo_isaac.algos.rates import ActorRates
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.algos.steps import Faults
from madpo_isaac.algos.storage import Rollout, gae, spread
from madpo_isaac.env import VecEnv
from madpo_isaac.models import Actors, Critic, Moments, ValueNetworks, ValueNorm
from madpo_isaac.models.actor import Decision, Std, entropy, log_prob
from madpo_isaac.system.device import surely_none
from madpo_isaac.system.distributed import ALONE, Ranks

CPU_TILE = 2**19
"""Rows x widest layer per forward and backward pass on a CPU: gradients of a minibatch are summed
over such tiles, whose activations stay in the cache. The sum is the same."""

ACTOR_TERMS = (
    "the surrogate objective",
    "the divergence bonus",
    "the entropy bonus",
    "the clip fraction",
    "the KL divergence",
    "the gradient",
)
KL = ACTOR_TERMS.index("the KL divergence")

CRITIC_TERMS = ("the value loss", "the gradient")
"""What the columns of the histories of steps are, in messages."""


class OnPolicy:
    """Sequential on-policy update with a centralised critic.

    Where observations are normalised, collection and update use the same moments; the batch is
    taken into them after the update.

    Hooks, in the order in which they are called: :meth:`begin_update`, :meth:`agent_order`,
    :meth:`weighted_advantage`, :meth:`begin_agent`, :meth:`begin_minibatch`, :meth:`regulariser`
    and :meth:`agent_updated`. An algorithm that does not take gradient steps on the clipped
    objective overrides :meth:`update_agent`, one that is not sequential :meth:`update_actors`.

    Args:
        config: hyper-parameters.
        env: gives the agents, widths and device; it is not kept.
        init_generator: CPU generator of the initial weights.
        generator: generator on the device for actions and minibatches.
    """

    shares_parameters = False
    """All agents have one network."""

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
        self.actor_optimisers = self.actors.optimisers(config.actor_lr or 0.0, config.max_grad_norm)
        self.critic_optimiser = self.critic.optimiser(config.critic_lr, config.max_grad_norm)
        self.rates = ActorRates(config, self.actor_optimisers)
        self.entropy_coef = config.entropy_coef
        self.faults = Faults()
        self.ranks = ALONE
        on_cpu = env.device.type == "cpu"
        self.tile = max(256, CPU_TILE // max(config.hidden)) if on_cpu else 2**31

    def join(self, ranks: Ranks) -> None:
        """Trains together with other processes from now on, from the first one's parameters.

        Every process draws actions and minibatches of its own and gets the same parameters, order
        of agents and normalisers: gradients, statistics and decisions are those of all batches.
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
            config.hidden,
            activation=config.activation,
            std=Std(config.init_std, config.max_std, config.std_scale),
            output_gain=config.output_gain,
            generator=generator,
            device=env.device,
            shared=self.shares_parameters,
            normalise=config.running_moments,
            input_norm=config.layer_norm,
            hidden_norm=config.hidden_norm == "layer",
            network=config.network,
        )

    def build_critic(self, env: VecEnv, generator: torch.Generator) -> ValueNetworks:
        """Returns the critic, its weights drawn from ``generator``."""
        config = self.config
        return Critic(
            env.state_dim,
            config.hidden,
            activation=config.activation,
            generator=generator,
            device=env.device,
            view=env.critic_view,
            normalise=config.running_moments,
            input_norm=config.layer_norm,
            hidden_norm=config.hidden_norm == "layer",
            network=config.network,
        )

    def begin_update(self, batch: Batch) -> None:
        """Called once an iteration before the first agent."""

    def agent_order(self) -> Iterable[int]:
        """Returns the order in which agents are updated in this iteration.

        It may be an iterator that decides after each agent.
        """
        indices = range(len(self.agents))
        if self.config.agent_order == "default":
            return list(indices)
        if self.config.agent_order == "spec":
            roles = list(dict.fromkeys(agent.role for agent in self.agents))
            return sorted(indices, key=lambda p: roles.index(self.agents[p].role))
        return torch.randperm(len(self.agents), generator=self.order_generator).tolist()

    def weighted_advantage(self, batch: Batch, preceding_ratio: Tensor) -> Tensor:
        """The M of Eq. 2: what the next agent's ratio is multiplied with. (B,)"""
        return preceding_ratio * batch.advantage

    def begin_agent(self, view: AgentView) -> None:
        """Called before an agent's epochs."""

    def begin_minibatch(self, view: AgentView, rows: Rows) -> None:
        """Called before the gradient of a minibatch with all its rows."""

    def regulariser(self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor) -> Tensor:
        """Returns a bonus summed over ``rows``, added to the objective. ()

        Args:
            view: the agent being updated.
            rows: b rows of the batch.
            mean: its current means there, differentiable. (b, act_dim)
            std: its current standard deviation, differentiable. (act_dim,)
        """
        del view, rows, mean
        return std.new_zeros(())

    def agent_updated(self, view: AgentView, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
        """Called after an agent's epochs with its new policy on the batch; returns metrics."""
        del view, mean, std
        return {}

    # Collection -------------------------------------------------------------------------------

    def freeze(self) -> Callable[[list[Tensor]], Decision]:
        """Returns the current policies as a function from observations to sampled actions."""
        policy = self.actors.freeze()
        return lambda observations: policy.act(observations, self.generator)

    def final_value(self, truncated: Tensor, final_state: Tensor) -> Tensor | None:
        """Normalised values of ``final_state`` (N, S) where ``truncated`` (N,), else 0.

        None where nothing was truncated; on a GPU that is not asked, since it would synchronise.
        """
        if surely_none(truncated):
            return None
        value = self.critic.values(final_state, self.tile)
        return value.masked_fill(~spread(truncated, value), 0.0)

    # Update -----------------------------------------------------------------------------------

    def update(self, rollout: Rollout) -> dict[str, Tensor]:
        """Improves all agents and the critic on one rollout; returns scalar metrics by name."""
        batch = self._prepare(rollout)
        self.begin_update(batch)
        metrics = {**self.update_actors(batch), **self.update_critic(batch)}
        self.actors.update_moments(batch.state, self.ranks)
        self.critic.update_moments(batch.state, self.ranks)
        means = self.ranks.mean(torch.stack([value.double() for value in metrics.values()]))
        return dict(zip(metrics, means, strict=True))

    def update_actors(self, batch: Batch) -> dict[str, Tensor]:
        """Updates one agent after another, each knowing what the preceding ones changed (Eq. 1)."""
        metrics: dict[str, Tensor] = {}
        preceding_ratio = torch.ones_like(batch.advantage)
        for p in self.agent_order():
            view = self._view(batch, p, preceding_ratio)
            self.begin_agent(view)
            stats = {**self.update_agent(view), "preceding_ratio": preceding_ratio.mean()}
            preceding_ratio = preceding_ratio * self.finish_agent(view, stats)
            metrics.update({f"agent{p}/{name}": value for name, value in stats.items()})
        return metrics

    @torch.no_grad()
    def finish_agent(self, view: AgentView, stats: dict[str, Tensor]) -> Tensor:
        """Measures an agent's new policy, adding to ``stats``; returns pi_new / pi_old. (B,)"""
        mean, std = self.evaluate(view.index, view.obs)
        log_ratio = log_prob(mean, std, view.action) - view.old_log_prob
        ratio = log_ratio.exp()
        # E[r - 1 - log r] >= 0, an estimator of KL(old || new) from old samples.
        stats["kl"] = (ratio - 1.0 - log_ratio).mean()
        stats["entropy"] = entropy(std)
        stats.update(self.agent_updated(view, mean, std))
        return ratio

    def _prepare(self, rollout: Rollout) -> Batch:
        """Computes values, advantages and returns, and flattens time and environments."""
        rows = self._valid_rows(rollout)
        value, next_value = self.evaluate_states(rollout, rollout.final_value)
        advantage = self.estimate_advantage(rollout, value, next_value)
        returns = advantage + self.value_norm.denormalise(value)
        return Batch(
            rollout=rollout,
            state=pick(rollout.state, rows),
            action=pick(rollout.action, rows),
            log_prob=pick(rollout.log_prob, rows),
            advantage=normalised(pick(advantage, rows), self.ranks),
            returns=pick(returns, rows),
            value=pick(value, rows),
            next_value=pick(next_value, rows),
            rows=rows,
        )

    def _valid_rows(self, rollout: Rollout) -> Tensor | None:
        """The valid steps (B,), None for all; as many in every process, so that they weigh alike.

        Where worlds went bad in some processes, the others leave out their last steps.
        """
        rows = rollout.valid_rows()
        total = rollout.valid.numel()
        size = self.ranks.least(total if rows is None else len(rows))
        if size == total:
            return None
        return torch.arange(size, device=self.device) if rows is None else rows[:size]

    def evaluate_states(self, rollout: Rollout, final_value: Tensor) -> tuple[Tensor, Tensor]:
        """The critic's present values of a rollout's states, normalised.

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
        return value, torch.where(spread(rollout.truncated, value), final_value, next_value)

    def estimate_advantage(
        self, rollout: Rollout, value: Tensor, next_value: Tensor, trace: Tensor | None = None
    ) -> Tensor:
        """Advantages (T, N) from normalised values (T, N), see :func:`gae`."""
        return gae(
            self.config.reward_scale * rollout.reward,
            self.value_norm.denormalise(value),
            self.value_norm.denormalise(next_value),
            rollout.terminated,
            rollout.truncated,
            self.config.gamma,
            self.config.gae_lambda,
            self.config.time_limit,
            trace,
            rollout.valid,
        )

    def _view(self, batch: Batch, p: int, preceding_ratio: Tensor) -> AgentView:
        agent = self.agents[p]
        return AgentView(
            index=p,
            clip=self.config.clip,
            obs=self.actors.inputs(p, agent.observe(batch.state)),
            action=batch.action[:, agent.action_slice],
            old_log_prob=batch.log_prob[:, p],
            weighted_advantage=self.weighted_advantage(batch, preceding_ratio),
        )

    @torch.no_grad()
    def evaluate(self, p: int, obs: Tensor, flat: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Agent p's policy at obs (B, in_dim), without gradient.

        Args:
            p: the agent.
            obs: see :meth:`madpo_isaac.models.Actors.inputs`.
            flat: its parameters at another time, a copy of row p of ``actors.stack.flat``; None
                for the current ones.

        Returns:
            Mean (B, d) and standard deviation (d,), none of which follows the training.
        """
        net = None if flat is None else self.actors.stack.unpack(p, flat)
        parts = [self.actors.distribution(p, rows, net) for rows in obs.split(self.tile)]
        return torch.cat([mean for mean, _ in parts]), parts[0][1].clone()

    def _minibatches(self, size: int) -> list[Rows]:
        """The minibatches of one epoch; every row appears once."""
        if self.config.num_minibatches == 1:
            return [slice(0, size)]
        order = torch.randperm(size, generator=self.generator, device=self.device)
        return list(order.tensor_split(self.config.num_minibatches))

    def _tiles(self, rows: Rows) -> list[Rows]:
        """A minibatch cut into slices of at most ``tile`` rows."""
        if isinstance(rows, Tensor):
            return list(rows.split(self.tile))
        starts = range(rows.start, rows.stop, self.tile)
        return [slice(start, min(start + self.tile, rows.stop)) for start in starts]

    def update_agent(self, view: AgentView) -> dict[str, Tensor]:
        """Clipped-objective ascent on one agent (Eq. 2); returns means over its minibatches."""
        optimiser = self.actor_optimisers[view.index]
        history: list[Tensor] = []
        for _ in range(self.config.epochs):
            for minibatch in self._minibatches(len(view.obs)):
                self.begin_minibatch(view, minibatch)
                optimiser.zero_grad()
                size = self.ranks.count * count(minibatch)
                tiles = [self._actor_tile(view, rows, size) for rows in self._tiles(minibatch)]
                sums = self.ranks.add_up(optimiser.gradient, torch.stack(tiles).sum(0))
                history.append(torch.cat((sums, optimiser.step(sums.sum())[None])))
            self.rates.follow(view.index, history[-1][KL])
        rate = self.rates.of(view.index).clone()
        return {**self.step_metrics(view.index, history), "lr": rate}

    def step_metrics(self, p: int, history: Sequence[Tensor]) -> dict[str, Tensor]:
        """Metrics of agent p's gradient steps.

        Args:
            p: the agent.
            history: a row per step, its columns being :data:`ACTOR_TERMS`.
        """
        network = f"agent{p} ({self.agents[p].name})"
        means, skipped = self.faults.summary(network, ACTOR_TERMS, history)
        surrogate, bonus, entropy_bonus, outside, _, norm = means
        return {
            "loss": -(surrogate + bonus + entropy_bonus),
            "clip_fraction": outside,
            "grad_norm": norm,
            "skipped": skipped,
        }

    def _actor_tile(self, view: AgentView, rows: Rows, size: int) -> Tensor:
        """Adds the gradient of some rows' share of the loss over ``size`` rows.

        Returns:
            Their shares of the first five of :data:`ACTOR_TERMS`, of which the first three add up
            to minus the loss. (5,)
        """
        clip = view.clip
        mean, std = self.actors.distribution(view.index, view.obs[rows])
        log_ratio = log_prob(mean, std, view.action[rows]) - view.old_log_prob[rows]
        ratio = log_ratio.exp()
        kl = (ratio - 1.0 - log_ratio).detach().sum()
        if view.factor is not None:
            ratio = ratio * view.factor[rows]
        advantage = view.weighted_advantage[rows]
        clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
        objective = torch.min(ratio * advantage, clipped * advantage).sum()
        bonus = self.regulariser(view, rows, mean, std)
        spread_bonus = self._entropy_weight(size) * len(mean) * entropy(std)
        loss = -(objective + bonus + spread_bonus) / size
        loss.backward()
        outside = ((ratio.detach() - 1.0).abs() > clip).sum()
        return torch.stack((objective, bonus, spread_bonus, outside, kl)).detach() / size

    def _entropy_weight(self, size: int) -> float:
        """Coefficient of the mean entropy in a minibatch of ``size`` rows."""
        return self.entropy_coef * (size if self.config.entropy == "sum" else 1)

    def update_critic(self, batch: Batch) -> dict[str, Tensor]:
        """Fits the critic to the returns; returns means over its minibatches."""
        return self.critic_metrics(self.fit_critic(batch, self.config.critic_epochs))

    def critic_metrics(self, history: Sequence[Tensor]) -> dict[str, Tensor]:
        """Metrics of the critic's steps, a row each, the columns being :data:`CRITIC_TERMS`."""
        (loss, norm), skipped = self.faults.summary("critic", CRITIC_TERMS, history)
        return {"critic/loss": loss, "critic/grad_norm": norm, "critic/skipped": skipped}

    def fit_critic(self, batch: Batch, epochs: int) -> list[Tensor]:
        """Takes some epochs' steps on the critic; returns each one's loss and gradient norm."""
        history: list[Tensor] = []
        for _ in range(epochs):
            for minibatch in self._minibatches(len(batch.state)):
                self.value_norm.update(batch.returns[minibatch], self.ranks)
                self.critic_optimiser.zero_grad()
                size = self.ranks.count * count(minibatch)
                tiles = []
                for rows in self._tiles(minibatch):
                    target = self.value_norm.normalise(batch.returns[rows])
                    tiles.append(self._critic_tile(batch, rows, target, size))
                loss = torch.stack(tiles).sum()
                loss = self.ranks.add_up(self.critic_optimiser.gradient, loss)
                history.append(torch.stack((loss, self.critic_optimiser.step(loss))))
        return history

    def _critic_tile(self, batch: Batch, rows: Rows, target: Tensor, size: int) -> Tensor:
        """Adds the gradient of some rows' share of the (clipped) Huber loss over ``size`` rows."""
        cfg = self.config
        value, old = self.critic(batch.state[rows]), batch.value[rows]
        loss = F.huber_loss(value, target, reduction="none", delta=cfg.huber_delta)
        if cfg.value_clip is not None:
            near = old + (value - old).clamp(-cfg.value_clip, cfg.value_clip)
            clipped = F.huber_loss(near, target, reduction="none", delta=cfg.huber_delta)
            loss = torch.max(loss, clipped)
        loss = cfg.value_coef * loss.sum() / size
        (loss / self.critic.sharers).backward()
        return loss.detach() / math.prod(self.critic.value_shape)

    def set_progress(self, done: float, env_steps: int = 0) -> None:
        """Sets learning rates for ``done`` in [0, 1] of the training, after ``env_steps``.

        The critic's decays linearly with the actors', and else stays as it is.
        """
        del env_steps
        self.rates.set_progress(done)
        scale = 1.0 - done if self.config.lr_schedule == "linear" else 1.0
        self.critic_optimiser.lr.fill_(self.config.critic_lr * scale)

    # Resume -----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Returns parameters, moments, normalisers and generators."""
        return {
            "actors": self.actors.stack.flat.clone(),
            "critic": self.critic.stack.flat.clone(),
            "value_norm": self.value_norm.state_dict(),
            "moments": {
                name: [moments.state_dict() for moments in owner.moments]
                for name, owner in self._observers().items()
            },
            "actor_optimisers": [optimiser.state_dict() for optimiser in self.actor_optimisers],
            "critic_optimiser": self.critic_optimiser.state_dict(),
            "actor_rates": self.rates.state_dict(),
            "generator": self.generator.get_state(),
            "order_generator": self.order_generator.get_state(),
        }

    def load_policy(self, state: dict[str, Any]) -> None:
        """Restores the policies only, enough to play."""
        self.actors.stack.flat.copy_(state["actors"])
        self._load_moments(state, "actors")

    def _load_moments(self, state: dict[str, Any], name: str) -> None:
        # Checkpoints had none before observations could be normalised.
        saved = state.get("moments", {}).get(name, [])
        moments = [Moments.load(tensors, self.device) for tensors in saved]
        self._observers()[name].moments = moments

    def _observers(self) -> dict[str, Actors | ValueNetworks]:
        return {"actors": self.actors, "critic": self.critic}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`; ``sigma_on_restore=initial`` resets the policies' std."""
        self.load_policy(state)
        self.critic.stack.flat.copy_(state["critic"])
        self.value_norm.load_state_dict(state["value_norm"])
        self._load_moments(state, "critic")
        if self.config.sigma_on_restore == "initial":
            self.actors.reset_std()
        saved = zip(self.actor_optimisers, state["actor_optimisers"], strict=True)
        for optimiser, moments in saved:
            optimiser.load_state_dict(moments)
        self.critic_optimiser.load_state_dict(state["critic_optimiser"])
        self.rates.load_state_dict(state["actor_rates"])
        self.generator.set_state(state["generator"])
        self.order_generator.set_state(state["order_generator"])
