"""What a fleet does on either loop, with its streams in this process; the far sides are in memory."""

import dataclasses
import threading
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import numpy as np
import pytest

import deepio_asyncio
import deepio_trio
from deepio_adapters.fleet import (
    Fleet,
    FleetError,
    StreamEnded,
    StreamPhase,
    StreamRestarting,
    StreamRetrying,
    StreamStarted,
    StreamStateChanged,
)
from deepio_adapters.fleet_host import StreamIO
from deepio_adapters.sources import SourceError
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause, Connected
from deepio_core.states import PeerState
from tests.media import tcp_server
from tests.worlds import BOUND, World, far_side, new_id, nothing_left_soon, quick

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


@pytest.fixture
def make_fleet(memory):
    """Makes a fleet whose streams live in memory."""

    def make(world=memory, **settings):
        def stream(**arguments):
            made = StreamIO(**arguments)
            config = quick(made.config, world)
            made.config = dataclasses.replace(config, engine=dataclasses.replace(config.engine, close_timeout=0.3))
            return made

        return Fleet(restart_delay=0.01, make=stream, **settings)

    return make


class Told:
    """What a fleet has told, to be waited for."""

    def __init__(self, fleet):
        self.events = []
        self._changed = anyio.Event()
        fleet.add_event_handler(self._take)

    def _take(self, event):
        self.events.append(event)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def of(self, name, kind):
        return [event for event in self.events if event.name == name and isinstance(event, kind)]

    async def until(self, name, kind, **fields):
        def found():
            return [
                event
                for event in self.of(name, kind)
                if all(getattr(event, field) == value for field, value in fields.items())
            ]

        with anyio.move_on_after(BOUND):
            while not found():
                await self._changed.wait()
            return found()[0]
        raise AssertionError(f"no {kind.__name__} {fields} of {name} in {BOUND} s; came: {self.events}")

    async def connected(self, *names):
        for name in names:
            await self.until(name, StreamStateChanged, new=PeerState.CONNECTED)


@asynccontextmanager
async def two(memory, make_fleet, **settings):
    """A fleet with two connected streams, and their far sides."""
    async with far_side(memory) as one, far_side(memory) as other:
        fleet = make_fleet(**settings)
        told = Told(fleet)
        async with fleet:
            for name, far in (("one", one), ("other", other)):
                await fleet.add(name, server_address=memory.server, source=None, peer_id=new_id(), remotePeerId=far.id)
            await told.connected("one", "other")
            for far in (one, other):
                await far.until(Connected)
            yield fleet, told, one, other


def test_both_faces_have_it():
    assert deepio_asyncio.Fleet is deepio_trio.Fleet is Fleet
    with pytest.raises(AttributeError, match="Fleets"):
        deepio_asyncio.Fleets  # noqa: B018
    with pytest.raises(AttributeError, match="Fleets"):
        deepio_trio.Fleets  # noqa: B018


async def test_messages_come_with_the_name_of_their_stream_and_are_counted(memory, make_fleet, caplog):
    heard = []
    got_both = anyio.Event()

    def fails(_name, _data):
        raise ValueError("mine")

    async def takes(name, data):
        heard.append((name, data))
        if len(heard) == 2:
            got_both.set()
        await anyio.sleep(0)

    async with two(memory, make_fleet) as (fleet, _, one, other):
        messages = fleet.messages()
        fleet.add_data_handler(fails)
        fleet.add_data_handler(takes)
        await one.client.send({"type": "x", "n": 1})
        await other.client.send({"type": "x", "n": 2})
        with anyio.fail_after(BOUND):
            came = [await anext(messages), await anext(messages)]
            await got_both.wait()
        stats = fleet.stats()
        assert (stats.streams, stats.connected, stats.messages_received, stats.processes) == (2, 2, 2, ())
        assert (stats.messages_dropped, stats.events_dropped, stats.restarts) == (0, 0, 0)
    assert sorted((name, message.raw) for name, message in came) == sorted(heard) == [
        ("one", {"type": "x", "n": 1}),
        ("other", {"type": "x", "n": 2}),
    ]  # fmt: skip
    assert caplog.text.count("ValueError: mine") == 2
    with anyio.fail_after(BOUND):
        assert [pair async for pair in messages] == []  # it has ended with the fleet
        assert [pair async for pair in fleet.messages()] == []


