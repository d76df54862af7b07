"""The learning rates of the actors, which follow a schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.models.mlp import FlatAdam

FACTOR = 1.5
"""Factor by which the adaptive schedule raises or lowers a rate; rl_games' number."""


class ActorRates:
    """One learning rate for each optimizer, as tensors on the device.

    With ``constant`` and ``linear`` all have the same rate. With ``adaptive`` each has its own,
    which changes after every epoch: it is divided by 1.5 if KL(old || new) exceeds twice the
    target, multiplied by 1.5 if the KL is below half of the target, and kept between ``min_lr`` and
    ``max_lr``. The KL is that of the epoch's last minibatch before its step. If an update has one
    step only, that KL is always 0, and the KL after the update takes its place. The target is
    ``kl_target``, or else an equal share of ``joint_kl_target``. Nothing is read from the device.

    Args:
        config: hyper-parameters.
        optimizers: one for each agent, or the only one if agents share their parameters.
        agents: number of agents.
    """

    def __init__(self, config: AlgoConfig, optimizers: Sequence[FlatAdam], agents: int) -> None:
        self._config, self._actor_lr = config, config.actor_lr or 0.0
        self._target = config.kl_target or (config.joint_kl_target or 0.0) / agents
        self._rates = [optimizer.lr for optimizer in optimizers]
        self._agents = agents
        self._one_step = config.epochs * config.num_minibatches == 1

    @property
    def adaptive(self) -> bool:
        """True if the rates follow the KL divergence."""
        return self._config.lr_schedule == "adaptive"

    def of(self, agent: int) -> Tensor:
        """The present rate of ``agent``. ()"""
        return self._rates[agent if len(self._rates) > 1 else 0]

    def begin_low(self) -> None:
        """Lets adaptive rates begin at their lower limit, from where they soon rise.

        The usual first rate is one for untrained policies, which are less sensitive.
        """
        if self.adaptive:
            for rate in self._rates:
                rate.fill_(self._config.min_lr)

    def set_progress(self, done: float) -> None:
        """Sets the rates for ``done`` in [0, 1] of the training, unless they are adaptive."""
        if self.adaptive:
            return
        scale = 1.0 - done if self._config.lr_schedule == "linear" else 1.0
        for rate in self._rates:
            rate.fill_(self._actor_lr * scale)

    def follow(self, index: int, kl: Tensor) -> None:
        """Adapts the rate of optimizer ``index`` to the KL of an epoch, in nats. ()"""
        if self.adaptive and not self._one_step:
            self._adapt(index, kl)

    def follow_update(self, metrics: Mapping[str, Tensor]) -> None:
        """Adapts the rates to the ``agent<i>/kl`` of an update, in nats, if it has one step."""
        if self.adaptive and self._one_step:
            kls = torch.stack([metrics[f"agent{p}/kl"] for p in range(self._agents)])
            for index, kl in enumerate(kls.view(len(self._rates), -1).mean(1)):
                self._adapt(index, kl)

    def _adapt(self, index: int, kl: Tensor) -> None:
        cfg = self._config
        # A KL that is not finite counts as too large.
        slower, faster = ~(kl <= 2.0 * self._target), kl < 0.5 * self._target
        factor = torch.where(slower, 1.0 / FACTOR, torch.where(faster, FACTOR, 1.0))
        rate = self._rates[index]
        rate.copy_((rate * factor).clamp(cfg.min_lr, cfg.max_lr))

    def state_dict(self) -> Tensor:
        """Returns the rates. (number of optimizers,)"""
        return torch.stack(self._rates)

    def load_state_dict(self, rates: Tensor) -> None:
        """Restores :meth:`state_dict`."""
        for rate, saved in zip(self._rates, rates, strict=True):
            rate.copy_(saved)
