"""The run: collects, updates, reports and saves; or plays a checkpoint."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from madpo_isaac import console, tasks
from madpo_isaac.algos.steps import Faults
from madpo_isaac.config import resume
from madpo_isaac.config.nodes import sim_settings, task_settings
from madpo_isaac.config.schema import Config
from madpo_isaac.env import AgentSpec, Step, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.evaluate import Act, Evaluator, Record
from madpo_isaac.evaluation.play import play
from madpo_isaac.evaluation.render import choose_backend
from madpo_isaac.evaluation.video import Film, film_of
from madpo_isaac.runs import checkpoint
from madpo_isaac.runs.folder import RunFolder, as_yaml
from madpo_isaac.runs.metrics import EpisodeTracker, episodes, to_numbers
from madpo_isaac.system import device, distributed
from madpo_isaac.system.signals import StopRequest
from madpo_isaac.training import parallel
from madpo_isaac.training.observers import ConsoleView, Observer, Recorder
from madpo_isaac.training.saver import Saver
from madpo_isaac.training.worlds import WorldGuard

EVALUATION = 1
"""Sets the draws of evaluations apart from those of training with the same seed."""
SAVE_INTERVAL = 60.0
"""Seconds of work that a kill may cost, where an iteration takes less."""


class Learnt(NamedTuple):
    """What one iteration of a learner gives."""

    metrics: dict[str, Tensor]
    """Scalars, still on the device."""
    faults: Faults
    clip: float
    step_s: float
    """Seconds in the environment."""
    collect_s: float
    """Seconds of collection, those in the environment included."""


class Runner(ABC):
    """Trains or plays one configuration, in the manner of rl_games' Runner.

    What learns is a subclass's: the methods under "The learner".

    Args:
        config: a validated configuration.
        observers: called in order; by default the recorder of metrics and the console.
        overrides: the command line, recorded in the run folder.
    """

    env: VecEnv
    state: Tensor
    """Joint state to act on next. (N, S)"""
    folder: RunFolder

    def __init__(
        self,
        config: Config,
        observers: Sequence[Observer] | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        if config.seed == -1:
            config = replace(config, seed=int(np.random.SeedSequence().generate_state(1)[0]))
        self.overrides = list(overrides)
        self.observers = [Recorder(), ConsoleView()] if observers is None else list(observers)
        self.ranks = distributed.join(config.multi_gpu)
        self.config = config
        if self.ranks.count > 1:
            path = str(self._checkpoint()) if config.checkpoint else ""
            self.config = config = parallel.of_this_rank(config, self.ranks, path)
        if self.ranks.index:
            self.observers = []
        self.threads = device.configure(config.num_threads, config.sim_device)
        self.iteration = 0
        self.env_steps = 0
        self.wall_s = 0.0
        self.best_return = -float("inf")
        self._film: Film | None = None
        self._stop = StopRequest()
        self._saver = Saver()
        self._saved_at = -float("inf")

    def run(self) -> int:
        """Trains, or plays if ``test``; returns the exit code."""
        if self.config.capture_video:
            choose_backend()  # fails before anything is built
        try:
            return play(self) if self.config.test else self.train()
        finally:
            self.ranks.leave()

    # Building ---------------------------------------------------------------------------------

    def build(self) -> None:
        """Makes environments, learner and buffers."""
        cfg = self.config
        env_seed, init_seed, act_seed = (
            int(s) for s in np.random.SeedSequence(cfg.seed).generate_state(3)
        )
        if self.ranks.index:  # other environments and actions, the same networks
            entropy = (cfg.seed, self.ranks.index)
            env_seed, act_seed = (int(s) for s in np.random.SeedSequence(entropy).generate_state(2))
        self.env = self._make_env(cfg.num_envs, env_seed)
        self.tracker = EpisodeTracker(cfg.num_envs, self.env.device)
        self.guard = WorldGuard(cfg, self.env, ranks=self.ranks)
        self._make_learner(init_seed, act_seed)

    def _make_env(self, num_envs: int, seed: int) -> VecEnv:
        cfg = self.config
        return tasks.make(
            cfg.task.name,
            num_envs,
            device=cfg.sim_device,
            sim=cfg.sim.name,
            seed=seed,
            num_threads=self.threads,
            sim_settings=sim_settings(cfg.sim),
            **task_settings(cfg.task),
        )

    def _make_evaluator(self) -> Evaluator | None:
        """What scores the policy every ``eval_frequency`` iterations, if it is to be."""
        cfg = self.config
        if not cfg.eval_frequency or self.ranks.index:
            return None
        seed = int(np.random.SeedSequence((cfg.seed, EVALUATION)).generate_state(1)[0])
        path = self.folder.path / "eval" / "training.json"
        record = Record(cfg.task.name, cfg.algo.name, cfg.seed)
        record.continue_from(path, self.env_steps)
        return Evaluator(self._make_env(cfg.eval_envs, seed), cfg.eval_episodes, record, path)

    def _checkpoint(self) -> Path:
        """The file that ``checkpoint`` means."""
        cfg = self.config
        return checkpoint.find(cfg.checkpoint, Path(cfg.runs_dir), cfg.task.name, cfg.algo.name)

    def _load(self, path: Path) -> dict[str, Any]:
        """Reads a checkpoint and makes sure that it fits this task, algorithm and networks."""
        content = checkpoint.load(path, self.env.device)
        cfg = self.config
        for kind, wanted in (("task", cfg.task.name), ("algo", cfg.algo.name)):
            if content[kind] != wanted:
                raise UserError(
                    f"Checkpoint '{path}' is of {kind}={content[kind]}, not {kind}={wanted}."
                )
        if not cfg.test and "env_state" not in content:
            raise UserError(f"'{path}' holds a policy only: play it with test=True.")
        self._check_fit(path, content)
        return content

    # The learner ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def agents(self) -> Sequence[AgentSpec]:
        """Who learns a policy."""

    @abstractmethod
    def _make_learner(self, init_seed: int, act_seed: int) -> None:
        """Makes networks, optimisers and buffers."""

    @abstractmethod
    def _check_fit(self, path: Path, content: dict[str, Any]) -> None:
        """Makes sure that a checkpoint's networks have the sizes of those here."""

    @abstractmethod
    def _learn(self) -> Learnt:
        """Collects from ``state`` on, updates, and shows every step to :meth:`_watch`."""

    @abstractmethod
    def _learner_state(self) -> dict[str, Any]:
        """What a checkpoint holds of the learner."""

    @abstractmethod
    def _restore_learner(self, content: dict[str, Any]) -> None:
        """Restores :meth:`_learner_state`."""

    @abstractmethod
    def _restore_policy(self, content: dict[str, Any]) -> None:
        """Restores what acts."""

    @abstractmethod
    def policy(self, generator: torch.Generator | None = None) -> Act:
        """Returns the policy as it is now: from joint states (N, S) to actions (N, A).

        Mean actions, or samples drawn from ``generator``; no other generator is touched.
        """

    def _draws(self) -> dict[str, Any]:
        """What a checkpoint holds of the learner in a process that is not the first."""
        return {}

    def _restore_draws(self, shard: dict[str, Any]) -> None:
        """Restores :meth:`_draws`."""
        del shard

    def _check_skipped(self, numbers: dict[str, Any], faults: Faults) -> None:
        """Stops the run if a network skipped too many steps; reads the device only if it must."""
        if any(number for name, number in numbers.items() if name.endswith("/skipped")):
            faults.check(self.config.max_skipped)

    # Training ---------------------------------------------------------------------------------

    def train(self) -> int:
        """Trains up to ``max_iterations``, from a checkpoint if one is given."""
        cfg = self.config
        self.build()
        self.state = self.env.reset()
        path = self._checkpoint() if cfg.checkpoint else None
        own = resume.folder_to_continue(cfg, path)
        with contextlib.ExitStack() as stack:
            if own is not None:
                stack.callback(own.release)
                own.acquire()
            if path is not None:
                self._resume(path)
                if self.iteration >= cfg.max_iterations:
                    console.info(f"'{path}' is of iteration {self.iteration}: nothing left to do")
                    return 0
            elif cfg.stagger_episodes:
                self.tracker.partial |= self.env.stagger()
            if own is not None:
                own.reopen(cfg, self.overrides, path, self.iteration, self.env_steps)
            self.folder = own or RunFolder.create(cfg, self.overrides)
            stack.callback(self.folder.release)
            shared = Path(self.ranks.broadcast(str(self.folder.path)))
            self.guard.folder = shared / "dumps"
            return self._train()

    def _resume(self, path: Path) -> None:
        """Restores a checkpoint, if it fits."""
        ours = {**self._counters(), **self._local_state(), **self._learner_state()}
        with checkpoint.using(path):
            content = self._load(path)
            resume.check_state(path, content, self.config, self.ranks.count, ours)
            self._restore(content)

    def _train(self) -> int:
        """Runs the loop between the observers' start and end; keeps status.json."""
        state = "failed"
        try:
            self._mark("running")
            for observer in self.observers:
                observer.on_start(self)
            try:
                self._evaluator = self._make_evaluator()
                if not self.ranks.index:  # one process films, and evaluates
                    self._film = film_of(self.config, self.env, self.folder.path, self.env_steps)
                with self._stop.listening():
                    self._loop()
            finally:
                if self._film is not None:
                    self._film.close()
                for observer in self.observers:
                    observer.on_end()
            state = self._stop.outcome if self._cut_short else "finished"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        except BrokenPipeError:  # of the console
            raise
        except OSError as problem:
            raise UserError(f"Cannot write '{self.folder.path}': {problem}.") from problem
        finally:
            with contextlib.suppress(OSError):
                self._mark(state)
        if not self._cut_short:
            return 0
        console.info(f"{state}: saved {self.folder.nn / 'last.pth'}")
        return self._stop.exit_code

    @property
    def _cut_short(self) -> bool:
        """A signal ended the run before its time."""
        return bool(self._stop) and self.iteration < self.config.max_iterations

    def _loop(self) -> None:
        try:
            stop = bool(self._stop)
            while self.iteration < self.config.max_iterations and not stop:
                metrics = self._iterate()
                if self._evaluator and self.iteration % self.config.eval_frequency == 0:
                    metrics |= self._evaluator.evaluate(self.policy(), self.env_steps)
                for observer in self.observers:
                    observer.on_iteration(metrics)
                stop = self._stop.agreed(self.ranks)
                self._save(metrics["episode_return"], metrics["iteration_s"], stop)
        finally:
            self._saver.wait()

    def _iterate(self) -> dict[str, Any]:
        """One iteration: collect, update, count. Returns the line of metrics.jsonl."""
        cfg = self.config
        start = time.perf_counter()
        metrics, faults, clip, step_s, collect_s = self._learn()
        # The iteration's one read of the device, but for the number of bad worlds.
        numbers, totals = to_numbers(metrics, self.tracker.take(self.ranks))
        self._check_skipped(numbers, faults)
        total_s = time.perf_counter() - start
        steps = cfg.num_envs * cfg.algo.horizon * self.ranks.count
        self.iteration += 1
        self.env_steps += steps
        self.wall_s += total_s
        agents = range(len(self.agents))
        means = {
            key: sum(numbers[f"agent{p}/{key}"] for p in agents) / len(agents)
            for key in ("loss", "entropy", "kl", "lr")
            if f"agent0/{key}" in numbers  # HATRPO has no learning rate
        }
        # Algorithms that have none of them report null, so that every run has the same columns.
        terms = ("preceding_ratio", "divergence_intra", "divergence_inter")
        absent = {f"agent{p}/{term}": None for p in agents for term in terms}
        return {
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "wall_s": self.wall_s,
            "iteration_s": total_s,
            "fps_step": steps / step_s,
            "fps_step_infer": steps / collect_s,
            "fps_total": steps / total_s,
            "time_step": step_s,
            "time_infer": collect_s - step_s,
            "time_update": total_s - collect_s,
            **episodes(totals),
            "clip": clip,
            "lr": None,
            **means,
            **absent,
            **numbers,
        }

    def _watch(self, action: Tensor, step: Step) -> None:
        """Takes in one step of all environments."""
        self.tracker.add(step)
        self.guard.add(action, step)
        if self._film is not None:
            self._film.add(step, self.tracker.returns)

    # Saving -----------------------------------------------------------------------------------

    def _save(self, episode_return: float | None, iteration_s: float, stop: bool) -> None:
        """Saves after the first iteration, when it is time, on a new best, and at the end."""
        cfg = self.config
        score = -float("inf") if episode_return is None else episode_return
        better = score > self.best_return
        if better:
            self.best_return = score
        numbered = cfg.save_frequency and self.iteration % cfg.save_frequency == 0
        last = stop or self.iteration == cfg.max_iterations
        due = self.ranks.any(time.monotonic() - self._saved_at + iteration_s > SAVE_INTERVAL)
        if not (better or numbered or last or due):
            return
        self.folder.check_lock()
        for observer in self.observers:
            observer.on_save()
        content = self._content()
        self._saved_at = time.monotonic()
        if self.ranks.index:
            return
        # last.pth comes last: whoever continues from it finds the others as they were.
        names = [f"ep_{self.iteration}"] * bool(numbered) + ["best"] * better + ["last"]
        self._saver.save([self.folder.nn / f"{name}.pth" for name in names], content)

    def _mark(self, state: str) -> None:
        total = self.config.max_iterations
        signalled = None if self._stop.signal is None else self._stop.signal.name
        self.folder.mark(state, iteration=self.iteration, max_iterations=total, signal=signalled)

    def _content(self) -> dict[str, Any]:
        return {
            "task": self.config.task.name,
            "algo": self.config.algo.name,
            "config": as_yaml(self.config),
            **self._counters(),
            **self._local_state(),
            **self._learner_state(),
            "shards": self.ranks.gather(self._shard())[1:],
        }

    def _counters(self) -> dict[str, Any]:
        names = ("iteration", "env_steps", "wall_s", "best_return")
        return {name: getattr(self, name) for name in names}

    def _local_state(self) -> dict[str, Any]:
        """What every process has of its own, beside its learner's draws."""
        return {
            "env_state": self.env.state_dict(),
            "tracker": self.tracker.state_dict(),
            "state": self.state,
        }

    def _shard(self) -> dict[str, Any]:
        """What a checkpoint holds of a process that is not the first."""
        if not self.ranks.index:
            return {}
        return {**self._local_state(), **self._draws()}

    def _restore(self, content: dict[str, Any]) -> None:
        self._restore_learner(content)
        if self.ranks.index:
            content = {**content, **content["shards"][self.ranks.index - 1]}
            self._restore_draws(content)
        if content["env_state"]:  # else the simulator cannot be put back: episodes start anew
            self.env.load_state_dict(content["env_state"])
            self.tracker.load_state_dict(content["tracker"])
            self.state = content["state"].to(self.env.device)
        for name in self._counters():
            setattr(self, name, content[name])

    # Playing ----------------------------------------------------------------------------------

    def load_policy(self) -> dict[str, Any]:
        """Builds everything and loads the checkpoint's policy; returns where it comes from."""
        self.build()
        path = self._checkpoint()
        with checkpoint.using(path):
            content = self._load(path)
            self._restore_policy(content)
            facts = ("task", "algo", "iteration", "env_steps")
            seed = resume.seed_of(path, content, self.config.seed)
            return {"checkpoint": str(path), **{k: content[k] for k in facts}, "seed": seed}

    def output_folder(self, name: str) -> Path:
        """Where what is made of a checkpoint goes: in its run folder, or else in ``runs_dir``."""
        folder = RunFolder.of_checkpoint(self._checkpoint())
        return (Path(self.config.runs_dir) if folder is None else folder.path) / name
