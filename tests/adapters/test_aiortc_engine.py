"""The engine over aiortc where it meets the network and other peers; what all engines share is in test_engine."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aioice.ice
import aiortc
import anyio
import av
import pytest
from aiortc import RTCConfiguration, RTCDataChannel, RTCIceTransport, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

from deepio_adapters import aiortc_hooks
from deepio_adapters.engine import ChannelOptions, EngineConfig, open_engine
from deepio_adapters.engine_room import engine_room
from deepio_core.inputs import (
    Activity,
    ChannelOpened,
    ChannelReceived,
    EngineClosed,
    EngineFailed,
    LocalAnswer,
    LocalOffer,
)
from deepio_core.outputs import (
    ApplyAnswer,
    ApplyCandidate,
    ApplyOffer,
    Cause,
    CloseEngine,
    SendChannel,
    StartEngine,
)
from deepio_core.signals import Candidate
from tests.engines import BOUND, End, connect, describe, end, pattern

pytestmark = pytest.mark.anyio

BOTH = EngineConfig(source=pattern(), receive_video=True)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # a plain aiortc peer, the far side of many of these tests, knows no other loop


@asynccontextmanager
async def plain_peer() -> AsyncGenerator[RTCPeerConnection]:
    """The plainest program on aiortc, as the far side."""
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    try:
        yield pc
    finally:
        await pc.close()


def ice_of(pc: RTCPeerConnection) -> RTCIceTransport:
    assert pc.sctp is not None
    return pc.sctp.transport.transport


async def call(pc: RTCPeerConnection, one: End, number: int = 1) -> str:
    """Has the plain peer offer; returns the engine's answer."""
    await pc.setLocalDescription()
    one.engine.perform(StartEngine(negotiation=number, remote_id="far", offerer=False))
    one.engine.perform(ApplyOffer(negotiation=number, sdp=pc.localDescription.sdp))
    answer = (await one.until(LocalAnswer, number)).sdp
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    return answer


async def answer(pc: RTCPeerConnection, one: End) -> None:
    """Has the plain peer answer."""
    one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=True))
    offer = (await one.until(LocalOffer)).sdp
    await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
    await pc.setLocalDescription()
    one.engine.perform(ApplyAnswer(negotiation=1, sdp=pc.localDescription.sdp))


# --- The data channel ---


async def test_text_and_binary_messages_are_received() -> None:
    async with end(open_engine) as one, plain_peer() as pc:
        channel = pc.createDataChannel("40 hex digits", ordered=False, maxPacketLifeTime=0)
        opened = asyncio.Event()
        channel.on("open", opened.set)
        await call(pc, one)
        await one.until(ChannelOpened)  # on this side, aiortc never tells that it is open
        with anyio.fail_after(BOUND):
            await opened.wait()
        for message in ("text", b"binary", "", b""):
            channel.send(message)
        await one.until(ChannelReceived, count=4)
        assert sorted(repr(report.data) for report in one.of(ChannelReceived)) == ["''", "'text'", "b''", "b'binary'"]


async def test_the_far_side_sees_our_channel_as_configured() -> None:
    options = ChannelOptions(label="data", ordered=False, max_retransmits=0, protocol="deep")
    seen: list[RTCDataChannel] = []
    async with end(open_engine, EngineConfig(channel=options)) as one, plain_peer() as pc:
        pc.on("datachannel", seen.append)
        await answer(pc, one)
        await one.until(ChannelOpened)
        (channel,) = seen
        assert (channel.label, channel.ordered, channel.maxRetransmits, channel.protocol) == ("data", False, 0, "deep")


async def test_a_channel_that_the_far_side_closes_is_told() -> None:
    async with end(open_engine) as one, plain_peer() as pc:
        channel = pc.createDataChannel("data_channel")
        await call(pc, one)
        await one.until(ChannelOpened)
        channel.close()
        failed = await one.until(EngineFailed)
        assert (failed.cause, failed.detail) == (Cause.CHANNEL_CLOSED, "the remote peer closed the data channel")
        one.engine.perform(SendChannel(negotiation=1, text="too late"))
        one.engine.perform(CloseEngine(negotiation=1))
        await one.until(EngineClosed)
        assert one.engine.stats().messages_dropped == 1


async def test_a_far_side_that_closes_is_told_as_closed_and_not_as_failed() -> None:
    async with end(open_engine) as one, plain_peer() as pc:
        pc.createDataChannel("data_channel")
        await call(pc, one)
        await one.until(ChannelOpened)
        await pc.close()
        await one.until(EngineClosed)
        assert not one.of(EngineFailed)


