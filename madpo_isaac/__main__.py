"""The command ``madpo``, also ``python -m madpo_isaac``: finds and runs a subcommand."""

from __future__ import annotations

import importlib
import os
import sys
from importlib import metadata

from madpo_isaac import console
from madpo_isaac.commands import COMMANDS
from madpo_isaac.errors import UserError, check_text, lacks_memory, unknown
from madpo_isaac.system import spin


def main(argv: list[str] | None = None) -> int:
    """Runs a subcommand (by default that of the process) and returns its exit code.

    The exit code is 2 after bad input, with one line on stderr, and 130 after Ctrl-C.
    """
    spin.bound()
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    try:
        if name in ("", "-h", "--help"):
            for command, (_, text) in COMMANDS.items():
                console.info(f"madpo {command:<12} {text}")
            console.info(
                "madpo <command> --help describes its arguments, madpo --version prints the version"
            )
            return 0
        if name == "--version":
            console.info(f"madpo_isaac {metadata.version('madpo-isaac')}")
            return 0
        _check_folder()
        if name not in COMMANDS:
            raise unknown("command", name, COMMANDS)
        check_text(rest)
        module = COMMANDS[name][0]
        if name == "train" and not {"-h", "--help"}.isdisjoint(rest):
            module = "commands.train_help"  # which imports nothing large
        return importlib.import_module(f"madpo_isaac.{module}").main(rest)
    except UserError as problem:
        console.error(str(problem))
        return 2
    except (MemoryError, RuntimeError) as problem:
        if not lacks_memory(problem):
            raise
        console.error("Not enough memory: use fewer environments, episodes, steps or runs.")
        return 2
    except KeyboardInterrupt:
        console.error("interrupted")
        return 130


def _check_folder() -> None:
    """Raises UserError where the working folder was removed: libraries would fail in their ways."""
    try:
        os.getcwd()
    except FileNotFoundError as problem:
        raise UserError(
            "The working folder does not exist any more: change to another."
        ) from problem


if __name__ == "__main__":
    sys.exit(main())
