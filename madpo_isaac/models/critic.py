"""Critics: V(s) of the joint state, or one value per agent of its own observation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from madpo_isaac.models.actor import Actors
from madpo_isaac.models.mlp import FlatAdam
from madpo_isaac.models.moments import Moments, RowMoments
from madpo_isaac.models.networks import NETWORKS
from madpo_isaac.models.protocol import Networks
from madpo_isaac.system.distributed import ALONE, Ranks


class ValueNetworks(ABC):
    """Base of the critics; their outputs are normalized values."""

    stack: Networks
    value_shape: tuple[int, ...]
    """Shape of the values of one joint state."""
    num_sharing: int
    """Agents per network."""
    moments: list[Moments]
    """Moments of the input; none if the input is not normalized, or if the actors normalize it."""

    @abstractmethod
    def inputs(self, state: Tensor) -> Sequence[Tensor]:
        """Returns the inputs of the first layers at joint states (B, S). (B, in_dim) each"""

    @abstractmethod
    def evaluate(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns normalized values at :meth:`inputs`, differentiable. (B, *value_shape)"""

    def __call__(self, state: Tensor) -> Tensor:
        """Returns normalized values of joint states (B, S), differentiable. (B, *value_shape)"""
        return self.evaluate(self.inputs(state))

    @abstractmethod
    def update_moments(self, state: Tensor, moments: RowMoments, ranks: Ranks = ALONE) -> None:
        """Takes joint states (B, S), whose moments are given, into the running moments, if any."""

    def optimizer(self, lr: float, max_grad_norm: float) -> FlatAdam:
        """Returns the optimizer of all networks."""
        row = 0 if self.stack.num_rows == 1 else slice(None)
        return FlatAdam(self.stack, row, lr, max_grad_norm)

    @torch.no_grad()
    def values(self, state: Tensor, tile: int) -> Tensor:
        """Returns the values at (B, S) in slices of ``tile`` rows, without gradient."""
        return torch.cat([self(rows) for rows in state.split(tile)])


class Critic(ValueNetworks):
    """One value network on the joint state; its output is the normalized value.

    Args:
        state_dim: width S of the joint state.
        hidden: hidden layer widths.
        activation: see :data:`madpo_isaac.models.mlp.ACTIVATIONS`.
        generator: draws the initial weights.
        device: where the parameters live.
        view: maps joint states to the input of the network, see
            :meth:`madpo_isaac.env.VecEnv.critic_view`; None for the states themselves.
        normalize: normalize the input by running moments.
        input_norm: a LayerNorm comes before the first layer.
        hidden_norm: a LayerNorm comes after every hidden layer.
        network: kind of network, one of :data:`madpo_isaac.models.NETWORKS`.
    """

    value_shape = ()
    num_sharing = 1

    def __init__(
        self,
        state_dim: int,
        hidden: Sequence[int],
        *,
        activation: str,
        generator: torch.Generator,
        device: torch.device,
        view: Callable[[Tensor], Tensor] | None = None,
        normalize: bool = False,
        input_norm: bool = True,
        hidden_norm: bool = True,
        network: str = "mlp",
    ) -> None:
        self._view = view
        self.moments = [Moments.initial(state_dim, device)] if normalize else []
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

    def inputs(self, state: Tensor) -> Sequence[Tensor]:
        """Returns the input of the network's first layer at joint states (B, S). (B, in_dim)"""
        seen = self._seen(state)
        if self.moments:
            seen = self.moments[0].normalize(seen)
        return [self.stack.prepare(seen)]

    def evaluate(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns normalized values at :meth:`inputs`, differentiable. (B,)"""
        return self.stack.apply(0, inputs[0])[:, 0]

    def update_moments(self, state: Tensor, moments: RowMoments, ranks: Ranks = ALONE) -> None:
        """Takes joint states (B, S), whose moments are given, into the running moments, if any."""
        seen = self._seen(state)
        if seen is not state:
            moments = RowMoments.of(seen, ranks)
        self.moments = [own.merged(moments) for own in self.moments]

    def _seen(self, state: Tensor) -> Tensor:
        return state if self._view is None else self._view(state)


class LocalCritic(ValueNetworks):
    """A value per agent of its own observation.

    The networks have the same inputs as the actors' (:meth:`Actors.inputs`), and they are shared if
    the actors' are.

    Args:
        actors: policies whose observations are valued.
        hidden: hidden layer widths.
        activation: see :data:`madpo_isaac.models.mlp.ACTIVATIONS`.
        generator: draws the initial weights.
        device: where the parameters live.
        input_norm: a LayerNorm comes before the first layer.
        hidden_norm: a LayerNorm comes after every hidden layer.
        network: kind of network, one of :data:`madpo_isaac.models.NETWORKS`.
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
        self.num_sharing = num_agents // self.stack.num_rows

    def inputs(self, state: Tensor) -> Sequence[Tensor]:
        """Returns the input of each agent's first layer at joint states (B, S). (B, in_dim) each"""
        agents = enumerate(self._actors.agents)
        return [self._actors.inputs(p, agent.observe(state)) for p, agent in agents]

    def evaluate(self, inputs: Sequence[Tensor]) -> Tensor:
        """Returns each agent's normalized value at :meth:`inputs`, differentiable. (B, P)"""
        values = [self.stack.apply(p, x)[:, 0] for p, x in enumerate(inputs)]
        return torch.stack(values, dim=1)

    def update_moments(self, state: Tensor, moments: RowMoments, ranks: Ranks = ALONE) -> None:
        """Does nothing, since the moments are the actors'."""
