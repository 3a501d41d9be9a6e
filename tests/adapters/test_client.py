"""The client beyond what the contract of the faces asks: settings, streams, statistics, use."""

import dataclasses
import inspect
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from deepio_adapters import client as client_module
from deepio_adapters.client import Client, ClientConfig, SessionEndedError
from deepio_adapters.engine import EngineConfig
from deepio_core import outputs, session
from deepio_core.address import build_address
from deepio_core.config import PeerConfig
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause
from deepio_core.policy import ConnectTo, ListenForCallers, SessionConfig
from deepio_core.states import PeerState
from tests.engines import pattern
from tests.worlds import BOUND, Recorder, World, far_side, new_id

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
async def world():
    async with World().running() as world:
        yield world


def make(world, *, calls=None, engine=None, **peer):
    address = build_address(world.server, None, peer_type="test", peer_id=new_id("client"))
    config = ClientConfig(
        address=address,
        session=SessionConfig(
            peer=PeerConfig(peer_id=address.peer_id, **peer),
            policy=ListenForCallers() if calls is None else ConnectTo(remote_id=calls),
            poll_interval=0.1,
            backoff_first=0.1,
        ),
        engine=engine or EngineConfig(),
        open_engine=world.open_engine,
        dial=world.dial(address),
    )
    client = Client(config)
    events = Recorder()
    client.add_event_handler(events.take)
    return client, events


async def test_it_is_used_once(world):
    client, _ = make(world)
    async with client:
        with pytest.raises(LocalProtocolError, match="once"):
            await client.__aenter__()
    with pytest.raises(LocalProtocolError, match="once"):
        await client.__aenter__()


async def test_before_the_start_it_says_that_it_does_not_run(world):
    client, _ = make(world)
    assert (client.state, client.remote_id, client.metadata) == (PeerState.STARTING, None, None)
    with pytest.raises(LocalProtocolError, match="does not run"):
        client.stats()
    with pytest.raises(LocalProtocolError, match="does not run"):
        await client.send({})
    client.send_metadata([1])
    assert client.metadata == [1]
    await client.stop()
    async with client:  # stopped before it began: it ends at once
        with anyio.fail_after(BOUND):
            await client.wait_ended()


async def test_a_handler_can_be_removed(world):
    heard: list[object] = []
    client, _ = make(world)
    client.add_data_handler(heard.append)
    client.remove_data_handler(heard.append)
    with pytest.raises(ValueError, match="not in list"):
        client.remove_data_handler(heard.append)


async def test_a_frame_handler_asks_for_video(world):
    client, _ = make(world)
    client.add_frame_handler(print)
    assert client._engine_config().receive_video
    async with client:
        client.add_frame_handler(print)
    client, _ = make(world)
    async with client:
        with pytest.raises(LocalProtocolError, match="refused"):
            client.add_frame_handler(print)


async def test_a_frame_handler_that_raises_is_logged_and_a_coroutine_is_awaited(world, caplog):
    seen = anyio.Event()

    def fails(_frame):
        raise ValueError("unwatchable")

    async def sees(frame):
        await anyio.lowlevel.checkpoint()
        assert frame.shape == (128, 160, 3)
        seen.set()

    async with far_side(world, source=pattern()) as far:
        client, _ = make(world, calls=far.id)
        client.add_frame_handler(fails)
        client.add_frame_handler(sees)
        async with client:
            with anyio.fail_after(BOUND):
                await seen.wait()
    assert "unwatchable" in caplog.text


async def test_streams_that_nobody_keeps_cost_nothing(world):
    client, _ = make(world, engine=EngineConfig(receive_video=True))
    async with client:
        before = len(client._messages), len(client._results), len(client._frames)
        client.messages()
        client.results()
        client.frames()
        assert (len(client._messages), len(client._results), len(client._frames)) == before


async def test_each_stream_has_its_own_queue(world):
    async with far_side(world) as far:
        client, _ = make(world, calls=far.id)
        async with client:
            with anyio.fail_after(BOUND):
                await client.wait_connected()
            await far.until(outputs.Connected)
            one, other = client.messages(), client.messages()
            await far.client.send("x")
            with anyio.fail_after(BOUND):
                assert (await anext(one)).raw == (await anext(other)).raw == "x"


