"""Sweeps whose runs another launcher than Hydra's own starts: on a cluster, or as local jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from madpo_isaac.errors import RunFailed, UserError


def launch(job: Callable[[DictConfig], int], config_dir: str, overrides: Sequence[str]) -> int:
    """Starts all runs of a sweep, waits for them, and returns the largest of their exit codes.

    Args:
        job: what a run does with its configuration; it is looked up by name where it runs.
        config_dir: folder of the primary configuration.
        overrides: of the sweep, checked.
    """
    with hydra.initialize_config_dir(config_dir, version_base="1.3"):
        main = GlobalHydra.instance().hydra
        assert main is not None
        try:
            batches = main.multirun("config", job, list(overrides), with_log_configuration=False)
        except Exception as problem:
            if "slurm cluster" in str(problem):  # submitit looks for srun
                raise UserError("There is no SLURM here: srun is not found.") from None
            if not type(problem).__module__.startswith("submitit"):
                raise
            reason = str(problem).strip().splitlines()[0]
            raise RunFailed(f"A job failed: {reason} Logs are in <runs_dir>/.submitit.") from None
    return max(result.return_value for batch in batches for result in batch)
