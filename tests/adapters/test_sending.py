"""Video from a source to the network: which codec is agreed on, and that copied pictures arrive as they are."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pylibsrtp
import pytest
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.codecs import depayload
from aiortc.mediastreams import AudioStreamTrack
from aiortc.rtcdtlstransport import SRTP_AEAD_AES_256_GCM
from aiortc.rtp import RtpPacket

from deepio_adapters import aiortc_hooks, aiortc_sending, udp
from deepio_adapters.engine import EngineConfig, open_engine
from deepio_adapters.media import SourcePacket
from deepio_adapters.sources import parse_source
from deepio_core.inputs import LocalAnswer, LocalOffer
from deepio_core.media.options import VideoOptions
from deepio_core.media.rtp import HeaderTemplate, payload_of
from deepio_core.outputs import ApplyAnswer, ApplyOffer, StartEngine
from tests.engines import BOUND, End, end
from tests.media import make_clip

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the far side, a plain aiortc peer, knows no other loop


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("sending") / "clip.mp4", frames=12, gop=6, rate=50)


class FarSide:
    """A plain aiortc peer that takes video and notes the pictures, whole as they were sent."""

    def __init__(self, *codecs: str) -> None:
        self.pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.codecs = codecs
        self.pictures: dict[int, bytes] = {}
        self.last: set[int] = set()

    async def offer_to(self, one: End) -> None:
        self._prefer(self.pc.addTransceiver("video", direction="recvonly"))
        self.pc.createDataChannel("data")
        await self.pc.setLocalDescription()
        self._listen()
        one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=False))
        one.engine.perform(ApplyOffer(negotiation=1, sdp=self.pc.localDescription.sdp))
        answer = (await one.until(LocalAnswer)).sdp
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))

    async def answer_to(self, one: End) -> None:
        one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=True))
        offer = (await one.until(LocalOffer)).sdp
        if self.codecs != ("H264", "VP8"):
            self._prefer(self.pc.addTransceiver("video", direction="recvonly"))
        await self.pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
        await self.pc.setLocalDescription()
        self._listen()
        one.engine.perform(ApplyAnswer(negotiation=1, sdp=self.pc.localDescription.sdp))

    async def until_complete(self, count: int) -> list[bytes]:
        async with asyncio.timeout(BOUND):
            while len(self.last) < count:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
        return [self.pictures[timestamp] for timestamp in sorted(self.last)][:count]

    def _prefer(self, transceiver: Any) -> None:
        order = [*self.codecs, "rtx"]
        known = [codec for codec in RTCRtpSender.getCapabilities("video").codecs if codec.name in order]
        transceiver.setCodecPreferences(sorted(known, key=lambda codec: order.index(codec.name)))

    def _listen(self) -> None:
        (transceiver,) = self.pc.getTransceivers()
        transceiver.receiver._enabled = False
        dtls: Any = transceiver.receiver.transport
        origin: list[int] = []

        async def handle_rtp_data(data: bytes, arrival_time_ms: int) -> None:
            packet = RtpPacket.parse(data)
            codec = next(each for each in transceiver._codecs if each.payloadType == packet.payload_type)
            origin.append(packet.timestamp)
            at = (packet.timestamp - origin[0]) & 0xFFFFFFFF
            self.pictures[at] = self.pictures.get(at, b"") + depayload(codec, packet.payload)
            if packet.marker:
                self.last.add(at)

        dtls._handle_rtp_data = handle_rtp_data


@asynccontextmanager
async def sending(clip: Path, far: FarSide, *, offer: bool, video: VideoOptions | None = None) -> AsyncGenerator[End]:
    config = EngineConfig(source=lambda: parse_source(clip), video=video or VideoOptions())
    try:
        async with end(open_engine, config) as one:
            await (far.answer_to(one) if offer else far.offer_to(one))
            yield one
    finally:
        await far.pc.close()


def access_units(clip: Path) -> list[bytes]:
    source = parse_source(clip)
    source.open()
    packets = [packet.data for packet in source.packets() if isinstance(packet, SourcePacket)]
    source.close()
    return packets


def nal_units(access_unit: bytes) -> list[bytes]:
    """RTP carries no start codes, which are of three or four bytes."""
    return [unit.rstrip(b"\0") for unit in access_unit.split(b"\0\0\1") if unit.rstrip(b"\0")]


@pytest.mark.parametrize(
    ("kind", "codecs"), [("fast", ("H264", "VP8")), ("fast", ("VP8", "H264")), ("stock", ("H264", "VP8"))]
)
@pytest.mark.parametrize("offer", [True, False], ids=["we offer", "we answer"])
async def test_copied_pictures_arrive_as_the_source_had_them(
    clip: Path, monkeypatch: pytest.MonkeyPatch, *, kind: str, offer: bool, codecs: tuple[str, str]
) -> None:
    if kind == "stock":
        monkeypatch.setattr(aiortc_hooks, "usable", lambda: False)
    far = FarSide(*codecs)
    async with sending(clip, far, offer=offer) as one:
        expected = access_units(clip)
        arrived = await far.until_complete(len(expected))
        assert [nal_units(unit) for unit in arrived] == [nal_units(unit) for unit in expected]
        stats = one.engine.stats()
        assert (stats.codec_out, stats.video_mode) == ("H264", "copy")
        assert stats.frames_sent == stats.frames_copied == len(expected)
        assert stats.send_dropped == 0


@pytest.mark.parametrize("offer", [True, False], ids=["we offer", "we answer"])
async def test_what_the_far_side_cannot_take_is_encoded(clip: Path, *, offer: bool) -> None:
    far = FarSide("VP8")
    async with sending(clip, far, offer=offer) as one:
        await far.until_complete(3)
        stats = one.engine.stats()
        assert (stats.codec_out, stats.video_mode) == ("VP8", "encode")


# --- Sound ---


async def loudness(track: MediaStreamTrack) -> float:
    """Of the first tenths of a second that are not silent."""
    async with asyncio.timeout(BOUND):
        while True:
            frame: Any = await track.recv()
            if (loud := float(np.abs(frame.to_ndarray()).mean())) > 100:
                return loud


@pytest.mark.parametrize(("offer", "both"), [(True, False), (False, False), (False, True)])
async def test_sound_is_sent_when_it_is_asked_for(tmp_path: Path, *, offer: bool, both: bool) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=50, audio=True)
    config = EngineConfig(source=lambda: parse_source(clip, audio=True), audio=True)
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    tracks: list[MediaStreamTrack] = []
    pc.on("track", tracks.append)
    try:
        async with end(open_engine, config) as one:
            one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=offer))
            if offer:
                sdp = (await one.until(LocalOffer)).sdp
                await pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
                await pc.setLocalDescription()
                one.engine.perform(ApplyAnswer(negotiation=1, sdp=pc.localDescription.sdp))
            else:
                pc.createDataChannel("data")
                pc.addTransceiver("video", direction="recvonly")
                pc.addTransceiver(AudioStreamTrack() if both else "audio", direction="sendrecv" if both else "recvonly")
                await pc.setLocalDescription()
                one.engine.perform(ApplyOffer(negotiation=1, sdp=pc.localDescription.sdp))
                answer = (await one.until(LocalAnswer)).sdp
                await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
            (track,) = [track for track in tracks if track.kind == "audio"]
            assert await loudness(track) > 100
            assert one.engine.stats().video_mode == "copy"
    finally:
        await pc.close()


async def test_no_sound_is_offered_that_there_is_not(clip: Path) -> None:
    for config in (
        EngineConfig(source=lambda: parse_source(clip, audio=True)),
        EngineConfig(source=lambda: parse_source("test:"), audio=True),
        EngineConfig(audio=True),
    ):
        async with end(open_engine, config) as one:
            one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=True))
            assert "m=audio" not in (await one.until(LocalOffer)).sdp


# --- Where packets leave ---


def test_what_cannot_leave_is_lost_and_what_finds_no_room_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Socket:
        def __init__(self, *_: object, **__: object) -> None:
            self.errors: list[int | None] = []
            self.sent: list[int] = []

        def setblocking(self, flag: bool) -> None:
            assert not flag

        def _next(self, size: int) -> int:
            error = self.errors.pop(0)
            if error is not None:
                raise OSError(error, "by the test")
            self.sent.append(size)
            return size

        def sendmsg(self, buffers: Any, *_: object) -> int:
            return self._next(len(buffers[0]))

        def sendto(self, data: bytes, _: object) -> int:
            return self._next(len(data))

    with socket.socket(type=socket.SOCK_DGRAM) as real:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", Socket)
            patch.setattr(os, "dup", lambda number: number)
            patch.setattr(sys, "platform", "linux")
            path = udp.SocketPath(real.fileno(), ("127.0.0.1", 9))
        fake: Any = path._socket
        fake.errors = [errno.ENOBUFS, errno.ENETUNREACH, None]
        assert [path.send(block(2500), 1000) for _ in range(3)] == [0, 2500, 2500]
        assert path.segments
        # A kernel or an interface that cannot: one by one from now on.
        fake.errors = [errno.EIO, None, errno.EAGAIN]
        fake.sent.clear()
        assert path.send(block(2500), 1000) == 1000
        assert not path.segments
        fake.errors = [errno.EPERM, None, None]
        assert path.send(block(2500), 1000) == 2500
        assert fake.sent == [1000, 1000, 500]


def block(size: int) -> memoryview:
    return memoryview(bytes(size))


class RelayedTransport:
    """As aioice's transport of a TURN allocation: it has no socket to the far side."""

    def __init__(self, waiting: list[int]) -> None:
        self.sent: list[tuple[bytes, object]] = []

        class Inner:
            class transport:  # noqa: N801 - an attribute
                @staticmethod
                def get_write_buffer_size() -> int:
                    return waiting[0]

        self._TurnTransport__inner_protocol = Inner

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def sendto(self, data: bytes, address: object) -> None:
        self.sent.append((data, address))


