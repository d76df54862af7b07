"""Scores of episodes: robust means and intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence of every interval."""
RESAMPLES = 2000
_AT_ONCE = 2**22  # numbers drawn together


def iqm(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interquartile mean along the last axis: the mean without the quarters at both ends.

    Agarwal et al., *Deep RL at the Edge of the Statistical Precipice* (2021). Of n values n // 4
    are left out at each end. (..., n) -> (...)
    """
    cut = values.shape[-1] // 4
    return np.sort(values, axis=-1)[..., cut : values.shape[-1] - cut].mean(-1)


def bootstrap(
    values: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    seed: int = 0,
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of a statistic of independent values (n,).

    One value says nothing about how much others differ: then there is no interval, None.

    Args:
        values: drawn from with replacement, :data:`RESAMPLES` times.
        statistic: maps samples (..., n) to (...).
        seed: of the draws.
    """
    if len(values) < 2:
        return None
    generator = np.random.default_rng(seed)
    chunk = max(1, _AT_ONCE // len(values))
    found = []
    for start in range(0, RESAMPLES, chunk):
        shape = (min(chunk, RESAMPLES - start), len(values))
        found.append(statistic(values[generator.integers(len(values), size=shape)]))
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(np.concatenate(found), (tail, 1.0 - tail))
    return float(low), float(high)


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Interval of a rate (Wilson, 1927), which stays within [0, 1] and is not empty at its ends."""
    z = NormalDist().inv_cdf((1.0 + LEVEL) / 2.0)
    rate, square = successes / trials, z * z / trials
    center = (rate + square / 2.0) / (1.0 + square)
    variance = rate * (1.0 - rate) / trials + square / (4.0 * trials)
    half = z * math.sqrt(variance) / (1.0 + square)
    return max(0.0, center - half), min(1.0, center + half)
