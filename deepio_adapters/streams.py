"""What an application reads from a client: messages in order, frames newest first. Both are bounded and count drops."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Self, TypeVar

import anyio
import anyio.lowlevel

from deepio_adapters.pairing import Result
from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_core.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_adapters.frames import ReceivedFrame
    from deepio_adapters.sources import SourceFrame

__all__ = ["FrameStream", "MessageStream", "QueueStream", "ResultStream"]

T = TypeVar("T")

QUEUE_LIMIT: Final = 256
"""Messages that may wait for one consumer: eight seconds of results at 30 a second. Then the oldest goes, since
results are about the newest frame."""


class QueueStream(Generic[T]):
    """Messages for one consumer, in order, from the moment it was made until the session ends.

    Args:
        at_end: Called when the session has ended and all is read; raises if it has failed.
    """

    def __init__(self, at_end: Callable[[], object]) -> None:
        self._at_end = at_end
        self._messages: deque[T] = deque(maxlen=QUEUE_LIMIT)
        self._changed = anyio.Event()
        self._closed = False
        self.dropped = 0
        """Messages that this consumer was too slow for."""

    def put(self, message: T) -> None:
        """Append a message; when the queue is full the oldest is dropped and counted."""
        self.dropped += len(self._messages) == QUEUE_LIMIT
        self._messages.append(message)
        self._changed.set()

    def close(self) -> None:
        """Nothing comes any more; what waits is still delivered."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        await anyio.lowlevel.checkpoint()
        while not self._messages:
            if self._closed:
                self._at_end()
                raise StopAsyncIteration
            self._changed = anyio.Event()
            await self._changed.wait()
        return self._messages.popleft()


class MessageStream(QueueStream[Message]):
    """DEEP messages for one consumer."""


class ResultStream(QueueStream[Result]):
    """Results for one consumer, each with its frame if that is kept still when the result is read.

    Args:
        at_end: Called when the session has ended and all is read; raises if it has failed.
        frame: Finds the frame of a result: late, so that results that wait do not keep frames.
    """

    def __init__(self, at_end: Callable[[], object], frame: Callable[[Result], SourceFrame | None]) -> None:
        super().__init__(at_end)
        self._frame = frame

    async def __anext__(self) -> Result:
        result = await super().__anext__()
        return dataclasses.replace(result, frame=self._frame(result))


class FrameStream:
    """The newest frames for one consumer; a frame that was not taken in time is replaced and counted.

    Args:
        at_end: Called when the session has ended and all is read; raises if it has failed.
    """

    def __init__(self, at_end: Callable[[], object]) -> None:
        self._at_end = at_end
        self._slot: LatestSlot[ReceivedFrame] = LatestSlot()

    @property
    def dropped(self) -> int:
        """Frames that this consumer was too slow for."""
        return self._slot.dropped

    def put(self, frame: ReceivedFrame) -> None:
        """Make `frame` the newest one."""
        self._slot.put(frame)

    def close(self) -> None:
        """Nothing comes any more; what waits is still delivered."""
        self._slot.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReceivedFrame:
        try:
            return await self._slot.aget()
        except SlotClosedError:
            self._at_end()
            raise StopAsyncIteration from None
