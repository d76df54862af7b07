"""``madpo play``: plays a checkpoint or a policy of the project, as a video too."""

from __future__ import annotations

from madpo_isaac.commands.arguments import Parser
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.play import play
from madpo_isaac.evaluation.video import check_path, prepare
from madpo_isaac.training.factory import make_runner


def main(argv: list[str]) -> int:
    """Plays a policy with mean actions, prints its scores and films it."""
    parser = Parser("madpo play", "Plays a policy with mean actions.")
    parser.add_target()
    parser.add_argument(
        "--episodes",
        type=parser.whole,
        help="episodes per environment, for the scores (1; with --video none)",
    )
    parser.add_argument("--video", type=parser.path, help="file for the video, .mp4 or .gif")
    parser.add_argument("--steps", type=parser.whole, default=300, help="steps to film (300)")
    parser.add_argument("--envs", type=parser.whole, default=1, help="environments to film (1)")
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
    return play(
        make_runner(parser.config(options, *settings)), options.video, each=False, scores=scores
    )
