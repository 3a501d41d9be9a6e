"""Two peer connections of aiortc, one of which sends video that a test hands over; and what of it arrives."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import pylibsrtp
from aiortc import RTCConfiguration, RTCPeerConnection, RTCRtpSender
from aiortc.rtp import RtpPacket

from deepio_adapters import aiortc_hooks
from deepio_adapters.engine import EngineStats
from deepio_adapters.media import EncodedFrame, VideoSink
from deepio_adapters.rtp_sender import RtpSink
from deepio_adapters.stock_sender import StockSink
from deepio_core.media.far import FarVideo

BOUND: Final = 5.0
"""Seconds after which a wait in a test has failed."""


class Feedback:
    """A video sender that notes what it is told."""

    def __init__(self) -> None:
        self.sink: VideoSink | None = None
        self.requests = 0
        self.reports: list[tuple[float, float | None]] = []
        self.estimates: list[int] = []
        self.drains = 0
        self.stops = 0

    def started(self, sink: VideoSink) -> None:
        self.sink = sink

    def keyframe_requested(self) -> None:
        self.requests += 1

    def reported(self, loss: float, round_trip: float | None) -> None:
        self.reports.append((loss, round_trip))

    def estimated(self, bitrate: int) -> None:
        self.estimates.append(bitrate)

    def drained(self) -> None:
        self.drains += 1

    def stopped(self) -> None:
        self.stops += 1
        self.sink = None


class _Lossy:
    """An SRTP session that loses packets, as if they had never come."""

    def __init__(self, session: Any, link: Link) -> None:
        self._session = session
        self._link = link
        self.unprotect_rtcp = session.unprotect_rtcp

    def unprotect(self, data: bytes) -> bytes:
        # The header is not encrypted.
        if self._link.lose(RtpPacket.parse(data)):
            raise pylibsrtp.Error("lost by the test")
        return self._session.unprotect(data)


class Link:
    """Two peer connections, `near` sending to `far`."""

    def __init__(self, kind: Literal["fast", "stock"], codec: str, rtx: bool = True) -> None:
        self.codec = codec
        self.near, self.far = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
        self.feedback = Feedback()
        self.counters = EngineStats()
        self.packets: list[RtpPacket] = []
        self.arrivals: list[float] = []
        self.lose: Callable[[RtpPacket], bool] = lambda _: False
        self._found = FarVideo(codec=codec)
        if kind == "fast":
            self.transceiver = self.near.addTransceiver("video", direction="sendonly")
            RtpSink(self.transceiver.sender, self.feedback, self.counters, lambda *_: self._found)
        else:
            sink = StockSink(self.feedback, self.counters, lambda: self._found)
            self.transceiver = self.near.addTransceiver(sink.track, direction="sendonly")
            self._let_far_read()
        wanted = {codec, "rtx"} if rtx else {codec}
        self.transceiver.setCodecPreferences(
            [one for one in RTCRtpSender.getCapabilities("video").codecs if one.name in wanted]
        )

    @property
    def sink(self) -> VideoSink:
        assert self.feedback.sink is not None
        return self.feedback.sink

    @property
    def complete(self) -> int:
        """Frames that have arrived to the end."""
        return sum(packet.marker for packet in self.packets)

    @property
    def numbers(self) -> list[int]:
        """Sequence numbers of what has arrived, from 0."""
        return [(packet.sequence_number - self.packets[0].sequence_number) & 0xFFFF for packet in self.packets]

    @property
    def receiver(self) -> Any:
        (transceiver,) = self.far.getTransceivers()
        return transceiver.receiver

    def decode_nothing(self) -> None:
        """Has the receiver do all that it does with packets, but decode them."""
        queue = self.receiver._RTCRtpReceiver__decoder_queue
        put = queue.put
        queue.put = lambda item: put(item) if item is None else None

    async def connect(self) -> None:
        channel = self.near.createDataChannel("data")
        await self.near.setLocalDescription()
        await self.far.setRemoteDescription(self.near.localDescription)
        (transceiver,) = self.far.getTransceivers()
        aiortc_hooks.prepare(transceiver.receiver.transport.transport)
        await self.far.setLocalDescription()
        self._listen(transceiver.receiver.transport)
        await self.near.setRemoteDescription(self.far.localDescription)
        # The channel, too: aiortc fails if its transport ends while it opens one.
        await self.until(lambda: self.feedback.sink is not None and channel.readyState == "open")
        dtls = self.receiver.transport
        dtls._rx_srtp = _Lossy(dtls._rx_srtp, self)

    def _let_far_read(self) -> None:
        """Has aiortc pause between packets: it would send a large frame at once, more than the socket holds."""
        dtls: Any = self.transceiver.sender.transport
        send_rtp = dtls._send_rtp

        async def send_and_pause(data: bytes) -> None:
            await send_rtp(data)
            await asyncio.sleep(0)

        dtls._send_rtp = send_and_pause

    def _listen(self, dtls: Any) -> None:
        handle = dtls._handle_rtp_data

        async def handle_rtp_data(data: bytes, arrival_time_ms: int) -> None:
            packet = RtpPacket.parse(data, dtls._rtp_header_extensions_map)
            self.packets.append(packet)
            self.arrivals.append(time.monotonic())
            await handle(data, arrival_time_ms=arrival_time_ms)

        dtls._handle_rtp_data = handle_rtp_data

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(BOUND):
            while not condition():  # noqa: ASYNC110 - what changes it has no event
                await asyncio.sleep(0.002)

    async def close(self) -> None:
        async with asyncio.timeout(BOUND):
            await self.near.close()
            await self.far.close()


@asynccontextmanager
async def link(
    kind: Literal["fast", "stock"] = "fast", codec: str = "H264", *, rtx: bool = True, decode: bool = False
) -> AsyncGenerator[Link]:
    """Connects; without `decode`, what arrives is noted only."""
    one = Link(kind, codec, rtx)
    try:
        await one.connect()
        if not decode:
            aiortc_hooks.discard(one.receiver)
        yield one
    finally:
        await one.close()


def noise(size: int, seed: int) -> bytes:
    """Bytes in which there is no start code."""
    return bytes(random.Random(seed).choices(range(1, 256), k=size))


def h264_frames(*sizes: int, due: float = 0.0, interval: float = 0.04) -> list[EncodedFrame]:
    """Pictures of one slice of a size each, the first with parameter sets; no decoder takes them."""
    start = b"\0\0\0\1"
    frames = []
    for number, size in enumerate(sizes):
        slice_ = (b"\x65" if number == 0 else b"\x41") + noise(size - 1, number)
        sets = start + b"\x67" + noise(12, 1) + start + b"\x68" + noise(4, 2) if number == 0 else b""
        frames.append(frame(sets + start + slice_, number, due=due, interval=interval))
    return frames


def vp8_frames(*sizes: int, due: float = 0.0, interval: float = 0.04) -> list[EncodedFrame]:
    """Pictures of a size each; no decoder takes them."""
    return [frame(noise(size, number), number, due=due, interval=interval) for number, size in enumerate(sizes)]


def frame(data: bytes, number: int, *, due: float = 0.0, interval: float = 0.04) -> EncodedFrame:
    return EncodedFrame(
        data=data,
        keyframe=number == 0,
        pts=number * interval,
        captured_at=due + number * interval if due else 0.0,
        interval=interval,
        copied=True,
    )
