"""Evaluation of a policy by equal numbers of episodes in every environment."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from madpo_isaac.env import Policy, VecEnv
from madpo_isaac.evaluation import stats
from madpo_isaac.evaluation.player import Episodes, play_episodes
from madpo_isaac.settings import MAX_COUNT
from madpo_isaac.system import device
from madpo_isaac.system.files import parse_json, write_json
from madpo_isaac.tasks.registry import suite
from madpo_isaac.tasks.settings import integer

_BEYOND = 1e38
"""No float32, as which scores come, is as large."""


def evaluate(policy: Policy, env: VecEnv, episodes: int = 1) -> Episodes:
    """Plays whole episodes from a reset on, the same number in every environment.

    Args:
        policy: maps joint states (N, S) to joint actions (N, A).
        env: N environments that are used only for this.
        episodes: number of episodes in each environment.

    Returns:
        The results of all episodes, for :func:`summary` and :func:`means`.

    Raises:
        UserError: ``episodes`` is no whole number of at least 1.
    """
    episodes = integer("episodes", episodes, 1, MAX_COUNT)
    with device.single_threaded():
        return play_episodes(env, policy, episodes)


# Numbers ----------------------------------------------------------------------------------------


def means(episodes: Episodes) -> dict[str, float]:
    """Means over all episodes, and the interquartile mean of the return."""
    returns = episodes.returns.double().cpu().numpy()
    return {
        "return": float(returns.mean()),
        "return_iqm": float(stats.iqm(returns)),
        "success_rate": float(episodes.success.mean()),
        **{f"{name}_rate": float(x.mean()) for name, x in episodes.milestones.items()},
        "episode_length": float(episodes.lengths.mean()),
    }


def summary(episodes: Episodes) -> dict[str, Any]:
    """Scores of E episodes: means, robust means, intervals of :data:`stats.LEVEL`, and counts.

    Other quantities are means over the episodes whose physics did not become unstable. They are
    null if there are none, and so are the intervals of the return of one episode.
    """
    returns = episodes.returns.double().cpu().numpy()
    lengths = episodes.lengths.cpu().numpy()
    count = len(returns)
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
        "success": _rate(episodes.success),
        **{name: _rate(reached) for name, reached in episodes.milestones.items()},
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


def metrics(episodes: Episodes) -> dict[str, list[float]]:
    """Every episode's numbers by name, as marl-eval has them.

    Readings are those of the episodes whose physics did not become unstable: marl-eval takes no
    null.
    """
    sound = episodes.causes["diverged"] == 0.0
    columns = {
        "return": episodes.returns,
        "success": episodes.success,
        "length": episodes.lengths,
        **episodes.milestones,
        **episodes.causes,
        **{name: values[sound] for name, values in episodes.readings.items()},
    }
    return {
        name: [x for x in values.tolist() if math.isfinite(x)] for name, values in columns.items()
    }


def _rate(reached: Tensor) -> dict[str, Any]:
    """The share of episodes (E,) with 1, and its interval."""
    won, count = int(reached.sum()), len(reached)
    return {"rate": won / count, "interval": stats.wilson(won, count)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


# Files ------------------------------------------------------------------------------------------


class Record:
    """A file in marl-eval's layout: environment, task, algorithm, seed, then steps of training.

    Gorsane et al., *Toward a Standardized Performance Evaluation Protocol for Cooperative MARL*
    (2022). Several runs' files are merged by key. The absolute metrics, which marl-eval asks for,
    are those of the step with the best mean return.
    """

    def __init__(self, task: str, algo: str, seed: int) -> None:
        self._keys = (suite(task), task, algo, f"seed_{seed}")
        self._steps: list[dict[str, Any]] = []

    def add(self, env_steps: int, episodes: Episodes) -> None:
        """Appends the scores that the policy reached after ``env_steps``."""
        self._steps.append({"step_count": env_steps, **metrics(episodes)})

    def continue_from(self, path: Path, env_steps: int) -> None:
        """Takes the entries of ``path`` up to ``env_steps``, if the file is of the same run.

        Damaged entries are left out, because they are no reason to stop a run.
        """
        try:
            run = parse_json(path.read_text())
            for key in self._keys:
                run = run[key]
            steps = [step for name, step in run.items() if name.startswith("step_")]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            steps = []
        self._steps = [step for step in steps if _is_step(step) and step["step_count"] <= env_steps]

    def write(self, path: Path) -> None:
        """Replaces ``path``."""
        content: Any = {f"step_{k}": step for k, step in enumerate(self._steps, 1)}
        best = max(self._steps, key=lambda step: sum(step["return"]) / len(step["return"]))
        content["absolute_metrics"] = {k: x for k, x in best.items() if k != "step_count"}
        for key in reversed(self._keys):
            content = {key: content}
        write_json(path, content)


def _is_step(step: object) -> bool:
    """Returns whether :meth:`Record.add` made ``step``: a count, and lists of numbers."""
    if not isinstance(step, dict) or not {"step_count", "return"} <= step.keys():
        return False
    columns = {name: values for name, values in step.items() if name != "step_count"}
    return (
        type(step["step_count"]) is int
        and all(isinstance(values, list) for values in columns.values())
        and bool(step["return"])
        and all(_is_score(value) for values in columns.values() for value in values)
    )


def _is_score(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < _BEYOND
