"""``madpo play``: plays a checkpoint or a policy of the project, as a video too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from madpo_isaac import console, pretrained
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.config.schema import Config
from madpo_isaac.env import Policy, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.evaluate import evaluate
from madpo_isaac.evaluation.film import film
from madpo_isaac.evaluation.render import choose_backend
from madpo_isaac.evaluation.video import check_path, prepare
from madpo_isaac.runs.folder import output_folder
from madpo_isaac.system import device
from madpo_isaac.training.factory import make_env
from madpo_isaac.training.policy import find_checkpoint, load_policy
from madpo_isaac.training.runner import with_seed


def main(argv: list[str]) -> int:
    """Plays a policy with mean actions, prints its scores and films it."""
    parser = Parser("madpo play", "Plays a policy with mean actions.")
    parser.add_target()
    parser.add_argument(
        "--episodes",
        type=parser.positive_int,
        help="episodes per environment, for the scores (1; with --video none)",
    )
    parser.add_argument("--video", type=parser.path, help="file for the video, .mp4 or .gif")
    parser.add_argument(
        "--steps", type=parser.positive_int, default=300, help="steps to film (300)"
    )
    parser.add_argument(
        "--envs", type=parser.positive_int, default=1, help="environments to film (1)"
    )
    options = parser.parse(argv)
    settings = [f"test_episodes={options.episodes or 1}"]
    scores = options.episodes is not None or options.video is None
    if options.video is not None:
        check_path(options.video)
        if not options.video.parent.is_dir():
            raise UserError(
                f"--video {options.video}: there is no folder '{options.video.parent}'."
            )
        prepare(options.video)
        if not scores:  # as many environments as are seen, unless the settings say so
            settings += [f"num_envs={options.envs}"]
        settings += ["capture_video=True", f"capture_video_len={options.steps}"]
        settings += [f"capture_video_envs={options.envs}"]
    return play(parser.config(options, *settings), options.video, each=False, scores=scores)


def play(
    config: Config, video: Path | None = None, *, each: bool = True, scores: bool = True
) -> int:
    """Plays a checkpoint with mean actions and prints returns, as rl_games' player does.

    Args:
        config: one with ``test``.
        video: where ``capture_video`` puts the video; by default in the run folder.
        each: print every episode's, not only the means.
        scores: play episodes for them; else it is only filmed.

    Returns:
        The exit code, 0.
    """
    if config.capture_video:
        choose_backend()  # fails before anything is built
    config = with_seed(config)
    env = make_env(config, threads=device.configure(config.num_threads, config.sim_device))
    policy = load_policy(config.checkpoint, env, config)
    path = find_checkpoint(config)
    if config.capture_video:
        runs = Path(config.runs_dir)
        video = video or output_folder(path, runs, "videos") / f"{path.stem}.mp4"
        prepare(video)
    if path.suffix == pretrained.SUFFIX:
        _introduce(pretrained.describe(path))
    if scores:
        _score(policy, env, config.test_episodes, each=each)
    if video:
        film(policy, env, video, config.capture_video_len, config.capture_video_envs)
    return 0


def _score(policy: Policy, env: VecEnv, count: int, *, each: bool) -> None:
    episodes = evaluate(policy, env, count)
    returns, lengths, success = episodes.returns, episodes.lengths, episodes.success
    if each:
        for score, length in zip(returns.tolist(), lengths.tolist(), strict=True):
            console.info(f"reward: {score:.3f} steps: {length:.0f}")
    console.info(
        f"av reward: {returns.mean():.3f} av steps: {lengths.mean():.1f} "
        f"success: {success.mean():.3f} episodes: {len(returns)}"
    )


def _introduce(facts: dict[str, Any]) -> None:
    console.info(
        f"{facts['task']} by {facts['algo']}, {facts['env_steps']} environment steps: "
        f"'{facts['command']}' at revision {facts['revision']}"
    )
    scores = facts["mean_actions"]
    console.info(
        f"it reached return {facts['return']:.4g}, success {facts['success']:.4g} in "
        f"{scores['episodes']} episodes"
    )
