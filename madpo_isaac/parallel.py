"""What each of several processes that train one run makes of the configuration."""

from __future__ import annotations

import atexit
import os
import tempfile
from dataclasses import replace

from madpo_isaac import console
from madpo_isaac.config import Config
from madpo_isaac.distributed import Ranks


def of_this_rank(config: Config, ranks: Ranks, checkpoint: str) -> Config:
    """The configuration of this process: shared things are the first one's.

    A process is here only once all have read the command line, so that none looks for a run that
    another is just making. All but the first are silent and write into a scratch folder.

    Args:
        config: as given on the command line.
        ranks: the processes.
        checkpoint: the file to continue from, or nothing.
    """
    seed, checkpoint = ranks.broadcast((config.seed, checkpoint))
    threads = config.num_threads or _share(len(os.sched_getaffinity(0)))
    device = _own_gpu(config.sim_device)
    config = replace(
        config, seed=seed, checkpoint=checkpoint, num_threads=threads, sim_device=device
    )
    if not ranks.index:
        return config
    console.out.quiet = True
    scratch = tempfile.TemporaryDirectory()
    atexit.register(scratch.cleanup)
    return replace(config, runs_dir=scratch.name, experiment="rank")


def _own_gpu(device: str) -> str:
    """The GPU of this process where ``device`` is cuda, else ``device``."""
    return f"cuda:{os.environ['LOCAL_RANK']}" if device == "cuda" else device


def _share(threads: int) -> int:
    """A process's share of this machine's threads, at least 1."""
    return max(1, threads // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
