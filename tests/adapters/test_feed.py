"""The feed: one source for all senders, opened once, started when it is watched, started anew when it has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from deepio_adapters.feed import MediaFeed
from deepio_adapters.media import SourceGap, SourcePacket
from deepio_adapters.packet_queue import PacketQueue
from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_adapters.source_urls import SourceError
from deepio_adapters.sources import Source, SourceFrame, SourceInfo, stamp
from tests.adapters.packet_sources import Scripted as ScriptedFeed
from tests.adapters.packet_sources import counter, read_packets, wait_until
from tests.media import make_clip

BOUND = 10.0  # seconds after which a wait in these tests has failed


class Scripted(Source):
    """A source whose frames the test lets through one by one."""

    def __init__(self, live: bool = False, error: str | None = None) -> None:
        super().__init__("script")
        self.live, self.error = live, error
        self.ready = threading.Event()
        self.reading = threading.Event()
        self.allowed = threading.Semaphore(0)
        self.left = 1_000

    def open(self) -> SourceInfo:
        if self.error == "open":
            raise SourceError("script cannot be opened.")
        return SourceInfo(width=64, height=48, frame_rate=None, live=self.live)

    def make_ready(self) -> None:
        self.ready.set()

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
        assert made.sources[0].ready.wait(BOUND)
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


# --- Sources that have packets ---


@pytest.fixture(scope="module")
def packets(tmp_path_factory: pytest.TempPathFactory) -> list[SourcePacket]:
    return read_packets(make_clip(tmp_path_factory.mktemp("feed") / "clip.ts", size=(160, 120), frames=20, gop=10))


def decoders() -> int:
    return sum(thread.name == "deepio-pictures" for thread in threading.enumerate())


def given(queue: PacketQueue, count: int) -> list[SourcePacket | SourceGap]:
    got = [queue.get() for _ in range(count)]
    assert queue.take_all() == []
    return got


def test_packets_go_to_everybody_and_nothing_is_decoded(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets) as made:
        assert made.feed.info is not None
        assert made.feed.info.stream is packets[0].stream
        assert made.feed.keyframe_at is None
        queues = [made.feed.subscribe_packets() for _ in range(2)]
        made.source.give(3)
        for queue in queues:
            got = given(queue, 3)
            assert [item.data for item in got if isinstance(item, SourcePacket)] == [p.data for p in packets[:3]]
        made.feed.unsubscribe(queues[0])
        made.feed.unsubscribe(queues[0])
        made.source.give()
        given(queues[1], 1)
        with pytest.raises(SlotClosedError):
            queues[0].get()
        assert decoders() == 0
        assert made.feed.newest is None
        assert made.feed.keyframe_at is not None


def test_who_copies_begins_at_a_keyframe(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets) as made:
        first = made.feed.subscribe_packets()
        made.source.give(4)
        given(first, 4)
        late = made.feed.subscribe_packets()
        made.source.give(8)
        assert [item.keyframe for item in given(late, 2) if isinstance(item, SourcePacket)] == [True, False]


def test_who_comes_in_the_middle_sees_the_newest_picture_at_once(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets) as made:
        queue = made.feed.subscribe_packets()
        made.source.give(17)
        given(queue, 17)
        slot = made.feed.subscribe_frames()
        frame = slot.get(BOUND)
        assert counter(frame) == 16
        assert slot.accepted == 1
        assert made.feed.newest is frame
        second = made.feed.subscribe_frames()
        assert second.get(BOUND) is frame
        assert decoders() == 1
        made.source.give()
        assert [counter(each.get(BOUND)) for each in (slot, second)] == [17, 17]


def test_decoding_ends_with_the_last_who_looks_and_begins_again(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets) as made:
        for number in range(2):
            slots = [made.feed.subscribe_frames() for _ in range(2)]
            made.source.give(3)
            for slot in slots:
                while counter(slot.get(BOUND)) != number * 3 + 2:
                    pass
                assert decoders() == 1
                made.feed.unsubscribe(slot)
            wait_until(lambda: decoders() == 0)
            assert made.feed.newest is None


@pytest.mark.parametrize("late", [False, True])
def test_pictures_of_a_recording_are_shown_when_they_are_due(packets: list[SourcePacket], late: bool) -> None:
    with ScriptedFeed(packets, live=False) as made:
        queue = made.feed.subscribe_packets()
        slot = made.feed.subscribe_frames() if not late else None
        made.source.give(6, captured_at=time.monotonic() - 0.1)
        given(queue, 6)
        slot = slot or made.feed.subscribe_frames()
        shown: list[tuple[int | None, float]] = []
        while not shown or shown[-1][0] != 5:
            frame = slot.get(BOUND)
            shown.append((counter(frame), time.monotonic() - frame.captured_at))
        assert all(delay >= 0 for _, delay in shown)
        # Of those that were overdue when decoding began, one at most.
        assert not late or len(shown) <= 4


def test_a_gap_is_told_and_the_last_picture_stays(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets) as made:
        queue, slot = made.feed.subscribe_packets(), made.feed.subscribe_frames()
        made.source.give(3)
        while counter(slot.get(BOUND)) != 2:
            pass
        made.source.gap()
        made.source.gap(attempt=2)
        given(queue, 3)
        gap = queue.get()
        assert isinstance(gap, SourceGap)
        assert made.feed.reconnects == 0
        assert made.feed.subscribe_packets().take_all() == [SourceGap(reason="gone", attempt=2)]
        late = made.feed.subscribe_frames()
        assert counter(late.get(BOUND)) == 2
        made.source.give()
        assert counter(slot.get(BOUND)) == 10
        assert made.feed.reconnects == 1


def test_the_time_that_a_source_is_away_is_no_interval_between_keyframes(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets) as made:
        queue = made.feed.subscribe_packets()
        made.source.give(6)
        made.source.until_keyframe()
        made.source.give()
        wait_until(lambda: made.feed.gop is not None)
        gop = made.feed.gop
        made.source.gap()
        wait_until(lambda: made.feed.keyframe_at is None)
        time.sleep(0.2)
        made.source.until_keyframe()
        made.source.give()
        wait_until(lambda: made.feed.keyframe_at is not None)
        assert made.feed.gop == gop
        made.feed.unsubscribe(queue)


def test_the_end_comes_after_the_last_picture(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets, live=False) as made:
        queue, slot = made.feed.subscribe_packets(), made.feed.subscribe_frames()
        made.source.give(3, captured_at=time.monotonic() + 0.1)
        made.source.end()
        for _ in range(3):
            queue.get()
        with pytest.raises(SlotClosedError):
            queue.get()
        assert not slot.closed
        seen = list(slot)
        assert counter(seen[-1]) == 2
        assert made.feed.subscribe_frames(begin=False).closed
        assert len(made.sources) == 1
        again = made.feed.subscribe_packets()
        assert len(made.sources) == 2
        assert made.feed.info is not None
        made.source.give()
        given(again, 1)


@pytest.mark.parametrize("gap", [False, True])
def test_pictures_that_b_frames_hold_back_are_shown_at_the_end(tmp_path: Path, gap: bool) -> None:
    held = read_packets(make_clip(tmp_path / "clip.mp4", size=(160, 120), frames=8, b_frames=2))
    with ScriptedFeed(held) as made:
        slot = made.feed.subscribe_frames()
        made.source.give(8)
        if gap:
            made.source.gap()
        else:
            made.source.end()
        while counter(slot.get(BOUND)) != 7:
            pass


def test_a_source_of_packets_that_breaks_off_says_why(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets) as made:
        subscriptions = made.feed.subscribe_packets(), made.feed.subscribe_frames()
        made.source.end(SourceError("script broke off."))
        for subscription in subscriptions:
            with pytest.raises(SlotClosedError) as end:
                subscription.get()
            assert str(end.value.error) == "script broke off."


def test_groups_that_are_too_long_are_not_kept(packets: list[SourcePacket], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepio_adapters.source_run.MAX_GROUP", 4)
    with ScriptedFeed(packets) as made:
        queue = made.feed.subscribe_packets()
        made.source.give(6)
        given(queue, 6)
        slot = made.feed.subscribe_frames()
        assert decoders() == 0
        made.source.give(5)
        assert counter(slot.get(BOUND)) == 10


def test_what_cannot_be_decoded_can_still_be_copied(
    packets: list[SourcePacket], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deepio_adapters.decoding.MAX_ERRORS_IN_A_ROW", 3)
    with ScriptedFeed(packets) as made:
        queue, slot = made.feed.subscribe_packets(), made.feed.subscribe_frames()
        made.source.give(5, data=b"\0\0\0\1\x65garbage")
        with pytest.raises(SlotClosedError) as end:
            slot.get(BOUND)
        assert "cannot be decoded" in str(end.value.error)
        assert slot.error is end.value.error
        assert not queue.closed
        made.source.give(6)
        given(queue, 11)
        assert counter(made.feed.subscribe_frames().get(BOUND)) == 10
    assert not caplog.records


def test_a_fault_of_ours_ends_the_pictures_and_is_logged(
    packets: list[SourcePacket], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("deepio_adapters.decoding.PictureDecoder.decode", lambda *_: 1 / 0)
    with ScriptedFeed(packets) as made:
        slot = made.feed.subscribe_frames()
        made.source.give()
        with pytest.raises(SlotClosedError):
            slot.get(BOUND)
        assert isinstance(slot.error, ZeroDivisionError)
    assert [record.message for record in caplog.records] == ["Decoding has failed unexpectedly."]


def test_a_decoder_that_is_late_goes_on_with_the_next_keyframe(packets: list[SourcePacket]) -> None:
    with ScriptedFeed(packets) as made:
        slot = made.feed.subscribe_frames()
        made.source.give()
        assert counter(slot.get(BOUND)) == 0
        made.source.give(12, captured_at=time.monotonic() - 10)
        made.source.until_keyframe()
        made.source.give()
        assert counter(slot.get(BOUND)) == 0
        assert slot.accepted == 2
        assert made.feed.undecoded == 19
        made.feed.unsubscribe(slot)
        assert made.feed.undecoded == 19
        again = made.feed.subscribe_frames()
        made.source.end()
        assert len(list(again)) == 1
        assert not made.feed.subscribe_packets().closed
        assert len(made.sources) == 2
        assert made.feed.undecoded == 19


@pytest.mark.parametrize("live", [True, False])
def test_fresh_sources_live_while_they_are_watched(packets: list[SourcePacket], live: bool) -> None:
    with ScriptedFeed(packets, live=live, fresh=True) as made:
        queue, slot = made.feed.subscribe_packets(), made.feed.subscribe_frames()
        made.source.give()
        given(queue, 1)
        made.feed.unsubscribe(slot)
        assert not made.source.closed
        made.feed.unsubscribe(queue)
        assert made.source.closed
        again = made.feed.subscribe_packets()
        assert len(made.sources) == 2
        made.source.give()
        given(again, 1)


def test_a_closed_feed_has_nothing_more(packets: list[SourcePacket]) -> None:
    made = ScriptedFeed(packets)
    queue, slot = made.feed.subscribe_packets(), made.feed.subscribe_frames()
    made.source.give(2)
    slot.get(BOUND)
    assert made.feed.close(BOUND)
    for subscription in (queue, slot, made.feed.subscribe_packets(), made.feed.subscribe_frames()):
        assert subscription.closed
    wait_until(lambda: decoders() == 0)
    assert made.source.closed
