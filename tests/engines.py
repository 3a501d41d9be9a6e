"""Engines for tests: their reports collected in order, and two of them wired to each other without a server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio

from deepio_adapters.engine import Engine, EngineConfig, EngineFactory
from deepio_adapters.frames import ReceivedFrame
from deepio_adapters.slots import waker
from deepio_adapters.sources import Source, parse_source
from deepio_adapters.test_pattern import read_counter
from deepio_core.inputs import ChannelOpened, EngineReport, LocalAnswer, LocalOffer
from deepio_core.outputs import ApplyAnswer, ApplyOffer, StartEngine

BOUND = 10.0
"""Seconds after which a wait in a test has failed."""

R = TypeVar("R", bound=EngineReport)


class End:
    """One end of a peer connection: an engine and all that it has reported."""

    def __init__(self) -> None:
        self.reports: list[EngineReport] = []
        self.engine: Engine
        self._changed = anyio.Event()
        self._wake = waker(self._on_change)

    def take(self, report: EngineReport) -> None:
        self.reports.append(report)
        self._wake()

    def of(self, kind: type[R], number: int | None = None) -> list[R]:
        return [r for r in self.reports.copy() if isinstance(r, kind) and number in (None, r.negotiation)]

    async def until(self, kind: type[R], number: int | None = None, count: int = 1) -> R:
        """Waits for the `count`th report of a kind."""
        await self.when(lambda: len(self.of(kind, number)) >= count, f"{kind.__name__} {number}")
        return self.of(kind, number)[count - 1]

    async def when(self, condition: Callable[[], bool], what: str = "condition") -> None:
        """Waits until a condition holds that changes with the reports."""
        with anyio.move_on_after(BOUND):
            while not condition():
                await self._changed.wait()
            return
        raise AssertionError(f"no {what} within {BOUND} s; came: {self.reports}, {self.engine.stats()}")

    async def frame(self, number: int = 1) -> ReceivedFrame:
        """The next frame that comes over a connection."""
        with anyio.fail_after(BOUND):
            while (frame := await self.engine.frames.aget()).negotiation != number:
                pass
            return frame

    async def counter(self, number: int = 1) -> int:
        """The counter of the next frame that shows a test pattern."""
        while True:
            counter = read_counter((await self.frame(number)).to_ndarray())
            if counter is not None:
                return counter

    def _on_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@asynccontextmanager
async def end(factory: EngineFactory, config: EngineConfig | None = None) -> AsyncGenerator[End]:
    one = End()
    async with factory(config or EngineConfig(), one.take) as one.engine:
        yield one


def _as_it_is(sdp: str) -> str:
    return sdp


async def describe(
    offerer: End,
    answerer: End,
    number: int = 1,
    *,
    offered: Callable[[str], str] = _as_it_is,
    answered: Callable[[str], str] = _as_it_is,
) -> tuple[str, str]:
    """Relays the descriptions, changed by `offered` and `answered`; returns both as they came."""
    for one in (offerer, answerer):
        one.engine.perform(StartEngine(negotiation=number, remote_id="far", offerer=one is offerer))
    offer = (await offerer.until(LocalOffer, number)).sdp
    answerer.engine.perform(ApplyOffer(negotiation=number, sdp=offered(offer)))
    answer = (await answerer.until(LocalAnswer, number)).sdp
    offerer.engine.perform(ApplyAnswer(negotiation=number, sdp=answered(answer)))
    return offer, answer


async def connect(
    offerer: End,
    answerer: End,
    number: int = 1,
    *,
    offered: Callable[[str], str] = _as_it_is,
    answered: Callable[[str], str] = _as_it_is,
) -> tuple[str, str]:
    """Relays the descriptions and waits for both channels; returns the descriptions (see `describe`)."""
    described = await describe(offerer, answerer, number, offered=offered, answered=answered)
    for one in (offerer, answerer):
        await one.until(ChannelOpened, number)
    return described


def pattern(rate: int = 25, size: str = "160x128") -> Callable[[], Source]:
    """Makes a test pattern."""
    return lambda: parse_source(f"test:{size}@{rate}")
