"""The factory that picks who trains: one of our algorithms, or rl_games' PPO."""

from __future__ import annotations

from collections.abc import Sequence

from madpo_isaac.algos.ppo.settings import PpoConfig
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError
from madpo_isaac.training.on_policy import OnPolicyRunner
from madpo_isaac.training.runner import Runner


def make_runner(config: Config, overrides: Sequence[str] = ()) -> Runner:
    """Returns the runner of the configuration's algorithm; PPO brings a learner of its own."""
    if not isinstance(config.algo, PpoConfig):
        return OnPolicyRunner(config, overrides=overrides)
    try:
        from madpo_isaac.training.ppo import PpoRunner
    except ImportError as problem:
        raise UserError(
            f"algo=ppo needs the package rl-games: pip install rl-games ({problem})."
        ) from problem
    return PpoRunner(config, overrides=overrides)
