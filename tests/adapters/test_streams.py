"""Streams of messages and frames: order, bounds, ends, cancellation; on every loop."""

import anyio
import anyio.lowlevel
import av
import numpy as np
import pytest

from deepio_adapters.frames import ReceivedFrame
from deepio_adapters.streams import QUEUE_LIMIT, FrameStream, QueueStream

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


class FailedError(Exception):
    """The session has failed."""


def nothing():
    pass


def fails():
    raise FailedError


def frame(number):
    picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="bgr24")
    return ReceivedFrame(picture=picture, received_at=float(number), negotiation=number)


async def test_messages_come_in_order_and_those_before_the_end_too():
    stream = QueueStream[int](nothing)
    for number in range(3):
        stream.put(number)
    stream.close()
    assert [number async for number in stream] == [0, 1, 2]
    assert [number async for number in stream] == []
    assert stream.dropped == 0


async def test_a_consumer_that_waits_is_woken():
    stream, got = QueueStream[int](nothing), []

    async def consume():
        async for number in stream:
            got.append(number)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            for number in range(3):
                await anyio.wait_all_tasks_blocked()
                stream.put(number)
            await anyio.wait_all_tasks_blocked()
            stream.close()
    assert got == [0, 1, 2]


async def test_of_too_many_messages_the_oldest_go_and_are_counted():
    stream = QueueStream[int](nothing)
    for number in range(QUEUE_LIMIT + 5):
        stream.put(number)
    assert stream.dropped == 5
    assert await anext(stream) == 5


@pytest.mark.parametrize("make", [lambda: QueueStream(fails), lambda: FrameStream(fails)], ids=["messages", "frames"])
async def test_the_end_of_a_failed_session_raises_after_what_was_waiting(make):
    stream = make()
    stream.put(frame(1))
    stream.close()
    assert (await anext(stream)).negotiation == 1
    with pytest.raises(FailedError):
        await anext(stream)


@pytest.mark.parametrize("kind", [QueueStream, FrameStream])
async def test_a_cancelled_consumer_loses_nothing(kind):
    stream = kind(nothing)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(stream)
    with anyio.move_on_after(0):
        await anext(stream)
    stream.put(frame(7))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anext(stream)
    assert (await anext(stream)).negotiation == 7


async def test_of_frames_the_newest_wins_and_the_others_are_counted():
    stream = FrameStream(nothing)
    for number in range(5):
        stream.put(frame(number))
    assert (await anext(stream)).negotiation == 4
    assert stream.dropped == 4
    stream.close()
    assert [f async for f in stream] == []
