"""Ends a read that blocks inside FFmpeg, when its source is closed.

PyAV has no call for that: the callback with which FFmpeg asks, some ten times a second, whether to go on
compares `time.monotonic()` with the deadline of the read, and nothing else. But it asks in the reading
thread, and takes the clock from its module, `av.container.core`. So we put a clock there which runs ahead in
threads whose source was closed: the deadline is then over at the next question. All other threads and
containers see the time as it is.

Where PyAV does it differently, `install` returns False, and reads end by their own timeout instead.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["install", "interruptible"]

_LEAP = 1e9  # seconds, beyond every timeout

_watched: dict[int, threading.Event] = {}


class _InterruptibleClock:
    """Stands in for the module `time` in `av.container.core`."""

    def __init__(self) -> None:
        self._leaps = itertools.count(1)

    def monotonic(self) -> float:
        """The time; for a thread that is to stop, one that leaps ahead at every look, so that any deadline is over."""
        stop = _watched.get(threading.get_ident())
        ahead = next(self._leaps) * _LEAP if stop is not None and stop.is_set() else 0.0
        return time.monotonic() + ahead


def install() -> bool:
    """Makes reads interruptible, once for the process; returns False when this PyAV leaves no room for it."""
    from av.container import core

    clock = getattr(core, "time", None)
    if clock is time:
        setattr(core, "time", _InterruptibleClock())  # noqa: B010 - no name of PyAV's interface
        return True
    return isinstance(clock, _InterruptibleClock)


@contextmanager
def interruptible(stop: threading.Event) -> Generator[None]:
    """While the block runs, setting `stop` ends what this thread does in FFmpeg's demuxers."""
    thread = threading.get_ident()
    _watched[thread] = stop
    try:
        yield
    finally:
        del _watched[thread]
