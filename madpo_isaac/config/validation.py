"""Checks of a configuration that need more than the type of a key."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from madpo_isaac.config import recipes
from madpo_isaac.config.schema import (
    A2poConfig,
    AlgoConfig,
    Config,
    HatrpoConfig,
    IsaacGymConfig,
    MadpoConfig,
    MappoConfig,
    PpoConfig,
)
from madpo_isaac.divergence.bounds import BOUNDS
from madpo_isaac.divergence.presets import PRESETS, DivergenceConfig, completed
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.sim import BRIDGES, SimConfig, WarpConfig, engine_for

TIME_LIMITS = ("bootstrap", "drop")
AGENT_ORDERS = ("random", "default", "spec")
ENTROPIES = ("mean", "sum")
SIGMAS = ("keep", "initial")
SOLVERS = ("newton", "cg")
RESUMES = ("never", "auto")
DIVERGENCES = ("cs", "kl", "entropy", "none")
LR_SCHEDULES = ("adaptive", "linear", "constant")
INPUT_NORMS = ("running", "layer", "both", "none")
HIDDEN_NORMS = ("layer", "none")
PPO_ACTIVATIONS = ("elu", "gelu", "relu", "selu", "swish", "tanh")
MAX_COUNT = 10**9
_NAME = re.compile(r"\w[\w.+-]{0,199}")
MAX_THREADS = 1024
MAX_ROOM = 10**5
MAX_SEED = 2**63 - 1


def validate(config: Config) -> None:
    """Checks values and combinations and fills in what a preset leaves open.

    Raises:
        UserError: naming the first bad value.
    """
    _check_numbers(config)
    for key in ("num_envs", "max_iterations", "test_episodes", "eval_episodes", "eval_envs"):
        _in_range(key, getattr(config, key), 1)
    for key in ("capture_video_freq", "capture_video_len", "capture_video_envs"):
        _in_range(key, getattr(config, key), 1)
    for key in ("save_frequency", "eval_frequency", "max_dumps"):
        _in_range(key, getattr(config, key), 0)
    _in_range("max_skipped", config.max_skipped, 1)
    _in_unit("max_bad_share", config.max_bad_share)
    _in_range("num_threads", config.num_threads, 0, MAX_THREADS)
    _in_range("seed", config.seed, -1, MAX_SEED)
    if isinstance(config.algo, PpoConfig):
        _check_ppo(config, config.algo)
    else:
        _check_on_policy(config, config.algo)
    _check_sim(config)
    _check_run(config)
    if isinstance(config.sim, IsaacGymConfig):
        _positive("sim.timeout", config.sim.timeout)
        if not config.sim.python:
            raise UserError(
                "sim=isaacgym needs sim.python=<interpreter>, a Python 3.6 to 3.8 that has "
                "isaacgym and bidexhands."
            )


def _check_sim(config: Config) -> None:
    """Checks the engine's settings and says which one ``auto`` is."""
    if config.sim.name in BRIDGES:
        return
    name = engine_for(config.sim.name, config.sim_device)
    room = config.sim if isinstance(config.sim, WarpConfig) else WarpConfig()
    for key in ("nconmax", "njmax"):
        value = getattr(room, key)
        if value is None:
            continue
        if name != "warp":
            raise UserError(f"sim.{key}={value} goes with sim=warp only.")
        _in_range(f"sim.{key}", value, 1, MAX_ROOM)
    _one_of("sim.solver", room.solver, SOLVERS)
    if name != "warp" and room.solver != "newton":
        raise UserError(f"sim.solver={room.solver} goes with sim=warp only.")
    config.sim = dataclasses.replace(room, name=name) if name == "warp" else SimConfig(name)


