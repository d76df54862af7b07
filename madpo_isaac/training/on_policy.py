"""Collection and update of the project's own algorithms."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Any

import torch

from madpo_isaac.algos import ALGORITHMS
from madpo_isaac.algos.learner import Collected, Learner, OnStep, check_finite
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.algos.storage import Rollout
from madpo_isaac.config.resume import difference
from madpo_isaac.env import Policy, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.system import device
from madpo_isaac.system.distributed import ALONE, Ranks


class OnPolicyLearner(Learner):
    """One of :data:`ALGORITHMS` with the rollout that it learns from.

    Args:
        config: hyper-parameters.
        env: environments in which it acts.
        seeds: seeds of the initial weights and of the actions.
        ranks: the processes that train together.
    """

    def __init__(
        self, config: AlgoConfig, env: VecEnv, seeds: tuple[int, int], ranks: Ranks = ALONE
    ) -> None:
        init_seed, act_seed = seeds
        self.config, self.env, self.agents, self.clip = config, env, env.agents, config.clip
        self.algo = ALGORITHMS[config.name](
            config,
            env,
            torch.Generator().manual_seed(init_seed),
            torch.Generator(env.device).manual_seed(act_seed),
        )
        self.algo.join(ranks)
        self.faults = self.algo.faults

    @functools.cached_property
    def rollout(self) -> Rollout:
        """The last rollout; it is made when it is needed, since a player needs none."""
        return Rollout.allocate(self.env, self.config.horizon, self.algo.critic.value_shape)

    @torch.no_grad()
    def collect(self, state: torch.Tensor, on_step: OnStep) -> Collected:
        """See :meth:`Learner.collect`."""
        env, algo, rollout = self.env, self.algo, self.rollout
        step_s = 0.0
        with device.single_threaded():
            policy = algo.freeze()
            rollout.final_value.zero_()
            for t in range(self.config.horizon):
                decision = policy(env.observations(state))
                rollout.state[t] = state  # before the step, which may write into the same tensor
                rollout.action[t] = decision.action
                rollout.log_prob[t] = decision.log_prob
                before = time.perf_counter()
                step = env.step(decision.action)
                step_s += time.perf_counter() - before
                on_step(decision.action, step)  # which checks the first step
                rollout.reward[t] = step.learned_reward
                rollout.terminated[t] = step.terminated
                rollout.truncated[t] = step.truncated
                rollout.valid[t] = ~step.diverged
                final_value = algo.final_value(step.truncated, step.final_state)
                if final_value is not None:
                    rollout.final_value[t] = final_value
                state = step.state
            rollout.last_state.copy_(state)
        return Collected(state, step_s)

    def update(self, done: float, env_steps: int, *, all_valid: bool) -> dict[str, torch.Tensor]:
        """See :meth:`Learner.update`."""
        self.algo.set_progress(done, env_steps)
        self.rollout.all_valid = all_valid
        return self.algo.update(self.rollout)

    def policy(self, generator: torch.Generator | None = None) -> Policy:
        """See :meth:`Learner.policy`."""
        policy, observations = self.algo.actors.freeze(), self.env.observations
        if generator is None:
            return lambda state: policy.distribution(observations(state))[0]
        return lambda state: policy.act(observations(state), generator).action

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`Learner.state_dict`."""
        return {"algo_state": self.algo.state_dict()}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """See :meth:`Learner.load_state_dict`."""
        self.algo.load_state_dict(content["algo_state"])

    def load_policy(self, content: dict[str, Any]) -> None:
        """See :meth:`Learner.load_policy`."""
        self.algo.load_policy(content["algo_state"])

    def begin_with_policy(self, content: dict[str, Any]) -> None:
        """See :meth:`Learner.begin_with_policy`."""
        self.algo.begin_with_policy(content["algo_state"])

    def check(self, path: Path, content: dict[str, Any], *, playing: bool) -> None:
        """See :meth:`Learner.check`."""
        state = content["algo_state"]
        networks = {"actors": self.algo.actors.stack}
        if not playing:
            networks["critic"] = self.algo.critic.stack
        for name, stack in networks.items():
            values = state[name]
            found, wanted = tuple(values.shape), tuple(stack.flat.shape)
            if found != wanted:
                raise UserError(
                    f"Checkpoint '{path}' has other {name} (parameters {found}, here {wanted}): "
                    "use the task.agents and algo.hidden it was trained with."
                )
            if not values.is_floating_point():
                raise UserError(
                    f"Checkpoint '{path}' has {name} that are no floating-point numbers."
                )
        saved = state.get("moments", {}).get("actors", [])
        if bool(saved) != self.config.running_moments:
            raise UserError(
                f"Checkpoint '{path}' was trained {'with' if saved else 'without'} running "
                f"moments, not with algo.input_norm={self.config.input_norm}."
            )
        moments = [each.state_dict() for each in self.algo.actors.moments]
        if other := difference({"moments": {"actors": moments}}, state):
            raise UserError(f"Checkpoint '{path}' lacks {other}, or has it in another size.")
        acting = {"actors": state["actors"], "moments/actors": saved}
        for name, part in (acting if playing else state).items():
            check_finite(path, name, part)

    def draws(self) -> dict[str, Any]:
        """See :meth:`Learner.draws`."""
        return {"generator": self.algo.generator.get_state()}

    def load_draws(self, content: dict[str, Any]) -> None:
        """See :meth:`Learner.draws`."""
        self.algo.generator.set_state(content["generator"])
