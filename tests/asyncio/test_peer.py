"""`Peer`: what programs written for hyperpeer-py ask of it, in memory and over aiortc."""

import asyncio
import contextlib
import dataclasses
import inspect
import logging
from contextlib import asynccontextmanager

import anyio
import av
import numpy as np
import pytest

from deepio_adapters.sources import SourceError
from deepio_adapters.test_pattern import Pattern, read_counter
from deepio_asyncio import Peer, PeerError, PeerState, PeerStateError, ServerUnreachableError
from deepio_core.config import PeerConfig
from deepio_core.errors import AddressError, DeepIOError, LocalProtocolError
from deepio_core.inputs import ChannelReceived
from deepio_core.outputs import Cause
from tests.media import make_clip
from tests.worlds import BOUND, RealWorld, World, new_id, nothing_left

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def world():
    async with World().running() as world:
        yield world


@pytest.fixture
async def real():
    async with RealWorld().running() as world:
        yield world


def make(world, peer_id=None, **arguments):
    peer = Peer(world.server, id=peer_id or new_id(), **arguments)
    move(peer, world)
    return peer


def move(peer, world):
    """Have the peer live in this world, and not wait long for who never answers."""
    peer.config = dataclasses.replace(
        peer.config,
        peer=dataclasses.replace(peer.config.peer, part_timeout=0.1),
        open_engine=world.open_engine,
        dial=world.dial(peer.config.address),
    )


@asynccontextmanager
async def opened(world, peer_id=None, **arguments):
    peer = make(world, peer_id, **arguments)
    await peer.open()
    try:
        yield peer
    finally:
        await peer.close()


async def listen(listener):
    await listener.listen_connections()


async def accept(listener):
    remote_id = await listener.listen_connections()
    await listener.accept_connection()
    return remote_id


async def pair(caller, listener):
    """Connect two open peers; the listener listens already when this returns from its first step."""
    async with asyncio.TaskGroup() as tasks:
        accepting = tasks.create_task(accept(listener))
        await until(lambda: listener.readyState is PeerState.LISTENING)
        await free(caller, listener.id)
        await caller.connect_to(listener.id)
    return accepting.result()


def state(peer):
    """The state, which mypy takes for unchanging."""
    return peer.readyState


async def free(asker, peer_id):
    """Wait until the server lists a peer as ready."""
    while not any(p["id"] == peer_id and not p["busy"] for p in await asker.get_peers()):  # noqa: ASYNC110
        await asyncio.sleep(0)


async def until(condition):
    """Wait for what only the attributes tell."""
    with anyio.fail_after(BOUND):
        while not condition():  # noqa: ASYNC110 - attributes have no event
            await asyncio.sleep(0.001)


# --- Construction ----------------------------------------------------------------------------------------------


def test_the_arguments_stand_where_hyperpeer_py_has_them():
    names = [name for name, p in inspect.signature(Peer).parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert names == [
        "serverAddress", "peer_type", "id", "key", "media_source", "media_sink", "frame_generator", "frame_consumer",
        "frame_rate", "ssl_context", "datachannel_options", "media_source_format", "media_options",
    ]  # fmt: skip
    defaults = {name: p.default for name, p in inspect.signature(Peer).parameters.items()}
    assert (defaults["peer_type"], defaults["frame_rate"]) == ("media-server", 30)


def test_a_peer_is_made_without_an_event_loop():
    peer = Peer("wss://example.org:8000", "media-server", "me", "secret")
    assert state(peer) is PeerState.STARTING
    assert peer.id == "me"
    assert peer.url == "wss://example.org:8000/media-server/me/***"
    assert "secret" not in repr(peer.config)
    assert not peer.disconnection_event.is_set()


def test_without_an_id_it_makes_one_up_and_says_so_and_the_key_stays_secret(caplog):
    with caplog.at_level(logging.INFO):
        one, other = (Peer("wss://example.org", key="secret") for _ in range(2))
    assert one.id != other.id
    assert one.id in caplog.text
    assert "secret" not in caplog.text + one.url + one.id


def test_the_id_is_the_one_that_the_peer_list_shows():
    assert Peer("wss://example.org", id="café").id == "caf%C3%A9"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"media_source": ""}, SourceError),
        ({"frame_generator": 5}, SourceError),
        ({"frame_consumer": 5}, LocalProtocolError),
        ({"datachannel_options": {"maxRetransmit": 0}}, LocalProtocolError),
        ({"datachannel_options": {"maxRetransmits": 0, "maxPacketLifeTime": 0}}, LocalProtocolError),
        ({"serverAddress": "http://host/path"}, AddressError),
        ({"peer_type": ""}, AddressError),
    ],
)
def test_what_cannot_be_used_is_told_at_once(arguments, error):
    with pytest.raises(error):
        Peer(**{"serverAddress": "wss://example.org", **arguments})


