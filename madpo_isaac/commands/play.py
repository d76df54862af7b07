"""``madpo play``: plays a checkpoint or a policy of the project, as a video too."""

from __future__ import annotations

from pathlib import Path

from madpo_isaac.commands.arguments import Parser
from madpo_isaac.evaluation.play import play
from madpo_isaac.evaluation.video import check_path
from madpo_isaac.training.factory import make_runner


def main(argv: list[str]) -> int:
    """Plays a policy with mean actions, prints its scores and films it."""
    parser = Parser("madpo play", "Plays a policy with mean actions.")
    parser.add_target()
    parser.add_argument("--episodes", type=parser.whole, default=1, help="of each environment (1)")
    parser.add_argument("--video", type=Path, help="file to film it into, .mp4 or .gif")
    parser.add_argument("--steps", type=parser.whole, default=300, help="steps to film (300)")
    parser.add_argument("--envs", type=parser.whole, default=1, help="environments to film (1)")
    options = parser.parse(argv)
    settings = [f"test_episodes={options.episodes}"]
    if options.video is not None:
        check_path(options.video)
        settings += ["capture_video=True", f"capture_video_len={options.steps}"]
        settings += [f"capture_video_envs={options.envs}"]
    return play(make_runner(parser.config(options, *settings)), options.video, each=False)
