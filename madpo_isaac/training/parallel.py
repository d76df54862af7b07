"""The configuration of each of several processes that train one run."""

from __future__ import annotations

import atexit
import os
import tempfile
from dataclasses import replace

import torch

from madpo_isaac import console
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError
from madpo_isaac.sim.base import check_device
from madpo_isaac.system import device
from madpo_isaac.system.distributed import Ranks


def config_for_rank(config: Config, ranks: Ranks, checkpoint: str) -> Config:
    """The configuration of this process, with the seed and the checkpoint of the first process.

    It waits until all processes have read the command line, so that none looks for a run that
    another one is making. All processes but the first print nothing and write into a temporary
    folder.

    Args:
        config: the configuration of the command line.
        ranks: the processes.
        checkpoint: the file to continue from, or an empty text.

    Raises:
        UserError: several processes are to share one GPU, or it is not there.
    """
    seed, checkpoint = ranks.broadcast((config.seed, checkpoint))
    threads = config.num_threads or _share(device.cores())
    _take_gpu(config.sim_device)
    config = replace(config, seed=seed, checkpoint=checkpoint, num_threads=threads)
    if not ranks.index:
        return config
    console.out.quiet = True
    scratch = tempfile.TemporaryDirectory()
    atexit.register(scratch.cleanup)
    return replace(config, runs_dir=scratch.name, experiment="rank")


def _take_gpu(device: str) -> None:
    """Makes ``cuda`` mean a GPU of this process's own.

    The configuration, which is recorded and used by resumed runs, still has ``cuda``.
    """
    if device == "cuda":
        torch.cuda.set_device(check_device(f"cuda:{os.environ['LOCAL_RANK']}"))
    elif device.startswith("cuda") and int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"sim_device={device} is one GPU for several processes: with multi_gpu=True write "
            "sim_device=cuda, which gives each its own."
        )


def _share(threads: int) -> int:
    """A process's share of this machine's threads, at least 1."""
    return max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
