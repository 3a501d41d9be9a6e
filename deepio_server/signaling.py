"""The signaling endpoint: the `SignalingServer` of the core behind WebSockets (ASGI) and in-memory links."""

from __future__ import annotations

import itertools
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Protocol

import anyio
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from deepio_adapters.groups import unwrapped
from deepio_adapters.link import LinkClosed, SignalingLink, memory_link_pair
from deepio_core import closecodes
from deepio_core.server import (
    AdmitPeer,
    ClosePeer,
    PeerArrived,
    PeerLeft,
    PeerSent,
    RefusePeer,
    SendTo,
    ServerConfig,
    ServerInput,
    SignalingServer,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from deepio_core.signals import PeerInfo

__all__ = ["SignalingService"]

logger = logging.getLogger(__name__)

OUTBOX_LIMIT: Final = 512
"""Messages that may wait for one peer to read: several negotiations with all their candidates. A peer that reads none
of so many is cut off, so that it cannot fill our memory."""

WRITE_TIMEOUT: Final = 20.0
"""Seconds that a peer may take to make room for one message: as long as a ping may go unanswered."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds to say why a connection is closed; a peer that does not read cannot be told."""


class _Port(Protocol):
    """One connection, as the service needs it."""

    async def receive(self) -> str | bytes:
        """Wait for a message; raises LinkClosed at the end."""
        ...

    async def send(self, text: str) -> None:
        """Send a message; raises LinkClosed at the end."""
        ...

    async def aclose(self, code: int, reason: str) -> None:
        """Close the connection."""
        ...


class _Connection:
    """What waits to be written to one peer."""

    def __init__(self) -> None:
        self.refusal: RefusePeer | None = None
        self.closing: ClosePeer | None = None
        self.texts: deque[str] = deque()  # bounded: OUTBOX_LIMIT
        self.changed = anyio.Event()
        self.sending = anyio.CancelScope()

    def wake(self) -> None:
        changed, self.changed = self.changed, anyio.Event()
        changed.set()

    def close(self, closing: ClosePeer) -> None:
        """Have the connection closed, whether or not the peer takes what is being sent to it."""
        self.closing = self.closing or closing
        self.sending.cancel()
        self.wake()


class SignalingService:
    """A hyperpeer server for any number of peers, as an ASGI application for WebSockets.

    Args:
        config: Limits.
        check_key: Whether a peer may connect, by type, id and key (see `SignalingServer`).
    """

    def __init__(
        self,
        config: ServerConfig | None = None,
        check_key: Callable[[str, str | None, str | None], bool] | None = None,
    ) -> None:
        self._server = SignalingServer(config or ServerConfig(), _new_id, self._passes if check_key else None)
        self._check_key = check_key
        self._trusting = False
        self._connections: dict[int, _Connection] = {}
        self._numbers = itertools.count(1)

    @property
    def peers(self) -> tuple[PeerInfo, ...]:
        """All connected peers in the order of their connection."""
        return self._server.peers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one WebSocket (ASGI)."""
        websocket = WebSocket(scope, receive, send)
        # As it stands in the request: hyperpeer-node decodes no escapes.
        path = scope.get("raw_path") or scope["path"].encode()
        number, connection = self._arrive(path.decode("latin-1"))
        refusal = connection.refusal
        try:
            if refusal is not None and refusal.status != 101:
                await websocket.send_denial_response(PlainTextResponse(refusal.reason, refusal.status))
                return
            await websocket.accept()
            if refusal is not None:
                await websocket.close(refusal.code, refusal.reason)
                return
            await self._serve(number, connection, _WebSocketPort(websocket))
        finally:
            self._leave(number)

    @asynccontextmanager
    async def connect(self, path: str, *, trusted: bool = False) -> AsyncGenerator[SignalingLink]:
        """A link to this server for a peer in the same process, on either event loop, without any socket.

        Args:
            path: `/type/id[/key]`, as in a signaling URL.
            trusted: Ask for no key: the peer is a part of the server, as stream managers are.

        Raises:
            LinkClosed: The server refuses the peer; code and reason say why.
        """
        self._trusting = trusted
        number, connection = self._arrive(path)
        self._trusting = False
        if connection.refusal is not None:
            self._leave(number)
            raise LinkClosed(connection.refusal.code, connection.refusal.reason)
        ours, theirs = memory_link_pair()

        async def serve() -> None:
            try:
                await self._serve(number, connection, ours)
            finally:
                self._leave(number)  # when the link ends, like a socket, and not when the block does

        try:
            with unwrapped():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(serve)
                    try:
                        yield theirs
                    finally:
                        with anyio.CancelScope(shield=True):
                            await theirs.aclose()
                        tasks.cancel_scope.cancel()
        finally:
            self._leave(number)

    def _passes(self, peer_type: str, peer_id: str | None, key: str | None) -> bool:
        return self._trusting or (self._check_key is not None and self._check_key(peer_type, peer_id, key))

    def _arrive(self, path: str) -> tuple[int, _Connection]:
        number = next(self._numbers)
        connection = self._connections[number] = _Connection()
        self._feed(PeerArrived(conn=number, path=path))
        return number, connection

    def _leave(self, number: int) -> None:
        if self._connections.pop(number, None) is not None:
            self._feed(PeerLeft(conn=number))

    def _feed(self, event: ServerInput) -> None:
        self._server.handle(event, now=time.monotonic())
        while (output := self._server.poll()) is not None:
            match output:
                case SendTo():
                    self._post(output)
                case RefusePeer():
                    self._connections[output.conn].refusal = output
                case ClosePeer():
                    self._connections[output.conn].close(output)
                case AdmitPeer():
                    pass  # the absence of a refusal says it
                case _:
                    logger.debug("%s", output)

    def _post(self, message: SendTo) -> None:
        connection = self._connections[message.conn]
        if len(connection.texts) >= OUTBOX_LIMIT:
            connection.close(_too_slow(message.conn))
        else:
            connection.texts.append(message.text)
            connection.wake()

    async def _serve(self, number: int, connection: _Connection, port: _Port) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, number, connection, port, tasks.cancel_scope)
            try:
                while True:
                    self._feed(PeerSent(conn=number, text=await port.receive()))
            except LinkClosed:
                tasks.cancel_scope.cancel()

    @staticmethod
    async def _write(number: int, connection: _Connection, port: _Port, scope: anyio.CancelScope) -> None:
        try:
            while connection.closing is None:
                if not connection.texts:
                    await connection.changed.wait()
                    continue
                with anyio.move_on_after(WRITE_TIMEOUT) as connection.sending:
                    await port.send(connection.texts.popleft())
                if connection.sending.cancelled_caught:
                    connection.close(_too_slow(number))
            with anyio.move_on_after(CLOSE_TIMEOUT):
                await port.aclose(connection.closing.code, connection.closing.reason)
        except LinkClosed:
            pass  # the reader sees it too
        else:
            scope.cancel()


class _WebSocketPort:
    """Starlette's WebSocket, with the ends of a link."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def receive(self) -> str | bytes:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise LinkClosed(message.get("code", closecodes.NO_STATUS), message.get("reason") or "")
        text = message.get("text")
        data: str | bytes = message["bytes"] if text is None else text
        return data

    async def send(self, text: str) -> None:
        try:
            await self._websocket.send_text(text)
        except (WebSocketDisconnect, RuntimeError) as error:  # RuntimeError: after the close
            raise LinkClosed(closecodes.ABNORMAL) from error

    async def aclose(self, code: int, reason: str) -> None:
        if self._websocket.application_state is WebSocketState.CONNECTED:
            await self._websocket.close(code, reason)


def _too_slow(number: int) -> ClosePeer:
    return ClosePeer(conn=number, code=closecodes.RATE_EXCEEDED, reason="Too many unread messages")


def _new_id() -> str:
    """An id for a peer that has none: like hyperpeer-node, `peer` and milliseconds, and three digits of chance."""
    return f"peer{time.time_ns() // 1_000_000}{secrets.randbelow(1000):03}"
