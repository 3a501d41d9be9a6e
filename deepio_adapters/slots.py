"""Hand-over of size one between threads and event loops, where the newest item wins.

The DEEP Framework skips frames in every component so that it always works on the newest one; a queue anywhere
on the way would turn a slow consumer into growing delay. So every hand-over of frames (source to encoder,
network to decoder, decoder to application) is a `LatestSlot`: it holds at most one item, a newer item
replaces one that nobody took, and the replaced one is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar, cast

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from trio.lowlevel import TrioToken

__all__ = ["LatestSlot", "SlotClosedError", "waker"]

T = TypeVar("T")


class SlotClosedError(Exception):
    """The slot was closed and its last item was taken; nothing comes any more.

    Attributes:
        error: Why the producer stopped, or None when it ended as planned.
    """

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__("the producer ended" if error is None else f"the producer failed: {error}")
        self.error = error


def waker(function: Callable[[], object]) -> Callable[[], None]:
    """Returns a callable that makes the running asyncio or trio loop call `function`, from whatever thread.

    Must be called inside the loop. The returned callable never blocks; once the loop has ended it does
    nothing, because then nobody is left to be woken.
    """
    token = anyio.lowlevel.current_token().native_token
    call_soon: Callable[[Callable[[], object]], object] = (
        token.call_soon_threadsafe
        if isinstance(token, asyncio.AbstractEventLoop)
        else cast("TrioToken", token).run_sync_soon
    )

    def wake() -> None:
        with contextlib.suppress(RuntimeError):  # "Event loop is closed", trio.RunFinishedError
            call_soon(function)

    return wake


class LatestSlot(Generic[T]):
    """Holds the newest item of one producer for one consumer; each may live in its own thread or event loop.

    The producer calls `put` and, at the end, `close`. The consumer uses one of: `get` (blocks its thread),
    `aget` or `async for` (asyncio and trio), `take` (never waits), or `set_on_item` with a callback. An item
    put before `close` is still delivered. None is not an item. All methods may be called from any thread.

    Attributes (read them at any time; each is one number, not a consistent set):
        accepted: Items put so far.
        dropped: Items that nobody took, because a newer one replaced them or the slot was closed.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        # At most one item: the limit that makes latency independent of the consumer's speed.
        self._item: T | None = None
        self._full = False
        self._closed = False
        self._error: BaseException | None = None
        self._on_item: Callable[[], object] | None = None
        self.accepted = 0
        self.dropped = 0

    @property
    def closed(self) -> bool:
        """True once `close` was called; an item may still be waiting."""
        return self._closed

    @property
    def error(self) -> BaseException | None:
        """Why the producer stopped, once the slot is closed; None for a planned end."""
        return self._error

    def put(self, item: T) -> bool:
        """Makes `item` the newest one, replacing one that was not taken; never blocks.

        Returns:
            False when the slot is closed: the item was dropped and the producer may stop.
        """
        with self._lock:
            if self._closed:
                self.dropped += 1
                return False
            self.accepted += 1
            was_full = self._full
            if was_full:
                self.dropped += 1
            self._item, self._full = item, True
            self._changed.notify()
            # A consumer that was told and did not come yet is not told again: a slow loop collects one
            # wake-up, not one for every frame it misses.
            on_item = None if was_full else self._on_item
        self._tell(on_item)
        return True

    def close(self, error: BaseException | None = None, *, discard: bool = False) -> None:
        """Ends the slot; the second call does nothing.

        Args:
            error: Why the producer stopped, for `SlotClosedError.error`; None for a planned end.
            end.
            discard: Drop a waiting item instead of delivering it (for a consumer that leaves).
        """
        with self._lock:
            if discard and self._full:
                self._item, self._full = None, False
                self.dropped += 1
            if self._closed:
                return
            self._closed, self._error = True, error
            self._changed.notify_all()
            on_item = self._on_item
        self._tell(on_item)

    def take(self) -> T | None:
        """Returns the waiting item, or None when there is none; never waits.

        Raises:
            SlotClosedError: The slot is closed and empty.
        """
        with self._lock:
            return self._take()

    def get(self, timeout: float | None = None) -> T:
        """Waits in this thread for an item, at most `timeout` seconds (None: no limit).

        Raises:
            TimeoutError: No item came in time.
            SlotClosedError: The slot is closed and empty.
        """
        with self._lock:
            self._changed.wait_for(lambda: self._full or self._closed, timeout)
            item = self._take()
        if item is None:
            raise TimeoutError(f"no item within {timeout} s")
        return item

    async def aget(self) -> T:
        """Waits for an item on asyncio or trio; cancellation takes nothing out of the slot.

        Raises:
            SlotClosedError: The slot is closed and empty.
        """
        # First the checkpoint, then the item: a cancellation must not lose what was taken.
        await anyio.lowlevel.checkpoint()
        while True:
            item = self.take()
            if item is not None:
                return item
            arrived = anyio.Event()
            self.set_on_item(waker(arrived.set))
            try:
                await arrived.wait()
            finally:
                self.set_on_item(None)

    def set_on_item(self, callback: Callable[[], object] | None) -> None:
        """Has `callback` called when an empty slot gets an item and when it closes; None ends that.

        It is called in the producer's thread, or at once when something is waiting already. It must neither
        block nor
        raise: hand it `waker(...)`.
        """
        with self._lock:
            self._on_item = callback
            pending = callback if self._full or self._closed else None
        self._tell(pending)

    def __iter__(self) -> Iterator[T]:
        """Items until the planned end; raises the producer's error when it failed."""
        while True:
            try:
                item = self.get()
            except SlotClosedError as closed:
                if closed.error is not None:
                    raise closed.error from None
                return
            yield item

    async def __aiter__(self) -> AsyncIterator[T]:
        """Items until the planned end; raises the producer's error when it failed."""
        while True:
            try:
                item = await self.aget()
            except SlotClosedError as closed:
                if closed.error is not None:
                    raise closed.error from None
                return
            yield item

    def _take(self) -> T | None:
        if self._full:
            item, self._item, self._full = self._item, None, False
            return item
        if self._closed:
            raise SlotClosedError(self._error)
        return None

    def _tell(self, on_item: Callable[[], object] | None) -> None:
        # Called without the lock: the callback may look into the slot.
        if on_item is not None:
            on_item()
