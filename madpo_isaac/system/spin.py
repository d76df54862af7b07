"""The time that OpenMP's threads spin at a barrier before they sleep."""

from __future__ import annotations

import os

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Either of them says what the user wants."""
COUNT = "10000"


def bound() -> None:
    """Bounds the spinning unless the user has said how long; call it before torch is imported.

    By default libgomp's threads spin 300,000 times before they sleep. On an idle machine that costs
    nothing; beside other programs it takes the time that those who are waited for would need.
    """
    if not any(name in os.environ for name in VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = COUNT