def _check_on_policy(config: Config, algo: AlgoConfig) -> None:
    for key in ("horizon", "epochs", "critic_epochs", "num_minibatches"):
        _in_range(f"algo.{key}", getattr(algo, key), 1)
    _check_rates(algo)
    positive = ("clip", "value_clip", "init_std", "max_std", "std_scale", "huber_delta")
    for key in (*positive, "max_grad_norm", "reward_scale"):
        if getattr(algo, key) is not None:
            _positive(f"algo.{key}", getattr(algo, key))
    if algo.max_std is not None and algo.init_std >= algo.max_std:
        raise UserError(
            f"algo.init_std={algo.init_std} must be less than algo.max_std={algo.max_std}."
        )
    for key in ("entropy_coef", "value_coef", "value_aux_coef", "output_gain"):
        _not_negative(f"algo.{key}", getattr(algo, key))
    for key in ("gamma", "gae_lambda"):
        _in_unit(f"algo.{key}", getattr(algo, key))
    _check_hidden(algo.hidden)
    orders = (*AGENT_ORDERS, "semi_greedy") if isinstance(algo, A2poConfig) else AGENT_ORDERS
    _one_of("algo.agent_order", algo.agent_order, orders)
    _one_of("algo.time_limit", algo.time_limit, TIME_LIMITS)
    _one_of("algo.entropy", algo.entropy, ENTROPIES)
    _one_of("algo.sigma_on_restore", algo.sigma_on_restore, SIGMAS)
    _one_of("algo.input_norm", algo.input_norm, INPUT_NORMS)
    _one_of("algo.hidden_norm", algo.hidden_norm, HIDDEN_NORMS)
    batch = config.num_envs * algo.horizon
    if algo.num_minibatches > batch:
        raise UserError(
            f"algo.num_minibatches={algo.num_minibatches} exceeds the {batch} samples of an "
            f"iteration (num_envs={config.num_envs} x algo.horizon={algo.horizon})."
        )
    _check_algorithm(config, algo, batch // algo.num_minibatches)


def _check_rates(algo: AlgoConfig) -> None:
    """Checks learning rates and their schedule."""
    _one_of("algo.lr_schedule", algo.lr_schedule, LR_SCHEDULES)
    _positive("algo.critic_lr", algo.critic_lr)
    for key in ("min_lr", "max_lr"):
        _positive(f"algo.{key}", getattr(algo, key))
    if algo.min_lr > algo.max_lr:
        raise UserError(f"algo.min_lr={algo.min_lr} must be at most algo.max_lr={algo.max_lr}.")
    if isinstance(algo, HatrpoConfig):
        if algo.lr_schedule == "adaptive":
            raise UserError("algo.lr_schedule=adaptive does not go with hatrpo: it has no rate.")
        steps: dict[str, Any] = {"actor_lr": None, "kl_target": None, "entropy": "mean"}
        steps |= {"entropy_coef": 0.0, "value_aux_coef": 0.0}
        for key, unused in steps.items():
            if getattr(algo, key) != unused:
                raise UserError(
                    f"algo.{key}={getattr(algo, key)} has no effect: hatrpo's policies take "
                    "natural-gradient steps of algo.kl_threshold."
                )
        return
    if algo.actor_lr is None:
        raise UserError("algo.actor_lr=null goes with hatrpo only: it is the policies' rate.")
    _positive("algo.actor_lr", algo.actor_lr)
    if algo.kl_target is not None:
        _positive("algo.kl_target", algo.kl_target)
    if algo.lr_schedule == "adaptive":
        if algo.kl_target is None:
            raise UserError("algo.lr_schedule=adaptive needs algo.kl_target=<nats>, such as 0.05.")
        if not algo.min_lr <= algo.actor_lr <= algo.max_lr:
            raise UserError(
                f"algo.actor_lr={algo.actor_lr} must lie between algo.min_lr={algo.min_lr} and "
                f"algo.max_lr={algo.max_lr}, or be a fixed rate with algo.lr_schedule=constant."
            )


def _check_algorithm(config: Config, algo: AlgoConfig, minibatch: int) -> None:
    """Checks the keys that only one algorithm has."""
    if isinstance(algo, MadpoConfig):
        _check_divergence(algo.divergence, minibatch)
        algo.divergence = completed(
            algo.divergence,
            *(
                recipes.value(config.recipe, config.task.name, algo.name, key, config.task.train)
                for key in ("lam", "sigma", "coef", "decay_steps")
            ),
        )
    elif isinstance(algo, MappoConfig) and algo.agent_order != "random":
        raise UserError(
            f"algo.agent_order={algo.agent_order} has no effect: {algo.name} updates all agents "
            "at once."
        )
    elif isinstance(algo, HatrpoConfig):
        for key in ("cg_iterations", "line_search_steps"):
            _in_range(f"algo.{key}", getattr(algo, key), 1)
        for key in ("kl_threshold", "damping"):
            _positive(f"algo.{key}", getattr(algo, key))
        _not_negative("algo.cg_tolerance", algo.cg_tolerance)
        for key in ("backtrack", "accept_ratio"):
            _in_unit(f"algo.{key}", getattr(algo, key))
        _positive("algo.backtrack", algo.backtrack)
    elif isinstance(algo, A2poConfig):
        _in_unit("algo.clip_weight", algo.clip_weight)


def _check_ppo(config: Config, algo: PpoConfig) -> None:
    for key in ("horizon", "num_minibatches", "mini_epochs"):
        _in_range(f"algo.{key}", getattr(algo, key), 1)
    for key in ("lr", "kl_threshold", "e_clip", "grad_norm", "reward_scale"):
        _positive(f"algo.{key}", getattr(algo, key))
    for key in ("entropy_coef", "critic_coef", "bounds_loss_coef"):
        _not_negative(f"algo.{key}", getattr(algo, key))
    for key in ("gamma", "tau"):
        _in_unit(f"algo.{key}", getattr(algo, key))
    _check_hidden(algo.hidden)
    _one_of("algo.lr_schedule", algo.lr_schedule, LR_SCHEDULES)
    _one_of("algo.activation", algo.activation, PPO_ACTIVATIONS)
    batch = config.num_envs * algo.horizon
    if config.test:
        return
    if batch % algo.num_minibatches or batch == algo.num_minibatches:
        raise UserError(
            f"algo.num_minibatches={algo.num_minibatches} must cut the {batch} samples of an "
            f"iteration (num_envs={config.num_envs} x algo.horizon={algo.horizon}) into equal "
            "parts of at least 2."
        )


def _check_divergence(div: DivergenceConfig, minibatch: int) -> None:
    key = "algo.divergence"
    _one_of(f"{key}.kind", div.kind, DIVERGENCES)
    _one_of(f"{key}.preset", div.preset, tuple(PRESETS))
    if div.bound is not None:
        _one_of(f"{key}.bound", div.bound, BOUNDS)
    if div.coef is not None:
        _not_negative(f"{key}.coef", div.coef)
    if div.decay_steps is not None:
        _not_negative(f"{key}.decay_steps", div.decay_steps)
    if div.lam is not None:
        _in_unit(f"{key}.lam", div.lam)
    for name, value in (("sigma", div.sigma), ("scale", div.scale)):
        if value is not None and value <= 0.0:
            raise UserError(f"{key}.{name}={value} must be greater than 0.")
    if div.sigma is not None and PRESETS[div.preset].coef is not None:
        raise UserError(
            f"{key}.sigma={div.sigma} has no effect: {key}.preset={div.preset} has none."
        )
    if div.rows is not None:
        _in_range(f"{key}.rows", div.rows, 1, minibatch)
        if div.preset == "gaussian":
            raise UserError(f"{key}.rows={div.rows} goes with the kernel presets only.")
    if div.preset != "gaussian":
        if div.kind not in ("cs", "none"):
            raise UserError(f"{key}.kind={div.kind} goes with {key}.preset=gaussian only.")
        if div.bound not in (None, "none"):
            raise UserError(f"{key}.bound={div.bound} goes with {key}.preset=gaussian only.")


def _check_run(config: Config) -> None:
    if config.rl_device and config.rl_device != config.sim_device:
        raise UserError(
            f"rl_device={config.rl_device} must equal sim_device={config.sim_device}: "
            "tensors are never copied between devices."
        )
    _one_of("resume", config.resume, RESUMES)
    if config.resume == "auto" and not config.experiment:
        raise UserError("resume=auto needs experiment=<name>: the run to continue, or to start.")
    if config.resume == "auto" and config.test:
        raise UserError("resume=auto goes with training; to play give checkpoint=<run folder>.")
    if config.test and not config.checkpoint:
        raise UserError("test=True needs checkpoint=<file, run folder, latest or best>.")
    if not config.runs_dir.strip():
        raise UserError("runs_dir= must name a folder.")
    if config.multi_gpu:
        _check_multi_gpu(config)
    if config.capture_video:
        _check_video(config)
    # A folder that is continued may have been renamed.
    there = (Path(config.runs_dir) / config.experiment / "config.yaml").is_file()
    plain = "/" not in config.experiment and there
    if config.experiment and not plain and not _NAME.fullmatch(config.experiment):
        raise UserError(
            f"experiment='{config.experiment}' must be a plain folder name: letters, digits, "
            "'_', '-', '+' and '.', not starting with a sign."
        )


def _check_video(config: Config) -> None:
    if config.sim.name in BRIDGES:
        raise UserError(f"sim={config.sim.name} has no pictures: leave capture_video and --video.")
    length, frequency, shown = (
        getattr(config, f"capture_video_{end}") for end in ("len", "freq", "envs")
    )
    if length > frequency and not config.test:
        raise UserError(
            f"capture_video_len={length} must be at most capture_video_freq={frequency}: one clip "
            "is filmed at a time."
        )
    if shown > config.num_envs:
        raise UserError(f"capture_video_envs={shown} exceeds num_envs={config.num_envs}.")


def _check_multi_gpu(config: Config) -> None:
    algo = config.algo
    if config.test:
        raise UserError("multi_gpu=True is for training, not for test=True.")
    if isinstance(algo, PpoConfig):
        raise UserError("multi_gpu=True does not go with algo=ppo, whose learner is rl_games' own.")
    if isinstance(algo, MadpoConfig) and algo.divergence.preset != "gaussian":
        raise UserError(
            f"multi_gpu=True goes with algo.divergence.preset=gaussian, not "
            f"{algo.divergence.preset}: kernel estimators cannot be added up over processes."
        )


def _check_numbers(node: Any, prefix: str = "") -> None:
    """Numbers are finite and fit into 64 bits."""
    for spec in dataclasses.fields(node):
        value, key = getattr(node, spec.name), prefix + spec.name
        if dataclasses.is_dataclass(value):
            _check_numbers(value, f"{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value} must be a finite number.")
        elif isinstance(value, int) and abs(value) > MAX_SEED:
            raise UserError(
                f"{key}={value} must be at {'least -' * (value < 0) or 'most '}{MAX_SEED}."
            )


def _in_range(key: str, value: int, least: int, most: int = MAX_COUNT) -> None:
    if value < least:
        raise UserError(f"{key}={value} must be at least {least}.")
    if value > most:
        raise UserError(f"{key}={value} must be at most {most}.")


def _is_width(value: object) -> bool:
    return isinstance(value, int) and 1 <= value <= MAX_COUNT


def _check_hidden(hidden: list[int]) -> None:
    if not (hidden and all(_is_width(width) for width in hidden)):
        raise UserError(
            f"algo.hidden={hidden} must list at least one width, each from 1 to {MAX_COUNT}."
        )


def _positive(key: str, value: float) -> None:
    if value <= 0.0:
        raise UserError(f"{key}={value} must be greater than 0.")


def _not_negative(key: str, value: float) -> None:
    if value < 0.0:
        raise UserError(f"{key}={value} must not be negative.")


def _in_unit(key: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{key}={value} must lie between 0 and 1.")


def _one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise unknown(key, value, allowed)
