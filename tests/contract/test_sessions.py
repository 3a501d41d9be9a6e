"""What a DeepIO does on either loop: how it connects, what is said, how it ends, and how it comes back."""

import logging
import pickle
from typing import Any

import anyio
import pytest

from deepio_adapters.client import SessionEndedError
from deepio_adapters.test_pattern import read_counter
from deepio_core import outputs, session
from deepio_core.errors import LocalProtocolError
from deepio_core.messages import DataMessage
from deepio_core.outputs import Cause
from deepio_core.states import PeerState
from tests.engines import pattern
from tests.media import make_clip
from tests.worlds import BOUND, RealWorld, Recorder, World, far_side, new_id

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

DATA: Any = {"type": "data", "rec_time": 12.5, "objects": []}


def recorded(deep):
    """All events of a DeepIO."""
    recorder = Recorder()
    deep.add_event_handler(recorder.take)
    return recorder


async def connected(deep, far=None):
    with anyio.fail_after(BOUND):
        remote_id = await deep.wait_connected()
    if far is not None:
        await far.until(outputs.Connected)
    return remote_id


@pytest.mark.parametrize("how", ["remotePeerId", "stream_manager_id", "auto_connect", "listening"])
async def test_it_connects_in_each_way_and_says_first_what_a_camera_says(world, deepio, how):
    far_id, cam = new_id("sm"), new_id("cam")
    arguments = {"auto_connect": {"auto_connect": True}, "listening": {}}.get(how, {how: far_id})
    deep = deepio(world, peer_id=cam, metadata={"place": "door"}, **arguments)
    events = recorded(deep)
    assert (deep.state, deep.remote_id, deep.running, deep.peer.readyState) == (
        PeerState.STARTING, None, False, PeerState.STARTING
    )  # fmt: skip
    calls = cam if how == "listening" else None
    async with deep:
        if calls:
            await events.when(lambda: deep.state is PeerState.LISTENING)
        async with far_side(world, peer_id=far_id, calls=calls) as far:
            assert await connected(deep) == far_id
            await far.when(lambda: far.raw("metadata"))
            assert (deep.state, deep.remote_id, deep.running) == (PeerState.CONNECTED, far_id, True)
            assert (deep.peer.id, deep.peer.readyState, deep.id) == (cam, PeerState.CONNECTED, cam)
    metadata = {"type": "metadata", "metadata": {"place": "door"}}
    assert far.raw() == ([metadata] if calls else [{"type": "source", "peerId": cam}, metadata])
    assert (deep.state, deep.remote_id, deep.running) == (PeerState.STARTING, None, False)


async def test_messages_go_both_ways_and_data_is_acknowledged_before_the_handlers_run(world, deepio, caplog):
    heard = []

    class Program:
        def method(self, data):
            heard.append(("method", data["type"]))

        async def coroutine_method(self, data):
            await anyio.lowlevel.checkpoint()
            heard.append(("coroutine", data["type"]))

    def fails(data):
        raise ValueError("mine")

    async with far_side(world) as far:
        deep = deepio(world, remotePeerId=far.id)

        async def acknowledged(_data):
            await far.when(lambda: far.raw("acknowledge"))  # comes while the handlers still run

        for handler in (acknowledged, fails, Program().method, Program().coroutine_method):
            deep.add_data_handler(handler)
        async with deep:
            await connected(deep, far)
            messages = deep.messages()
            deep.add_data_handler(lambda data: heard.append(("late", data["type"])))
            await far.client.send(DATA)
            with anyio.fail_after(BOUND):
                first = await anext(messages)
                assert isinstance(first, DataMessage)
                assert first.raw == DATA
                await deep.send({"type": "hello", "n": 1})
                await far.client.send({"type": "other"})
                assert (await anext(messages)).raw == {"type": "other"}
                while len(heard) < 6:  # noqa: ASYNC110 - lists have no event
                    await anyio.sleep(0.001)
            await far.when(lambda: far.raw("hello"))
            assert deep.stats().messages_received == 2
    assert far.raw("acknowledge") == [{"type": "acknowledge", "rec_time": 12.5}]
    assert heard == [(who, what) for what in ("data", "other") for who in ("method", "coroutine", "late")]
    assert [r.exc_info[1].args for r in caplog.records if r.exc_info] == [("mine",), ("mine",)]
    with anyio.fail_after(BOUND):
        assert [m async for m in messages] == []  # the session has ended


