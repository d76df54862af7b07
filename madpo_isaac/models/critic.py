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
from madpo_isaac.models.protocol import Networks, NetworkSettings
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
        networks: what kind of network.
        view: maps joint states to the input of the network, see
            :meth:`madpo_isaac.env.VecEnv.critic_view`; None for the states themselves.
        normalize: normalize the input by running moments.
    """

    value_shape = ()
    num_sharing = 1

    def __init__(
        self,
        state_dim: int,
        networks: NetworkSettings,
        *,
        view: Callable[[Tensor], Tensor] | None = None,
        normalize: bool = False,
    ) -> None:
        self._view = view
        self.moments = [Moments.initial(state_dim, networks.device)] if normalize else []
        self.stack = NETWORKS[networks.kind](networks, [state_dim], [1], output_gain=1.0)

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
        networks: what kind of networks.
    """

    def __init__(self, actors: Actors, networks: NetworkSettings) -> None:
        self._actors, self.moments = actors, []
        num_agents = len(actors.agents)
        self.value_shape = (num_agents,)
        self.stack = NETWORKS[networks.kind](
            networks,
            actors.stack.in_dims,
            [1] * num_agents,
            output_gain=1.0,
            shared=actors.stack.num_rows == 1,
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
