"""Normalization of the critic's target by debiased exponential moments."""

from __future__ import annotations

import torch
from torch import Tensor

from madpo_isaac.system.distributed import ALONE, Ranks


class ValueNorm:
    """Keeps exponential moving moments of the returns (as in MAPPO and HARL).

    Moments start at zero and are divided by 1 - beta^k after k updates; the variance is kept
    above 1e-2.

    Args:
        beta: decay per update.
        device: where the moments live.
    """

    def __init__(self, device: torch.device, beta: float = 0.99999) -> None:
        self.beta = beta
        # float64: with beta this close to 1, k small updates would drown in float32 rounding.
        self._moments = torch.zeros(3, dtype=torch.float64, device=device)  # E[x], E[x^2], 1-b^k

    def update(self, returns: Tensor, ranks: Ranks = ALONE) -> None:
        """Takes in a batch of returns, of any shape, unless one of them is not finite.

        Args:
            returns: the batch.
            ranks: processes that have batches of the same size, all of which are taken in.
        """
        x = returns.double()
        batch = torch.stack((x.mean(), x.square().mean(), x.new_ones(())))
        batch = ranks.mean(batch)
        moved = self._moments.lerp(batch, 1.0 - self.beta)
        self._moments.copy_(torch.where(batch.isfinite().all(), moved, self._moments))

    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Returns the debiased mean and standard deviation, float32 scalars."""
        first, second = self._moments[:2] / self._moments[2].clamp(min=1e-5)
        variance = (second - first.square()).clamp(min=1e-2)
        return first.float(), variance.sqrt().float()

    def normalize(self, values: Tensor) -> Tensor:
        """Maps returns to the critic's scale."""
        mean, std = self.mean_std()
        return (values - mean) / std

    def denormalize(self, values: Tensor) -> Tensor:
        """Maps the critic's outputs to returns."""
        mean, std = self.mean_std()
        return values * std + mean

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the moments."""
        return {"moments": self._moments.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict`."""
        self._moments.copy_(state["moments"])
