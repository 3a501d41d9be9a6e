"""When packets leave: neither the packets of a large picture at once, nor those of a source that stumbles.

What sends a whole keyframe at once loses a part of it: the receive buffer that Linux gives a socket by default holds 92
full packets, and a switch with a slower port behind it not many more.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BURST", "MAX_DELAY", "MAX_WINDOW", "Smoother", "groups"]

BURST: Final = 16
"""Packets that may leave at once: a sixth of what a receive buffer holds, so that several streams can do so at the same
time; and more than what most pictures have, which therefore cost no waiting and no timer."""

_STEP: Final = 0.002
"""Seconds between two bursts: what 16 full packets take on 100 Mbit/s, the port of most cameras and access points."""
_MIN_STEP: Final = 0.001
"""Seconds that a timer of an event loop can tell; bursts get larger rather than closer."""

_MIN_WINDOW: Final = 0.005
"""Seconds over which a large picture is spread in any case, as by the pacer of WebRTC's reference implementation."""
MAX_WINDOW: Final = 0.015
"""Seconds over which a large picture is spread at most: it is of no use before its last packet is there."""

MAX_DELAY: Final = 0.05
"""Seconds by which a `Smoother` delays a picture at most: hardly seen, but longer than most stumbles of networks."""
_PART: Final = 1 / 8
"""Part of the time left until then that each picture waits behind the one before."""


def groups(count: int, interval: float) -> list[tuple[float, int]]:
    """Divide the packets of a picture into groups that leave one after the other.

    They take half of the time to the next picture at most, so that it finds the way free.

    Args:
        count: Packets of the picture.
        interval: Seconds until the next one; anything, if it is not known.

    Returns:
        For each group, when it leaves, in seconds behind the first one, and how many packets it has: `BURST`, or so
        many more as it takes to be done within the window. A picture of no more than `BURST` is one group.
    """
    if count <= BURST:
        return [(0.0, count)]
    half = interval / 2
    window = max(half, _MIN_WINDOW) if half < MAX_WINDOW else MAX_WINDOW
    number = min(-(-count // BURST), round(window / _MIN_STEP) + 1)
    step = min(_STEP, window / (number - 1))
    size, larger = divmod(count, number)
    return [(at * step, size + (at < larger)) for at in range(number)]


class Smoother:
    """Keeps the pictures of a live source apart that come in bursts, as from a camera behind a bad network.

    Pictures that are on time are not delayed at all; those of a burst wait the longer, the more there are, but none
    longer than `MAX_DELAY`: what was late once makes nothing late after it.
    """

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = float("-inf")

    def due(self, at: float, interval: float) -> float:
        """When a picture is to be sent, seconds of the same clock.

        Args:
            at: When it came; not before the one before, or it takes its turn behind that one however long it takes.
            interval: Seconds until the next one; half of it is enough of a distance in any case.
        """
        room = at + MAX_DELAY - self._last
        self._last = max(at, self._last + max(0.0, min(room * _PART, interval / 2)))
        return self._last