def test_a_relayed_path_takes_no_more_than_its_server_does() -> None:
    waiting = [0]
    transport = RelayedTransport(waiting)
    pair = SimpleNamespace(protocol=SimpleNamespace(transport=transport), remote_addr=("192.0.2.1", 9))
    path = aiortc_sending._path(pair)
    assert path.send(block(1500), 1000) == 1500
    assert [(len(data), address) for data, address in transport.sent] == [
        (1000, ("192.0.2.1", 9)),
        (500, pair.remote_addr),
    ]
    waiting[0] = udp.MAX_BUFFERED + 1
    assert path.send(block(1500), 1000) == 0


def test_without_a_descriptor_left_packets_leave_over_the_transport() -> None:
    class Exhausted(RelayedTransport):
        def get_extra_info(self, name: str, default: object = None) -> object:
            return SimpleNamespace(fileno=lambda: -1)  # which cannot be duplicated either

    transport = Exhausted([0])
    pair = SimpleNamespace(protocol=SimpleNamespace(transport=transport), remote_addr=("192.0.2.1", 9))
    assert aiortc_sending._path(pair).send(block(1500), 1000) == 1500
    assert len(transport.sent) == 2


def session(profile: int = pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80) -> pylibsrtp.Session:
    policy = pylibsrtp.Policy(
        key=bytes(range(44 if profile == SRTP_AEAD_AES_256_GCM.libsrtp_profile else 30)),
        ssrc_type=pylibsrtp.Policy.SSRC_ANY_OUTBOUND,
        srtp_profile=profile,
    )
    return pylibsrtp.Session(policy)


