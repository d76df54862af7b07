"""By-products of a run, which it can do without."""

from __future__ import annotations

from collections.abc import Callable

from madpo_isaac import console
from madpo_isaac.errors import UserError


class ByProduct:
    """Work that may fail: after its first failure there is a warning, and it is not tried again.

    Args:
        name: name of the by-product in the message "no more <name>", such as "videos".
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.given_up = False

    def attempt(self, work: Callable[[], object], *, silent: bool = False) -> bool:
        """Does ``work`` unless an earlier attempt has failed; returns whether it is done.

        Args:
            work: function that may fail.
            silent: True to print no warning, because an error that ends the run is printed.
        """
        if self.given_up:
            return False
        try:
            work()
        except Exception as problem:  # noqa: BLE001  whatever it is, the run does without
            self.given_up = True
            if silent:
                return False
            told = isinstance(problem, (OSError, UserError)) and str(problem)
            reason = told or f"{type(problem).__name__}: {problem}"
            console.warning(f"no more {self.name}, training goes on: {reason.rstrip('.')}.")
        return not self.given_up