def test_datachannel_options_may_be_any_part_of_those_of_the_original():
    def channel(options):
        return Peer("wss://example.org", datachannel_options=options).config.engine.channel

    full = {"label": "l", "maxPacketLifeTime": None, "maxRetransmits": 0, "ordered": False, "protocol": ""}
    assert channel(full) == channel({"label": "l", "maxRetransmits": 0, "ordered": False})
    assert channel(None) == channel({})
    assert channel(None).label == "data_channel"


def test_the_format_autodetect_means_none():
    peer = Peer("wss://example.org", media_source="clip.mp4", media_source_format="autodetect")
    make_source = peer.config.engine.source
    assert make_source is not None
    assert make_source().name == "clip.mp4"


# --- The README's flow -----------------------------------------------------------------------------------------


async def test_a_program_like_the_readme_of_hyperpeer_py_runs_with_real_media(real):
    """FACTS: generator function, counting consumer, all five channel options, ssl_context, poll of readyState."""
    frames = asyncio.Event()
    counters = []

    def video_frame_generator():
        pattern, number = Pattern(160, 128), 0
        while True:
            yield pattern.draw(number)
            number += 1

    def frame_consumer(frame):
        assert frame.shape == (128, 160, 3)
        assert frame.dtype == np.uint8
        counter = read_counter(frame)
        if counter is not None:
            counters.append(counter)
        if len(counters) >= 3:
            frames.set()

    options = {
        "label": "data_channel", "maxPacketLifeTime": None, "maxRetransmits": 0, "ordered": False, "protocol": "",
    }  # fmt: skip
    heard: list[object] = []
    listener = Peer(
        real.server, peer_type="media_server", id=new_id(), frame_generator=video_frame_generator,
        frame_consumer=frame_consumer, ssl_context=None, datachannel_options=options,
    )  # fmt: skip
    caller = Peer(real.server, id=new_id(), frame_generator=video_frame_generator, frame_consumer=lambda _frame: None)
    caller.add_data_handler(heard.append)
    sessions = 0

    async def main():
        nonlocal sessions
        await listener.open()
        listener.add_data_handler(lambda data: None)
        assert {"id": listener.id, "type": "media_server", "busy": True} in await listener.get_peers()
        try:
            while True:
                remote_id = await listener.listen_connections()
                assert remote_id == caller.id
                await listener.accept_connection()

                async def sender():
                    while listener.readyState == PeerState.CONNECTED:
                        await listener.send({"count": len(counters)})
                        await asyncio.sleep(0.02)

                with contextlib.suppress(PeerStateError):
                    await sender()
                sessions += 1
                while listener.readyState != PeerState.ONLINE:  # noqa: ASYNC110 - as programs do
                    await asyncio.sleep(0.01)
        finally:
            await listener.close()

    with nothing_left():
        running = asyncio.create_task(main())
        await caller.open()
        for session in (1, 2):  # hyperpeer-py cannot do the second one
            await free(caller, listener.id)
            await caller.connect_to(listener.id)
            await frames.wait()
            assert isinstance(await caller.recv(), dict)
            assert counters == sorted(counters)
            await caller.disconnect()
            await until(lambda expected=session: sessions == expected)
            counters.clear()
            frames.clear()
        await caller.close()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert heard
    assert (listener.readyState, caller.readyState) == (PeerState.CLOSED, PeerState.CLOSED)


