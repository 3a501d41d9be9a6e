"""What is sent: the frames of one source, kept open across connections and fanned out to those who send them.

Every sender has a newest-wins slot of its own, so that a slow one neither waits nor makes others wait. Frames are
handed over decoded; packets copied from the source will get a slot of their own beside them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_adapters.source_pump import SourcePump
from deepio_adapters.sources import Source, SourceFrame, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deepio_adapters.engine import EngineStats

__all__ = ["Sender", "VideoFeed"]


class _Held(Source):
    """A source that is opened at once and read only when it is released: a recording starts when somebody watches.

    Args:
        source: The source.
        live_too: Hold a live source as well.
    """

    def __init__(self, source: Source, *, live_too: bool) -> None:
        super().__init__(source.name)
        self._source = source
        self._live_too = live_too
        self._released = threading.Event()

    def open(self) -> SourceInfo:
        info = self._source.open()
        if info.live and not self._live_too:
            # What nobody reads piles up in the device or on the way from the camera, and is old when it is read.
            self.release()
        return info

    def release(self) -> None:
        self._released.set()

    def frames(self) -> Iterator[SourceFrame]:
        self._released.wait()
        if not self._source.closed:
            yield from self._source.frames()

    def close(self, timeout: float = 2.0) -> bool:
        closed = self._source.close(timeout)
        self.release()
        return closed


class VideoFeed:
    """Keeps one source open and hands its newest frame to every sender; all methods may be called from any thread.

    A live source runs from `open` to `close`, so that a reconnect shows a picture at once. A recording starts with its
    first subscriber. Once a source has ended, the next subscriber starts another one.

    Args:
        make: Makes the source; does no I/O.
        fresh: Let every source, live or not, start with its first subscriber and end with its last.
    """

    def __init__(self, make: Callable[[], Source], *, fresh: bool = False) -> None:
        self._make = make
        self._fresh = fresh
        # Reentrant: to set a callback on a slot calls it at once when something waits there.
        self._lock = threading.RLock()
        self._slots: list[LatestSlot[SourceFrame]] = []
        self._newest: SourceFrame | None = None
        self._closed = False
        self._ended = False
        self._held, self._pump = self._new_pump()

    @property
    def name(self) -> str:
        """What to call the source in messages; holds no secret."""
        return self._held.name

    def open(self) -> SourceInfo:
        """Opens the source and returns what it turned out to be; blocks, bounded by the source's own timeout.

        Raises:
            SourceError: It cannot be opened.
        """
        with self._lock:
            pump = self._pump
        pump.start()  # does nothing once the feed is closed
        return pump.opened.result()

    def subscribe(self) -> LatestSlot[SourceFrame]:
        """Returns a slot that gets the newest frame, closed with the source (or its error).

        It holds the frame that came last, if one has come: a connection need not wait for the next to show a picture.
        """
        slot: LatestSlot[SourceFrame] = LatestSlot()
        with self._lock:
            if self._closed:
                slot.close()
                return slot
            self._slots.append(slot)
            if self._ended:
                self._ended = False
                self._held, self._pump = self._new_pump()
            self._pump.start()
            self._held.release()
            if self._newest is not None:
                slot.put(self._newest)
        return slot

    def unsubscribe(self, slot: LatestSlot[SourceFrame]) -> None:
        """Ends a subscription; the slot gets no more frames."""
        with self._lock:
            if slot in self._slots:
                self._slots.remove(slot)
                if self._fresh and not self._slots:
                    self._pump.stop(timeout=0)
                    self._end(None)
        slot.close(discard=True)

    def close(self, timeout: float = 2.0) -> bool:
        """Ends the source; idempotent, in at most `timeout` seconds.

        Returns:
            False when its thread is still stuck; it releases everything as soon as it comes back.
        """
        with self._lock:
            self._closed = True
            pump = self._pump
        # Without the lock: the thread that is waited for may want it to hand over a last frame.
        stopped = pump.stop(timeout)
        self._end(None)
        return stopped

    def _new_pump(self) -> tuple[_Held, SourcePump]:
        held = _Held(self._make(), live_too=self._fresh)
        pump = SourcePump(held)
        pump.slot.set_on_item(lambda: self._hand_over(pump))
        return held, pump

    def _hand_over(self, pump: SourcePump) -> None:
        # In the thread of the pump, for every frame and once for the end.
        try:
            frame = pump.slot.take()
        except SlotClosedError as end:
            with self._lock:
                if pump is self._pump:
                    self._end(end.error)
            return
        if frame is None:
            return
        with self._lock:
            if pump is not self._pump:
                return
            self._newest = frame
            slots = self._slots.copy()
        for slot in slots:
            slot.put(frame)

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            slots, self._slots = self._slots, []
            self._newest = None
            self._ended = True
        for slot in slots:
            slot.close(error)


class Sender:
    """The frames of a feed for one connection.

    Args:
        feed: The feed.
        counters: Where the frames are counted.
        ended: Told why, when the source ends.
    """

    def __init__(self, feed: VideoFeed, counters: EngineStats, ended: Callable[[str], object]) -> None:
        self._feed = feed
        self._counters = counters
        self._ended = ended
        self._slot: LatestSlot[SourceFrame] | None = None
        self._dropped = 0

    async def next(self) -> SourceFrame | None:
        """Waits for the newest frame; None when the source has ended, which `ended` is told too."""
        if self._slot is None:
            # Not before the first frame is wanted: a recording is to start when it can be seen.
            self._slot = self._feed.subscribe()
        try:
            frame = await self._slot.aget()
        except SlotClosedError as end:
            self._ended(str(end.error) if end.error is not None else f"the source {self._feed.name} has ended")
            return None
        self._counters.frames_sent += 1
        self._counters.send_dropped += self._slot.dropped - self._dropped
        self._dropped = self._slot.dropped
        return frame

    def close(self) -> None:
        """Ends the subscription."""
        slot, self._slot = self._slot, None
        if slot is not None:
            self._feed.unsubscribe(slot)
