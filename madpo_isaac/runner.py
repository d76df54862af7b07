"""The run: collects, updates, reports and saves; or plays a checkpoint."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import tasks
from madpo_isaac import checkpoint, console, device, resume
from madpo_isaac.algos import ALGORITHMS, OnPolicy
from madpo_isaac.config import Config, PpoConfig, sim_settings, task_settings
from madpo_isaac.env import AgentSpec, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.metrics import EpisodeTracker, to_numbers
from madpo_isaac.observers import ConsoleView, Observer, Recorder
from madpo_isaac.player import play_episodes
from madpo_isaac.run_folder import RunFolder, as_yaml
from madpo_isaac.saver import Saver
from madpo_isaac.signals import StopRequest
from madpo_isaac.storage import Rollout

SAVE_INTERVAL = 60.0
"""Seconds of work that a kill may cost, where an iteration takes less."""


class Learnt(NamedTuple):
    """What one iteration of a learner gives."""

    metrics: dict[str, Any]
    lr: float
    clip: float
    step_s: float
    """Seconds in the environment."""
    collect_s: float
    """Seconds of collection, those in the environment included."""


def make_runner(config: Config, overrides: Sequence[str] = ()) -> Runner:
    """Returns the runner of the configuration's algorithm; PPO brings a learner of its own."""
    if not isinstance(config.algo, PpoConfig):
        return Runner(config, overrides=overrides)
    try:
        from madpo_isaac.ppo.runner import PpoRunner
    except ImportError as problem:
        raise UserError(
            f"algo=ppo needs the package rl-games: pip install rl-games ({problem})."
        ) from problem
    return PpoRunner(config, overrides=overrides)


