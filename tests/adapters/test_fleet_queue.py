"""The queues that streams share: who waits, whose turn it is, and what is dropped."""

import anyio
import pytest

from deepio_adapters.fleet_queue import LIMIT, FairQueue, FairStream
from tests.engines import BOUND


def test_turns_go_round_and_each_stream_keeps_its_order():
    queue: FairQueue[int] = FairQueue()
    assert not queue
    for name, item in (("loud", 1), ("loud", 2), ("loud", 3), ("quiet", 4)):
        queue.put(name, item)
    assert [queue.take() for _ in range(4)] == [("loud", 1), ("quiet", 4), ("loud", 2), ("loud", 3)]
    assert not queue
    with pytest.raises(IndexError):
        queue.take()


def test_the_oldest_of_the_same_stream_is_dropped_and_counted():
    queue: FairQueue[int] = FairQueue()
    queue.put("quiet", -1)
    for item in range(LIMIT + 3):
        queue.put("loud", item)
    assert queue.dropped == 3
    items = [queue.take() for _ in range(LIMIT + 1)]
    assert items[0] == ("quiet", -1)
    assert items[1:] == [("loud", item) for item in range(3, LIMIT + 3)]


@pytest.mark.anyio
async def test_a_consumer_waits_for_items_and_ends_with_the_last():
    stream: FairStream[int] = FairStream()
    got = []

    async def consume():
        async for pair in stream:
            got.append(pair)

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(consume)
            await anyio.wait_all_tasks_blocked()
            stream.put("one", 1)
            await anyio.wait_all_tasks_blocked()
            assert got == [("one", 1)]
            stream.put("one", 2)
            stream.close()
    assert got == [("one", 1), ("one", 2)]
    assert stream.dropped == 0


@pytest.mark.anyio
async def test_a_cancelled_wait_takes_nothing():
    stream: FairStream[int] = FairStream()
    stream.put("one", 1)
    with anyio.move_on_after(0) as scope:
        await anext(stream)
    assert scope.cancelled_caught
    assert await anext(stream) == ("one", 1)
