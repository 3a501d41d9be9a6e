"""Frames that the application makes: iterables and callables, plain or async, of BGR arrays."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

import anyio
import av
import numpy as np

from deepio_adapters.arrays import to_picture
from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_adapters.sources import Source, SourceClosedError, SourceError, SourceFrame, SourceInfo, stamp
from deepio_adapters.timeline import LiveTimeline
from deepio_core.errors import LocalProtocolError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["AsyncFrameSource", "FrameSource", "frame_source"]

_SHAPE_REMEDY = "Give uint8 arrays of shape (height, width, 3) in BGR order, as OpenCV makes them."

MAX_SIDE = 8192
"""Pixels of a frame's longer side at most: encoders for WebRTC take no more, and a slip in the axes is
noticed."""


# Two sources that draw from one generator would divide its frames, or find it running in the other's thread.
_taken: WeakSet[Any] = WeakSet()
_taking = threading.Lock()


def frame_source(feed: object, *, frame_rate: float, loop: bool) -> Source:
    """Returns the source for `feed`; see `sources.parse_source`.

    Raises:
        SourceError: `feed` makes no frames, or cannot be looped.
    """
    name = f"frames of {getattr(feed, '__qualname__', None) or type(feed).__qualname__}"
    if isinstance(feed, np.ndarray):
        raise SourceError("One array is no source.", remedy="Give an iterable of frames, or a callable.")
    if not (callable(feed) or _is_iterable(feed)):
        raise SourceError(
            f"{type(feed).__name__} is no source.",
            remedy="Give a path, a URL, test:, or an iterable or callable that makes frames.",
        )
    if loop and not callable(feed):
        raise SourceError(f"{name} cannot be looped.", remedy="Give the function that makes the iterable instead.")
    if _is_async(feed):
        return AsyncFrameSource(feed, name=name, frame_rate=frame_rate, loop=loop)
    return FrameSource(feed, name=name, frame_rate=frame_rate, loop=loop)


def _is_iterable(feed: object) -> bool:
    return isinstance(feed, (Iterable, AsyncIterable))


def _is_async(feed: object) -> bool:
    if isinstance(feed, AsyncIterable):
        return True
    function: Any = feed
    while isinstance(function, partial):
        function = function.func
    candidates = (function, getattr(function, "__call__", None))  # noqa: B004 - the method itself is looked at
    return any(inspect.isasyncgenfunction(c) or inspect.iscoroutinefunction(c) for c in candidates)


def _checked_picture(image: object, name: str) -> av.VideoFrame:
    """Copies a BGR array into a picture.

    Raises:
        SourceError: It is not a uint8 array (height, width, 3) of 1 to 8192 pixels a side.
    """
    if not isinstance(image, np.ndarray):
        raise SourceError(f"{name}: {type(image).__name__} is no frame.", remedy=_SHAPE_REMEDY)
    array = cast("NDArray[Any]", image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise SourceError(f"{name}: {array.dtype} {array.shape} is no frame.", remedy=_SHAPE_REMEDY)
    if not 1 <= min(array.shape[:2]) <= max(array.shape[:2]) <= MAX_SIDE:
        raise SourceError(f"{name}: a frame cannot have the shape {array.shape}.", remedy=_SHAPE_REMEDY)
    return to_picture(cast("NDArray[np.uint8]", array))


def _failure(name: str, fault: Exception) -> SourceError:
    return SourceError(
        f"{name}: {type(fault).__name__}: {str(fault).rstrip('.')}.", remedy="See the traceback of the cause."
    )


def _describe(picture: av.VideoFrame, frame_rate: float) -> SourceInfo:
    return SourceInfo(width=picture.width, height=picture.height, frame_rate=frame_rate, live=True)


class FrameSource(Source):
    """Frames of a plain iterable or callable, taken in the source's thread at the given rate at most.

    A callable is called once for an iterable of frames, or again and again when it returns a frame; None ends
    it.
    """

    def __init__(self, feed: object, *, name: str, frame_rate: float, loop: bool) -> None:
        super().__init__(name)
        self._feed = feed
        self._interval = 1 / frame_rate
        self._loop = loop
        self._images: Iterator[object] | None = None
        self._first: av.VideoFrame | None = None
        self._not_ours = False

    def open(self) -> SourceInfo:
        """Takes the first frame.

        Raises:
            SourceError: There is none, it is no frame, or the application's code failed.
            LocalProtocolError: It was opened before.
        """
        if self._images is not None:
            raise LocalProtocolError(f"{self.name} is open already.", remedy="Make a new source for each use.")
        self._take_feed()
        self._images = self._take_images()
        with self._step():
            self._first = self._next()
        if self._first is None:
            raise SourceError(f"{self.name}: there is not one.", remedy="Check what makes the frames.")
        return _describe(self._first, 1 / self._interval)

    def frames(self) -> Iterator[SourceFrame]:
        """Yields the frames until there are no more.

        Raises:
            SourceError: The application's code failed, or made something that is no frame.
            LocalProtocolError: `open` was not called.
        """
        picture, self._first = self._first, None
        if picture is None:
            raise LocalProtocolError(f"{self.name} is not open.", remedy="Call open first.")
        timeline = LiveTimeline()
        try:
            while picture is not None:
                now = time.monotonic()
                yield stamp(picture, timeline.stamp(None, now), now)
                if self._closed.wait(max(0.0, now + self._interval - time.monotonic())):
                    return
                with self._step():
                    picture = self._next()
        except SourceClosedError:
            return
        finally:
            self.close()

    def _take_feed(self) -> None:
        if not inspect.isgenerator(self._feed):
            return
        with _taking:
            self._not_ours = self._feed in _taken
            _taken.add(self._feed)
        if self._not_ours:
            raise SourceError(
                f"{self.name}: this generator has been taken before.",
                remedy="Give each source one of its own, the function that makes it, or a SharedSource to several.",
            )

    def _next(self) -> av.VideoFrame | None:
        assert self._images is not None, "set by open, which comes first"
        try:
            image = next(self._images, None)
        except SourceError:
            raise
        except Exception as fault:  # the application's code may raise anything
            raise _failure(self.name, fault) from fault
        return None if image is None else _checked_picture(image, self.name)

    def _take_images(self) -> Iterator[object]:
        if not callable(self._feed):
            yield from cast("Iterable[object]", self._feed)
            return
        while True:
            made: Any = self._feed()
            if isinstance(made, (Awaitable, AsyncIterable)):
                _close_quietly(made)
                raise SourceError(f"{self.name}: what it returns is async.", remedy="Give the async function itself.")
            if isinstance(made, np.ndarray) or not isinstance(made, Iterable):
                yield made
                continue
            images = iter(cast("Iterable[object]", made))
            first = next(images, None)
            if first is not None:
                yield first
                yield from images
            if first is None or not self._loop:
                return

    def _release(self) -> None:
        if self._not_ours:
            return
        # Both belong to the application, and may have something open.
        for images in (self._images, self._feed):
            if inspect.isgenerator(images):
                images.close()


def _close_quietly(made: Any) -> None:
    close: Callable[[], object] | None = getattr(made, "close", None)
    if close is not None:  # a coroutine that is never awaited would warn
        close()


class AsyncFrameSource(Source):
    """Frames of an async iterable or callable, which belongs to the application's own event loop.

    Whoever runs the application's loop runs `run` in it as a task; frames that are not taken in time are
    replaced.
    """

    def __init__(
        self, feed: object, *, name: str, frame_rate: float, loop: bool, first_frame_timeout: float = 10.0
    ) -> None:
        super().__init__(name)
        self._feed = feed
        self._interval = 1 / frame_rate
        self._loop = loop
        self._first_frame_timeout = first_frame_timeout
        self._slot: LatestSlot[tuple[av.VideoFrame, float]] = LatestSlot()
        self._first: tuple[av.VideoFrame, float] | None = None

    @property
    def dropped(self) -> int:
        """Frames that were replaced before the source's thread took them."""
        return self._slot.dropped

    @property
    def application_part(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """`run`."""
        return self.run

    async def run(self) -> None:
        """Takes the application's frames until they end or the source is closed; runs in the application's loop.

        What goes wrong is told by `open` and `frames`. Runs on asyncio and on trio; cancelling it ends the
        source.
        """
        error: SourceError | None = None
        images = self._take_images()
        try:
            async for image in images:
                taken = time.monotonic()
                if image is None or not self._slot.put((_checked_picture(image, self.name), taken)):
                    break
                await anyio.sleep(max(0.0, taken + self._interval - time.monotonic()))
        except SourceError as fault:
            error = fault
        except Exception as fault:  # noqa: BLE001 - the application's code may raise anything
            error = _failure(self.name, fault)
            error.__cause__ = fault
        finally:
            self._slot.close(error)
            with anyio.CancelScope(shield=True, deadline=anyio.current_time() + 1.0):
                await images.aclose()

    def open(self) -> SourceInfo:
        """Waits for the first frame.

        Raises:
            SourceError: There is none, it is no frame, none came in time, or the application's code failed.
        """
        with self._step():
            self._first = self._take(self._first_frame_timeout)
        if self._first is None:
            raise SourceError(f"{self.name}: there is not one.", remedy="Check what makes the frames.")
        return _describe(self._first[0], 1 / self._interval)

    def frames(self) -> Iterator[SourceFrame]:
        """Yields the newest frame each time, until there are no more.

        Raises:
            SourceError: The application's code failed, or made something that is no frame.
            LocalProtocolError: `open` was not called.
        """
        taken, self._first = self._first, None
        if taken is None:
            raise LocalProtocolError(f"{self.name} is not open.", remedy="Call open first.")
        timeline = LiveTimeline()
        try:
            while taken is not None:
                picture, captured_at = taken
                yield stamp(picture, timeline.stamp(None, captured_at), captured_at)
                with self._step():
                    taken = self._take(None)
        except SourceClosedError:
            return
        finally:
            self.close()

    def close(self, timeout: float = 2.0) -> bool:
        """Ends the source; see `Source.close`. A running `run` ends at its next frame, or cancelled."""
        self._closed.set()
        self._slot.close(discard=True)
        return super().close(timeout)

    def _take(self, timeout: float | None) -> tuple[av.VideoFrame, float] | None:
        try:
            return self._slot.get(timeout)
        except SlotClosedError as ended:
            error = ended.error
        except TimeoutError:
            error = SourceError(
                f"{self.name}: none came within {timeout:g} s.", remedy="Is the application's event loop blocked?"
            )
        if error is not None:
            raise error
        return None

    async def _take_images(self) -> AsyncGenerator[object, None]:
        while True:
            made: Any = self._feed() if callable(self._feed) else self._feed
            if isinstance(made, Awaitable):
                made = cast("object", await made)
            if not isinstance(made, AsyncIterable):
                yield made
                continue
            count = 0
            images = aiter(cast("AsyncIterable[object]", made))
            try:
                async for image in images:
                    count += 1
                    yield image
            finally:
                if isinstance(images, AsyncGenerator):  # the application's: it may have something open
                    await cast("AsyncGenerator[object, None]", images).aclose()
            if not (self._loop and count):
                return
