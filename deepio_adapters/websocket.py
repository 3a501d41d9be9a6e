"""The signaling link over WebSocket, by websockets' own clients for asyncio and trio: all that differs between them."""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
from websockets.exceptions import ConcurrencyError, ConnectionClosed, WebSocketException
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from deepio_adapters.link import MAX_QUEUE, LinkClosed, already_receiving, check_close, encoded
from deepio_adapters.link_failures import explain, wants_probe
from deepio_adapters.tls import (
    DEEP_DEFAULT_FINGERPRINT,
    CertificateSeen,
    TLSOptions,
    certificate_fingerprint,
    probe_context,
)
from deepio_core.records import dataclass

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator
    from contextlib import AbstractAsyncContextManager

    from websockets.asyncio.connection import Connection as AsyncioConnection
    from websockets.trio.connection import Connection as TrioConnection

    from deepio_core.address import SignalingAddress
    from deepio_core.errors import DeepIOError

PROBE_TIMEOUT: Final = 2.0
"""For a second look at a server that has just answered, seconds: it only improves an error message."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """Whatever there is to say about a connection before it is open; see `open_link`."""

    address: SignalingAddress
    """Where to."""
    tls: TLSOptions
    """How the certificate is checked."""
    open_timeout: float
    """For all of it, seconds."""
    close_timeout: float
    """For the far side to answer when the link is closed, seconds."""
    ping_interval: float
    """Between two pings, and for each pong, seconds."""
    max_size: int
    """Largest message that is received, bytes."""
    proxy: str | None = field(repr=False)
    """URL of the proxy, if any; may hold a password."""


class RedactingLogger(logging.LoggerAdapter[logging.Logger]):
    """Gives records to a logger without the secrets in them; websockets logs the request line, key and all.

    Args:
        logger: Where they go.
        secrets: What is replaced.
    """

    def __init__(self, logger: logging.Logger, secrets: frozenset[str]) -> None:
        super().__init__(logger)
        self._secrets = secrets

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Logs the formatted message, redacted."""
        if self.isEnabledFor(level):
            text = str(msg) % args if args else str(msg)
            for secret in self._secrets:
                text = text.replace(secret, "***")
            self.logger.log(level, "%s", text, **kwargs)


def _secrets(address: SignalingAddress) -> frozenset[str]:
    """The key as it stands in the URL, and as the application gave it: a server may send back either."""
    return frozenset() if address.key is None else frozenset({address.key, urllib.parse.unquote(address.key)})


def environment_proxy(address: SignalingAddress) -> str | None:
    """The URL of the proxy that the environment or the system names for an address; None for none.

    None for this machine: a proxy elsewhere would reach itself, and learn what stays here.
    """
    return None if address.loopback else get_proxy(parse_uri(address.url))


class WebSocketLink(ABC):
    """A `SignalingLink` over an open connection of websockets, of the client or the server side."""

    def __init__(self, connection: AsyncioConnection | TrioConnection, *, close_timeout: float) -> None:
        self._connection = connection
        self._close_timeout = close_timeout

    async def send(self, text: str) -> None:
        """See `SignalingLink.send`."""
        data = encoded(text)
        await anyio.lowlevel.checkpoint_if_cancelled()
        try:
            await self._send(data)
        except ConnectionClosed as exc:
            closed = link_closed(exc)
        else:
            return
        # Outside of the handler: the error of websockets adds nothing, and this one has no context then.
        raise closed

    async def receive(self) -> str | bytes:
        """See `SignalingLink.receive`."""
        error: DeepIOError
        try:
            return await self._connection.recv()
        except ConnectionClosed as exc:
            error = link_closed(exc)
        except ConcurrencyError:
            error = already_receiving()
        raise error

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """See `SignalingLink.aclose`."""
        check_close(code, reason)
        try:
            # websockets bounds its wait for the far side's close frame, but not the sending of its own.
            with anyio.move_on_after(self._close_timeout):
                await self._close(code, reason)
        finally:
            # One second is for a loop that stalls; it takes two of its iterations.
            with anyio.move_on_after(1, shield=True):
                await self._abort()

    @property
    @abstractmethod
    def certificate(self) -> bytes | None:
        """The far side's certificate, DER; None without TLS."""

    @abstractmethod
    async def _send(self, data: bytes) -> None: ...

    @abstractmethod
    async def _close(self, code: int, reason: str) -> None: ...

    @abstractmethod
    async def _abort(self) -> None:
        """Ends TCP if that has not happened yet, without waiting for the far side."""


