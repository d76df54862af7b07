"""Exceptions that are shown as a single clear line, without a traceback."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class UserError(ValueError):
    """Raised for mistakes that the user can correct; entry points print it and exit with code 2."""


class RunFailed(Exception):  # noqa: N818  an end, not an error of the program
    """Raised when a run cannot continue; the entry points print the reason and exit with code 1."""


def lacks_memory(problem: Exception) -> bool:
    """Returns whether an exception, Python's or torch's, says that there is not enough memory."""
    said = re.search(r"t allocate|out of memory|invalid storage size", str(problem), re.I)
    return isinstance(problem, MemoryError) or said is not None


def reason_of(problem: BaseException) -> str:
    """Returns the first line of an exception's message, or the name of its type; no full stop.

    Of YAML that cannot be read it is the line of the file, and what is wrong there. OmegaConf's
    objection to a value begins with the key.
    """
    if (mark := getattr(problem, "problem_mark", None)) is not None:
        return f"line {mark.line + 1}: {getattr(problem, 'problem', '')}"
    text = (str(problem).strip() or type(problem).__name__).partition("\n")[0].rstrip(".")
    key = getattr(problem, "full_key", None)
    return f"{key}: {text}" if key else text


def check_text(arguments: Iterable[str]) -> None:
    """Raises :class:`UserError` for an argument that is not UTF-8, which files cannot keep."""
    for argument in arguments:
        if not argument.isascii() and argument != argument.encode(errors="replace").decode():
            shown = argument.encode(errors="backslashreplace").decode()
            raise UserError(f"'{shown}' is not UTF-8: use other letters.")


OWN = {
    "task": "A task of your own needs plugins=[<file.py>], see docs/new_task.md.",
    "algo": "An algorithm of your own needs plugins=[<file.py>], see docs/new_algorithm.md.",
    "hand": "A hand of your own is named by its file, task.hand=<file.yaml>, see docs/new_hand.md.",
}
"""Hints for names that resemble no known one: they may be the user's own."""
OWN["task or hand"] = f"{OWN['task']} {OWN['hand']}"


_SYNONYMS = {"bfloat16": "bf16", "float": "float32", "fp32": "float32", "32": "float32"}
"""Other names of a choice, which are written more like another one."""
_PART = 3
"""Letters from which on a part of a name stands for it, as Lift for ShadowHandLiftUnderarm."""


def unknown(kind: str, name: object, allowed: Iterable[str]) -> UserError:
    """Returns the error for a name that is not ``allowed``; it names the closest match."""
    choices = sorted(allowed)
    hint = closest(name, choices)
    own = OWN.get(kind)
    more = f" {own}" if own and not hint else ""
    known = f"Allowed: {', '.join(choices)}." if choices else "There are none."
    return UserError(f"Unknown {kind} '{name}'.{hint} {known}{more}")


def closest(name: object, choices: Iterable[str]) -> str:
    """Returns " Did you mean '...'?" with the choice that is most similar to ``name``, if any."""
    near = nearest(name, choices)
    return "" if near is None else f" Did you mean '{near}'?"


def nearest(name: object, choices: Iterable[str]) -> str | None:
    """Returns the choice that is most similar to ``name``, None if none is."""
    lowered = {choice.lower(): choice for choice in choices}
    text = str(name).lower()
    text = other if (other := _SYNONYMS.get(text)) in lowered else text
    alike, similar = (
        difflib.get_close_matches(text, lowered, n=1, cutoff=least) for least in (0.9, 0.5)
    )
    longer = sorted((x for x in lowered if len(text) >= _PART and text in x), key=len)
    near = alike or longer or similar
    return lowered[near[0]] if near else None
