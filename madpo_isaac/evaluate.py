"""``madpo eval``: what a policy is worth, from equally many episodes of every environment."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from madpo_isaac import console, device, stats
from madpo_isaac.arguments import Parser
from madpo_isaac.env import VecEnv
from madpo_isaac.files import write_json
from madpo_isaac.player import Episodes, play_episodes
from tasks import TASKS

if TYPE_CHECKING:
    from madpo_isaac.runner import Runner

BELOW = 1
"""Exit code if a score is below what was asked for."""

Act = Callable[[Tensor], Tensor]
"""From joint states (N, S) to joint actions (N, A)."""


# Numbers ----------------------------------------------------------------------------------------


def summary(episodes: Episodes) -> dict[str, Any]:
    """Scores of E episodes: means, robust means, intervals of :data:`stats.LEVEL`, and counts.

    Readings are means over the episodes whose physics did not blow up; null if none did not.
    """
    returns = episodes.returns.double().cpu().numpy()
    lengths = episodes.lengths.cpu().numpy()
    won, count = int(episodes.success.sum()), len(returns)
    sound = episodes.causes["diverged"] == 0.0
    return {
        "episodes": count,
        "return": {
            "mean": float(returns.mean()),
            "mean_interval": stats.bootstrap(returns, lambda sample: sample.mean(-1)),
            "iqm": float(stats.iqm(returns)),
            "iqm_interval": stats.bootstrap(returns, stats.iqm),
            "std": float(returns.std()),
            "min": float(returns.min()),
            "max": float(returns.max()),
        },
        "success": {"rate": won / count, "interval": stats.wilson(won, count)},
        "length": {
            "mean": float(lengths.mean()),
            "min": int(lengths.min()),
            "max": int(lengths.max()),
        },
        "terminations": {cause: int(ended.sum()) for cause, ended in episodes.causes.items()},
        "readings": {
            name: _finite(float(values[sound].mean())) for name, values in episodes.readings.items()
        },
    }


def metrics(episodes: Episodes) -> dict[str, list[float | None]]:
    """Every episode's numbers by name, as marl-eval has them."""
    columns = {
        "return": episodes.returns,
        "success": episodes.success,
        "length": episodes.lengths,
        **episodes.causes,
        **episodes.readings,
    }
    return {name: [_finite(x) for x in values.tolist()] for name, values in columns.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# Files ------------------------------------------------------------------------------------------


class Record:
    """A file in marl-eval's layout: environment, task, algorithm, seed, then steps of training.

    Gorsane et al., *Towards a Standardised Performance Evaluation Protocol for Cooperative MARL*
    (2022). Several runs' files are merged by key.
    """

    def __init__(self, task: str, algo: str, seed: int) -> None:
        self._keys = (TASKS[task].split(".")[1], task, algo, f"seed_{seed}")
        self._steps: list[dict[str, Any]] = []

    def add(self, env_steps: int, episodes: Episodes) -> None:
        """Appends what the policy of after ``env_steps`` reached."""
        self._steps.append({"step_count": env_steps, **metrics(episodes)})

    def continue_from(self, path: Path, env_steps: int) -> None:
        """Takes what ``path`` has up to ``env_steps``, if it is there and of the same run."""
        try:
            run = json.loads(path.read_text())
            for key in self._keys:
                run = run[key]
            steps = [step for name, step in run.items() if name.startswith("step_")]
            self._steps = [step for step in steps if step["step_count"] <= env_steps]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._steps = []

    def write(self, path: Path) -> None:
        """Replaces ``path``."""
        content: Any = {f"step_{k}": step for k, step in enumerate(self._steps, 1)}
        for key in reversed(self._keys):
            content = {key: content}
        write_json(path, content)


# During training --------------------------------------------------------------------------------


class Evaluator:
    """Scores the policy in training, in environments of its own and with mean actions.

    Every evaluation starts from the same states, so that differences are the policy's.

    Args:
        env: is for this only; it begins anew with each evaluation.
        episodes: of each environment.
        record: what the run has reached so far.
        path: where ``record`` is written after each evaluation.
    """

    def __init__(self, env: VecEnv, episodes: int, record: Record, path: Path) -> None:
        self._env, self._episodes, self._record, self._path = env, episodes, record, path
        self._beginning = env.state_dict()

    def evaluate(self, act: Act, env_steps: int) -> dict[str, float]:
        """Returns the means as metrics of the iteration."""
        self._env.load_state_dict(self._beginning)
        with device.single_threaded():
            episodes = play_episodes(self._env, act, self._episodes)
        self._record.add(env_steps, episodes)
        self._record.write(self._path)
        returns = episodes.returns.double().cpu().numpy()
        return {
            "eval/return": float(returns.mean()),
            "eval/return_iqm": float(stats.iqm(returns)),
            "eval/success_rate": float(episodes.success.mean()),
            "eval/episode_length": float(episodes.lengths.mean()),
        }


# The command ------------------------------------------------------------------------------------


def score(runner: Runner, episodes: int, *, deterministic: bool) -> tuple[Episodes, dict[str, Any]]:
    """Plays ``episodes`` in every environment; returns them and their :func:`summary`.

    Args:
        runner: with a policy loaded; its seed is that of the sampled actions.
        episodes: of each environment.
        deterministic: mean actions.
    """
    generator = torch.Generator(runner.env.device).manual_seed(runner.config.seed)
    act = runner.policy(None if deterministic else generator)
    with device.single_threaded():
        played = play_episodes(runner.env, act, episodes)
    return played, summary(played)


def main(argv: list[str]) -> int:
    """Scores a checkpoint and writes two files; 1 if a score is below what was asked for."""
    parser = Parser("eval", "Scores a policy: every environment plays the same number of episodes.")
    parser.add_target()
    parser.add_argument("--episodes", type=parser.whole, default=4, help="of each environment (4)")
    parser.add_argument(
        "--deterministic", action="store_true", help="mean actions instead of sampled ones"
    )
    parser.add_argument("--min-success", type=parser.number, help="exit code 1 below this rate")
    parser.add_argument("--min-return", type=parser.number, help="exit code 1 below this mean")
    parser.add_argument("--out", type=Path, help="folder to write to, instead of the run's eval/")
    options = parser.parse(argv)
    from madpo_isaac.runner import make_runner

    runner = make_runner(parser.config(options))
    source = runner.load_policy()
    episodes, scores = score(runner, options.episodes, deterministic=options.deterministic)
    report = {
        **source,
        "seed": runner.config.seed,
        "actions": "mean" if options.deterministic else "sampled",
        "num_envs": runner.env.num_envs,
        "episodes_per_environment": options.episodes,
        **scores,
    }
    folder = options.out or runner.output_folder("eval")
    stem = f"{Path(source['checkpoint']).stem}_{report['actions']}"
    record = Record(source["task"], source["algo"], runner.config.seed)
    record.add(source["env_steps"], episodes)
    record.write(folder / f"{stem}.json")
    write_json(folder / f"{stem}_summary.json", report, indent=2)
    _show(report)
    console.info(f"wrote {folder / stem}.json and {stem}_summary.json")
    return _verdict(scores, options.min_success, options.min_return)


def _verdict(scores: dict[str, Any], min_success: float | None, min_return: float | None) -> int:
    """Compares the estimates themselves, not the ends of their intervals."""
    code = 0
    for name, found, least in (
        ("success", scores["success"]["rate"], min_success),
        ("return", scores["return"]["mean"], min_return),
    ):
        if least is not None and found < least:
            console.error(f"{name} {found:.4g} is below {least:.4g}")
            code = BELOW
    return code


def _show(report: dict[str, Any]) -> None:
    score, success, length = report["return"], report["success"], report["length"]
    count, ends = report["episodes"], report["terminations"]

    def interval(pair: tuple[float, float]) -> str:
        return f"[{pair[0]:.4g}, {pair[1]:.4g}]"

    console.info(
        f"{report['task']} with {report['algo']} after {report['env_steps']} environment steps, "
        f"{report['actions']} actions, {count} episodes:"
    )
    console.info(
        f"  return   {score['mean']:.4g} {interval(score['mean_interval'])}, interquartile mean "
        f"{score['iqm']:.4g} {interval(score['iqm_interval'])}"
    )
    console.info(f"  success  {success['rate']:.4g} {interval(success['interval'])}")
    console.info(f"  length   {length['mean']:.4g} ({length['min']} to {length['max']})")
    shares = (f"{name.replace('_', ' ')} {n} ({n / count:.1%})" for name, n in ends.items())
    console.info(f"  endings  {', '.join(shares)}")
    for name, value in report["readings"].items():
        console.info(f"  {name} {'-' if value is None else format(value, '.4g')} (mean over steps)")
