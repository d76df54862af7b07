"""Output of the program."""

from __future__ import annotations

import os
import sys

from rich.console import Console
from rich.text import Text

out = Console(highlight=False, emoji=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)


def info(text: str) -> None:
    """Prints one line."""
    out.print(text, markup=False)


def error(text: str) -> None:
    """Prints one line to stderr, marked as an error; unprintable characters are escaped."""
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if _err.is_terminal:
        _err.print(Text.assemble(("error:", "bold red"), f" {line}"))
    else:
        sys.stderr.write(f"error: {line}\n")


def notice(text: str) -> None:
    """Prints one line from a signal handler, which may interrupt another writer."""
    os.write(1, f"{text}\n".encode())
