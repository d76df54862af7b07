"""Finds the configuration that plays a policy of some name."""

from __future__ import annotations

import os
import re

from madpo_isaac import pretrained
from madpo_isaac.config.overrides import as_text, compose
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import unknown
from madpo_isaac.tasks import TASKS
from madpo_isaac.tasks.registry import canonical


def playing(policy: str, *settings: str) -> Config:
    """The configuration that plays ``policy``, as the command line names it."""
    return compose([f"checkpoint={as_text(_checkpoint(policy))}", "test=True", *settings])


def _checkpoint(name: str) -> str:
    """The checkpoint called ``name``, or the project's own policy of that name."""
    if name in ("latest", "best") or os.path.exists(name):
        return name
    if canonical(name) in (*TASKS, *pretrained.names()):
        return str(pretrained.find(canonical(name)))
    if re.fullmatch(r"[\w-]+", name):
        raise unknown("policy", name, ["latest", "best", *pretrained.names()])
    return name
