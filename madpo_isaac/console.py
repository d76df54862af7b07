"""Output of the program. No call here raises an error, even if nobody reads the output any more."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import time
from typing import IO, TextIO, cast

from rich.console import Console
from rich.text import Text

_LONGEST = 1e13
"""Seconds from which on a time is a fault of a clock or of a file, as a negative one is."""


def _open_streams() -> None:
    """Gives the process those of its three streams that it was started without (``>&-``).

    They lead nowhere. Otherwise the next file that is opened would take the number of one, and get
    its output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


_open_streams()


class _Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr``; once it cannot be written, all further output is dropped.

    That is so when the reader of a pipe has ended, a terminal is closed, or a disk is full.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lost: object = None

    @property
    def _target(self) -> TextIO:
        target = getattr(sys, self._name)
        return getattr(target, "rich_proxied_file", target)  # below a live table

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._target.encoding

    def fileno(self) -> int:
        return self._target.fileno()

    def isatty(self) -> bool:
        with contextlib.suppress(ValueError):  # it is closed
            return self._target.isatty()
        return False

    def write(self, text: str, /) -> int:
        target = self._target
        if target is not self._lost:
            try:
                try:
                    target.write(text)
                except UnicodeEncodeError:
                    target.write(text.encode("ascii", "backslashreplace").decode())
            except (OSError, ValueError) as problem:
                self._lose(problem)
        return len(text)

    def flush(self) -> None:
        if self._target is not self._lost:
            try:
                self._target.flush()
            except (OSError, ValueError) as problem:
                self._lose(problem)

    def _lose(self, problem: OSError | ValueError) -> None:
        """Gives the stream up, and empties it, as Python would try again when it ends."""
        self._lost = self._target
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._target.fileno())
            os.close(null)
        if self._name == "stdout" and not isinstance(problem, BrokenPipeError):
            warning(f"nothing more is printed, because stdout cannot be written: {problem}")


_stderr = _Stream("stderr")
out = Console(file=cast(IO[str], _Stream("stdout")), highlight=False, emoji=False, soft_wrap=True)
_err = Console(file=cast(IO[str], _stderr), highlight=False, emoji=False, soft_wrap=True)


def info(text: str) -> None:
    """Prints one line."""
    out.print(text, markup=False)


def error(text: str) -> None:
    """Prints one line to stderr, as an error; characters that cannot be printed are escaped."""
    _head("error", "bold red", text)


def warning(text: str) -> None:
    """Prints one line to stderr, as a warning: the program goes on without something."""
    _head("warning", "bold yellow", text)


def _head(head: str, style: str, text: str) -> None:
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    if _err.is_terminal:
        _err.print(Text.assemble((f"{head}:", style), f" {line}"))
    else:
        _stderr.write(f"{head}: {line}\n")
        _stderr.flush()


def notice(text: str) -> None:
    """Prints one line from a signal handler, which must not enter a writer that is at work.

    It is left out where nobody reads: the handler must not wait.
    """
    with contextlib.suppress(OSError, ValueError):
        if not out.quiet and select.select([], [1], [], 0.0)[1]:
            os.write(1, f"{text}\n".encode())


def hours(seconds: float) -> str:
    """Returns a time as h:mm:ss; ``-`` for one that no run takes."""
    if not 0.0 <= seconds < _LONGEST:
        return "-"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


class Progress:
    """Shows the progress of some work on stderr.

    A terminal has a line that changes, and that is gone at the end. Elsewhere there is a line every
    five seconds, so that short work says nothing.
    """

    def __init__(self) -> None:
        self._pause = 0.1 if _err.is_terminal else 5.0
        self._told = time.monotonic()

    def __call__(self, text: str) -> None:
        """Shows ``text`` if the last text was shown long enough ago."""
        now = time.monotonic()
        if now - self._told < self._pause:
            return
        self._told = now
        if _err.is_terminal:
            _stderr.write(f"\r\x1b[K{text[: _err.width - 1]}")
        else:
            _stderr.write(f"{text}\n")
        _stderr.flush()

    def end(self) -> None:
        """Removes the line of a terminal."""
        if _err.is_terminal:
            _stderr.write("\r\x1b[K")
            _stderr.flush()
