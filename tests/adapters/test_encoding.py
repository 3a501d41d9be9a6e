"""The encoding thread: newest picture first, keyframes and bitrates on request, back-pressure, and faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import av
import numpy as np
import pytest

from deepio_adapters.encoder import EncoderError, VideoEncoder
from deepio_adapters.encoding import FRESH_START, EncodingThread
from deepio_adapters.media import EncodedFrame
from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_adapters.sources import SourceFrame, stamp
from deepio_core.media.options import VideoOptions

BOUND = 10.0  # seconds after which a wait in these tests has failed


def frame(number: int) -> SourceFrame:
    picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 250, np.uint8), format="bgr24")
    return stamp(picture, number / 25, number / 25)


class FakeEncoder:
    """Notes what it is asked for; fails, leaves out or waits as it is told."""

    def __init__(self) -> None:
        self.bitrate = 0
        self.name: str | None = None
        self.asked: list[tuple[float, bool, int]] = []
        self.closed = False
        self.act: Callable[[SourceFrame], bool] = lambda frame: True
        self.deaf = False

    def encode(self, frame: SourceFrame, *, keyframe: bool = False) -> EncodedFrame | None:
        self.name = "fake"
        self.asked.append((frame.pts, keyframe, self.bitrate))
        if not self.act(frame):
            return None
        made = keyframe and not self.deaf
        return EncodedFrame(data=b"x", keyframe=made, pts=frame.pts, captured_at=frame.captured_at, interval=0.04)

    def close(self) -> None:
        self.closed = True


class Running:
    """A thread with its ends: frames go in one by one, what comes out is collected."""

    def __init__(self, *encoders: FakeEncoder | VideoEncoder) -> None:
        self.slot: LatestSlot[SourceFrame] = LatestSlot()
        self.delivered: LatestSlot[EncodedFrame] = LatestSlot()
        self.failed: LatestSlot[str] = LatestSlot()
        waiting = list(encoders)
        self.thread = EncodingThread(self.slot, lambda: waiting.pop(0), self.delivered.put, self.failed.put)

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.thread.close(BOUND)

    def encoded(self, number: int) -> EncodedFrame:
        self.slot.put(frame(number))
        return self.delivered.get(BOUND)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_pictures_go_in_and_frames_come_out(codec):
    with Running(VideoEncoder(codec, VideoOptions())) as running:
        assert running.thread.encoder_name is None
        first, second = running.encoded(0), running.encoded(1)
        assert (first.keyframe, second.keyframe) == (True, False)
        running.thread.request_keyframe()
        assert running.encoded(2).keyframe
        running.thread.set_bitrate(200_000)
        assert running.encoded(3).pts == 3 / 25
        assert running.thread.encoder_name == {"H264": "libx264", "VP8": "libvpx"}[codec]
        assert (running.thread.encoded, running.thread.left_out, running.thread.faults) == (4, 0, 0)


def test_a_slow_encoder_takes_the_newest_picture():
    encoder, busy, go_on = FakeEncoder(), threading.Event(), threading.Event()

    def wait(_: SourceFrame) -> bool:
        busy.set()
        return go_on.wait(BOUND)

    encoder.act = wait
    with Running(encoder) as running:
        running.slot.put(frame(0))
        assert busy.wait(BOUND)
        for number in range(1, 10):
            running.slot.put(frame(number))
        go_on.set()
        until(lambda: running.thread.encoded == 2)
        assert [pts for pts, _, _ in encoder.asked] == [0, 9 / 25]
        assert running.slot.dropped == 8


def test_while_held_nothing_is_encoded_and_then_the_newest():
    waits, taken = threading.Semaphore(0), threading.Semaphore(0)

    class Watched(LatestSlot[SourceFrame]):
        def get(self, timeout: float | None = None) -> SourceFrame:
            waits.release()
            item = super().get(timeout)
            taken.release()
            return item

    encoder, running = FakeEncoder(), Running()
    running.slot = Watched()
    running.thread = EncodingThread(running.slot, lambda: encoder, running.delivered.put, running.failed.put)
    with running:
        assert waits.acquire(timeout=BOUND)
        running.thread.hold()
        running.slot.put(frame(1))  # it takes this one, and then sees that it is held
        assert taken.acquire(timeout=BOUND)
        running.slot.put(frame(2))
        running.slot.put(frame(3))
        assert encoder.asked == []
        running.thread.release()
        assert running.delivered.get(BOUND).pts == 3 / 25
        assert len(encoder.asked) == 1
        assert (running.thread.outdated, running.slot.dropped) == (1, 1)


def test_a_keyframe_is_asked_for_until_it_comes_and_the_bitrate_holds():
    encoder = FakeEncoder()
    with Running(encoder) as running:
        encoder.act = lambda _: False
        running.thread.request_keyframe()
        running.thread.set_bitrate(123)
        running.slot.put(frame(0))
        until(lambda: running.thread.left_out == 1)
        encoder.act, encoder.deaf = lambda _: True, True
        running.encoded(1)
        encoder.deaf = False
        assert running.encoded(2).keyframe
        assert not running.encoded(3).keyframe
    assert [(keyframe, bitrate) for _, keyframe, bitrate in encoder.asked] == [
        (True, 123),
        (True, 123),
        (True, 123),
        (False, 123),
    ]


def fail(_: SourceFrame) -> bool:
    raise EncoderError("It is broken.")


def test_after_a_fault_a_new_encoder_goes_on_and_after_another_one_it_is_told():
    first, second, third = FakeEncoder(), FakeEncoder(), FakeEncoder()
    with Running(first, second, third) as running:
        running.encoded(0)
        first.act = fail
        running.thread.request_keyframe()
        running.slot.put(frame(1))
        until(lambda: running.thread.faults == 1)
        assert running.encoded(2).keyframe, "what was asked of the broken one holds for the new one"
        assert first.closed
        for number in range(FRESH_START):
            running.encoded(3 + number)
        second.act = fail  # it has worked for long: not yet given up
        running.slot.put(frame(100))
        until(lambda: running.thread.faults == 2)
        third.act = fail
        running.slot.put(frame(101))
        assert running.failed.get(BOUND) == "It is broken."
    assert third.closed


def test_a_fault_of_ours_is_told_like_one_of_the_encoder(caplog):
    def stumble(_: SourceFrame) -> bool:
        raise ZeroDivisionError

    encoder = FakeEncoder()
    encoder.act = stumble
    with Running(encoder) as running:
        running.slot.put(frame(0))
        assert running.failed.get(BOUND) == "it has failed unexpectedly (ZeroDivisionError)"
    assert encoder.closed
    with Running() as running:  # no encoder can be made
        assert running.failed.get(BOUND) == "it has failed unexpectedly (IndexError)"
    assert "Encoding has failed unexpectedly." in caplog.text


def test_a_new_encoder_aims_at_the_bitrate_that_was_set():
    first, second = FakeEncoder(), FakeEncoder()
    with Running(first, second) as running:
        running.thread.set_bitrate(500)
        running.encoded(0)
        first.act = fail
        running.slot.put(frame(1))
        until(lambda: running.thread.faults == 1)
        running.encoded(2)
    assert second.asked[0][2] == 500


def test_it_ends_with_its_slot():
    encoder = FakeEncoder()
    running = Running(encoder)
    with running:
        running.slot.put(frame(0))
        running.slot.close()
        until(lambda: encoder.closed)
    assert running.thread.encoded == 1, "what was put before is still encoded"


@pytest.mark.parametrize("held", [False, True])
def test_closing_ends_it_wherever_it_waits_and_closes_the_slot(held):
    with Running(FakeEncoder()) as running:
        running.encoded(0)
        if held:
            running.thread.hold()
            running.slot.put(frame(1))
    assert not running.slot.put(frame(2))
    with pytest.raises(SlotClosedError):
        running.delivered.close()
        running.delivered.get(0)


def test_closing_does_not_wait_longer_than_told_and_nothing_is_delivered_afterwards():
    encoder, busy, go_on = FakeEncoder(), threading.Event(), threading.Event()

    def wait(_: SourceFrame) -> bool:
        busy.set()
        return go_on.wait(BOUND)

    encoder.act = wait
    running = Running(encoder)
    running.thread.start()
    running.slot.put(frame(0))
    assert busy.wait(BOUND)
    assert not running.thread.close(0.01)
    go_on.set()
    assert running.thread.close(BOUND)
    assert running.delivered.take() is None


def test_it_may_be_closed_before_it_was_started_and_from_its_own_thread():
    running = Running(FakeEncoder())
    assert not running.thread.close()
    closed = LatestSlot[bool]()
    slot: LatestSlot[SourceFrame] = LatestSlot()
    thread = EncodingThread(slot, FakeEncoder, lambda _: closed.put(thread.close()), lambda _: None)
    with thread:
        slot.put(frame(0))
        assert closed.get(BOUND) is False
