"""Checks of a task's settings, given by the command line, YAML or Python."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from madpo_isaac.errors import UserError, unknown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Group = TypeVar("Group", bound="DataclassInstance")


def plain(value: Any) -> Any:
    """Returns a setting with NumPy's numbers and arrays replaced by Python's, for YAML."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(inner) for key, inner in value.items()}
    return value


def integer(name: str, value: Any, least: int, most: int) -> int:
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


def size(key: str, value: Any) -> None:
    """The rule of a number that means nothing below 0, see :func:`madpo_isaac.settings.setting`."""
    if not is_number(value) or value < 0.0:
        raise UserError(f"{key}={value} must be a finite number of at least 0.")


def as_group(prefix: str, kind: type[Group], settings: Any) -> Group:
    """Returns a group of settings as an object of its dataclass ``kind``; a mapping becomes one.

    Raises:
        UserError: for anything else, or for a setting that ``kind`` lacks.
    """
    if isinstance(settings, Mapping):
        allowed = [field.name for field in fields(kind)]
        for key in settings:
            if key not in allowed:
                raise unknown(f"setting of {prefix}", key, allowed)
        settings = kind(**settings)
    if not isinstance(settings, kind):
        raise UserError(f"{prefix}={settings} must be a group of settings.")
    return settings


def check_settings(config: Any) -> None:
    """Checks the settings of plain types, and those that have a rule.

    Raises:
        UserError: it names the first bad value and the allowed values.
    """
    for field in fields(config):
        key, value = f"task.{field.name}", getattr(config, field.name)
        rule = field.metadata.get("rule")
        # A class, unless annotations are postponed.
        kind = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        if rule is not size and (allowed := _broken_type(kind, value, any_number=rule is not None)):
            raise UserError(f"{key}={value} must be {allowed}.")
        if rule is not None and (value is not None or rule is size):
            rule(key, value)


def _broken_type(kind: str, value: Any, *, any_number: bool) -> str:
    """Returns the description of allowed values if a setting is not of its type, else nothing.

    Without ``any_number`` whole numbers are sizes.
    """
    if kind == "bool":
        return "" if isinstance(value, bool) else "True or False"
    if kind == "str":
        return "" if isinstance(value, str) else "a text"
    if kind == "int | None":
        good = value is None or (type(value) is int and value >= 0)
        return "" if good else "a whole number of at least 0, or null for all"
    if kind == "int":
        good = type(value) is int and (any_number or value >= 1)
        return "" if good else "a whole number" + " of at least 1" * (not any_number)
    return "a finite number" if kind == "float" and not is_number(value) else ""


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number; True and False are no numbers."""
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    return real and math.isfinite(value)
