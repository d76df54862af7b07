"""Reads the columns of a metrics.jsonl that a report shows, fast and in little memory."""

from __future__ import annotations

import functools
import json
import math
import operator
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard, cast

import numpy as np

from madpo_isaac.errors import UserError
from madpo_isaac.system.files import parse_json

AGENT_METRICS = (
    *("entropy", "kl", "clip_fraction", "grad_norm"),
    *("preceding_ratio", "divergence_intra", "divergence_inter"),
)
"""Metrics of each agent that a report draws."""
_SHOWN = frozenset(
    (
        *("env_steps", "iteration", "wall_s", "episodes"),
        *("episode_return", "episode_length", "success_rate"),
        *("eval/return", "eval/success_rate"),
    )
)
"""Further columns of metrics.jsonl that a report shows; reading all would take several times as
long."""
_PLAIN = frozenset((float, int, type(None)))
"""Types of values that are taken as they are."""
_AT_ONCE = 2000
"""Rows that are kept as Python's objects before they become an array."""
_LARGEST = 1e100
"""Limit of measurements: a larger number is not one, and its square overflows."""
_KINDS = 4
"""Kinds of lines of which the next one may be."""


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Reads the columns that a report shows, (lines,) each, from every complete line.

    A crash may have left half of a line. Files of gigabytes are read line by line.
    """
    columns = _Columns()
    try:
        with path.open(errors="replace") as file:
            for text in file:
                if not columns.add_alike(text) and (line := _line(text)):
                    columns.add(line, text)
    except OSError as problem:
        raise UserError(f"Cannot read '{path}': {problem.strerror}.") from problem
    return columns.arrays()


class _Columns:
    """Numbers of lines by their keys. Most lines have the same keys, so their places are stored."""

    def __init__(self) -> None:
        self._count = 0
        self._last: list[_Rows] = []
        self._kinds: dict[tuple[str, ...], _Rows] = {}
        """Keys of a line to the rows of such lines."""

    def add_alike(self, text: str) -> bool:
        """Takes in a line that is written as one of the last ones was; returns whether it is.

        It takes half of the time of reading JSON.
        """
        if not text.endswith("}\n"):
            return False
        parts = text[1:-2].split(", ")
        for rows in self._last:
            if (values := rows.read(parts)) is not None:
                rows.add(self._count, values)
                self._count += 1
                return True
        return False

    def add(self, line: dict[str, Any], text: str) -> None:
        """Takes in one line, which was read from ``text``."""
        rows = self._rows(line)
        values = rows.values(line)
        if not _PLAIN.issuperset(map(type, values)):  # text and lists are no curves
            line = {
                key: value
                for key, value in zip(rows.keys, values, strict=True)
                if value is None or isinstance(value, (int, float))
            }
            rows = self._rows(line)
            values = tuple(x if is_number(x) else None for x in rows.values(line))
        elif rows.layout is None:
            rows.layout = _layout(line, text)
        self._last = [rows, *(found for found in self._last if found is not rows)][:_KINDS]
        rows.add(self._count, values)
        self._count += 1

    def _rows(self, line: dict[str, Any]) -> _Rows:
        keys = tuple(line)
        found = self._kinds.get(keys)
        if found is None:
            found = self._kinds[keys] = _Rows(tuple(filter(_is_shown, keys)))
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns the columns, with NaN where a line has no number."""
        columns: dict[str, np.ndarray] = {}
        for rows in self._kinds.values():
            places, table = rows.table()
            if not len(places):
                continue
            for key, numbers in zip(rows.keys, table.T, strict=True):
                if key not in columns:
                    columns[key] = np.full(self._count, np.nan)
                columns[key][places] = np.where(np.abs(numbers) <= _LARGEST, numbers, np.nan)
        return columns


@dataclass(frozen=True)
class _Layout:
    """The parts of a line as train.py writes it, which commas separate."""

    count: int
    """Number of parts."""
    pick: Callable[[list[str]], tuple[str, ...]]
    """Takes the parts that a report shows."""
    heads: list[str]
    """The beginnings of those, up to the number."""
    numbers: list[slice]
    """The places of their numbers."""
    steps: int
    """The place of ``env_steps`` among them."""


def _layout(line: dict[str, Any], text: str) -> _Layout | None:
    """Returns how a line is written; None if it is not as train.py writes it."""
    heads = [f"{json.dumps(key)}: " for key in line]
    parts = text.strip()[1:-1].split(", ")
    shown = [k for k, key in enumerate(line) if _is_shown(key)]
    if len(shown) < 2 or len(parts) != len(heads) or not all(map(str.startswith, parts, heads)):
        return None
    heads = [heads[k] for k in shown]
    numbers = [slice(len(head), None) for head in heads]
    steps = heads.index('"env_steps": ')
    return _Layout(len(parts), operator.itemgetter(*shown), heads, numbers, steps)


class _Rows:
    """Rows of the lines that have the same keys; ``keys`` are those that a report shows."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.layout: _Layout | None = None
        """How such lines are written; None before the first one is known."""
        take = operator.itemgetter(*keys) if len(keys) > 1 else None
        self._take = take or (lambda line: tuple(line[key] for key in keys))
        self._places: array[int] = array("q")
        self._new: list[tuple[float | None, ...]] = []
        self._tables: list[np.ndarray] = []

    def read(self, parts: list[str]) -> tuple[float | None, ...] | None:
        """Reads a line from its parts, if they are those of the first line of this kind."""
        layout = self.layout
        if layout is None or len(parts) != layout.count:
            return None
        shown = layout.pick(parts)
        if not all(map(str.startswith, shown, layout.heads)):
            return None
        found = cast(list[str], list(map(operator.getitem, shown, layout.numbers)))
        try:
            if "null" in found:
                values = tuple([None if x == "null" else float(x) for x in found])
            else:
                values = tuple(map(float, found))
        except ValueError:
            return None
        return values if is_number(values[layout.steps]) else None

    def values(self, line: dict[str, Any]) -> tuple[Any, ...]:
        """Returns the values of the keys in a line."""
        return self._take(line)

    def add(self, place: int, values: tuple[float | None, ...]) -> None:
        """Appends a row, that of line ``place``."""
        self._places.append(place)
        self._new.append(values)
        if len(self._new) >= _AT_ONCE:
            self._pack()

    def _pack(self) -> None:
        if not self._new:
            return
        try:
            table = np.array(self._new, dtype=float)  # None becomes NaN
        except OverflowError:  # a whole number that no float can hold
            rows = [[x if is_number(x) else None for x in row] for row in self._new]
            table = np.array(rows, dtype=float)
        self._tables.append(table)
        self._new = []

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the lines' places, (rows,), and their numbers, (rows, keys)."""
        self._pack()
        empty = np.zeros((0, len(self.keys)))
        return np.array(self._places, dtype=int), np.concatenate([empty, *self._tables])


def _line(text: str) -> dict[str, Any]:
    """Returns the content of a line; empty if it is incomplete or has no ``env_steps``."""
    try:
        line = parse_json(text)
    except ValueError:
        return {}
    return line if isinstance(line, dict) and is_number(line.get("env_steps")) else {}


@functools.cache
def _is_shown(key: str) -> bool:
    """Returns whether a report shows a column of metrics.jsonl."""
    agent, _, name = key.partition("/")
    return key in _SHOWN or (agent.startswith("agent") and name in AGENT_METRICS)


def is_number(value: object) -> TypeGuard[float]:
    """Returns whether a value is a finite number that a float can hold."""
    return isinstance(value, (int, float)) and abs(value) <= _LARGEST and not math.isnan(value)