def link_closed(exc: ConnectionClosed) -> LinkClosed:
    """The end of a link, as whichever side said first why it closes."""
    first = exc.rcvd if exc.rcvd is not None and exc.rcvd_then_sent is not False else exc.sent
    return LinkClosed(1006) if first is None else LinkClosed(first.code, first.reason)


class AsyncioLink(WebSocketLink):
    """On asyncio."""

    _connection: AsyncioConnection

    @property
    def certificate(self) -> bytes | None:
        """See `WebSocketLink.certificate`."""
        tls: ssl.SSLObject | None = self._connection.transport.get_extra_info("ssl_object")
        return None if tls is None else tls.getpeercert(binary_form=True)

    async def _send(self, data: bytes) -> None:
        # If this is cancelled, the transport has the whole message already and goes on with it.
        await self._connection.send(data, text=True)

    async def _close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    async def _abort(self) -> None:
        self._connection.transport.abort()
        await self._connection.wait_closed()


class TrioLink(WebSocketLink):
    """On trio."""

    _connection: TrioConnection

    @property
    def certificate(self) -> bytes | None:
        """See `WebSocketLink.certificate`."""
        tls: Any = self._connection.stream
        certificate: bytes | None = tls.getpeercert(binary_form=True) if hasattr(tls, "getpeercert") else None
        return certificate

    async def _send(self, data: bytes) -> None:
        try:
            await self._connection.send(data, text=True)
        except anyio.get_cancelled_exc_class():
            # A part of the message may be gone: nothing that makes sense to the far side can follow it.
            with anyio.CancelScope(shield=True):
                await self._abort()
            raise

    async def _close(self, code: int, reason: str) -> None:
        await self._connection.aclose(code, reason)

    async def _abort(self) -> None:
        await self._connection.close_stream()


@asynccontextmanager
async def open_websocket(opening: Opening) -> AsyncGenerator[WebSocketLink, None]:
    """Opens a link on the running loop; leaving the block closes it.

    Raises:
        LinkError: The connection could not be opened.
        LocalProtocolError: A TLS option cannot be used.
    """
    address, tls = opening.address, opening.tls
    context = tls.make_context() if address.secure else None
    if address.secure and tls.insecure:
        logger.warning(
            "The certificate of %s is not checked (tls_insecure): anyone on the way can read and change everything.",
            address.redacted,
        )
    async with AsyncExitStack() as stack:
        link = await _enter(stack, opening, context)
        certificate = link.certificate
        if certificate is not None and certificate_fingerprint(certificate) == DEEP_DEFAULT_FINGERPRINT:
            logger.warning(
                "%s uses the default certificate of the DEEP Framework, whose key is public: anyone can pass for"
                " that server. Install a certificate of your own on it.",
                address.redacted,
            )
        yield link


async def _enter(stack: AsyncExitStack, opening: Opening, context: ssl.SSLContext | None) -> WebSocketLink:
    deadline = anyio.current_time() + opening.open_timeout
    try:
        return await stack.enter_async_context(_connecting(opening, opening.address.url, context))
    except _FAILURES as exc:
        certificate = None
        if wants_probe(exc, opening.address):
            left = min(deadline - anyio.current_time(), PROBE_TIMEOUT)
            certificate = await _probe(replace(opening, open_timeout=max(left, 0)))
        failure = explain(exc, address=opening.address, proxy=opening.proxy, certificate=certificate)
    # Outside of the handler: the errors of websockets may hold the URL, and none of ours may lead to them.
    raise failure


