"""The settings of a run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from madpo_isaac.config import recipes
from madpo_isaac.errors import UserError
from madpo_isaac.settings import (
    MAX_INTEGER,
    check_fields,
    check_types,
    integer,
    one_of,
    setting,
    texts,
    unit,
)
from madpo_isaac.sim import BRIDGES, parse_device
from madpo_isaac.system.precision import PRECISIONS, ROUNDED
from madpo_isaac.tasks.settings import check_settings

RESUMES = ("never", "auto")
MAX_THREADS = 1024
_NAME = re.compile(r"\w[\w.+-]{0,199}")


@dataclass
class Config:
    """Everything a run needs; the keys are IsaacGymEnvs'."""

    task: Any = MISSING
    algo: Any = MISSING
    sim: Any = MISSING
    plugins: list[str] = setting([], texts)
    """Your Python files that add tasks, algorithms, engines or networks, see docs/new_task.md. The
    run's record holds their absolute paths. Installed packages need no entry here."""
    recipe: str = "tuned"
    """Set of defaults for num_envs, max_iterations and the algorithm's settings: tuned, the best
    known here; paper, the MADPO paper's tables; harl, HARL's tuned files."""
    num_envs: int = setting(128, integer())
    """Number of parallel environments in each process."""
    seed: int = setting(1, integer(-1, MAX_INTEGER))
    """Seed of all random numbers; -1 draws a seed."""
    stagger_episodes: bool = False
    """True: the first episode of each environment is cut after a random share of the time limit, so
    that the environments do not all reset in the same step (rsl_rl's init_at_random_ep_len).
    The statistics leave these episodes out. The bridges to Isaac Gym and Isaac Lab ignore it."""
    max_iterations: int = setting(1000, integer())
    """Iterations of the whole run, including those before a resume."""
    experiment: str = ""
    """Name of the run folder; empty for <Task>_<algo>_s<seed>_<date>."""
    runs_dir: str = "runs"
    """Folder of the run folders."""
    checkpoint: str = ""
    """Checkpoint to continue from, or to play with test=True: a file, a run folder, `latest` or
    `best` (of the newest run with the given task and algorithm, if any are given); or a policy that
    comes with the project, to begin with or to play. The configuration of the run or of the policy
    applies, and the command line overrides it."""
    resume: str = setting("never", one_of(RESUMES))
    """auto: continue the run `experiment` if it exists, or start it otherwise; never: continue only
    the run that `checkpoint` names."""
    test: bool = False
    """True: play a checkpoint instead of training."""
    test_episodes: int = setting(1, integer())
    """Episodes that test=True plays in each environment."""
    eval_frequency: int = setting(0, integer(0))
    """Iterations between evaluations during training, with mean actions and in environments of
    their own; 0 for no evaluations."""
    eval_episodes: int = setting(1, integer())
    """Episodes of an evaluation in each of its environments."""
    eval_envs: int = setting(64, integer())
    """Number of environments of an evaluation."""
    headless: bool = True
    """False: MuJoCo's viewer shows the first environment during training, or with test=True the
    policy until you close the window. It needs a display."""
    sim_device: str = "cpu"
    """Device of simulation and learning: cpu, or a GPU such as cuda:0."""
    multi_gpu: bool = False
    """True: all processes that torchrun started make one run, with num_envs environments each."""
    rl_device: str = ""
    """Device of the networks; empty for sim_device. It must equal sim_device: nothing is copied."""
    num_threads: int = setting(0, integer(0, MAX_THREADS))
    """Threads of simulation and learning; 0 for one per core."""
    precision: str = setting("float32", one_of(PRECISIONS))
    """Precision of the networks' matrix products during training; everything else is float32. bf16
    (a CPU with AMX) and tf32 (a GPU) round the factors of a product; auto: float32."""
    save_frequency: int = setting(50, integer(0))
    """Iterations between numbered checkpoints; 0 for no numbered checkpoints."""
    max_bad_share: float = setting(0.05, unit)
    """Largest share of an iteration's environment steps that may be bad (unstable physics, numbers
    that are not finite); above it the run ends."""
    max_dumps: int = setting(8, integer(0))
    """Largest number of dumps of bad iterations that a run keeps in its dumps/ for replay."""
    max_skipped: int = setting(10, integer())
    """The run ends when a network has skipped so many gradient steps in a row, because its loss or
    its gradient was not finite."""
    capture_video: bool = False
    """True: film the training into videos/ of the run folder, or with test=True the policy."""
    capture_video_freq: int = setting(1464, integer())
    """Steps of every environment from the start of one clip to that of the next."""
    capture_video_len: int = setting(100, integer())
    """Steps of a clip."""
    capture_video_envs: int = setting(1, integer())
    """Environments shown, side by side."""
    wandb_activate: bool = False
    """True: send metrics, configuration and clips to Weights & Biases, too (package wandb). The
    environment variable WANDB_MODE=offline writes files instead."""
    wandb_project: str = "madpo_isaac"
    """Project at Weights & Biases."""
    wandb_group: str = ""
    """Group of runs at Weights & Biases; empty for no group."""
    wandb_entity: str = ""
    """User or team at Weights & Biases; empty for that of the login."""
    wandb_name: str = ""
    """Name of the run at Weights & Biases; empty for the name of the run folder."""
    wandb_tags: list[str] = setting([], texts)
    """Tags of the run at Weights & Biases."""

    def check(self) -> None:
        """Checks values and combinations, and fills in values by the recipe and the device.

        Raises:
            UserError: naming the first bad value.
        """
        check_types(self)
        check_fields(self)
        self.sim = self.sim.check(self.sim_device)
        self._check_devices()
        self._check_precision()
        self._check_source()
        if self.sim.name in BRIDGES and (self.capture_video or not self.headless):
            raise UserError(
                f"sim={self.sim.name} has no pictures: leave out capture_video, headless, --video."
            )
        if self.capture_video:
            self._check_video()
        check_settings(self.task)
        self.algo.check(self)
        task = self.task
        self.algo.take(
            lambda key: recipes.value(self.recipe, task.name, self.algo.name, key, task.train)
        )

    def _check_devices(self) -> None:
        parse_device(self.sim_device)
        if self.rl_device and self.rl_device != self.sim_device:
            raise UserError(
                f"rl_device={self.rl_device} must equal sim_device={self.sim_device}: "
                "tensors are never copied between devices."
            )
        if self.multi_gpu and self.test:
            raise UserError("multi_gpu=True is for training, not for test=True.")

    def _check_precision(self) -> None:
        """Checks that the device and the algorithm allow the precision, whatever the processor is.

        A configuration can therefore be checked on another machine than the one it is for.
        """
        if self.precision not in ROUNDED:
            return
        on_cpu = self.sim_device == "cpu"
        if on_cpu != (self.precision == "bf16"):
            other = "bf16" if on_cpu else "tf32"
            raise UserError(
                f"precision={self.precision} does not work on sim_device={self.sim_device}. "
                f"Allowed there: float32, {other}."
            )
        if not self.algo.rounds_products:
            raise UserError(
                f"precision={self.precision} does not work with algo={self.algo.name}, whose "
                "products are always float32."
            )

    def _check_source(self) -> None:
        """Checks the settings that choose a checkpoint and the run folder."""
        if self.resume == "auto" and not self.experiment:
            raise UserError(
                "resume=auto needs experiment=<name>: the run to continue, or to start."
            )
        if self.resume == "auto" and self.test:
            raise UserError("resume=auto is for training: to play, give checkpoint=<run folder>.")
        if self.test and not self.checkpoint:
            raise UserError("test=True needs checkpoint=<file, run folder, policy, latest, best>.")
        if not self.runs_dir.strip():
            raise UserError("runs_dir= must name a folder.")
        # A folder that is continued may have been renamed.
        there = (Path(self.runs_dir) / self.experiment / "config.yaml").is_file()
        plain = "/" not in self.experiment and there
        if self.experiment and not plain and not _NAME.fullmatch(self.experiment):
            raise UserError(
                f"experiment='{self.experiment}' must be a plain folder name: letters, digits, "
                "'_', '-', '+' and '.', not starting with a sign."
            )

    def _check_video(self) -> None:
        if self.capture_video_len > self.capture_video_freq and not self.test:
            raise UserError(
                f"capture_video_len={self.capture_video_len} must be at most "
                f"capture_video_freq={self.capture_video_freq}: one clip is filmed at a time."
            )
        if self.capture_video_envs > self.num_envs:
            raise UserError(
                f"capture_video_envs={self.capture_video_envs} exceeds num_envs={self.num_envs}."
            )
