"""Names of earlier versions: an error on the command line, a translation in the record of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from madpo_isaac.errors import UserError

KEYS = {
    "algo.divergence.decay": "algo.divergence.decay_steps=<environment steps>",
    "algo.lr_decay": "algo.lr_schedule=linear",
    "algo.normalise_observations": "algo.input_norm=running, layer, both or none",
    "algo.sigma_on_restore": "algo.std_on_restore",
    "algo.std_x": "algo.std_scale",
    "algo.std_y": "algo.max_std",
    "task.randomise": "task.randomize",
}
"""Old keys and their present names; a group stands for all keys in it."""

VALUES = {"task.observation": {"standardised": "standardized"}}
"""For each key, old values and their present names."""


def error(key: str) -> UserError | None:
    """Returns the error for a key that has another name now, or None if it has none."""
    if key.startswith("task.train."):
        name = key.removeprefix("task.train.")
        return UserError(f"{key} does not exist any more: set algo.{name}, {name} or recipe.")
    for old, new in KEYS.items():
        if key == old or key.startswith(f"{old}."):
            return UserError(f"{key} is now {new}{key.removeprefix(old)}.")
    return None


def translated_flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns recorded settings, by dotted key, with the names of today.

    A key that has been replaced by one with another meaning stays.
    """
    result: dict[str, Any] = {}
    for key, value in settings.items():
        for old, new in KEYS.items():
            if "=" not in new and f"{key}.".startswith(f"{old}."):
                key = new + key.removeprefix(old)
        values = VALUES.get(key, {})
        result[key] = values.get(value, value) if isinstance(value, str) else value
    return result


def translated(record: DictConfig) -> DictConfig:
    """Returns a recorded configuration with the names of today.

    Raises:
        UserError: a key has been replaced by one with another meaning; the line names it.
    """
    record = record.copy()
    for old, new in KEYS.items():
        group, _, name = old.rpartition(".")
        node = OmegaConf.select(record, group)
        if not isinstance(node, DictConfig) or name not in node:
            continue
        if "=" in new:
            raise UserError(f"The configuration is of an earlier version: {old} is now {new}.")
        node[new.rpartition(".")[2]] = node.pop(name)
    for key, values in VALUES.items():
        value = OmegaConf.select(record, key)
        if isinstance(value, str) and value in values:
            OmegaConf.update(record, key, values[value])
    return record