async def test_a_second_channel_is_closed() -> None:
    async with end(open_engine) as one, plain_peer() as pc:
        first, second = pc.createDataChannel("first"), pc.createDataChannel("second")
        closed = asyncio.Event()
        second.on("close", closed.set)
        await call(pc, one)
        with anyio.fail_after(BOUND):
            await closed.wait()
        first.send("goes on")
        assert (await one.until(ChannelReceived)).data == "goes on"
        assert one.engine.stats().last_notice == "The remote peer has opened a second data channel; it is closed."


async def test_what_the_far_side_does_not_take_is_not_piled_up() -> None:
    async with end(open_engine, EngineConfig(max_buffered=300_000)) as one, plain_peer() as pc:
        pc.createDataChannel("data_channel")
        await call(pc, one)
        await one.until(ChannelOpened)
        for _ in range(100):
            one.engine.perform(SendChannel(negotiation=1, text="x" * 50_000))
        await one.when(lambda: one.engine.stats().messages_sent + one.engine.stats().messages_dropped == 100)
        assert one.engine.stats().messages_sent <= 8


# --- Media ---


async def test_audio_is_taken_and_dropped_undecoded() -> None:
    async with end(open_engine, BOTH) as one, plain_peer() as pc:
        pc.addTrack(AudioStreamTrack())
        pc.addTrack(VideoStreamTrack())
        pc.createDataChannel("data_channel")
        described = await call(pc, one)
        directions = re.findall(r"(?m)^a=(sendrecv|sendonly|recvonly|inactive)\s*$", described)
        assert directions == ["recvonly", "sendrecv"]
        assert (await one.frame()).to_ndarray().shape == (480, 640, 3)
        picture = await pc.getReceivers()[1].track.recv()
        assert isinstance(picture, av.VideoFrame)
        assert picture.width == 160


async def test_a_second_video_is_refused() -> None:
    async with end(open_engine, BOTH) as one, plain_peer() as pc:
        pc.addTrack(VideoStreamTrack())
        pc.addTransceiver("video", direction="sendrecv")
        pc.createDataChannel("data_channel")
        described = await call(pc, one)
        directions = re.findall(r"(?m)^a=(sendrecv|sendonly|recvonly|inactive)\s*$", described)
        assert directions == ["sendrecv", "inactive"]
        await one.until(ChannelOpened)


# --- What ends badly ---


async def test_a_description_that_aiortc_stumbles_over_is_told_without_quoting_it(caplog) -> None:
    sdp = (
        "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=application nine UDP/DTLS/SCTP webrtc-datachannel\r\n"
        "a=fingerprint:sha-256 SECRET\r\n"
    )
    async with end(open_engine) as one:
        one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=False))
        one.engine.perform(ApplyOffer(negotiation=1, sdp=sdp))
        failed = await one.until(EngineFailed)
    assert failed.cause is Cause.ENGINE
    assert re.fullmatch(r"the remote peer's offer cannot be applied \(\w+\)", failed.detail)
    assert "SECRET" not in caplog.text


async def test_a_fault_of_the_library_is_told(monkeypatch, caplog) -> None:
    async def broken(self: RTCPeerConnection) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(RTCPeerConnection, "setLocalDescription", broken)
    async with end(open_engine) as one:
        one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=True))
        failed = await one.until(EngineFailed)
    assert (failed.cause, failed.detail) == (Cause.ENGINE, "the engine has failed unexpectedly (ZeroDivisionError)")
    assert "The negotiation has failed unexpectedly" in caplog.text


async def test_a_far_side_that_cannot_be_reached_is_told() -> None:
    async with end(open_engine) as a, end(open_engine) as b:
        for one in (a, b):
            one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=one is a))
        offer = (await a.until(LocalOffer)).sdp
        nowhere = re.sub(r"(?m)^a=(candidate:.*|end-of-candidates)\r?\n", "", offer)
        b.engine.perform(ApplyOffer(negotiation=1, sdp=nowhere))
        await b.until(LocalAnswer)
        b.engine.perform(ApplyCandidate(negotiation=1, candidate=None))
        failed = await b.until(EngineFailed)
        assert (failed.cause, failed.detail) == (Cause.ENGINE, "there is no path to the remote peer (ICE failed)")