# --- Opening and closing ---------------------------------------------------------------------------------------


async def test_it_opens_closes_and_opens_again(world):
    peer = make(world)
    await peer.close()  # fine before open, as in the original
    assert state(peer) is PeerState.CLOSED
    with nothing_left():
        for _ in range(3):
            await peer.open()
            assert state(peer) is PeerState.ONLINE
            assert [p["id"] for p in await peer.get_peers()] == [peer.id]
            await peer.close()
            assert state(peer) is PeerState.CLOSED
            assert world.peers() == []
        await peer.close()


async def test_as_a_context_manager(world):
    async with make(world) as peer:
        assert state(peer) is PeerState.ONLINE
    assert state(peer) is PeerState.CLOSED


async def test_a_second_open_is_refused_and_changes_nothing(world):
    async with opened(world) as peer:
        with pytest.raises(PeerStateError):
            await peer.open()
        assert state(peer) is PeerState.ONLINE


async def test_a_server_that_is_not_there_is_a_connection_error_and_can_be_tried_again(world):
    peer = make(world)
    await world.stop_server()
    for _ in range(2):
        with pytest.raises(ServerUnreachableError) as caught:
            await peer.open()
        assert caught.value.cause is Cause.UNREACHABLE
        assert isinstance(caught.value, ConnectionError)
        assert state(peer) is PeerState.STARTING
    await world.start_server()
    await peer.open()
    await peer.close()


async def test_nobody_listening_on_a_real_port(unused_tcp_port_number):
    peer = Peer(f"ws://127.0.0.1:{unused_tcp_port_number}")
    with nothing_left(), pytest.raises(OSError, match=str(unused_tcp_port_number)):
        await peer.open()


@pytest.fixture
def unused_tcp_port_number():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]  # bound and not listening: nobody else gets it


async def test_plain_ws_to_another_machine_is_refused_without_traffic():
    peer = Peer("ws://192.0.2.1:80")
    with pytest.raises(LocalProtocolError, match="allow_plain"):
        await peer.open()
    assert state(peer) is PeerState.STARTING
    await peer.close()


async def test_a_refused_key():
    async with World(check_key=lambda _type, _id, key: key == "right").running() as world:
        peer = make(world, key="wrong")
        with pytest.raises(ServerUnreachableError) as caught:
            await peer.open()
        assert caught.value.cause is Cause.KEY_REFUSED
        assert "wrong" not in str(caught.value)
        async with opened(world, key="right"):
            pass


async def test_a_source_that_is_not_there_is_told_by_open(world):
    peer = make(world, media_source="/nonexistent/clip.mp4")
    with nothing_left():
        for _ in range(2):
            with pytest.raises(SourceError, match=r"clip\.mp4"):
                await peer.open()
    assert state(peer) is PeerState.STARTING
    await peer.close()


async def test_the_server_lost_while_online(world, caplog):
    peer = make(world)
    await peer.open()
    await world.stop_server()
    await until(lambda: peer.readyState is PeerState.CLOSED)
    with pytest.raises(PeerStateError, match="Not in ONLINE state!") as caught:
        await peer.get_peers()
    assert "1001" in "".join(caught.value.__notes__)
    await world.start_server()
    await peer.open()
    assert state(peer) is PeerState.ONLINE
    await peer.close()


async def test_the_server_lost_while_connected_ends_nothing_but_what_comes_after(world):
    async with opened(world) as one, opened(world) as other:
        await pair(one, other)
        await world.stop_server()
        await one.send("still there")
        assert await other.recv() == "still there"
        await one.disconnect()
        assert state(one) is PeerState.CLOSED
        await until(lambda: other.readyState is PeerState.CLOSED)


