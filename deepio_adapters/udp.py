"""Ways for the packets of a stream to leave: many datagrams with one system call where Linux can do that.

A block is some datagrams one behind the other, all of the same size but for the last, which may be smaller. That is
what generic segmentation offload (UDP_SEGMENT, Linux 4.18) takes: the kernel walks through its layers once for all of
them. A system call costs more than the encryption of the packet that it sends.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final, Protocol

__all__ = ["MAX_SEGMENTS", "Path", "SocketPath", "TransportPath"]

logger = logging.getLogger(__name__)

MAX_SEGMENTS: Final = 40
"""Datagrams in a block at most. The kernel takes 64 (UDP_MAX_SEGMENTS), and 64 KiB in all: 43 of 1,500 bytes."""

SOL_UDP: Final = 17
"""Level of the option, from linux/udp.h; the socket module has no name for it before Python 3.12."""

UDP_SEGMENT: Final = 103
"""Size of the segments, from linux/udp.h."""

NO_SEGMENTATION: Final = frozenset(
    {errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.ENOTSUP}
)
"""What the kernel says when it, the network interface or the size of packets on this path does not allow it."""

FULL: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS, errno.ENOMEM})
"""What the kernel says when there is no room now."""

MAX_BUFFERED: Final = 256 * 1024
"""Bytes that may wait above the socket: half a second at 4 Mbit/s. What comes on top is refused, and the stream waits
with it, drops or encodes less."""


class Path(Protocol):
    """Takes datagrams for one destination."""

    def send(self, block: memoryview, size: int) -> int:
        """Sends the datagrams of a block; never blocks, never raises.

        Args:
            block: Datagrams of `size` bytes; the last may be smaller. At most `MAX_SEGMENTS`.
            size: Bytes in each.

        Returns:
            How many bytes were taken: all, or whole datagrams up to where there was no room any more.
        """
        ...

    def close(self) -> None:
        """Releases what it holds; what is under way may be lost."""
        ...


class SocketPath:
    """Sends over a duplicate of a socket that an event loop reads from; the loop does not notice.

    Args:
        fileno: The socket, which does not block.
        address: Where to.
    """

    def __init__(self, fileno: int, address: tuple[str, int]) -> None:
        self._socket = socket.socket(fileno=os.dup(fileno))
        self._socket.setblocking(False)
        self._address = address
        self._segments = sys.platform == "linux"

    @property
    def segments(self) -> bool:
        """Whether several datagrams leave with one system call."""
        return self._segments

    def send(self, block: memoryview, size: int) -> int:
        """Sends the datagrams of a block (see `Path`)."""
        if self._segments and len(block) > size:
            try:
                option = (SOL_UDP, UDP_SEGMENT, struct.pack("=H", size))
                return self._socket.sendmsg((block,), (option,), 0, self._address)
            except OSError as error:
                if error.errno in FULL:
                    return 0
                if error.errno not in NO_SEGMENTATION:
                    return _lost(error, block)
                logger.debug("Datagrams leave one by one: %s", error)
                self._segments = False
        for start in range(0, len(block), size):
            try:
                self._socket.sendto(block[start : start + size], self._address)
            except OSError as error:
                if error.errno in FULL:
                    return start
                _lost(error, block)
        return len(block)

    def close(self) -> None:
        """Closes the duplicate."""
        self._socket.close()


class TransportPath:
    """Sends one by one over what is like the datagram transport of an event loop, as aioice does.

    Args:
        send: Sends one datagram to where they all go.
        buffered: Returns how many bytes wait above the socket.
    """

    def __init__(self, send: Callable[[bytes], object], buffered: Callable[[], int]) -> None:
        self._send = send
        self._buffered = buffered

    def send(self, block: memoryview, size: int) -> int:
        """Sends the datagrams of a block (see `Path`)."""
        for start in range(0, len(block), size):
            if self._buffered() > MAX_BUFFERED:
                return start
            self._send(bytes(block[start : start + size]))
        return len(block)

    def close(self) -> None:
        """Does nothing: the transport is not ours."""


def _lost(error: OSError, block: memoryview) -> int:
    # As when a router drops it: there may be a path again with the next packet, and the far side asks for this one.
    logger.debug("%d bytes are lost on the way out: %s", len(block), error)
    return len(block)