async def test_the_newest_metadata_is_sent_and_after_each_reconnect_again(world, deepio):
    far_id = new_id("sm")
    deep = deepio(world, remotePeerId=far_id, metadata=1)
    await deep.send_metadata(2)
    assert deep.metadata == 2
    events = recorded(deep)
    async with deep:
        await deep.send_metadata(3)
        async with far_side(world, peer_id=far_id) as far:
            await connected(deep)
            await deep.send_metadata(4)
            await far.when(lambda: len(far.raw("metadata")) == 2)
            assert [m["metadata"] for m in far.raw("metadata")] == [3, 4]
        await events.until(outputs.Disconnected)
        await deep.send_metadata(5)
        async with far_side(world, peer_id=far_id) as far:
            await events.until(outputs.Connected, 2)
            await far.when(lambda: far.raw("metadata"))
            assert [m["metadata"] for m in far.raw("metadata")] == [5]
            assert deep.stats().reconnects == 1
            assert deep.stats().last_error


async def test_a_server_that_is_started_again_is_found_again(world, deepio):
    far_id = new_id("sm")
    deep = deepio(world, remotePeerId=far_id)
    events = recorded(deep)
    async with deep:
        async with far_side(world, peer_id=far_id):
            await connected(deep)
        await events.until(outputs.Disconnected)
        await world.stop_server()
        await events.when(lambda: any(e.cause is Cause.UNREACHABLE for e in events.of(session.Retrying)))
        await world.start_server()
        async with far_side(world, peer_id=far_id):
            await events.until(outputs.Connected, 2)


async def test_frames_arrive_intact_both_ways(world, deepio):
    frames: list[Any] = []
    async with far_side(world, source=pattern(), receive_video=True) as far:
        deep = deepio(world, "test:160x128@25", remotePeerId=far.id)
        deep.add_frame_handler(frames.append)
        async with deep:
            await connected(deep, far)
            for stream in (deep.frames(), far.client.frames()):
                counters: list[int] = []
                with anyio.fail_after(BOUND):
                    while len(counters) < 4:
                        counter = read_counter((await anext(stream)).to_ndarray())
                        if counter is not None:
                            counters.append(counter)
                assert counters == sorted(set(counters))
            await far.client.send(DATA)
            stats = deep.stats()
            assert (stats.state, stats.remote_id) == (PeerState.CONNECTED, far.id)
            assert stats.frames_sent > 0
            assert stats.frames_received > 0
            assert frames
            assert frames[0].shape == (128, 160, 3)


async def test_the_end_of_the_source_ends_the_session(world, deepio, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=8, size=(160, 128))
    async with far_side(world, receive_video=True) as far:
        watched = far.client.frames()
        deep = deepio(world, str(clip), remotePeerId=far.id)
        ended = recorded(deep)
        with anyio.fail_after(BOUND):
            await deep.start()
            assert [e.cause for e in ended.of(session.SessionEnded)] == [Cause.SOURCE_ENDED]
            assert (await anext(watched)).width == 160


