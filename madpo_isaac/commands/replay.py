"""``madpo replay-dump``: repeats the steps that made simulations unstable."""

from __future__ import annotations

from madpo_isaac import console
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.errors import UserError
from madpo_isaac.training.worlds import replay


def main(argv: list[str]) -> int:
    """Repeats the steps and prints a line for each fault; returns 0 if all happened again, or 1."""
    parser = Parser("madpo replay-dump", "Repeats the steps that made simulations unstable.")
    parser.add_argument(
        "file", nargs="?", type=parser.path, help="runs/<run>/dumps/iteration_<n>.pth"
    )
    options = parser.parse(argv)
    if options.file is None:
        raise UserError("replay-dump takes one file, such as runs/x/dumps/iteration_12.pth.")
    found = replay(options.file)
    for step, index, again in found:
        outcome = "went bad again" if again else "did not go bad this time"
        console.info(f"step {step} environment {index}: {outcome}")
    return 0 if all(again for *_, again in found) else 1
