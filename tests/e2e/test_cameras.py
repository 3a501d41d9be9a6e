"""A real camera and a real connection, each of which comes and goes while the other stays."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import anyio
import pytest

from deepio_adapters.engine import EngineConfig, open_engine
from deepio_adapters.reconnecting import ReconnectPolicy
from deepio_adapters.shared import SharedSource
from deepio_adapters.sources import Source, parse_source
from deepio_adapters.udp import SocketPath
from deepio_core.inputs import EngineClosed, EngineFailed
from deepio_core.outputs import CloseEngine
from tests import rtsp_server
from tests.engines import connect, end
from tests.media import make_clip
from tests.rtsp_server import RtspServer

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(not rtsp_server.is_installed(), reason=rtsp_server.NEEDED)]

POLICY = ReconnectPolicy(first=0.1, longest=0.2)

GOP = 100
"""Pictures from one keyframe of the camera to the next: 4 s. Who waits for one is found out."""

AT_ONCE = 1.5
"""Seconds within which a picture must come that need not wait for a keyframe, on a machine that is busy."""

BACK_WITHIN = POLICY.longest + 3.0
"""Seconds from the camera's return to its picture: the longest wait between two attempts, and the opening."""


RECOVERED_WITHIN = 2.0
"""Seconds from the end of a loss to a picture: half a second until it is asked for, half a second for which the request
may wait for the camera's own keyframe, the rest for the machine."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cameras") / "clip.mp4"
    one_slice = {"x264-params": "slices=1:sliced-threads=0:scenecut=0"}
    return make_clip(path, frames=200, size=(160, 120), gop=GOP, options=one_slice)


@pytest.fixture
def server(clip: Path, tmp_path: Path) -> Iterator[RtspServer]:
    with RtspServer(clip, tmp_path) as running:
        yield running


def sending(server: RtspServer) -> EngineConfig:
    make: Callable[[], Source] = partial(parse_source, server.url, options={"rtsp_transport": "tcp"}, reconnect=POLICY)
    return EngineConfig(source=make)


RECEIVING = EngineConfig(receive_video=True)


async def test_the_connection_stays_while_the_camera_comes_and_goes(server: RtspServer) -> None:
    async with end(open_engine, sending(server)) as near, end(open_engine, RECEIVING) as far:
        await connect(near, far)
        for restarts in range(1, 3):
            await far.counter()
            server.kill()
            await near.when(lambda: near.engine.stats().video_reason == "the source is away", "gap")
            server.start()
            begun = time.monotonic()
            while near.engine.stats().source_reconnects < restarts:
                await far.counter()
            await far.counter()
            assert time.monotonic() - begun < BACK_WITHIN
        stats = near.engine.stats()
        assert (stats.video_mode, stats.codec_out) == ("copy", "H264")
        assert far.engine.stats().decode_errors == 0
        assert not near.of(EngineFailed)
        assert not far.of(EngineFailed)


async def test_the_camera_stays_while_the_peer_comes_and_goes(server: RtspServer) -> None:
    async with end(open_engine, sending(server)) as near, end(open_engine, RECEIVING) as far:
        for number in range(1, 4):
            await connect(near, far, number)
            begun = time.monotonic()
            await far.counter(number)
            assert time.monotonic() - begun < AT_ONCE
            for one in (near, far):
                one.engine.perform(CloseEngine(negotiation=number))
                await one.until(EngineClosed, number)
        assert near.engine.stats().source_reconnects == 0
        assert far.engine.stats().decode_errors == 0


async def test_one_camera_feeds_several_connections(server: RtspServer) -> None:
    shared = EngineConfig(shared=SharedSource(server.url, options={"rtsp_transport": "tcp"}))
    async with end(open_engine, shared) as near, end(open_engine, RECEIVING) as far:
        await connect(near, far)
        await far.counter()
        async with end(open_engine, shared) as second, end(open_engine, RECEIVING) as other:
            await connect(second, other)
            begun = time.monotonic()
            await other.counter()
            assert time.monotonic() - begun < AT_ONCE
        await far.counter()


@pytest.mark.skipif(sys.platform != "linux", reason="packets are lost on their way into a socket of Linux")
async def test_after_a_loss_that_cannot_be_mended_a_keyframe_is_encoded(
    server: RtspServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, losing = SocketPath.send, False

    def lossy(path: SocketPath, block: memoryview, size: int) -> int:
        return len(block) if losing else send(path, block, size)

    monkeypatch.setattr(SocketPath, "send", lossy)
    # Nothing is kept to be sent again.
    monkeypatch.setattr("deepio_adapters.rtp_sender.HISTORY_PACKETS", 1)
    async with end(open_engine, sending(server)) as near, end(open_engine, RECEIVING) as far:
        await connect(near, far)
        # The camera has just been opened; with its next keyframe, copying begins.
        await far.counter()
        server.kill()
        server.start()
        while near.engine.stats().video_mode != "copy":
            await far.counter()
        await anyio.sleep(0.5)
        await far.counter()
        losing = True
        await anyio.sleep(0.3)
        losing = False
        begun, seen = time.monotonic(), far.engine.stats().frames_received
        while far.engine.stats().frames_received == seen:
            await far.counter()
        assert time.monotonic() - begun < RECOVERED_WITHIN
        assert near.engine.stats().keyframe_requests > 0
        assert near.engine.stats().video_mode == "encode"
