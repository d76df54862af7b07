"""Turns a run into a policy that comes with the project.

python -m madpo_isaac.pretrained runs/<experiment>

Settings of the task that follow the run become those with which the policy is played and scored,
for example the original's reward if it was trained with another one.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from madpo_isaac import console, pretrained
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.config.playing import playing
from madpo_isaac.config.resume import WHERE
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.evaluate import evaluate, summary
from madpo_isaac.report.runs import Run, load
from madpo_isaac.report.tables import Table
from madpo_isaac.runs import checkpoint
from madpo_isaac.runs.folder import RunFolder
from madpo_isaac.system.files import parse_json, write_atomic
from madpo_isaac.training.factory import playing_env
from madpo_isaac.training.policy import policy_of

_HERE = (*WHERE, "num_threads", "test_episodes")
_FILES = ("save_frequency",)
"""Keys that change which files a run keeps, not what it learns."""
_LENGTH = "max_iterations"
"""The key that a continued run may have changed since its first command."""
_POINTS = 40
"""Points of the curve of the training's episodes."""
_STAGES = ("first", "second", "third", "fourth", "fifth")
"""Names of runs of which each begins with a checkpoint of the one before."""


def main(argv: list[str]) -> int:
    """Makes a policy; returns 0, or 2 after an error line."""
    try:
        path = make(argv)
    except UserError as problem:
        console.error(str(problem))
        return 2
    console.info(f"wrote {path}: return {pretrained.describe(path)['return']:.4g}")
    return 0


def make(argv: list[str]) -> Path:
    """Writes the three files of a policy and returns the path of its parameters.

    The scores are those of the written policy in half precision.

    Raises:
        UserError: an argument is wrong, or the run or its policy cannot be used.
    """
    program = "python -m madpo_isaac.pretrained"
    parser = Parser(program, "Makes a policy that comes with the project of a run's.")
    parser.add_target()
    parser.add_argument(
        "--episodes", type=parser.positive_int, default=1024, help="at least so many in all (1024)"
    )
    parser.add_argument("--revision", help="source it was trained with, if env.json lacks it")
    parser.add_argument("--machine", help="what it was trained on, if env.json lacks it")
    parser.add_argument("--note", help="a sentence for the gallery, for example how it was chosen")
    parser.add_argument("--out", type=Path, default=pretrained.FOLDER, help="folder to write to")
    options = parser.parse(argv)
    task = [text for text in options.settings if text.startswith("task.")]
    config = playing(options.policy, *task)
    source = Path(config.checkpoint)
    folder = RunFolder.of_checkpoint(source)
    if folder is None:
        raise UserError(f"'{source}' is not in a run folder, which tells how it was made.")
    content = checkpoint.load(source)
    split = getattr(config.task, "agents", "hands")
    name = pretrained.name_of(content["task"], split)
    path = options.out / f"{name}{pretrained.SUFFIX}"
    runs = history(folder.path)
    with checkpoint.using(source):
        facts = {
            **{name: content[name] for name in ("task", "algo", "iteration", "env_steps")},
            **origin(folder.path),
            "command": command_line(runs),
            "hours": content["wall_s"] / 3600.0,
            "config": record(config),
        }
    given = {key: getattr(options, key) for key in ("revision", "machine", "note")}
    facts |= {key: value for key, value in given.items() if value}
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / path.name
        pretrained.save(draft, content, facts)
        scored = scores(playing(str(draft), *options.settings), options.episodes)
    pretrained.save(path, content, {**scored, **facts})
    write_atomic(path.with_suffix(".csv"), curve(joined(runs), content["env_steps"]).encode())
    return path


def began(run: Path) -> tuple[Path, int] | None:
    """Returns the run, and the iteration of it, with whose checkpoint another run began, if any.

    The iteration is the one before the first of the other run: the file of the checkpoint may be
    that of a later one by now.

    Raises:
        UserError: the checkpoint is in no run folder.
    """
    path = OmegaConf.select(OmegaConf.load(run / "config.yaml"), "checkpoint")
    if not path or _is_policy(path):  # which has its own history
        return None
    folder = RunFolder.of_checkpoint(Path(path))
    if folder is None:
        raise UserError(f"'{run}' began with '{path}', which is in no run folder.")
    (later,) = load([str(run)])
    return folder.path, int(later.metrics["iteration"][0]) - 1


def _is_policy(path: str) -> bool:
    """Returns whether a checkpoint is a policy that comes with the project."""
    return Path(path).parent.resolve() == pretrained.FOLDER


def history(run: Path) -> list[tuple[Path, int | None]]:
    """Returns the runs that led to a run, the first one first, and the run itself.

    Each has the iteration of the checkpoint with which the next one began; the last has None.

    Raises:
        UserError: there are too many of them, or a checkpoint is gone.
    """
    found: list[tuple[Path, int | None]] = [(run, None)]
    while begun := began(found[0][0]):
        found.insert(0, begun)
        if len(found) > len(_STAGES):
            raise UserError(f"'{run}' is the last of more than {len(_STAGES)} runs: too many.")
    return found


