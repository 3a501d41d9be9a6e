"""The signaling service over real WebSockets and in memory: the same replies, and no client that harms another."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
import trustme
import websockets.asyncio.client
from websockets.exceptions import ConnectionClosed, InvalidStatus

from deepio_adapters.client import Client, ClientConfig, SessionEndedError
from deepio_adapters.link import LinkClosed, LinkError, open_link
from deepio_adapters.listing import list_peers
from deepio_adapters.tls import TLSOptions
from deepio_core import closecodes, session
from deepio_core.address import build_address
from deepio_core.config import PeerConfig
from deepio_core.outputs import Cause
from deepio_core.policy import ListenForCallers, SessionConfig
from deepio_core.server import ServerConfig
from deepio_server.core import Core, CoreConfig, serve
from deepio_server.signaling import OUTBOX_LIMIT, SignalingService
from tests.worlds import open_files

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(30)]

MANAGERS = ["stream_manager", "stream_manager_output"]
"""Who is there from the beginning."""


@pytest.fixture
def anyio_backend():
    return "asyncio"  # the loop of every WebSocket server here


class Wire:
    """A client that says what the test wants, over either kind of connection."""

    def __init__(self, send: Callable[[Any], Any], receive: Callable[[], Any], close: Callable[[], Any]) -> None:
        self._send, self._receive, self.close = send, receive, close

    async def say(self, *values: Any) -> None:
        for value in values:
            await self._send(value if isinstance(value, (str, bytes)) else json.dumps(value))

    async def hear(self) -> Any:
        with anyio.fail_after(10):
            return json.loads(await self._receive())

    async def end(self) -> tuple[int, str]:
        """How the connection ends, after whatever comes before."""
        with anyio.fail_after(10):
            try:
                while True:
                    await self._receive()
            except ConnectionClosed as closed:
                return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
            except LinkClosed as closed:
                return closed.code, closed.reason


Connect = Callable[[str], AbstractAsyncContextManager[Wire]]


@asynccontextmanager
async def over_websocket(core: Core, path: str) -> AsyncGenerator[Wire]:
    async with websockets.asyncio.client.connect(f"{core.url}{path}", compression=None, max_size=None) as connection:
        yield Wire(connection.send, connection.recv, connection.close)


@asynccontextmanager
async def in_memory(core: Core, path: str) -> AsyncGenerator[Wire]:
    async with core.signaling.connect(path) as link:
        yield Wire(link.send, link.receive, link.aclose)


WAYS = {"websocket": over_websocket, "memory": in_memory}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


async def listed(core: Core, *, free: bool = False) -> list[str]:
    """The ids of all peers, or of those that can be called, as a peer that asks by a real connection is told."""
    address = build_address(core.url, None, peer_type="test", peer_id="asker")
    return [peer.id for peer in await list_peers(address) if peer.id != "asker" and not (free and peer.busy)]


async def until_listed(core: Core, *ids: str) -> None:
    """Waits until exactly these peers are there beside the managers; each look is a whole connection."""
    with anyio.fail_after(10):
        while await listed(core) != [*MANAGERS, *ids]:
            pass


@asynccontextmanager
async def shaken_hands(core: Core, path: str) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket whose frames the test makes itself."""
    reader, writer = await asyncio.open_connection("127.0.0.1", core.port)
    try:
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n".encode()
        )
        assert b"101" in await reader.readuntil(b"\r\n\r\n")
        yield reader, writer
    finally:
        writer.transport.abort()


def frame(text: str) -> bytes:
    """A short text frame; clients mask theirs, this one with zeros."""
    return bytes([0x81, 0x80 | len(text)]) + bytes(4) + text.encode()


async def until_free(core: Core, peer_id: str) -> None:
    """Waits until a peer can be called; each look is a whole connection."""
    with anyio.fail_after(10):
        while peer_id not in await listed(core, free=True):
            pass


# --- The same replies -----------------------------------------------------------------------------------------------


async def test_a_conversation_is_the_same_over_either_connection(way: Any) -> None:
    async with serve(CoreConfig()) as core, way(core, "/a/one") as one, way(core, "/b/two") as two:
        await one.say({"type": "pair", "remotePeerId": "two"})
        assert await one.hear() == {"type": "error", "code": "ERR_PEER_BUSY", "message": "Remote peer is busy!"}
        await two.say({"type": "ready"}, {"type": "listPeers"})
        peers = (await two.hear())["peers"]
        assert peers[-2:] == [{"id": "one", "type": "a", "busy": True}, {"id": "two", "type": "b", "busy": False}]
        await one.say({"type": "pair", "remotePeerId": "two"}, {"type": "offer", "sdp": "é"}, '{"a" : 1.0}')
        assert await one.hear() == {"type": "status", "status": "paired", "remotePeerId": "two"}
        assert await two.hear() == {"type": "status", "status": "paired", "remotePeerId": "one"}
        assert [await two.hear(), await two.hear()] == [{"type": "offer", "sdp": "é"}, {"a": 1}]
        await two.say({"type": "unpair"})
        assert [await one.hear(), await two.hear()] == [{"type": "status", "status": "unpaired"}] * 2


