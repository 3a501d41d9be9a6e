"""Frames of our own source that are kept for a while, for the results that will come for them."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING, Final

from deepio_adapters.slots import LatestSlot, SlotClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_adapters.sources import SourceFrame

__all__ = ["KeptFrames"]

LIMIT: Final = 300
"""Frames kept at most, whatever the time: 10 s at 30 per second. One takes 1.4 MB at 720p, and three bytes for two
pixels in general. The oldest goes."""

SAME: Final = 0.001
"""Seconds by which two capture times of one frame may differ: a time that went through a container is rounded."""


class KeptFrames:
    """The newest frames of a source, found by their capture time; all methods may be called from any thread.

    While it runs it has a subscription of its own, so that the frames are decoded even if their packets are copied.

    Args:
        seconds: For how long a frame is kept after it was taken; then it is dropped.
        subscribe: Returns a slot that gets the newest frame.
        unsubscribe: Ends that.
    """

    def __init__(
        self,
        seconds: float,
        subscribe: Callable[[], LatestSlot[SourceFrame]],
        unsubscribe: Callable[[LatestSlot[SourceFrame]], object],
    ) -> None:
        self._seconds = seconds
        self._subscribe = subscribe
        self._unsubscribe = unsubscribe
        self._lock = threading.Lock()
        self._frames: deque[SourceFrame] = deque(maxlen=LIMIT)
        self._slot: LatestSlot[SourceFrame] | None = None

    def start(self) -> None:
        """Begin to keep frames; the second call does nothing."""
        # Not under the lock: frames come while the subscription is made, in this thread or in another.
        if self._slot is None:
            slot = self._slot = self._subscribe()
            slot.set_on_item(lambda: self._take(slot))

    def stop(self) -> None:
        """End the subscription; what is kept stays."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._unsubscribe(slot)

    def clear(self) -> None:
        """Drop what is kept."""
        with self._lock:
            self._frames.clear()

    def find(self, captured_at: float) -> SourceFrame | None:
        """The frame taken at this time (`time.monotonic`); None if it was not kept, or not for so long."""
        with self._lock:
            index = bisect_left(self._frames, captured_at - SAME, key=_captured_at)
            if index < len(self._frames) and self._frames[index].captured_at <= captured_at + SAME:
                return self._frames[index]
        return None

    def _take(self, slot: LatestSlot[SourceFrame]) -> None:
        try:
            frame = slot.take()
        except SlotClosedError:
            return
        if frame is None:
            return
        with self._lock:
            kept = self._frames
            if kept and frame.captured_at <= kept[-1].captured_at:
                return  # the frame that a new subscription begins with
            kept.append(frame)
            while frame.captured_at - kept[0].captured_at > self._seconds:
                kept.popleft()


def _captured_at(frame: SourceFrame) -> float:
    return frame.captured_at