async def _probe(opening: Opening) -> bytes | None:
    """The certificate at the other end, DER, unverified; None if nothing there speaks TLS.

    The same way as the link would take, proxy included, up to the end of the TLS handshake: nothing is sent over it.
    """
    url = f"wss://{urllib.parse.urlsplit(opening.address.url).netloc}/"
    try:
        async with _connecting(opening, url, probe_context()):
            raise AssertionError("the handshake of a probe never succeeds")
    except CertificateSeen as seen:
        return seen.certificate
    except _FAILURES:
        return None


# What opening a connection raises: the network and TLS (OSError), WebSocket and HTTP, a SOCKS proxy without
# python-socks, a host name that IDNA cannot encode.
_FAILURES = (OSError, WebSocketException, ImportError, UnicodeError)


def _connecting(
    opening: Opening, url: str, context: ssl.SSLContext | None
) -> AbstractAsyncContextManager[WebSocketLink]:
    if isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop):
        return _asyncio_connecting(opening, url, context)
    return _trio_connecting(opening, url, context)


def _arguments(opening: Opening, context: ssl.SSLContext | None) -> dict[str, Any]:
    """What both clients of websockets are called with."""
    return {
        "ssl": context,
        "compression": None,
        "proxy": opening.proxy,
        "open_timeout": opening.open_timeout,
        "close_timeout": opening.close_timeout,
        "ping_interval": opening.ping_interval,
        "ping_timeout": opening.ping_interval,
        "max_size": opening.max_size,
        "max_queue": MAX_QUEUE,
        "logger": RedactingLogger(logging.getLogger(f"{__name__}.frames"), _secrets(opening.address)),
    }


@asynccontextmanager
async def _asyncio_connecting(
    opening: Opening, url: str, context: ssl.SSLContext | None
) -> AsyncGenerator[WebSocketLink, None]:
    from websockets.asyncio.client import ClientConnection, connect

    class Connection(ClientConnection):
        def connection_lost(self, exc: Exception | None) -> None:
            # When TLS fails behind a proxy, websockets 17 is told of the end of a connection whose beginning it was
            # not told, and raises AttributeError into the event loop.
            if hasattr(self, "transport"):
                super().connection_lost(exc)

    class Connect(connect):
        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc

    arguments = _arguments(opening, context)
    if context is None:
        del arguments["ssl"]
    connection = await Connect(url, create_connection=Connection, **arguments)
    link = AsyncioLink(connection, close_timeout=opening.close_timeout)
    try:
        yield link
    finally:
        await link.aclose()


def _trio_connecting(
    opening: Opening, url: str, context: ssl.SSLContext | None
) -> AbstractAsyncContextManager[WebSocketLink]:
    import trio
    from websockets.trio.client import connect

    class Connect(connect):
        def process_redirect(self, exc: Exception) -> Exception | str:
            return exc

    class Connecting:
        """As `async with connect(...)`, except that what its block raises does not pass the nursery.

        A nursery wraps what passes it into a group, and that of websockets cannot cope with a group of several.
        """

        async def __aenter__(self) -> WebSocketLink:
            self._manager = trio.open_nursery()
            self._nursery = await self._manager.__aenter__()
            try:
                connection = await Connect(url, **_arguments(opening, context)).connect(self._nursery)
            except trio.BrokenResourceError as exc:
                await self._end()
                raise exc.__cause__ if isinstance(exc.__cause__, OSError) else ConnectionResetError from None
            except BaseException:
                await self._end()
                raise
            self._link = TrioLink(connection, close_timeout=opening.close_timeout)
            return self._link

        async def __aexit__(self, *_: object) -> None:
            try:
                await self._link.aclose()
            finally:
                await self._end()

        async def _end(self) -> None:
            # Shielded, because a cancellation from outside would be added to what the nursery raises.
            self._nursery.cancel_scope.shield = True
            self._nursery.cancel_scope.cancel()
            await self._manager.__aexit__(None, None, None)

    return Connecting()
