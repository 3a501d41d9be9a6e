"""SignalingLink: a connection for text messages to a hyperpeer server, over WebSocket or in memory."""

from __future__ import annotations

import os
from collections import deque
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, Literal, Protocol

import anyio
import anyio.lowlevel

from deepio_adapters.imports import PutOff, put_off
from deepio_core.errors import DeepIOError, LocalProtocolError
from deepio_core.outputs import Cause

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from deepio_adapters.tls import TLSOptions
    from deepio_core.address import SignalingAddress

MAX_SIZE: Final = 1024 * 1024
"""Largest message that is received, bytes of UTF-8: the limit of hyperpeer-py's WebSocket library. A larger one
ends the connection with close code 1009."""
MAX_QUEUE: Final = 16
"""Messages that wait to be received; the far side's `send` waits when there are more. The default of websockets."""


class LinkError(DeepIOError):
    """The signaling connection could not be opened, or has ended.

    Args:
        message: What went wrong, as a sentence without secrets.
        cause: What went wrong, for programs.
        remedy: What the reader can do about it, as a sentence; empty if nothing is known.
        fingerprint: SHA-256 fingerprint of the certificate that was refused, if one was seen.
    """

    def __init__(self, message: str, *, cause: Cause, remedy: str = "", fingerprint: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.cause = cause
        """What went wrong, for programs."""
        self.fingerprint = fingerprint
        """SHA-256 fingerprint of the certificate that was refused."""


class LinkClosed(LinkError):  # noqa: N818 - it tells of the planned end too
    """The connection has ended; nothing comes and nothing goes any more.

    Args:
        code: Close code of whichever side closed first (RFC 6455 section 7.4): 1005 for an empty close frame, 1006
            for an end without close frame, 1009 for a message above the size limit, 1011 for a missing pong.
        reason: Its reason; written by the far side unless we closed.
    """

    def __init__(self, code: int, reason: str = "") -> None:
        why = f", {reason!r}" if reason else ""
        super().__init__(f"The signaling connection has ended (code {code}{why}).", cause=Cause.SIGNALING_LOST)
        self.code = code
        """Close code."""
        self.reason = reason
        """Reason of the close frame."""


class SignalingLink(Protocol):
    """One open connection; used in the event loop that opened it.

    Every method may be cancelled. What a cancelled `send` had to say is sent as a whole or not at all, and where
    half of it is gone already, the link ends. A cancelled `receive` loses nothing.
    """

    async def send(self, text: str) -> None:
        """Sends one message; waits while the far side is slow to read.

        Raises:
            LinkClosed: The connection has ended, or ends before the message is gone.
            LocalProtocolError: The text has a lone surrogate, which UTF-8 cannot carry.
        """
        ...

    async def receive(self) -> str | bytes:
        """Waits for one message; those that came before the end are still delivered after it.

        Returns:
            The whole message; bytes if it came in a binary frame.

        Raises:
            LinkClosed: The connection has ended.
            LocalProtocolError: Another task is receiving.
        """
        ...

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        """Closes the connection: tells the far side, waits a bounded time for it, and ends TCP in any case.

        hyperpeer-node keeps the id and the pairing of a peer until its TCP connection has ended in both directions.
        On a closed link it does nothing. When cancelled it does not wait, but still ends TCP.

        Args:
            code: 1000, 1001, 1002, 1003, 1007 to 1013, or 3000 to 4999 (RFC 6455 section 7.4).
            reason: At most 123 bytes of UTF-8.

        Raises:
            LocalProtocolError: Code or reason cannot be sent.
        """
        ...


@asynccontextmanager
async def open_link(
    address: SignalingAddress,
    *,
    tls: TLSOptions | None = None,
    allow_plain: bool | None = None,
    open_timeout: float = 10.0,
    close_timeout: float = 3.0,
    ping_interval: float = 20.0,
    max_size: int = MAX_SIZE,
    proxy: str | Literal[True] | None = True,
) -> AsyncGenerator[SignalingLink, None]:
    """Opens a WebSocket connection on the running loop, asyncio or trio; leaving the block closes it.

    A failure is not retried. Compression is off: messages are small, and it costs memory and invites bombs.
    Redirects are not followed. Neither errors nor log records hold the key.

    Args:
        address: Where to.
        tls: How the server's certificate is checked; None: as the environment says (`TLSOptions.from_environment`).
        allow_plain: Allow `ws://` to another machine, where everybody on the way can read and change everything;
            None: as DEEPIO_ALLOW_PLAIN says.
        open_timeout: For all of it, seconds.
        close_timeout: For the far side to answer when the link is closed, seconds.
        ping_interval: Between two pings, seconds; a pong that takes as long ends the link. The server never pings.
        max_size: Largest message that is received, bytes.
        proxy: URL of an HTTP proxy; True: as the environment or the system says, but none to this machine; None:
            none. For a SOCKS proxy python-socks must be installed.

    Raises:
        LinkError: The connection could not be opened.
        LocalProtocolError: `ws://` to another machine is not allowed, or a TLS option cannot be used.
    """
    # Imported when used: importing this module stays cheap for those who only need the protocol.
    from deepio_adapters.tls import ENV_ALLOW_PLAIN, TLSOptions, plain_allowed

    # Websockets does not use the first in its releases, and the second only to find a proxy; with all that those import
    # in turn, they are more than half of what there is to import.
    with put_off(PutOff("importlib.metadata"), PutOff("urllib.request")):
        from deepio_adapters.websocket import Opening, environment_proxy, open_websocket

    if not (address.secure or address.loopback or (plain_allowed(os.environ) if allow_plain is None else allow_plain)):
        raise LocalProtocolError(
            f"{address.redacted} is another machine, and ws:// sends the key and all else unprotected.",
            remedy=f"Use wss://, or allow it with allow_plain=True or {ENV_ALLOW_PLAIN}=1.",
        )
    opening = Opening(
        address=address,
        tls=TLSOptions.from_environment(os.environ) if tls is None else tls,
        open_timeout=open_timeout,
        close_timeout=close_timeout,
        ping_interval=ping_interval,
        max_size=max_size,
        proxy=environment_proxy(address) if proxy is True else proxy,
    )
    async with open_websocket(opening) as link:
        yield link


def memory_link_pair(*, max_size: int = MAX_SIZE) -> tuple[SignalingLink, SignalingLink]:
    """Two links that are each other's far side, in memory and on either loop: what one sends the other receives.

    Args:
        max_size: Largest message that is received, bytes.
    """
    ends = _Ends(max_size)
    there, back = _Lane(), _Lane()
    return _MemoryLink(ends, receives=back, sends=there), _MemoryLink(ends, receives=there, sends=back)


def check_close(code: int, reason: str) -> None:
    """Checks what a close frame is to carry.

    Raises:
        LocalProtocolError: It cannot; hyperpeer-node dies of some such frames.
    """
    if not (code in {1000, 1001, 1002, 1003} or 1007 <= code <= 1013 or 3000 <= code <= 4999):
        raise LocalProtocolError(f"{code} is no close code that may be sent.", remedy="Use 1000.")
    if len(encoded(reason)) > 123:
        raise LocalProtocolError("The reason for closing has more than 123 bytes.", remedy="Shorten it.")


def encoded(text: str) -> bytes:
    """The text in UTF-8.

    Raises:
        LocalProtocolError: It has a lone surrogate.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as exc:
        position = exc.start
    raise LocalProtocolError(
        f"The text cannot be sent: there is a lone surrogate at position {position}.",
        remedy="Write JSON with escapes (json.dumps does by default).",
    )


def already_receiving() -> LocalProtocolError:
    """The error of a second task that calls `receive`."""
    return LocalProtocolError("Another task is receiving from this link.", remedy="Receive in one task.")


class _Lane:
    """One direction of a pair in memory."""

    def __init__(self) -> None:
        self.messages: deque[str] = deque()
        self.receiving = False
        self._changed = anyio.Event()

    def wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def change(self) -> None:
        await self._changed.wait()


class _Ends:
    """What both links of a pair in memory share."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.closed: tuple[int, str] | None = None


class _MemoryLink:
    """One of the two ends."""

    def __init__(self, ends: _Ends, *, receives: _Lane, sends: _Lane) -> None:
        self._ends = ends
        self._receives = receives
        self._sends = sends

    async def send(self, text: str) -> None:
        size = len(encoded(text))
        await anyio.lowlevel.checkpoint()
        while self._ends.closed is None and len(self._sends.messages) >= MAX_QUEUE:
            await self._sends.change()
        self._raise_if_closed()
        if size > self._ends.max_size:
            # What the far side of a real link does when it gets such a message.
            self._end(1009, f"over {self._ends.max_size} bytes")
            return
        self._sends.messages.append(text)
        self._sends.wake()

    async def receive(self) -> str | bytes:
        lane = self._receives
        if lane.receiving:
            raise already_receiving()
        lane.receiving = True
        try:
            await anyio.lowlevel.checkpoint()
            while not lane.messages:
                self._raise_if_closed()
                await lane.change()
            text = lane.messages.popleft()
            lane.wake()
            return text
        finally:
            lane.receiving = False

    async def aclose(self, code: int = 1000, reason: str = "") -> None:
        check_close(code, reason)
        self._end(code, reason)
        await anyio.lowlevel.checkpoint()

    def _end(self, code: int, reason: str) -> None:
        if self._ends.closed is None:
            self._ends.closed = (code, reason)
            self._sends.wake()
            self._receives.wake()

    def _raise_if_closed(self) -> None:
        if self._ends.closed is not None:
            raise LinkClosed(*self._ends.closed)