# --- Wrong states ----------------------------------------------------------------------------------------------


async def test_calls_in_the_wrong_state_say_what_hyperpeer_py_says(world):
    peer = make(world)
    calls = {
        "Not in ONLINE state!": [peer.get_peers, lambda: peer.connect_to("other"), peer.listen_connections],
        "Not in CONNECTING state!": [peer.accept_connection],
        "Not in CONNECTED state!": [lambda: peer.send({}), peer.recv],
    }

    async def all_refused(but=()):
        for text, functions in calls.items():
            for function in functions:
                if text not in but:
                    with pytest.raises(PeerStateError) as caught:
                        await function()
                    assert str(caught.value) == text
        assert await peer.disconnect() is None

    await all_refused()
    await peer.open()
    await all_refused(but=["Not in ONLINE state!"])
    listening = asyncio.create_task(peer.listen_connections())
    await until(lambda: peer.readyState is PeerState.LISTENING)
    await all_refused()
    listening.cancel()
    await asyncio.wait([listening])
    await peer.close()
    await all_refused()


async def test_errors_of_connecting_leave_the_peer_online_with_the_servers_text(world):
    async with opened(world) as peer, opened(world) as busy:
        for remote_id, text, cause in (
            ("nobody", "Remote peer does not exists!", Cause.NOT_FOUND),
            (busy.id, "Remote peer is busy!", Cause.BUSY),
        ):
            with pytest.raises(PeerError) as caught:
                await peer.connect_to(remote_id)
            assert str(caught.value) == text
            assert caught.value.cause is cause
            assert state(peer) is PeerState.ONLINE
        with pytest.raises(LocalProtocolError):
            await peer.connect_to(peer.id)
        assert len(await peer.get_peers()) == 2


async def test_a_caller_that_leaves_before_it_is_accepted(world):
    async with opened(world) as listener, opened(world) as caller:
        listening = asyncio.create_task(listener.listen_connections())
        await until(lambda: listener.readyState is PeerState.LISTENING)
        await free(caller, listener.id)
        calling = asyncio.create_task(caller.connect_to(listener.id))
        assert await listening == caller.id
        calling.cancel()
        await asyncio.wait([calling])
        await until(lambda: listener.readyState is PeerState.ONLINE)
        with pytest.raises(PeerStateError, match="Not in CONNECTING state!"):
            await listener.accept_connection()
        await until(lambda: caller.readyState is PeerState.ONLINE)
        assert await pair(caller, listener) == caller.id


async def test_a_listener_that_declines(world):
    async with opened(world) as listener, opened(world) as caller:
        listening = asyncio.create_task(listener.listen_connections())
        await until(lambda: listener.readyState is PeerState.LISTENING)
        await free(caller, listener.id)
        calling = asyncio.create_task(caller.connect_to(listener.id))
        await listening
        await listener.disconnect("not today")
        assert state(listener) is PeerState.ONLINE
        with pytest.raises(PeerError, match="Cannot pair with peer!"):
            await calling
        assert await pair(caller, listener) == caller.id


async def test_a_server_that_is_lost_while_somebody_waits(world):
    async with opened(world) as peer:
        listening = asyncio.create_task(peer.listen_connections())
        await until(lambda: peer.readyState is PeerState.LISTENING)
        await world.stop_server()
        with pytest.raises(PeerError) as caught:
            await listening
        assert str(caught.value) == "Websocket connection closed while waiting for a signal"
        assert caught.value.cause is Cause.SIGNALING_LOST


class SilentServer:
    """A signaling server that answers nothing."""

    server = "ws://localhost:9"

    def __init__(self, world):
        self.open_engine = world.open_engine
        self.ends = []

    def dial(self, _address):
        @asynccontextmanager
        async def dial():
            from deepio_adapters.link import memory_link_pair

            ours, theirs = memory_link_pair()
            self.ends.append(theirs)
            yield ours
            await ours.aclose()

        return dial


