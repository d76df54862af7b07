"""A run: its environments, its learner, its progress, and the content of its checkpoints."""

from __future__ import annotations

import copy
import functools
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from madpo_isaac import console, pretrained
from madpo_isaac.algos import AGENT_METRICS
from madpo_isaac.algos.learner import OnStep, with_generators
from madpo_isaac.config import resume
from madpo_isaac.config.schema import Config
from madpo_isaac.env import Step
from madpo_isaac.errors import UserError
from madpo_isaac.runs.checkpoint import using
from madpo_isaac.runs.folder import as_yaml
from madpo_isaac.runs.metrics import EpisodeTracker, episodes, to_numbers
from madpo_isaac.system import device
from madpo_isaac.system.distributed import ALONE, Ranks
from madpo_isaac.tasks.contract import StepCheck, check_observations, check_stagger
from madpo_isaac.training.factory import make_env, make_learner, seeds
from madpo_isaac.training.policy import read_checkpoint


class Moment(NamedTuple):
    """The state of a run at a moment, without the part that the update changes."""

    counters: dict[str, Any]
    worlds: dict[str, Any]
    """The environments, the present episodes, and the joint state to act on next."""
    draws: dict[str, Any]
    """The generators that actions are drawn from."""


class Run:
    """A training run, made from a configuration alone; nothing is written.

    Args:
        config: a validated configuration.
        ranks: the processes that train together.
    """

    def __init__(self, config: Config, ranks: Ranks = ALONE) -> None:
        self.config, self.ranks = config, ranks
        self._check_critic_warmup()
        self.threads = device.configure(config.num_threads, config.sim_device, config.precision)
        env_seed, init_seed, act_seed = seeds(config.seed, ranks.index)
        self.env = make_env(config, seed=env_seed, threads=self.threads, training=True)
        total = config.max_iterations
        self.learner = make_learner(
            config.algo, self.env, (init_seed, act_seed), ranks=ranks, max_iterations=total
        )
        self.tracker = EpisodeTracker(config.num_envs, self.env.device)
        self.state = self._begin()
        """Joint state to act on next. (N, S)"""
        check_observations(self.env, self.state)
        self.iteration = 0
        self.env_steps = 0
        """Steps of all environments of all processes."""
        self.best_return = -float("inf")
        """The highest score of a policy so far: an evaluation's return, or without evaluations
        that of the episodes that ended in one rollout."""
        self.episodes: dict[str, Any] = {}
        """Scores of the last rollout's finished episodes, as in metrics.jsonl."""
        self.bad_steps: int | None = None
        """Steps of the last rollout that went bad in all processes; None if nobody counted."""
        self.stopping = False
        """Set by a callback: this iteration is the last."""
        self._wall_before, self._since = 0.0, time.perf_counter()
        self._wall_runs = False
        self._check = StepCheck(self.env)
        self.beginning = self.now()
        """The moment at which the last rollout began."""

    def _begin(self) -> Tensor:
        """Starts episodes everywhere; returns the joint state. (N, S)"""
        state = self.env.reset()
        if self.config.stagger_episodes:
            check_stagger(self.env)
            self.tracker.partial |= self.env.stagger()
        return state

    # Training ---------------------------------------------------------------------------------

    def start_clock(self) -> None:
        """Lets :attr:`wall_s` run from now on."""
        self._since, self._wall_runs = time.perf_counter(), True

    @property
    def wall_s(self) -> float:
        """Seconds of the run so far, with evaluation, saving and the processes before a resume."""
        return self._wall_before + self._wall_runs * (time.perf_counter() - self._since)

    @property
    def steps(self) -> int:
        """Steps of each environment so far, if their number has always been the same."""
        return self.env_steps // (self.config.num_envs * self.ranks.count)

    def collect(self, on_step: OnStep = lambda action, step: None) -> None:
        """Collects one rollout with the present policies."""
        self.bad_steps = None
        self.beginning = self.now()
        self._started = time.perf_counter()

        def watch(action: Tensor, step: Step) -> None:
            self._check(step)
            self.tracker.add(step)
            on_step(action, step)

        self.state, self._step_s = self.learner.collect(self.state, watch)
        (totals,) = to_numbers(self.tracker.take(self.ranks))  # on a GPU this waits for the steps
        self._collect_s = time.perf_counter() - self._started
        self.episodes = episodes(totals)

    def update(self) -> dict[str, Any]:
        """Updates on the rollout and counts the iteration; returns its line of metrics.jsonl.

        Raises:
            RunFailed: a network skipped ``max_skipped`` gradient steps in a row.
        """
        cfg, begun = self.config, time.perf_counter()
        done = self.iteration / cfg.max_iterations
        metrics = self.learner.update(done, self.env_steps, all_valid=self.bad_steps == 0)
        (numbers,) = to_numbers(metrics)  # the update's one read of the device
        if any(number for name, number in numbers.items() if name.endswith("/skipped")):
            self.learner.faults.check(cfg.max_skipped)
        end = time.perf_counter()
        total_s, update_s, collect_s = end - self._started, end - begun, self._collect_s
        steps = cfg.num_envs * cfg.algo.horizon * self.ranks.count
        self.iteration += 1
        self.env_steps += steps
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "wall_s": self.wall_s,
            "iteration_s": total_s,
            "fps_step": steps / self._step_s,
            "fps_step_infer": steps / collect_s,
            "fps_total": steps / total_s,
            "time_step": self._step_s,
            "time_infer": collect_s - self._step_s,
            "time_update": update_s,
            **self.episodes,
            "clip": self.learner.clip,
            **_all_columns(numbers, len(self.learner.agents)),
        }

    # Checkpoints ------------------------------------------------------------------------------

    def now(self) -> Moment:
        """Returns the present moment, which later steps do not change.

        A task's state is copied, because it may be of tensors that the task writes into.
        """
        return Moment(
            {"iteration": self.iteration, "env_steps": self.env_steps, "wall_s": self.wall_s},
            {
                "env_state": copy.deepcopy(self.env.state_dict()),
                "tracker": self.tracker.state_dict(),
                "state": self.state.clone(),
            },
            self.learner.draws(),
        )

    def checkpoint(self, moment: Moment) -> dict[str, Any]:
        """Returns the content of a checkpoint; all processes call this, the first one gets it all.

        Args:
            moment: the present moment, or after :meth:`collect` :attr:`beginning`, which belongs
                to the policies that have collected the rollout.
        """
        shard = {**moment.worlds, **moment.draws} if self.ranks.index else {}
        return {
            "task": self.config.task.name,
            "algo": self.config.algo.name,
            "config": self.config_yaml,
            "best_by": _scorer(self.config),
            "physics": self.env.physics(),
            **self._state(moment),
            "shards": self.ranks.gather(shard)[1:],
        }

    @functools.cached_property
    def config_yaml(self) -> str:
        """The configuration as it is recorded, which stays the same."""
        return as_yaml(self.config)

    def restore(self, path: Path, *, elsewhere: bool = False) -> None:
        """Continues from a checkpoint, or begins with a policy.

        Args:
            path: the checkpoint, or the file of a policy that comes with the project.
            elsewhere: True if it is another run's. It may then have been trained with another
                ``num_envs``, seed, kind of device or number of processes; in this case the
                environments and all generators stay as they are here.

        Raises:
            UserError: it is damaged, has another task, algorithm, size or model, was trained in
                other environments though it is this run's own, or leaves nothing to do.
        """
        with using(path):
            content = read_checkpoint(path, self.config)
            if path.suffix == pretrained.SUFFIX:
                self._begin_with_policy(path, content)
                return
            resume.check_physics(path, content, self.env.physics())
            self.learner.check(path, content, playing=False)
            now = self.now()
            ours = self._state(now)
            changes = resume.new_worlds(path, content, self.config, self.ranks.count)
            if changes and not elsewhere:
                raise UserError(
                    f"Checkpoint '{path}' was trained with {changes}, so its run cannot be "
                    "continued exactly. Name a new folder with experiment=<name>."
                )
            if changes:
                content = with_generators(content, ours)
                ours = {name: part for name, part in ours.items() if name not in now.worlds}
            resume.check_state(path, content, self.config, ours, elsewhere=elsewhere)
            if changes:
                console.info(
                    f"'{path}' was trained with {changes}: networks and optimizers go on, "
                    "environments and random numbers begin anew"
                )
            self._load(content, worlds=not changes)

    def _begin_with_policy(self, path: Path, content: dict[str, Any]) -> None:
        self.learner.check(path, content, playing=True)
        self.learner.begin_with_policy(content)
        alone = self.config.algo.critic_warmup
        first = f", which learns alone for {alone} steps" if alone else ""
        console.info(f"'{path}' is a policy: the run begins with it and a new critic{first}")

    def _check_critic_warmup(self) -> None:
        total = self.config.max_iterations * self.config.algo.horizon
        total *= self.config.num_envs * self.ranks.count
        if total <= (alone := getattr(self.config.algo, "critic_warmup", 0)):
            raise UserError(
                f"algo.critic_warmup={alone}: only the critic would learn in the {total} steps of "
                "this run. Lower it, or raise max_iterations."
            )

    def _state(self, moment: Moment) -> dict[str, Any]:
        """Returns everything that changes in the course of a run, as this process has it."""
        learned = self.learner.state_dict()
        learned["algo_state"] = {**learned["algo_state"], **moment.draws}
        return {
            **learned,
            **moment.worlds,
            **moment.counters,
            "best_return": self.best_return,
        }

    def _load(self, content: dict[str, Any], *, worlds: bool) -> None:
        """Restores :meth:`_state`; without ``worlds`` the environments' part stays as it is."""
        self.learner.load_state_dict(content)
        if worlds:
            self._load_worlds(content)
        elif self.env.adopt(content["env_state"]):
            self.state = self._begin()
        self.iteration, self.env_steps = content["iteration"], content["env_steps"]
        self._wall_before = content["wall_s"]
        if content.get("best_by", _scorer(self.config)) == _scorer(self.config):
            self.best_return = content["best_return"]

    def _load_worlds(self, content: dict[str, Any]) -> None:
        own = content
        if self.ranks.index:
            own = content["shards"][self.ranks.index - 1]
            self.learner.load_draws(own)
        if own["env_state"]:  # else the simulator cannot be put back: episodes start anew
            self.env.load_state_dict(own["env_state"])
            self.tracker.load_state_dict(own["tracker"])
            self.state = own["state"].to(self.env.device)


def _scorer(config: Config) -> str:
    """Returns the source of the scores that decide which policy is the best.

    Scores of one source are not compared with those of the other.
    """
    return "evaluation" if config.eval_frequency else "training"


def _all_columns(numbers: dict[str, float], agents: int) -> dict[str, float | None]:
    """A learner's metrics and the agents' means.

    None stands for metrics of other algorithms, and for those of no gradient step.
    """
    means = {
        key: sum(numbers[f"agent{p}/{key}"] for p in range(agents)) / agents
        for key in ("loss", "entropy", "kl", "lr")
        if f"agent0/{key}" in numbers  # HATRPO has no learning rate
    }
    absent = {f"agent{p}/{name}": None for p in range(agents) for name in AGENT_METRICS}
    known = {key: x if math.isfinite(x) else None for key, x in {**means, **numbers}.items()}
    return {"lr": None, **absent, **known}
