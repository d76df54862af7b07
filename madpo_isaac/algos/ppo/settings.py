"""The settings of rl_games' PPO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import MISSING

from madpo_isaac.algos.settings import LR_SCHEDULES, RunSettings
from madpo_isaac.errors import UserError
from madpo_isaac.settings import integer, not_negative, one_of, positive, setting, unit, widths

ACTIVATIONS = ("elu", "gelu", "relu", "selu", "swish", "tanh")


@dataclass
class PpoConfig:
    """Single-agent PPO over the joint action, by rl_games; the names are that library's."""

    recipe_keys: ClassVar[tuple[str, ...]] = ()
    rounds_products: ClassVar[bool] = False
    name: str = MISSING
    horizon: int = setting(75, integer())
    """Steps collected per environment and iteration."""
    num_minibatches: int = setting(4, integer())
    """Minibatches of a pass, all of one size: the number must divide num_envs * horizon."""
    mini_epochs: int = setting(5, integer())
    """Passes of an update over the rollout."""
    gamma: float = setting(0.99, unit)
    """Discount factor of a step."""
    tau: float = setting(0.95, unit)
    """The lambda of generalized advantage estimation. The name is rl_games' own; the other
    algorithms call it ``gae_lambda``."""
    value_bootstrap: bool = True
    """True: gamma times the value of the state before a truncated step is added to its reward;
    False: nothing is added."""
    lr: float = setting(5e-4, positive)
    """Learning rate; the first one if it is adaptive."""
    lr_schedule: str = setting("adaptive", one_of(LR_SCHEDULES))
    """adaptive: the rate follows kl_threshold; linear: it decays to 1e-6 over max_iterations;
    constant."""
    kl_threshold: float = setting(0.016, positive)
    """KL per mini-epoch, in nats, that the adaptive schedule aims at."""
    e_clip: float = setting(0.2, positive)
    """Clip range of the policy ratio and, with clip_value, of the value update."""
    clip_value: bool = True
    """True: the value update is clipped, too."""
    entropy_coef: float = setting(0.0, not_negative)
    """Weight of the entropy bonus."""
    critic_coef: float = setting(4.0, not_negative)
    """Weight of the value loss."""
    bounds_loss_coef: float = setting(1e-4, not_negative)
    """Weight of the penalty on mean actions beyond 1.1."""
    grad_norm: float = setting(1.0, positive)
    """Gradients are clipped to this norm."""
    reward_scale: float = setting(1.0, positive)
    """The learner multiplies the task's rewards by this; reported returns are the task's."""
    normalize_input: bool = True
    """True: inputs are normalized by running moments."""
    normalize_value: bool = True
    """True: returns are normalized by running moments."""
    normalize_advantage: bool = True
    """True: advantages are normalized in each rollout."""
    hidden: list[int] = setting([512, 512, 256, 128], widths)
    """Widths of the trunk that policy and value share."""
    activation: str = setting("elu", one_of(ACTIVATIONS))
    """Function after every hidden layer."""

    def take(self, recipe: Callable[[str], Any]) -> None:
        """Does nothing, since PPO takes all of its numbers from its YAML file."""
        del recipe

    def check(self, run: RunSettings) -> None:
        """See :meth:`madpo_isaac.algos.settings.AlgoConfig.check`."""
        if run.multi_gpu:
            raise UserError(
                "multi_gpu=True does not work with algo=ppo, whose learner is that of rl_games."
            )
        batch = run.num_envs * self.horizon
        if not run.test and (batch % self.num_minibatches or batch == self.num_minibatches):
            raise UserError(
                f"algo.num_minibatches={self.num_minibatches} must cut the {batch} samples of an "
                f"iteration (num_envs={run.num_envs} x algo.horizon={self.horizon}) into equal "
                "parts of at least 2."
            )
