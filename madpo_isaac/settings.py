"""Settings with rules: a field of a dataclass declares which values it takes.

A class declares ``gamma: float = setting(0.99, unit)``, and :func:`check_fields` checks an object
and those inside it. Rules that involve several fields are for the class's own ``check``.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from madpo_isaac.errors import UserError, unknown

MAX_COUNT = 10**9
MAX_INTEGER = 2**63 - 1
"""The largest whole number that fits into 64 bits."""

Rule = Callable[[str, Any], None]
"""Takes the key and the value of a setting; raises :class:`UserError` for a bad one."""


def setting(default: Any, rule: Rule) -> Any:
    """Returns a dataclass field whose values ``rule`` checks; None is left to the field's type.

    Args:
        default: its default; a list is copied for every object.
        rule: one of those below, or a function of one's own.
    """
    metadata = {"rule": rule}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def check_fields(node: Any, prefix: str = "") -> None:
    """Checks every field of a dataclass object, and of those inside, by its rule.

    Args:
        node: the object.
        prefix: text before a field's name in messages, such as ``algo.``.

    Raises:
        UserError: naming the first bad value; numbers that are not finite come first.
    """
    fields = list(_fields(node, prefix))
    for key, value, _ in fields:
        _check_number(key, value)
    for key, value, rule in fields:
        if rule is not None and value is not None:
            rule(key, value)


def _fields(node: Any, prefix: str) -> Iterable[tuple[str, Any, Rule | None]]:
    """Key, value and rule of every field, those of objects inside included."""
    for field in dataclasses.fields(node):
        value, key = getattr(node, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            yield from _fields(value, f"{key}.")
        else:
            yield key, value, field.metadata.get("rule")


def check_types(node: Any, prefix: str = "") -> None:
    """Checks that every field of a dataclass object has the type that its class declares.

    OmegaConf does this for values, but not for references to values, such as ``${num_envs}``.

    Raises:
        UserError: naming the first field of another type.
    """
    hints = _hints(type(node))
    for field in dataclasses.fields(node):
        value, key = getattr(node, field.name), f"{prefix}{field.name}"
        if not _fits(value, hints[field.name]):
            raise UserError(f"{key}={value} must be {_described(hints[field.name])}.")
        if dataclasses.is_dataclass(value):
            check_types(value, f"{key}.")


@functools.cache
def _hints(of: type) -> dict[str, Any]:
    return get_type_hints(of)


def _fits(value: Any, hint: Any) -> bool:
    """Returns whether a value is of a declared type; whole numbers are numbers, too."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if kind in (list, tuple):  # OmegaConf makes a list of both
        kinds = [each for each in inner if each is not ...] or [Any]
        many = isinstance(value, (list, tuple))
        return many and all(any(_fits(x, each) for each in kinds) for x in value)
    if kind is float:
        return type(value) in (int, float)
    if kind in (int, bool):
        return type(value) is kind
    return kind is Any or isinstance(value, kind)


def _described(hint: Any) -> str:
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind in (Union, types.UnionType):
        return " or ".join(map(_described, inner))
    if kind in (list, tuple):
        return f"a list, each entry {_described(inner[0])}" if inner else "a list"
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}
    names |= {types.NoneType: "null"}
    return names.get(kind, "a group of settings")


def _check_number(key: str, value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key}={value} must be a finite number.")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        limit = "least -" if value < 0 else "most "
        raise UserError(f"{key}={value} must be at {limit}{MAX_INTEGER}.")


def as_text(text: str) -> str:
    """Returns a text in quotes, with any characters except for references such as ``${x}``."""
    # In quotes a backslash stands for itself, except before a quote and at the end.
    quoted = re.sub(r"(\\*)('|\Z)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text)
    return f"'{quoted}'"


def as_path(path: str | Path) -> str:
    """Returns a path as a setting has it: in quotes where it has to be."""
    text = str(path)
    return text if re.fullmatch(r"[\w./+-]+( [\w./+-]+)*", text, re.ASCII) else as_text(text)


# Rules ------------------------------------------------------------------------------------------


def integer(least: int = 1, most: int = MAX_COUNT) -> Rule:
    """A whole number from ``least`` to ``most``."""

    def rule(key: str, value: int) -> None:
        if value < least:
            raise UserError(f"{key}={value} must be at least {least}.")
        if value > most:
            raise UserError(f"{key}={value} must be at most {most}.")

    return rule


def positive(key: str, value: float) -> None:
    """A number greater than 0."""
    if value <= 0.0:
        raise UserError(f"{key}={value} must be greater than 0.")


def not_negative(key: str, value: float) -> None:
    """A number of at least 0."""
    if value < 0.0:
        raise UserError(f"{key}={value} must not be negative.")


def unit(key: str, value: float) -> None:
    """A number from 0 to 1."""
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{key}={value} must lie between 0 and 1.")


def fraction(key: str, value: float) -> None:
    """A number greater than 0 and at most 1."""
    unit(key, value)
    positive(key, value)


def decay(key: str, value: float) -> None:
    """A number of at least 0 and less than 1."""
    if not 0.0 <= value < 1.0:
        raise UserError(f"{key}={value} must be at least 0 and less than 1.")


def one_of(choices: Iterable[str]) -> Rule:
    """One of ``choices``, which are looked up at each check: a registry may grow."""

    def rule(key: str, value: str) -> None:
        if value not in choices:
            raise unknown(key, value, choices)

    return rule


def texts(key: str, value: list[str]) -> None:
    """Any number of texts."""
    if not all(isinstance(x, str) for x in value):
        raise UserError(f"{key}={value} must list texts, such as [a,b].")


def widths(key: str, value: list[int]) -> None:
    """The widths of one hidden layer or several."""
    if not (value and all(isinstance(x, int) and 1 <= x <= MAX_COUNT for x in value)):
        raise UserError(f"{key}={value} must list at least one width, each from 1 to {MAX_COUNT}.")
