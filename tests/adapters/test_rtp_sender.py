"""Video over RTP, our way and aiortc's: the same packets, sent again when they were lost, and ends that do not hang."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
import struct
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from itertools import count, pairwise
from typing import Any

import av
import numpy as np
import pytest
from aiortc.codecs.h264 import h264_depayload
from aiortc.codecs.vpx import vp8_depayload
from aiortc.rtp import RTCP_PSFB_APP, RtcpPsfbPacket, RtpPacket, pack_remb_fci

from deepio_adapters import rtp_sender, udp
from deepio_adapters.media import EncodedFrame
from tests.adapters.rtp_links import BOUND, Link, frame, h264_frames, link, noise, vp8_frames

pytestmark = pytest.mark.anyio

LOOPS = [("asyncio", {"use_uvloop": False})]
try:
    import uvloop  # noqa: F401
except ImportError:
    pass
else:
    LOOPS.append(("asyncio", {"use_uvloop": True}))


@pytest.fixture(params=LOOPS[:1], ids=lambda loop: "uvloop" if loop[1]["use_uvloop"] else "asyncio")
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param  # the engine room is a loop of asyncio, whatever the application runs


both_loops = pytest.mark.parametrize(
    "anyio_backend", LOOPS, ids=lambda loop: "uvloop" if loop[1]["use_uvloop"] else "asyncio"
)

SIZES = (30_000, 2, 700, 1298, 1299, 1300, 1301, 2600, 5000, 9_000, 260_000, 40)


# --- What leaves ---


async def packets_of(kind: Any, codec: str, frames: list[EncodedFrame]) -> list[RtpPacket]:
    """What arrives when frames are sent."""
    async with link(kind, codec) as one:
        for each in frames:
            one.sink.send(each)
        await one.until(lambda: one.complete == len(frames))
        return one.packets


@both_loops
@pytest.mark.parametrize(("codec", "make"), [("H264", h264_frames), ("VP8", vp8_frames)])
async def test_every_packet_is_that_of_aiortc(codec: str, make: Callable[..., list[EncodedFrame]]) -> None:
    frames = make(*SIZES)
    ours, theirs = [await packets_of(kind, codec, frames) for kind in ("fast", "stock")]

    def facts(packets: list[RtpPacket]) -> list[tuple]:
        first = packets[0]
        picture = int.from_bytes(first.payload[2:4]) if codec == "VP8" else 0
        return [
            (
                packet.payload if codec == "H264" else (packet.payload[:2], packet.payload[4:]),
                (int.from_bytes(packet.payload[2:4]) - picture) & 0x7FFF if codec == "VP8" else 0,
                packet.marker,
                packet.payload_type,
                (packet.timestamp - first.timestamp) & 0xFFFFFFFF,
                (packet.sequence_number - first.sequence_number) & 0xFFFF,
                packet.extensions.mid,
                packet.extensions.abs_send_time is not None,
                packet.csrc,
                packet.padding_size,
            )
            for packet in packets
        ]

    assert len(ours) > 200
    assert facts(ours) == facts(theirs)
    for packets in (ours, theirs):
        now = int(time.time() * (1 << 18))
        for packet in packets:
            assert packet.extensions.abs_send_time is not None
            assert (now - packet.extensions.abs_send_time) % (1 << 24) < BOUND * (1 << 18)


@pytest.mark.parametrize(
    ("codec", "make", "depayload"),
    [("H264", h264_frames, h264_depayload), ("VP8", vp8_frames, vp8_depayload)],
)
@pytest.mark.parametrize("kind", ["fast", "stock"])
async def test_what_arrives_is_what_was_handed_over(
    kind: str, codec: str, make: Callable[..., list[EncodedFrame]], depayload: Callable[[bytes], bytes]
) -> None:
    frames = make(*SIZES)
    arrived: dict[int, bytes] = {}
    for packet in await packets_of(kind, codec, frames):
        arrived[packet.timestamp] = arrived.get(packet.timestamp, b"") + depayload(packet.payload)
    assert list(arrived.values()) == [each.data for each in frames]


async def test_every_way_out_sends_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = h264_frames(5000, 9000, 30_000)

    async def sizes() -> list[int]:
        return [len(packet.payload) for packet in await packets_of("fast", "H264", frames)]

    expected = await sizes()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "other")
        assert await sizes() == expected
    with monkeypatch.context() as patch:
        # As a kernel that does not know the option refuses it.
        patch.setattr(udp, "SOL_UDP", socket.SOL_SOCKET)
        patch.setattr(udp, "UDP_SEGMENT", 0x7FFF)
        assert await sizes() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="segmentation offload is Linux's")
def test_a_block_leaves_with_one_call_and_arrives_as_datagrams() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as near, socket.socket(type=socket.SOCK_DGRAM) as far:
        far.bind(("127.0.0.1", 0))
        far.settimeout(BOUND)
        path = udp.SocketPath(near.fileno(), far.getsockname())
        assert path.send(memoryview(bytes(2500)), 1000) == 2500
        assert path.segments
        assert [len(far.recv(2000)) for _ in range(3)] == [1000, 1000, 500]
        path.close()
        near.getsockname()  # ours was a duplicate


# --- When it leaves ---


async def test_frames_leave_when_they_are_due() -> None:
    async with link() as one:
        begin = time.monotonic() + 0.05
        frames = h264_frames(900, 900, 9000, 900, 900, due=begin, interval=0.03)
        for each in frames:
            one.sink.send(each)
        assert one.sink.backlog == 0
        await one.until(lambda: one.complete == len(frames))
        arrivals = dict(zip([packet.timestamp for packet in one.packets], one.arrivals, strict=True))
        for each, arrival in zip(frames, arrivals.values(), strict=True):
            assert -0.002 < arrival - each.captured_at < 0.025
        # Not before they were due means the extension says so as well.
        stamps = [(packet.extensions.abs_send_time or 0) / (1 << 18) for packet in one.packets if packet.marker]
        assert [later - earlier for earlier, later in pairwise(stamps)] == pytest.approx([0.03] * 4, abs=0.004)


async def test_a_large_frame_is_spread_and_is_a_backlog_meanwhile() -> None:
    async with link() as one:
        one.sink.send(h264_frames(200_000, interval=0.1)[0])
        assert one.sink.backlog == 1
        one.sink.send(frame(b"\0\0\0\1\x41" + noise(500, 7), 1, interval=0.1))
        assert one.sink.backlog == 2
        assert one.feedback.drains == 0
        await one.until(lambda: one.feedback.drains == 1)
        assert one.sink.backlog == 0
        await one.until(lambda: one.complete == 2)
        assert one.arrivals[-1] - one.arrivals[0] > 0.01


# --- Feedback ---


@pytest.mark.parametrize("rtx", [True, False], ids=["rtx", "plain"])
@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_what_is_lost_is_sent_again(rtx: bool, codec: str) -> None:
    make = h264_frames if codec == "H264" else vp8_frames
    async with link(codec=codec, rtx=rtx, decode=True) as one:
        one.decode_nothing()
        numbers = count()
        lost: list[RtpPacket] = []
        type_ = one.transceiver._codecs[0].payloadType

        def lose(packet: RtpPacket) -> bool:
            if packet.payload_type != type_ or len(lost) == 12 or next(numbers) % 7 != 3:
                return False
            if any(packet.sequence_number == other.sequence_number for other in lost):
                return False  # it was sent again: aiortc asks for it once
            lost.append(packet)
            return True

        one.lose = lose
        frames = make(20_000, *[3000] * 30, due=time.monotonic(), interval=0.01)
        for each in frames:
            one.sink.send(each)

        def again() -> set[int]:
            found = set()
            for packet in one.packets:
                if rtx and packet.payload_type != type_:
                    found.add(struct.unpack("!H", packet.payload[:2])[0])
            return found if rtx else {p.sequence_number for p in one.packets} & {p.sequence_number for p in lost}

        await one.until(lambda: len(lost) == 12 and again() >= {packet.sequence_number for packet in lost})
        assert one.counters.packets_resent >= 12
        payloads: dict[int, bytes] = {}
        for packet in one.packets:
            if rtx and packet.payload_type != type_:
                payloads[struct.unpack("!H", packet.payload[:2])[0]] = packet.payload[2:]
            else:
                payloads[packet.sequence_number] = packet.payload
        await one.until(lambda: one.feedback.sink is not None and not one.sink.backlog)
        depayload = h264_depayload if codec == "H264" else vp8_depayload
        arrived = b"".join(depayload(payloads[number]) for number in sorted(payloads))
        assert arrived == b"".join(each.data for each in frames)[: len(arrived)]


async def test_what_is_sent_again_leaves_room_for_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    async with link() as one:
        for each in h264_frames(*[20] * 40):
            one.sink.send(each)
        await one.until(lambda: one.complete == 40)
        sink: Any = one.sink
        first = one.packets[0].sequence_number
        monkeypatch.setattr(rtp_sender, "RESEND_INTERVAL", (0.05, 0.1))
        for round_trip, interval in ((None, 0.02), (0.0, 0.05), (5.0, 0.1)):
            # Who asks for the same packet again and again gets it once for each round trip.
            sink.reported(0.5, round_trip)
            times: list[float] = []
            begin = time.monotonic()
            while len(times) < 3:
                if sink.lost(first) is not None:
                    times.append(time.monotonic())
                assert time.monotonic() - begin < BOUND
                await asyncio.sleep(0.001)
            assert all(other - one >= interval - 0.001 for one, other in pairwise(times))
            first += 1
        # And who asks for everything gets a large keyframe, and then half as much as is new.
        monkeypatch.setattr(rtp_sender, "RESEND_INTERVAL", (0.0, 0.0))
        sink.reported(0.5, 0.0)
        found = [sink.lost(first + at % 30) for at in range(400)]
        assert sum(packet is not None for packet in found) == rtp_sender.RESEND_CREDIT - 9
        before = len(one.packets)
        for each in h264_frames(*[3000] * 20):
            one.sink.send(dataclasses.replace(each, pts=each.pts + 2))
        await one.until(lambda: one.complete == 60)
        found = [sink.lost(first + at % 30) for at in range(400)]
        assert sum(packet is not None for packet in found) == (len(one.packets) - before) // 2


async def test_reports_estimates_and_requests_are_told() -> None:
    async with link(decode=True) as one:
        one.decode_nothing()
        await one.receiver._send_rtcp_pli(one.transceiver.sender._ssrc)
        await one.until(lambda: one.feedback.requests == 1)
        assert one.counters.keyframe_requests == 1
        for fci in (b"else", pack_remb_fci(700_000, [one.transceiver.sender._ssrc])):
            packet = RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=1, media_ssrc=0, fci=fci)
            await one.receiver.transport._send_rtp(bytes(packet))
        await one.until(lambda: one.feedback.estimates)
        assert one.feedback.estimates[0] == pytest.approx(700_000, rel=1e-3)
        lost = count()
        one.lose = lambda _: next(lost) % 2 == 0
        for each in h264_frames(*[2000] * 120, due=time.monotonic(), interval=0.015):
            one.sink.send(each)
        await one.until(lambda: any(loss > 0.1 for loss, _ in one.feedback.reports))
        assert one.counters.loss == one.feedback.reports[-1][0]


async def test_sender_reports_and_statistics_are_right() -> None:
    async with link() as one:
        taken = time.monotonic() - 0.25
        for each in h264_frames(9000, 1000, 1000):
            one.sink.send(dataclasses.replace(each, captured_at=taken))
        await one.until(lambda: one.complete == 3)
        stats = await one.transceiver.sender.getStats()
        outbound = next(each for each in stats.values() if each.type == "outbound-rtp")
        assert outbound.packetsSent == len(one.packets)
        assert outbound.bytesSent == sum(len(packet.payload) for packet in one.packets)
        sender: Any = one.transceiver.sender
        assert sender._RTCRtpSender__rtp_timestamp == one.packets[-1].timestamp
        # The moment that the timestamp stands for, and not when it left.
        said = sender._RTCRtpSender__ntp_timestamp / (1 << 32) - 2_208_988_800
        assert said == pytest.approx(taken + time.time() - time.monotonic(), abs=0.01)
        transport = next(each for each in stats.values() if each.type == "transport")
        assert transport.packetsSent >= len(one.packets)
        assert transport.bytesSent > outbound.bytesSent


# --- A path that is blocked ---


class Blocked:
    """A path that takes nothing, until it is opened."""

    def __init__(self, path: udp.Path) -> None:
        self.path = path
        self.room = 0
        self.passed = 0

    def send(self, block: memoryview, size: int) -> int:
        taken = min(self.room * size, len(block))
        self.room -= -(-taken // size)
        self.passed += -(-taken // size)
        return self.path.send(block[:taken], size) if taken else 0

    def close(self) -> None:
        self.path.close()


def block(one: Link) -> Blocked:
    hooks: Any = one.sink._hooks  # type: ignore[attr-defined]
    path = hooks.path()
    assert path is not None
    hooks._path = blocked = Blocked(path)
    return blocked


async def test_a_full_socket_delays_and_loses_nothing() -> None:
    async with link() as one:
        blocked = block(one)
        frames = h264_frames(9000, 2000, 2000)
        for each in frames:
            one.sink.send(each)
        assert one.sink.backlog == 3
        blocked.room = 2  # in the middle of a block
        await one.until(lambda: len(one.packets) == 2)
        assert one.sink.backlog == 3
        blocked.room = 1000
        await one.until(lambda: one.complete == 3)
        assert one.numbers == list(range(len(one.packets)))
        assert blocked.passed == len(one.packets)  # nothing has left twice
        assert one.sink.backlog == 0
        assert one.counters.send_dropped == 0


async def test_what_is_too_late_is_dropped_up_to_a_keyframe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtp_sender, "MAX_BEHIND", 0.05)
    async with link() as one:
        key, *others = h264_frames(9000, *[2000] * 10)
        one.sink.send(key)
        await one.until(lambda: one.complete == 1)
        blocked = block(one)
        for each in others[:4]:
            one.sink.send(each)
        await one.until(lambda: one.feedback.requests == 1)
        blocked.room = 1000
        one.sink.send(others[4])
        assert one.counters.send_dropped == 5
        one.sink.send(key)
        one.sink.send(others[5])
        await one.until(lambda: one.complete == 3)
        # Nobody misses what never left.
        assert one.numbers == list(range(len(one.packets)))


async def test_a_frame_that_has_begun_to_leave_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtp_sender, "MAX_BEHIND", 0.05)
    async with link() as one:
        blocked = block(one)
        blocked.room = 3
        key, *others = h264_frames(9000, 2000, 2000)
        for each in (key, *others):
            one.sink.send(each)
        await one.until(lambda: one.feedback.requests == 1)
        assert one.counters.send_dropped == 2
        blocked.room = 1000
        one.sink.send(key)
        await one.until(lambda: one.complete == 2)
        assert one.numbers == list(range(len(one.packets)))


async def test_waiting_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtp_sender, "MAX_WAITING", 8)
    async with link() as one:
        key, *others = h264_frames(*[900] * 12, due=time.monotonic() + 60)
        for each in (*others[:4], key, *others[:3]):
            one.sink.send(each)
        assert (one.sink.backlog, one.counters.send_dropped, one.feedback.requests) == (0, 0, 0)
        one.sink.send(others[3])
        assert (one.counters.send_dropped, one.feedback.requests) == (4, 0)
        for each in others[4:9]:
            one.sink.send(each)
        assert (one.counters.send_dropped, one.feedback.requests) == (4 + 8 + 2, 1)


async def test_what_is_ready_takes_no_room_of_what_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtp_sender, "HISTORY_PACKETS", 12)
    async with link() as one:
        now, later = h264_frames(9000), h264_frames(9000, 9000, 9000, 9000, due=time.monotonic() + 60)
        one.sink.send(now[0])
        await one.until(lambda: one.complete == 1)
        for number, each in enumerate(later):
            one.sink.send(dataclasses.replace(each, pts=1.0 + number))
        sink: Any = one.sink
        assert all(sink.lost(packet.sequence_number) is not None for packet in one.packets)
        # What has not left yet is not sent again, whoever asks.
        assert sink.lost(one.packets[-1].sequence_number + 1) is None


async def test_a_drop_of_more_than_libsrtp_remembers_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtp_sender, "MAX_BEHIND", 0.05)
    async with link() as one:
        key, other = h264_frames(9000, 1_500_000)
        one.sink.send(key)
        await one.until(lambda: one.complete == 1)
        blocked = block(one)
        one.sink.send(other)
        await one.until(lambda: one.feedback.requests == 1)
        blocked.room = 1000
        one.sink.send(dataclasses.replace(key, pts=1.0))
        await one.until(lambda: one.complete == 2)
        assert one.feedback.stops == 0


# --- Loss ---


def encoded(keyframe: bool, codec: av.VideoCodecContext, number: int) -> bytes:
    picture = np.full((96, 128, 3), 40 + number % 160, np.uint8)
    video = av.VideoFrame.from_ndarray(picture, "bgr24").reformat(format="yuv420p")
    video.pts = number
    video.pict_type = av.video.frame.PictureType.I if keyframe else av.video.frame.PictureType.NONE
    return b"".join(bytes(packet) for packet in codec.encode(video))


RECOVERY = 0.3
"""Seconds from the end of an interruption until pictures come again, as long as what was lost is still kept."""


async def test_pictures_come_again_after_a_loss() -> None:
    codec = av.CodecContext.create("libx264", "w")
    codec.width, codec.height, codec.pix_fmt = 128, 96, "yuv420p"
    codec.time_base, codec.framerate = Fraction(1, 50), Fraction(50)
    codec.options = {"tune": "zerolatency", "preset": "ultrafast", "g": "1000"}
    async with link(decode=True) as one:
        shown: list[float] = []
        again = float("inf")

        async def watch() -> None:
            while True:
                await one.receiver.track.recv()
                shown.append(time.monotonic())

        watching = asyncio.ensure_future(watch())
        for number in range(50):
            if number == 12:
                one.lose = lambda _: True  # what is sent again, too
            if number == 20:
                one.lose = lambda _: False
                again = time.monotonic()
            data = encoded(number == 0, codec, number)
            one.sink.send(
                EncodedFrame(
                    data=data, keyframe=number == 0, pts=number / 50, captured_at=time.monotonic(), interval=0.02
                )
            )
            await asyncio.sleep(0.02)
        watching.cancel()
        assert min(when for when in shown if when > again) - again < RECOVERY
        assert one.counters.packets_resent
        assert len(shown) > 36, "with all that was lost"


# --- The end ---


@both_loops
async def test_the_end_comes_in_the_middle_of_a_frame() -> None:
    async with link() as one:
        sink = one.sink
        sink.send(h264_frames(300_000, interval=1.0)[0])
        assert sink.backlog == 1
        began = time.monotonic()
        await one.near.close()
        assert time.monotonic() - began < 1.0
        assert one.feedback.stops == 1
        sink.send(h264_frames(100)[0])  # nothing happens any more
        assert sink.backlog == 0


async def test_the_end_comes_while_the_socket_is_full() -> None:
    async with link() as one:
        block(one)
        one.sink.send(h264_frames(9000)[0])
        await one.near.close()
        assert one.feedback.stops == 1


async def test_it_ends_with_its_transport() -> None:
    async with link() as one:
        sink = one.sink
        await one.transceiver.sender.transport.stop()
        await one.until(lambda: one.transceiver.sender.transport.state == "closed")
        sink.send(h264_frames(9000)[0])
        await one.until(lambda: one.feedback.stops == 1)


async def test_a_sender_that_fails_hangs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    other = Link("fast", "H264")

    def started(_: object) -> None:
        raise ValueError("by the test")

    other.feedback.started = started  # type: ignore[assignment,method-assign]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await other.connect()
    await other.close()
    assert "Sending video has failed." in caplog.text
    assert other.feedback.stops == 1


async def test_the_stock_way_is_bounded_and_ends() -> None:
    async with link("stock") as one:
        key, *others = h264_frames(*[900] * 140, due=time.monotonic() + 60)
        sink = one.sink
        for each in (key, *others[:127]):
            sink.send(each)
        sink.send(others[127])
        assert (one.counters.send_dropped, one.feedback.requests) == (129, 1)
        sink.send(others[128])
        assert one.counters.send_dropped == 130
        sink.send(h264_frames(900)[0])
        await one.until(lambda: one.complete == 1)
        await one.until(lambda: one.feedback.drains == 1)
        assert sink.backlog == 0
        await one.near.close()
        assert one.feedback.stops == 1
        sink.send(key)
        assert sink.backlog == 0
