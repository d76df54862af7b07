"""Command line of a benchmark, key=value, and the file of its numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from madpo_isaac import console
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.runs.folder import machine


def read(argv: list[str], **defaults: Any) -> SimpleNamespace:
    """Returns ``defaults`` with the values that ``argv`` sets, each of its default's type.

    ``out`` (a file, none) is always among them. A list is written ``a,b,c``. Other keys of train.py
    go to ``further`` (a list of key=value) if there is a default of that name.

    Raises:
        UserError: an unknown key, or a value of another type.
    """
    values = {"out": "", **defaults}
    keys = values.keys() - {"further"}
    for argument in argv:
        key, separator, text = argument.partition("=")
        if not separator:
            raise UserError(f"'{argument}': settings are written <key>=<value>.")
        if key in keys:
            values[key] = _convert(key, text, values[key])
        elif "further" in values:
            values["further"] = [*values["further"], argument]
        else:
            raise unknown("key", key, keys)
    return SimpleNamespace(**values)


def _convert(key: str, text: str, default: Any) -> Any:
    kind = type(default[0]) if isinstance(default, list) else type(default)
    names = {int: "a whole number", float: "a number"}
    try:
        values = [kind(part) for part in text.split(",")]
        return values if isinstance(default, list) else kind(text)
    except ValueError:
        several = "each " * isinstance(default, list)
        raise UserError(f"{key}={text} must {several}be {names[kind]}.") from None


def save(given: SimpleNamespace, **results: Any) -> None:
    """Writes results to ``given.out``, if that names a file, beside the machine and settings."""
    if given.out:
        settings = {key: value for key, value in vars(given).items() if key != "out"}
        content = {"machine": machine(), "settings": settings, **results}
        Path(given.out).write_text(json.dumps(content, indent=2) + "\n")


def run(main: Callable[[list[str]], None], about: str | None) -> None:
    """Runs a benchmark with the process's arguments; ``--help`` prints its docstring."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((about or "").strip())
        return
    try:
        main(sys.argv[1:])
    except (UserError, OSError) as problem:
        console.error(str(problem))
        sys.exit(2)
