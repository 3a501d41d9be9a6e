"""What is sent: one source, kept open across connections and fanned out to those who send it.

Compressed packets go to who copies them; a thread decodes them for those who want pictures, and runs only while
somebody does. Every subscriber has a queue or slot of its own, so that a slow one neither waits nor makes others wait.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

from deepio_adapters.packet_queue import PacketQueue
from deepio_adapters.slots import LatestSlot
from deepio_adapters.source_run import SourceRun
from deepio_adapters.sources import Source, SourceFrame, SourceInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_adapters.audio import AudioTap

__all__ = ["Feed", "MediaFeed"]


class Feed(Protocol):
    """A source for those who send it; all methods may be called from any thread."""

    @property
    def name(self) -> str:
        """What to call the source in messages; holds no secret."""
        ...

    @property
    def info(self) -> SourceInfo | None:
        """What the source turned out to be; None before it was opened, and of the one before while it is again."""
        ...

    @property
    def audio(self) -> AudioTap | None:
        """The sound that goes with the pictures of the source that is open now; None if there is none to be had."""
        ...

    @property
    def newest(self) -> SourceFrame | None:
        """The picture that was shown last, if somebody wants pictures."""
        ...

    @property
    def keyframe_at(self) -> float | None:
        """When the source's last keyframe was taken or is due (`time.monotonic`); None before one came."""
        ...

    @property
    def gop(self) -> float | None:
        """Seconds between the source's last two keyframes; None before there were two."""
        ...

    @property
    def reconnects(self) -> int:
        """How often the source was lost and has been opened again."""
        ...

    @property
    def undecoded(self) -> int:
        """Packets that were left out because decoding was behind."""
        ...

    def open(self) -> SourceInfo:
        """Opens the source and returns what it turned out to be; blocks, bounded by the source's own timeout.

        Raises:
            SourceError: It cannot be opened.
        """
        ...

    def subscribe_packets(self) -> PacketQueue:
        """Returns a queue that gets all packets from the next keyframe on, closed with the source (or its error).

        It begins with the gap if the source is away. Nothing but its end comes from a source that has no packets
        (`SourceInfo.stream` is None).
        """
        ...

    def subscribe_frames(self, *, begin: bool = True) -> LatestSlot[SourceFrame]:
        """Returns a slot that gets the newest picture, closed with the source (or its error).

        It soon holds the picture that came last, if one has come: a connection need not wait for the next to show
        something.

        Args:
            begin: Start another source if the last one has ended; if not, the slot is closed then.
        """
        ...

    def unsubscribe(self, subscription: PacketQueue | LatestSlot[SourceFrame]) -> None:
        """Ends a subscription; it gets nothing more."""
        ...

    def close(self, timeout: float = 2.0) -> bool:
        """Ends the source; idempotent, in at most `timeout` seconds.

        Returns:
            False when a thread of it is still stuck; it releases everything as soon as it comes back.
        """
        ...


class MediaFeed:
    """Keeps one source open and hands what comes out of it to every subscriber (see `Feed`).

    A live source runs from `open` to `close`, so that a reconnect shows a picture at once. A recording starts with its
    first subscriber. Once a source has ended, the next subscriber starts another one.

    Args:
        make: Makes the source; does no I/O.
        fresh: Let every source, live or not, start with its first subscriber and end with its last.
    """

    def __init__(self, make: Callable[[], Source], *, fresh: bool = False) -> None:
        self._make = make
        self._fresh = fresh
        self._lock = threading.RLock()
        self._closed = False
        self._reconnects = 0
        self._undecoded = 0
        self._info: SourceInfo | None = None
        self._run = SourceRun(make(), fresh=fresh)

    @property
    def name(self) -> str:
        """What to call the source in messages; holds no secret."""
        return self._run.name

    @property
    def info(self) -> SourceInfo | None:
        """What the source turned out to be; None before it was opened."""
        return self._run.info or self._info

    @property
    def audio(self) -> AudioTap | None:
        """The sound that goes with the pictures of the source that is open now; None if there is none to be had."""
        return self._run.audio

    @property
    def newest(self) -> SourceFrame | None:
        """The picture that was shown last, if somebody wants pictures."""
        return self._run.newest

    @property
    def keyframe_at(self) -> float | None:
        """When the source's last keyframe was taken or is due; None before one came."""
        return self._run.keyframe_at

    @property
    def gop(self) -> float | None:
        """Seconds between the source's last two keyframes; None before there were two."""
        return self._run.gop

    @property
    def reconnects(self) -> int:
        """How often the source was lost and has been opened again."""
        return self._reconnects + self._run.reconnects

    @property
    def undecoded(self) -> int:
        """Packets that were left out because decoding was behind."""
        return self._undecoded + self._run.undecoded

    def open(self) -> SourceInfo:
        """Opens the source and returns what it turned out to be; see `Feed.open`.

        Raises:
            SourceError: It cannot be opened.
        """
        with self._lock:
            if self._run.ended and self._run.info is None and not self._closed:
                # It could not be opened before, when somebody else asked for it.
                self._run = SourceRun(self._make(), fresh=self._fresh)
            run = self._run
        return run.open()

    def subscribe_packets(self) -> PacketQueue:
        """Returns a queue that gets all packets from the next keyframe on; see `Feed.subscribe_packets`."""
        queue = PacketQueue()
        with self._lock:
            if self._begin(anew=True):
                self._run.add_queue(queue)
                self._run.begin()
                return queue
        queue.close()
        return queue

    def subscribe_frames(self, *, begin: bool = True) -> LatestSlot[SourceFrame]:
        """Returns a slot that gets the newest picture; see `Feed.subscribe_frames`."""
        slot: LatestSlot[SourceFrame] = LatestSlot()
        with self._lock:
            if self._begin(anew=begin):
                self._run.add_slot(slot)
                self._run.begin()
                return slot
        slot.close()
        return slot

    def unsubscribe(self, subscription: PacketQueue | LatestSlot[SourceFrame]) -> None:
        """Ends a subscription; it gets nothing more."""
        with self._lock:
            if self._run.remove(subscription) and self._fresh and not self._run.watched:
                self._run.stop(timeout=0)
        subscription.close(discard=True)

    def close(self, timeout: float = 2.0) -> bool:
        """Ends the source; idempotent, in at most `timeout` seconds.

        Returns:
            False when a thread of it is still stuck; it releases everything as soon as it comes back.
        """
        with self._lock:
            self._closed = True
        return self._run.stop(timeout)

    def _begin(self, *, anew: bool) -> bool:
        """Whether there is a source to subscribe to."""
        if self._closed:
            return False
        if self._run.ended and anew:
            self._reconnects += self._run.reconnects
            self._undecoded = self.undecoded
            self._info = self.info
            self._run = SourceRun(self._make(), fresh=self._fresh)
        return not self._run.ended
