"""One contract for every link, over WebSocket with and without TLS and in memory; and how a link opens and ends."""

import asyncio
import contextlib
import functools
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from deepio_adapters.link import MAX_QUEUE, LinkClosed, LinkError, memory_link_pair, open_link
from deepio_adapters.tls import TLSOptions
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause
from tests.adapters.link_servers import (
    LIMIT,
    address_of,
    authority,
    calm,
    server_context,
    settled,
    silence,
    tcp_server,
    upgrade,
    websocket_server,
)

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(LIMIT)]
SMALL = 4096


@pytest.fixture
def trust(tmp_path):
    path = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return TLSOptions(ca_file=path)


@asynccontextmanager
async def websocket_pair(tls, max_size=SMALL, *, close_timeout=1.0, ping_interval=20.0):
    """A link over real sockets and its far end."""
    far_end, arrive = None, anyio.Event()
    done = anyio.Event()

    async def handler(link):
        nonlocal far_end
        far_end = link
        arrive.set()
        await done.wait()

    options = {} if tls is None else {"ssl": server_context("127.0.0.1")}
    async with websocket_server(handler, max_size=max_size, **options) as port:
        address = address_of(port, scheme="ws" if tls is None else "wss")
        async with open_link(
            address, tls=tls, max_size=max_size, close_timeout=close_timeout, ping_interval=ping_interval
        ) as link:
            await arrive.wait()
            yield link, far_end
        done.set()


@asynccontextmanager
async def memory_pair(max_size=SMALL, close_timeout=None):
    yield memory_link_pair(max_size=max_size)


async def drained(link):
    """What a link still delivers, and how it ends."""
    texts = []
    while True:
        try:
            texts.append(await link.receive())
        except LinkClosed as closed:
            return texts, closed


