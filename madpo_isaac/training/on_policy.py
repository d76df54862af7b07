"""The run of our own algorithms: collection and update on this project's learner."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from madpo_isaac.algos import ALGORITHMS, OnPolicy
from madpo_isaac.algos.storage import Rollout
from madpo_isaac.env import AgentSpec
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.evaluate import Act
from madpo_isaac.system import device
from madpo_isaac.training.runner import Learnt, Runner


class OnPolicyRunner(Runner):
    """A run whose learner is one of :data:`ALGORITHMS`."""

    algo: OnPolicy

    @property
    def agents(self) -> Sequence[AgentSpec]:
        """Who learns a policy."""
        return self.env.agents

    def _make_learner(self, init_seed: int, act_seed: int) -> None:
        """Makes networks, optimisers and buffers."""
        cfg = self.config
        self.algo = ALGORITHMS[cfg.algo.name](
            cfg.algo,
            self.env,
            torch.Generator().manual_seed(init_seed),
            torch.Generator(self.env.device).manual_seed(act_seed),
        )
        self.algo.join(self.ranks)
        self.rollout = Rollout.allocate(self.env, cfg.algo.horizon, self.algo.critic.value_shape)

    def _check_fit(self, path: Path, content: dict[str, Any]) -> None:
        """Makes sure that a checkpoint's networks have the sizes of those here."""
        networks = {"actors": self.algo.actors.stack}
        if not self.config.test:
            networks["critic"] = self.algo.critic.stack
        for name, stack in networks.items():
            found, wanted = tuple(content["algo_state"][name].shape), tuple(stack.flat.shape)
            if found != wanted:
                raise UserError(
                    f"Checkpoint '{path}' has other {name} (parameters {found}, here {wanted}): "
                    "use the task.agents and algo.hidden it was trained with."
                )
        saved = bool(content["algo_state"].get("moments", {}).get("actors"))
        if saved != self.config.algo.running_moments:
            raise UserError(
                f"Checkpoint '{path}' was trained {'with' if saved else 'without'} running "
                f"moments, not with algo.input_norm={self.config.algo.input_norm}."
            )

    def _learn(self) -> Learnt:
        """Collects, updates, and feeds the tracker of episodes."""
        self.algo.set_progress(self.iteration / self.config.max_iterations)
        start = time.perf_counter()
        step_s = self.collect()
        collect_s = time.perf_counter() - start
        metrics = self.algo.update(self.rollout)
        return Learnt(metrics, self.algo.faults, self.config.algo.clip, step_s, collect_s)

    def _learner_state(self) -> dict[str, Any]:
        """What a checkpoint holds of the learner."""
        return {"algo_state": self.algo.state_dict()}

    def _restore_learner(self, content: dict[str, Any]) -> None:
        self.algo.load_state_dict(content["algo_state"])

    def _restore_policy(self, content: dict[str, Any]) -> None:
        self.algo.load_policy(content["algo_state"])

    def policy(self, generator: torch.Generator | None = None) -> Act:
        """See :meth:`Runner.policy`."""
        policy, observations = self.algo.actors.freeze(), self.env.observations
        if generator is None:
            return lambda state: policy.distribution(observations(state))[0]
        return lambda state: policy.act(observations(state), generator).action

    def _draws(self) -> dict[str, Any]:
        return {"generator": self.algo.generator.get_state()}

    def _restore_draws(self, shard: dict[str, Any]) -> None:
        self.algo.generator.set_state(shard["generator"])

    # Collection -------------------------------------------------------------------------------

    def collect(self) -> float:
        """Fills the rollout; returns the seconds spent in the environment."""
        self.guard.begin()
        with device.single_threaded():
            step_s = self._collect()
        self.rollout.whole = not self.guard.finish(self.iteration + 1)
        return step_s

    def _collect(self) -> float:
        env, algo, rollout = self.env, self.algo, self.rollout
        policy = algo.freeze()
        step_s = 0.0
        rollout.final_value.zero_()
        for t in range(self.config.algo.horizon):
            decision = policy(env.observations(self.state))
            before = time.perf_counter()
            step = env.step(decision.action)
            step_s += time.perf_counter() - before
            rollout.state[t] = self.state
            rollout.action[t] = decision.action
            rollout.log_prob[t] = decision.log_prob
            rollout.reward[t] = step.reward
            rollout.terminated[t] = step.terminated
            rollout.truncated[t] = step.truncated
            rollout.valid[t] = ~step.diverged
            final_value = algo.final_value(step.truncated, step.final_state)
            if final_value is not None:
                rollout.final_value[t] = final_value
            self._watch(decision.action, step)
            self.state = step.state
        rollout.last_state.copy_(self.state)
        return step_s
