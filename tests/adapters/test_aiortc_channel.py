"""The data channel with fewer packets: everything arrives, gaps are told at once, and nobody waits for an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection
from aiortc.rtcsctptransport import USERDATA_MAX_LENGTH

from deepio_adapters import aiortc_channel, aiortc_hooks
from tests.engines import BOUND

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Ends:
    """Two plain peer connections, `near` with our hooks."""

    def __init__(self) -> None:
        self.near, self.far = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
        self.received: dict[str, list[str]] = {"near": [], "far": []}
        self.near_channel = self.near.createDataChannel("data")
        self.far_channel: RTCDataChannel
        self.near_channel.on("message", self.received["near"].append)
        self.far.on("datachannel", self._take)
        self.on_message: Callable[[str], object] = lambda _: None

    async def connect(self) -> None:
        await self.far.setRemoteDescription(await self._offer())
        await self.far.setLocalDescription()
        await self.near.setRemoteDescription(self.far.localDescription)
        await self.until(lambda: self.near_channel.readyState == "open" and hasattr(self, "far_channel"))
        await self.until(lambda: not self.sent_by("near")._sent_queue and not self.sent_by("far")._sent_queue)

    def sent_by(self, side: str) -> Any:
        return getattr(self, side).sctp

    def packets(self, side: str) -> int:
        traffic = aiortc_hooks.traffic(getattr(self, side).sctp.transport)
        assert traffic is not None
        return traffic.packets_sent

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(BOUND):
            while not condition():  # noqa: ASYNC110 - what changes it has no event
                await asyncio.sleep(0.001)

    async def _offer(self) -> Any:
        await self.near.setLocalDescription()
        return self.near.localDescription

    def _take(self, channel: RTCDataChannel) -> None:
        self.far_channel = channel
        channel.on("message", self.received["far"].append)


@asynccontextmanager
async def ends() -> AsyncGenerator[Ends]:
    both = Ends()
    try:
        await both.connect()
        aiortc_channel.speed_up(both.near.sctp)
        yield both
    finally:
        await both.near.close()
        await both.far.close()


def arrived(both: Any, count: int) -> bool:
    return len(both.received["far"]) == count


async def test_an_answer_takes_the_acknowledgement_with_it() -> None:
    async with ends() as both:
        both.near_channel.on("message", lambda _: both.near_channel.send("answer"))
        before = both.packets("near")
        for number in range(20):
            both.far_channel.send(str(number))
            await both.until(partial(arrived, both, number + 1))
        await both.until(lambda: not both.sent_by("far")._sent_queue)
        assert both.received == {"near": [str(number) for number in range(20)], "far": ["answer"] * 20}
        assert both.packets("near") - before == 20


async def test_a_message_without_an_answer_is_acknowledged_soon() -> None:
    async with ends() as both:
        before, began = both.packets("near"), time.monotonic()
        both.far_channel.send("lone")
        await both.until(lambda: both.received["near"])
        assert both.sent_by("far")._sent_queue
        await both.until(lambda: not both.sent_by("far")._sent_queue)
        assert time.monotonic() - began >= 0.9 * aiortc_channel.SACK_DELAY
        assert both.packets("near") - before == 1


async def test_every_second_packet_is_acknowledged_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiortc_channel, "SACK_DELAY", 60.0)
    async with ends() as both:
        before = both.packets("near")
        both.far_channel.send("1" * 1000)
        both.far_channel.send("2" * 1000)
        await both.until(lambda: both.received["near"] and not both.sent_by("far")._sent_queue)
        assert both.packets("near") - before == 1


async def test_a_large_answer_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiortc_channel, "SACK_DELAY", 60.0)
    async with ends() as both:
        both.far_channel.send("question")
        await both.until(lambda: both.received["near"])
        both.near_channel.send("x" * USERDATA_MAX_LENGTH)
        await both.until(lambda: both.received["far"])
        assert both.sent_by("far")._sent_queue  # not acknowledged yet
        both.near_channel.send("small")
        await both.until(lambda: not both.sent_by("far")._sent_queue)


async def test_a_gap_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiortc_channel, "SACK_DELAY", 60.0)
    async with ends() as both:
        dtls = both.far.sctp.transport  # type: ignore[union-attr]
        lost: list[bytes] = []
        send = dtls._send_data

        async def lose_first(data: bytes) -> None:
            if lost:
                await send(data)
            lost.append(data)

        dtls._send_data = lose_first  # type: ignore[method-assign]
        both.far_channel.send("lost")
        await both.until(lambda: lost)
        both.far_channel.send("next")
        await both.until(lambda: any(chunk._misses for chunk in both.sent_by("far")._sent_queue))
        for number in range(3):
            both.far_channel.send(str(number))
        await both.until(lambda: len(both.received["near"]) == 5)
        assert both.received["near"] == ["lost", "next", "0", "1", "2"]


async def test_what_is_on_its_way_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiortc_channel, "MAX_IN_FLIGHT", 4)
    async with ends() as both:
        flights: list[int] = []
        transmit = both.near.sctp._transmit  # type: ignore[union-attr]

        async def watched() -> None:
            await transmit()
            flights.append(len(both.sent_by("near")._sent_queue))

        both.near.sctp._transmit = watched  # type: ignore[method-assign,union-attr]
        messages = [str(number) * 20_000 for number in range(10)]
        for message in messages:
            both.near_channel.send(message)
        await both.until(lambda: len(both.received["far"]) == len(messages))
        assert both.received["far"] == messages
        assert max(flights) <= 4 + 4  # aiortc sends four at a time


async def test_it_ends_while_an_acknowledgement_waits() -> None:
    async with ends() as both:
        both.far_channel.send("last")
        await both.until(lambda: both.received["near"])
        await both.near.close()
        await asyncio.sleep(2 * aiortc_channel.SACK_DELAY)


async def test_with_an_unknown_version_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aiortc_hooks, "usable", lambda: False)
    sctp = object()
    aiortc_channel.speed_up(sctp)