class TestContract:
    @pytest.fixture(params=["memory", "plain", "tls"])
    def pair(self, request, trust):
        if request.param == "memory":
            return memory_pair
        return functools.partial(websocket_pair, trust if request.param == "tls" else None)

    @pytest.fixture(params=["near", "far"])
    def turned(self, request, pair):
        """The pair, seen from either side: a link is the same for the side that opened it and the other."""

        @asynccontextmanager
        async def turn(**options):
            async with pair(**options) as (near, far):
                yield (near, far) if request.param == "near" else (far, near)

        return turn

    async def test_messages_arrive_whole_and_in_order(self, turned):
        texts = ["", "{}", '{"type":"offer"}', "Grüße \U0001f642", "\x00", "x" * SMALL]
        async with turned() as (here, there):
            for text in texts:
                await here.send(text)
            assert [await there.receive() for _ in texts] == texts

    async def test_both_directions_at_once(self, pair):
        async def exchange(link, name, got):
            for number in range(50):
                await link.send(f"{name} {number}")
                got.append(await link.receive())

        async with pair() as (near, far):
            at_near: list[str] = []
            at_far: list[str] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(exchange, near, "near", at_near)
                tasks.start_soon(exchange, far, "far", at_far)
        assert at_near == [f"far {n}" for n in range(50)]
        assert at_far == [f"near {n}" for n in range(50)]

    async def test_the_other_side_learns_code_and_reason(self, turned):
        async with turned() as (here, there):
            await here.aclose(4409, "in use")
            with pytest.raises(LinkClosed) as closed:
                await there.receive()
        assert (closed.value.code, closed.value.reason) == (4409, "in use")
        assert closed.value.cause is Cause.SIGNALING_LOST
        assert "4409" in str(closed.value)
        assert "in use" in str(closed.value)

    async def test_a_closed_link_says_so_to_all_who_use_it(self, turned):
        async with turned() as (here, there):
            await here.aclose(4000, "bye")
            for link in (here, there):
                for _ in range(2):
                    with pytest.raises(LinkClosed, match="4000"):
                        await link.receive()
                    with pytest.raises(LinkClosed, match="4000"):
                        await link.send("late")

    async def test_what_came_before_the_end_is_delivered(self, turned):
        async with turned() as (here, there):
            for number in range(5):
                await here.send(str(number))
            await here.aclose()
            texts, closed = await drained(there)
        assert texts == ["0", "1", "2", "3", "4"]
        assert closed.code == 1000

    async def test_closing_twice_and_from_both_sides(self, pair):
        async with pair() as (near, far):
            async with anyio.create_task_group() as tasks:
                for link in (near, near, far):
                    tasks.start_soon(link.aclose, 1001)
            await near.aclose(4000, "the first counts")
            for link in (near, far):
                with pytest.raises(LinkClosed, match="1001"):
                    await link.receive()

    async def test_closing_ends_a_waiting_receive(self, turned):
        ended = []

        async def wait(link):
            ended.append((await drained(link))[1].code)

        async with turned() as (here, there), anyio.create_task_group() as tasks:
            tasks.start_soon(wait, here)
            tasks.start_soon(wait, there)
            await anyio.wait_all_tasks_blocked()
            await here.aclose(1001)
        assert ended == [1001, 1001]

    async def test_a_message_above_the_limit_ends_the_link(self, turned):
        async with turned() as (here, there):
            await here.send("ä" * (SMALL // 2))
            await here.send("ä" * (SMALL // 2) + "x")
            texts, closed = await drained(there)
            assert (await drained(here))[1].code == 1009
        assert texts == ["ä" * (SMALL // 2)]
        assert closed.code == 1009

    async def test_a_cancelled_receive_loses_nothing(self, turned):
        got = []

        async def take(link):
            got.append(await link.receive())

        numbers = [str(number) for number in range(40)]
        async with turned() as (here, there):
            for number in numbers:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(take, there)
                    await here.send(number)
                    # Another number of turns of the loop each time: before, while and after the message arrives.
                    for _ in range(int(number) % 20):
                        await anyio.lowlevel.checkpoint()
                    tasks.cancel_scope.cancel()
            await here.aclose()
            rest, _ = await drained(there)
        assert got + rest == numbers
        assert got

    async def test_a_cancelled_receive_leaves_the_message_to_the_next(self, turned):
        async with turned() as (here, there):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(there.receive)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
            await here.send("kept")
            assert await there.receive() == "kept"

    async def test_a_send_that_is_cancelled_before_it_starts_sends_nothing(self, turned):
        async with turned() as (here, there):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await here.send("never")
            assert scope.cancelled_caught
            await here.send("next")
            assert await there.receive() == "next"

    async def test_a_reader_that_is_late_gets_everything(self, turned):
        numbers = [str(number) for number in range(5 * MAX_QUEUE)]

        async def send_all(link):
            for number in numbers:
                await link.send(number)
            await link.aclose()

        async with turned() as (here, there), anyio.create_task_group() as tasks:
            tasks.start_soon(send_all, here)
            await anyio.wait_all_tasks_blocked()
            texts, closed = await drained(there)
        assert texts == numbers
        assert closed.code == 1000

    @pytest.mark.parametrize("leaves", ["cancelled", "closed"])
    async def test_a_reader_that_does_not_read_slows_the_sender(self, pair, leaves):
        size = 1024 * 1024
        sent: list[str] = []

        async def send_some(link, count):
            with contextlib.suppress(LinkClosed):
                for _ in range(count):
                    sent.append(f"{len(sent):04}")
                    await link.send(sent[-1] * (size // 4))

        async def send_more_and_close(link):
            await send_some(link, 3)
            await link.aclose()

        async with pair(max_size=size, close_timeout=0.2) as (near, far):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send_some, near, 100)
                # It does not go on by itself.
                number = -1
                while not sent or len(sent) != number:
                    number = len(sent)
                    await anyio.sleep(0.1)
                assert 0 < number < 100
                if leaves == "cancelled":
                    tasks.cancel_scope.cancel()
                else:
                    # Bounded, although even the close frame finds no room.
                    with anyio.fail_after(5):
                        await near.aclose(1001)
            cut = sent[-1]
            async with anyio.create_task_group() as tasks:
                # Nothing that follows is taken for the rest of the message that was cut off.
                tasks.start_soon(send_more_and_close, near)
                texts, closed = await drained(far)
        numbers = [text[:4] for text in texts]
        assert numbers in (sent[: len(texts)], [number for number in sent if number != cut][: len(texts)])
        assert all(text == text[:4] * (size // 4) for text in texts)
        assert closed.code in {1000, 1001, 1006}

    async def test_two_tasks_cannot_receive(self, turned):
        async with turned() as (here, there), anyio.create_task_group() as tasks:
            tasks.start_soon(here.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(LocalProtocolError, match="Another task"):
                await here.receive()
            await there.send("for the first")

    async def test_text_that_is_no_unicode_changes_nothing(self, turned):
        async with turned() as (here, there):
            with pytest.raises(LocalProtocolError, match="position 3"):
                await here.send("abc\ud800")
            await here.send("fine")
            assert await there.receive() == "fine"

    @pytest.mark.parametrize(
        ("code", "reason"),
        [(999, ""), (1004, ""), (1005, ""), (1006, ""), (1014, ""), (2999, ""), (5000, ""), (1000, "ü" * 62)],
    )
    async def test_a_close_frame_that_cannot_be_sent_changes_nothing(self, turned, code, reason):
        async with turned() as (here, there):
            with pytest.raises(LocalProtocolError):
                await here.aclose(code, reason)
            await here.send("still open")
            assert await there.receive() == "still open"

    async def test_cancelled_while_closing_it_is_closed_all_the_same(self, turned):
        async with turned() as (here, there):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await here.aclose(1001)
            for link in (here, there):
                with pytest.raises(LinkClosed):
                    await link.receive()


# --- The end of a WebSocket -------------------------------------------------------------------------------------


async def test_leaving_the_block_closes_the_link():
    ended = []

    async def handler(link):
        ended.append((await drained(link))[1].code)

    async with websocket_server(handler) as port:
        async with open_link(address_of(port)) as link:
            pass
        with pytest.raises(LinkClosed, match="1000"):
            await link.send("late")
        with anyio.fail_after(LIMIT):
            while not ended:
                await anyio.lowlevel.checkpoint()
    assert ended == [1000]


async def test_what_the_block_raises_comes_out_as_it_is():
    async with websocket_server(drained) as port:
        group = ExceptionGroup("two", [ValueError(), KeyError()])
        for error in (RuntimeError("one"), group, ExceptionGroup("nested", [group])):
            with pytest.raises(type(error)) as raised:
                async with open_link(address_of(port)):
                    raise error
            assert raised.value is error


async def test_binary_messages_are_bytes():
    async def handler(stream):
        await upgrade(stream)
        await stream.send(b"\x82\x02{}")
        await silence(stream)

    async with tcp_server(handler) as port, open_link(address_of(port), close_timeout=0.01) as link:
        assert await link.receive() == b"{}"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(b"", 1006, id="TCP ends: the server died, or hyperpeer-node 0.1.2 has the id already"),
        pytest.param(b"\x88\x00", 1005, id="empty close frame: hyperpeer-node 0.1.3 has the id already"),
        pytest.param(b"\x88\x02\x11\x39", 4409, id="a code"),
        pytest.param(b"\x81\x01\xff", 1007, id="no UTF-8"),
        pytest.param(b"\x83\x00", 1002, id="no frame"),
    ],
)
async def test_the_server_ends_the_connection(frame, code):
    async def handler(stream):
        await upgrade(stream)
        await stream.send(b"\x81\x02{}" + frame)
        if frame:
            await stream.receive()

    async with tcp_server(handler) as port, open_link(address_of(port)) as link:
        texts, closed = await drained(link)
    assert texts == ["{}"]
    assert closed.code == code


async def test_a_server_that_no_longer_answers_pings_ends_the_link():
    async def handler(stream):
        await upgrade(stream)
        await silence(stream)

    async with tcp_server(handler) as port:
        async with open_link(address_of(port), ping_interval=0.05, close_timeout=0.05) as link:
            with anyio.fail_after(LIMIT):
                _, closed = await drained(link)
        assert (closed.code, closed.reason) == (1011, "keepalive ping timeout")


async def test_closing_is_bounded_and_ends_tcp_although_the_server_does_not_answer():
    gone = anyio.Event()

    async def handler(stream):
        await upgrade(stream)
        try:
            await silence(stream)
        finally:
            gone.set()

    async with tcp_server(handler) as port, open_link(address_of(port), close_timeout=0.05) as link:
        with anyio.fail_after(LIMIT):
            await link.aclose()
            await gone.wait()


async def test_the_code_is_that_of_the_side_that_closes_first():
    async def handler(stream):
        await upgrade(stream)
        await stream.receive()
        await stream.send(b"\x88\x02\x0f\xa0")

    async with tcp_server(handler) as port, open_link(address_of(port)) as link:
        await link.aclose(1001)
        with pytest.raises(LinkClosed, match="1001"):
            await link.receive()


# --- Where a link may go ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("allow_plain", [None, False])
@pytest.mark.parametrize("host", ["198.51.100.1", "deepio.example", "[2001:db8::1]"])
async def test_plain_to_another_machine_is_refused_before_any_io(monkeypatch, host, allow_plain):
    monkeypatch.delenv("DEEPIO_ALLOW_PLAIN", raising=False)
    with pytest.raises(LocalProtocolError, match="DEEPIO_ALLOW_PLAIN=1"):
        async with open_link(address_of(80, host=host), allow_plain=allow_plain):
            pytest.fail("opened")


@pytest.mark.parametrize("by", ["argument", "environment"])
async def test_plain_to_another_machine_is_possible_when_asked_for(monkeypatch, by):
    # Proven by how far it gets: a proxy that refuses is asked for the connection.
    async def handler(stream):
        await stream.receive()
        await stream.send(b"HTTP/1.1 403 Forbidden\r\n\r\n")

    monkeypatch.setenv("DEEPIO_ALLOW_PLAIN", "1" if by == "environment" else "")
    async with tcp_server(handler) as port:
        with pytest.raises(LinkError, match="The proxy"):
            async with open_link(
                address_of(80, host="deepio.example"),
                allow_plain=True if by == "argument" else None,
                proxy=f"http://127.0.0.1:{port}",
            ):
                pytest.fail("opened")


async def test_ipv6():
    async def handler(stream):
        await upgrade(stream)
        await stream.send(b"\x81\x02{}\x88\x02\x03\xe8")

    async def accept(stream):
        async with stream:
            await handler(stream)

    listener = await anyio.create_tcp_listener(local_host="::1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, accept)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with open_link(address_of(port, host="[::1]")) as link:
            assert await link.receive() == "{}"
        tasks.cancel_scope.cancel()


# --- Cancellation -----------------------------------------------------------------------------------------------


async def echo(link):
    try:
        while True:
            await link.send(await link.receive())
    except LinkClosed:
        pass


async def converse(address, tls, finished):
    """Opens a link to an echo server, uses it and closes it."""
    async with open_link(address, tls=tls) as link:
        await link.send("hello")
        assert await link.receive() == "hello"
        await link.aclose()
    finished.append(address)


async def cancel_at_every_turn(scheme, tls, cancelled_after):
    """Cancels a conversation after every number of turns of the loop, from before it starts to after its end."""
    options = {"ssl": server_context("127.0.0.1")} if scheme == "wss" else {}
    finished: list[object] = []
    turns = 0
    async with websocket_server(echo, **options) as port:
        conversation = functools.partial(converse, address_of(port, scheme=scheme), tls, finished)
        # Event loops, too, open something when they connect for the first time.
        await conversation()
        before = await calm()
        while len(finished) < 4:
            await cancelled_after(turns, conversation)
            await settled(before)
            turns += 1
    assert turns > 10


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_cancelled_anywhere_it_leaves_nothing_behind(scheme, trust):
    async def cancelled_after(turns, conversation):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(conversation)
            for _ in range(turns):
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()

    await cancel_at_every_turn(scheme, trust, cancelled_after)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_as_a_task_cancelled_anywhere_it_leaves_nothing_behind(scheme, trust, anyio_backend):
    """The cancellation of asyncio, which comes once and not at every await."""

    async def cancelled_after(turns, conversation):
        task = asyncio.create_task(conversation())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None

    await cancel_at_every_turn(scheme, trust, cancelled_after)


@pytest.mark.parametrize("stage", ["open", "receive"])
async def test_a_cancellation_comes_out_as_such_and_not_as_a_group(stage):
    came_out = []

    async def handler(stream):
        if stage != "open":
            await upgrade(stream)
        await silence(stream)

    async def run(port):
        try:
            async with open_link(address_of(port)) as link:
                await link.receive()
        except BaseException as exc:
            came_out.append(type(exc))
            raise

    async with tcp_server(handler) as port, anyio.create_task_group() as tasks:
        tasks.start_soon(run, port)
        await anyio.sleep(0.05)
        tasks.cancel_scope.cancel()
    assert came_out == [anyio.get_cancelled_exc_class()]


@pytest.mark.parametrize(
    ("stage", "scheme"),
    [("open", "ws"), ("open", "wss"), ("receive", "ws"), ("send", "ws"), ("close", "ws")],
)
async def test_cancelled_while_it_waits_it_ends_at_once_and_leaves_nothing_behind(stage, scheme):
    """Every await that lasts, with a server that says nothing (any more)."""
    reached, leave = anyio.Event(), anyio.Event()

    async def handler(stream):
        if stage != "open":
            await upgrade(stream)
        reached.set()
        if stage == "send":
            # It does not read, so that it cannot see us leave.
            await leave.wait()
        await silence(stream)

    async def run(address):
        async with open_link(address, close_timeout=LIMIT, open_timeout=LIMIT) as link:
            if stage == "receive":
                await link.receive()
            while stage == "send":
                await link.send("x" * 1_000_000)
            await link.aclose()

    async with tcp_server(handler) as port:
        before = None
        for _ in range(3):
            reached, leave = anyio.Event(), anyio.Event()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run, address_of(port, scheme=scheme))
                await reached.wait()
                # Long enough for the client to get to its last await; it stays there for LIMIT seconds.
                await anyio.sleep(0.05)
                tasks.cancel_scope.cancel()
            leave.set()
            if before is None:
                before = await calm()
            await settled(before)
