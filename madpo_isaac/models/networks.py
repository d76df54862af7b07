"""The registry of networks: each has a name for the command line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from torch import nn

from madpo_isaac.models.mlp import MLPStack
from madpo_isaac.models.modules import ModuleStack
from madpo_isaac.models.protocol import Networks
from madpo_isaac.plugins import refuse_taken

Kind = TypeVar("Kind", bound=type[nn.Module])

NETWORKS: dict[str, Callable[..., Networks]] = {"mlp": MLPStack}
"""Builders of the networks of all agents; each takes the arguments of :class:`MLPStack`."""

_owners: dict[str, str] = {"mlp": MLPStack.__module__}


def register_network(name: str) -> Callable[[Kind], Kind]:
    """Returns a decorator that makes a module's class a network: ``algo.network=<name>``.

    The class is called with a :class:`madpo_isaac.models.modules.NetworkSpec`; its objects map
    (B, in_dim) to (B, out_dim).

    Raises:
        UserError: another network has this name.
    """

    def add(kind: Kind) -> Kind:
        refuse_taken("a network", name, _owners.get(name), kind.__module__)
        NETWORKS[name], _owners[name] = partial(ModuleStack, kind), kind.__module__
        return kind

    return add
