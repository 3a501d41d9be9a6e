"""Far ends for the tests of the signaling link: real servers on loopback, on whatever loop runs the test."""

import asyncio
import functools
import logging
import os
import ssl
import threading
from contextlib import asynccontextmanager, suppress

import anyio
import anyio.lowlevel
import pytest
import trio
import trustme
import websockets.asyncio.server
import websockets.trio.server
from websockets.utils import accept_key

from deepio_adapters.websocket import AsyncioLink, TrioLink
from deepio_core.address import build_address

KEY = "s3cr3t key/with=signs"
LIMIT = 30
"""Seconds after which a test that hangs fails; nothing in these tests takes one."""

# What a server logs of a request is its own affair, and holds the key.
_silent = logging.getLogger("tests.link_servers")
_silent.disabled = True


def address_of(port, *, scheme="ws", host="127.0.0.1", key=KEY):
    return build_address(f"{scheme}://{host}", port, peer_type="stream_capture", peer_id="cam-1", key=key)


def on_asyncio():
    return isinstance(anyio.lowlevel.current_token().native_token, asyncio.AbstractEventLoop)


@asynccontextmanager
async def websocket_server(handler, *, close_timeout=0.5, **options):
    """Serves WebSocket; `handler` gets a link for every connection. Yields the port."""
    make_link = AsyncioLink if on_asyncio() else TrioLink

    async def handle(connection):
        await handler(make_link(connection, close_timeout=close_timeout))

    options = {"compression": None, "logger": _silent, "close_timeout": close_timeout, **options}
    if on_asyncio():
        async with websockets.asyncio.server.serve(handle, "127.0.0.1", 0, **options) as server:
            yield server.sockets[0].getsockname()[1]
    else:
        async with trio.open_nursery() as nursery:
            serve = functools.partial(websockets.trio.server.serve, handle, 0, host="127.0.0.1", **options)
            server = await nursery.start(serve)
            yield server.listeners[0].socket.getsockname()[1]
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def tcp_server(handler):
    """Serves TCP; `handler` gets the stream of every connection. Yields the port."""

    async def handle(stream):
        async with stream:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                await handler(stream)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(anyio.abc.SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


async def silence(stream):
    """Takes everything and says nothing, until the far side ends TCP."""
    while True:
        await stream.receive()


async def read_head(stream):
    """Reads the head of an HTTP message."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive()
    return head.decode()


async def upgrade(stream):
    """Answers a WebSocket handshake by hand, so that what follows need not be WebSocket."""
    head = await read_head(stream)
    key = next(line.split(": ")[1] for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Key"))
    await stream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n"
    )


@functools.cache
def authority():
    return trustme.CA()


@functools.cache
def server_context(*names):
    """TLS for a server with these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert(*names).configure_cert(context)
    return context


def census():
    """What a cancellation may not leave behind: tasks, threads, file descriptors."""
    tasks = len(asyncio.all_tasks()) if on_asyncio() else trio.lowlevel.current_statistics().tasks_living
    return tasks, threading.active_count(), len(os.listdir("/dev/fd"))


async def settled(before):
    """Waits until nothing is there that was not; the far end needs a moment to see that we are gone."""
    now = census()
    with anyio.move_on_after(LIMIT / 3):
        while any(count > limit for count, limit in zip(now, before, strict=True)):
            await anyio.sleep(0.001)
            now = census()
        return
    pytest.fail(f"(tasks, threads, descriptors): {now}, before {before}")


async def calm():
    """The census once nothing changes any more."""
    now, last = census(), None
    while now != last:
        await anyio.sleep(0.02)
        now, last = census(), now
    return now
