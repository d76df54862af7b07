"""Translation of a task's settings for a foreign simulator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from madpo_isaac.errors import UserError


def refuse_others(sim: str, config: Any, understood: Sequence[str]) -> None:
    """Raises UserError if a setting that has no effect in ``sim`` is not at its default.

    Args:
        sim: its name.
        config: the task's settings.
        understood: names of the settings that have an effect.
    """
    default = type(config)()
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in understood and value != getattr(default, field.name):
            raise UserError(
                f"task.{field.name}={value} has no effect with sim={sim}, whose tasks have "
                f"settings of their own. Allowed: {', '.join(sorted(understood)) or 'none'}."
            )
