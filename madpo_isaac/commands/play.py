"""``madpo play``: plays a checkpoint or a policy of the project, shows it, or films it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from madpo_isaac import console, pretrained
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.config.overrides import compose
from madpo_isaac.config.schema import Config
from madpo_isaac.env import Policy, VecEnv
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.evaluation import episode, window
from madpo_isaac.evaluation.agents import AGENTS, TRAINED, untrained
from madpo_isaac.evaluation.evaluate import evaluate
from madpo_isaac.evaluation.film import film
from madpo_isaac.evaluation.render import choose_backend
from madpo_isaac.evaluation.video import check_path
from madpo_isaac.runs.folder import RunFolder, output_folder
from madpo_isaac.sim import BRIDGES
from madpo_isaac.training.display import steps
from madpo_isaac.training.factory import playing_env, seeds
from madpo_isaac.training.policy import LoadedPolicy, find_checkpoint, policy_of
from madpo_isaac.training.runner import with_seed

DEFAULT = Path()
"""Stands for the default place of a page."""


def main(argv: list[str]) -> int:
    """Plays a policy with mean actions, prints its scores and shows or films it."""
    parser = Parser("madpo play", "Plays a policy with mean actions.")
    parser.add_target()
    parser.add_argument(
        "--agent",
        default=TRAINED,
        help="trained (the default), or zero or random actions, which need no policy",
    )
    parser.add_argument(
        "--episodes",
        type=parser.positive_int,
        help="episodes per environment, for the scores (1, or with --video, --html, --viewer none)",
    )
    parser.add_argument("--video", type=parser.path, help="file for the video, .mp4 or .gif")
    parser.add_argument(
        "--html",
        type=parser.path,
        nargs="?",
        const=DEFAULT,
        help="file for a page that plays an episode offline (<run>/videos/episode.html)",
    )
    parser.add_argument(
        "--viewer", action="store_true", help="play in MuJoCo's viewer until it is closed"
    )
    parser.add_argument(
        "--steps", type=parser.positive_int, help="steps to film with --video (300)"
    )
    parser.add_argument(
        "--envs", type=parser.positive_int, help="environments to film with --video (1)"
    )
    options = parser.parse(argv)
    if options.agent not in AGENTS:
        raise unknown("agent", options.agent, AGENTS)
    for flag, value in (("--steps", options.steps), ("--envs", options.envs)):
        if value is not None and options.video is None:
            raise UserError(f"{flag} {value} works with --video only.")
    steps, envs = options.steps or 300, options.envs or 1
    settings = [f"test_episodes={options.episodes or 1}", f"headless={not options.viewer}"]
    shown = options.video is not None or options.html is not None or options.viewer
    scores = options.episodes is not None or not shown
    if not scores:  # as many environments as are seen, unless the settings say so
        settings += [f"num_envs={envs if options.video else 1}"]
    if options.video is not None:
        settings += ["capture_video=True", f"capture_video_len={steps}"]
        settings += [f"capture_video_freq={steps}", f"capture_video_envs={envs}"]
    return play(
        _config(parser, options, settings),
        options.video,
        options.html,
        agent=options.agent,
        each=False,
        scores=scores,
    )


def _config(parser: Parser, options: argparse.Namespace, settings: list[str]) -> Config:
    """Returns the configuration to play; where no policy is needed, a task's own is enough."""
    name = options.policy
    if options.agent == TRAINED or name in ("latest", "best") or os.path.exists(name):
        return parser.config(options, *settings)
    parser.refuse_task(name, options.settings)
    return compose([f"task={name}", *settings, *options.settings])


def play(
    config: Config,
    video: Path | None = None,
    html: Path | None = None,
    *,
    agent: str = TRAINED,
    each: bool = True,
    scores: bool = True,
) -> int:
    """Plays a checkpoint with mean actions and prints returns, as rl_games' player does.

    Args:
        config: a configuration with ``test``; without a trained ``agent``, any configuration.
        video: file of the video, if ``capture_video`` is set; by default in the run folder.
        html: file for a page that plays an episode; :data:`DEFAULT` puts it in the run folder.
        agent: one of :data:`AGENTS`.
        each: True to print the return of every episode, not only the means.
        scores: True to play whole episodes and print their scores; otherwise the policy is only
            shown or filmed.

    Returns:
        The exit code, 0.
    """
    if config.capture_video:
        choose_backend()  # fails before anything is built
    if not config.headless:
        window.check_display()
    if html and config.sim.name in BRIDGES:
        raise UserError(f"sim={config.sim.name} has no pictures: leave out --html.")
    checkpoint = find_checkpoint(config) if agent == TRAINED else None
    if config.capture_video:
        video = video or _output(config, checkpoint, ".mp4")
        check_path(video)
    if html:
        html = _output(config, checkpoint, episode.SUFFIX) if html == DEFAULT else html
        episode.check_path(html)
    config = with_seed(config)
    env = playing_env(config)
    if checkpoint is None:
        policy = untrained(agent, env, seeds(config.seed)[2])
    else:
        policy = policy_of(config, env)
    if checkpoint and checkpoint.suffix == pretrained.SUFFIX:
        _introduce(pretrained.describe(checkpoint), has_success=env.has_success)
    if scores:
        _score(policy, env, config.test_episodes, each=each)
    if video:
        film(policy, env, video, config.capture_video_len, config.capture_video_envs)
    if html:
        episode.write_episode(policy, env, html, *_titles(config, policy))
    if not config.headless:
        window.watch(policy, env)
    return 0


def _titles(config: Config, policy: Policy) -> tuple[str, str]:
    """Returns the title of a page, and the text beside it."""
    if not isinstance(policy, LoadedPolicy):
        return config.task.name, "not trained"
    source = policy.source
    return config.task.name, f"{source['algo']} after {steps(source['env_steps'])}"


def _output(config: Config, checkpoint: Path | None, suffix: str) -> Path:
    """Returns where a video or a page goes by default: to its run, or else ``runs_dir``."""
    runs = Path(config.runs_dir)
    if checkpoint is None:
        return runs / "videos" / f"{config.task.name}{suffix}"
    folder = output_folder(checkpoint, runs, "videos")
    page = suffix == episode.SUFFIX and RunFolder.of_checkpoint(checkpoint) is not None
    return folder / f"{'episode' if page else checkpoint.stem}{suffix}"


def _score(policy: Policy, env: VecEnv, count: int, *, each: bool) -> None:
    episodes = evaluate(policy, env, count)
    returns, lengths, success = episodes.returns, episodes.lengths, episodes.success
    if each:
        for score, length in zip(returns.tolist(), lengths.tolist(), strict=True):
            console.info(f"reward: {score:.3f} steps: {length:.0f}")
    rate = f"success: {success.mean():.3f} " if env.has_success else ""
    console.info(
        f"av reward: {returns.mean():.3f} av steps: {lengths.mean():.1f} "
        f"{rate}episodes: {len(returns)}"
    )
    if diverged := int(episodes.causes["diverged"].sum()):
        console.warning(f"{diverged} of these {len(returns)} episodes diverged.")


def _introduce(facts: dict[str, Any], *, has_success: bool) -> None:
    console.info(
        f"{facts['task']} by {facts['algo']}, {facts['env_steps']} environment steps: "
        f"'{facts['command']}' at revision {facts['revision']}"
    )
    success = f", success {facts['success']:.4g}" if has_success else ""
    console.info(
        f"it reached return {facts['return']:.4g}{success} in "
        f"{facts['mean_actions']['episodes']} episodes"
    )
