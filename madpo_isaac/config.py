"""Typed configuration: the schema of every key, and the checks that need more than a type."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from madpo_isaac.divergence.bounds import BOUNDS
from madpo_isaac.divergence.presets import PRESETS, DivergenceConfig, completed
from madpo_isaac.errors import UserError, unknown

TIME_LIMITS = ("bootstrap", "drop")
AGENT_ORDERS = ("random", "default", "spec")
ENTROPIES = ("mean", "sum")
SIGMAS = ("keep", "initial")
DIVERGENCES = ("cs", "kl", "entropy", "none")
LR_SCHEDULES = ("adaptive", "linear", "constant")
PPO_ACTIVATIONS = ("elu", "gelu", "relu", "selu", "swish", "tanh")
MAX_COUNT = 10**9
MAX_THREADS = 1024
MAX_SEED = 2**63 - 1


@dataclass
class TrainDefaults:
    """Hyper-parameters that belong to a task; the algorithms' YAML files read them."""

    num_envs: int = 128
    horizon: int = 75
    gamma: float = 0.99
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    lr: float = 5e-4
    lr_decay: bool = False
    clip: float = 0.2
    epochs: int = 5
    num_minibatches: int = 1
    entropy_coef: float = 0.01
    lam: float = 0.2
    """Weight of the inter-agent term of MADPO's divergence."""
    sigma: float = 1000.0
    """The paper's sigma, which presets printed and printed_alg1 use."""
    max_iterations: int = 1000


@dataclass
class AlgoConfig:
    """Hyper-parameters every on-policy algorithm has."""

    name: str = MISSING
    horizon: int = 75
    """Steps collected per environment and iteration."""
    gamma: float = 0.99
    gae_lambda: float = 0.95
    time_limit: str = "bootstrap"
    """What follows a truncated step: bootstrap, the value of its final state; drop, nothing is
    learnt from it (HARL)."""
    actor_lr: float = 5e-4
    critic_lr: float = 5e-4
    lr_decay: bool = False
    """Decay both learning rates linearly to zero over max_iterations."""
    clip: float = 0.2
    """Clip range of the policy ratio and of the value update."""
    epochs: int = 5
    critic_epochs: int = 5
    num_minibatches: int = 1
    entropy_coef: float = 0.01
    entropy: str = "mean"
    """mean: entropy_coef times the mean entropy of a minibatch; sum: times its sum, a slip of
    MADPO's released code, kept for reproduction."""
    value_coef: float = 1.0
    huber_delta: float = 10.0
    max_grad_norm: float = 10.0
    agent_order: str = "random"
    """random: a new order each iteration; default: by index; spec: grouped by role (Fig. 9)."""
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    activation: str = "relu"
    std_x: float = 1.0
    std_y: float = 0.5
    """Policies' std is std_y * sigmoid(log_std / std_x), log_std starting at std_x."""
    output_gain: float = 0.01
    normalise_observations: bool = False
    """Give the networks observations with running mean 0 and variance 1, clipped to [-5, 5]."""
    reward_scale: float = 1.0
    """The learner's rewards are the task's times this; reported returns are the task's."""
    sigma_on_restore: str = "keep"
    """Policies' std when a run is continued. keep: the checkpoint's; initial: where it starts, each
    time (the optimiser's moments are the checkpoint's)."""


@dataclass
class MadpoConfig(AlgoConfig):
    """HAPPO's hyper-parameters and the divergence."""

    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)


@dataclass
class MappoConfig(AlgoConfig):
    """Hyper-parameters of MAPPO and IPPO, which update all agents at once."""

    share_parameters: bool = True
    """One network acts for all agents (IPPO: one values all); False: each has its own."""


