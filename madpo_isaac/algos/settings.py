"""The settings that all on-policy algorithms have, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from omegaconf import MISSING

from madpo_isaac.errors import UserError
from madpo_isaac.models import NETWORKS, NetworkSettings
from madpo_isaac.models.mlp import ACTIVATIONS
from madpo_isaac.settings import (
    decay,
    integer,
    not_negative,
    one_of,
    positive,
    setting,
    unit,
    widths,
)

LR_SCHEDULES = ("adaptive", "linear", "constant")
AGENT_ORDERS = ("random", "default", "spec")
TIME_LIMITS = ("bootstrap", "drop")
ENTROPIES = ("mean", "sum")
INPUT_NORMS = ("running", "layer", "both", "none")
HIDDEN_NORMS = ("layer", "none")
ON_RESTORE = ("keep", "initial")


class RunSettings(Protocol):
    """The settings of a run on which the checks of its algorithm's settings depend."""

    num_envs: int
    test: bool
    multi_gpu: bool


@dataclass
class AlgoConfig:
    """Hyper-parameters every on-policy algorithm has."""

    recipe_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that a recipe may have for this algorithm only, in its parts ``algos``."""
    rounds_products: ClassVar[bool] = True
    """True if the networks' matrix products may be less precise than float32."""

    name: str = MISSING
    horizon: int = setting(75, integer())
    """Steps collected per environment and iteration."""
    gamma: float = setting(0.99, unit)
    """Discount factor of a step."""
    gae_lambda: float = setting(0.95, unit)
    """Lambda of generalized advantage estimation."""
    time_limit: str = setting("bootstrap", one_of(TIME_LIMITS))
    """Treatment of a truncated step. bootstrap: the value of its final state is added; drop: its
    advantage is 0 (HARL)."""
    actor_lr: float | None = setting(5e-4, positive)
    """Learning rate of the policies; its initial value if the schedule is adaptive."""
    critic_lr: float = setting(5e-4, positive)
    """Learning rate of the critic."""
    lr_schedule: str = setting("constant", one_of(LR_SCHEDULES))
    """constant; linear: both rates decay to zero over max_iterations; adaptive: each policy's rate
    follows its KL divergence, and the critic's rate is constant."""
    joint_kl_target: float | None = setting(None, positive)
    """KL(old || new) of the joint policy in one iteration, in nats, that the adaptive schedule aims
    at: the sum over all agents, each of which has an equal share."""
    kl_target: float | None = setting(None, positive)
    """The same for each agent's policy, in place of its share of joint_kl_target."""
    min_lr: float = setting(1e-5, positive)
    """Lower limit of the adaptive rates."""
    max_lr: float = setting(1e-2, positive)
    """Upper limit of the adaptive rates."""
    clip: float = setting(0.2, positive)
    """Clip range of the policy ratio."""
    value_clip: float | None = setting(None, positive)
    """Largest change of a value since the collection (in A2PO since it was last estimated), in
    standard deviations of the return; moving the value further does not lower the loss. null for no
    limit."""
    epochs: int = setting(5, integer())
    """Passes of a policy's update over the rollout."""
    critic_epochs: int = setting(5, integer())
    """Passes of the critic's update over the rollout."""
    critic_warmup: int = setting(0, integer(0))
    """Environment steps at the start of a run in which only the critic learns. 0 unless the run
    begins with a policy, whose file has no critic."""
    num_minibatches: int = setting(1, integer())
    """Minibatches of a pass, with about equal numbers of samples."""
    entropy_coef: float = setting(0.01, not_negative)
    """Weight of the entropy bonus."""
    entropy: str = setting("mean", one_of(ENTROPIES))
    """mean: entropy_coef times the mean entropy of a minibatch; sum: times its sum, a slip of
    MADPO's released code, kept for reproduction."""
    value_coef: float = setting(1.0, not_negative)
    """Weight of the critic's loss."""
    value_aux_coef: float = setting(0.0, not_negative)
    """Weight of an auxiliary loss of the policies: each network also predicts the normalized return
    (smooth L1 loss); 0 for networks without this output. The hidden layers then learn features of
    the value, as they would in a trunk that policy and critic share."""
    huber_delta: float = setting(10.0, positive)
    """Error of a value, in standard deviations of the return, beyond which its loss is linear."""
    actor_beta1: float = setting(0.9, decay)
    """Adam's beta1 for the policies: the factor by which the weight of a gradient in the mean of
    the last gradients falls with every step. An iteration has epochs * num_minibatches steps. The
    critic has 0.9."""
    max_grad_norm: float = setting(10.0, positive)
    """Gradients are clipped to this norm."""
    agent_order: str = setting("random", one_of(AGENT_ORDERS))
    """random: a new order each iteration; default: by index; spec: grouped by role (Fig. 9)."""
    network: str = setting("mlp", one_of(NETWORKS))
    """Kind of the policies' and critics' networks: mlp, residual, or one of your own."""
    hidden: list[int] = setting([256, 256, 256], widths)
    """Widths of the hidden layers."""
    activation: str = setting("relu", one_of(ACTIVATIONS))
    """Function after every hidden layer."""
    init_std: float = setting(1.0, positive)
    """Policies' standard deviation at the start."""
    max_std: float | None = setting(None, positive)
    """null: std is exp(log_std / std_scale); a number: max_std * sigmoid(log_std / std_scale),
    HARL's form, which starts at 0.3655 of at most 0.5."""
    std_scale: float = setting(1.0, positive)
    """Divisor of log_std, see max_std; the larger, the slower the standard deviation changes."""
    output_gain: float = setting(0.01, not_negative)
    """Gain of the orthogonal initialization of a policy's last layer."""
    input_norm: str = setting("running", one_of(INPUT_NORMS))
    """Normalization of the networks' input. running: to mean 0 and variance 1 by running moments,
    clipped to [-5, 5]; layer: LayerNorm; both: running, then layer; none: no normalization."""
    hidden_norm: str = setting("layer", one_of(HIDDEN_NORMS))
    """layer: a LayerNorm follows every hidden layer; none: no LayerNorm there."""
    reward_scale: float = setting(1.0, positive)
    """The learner multiplies the task's rewards by this; reported returns are the task's."""
    std_on_restore: str = setting("keep", one_of(ON_RESTORE))
    """Policies' standard deviation when a run is continued. keep: that of the checkpoint; initial:
    init_std again, each time (the optimizer's moments are the checkpoint's)."""

    @property
    def running_moments(self) -> bool:
        """True if inputs are normalized by running moments."""
        return self.input_norm in ("running", "both")

    def networks(self, generator: torch.Generator, device: torch.device) -> NetworkSettings:
        """Returns the settings of networks on ``device``; ``generator`` draws their weights."""
        return NetworkSettings(
            hidden=self.hidden,
            activation=self.activation,
            generator=generator,
            device=device,
            input_norm=self.input_norm in ("layer", "both"),
            hidden_norm=self.hidden_norm == "layer",
            kind=self.network,
        )

    def take(self, recipe: Callable[[str], Any]) -> None:
        """Takes numbers from the recipe that the YAML file leaves open; none by default."""
        del recipe

    def check(self, run: RunSettings) -> None:
        """Checks rules that involve several settings; each one by itself has been checked before.

        Raises:
            UserError: naming the first bad value.
        """
        self.check_rates()
        if self.max_std is not None and self.init_std >= self.max_std:
            raise UserError(
                f"algo.init_std={self.init_std} must be less than algo.max_std={self.max_std}."
            )
        batch = run.num_envs * self.horizon
        if self.num_minibatches > batch:
            raise UserError(
                f"algo.num_minibatches={self.num_minibatches} exceeds the {batch} samples of an "
                f"iteration (num_envs={run.num_envs} x algo.horizon={self.horizon})."
            )

    def check_rates(self) -> None:
        """Checks the learning rates against their schedule."""
        self.check_limits()
        if self.actor_lr is None:
            raise UserError("algo.actor_lr=null works with hatrpo only: policies need a rate.")
        if self.lr_schedule != "adaptive":
            return
        if self.kl_target is None and self.joint_kl_target is None:
            raise UserError(
                "algo.lr_schedule=adaptive needs algo.joint_kl_target=<nats>, such as 0.1, or "
                "algo.kl_target=<nats> of each agent."
            )
        if not self.min_lr <= self.actor_lr <= self.max_lr:
            raise UserError(
                f"algo.actor_lr={self.actor_lr} must lie between algo.min_lr={self.min_lr} and "
                f"algo.max_lr={self.max_lr}, or be a fixed rate with algo.lr_schedule=constant."
            )

    def check_limits(self) -> None:
        """Checks the limits of the adaptive rates."""
        if self.min_lr > self.max_lr:
            raise UserError(f"algo.min_lr={self.min_lr} must be at most algo.max_lr={self.max_lr}.")
