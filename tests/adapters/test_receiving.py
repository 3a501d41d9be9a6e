"""Receiving video from a plain aiortc peer that sends what a test tells it to, packet by packet."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any

import anyio
import av
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.rtp import RtcpPsfbPacket, RtcpSenderInfo, RtcpSrPacket, RtpPacket

from deepio_adapters import aiortc_hooks, video_decoder
from deepio_adapters.engine import EngineConfig, open_engine
from deepio_adapters.test_pattern import Pattern, read_counter
from deepio_core.inputs import ChannelOpened, EngineClosed, LocalAnswer
from deepio_core.media import h264, vp8
from deepio_core.media.rtp import ntp_time, payload_of
from deepio_core.outputs import ApplyOffer, CloseEngine, StartEngine
from tests.engines import BOUND, End, end

pytestmark = pytest.mark.anyio

RECEIVE = EngineConfig(receive_video=True)
FRAME = 3000
"""Ticks of a frame."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the far side is a plain aiortc peer


class Camera:
    """A plain aiortc peer that sends video, every packet as it is told."""

    def __init__(self, codec: str) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.transceiver = self.pc.addTransceiver("video", direction="sendonly")
        self.channel = self.pc.createDataChannel("data_channel")
        self.ssrc = self.transceiver.sender._ssrc
        self.codec = codec
        self.number = 0
        self.sequence = 65_530
        self.timestamp = (1 << 32) - 2 * FRAME
        self.keyframes_asked = 0
        self.asked = asyncio.Event()
        self.size = 160, 128
        self._encoder: av.VideoCodecContext | None = None
        self.transceiver.sender._handle_rtcp_packet = self._on_rtcp  # type: ignore[method-assign]

    async def _on_rtcp(self, packet: Any) -> None:
        if isinstance(packet, RtcpPsfbPacket) and packet.fmt == 1:
            self.keyframes_asked += 1
            self.asked.set()

    async def until_asked(self) -> None:
        """Waits until a keyframe is asked for."""
        with anyio.fail_after(BOUND):
            await self.asked.wait()
        self.asked.clear()

    async def call(self, one: End) -> None:
        await self.pc.setLocalDescription()
        one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=False))
        one.engine.perform(ApplyOffer(negotiation=1, sdp=self.pc.localDescription.sdp))
        answer = (await one.until(LocalAnswer)).sdp
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        await one.until(ChannelOpened)
        # It receives by then: the channel is opened after that, and answered by the engine.

    def frame(self, *, keyframe: bool = False, filler: int = 0) -> list[RtpPacket]:
        """The packets of the next frame of the test pattern; `filler` more that decoders skip, in H.264."""
        data = self._encode(keyframe=keyframe or self._encoder is None)
        if self.codec == "H264":
            data += (b"\0\0\0\1\x0c" + b"\xff" * 1200 + b"\x80") * filler
            payloads = h264.packetize(data)
        else:
            payloads = vp8.packetize(data, self.number)
        kinds = self.pc.getTransceivers()[0]._codecs
        payload_type = next(kind.payloadType for kind in kinds if kind.name == self.codec)
        assert payload_type is not None
        packets = []
        for payload in payloads:
            packet = RtpPacket(
                payload_type=payload_type,
                sequence_number=self.sequence,
                timestamp=self.timestamp,
                ssrc=self.ssrc,
                payload=payload_of(data, payload),
            )
            self.sequence = (self.sequence + 1) & 0xFFFF
            packets.append(packet)
        packets[-1].marker = 1
        self.timestamp = (self.timestamp + FRAME) % (1 << 32)
        self.number += 1
        return packets

    def restart(self, *, codec: str | None = None, size: tuple[int, int] | None = None) -> None:
        """Has the next frame come from another encoder."""
        self.codec, self.size, self._encoder = codec or self.codec, size or self.size, None

    async def send(self, *packets: RtpPacket) -> None:
        for packet in packets:
            transport = self.transceiver.sender.transport
            await transport._send_rtp(packet.serialize(transport._rtp_header_extensions_map))

    async def report(self, at: float, timestamp: int) -> None:
        """Sends an RTCP report that says what RTP timestamp belongs to a Unix time."""
        ticks = timestamp % (1 << 32)
        info = RtcpSenderInfo(ntp_timestamp=ntp_time(at), rtp_timestamp=ticks, packet_count=1, octet_count=1)
        await self.transceiver.sender.transport._send_rtp(bytes(RtcpSrPacket(ssrc=self.ssrc, sender_info=info)))

    def _encode(self, *, keyframe: bool) -> bytes:
        if self._encoder is None:
            encoder = av.CodecContext.create("libx264" if self.codec == "H264" else "libvpx", "w")
            assert isinstance(encoder, av.VideoCodecContext)
            encoder.width, encoder.height = self.size
            encoder.pix_fmt, encoder.time_base, encoder.framerate = "yuv420p", Fraction(1, 30), Fraction(30)
            encoder.gop_size, encoder.thread_count = 1000, 1  # one slice a picture
            h264_options = {"preset": "ultrafast", "tune": "zerolatency", "forced-idr": "1"}
            encoder.options = h264_options if self.codec == "H264" else {"lag-in-frames": "0", "deadline": "realtime"}
            self._encoder = encoder
        picture = av.VideoFrame.from_ndarray(Pattern(*self.size).draw(self.number), format="bgr24")
        picture.pts = self.number
        if keyframe:
            picture.pict_type = av.video.frame.PictureType.I
        return b"".join(bytes(packet) for packet in self._encoder.encode(picture))