async def test_a_server_that_does_not_answer(world):
    silent = SilentServer(world)
    peer = make(silent)
    quick = dataclasses.replace(peer.config.peer, reply_timeout=0.05, leave_timeout=0.05)
    peer.config = dataclasses.replace(peer.config, peer=quick)
    async with peer:
        with pytest.raises(PeerError) as caught:
            await peer.get_peers()
        assert str(caught.value) == "Server not responding!"
        with pytest.raises(PeerError) as caught:
            await peer.connect_to("other")
        assert str(caught.value) == "Server not responding!"
        # The next call waits until the former attempt has been left.
        asking = asyncio.create_task(peer.get_peers())
        await asyncio.sleep(0)
        await silent.ends[0].aclose(1001)
        with pytest.raises(PeerError):
            await asking


async def test_a_server_that_is_lost_in_the_middle_of_a_call(world):
    silent = SilentServer(world)
    async with make(silent) as peer:
        calls = [asyncio.create_task(peer.get_peers()), asyncio.create_task(peer.connect_to("other"))]
        await until(lambda: peer.readyState is PeerState.CONNECTING)
        await silent.ends[0].aclose(1001)
        for call in calls:
            with pytest.raises(PeerError) as caught:
                await call
            assert str(caught.value) == "Websocket connection closed while waiting for a signal"


async def test_a_remote_peer_that_never_offers(world):
    caller = make(world)
    quick = dataclasses.replace(caller.config.peer, negotiation_timeout=0.05, leave_timeout=0.05)
    caller.config = dataclasses.replace(caller.config, peer=quick)
    async with opened(world) as listener, caller:
        listening = asyncio.create_task(listener.listen_connections())
        await until(lambda: listener.readyState is PeerState.LISTENING)
        await free(caller, listener.id)
        with pytest.raises(PeerError, match="in time") as caught:
            await caller.connect_to(listener.id)
        assert caught.value.cause is Cause.NO_CONNECTION
        await listening


# --- Data ------------------------------------------------------------------------------------------------------


async def test_any_json_goes_both_ways_null_included(world):
    async with opened(world) as one, opened(world) as other:
        assert await pair(one, other) == one.id
        for sender, receiver in ((one, other), (other, one)):
            for data in ({"a": [1, None]}, "text", 5, None, False):
                await sender.send(data)
                assert await receiver.recv() == data
        with pytest.raises(LocalProtocolError):
            await one.send({"no": object()})
        with pytest.raises(LocalProtocolError):
            await one.send("x" * 300_000)
        await one.send("still there")
        assert await other.recv() == "still there"


async def test_recv_gives_the_newest_message_as_hyperpeer_py_does(world):
    async with opened(world) as one, opened(world) as other:
        await pair(one, other)
        seen = asyncio.Event()
        other.add_data_handler(lambda data: seen.set() if data == 2 else None)
        await one.send(1)
        await one.send(2)
        await seen.wait()
        assert await other.recv() == 2


async def test_a_message_that_nobody_received_does_not_outlive_its_connection(world):
    async with opened(world) as one, opened(world) as other:
        came = asyncio.Event()
        one.add_data_handler(lambda _data: came.set())
        await pair(one, other)
        await other.send("old")
        await came.wait()
        await one.disconnect()
        await pair(one, other)
        receiving = asyncio.create_task(one.recv())
        await asyncio.sleep(0)
        await other.send("new")
        assert await receiving == "new"


@pytest.mark.parametrize("leaves", ["remote", "own"])
async def test_recv_does_not_hang_when_the_connection_ends(world, leaves):
    async with opened(world) as one, opened(world) as other:
        await pair(one, other)
        receiving = asyncio.create_task(one.recv())
        await asyncio.sleep(0)
        await (one if leaves == "own" else other).disconnect()
        with pytest.raises(PeerError, match="has ended"):
            await receiving
        # What is left of the former connection is not taken for a message of the next.
        await pair(one, other)
        receiving = asyncio.create_task(one.recv())
        await other.send("new")
        assert await receiving == "new"