class Runner:
    """Trains or plays one configuration, in the manner of rl_games' Runner.

    A learner with a rollout of its own overrides the methods under "The learner".

    Args:
        config: a validated configuration.
        observers: called in order; by default the recorder of metrics and the console.
        overrides: the command line, recorded in the run folder.
    """

    env: VecEnv
    algo: OnPolicy
    folder: RunFolder

    def __init__(
        self,
        config: Config,
        observers: Sequence[Observer] | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        if config.seed == -1:
            config = replace(config, seed=int(np.random.SeedSequence().generate_state(1)[0]))
        self.config = config
        self.overrides = list(overrides)
        self.observers = [Recorder(), ConsoleView()] if observers is None else list(observers)
        self.threads = device.configure(config.num_threads)
        self.iteration = 0
        self.env_steps = 0
        self.wall_s = 0.0
        self.best_return = -float("inf")
        self._stop = StopRequest()
        self._saver = Saver()
        self._saved_at = -float("inf")

    def run(self) -> int:
        """Trains, or plays if ``test``; returns the exit code."""
        return self.play() if self.config.test else self.train()

    # Building ---------------------------------------------------------------------------------

    def build(self) -> None:
        """Makes environments, learner and buffers."""
        cfg = self.config
        env_seed, init_seed, act_seed = (
            int(s) for s in np.random.SeedSequence(cfg.seed).generate_state(3)
        )
        self.env = tasks.make(
            cfg.task.name,
            cfg.num_envs,
            device=cfg.sim_device,
            sim=cfg.sim.name,
            seed=env_seed,
            num_threads=self.threads,
            sim_settings=sim_settings(cfg.sim),
            **task_settings(cfg.task),
        )
        self.tracker = EpisodeTracker(cfg.num_envs, self.env.device)
        self._make_learner(init_seed, act_seed)

    def open(self) -> dict[str, Any]:
        """Makes everything and returns the content of ``checkpoint``, which fits it."""
        self.build()
        return self._load(self._checkpoint())

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
        self._check_fit(path, content)
        return content

    # The learner ------------------------------------------------------------------------------

    @property
    def agents(self) -> Sequence[AgentSpec]:
        """Who learns a policy."""
        return self.env.agents

    def _make_learner(self, init_seed: int, act_seed: int) -> None:
        """Makes networks, optimisers and buffers."""
        cfg = self.config
        self.algo = ALGORITHMS[cfg.algo.name](
            cfg.algo,
            self.env,
            torch.Generator().manual_seed(init_seed),
            torch.Generator(self.env.device).manual_seed(act_seed),
        )
        self.rollout = Rollout.allocate(self.env, cfg.algo.horizon, self.algo.critic.value_shape)

    def _check_fit(self, path: Path, content: dict[str, Any]) -> None:
        """Makes sure that a checkpoint's networks have the sizes of those here."""
        for name, stack in (("actors", self.algo.actors.stack), ("critic", self.algo.critic.stack)):
            found, wanted = tuple(content["algo_state"][name].shape), tuple(stack.flat.shape)
            if found != wanted:
                raise UserError(
                    f"Checkpoint '{path}' has other {name} (parameters {found}, here {wanted}): "
                    "use the task.agents and algo.hidden it was trained with."
                )
        normalised = bool(content["algo_state"].get("moments", {}).get("actors"))
        if normalised != self.config.algo.normalise_observations:
            raise UserError(
                f"Checkpoint '{path}' was trained with algo.normalise_observations={normalised}; "
                "use that."
            )

    def _learn(self) -> Learnt:
        """Collects, updates, and feeds the tracker of episodes."""
        self.algo.set_progress(self.iteration / self.config.max_iterations)
        start = time.perf_counter()
        step_s = self.collect()
        collect_s = time.perf_counter() - start
        numbers = to_numbers(self.algo.update(self.rollout))
        algo = self.config.algo
        return Learnt(numbers, self.algo.learning_rate, algo.clip, step_s, collect_s)

    def _learner_state(self) -> dict[str, Any]:
        """What a checkpoint holds of the learner."""
        return {"algo_state": self.algo.state_dict()}

    def _restore_learner(self, content: dict[str, Any]) -> None:
        self.algo.load_state_dict(content["algo_state"])

    def _player(self, content: dict[str, Any]) -> Callable[[Tensor], Tensor]:
        """Returns a checkpoint's policy: from joint states (N, S) to mean actions (N, A)."""
        self.algo.load_policy(content["algo_state"])
        policy = self.algo.actors.freeze()
        return lambda state: policy.distribution(self.env.observations(state))[0]

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
            if own is not None:
                own.reopen(cfg, self.overrides, path, self.iteration, self.env_steps)
            self.folder = own or RunFolder.create(cfg, self.overrides)
            stack.callback(self.folder.release)
            return self._train()

    def _resume(self, path: Path) -> None:
        """Restores a checkpoint, if it fits."""
        content = self._load(path)
        self._check_resumable(path, content)
        self._restore(content)

    def _train(self) -> int:
        """Runs the loop between the observers' start and end; keeps status.json."""
        state = "failed"
        try:
            self._mark("running")
            for observer in self.observers:
                observer.on_start(self)
            try:
                with self._stop.listening():
                    self._loop()
            finally:
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

    def _check_resumable(self, path: Path, content: dict[str, Any]) -> None:
        cfg, num_envs = self.config, len(content["state"])
        if num_envs != cfg.num_envs:
            raise UserError(
                f"Checkpoint '{path}' was trained with num_envs={num_envs}; continue with that, "
                f"not num_envs={cfg.num_envs}."
            )
        other = resume.difference(self.env.state_dict(), content["env_state"])
        if other is not None or content["state"].shape != self.state.shape:
            raise UserError(
                f"Checkpoint '{path}' is of other environments ({other or 'state'}): use the task "
                "settings it was trained with."
            )
        if content["iteration"] >= cfg.max_iterations and cfg.resume != "auto":
            raise UserError(
                f"Checkpoint '{path}' is of iteration {content['iteration']}, max_iterations="
                f"{cfg.max_iterations} is reached: max_iterations counts the whole run, raise it."
            )

    @property
    def _cut_short(self) -> bool:
        """A signal ended the run before its time."""
        return bool(self._stop) and self.iteration < self.config.max_iterations

    def _loop(self) -> None:
        try:
            while self.iteration < self.config.max_iterations and not self._stop:
                metrics = self._iterate()
                for observer in self.observers:
                    observer.on_iteration(metrics)
                self._save(metrics["episode_return"], metrics["iteration_s"])
        finally:
            self._saver.wait()

    def _iterate(self) -> dict[str, Any]:
        """One iteration: collect, update, count. Returns the line of metrics.jsonl."""
        cfg = self.config
        start = time.perf_counter()
        numbers, lr, clip, step_s, collect_s = self._learn()
        episodes = self.tracker.flush()
        total_s = time.perf_counter() - start
        steps = cfg.num_envs * cfg.algo.horizon
        self.iteration += 1
        self.env_steps += steps
        self.wall_s += total_s
        agents = range(len(self.agents))
        means = {
            key: sum(numbers[f"agent{p}/{key}"] for p in agents) / len(agents)
            for key in ("loss", "entropy", "kl")
        }
        # Algorithms without a divergence report null, so that every run has the same columns.
        terms = ("divergence_intra", "divergence_inter")
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
            **episodes,
            "lr": lr,
            "clip": clip,
            **means,
            **absent,
            **numbers,
        }

    def collect(self) -> float:
        """Fills the rollout; returns the seconds spent in the environment."""
        with device.single_threaded():
            return self._collect()

    def _collect(self) -> float:
        env, algo, rollout = self.env, self.algo, self.rollout
        policy = algo.freeze()
        step_s = 0.0
        rollout.final_value.zero_()
        for t in range(self.config.algo.horizon):
            decision = policy(env.observations(self.state))
            before = time.perf_counter()
            step = env.step(decision.action)
            step_s += time.perf_counter() - before
            rollout.state[t] = self.state
            rollout.action[t] = decision.action
            rollout.log_prob[t] = decision.log_prob
            rollout.reward[t] = step.reward
            rollout.terminated[t] = step.terminated
            rollout.truncated[t] = step.truncated
            final_value = algo.final_value(step.truncated, step.final_state)
            if final_value is not None:
                rollout.final_value[t] = final_value
            self.tracker.add(step)
            self.state = step.state
        rollout.last_state.copy_(self.state)
        return step_s

    # Saving -----------------------------------------------------------------------------------

    def _save(self, episode_return: float | None, iteration_s: float) -> None:
        """Saves after the first iteration, when it is time, on a new best, and at the end."""
        cfg = self.config
        score = -float("inf") if episode_return is None else episode_return
        better = score > self.best_return
        if better:
            self.best_return = score
        numbered = cfg.save_frequency and self.iteration % cfg.save_frequency == 0
        last = self._stop or self.iteration == cfg.max_iterations
        due = time.monotonic() - self._saved_at + iteration_s > SAVE_INTERVAL
        if not (better or numbered or last or due):
            return
        for observer in self.observers:
            observer.on_save()
        # last.pth comes last: whoever continues from it finds the others as they were.
        names = [f"ep_{self.iteration}"] * bool(numbered) + ["best"] * better + ["last"]
        self._saver.save([self.folder.nn / f"{name}.pth" for name in names], self._content())
        self._saved_at = time.monotonic()

    def _mark(self, state: str) -> None:
        total = self.config.max_iterations
        signalled = None if self._stop.signal is None else self._stop.signal.name
        self.folder.mark(state, iteration=self.iteration, max_iterations=total, signal=signalled)

    def _content(self) -> dict[str, Any]:
        return {
            "task": self.config.task.name,
            "algo": self.config.algo.name,
            "config": as_yaml(self.config),
            "iteration": self.iteration,
            "env_steps": self.env_steps,
            "wall_s": self.wall_s,
            "best_return": self.best_return,
            "env_state": self.env.state_dict(),
            "tracker": self.tracker.state_dict(),
            "state": self.state,
            **self._learner_state(),
        }

    def _restore(self, content: dict[str, Any]) -> None:
        self._restore_learner(content)
        if content["env_state"]:  # else the simulator cannot be put back: episodes start anew
            self.env.load_state_dict(content["env_state"])
            self.tracker.load_state_dict(content["tracker"])
            self.state = content["state"].to(self.env.device)
        self.iteration, self.env_steps = content["iteration"], content["env_steps"]
        self.wall_s, self.best_return = content["wall_s"], content["best_return"]

    # Playing ----------------------------------------------------------------------------------

    def play(self) -> int:
        """Plays a checkpoint with mean actions and prints returns, as rl_games' player does."""
        cfg = self.config
        act = self._player(self.open())
        returns, lengths, success = play_episodes(self.env, act, cfg.test_episodes)
        for score, length in zip(returns.tolist(), lengths.tolist(), strict=True):
            console.info(f"reward: {score:.3f} steps: {length:.0f}")
        console.info(
            f"av reward: {returns.mean():.3f} av steps: {lengths.mean():.1f} "
            f"success: {success.mean():.3f} episodes: {len(returns)}"
        )
        return 0
