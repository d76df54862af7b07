"""Translation of this project's settings of PPO into those of rl_games."""

from __future__ import annotations

from typing import Any

from rl_games.common.algo_observer import AlgoObserver
from rl_games.common.tr_helpers import DefaultRewardsShaper

from madpo_isaac.algos.ppo.env import RlGamesEnv
from madpo_isaac.algos.ppo.settings import PpoConfig
from madpo_isaac.env import VecEnv


def rl_games_params(
    config: PpoConfig, env: VecEnv, max_iterations: int, observer: AlgoObserver
) -> dict[str, Any]:
    """The configuration as rl_games' YAML files have it."""
    wrapped = RlGamesEnv(env)
    space = {
        "mu_activation": "None",
        "sigma_activation": "None",
        "mu_init": {"name": "default"},
        "sigma_init": {"name": "const_initializer", "val": 0},
        "fixed_sigma": True,
    }
    mlp = {
        "units": list(config.hidden),
        "activation": config.activation,
        "initializer": {"name": "default"},
    }
    learning = {
        "horizon_length": config.horizon,
        "minibatch_size": env.num_envs * config.horizon // config.num_minibatches,
        "mini_epochs": config.mini_epochs,
        "gamma": config.gamma,
        "tau": config.tau,
        "value_bootstrap": config.value_bootstrap,
        "learning_rate": config.lr,
        "lr_schedule": config.lr_schedule,
        "schedule_type": "standard",
        "kl_threshold": config.kl_threshold,
        "max_epochs": max_iterations,
        "e_clip": config.e_clip,
        "clip_value": config.clip_value,
        "entropy_coef": config.entropy_coef,
        "critic_coef": config.critic_coef,
        "bounds_loss_coef": config.bounds_loss_coef,
        "truncate_grads": True,
        "grad_norm": config.grad_norm,
        "normalize_input": config.normalize_input,
        "normalize_value": config.normalize_value,
        "normalize_advantage": config.normalize_advantage,
        "reward_shaper": DefaultRewardsShaper(scale_value=config.reward_scale),
    }
    wiring = {
        "name": config.name,
        "full_experiment_name": "agent",
        "env_name": "",
        "env_info": wrapped.get_env_info(),
        "vec_env": wrapped,
        "num_actors": env.num_envs,
        "device": str(env.device),
        "seq_length": 1,
        "features": {"observer": observer},
    }
    return {
        "algo": {"name": "a2c_continuous"},
        "model": {"name": "continuous_a2c_logstd"},
        "network": {
            "name": "actor_critic",
            "separate": False,
            "space": {"continuous": space},
            "mlp": mlp,
        },
        "config": {**learning, **wiring},
    }
