"""Gradient steps on a batch: minibatches, tiles, the sum over processes, and skipped steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from madpo_isaac.algos.batch import Rows, count
from madpo_isaac.errors import RunFailed
from madpo_isaac.models.mlp import FlatAdam
from madpo_isaac.system.distributed import Ranks
from madpo_isaac.system.precision import network_products

Stats = dict[str, Tensor]
"""Statistics of one gradient step by name, () each."""

Share = Callable[[Rows, int], tuple[Tensor, Stats]]
"""Maps some rows of a minibatch, and the minibatch's size, to the rows' share of the loss,
differentiable (), and of its statistics."""

LABELS = {
    "surrogate": "the surrogate objective",
    "bonus": "the bonus",
    "entropy_bonus": "the entropy bonus",
    "clip_fraction": "the clip fraction",
    "kl": "the KL divergence",
    "value_loss": "the value loss",
    "value_aux_loss": "the policy network's value loss",
    "grad_norm": "the gradient",
}
"""Statistics of steps as messages call them."""


def minibatches(
    size: int, number: int, generator: torch.Generator, device: torch.device
) -> list[Rows]:
    """The minibatches of one epoch over ``size`` rows; every row appears once."""
    if number == 1:
        return [slice(0, size)]
    order = torch.randperm(size, generator=generator, device=device)
    return list(order.tensor_split(number))


def tiles(rows: Rows, size: int) -> list[Rows]:
    """The rows cut into parts of at most ``size``."""
    if isinstance(rows, Tensor):
        return list(rows.split(size))
    starts = range(rows.start, rows.stop, size)
    return [slice(start, min(start + size, rows.stop)) for start in starts]


def shares_of(size: int, **sums: Tensor) -> Stats:
    """Divides sums over rows by the minibatch's ``size``, without gradient."""
    values = torch.stack(list(sums.values())).detach() / size
    return dict(zip(sums, values.unbind(), strict=True))


def gradient_step(
    optimizers: Sequence[FlatAdam],
    gradient: Tensor,
    losses: Sequence[Share],
    minibatch: Rows,
    tile: int,
    ranks: Ranks,
) -> list[Stats]:
    """Takes one step of every optimizer on a minibatch, of which each process has a part.

    The gradient is the sum over tiles, whose activations stay in a CPU's cache, and over processes.
    An optimizer skips its step if its gradient or a statistic of its loss is not finite.

    Args:
        optimizers: one for each loss, or a single one that follows the mean of all losses.
        gradient: gradient of all their parameters; ``backward`` of the losses adds to it.
        losses: k losses.
        minibatch: this process's rows.
        tile: largest number of rows to differentiate at once.
        ranks: the processes.

    Returns:
        Each loss's statistics and the norm of its optimizer's gradient, ``grad_norm``, which is
        NaN if the step was skipped.
    """
    size = ranks.count * count(minibatch)
    for optimizer in optimizers:
        optimizer.zero_grad()
    names, sums = (), []
    for loss_of in losses:
        parts = []
        for rows in tiles(minibatch, tile):
            loss, stats = loss_of(rows, size)
            with network_products():
                loss.backward()
            names = tuple(stats)
            parts.append(torch.stack(list(stats.values())))
        sums.append(torch.stack(parts).sum(0))
    num_sharing = len(losses) // len(optimizers)
    if num_sharing > 1:
        gradient.div_(num_sharing)
    totals = ranks.add_up(gradient, torch.stack(sums))
    checks = totals.sum(1).view(len(optimizers), num_sharing).sum(1)
    steps = zip(optimizers, checks, strict=True)
    norms = torch.stack([optimizer.step(check) for optimizer, check in steps])
    rows = torch.cat((totals, norms.expand(len(losses))[:, None]), dim=1)
    return [dict(zip((*names, "grad_norm"), row.unbind(), strict=True)) for row in rows]


class Faults:
    """Counts the gradient steps that networks skipped because a number was not finite.

    The counts are on the device; only :meth:`check` reads them.
    """

    def __init__(self) -> None:
        self._in_a_row: dict[str, Tensor] = {}
        self._bad: dict[str, dict[str, Tensor]] = {}

    def summary(self, network: str, history: Sequence[Stats]) -> tuple[Stats, Tensor]:
        """Takes in an iteration's steps on one network.

        Args:
            network: its name in messages.
            history: the statistics of every step, of which one is not finite if the step was
                skipped.

        Returns:
            Means over the steps taken, NaN if there were none, and the number skipped ().
        """
        rows = torch.stack([torch.stack(list(stats.values())) for stats in history])
        finite = rows.isfinite()
        skipped = ~finite.all(1)
        means = rows.masked_fill(skipped[:, None], 0.0).sum(0) / (~skipped).sum()
        trailing = skipped.flip(0).long().cumprod(0).sum()
        before = self._in_a_row.get(network, torch.zeros_like(trailing))
        self._in_a_row[network] = trailing + before * (trailing == len(rows))
        self._bad[network] = dict(zip(history[0], (~finite).any(0).unbind(), strict=True))
        named = dict(zip(history[0], means.unbind(), strict=True))
        return named, skipped.sum().to(means.dtype)

    def check(self, most: int) -> None:
        """Raises :class:`RunFailed` if a network skipped ``most`` steps in a row, or more.

        The first statistic of the steps that was not finite is named.
        """
        for network, skipped in self._in_a_row.items():
            number = int(skipped)
            if number < most:
                continue
            name = next(name for name, bad in self._bad[network].items() if bad)
            raise RunFailed(
                f"{network}: {LABELS.get(name, name)} was not finite in {number} gradient steps in "
                f"a row (max_skipped={most})."
            )
