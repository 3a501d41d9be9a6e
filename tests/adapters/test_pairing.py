"""Results with the frames they belong to: through engines, clients and faces, and over reconnects."""

import time
from typing import Any

import anyio
import pytest

from deepio_adapters.engine import EngineConfig
from deepio_adapters.pairing import SentLog, sent_log
from deepio_adapters.streams import QUEUE_LIMIT
from deepio_adapters.test_pattern import read_counter
from deepio_core import outputs
from deepio_core.errors import LocalProtocolError
from deepio_core.messages import DataMessage
from tests.adapters.test_client import make
from tests.adapters.test_kept_frames import Feed as FakeFeed
from tests.engines import pattern
from tests.worlds import BOUND, World, far_side, new_id

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
async def world():
    async with World().running() as world:
        yield world


def data(taken_at: float, sent_at: float, **fields: Any) -> dict[str, Any]:
    """A result as a stream manager sends it that has a clock like ours, but for the year 2026."""
    raw = {"type": "data", "vc_time": 1.79e9 + taken_at, "rec_time": 1.79e9 + sent_at, "round_trip": 0.001}
    return raw | {"held_frames": 0} | fields


def test_a_result_tells_when_its_frame_was_taken_and_how_old_it_is():
    log = SentLog()
    for number in range(5):
        log.sent(10 + number / 10, 10.01 + number / 10)
    message = DataMessage(raw=data(10.22, 10.4))
    result = log.pair(message, 10.4)
    assert result.message is message
    assert (result.captured_at, result.uncertainty) == (10.2, 0.0)
    assert result.age == pytest.approx(0.2)
    assert log.frame(result) is None


def test_the_next_connection_knows_nothing_of_the_frames_before():
    log = SentLog()
    log.sent(10.0, 10.01)
    message = DataMessage(raw=data(10.02, 10.4))
    assert log.pair(message, 10.4).captured_at == 10.0
    log.begin()
    result = log.pair(message, 10.4)
    assert (result.captured_at, result.uncertainty, result.age) == (None, None, None)
    log.sent(11.0, 11.01)
    assert log.pair(message, 11.2).captured_at is None
    log.pause()


def test_the_network_tells_the_round_trip_that_no_result_does():
    log = SentLog(round_trip=lambda: 0.4)
    log.sent(10.0, 10.0)
    assert log.pair(DataMessage(raw=data(10.21, 10.4, round_trip=0)), 10.6).captured_at == 10.0


def test_frames_are_asked_for_only_while_some_are_sent():
    class Feed(FakeFeed):
        def subscribe_frames(self, *, begin: bool) -> Any:
            assert not begin
            return self.subscribe()

    feed: Any = Feed()
    log = sent_log(feed, 1.0, lambda: None)
    log.begin()
    assert feed.slots == []
    log.sent(10.0, 10.01)
    feed.show(10.0)
    log.sent(10.1, 10.11)
    assert len(feed.slots) == 1
    log.pause()
    assert feed.slots == []
    assert log.frame(log.pair(DataMessage(raw=data(10.02, 10.4)), 10.4)) is not None
    log.begin()
    log.sent(11.0, 11.01)
    assert len(feed.slots) == 1


async def test_who_leaves_ends_the_keeping_of_frames(world):
    client, events = make(world, calls=(far_id := new_id("sm")), engine=EngineConfig(source=pattern(10), keep_frames=5))
    async with client:
        async with far_side(world, peer_id=far_id, receive_video=True) as far:
            await events.until(outputs.Connected)
            await answers(far, 1)
            assert len(client._driver.engine.feed._run._slots) == 2  # what is sent, and what is kept
        async with far_side(world, peer_id=far_id):  # and wants no video
            await events.until(outputs.Connected, 2)
            assert client._driver.engine.feed._run._slots == []


@pytest.mark.parametrize("seconds", [-1.0, float("nan")])
def test_frames_cannot_be_kept_for_less_than_no_time(seconds):
    with pytest.raises(LocalProtocolError, match="cannot be kept"):
        EngineConfig(keep_frames=seconds)


async def answers(far: Any, count: int) -> list[int]:
    """The far side analyses `count` frames, and sends a result for each; returns their counters."""
    counters: list[int] = []
    async for frame in far.client.frames():
        await anyio.sleep(0.012)  # these engines neither encode nor decode, which takes time
        counter = read_counter(frame.to_ndarray())
        assert counter is not None
        counters.append(counter)
        await far.client.send(data(frame.received_at + 0.012, time.monotonic(), number=counters[-1]))
        if len(counters) == count:
            return counters
    raise AssertionError("the frames have ended")


async def test_results_come_with_their_frames_over_reconnects_too(world):
    far_id = new_id("sm")
    handled: list[Any] = []
    client, events = make(world, calls=far_id, engine=EngineConfig(source=pattern(10), keep_frames=5.0))
    client.add_result_handler(handled.append)
    async with client:
        results = client.results()
        sent_frames = client._driver.engine.sent_frames
        seen: list[Any] = []
        for connection in (1, 2):
            async with far_side(world, peer_id=far_id, receive_video=True) as far:
                await events.until(outputs.Connected, connection)
                # Of the connection before no frames are kept any more, but for the one that was shown last.
                assert all(sent_frames.frame(result) is None for result in seen[:3])
                with anyio.fail_after(BOUND):
                    for counter in await answers(far, 4):
                        result = await anext(results)
                        assert result.message.raw["number"] == counter
                        # One off where the machine stalls between a frame and its result.
                        shown = read_counter(result.frame.to_bgr())
                        assert shown is not None
                        assert abs(shown - counter) <= 1
                        assert result.frame.captured_at == result.captured_at
                        assert 0 <= result.age < 2
                        seen.append(result)
            await events.until(outputs.Disconnected, connection)
    assert [result.message for result in handled] == [result.message for result in seen]
    assert all(result.frame is not None for result in handled)


async def test_without_frames_kept_or_sent_results_come_all_the_same(world):
    async with far_side(world, receive_video=True) as far:
        for engine in (EngineConfig(source=pattern(10)), EngineConfig(keep_frames=5.0)):
            client, events = make(world, calls=far.id, engine=engine)
            async with client:
                results = client.results()
                await events.until(outputs.Connected)
                await far.until(outputs.Connected, 1 + (engine.source is None))
                await far.client.send({"type": "other"})
                if engine.source is not None:
                    await answers(far, 1)
                else:
                    await far.client.send(data(1.0, 2.0))
                with anyio.fail_after(BOUND):
                    result = await anext(results)
                assert (result.captured_at is None) is (engine.source is None)
                assert result.frame is None
            await far.until(outputs.Disconnected, 1 + (engine.source is None))


async def test_results_that_wait_keep_no_frames_and_too_many_are_counted(world):
    async with far_side(world) as far:
        client, events = make(world, calls=far.id)
        async with client:
            results = client.results()
            await events.until(outputs.Connected)
            await far.until(outputs.Connected)
            for number in range(QUEUE_LIMIT + 3):
                await far.client.send(data(1.0, 2.0, number=number))
            await events.when(lambda: len(events.raw("data")) == QUEUE_LIMIT + 3)
            assert client.stats().messages_dropped == results.dropped == 3
            assert (await anext(results)).message.raw["number"] == 3
        assert [result.message.raw["number"] async for result in results][-1] == QUEUE_LIMIT + 2
        assert [result async for result in client.results()] == []