@dataclass
class PpoConfig:
    """Single-agent PPO over the joint action, by rl_games; the names are that library's."""

    name: str = MISSING
    horizon: int = 75
    """Steps collected per environment and iteration."""
    num_minibatches: int = 4
    """Of equal size: it must divide num_envs * horizon."""
    mini_epochs: int = 5
    gamma: float = 0.99
    tau: float = 0.95
    """The lambda of generalised advantage estimation."""
    value_bootstrap: bool = True
    """What follows a truncated step: the value of its state, or (False) nothing."""
    lr: float = 5e-4
    lr_schedule: str = "adaptive"
    """adaptive: follow kl_threshold; linear: decay to 1e-6 over max_iterations; constant."""
    kl_threshold: float = 0.016
    """KL per mini-epoch the adaptive schedule aims at."""
    e_clip: float = 0.2
    """Clip range of the policy ratio and, with clip_value, of the value update."""
    clip_value: bool = True
    entropy_coef: float = 0.0
    critic_coef: float = 4.0
    bounds_loss_coef: float = 1e-4
    """Weight of the penalty on mean actions beyond 1.1."""
    grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    reward_scale: float = 1.0
    """Rewards are learnt from after multiplication with this."""
    normalize_input: bool = True
    normalize_value: bool = True
    normalize_advantage: bool = True
    hidden: list[int] = field(default_factory=lambda: [512, 512, 256, 128])
    """Widths of the trunk that policy and value share."""
    activation: str = "elu"


ALGO_SCHEMAS: dict[str, type[AlgoConfig] | type[PpoConfig]] = {
    "happo": AlgoConfig,
    "ippo": MappoConfig,
    "madpo": MadpoConfig,
    "mappo": MappoConfig,
    "ppo": PpoConfig,
}


@dataclass
class SimConfig:
    """The physics engine."""

    name: str = "mujoco"
    """mujoco: MuJoCo's C engine on a CPU thread pool."""


@dataclass
class Config:
    """Everything a run needs; the keys are IsaacGymEnvs'."""

    task: Any = MISSING
    algo: Any = MISSING
    sim: Any = MISSING
    num_envs: int = 128
    seed: int = 1
    """-1 draws one."""
    max_iterations: int = 1000
    """Total iterations of the run, resumed ones included."""
    experiment: str = ""
    """Name of the run folder; empty for <Task>_<algo>_s<seed>_<date>."""
    runs_dir: str = "runs"
    checkpoint: str = ""
    """Continue from this checkpoint, or with test=True play it: a file, a run folder, `latest`
    or `best` (of the newest run of this task and algorithm)."""
    test: bool = False
    """Play a checkpoint instead of training."""
    test_episodes: int = 1
    """Episodes per environment to play."""
    headless: bool = True
    """Kept for IsaacGymEnvs' command lines; there is no window to open."""
    sim_device: str = "cpu"
    rl_device: str = ""
    """Where networks live; empty for sim_device. Must equal sim_device: nothing is copied."""
    num_threads: int = 0
    """Threads of simulation and learning, 0 for one per core."""
    save_frequency: int = 50
    """Iterations between numbered checkpoints; 0 for none."""
    capture_video: bool = False
    capture_video_freq: int = 1464
    capture_video_len: int = 100


def register() -> None:
    """Puts every schema into Hydra's store; the YAML files name them in their defaults."""
    from tasks.registry import TASKS, load

    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    store.store(group="sim", name="base_mujoco", node=SimConfig)
    for name, schema in ALGO_SCHEMAS.items():
        store.store(group="algo", name=f"base_{name}", node=schema)
    for name in TASKS:
        store.store(group="task", name=f"base_{name}", node=_task_node(load(name).Config))


@functools.cache
def _task_node(settings: type) -> type:
    """A task's own settings plus its name and training defaults, as one schema."""
    extra = [
        ("name", str, field(default=MISSING)),
        ("train", TrainDefaults, field(default_factory=TrainDefaults)),
    ]
    return dataclasses.make_dataclass(f"{settings.__qualname__}Node", extra, bases=(settings,))


def from_record(record: DictConfig) -> DictConfig:
    """Gives a recorded config.yaml, which is plain values, its types back."""
    from tasks.registry import load

    typed = OmegaConf.structured(Config)
    for group in ("task", "algo", "sim"):
        if not OmegaConf.select(record, f"{group}.name"):
            raise UserError(f"The configuration does not say which {group} it is for.")
    algo = record.algo.name
    if algo not in ALGO_SCHEMAS:
        raise unknown("algo", algo, ALGO_SCHEMAS)
    typed.task = OmegaConf.structured(_task_node(load(record.task.name).Config))
    typed.algo = OmegaConf.structured(ALGO_SCHEMAS[algo])
    typed.sim = OmegaConf.structured(SimConfig)
    merged = OmegaConf.merge(typed, record)
    assert isinstance(merged, DictConfig)
    return merged


