"""Frames kept for results: found by their time, bounded in time and number, and gone when nobody sends."""

from typing import Any

import numpy as np
import pytest

from deepio_adapters import kept_frames
from deepio_adapters.kept_frames import KeptFrames
from deepio_adapters.slots import LatestSlot


class Feed:
    """Subscriptions, and frames that are nothing but their time."""

    def __init__(self):
        self.slots = []
        self.newest = None

    def subscribe(self):
        slot: LatestSlot[Any] = LatestSlot()
        self.slots.append(slot)
        if self.newest is not None:
            slot.put(self.newest)
        return slot

    def unsubscribe(self, slot):
        self.slots.remove(slot)
        slot.close(discard=True)

    def show(self, captured_at):
        self.newest = Frame(captured_at)
        for slot in self.slots:
            slot.put(self.newest)


class Frame:
    def __init__(self, captured_at):
        self.captured_at = captured_at
        self.array = np.zeros(1)


@pytest.fixture
def feed():
    return Feed()


def kept(feed, seconds=1.0):
    return KeptFrames(seconds, feed.subscribe, feed.unsubscribe)


def found(frames, *times):
    return [frame and frame.captured_at for frame in (frames.find(at) for at in times)]


def test_frames_are_found_by_their_time(feed):
    frames = kept(feed)
    frames.start()
    for at in (10.0, 10.04, 10.08):
        feed.show(at)
    assert found(frames, 10.0, 10.0395, 10.08) == [10.0, 10.04, 10.08]
    assert found(frames, 9.9, 10.02, 10.2) == [None, None, None]


def test_the_frame_that_is_shown_already_is_kept_and_not_twice(feed):
    frames = kept(feed)
    feed.show(10.0)
    frames.start()
    frames.start()
    assert len(feed.slots) == 1
    assert found(frames, 10.0) == [10.0]
    frames.stop()
    frames.start()
    feed.show(10.04)
    assert len(frames._frames) == 2


def test_the_oldest_go_with_time(feed):
    frames = kept(feed, seconds=0.1)
    frames.start()
    for at in (10.0, 10.04, 10.08, 10.12):
        feed.show(at)
    assert found(frames, 10.0, 10.04, 10.12) == [None, 10.04, 10.12]


def test_the_oldest_go_when_there_are_too_many(feed):
    frames = kept(feed, seconds=1000.0)
    frames.start()
    for number in range(kept_frames.LIMIT + 5):
        feed.show(float(number))
    assert found(frames, 4.0, 5.0) == [None, 5.0]
    assert len(frames._frames) == kept_frames.LIMIT


def test_nothing_comes_after_the_stop_and_what_was_kept_stays_until_it_is_cleared(feed):
    frames = kept(feed)
    frames.stop()
    frames.start()
    feed.show(10.0)
    frames.stop()
    assert feed.slots == []
    feed.show(10.04)
    assert found(frames, 10.0, 10.04) == [10.0, None]
    frames.clear()
    assert found(frames, 10.0) == [None]


def test_the_end_of_the_source_is_no_failure(feed):
    frames = kept(feed)
    frames.start()
    feed.show(10.0)
    feed.slots[0].close(RuntimeError("the camera is gone"))
    assert found(frames, 10.0) == [10.0]