async def test_a_certificate_that_is_not_the_one_described_is_refused() -> None:
    async with end(open_engine) as a, end(open_engine) as b:
        for one in (a, b):
            one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=one is a))
        offer = (await a.until(LocalOffer)).sdp
        forged = re.sub(r"(a=fingerprint:\S+ )\S\S", r"\g<1>" + "00", offer)
        b.engine.perform(ApplyOffer(negotiation=1, sdp=forged))
        a.engine.perform(ApplyAnswer(negotiation=1, sdp=(await b.until(LocalAnswer)).sdp))
        failed = await b.until(EngineFailed)
        assert failed.detail.endswith("(DTLS failed)")
        assert not b.of(ChannelOpened)


async def test_a_far_side_that_vanishes_falls_silent() -> None:
    async with end(open_engine) as one, plain_peer() as pc:
        pc.createDataChannel("data_channel")
        await call(pc, one)
        await one.until(Activity, count=2)
        # As if its cable were pulled: nothing comes from it any more, and nothing is said.
        connection: Any = ice_of(pc)._connection
        for protocol in connection._protocols:
            protocol.datagram_received = lambda data, addr: None
        connection._query_consent_task.cancel()
        # What was under way may still be told; after that there must be silence, for as long as the core waits.
        await anyio.sleep(1.5)
        before = len(one.of(Activity))
        await anyio.sleep(3)
        assert len(one.of(Activity)) == before
        assert not one.of(EngineFailed)  # to decide is the core's


# --- Closing ---


async def test_closing_is_bounded_whatever_aiortc_does(monkeypatch, caplog) -> None:
    close = RTCPeerConnection.close
    release: list[asyncio.Event] = []

    async def hangs(self: RTCPeerConnection) -> None:
        event = asyncio.Event()
        release.append(event)
        while not event.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await event.wait()
        await close(self)

    async with engine_room() as room:
        async with end(open_engine, EngineConfig(close_timeout=0.1)) as a, end(open_engine) as b:
            await connect(a, b)
            monkeypatch.setattr(RTCPeerConnection, "close", hangs)
            began = time.monotonic()
            a.engine.perform(CloseEngine(negotiation=1))
            await a.until(EngineClosed)
            assert time.monotonic() - began < 2
            assert "did not close within 0.1 s; it goes on closing alone" in caplog.text
            monkeypatch.undo()
            # It can be used again at once.
            a.engine.perform(StartEngine(negotiation=2, remote_id="far", offerer=True))
            await a.until(LocalOffer, 2)
            for event in release:
                room.call_soon(event.set)
        await room.run(_others_done)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to count descriptors")
async def test_a_close_that_is_late_still_leaves_nothing_behind(monkeypatch) -> None:
    close = RTCPeerConnection.close

    async def dawdles(self: RTCPeerConnection) -> None:
        await asyncio.sleep(0.3)
        await close(self)

    async with engine_room() as room, end(open_engine, EngineConfig(close_timeout=0.1)) as a, end(open_engine) as b:
        before = len(os.listdir("/proc/self/fd"))
        await connect(a, b)
        monkeypatch.setattr(RTCPeerConnection, "close", dawdles)
        a.engine.perform(CloseEngine(negotiation=1))
        await a.until(EngineClosed)
        await b.until(EngineClosed)
        await room.run(_others_done)
        gc.collect()
        assert not await room.run(_others)
        assert len(os.listdir("/proc/self/fd")) <= before


async def test_a_close_that_raises_is_logged(monkeypatch, caplog) -> None:
    close = RTCPeerConnection.close

    async def raises(self: RTCPeerConnection) -> None:
        await close(self)
        raise ZeroDivisionError

    monkeypatch.setattr(RTCPeerConnection, "close", raises)
    async with end(open_engine) as one:
        one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=True))
        await one.until(LocalOffer)
        one.engine.perform(CloseEngine(negotiation=1))
        await one.until(EngineClosed)
    assert "ZeroDivisionError" in caplog.text


async def _others_done() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=BOUND)


async def _others() -> set[str]:
    return {repr(task) for task in asyncio.all_tasks() - {asyncio.current_task()}}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to count descriptors")