async def test_statistics_count_what_is_sent_received_and_dropped(world, monkeypatch):
    monkeypatch.setattr(client_module, "MEASURE_INTERVAL", 0.05)
    async with far_side(world, source=pattern(50), receive_video=True) as far:
        client, events = make(world, calls=far.id, engine=EngineConfig(source=pattern(50), receive_video=True))
        async with client:
            slow = client.messages()
            with anyio.fail_after(BOUND):
                await client.wait_connected()
                await far.until(outputs.Connected)
                frames = client.frames()
                while client.stats().fps_sent <= 0 or client.stats().fps_received <= 0:
                    await anext(frames)
                for number in range(300):
                    await far.client.send(number)
                await events.when(lambda: len(events.raw()) == 300)
            stats = client.stats()
            assert (stats.state, stats.remote_id) == (PeerState.CONNECTED, far.id)
            assert stats.messages_received == 300
            assert stats.messages_dropped == slow.dropped == 300 - 256
            assert stats.frames_sent > 0
            assert stats.frames_received > 0
            assert stats.bitrate_received > 0
            assert stats.bytes_sent > 0
            assert stats.round_trip is None or stats.round_trip >= 0
            assert (stats.reconnects, stats.last_error) == (0, None)
            assert {field.name for field in dataclasses.fields(stats)} >= {"fps_sent", "bitrate_sent", "frames_dropped"}


async def test_the_connection_settings_reach_the_link(world, monkeypatch):
    seen: dict[str, Any] = {}

    def fake_open_link(address, **settings):
        seen.update(settings, address=address)
        return world.dial(address)()

    monkeypatch.setattr(client_module, "open_link", fake_open_link)
    client, events = make(world)
    config = dataclasses.replace(client.config, dial=None, allow_plain=True, ping_interval=7.0, proxy=None)
    client = Client(config)
    client.add_event_handler(events.take)
    async with client:
        await events.when(lambda: client.state is PeerState.LISTENING)
    assert seen["address"] is config.address
    assert (seen["allow_plain"], seen["ping_interval"], seen["proxy"]) == (True, 7.0, None)
    assert seen["max_size"] == config.session.peer.max_signal_size
    assert seen["open_timeout"] == config.session.peer.open_timeout


async def test_a_goodbye_that_takes_too_long_is_cut(world, monkeypatch):
    monkeypatch.setattr(client_module, "LEAVE_TIMEOUT", 0.1)
    client, events = make(world)
    started = anyio.current_time()
    async with client:
        await events.when(lambda: client.state is PeerState.LISTENING)
        monkeypatch.setattr(client._session, "handle", lambda *_arguments, **_keywords: None)  # deaf
        await client.stop()
    assert 0.15 < anyio.current_time() - started < 3


async def test_the_last_error_is_told(world):
    client, events = make(world, calls="nobody")
    async with client:
        await events.until(session.Retrying)
        assert "exist" in (client.stats().last_error or "")


async def test_an_error_of_the_end_may_be_made_by_hand():
    error = SessionEndedError("Over.", remedy="Begin again.", cause=Cause.KEY_REFUSED)
    assert (str(error), error.cause) == ("Over. Begin again.", Cause.KEY_REFUSED)
    assert inspect.signature(SessionEndedError).parameters["cause"].kind is inspect.Parameter.KEYWORD_ONLY


async def test_a_driver_that_fails_over_the_goodbyes_is_not_waited_for(world):
    client, events = make(world)
    dial = client.config.dial
    assert dial is not None

    @asynccontextmanager
    async def breaks_on_close():
        async with dial() as link:

            async def fails(*_arguments):
                raise ZeroDivisionError("a bug")

            broken: Any = SimpleNamespace(send=link.send, receive=link.receive, aclose=fails)
            yield broken

    client = Client(dataclasses.replace(client.config, dial=breaks_on_close))
    client.add_event_handler(events.take)
    started = anyio.current_time()
    with pytest.raises(ZeroDivisionError):
        async with client:
            await events.when(lambda: client.state is PeerState.LISTENING)
    assert anyio.current_time() - started < 3