def command_line(runs: Sequence[tuple[Path, int | None]]) -> str:
    """Returns the commands of a :func:`history`, in their order."""
    commands = [origin(run, iteration)["command"] for run, iteration in runs]
    if len(commands) == 1:
        return commands[0]
    for k, stage in enumerate(_STAGES[: len(commands)]):
        begin = f" checkpoint=runs/{_STAGES[k - 1]}" if k else ""
        commands[k] += f"{begin} experiment={stage}"
    return " && ".join(commands)


def joined(runs: Sequence[tuple[Path, int | None]]) -> Run:
    """Returns the last run of a :func:`history` with the iterations that led to it."""
    (whole,) = load([str(runs[0][0])])
    for (_, iteration), (folder, _) in itertools.pairwise(runs):
        (run,) = load([str(folder)])
        old, new = whole.metrics, run.metrics
        kept = old["iteration"] <= iteration
        metrics = {key: np.append(old[key][kept], new[key]) for key in old.keys() & new.keys()}
        whole = dataclasses.replace(run, metrics=metrics)
    return whole


def origin(run: Path, iterations: int | None = None) -> dict[str, Any]:
    """Returns the command, the source revision and the machine of a run.

    Args:
        run: the run folder.
        iterations: in place of the run's own number.

    Raises:
        UserError: the files that tell them are missing or damaged.
    """
    try:
        overrides = (run / "overrides.txt").read_text().split("\n")
        made = parse_json((run / "env.json").read_text())
        threads, revision = made["cpu_threads"], made["git_revision"]
        processor = f"{made.get('cpu', 'CPU')}, {threads} thread{'s' * (threads > 1)}"
        gpu = (made.get("cuda") or [processor])[0]
    except (OSError, ValueError, AttributeError, LookupError, TypeError) as problem:
        reason = f"{type(problem).__name__}: {problem}"
        raise UserError(f"'{run}' does not tell how it was made ({reason}).") from problem
    left_out = (*_HERE, *_FILES)
    settings = [text for text in overrides if text and text.partition("=")[0] not in left_out]
    config = OmegaConf.load(run / "config.yaml")
    keys = ("sim_device", "task.name", _LENGTH, "checkpoint")
    device, task, length, begun = (OmegaConf.select(config, key) for key in keys)
    settings = [f"task={task}", *(text for text in settings if not text.startswith("task="))]
    others = [text for text in settings if not text.startswith(f"{_LENGTH}=")]
    if iterations or len(others) < len(settings):
        settings = [*others, f"{_LENGTH}={iterations or length}"]
    if begun and _is_policy(begun):
        settings.append(f"checkpoint={Path(begun).stem}")
    return {
        "command": " ".join(("python train.py", *map(_quoted, settings))),
        "revision": revision,
        "machine": processor if device == "cpu" else gpu,
    }


def _quoted(setting: str) -> str:
    """Returns a setting as a shell reads it; lists of numbers stay as they are written."""
    plain = re.fullmatch(r"[\w.=,:/+\[\]-]+", setting, re.ASCII)
    return setting if plain else shlex.quote(setting)


def record(config: Config) -> dict[str, Any]:
    """Returns the configuration without the settings that belong to this machine."""
    values = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key not in _HERE}


def scores(config: Config, episodes: int) -> dict[str, Any]:
    """Scores the policy of a configuration, with mean and with sampled actions.

    Args:
        config: one that plays it.
        episodes: are played at least; every environment plays equally many.
    """
    env = playing_env(config)
    policy = policy_of(config, env)
    generator = torch.Generator(env.device).manual_seed(config.seed)
    each = -(-episodes // env.num_envs)
    mean, sampled = (
        summary(evaluate(act, env, each)) for act in (policy, policy.sampled(generator))
    )
    best = {"return": mean["return"]["mean"], "success": mean["success"]["rate"]}
    return {**best, "mean_actions": mean, "sampled_actions": sampled}


def curve(run: Run, env_steps: int) -> str:
    """Returns a run's learning curves up to ``env_steps`` as a CSV file that reports read.

    ``sampled_actions`` are means of the training's episodes, ``mean_actions`` the evaluations.
    """
    stops = np.linspace(0, env_steps, _POINTS + 1)[1:]
    sampled = [
        stops,
        *(run.means(key, stops, stops[0]) for key in ("episode_return", "success_rate")),
    ]
    until = run.metrics["env_steps"] <= env_steps
    keys = ("env_steps", "eval/return", "eval/success_rate")
    missing = np.full(len(until), np.nan)
    evaluated = [run.metrics.get(key, missing)[until] for key in keys]
    rows = [
        [name, str(int(steps)), *(f"{value:.5g}" for value in values)]
        for name, columns in (("mean_actions", evaluated), ("sampled_actions", sampled))
        for steps, *values in zip(*columns, strict=True)
        if np.isfinite(values).all()
    ]
    return Table("", ["run", "env_steps", "episode_return", "success_rate"], rows).csv()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
