"""Reads the columns of a metrics.jsonl that a report shows, fast and in little memory."""

from __future__ import annotations

import functools
import json
import math
import operator
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from madpo_isaac.errors import UserError
from madpo_isaac.system.files import parse_json

_SHOWN = frozenset(
    (
        *("env_steps", "iteration", "wall_s", "episodes"),
        *("episode_return", "episode_length", "success_rate"),
        *("eval/return", "eval/success_rate"),
    )
)
"""Columns of metrics.jsonl that a report shows beside those of agents; reading all would take
several times as long."""
_HIDDEN = frozenset(("loss", "lr", "skipped", "value_aux_loss"))
"""Metrics of agents that a report does not draw."""
_OF_AGENT = re.compile(r"agent\d+/(\w+)")
_PLAIN = frozenset((float, int, type(None)))
"""Types of values that are taken as they are."""
_AT_ONCE = 2000
"""Rows that are kept as Python's objects before they become an array."""
_LARGEST = 1e100
"""Limit of measurements: a larger number is not one, and its square overflows."""
_KINDS = 4
"""Kinds of lines of which the next one may be."""
_NUMBER = r"(?:null|([-+.\deE]+))"
"""Pattern of a value; the group is a number's."""


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Reads the columns that a report shows, (lines,) each, from every complete line.

    A crash may have left half of a line. Files of gigabytes are read line by line.
    """
    columns = _Columns()
    try:
        with path.open("rb") as file:
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

    def add_alike(self, text: bytes) -> bool:
        """Takes in a line that is written as one of the last ones was; returns whether it is.

        It takes a third of the time of reading JSON.
        """
        for rows in self._last:
            if (values := rows.read(text)) is not None:
                self._append(rows, values)
                return True
        return False

    def add(self, line: dict[str, Any], text: bytes) -> None:
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
        elif rows.pattern is None:
            rows.pattern = _pattern(line, text)
        self._append(rows, values)

    def _append(self, rows: _Rows, values: Sequence[float | None]) -> None:
        if not self._last or rows is not self._last[0]:  # the next line is most likely alike
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


def _pattern(line: dict[str, Any], text: bytes) -> re.Pattern[bytes] | None:
    """Returns a pattern of lines with the same keys, with a group for each shown number.

    None if the line is not as train.py writes it, without text or lists.
    """
    parts = [
        f"{re.escape(json.dumps(key))}: {_NUMBER}" if _is_shown(key) else "[^,]*" for key in line
    ]
    pattern = re.compile(rf"\{{{', '.join(parts)}\}}\s*".encode())
    return pattern if pattern.fullmatch(text) else None


class _Rows:
    """Rows of the lines that have the same keys; ``keys`` are those that a report shows."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self.keys = keys
        self.pattern: re.Pattern[bytes] | None = None
        """See :func:`_pattern`; None before the first such line is known."""
        self._steps = keys.index("env_steps")
        take = operator.itemgetter(*keys) if len(keys) > 1 else None
        self._take = take or (lambda line: tuple(line[key] for key in keys))
        self._places: array[int] = array("q")
        self._new: list[Sequence[float | None]] = []
        self._tables: list[np.ndarray] = []

    def read(self, text: bytes) -> list[float | None] | None:
        """Reads a line, if it is written as the first one of this kind is."""
        found = self.pattern and self.pattern.fullmatch(text)
        if not found:
            return None
        try:
            values = [None if number is None else float(number) for number in found.groups()]
        except ValueError:
            return None
        return values if is_number(values[self._steps]) else None

    def values(self, line: dict[str, Any]) -> tuple[Any, ...]:
        """Returns the values of the keys in a line."""
        return self._take(line)

    def add(self, place: int, values: Sequence[float | None]) -> None:
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


def _line(text: bytes) -> dict[str, Any]:
    """Returns the content of a line; empty if it is incomplete or has no ``env_steps``."""
    try:
        line = parse_json(text.decode(errors="replace"))
    except ValueError:
        return {}
    return line if isinstance(line, dict) and is_number(line.get("env_steps")) else {}


@functools.cache
def _is_shown(key: str) -> bool:
    """Returns whether a report shows a column of metrics.jsonl."""
    of_agent = _OF_AGENT.fullmatch(key)
    return key in _SHOWN or (of_agent is not None and of_agent[1] not in _HIDDEN)


def is_number(value: object) -> TypeGuard[float]:
    """Returns whether a value is a finite number that a float can hold."""
    return isinstance(value, (int, float)) and abs(value) <= _LARGEST and not math.isnan(value)
