"""Typed configuration: the schema of every key."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from madpo_isaac.config import recipes  # noqa: F401  registers the resolver of cfg/
from madpo_isaac.divergence.presets import DivergenceConfig
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.sim import SimConfig, WarpConfig


@dataclass
class AlgoConfig:
    """Hyper-parameters every on-policy algorithm has."""

    name: str = MISSING
    horizon: int = 75
    """Steps collected per environment and iteration."""
    gamma: float = 0.99
    gae_lambda: float = 0.95
    time_limit: str = "bootstrap"
    """What follows a truncated step: bootstrap, the value of its final state; drop, its advantage
    is 0 (HARL)."""
    actor_lr: float | None = 5e-4
    """Learning rate of the policies; the first one if it is adaptive."""
    critic_lr: float = 5e-4
    lr_schedule: str = "constant"
    """constant; linear: both rates decay to zero over max_iterations; adaptive: each policy's rate
    follows kl_target, the critic's stays as it is."""
    kl_target: float | None = None
    """KL(old || new) of one iteration, in nats, that the adaptive schedule aims at."""
    min_lr: float = 1e-5
    max_lr: float = 1e-2
    """Limits of the adaptive rates."""
    clip: float = 0.2
    """Clip range of the policy ratio."""
    value_clip: float | None = None
    """How far a value may move from that of the collection before its loss stops to fall, in
    standard deviations of the return; null for no limit."""
    epochs: int = 5
    critic_epochs: int = 5
    num_minibatches: int = 1
    entropy_coef: float = 0.01
    entropy: str = "mean"
    """mean: entropy_coef times the mean entropy of a minibatch; sum: times its sum, a slip of
    MADPO's released code, kept for reproduction."""
    value_coef: float = 1.0
    value_aux_coef: float = 0.0
    """Weight of an auxiliary loss of the policies: each network predicts the normalized return from
    its last hidden layer (smooth L1 loss), which gives the hidden layers features of the value, as
    a trunk shared with the critic would; 0 for networks without this output."""
    huber_delta: float = 10.0
    max_grad_norm: float = 10.0
    agent_order: str = "random"
    """random: a new order each iteration; default: by index; spec: grouped by role (Fig. 9)."""
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    activation: str = "relu"
    init_std: float = 1.0
    """Policies' standard deviation at the start."""
    max_std: float | None = None
    """null: std is exp(log_std / std_scale); a number: max_std * sigmoid(log_std / std_scale),
    HARL's form, which starts at 0.3655 of at most 0.5."""
    std_scale: float = 1.0
    """The larger, the slower the standard deviation moves."""
    output_gain: float = 0.01
    input_norm: str = "running"
    """What networks do to their input. running: mean 0 and variance 1 by running moments, clipped
    to [-5, 5]; layer: LayerNorm; both: running, then layer; none."""
    hidden_norm: str = "layer"
    """layer: LayerNorm after every hidden layer; none."""
    reward_scale: float = 1.0
    """The learner's rewards are the task's times this; reported returns are the task's."""
    sigma_on_restore: str = "keep"
    """Policies' std when a run is continued. keep: the checkpoint's; initial: where it starts, each
    time (the optimiser's moments are the checkpoint's)."""

    @property
    def running_moments(self) -> bool:
        """Whether inputs are normalised by running moments."""
        return self.input_norm in ("running", "both")

    @property
    def layer_norm(self) -> bool:
        """Whether a LayerNorm comes before the first layer."""
        return self.input_norm in ("layer", "both")


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


@dataclass
class HatrpoConfig(AlgoConfig):
    """Hyper-parameters of the critic and of HATRPO's steps."""

    kl_threshold: float = 0.03
    """Limit of a step's mean KL(old || new) per agent, in nats."""
    cg_iterations: int = 1
    """Fisher-vector products per agent to find the direction; more follow the noise of a batch of
    some thousand samples further than its signal."""
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


ALGO_SCHEMAS: dict[str, type[AlgoConfig] | type[PpoConfig]] = {
    "happo": AlgoConfig,
    "madpo": MadpoConfig,
    "hatrpo": HatrpoConfig,
    "a2po": A2poConfig,
    "mappo": MappoConfig,
    "ippo": MappoConfig,
    "ppo": PpoConfig,
}


@dataclass
class IsaacGymConfig(SimConfig):
    """Isaac Gym, which runs in a process of its own."""

    python: str = ""
    """Its interpreter, Python 3.6 to 3.8 with isaacgym and bidexhands."""
    timeout: float = 600.0
    """Seconds to wait for any answer of it; building the task is one."""


SIM_SCHEMAS: dict[str, type[SimConfig]] = {
    "auto": WarpConfig,
    "mujoco": SimConfig,
    "warp": WarpConfig,
    "isaacgym": IsaacGymConfig,
    "isaaclab": SimConfig,
}


