"""Gaussian policies of all agents over stacked networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from madpo_isaac.env import AgentSpec
from madpo_isaac.models.mlp import FlatAdam
from madpo_isaac.models.moments import Moments, RowMoments
from madpo_isaac.models.networks import NETWORKS
from madpo_isaac.models.protocol import Network, NetworkSettings
from madpo_isaac.system.distributed import ALONE, Ranks


class Decision(NamedTuple):
    """Decision of the policies in N environments with P agents and A joint actions."""

    action: Tensor
    """Sampled joint action, unbounded. (N, A)"""
    log_prob: Tensor
    """Log-density of each agent's part of it. (N, P)"""


@dataclass(frozen=True)
class Std:
    """The standard deviation as a function of a network's parameter ``log_std``.

    exp(log_std / scale), or with a ``largest`` value HARL's largest * sigmoid(log_std / scale),
    there with initial 0.3655, largest 0.5 and scale 1. The larger the scale, the slower the
    standard deviation follows the gradient.
    """

    initial: float
    largest: float | None = None
    """Limit of the sigmoid form; None for the exponential one, which has none."""
    scale: float = 1.0

    @property
    def start(self) -> float:
        """Initial value of ``log_std``."""
        if self.largest is None:
            return self.scale * math.log(self.initial)
        return self.scale * math.log(self.initial / (self.largest - self.initial))

    def __call__(self, log_std: Tensor) -> Tensor:
        """Returns the standard deviation, of any shape."""
        if self.largest is None:
            return torch.exp(log_std / self.scale)
        return self.largest * torch.sigmoid(log_std / self.scale)


