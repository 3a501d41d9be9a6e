"""The stream manager: what it says to cameras and viewers, and that neither they nor its detector can stop it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import anyio
import pytest

import deepio_asyncio
import deepio_trio
from deepio_core.messages import DataMessage, MetadataMessage, SourceDisconnectedMessage, WarningMessage
from deepio_core.states import PeerState
from deepio_server.core import Core, CoreConfig, local_core, serve
from deepio_server.detectors import load_detector
from deepio_server.signaling import SignalingService
from deepio_server.stream_manager import StreamManager
from tests.engines import BOUND

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(40)]

FIELDS = {
    "type",
    "received_frames",
    "processed_frames",
    "generated_frames",
    "messages_sent",
    "last_frame_shape",
    "round_trip",
    "deep_delay",
    "processing_period",
    "collector_time",
    "vc_time",
    "rec_time",
    "held_frames",
    "detector_category",
    "objects",
    "frame_attributes",
    "data",
}
"""What stream_manager.py sends, v1.0.16 and, for `data`, those before October 2020."""


@pytest.fixture
def anyio_backend():
    return "asyncio"


def camera(core: Core, source: Any = "test:160x128@25", name: str = "cam é", **more: Any) -> deepio_asyncio.DeepIO:
    return deepio_asyncio.DeepIO(core.url, None, source, name, auto_connect=True, **more)


def viewer(core: Core, name: str = "viewer") -> deepio_asyncio.DeepIO:
    return deepio_asyncio.DeepIO(
        core.url, None, None, name, peer_type="remote_client", remotePeerId="stream_manager_output", receive_video=True
    )


async def some(deep: Any, kind: type, count: int = 1, fits: Callable[[Any], bool] = lambda _: True) -> list[Any]:
    """The next messages of a kind that fit."""
    found: list[Any] = []
    with anyio.fail_after(BOUND):
        async for message in deep.messages():
            if isinstance(message, kind) and fits(message):
                found.append(message)
                if len(found) == count:
                    break
    return found


@asynccontextmanager
async def connected(deep: Any) -> AsyncGenerator[Any]:
    async with deep:
        with anyio.fail_after(BOUND):
            await deep.wait_connected()
        yield deep


async def test_every_field_of_a_result() -> None:
    detector = "tests.detecting:everything"
    async with serve(CoreConfig(detector=detector)) as core, connected(camera(core)) as deep:
        messages = [message.raw for message in await some(deep, DataMessage, 12)]
    assert all(set(message) == FIELDS for message in messages)
    first = messages[0]
    assert first["type"] == "data"
    assert first["last_frame_shape"] == [128, 160, 3]
    assert first["detector_category"] == "everything"
    corners = {"x_topleft": 1.5, "y_topleft": 2, "x_bottomright": 30, "y_bottomright": 40}
    attribute = {"age": {"value": "(25, 32)", "vc_time": 12.5}}
    points = [[3, 4, "nose"]]
    assert first["objects"] == [{"pid": "7", "rect": corners, "points": points, "class": "face", **attribute}]
    old_rect = {**corners, "class": "face"}
    assert first["data"] == [{"pid": "7", "rect": old_rect, "points": points, "age": "(25, 32)"}]
    assert first["frame_attributes"] == {}
    for message in messages:
        assert message["vc_time"] <= message["collector_time"] <= message["rec_time"]
        assert message["deep_delay"] == message["rec_time"] - message["vc_time"]
        assert message["received_frames"] >= message["processed_frames"] == message["messages_sent"]
        assert message["generated_frames"] == 0  # the camera has refused our video
    for before, after in pairwise(messages):
        if after["messages_sent"] == before["messages_sent"] + 1:  # the channel may lose some
            assert after["processing_period"] == pytest.approx(after["rec_time"] - before["rec_time"])
    assert 0 < messages[-1]["round_trip"] < 5


async def test_results_count_from_one_for_each_camera_and_know_its_metadata() -> None:
    async with serve(CoreConfig()) as core:
        manager = core.managers[0]
        for name in ("first", "second"):
            metadata = {"camera": name}
            async with connected(camera(core, name=name, metadata=metadata)) as deep:
                (message,) = await some(deep, DataMessage)
                assert message.raw["messages_sent"] <= 10  # those before may have come before we were looking
                assert manager.metadata == metadata
                assert manager.camera.remote_id == name
                later = {"camera": name, "later": True}
                deep.send_metadata(later)
                with anyio.fail_after(BOUND):
                    async for _ in deep.messages():  # each says that a moment has passed
                        if manager.metadata == later and manager.statistics.messages_sent > 20:
                            break


async def test_a_camera_can_pause_its_results_and_go_on() -> None:
    async with serve(CoreConfig()) as core, connected(camera(core)) as deep:
        manager = core.managers[0]
        await some(deep, DataMessage)
        await deep.send({"type": "source", "peerId": "none"})
        messages = deep.messages()
        received = manager.camera.frames()
        counts = []
        with anyio.fail_after(BOUND):
            async for _ in received:
                counts.append(manager.statistics.received_frames)
                if len(counts) > 20 and counts[-1] == counts[-15]:
                    break
        await deep.send({"type": "source", "peerId": deep.peer.id})
        with anyio.fail_after(BOUND):
            async for message in messages:
                if isinstance(message, DataMessage) and (message.received_frames or 0) > counts[-1]:
                    break


async def test_it_takes_no_video_of_others() -> None:
    async with serve(CoreConfig()) as core, connected(camera(core, source_id="somebody-else")) as deep:
        (message,) = await some(deep, SourceDisconnectedMessage)
        assert message.reason
        (manager,) = core.managers
        # Some may have come before it was said whose video is meant.
        before, seen = manager.statistics.received_frames, manager.camera.stats().frames_received
        with anyio.fail_after(BOUND):
            while manager.camera.stats().frames_received < seen + 10:  # noqa: ASYNC110 - what changes it has no event
                await anyio.sleep(0.01)
        assert manager.statistics.received_frames == before
        assert manager.camera.state is PeerState.CONNECTED


async def test_strange_messages_harm_nothing() -> None:
    async with serve(CoreConfig()) as core, connected(camera(core)) as deep:
        strange: list[Any] = [5, None, "x", [], {}, *({"type": kind} for kind in (5, "source", "metadata", "data"))]
        for value in strange:
            await deep.send(value)
        await deep.send({"type": "acknowledge", "rec_time": "soon"})
        await deep.send({"type": "source", "peerId": deep.peer.id})
        assert await some(deep, DataMessage, 3)


async def test_a_viewer_gets_results_metadata_and_video() -> None:
    async with serve(CoreConfig(detector="tests.detecting:counter")) as core, connected(viewer(core)) as watching:
        assert [peer.type for peer in core.signaling.peers][:2] == ["stream_manager", "webrtc_stream"]
        async with connected(camera(core, name="cam", metadata={"place": "door"})) as deep:
            messages = watching.messages()
            async with anyio.create_task_group() as tasks:
                seen: list[Any] = []

                async def collect() -> None:
                    seen.extend(await some(deep, DataMessage, 30))

                tasks.start_soon(collect)
                watched: list[Any] = []
                with anyio.fail_after(BOUND):
                    async for message in messages:
                        watched.append(message)
                        if sum(isinstance(one, DataMessage) for one in watched) == 10:
                            break
            both = {m.raw["messages_sent"]: m.raw for m in seen}
            same = [m.raw for m in watched if isinstance(m, DataMessage) and m.raw["messages_sent"] in both]
            assert same
            assert all(both[raw["messages_sent"]] == raw for raw in same)
            deep.send_metadata({"place": "yard"})
            (relayed,) = await some(
                watching, MetadataMessage, fits=lambda message: message.metadata == {"place": "yard"}
            )
            assert relayed.raw == {"type": "metadata", "metadata": {"place": "yard"}}
            with anyio.fail_after(BOUND):
                async for frame in watching.frames():
                    if (frame.height, frame.width) == (128, 160):
                        break
        # The camera has left, and the viewer has not.
        assert core.managers[0].viewer.state is PeerState.CONNECTED


async def test_a_camera_that_wants_video_back_gets_its_own() -> None:
    async with serve(CoreConfig()) as core, connected(camera(core, receive_video=True)) as deep:
        with anyio.fail_after(BOUND):
            async for frame in deep.frames():
                if (frame.height, frame.width) == (128, 160):
                    break
        # Ten a second go back of the 25 that come, once the first have been counted.
        await some(deep, DataMessage, fits=lambda m: 0 < m.raw["generated_frames"] < m.raw["received_frames"])


async def test_a_detector_that_fails_is_told_and_goes_on(caplog: Any) -> None:
    detector = "tests.detecting:FailsTwiceOfThree"
    async with serve(CoreConfig(detector=detector)) as core, connected(camera(core)) as deep:
        failed = {message.text for message in await some(deep, WarningMessage, 6)}
        (result,) = await some(deep, DataMessage)
    assert failed == {"The detector has failed: ZeroDivisionError", "The detector has failed: AttributeError"}
    assert result.raw["objects"] == []
    assert result.raw["processed_frames"] == result.raw["messages_sent"] < result.raw["received_frames"]
    assert "of no use" in caplog.text


async def test_several_managers_serve_several_cameras() -> None:
    async with serve(CoreConfig(managers=2, peer_type="deep_input")) as core:
        assert [peer.id for peer in core.signaling.peers if peer.type == "deep_input"] == [
            "stream_manager",
            "stream_manager2",
        ]
        async with connected(camera(core, name="one")) as one, connected(camera(core, name="two")) as two:
            assert {one.remote_id, two.remote_id} == {"stream_manager", "stream_manager2"}
            for deep in (one, two):
                await some(deep, DataMessage, 2)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it_runs_on_trio_too() -> None:
    service = SignalingService()
    manager = StreamManager(service.connect, load_detector("tests.detecting:counter"), peer_id="m")
    async with anyio.create_task_group() as tasks:
        await tasks.start(manager.run)
        assert [(peer.id, peer.type) for peer in service.peers] == [
            ("m", "stream_manager"),
            ("m_output", "webrtc_stream"),
        ]
        tasks.cancel_scope.cancel()
    assert service.peers == ()


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_a_trio_camera() -> None:
    with local_core() as core:
        deep = deepio_trio.DeepIO(core.url, None, "test:160x128@25", "cam", auto_connect=True)
        async with connected(deep):
            await some(deep, DataMessage, 3)
