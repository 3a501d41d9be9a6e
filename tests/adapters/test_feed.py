"""The feed: one source for all senders, opened once, started when it is watched, started anew when it has ended."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import anyio
import av
import numpy as np
import pytest

from deepio_adapters.engine import EngineStats
from deepio_adapters.feed import MediaFeed
from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_adapters.source_urls import SourceError
from deepio_adapters.sources import Source, SourceFrame, SourceInfo, stamp
from deepio_adapters.tracks import Sender

BOUND = 10.0  # seconds after which a wait in these tests has failed


class Scripted(Source):
    """A source whose frames the test lets through one by one."""

    def __init__(self, live: bool = False, error: str | None = None) -> None:
        super().__init__("script")
        self.live, self.error = live, error
        self.reading = threading.Event()
        self.allowed = threading.Semaphore(0)
        self.left = 1_000

    def open(self) -> SourceInfo:
        if self.error == "open":
            raise SourceError("script cannot be opened.")
        return SourceInfo(width=64, height=48, frame_rate=None, live=self.live)

    def frames(self) -> Iterator[SourceFrame]:
        self.reading.set()
        number = 0
        while True:
            self.allowed.acquire()
            if self.closed or self.left == 0:
                break
            self.left -= 1
            picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="bgr24")
            yield stamp(picture, number / 10, float(number))
            number += 1
        if self.error == "read":
            raise SourceError("script broke off.")

    def frame(self) -> None:
        self.allowed.release()

    def end(self) -> None:
        self.left = 0
        self.allowed.release()

    def close(self, timeout: float = 2.0) -> bool:
        closed = super().close(timeout)
        self.allowed.release()
        return closed


class Feed:
    def __init__(self, live: bool = False, error: str | None = None) -> None:
        self.sources: list[Scripted] = []

        def make() -> Source:
            self.sources.append(Scripted(live, error))
            return self.sources[-1]

        self.feed = MediaFeed(make)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.feed.close(BOUND)


def number(slot: LatestSlot[SourceFrame]) -> float:
    return slot.get(BOUND).captured_at


def test_a_recording_is_opened_at_once_and_read_when_somebody_watches() -> None:
    with Feed() as made:
        assert made.feed.open().width == 64
        assert made.feed.name == "script"
        assert not made.sources[0].reading.wait(0.05)
        slot = made.feed.subscribe_frames()
        assert made.sources[0].reading.wait(BOUND)
        made.sources[0].frame()
        assert number(slot) == 0


def test_a_live_source_is_read_from_the_beginning() -> None:
    with Feed(live=True) as made:
        made.feed.open()
        assert made.sources[0].reading.wait(BOUND)


def test_every_subscriber_gets_the_newest_frame_and_a_slow_one_stops_nobody() -> None:
    with Feed() as made:
        fast, slow = made.feed.subscribe_frames(), made.feed.subscribe_frames()
        for expected in range(3):
            made.sources[0].frame()
            assert number(fast) == expected
        made.feed.unsubscribe(fast)
        made.feed.unsubscribe(fast)
        assert number(slow) == 2
        assert slow.dropped == 2
        made.sources[0].frame()
        assert number(slow) == 3
        with pytest.raises(SlotClosedError):
            fast.get(0)


def test_after_the_end_the_next_subscriber_starts_another_source() -> None:
    with Feed() as made:
        first, second = made.feed.subscribe_frames(), made.feed.subscribe_frames()
        made.sources[0].end()
        for slot in (first, second):
            with pytest.raises(SlotClosedError) as end:
                slot.get(BOUND)
            assert end.value.error is None
        assert len(made.sources) == 1
        third = made.feed.subscribe_frames()
        assert len(made.sources) == 2
        made.sources[1].frame()
        assert number(third) == 0


def test_a_source_that_breaks_off_says_why() -> None:
    with Feed(error="read") as made:
        slot = made.feed.subscribe_frames()
        made.sources[0].end()
        with pytest.raises(SlotClosedError) as end:
            slot.get(BOUND)
        assert str(end.value.error) == "script broke off."


def test_a_source_that_cannot_be_opened_says_so_to_who_opens_and_who_subscribes() -> None:
    with Feed(error="open") as made:
        with pytest.raises(SourceError, match="cannot be opened"):
            made.feed.open()
        with pytest.raises(SlotClosedError) as end:
            made.feed.subscribe_frames().get(BOUND)
        assert isinstance(end.value.error, SourceError)


@pytest.mark.parametrize("watched", [True, False])
def test_closing_ends_the_source_and_its_subscribers(watched: bool) -> None:
    made = Feed()
    made.feed.open()
    slots = [made.feed.subscribe_frames()] if watched else []
    assert made.feed.close(BOUND)
    assert made.feed.close(BOUND)
    assert made.sources[0].closed
    for slot in [*slots, made.feed.subscribe_frames()]:
        with pytest.raises(SlotClosedError):
            slot.get(0)
    assert len(made.sources) == 1


def test_a_feed_that_is_closed_unopened_cannot_be_opened() -> None:
    made = Feed()
    assert made.feed.close(BOUND)
    with pytest.raises(SourceError):
        made.feed.open()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize(("error", "detail"), [(None, "the source script has ended"), ("read", "script broke off.")])
async def test_a_sender_counts_and_tells_the_end(error: str | None, detail: str) -> None:
    ended: list[str] = []
    with Feed(error=error) as made:
        made.feed.open()
        counters = EngineStats()
        sender = Sender(made.feed, counters, ended.append, lambda *_: None)
        sender.close()
        made.sources[0].frame()
        assert not made.sources[0].reading.is_set()  # nothing is wanted yet
        with anyio.fail_after(BOUND):
            frame = await sender.next()
            assert frame is not None
            made.sources[0].end()
            assert await sender.next() is None
        sender.close()
    assert ended == [detail]
    assert counters.frames_sent == 1
