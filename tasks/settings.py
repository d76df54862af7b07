"""Checks of a task's settings, given by the command line, YAML or Python."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np

from madpo_isaac.errors import UserError

_SIZES = (
    *("base_gain", "dist_reward_scale", "max_finger_distance", "max_hand_offset"),
    *("max_palm_distance", "near_distance", "reset_block_pos_noise", "reset_dof_pos_noise"),
    *("reset_object_pos_noise", "spring", "success_angle", "success_distance", "success_gap"),
    "target_distance",
)
"""Settings that must not be negative."""


def plain(value: Any) -> Any:
    """Returns a setting with NumPy's numbers and arrays replaced by Python's, for YAML."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
    return value


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Returns a whole number that is given from Python or NumPy.

    Raises:
        UserError: it is not a whole number, or not between ``least`` and ``most``.
    """
    number = plain(value)
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise UserError(f"{name}={value} must be a whole number of at least {least}.")
    if number > most:
        raise UserError(f"{name}={value} must be at most {most}.")
    return number


def check_settings(config: Any) -> None:
    """Checks the settings of plain types: numbers, texts, True or False.

    Raises:
        UserError: naming the first bad value and what is allowed.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        allowed = _broken_rule(field.name, str(field.type), value)
        if allowed:
            raise UserError(f"task.{field.name}={value} must be {allowed}.")


def _broken_rule(name: str, kind: str, value: Any) -> str:
    """Returns the description of allowed values if a setting is not one of them, else nothing."""
    if kind == "bool":
        return "" if isinstance(value, bool) else "True or False"
    if kind == "str":
        return "" if isinstance(value, str) else "a text"
    number = not isinstance(value, bool)  # which Python counts as one
    if kind == "int | None":
        good = value is None or (type(value) is int and value >= 0)
        return "" if good else "a whole number of at least 0, or null for all"
    if kind == "int":
        good = number and isinstance(value, int) and value >= 1
        return "" if good else "a whole number of at least 1"
    if kind != "float":
        return ""
    good = number and isinstance(value, (int, float)) and math.isfinite(value)
    if name in _SIZES:
        return "" if good and value >= 0.0 else "a finite number of at least 0"
    return "" if good else "a finite number"
