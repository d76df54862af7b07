"""Sweeps by a launcher other than Hydra's own, which starts the runs on a cluster or as jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from madpo_isaac.errors import RunFailed, UserError


def launch(job: Callable[[DictConfig], int], config_dir: str, overrides: Sequence[str]) -> int:
    """Starts all runs of a sweep, waits for them, and returns the largest of their exit codes.

    Args:
        job: function that a run calls with its configuration; other processes find it by its name.
        config_dir: folder of the primary configuration.
        overrides: checked overrides of the sweep.
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
