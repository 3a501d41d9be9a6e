"""What is sent as decoded pictures."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from deepio_adapters.slots import LatestSlot, SlotClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_adapters.engine import EngineStats
    from deepio_adapters.feed import Feed
    from deepio_adapters.sources import SourceFrame

__all__ = ["Sender"]


class Sender:
    """The frames of a feed for one connection.

    Args:
        feed: The feed.
        counters: Where the frames are counted.
        ended: Told why, when the source ends.
        sent: Told of every frame: when it was taken and when it leaves.
    """

    def __init__(
        self,
        feed: Feed,
        counters: EngineStats,
        ended: Callable[[str], object],
        sent: Callable[[float, float], object] | None = None,
    ) -> None:
        self._feed = feed
        self._counters = counters
        self._ended = ended
        self._sent = sent
        self._slot: LatestSlot[SourceFrame] | None = None
        self._dropped = 0

    async def next(self) -> SourceFrame | None:
        """Waits for the newest frame; None when the source has ended, which `ended` is told too."""
        if self._slot is None:
            # Not before the first frame is wanted: a recording is to start when it can be seen.
            self._slot = self._feed.subscribe_frames()
        try:
            frame = await self._slot.aget()
        except SlotClosedError as end:
            self._ended(str(end.error) if end.error is not None else f"the source {self._feed.name} has ended")
            return None
        if self._sent is not None:
            self._sent(frame.captured_at, time.monotonic())
        self._counters.frames_sent += 1
        self._counters.send_dropped += self._slot.dropped - self._dropped
        self._dropped = self._slot.dropped
        return frame

    def close(self) -> None:
        """Ends the subscription."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._feed.unsubscribe(slot)
