"""Where sessions meet in tests: a signaling server and engines, in memory or over real sockets and aiortc.

A world serves peers on the loop of the test, asyncio or trio. What it counts at its end tells whether somebody left
something behind.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import anyio
import anyio.lowlevel
import anyio.to_thread

from deepio_adapters.client import Client, ClientConfig
from deepio_adapters.driver import Dial
from deepio_adapters.engine import ChannelOptions, EngineConfig, EngineFactory, open_engine
from deepio_adapters.engine_room import EngineRoom
from deepio_adapters.link import LinkClosed, LinkError, SignalingLink
from deepio_adapters.memory_engine import MemoryNetwork
from deepio_adapters.sources import Source
from deepio_core import outputs, session
from deepio_core.address import SignalingAddress, build_address
from deepio_core.config import PeerConfig
from deepio_core.policy import ConnectTo, ListenForCallers, SessionConfig
from deepio_server.core import Core, CoreConfig, local_core
from deepio_server.signaling import SignalingService

BOUND = 15.0
"""Seconds after which a wait in a test has failed."""

T = TypeVar("T")

_numbers = itertools.count(1)


class World:
    """A server in memory, and engines in memory."""

    server = "ws://localhost:9"
    """What to call the server; nobody listens there."""

    def __init__(self, check_key: Callable[[str, str | None, str | None], bool] | None = None) -> None:
        self.check_key = check_key
        self.network = MemoryNetwork()
        self.open_engine: EngineFactory = self.network.open_engine
        self.down = False
        self._links: set[SignalingLink] = set()
        self._service = SignalingService(check_key=check_key)

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[World]:
        yield self

    def dial(self, address: SignalingAddress) -> Dial | None:
        """How a peer reaches the server; None: over the network."""
        return functools.partial(self._dial, address)

    @asynccontextmanager
    async def _dial(self, address: SignalingAddress) -> AsyncGenerator[SignalingLink]:
        await anyio.lowlevel.checkpoint()
        if self.down:
            raise LinkError("The server is down.", cause=outputs.Cause.UNREACHABLE)
        key = "" if address.key is None else f"/{address.key}"
        connection = self._service.connect(f"/{address.peer_type}/{address.peer_id}{key}")
        async with AsyncExitStack() as stack:
            try:
                link = await stack.enter_async_context(connection)
            except LinkClosed as refused:
                # What the WebSocket link makes of a refused handshake.
                raise LinkError("The server refused the key.", cause=outputs.Cause.KEY_REFUSED) from refused
            self._links.add(link)
            try:
                yield link
            finally:
                self._links.discard(link)

    async def stop_server(self) -> None:
        self.down = True
        for link in list(self._links):
            await link.aclose(1001, "going away")

    async def start_server(self) -> None:
        self._service = SignalingService(check_key=self.check_key)
        self.down = False

    def peers(self) -> list[str]:
        """Ids of the connected peers."""
        return [peer.id for peer in self._service.peers]


class RealWorld(World):
    """A server on loopback, WebSockets, and engines over aiortc."""

    def __init__(self, check_key: Callable[[str, str | None, str | None], bool] | None = None) -> None:
        super().__init__(check_key)
        self.open_engine = open_engine
        self._port = 0
        self._stack = ExitStack()
        self._core: Core

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[World]:
        await self.start_server()
        try:
            yield self
        finally:
            with anyio.CancelScope(shield=True):
                await self.stop_server()

    def dial(self, address: SignalingAddress) -> Dial | None:
        return None

    async def stop_server(self) -> None:
        await anyio.to_thread.run_sync(self._stack.close)

    async def start_server(self) -> None:
        config = CoreConfig(port=self._port, managers=0, check_key=self.check_key)
        self._core = await anyio.to_thread.run_sync(self._stack.enter_context, local_core(config))
        self._port = self._core.port
        self.server = self._core.url

    def peers(self) -> list[str]:
        return [peer.id for peer in self._core.signaling.peers]


def new_id(prefix: str = "peer") -> str:
    """An id that no other peer of this process has."""
    return f"{prefix}{next(_numbers)}"


class Recorder:
    """All events of a client, to be waited for."""

    def __init__(self) -> None:
        self.events: list[session.SessionEvent] = []
        self._changed = anyio.Event()

    def take(self, event: session.SessionEvent) -> None:
        self.events.append(event)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def of(self, kind: type[object]) -> list[session.SessionEvent]:
        return [event for event in self.events if isinstance(event, kind)]

    def raw(self, kind: str | None = None) -> list[Any]:
        """The messages received, in order; those of one `type`, if told."""
        raws = [event.message.raw for event in self.events if isinstance(event, session.MessageReceived)]
        return [raw for raw in raws if kind is None or (isinstance(raw, dict) and raw.get("type") == kind)]

    async def when(self, condition: Callable[[], object]) -> None:
        """Wait until a condition holds that changes with the events."""
        with anyio.move_on_after(BOUND):
            while not condition():
                await self._changed.wait()
            return
        raise AssertionError(f"it has not come about in {BOUND} s; came: {self.events}")

    async def until(self, kind: type[object], count: int = 1) -> object:
        """Wait for the `count`th event of a kind."""
        await self.when(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]


class Far(Recorder):
    """The far side of a session: a plain client, and all its events."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self.client = client
        client.add_event_handler(self.take)

    @property
    def id(self) -> str:
        return self.client.config.address.peer_id


