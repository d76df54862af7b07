"""Signals that ask a run to save and exit: Ctrl-C, a closed terminal, and those of clusters."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from madpo_isaac import console
from madpo_isaac.system.distributed import Ranks

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
"""SIGTERM comes before a preempted job is killed, SIGUSR1 where ``--signal=USR1@<s>`` is set,
SIGHUP when the terminal is closed."""


class StopRequest:
    """The first of :data:`STOPS` that came, if any did."""

    signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def agreed(self, ranks: Ranks) -> bool:
        """Returns whether any process got a signal; then all of them have it."""
        if ranks.count > 1:
            number = ranks.most(self.signal or 0)
            self.signal = signal.Signals(number) if number else None
        return bool(self)

    @property
    def exit_code(self) -> int:
        """128 plus the signal's number, as shells have it; 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal

    @property
    def outcome(self) -> str:
        """``interrupted`` by the user, or ``preempted`` by whoever runs the machine."""
        return "interrupted" if self.signal == signal.SIGINT else "preempted"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Records a signal, which does not end the process; a second Ctrl-C raises an exception.

        The exception is KeyboardInterrupt. Further SIGTERMs have no effect, because a scheduler
        sends them to every process of a job. If SIGHUP was ignored before, as under nohup, it
        stays ignored. Only the main thread can listen; in other threads signals do not change.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def request(signum: int, frame: FrameType | None) -> None:
            del frame
            if self.signal is None:
                self.signal = signal.Signals(signum)
                console.notice(f"{self.signal.name}: stopping after this iteration")
            elif signum == signal.SIGINT:
                raise KeyboardInterrupt

        kept = {signal.SIGHUP} & {n for n in STOPS if signal.getsignal(n) == signal.SIG_IGN}
        previous = {n: signal.signal(n, request) for n in STOPS if n not in kept}
        try:
            yield
        finally:
            for signum, handler in previous.items():
                signal.signal(signum, handler)