def task_settings(task_node: Any) -> dict[str, Any]:
    """The overrides for :func:`tasks.make` in a composed task node."""
    values = OmegaConf.to_container(OmegaConf.structured(task_node), resolve=True)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items() if k not in ("name", "train")}


def validate(config: Config) -> None:
    """Checks values and combinations and fills in what a preset leaves open.

    Raises:
        UserError: naming the first bad value.
    """
    _check_finite(config)
    for key in ("num_envs", "max_iterations", "test_episodes"):
        _in_range(key, getattr(config, key), 1)
    for key in ("capture_video_freq", "capture_video_len"):
        _in_range(key, getattr(config, key), 1)
    _in_range("save_frequency", config.save_frequency, 0)
    _in_range("num_threads", config.num_threads, 0, MAX_THREADS)
    _in_range("seed", config.seed, -1, MAX_SEED)
    if isinstance(config.algo, PpoConfig):
        _check_ppo(config, config.algo)
    else:
        _check_on_policy(config, config.algo)
    _check_run(config)


def _check_on_policy(config: Config, algo: AlgoConfig) -> None:
    for key in ("horizon", "epochs", "critic_epochs", "num_minibatches"):
        _in_range(f"algo.{key}", getattr(algo, key), 1)
    positive = ("actor_lr", "critic_lr", "clip", "std_x", "std_y", "huber_delta", "max_grad_norm")
    for key in (*positive, "reward_scale"):
        _positive(f"algo.{key}", getattr(algo, key))
    for key in ("entropy_coef", "value_coef", "output_gain"):
        _not_negative(f"algo.{key}", getattr(algo, key))
    for key in ("gamma", "gae_lambda"):
        _in_unit(f"algo.{key}", getattr(algo, key))
    _check_hidden(algo.hidden)
    _one_of("algo.agent_order", algo.agent_order, AGENT_ORDERS)
    _one_of("algo.time_limit", algo.time_limit, TIME_LIMITS)
    _one_of("algo.entropy", algo.entropy, ENTROPIES)
    _one_of("algo.sigma_on_restore", algo.sigma_on_restore, SIGMAS)
    batch = config.num_envs * algo.horizon
    if algo.num_minibatches > batch:
        raise UserError(
            f"algo.num_minibatches={algo.num_minibatches} exceeds the {batch} samples of an "
            f"iteration (num_envs={config.num_envs} x algo.horizon={algo.horizon})."
        )
    if isinstance(algo, MadpoConfig):
        _check_divergence(algo.divergence, batch // algo.num_minibatches)
        train = config.task.train
        algo.divergence = completed(algo.divergence, train.lam, train.sigma)
    if isinstance(algo, MappoConfig) and algo.agent_order != "random":
        raise UserError(
            f"algo.agent_order={algo.agent_order} has no effect: {algo.name} updates all agents "
            "at once."
        )


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
    if div.lam is not None:
        _in_unit(f"{key}.lam", div.lam)
    for name, value in (("sigma", div.sigma), ("scale", div.scale)):
        if value is not None and value <= 0.0:
            raise UserError(f"{key}.{name}={value} must be greater than 0.")
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
    if config.test and not config.checkpoint:
        raise UserError("test=True needs checkpoint=<file, run folder, latest or best>.")
    if config.capture_video:
        raise UserError("capture_video=True is not available in this version.")
    if config.experiment and not re.fullmatch(r"\w[\w.+-]{0,199}", config.experiment):
        raise UserError(
            f"experiment='{config.experiment}' must be a plain folder name: letters, digits, "
            "'_', '-', '+' and '.', not starting with a sign."
        )


def _check_finite(node: Any, prefix: str = "") -> None:
    for spec in dataclasses.fields(node):
        value, key = getattr(node, spec.name), prefix + spec.name
        if dataclasses.is_dataclass(value):
            _check_finite(value, f"{key}.")
        elif isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"{key}={value} must be a finite number.")


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
