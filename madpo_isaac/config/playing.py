"""Finds the configuration that plays a policy of some name."""

from __future__ import annotations

import os
import re

from madpo_isaac import pretrained
from madpo_isaac.config.overrides import compose
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.settings import as_text
from madpo_isaac.tasks import TASKS
from madpo_isaac.tasks.registry import canonical


def playing(policy: str, *settings: str) -> Config:
    """The configuration that plays ``policy``, as the command line names it.

    Raises:
        UserError: there is no such policy, or a setting is wrong, or names another policy.
    """
    for text in settings:
        if text.lstrip("+").partition("=")[0] in ("checkpoint", "test"):
            raise UserError(f"'{text}': the command plays the policy '{policy}', named first.")
    return compose([f"checkpoint={as_text(_checkpoint(policy))}", "test=True", *settings])


def _checkpoint(name: str) -> str:
    """The checkpoint called ``name``, or the project's own policy of that name."""
    if not name:
        raise UserError("The name of the policy is empty: give a task, or a run folder.")
    if name in ("latest", "best") or os.path.exists(name):
        return name
    if canonical(name) in (*TASKS, *pretrained.names()):
        return str(pretrained.find(canonical(name)))
    if re.fullmatch(r"[\w-]+", name):
        raise unknown("policy", name, ["latest", "best", *pretrained.names()])
    return name
