"""Arguments of subcommands: options, and for some a policy and settings in train.py's form."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from madpo_isaac.errors import UserError, unknown
from madpo_isaac.settings import MAX_COUNT

if TYPE_CHECKING:
    from madpo_isaac.config.schema import Config


class Parser(argparse.ArgumentParser):
    """Argument parser that raises :class:`UserError`.

    Args:
        program: the program's name, such as ``madpo eval``.
        text: its description.
    """

    def __init__(self, program: str, text: str) -> None:
        super().__init__(prog=program, description=text, allow_abbrev=False)
        # By itself argparse takes -1e3 for an option.
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$", re.I)

    def add_policy(self) -> None:
        """Adds the policy."""
        self.add_argument(
            "policy",
            help="a run folder, a checkpoint, latest, best, or a task that has a policy",
        )

    def add_target(self) -> None:
        """Adds the policy and the settings."""
        self.add_policy()
        self.add_argument(
            "settings",
            nargs="*",
            metavar="key=value",
            help="settings of train.py, such as num_envs=64 seed=3",
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses arguments; options and the rest may come in any order.

        Raises:
            UserError: for anything wrong.
        """
        known = [name for action in self._actions for name in action.option_strings]
        for argument in argv:
            name = argument.partition("=")[0]
            if name.startswith("-") and name not in known and not _is_number(name):
                raise unknown("option", name, [name for name in known if name.startswith("--")])
        return self.parse_intermixed_args(argv)

    def error(self, message: str) -> NoReturn:
        """Raises the message that argparse would print."""
        raise UserError(f"{self.prog}: {message.removesuffix(', key=value')}.")

    @staticmethod
    def positive_int(text: str) -> int:
        """Returns a whole number from 1 to :data:`MAX_COUNT`."""
        try:
            number = int(text) if text.isdecimal() else 0
        except ValueError:  # more digits than Python converts
            number = MAX_COUNT + 1
        if number < 1:
            raise argparse.ArgumentTypeError(f"'{text}' must be a whole number of at least 1")
        if number > MAX_COUNT:
            raise argparse.ArgumentTypeError(f"'{text}' must be at most {MAX_COUNT}")
        return number

    @staticmethod
    def path(text: str) -> Path:
        """Returns a path with ``~`` replaced, which shells do not do in ``--out=~/x``."""
        if not text:
            raise argparse.ArgumentTypeError("the path is empty")
        return Path(os.path.expanduser(text))

    @staticmethod
    def refuse_task(name: str, settings: Sequence[str]) -> None:
        """Raises UserError if ``settings`` name a task, since the command is about ``name``."""
        if other := next((text for text in settings if text.startswith("task=")), None):
            raise UserError(f"'{other}': the command is about '{name}', named first.")

    @staticmethod
    def number(text: str) -> float:
        """Returns a finite number."""
        if not _is_number(text):
            raise argparse.ArgumentTypeError(f"'{text}' must be a number")
        return float(text)

    def config(self, options: argparse.Namespace, *settings: str) -> Config:
        """Returns the configuration that plays ``options.policy``, with further ``settings``."""
        from madpo_isaac.config.playing import playing  # loads torch

        return playing(options.policy, *settings, *options.settings)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
