"""A source that several clients share: opened by the first, closed with the last, its faults told to all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepio_asyncio
import deepio_trio
from deepio_adapters.app_sources import AppSources
from deepio_adapters.engine import EngineConfig
from deepio_adapters.feed import Feed
from deepio_adapters.shared import SharedSource
from deepio_adapters.slots import SlotClosedError
from deepio_adapters.source_urls import SourceError
from deepio_core.errors import LocalProtocolError
from tests.media import make_clip

BOUND = 10.0


class Frames:
    """Makes frames whose pixels count them, knows when it is in use, and breaks off once."""

    def __init__(self, *, breaks_after: int | None = None) -> None:
        self.begun = self.ended = 0
        self._breaks_after = breaks_after

    def __call__(self) -> Iterator[Any]:
        self.begun += 1
        number = 0
        try:
            while self.begun > 1 or number != self._breaks_after:
                yield np.full((48, 64, 3), number % 256, np.uint8)
                number += 1
            raise OSError("the lens fell off")
        finally:
            self.ended += 1


@pytest.fixture
def frames() -> Frames:
    return Frames()


def opened(shared: SharedSource) -> Feed:
    feed = shared.lease()
    feed.open()
    return feed


def test_making_one_opens_nothing(frames: Frames) -> None:
    shared = SharedSource(frames, frame_rate=100)
    feed = shared.lease()
    assert feed.info is None
    assert (feed.newest, feed.keyframe_at, feed.gop, feed.reconnects, feed.undecoded) == (None, None, None, 0, 0)
    assert feed.name == shared.name
    assert repr(shared) == f"<SharedSource {shared.name}>"
    assert feed.close()
    with pytest.raises(SourceError):
        feed.open()
    assert frames.begun == 0


def test_it_is_open_from_the_first_user_to_the_last(frames: Frames) -> None:
    shared = SharedSource(frames, frame_rate=100)
    one, other = opened(shared), opened(shared)
    one.open()
    assert frames.begun == 1
    slots = [feed.subscribe_frames() for feed in (one, other)]
    for slot in slots:
        assert slot.get(BOUND).width == 64
    assert one.info == other.info
    assert one.newest is not None
    left = one.subscribe_packets()
    assert one.close(BOUND)
    assert one.close(BOUND)
    assert left.closed
    assert slots[0].closed
    assert slots[1].get(BOUND).width == 64
    assert frames.ended == 0
    other.unsubscribe(slots[1])
    other.unsubscribe(slots[1])
    assert other.close(BOUND)
    assert frames.ended == 1
    assert opened(shared).close(BOUND)
    assert frames.begun == 2


def test_its_faults_reach_all_and_all_begin_again() -> None:
    frames = Frames(breaks_after=3)
    shared = SharedSource(frames, frame_rate=200)
    feeds = [opened(shared) for _ in range(2)]
    slots = [feed.subscribe_frames() for feed in feeds]
    for slot in slots:
        with pytest.raises(SlotClosedError) as end:
            while True:
                slot.get(BOUND)
        assert "the lens fell off" in str(end.value.error)
    for feed in feeds:
        assert feed.subscribe_frames().get(BOUND).width == 64
    assert frames.begun == 2
    for feed in feeds:
        assert feed.close(BOUND)


def test_who_cannot_open_it_says_so() -> None:
    shared = SharedSource("/nowhere/clip.mp4")
    for _ in range(2):
        feed = shared.lease()
        with pytest.raises(SourceError, match="nowhere"):
            feed.open()
        assert feed.close(BOUND)


def test_who_comes_after_a_failure_has_it_opened_anew(tmp_path: Path) -> None:
    shared = SharedSource(tmp_path / "clip.mp4")
    one = shared.lease()
    with pytest.raises(SourceError):
        one.open()
    make_clip(tmp_path / "clip.mp4", frames=2)
    other = opened(shared)
    assert other.info is not None
    assert other.info.width == 320
    assert other.close(BOUND)
    assert one.close(BOUND)


@pytest.mark.parametrize("face", [deepio_asyncio, deepio_trio])
def test_a_deepio_takes_it(face: Any, frames: Frames) -> None:
    shared = face.SharedSource(frames, frame_rate=100)
    deep = face.DeepIO("ws://127.0.0.1", None, shared, "camera", allow_plain=True)
    assert deep.source_name == shared.name
    assert (deep.config.engine.source, deep.config.engine.shared) == (None, shared)
    with pytest.raises(LocalProtocolError, match="shared source itself"):
        face.DeepIO("ws://127.0.0.1", None, shared, "camera", loop=True)
    assert frames.begun == 0


def test_an_asynchronous_source_belongs_to_one() -> None:
    async def frames() -> AsyncIterator[Any]:
        yield np.zeros((48, 64, 3), np.uint8)

    with pytest.raises(SourceError, match="cannot be shared"):
        SharedSource(frames)


@pytest.mark.anyio
async def test_a_shared_source_needs_nothing_of_the_applications_loop(frames: Frames) -> None:
    config = EngineConfig(shared=SharedSource(frames))
    assert AppSources().attached(config) is config
