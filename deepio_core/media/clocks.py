"""What a remote peer's clock shows, in terms of ours: the times in its messages are of use only with that."""

from __future__ import annotations

from collections import deque
from typing import Final

from deepio_core.records import dataclass

__all__ = ["ClockOffset"]

SPAN: Final = 5.0
"""Seconds of which only the fastest message and the fastest round trip are kept."""

SPANS: Final = 12
"""Spans looked at, a minute altogether: some message in a minute finds no queue on its way, while two bad quartz clocks
drift apart by 3 ms in it."""

DRIFT: Final = 50e-6
"""Seconds per second by which the two clocks may drift apart; RFC 5905 calls it PHI and takes 15e-6, for clocks that
are disciplined already."""

STEP: Final = 0.128
"""Seconds by which a clock is set, and not late: STEPT of RFC 5905."""

STEP_MESSAGES: Final = 8
"""Messages in a row that must say so: as many as the clock filter of RFC 5905 has stages."""

STEP_TIME: Final = 2.0
"""Seconds over which they must say so: a single stall delays many messages by the same time."""

UNKNOWN_TRIP: Final = 0.2
"""Seconds by which the offset may be wrong before the first round trip is known: it is not longer, on most paths."""

UNIX_TIMES: Final = (1.0, 1e11)
"""Seconds that can be a time on a remote peer's clock, in the first three thousand years. Zero, -1 and milliseconds are
none."""


@dataclass(frozen=True, slots=True)
class _Span:
    begun: float
    offset: float
    at: float
    round_trip: float | None


class ClockOffset:
    """Follows the offset between a remote peer's wall clock and our monotonic one, for one connection.

    A message that says when it left gives the offset plus the time it was on its way. The smallest of these sums is
    that of the fastest message; half of the shortest round trip is taken off it. This is the clock filter of NTP (RFC
    5905 section 10), which trusts the sample with the least delay, with two minima instead of one: a stream manager
    tells the round trip of some earlier message, not of this one. Messages may come late, twice or in any order.

    Both clocks may drift, and the remote one may be set.
    """

    def __init__(self) -> None:
        self._spans: deque[_Span] = deque(maxlen=SPANS)
        self._astray: _Span | None = None
        self._strayed = 0

    @property
    def offset(self) -> float | None:
        """Our monotonic clock less the remote clock, seconds; None before the first message."""
        if not self._spans:
            return None
        return self._fastest.offset - (self.round_trip or 0.0) / 2

    @property
    def round_trip(self) -> float | None:
        """The shortest round trip of the last minute, seconds; None before one is known."""
        return min((span.round_trip for span in self._spans if span.round_trip is not None), default=None)

    def uncertainty(self, now: float) -> float:
        """By how many seconds the offset may be wrong, if one way takes all of the round trip and the other nothing."""
        trip = self.round_trip
        age = now - self._fastest.at if self._spans else 0.0
        return (UNKNOWN_TRIP if trip is None else trip / 2) + DRIFT * age

    def local(self, remote: float | None) -> float | None:
        """Tell when it was `remote` on the remote clock.

        Args:
            remote: Unix seconds, as a message tells them.

        Returns:
            Seconds of our monotonic clock; None if that cannot be known, or `remote` is no time.
        """
        offset = self.offset
        if offset is None or remote is None or not UNIX_TIMES[0] <= remote <= UNIX_TIMES[1]:
            return None
        return remote + offset

    def on_message(self, sent_at: float | None, round_trip: float | None, now: float) -> None:
        """Take the times in a message that has come now.

        Args:
            sent_at: When it left, Unix seconds on the remote clock (`rec_time` of a `data` message). What is no time
                counts for nothing.
            round_trip: Seconds that the remote peer has measured for an earlier message and its answer; None, 0 or
                less if it has not.
            now: When it came, monotonic seconds.
        """
        if sent_at is None or not UNIX_TIMES[0] <= sent_at <= UNIX_TIMES[1]:
            return
        trip = round_trip if round_trip is not None and round_trip > 0 else None
        sample = _Span(now, now - sent_at, now, trip)
        self._look_for_step(sample, now)
        newest = self._spans[-1] if self._spans else None
        if newest is None or now - newest.begun >= SPAN:
            self._spans.append(sample)
        else:
            self._spans[-1] = _joined(newest, sample)
        while now - self._spans[0].begun > SPAN * SPANS:
            self._spans.popleft()

    @property
    def _fastest(self) -> _Span:
        return min(self._spans, key=lambda span: span.offset)

    def _look_for_step(self, sample: _Span, now: float) -> None:
        # Congestion makes messages late and round trips long. What is late alone, and stays so, comes from a clock that
        # was set back. One that was set forward shows at once: its messages are the fastest by far.
        if not self._spans:
            return
        late = sample.offset - self._fastest.offset
        slow = sample.round_trip or self.round_trip or UNKNOWN_TRIP
        if late <= STEP + slow:
            self._astray, self._strayed = None, 0
            return
        self._astray = sample if self._astray is None else _joined(self._astray, sample)
        self._strayed += 1
        if self._strayed >= STEP_MESSAGES and now - self._astray.begun >= STEP_TIME:
            self._spans.clear()
            self._spans.append(self._astray)
            self._astray, self._strayed = None, 0


def _joined(one: _Span, other: _Span) -> _Span:
    fastest = min(one, other, key=lambda span: span.offset)
    trips = [span.round_trip for span in (one, other) if span.round_trip is not None]
    return _Span(one.begun, fastest.offset, fastest.at, min(trips, default=None))