async def test_results_come_with_the_name_of_their_stream_once_they_are_wanted(memory, make_fleet):
    data: Any = {"type": "data", "rec_time": 1.5, "objects": []}
    async with far_side(memory) as later, two(memory, make_fleet) as (fleet, told, one, other):
        results, more = fleet.results(), fleet.results()
        await fleet.add("later", server_address=memory.server, source=None, remotePeerId=later.id)
        await told.connected("later")
        await later.until(Connected)
        for name, far in (("one", one), ("other", other), ("later", later)):
            await far.client.send({"type": "no result"})
            await far.client.send({**data, "of": name})
            for stream in (results, more):
                with anyio.fail_after(BOUND):
                    got, result = await anext(stream)
                assert (got, result.message.raw) == (name, {**data, "of": name})
    with anyio.fail_after(BOUND):
        assert [pair async for pair in results] == []
    with pytest.raises(LocalProtocolError, match="does not run"):
        fleet.results()


async def test_a_handler_that_never_ends_holds_up_its_own_stream_alone(memory, make_fleet):
    heard = anyio.Event()

    async def hangs_for_one(name, _data):
        if name == "one":
            await anyio.sleep(3600)
        heard.set()

    async with two(memory, make_fleet) as (fleet, _, one, other):
        fleet.add_data_handler(hangs_for_one)
        messages = fleet.messages()
        await one.client.send(1)
        with anyio.fail_after(BOUND):
            await anext(messages)
            await other.client.send(2)
            await heard.wait()
            await fleet.remove("one")


async def test_removing_one_says_goodbye_and_leaves_the_other(memory, make_fleet):
    async with two(memory, make_fleet) as (fleet, told, one, other):
        events = fleet.events()
        await fleet.remove("one")
        assert list(fleet.streams) == ["other"]
        end = await told.until("one", StreamEnded)
        assert (end.cause, end.failed) == (Cause.LOCAL, False)
        await one.when(lambda: one.client.state is PeerState.LISTENING)
        assert other.client.state is PeerState.CONNECTED
        assert told.of("other", StreamEnded) == []
        with anyio.fail_after(BOUND):
            last = None
            while not isinstance(last, StreamEnded):
                name, last = await anext(events)
                assert name == "one"
        for call in (fleet.remove("one"), fleet.send_metadata("one", 1)):
            with pytest.raises(LocalProtocolError, match=r"no stream 'one'.*`streams`"):
                await call
        # The name is free again.
        await fleet.add("one", server_address=memory.server, source=None, peer_id=new_id(), remotePeerId=one.id)
        await one.when(lambda: one.client.state is PeerState.CONNECTED)


async def test_new_metadata_is_sent(memory, make_fleet):
    async with two(memory, make_fleet) as (fleet, _, one, other):
        await fleet.send_metadata("one", {"n": 1})
        await one.when(lambda: {"type": "metadata", "metadata": {"n": 1}} in one.raw())
        with pytest.raises(LocalProtocolError, match="JSON"):
            await fleet.send_metadata("other", object())
        assert {"n": 1} not in [message["metadata"] for message in other.raw("metadata")]


async def test_what_cannot_be_started_leaves_the_fleet_as_it_was(memory, make_fleet):
    async with two(memory, make_fleet) as (fleet, told, *_):
        before = told.events.copy()

        async def add(name="new", **arguments):
            await fleet.add(name, **{"server_address": memory.server, "source": None, **arguments})

        with pytest.raises(LocalProtocolError, match=r"has a stream 'one'.*Remove it"):
            await add("one")
        with pytest.raises(SourceError, match=r"/nowhere\.mp4"):
            await add(source="/nowhere.mp4")
        with pytest.raises(LocalProtocolError, match="video mode"):
            await add(video="both")
        with pytest.raises(TypeError, match="nothing"):
            await add(nothing=1)
        with pytest.raises(LocalProtocolError, match=r"worker process 0.*processes=1"):
            await add(process=0)
        with pytest.raises(LocalProtocolError, match=r"policy 'sometimes'.*always"):
            await add(restart="sometimes")
        assert (list(fleet.streams), told.events) == (["one", "other"], before)


