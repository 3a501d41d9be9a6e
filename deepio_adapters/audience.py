"""Who gets what comes for an application: handlers that are called, and streams that are read."""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from weakref import WeakSet

__all__ = ["Audience", "Handler", "Stream"]

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Any], "Awaitable[object] | object"]
"""A function or coroutine function that takes a message (the JSON value that came), a `Result`, or a frame (a BGR array
(H, W, 3) of uint8)."""


class Stream(Protocol):
    """What is put into it comes out of it: one of `deepio_adapters.streams`."""

    @property
    def dropped(self) -> int:
        """How much its consumer was too slow for."""
        ...

    def put(self, item: Any, /) -> None:
        """Have the consumer get something, sooner or later."""
        ...

    def close(self) -> None:
        """Nothing comes any more; what waits is still delivered."""
        ...

    def __aiter__(self) -> AsyncIterator[Any]: ...


S = TypeVar("S", bound=Stream)


class Audience(Generic[S]):
    """Handlers and streams for one kind of thing; in one event loop.

    Args:
        make: Makes a stream, given what it calls at its end.
        convert: Makes what handlers take of what streams give.
    """

    def __init__(self, make: Callable[[Callable[[], object]], S], convert: Callable[[Any], object]) -> None:
        self.handlers: list[Handler] = []
        """Called one after the other, by `serve`."""
        self._make = make
        self._convert = convert
        self._closed = False
        # Weakly: a stream that nobody iterates any more costs nothing.
        self._streams: WeakSet[S] = WeakSet()
        self._handled = self.stream(_nothing)

    @property
    def missed(self) -> int:
        """How much was dropped because somebody was too slow. What nobody was to handle has not been missed."""
        unread = None if self.handlers else self._handled
        return sum(stream.dropped for stream in self._streams if stream is not unread)

    @property
    def watching(self) -> bool:
        """Whether there is anybody: a handler, or a stream that somebody holds."""
        return bool(self.handlers) or len(self._streams) > 1  # that of the handlers is always there

    def __len__(self) -> int:
        """Streams in use, that of the handlers among them."""
        return len(self._streams)

    def stream(self, at_end: Callable[[], object]) -> S:
        """A new stream; `at_end` is called when all is read, and raises if the session has failed."""
        stream = self._make(at_end)
        if self._closed:
            stream.close()
        self._streams.add(stream)
        return stream

    def put(self, item: Any) -> None:
        """Give something to everybody."""
        for stream in self._streams:
            stream.put(item)

    def close(self) -> None:
        """Nothing comes any more; what waits is still delivered."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()

    async def serve(self) -> None:
        """Call the handlers, until closed. One that raises is logged, and the others still run."""
        async for item in self._handled:
            for handler in list(self.handlers):
                try:
                    result = handler(self._convert(item))
                    if inspect.isawaitable(result):
                        await result
                except Exception:
                    logger.exception("A handler has failed.")


def _nothing() -> None:
    """The end of a stream that nobody iterates but the client."""
