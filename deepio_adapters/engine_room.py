"""The engine room: one background thread with an asyncio loop, where every WebRTC connection of the process lives.

aiortc runs on asyncio only, and whatever blocks its loop starves ICE consent and RTP. So its connections live
in a thread of their own whatever loop the application runs: a blocked application does not hurt media, and
trio needs nothing special. The room opens with its first user and closes with its last:

    async with engine_room() as room:
        await room.run(coroutine_function, argument)
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar, TypeVarTuple

import anyio
import anyio.to_thread

from deepio_adapters.slots import waker
from deepio_adapters.threads import stream_context
from deepio_core.errors import DeepIOError

__all__ = ["EngineRoom", "EngineRoomError", "engine_room"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = logging.getLogger(__name__)

END_TIMEOUT: Final = 5.0
"""Seconds that the room gives its tasks, its executor and its thread to end, each; then it goes on without them."""


class EngineRoomError(DeepIOError):
    """The engine room is closed, or could not be opened."""


def new_loop() -> asyncio.AbstractEventLoop:
    """Returns a new event loop: uvloop's where it is installed, for its cheaper datagrams."""
    if sys.platform == "win32":
        # The proactor loop has lost datagram sockets to ICMP errors; aioice wants the selector loop.
        return asyncio.SelectorEventLoop()
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class EngineRoom:
    """A thread with an asyncio loop, for work that comes from other threads and other event loops.

    Use `engine_room()` to get the one of the process. `open` and `join` block and belong in a worker thread.

    Args:
        loop_factory: Makes the event loop; `new_loop` by default.
    """

    def __init__(self, loop_factory: Callable[[], asyncio.AbstractEventLoop] = new_loop) -> None:
        self._loop_factory = loop_factory
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def is_open(self) -> bool:
        """True from `open` to `end`."""
        return self._loop is not None

    @property
    def is_current(self) -> bool:
        """True in the thread of the room."""
        return threading.current_thread() is self._thread

    def open(self) -> None:
        """Starts the thread and waits until its loop runs.

        Raises:
            EngineRoomError: The loop cannot be made, or the room is open already.
        """
        if self._thread is not None:
            raise EngineRoomError("The engine room is open already.")
        ready = threading.Event()
        failures: list[BaseException] = []
        # Not a daemon: a daemon thread is killed in the middle of a C call when the interpreter ends. Whoever
        # opens the room closes it; `engine_room` sees to that.
        self._thread = threading.Thread(
            target=self._live, args=(ready, failures), name="deepio-engine-room", daemon=False
        )
        self._thread.start()
        ready.wait()
        if failures:
            self._thread.join()
            raise EngineRoomError(f"The engine room cannot be opened: {failures[0]}") from failures[0]

    def end(self) -> None:
        """Has the loop, its tasks and its thread end; idempotent, never blocks. `join` waits for it."""
        loop, self._loop = self._loop, None
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # closed already: a callback has raised SystemExit
                loop.call_soon_threadsafe(loop.stop)

    def join(self) -> bool:
        """Waits for the end of the thread, bounded.

        Returns:
            False when something blocks the thread: it is left to itself, and that is logged.
        """
        thread = self._thread
        if thread is None:
            return True
        # The thread itself waits END_TIMEOUT for its tasks, its generators and its executor.
        thread.join(4 * END_TIMEOUT)
        if thread.is_alive():
            logger.error("The engine room does not end: something blocks its thread. It is left behind.")
            return False
        return True

    def call_soon(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Has `function(*args)` called in the room's thread, soon and in order; from any thread, never blocks.

        An exception in it is logged and hurts nobody else.

        Raises:
            EngineRoomError: The room is closed.
        """
        loop = self._loop
        if loop is None:
            raise EngineRoomError("The engine room is closed.")
        try:
            # Not the caller's context: in it trio would be the current library, and whatever asks finds that.
            loop.call_soon_threadsafe(function, *args, context=stream_context())
        except RuntimeError as error:  # closed between the two lines
            raise EngineRoomError("The engine room is closed.") from error

    async def run(self, function: Callable[[*Ts], Coroutine[Any, Any, T]], *args: *Ts) -> T:
        """Runs a coroutine function in the room and returns its result; from asyncio or trio.

        A cancellation crosses the bridge: the task in the room is cancelled, and awaited for at most
        `END_TIMEOUT` seconds.

        Raises:
            EngineRoomError: The room is closed, or closed meanwhile.
        """
        ended = anyio.Event()
        wake = waker(ended.set)
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            task = asyncio.ensure_future(function(*args))
            tasks.append(task)
            task.add_done_callback(lambda _: wake())

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        self.call_soon(start)
        try:
            await ended.wait()
        except anyio.get_cancelled_exc_class():
            self.call_soon(cancel)
            with anyio.move_on_after(END_TIMEOUT, shield=True) as bound:
                await ended.wait()
            if bound.cancelled_caught:
                logger.error("A task of the engine room did not end %g s after it was cancelled.", END_TIMEOUT)
            elif not tasks[0].cancelled():
                tasks[0].exception()  # has been looked at: a failure on the way out is not the caller's any more
            raise
        (task,) = tasks
        if task.cancelled():
            raise EngineRoomError("The engine room was closed.")
        return task.result()

    def _live(self, ready: threading.Event, failures: list[BaseException]) -> None:
        try:
            loop = self._loop_factory()
        except Exception as error:  # noqa: BLE001 - whatever it is, `open` raises it
            failures.append(error)
            ready.set()
            return
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(_log_exception)
        self._loop = loop
        # Only a running loop is open: `end` right after `open` must not stop it before it runs.
        loop.call_soon(ready.set)
        try:
            loop.run_forever()
            _end_tasks(loop)
            _wait(loop, loop.shutdown_asyncgens())
            _wait(loop, loop.shutdown_default_executor())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _log_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # Callbacks and forgotten tasks of a library: no caller is left to raise to.
    logger.warning("In the engine room: %s", context.get("message"), exc_info=context.get("exception"))


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Cancels what still runs and waits for it, bounded."""
    tasks = asyncio.all_tasks(loop)
    if not tasks:
        return
    for task in tasks:
        task.cancel()
    _, stuck = loop.run_until_complete(asyncio.wait(tasks, timeout=END_TIMEOUT))
    for task in stuck:
        logger.error("A task of the engine room cannot be ended and is left behind: %s", task.get_name())


def _wait(loop: asyncio.AbstractEventLoop, ending: Awaitable[None]) -> None:
    """Runs one step of the end, bounded; `wait` and not `wait_for`, which waits for what ignores its cancellation."""
    task = asyncio.ensure_future(ending, loop=loop)
    _, stuck = loop.run_until_complete(asyncio.wait({task}, timeout=END_TIMEOUT))
    if stuck:
        logger.error("A worker thread of the engine room does not end; it is left behind.")


# --- The room of the process --------------------------------------------------------------------------------------


class _Shared:
    """The one room of this process and the number of its users."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        # In the child of a fork: the thread of the room does not exist here, and the lock may be held for ever.
        self.lock = threading.Lock()
        self.room: EngineRoom | None = None
        self.users = 0


_shared = _Shared()


class _Stay:
    """One use of the room of the process. `leave` may come at any time, even while `enter` works in its thread."""

    def __init__(self) -> None:
        self._left = False
        self._room: EngineRoom | None = None

    def enter(self) -> EngineRoom:
        """Opens the room if there is none; blocks for the time that its thread needs to start."""
        with _shared.lock:
            if self._left:
                raise EngineRoomError("Left before it was entered.")
            if _shared.room is None:
                room = EngineRoom()
                room.open()
                _shared.room = room
            _shared.users += 1
            self._room = _shared.room
            return self._room

    def leave(self) -> EngineRoom | None:
        """Ends the room with its last user; never blocks for long. Returns the room to join, if it ends."""
        with _shared.lock:
            self._left = True
            room, self._room = self._room, None
            # After a fork the room of the parent is not the one of this process.
            if room is None or room is not _shared.room:
                return None
            _shared.users -= 1
            if _shared.users:
                return None
            # Whoever comes next opens a room of its own, and does not wait for this one to end.
            _shared.room = None
            room.end()
            return room


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_shared.forget)


@asynccontextmanager
async def engine_room() -> AsyncGenerator[EngineRoom]:
    """The engine room of this process, opened with its first user and closed with its last.

    Neither end blocks the caller's event loop, asyncio or trio. A cancellation leaves no thread behind,
    whenever it comes and however often.

    Raises:
        EngineRoomError: The room cannot be opened.
    """
    stay = _Stay()
    try:
        yield await anyio.to_thread.run_sync(stay.enter)
    finally:
        # `Task.cancel` of asyncio gets through a shield of anyio. So the room is ended without any await; the
        # await only waits, so that whoever has left knows that the thread is gone.
        ending = stay.leave()
        if ending is not None:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(ending.join)