async def test_garbage_ends_nothing(way: Any) -> None:
    garbage = ["", "{", "null", "5", "[]", '"x"', "true", "\x00", '{"type":5}', '{"type":"Pair"}', "[" * 9000, "1e999"]
    async with serve(CoreConfig()) as core, way(core, "/a/one") as one:
        await one.say(*garbage, {"type": "pair", "remotePeerId": None}, {"type": "listPeers"})
        codes = []
        while (reply := await one.hear())["type"] != "peers":
            codes.append(reply["code"])
        assert len(codes) == len(garbage) + 1
        assert set(codes) == {"ERR_BAD_SIGNAL", "ERR_BAD_STATE", "ERR_PEER_NOT_FOUND"}


async def test_binary_frames_are_read_as_text() -> None:
    async with serve(CoreConfig()) as core, over_websocket(core, "/a/one") as one:
        await one.say(b"\xff\xfe", b'{"type":"listPeers"}')
        assert (await one.hear())["code"] == "ERR_BAD_SIGNAL"
        assert (await one.hear())["peers"][-1] == {"id": "one", "type": "a", "busy": True}


# --- Who may come in ------------------------------------------------------------------------------------------------


async def test_percent_escapes_are_part_of_the_id(way: Any) -> None:
    async with serve(CoreConfig()) as core, way(core, "/my%20type/caf%C3%A9"), way(core, "/t/a%2Fb"):
        assert await listed(core) == [*MANAGERS, "caf%C3%A9", "a%2Fb"]
        assert core.signaling.peers[-2].type == "my%20type"


async def test_a_peer_without_id_is_given_one(way: Any) -> None:
    async with serve(CoreConfig()) as core, way(core, "/browser"), way(core, "/browser"):
        new = (await listed(core))[len(MANAGERS) :]
    assert len(set(new)) == 2
    assert all(name.startswith("peer") and name[4:].isdecimal() for name in new)


async def test_the_query_is_no_part_of_the_path() -> None:
    async with serve(CoreConfig()) as core, over_websocket(core, "/t/one?x=/y/z"):
        assert await listed(core) == [*MANAGERS, "one"]


@pytest.mark.parametrize("path", ["/t/a.b", "/t/a/b/c", "/t//", "/t/" + 5000 * "x", "/"])
async def test_a_path_that_is_none_is_refused(way: Any, path: str) -> None:
    async with serve(CoreConfig()) as core:
        if way is over_websocket:
            async with way(core, path) as wire:
                code, reason = await wire.end()
        else:
            with pytest.raises(LinkClosed) as closed:
                async with way(core, path):
                    pass
            code, reason = closed.value.code, closed.value.reason
        assert code == closecodes.ADDRESS_REFUSED
        assert reason
        assert await listed(core) == MANAGERS


def only_right(_type: str, _id: str | None, key: str | None) -> bool:
    return key == "right"


async def test_a_wrong_key_is_refused_before_the_upgrade(caplog: Any) -> None:
    async with serve(CoreConfig(check_key=only_right)) as core:
        with pytest.raises(InvalidStatus) as refused:
            async with over_websocket(core, "/t/one/wrong"):
                pass
        assert (refused.value.response.status_code, refused.value.response.body) == (401, b"Unauthorized")
        with pytest.raises(LinkClosed) as closed:
            async with in_memory(core, "/t/one/wrong"):
                pass
        assert closed.value.code == closecodes.KEY_REFUSED
        address = build_address(core.url, None, peer_type="t", peer_id="one", key="wr0ng")
        with pytest.raises(LinkError) as raised:
            async with open_link(address):
                pass
        assert raised.value.cause is Cause.KEY_REFUSED
        assert raised.value.remedy
        assert "wr0ng" not in str(raised.value)
        async with over_websocket(core, "/t/one/right"):
            assert [peer.id for peer in core.signaling.peers] == [*MANAGERS, "one"]
    assert not [record for record in caplog.records if record.levelname == "ERROR"]  # nobody can fill the log


def client(core: Core, peer_id: str, *, key: str | None = None, patience: int | None = None) -> Client:
    address = build_address(core.url, None, peer_type="t", peer_id=peer_id, key=key)
    config = SessionConfig(peer=PeerConfig(peer_id=address.peer_id), policy=ListenForCallers(), backoff_first=0.05)
    return Client(ClientConfig(address=address, session=config))