@asynccontextmanager
async def camera(one: End, codec: str = "H264") -> AsyncGenerator[Camera]:
    camera = Camera(codec)
    try:
        await camera.call(one)
        yield camera
    finally:
        await camera.pc.close()


async def counter(one: End) -> int | None:
    return read_counter((await one.frame()).to_ndarray())


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what nobody tells of."""
    with anyio.fail_after(BOUND):
        while not condition():  # noqa: ASYNC110 - counters tell nobody that they have changed
            await asyncio.sleep(0.005)


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "deepio-decoder"]


# --- Freshness ---


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_a_frame_does_not_wait_for_the_next_one(codec: str) -> None:
    async with end(open_engine, RECEIVE) as one, camera(one, codec) as far:
        before = time.monotonic()
        await far.send(*far.frame())
        frame = await one.frame()
        after = time.monotonic()
        assert read_counter(frame.to_ndarray()) == 0
        assert frame.decoded_at is not None
        assert before <= frame.received_at <= frame.decoded_at <= after
        assert (frame.pts, frame.held_frames, frame.captured_at) == (0.0, 0, None)
        # Timestamps wrap around meanwhile, and so do sequence numbers.
        for number in range(1, 5):
            await far.send(*far.frame())
            frame = await one.frame()
            assert read_counter(frame.to_ndarray()) == number
            assert frame.pts == pytest.approx(number / 30)
        assert one.engine.stats().codec_in is not None


async def test_a_sender_without_markers_is_received_a_frame_later() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        for number in range(3):
            packets = far.frame()
            packets[-1].marker = 0
            await far.send(*packets)
            if number:
                assert await counter(one) == number - 1


async def test_large_keyframes_arrive() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        packets = far.frame(filler=400)
        assert len(packets) >= 400
        for packet in packets:
            await far.send(packet)
            await asyncio.sleep(0)
        assert await counter(one) == 0


async def test_packets_out_of_order_make_whole_frames() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        first, second = far.frame(filler=4), far.frame(filler=4)
        await far.send(first[0], *reversed(first[1:]))
        assert await counter(one) == 0
        await far.send(*reversed(second), second[0])
        assert await counter(one) == 1
        assert one.engine.stats().keyframes_asked == 0


async def test_an_application_that_is_slow_gets_the_newest_frame() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        for _ in range(60):
            await far.send(*far.frame())
        await until(lambda: one.engine.stats().frames_received == 60)
        assert await counter(one) == 59
        assert one.engine.stats().receive_dropped == 59


async def test_a_decoder_that_is_slow_stays_fresh(monkeypatch) -> None:
    made = video_decoder.make_decoder

    def slow(codec: str):
        decode = made(codec)

        def decode_slowly(picture):
            time.sleep(0.1)
            return decode(picture)

        return decode_slowly

    monkeypatch.setattr(video_decoder, "make_decoder", slow)
    ages = []
    async with end(open_engine, RECEIVE) as one, camera(one) as far, anyio.create_task_group() as tasks:

        async def read() -> None:
            while True:
                frame = await one.frame()
                ages.append(time.monotonic() - frame.received_at)

        tasks.start_soon(read)
        for number in range(60):
            await far.send(*far.frame(keyframe=number % 10 == 0))
            await asyncio.sleep(0.01)
        stats = one.engine.stats
        await until(lambda: stats().frames_received + stats().decode_dropped == 60)
        assert stats().decode_dropped > 0
        # Decoding all of them takes six seconds.
        assert max(ages) < 2
        tasks.cancel_scope.cancel()


# --- Faults ---


async def test_what_cannot_be_decoded_has_a_keyframe_asked_for_and_goes_on() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        for number in range(3):
            await far.send(*far.frame())
            assert await counter(one) == number
        broken = far.frame()
        for packet in broken:
            packet.payload = packet.payload[:8] + bytes(len(packet.payload) - 8)
        await far.send(*broken)
        await far.until_asked()
        await far.send(*far.frame())  # hangs on the broken one
        await far.send(*far.frame(keyframe=True))
        assert await counter(one) == 5
        stats = one.engine.stats()
        assert (stats.decode_errors, stats.decode_dropped) == (1, 1)


@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_after_a_loss_no_picture_is_shown_before_the_next_keyframe(codec: str) -> None:
    async with end(open_engine, RECEIVE) as one, camera(one, codec) as far:
        await far.send(*far.frame())
        assert await counter(one) == 0
        far.frame()  # lost
        shown_at = time.monotonic()
        while not far.asked.is_set():
            await far.send(*far.frame())
            await asyncio.sleep(0.01)
            assert time.monotonic() - shown_at < BOUND
        keyframe = far.number
        await far.send(*far.frame(keyframe=True))
        assert await counter(one) == keyframe
        await far.send(*far.frame())
        assert await counter(one) == keyframe + 1
        assert one.engine.stats().decode_errors == 0


async def test_garbage_ends_nothing() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        await far.send(*far.frame())
        assert await counter(one) == 0
        for payload in (b"", b"\x00", b"\x7c", b"\x7c\x85", b"\x78\xff\xff", b"\x65" + bytes(500), b"\x18" * 40):
            (packet, *_) = far.frame()
            packet.payload, packet.marker = payload, 1
            far.sequence = (packet.sequence_number + 1) & 0xFFFF
            await far.send(packet)
        async with anyio.create_task_group() as tasks:

            async def send() -> None:
                while True:
                    await far.send(*far.frame(keyframe=True))
                    await asyncio.sleep(0.02)

            tasks.start_soon(send)
            assert (await counter(one) or 0) > 0
            tasks.cancel_scope.cancel()


async def test_codec_and_size_may_change_while_it_runs() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        shapes = []
        for number in range(6):
            if number == 2:
                far.restart(size=(320, 256))
            elif number == 4:
                far.restart(codec="VP8")
            await far.send(*far.frame())
            frame = await one.frame()
            assert read_counter(frame.to_ndarray()) == number
            shapes.append(frame.width)
        assert shapes == [160, 160, 320, 320, 320, 320]
        assert one.engine.stats().keyframes_asked == 0


async def test_another_stream_in_its_place_is_followed() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        await far.send(*far.frame())
        assert await counter(one) == 0
        far.restart()
        far.ssrc, far.sequence, far.timestamp = far.ssrc ^ 1, 7, 7
        await far.send(*far.frame())
        assert await counter(one) == 1


# --- Decoded only if wanted ---


async def test_what_nobody_wants_is_not_decoded_until_somebody_does() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        one.engine.want_frames(False)
        for _ in range(5):
            await far.send(*far.frame())
        await until(lambda: one.engine.stats().frames_unwanted == 5)
        assert one.engine.stats().frames_received == 0
        assert not decoders()
        one.engine.want_frames(True)
        await far.send(*far.frame())
        await far.until_asked()
        keyframe = far.number
        await far.send(*far.frame(keyframe=True))
        assert await counter(one) == keyframe
        assert one.engine.stats().decode_dropped == 1


# --- When it was taken ---


async def test_the_reports_of_the_sender_tell_when_a_frame_was_taken() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        await far.send(*far.frame())
        assert (await one.frame()).captured_at is None
        # The sender's clock is a year ahead. The next frame is from five seconds ago.
        await far.report(time.time() + 31_536_000, far.timestamp + 450_000)
        asked = time.monotonic()
        await asyncio.sleep(0.05)
        await far.send(*far.frame())
        frame = await one.frame()
        assert frame.captured_at == pytest.approx(asked - 5, abs=1)
        # And none can be from the future.
        await far.report(time.time() + 31_536_000, far.timestamp - 90_000)
        await asyncio.sleep(0.05)
        await far.send(*far.frame())
        frame = await one.frame()
        assert frame.captured_at is not None
        assert frame.captured_at <= frame.received_at


@pytest.mark.parametrize("ahead", [0, 20, 40, 31_536_000])
async def test_the_send_times_of_packets_make_up_for_reports_that_are_late(ahead: float) -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        await far.send(*far.frame())
        await one.frame()
        # As aiortc does, which reports the time of the newest frame and not that of the report.
        taken = time.monotonic() - 5
        await far.report(time.time() + ahead - 5, far.timestamp)
        await asyncio.sleep(0.05)
        packets = far.frame()
        for packet in packets:
            packet.extensions.abs_send_time = ntp_time(time.time() + ahead) >> 14 & 0xFFFFFF
        await far.send(*packets)
        assert (await one.frame()).captured_at == pytest.approx(taken, abs=1)


# --- Ends ---


async def test_closing_does_not_wait_for_a_picture_for_long(monkeypatch) -> None:
    busy, free = threading.Event(), threading.Event()

    def stuck(codec: str):
        def decode(picture):
            busy.set()
            assert free.wait(BOUND)
            return []

        return decode

    monkeypatch.setattr(video_decoder, "make_decoder", stuck)
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        await far.send(*far.frame())
        assert await asyncio.to_thread(busy.wait, BOUND)
        began = time.monotonic()
        one.engine.perform(CloseEngine(negotiation=1))
        await one.until(EngineClosed)
        assert time.monotonic() - began < 3
        free.set()
    for thread in decoders():
        await asyncio.to_thread(thread.join, BOUND)
    assert not decoders()


async def test_nothing_is_left_of_it() -> None:
    async with end(open_engine, RECEIVE) as one, camera(one) as far:
        await far.send(*far.frame())
        assert await counter(one) == 0
        assert len(decoders()) == 1
        assert not [thread for thread in threading.enumerate() if thread.name == "video-decoder"]  # aiortc's
        await far.pc.close()
        await one.until(EngineClosed)
        gc.collect()
        for thread in decoders():
            await asyncio.to_thread(thread.join, BOUND)
        assert not decoders()


async def test_without_the_hooks_frames_come_through_aiortc(monkeypatch, caplog) -> None:
    monkeypatch.setattr(aiortc_hooks, "TESTED", {"aiortc": "0.", "aioice": "0."})
    aiortc_hooks.usable.cache_clear()
    try:
        async with end(open_engine, RECEIVE) as one, camera(one) as far:
            for _ in range(3):
                await far.send(*far.frame())
            frame = await one.frame()
            assert read_counter(frame.to_ndarray()) in {0, 1}
            assert frame.held_frames == 1
            one.engine.want_frames(False)
            before = one.engine.stats().frames_received
            for _ in range(3):
                await far.send(*far.frame())
            await asyncio.sleep(0.1)
            assert one.engine.stats().frames_received == before
    finally:
        aiortc_hooks.usable.cache_clear()
    assert "Not tested with aiortc" in caplog.text
