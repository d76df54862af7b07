"""Data parallel training: the processes that torchrun started, and their communication."""

from __future__ import annotations

import io
import os
import time
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from madpo_isaac.errors import UserError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = 30.0  # seconds, for a first process that starts later


class Ranks:
    """The processes that train one run together; by default there is this one only.

    With a single process every method returns its own argument, :meth:`gather` a list of it:
    nothing is copied or computed.
    """

    index = 0
    """Rank of this process; 0 writes the run folder."""
    count = 1
    """Number of processes."""

    def sum(self, x: Tensor) -> Tensor:
        """Adds up all processes' ``x``, of one shape; the result is the same bits everywhere."""
        if self.count == 1:
            return x
        total = x.clone()
        dist.all_reduce(total)
        return total

    def mean(self, x: Tensor) -> Tensor:
        """The mean of all processes' ``x``."""
        return x if self.count == 1 else self.sum(x) / self.count

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers."""
        return number if self.count == 1 else min(self._all(number))

    def most(self, number: int) -> int:
        """The largest of all processes' numbers."""
        return number if self.count == 1 else max(self._all(number))

    def any(self, flag: bool) -> bool:
        """Returns whether the flag is set in any process."""
        return flag if self.count == 1 else any(self._all(flag))

    def add_up(self, gradient: Tensor, sums: Tensor) -> Tensor:
        """Adds up gradients, in place, and some sums in one all-reduce; returns the sums."""
        if self.count == 1:
            return sums
        flat = torch.cat((gradient.flatten(), sums.flatten()))
        dist.all_reduce(flat)
        size = gradient.numel()
        gradient.copy_(flat[:size].view_as(gradient))
        return flat[size:].view_as(sums)

    def broadcast(self, value: Any) -> Any:
        """The first process's value: tensors, numbers and text, or lists and dicts of them."""
        if self.count == 1:
            return value
        box = [_packed(value)]
        dist.broadcast_object_list(box)
        return _unpacked(box[0])

    def gather(self, value: Any) -> list[Any]:
        """All processes' values, in the first process; nothing in the others."""
        if self.count == 1:
            return [value]
        found: list[Any] | None = [None] * self.count if self.index == 0 else None
        dist.gather_object(_packed(value), found)
        return [_unpacked(data) for data in found or []]

    def leave(self) -> None:
        """Ends the connection to the other processes."""

    def _all(self, number: int) -> list[int]:
        numbers: list[Any] = [None] * self.count
        dist.all_gather_object(numbers, number)
        return numbers


def _packed(value: Any) -> bytes:
    data = io.BytesIO()
    torch.save(value, data)
    return data.getvalue()


def _unpacked(data: bytes) -> Any:
    """A packed value, its tensors on the CPU: another process's GPU is not for this one to use."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


ALONE = Ranks()
"""This process only."""


class TorchRun(Ranks):
    """The processes that torchrun started: NCCL for tensors on GPUs, gloo for the rest."""

    def __init__(self) -> None:
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend)
        self.index, self.count = dist.get_rank(), dist.get_world_size()

    def leave(self) -> None:
        """Ends the connection to the other processes."""
        dist.destroy_process_group()


def join(multi_gpu: bool) -> Ranks:
    """Connects to the other processes, if there are to be any.

    Raises:
        UserError: if ``multi_gpu`` does not fit how this process was started.
    """
    number = os.environ["WORLD_SIZE"] if _started() else "1"
    if not multi_gpu:
        if number != "1":
            raise UserError(f"torchrun started {number} processes: add multi_gpu=True.")
        return ALONE
    if not _started():
        raise UserError(
            "multi_gpu=True needs torchrun: torchrun --standalone --nproc_per_node=2 train.py "
            "multi_gpu=True ..."
        )
    return TorchRun()


def silence_all_but_first() -> None:
    """Waits before an error is shown, unless this is the first process, which shows the same one.

    torchrun ends the others as soon as one has ended. A process that is still there after a while
    has an error that the first one does not have.
    """
    if _started() and os.environ["RANK"] != "0":
        time.sleep(_PATIENCE)


def _started() -> bool:
    """Returns whether torchrun started this process."""
    return all(name in os.environ for name in _VARIABLES)
