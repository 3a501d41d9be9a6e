"""Makes the data channel of aiortc cheaper, and faster where it overruns the far side.

To acknowledge thirty results a second costs more than to send the video that they are about: four packets for each
pair of messages. What RFC 9260 allows is made use of here. As with `aiortc_hooks`, which says whether these hooks can
be used: everything is done to objects that the engine holds. Without: data channels work, with more packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections import deque
from typing import Any, Final

from aiortc.rtcsctptransport import USERDATA_MAX_LENGTH, DataChunk

from deepio_adapters import aiortc_hooks

__all__ = ["SACK_DELAY", "speed_up"]

SACK_DELAY: Final = 0.02
"""Seconds for which an acknowledgement waits for the answer that it can go with. RFC 9260 section 6.2 allows 0.5; but
the far side's retransmission timer and its window, which grows with acknowledgements, shall not notice."""

MAX_IN_FLIGHT: Final = 80
"""Packets on their way, from which on no more are sent: with the four that aiortc sends at a time, the receive buffer
that Linux gives a socket holds as many of the largest, 92, even while the far side does not read. aiortc counts bytes
only and knows no bound. It overruns the buffer, sends a third of a large message twice or waits a second for what it
has lost, and goes through all that is on its way for every packet that comes or goes."""

MAX_BUNDLED: Final = USERDATA_MAX_LENGTH - 64
"""Bytes of a message to which an acknowledgement is added: the packet stays within what aiortc sends anyway."""


def speed_up(sctp: Any) -> None:
    """Has an RTCSctpTransport acknowledge every second packet, or together with what it sends (RFC 9260 section 6.2).

    Once, when it is connected: before, its transport may be replaced. Gaps and repetitions are told at once. The amount
    on its way is bounded, and nothing is read from OpenSSL that is not there.
    """
    if aiortc_hooks.usable():
        _Acknowledgements(sctp)
        _bound(sctp)
        _spare_reads(sctp.transport)


class _Bundle:
    """Chunks that go in one packet (RFC 9260 section 6.10)."""

    def __init__(self, *chunks: Any) -> None:
        self._bytes = b"".join(bytes(chunk) for chunk in chunks)

    def __bytes__(self) -> bytes:
        return self._bytes


class _Acknowledgements:
    def __init__(self, sctp: Any) -> None:
        self._sctp = sctp
        self._send_now = sctp._send_sack
        self._send_chunk_alone = sctp._send_chunk
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Future[None] | None = None
        self._bundling: Any = None
        sctp._send_sack = self._send_sack
        sctp._send_chunk = self._send_chunk

    async def _send_sack(self) -> None:
        sctp = self._sctp
        if self._timer is None and not sctp._sack_misordered and not sctp._sack_duplicates:
            self._timer = asyncio.get_running_loop().call_later(SACK_DELAY, self._on_timer)
            sctp._sack_needed = False
            return
        self._stop_timer()
        await self._send_now()

    async def _send_chunk(self, chunk: Any) -> None:
        if self._timer is None or not isinstance(chunk, DataChunk) or len(chunk.user_data) > MAX_BUNDLED:
            await self._send_chunk_alone(chunk)
            return
        self._stop_timer()
        # aiortc makes the acknowledgement and hands it over to be sent alone; here is what comes out.
        held: list[Any] = []

        async def hold(sack: Any) -> None:
            held.append(sack)

        self._sctp._send_chunk = hold
        try:
            await self._send_now()
        finally:
            self._sctp._send_chunk = self._send_chunk
        await self._send_chunk_alone(_Bundle(*held, chunk))

    def _on_timer(self) -> None:
        self._timer = None
        if self._sctp._association_state is self._sctp.State.ESTABLISHED:
            self._flushing = asyncio.ensure_future(self._flush())

    async def _flush(self) -> None:
        with contextlib.suppress(ConnectionError):  # it has ended: nobody waits for it any more
            await self._send_now()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _bound(sctp: Any) -> None:
    """Bounds what is on its way: beyond, only what was lost is sent."""
    transmit = sctp._transmit

    async def transmit_bounded() -> None:
        if len(sctp._sent_queue) < MAX_IN_FLIGHT:
            await transmit()
            return
        waiting, sctp._outbound_queue = sctp._outbound_queue, deque[Any]()
        try:
            await transmit()
        finally:
            waiting.extend(sctp._outbound_queue)
            sctp._outbound_queue = waiting

    sctp._transmit = transmit_bounded


def _spare_reads(dtls: Any) -> None:
    """Has an RTCDtlsTransport look whether OpenSSL has something to send without raising an exception if it has not.

    aiortc looks after every packet that came, and that is how pyOpenSSL says no.
    """
    module: Any = importlib.import_module("OpenSSL.SSL")
    lib, ffi, write_ssl = getattr(module, "_lib", None), getattr(module, "_ffi", None), dtls._write_ssl
    if lib is None or ffi is None:
        return
    buffer = ffi.new("char[]", 1500)

    async def write() -> None:
        output = getattr(dtls._ssl, "_from_ssl", None)
        if output is None:
            await write_ssl()
            return
        size = lib.BIO_read(output, buffer, 1500)
        if size > 0:
            await dtls.transport._send(ffi.buffer(buffer, size)[:])
            dtls._RTCDtlsTransport__tx_bytes += size
            dtls._RTCDtlsTransport__tx_packets += 1

    dtls._write_ssl = write