async def test_a_source_that_is_broken_by_a_fault_of_its_own_is_refused(make_fleet, memory, monkeypatch, caplog):
    async with make_fleet() as fleet:

        def broken(*_):
            raise ZeroDivisionError

        monkeypatch.setattr(StreamIO, "__aenter__", broken)
        with pytest.raises(Exception, match=r"unexpectedly \(ZeroDivisionError\)"):
            await fleet.add("new", server_address=memory.server, source=None)
        assert fleet.streams == {}
    assert "ZeroDivisionError" in caplog.text


def three_frames():
    for _ in range(3):
        yield np.zeros((128, 160, 3), np.uint8)


@pytest.mark.parametrize("restart", ["never", "on_failure"])
async def test_the_end_of_a_source_ends_its_stream_alone(memory, make_fleet, restart):
    async with far_side(memory, receive_video=True) as far, two(memory, make_fleet) as (fleet, told, *_):
        await fleet.add(
            "short",
            server_address=memory.server,
            source=three_frames,
            remotePeerId=far.id,
            frame_rate=50.0,
            restart=restart,
        )
        end = await told.until("short", StreamEnded)
        assert (end.cause, end.failed) == (Cause.SOURCE_ENDED, False)
        status = fleet.streams["short"]
        assert (status.phase, status.state, status.stats) == (StreamPhase.ENDED, PeerState.STARTING, None)
        assert all(fleet.streams[name].state is PeerState.CONNECTED for name in ("one", "other"))
        await fleet.remove("short")
        assert told.of("short", StreamEnded) == [end]


async def test_a_source_that_ends_begins_anew_if_it_is_always_to(memory, make_fleet):
    async with far_side(memory, receive_video=True) as far, make_fleet(restart="always") as fleet:
        told = Told(fleet)
        await fleet.add(
            "short", server_address=memory.server, source=three_frames, remotePeerId=far.id, frame_rate=50.0
        )
        await told.until("short", StreamStarted, restarts=2)
        assert len(told.of("short", StreamRestarting)) == 2
        assert fleet.streams["short"].restarts >= 2
        assert fleet.stats().restarts >= 2
        assert told.of("short", StreamEnded) == []


@pytest.mark.parametrize("restart", ["never", "on_failure"])
async def test_a_session_that_fails_ends_its_stream_alone(make_fleet, restart):
    keys = {"good"}

    def check_key(kind, _id, key):
        return kind != "stream_capture" or key in keys

    async with World(check_key).running() as world, far_side(world) as far, make_fleet(world) as fleet:
        told = Told(fleet)
        await fleet.add(
            "one", server_address=world.server, source=None, key="good", peer_id=new_id(), remotePeerId=far.id
        )
        await told.connected("one")
        await fleet.add("bad", server_address=world.server, source=None, key="secret-key", restart=restart)
        if restart == "never":
            end = await told.until("bad", StreamEnded)
            assert (end.cause, end.failed) == (Cause.KEY_REFUSED, True)
            assert end.remedy
            status = fleet.streams["bad"]
            assert status.phase is StreamPhase.FAILED
            assert status.last_error == end.reason
        else:
            again = await told.until("bad", StreamRestarting)
            assert 0 < again.delay < 1
            keys.add("secret-key")
            await told.until("bad", StreamStateChanged, new=PeerState.LISTENING)
            assert fleet.streams["bad"].restarts == len(told.of("bad", StreamRestarting))
            assert fleet.streams["bad"].phase is StreamPhase.RUNNING
        assert fleet.streams["one"].state is PeerState.CONNECTED
        assert "secret-key" not in str(told.events) + str(fleet.streams) + str(fleet.stats())


async def test_a_server_that_is_down_is_told_and_tried_again(memory, make_fleet):
    memory.down = True
    async with make_fleet() as fleet:
        told = Told(fleet)
        await fleet.add("one", server_address=memory.server, source=None)
        retrying = await told.until("one", StreamRetrying)
        assert "down" in retrying.reason
        assert fleet.streams["one"].last_error == retrying.reason
        memory.down = False
        await told.until("one", StreamStateChanged, new=PeerState.LISTENING)


async def test_an_event_handler_that_raises_is_logged_and_the_others_run(memory, make_fleet, caplog):
    fleet = make_fleet()

    def fails(_event):
        raise ValueError("mine")

    fleet.add_event_handler(fails)
    told = Told(fleet)
    async with fleet:
        await fleet.add("one", server_address=memory.server, source=None)
        await told.until("one", StreamStateChanged, new=PeerState.LISTENING)
    assert "ValueError: mine" in caplog.text


