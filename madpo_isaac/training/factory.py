"""Makes the parts of a run from its settings: the environments and the learner."""

from __future__ import annotations

import numpy as np

from madpo_isaac import tasks
from madpo_isaac.algos.learner import Learner
from madpo_isaac.algos.ppo.settings import PpoConfig
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.config.nodes import sim_settings, task_settings
from madpo_isaac.config.schema import Config
from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.system import device
from madpo_isaac.system.distributed import ALONE, Ranks
from madpo_isaac.tasks.hands.shaping import ShapingConfig
from madpo_isaac.training.on_policy import OnPolicyLearner


def make_env(
    config: Config,
    num_envs: int | None = None,
    seed: int | None = None,
    threads: int | None = None,
    *,
    training: bool = False,
) -> VecEnv:
    """Returns the environments of a configuration.

    Args:
        config: names the task, its settings and the engine.
        num_envs: number of environments; by default that of ``config``.
        seed: seed of resets and noise; by default that of :func:`seeds` for ``config.seed``.
        threads: number of threads; by default that of ``config``.
        training: whether policies learn in them; only then ``task.shaping``, which no score
            contains, is on.
    """
    settings = task_settings(config.task)
    if not training and isinstance(getattr(config.task, "shaping", None), ShapingConfig):
        del settings["shaping"]
    return tasks.make(
        config.task.name,
        config.num_envs if num_envs is None else num_envs,
        device=config.sim_device,
        sim=config.sim.name,
        seed=seeds(config.seed)[0] if seed is None else seed,
        num_threads=config.num_threads if threads is None else threads,
        sim_settings=sim_settings(config.sim),
        **settings,
    )


def playing_env(config: Config) -> VecEnv:
    """Returns the environments in which a policy plays, and gives torch its threads."""
    return make_env(config, threads=device.configure(config.num_threads, config.sim_device))


def make_learner(
    algo: AlgoConfig | PpoConfig,
    env: VecEnv,
    draws: tuple[int, int],
    *,
    ranks: Ranks = ALONE,
    max_iterations: int = 1,
    playing: bool = False,
) -> Learner:
    """Returns an untrained learner.

    Args:
        algo: hyper-parameters.
        env: environments in which it acts.
        draws: seeds of the initial weights and of the actions, see :func:`seeds`.
        ranks: the processes that train together.
        max_iterations: number of iterations of the whole training.
        playing: True if it only acts.

    Raises:
        UserError: the package of ``algo=ppo`` is missing.
    """
    if not isinstance(algo, PpoConfig):
        return OnPolicyLearner(algo, env, draws, ranks)
    try:
        from madpo_isaac.algos.ppo.learner import PpoLearner
    except ImportError as problem:
        raise UserError(
            f"algo=ppo needs the package rl-games: pip install rl-games ({problem})."
        ) from problem
    return PpoLearner(algo, env, draws, max_iterations, playing)


def seeds(seed: int, rank: int = 0) -> tuple[int, int, int]:
    """Returns the seeds of environments, initial weights and actions, drawn from a run's seed.

    The processes of one run have different seeds of environments and actions, and the same seed of
    the weights.
    """
    env_seed, init_seed, act_seed = np.random.SeedSequence(seed).generate_state(3)
    if rank:
        env_seed, act_seed = np.random.SeedSequence((seed, rank)).generate_state(2)
    return int(env_seed), int(init_seed), int(act_seed)
