"""Frames made by the application: iterables and callables, plain and async."""

from __future__ import annotations

import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import pytest

from deepio_adapters.frame_sources import AsyncFrameSource
from deepio_adapters.source_pump import SourcePump
from deepio_adapters.sources import Source, SourceClosedError, SourceError, parse_source
from deepio_adapters.test_pattern import Pattern, read_counter
from deepio_core.errors import LocalProtocolError
from tests.media import BOUND

PATTERN = Pattern(96, 72)
RATE = 500.0


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def three() -> Iterator[np.ndarray]:
    yield from (PATTERN.draw(n) for n in range(3))


class OneByOne:
    """A callable object that returns one frame at a time, and None at the end."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> np.ndarray | None:
        self.count += 1
        return PATTERN.draw(self.count - 1) if self.count <= 3 else None


class Camera:
    def frames(self) -> Iterator[np.ndarray]:
        return three()


def play(source: Source) -> list[int | None]:
    source.open()
    return [read_counter(frame.to_bgr()) for frame in source.frames()]


@pytest.mark.parametrize(
    "feed",
    [three, three(), list(three()), OneByOne(), Camera().frames, functools.partial(three), lambda: list(three())],
    ids=["function", "generator", "list", "object", "method", "partial", "lambda"],
)
def test_every_kind_of_feed_is_taken(feed: Any) -> None:
    source = parse_source(feed, frame_rate=RATE)
    info = source.open()
    frames = list(source.frames())
    assert [read_counter(f.to_bgr()) for f in frames] == [0, 1, 2]
    assert (info.width, info.height, info.frame_rate, info.live) == (96, 72, RATE, True)
    assert all(b.pts > a.pts for a, b in pairwise(frames))
    assert source.closed


def test_frames_are_taken_at_the_rate_at_most() -> None:
    source = parse_source(three, frame_rate=50)
    source.open()
    stamps = [frame.pts for frame in source.frames()]
    assert stamps[2] - stamps[0] >= 0.04


def test_a_function_is_looped() -> None:
    source = parse_source(three, frame_rate=RATE, loop=True)
    source.open()
    seen = []
    for frame in source.frames():
        seen.append(read_counter(frame.to_bgr()))
        if len(seen) == 7:
            source.close()
    assert seen == [0, 1, 2, 0, 1, 2, 0]


def test_frames_are_copied_so_that_an_array_may_be_used_again() -> None:
    canvas = np.zeros((72, 96, 3), np.uint8)

    def draw() -> Iterator[np.ndarray]:
        for number in range(3):
            canvas[:] = PATTERN.draw(number)
            yield canvas

    source = parse_source(draw, frame_rate=RATE)
    source.open()
    frames = list(source.frames())
    assert [read_counter(frame.to_bgr()) for frame in frames] == [0, 1, 2]


def test_views_are_taken_too() -> None:
    wide = np.zeros((72, 192, 3), np.uint8)
    wide[:, ::2] = PATTERN.draw(9)
    assert play(parse_source([wide[:, ::2]], frame_rate=RATE)) == [9]


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("frame", "str is no frame"),
        (np.zeros((72, 96, 3)), r"float64 \(72, 96, 3\) is no frame"),
        (np.zeros((72, 96), np.uint8), r"uint8 \(72, 96\) is no frame"),
        (np.zeros((72, 96, 4), np.uint8), "is no frame"),
        (np.zeros((0, 96, 3), np.uint8), "cannot have the shape"),
        (np.zeros((1, 9000, 3), np.uint8), "cannot have the shape"),
    ],
)
def test_what_is_no_frame_is_refused(image: Any, words: str) -> None:
    source = parse_source([image])
    with pytest.raises(SourceError, match=words) as caught:
        source.open()
    assert "BGR" in caught.value.remedy
    assert source.close()


@pytest.mark.parametrize("feed", [[], lambda: None, list])
def test_a_feed_without_frames_is_refused_at_opening(feed: Any) -> None:
    source = parse_source(feed)
    with pytest.raises(SourceError, match="there is not one"):
        source.open()
    source.close()


def test_an_exception_of_the_application_is_told_with_its_traceback() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield PATTERN.draw(0)
        raise OSError("unplugged")

    source = parse_source(broken, frame_rate=RATE)
    source.open()
    frames = source.frames()
    next(frames)
    with pytest.raises(SourceError, match="broken: OSError: unplugged") as caught:
        next(frames)
    assert isinstance(caught.value.__cause__, OSError)


async def never() -> np.ndarray:
    raise AssertionError("it is not awaited")


@pytest.mark.parametrize("function", ["never", "athree"])
def test_an_async_feed_hidden_in_a_function_is_refused(function: str) -> None:
    def hiding() -> Any:
        return globals()[function]()

    source = parse_source(hiding)
    with pytest.raises(SourceError, match="async") as caught:
        source.open()
    assert "async function itself" in caught.value.remedy
    source.close()


def test_a_source_is_opened_once_and_before_its_frames() -> None:
    source = parse_source(three)
    with pytest.raises(LocalProtocolError, match="not open"):
        next(source.frames())
    source.open()
    with pytest.raises(LocalProtocolError, match="open already"):
        source.open()
    source.close()
    with pytest.raises(SourceClosedError):
        parse_closed().open()


def parse_closed() -> Source:
    source = parse_source(three)
    assert source.close()
    return source


@pytest.mark.parametrize("how", ["closed", "left", "ended"])
def test_the_application_s_generator_is_closed(how: str) -> None:
    closed = threading.Event()

    def feed() -> Iterator[np.ndarray]:
        try:
            yield from three()
        finally:
            closed.set()

    source = parse_source(feed(), frame_rate=RATE)
    source.open()
    frames = source.frames()
    if how == "closed":
        source.close()
    elif how == "left":
        next(frames)
        frames.close()  # type: ignore[attr-defined]
    else:
        assert len(list(frames)) == 3
    assert closed.is_set()


def test_a_feed_that_is_stuck_does_not_hold_up_the_closing() -> None:
    inside, go_on = threading.Event(), threading.Event()

    def feed() -> Iterator[np.ndarray]:
        yield PATTERN.draw(0)
        inside.set()
        go_on.wait(BOUND)
        yield PATTERN.draw(1)

    pump = SourcePump(parse_source(feed, frame_rate=RATE))
    pump.start()
    assert inside.wait(BOUND)
    assert not pump.stop(timeout=0)
    assert not pump.source.close(timeout=0)
    go_on.set()
    assert pump.finished.result(BOUND) is None
    assert pump.stop(BOUND)


# --- Async feeds, which run in the application's loop


async def athree() -> AsyncIterator[np.ndarray]:
    for number in range(3):
        yield PATTERN.draw(number)


class AsyncOneByOne(OneByOne):
    async def __call__(self) -> np.ndarray | None:  # type: ignore[override]
        return super().__call__()


async def make_iterable() -> AsyncIterator[np.ndarray]:
    return athree()


class AsyncIterable:
    def __init__(self) -> None:
        self.take = OneByOne()

    def __aiter__(self) -> AsyncIterator[np.ndarray]:
        return self

    async def __anext__(self) -> np.ndarray:
        image = self.take()
        if image is None:
            raise StopAsyncIteration
        return image


async def play_async(source: Source) -> list[int | None]:
    """Runs the feed in this loop and takes its frames in a thread."""
    assert isinstance(source, AsyncFrameSource)
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.run)
            return await anyio.to_thread.run_sync(play, source)
    raise AssertionError("the task group swallowed nothing")


@pytest.mark.anyio
@pytest.mark.parametrize(
    "make",
    [lambda: athree, athree, lambda: functools.partial(athree), AsyncOneByOne, lambda: make_iterable, AsyncIterable],
    ids=["function", "generator", "partial", "object", "coroutine", "iterable"],
)
async def test_every_kind_of_async_feed_is_taken(make: Callable[[], Any]) -> None:
    seen = await play_async(parse_source(make(), frame_rate=50))
    # On a busy machine a frame may be replaced by the next; the last one never is.
    assert seen == [number for number in range(3) if number in seen]
    assert seen[-1] == 2


@pytest.mark.anyio
async def test_an_async_function_is_looped_until_the_source_is_closed() -> None:
    source = parse_source(athree, frame_rate=100, loop=True)
    assert isinstance(source, AsyncFrameSource)

    def take() -> list[int | None]:
        source.open()
        seen = []
        for frame in source.frames():
            seen.append(read_counter(frame.to_bgr()))
            if len(seen) == 5:
                source.close()
        return seen

    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.run)
            seen = await anyio.to_thread.run_sync(take)
    # Five frames of a feed that has three, whichever were replaced.
    assert len(seen) == 5
    assert set(seen) <= {0, 1, 2}


@pytest.mark.anyio
async def test_a_slow_taker_gets_the_newest_frame() -> None:
    source = parse_source(athree, frame_rate=1000)
    assert isinstance(source, AsyncFrameSource)
    await source.run()
    assert await anyio.to_thread.run_sync(play, source) == [2]
    assert source.dropped == 2


@pytest.mark.anyio
async def test_an_exception_of_an_async_feed_is_told() -> None:
    async def broken() -> AsyncIterator[np.ndarray]:
        yield PATTERN.draw(0)
        raise OSError("unplugged")

    with pytest.raises(ExceptionGroup) as caught:
        await play_async(parse_source(broken, frame_rate=50))
    (error,) = caught.value.exceptions
    assert isinstance(error, SourceError)
    assert "OSError: unplugged" in error.message
    assert isinstance(error.__cause__, OSError)


@pytest.mark.anyio
async def test_what_is_no_frame_of_an_async_feed_is_refused() -> None:
    async def wrong() -> AsyncIterator[str]:
        yield "frame"

    source = parse_source(wrong)
    assert isinstance(source, AsyncFrameSource)
    await source.run()
    with pytest.raises(SourceError, match="str is no frame"):
        source.open()
    source.close()


@pytest.mark.anyio
async def test_an_async_feed_without_frames_is_refused() -> None:
    async def empty() -> AsyncIterator[np.ndarray]:
        for number in range(0):
            yield PATTERN.draw(number)

    source = parse_source(empty)
    assert isinstance(source, AsyncFrameSource)
    await source.run()
    with pytest.raises(SourceError, match="there is not one"):
        source.open()
    source.close()


@pytest.mark.anyio
async def test_a_cancelled_run_closes_the_feed_and_ends_the_source() -> None:
    closed, started = anyio.Event(), anyio.Event()

    async def feed() -> AsyncIterator[np.ndarray]:
        try:
            yield PATTERN.draw(0)
            started.set()
            await anyio.sleep_forever()
        finally:
            closed.set()

    source = parse_source(feed, frame_rate=RATE)
    assert isinstance(source, AsyncFrameSource)
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.run)
            await started.wait()
            tasks.cancel_scope.cancel()
        await closed.wait()
    assert play(source) == [0]


def test_an_async_feed_that_nobody_runs_is_told() -> None:
    source = AsyncFrameSource(athree, name="frames of athree", frame_rate=30, loop=False, first_frame_timeout=0.01)
    with pytest.raises(SourceError, match=r"none came within 0\.01 s"):
        source.open()
    with pytest.raises(LocalProtocolError, match="not open"):
        next(source.frames())
    source.close()


def test_closing_wakes_a_source_that_waits_for_its_first_frame() -> None:
    pump = SourcePump(parse_source(athree))
    pump.start()
    assert pump.stop(BOUND)
    with pytest.raises(SourceClosedError):
        pump.opened.result(0)
    assert pump.finished.result(0) is None


def test_a_generator_belongs_to_one_source() -> None:
    def draw() -> Iterator[Any]:
        while True:
            yield np.zeros((48, 64, 3), np.uint8)

    feed = draw()
    one, other = parse_source(feed), parse_source(feed)
    one.open()
    with pytest.raises(SourceError, match="taken before") as refused:
        other.open()
    assert "SharedSource" in refused.value.remedy
    assert other.close()
    assert next(one.frames()).width == 64, "which goes on"
    assert one.close()
