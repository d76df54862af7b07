"""What gradient steps gave: means over those taken, and how many were skipped and why."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from madpo_isaac.errors import RunFailed


class Faults:
    """Counts the steps that networks skipped since something was not finite.

    Counting stays on the device; only :meth:`check` reads.
    """

    def __init__(self) -> None:
        self._in_a_row: dict[str, Tensor] = {}
        self._terms: dict[str, tuple[Sequence[str], Tensor]] = {}

    def summary(
        self, network: str, terms: Sequence[str], history: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Takes in an iteration's steps on one network.

        Args:
            network: its name in messages.
            terms: what the columns are called in messages, k of them.
            history: a row per step, with something that is not finite if the step was skipped;
                (k,) each.

        Returns:
            Means over the steps taken, NaN if there were none (k,), and the number skipped ().
        """
        rows = torch.stack(list(history))
        finite = rows.isfinite()
        skipped = ~finite.all(1)
        means = rows.masked_fill(skipped[:, None], 0.0).sum(0) / (~skipped).sum()
        trailing = skipped.flip(0).long().cumprod(0).sum()
        before = self._in_a_row.get(network, torch.zeros_like(trailing))
        self._in_a_row[network] = trailing + before * (trailing == len(rows))
        self._terms[network] = terms, (~finite).any(0)
        return means, skipped.sum().to(means.dtype)

    def check(self, most: int) -> None:
        """Raises :class:`RunFailed` if a network skipped ``most`` steps in a row, or more.

        The first term of the loss that was not finite is named.
        """
        for network, skipped in self._in_a_row.items():
            number = int(skipped)
            if number < most:
                continue
            terms, bad = self._terms[network]
            term = terms[bad.tolist().index(True)]
            raise RunFailed(
                f"{network}: {term} was not finite in {number} gradient steps in a row "
                f"(max_skipped={most})."
            )
