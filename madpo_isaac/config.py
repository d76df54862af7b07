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

from madpo_isaac.errors import UserError, unknown

TIME_LIMITS = ("bootstrap", "drop")
AGENT_ORDERS = ("random", "default", "spec")
ENTROPIES = ("mean", "sum")
DIVERGENCES = ("cs", "none")
PRESETS = ("gaussian",)
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
    kl_threshold: float = 0.01
    """Limit of a HATRPO step's mean KL divergence, in nats."""
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


@dataclass
class DivergenceConfig:
    """MADPO's bonus: coef * [lam * inter + (1 - lam) * intra]."""

    kind: str = "cs"
    """cs: Cauchy-Schwarz; none: no bonus, which is HAPPO."""
    preset: str = "gaussian"
    """gaussian: closed form for Gaussian policies."""
    coef: float = 0.02
    lam: float = 0.2
    bounded: bool = True
    """Use 1 - exp(-D/2) per state. False maximises D itself, which diverges in practice."""


@dataclass
class MadpoConfig(AlgoConfig):
    """HAPPO's hyper-parameters and the divergence."""

    divergence: DivergenceConfig = field(default_factory=DivergenceConfig)


@dataclass
class HatrpoConfig(AlgoConfig):
    """Hyper-parameters of the critic and of HATRPO's steps."""

    kl_threshold: float = 0.01
    """Limit of a step's mean KL(old || new) per agent, in nats."""
    cg_iterations: int = 10
    """Fisher-vector products per agent to find the direction."""
    cg_tolerance: float = 1e-10
    """Squared norm of the residual at which to stop earlier."""
    damping: float = 0.1
    """Added to the diagonal of the Fisher matrix."""
    line_search_steps: int = 10
    backtrack: float = 0.8
    """Factor between the steps that are tried."""
    accept_ratio: float = 0.5
    """Least share of the improvement that the gradient promises."""


@dataclass
class A2poConfig(AlgoConfig):
    """HAPPO's hyper-parameters and A2PO's order and clip ranges."""

    agent_order: str = "semi_greedy"
    """Also semi_greedy: the agent whose actions matter most and a random one by turns."""
    clip_weight: float = 0.5
    """The k-th of n agents has the clip range clip * (clip_weight * k / n + 1 - clip_weight)."""


ALGO_SCHEMAS: dict[str, type[AlgoConfig]] = {
    "happo": AlgoConfig,
    "madpo": MadpoConfig,
    "hatrpo": HatrpoConfig,
    "a2po": A2poConfig,
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
    """Checks values and combinations; raises :class:`UserError` naming the first bad one."""
    algo: AlgoConfig = config.algo
    _check_finite(config)
    for key in ("num_envs", "max_iterations", "test_episodes"):
        _in_range(key, getattr(config, key), 1)
    for key in ("capture_video_freq", "capture_video_len"):
        _in_range(key, getattr(config, key), 1)
    _in_range("save_frequency", config.save_frequency, 0)
    _in_range("num_threads", config.num_threads, 0, MAX_THREADS)
    _in_range("seed", config.seed, -1, MAX_SEED)
    for key in ("horizon", "epochs", "critic_epochs", "num_minibatches"):
        _in_range(f"algo.{key}", getattr(algo, key), 1)
    for key in ("actor_lr", "critic_lr", "clip", "std_x", "std_y", "huber_delta", "max_grad_norm"):
        _positive(f"algo.{key}", getattr(algo, key))
    for key in ("entropy_coef", "value_coef", "output_gain"):
        _not_negative(f"algo.{key}", getattr(algo, key))
    for key in ("gamma", "gae_lambda"):
        _in_unit(f"algo.{key}", getattr(algo, key))
    if not (algo.hidden and all(_is_width(width) for width in algo.hidden)):
        raise UserError(
            f"algo.hidden={algo.hidden} must list at least one width, each from 1 to {MAX_COUNT}."
        )
    orders = (*AGENT_ORDERS, "semi_greedy") if isinstance(algo, A2poConfig) else AGENT_ORDERS
    _one_of("algo.agent_order", algo.agent_order, orders)
    _one_of("algo.time_limit", algo.time_limit, TIME_LIMITS)
    _one_of("algo.entropy", algo.entropy, ENTROPIES)
    batch = config.num_envs * algo.horizon
    if algo.num_minibatches > batch:
        raise UserError(
            f"algo.num_minibatches={algo.num_minibatches} exceeds the {batch} samples of an "
            f"iteration (num_envs={config.num_envs} x algo.horizon={algo.horizon})."
        )
    _check_algorithm(algo)
    _check_run(config)


def _check_algorithm(algo: AlgoConfig) -> None:
    """Checks the keys that only one algorithm has."""
    if isinstance(algo, MadpoConfig):
        _one_of("algo.divergence.kind", algo.divergence.kind, DIVERGENCES)
        _one_of("algo.divergence.preset", algo.divergence.preset, PRESETS)
        _not_negative("algo.divergence.coef", algo.divergence.coef)
        _in_unit("algo.divergence.lam", algo.divergence.lam)
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
