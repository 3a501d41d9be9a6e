"""One life of a source: from its opening to its end, with all who take something from it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from deepio_adapters.media import SourceGap
from deepio_adapters.packet_queue import PacketQueue
from deepio_adapters.picture_thread import PictureThread
from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_adapters.source_pump import SourcePump
from deepio_adapters.sources import Source, SourceFrame, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepio_adapters.audio import AudioTap
    from deepio_adapters.media import SourcePacket

__all__ = ["SourceRun"]

MAX_GROUP: Final = 900
"""Packets since the last keyframe that are kept: 30 s at 30 fps, longer than the GOPs of nearly all cameras. With
longer ones, who wants a picture waits for the next keyframe."""

MAX_GROUP_BYTES: Final = 8 * 1024 * 1024
"""Bytes of them: 10 s of 6 Mbit/s. A camera with a GOP of 2 s at 2 Mbit/s needs half a megabyte."""


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

    def make_ready(self) -> None:
        self._source.make_ready()

    @property
    def audio(self) -> AudioTap | None:
        return self._source.audio

    def release(self) -> None:
        self._released.set()

    def frames(self) -> Iterator[SourceFrame]:
        self._released.wait()
        if not self._source.closed:
            yield from self._source.frames()

    def packets(self) -> Iterator[SourcePacket | SourceGap]:
        self._released.wait()
        if not self._source.closed:
            yield from self._source.packets()

    def close(self, timeout: float = 2.0) -> bool:
        closed = self._source.close(timeout)
        self.release()
        return closed


class _Group:
    """The packets since the last keyframe, as far as they are few enough to keep."""

    def __init__(self) -> None:
        self.packets: list[SourcePacket] = []
        self.keyframe_at: float | None = None
        self.gop: float | None = None
        self._bytes = 0

    def add(self, packet: SourcePacket) -> None:
        if packet.keyframe:
            before, self.keyframe_at = self.keyframe_at, packet.captured_at
            if before is not None:
                self.gop = self.keyframe_at - before
            self.packets, self._bytes = [packet], len(packet.data)
        elif self.packets:
            self._bytes += len(packet.data)
            self.packets.append(packet)
            if len(self.packets) > MAX_GROUP or self._bytes > MAX_GROUP_BYTES:
                self.packets = []

    def lost(self) -> None:
        """What comes next is a keyframe, and how long that takes says nothing of those after it."""
        self.keyframe_at = None


class SourceRun:
    """One source, from its opening to its end, and who has subscribed to it.

    Args:
        source: The source.
        fresh: Read it only when somebody has subscribed, even if it is live.

    Attributes:
        ended: Its packets are all handed over, or there will be none.
        newest: The picture that was shown last, if somebody wants pictures.
        reconnects: How often the source was lost and has been opened again.
    """

    def __init__(self, source: Source, *, fresh: bool) -> None:
        self.ended = False
        self.newest: SourceFrame | None = None
        self.reconnects = 0
        self._undecoded = 0
        self._held = _Held(source, live_too=fresh)
        self._pump = SourcePump(self._held, packets=self._take_packet)
        # Reentrant: to set a callback on a slot calls it at once when something waits there.
        self._lock = threading.RLock()
        self._queues: list[PacketQueue] = []
        self._slots: list[LatestSlot[SourceFrame]] = []
        self._group = _Group()
        self._gap: SourceGap | None = None
        self._pictures: PictureThread | None = None
        self._pump.slot.set_on_item(self._take_frame)

    @property
    def name(self) -> str:
        """What to call the source in messages; holds no secret."""
        return self._held.name

    @property
    def info(self) -> SourceInfo | None:
        """What the source turned out to be; None before it was opened."""
        opened = self._pump.opened
        return opened.result() if opened.done() and opened.exception() is None else None

    @property
    def audio(self) -> AudioTap | None:
        """The sound that goes with its pictures; None if there is none to be had."""
        return self._held.audio

    @property
    def keyframe_at(self) -> float | None:
        """When its last keyframe was taken or is due; None before one came."""
        return self._group.keyframe_at

    @property
    def gop(self) -> float | None:
        """Seconds between its last two keyframes; None before there were two."""
        return self._group.gop

    @property
    def undecoded(self) -> int:
        """Packets that were left out because decoding was behind."""
        pictures = self._pictures
        return self._undecoded + (0 if pictures is None else pictures.queue.dropped)

    @property
    def watched(self) -> bool:
        """Somebody has subscribed."""
        return bool(self._queues or self._slots)

    def open(self) -> SourceInfo:
        """Opens the source; blocks.

        Raises:
            SourceError: It cannot be opened.
        """
        self._pump.start()  # does nothing once it was stopped
        return self._pump.opened.result()

    def begin(self) -> None:
        """Begins to read: somebody has subscribed."""
        self._pump.start()
        self._held.release()

    def add_queue(self, queue: PacketQueue) -> None:
        """Has a queue get the packets from now on; closes it if there will be none."""
        with self._lock:
            if not self.ended:
                self._queues.append(queue)
                if self._gap is not None:
                    queue.put(self._gap)
                return
        queue.close()

    def add_slot(self, slot: LatestSlot[SourceFrame]) -> None:
        """Has a slot get the newest picture from now on; closes it if there will be none."""
        with self._lock:
            if not self.ended:
                self._slots.append(slot)
                if self.newest is not None:
                    slot.put(self.newest)
                self._look_after_pictures()
                return
        slot.close()

    def remove(self, subscription: PacketQueue | LatestSlot[SourceFrame]) -> bool:
        """Ends a subscription; returns whether there was one."""
        with self._lock:
            if isinstance(subscription, PacketQueue):
                if subscription not in self._queues:
                    return False
                self._queues.remove(subscription)
            else:
                if subscription not in self._slots:
                    return False
                self._slots.remove(subscription)
                self._look_after_pictures()
        return True

    def stop(self, timeout: float) -> bool:
        """Ends the source, in at most so many seconds; True when its threads have ended."""
        until = time.monotonic() + timeout
        # Without the lock: the thread that is waited for may want it to hand over something.
        stopped = self._pump.stop(timeout)
        with self._lock:
            pictures, self._pictures = self._pictures, None
        if pictures is not None:
            pictures.stop()
            stopped = pictures.join(max(0.0, until - time.monotonic())) and stopped
        self._end(None)
        return stopped

    def _take_packet(self, item: SourcePacket | SourceGap) -> bool:
        # In the thread of the pump.
        with self._lock:
            if self.ended:
                return False
            if isinstance(item, SourceGap):
                self._gap = item
                self._group.lost()
            else:
                self.reconnects += self._gap is not None
                self._gap = None
                self._group.add(item)
            queues = self._queues.copy()
            if self._pictures is not None:
                queues.append(self._pictures.queue)
            self._look_after_pictures()
        for queue in queues:
            queue.put(item)
        return True

    def _take_frame(self) -> None:
        # In the thread of the pump, for every frame of a source without packets, and once for the end of any.
        try:
            frame = self._pump.slot.take()
        except SlotClosedError as end:
            self._end(end.error)
            return
        if frame is not None:
            self._show(frame)

    def _show(self, frame: SourceFrame) -> None:
        with self._lock:
            if self.ended and self._pictures is None:
                return
            self.newest = frame
            slots = self._slots.copy()
        for slot in slots:
            slot.put(frame)

    def _look_after_pictures(self) -> None:
        """Has packets decoded exactly while somebody wants pictures."""
        if self._slots and self._pictures is None and self._group.packets:
            pictures = PictureThread(
                self._group.packets.copy(), self._show, lambda error: self._end_pictures(pictures, error)
            )
            self._pictures = pictures
            pictures.start()
        elif not self._slots and self._pictures is not None:
            self._pictures.stop()
            self._undecoded = self.undecoded
            self._pictures = self.newest = None

    def _end_pictures(self, pictures: PictureThread, error: BaseException | None) -> None:
        # All is shown, or decoding has failed; then who wants pictures may ask for them again.
        with self._lock:
            if pictures is not self._pictures:
                return
            self._undecoded = self.undecoded
            self._pictures = self.newest = None
            slots, self._slots = self._slots, []
        for slot in slots:
            slot.close(error)

    def _end(self, error: BaseException | None) -> None:
        """The source has ended: its packets are all in the queues; what of them is to be shown may still come."""
        with self._lock:
            self.ended = True
            queues, self._queues = self._queues, []
            slots: list[LatestSlot[SourceFrame]] = []
            if self._pictures is not None:
                queues.append(self._pictures.queue)
            else:
                slots, self._slots = self._slots, []
                self.newest = None
        for queue in queues:
            queue.close(error)
        for slot in slots:
            slot.close(error)
