"""Running mean and variance of observations."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from madpo_isaac.system.distributed import ALONE, Ranks

EPSILON = 1e-5
"""Added to the variance."""
LIMIT = 5.0
"""Normalized numbers are clipped to [-5, 5]. Both numbers are rl_games'."""


@dataclass(frozen=True)
class RowMoments:
    """Moments of some rows, in float64."""

    count: int
    """Number of rows."""
    mean: Tensor
    """(D,)"""
    variance: Tensor
    """(D,)"""

    @classmethod
    def of(cls, rows: Tensor, ranks: Ranks = ALONE) -> RowMoments:
        """Returns the moments of ``rows`` (B, D), of all ``ranks`` if given."""
        variance, mean = (x.double() for x in torch.var_mean(rows, dim=0, correction=0))
        if ranks.count > 1:
            mean, second = ranks.mean(torch.stack((mean, variance + mean.square())))
            variance = second - mean.square()
        return cls(ranks.count * len(rows), mean, variance)

    def select(self, columns: Tensor) -> RowMoments:
        """Returns the moments of some columns of the rows."""
        return RowMoments(self.count, self.mean[columns], self.variance[columns])


@dataclass(frozen=True)
class Moments:
    """Immutable moments of all rows taken in so far, in float64 (Chan et al., 1979).

    They start as one row of mean 0 and variance 1, as rl_games' do.
    """

    count: Tensor
    """Number of rows taken in. ()"""
    mean: Tensor
    """(D,)"""
    square: Tensor
    """Sum of squared deviations from the mean. (D,)"""

    @classmethod
    def initial(cls, width: int, device: torch.device) -> Moments:
        """Returns the moments to start with, for rows of ``width`` numbers."""
        ones = torch.ones(width, dtype=torch.float64, device=device)
        return cls(ones.new_ones(()), torch.zeros_like(ones), ones)

    def merged(self, rows: RowMoments) -> Moments:
        """Returns the moments after taking in ``rows``."""
        count = self.count + rows.count
        shift = rows.mean - self.mean
        square = self.square + rows.variance * rows.count
        square += shift.square() * self.count * rows.count / count
        return Moments(count, self.mean + shift * (rows.count / count), square)

    @functools.cached_property
    def shift_and_scale(self) -> tuple[Tensor, Tensor]:
        """The mean and 1 / std, in float32, computed once. (D,) each"""
        scale = (self.square / self.count + EPSILON).rsqrt()
        return self.mean.float(), scale.float()

    def normalize(self, rows: Tensor) -> Tensor:
        """Maps (B, D), in float32, to mean 0 and variance 1, clipped."""
        shift, scale = self.shift_and_scale
        return ((rows - shift) * scale).clamp(-LIMIT, LIMIT)

    @classmethod
    def load(cls, state: dict[str, Tensor], device: torch.device) -> Moments:
        """Returns the moments whose :meth:`state_dict` this is."""
        return cls(**{name: value.to(device) for name, value in state.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the three tensors, which never change."""
        return asdict(self)