@pytest.mark.parametrize(
    "profile", [pylibsrtp.Policy.SRTP_PROFILE_AES128_CM_SHA1_80, SRTP_AEAD_AES_256_GCM.libsrtp_profile]
)
@pytest.mark.parametrize("sizes", [[1300] * 100, [1000, 1000, 500, 500, 1000, 20], [100, 1300, 100], [], [60] * 90])
def test_packets_are_encrypted_as_one_by_one(sizes: list[int], profile: int) -> None:
    frame = random.Random(1).randbytes(sum(sizes))
    ends = list(accumulate(sizes))
    payloads = [(b"before", end - size, end) for size, end in zip(sizes, ends, strict=True)]
    alone, together = session(profile), aiortc_sending.Protector(session(profile))
    blocks: list[tuple[memoryview, int]] = []
    for turn in range(2):  # at the second it is known what the cipher adds
        headers = HeaderTemplate(payload_type=97, ssrc=1).headers(len(sizes), 1000 * turn, 0, 0) if sizes else []
        expected = [
            alone.protect(header + payload_of(frame, payload))
            for header, payload in zip(headers, payloads, strict=True)
        ]
        blocks = together.protect(headers, payloads, frame)
        datagrams = [block[start : start + size] for block, size in blocks for start in range(0, len(block), size)]
        assert datagrams == expected
        for block, size in blocks:
            assert len(block) <= 65_000
            assert len(block) <= size * udp.MAX_SEGMENTS
    larger = sum(later > earlier for earlier, later in pairwise(sizes))
    assert len(blocks) <= 1 + len(sizes) // 30 + larger + len(set(sizes))


def test_what_cannot_be_encrypted_ends_the_stream() -> None:
    with pytest.raises(ConnectionError, match="cannot be encrypted"):
        aiortc_sending.Protector(session()).protect([b""], [(b"short", 0, 0)], b"")


def test_what_waits_above_the_socket_is_bounded() -> None:
    waiting = [0]
    sent: list[bytes] = []

    def send(datagram: bytes) -> None:
        sent.append(datagram)
        waiting[0] += udp.MAX_BUFFERED

    path = udp.TransportPath(send, lambda: waiting[0])
    assert path.send(block(2500), 1000) == 2000
    assert [len(datagram) for datagram in sent] == [1000, 1000]
    path.close()
