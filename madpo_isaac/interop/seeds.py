"""Seeds of the other libraries' resets."""

from __future__ import annotations

import operator

from madpo_isaac.env import VecEnv
from madpo_isaac.errors import UserError


def reseed(env: VecEnv, seed: int | None) -> None:
    """Sets the seed of the environments' random numbers, unless ``seed`` is None.

    Raises:
        UserError: the seed is not a whole number of 64 bits, or the simulator can be seeded only
            when it is made.
    """
    if seed is None:
        return
    generator = getattr(env, "generator", None)
    if generator is None:
        raise UserError(f"seed={seed}: this simulator is seeded when it is made, not by reset.")
    try:
        generator.manual_seed(operator.index(seed))  # NumPy's integers, too
    except (TypeError, ValueError) as problem:
        raise UserError(f"seed={seed} must be a whole number of 64 bits.") from problem