@dataclass
class Config:
    """Everything a run needs; the keys are IsaacGymEnvs'."""

    task: Any = MISSING
    algo: Any = MISSING
    sim: Any = MISSING
    recipe: str = "tuned"
    """Where the defaults of num_envs, max_iterations and the algorithm's settings come from:
    tuned, the best known here; paper, the MADPO paper's tables; harl, HARL's tuned files."""
    num_envs: int = 128
    seed: int = 1
    """-1 draws one."""
    stagger_episodes: bool = False
    """Whether the first episodes of a run are cut after random shares of the time limit, so that
    not all environments end their episodes in the same step (rsl_rl's init_at_random_ep_len).
    The statistics leave these episodes out. The bridges to Isaac Gym and Isaac Lab ignore it."""
    max_iterations: int = 1000
    """Total iterations of the run, resumed ones included."""
    experiment: str = ""
    """Name of the run folder; empty for <Task>_<algo>_s<seed>_<date>."""
    runs_dir: str = "runs"
    checkpoint: str = ""
    """Continue from this checkpoint, or with test=True play it: a file, a run folder, `latest`
    or `best` (of the newest run, of the task and the algorithm if these are given). The run's own
    configuration applies, and on top of it what the command line sets."""
    resume: str = "never"
    """auto: continue the run `experiment` if it is there, else start it; never: only what
    `checkpoint` says."""
    test: bool = False
    """Play a checkpoint instead of training."""
    test_episodes: int = 1
    """Episodes per environment to play."""
    eval_frequency: int = 0
    """Iterations between evaluations while training, in environments of their own and with mean
    actions; 0 for none."""
    eval_episodes: int = 1
    """Episodes per environment of such an evaluation."""
    eval_envs: int = 64
    """Its environments."""
    headless: bool = True
    """Kept for IsaacGymEnvs' command lines; there is no window to open."""
    sim_device: str = "cpu"
    multi_gpu: bool = False
    """One run by all processes that torchrun started, num_envs environments in each."""
    rl_device: str = ""
    """Where networks live; empty for sim_device. Must equal sim_device: nothing is copied."""
    num_threads: int = 0
    """Threads of simulation and learning, 0 for one per core."""
    save_frequency: int = 50
    """Iterations between numbered checkpoints; 0 for none."""
    max_bad_share: float = 0.05
    """Share of an iteration's environment steps that may go bad (physics that blow up, numbers
    that are not finite) before the run stops."""
    max_dumps: int = 8
    """Iterations in which worlds went bad that are kept for replay in the run folder's dumps/."""
    max_skipped: int = 10
    """Gradient steps in a row that one network may skip, as loss or gradient are not finite,
    before the run stops."""
    capture_video: bool = False
    """Film training into videos/ of the run folder, or with test=True the policy."""
    capture_video_freq: int = 1464
    """Steps of every environment from the start of one clip to that of the next."""
    capture_video_len: int = 100
    """Steps of a clip."""
    capture_video_envs: int = 1
    """Environments shown, side by side."""


@functools.cache
def register() -> None:
    """Puts every schema into Hydra's store; the YAML files name them in their defaults."""
    from madpo_isaac.tasks.registry import TASKS, load

    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    for name, schema in SIM_SCHEMAS.items():
        store.store(group="sim", name=f"base_{name}", node=schema)
    for name, schema in ALGO_SCHEMAS.items():
        store.store(group="algo", name=f"base_{name}", node=schema)
    for name in TASKS:
        store.store(group="task", name=f"base_{name}", node=_task_node(load(name).Config))


@functools.cache
def _task_node(settings: type) -> type:
    """A task's own settings plus its name and training defaults, as one schema."""
    extra = [
        ("name", str, field(default=MISSING)),
        ("train", dict[str, Any], field(default_factory=dict)),
    ]
    return dataclasses.make_dataclass(f"{settings.__qualname__}Node", extra, bases=(settings,))


def from_record(record: DictConfig) -> DictConfig:
    """Gives a recorded config.yaml, which is plain values, its types back."""
    from madpo_isaac.tasks.registry import load

    typed = OmegaConf.structured(Config)
    for group in ("task", "algo", "sim"):
        if not OmegaConf.select(record, f"{group}.name"):
            raise UserError(f"The configuration does not say which {group} it is for.")
    algo, sim = record.algo.name, record.sim.name
    if algo not in ALGO_SCHEMAS:
        raise unknown("algo", algo, ALGO_SCHEMAS)
    if sim not in SIM_SCHEMAS:
        raise unknown("sim", sim, SIM_SCHEMAS)
    typed.task = OmegaConf.structured(_task_node(load(record.task.name).Config))
    typed.algo = OmegaConf.structured(ALGO_SCHEMAS[algo])
    typed.sim = OmegaConf.structured(SIM_SCHEMAS[sim])
    merged = OmegaConf.merge(typed, record)
    assert isinstance(merged, DictConfig)
    return merged


def task_settings(task_node: Any) -> dict[str, Any]:
    """The overrides for :func:`tasks.make` in a composed task node."""
    return _without(task_node, "name", "train")


def sim_settings(sim_node: Any) -> dict[str, Any]:
    """The ``sim_settings`` for :func:`tasks.make` in a composed sim node."""
    return _without(sim_node, "name")


def _without(node: Any, *left_out: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.structured(node), resolve=True)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items() if k not in left_out}
