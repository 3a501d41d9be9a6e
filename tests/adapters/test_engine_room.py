"""The engine room: one thread for all, there as long as somebody uses it, whatever happens to its users."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar

import anyio
import pytest
import sniffio

from deepio_adapters import engine_room as module
from deepio_adapters.engine_room import EngineRoom, EngineRoomError, engine_room, new_loop
from deepio_adapters.threads import current_stream

BOUND = 10.0  # seconds after which a wait in these tests has failed


def rooms() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "deepio-engine-room"]


@pytest.fixture(autouse=True)
def no_room_is_left():
    assert not rooms()
    yield
    assert not rooms()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


@pytest.mark.anyio
async def test_it_opens_with_the_first_user_and_closes_with_the_last() -> None:
    async with engine_room() as first:
        async with engine_room() as second:
            assert first is second
            assert len(rooms()) == 1
        assert first.is_open
        assert await first.run(double, 21) == 42
    assert not first.is_open
    assert not rooms()
    async with engine_room() as third:
        assert third is not first


@pytest.mark.anyio
async def test_what_is_called_in_it_knows_for_which_stream_and_nothing_else_of_the_caller() -> None:
    async def known() -> tuple[str | None, str | None]:
        return current_stream.get(), other.get()

    other: ContextVar[str | None] = ContextVar("other", default=None)
    async with engine_room() as room:
        assert await room.run(known) == (None, None)
        current_stream.set("door")
        other.set("something")
        assert await room.run(known) == ("door", None)


@pytest.mark.anyio
async def test_it_runs_asyncio_in_its_own_thread_whoever_asks() -> None:
    async def where() -> tuple[bool, str]:
        return room.is_current, sniffio.current_async_library()

    async with engine_room() as room:
        assert not room.is_current
        assert await room.run(where) == (True, "asyncio")


@pytest.mark.anyio
async def test_calls_are_made_in_order_and_one_that_raises_hurts_nobody(caplog) -> None:
    seen: list[int] = []

    async def all_seen() -> list[int]:
        return seen

    async with engine_room() as room:
        room.call_soon(seen.append, 1)
        room.call_soon(lambda: 1 / 0)
        room.call_soon(seen.append, 2)
        assert await room.run(all_seen) == [1, 2]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.anyio
async def test_exceptions_cross_the_bridge() -> None:
    async def fail() -> None:
        raise LookupError("nothing there")

    async with engine_room() as room:
        with pytest.raises(LookupError, match="nothing there"):
            await room.run(fail)


@pytest.mark.anyio
async def test_cancellation_crosses_the_bridge_and_waits_for_the_cleanup() -> None:
    steps: list[str] = []

    async def work() -> None:
        steps.append("began")
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            steps.append("cleaned up")

    async with engine_room() as room:
        async with anyio.create_task_group() as group:
            began = threading.Event()
            group.start_soon(room.run, work)
            assert await anyio.to_thread.run_sync(began.wait, BOUND)
            group.cancel_scope.cancel()
        # Before the room ends, which would cancel it as well.
        assert steps == ["began", "cleaned up"]


@pytest.mark.anyio
async def test_a_task_that_fails_on_its_way_out_does_not_replace_the_cancellation() -> None:
    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    async with engine_room() as room:
        began = threading.Event()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(room.run, work)
                await anyio.to_thread.run_sync(began.wait, BOUND)
                scope.cancel()
        assert scope.cancelled_caught


@pytest.mark.anyio
async def test_a_task_that_ignores_its_cancellation_is_not_waited_for_for_ever(monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "END_TIMEOUT", 0.05)
    began, released = threading.Event(), threading.Event()

    async def stubborn() -> None:
        began.set()
        while not released.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    async with engine_room() as room:
        async with anyio.create_task_group() as group:
            group.start_soon(room.run, stubborn)
            await anyio.to_thread.run_sync(began.wait, BOUND)
            group.cancel_scope.cancel()
        assert "did not end 0.05 s after it was cancelled" in caplog.text
        released.set()


@pytest.mark.anyio
async def test_what_still_runs_at_the_end_is_cancelled() -> None:
    ended = threading.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    kept: list[asyncio.Task[None]] = []
    async with engine_room() as room:
        room.call_soon(lambda: kept.append(asyncio.ensure_future(work())))
        await room.run(double, 1)
    assert ended.is_set()


@pytest.mark.anyio
async def test_who_still_waits_at_the_end_is_told() -> None:
    room = EngineRoom()
    room.open()
    began = threading.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    async def wait() -> None:
        with pytest.raises(EngineRoomError, match="was closed"):
            await room.run(work)

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.to_thread.run_sync(began.wait, BOUND)
        room.end()
    assert room.join()
    assert room.join()


@pytest.mark.anyio
async def test_a_closed_room_says_so() -> None:
    async with engine_room() as room:
        pass
    with pytest.raises(EngineRoomError, match="is closed"):
        room.call_soon(print)
    with pytest.raises(EngineRoomError):
        await room.run(double, 1)
    room.end()


def test_it_opens_once() -> None:
    room = EngineRoom()
    assert room.join()
    room.open()
    try:
        with pytest.raises(EngineRoomError, match="open already"):
            room.open()
    finally:
        room.end()
        assert room.join()


def test_a_loop_that_cannot_be_made_is_told() -> None:
    def broken() -> asyncio.AbstractEventLoop:
        raise OSError("too many open files")

    with pytest.raises(EngineRoomError, match="too many open files"):
        EngineRoom(broken).open()


def test_the_end_of_the_loop_in_a_callback_is_survived() -> None:
    room = EngineRoom()
    room.open()
    (thread,) = rooms()
    previous, threading.excepthook = threading.excepthook, lambda _: None
    try:
        room.call_soon(sys.exit, 1)
        thread.join(BOUND)
    finally:
        threading.excepthook = previous
    with pytest.raises(EngineRoomError):
        room.call_soon(print)
    room.end()
    assert room.join()


def test_a_blocked_room_is_left_behind(monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "END_TIMEOUT", 0.01)
    release = threading.Event()
    room = EngineRoom()
    room.open()
    (thread,) = rooms()
    room.call_soon(release.wait)
    room.end()
    assert not room.join()
    assert "blocks its thread" in caplog.text
    release.set()
    thread.join(BOUND)


def test_stuck_workers_and_tasks_are_left_behind(monkeypatch, caplog) -> None:
    monkeypatch.setattr(module, "END_TIMEOUT", 0.05)
    release = threading.Event()
    done = threading.Event()

    async def stubborn() -> None:
        asyncio.get_running_loop().run_in_executor(None, release.wait)
        done.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

    room = EngineRoom(asyncio.new_event_loop)
    room.open()
    tasks: list[asyncio.Task[None]] = []
    room.call_soon(lambda: tasks.append(asyncio.ensure_future(stubborn())))
    assert done.wait(BOUND)
    # It is released while the room ends, and after both have been given up.
    timer = threading.Timer(0.5, release.set)
    timer.start()
    room.end()
    room.join()
    timer.join()
    (log,) = [record for record in caplog.records if "left behind" in record.message and "task" in record.message]
    assert log.levelname == "ERROR"


# --- asyncio's own cancellation, which no shield of anyio keeps out ---


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(BOUND):
        while not condition():  # noqa: ASYNC110 - the end of a thread wakes nobody
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("steps", range(6))
def test_cancelled_while_it_opens_it_leaves_no_thread(steps: int) -> None:
    async def use() -> None:
        async with engine_room():
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.ensure_future(use())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not rooms())

    asyncio.run(main())


def test_who_has_left_while_the_room_was_opening_does_not_enter() -> None:
    stay = module._Stay()
    assert stay.leave() is None
    with pytest.raises(EngineRoomError, match="Left before"):
        stay.enter()


def test_cancelled_twice_it_leaves_no_thread() -> None:
    async def use() -> None:
        async with engine_room():
            entered.set()
            await asyncio.Event().wait()

    async def main() -> None:
        task = asyncio.ensure_future(use())
        await entered.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: not rooms())

    entered = asyncio.Event()
    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_forked_child_opens_a_room_of_its_own() -> None:
    async def use() -> int:
        async with engine_room() as room:
            return await room.run(double, 4)

    async def main() -> int:
        async with engine_room():
            child = os.fork()
            if child == 0:
                signal.alarm(int(BOUND))
                status = 1
                try:
                    result: list[int] = []
                    # A loop cannot run in a loop: the child's lives in a thread, as it would with multiprocessing.
                    thread = threading.Thread(target=lambda: result.append(asyncio.run(use())))
                    thread.start()
                    thread.join()
                    status = 0 if result == [8] else 2
                finally:
                    os._exit(status)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])  # noqa: ASYNC222 - the test has nothing else to do

    assert asyncio.run(main()) == 0


# --- The loop ---


def test_uvloop_is_used_where_it_is_installed(monkeypatch) -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = new_loop()
    assert isinstance(loop, uvloop.Loop)
    loop.close()
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = new_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.close()
