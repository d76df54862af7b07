"""One iteration's experience, and the advantages computed from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from madpo_isaac.env import VecEnv


@dataclass
class Rollout:
    """T steps of N environments, P agents; the joint state and action are stored once."""

    state: Tensor
    """Joint state an action was chosen in. (T, N, S)"""
    action: Tensor
    """Joint action as sampled. (T, N, A)"""
    log_prob: Tensor
    """Log-density of each agent's part. (T, N, P)"""
    reward: Tensor
    """(T, N)"""
    terminated: Tensor
    """(T, N) bool"""
    truncated: Tensor
    """(T, N) bool"""
    final_value: Tensor
    """Normalized values of the state that a truncated step led to, else 0. (T, N, *value_shape)"""
    last_state: Tensor
    """Joint state after the last step. (N, S)"""
    valid: Tensor
    """False where the environment went bad: nothing is learned from that step. (T, N) bool"""
    all_valid: bool = field(default=False, init=False)
    """True if all steps are known to be valid, so that nothing has to be read from the device."""

    @classmethod
    def allocate(cls, env: VecEnv, horizon: int, value_shape: tuple[int, ...] = ()) -> Rollout:
        """Returns an empty rollout of ``horizon`` steps for ``env``.

        ``value_shape`` is that of the critic's values of one state: () or (P,).
        """
        shape, device = (horizon, env.num_envs), env.device

        def zeros(*width: int) -> Tensor:
            return torch.zeros(*shape, *width, device=device)

        return cls(
            state=zeros(env.state_dim),
            action=zeros(env.action_dim),
            log_prob=zeros(len(env.agents)),
            reward=zeros(),
            terminated=zeros().bool(),
            truncated=zeros().bool(),
            final_value=zeros(*value_shape),
            last_state=torch.zeros(env.num_envs, env.state_dim, device=device),
            valid=torch.ones(shape, dtype=torch.bool, device=device),
        )

    def valid_rows(self) -> Tensor | None:
        """Indices (B,) of the valid ones among the flattened T N steps; None if all are."""
        if self.all_valid or self.valid.all():
            return None
        return self.valid.flatten().nonzero()[:, 0]


def gae(
    reward: Tensor,
    value: Tensor,
    next_value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    gae_lambda: float,
    time_limit: str = "bootstrap",
    trace: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Generalized advantage estimation (Schulman et al., 2016).

    Args:
        reward: (T, N)
        value: value of the state each action was chosen in. (T, N), or (T, N, P) for each of P
            agents, as are then ``next_value`` and the advantages.
        next_value: value of the state the step led to; at a truncated step that of the state
            before the reset. (T, N)
        terminated: nothing follows, so ``next_value`` does not count. (T, N) bool
        truncated: the episode was cut, so the trace stops but ``next_value`` counts. (T, N) bool
        gamma: discount.
        gae_lambda: trace decay.
        time_limit: ``bootstrap`` adds ``next_value`` at a truncated step; ``drop`` gives the step
            an advantage of 0, as HARL does, before the batch is normalized.
        trace: weights in [0, 1] of an off-policy correction: the advantage of step t is multiplied
            by ``trace[t]`` when it is carried back to step t - 1. (T, N)
        valid: False for steps that do not count. Such a step has advantage 0, and the steps before
            it end at the value of the state in which it started. (T, N) bool; None if all steps
            are valid.

    Returns:
        Advantages. (T, N)
    """
    reward, terminated, truncated = (
        append_dimensions(x, value) for x in (reward, terminated, truncated)
    )
    delta = reward + gamma * next_value.masked_fill(terminated, 0.0) - value
    if time_limit == "drop":
        delta = delta.masked_fill(truncated, 0.0)
    decay = gamma * gae_lambda * (~(terminated | truncated)).to(delta.dtype)
    if valid is not None:
        invalid = ~append_dimensions(valid, value)
        delta, decay = delta.masked_fill(invalid, 0.0), decay.masked_fill(invalid, 0.0)
    if trace is not None:
        decay[:-1] *= trace[1:]
    advantage = delta.clone()
    for t in range(len(delta) - 2, -1, -1):
        advantage[t].addcmul_(decay[t], advantage[t + 1])
    return advantage


def append_dimensions(x: Tensor, value: Tensor) -> Tensor:
    """``x`` with further dimensions of size 1 until it has as many as ``value``."""
    return x.reshape(x.shape + (1,) * (value.dim() - x.dim()))