@pytest.mark.parametrize("kind", ["memory", "real"])
async def test_a_refused_key_ends_the_session_with_a_remedy(kind, deepio):
    made = {"memory": World, "real": RealWorld}[kind](lambda _type, _id, key: key == "right")
    async with made.running() as world:
        deep = deepio(world, key="wrong")
        with anyio.fail_after(BOUND):
            with pytest.raises(SessionEndedError) as caught:
                await deep.start()
            assert caught.value.cause is Cause.KEY_REFUSED
            assert caught.value.remedy
            assert "wrong" not in str(caught.value)
            assert pickle.loads(pickle.dumps(caught.value)).cause is Cause.KEY_REFUSED
            async with deepio(world, key="wrong") as deep:
                streams = deep.messages()
                for waiting in (deep.wait_connected(), deep.wait_ended(), anext(streams)):
                    with pytest.raises(SessionEndedError):
                        await waiting
                with pytest.raises(SessionEndedError):
                    await anext(deep.messages())  # made after the end
            deep = deepio(world, key="right")
            events = recorded(deep)
            async with deep:
                await events.when(lambda: deep.state is PeerState.LISTENING)


# --- In memory: nothing in these depends on the transport ------------------------------------------------------


async def test_a_remote_peer_that_is_busy_or_absent_is_waited_for(memory, deepio):
    far_id = new_id("sm")
    first, second = deepio(memory, remotePeerId=far_id), deepio(memory, remotePeerId=far_id)
    events = recorded(second)
    async with first, second:
        await events.when(lambda: any(e.cause is Cause.NOT_FOUND for e in events.of(session.Retrying)))
        async with far_side(memory, peer_id=far_id):
            await events.when(lambda: PeerState.CONNECTED in (first.state, second.state))
            loser = second if first.state is PeerState.CONNECTED else first
            losers = recorded(loser)
            await losers.when(lambda: any(e.cause is Cause.BUSY for e in losers.of(session.Retrying)))
            await (first if loser is second else second).stop()
            await losers.until(outputs.Connected)


async def test_to_send_while_not_connected_raises_and_changes_nothing(memory, deepio):
    deep = deepio(memory)
    events = recorded(deep)
    with pytest.raises(LocalProtocolError, match="does not run"):
        await deep.send({})
    async with deep:
        await events.when(lambda: deep.state is PeerState.LISTENING)
        with pytest.raises(LocalProtocolError, match="Cannot send"):
            await deep.send({})
        assert deep.state is PeerState.LISTENING
        async with far_side(memory, calls=deep.id) as far:
            await connected(deep)
            with pytest.raises(LocalProtocolError):
                await deep.send({"no": object()})
            with pytest.raises(LocalProtocolError):
                await deep.send("x" * 300_000)
            await deep.send("still there")
            await far.when(lambda: "still there" in far.raw())


async def test_metadata_that_cannot_be_sent_is_refused_and_the_former_stays(memory, deepio):
    deep = deepio(memory, metadata="good")

    async def refused():
        for bad in (object(), "x" * 300_000):
            with pytest.raises(LocalProtocolError):
                await deep.send_metadata(bad)
            assert deep.metadata == "good"

    with pytest.raises(LocalProtocolError):
        await deep.send_metadata(object())
    async with deep:
        await refused()
        async with far_side(memory, calls=deep.id) as far:
            await connected(deep)
            await refused()
            await far.when(lambda: far.raw("metadata"))
            assert [m["metadata"] for m in far.raw("metadata")] == ["good"]


async def test_what_needs_a_running_session_says_so(memory, deepio):
    deep = deepio(memory)
    for call in (deep.messages, deep.frames, deep.stats):
        with pytest.raises(LocalProtocolError, match="does not run"):
            call()
    for call in (deep.wait_connected, deep.wait_ended):
        with pytest.raises(LocalProtocolError, match="does not run"):
            await call()
    await deep.stop()


async def test_frames_that_were_refused_cannot_be_asked_for(memory, deepio):
    async with deepio(memory) as deep:
        for call in (deep.frames, lambda: deep.add_frame_handler(print)):
            with pytest.raises(LocalProtocolError, match="refused"):
                call()
    async with deepio(memory, receive_video=True) as deep:
        deep.frames()
        deep.add_frame_handler(print)


