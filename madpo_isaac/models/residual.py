"""A residual network (He et al., 2016, with the normalization first), as an ordinary module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from madpo_isaac.models.modules import NetworkSpec
from madpo_isaac.models.networks import register_network


@register_network("residual")
class ResidualNetwork(nn.Module):
    """Linear, then a block for each of ``hidden``, then Linear.

    A block adds to its input x (B, W), W being the first of the widths, Linear(activation(
    Linear(LayerNorm(x)))), whose hidden width is the block's. Blocks start as the identity.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        width = spec.hidden[0]
        self._activation = spec.activation
        self.first = nn.Linear(spec.in_dim, width)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width) if spec.hidden_norm else nn.Identity() for _ in spec.hidden
        )
        self.rise = nn.ModuleList(nn.Linear(width, inner) for inner in spec.hidden)
        self.fall = nn.ModuleList(nn.Linear(inner, width) for inner in spec.hidden)
        self.out = nn.Linear(width, spec.out_dim)
        with torch.no_grad():
            for value in self.fall.parameters():
                nn.init.zeros_(value)
            nn.init.orthogonal_(self.out.weight, spec.output_gain)
            nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_dim) to (B, out_dim)."""
        x = self.first(x)
        for norm, rise, fall in zip(self.norms, self.rise, self.fall, strict=True):
            x = x + fall(self._activation(rise(norm(x))))
        return self.out(self._activation(x))
