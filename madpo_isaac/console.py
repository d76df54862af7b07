"""Everything the program prints."""

from __future__ import annotations

import sys

from rich.console import Console

out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


def info(text: str) -> None:
    """Prints one line."""
    out.print(text, markup=False)


def error(text: str) -> None:
    """Prints one line to stderr, headed as an error."""
    line = " ".join(text.split())
    if _err.is_terminal:
        _err.print(f"[bold red]error:[/] {line.replace('[', chr(92) + '[')}")
    else:
        sys.stderr.write(f"error: {line}\n")
