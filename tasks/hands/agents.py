"""Agents of two hands."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.env import AgentSpec
from madpo_isaac.tasks.hands.hand import Hand


def make_agents(
    hand: Hand,
    split: object,
    hand_dim: int,
    state_dim: int,
    *,
    floating: bool,
    see_all: bool,
    device: torch.device,
) -> tuple[AgentSpec, ...]:
    """Returns all agents of hand 0, then all of hand 1.

    Args:
        hand: data of the hand.
        split: how a hand is divided, see :meth:`~madpo_isaac.tasks.hands.hand.Hand.agent_parts`,
            or ``joint`` for one agent that moves both hands and sees everything.
        hand_dim: size of a hand's block of the joint state; every agent of the hand sees the whole
            block and the tail behind both blocks.
        state_dim: size of the joint state.
        floating: whether a hand's actions start with those of its base.
        see_all: whether an agent sees the other hand, too: behind its own, before the tail.
        device: where the columns live.
    """
    if split == "joint":
        return (_joint(hand, state_dim, floating=floating, device=device),)
    agents = []
    groups, names = hand.agent_parts(split), list(hand.parts)
    hand_actions = sum(
        len(hand.part_actions(part, floating=floating)) for _, parts in groups for part in parts
    )
    shared = torch.arange(2 * hand_dim, state_dim)
    for h in range(2):
        own = torch.arange(h * hand_dim, (h + 1) * hand_dim)
        other = torch.arange((1 - h) * hand_dim, (2 - h) * hand_dim)
        seen = (own, other, shared) if see_all else (own, shared)
        columns = torch.cat(seen).to(device)
        for name, parts in groups:
            index, roles = [], []
            for part in parts:
                prefix = "" if len(parts) == 1 else f"{names[part]}_"
                for column, role in hand.part_actions(part, floating=floating):
                    index.append(h * hand_actions + column)
                    roles.append(prefix + role)
            agents.append(
                AgentSpec(
                    name=f"hand{h}" if name == "hand" else f"hand{h}_{name}",
                    action_slice=_columns(index, device),
                    obs_dim=len(columns),
                    observe=lambda state, columns=columns: state.index_select(1, columns),
                    role=name,
                    action_roles=tuple(roles),
                    columns=columns,
                )
            )
    return tuple(agents)


def _joint(hand: Hand, state_dim: int, *, floating: bool, device: torch.device) -> AgentSpec:
    """Returns a single agent for both hands; its actions are those of hand 0, then of hand 1."""
    _, parts = hand.agent_parts("hands")[0]
    roles = [role for part in parts for _, role in hand.part_actions(part, floating=floating)]
    return AgentSpec(
        name="hands",
        action_slice=slice(0, 2 * len(roles)),
        obs_dim=state_dim,
        observe=lambda state: state,
        role="hands",
        action_roles=tuple(f"hand{h}_{role}" for h in range(2) for role in roles),
        columns=torch.arange(state_dim, device=device),
    )


def _columns(index: list[int], device: torch.device) -> slice | Tensor:
    """Returns consecutive columns as a slice, which needs no gather."""
    consecutive = index == list(range(index[0], index[0] + len(index)))
    if consecutive:
        return slice(index[0], index[0] + len(index))
    return torch.tensor(index, device=device)
