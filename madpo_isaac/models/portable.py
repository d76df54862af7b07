"""One agent's policy as an ordinary module, to be taken out of the program."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from madpo_isaac.env import Command, Reading
from madpo_isaac.models.actor import Actors
from madpo_isaac.models.moments import LIMIT


class PortablePolicy(nn.Module):
    """Mean action of one agent, with all steps before and after its network.

    The input is the agent's observation (B, obs_dim), or the joint state (B, S) if the observation
    is computed from it (``AgentSpec.columns`` is None). The input is clipped as in the
    environment, turned into the observation, normalized, joined to the agent's number if the
    network is shared, and mapped. The outputs are the ``action`` (B, act_dim) within its limits,
    and the commanded quantity, offset + scale * action (B, act_dim).

    Args:
        actors: the policies.
        p: the agent.
        readings: meaning of the columns of the joint state.
        commands: meaning of the columns of the joint action.
    """

    obs_low: Tensor
    obs_high: Tensor
    mean: Tensor
    inverse_std: Tensor
    number: Tensor
    low: Tensor
    high: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(
        self, actors: Actors, p: int, readings: Sequence[Reading], commands: Sequence[Command]
    ) -> None:
        super().__init__()
        agent = actors.agents[p]
        seen = list(readings)
        self._observe: Callable[[Tensor], Tensor] | None = agent.observe
        if agent.columns is not None:
            seen, self._observe = [seen[i] for i in agent.columns.tolist()], None
        moved = [commands[i] for i in agent.action_columns]
        self._keep("obs_low", [x.low for x in seen])
        self._keep("obs_high", [x.high for x in seen])
        self._keep("low", [x.low for x in moved])
        self._keep("high", [x.high for x in moved])
        self._keep("scale", [x.scale for x in moved])
        self._keep("offset", [x.offset for x in moved])
        self._normalized = bool(actors.moments)
        if self._normalized:
            shift, scale = actors.moments[p].shift_and_scale
            self._keep("mean", shift)
            self._keep("inverse_std", scale)
        self._shared = actors.numbers is not None
        if actors.numbers is not None:
            self._keep("number", actors.numbers[p])
        self._heads = actors.heads  # which serve learning only
        self.network = actors.stack.module(p).requires_grad_(False)

    def _keep(self, name: str, values: Sequence[float] | Tensor) -> None:
        kept = torch.as_tensor(values, dtype=torch.float32).detach().cpu().clone()
        self.register_buffer(name, kept)

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Returns action and command (B, act_dim) each."""
        x = seen.clamp(self.obs_low, self.obs_high)
        if self._observe is not None:
            x = self._observe(x)
        if self._normalized:
            x = ((x - self.mean) * self.inverse_std).clamp(-LIMIT, LIMIT)
        if self._shared:
            x = torch.cat((self.number.expand(x.shape[0], -1), x), dim=1)
        action = self.network(x)[:, self._heads :].clamp(self.low, self.high)
        return action, self.offset + self.scale * action
