"""One source for several clients of a process: one camera, opened once, sent over several connections."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from deepio_adapters.feed import MediaFeed
from deepio_adapters.sources import Source, SourceError, SourceFrame, SourceInfo, parse_source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from deepio_adapters.audio import AudioTap
    from deepio_adapters.feed import Feed
    from deepio_adapters.packet_queue import PacketQueue
    from deepio_adapters.reconnecting import ReconnectPolicy
    from deepio_adapters.slots import LatestSlot
    from deepio_adapters.sources import FrameFeed

__all__ = ["SharedSource"]


class SharedSource:
    """A video source for several `DeepIO` of one process: give the same object to each as its `source`.

    It is opened by the first that starts and closed with the last that ends; between the two each may come and go.
    What goes wrong with it reaches all of them. A recording begins when the first connection stands, and again, for
    all, once it has ended. Making one does no I/O.

    Args:
        source: What a `DeepIO` takes, except asynchronous frame makers, which belong to one event loop.
        format: FFmpeg's name of the input format.
        options: FFmpeg's options for the source.
        loop: Start again at the end.
        frame_rate: Frames per second, for sources that make frames.
        timeout: Seconds to wait at most for the opening, and for more data later; None for what suits the source.
        reconnect: Open a live source again when it is lost, and when.
        audio: Take the sound of the source too, for those who send it.

    Raises:
        SourceError: It is not a source, or an argument does not go with it.
    """

    def __init__(
        self,
        source: str | Path | FrameFeed,
        *,
        format: str | None = None,  # noqa: A002 - the name that DeepIO documents
        options: Mapping[str, str] | None = None,
        loop: bool = False,
        frame_rate: float | None = None,
        timeout: tuple[float, float] | None = None,
        reconnect: bool | ReconnectPolicy = True,
        audio: bool = False,
    ) -> None:
        make = partial(
            parse_source,
            source,
            format=format,
            options=options,
            loop=loop,
            frame_rate=frame_rate,
            timeout=timeout,
            reconnect=reconnect,
            audio=audio,
        )
        probe = make()  # raises if it is none
        self.name = probe.name
        """What to call it in messages: holds no secret."""
        if probe.application_part is not None:
            raise SourceError(
                f"{self.name} cannot be shared: it is async.", remedy="Give a plain generator or function."
            )
        self._make: Callable[[], Source] = make
        self._lock = threading.Lock()
        self._feed: MediaFeed | None = None
        self._users = 0

    def __repr__(self) -> str:
        return f"<SharedSource {self.name}>"

    def lease(self) -> Feed:
        """Returns the source as one engine uses it: counted from its `open` to its `close`."""
        return _Lease(self)

    def enter(self) -> MediaFeed:
        """Counts one more user; does not open anything."""
        with self._lock:
            if self._feed is None:
                self._feed = MediaFeed(self._make)
            self._users += 1
            return self._feed

    def leave(self, timeout: float) -> bool:
        """Counts one less; closes the source with the last one (see `Feed.close`)."""
        with self._lock:
            self._users -= 1
            if self._users:
                return True
            feed, self._feed = self._feed, None
        assert feed is not None, "who leaves has entered"
        return feed.close(timeout)


class _Lease:
    """A `Feed` that is closed for one engine when that closes it, and for all with the last."""

    def __init__(self, shared: SharedSource) -> None:
        self._shared = shared
        self._lock = threading.Lock()
        self._feed: MediaFeed | None = None
        self._closed = False
        self._subscriptions: list[PacketQueue | LatestSlot[SourceFrame]] = []

    @property
    def name(self) -> str:
        return self._shared.name

    @property
    def info(self) -> SourceInfo | None:
        return None if self._feed is None else self._feed.info

    @property
    def audio(self) -> AudioTap | None:
        return None if self._feed is None else self._feed.audio

    @property
    def newest(self) -> SourceFrame | None:
        return None if self._feed is None else self._feed.newest

    @property
    def keyframe_at(self) -> float | None:
        return None if self._feed is None else self._feed.keyframe_at

    @property
    def gop(self) -> float | None:
        return None if self._feed is None else self._feed.gop

    @property
    def reconnects(self) -> int:
        return 0 if self._feed is None else self._feed.reconnects

    @property
    def undecoded(self) -> int:
        return 0 if self._feed is None else self._feed.undecoded

    def open(self) -> SourceInfo:
        with self._lock:
            if self._closed:
                raise SourceError(f"{self.name} was closed.")
            if self._feed is None:
                self._feed = self._shared.enter()
            feed = self._feed
        return feed.open()

    def subscribe_packets(self) -> PacketQueue:
        queue = self._opened().subscribe_packets()
        self._subscriptions.append(queue)
        return queue

    def subscribe_frames(self, *, begin: bool = True) -> LatestSlot[SourceFrame]:
        slot = self._opened().subscribe_frames(begin=begin)
        self._subscriptions.append(slot)
        return slot

    def unsubscribe(self, subscription: PacketQueue | LatestSlot[SourceFrame]) -> None:
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        self._opened().unsubscribe(subscription)

    def close(self, timeout: float = 2.0) -> bool:
        with self._lock:
            closed, self._closed = self._closed, True
            feed = self._feed
        if closed or feed is None:
            return True
        for subscription in self._subscriptions.copy():
            self.unsubscribe(subscription)
        return self._shared.leave(timeout)

    def _opened(self) -> MediaFeed:
        assert self._feed is not None, "`open` comes before"
        return self._feed
