"""A source whose packets the test lets through: real video, but at the test's pace."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

from deepio_adapters.access_units import AccessUnit, AccessUnitReader
from deepio_adapters.demuxing import Demuxer
from deepio_adapters.feed import MediaFeed
from deepio_adapters.media import SourceGap, SourcePacket
from deepio_adapters.source_urls import SourceError, SourceUrl
from deepio_adapters.sources import Source, SourceFrame, SourceInfo
from deepio_adapters.test_pattern import read_counter

BOUND = 10.0
"""Seconds after which a wait in a test has failed."""

Item: TypeAlias = "SourcePacket | SourceGap | SourceError | None"
"""What a source has next; an error is raised, and None is its end."""


def read_packets(clip: Path, interval: float = 0.04) -> list[SourcePacket]:
    """All packets of a clip, at once."""
    demuxer = Demuxer(SourceUrl.parse(str(clip)), options={}, timeout=(BOUND, BOUND), stop=threading.Event())
    reader = AccessUnitReader(demuxer)
    units: list[AccessUnit] = []
    while (unit := reader.read()) is not None:
        units.append(unit)
    demuxer.close()
    return [
        SourcePacket(
            data=unit.data,
            stream=units[0].stream,
            keyframe=unit.keyframe,
            pts=number * interval,
            captured_at=0.0,
            interval=interval,
        )
        for number, unit in enumerate(units)
    ]


class ScriptedPackets(Source):
    """Gives the packets of a clip, again and again, when the test says so."""

    def __init__(self, packets: list[SourcePacket], *, live: bool = True) -> None:
        super().__init__("script")
        self._packets = packets
        self._live = live
        self._items: queue.Queue[Item] = queue.Queue()
        self._interval = packets[0].interval
        self.number = 0
        """Packets given so far; also the number of the next one."""

    def open(self) -> SourceInfo:
        first = self._packets[0].stream
        return SourceInfo(
            width=first.width, height=first.height, frame_rate=25.0, live=self._live, codec=first.codec, stream=first
        )

    def frames(self) -> Iterator[SourceFrame]:
        raise AssertionError("packets are wanted")

    def packets(self) -> Iterator[SourcePacket | SourceGap]:
        while (item := self._items.get()) is not None and not self.closed:
            if isinstance(item, SourceError):
                raise item
            yield item

    def give(self, count: int = 1, *, captured_at: float | None = None, **changes: Any) -> float:
        """Lets the next packets through: taken at `captured_at` (now, if None), the following an interval later each.

        Returns:
            The pts of the last one.
        """
        begin = time.monotonic() if captured_at is None else captured_at
        for index in range(count):
            original = self._packets[self.number % len(self._packets)]
            at = begin + index * self._interval if captured_at is not None else begin
            item = dataclasses.replace(
                original, pts=self.number * self._interval, captured_at=at, interval=self._interval, **changes
            )
            self._items.put(item)
            self.number += 1
        return (self.number - 1) * self._interval

    def until_keyframe(self) -> None:
        """Lets through what is before the next keyframe."""
        while not self._packets[self.number % len(self._packets)].keyframe:
            self.give()

    def gap(self, attempt: int = 1) -> None:
        """The source is lost; what comes next is the next keyframe."""
        self._items.put(SourceGap(reason="gone", attempt=attempt))
        while not self._packets[self.number % len(self._packets)].keyframe:
            self.number += 1

    def end(self, error: SourceError | None = None) -> None:
        self._items.put(error)

    def close(self, timeout: float = 2.0) -> bool:
        closed = super().close(timeout)
        self._items.put(None)
        return closed


class Scripted:
    """A feed of such sources; each new one is begun by the feed itself."""

    def __init__(self, packets: list[SourcePacket], *, live: bool = True, fresh: bool = False) -> None:
        self.sources: list[ScriptedPackets] = []

        def make() -> Source:
            self.sources.append(ScriptedPackets(packets, live=live))
            return self.sources[-1]

        self.feed = MediaFeed(make, fresh=fresh)
        self.feed.open()

    @property
    def source(self) -> ScriptedPackets:
        return self.sources[-1]

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.feed.close(BOUND)


def wait_until(holds: Callable[[], object]) -> None:
    """Looks again and again; for what tells nobody."""
    until = time.monotonic() + BOUND
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.002)


def counter(frame: SourceFrame) -> int | None:
    """The number that the picture shows."""
    return read_counter(frame.to_bgr())
