"""Hand-over of compressed video between threads: nothing may be left out of it, except up to the next keyframe.

A newer packet cannot replace an older one, as the pictures of a `LatestSlot` do: decoding needs every packet since the
last keyframe. So a `PacketQueue` keeps them in order, up to a limit, and then loses as little as leaves a whole.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from deepio_adapters.media import SourceGap, SourcePacket
from deepio_adapters.slots import SlotClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_PACKETS", "MAX_QUEUED", "PacketQueue"]

MAX_PACKETS: Final = 150
"""Packets that wait at most. What a recording is read ahead by is part of that, half a second or so; the rest is what a
camera sends while who takes it is held up: 2 s even at 60 fps. Older than that, nobody wants it."""

MAX_QUEUED: Final = 8 * 1024 * 1024
"""Bytes that wait at most, in more than one packet: 2 s of 32 Mbit/s, more than any camera sends."""


class PacketQueue:
    """Holds the packets of one producer for one consumer, in order, beginning with a keyframe; never blocks a producer.

    When it is full it drops the oldest packets up to the next keyframe; if none is waiting, also what comes, until one
    comes. Gaps are kept: of those that follow one another, the last. All methods may be called from any thread.

    Args:
        follows: The first packet may follow on from what the consumer has from elsewhere, and be no keyframe.
        max_packets: Packets that wait at most.
        max_bytes: Bytes that wait at most.

    Attributes (read them at any time; each is one number, not a consistent set):
        dropped: Packets dropped because the queue was full, or by `skip`; not those before the first keyframe.
    """

    def __init__(self, *, follows: bool = False, max_packets: int = MAX_PACKETS, max_bytes: int = MAX_QUEUED) -> None:
        self._max_packets = max_packets
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._items: deque[SourcePacket | SourceGap] = deque()
        self._bytes = 0
        # What comes follows on from what was put before, and: that was ever so.
        self._whole = self._begun = follows
        self._closed = False
        self._error: BaseException | None = None
        self._on_item: Callable[[], object] | None = None
        self.dropped = 0

    @property
    def closed(self) -> bool:
        """True once `close` was called; packets may still be waiting."""
        return self._closed

    def put(self, item: SourcePacket | SourceGap) -> bool:
        """Adds an item; never blocks.

        Returns:
            False when the queue is closed: the item is dropped, and the producer may stop.
        """
        with self._lock:
            if self._closed:
                return False
            was_empty = not self._items
            if isinstance(item, SourceGap):
                self._add_gap(item)
            elif not self._add_packet(item):
                return True
            self._changed.notify()
            # A consumer that was told and did not come yet is not told again: one wake for all that has come.
            on_item = self._on_item if was_empty and self._items else None
        if on_item is not None:
            on_item()
        return True

    def close(self, error: BaseException | None = None, *, discard: bool = False) -> None:
        """Ends the queue; the second call does nothing.

        Args:
            error: Why the producer stopped, for `SlotClosedError.error`; None for a planned end.
            discard: Drop what waits instead of delivering it (for a consumer that leaves).
        """
        with self._lock:
            if discard:
                self._items.clear()
            if self._closed:
                return
            self._closed, self._error = True, error
            self._changed.notify_all()
            on_item = self._on_item
        if on_item is not None:
            on_item()

    def take_all(self) -> list[SourcePacket | SourceGap]:
        """Returns what waits, oldest first, possibly nothing; never waits.

        Raises:
            SlotClosedError: The queue is closed and empty.
        """
        with self._lock:
            if self._closed and not self._items:
                raise SlotClosedError(self._error)
            items = list(self._items)
            self._items.clear()
            self._bytes = 0
        return items

    def get(self) -> SourcePacket | SourceGap:
        """Waits in this thread for the oldest item.

        Raises:
            SlotClosedError: The queue is closed and empty.
        """
        with self._lock:
            self._changed.wait_for(lambda: self._items or self._closed)
            if not self._items:
                raise SlotClosedError(self._error)
            item = self._items.popleft()
            if isinstance(item, SourcePacket):
                self._bytes -= len(item.data)
        return item

    def skip(self) -> None:
        """Drops the packet taken last, and what waits up to the next keyframe; if none waits, also what comes then."""
        with self._lock:
            self.dropped += 1
            self._make_room(first=False)

    def set_on_item(self, callback: Callable[[], object] | None) -> None:
        """Has `callback` called when the empty queue gets an item and when it closes; None ends that.

        It is called in the producer's thread, or at once when something is waiting already. It must neither block nor
        raise.
        """
        with self._lock:
            self._on_item = callback
            pending = callback if self._items or self._closed else None
        if pending is not None:
            pending()

    def _add_gap(self, gap: SourceGap) -> None:
        if self._items and isinstance(self._items[-1], SourceGap):
            self._items.pop()
        self._items.append(gap)

    def _add_packet(self, packet: SourcePacket) -> bool:
        """Adds it if decoding can go on with it; counts what is lost."""
        if packet.keyframe:
            self._whole = self._begun = True
        elif not self._whole:
            self.dropped += self._begun
            return False
        self._items.append(packet)
        self._bytes += len(packet.data)
        while self._is_too_much():
            self._make_room(first=True)
        return True

    def _is_too_much(self) -> bool:
        if len(self._items) <= self._max_packets and self._bytes <= self._max_bytes:
            return False
        # One packet may be as large as it likes: an uncompressed picture, say.
        return sum(isinstance(item, SourcePacket) for item in self._items) > 1

    def _make_room(self, *, first: bool) -> None:
        """Drops up to the next keyframe, if that is what comes `first`, up to the one after it."""
        items, self._items, self._bytes = self._items, deque(), 0
        self._whole = False
        for item in items:
            if isinstance(item, SourceGap):
                self._add_gap(item)
                continue
            self._whole |= item.keyframe and not first
            first = False
            if self._whole:
                self._items.append(item)
                self._bytes += len(item.data)
            else:
                self.dropped += 1
