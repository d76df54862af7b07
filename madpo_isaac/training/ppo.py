"""The run of rl_games' PPO."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from madpo_isaac.algos.ppo.learner import PpoLearner, shapes
from madpo_isaac.env import AgentSpec
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.evaluate import Act
from madpo_isaac.training.runner import Learnt, Runner


class PpoRunner(Runner):
    """A run whose learner is rl_games' agent; folder, counters, saving and playing are ours.

    Checkpoints are rl_games' own, with further keys beside: its players read them, too.
    """

    ppo: PpoLearner

    @property
    def agents(self) -> Sequence[AgentSpec]:
        """One agent that sees everything and moves everything."""
        env = self.env
        return (AgentSpec("joint", slice(0, env.action_dim), env.state_dim, lambda state: state),)

    def _make_learner(self, init_seed: int, act_seed: int) -> None:
        cfg = self.config
        seeds = init_seed, act_seed
        self.ppo = PpoLearner(
            cfg.algo, self.env, seeds, cfg.max_iterations, self._watch, playing=cfg.test
        )

    def _check_fit(self, path: Path, content: dict[str, Any]) -> None:
        missing = [key for key in ("model", "optimizer", "epoch", "frame") if key not in content]
        if missing:
            raise UserError(f"Checkpoint '{path}' lacks {', '.join(missing)}.")
        if shapes(content["model"]) != self.ppo.shapes():
            raise UserError(
                f"Checkpoint '{path}' has another network: use the task settings, algo.hidden, "
                "algo.normalize_input and algo.normalize_value it was trained with."
            )

    def _learn(self) -> Learnt:
        self.guard.begin()
        self.state, epoch = self.ppo.learn(self.state)
        self.guard.finish(self.iteration + 1)
        clip = self.config.algo.e_clip
        return Learnt(epoch.metrics, self.ppo.faults, clip, epoch.step_s, epoch.collect_s)

    def _learner_state(self) -> dict[str, Any]:
        self.ppo.agent.last_mean_rewards = self.best_return
        return self.ppo.state_dict()

    def _restore_learner(self, content: dict[str, Any]) -> None:
        self.ppo.load_state_dict(content)

    def _restore_policy(self, content: dict[str, Any]) -> None:
        self.ppo.load_policy(content)

    def policy(self, generator: torch.Generator | None = None) -> Act:
        """See :meth:`Runner.policy`; the network is the one that learns, not a copy."""
        return lambda state: self.ppo.act(state, generator)
