"""Results and the frames they belong to: what `deepio_core.media.pairing` finds, for engines and applications."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING

from deepio_adapters.kept_frames import KeptFrames
from deepio_core.media.pairing import Pairing, SentFrames
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_adapters.feed import Feed
    from deepio_adapters.sources import SourceFrame
    from deepio_core.messages import DataMessage

__all__ = ["Result", "SentLog", "sent_log"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Result:
    """The result of one detector for one frame, and which frame that was."""

    message: DataMessage
    """What the stream manager has sent."""
    captured_at: float | None
    """When the frame was taken, seconds of `time.monotonic`; None if it cannot be known."""
    uncertainty: float | None
    """By how many seconds `captured_at` is wrong if the frame is another one of those that come into question; 0.0 if
    none does. None if `captured_at` is."""
    age: float | None
    """Seconds from `captured_at` until the result came; None if `captured_at` is."""
    frame: SourceFrame | None = None
    """The frame, if it was kept: see `EngineConfig.keep_frames`. Others see the same one: do not change it."""


class SentLog:
    """The frames that an engine has sent over its newest connection; all methods may be called from any thread.

    Args:
        kept: Keeps the frames themselves; None if they are not to be kept.
        round_trip: Tells the seconds to the far side and back on the network; None if that is not known.
    """

    def __init__(self, kept: KeptFrames | None = None, round_trip: Callable[[], float | None] = lambda: None) -> None:
        self._kept = kept
        self._round_trip = round_trip
        self._lock = threading.Lock()
        self._frames = SentFrames()

    def begin(self) -> None:
        """Forget everything: a new connection begins, and no result of it is for a frame of another."""
        with self._lock:
            self._frames = SentFrames()
        if self._kept is not None:
            self._kept.clear()

    def sent(self, captured_at: float, now: float) -> None:
        """A frame that was taken at `captured_at` is handed over now to be sent; both in `time.monotonic`."""
        with self._lock:
            self._frames.sent(captured_at, now)
        if self._kept is not None:
            self._kept.start()

    def pause(self) -> None:
        """Nothing is sent for now, so nothing more needs to be kept."""
        if self._kept is not None:
            self._kept.stop()

    def pair(self, message: DataMessage, now: float) -> Result:
        """Find the frame of a result that has come now (`time.monotonic`)."""
        with self._lock:
            pairing: Pairing | None = self._frames.on_result(message, now, self._round_trip())
        if pairing is None:
            return Result(message=message, captured_at=None, uncertainty=None, age=None)
        return Result(
            message=message,
            captured_at=pairing.captured_at,
            uncertainty=pairing.uncertainty,
            age=now - pairing.captured_at,
        )

    def frame(self, result: Result) -> SourceFrame | None:
        """The frame that a result belongs to, if it is kept still."""
        if self._kept is None or result.captured_at is None:
            return None
        return self._kept.find(result.captured_at)


def sent_log(feed: Feed | None, keep_frames: float, round_trip: Callable[[], float | None]) -> SentLog:
    """Makes the log of an engine that sends this feed, if any, and keeps its frames for so many seconds, 0 for none."""
    if feed is None or keep_frames <= 0:
        return SentLog(None, round_trip)
    # Of a source that has ended no other one begins only to be kept.
    subscribe = functools.partial(feed.subscribe_frames, begin=False)
    return SentLog(KeptFrames(keep_frames, subscribe, feed.unsubscribe), round_trip)
