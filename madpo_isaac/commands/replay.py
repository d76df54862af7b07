"""``madpo replay-dump``: repeats the steps that made simulations unstable."""

from __future__ import annotations

from pathlib import Path

from madpo_isaac import console
from madpo_isaac.errors import UserError
from madpo_isaac.training.worlds import replay


def main(argv: list[str]) -> int:
    """``madpo replay-dump <file>``: a line per fault; 0 if all came again, else 1."""
    if len(argv) != 1:
        raise UserError("replay-dump takes one file, such as runs/x/dumps/iteration_12.pth.")
    found = replay(Path(argv[0]))
    for step, index, again in found:
        outcome = "went bad again" if again else "did not go bad this time"
        console.info(f"step {step} environment {index}: {outcome}")
    return 0 if all(again for *_, again in found) else 1
