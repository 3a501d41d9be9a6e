"""Queues that many streams share: each has its own bounded part, and takes turns with the others."""

from __future__ import annotations

from collections import deque
from typing import Final, Generic, Self, TypeVar

import anyio
import anyio.lowlevel

__all__ = ["FairQueue", "FairStream"]

T = TypeVar("T")

LIMIT: Final = 64
"""Items that may wait for each stream: two seconds of results at 30 a second. Then its oldest goes, since results are
about the newest frame; those of other streams stay."""


class FairQueue(Generic[T]):
    """Items of many streams, in order for each of them; not thread-safe.

    Whose turn it is goes round, so that a stream with much to tell does not hold the others up.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, deque[T]] = {}  # as many as there are streams, in the order of their turns
        self.dropped = 0
        """Items that were replaced by newer ones of the same stream."""

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, name: str, item: T) -> None:
        """Append an item of a stream; if its part of the queue is full, its oldest is dropped and counted."""
        waiting = self._waiting.get(name)
        if waiting is None:
            waiting = self._waiting[name] = deque(maxlen=LIMIT)
        self.dropped += len(waiting) == LIMIT
        waiting.append(item)

    def take(self) -> tuple[str, T]:
        """The next item, and whose it is.

        Raises:
            IndexError: There is none.
        """
        name = next(iter(self._waiting), None)
        if name is None:
            raise IndexError("the queue is empty")
        waiting = self._waiting.pop(name)
        item = waiting.popleft()
        if waiting:
            self._waiting[name] = waiting  # at the end of the line
        return name, item


class FairStream(Generic[T]):
    """What many streams tell, for one consumer, to be read by `async for` as pairs of name and item.

    It begins when it is made, and ends with the fleet. For each stream 64 items may wait; then the newest wins: the
    oldest of the same stream is dropped and counted.
    """

    def __init__(self) -> None:
        self._queue: FairQueue[T] = FairQueue()
        self._changed = anyio.Event()
        self._closed = False

    @property
    def dropped(self) -> int:
        """Items that this consumer was too slow for."""
        return self._queue.dropped

    def put(self, name: str, item: T) -> None:
        """Append an item of a stream."""
        self._queue.put(name, item)
        self._changed.set()

    def close(self) -> None:
        """Nothing comes any more; what waits is still delivered."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, T]:
        await anyio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed:
                raise StopAsyncIteration
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._queue.take()
