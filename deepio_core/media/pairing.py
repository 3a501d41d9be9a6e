"""Which of the frames that were sent a result belongs to.

A DEEP result ties itself to a frame by one number only: `vc_time`, when the stream manager took the frame, on its own
clock. So the frames sent are remembered with the time at which they were; `vc_time` is translated to our clock (see
`clocks`); and the frame is the one that was sent before that by the usual time for encoding, travel and decoding.

That usual time is followed as results come, but it cannot be known beyond doubt: frames are alike, so a delay of more
than one frame interval looks like one that is shorter by an interval. And aiortc, up to 1.16 at least, takes a frame
for complete only when the next one begins, so that DEEP's stream managers see each frame one interval late. Nothing in
the times shows that either. It is taken for granted, unless the result says otherwise (`DataMessage.held_frames`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING, Final

from deepio_core.detections import read_number
from deepio_core.media.clocks import ClockOffset
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from deepio_core.messages import DataMessage

__all__ = ["Pairing", "SentFrame", "SentFrames"]

LIMIT: Final = 1024
"""Frames remembered, 17 s at 60 per second; the oldest goes. Stream managers give up on results after some seconds."""

HELD_FRAMES: Final = 1
"""How many later frames must begin before DEEP's stream managers see one."""

RECENT: Final = 16
"""Frames that tell the interval between two."""

FEW: Final = 4
"""Frames that tell it badly: of the first two, one was shown long before."""

USUAL_INTERVAL: Final = 0.04
"""Seconds between frames until more than a few were sent."""

LONGEST: Final = 1.0
"""Seconds after which a frame that was sent has come or will not come; also the longest interval between frames."""

DECODED: Final = (0.012, 0.04)
"""Seconds that the frames of DEEP's stream managers take on top of the way, usually and at most: `vc_time` is when one
was decoded. The former count where frames follow each other too quickly to tell; up to the latter, another whole
interval is a doubt."""

PROMPT: Final = (0.002, 0.02)
"""Likewise those of the local core, which tells when a frame came."""

GAIN: Final = 1 / 8
"""How much one result moves the usual delay, as that of a round trip in RFC 6298 section 2."""

GAIN_OF_SPREAD: Final = 1 / 4
"""How much one result moves the usual deviation from it, likewise."""


@dataclass(frozen=True, slots=True)
class SentFrame:
    """A frame that was sent."""

    captured_at: float
    """When it was taken, monotonic seconds."""
    sent_at: float
    """When it was handed over to be sent, monotonic seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """The frame that a result belongs to."""

    captured_at: float
    """When it was taken, monotonic seconds."""
    uncertainty: float
    """By how many seconds `captured_at` is wrong if the frame is another one of those that come into question; 0.0 if
    none does."""


class SentFrames:
    """The frames of one connection and the results that come back; not thread-safe.

    Results may come late, in any order, and from several detectors. A result for a frame that is no longer
    remembered, or that was never sent, has none: stream managers also analyse a dark picture before the first frame,
    and some begin with old results.
    """

    def __init__(self) -> None:
        self._frames: deque[SentFrame] = deque(maxlen=LIMIT)
        self._clock = ClockOffset()
        self._delay: float | None = None
        self._spread = 0.0

    def sent(self, captured_at: float, now: float) -> None:
        """Remember a frame that is handed over to be sent now; in the order in which they were.

        Args:
            captured_at: When it was taken, or is due: it leaves no earlier. Monotonic seconds.
            now: Monotonic seconds.
        """
        before = self._frames[-1].sent_at if self._frames else now
        self._frames.append(SentFrame(captured_at, max(now, captured_at, before)))

    def on_result(self, message: DataMessage, now: float, round_trip: float | None = None) -> Pairing | None:
        """Find the frame of a result that has come now.

        Args:
            message: The result.
            now: Monotonic seconds.
            round_trip: Seconds to the stream manager and back on the network, if known. It serves where the result
                tells no round trip: stream_manager.py v1.0.16 has been seen to always say 0.

        Returns:
            The frame; None if it cannot be known.
        """
        told = message.round_trip
        trip = told if told is not None and told > 0 else round_trip
        self._clock.on_message(read_number(message.raw.get("rec_time")), trip, now)
        taken_at = self._clock.local(message.vc_time)
        if taken_at is None:
            return None
        held = message.held_frames
        shift = HELD_FRAMES if held is None else held
        if shift >= len(self._frames):
            return None
        travel, interval = (self._clock.round_trip or 0.0) / 2, self._interval
        least, most = PROMPT if held == 0 else DECODED
        expected = travel + max(interval / 8 if held == 0 else 3 / 8 * interval, least)
        usual = expected
        if self._delay is not None:
            # Within half an interval of what can be expected, or it would wander off to the frames before.
            usual = min(max(self._delay, expected - interval / 2), expected + interval / 2)
        # By the frame that completed it: none can come before the first that can do so.
        index = max(self._nearest(taken_at - usual), shift)
        delay = taken_at - self._frames[index].sent_at
        if not -interval / 2 <= delay - travel <= LONGEST:
            return None
        error = self._clock.uncertainty(now) + (least if self._delay is None else self._spread)
        slower = interval if usual + interval <= travel + most else 0.0
        faster = interval if usual - interval >= travel else 0.0
        if self._clock.round_trip is not None and len(self._frames) >= FEW:
            self._delay = usual + GAIN * (delay - usual)
            self._spread += GAIN_OF_SPREAD * (abs(delay - usual) - self._spread)
        captured_at = self._frames[index - shift].captured_at
        first = self._nearest(taken_at - usual - max(error, slower)) - shift
        last = self._nearest(taken_at - usual + max(error, faster)) - (0 if held is None else held)
        return Pairing(
            captured_at=captured_at,
            uncertainty=max(abs(self._frames[max(other, 0)].captured_at - captured_at) for other in (first, last)),
        )

    @property
    def _interval(self) -> float:
        recent = min(len(self._frames), RECENT)
        if recent < FEW:
            return USUAL_INTERVAL
        return min((self._frames[-1].sent_at - self._frames[-recent].sent_at) / (recent - 1), LONGEST)

    def _nearest(self, sent_at: float) -> int:
        after = bisect_right(self._frames, sent_at, key=lambda frame: frame.sent_at)
        if after in (0, len(self._frames)):
            return max(0, after - 1)
        earlier, later = self._frames[after - 1].sent_at, self._frames[after].sent_at
        return after - 1 if sent_at - earlier <= later - sent_at else after