async def test_frames_are_decoded_only_while_somebody_watches(world, deepio):
    pictures: list[Any] = []

    async with far_side(world, source=pattern()) as far:
        deep = deepio(world, remotePeerId=far.id, receive_video=True, frame_format="gray")
        async with deep:
            await connected(deep, far)
            await anyio.sleep(0.2)
            assert deep.stats().frames_received == 0
            with anyio.fail_after(BOUND):
                deep.add_frame_handler(pictures.append)
                while len(pictures) < 3:  # noqa: ASYNC110 - handlers are functions here
                    await anyio.sleep(0.01)
                assert {picture.shape for picture in pictures} == {(128, 160)}
                assert deep.stats().frames_received >= 3
                deep.remove_frame_handler(pictures.append)
                stopped = False
                while not stopped:
                    before = deep.stats().frames_received
                    await anyio.sleep(0.2)
                    stopped = deep.stats().frames_received == before
                stream = deep.frames()
                assert (await anext(stream)).to("rgb24").shape == (128, 160, 3)


async def test_a_frame_format_that_there_is_not_is_refused(memory, deepio):
    with pytest.raises(LocalProtocolError, match="no frame format"):
        deepio(memory, frame_format="bgr")


async def test_stop_ends_start_and_it_can_be_started_again(memory, deepio):
    deep = deepio(memory)
    events = recorded(deep)
    for count in (1, 2):
        with anyio.fail_after(BOUND):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(deep.start)
                await events.when(lambda: deep.state is PeerState.LISTENING)
                assert deep.running
                with pytest.raises(LocalProtocolError, match="running already"):
                    await deep.start()
                await deep.stop()
        assert [e.cause for e in events.of(session.SessionEnded)] == [Cause.LOCAL] * count
        assert not deep.running
    assert memory.peers() == []


async def test_after_stop_the_body_goes_on_and_streams_have_ended(memory, deepio):
    async with deepio(memory, receive_video=True) as deep:
        messages, frames = deep.messages(), deep.frames()
        with anyio.fail_after(BOUND):
            await deep.stop()
            await deep.wait_ended()
            with pytest.raises(LocalProtocolError, match="has ended"):
                await deep.wait_connected()
            assert [m async for m in messages] == [f async for f in frames] == []
            await deep.stop()


async def test_stop_while_the_source_is_opened(memory, deepio):
    opening, go_on = anyio.Event(), anyio.Event()

    async def frames():
        opening.set()
        await go_on.wait()
        while True:
            yield pattern_frame()

    deep = deepio(memory, frames)
    with anyio.fail_after(BOUND):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(deep.start)
            await opening.wait()
            await deep.stop()
            go_on.set()


def pattern_frame():
    from deepio_adapters.test_pattern import Pattern

    return Pattern(160, 128).draw(1)


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_frames_that_the_application_makes(memory, deepio, kind):
    def plain():
        while True:
            yield pattern_frame()

    async def asynchronous():
        while True:
            await anyio.lowlevel.checkpoint()
            yield pattern_frame()

    async with far_side(memory, receive_video=True) as far:
        source = plain if kind == "plain" else asynchronous
        async with deepio(memory, source, remotePeerId=far.id, frame_rate=50) as deep:
            await connected(deep)
            with anyio.fail_after(BOUND):
                frame = await anext(far.client.frames())
            assert read_counter(frame.to_ndarray()) == 1


async def test_an_application_that_makes_no_frames_any_more_ends_the_session(memory, deepio):
    def few():
        for _ in range(5):
            yield pattern_frame()
        raise ZeroDivisionError("mine")

    async with far_side(memory, receive_video=True) as far:
        deep = deepio(memory, few, remotePeerId=far.id, frame_rate=50)
        events = recorded(deep)
        with anyio.fail_after(BOUND), pytest.raises(SessionEndedError, match="ZeroDivisionError: mine"):
            await deep.start()
        (ended,) = events.of(session.SessionEnded)
        assert ended.cause is Cause.SOURCE_FAILED