async def test_recv_ends_when_the_peer_is_closed(world):
    async with opened(world) as one, opened(world) as other:
        await pair(one, other)
        receiving = asyncio.create_task(one.recv())
        await asyncio.sleep(0)
        await one.close()
        with pytest.raises(PeerError):
            await receiving


async def test_handlers_of_all_kinds_run_in_order_and_one_that_raises_hurts_nobody(world, caplog):
    calls = []

    class Program:
        def method(self, data):
            calls.append(("method", data))

        async def coroutine_method(self, data):
            await asyncio.sleep(0)
            calls.append(("coroutine", data))

        def __call__(self, data):
            calls.append(("object", data))

    def fails(data):
        raise ValueError(f"no {data}")

    program = Program()
    handlers = [fails, program.method, program.coroutine_method, program]
    async with opened(world) as one, opened(world) as other:
        for handler in handlers:
            other.add_data_handler(handler)
        await pair(one, other)
        await one.send(1)
        await until(lambda: len(calls) == 3)
        other.remove_data_handler(program.method)
        with pytest.raises(ValueError, match="not in list"):
            other.remove_data_handler(program.method)
        await one.send(2)
        await until(lambda: len(calls) == 5)
        assert state(other) is PeerState.CONNECTED
    assert calls == [("method", 1), ("coroutine", 1), ("object", 1), ("coroutine", 2), ("object", 2)]
    assert [r.exc_info[1].args for r in caplog.records if r.exc_info] == [("no 1",), ("no 2",)]


async def test_what_is_not_json_does_not_end_the_connection(world, caplog):
    async with opened(world) as one, opened(world) as other:
        await pair(one, other)
        feed_channel(other, "{")
        await one.send("json")
        assert await other.recv() == "json"
    assert "ignored" in caplog.text


def feed_channel(peer, text):
    """Have a message come as from the engine."""
    driver = peer._client._driver
    driver.feed(ChannelReceived(negotiation=driver.machine.negotiation, data=text))


async def test_a_handler_may_close_its_peer_or_disconnect_it(world):
    async with opened(world) as one, opened(world) as other:
        left = asyncio.Event()

        async def leave(data):
            await (other.disconnect() if data == "disconnect" else other.close())
            left.set()

        other.add_data_handler(leave)
        await pair(one, other)
        await one.send("disconnect")
        await left.wait()
        assert state(other) is PeerState.ONLINE
        await pair(one, other)
        await one.send("close")
        await until(lambda: other.readyState is PeerState.CLOSED)
        await until(lambda: one.readyState is PeerState.ONLINE)


# --- Ends ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("leaves", [0, 1])
async def test_either_side_leaves_the_event_pulses_and_both_can_connect_again(world, leaves):
    async with opened(world) as one, opened(world) as other:
        for _ in range(3):
            await pair(one, other)
            states: list[PeerState] = []

            async def watch(peer, states):
                await asyncio.wait_for(peer.disconnection_event.wait(), BOUND)
                states.append(peer.readyState)

            async with asyncio.TaskGroup() as tasks:
                for peer in (one, other):
                    tasks.create_task(watch(peer, states))
                await asyncio.sleep(0)
                await (one, other)[leaves].disconnect()
            assert all(state in {PeerState.DISCONNECTING, PeerState.ONLINE} for state in states)
            assert len(await one.get_peers()) == len(await other.get_peers()) == 2  # waits until it is over
            assert not one.disconnection_event.is_set()
            assert not other.disconnection_event.is_set()


async def test_disconnect_with_an_exception_closes_and_raises_it(world):
    async with opened(world) as one, opened(world) as other:
        await pair(one, other)
        mine = RuntimeError("mine")
        with pytest.raises(RuntimeError) as caught:
            await one.disconnect(mine)
        assert caught.value is mine
        assert state(one) is PeerState.CLOSED


