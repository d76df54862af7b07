"""Progress on stderr: a line that changes in a terminal, a line every five seconds elsewhere."""

import time

import pytest

from madpo_isaac import console


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_short_work_says_nothing(clock, capsys):
    progress = console.Progress()
    clock[0] += 4.9
    progress("one")
    progress.end()
    assert capsys.readouterr().err == ""


def test_long_work_has_a_line_every_five_seconds(clock, capsys):
    progress = console.Progress()
    for _ in range(24):
        clock[0] += 0.5
        progress(f"at {clock[0]:g}")
    progress.end()
    captured = capsys.readouterr()
    assert captured.err == "at 105\nat 110\n"
    assert captured.out == ""


def test_a_terminal_has_one_line_that_is_gone_at_the_end(clock, capsys, monkeypatch):
    class Terminal:
        is_terminal, width = True, 10

    monkeypatch.setattr(console, "_err", Terminal)
    progress = console.Progress()
    for text in ("reading run 1", "reading run 2"):
        clock[0] += 0.2
        progress(text)
    progress("too soon")
    progress.end()
    assert capsys.readouterr().err == "\r\x1b[Kreading r\r\x1b[Kreading r\r\x1b[K"