@contextmanager
def silent_server():
    """The URL of a video that never comes."""
    over = threading.Event()

    def say_nothing(_connection):
        over.wait(BOUND)

    with tcp_server(say_nothing) as port:
        try:
            yield f"http://127.0.0.1:{port}/video.mp4"
        finally:
            over.set()


async def test_a_start_can_be_given_up(memory, make_fleet):
    async with nothing_left_soon():
        with silent_server() as url:
            async with make_fleet() as fleet:
                started = anyio.current_time()
                with anyio.move_on_after(0.2) as scope:
                    await fleet.add("slow", server_address=memory.server, source=url)
                assert scope.cancelled_caught
                assert anyio.current_time() - started < 2
                assert fleet.streams == {}
                await fleet.add("slow", server_address=memory.server, source=None)
                assert list(fleet.streams) == ["slow"]


async def test_many_sources_that_do_not_answer_hold_nobody_up(memory, make_fleet):
    with silent_server() as url:
        async with make_fleet() as fleet, anyio.create_task_group() as tasks:

            async def add(number):
                await fleet.add(f"slow{number}", server_address=memory.server, source=url)

            for number in range(45):  # more than threads that anyio has by default
                tasks.start_soon(add, number)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(BOUND / 3):  # less than what opening may take
                await fleet.add("one", server_address=memory.server, source="test:160x128@10")
            tasks.cancel_scope.cancel()
        assert list(fleet.streams) == ["one"]


async def test_a_start_ends_with_the_fleet(memory, make_fleet):
    with silent_server() as url:
        fleet = make_fleet()
        async with anyio.create_task_group() as tasks:

            async def add():
                with pytest.raises(FleetError, match="before it had begun"):
                    await fleet.add("slow", server_address=memory.server, source=url)

            async with fleet:
                tasks.start_soon(add)
                await anyio.wait_all_tasks_blocked()


async def test_hung_sources_do_not_hold_each_other_up(memory, make_fleet):
    silent = threading.Event()

    def hangs():
        yield np.zeros((128, 160, 3), np.uint8)
        silent.wait(BOUND)

    try:
        async with make_fleet() as fleet:
            for number in range(6):
                await fleet.add(f"cam{number}", server_address=memory.server, source=hangs, frame_rate=50.0)
            await anyio.sleep(0.1)  # the sources hang now
            started = anyio.current_time()
        # Each takes 0.3 s to be given up, its close_timeout.
        assert anyio.current_time() - started < 1.2
    finally:
        silent.set()


async def test_cancelled_from_outside_it_says_goodbye_and_leaves_nothing(memory, make_fleet):
    async with far_side(memory) as far:
        async with nothing_left_soon():
            with anyio.CancelScope() as scope:
                async with make_fleet() as fleet:
                    told = Told(fleet)
                    await fleet.add("one", server_address=memory.server, source=None, remotePeerId=far.id)
                    await told.connected("one")
                    scope.cancel()
                    await anyio.sleep(BOUND)
            assert scope.cancelled_caught
        assert memory.peers() == [far.id]


async def test_an_error_in_the_block_comes_out_as_it_is(memory, make_fleet):
    with pytest.raises(ZeroDivisionError):
        async with make_fleet() as fleet:
            await fleet.add("one", server_address=memory.server, source=None)
            raise ZeroDivisionError


async def test_it_lives_in_one_block(memory, make_fleet):
    fleet = make_fleet()
    with pytest.raises(LocalProtocolError, match="does not run"):
        await fleet.add("one", server_address=memory.server, source=None)
    async with fleet:
        pass
    with pytest.raises(LocalProtocolError, match="used once"):
        await fleet.__aenter__()
    with pytest.raises(LocalProtocolError, match="does not run"):
        await fleet.add("one", server_address=memory.server, source=None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"processes": -1}, "-1 processes.*auto"),
        ({"processes": 257}, "257 processes"),
        ({"restart": "sometimes"}, "sometimes"),
        ({"restart_delay": 0}, "restart_delay"),
    ],
)
def test_settings_are_checked(settings, said):
    with pytest.raises(LocalProtocolError, match=said):
        Fleet(**settings)


def test_auto_is_one_process_for_each_cpu():
    assert Fleet("auto").processes >= 1