async def test_close_in_the_middle_of_connecting(world):
    async with opened(world) as listener, opened(world) as caller:
        listening = asyncio.create_task(listener.listen_connections())
        await until(lambda: listener.readyState is PeerState.LISTENING)
        await free(caller, listener.id)
        calling = asyncio.create_task(caller.connect_to(listener.id))
        await listening
        accepting = asyncio.create_task(listener.accept_connection())
        await until(lambda: listener.readyState is PeerState.CONNECTING)
        await caller.close()
        assert state(caller) is PeerState.CLOSED
        for task in (calling, accepting):
            with contextlib.suppress(PeerError):
                await task


async def test_close_while_it_opens(world):
    peer = make(world)
    opening = asyncio.create_task(peer.open())
    await asyncio.sleep(0)
    await peer.close()
    with pytest.raises(PeerError):
        await opening
    assert state(peer) in {PeerState.CLOSED, PeerState.STARTING}
    await peer.open()
    await peer.close()


async def test_a_failure_in_the_background_is_logged_and_raised_by_the_next_call(world, caplog):
    async def broken(peer):
        await peer.open()
        peer._client._tell = fail
        with contextlib.suppress(Exception):
            await peer.get_peers()
        await until(lambda: peer.readyState is PeerState.CLOSED)
        await asyncio.sleep(0)

    def fail(_event):
        raise ZeroDivisionError("a bug")

    for call in ("get_peers", "close", "open", "disconnect"):
        caplog.clear()
        peer = make(world)
        with nothing_left():
            await broken(peer)
            assert "a bug" in caplog.text
            with pytest.raises(ZeroDivisionError):
                await getattr(peer, call)()
            await peer.close()
        await peer.open()  # and then it goes on
        await peer.close()


async def test_a_peer_serves_one_loop_after_another(world):
    peer = make(world)

    async def use():
        move(peer, World())
        async with peer:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.disconnection_event.wait(), 0.01)  # binds the event to the loop

    def run():
        for _ in range(2):
            asyncio.run(use())

    await anyio.to_thread.run_sync(run)


# --- Media -----------------------------------------------------------------------------------------------------


def pictures(count=None):
    """Frames with a counter."""
    pattern, number = Pattern(160, 128), 0
    while count is None or number < count:
        yield pattern.draw(number)
        number += 1


async def async_pictures():
    for picture in pictures():
        await asyncio.sleep(0)
        yield picture


class Seen:
    """Reads counters; its method is a bound one, which hyperpeer-py refuses."""

    def __init__(self):
        self.counters = []

    async def look(self, frame):
        counter = read_counter(frame)
        if counter is not None:
            self.counters.append(counter)

    def look_and_fail(self, frame):
        self.counters.append(read_counter(frame))
        raise ValueError("unwatchable")


@pytest.mark.parametrize(
    ("source", "again"),
    [
        ({"frame_generator": pictures}, "fresh"),
        ({"frame_generator": async_pictures}, "fresh"),
        ({"frame_generator": pictures()}, "on"),
        ({"media_source": "test:160x128"}, "on"),
    ],
    ids=["generator", "async generator", "iterator", "pattern"],
)
async def test_a_generator_function_begins_anew_for_every_connection(world, source, again):
    source = dict(source, frame_generator=pictures()) if again == "on" and "frame_generator" in source else source
    seen = Seen()
    async with opened(world, frame_rate=50, **source) as camera, opened(world, frame_consumer=seen.look) as viewer:
        await pair(viewer, camera)
        await until(lambda: len(seen.counters) >= 5)
        await viewer.disconnect()
        first = seen.counters.copy()
        assert first == sorted(set(first))
        seen.counters.clear()
        await pair(viewer, camera)
        await until(lambda: seen.counters)
        if again == "fresh":
            assert seen.counters[0] < first[-1]
        else:
            assert seen.counters[0] >= first[-1]


