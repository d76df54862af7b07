"""Playing a checkpoint: what a policy does, in numbers and as a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from madpo_isaac import console, pretrained
from madpo_isaac.env import Step
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.player import play_episodes, play_steps
from madpo_isaac.evaluation.video import Clip, prepare
from madpo_isaac.runs.metrics import EpisodeTracker

if TYPE_CHECKING:
    from madpo_isaac.evaluation.evaluate import Act
    from madpo_isaac.training.runner import Runner


def play(
    runner: Runner, video: Path | None = None, *, each: bool = True, scores: bool = True
) -> int:
    """Plays a checkpoint with mean actions and prints returns, as rl_games' player does.

    Args:
        runner: of a configuration with ``test``; builds what it needs.
        video: where ``capture_video`` puts the video; by default in the run folder.
        each: print every episode's, not only the means.
        scores: play episodes for them; else it is only filmed.
    """
    cfg = runner.config
    source = runner.load_policy()
    path = Path(source["checkpoint"])
    if cfg.capture_video:
        video = video or runner.output_folder("videos") / f"{path.stem}.mp4"
        prepare(video)
    if path.suffix == pretrained.SUFFIX:
        _introduce(pretrained.describe(path))
    act = runner.policy()
    if scores:
        _score(runner, act, each=each)
    if video:
        film(runner, act, video)
    return 0


def _score(runner: Runner, act: Act, *, each: bool) -> None:
    cfg = runner.config
    episodes = play_episodes(runner.env, act, cfg.test_episodes)
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


def film(runner: Runner, act: Act, path: Path) -> None:
    """Films ``capture_video_len`` steps from a reset on into ``path``.

    Raises:
        UserError: it cannot be written; a file that was there is as before.
    """
    env, cfg = runner.env, runner.config
    clip = Clip(env, path, cfg.capture_video_envs, cfg.capture_video_len)
    tracker = EpisodeTracker(env.num_envs, env.device)

    def watch(step: Step) -> None:
        tracker.add(step)
        clip.add(step, tracker.returns)

    try:
        try:
            play_steps(env, act, cfg.capture_video_len, watch)
        finally:
            clip.close()
    except OSError as problem:
        raise UserError(f"Cannot write '{path}': {problem}.") from problem
    console.info(f"wrote {path}")
