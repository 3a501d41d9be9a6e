"""The newest-wins hand-over: between threads, into asyncio and into trio."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from deepio_adapters.slots import LatestSlot, SlotClosedError, waker

BOUND = 10.0  # seconds after which a wait in these tests has failed


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def test_the_newest_item_wins_and_the_replaced_ones_are_counted() -> None:
    slot: LatestSlot[int] = LatestSlot()
    for number in range(5):
        assert slot.put(number)
    assert slot.take() == 4
    assert slot.take() is None
    assert (slot.accepted, slot.dropped) == (5, 4)


def test_items_that_compare_false_are_items() -> None:
    slot: LatestSlot[bytes] = LatestSlot()
    slot.put(b"")
    assert slot.get(timeout=0) == b""


def test_get_waits_for_a_producer_in_another_thread() -> None:
    slot: LatestSlot[str] = LatestSlot()
    thread = in_thread(lambda: slot.put("frame"))
    assert slot.get(timeout=BOUND) == "frame"
    thread.join()


def test_get_gives_up_after_its_timeout() -> None:
    slot: LatestSlot[str] = LatestSlot()
    with pytest.raises(TimeoutError, match="0 s"):
        slot.get(timeout=0)
    slot.put("late")
    assert slot.get(timeout=0) == "late"


def test_close_delivers_the_last_item_and_then_ends() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.close()
    assert slot.closed
    assert slot.get(timeout=BOUND) == 1
    with pytest.raises(SlotClosedError) as ended:
        slot.get(timeout=BOUND)
    assert ended.value.error is None


def test_close_wakes_a_blocked_consumer_with_the_error() -> None:
    slot: LatestSlot[int] = LatestSlot()
    fault = OSError("unplugged")
    thread = in_thread(lambda: slot.close(fault))
    with pytest.raises(SlotClosedError, match="unplugged") as ended:
        slot.get(timeout=BOUND)
    assert ended.value.error is fault
    thread.join()


def test_the_first_close_decides() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.close()
    slot.close(OSError("later"))
    with pytest.raises(SlotClosedError) as ended:
        slot.take()
    assert ended.value.error is None


def test_a_closed_slot_takes_nothing_more() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.close(discard=True)
    assert not slot.put(2)
    assert (slot.accepted, slot.dropped) == (1, 2)
    with pytest.raises(SlotClosedError):
        slot.take()


def test_iteration_ends_with_the_producer() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.close()
    assert list(slot) == [1]


def test_iteration_raises_what_the_producer_failed_with() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.close(OSError("unplugged"))
    items = iter(slot)
    assert next(items) == 1
    with pytest.raises(OSError, match="unplugged"):
        next(items)


def test_the_callback_is_told_once_until_the_consumer_comes() -> None:
    slot: LatestSlot[int] = LatestSlot()
    calls: list[str] = []
    slot.set_on_item(lambda: calls.append("told"))
    slot.put(1)
    slot.put(2)
    assert calls == ["told"]
    assert slot.take() == 2
    slot.put(3)
    assert calls == ["told", "told"]
    slot.close()
    assert calls == ["told", "told", "told"]


def test_a_callback_set_late_is_told_at_once() -> None:
    slot: LatestSlot[int] = LatestSlot()
    calls: list[str] = []
    slot.set_on_item(lambda: calls.append("empty"))
    slot.set_on_item(None)
    slot.put(1)
    assert calls == []
    slot.set_on_item(lambda: calls.append("full"))
    slot.take()
    slot.close()
    slot.set_on_item(lambda: calls.append("closed"))
    assert calls == ["full", "full", "closed"]


def test_no_item_is_lost_or_doubled_between_two_threads() -> None:
    slot: LatestSlot[int] = LatestSlot()
    total = 20_000

    def produce() -> None:
        for number in range(total):
            slot.put(number)
        slot.close()

    thread = in_thread(produce)
    seen = list(slot)
    thread.join()
    assert seen == sorted(set(seen))
    assert seen[-1] == total - 1
    assert len(seen) + slot.dropped == slot.accepted == total


@pytest.mark.anyio
async def test_aget_is_woken_from_another_thread() -> None:
    slot: LatestSlot[int] = LatestSlot()
    waiting = threading.Event()
    seen: list[int] = []

    def produce() -> None:
        assert waiting.wait(BOUND)
        slot.put(1)
        slot.close()

    thread = in_thread(produce)
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:

            async def consume() -> None:
                seen.extend([item async for item in slot])

            tasks.start_soon(consume)
            await anyio.wait_all_tasks_blocked()
            waiting.set()
    thread.join()
    assert seen == [1]


@pytest.mark.anyio
async def test_async_iteration_raises_what_the_producer_failed_with() -> None:
    slot: LatestSlot[int] = LatestSlot()
    slot.put(1)
    slot.close(OSError("unplugged"))
    items = aiter(slot)
    assert await anext(items) == 1
    with pytest.raises(OSError, match="unplugged"), anyio.fail_after(BOUND):
        await anext(items)


@pytest.mark.anyio
async def test_a_cancelled_aget_takes_nothing_and_leaves_no_callback() -> None:
    slot: LatestSlot[int] = LatestSlot()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(slot.aget)
        await anyio.wait_all_tasks_blocked()
        slot.put(1)
        tasks.cancel_scope.cancel()
    assert slot.take() == 1
    with anyio.move_on_after(0):
        slot.put(2)
        await slot.aget()
    assert slot.take() == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_waker_outlives_its_loop_quietly(backend: str) -> None:
    slot: LatestSlot[int] = LatestSlot()
    calls: list[str] = []

    async def main() -> None:
        slot.set_on_item(waker(lambda: calls.append("told")))
        slot.put(1)
        await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()

    anyio.run(main, backend=backend)
    assert calls == ["told"]
    slot.take()
    slot.put(2)
    slot.close()
    assert calls == ["told"]
