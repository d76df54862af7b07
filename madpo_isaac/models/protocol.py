"""Protocol of the networks that policies and critics are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Network = Mapping[str, Tensor]
"""Parameters of one network by name."""


@dataclass(frozen=True)
class NetworkSettings:
    """Settings that the networks of policies and of critics have in common."""

    hidden: Sequence[int]
    """Widths of the hidden layers."""
    activation: str
    """One of :data:`madpo_isaac.models.mlp.ACTIVATIONS`."""
    generator: torch.Generator
    """Draws the initial weights, on the CPU, so that devices agree."""
    device: torch.device
    """Device of the parameters."""
    input_norm: bool = True
    """A LayerNorm comes before the first layer."""
    hidden_norm: bool = True
    """A LayerNorm comes after every hidden layer."""
    kind: str = "mlp"
    """One of :data:`madpo_isaac.models.NETWORKS`."""


class Networks(Protocol):
    """P networks of one kind; network p maps (B, in_dims[p]) to (B, out_dims[p]).

    All parameters of a network are a row of one matrix, so that optimizers, checkpoints, snapshots
    and trust regions do not depend on the kind of network. Networks that share parameters have
    one row for all.
    """

    in_dims: tuple[int, ...]
    out_dims: tuple[int, ...]
    num_rows: int
    """P, or 1 where the parameters are shared."""
    flat: Tensor
    """The parameters. (num_rows, K)"""
    grad: Tensor
    """Their gradients, to which backward passes add. (num_rows, K)"""
    nets: list[dict[str, Tensor]]
    """Network p's parameters by name, leaves whose memory is that of ``flat``."""
    stacked: dict[str, Tensor]
    """Further vectors of parameters by name, of all rows: views of ``flat``. (num_rows, width)"""

    def prepare(self, x: Tensor) -> Tensor:
        """The part of a network that no parameter changes, done once per batch. (B, in_dim)"""
        ...

    def apply(self, p: int, x: Tensor, net: Network | None = None) -> Tensor:
        """Runs network p on *prepared* inputs (B, in_dim), differentiably. (B, out_dim)

        ``net`` are its parameters if they are not the current ones.
        """
        ...

    def unpack(self, p: int, flat: Tensor) -> Network:
        """Returns network p with the parameters ``flat`` (K,), as :attr:`nets` has it.

        Gradients flow to ``flat``, in forward mode too.
        """
        ...

    def fold(self) -> Callable[[Sequence[Tensor]], Tensor]:
        """Returns the networks as they are now, as one function that gives no gradient.

        It maps the inputs of each network (B, in_dims[p]) to (P, B, max(out_dims)); outputs beyond
        ``out_dims[p]`` mean nothing.
        """
        ...

    def module(self, p: int) -> nn.Module:
        """Returns a copy of network p on the CPU that depends on nothing else, for export.

        It maps inputs (B, in_dims[p]), not prepared, to (B, out_dims[p]).
        """
        ...
