"""Named deadlines: which there are, which run, and which comes first. Times are seconds on the caller's clock."""

from __future__ import annotations

from enum import StrEnum, auto


class Timer(StrEnum):
    """The name of a deadline: what is waited for."""

    OPEN = auto()
    """The signaling connection."""
    REPLY = auto()
    """The server's reply to `pair`."""
    LIST = auto()
    """The server's reply to `listPeers`."""
    ACCEPT = auto()
    """The application's decision about an invitation."""
    NEGOTIATION = auto()
    """The open data channel: one deadline for the whole negotiation."""
    SILENCE = auto()
    """Any sign of life of the connected remote peer."""
    PART = auto()
    """The end of a negotiation that is to be left."""
    LEAVE = auto()
    """The closed engine and the server's `unpaired`."""
    CLOSE = auto()
    """The closed engine and the closed signaling connection."""
    POLL = auto()
    """The next look at the peer list."""
    RETRY = auto()
    """The next attempt."""


class Timers:
    """A set of running deadlines, each under its name."""

    def __init__(self) -> None:
        self._deadlines: dict[Timer, float] = {}

    def set(self, timer: Timer, at: float) -> None:
        """Start `timer`, or move it, to the absolute time `at`."""
        self._deadlines[timer] = at

    def stop(self, timer: Timer) -> None:
        """Stop `timer`; it need not run."""
        self._deadlines.pop(timer, None)

    def clear(self) -> None:
        """Stop all."""
        self._deadlines.clear()

    def runs(self, timer: Timer) -> bool:
        """Whether `timer` runs."""
        return timer in self._deadlines

    def next(self) -> tuple[Timer, float] | None:
        """The timer that ends first and its time; None if none runs."""
        if not self._deadlines:
            return None
        return min(self._deadlines.items(), key=lambda item: item[1])

    def pop_expired(self, now: float) -> Timer | None:
        """Stop and return the first timer whose time has come; None if there is none."""
        first = self.next()
        if first is None or first[1] > now:
            return None
        self.stop(first[0])
        return first[0]