async def test_a_file_may_loop(memory, deepio, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=6, size=(160, 128))
    async with (
        far_side(memory, receive_video=True) as far,
        deepio(memory, str(clip), remotePeerId=far.id, loop=True) as deep,
    ):
        await connected(deep)
        highest = 0
        with anyio.fail_after(BOUND):
            async for frame in far.client.frames():
                counter = read_counter(frame.to_ndarray())
                if counter is not None and counter < highest:
                    break
                highest = max(highest, counter or 0)
        assert deep.state is PeerState.CONNECTED


async def test_errors_in_the_body_come_out_as_they_are(memory, deepio):
    for error in (ValueError("mine"), KeyError("mine"), ExceptionGroup("mine", [ValueError(1)])):
        with pytest.raises(type(error)) as caught:
            async with deepio(memory):
                raise error
        assert caught.value is error
    with anyio.CancelScope() as scope:
        async with deepio(memory):
            scope.cancel()
            await anyio.sleep(BOUND)
    assert scope.cancelled_caught
    assert memory.peers() == []


async def test_a_source_that_is_not_there_is_told_on_the_way_in(memory, deepio):
    from deepio_adapters.sources import SourceError

    deep = deepio(memory, "/nonexistent/clip.mp4")
    for _ in range(2):
        with pytest.raises(SourceError, match=r"clip\.mp4"):
            async with deep:
                raise AssertionError("not reached")
        assert not deep.running


async def test_a_setting_that_fails_in_the_background_comes_out_of_the_block(face):
    """Plain ws to another machine is refused when the link is opened; nothing is sent."""
    deep = face("ws://192.0.2.1", 80, None, "cam")
    with anyio.fail_after(BOUND):
        with pytest.raises(LocalProtocolError, match="allow_plain"):
            await deep.start()
        with pytest.raises(LocalProtocolError, match="allow_plain"):
            async with deep:
                await anyio.sleep(BOUND)


async def test_a_bug_in_the_driver_is_not_swallowed_and_takes_no_time(memory, deepio):
    def broken_dial():
        raise ZeroDivisionError("a bug")

    import dataclasses

    deep = deepio(memory)
    deep.config = dataclasses.replace(deep.config, dial=broken_dial)
    started = anyio.current_time()
    with pytest.raises(ZeroDivisionError):
        await deep.start()
    assert anyio.current_time() - started < 3


async def test_an_event_handler_that_raises_is_logged(memory, deepio, caplog):
    def fails(_event):
        raise ValueError("mine")

    deep = deepio(memory)
    deep.add_event_handler(fails)
    async with deep:
        late = recorded(deep)
        await late.when(lambda: deep.state is PeerState.LISTENING)
    assert "mine" in caplog.text


async def test_two_of_one_process_do_not_disturb_each_other(memory, deepio):
    async with far_side(memory) as one, far_side(memory) as other:
        first, second = deepio(memory, remotePeerId=one.id), deepio(memory, remotePeerId=other.id)
        async with first:
            await connected(first)
            async with second:
                await connected(second)
            await first.send("still there")
            await one.when(lambda: "still there" in one.raw())


async def test_the_logs_hold_no_key(memory, deepio, caplog):
    with caplog.at_level(logging.DEBUG):
        deep = deepio(memory, key="top-secret")
        events = recorded(deep)
        async with deep:
            await events.when(lambda: deep.state is PeerState.LISTENING)
    assert "top-secret" not in caplog.text + repr(deep.config) + str(vars(deep))


def test_two_remote_peers_are_refused(face):
    with pytest.raises(LocalProtocolError, match="two peers"):
        face("ws://localhost", 80, None, "cam", remotePeerId="a", stream_manager_id="b")
    face("ws://localhost", 80, None, "cam", remotePeerId="a", stream_manager_id="a")
