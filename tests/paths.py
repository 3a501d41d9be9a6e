"""Paths between two engines that lose, hold up and limit what goes over them: datagrams through sockets of ours."""

from __future__ import annotations

import contextlib
import heapq
import re
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

_CANDIDATE: Final = re.compile(r"a=candidate:(\S+) 1 udp (\d+) (\d+\.\d+\.\d+\.\d+) (\d+) typ host[^\r\n]*\r\n")
_OTHERS: Final = re.compile(r"a=candidate:[^\r\n]*\r\n")

PATIENCE: Final = 0.05
"""Seconds between two looks at whether the path has come to its end."""


@dataclass(frozen=True)
class Packet:
    """The header of an RTP packet (RFC 3550 section 5.1), which SRTP does not encrypt."""

    payload_type: int
    marker: bool
    number: int
    timestamp: int
    ssrc: int
    size: int

    @classmethod
    def parse(cls, data: bytes) -> Packet | None:
        """None if it is something else: STUN, DTLS or RTCP (RFC 7983, RFC 5761 section 4)."""
        if len(data) < 12 or not 128 <= data[0] <= 191 or 192 <= data[1] <= 223:
            return None
        return cls(
            payload_type=data[1] & 0x7F,
            marker=data[1] >= 0x80,
            number=int.from_bytes(data[2:4], "big"),
            timestamp=int.from_bytes(data[4:8], "big"),
            ssrc=int.from_bytes(data[8:12], "big"),
            size=len(data),
        )


class Path:
    """A path between who offers and who answers, each of which takes it for the other.

    Attributes:
        lose: Whether an RTP packet of who offers is lost; called in the path's thread.
        rate: Bits per second of all that who offers sends; what is too much waits. None for no limit.
        limit: Seconds for which it may wait; what would wait longer is lost.
        packets: RTP packets of who offers that went through.
        lost: RTP packets that did not.
    """

    def __init__(self) -> None:
        self.lose: Callable[[Packet], bool] = lambda _: False
        self.rate: float | None = None
        self.limit = float("inf")
        self.packets = self.lost = 0
        self._sockets: list[socket.socket] = []  # of who offers, and of who answers: what the other one sends to
        self._homes: list[tuple[str, int]] = []
        self._ended = False
        self._free_at = 0.0
        self._waiting: list[tuple[float, int, bytes]] = []
        self._count = 0
        self._thread = threading.Thread(target=self._run, name="path")

    def stand_in(self, sdp: str) -> str:
        """Puts the path in the place of the one whose description it is: first of who offers, then of who answers."""
        found = _CANDIDATE.search(sdp)
        assert found is not None, "a description holds candidates"
        foundation, priority, host, port = found.groups()
        mine = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        mine.bind((host, 0))
        self._sockets.append(mine)
        self._homes.append((host, int(port)))
        if len(self._sockets) == 2:
            self._thread.start()
        line = f"a=candidate:{foundation} 1 udp {priority} {host} {mine.getsockname()[1]} typ host\r\n"
        head, tail = sdp[: found.start()], sdp[found.end() :]
        return _OTHERS.sub("", head) + line + _OTHERS.sub("", tail)

    def close(self) -> None:
        self._ended = True
        if self._thread.ident is not None:
            self._thread.join()
        for one in self._sockets:
            one.close()

    def _run(self) -> None:
        offerer, answerer = self._sockets
        with selectors.DefaultSelector() as selector:
            for one in self._sockets:
                selector.register(one, selectors.EVENT_READ)
            while not self._ended:
                wait = self._waiting[0][0] - time.monotonic() if self._waiting else PATIENCE
                # What the engines send to who answers comes in at the socket that stands in for that one.
                for key, _ in selector.select(max(0.0, min(wait, PATIENCE))):
                    if key.fileobj is answerer:
                        self._take(answerer.recv(65536))
                    else:
                        self._send(answerer, offerer.recv(65536), self._homes[0])
                now = time.monotonic()
                while self._waiting and self._waiting[0][0] <= now:
                    self._send(offerer, heapq.heappop(self._waiting)[2], self._homes[1])

    def _take(self, data: bytes) -> None:
        packet = Packet.parse(data)
        if packet is not None:
            if self.lose(packet) or self._free_at - time.monotonic() > self.limit:
                self.lost += 1
                return
            self.packets += 1
        due = time.monotonic()
        if self.rate is not None:
            self._free_at = due = max(due, self._free_at) + len(data) * 8 / self.rate
        self._count += 1
        heapq.heappush(self._waiting, (due, self._count, data))

    def _send(self, through: socket.socket, data: bytes, to: tuple[str, int]) -> None:
        with contextlib.suppress(ConnectionError):  # its socket has been closed
            through.sendto(data, to)


@contextmanager
def path() -> Iterator[Path]:
    one = Path()
    try:
        yield one
    finally:
        one.close()
