"""The centralised critic V(s) on the joint state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from madpo_isaac.models.mlp import FlatAdam, MLPStack


class Critic:
    """One value network on the joint state; its output is the normalised value.

    Args:
        state_dim: width S of the joint state.
        hidden: hidden layer widths.
        activation: see :data:`madpo_isaac.models.mlp.ACTIVATIONS`.
        generator: draws the initial weights.
        device: where the parameters live.
        view: maps joint states to what the network sees, see
            :meth:`madpo_isaac.env.VecEnv.critic_view`; None for the states themselves.
    """

    def __init__(
        self,
        state_dim: int,
        hidden: Sequence[int],
        *,
        activation: str,
        generator: torch.Generator,
        device: torch.device,
        view: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._view = view
        self.stack = MLPStack(
            [state_dim],
            hidden,
            [1],
            activation=activation,
            output_gain=1.0,
            generator=generator,
            device=device,
        )

    def __call__(self, state: Tensor) -> Tensor:
        """Returns normalised values of joint states (B, S), differentiable. (B,)"""
        seen = state if self._view is None else self._view(state)
        return self.stack.forward(0, seen)[:, 0]

    def optimiser(self, lr: float, max_grad_norm: float) -> FlatAdam:
        """Returns the critic's optimiser."""
        return FlatAdam(self.stack, 0, lr, max_grad_norm)

    @torch.no_grad()
    def values(self, state: Tensor, tile: int) -> Tensor:
        """Returns normalised values of (B, S) in slices of ``tile`` rows, no gradient. (B,)"""
        return torch.cat([self(rows) for rows in state.split(tile)])