async def test_a_file_plays_from_its_beginning_for_every_caller_and_its_end_ends_the_connection(world, tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=10, size=(160, 128))
    seen = Seen()
    async with opened(world, media_source=str(clip)) as camera, opened(world, frame_consumer=seen.look) as viewer:
        for _ in range(2):
            await pair(viewer, camera)
            await until(lambda: viewer.readyState is PeerState.ONLINE)
            assert seen.counters
            assert seen.counters[0] <= 3
            seen.counters.clear()


async def test_a_consumer_that_raises_is_logged_and_goes_on(world, caplog):
    seen = Seen()
    async with (
        opened(world, frame_generator=pictures) as camera,
        opened(world, frame_consumer=seen.look_and_fail) as viewer,
    ):
        await pair(viewer, camera)
        await until(lambda: len(seen.counters) > 2)
        assert viewer.readyState is PeerState.CONNECTED
    assert "unwatchable" in caplog.text


async def test_the_sink_records_what_comes(world, tmp_path):
    sink = tmp_path / "out.mp4"
    async with opened(world, frame_generator=pictures) as camera, opened(world, media_sink=str(sink)) as viewer:
        await pair(viewer, camera)
        stats = viewer._client._driver.engine.stats
        await until(lambda: stats().frames_received >= 10)
    with av.open(str(sink)) as recorded:
        counters = [read_counter(frame.to_ndarray(format="bgr24")) or 0 for frame in recorded.decode(video=0)]
    assert len(counters) >= 5
    assert counters == sorted(counters)


async def test_a_sink_that_cannot_be_written_is_told_by_open(world):
    with pytest.raises(DeepIOError, match="/nonexistent"):
        await make(world, media_sink="/nonexistent/out.mp4").open()


# --- Cancellation ----------------------------------------------------------------------------------------------


async def whole_life(world):
    """Everything a peer does; both ends in one task tree, so that one cancellation meets both."""
    one, other = make(world, frame_generator=pictures), make(world, frame_consumer=lambda _frame: None)
    try:
        await one.open()
        await other.open()
        await pair(one, other)
        await one.send(1)
        await other.recv()
        await one.disconnect()
        await other.get_peers()
    finally:
        await one.close()
        await other.close()


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 20, 30, 45, 70, 100, 150, 220, 330])
async def test_cancelled_anywhere_it_leaves_nothing_behind(world, steps):
    with nothing_left():
        before = asyncio.all_tasks()
        task = asyncio.create_task(whole_life(world))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None
        assert asyncio.all_tasks() == before
        assert world.peers() == []


@pytest.mark.parametrize("method", ["open", "connect_to", "listen_connections", "get_peers", "recv", "close"])
async def test_a_peer_is_usable_after_any_of_its_methods_was_cancelled(world, method):
    async with opened(world) as other:
        peer = make(world)
        for steps in range(12):
            if method != "open":
                await peer.open()
            if method == "recv":
                await pair(peer, other)
            listening = asyncio.create_task(listen(other) if method == "connect_to" else asyncio.sleep(0))
            if method == "connect_to":
                await free(peer, other.id)
            arguments = [other.id] if method == "connect_to" else []
            task = asyncio.create_task(getattr(peer, method)(*arguments))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if method == "open":
                assert state(peer) in {PeerState.STARTING, PeerState.ONLINE, PeerState.CLOSED}
            elif method != "close":
                listening.cancel()
                await asyncio.wait([listening])
                if method == "recv":
                    await peer.disconnect()
                assert len(await peer.get_peers()) == 2
                await other.get_peers()
            await peer.close()
            await until(lambda: world.peers() == [other.id])


async def test_the_config_may_be_changed_before_open(world):
    peer = make(world)
    peer.config = dataclasses.replace(peer.config, peer=PeerConfig(peer_id=peer.id, open_timeout=1.0))
    async with peer:
        assert state(peer) is PeerState.ONLINE
