"""The main job on real input, on both event loops and in both roles: a file, WebSocket, WebRTC, a detector, results."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import pytest

import deepio_asyncio
import deepio_trio
from deepio_adapters.test_pattern import read_counter
from deepio_core.messages import DataMessage, MetadataMessage, UnknownMessage
from deepio_core.outputs import Disconnected
from deepio_core.states import PeerState
from deepio_server.core import Core, CoreConfig, local_core
from tests.cli.processes import running
from tests.engines import BOUND
from tests.media import make_clip

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(90)]

FACES: dict[str, Any] = {"asyncio": deepio_asyncio.DeepIO, "trio": deepio_trio.DeepIO}
DETECTOR = "tests.detecting:counter"


@pytest.fixture(params=FACES)
def anyio_backend(request: Any) -> Any:
    return request.param


@pytest.fixture
def deepio(anyio_backend: str) -> Any:
    return FACES[anyio_backend]


@pytest.fixture(scope="module")
def core() -> Any:
    with local_core(CoreConfig(detector=DETECTOR)) as one:
        yield one


@pytest.fixture(scope="module")
def clip(tmp_path_factory: Any) -> str:
    """Three seconds of H.264 with a counter burnt into each frame."""
    return str(make_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", frames=75, b_frames=2))


async def send_metadata(deep: Any, metadata: Any) -> None:
    """Each face hands over metadata in its own way."""
    await deep.send_metadata(metadata)


def counters(message: Any) -> list[int]:
    return [int(one.id) for one in message.detections()]


@asynccontextmanager
async def connected(deep: Any) -> AsyncGenerator[Any]:
    async with deep:
        with anyio.fail_after(BOUND):
            await deep.wait_connected()
        yield deep


# --- We call --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "libx264"), ("webm", "libvpx")])
async def test_a_file_is_streamed_and_its_results_come_back(
    deepio: Any, core: Core, tmp_path: Any, suffix: str, codec: str
) -> None:
    path = make_clip(tmp_path / f"clip.{suffix}", codec=codec, frames=45)
    manager = core.managers[0]
    seen: list[int] = []
    handled: list[Any] = []
    round_trips: list[float] = []
    acknowledged = 0
    deep = deepio(core.url, None, path, "cam", metadata={"gate": 1}, auto_connect=True)
    deep.add_data_handler(handled.append)
    async with deep:
        with anyio.fail_after(30):
            async for message in deep.messages():
                assert isinstance(message, DataMessage)
                seen += counters(message)
                round_trips.append(message.round_trip or 0)
                acknowledged = max(acknowledged, manager.statistics.acknowledged)
                if len(seen) == 10:
                    assert manager.metadata == {"gate": 1}
                    await send_metadata(deep, {"gate": 2})
        # The end of the file has ended the iteration, and without an error.
        assert manager.metadata == {"gate": 2}
        stats = deep.stats()
    assert seen == sorted(set(seen))  # intact: each once, in order
    assert len(seen) > 30
    assert set(seen) <= set(range(45))
    assert seen[-1] >= 40
    assert max(round_trips) > 0
    assert acknowledged > 10
    assert len(handled) == stats.messages_received
    assert 35 <= stats.frames_sent <= 45
    assert stats.reconnects == 0
    assert deep.state is PeerState.STARTING


async def test_video_that_comes_back_is_ours(deepio: Any, core: Core, clip: str) -> None:
    async with connected(deepio(core.url, None, "test:640x480@25", "other", auto_connect=True)) as other:
        with anyio.fail_after(BOUND):
            await first(other.messages(), DataMessage)
    async with connected(deepio(core.url, None, clip, "cam", auto_connect=True, receive_video=True)) as deep:
        seen: list[int] = []
        with anyio.fail_after(BOUND):
            async for frame in deep.frames():
                number = read_counter(frame.to_ndarray())
                # Dark before our first frame, and never a picture of the camera that was here before.
                assert number is None or (frame.width, frame.height) == (320, 240)
                if number is not None:
                    seen.append(number)
                if len(set(seen)) == 8:
                    break
    assert all(before <= after for before, after in pairwise(seen))


async def test_it_leaves_and_the_next_one_is_served(deepio: Any, core: Core) -> None:
    for name in ("one", "two"):
        async with connected(deepio(core.url, None, "test:160x128@25", name, auto_connect=True)) as deep:
            with anyio.fail_after(BOUND):
                async for message in deep.messages():
                    if isinstance(message, DataMessage):
                        break
            assert core.managers[0].camera.remote_id == name


async def test_a_server_that_is_killed_and_comes_back_is_found_again(deepio: Any, clip: str) -> None:
    with running("serve", "--port", "0", "--detector", DETECTOR, "--json") as first:
        url = (await anyio.to_thread.run_sync(first.json))["url"]
        port = url.rpartition(":")[2]
        deep = deepio(url, None, clip, "cam", auto_connect=True, loop=True, silence_timeout=2.0, metadata="mine")
        states: list[str] = []
        deep.add_event_handler(lambda event: states.append(type(event).__name__))
        async with deep:
            messages = deep.messages()

            async def results(count: int) -> list[int]:
                seen: list[int] = []
                with anyio.fail_after(40):
                    async for message in messages:
                        if isinstance(message, DataMessage):
                            seen += counters(message)
                            if len(seen) >= count:
                                break
                return seen

            assert len(await results(10)) >= 10
            first.process.kill()
            await anyio.to_thread.run_sync(first.process.wait)
            serve = partial(running, "serve", "--port", port, "--detector", DETECTOR, "--json")
            with serve() as second:
                assert (await anyio.to_thread.run_sync(second.json))["url"] == url
                while deep.stats().reconnects == 0:  # results of the first core may be waiting still
                    await results(1)
                assert len(await results(10)) >= 10
                stats = deep.stats()
    assert stats.reconnects == 1
    assert stats.last_error
    assert "Retrying" in states


# --- We are called --------------------------------------------------------------------------------------------------


async def first(messages: Any, kind: type[Any]) -> Any:
    """The next message of a kind, as it came."""
    async for message in messages:
        if isinstance(message, kind):
            return message.raw
    raise AssertionError("the session has ended")


async def until_listening(deep: Any) -> None:
    changed = anyio.Event()

    def look(_event: Any) -> None:
        if deep.state is PeerState.LISTENING:
            changed.set()

    deep.add_event_handler(look)
    look(None)
    with anyio.fail_after(BOUND):
        await changed.wait()


async def test_a_camera_is_called_by_another_client(deepio: Any, core: Core) -> None:
    async with deepio(core.url, None, "test:320x240@25", "camera", metadata={"place": "door"}) as camera:
        for visit in (1, 2):  # who was called and left listens again
            await until_listening(camera)
            asked = camera.messages()
            viewer = deepio(
                core.url, None, None, f"viewer{visit}", "remote_client", remotePeerId="camera", receive_video=True
            )
            async with viewer:
                told = viewer.messages()
                with anyio.fail_after(BOUND):
                    assert await viewer.wait_connected() == "camera"
                    seen: list[int | None] = []
                    async for frame in viewer.frames():
                        assert (frame.width, frame.height) == (320, 240)
                        seen.append(read_counter(frame.to_ndarray()))
                        if len(seen) == 10:
                            break
                    assert all(a is not None and b is not None and a < b for a, b in pairwise(seen))
                    assert await first(told, MetadataMessage) == {"type": "metadata", "metadata": {"place": "door"}}
                    assert camera.remote_id == f"viewer{visit}"
                    await viewer.send({"type": "question", "number": visit})
                    assert await first(asked, UnknownMessage) == {"type": "question", "number": visit}
                    await camera.send({"type": "answer", "text": "é"})
                    assert await first(told, UnknownMessage) == {"type": "answer", "text": "é"}
        await until_listening(camera)
        assert camera.stats().reconnects == 1


async def test_the_called_side_may_leave_too(deepio: Any, core: Core) -> None:
    lost = anyio.Event()
    details: list[str] = []

    def look(event: Any) -> None:
        if isinstance(event, Disconnected):
            details.append(event.detail)
            lost.set()

    viewer = deepio(core.url, None, None, "viewer", "remote_client", remotePeerId="camera")
    viewer.add_event_handler(look)
    async with viewer:  # and waits for the camera to come
        async with deepio(core.url, None, "test:160x128@25", "camera", metadata=1):
            told = viewer.messages()
            with anyio.fail_after(BOUND):
                assert await first(told, MetadataMessage) == {"type": "metadata", "metadata": 1}
        with anyio.fail_after(BOUND):
            await lost.wait()
        async with deepio(core.url, None, "test:160x128@25", "camera", metadata=2):
            with anyio.fail_after(BOUND):
                assert await first(told, MetadataMessage) == {"type": "metadata", "metadata": 2}
        assert viewer.stats().reconnects == 1
