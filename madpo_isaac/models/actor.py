"""Gaussian policies of all agents over stacked networks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from madpo_isaac.env import AgentSpec
from madpo_isaac.models.mlp import FlatAdam, MLPStack, Network


class Decision(NamedTuple):
    """What the policies did in N environments with P agents and A joint actions."""

    action: Tensor
    """Sampled joint action, unbounded. (N, A)"""
    log_prob: Tensor
    """Log-density of each agent's part of it. (N, P)"""


class Actors:
    """Diagonal Gaussian policies, one per agent, with state-independent standard deviation.

    std = std_y * sigmoid(log_std / std_x), log_std starting at std_x (HARL's parametrisation, so
    std starts at 0.73 std_y). Samples are not clipped here.

    Args:
        agents: the agents, whose actions together cover the joint action once.
        hidden: hidden layer widths.
        activation: see :data:`madpo_isaac.models.mlp.ACTIVATIONS`.
        std_x: scale of log_std.
        std_y: upper limit of the standard deviation.
        output_gain: initial gain of the mean's layer.
        generator: draws the initial weights.
        device: where the parameters live.
    """

    def __init__(
        self,
        agents: Sequence[AgentSpec],
        hidden: Sequence[int],
        *,
        activation: str,
        std_x: float,
        std_y: float,
        output_gain: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        self.agents = tuple(agents)
        dims = [agent.act_dim for agent in agents]
        self.stack = MLPStack(
            [agent.obs_dim for agent in agents],
            hidden,
            dims,
            activation=activation,
            output_gain=output_gain,
            generator=generator,
            device=device,
            vectors={"log_std": max(dims)},
        )
        self.stack.stacked["log_std"].fill_(std_x)
        self.std_x, self.std_y = std_x, std_y
        # Column a of the joint action is column source[a] of the padded, agent-major outputs.
        action_dim = sum(dims)
        source = torch.empty(action_dim, dtype=torch.long)
        owner = torch.zeros(action_dim, len(dims))
        for p, agent in enumerate(agents):
            columns = torch.arange(action_dim)[_on_cpu(agent.action_slice)]
            source[columns] = p * max(dims) + torch.arange(dims[p])
            owner[columns, p] = 1.0
        self.source, self.owner = source.to(device), owner.to(device)

    def optimisers(self, lr: float, max_grad_norm: float) -> list[FlatAdam]:
        """Returns one optimiser per agent."""
        return [FlatAdam(self.stack, p, lr, max_grad_norm) for p in range(len(self.agents))]

    def distribution(
        self, p: int, obs: Tensor, net: Network | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean (B, act_dim) and standard deviation (act_dim,) of agent p at obs (B, obs_dim).

        ``net`` holds its parameters if they are not the current ones.
        """
        net = self.stack.nets[p] if net is None else net
        log_std = net["log_std"][: self.agents[p].act_dim]
        return self.stack.apply(net, obs), self.std_y * torch.sigmoid(log_std / self.std_x)

    def freeze(self) -> JointPolicy:
        """Returns the policies as they are now, for fast joint evaluation."""
        return JointPolicy(self)

    def joint_distribution(self, observations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean (N, A) and std (A,) of the joint action, once; see :class:`JointPolicy`."""
        return self.freeze().distribution(observations)

    def act(self, observations: Sequence[Tensor], generator: torch.Generator) -> Decision:
        """Samples the joint action, once; see :class:`JointPolicy`."""
        return self.freeze().act(observations, generator)


class JointPolicy:
    """All agents' policies at one moment, evaluated together; gives no gradient."""

    @torch.no_grad()
    def __init__(self, actors: Actors) -> None:
        self._networks = actors.stack.fold()
        self._source, self._owner = actors.source, actors.owner
        log_std = actors.stack.stacked["log_std"].flatten()[self._source]
        self.std = actors.std_y * torch.sigmoid(log_std / actors.std_x)
        """Standard deviation of the joint action. (A,)"""
        self._log_norm = self.std.log() + 0.5 * math.log(2.0 * math.pi)

    @torch.no_grad()
    def distribution(self, observations: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Mean (N, A) and std (A,) at each agent's observations, a list of (N, obs_dim)."""
        means = self._networks(observations)  # (P, N, max act_dim)
        return means.transpose(0, 1).flatten(1)[:, self._source], self.std

    @torch.no_grad()
    def act(self, observations: Sequence[Tensor], generator: torch.Generator) -> Decision:
        """Samples the joint action at each agent's observations, a list of (N, obs_dim)."""
        mean, std = self.distribution(observations)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        per_dim = -0.5 * noise.square() - self._log_norm
        return Decision(torch.addcmul(mean, std, noise), per_dim @ self._owner)


def log_prob(mean: Tensor, std: Tensor, action: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian, summed over dimensions. (B, d), (d,), (B, d) -> (B,)"""
    z = (action - mean) / std
    return -0.5 * z.square().sum(-1) - (std.log() + 0.5 * math.log(2.0 * math.pi)).sum(-1)


def entropy(std: Tensor) -> Tensor:
    """Differential entropy of a diagonal Gaussian, in nats. (..., d) -> (...)"""
    return (std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(-1)


def _on_cpu(columns: slice | Tensor) -> slice | Tensor:
    return columns if isinstance(columns, slice) else columns.cpu()
