"""``madpo eval``: scores a checkpoint; the exit code says whether the scores are high enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from madpo_isaac import console
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.env import is_success
from madpo_isaac.evaluation.evaluate import Record, evaluate, summary
from madpo_isaac.runs.folder import output_folder
from madpo_isaac.system.files import check_writable, write_json
from madpo_isaac.training.factory import playing_env
from madpo_isaac.training.policy import find_checkpoint, policy_of
from madpo_isaac.training.runner import with_seed

BELOW = 1
"""Exit code if a score is below the limit that the user has set."""


def main(argv: list[str]) -> int:
    """Scores a checkpoint and writes two files; returns 1 if a score is below a limit, else 0."""
    parser = Parser(
        "madpo eval", "Scores a policy: every environment plays the same number of episodes."
    )
    parser.add_target()
    parser.add_argument(
        "--episodes", type=parser.positive_int, default=4, help="episodes per environment (4)"
    )
    parser.add_argument(
        "--deterministic", action="store_true", help="use mean actions instead of sampled ones"
    )
    parser.add_argument(
        "--min-success", type=parser.number, help="exit code 1 if the success rate is lower"
    )
    parser.add_argument(
        "--min-return", type=parser.number, help="exit code 1 if the mean return is lower"
    )
    parser.add_argument(
        "--out", type=parser.path, help="folder to write to, instead of the run's eval/"
    )
    options = parser.parse(argv)
    config = with_seed(parser.config(options))
    folder = options.out or output_folder(find_checkpoint(config), Path(config.runs_dir), "eval")
    check_writable(folder)
    env = playing_env(config)
    policy = policy_of(config, env)
    source = policy.source
    generator = torch.Generator(env.device).manual_seed(config.seed)
    act = policy if options.deterministic else policy.sampled(generator)
    episodes = evaluate(act, env, options.episodes)
    scores = summary(episodes)
    report = {
        **source,
        "evaluation_seed": config.seed,
        "actions": "mean" if options.deterministic else "sampled",
        "settings": [text for text in options.settings if text.startswith(("task.", "sim."))],
        "num_envs": env.num_envs,
        "episodes_per_environment": options.episodes,
        **scores,
    }
    _show(report, has_success=env.has_success)
    stem = f"{Path(source['checkpoint']).stem}_{report['actions']}"
    record = Record(source["task"], source["algo"], source["seed"])
    record.add(source["env_steps"], episodes)
    record.write(folder / f"{stem}.json")
    write_json(folder / f"{stem}_summary.json", report, indent=2)
    console.info(f"wrote {folder / stem}.json and {stem}_summary.json")
    return _verdict(scores, options.min_success, options.min_return)


def _verdict(scores: dict[str, Any], min_success: float | None, min_return: float | None) -> int:
    """Compares the estimates themselves, not the ends of their intervals."""
    code = 0
    asked = (min_success, min_return) != (None, None)
    if asked and scores["terminations"]["diverged"] == scores["episodes"]:
        console.error(f"all {scores['episodes']} episodes diverged: there is no score")
        return BELOW
    for name, found, least in (
        ("success", scores["success"]["rate"], min_success),
        ("return", scores["return"]["mean"], min_return),
    ):
        if least is not None and not found >= least:  # NaN is below, too
            console.error(f"{name} {found:.4g} is below {least:.4g}")
            code = BELOW
    return code


def _show(report: dict[str, Any], *, has_success: bool) -> None:
    score, length = report["return"], report["length"]
    count, ends = report["episodes"], report["terminations"]

    def interval(pair: tuple[float, float] | None) -> str:
        return "" if pair is None else f" [{pair[0]:.4g}, {pair[1]:.4g}]"

    console.info(
        f"{report['task']} with {report['algo']} after {report['env_steps']} environment steps, "
        f"{report['actions']} actions, {count} episodes:"
    )
    console.info(
        f"  return   {score['mean']:.4g}{interval(score['mean_interval'])}, interquartile mean "
        f"{score['iqm']:.4g}{interval(score['iqm_interval'])}"
    )
    for name in filter(is_success, report if has_success else ()):
        rate = report[name]["rate"]
        console.info(f"  {name:<8} {rate:.4g}{interval(report[name]['interval'])}")
    console.info(f"  length   {length['mean']:.4g} ({length['min']} to {length['max']})")
    shares = (f"{name.replace('_', ' ')} {n} ({n / count:.1%})" for name, n in ends.items())
    console.info(f"  endings  {', '.join(shares)}")
    for name, value in report["readings"].items():
        console.info(f"  {name} {'-' if value is None else format(value, '.4g')} (mean over steps)")