class Actors:
    """Diagonal Gaussian policies, one per agent, with state-independent standard deviation.

    The standard deviation is a function of a parameter, ``log_std``, see :class:`Std`. Samples are
    not clipped here.

    The input of a network is :meth:`inputs`: the agent's observation, normalized by running
    moments if asked for. With ``shared`` all agents have one network of the largest agent's widths.
    Its input then starts with the agent's number as a one-hot vector (P,). Padding changes no
    density and no gradient, since it comes after the statistics of the first LayerNorm and is cut
    off elsewhere.

    With ``value_head`` every network has one more output, the first one, that predicts the return.
    It serves learning only: its loss shapes the hidden layers.

    Args:
        agents: the agents, whose actions together cover the joint action once.
        networks: what kind of networks.
        std: the standard deviation as a function of ``log_std``.
        output_gain: initial gain of the mean's layer.
        shared: all agents have the same parameters.
        normalize: normalize observations by running moments.
        value_head: networks predict the return, too.
    """

    def __init__(
        self,
        agents: Sequence[AgentSpec],
        networks: NetworkSettings,
        *,
        std: Std,
        output_gain: float,
        shared: bool = False,
        normalize: bool = False,
        value_head: bool = False,
    ) -> None:
        self.agents, device = tuple(agents), networks.device
        self.heads = int(value_head)
        """Outputs of a network that come before the mean action."""
        dims = [agent.act_dim for agent in agents]
        self.numbers = torch.eye(len(dims), device=device) if shared else None
        """One-hot vectors that tell a shared network its agent. (P, P)"""
        self.moments = [Moments.initial(agent.obs_dim, device) for agent in agents if normalize]
        """Moments of each agent's observations; none if they are not normalized. The list is
        replaced, not changed, so that frozen policies keep theirs."""
        self.stack = NETWORKS[networks.kind](
            networks,
            [agent.obs_dim + shared * len(dims) for agent in agents],
            [self.heads + dim for dim in dims],
            output_gain=output_gain,
            vectors={"log_std": max(dims)},
            shared=shared,
        )
        self.std = std
        self.reset_std()
        # Column a of the joint action is column source[a] of the padded, agent-major outputs.
        action_dim = sum(dims)
        source = torch.empty(action_dim, dtype=torch.long)
        owner = torch.zeros(action_dim, len(dims))
        for p, agent in enumerate(agents):
            columns = torch.arange(action_dim)[_on_cpu(agent.action_slice)]
            source[columns] = p * max(dims) + torch.arange(dims[p])
            owner[columns, p] = 1.0
        self.source, self.owner = source.to(device), owner.to(device)

    def optimizers(self, lr: float, max_grad_norm: float, beta1: float = 0.9) -> list[FlatAdam]:
        """Returns one optimizer per agent, or the only one if the parameters are shared."""
        rows = range(self.stack.num_rows)
        return [FlatAdam(self.stack, row, lr, max_grad_norm, beta1) for row in rows]

    def reset_std(self) -> None:
        """Sets all standard deviations to their initial value."""
        self.stack.stacked["log_std"].fill_(self.std.start)

    def update_moments(self, state: Tensor, moments: RowMoments, ranks: Ranks = ALONE) -> None:
        """Takes the agents' observations into their moments, if they have any.

        Args:
            state: joint states, from which agents compute their observations. (B, S)
            moments: those of ``state``, for agents that observe columns of it.
            ranks: the processes whose observations are taken in.
        """
        seen = (
            RowMoments.of(agent.observe(state), ranks)
            if agent.columns is None
            else moments.select(agent.columns)
            for agent in self.agents
        )
        self.moments = [own.merged(rows) for own, rows in zip(self.moments, seen, strict=False)]

    def inputs(self, p: int, obs: Tensor) -> Tensor:
        """Returns the input of agent p's first layer at observations (B, obs_dim). (B, in_dim)"""
        return self.stack.prepare(inputs(p, obs, self.moments, self.numbers))

    def distribution(
        self, p: int, obs: Tensor, net: Network | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean (B, act_dim) and standard deviation (act_dim,) of agent p.

        Args:
            p: the agent.
            obs: its :meth:`inputs`. (B, in_dim)
            net: its parameters if they are not the current ones.
        """
        mean, std, _ = self.outputs(p, obs, net)
        return mean, std

    def outputs(
        self, p: int, obs: Tensor, net: Network | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The :meth:`distribution`, and the value (B,) that the network predicts, if it does."""
        log_std = (self.stack.nets[p] if net is None else net)["log_std"]
        std = self.std(log_std[: self.agents[p].act_dim])
        out = self.stack.apply(p, obs, net)
        return out[:, self.heads :], std, out[:, 0] if self.heads else None

    def freeze(self) -> JointPolicy:
        """Returns the policies as they are now, for fast joint evaluation."""
        return JointPolicy(self)


class JointPolicy:
    """Policies of all agents at one moment, evaluated together and without gradient."""

    @torch.no_grad()
    def __init__(self, actors: Actors) -> None:
        self._networks = actors.stack.fold()
        self._inputs = partial(inputs, moments=actors.moments, numbers=actors.numbers)
        self._source, self._owner, self._heads = actors.source, actors.owner, actors.heads
        log_std = actors.stack.stacked["log_std"].expand(len(actors.agents), -1)
        log_std = log_std.flatten()[self._source]
        self.std = actors.std(log_std)
        """Standard deviation of the joint action. (A,)"""
        self._log_norm = self.std.log() + 0.5 * math.log(2.0 * math.pi)

    @torch.no_grad()
    def distribution(self, observations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean (N, A) and std (A,) at each agent's observations, a list of (N, obs_dim)."""
        seen = [self._inputs(p, obs) for p, obs in enumerate(observations)]
        means = self._networks(seen)[..., self._heads :]  # (P, N, max act_dim)
        return means.transpose(0, 1).flatten(1)[:, self._source], self.std

    @torch.no_grad()
    def act(self, observations: Sequence[Tensor], generator: torch.Generator) -> Decision:
        """Samples the joint action at each agent's observations, a list of (N, obs_dim)."""
        mean, std = self.distribution(observations)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        per_dim = -0.5 * noise.square() - self._log_norm
        return Decision(torch.addcmul(mean, std, noise), per_dim @ self._owner)


def inputs(p: int, obs: Tensor, moments: Sequence[Moments], numbers: Tensor | None) -> Tensor:
    """Returns the input of agent p's network from its observations (B, obs_dim). (B, in_dim)

    Args:
        p: the agent.
        obs: its observations.
        moments: normalize each agent's observations; empty for observations as they are.
        numbers: one-hot vectors (P, P) that come first; None for none.
    """
    if moments:
        obs = moments[p].normalize(obs)
    if numbers is None:
        return obs
    return torch.cat((numbers[p].expand(len(obs), -1), obs), dim=1)


def log_prob(mean: Tensor, std: Tensor, action: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian, summed over dimensions. (B, d), (d,), (B, d) -> (B,)"""
    z = (action - mean) / std
    return -0.5 * z.square().sum(-1) - (std.log() + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def entropy(std: Tensor) -> Tensor:
    """Differential entropy of a diagonal Gaussian, in nats. (..., d) -> (...)"""
    return (std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


def _on_cpu(columns: slice | Tensor) -> slice | Tensor:
    return columns if isinstance(columns, slice) else columns.cpu()