@asynccontextmanager
async def far_side(
    world: World,
    *,
    peer_id: str | None = None,
    peer_type: str = "stream_manager",
    calls: str | None = None,
    greets: bool = False,
    source: Callable[[], Source] | None = None,
    receive_video: bool = False,
    channel: ChannelOptions | None = None,
    peer: dict[str, Any] | None = None,
) -> AsyncGenerator[Far]:
    """A peer that listens, as stream managers do; or one that calls."""
    address = build_address(world.server, None, peer_type=peer_type, peer_id=peer_id or new_id("far"))
    config = ClientConfig(
        address=address,
        session=SessionConfig(
            peer=PeerConfig(peer_id=address.peer_id, **(peer or {})),
            policy=ListenForCallers() if calls is None else ConnectTo(remote_id=calls),
            greets=greets,
            poll_interval=0.1,
            backoff_first=0.1,
        ),
        engine=EngineConfig(source=source, receive_video=receive_video, channel=channel or ChannelOptions()),
        open_engine=world.open_engine,
        dial=world.dial(address),
    )
    client = Client(config)
    far = Far(client)
    async with client:
        if calls is None:
            await far.when(lambda: client.state.name == "LISTENING")
        yield far


def quick(config: ClientConfig, world: World) -> ClientConfig:
    """The settings of a client in this world, with short pauses."""
    return dataclasses.replace(
        config,
        session=dataclasses.replace(config.session, poll_interval=0.1, backoff_first=0.1, backoff_max=0.2),
        open_engine=world.open_engine,
        dial=world.dial(config.address),
    )


def open_files() -> dict[str, str]:
    """The open file descriptors of this process, and what they are."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found[entry.name] = os.readlink(entry)
        except OSError:
            continue  # the one that lists the folder
    return found


def own_threads() -> set[threading.Thread]:
    """The threads that are not kept by an event loop for later use, as long as it runs."""
    kept = ("AnyIO worker thread", "Trio thread", "asyncio_", "uvloop_")
    return {thread for thread in threading.enumerate() if not thread.name.startswith(kept)}


@functools.cache
def _warm_up() -> None:
    """Open what the process keeps from its first engine room on: libuv has a pipe of its own for signals."""
    room = EngineRoom()
    room.open()
    room.end()
    room.join()


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fails if the block leaves a thread or a file descriptor; sockets are descriptors."""
    _warm_up()
    threads, files = own_threads(), len(open_files())
    before = open_files()
    yield
    new_threads = own_threads() - threads
    assert not new_threads, f"threads left: {new_threads}"
    after = open_files()
    assert len(after) <= files, f"left open: {[after[n] for n in after if before.get(n) != after[n]]}"


class CancelAt(Generic[T]):
    """Awaits a coroutine, and cancels a scope where the coroutine waits for the `at`th time; on any loop.

    Args:
        coroutine: What to await.
        at: The number of the wait, from 1.
        scope: The scope to cancel.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T], at: int, scope: anyio.CancelScope) -> None:
        self._coroutine = coroutine
        self._at = at
        self._scope = scope
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._coroutine.__await__()
        go_on = functools.partial(steps.send, None)
        while True:
            try:
                trap = go_on()
            except StopIteration as end:
                return cast("T", end.value)
            self.waits += 1
            if self.waits == self._at:
                self._scope.cancel()
            try:
                value = yield trap
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's
                go_on = functools.partial(steps.throw, error)
            else:
                go_on = functools.partial(steps.send, value)


@asynccontextmanager
async def nothing_left_soon() -> AsyncGenerator[None]:
    """As `nothing_left`, and gives the event loops and the server in this process time to close what they have."""
    _warm_up()
    await anyio.to_thread.run_sync(_warm_up)  # a worker thread, which stays
    threads, before = own_threads(), open_files()
    yield
    with anyio.move_on_after(BOUND / 3):
        while own_threads() - threads or len(open_files()) > len(before):  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(0.002)
    assert not own_threads() - threads, f"threads left: {own_threads() - threads}"
    after = open_files()
    assert len(after) <= len(before), f"left open: {[after[n] for n in after if before.get(n) != after[n]]}"
