"""The launcher of a sweep, and the extra of this package that brings it."""

from __future__ import annotations

from collections.abc import Sequence

from madpo_isaac.errors import UserError

PLUGINS = {"submitit": "cluster"}
"""The extra of this package that brings the launchers whose names start with the key."""


def launcher(overrides: Sequence[str]) -> str | None:
    """The launcher of the sweep; None for Hydra's own, which makes one run after another here."""
    asked = [text.partition("=")[2] for text in overrides if text.startswith("hydra/launcher=")]
    return asked[-1] if asked and asked[-1] != "basic" else None


def missing(name: str, allowed: Sequence[str]) -> UserError | None:
    """The error for a launcher that an extra brings and that is not installed, if it is one."""
    for prefix, extra in PLUGINS.items():
        if name.startswith(prefix) and not any(x.startswith(prefix) for x in allowed):
            return UserError(
                f"hydra/launcher={name} comes with the extra {extra}: pip install -e '.[{extra}]'."
            )
    return None
