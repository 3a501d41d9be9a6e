"""The socket that the local core listens on."""

import asyncio
import contextlib
import socket

from deepio_server import core


async def no_delay() -> int:
    """TCP_NODELAY of a connection to the listener, on its own side."""
    with contextlib.closing(core._listen(core.CoreConfig())) as listener:
        taken: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        async with await asyncio.start_server(lambda _, writer: taken.set_result(writer), sock=listener) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            served = await taken
            option: int = served.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            for end in (writer, served):
                end.close()
                await end.wait_closed()
            return option


def test_small_signals_are_not_held_back() -> None:
    # Else the second of two, which is the offer after the pairing, waits 40 ms for an acknowledgement.
    assert asyncio.run(no_delay())