async def test_fifty_connections_leave_nothing_behind() -> None:
    async with engine_room() as room, end(open_engine, BOTH) as a, end(open_engine, BOTH) as b:

        async def cycle(number: int) -> None:
            await connect(a, b, number)
            await b.frame(number)
            closer = (a, b)[number % 2]
            closer.engine.perform(CloseEngine(negotiation=number))
            for one in (a, b):
                await one.until(EngineClosed, number)

        async def left() -> tuple[int, int, set[str]]:
            await room.run(_others_done)
            gc.collect()
            descriptors = len(os.listdir("/proc/self/fd"))
            return descriptors, threading.active_count(), await room.run(_others)

        for number in range(1, 6):
            await cycle(number)
        descriptors, threads, tasks = await left()
        assert not tasks
        for number in range(6, 51):
            await cycle(number)
        after = await left()
        assert after[0] <= descriptors
        # The pool of the encoder may still grow to its size; nothing else may.
        pool = [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]
        assert after[1] - len(pool) <= threads
        assert not after[2]
        assert not a.of(EngineFailed)
        assert not b.of(EngineFailed)


# --- Where we reach into aiortc and aioice ---


async def test_without_the_hooks_it_works_and_takes_a_connection_for_alive(monkeypatch, caplog) -> None:
    monkeypatch.setattr(aiortc_hooks, "TESTED", {"aiortc": "0.", "aioice": "0."})
    aiortc_hooks.usable.cache_clear()
    try:
        async with end(open_engine, BOTH) as a, end(open_engine) as b:
            await connect(a, b)
            await a.until(Activity, count=2)
            assert a.engine.stats().path is None
    finally:
        aiortc_hooks.usable.cache_clear()
    assert "Not tested with aiortc" in caplog.text


async def test_the_hooks_are_usable_with_what_is_installed() -> None:
    assert aiortc_hooks.usable(), aiortc.__version__


async def test_a_machine_without_a_network_connects_to_itself(monkeypatch) -> None:
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: [])
    async with end(open_engine) as a, end(open_engine) as b:
        offer, _ = await connect(a, b)
        assert "127.0.0.1" in offer


async def test_with_relay_only_and_no_relay_nothing_is_offered() -> None:
    async with end(open_engine, EngineConfig(ice_transport_policy="relay")) as one:
        one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=True))
        assert "a=candidate" not in (await one.until(LocalOffer)).sdp


async def test_trickled_candidates_connect() -> None:
    async with end(open_engine) as a, end(open_engine) as b:
        for one in (a, b):
            one.engine.perform(StartEngine(negotiation=1, remote_id="far", offerer=one is a))
        offer = (await a.until(LocalOffer)).sdp
        trickled = re.sub(r"(?m)^a=(candidate:.*|end-of-candidates)\r?\n", "", offer)
        b.engine.perform(ApplyOffer(negotiation=1, sdp=trickled))
        answer = (await b.until(LocalAnswer)).sdp
        bare = re.sub(r"(?m)^a=(candidate:.*|end-of-candidates)\r?\n", "", answer)
        a.engine.perform(ApplyAnswer(negotiation=1, sdp=bare))
        for one, sdp in ((a, answer), (b, offer)):
            for text in re.findall(r"(?m)^a=(candidate:.*?)\r?$", sdp):
                candidate = Candidate(candidate=text, sdp_mid="0", sdp_mline_index=0)
                one.engine.perform(ApplyCandidate(negotiation=1, candidate=candidate))
            one.engine.perform(ApplyCandidate(negotiation=1, candidate=None))
        for one in (a, b):
            await one.until(ChannelOpened)


async def test_a_question_without_a_path_or_without_an_answer_has_none() -> None:
    async with plain_peer() as pc, plain_peer() as far:
        pc.createDataChannel("data_channel")
        ice = ice_of(pc)
        assert await aiortc_hooks.ask(ice) is None
        assert aiortc_hooks.path(ice) is None
        await pc.setLocalDescription()
        await far.setRemoteDescription(pc.localDescription)
        await far.setLocalDescription()
        connected = asyncio.Event()

        def on_state() -> None:
            if pc.connectionState == "connected":
                connected.set()

        pc.on("connectionstatechange", on_state)
        await pc.setRemoteDescription(far.localDescription)
        with anyio.fail_after(BOUND):
            await connected.wait()
        round_trip = await aiortc_hooks.ask(ice)
        assert round_trip is not None
        assert 0 < round_trip < 1


async def test_describing_without_waiting_connects_too() -> None:
    async with end(open_engine, BOTH) as a, end(open_engine, BOTH) as b:
        await describe(a, b)
        a.engine.perform(SendChannel(negotiation=1, text="too early"))
        for one in (a, b):
            await one.until(ChannelOpened)
