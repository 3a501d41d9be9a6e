"""Time stamps of frames, strictly increasing seconds from the first one on, and pacing by them."""

from __future__ import annotations

import threading
import time

__all__ = ["LiveTimeline", "Pacer", "RecordedTimeline"]

MIN_STEP = 0.001
"""Seconds between two frames at least: receivers and encoders need increasing stamps, and no camera is
faster."""

MAX_GAP = 30.0
"""Seconds that a recording may rest between two frames; a longer gap is a break in its time stamps."""

MAX_BACKSTEP = 1.0
"""Seconds a stamp may go back before it is a break (a wrap, a new part) and not just disorder."""

MAX_DEVIATION = 1.0
"""Seconds by which a live source's own clock may differ from ours; network jitter stays below, wraps do
not."""

MAX_LATENESS = 0.5
"""Seconds by which a recording may be late before the delay is accepted, instead of being made up for in a
rush."""


class RecordedTimeline:
    """Stamps for media that are paced by us: gaps count, breaks are closed up.

    Args:
        interval: Seconds between frames as long as none has been seen.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: float | None = None
        self._offset: float | None = None

    @property
    def interval(self) -> float:
        """Seconds between the last two frames."""
        return self._interval

    def restart(self) -> None:
        """The medium starts again; its next frame follows the last one after one interval."""
        self._offset = None

    def stamp(self, media_time: float | None) -> float:
        """Returns the stamp of a frame whose medium says `media_time` seconds, or nothing."""
        follow = 0.0 if self._last is None else self._last + self._interval
        if media_time is None:
            media_time = follow - (self._offset or 0.0)
        if self._offset is None:
            self._offset = follow - media_time
        pts = media_time + self._offset
        if self._last is not None:
            if not -MAX_BACKSTEP <= pts - self._last <= MAX_GAP:
                pts = follow
                self._offset = pts - media_time
            pts = max(pts, self._last + MIN_STEP)
            # The step seen last, not the rate announced: short transport streams announce the wildest rates.
            self._interval = pts - self._last
        self._last = pts
        return pts


class LiveTimeline:
    """Stamps for media that come at their own pace: the source's clock, held to ours.

    Args:
        interval: Seconds between frames as long as none has been seen.
    """

    def __init__(self, interval: float = 1 / 25) -> None:
        self._interval = interval
        self._started: float | None = None
        self._last = -MIN_STEP
        self._offset: float | None = None

    @property
    def interval(self) -> float:
        """Seconds between the last two frames."""
        return self._interval

    def restart(self) -> None:
        """The source was opened again: its clock may be another one."""
        self._offset = None

    def stamp(self, media_time: float | None, now: float) -> float:
        """Returns the stamp of a frame come at `now` whose source says `media_time` seconds, if any."""
        if self._started is None:
            self._started = now
        elapsed = now - self._started
        pts = elapsed
        if media_time is not None:
            if self._offset is None or abs(media_time + self._offset - elapsed) > MAX_DEVIATION:
                self._offset = elapsed - media_time
            pts = media_time + self._offset
        pts = max(pts, self._last + MIN_STEP)
        if self._last >= 0:
            self._interval = pts - self._last
        self._last = pts
        return pts


class Pacer:
    """Lets frames go when they are due; the waiting ends at once when `stop` is set.

    Args:
        stop: Ends the waiting.
        read_ahead: Seconds before they are due that frames may go.
        batch: Seconds of frames that go together, so that the thread wakes seldom; `read_ahead` at most.
    """

    def __init__(self, stop: threading.Event, *, read_ahead: float = 0.0, batch: float = 0.0) -> None:
        self._stop = stop
        self._read_ahead = read_ahead
        self._batch = batch
        self._origin: float | None = None

    def wait(self, pts: float) -> float | None:
        """Waits until the frame stamped `pts` seconds may go.

        Returns:
            When it is due, in seconds of `time.monotonic`; None when `stop` was set.
        """
        now = time.monotonic()
        if self._origin is None or now > self._origin + pts + MAX_LATENESS:
            self._origin = now - pts
        due = self._origin + pts
        early = due - now - self._read_ahead
        stopped = self._stop.wait(early + self._batch) if early > 0 else self._stop.is_set()
        return None if stopped else due

    def would_wait(self, pts: float) -> bool:
        """Whether `wait` would not return at once."""
        return self._origin is not None and self._origin + pts - time.monotonic() > self._read_ahead
