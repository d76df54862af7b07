"""Critics: V(s) of the joint state, or one value per agent of its own observation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from madpo_isaac.models.actor import Actors
from madpo_isaac.models.mlp import FlatAdam
from madpo_isaac.models.moments import Moments
from madpo_isaac.models.networks import NETWORKS
from madpo_isaac.models.protocol import Networks
from madpo_isaac.system.distributed import ALONE, Ranks


class ValueNetworks(ABC):
    """What the critics have in common; their outputs are normalised values."""

    stack: Networks
    value_shape: tuple[int, ...]
    """Shape of the values of one joint state."""
    sharers: int
    """Agents per network."""
    moments: list[Moments]
    """Of what the networks see; none if that is not normalised, or if the actors do it."""

    @abstractmethod
    def __call__(self, state: Tensor) -> Tensor:
        """Returns normalised values of joint states (B, S), differentiable. (B, *value_shape)"""

    @abstractmethod
    def update_moments(self, state: Tensor, ranks: Ranks = ALONE) -> None:
        """Takes joint states (B, S) into the running moments, if there are any."""

    def optimiser(self, lr: float, max_grad_norm: float) -> FlatAdam:
        """Returns the optimiser of all networks."""
        row = 0 if self.stack.num_rows == 1 else slice(None)
        return FlatAdam(self.stack, row, lr, max_grad_norm)

    @torch.no_grad()
    def values(self, state: Tensor, tile: int) -> Tensor:
        """Returns the values at (B, S) in slices of ``tile`` rows, without gradient."""
        return torch.cat([self(rows) for rows in state.split(tile)])


class Critic(ValueNetworks):
    """One value network on the joint state; its output is the normalised value.

    Args:
        state_dim: width S of the joint state.
        hidden: hidden layer widths.
        activation: see :data:`madpo_isaac.models.mlp.ACTIVATIONS`.
        generator: draws the initial weights.
        device: where the parameters live.
        view: maps joint states to what the network sees, see
            :meth:`madpo_isaac.env.VecEnv.critic_view`; None for the states themselves.
        normalise: normalise what the network sees by running moments.
        input_norm: a LayerNorm comes before the first layer.
        hidden_norm: a LayerNorm comes after every hidden layer.
        network: what kind of network, one of :data:`madpo_isaac.models.NETWORKS`.
    """

    value_shape = ()
    sharers = 1

    def __init__(
        self,
        state_dim: int,
        hidden: Sequence[int],
        *,
        activation: str,
        generator: torch.Generator,
        device: torch.device,
        view: Callable[[Tensor], Tensor] | None = None,
        normalise: bool = False,
        input_norm: bool = True,
        hidden_norm: bool = True,
        network: str = "mlp",
    ) -> None:
        self._view = view
        self.moments = [Moments.initial(state_dim, device)] if normalise else []
        self.stack = NETWORKS[network](
            [state_dim],
            hidden,
            [1],
            activation=activation,
            output_gain=1.0,
            generator=generator,
            device=device,
            input_norm=input_norm,
            hidden_norm=hidden_norm,
        )

    def __call__(self, state: Tensor) -> Tensor:
        """Returns normalised values of joint states (B, S), differentiable. (B,)"""
        seen = self._seen(state)
        if self.moments:
            seen = self.moments[0].normalise(seen)
        return self.stack.apply(0, self.stack.prepare(seen))[:, 0]

    def update_moments(self, state: Tensor, ranks: Ranks = ALONE) -> None:
        """Takes joint states (B, S) into the running moments, if there are any."""
        self.moments = [moments.merged(self._seen(state), ranks) for moments in self.moments]

    def _seen(self, state: Tensor) -> Tensor:
        return state if self._view is None else self._view(state)


class LocalCritic(ValueNetworks):
    """A value per agent of its own observation.

    The networks see what the actors' do (:meth:`Actors.inputs`) and are shared if those are.

    Args:
        actors: whose observations are valued.
        hidden: hidden layer widths.
        activation: see :data:`madpo_isaac.models.mlp.ACTIVATIONS`.
        generator: draws the initial weights.
        device: where the parameters live.
        input_norm: a LayerNorm comes before the first layer.
        hidden_norm: a LayerNorm comes after every hidden layer.
        network: what kind of network, one of :data:`madpo_isaac.models.NETWORKS`.
    """

    def __init__(
        self,
        actors: Actors,
        hidden: Sequence[int],
        *,
        activation: str,
        generator: torch.Generator,
        device: torch.device,
        input_norm: bool = True,
        hidden_norm: bool = True,
        network: str = "mlp",
    ) -> None:
        self._actors, self.moments = actors, []
        num_agents = len(actors.agents)
        self.value_shape = (num_agents,)
        self.stack = NETWORKS[network](
            actors.stack.in_dims,
            hidden,
            [1] * num_agents,
            activation=activation,
            output_gain=1.0,
            generator=generator,
            device=device,
            shared=actors.stack.num_rows == 1,
            input_norm=input_norm,
            hidden_norm=hidden_norm,
        )
        self.sharers = num_agents // self.stack.num_rows

    def __call__(self, state: Tensor) -> Tensor:
        """Returns each agent's normalised value at joint states (B, S), differentiable. (B, P)"""
        values = []
        for p, agent in enumerate(self._actors.agents):
            seen = self._actors.inputs(p, agent.observe(state))
            values.append(self.stack.apply(p, seen)[:, 0])
        return torch.stack(values, dim=1)

    def update_moments(self, state: Tensor, ranks: Ranks = ALONE) -> None:
        """Does nothing: the moments are the actors'."""
