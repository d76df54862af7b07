"""The time that OpenMP's threads spin at a barrier before they sleep."""

from __future__ import annotations

import os

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""If one of these variables is set, the user has chosen."""
COUNT = "10000"


def bound() -> None:
    """Limits the spinning, unless the user has chosen a limit; call it before torch is imported.

    By default libgomp's threads spin 300,000 times before they sleep. On an idle machine that costs
    nothing. Beside other programs the spinning threads take the cores from the threads for which
    they wait.
    """
    if not any(name in os.environ for name in VARIABLES):
        os.environ["GOMP_SPINCOUNT"] = COUNT