async def test_a_session_ends_at_a_refused_key_with_a_remedy() -> None:
    async with serve(CoreConfig(check_key=only_right)) as core:
        with pytest.raises(SessionEndedError) as raised:
            async with client(core, "one", key="wr0ng") as refused:
                await refused.wait_ended()
    assert raised.value.cause is Cause.KEY_REFUSED
    assert raised.value.remedy
    assert "wr0ng" not in str(raised.value)


async def test_an_id_in_use_is_refused_and_waited_for(way: Any) -> None:
    async with serve(CoreConfig()) as core:
        told: list[session.Retrying] = []
        waiting = client(core, "one")
        retrying = anyio.Event()

        def note(event: Any) -> None:
            if isinstance(event, session.Retrying):
                told.append(event)
                retrying.set()

        waiting.add_event_handler(note)
        async with way(core, "/t/one") as first:
            async with over_websocket(core, "/u/one") as second:
                code, reason = await second.end()
                assert (code, bool(reason)) == (closecodes.ID_IN_USE, True)
            async with waiting:
                with anyio.fail_after(10):
                    await retrying.wait()
                assert told[0].cause is Cause.ID_IN_USE
                await first.say({"type": "listPeers"})
                assert [peer["id"] for peer in (await first.hear())["peers"]] == [*MANAGERS, "one"]
                await first.close()
                await until_free(core, "one")


# --- Limits ---------------------------------------------------------------------------------------------------------


async def test_a_message_too_big_ends_its_sender_alone(way: Any) -> None:
    limits = CoreConfig(signaling=ServerConfig(max_message_size=1000))
    async with serve(limits) as core, way(core, "/t/bystander") as bystander, way(core, "/t/one") as one:
        with contextlib.suppress(ConnectionClosed):
            await one.say("x" * 1001)
        assert (await one.end())[0] == closecodes.MESSAGE_TOO_BIG
        await until_listed(core, "bystander")
        await bystander.say({"type": "unpair"})
        assert (await bystander.hear())["status"] == "unpaired"


async def test_a_large_message_within_the_limit_arrives(way: Any) -> None:
    async with serve(CoreConfig()) as core, way(core, "/t/one") as one, way(core, "/t/two") as two:
        await two.say({"type": "ready"}, {"type": "unpair"})
        await two.hear()
        await one.say({"type": "pair", "remotePeerId": "two"}, {"sdp": "x" * 1_000_000})
        await two.hear()
        assert len((await two.hear())["sdp"]) == 1_000_000


async def test_a_flood_ends_its_sender(way: Any) -> None:
    limits = CoreConfig(signaling=ServerConfig(messages_per_second=1, message_burst=20))
    async with serve(limits) as core:
        async with way(core, "/t/one") as one:
            with contextlib.suppress(ConnectionClosed, LinkClosed):
                await one.say(*[{"type": "ready"}] * 50)
            assert (await one.end())[0] == closecodes.RATE_EXCEEDED
        await until_listed(core)


async def test_a_full_server_says_so(way: Any) -> None:
    async with serve(CoreConfig(signaling=ServerConfig(max_peers=3))) as core, way(core, "/t/one") as one:
        if way is over_websocket:
            async with way(core, "/t/two") as two:
                assert (await two.end())[0] == closecodes.SERVER_FULL
        else:
            with pytest.raises(LinkClosed) as closed:
                async with way(core, "/t/two"):
                    pass
            assert closed.value.code == closecodes.SERVER_FULL
        await one.close()
        await until_listed(core)


async def test_a_peer_that_never_reads_is_cut_off() -> None:
    """It fills neither our memory nor anybody's time, and the end of the server does not wait for it."""
    limits = CoreConfig(signaling=ServerConfig(messages_per_second=100_000, message_burst=100_000))
    async with serve(limits) as core, shaken_hands(core, "/t/deaf") as (_, writer):
        writer.write(frame('{"type":"ready"}'))  # and from now on nothing is read
        await until_free(core, "deaf")
        async with over_websocket(core, "/t/loud") as loud:
            await loud.say({"type": "pair", "remotePeerId": "deaf"})
            assert (await loud.hear())["status"] == "paired"
            block = json.dumps({"x": 60_000 * "y"})
            for _ in range(OUTBOX_LIMIT + 200):  # more than all buffers on the way hold
                await loud.say(block)
            assert (await loud.hear())["status"] == "unpaired"
        await until_listed(core)


async def test_the_end_of_the_server_does_not_wait_for_a_peer_that_never_reads() -> None:
    async with serve(CoreConfig()):
        pass  # what libraries keep for good is there now
    before = len(open_files())
    async with AsyncExitStack() as stack:
        async with serve(CoreConfig()) as core:
            _, writer = await stack.enter_async_context(shaken_hands(core, "/t/deaf"))
            writer.write(frame('{"type":"ready"}'))
            await until_free(core, "deaf")
            async with over_websocket(core, "/t/loud") as loud:
                await loud.say({"type": "pair", "remotePeerId": "deaf"})
                await loud.say(*[{"x": 200_000 * "y"}] * 60)  # more than the buffers hold
                await loud.say({"type": "listPeers"})
                while "peers" not in await loud.hear():
                    pass  # the server has taken it all
        # Of the two ends of its connection only the test's own is left.
        assert len(open_files()) <= before + 1


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_peer_that_never_reads_is_cut_off_in_memory() -> None:
    limits = ServerConfig(messages_per_second=100_000, message_burst=100_000)
    service = SignalingService(limits)
    async with service.connect("/t/deaf") as deaf, service.connect("/t/loud") as loud:
        await deaf.send('{"type":"ready"}')
        status = ""
        while "paired" not in status:
            await loud.send('{"type":"pair","remotePeerId":"deaf"}')
            status = str(await loud.receive())
        for _ in range(OUTBOX_LIMIT + 100):
            await loud.send("[1]")
        with anyio.fail_after(10):
            while "unpaired" not in str(await loud.receive()):
                pass
        assert [peer.id for peer in service.peers] == ["loud"]


# --- Coming and going -----------------------------------------------------------------------------------------------


async def test_a_client_that_vanishes_frees_its_id_and_its_partner() -> None:
    async with serve(CoreConfig()) as core, over_websocket(core, "/t/partner") as partner:
        await partner.say({"type": "ready"}, {"type": "unpair"})
        await partner.hear()
        async with websockets.asyncio.client.connect(f"{core.url}/t/gone", compression=None) as gone:
            await gone.send('{"type":"pair","remotePeerId":"partner"}')
            assert "paired" in str(await gone.recv())
            assert (await partner.hear())["remotePeerId"] == "gone"
            # A reset instead of a goodbye, as from a program that is killed with data unread.
            raw = gone.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.transport.abort()
            assert await partner.hear() == {"type": "status", "status": "unpaired"}
        async with over_websocket(core, "/t/gone") as again:
            await again.say({"type": "unpair"})
            assert (await again.hear())["status"] == "unpaired"


async def test_many_come_and_go_and_nothing_stays() -> None:
    async with serve(CoreConfig()) as core:

        async def visit(number: int, how: Any) -> None:
            async with how(core, f"/t/n{number}") as one:
                await one.say({"type": "listPeers"})
                await one.hear()

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(visit, number, list(WAYS.values())[number % 2])
        await until_listed(core)


async def test_an_http_request_is_told_who_is_there() -> None:
    async with serve(CoreConfig()) as core:
        reader, writer = await asyncio.open_connection("127.0.0.1", core.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith("HTTP/1.1 200")
    assert "stream_manager stream_manager free" in answer


async def test_raw_bytes_that_are_no_http_harm_nobody() -> None:
    async with serve(CoreConfig()) as core:
        for raw in (
            b"\x16\x03\x01\x00\xff",
            b"GET /t/\xff HTTP/1.1\r\n\r\n",
            b"\r\n\r\n\r\n",
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", core.port)
            writer.write(raw)
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        assert await listed(core) == MANAGERS


async def test_protocol_errors_of_the_websocket_harm_nobody() -> None:
    """Each of these frames ends the process of hyperpeer-node."""
    frames = [
        b"\x83\x80",
        b"\xc1\x80",
        b"\x80\x80",
        b"\x89\xfe\x00\x80",
        b"\x88\x81",
        b"\x81\x01x",
        b"\x88\x82\x00\x00\x00\x00\x03\xe7",
    ]
    async with serve(CoreConfig()) as core:
        for number, broken in enumerate(frames):
            async with shaken_hands(core, f"/t/bad{number}") as (reader, writer):
                writer.write(broken + bytes(300))
                with anyio.fail_after(10), contextlib.suppress(ConnectionError):
                    await reader.read()  # to the end: the server closes
        await until_listed(core)


# --- TLS ------------------------------------------------------------------------------------------------------------


async def test_wss(tmp_path: Any) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key, ca = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "ca.pem"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    async with serve(CoreConfig(tls_cert=chain, tls_key=key)) as core:
        assert core.url == f"wss://127.0.0.1:{core.port}"
        address = build_address(core.url, None, peer_type="t", peer_id="one")
        peers = await list_peers(address, tls=TLSOptions(ca_file=ca))
        assert [peer.id for peer in peers] == [*MANAGERS, "one"]
        with pytest.raises(LinkError) as raised:
            await list_peers(address, tls=TLSOptions())
        assert raised.value.cause is Cause.CERTIFICATE_REFUSED
        seen = raised.value.fingerprint
        assert seen is not None
        assert seen in str(raised.value)
        # What the remedy says works.
        assert await list_peers(address, tls=TLSOptions(fingerprint=seen))
