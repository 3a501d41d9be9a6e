"""Where sending video reaches past the public interface of aiortc, aioice and pylibsrtp, all in one place.

As with `aiortc_hooks`, which says whether they can be used at all: everything is done to objects that the engine holds,
and other users of aiortc in the same process see nothing of it. Without: video goes through aiortc's own sender (see
`stock_sender`), which takes twice the CPU, sends every frame as a burst, and tells nobody what the far side reports.

What aiortc's sender does besides sending RTP stays its own: RTCP sender reports and BYE, the round trip, statistics.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

from aiortc.rtcdtlstransport import State
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RtcpPsfbPacket,
    RtcpRrPacket,
    RtcpSrPacket,
    RtpPacket,
    unpack_remb_fci,
    wrap_rtx,
)
from pylibsrtp import Error as SrtpError

from deepio_adapters.udp import MAX_SEGMENTS, Path, SocketPath, TransportPath
from deepio_core.media.rtp import HeaderTemplate, Payload

_binding: Any = importlib.import_module("pylibsrtp._binding")  # compiled, without types

__all__ = ["Protector", "SenderEvents", "SenderHooks"]

_TRAILER: Final = bytes(16 + 128)
"""Room for what libsrtp may add to a packet (SRTP_MAX_TRAILER_LEN)."""


class SenderEvents(Protocol):
    """What an RTCRtpSender tells whoever sends in its place; in the thread of its event loop."""

    async def run(self, codec: Any) -> None:
        """Sends, from the time the connection stands until it ends or this is cancelled."""
        ...

    def lost(self, sequence_number: int) -> RtpPacket | None:
        """The far side has missed a packet (NACK); returns it for sending it again, if it is still known."""
        ...

    def keyframe_requested(self) -> None:
        """The far side has asked for a keyframe."""
        ...

    def reported(self, loss: float, round_trip: float | None) -> None:
        """The far side has reported what it lost."""
        ...

    def estimated(self, bitrate: int) -> None:
        """The far side has estimated what the path can carry."""
        ...


class Protector:
    """Encrypts packets of a pylibsrtp session, those of a burst at a time: put together with one copy, and left there.

    It does what `Session.protect` does with each of them.

    Args:
        session: The session; used in one thread.
    """

    def __init__(self, session: Any) -> None:
        self._session = session  # holds what the pointer points to
        self._encrypt = _binding.lib.srtp_protect
        self._pointer_to = _binding.ffi.from_buffer
        self._srtp = session._srtp[0]
        self._length = _binding.ffi.new("int *")
        self._tag = bytes(16)  # as AES-GCM has it; the first packet tells

    def protect(self, headers: list[bytes], payloads: list[Payload], frame: bytes) -> list[tuple[memoryview, int]]:
        """Makes encrypted packets.

        Args:
            headers: The RTP header of each.
            payloads: What each carries.
            frame: The frame that they carry.

        Returns:
            Blocks of datagrams as `udp.Path.send` takes them, in the order of the packets.

        Raises:
            ConnectionError: libsrtp does not encrypt them.
        """
        source, tag = memoryview(frame), self._tag
        parts: list[bytes | memoryview] = []
        for header, (before, start, end) in zip(headers, payloads, strict=True):
            parts += (header, before, source[start:end], tag)
        parts.append(_TRAILER)
        memory = bytearray().join(parts)
        view, base = memoryview(memory), self._pointer_to(memory)
        srtp, encrypt, length = self._srtp, self._encrypt, self._length
        blocks: list[tuple[memoryview, int]] = []
        # Of this packet; of the block: where it begins and ends so far, bytes of its packets, and how many.
        at = plain = first = last = size = count = 0
        for header, (before, start, end) in zip(headers, payloads, strict=True):
            length[0] = plain = len(header) + len(before) + end - start
            if status := encrypt(srtp, base + at, length):
                raise ConnectionError(f"a packet cannot be encrypted (libsrtp says {status})")
            added = length[0]
            if count and (at != last or added > size or (last - first) % size or count == MAX_SEGMENTS):
                # Not right behind those before, larger, or behind a smaller one: this packet begins a block.
                blocks.append((view[first:last], size))
                count = 0
            if not count:
                first, size = at, added
            count += 1
            last = at + added
            at += plain + len(tag)
        if count:
            blocks.append((view[first:last], size))
            self._tag = bytes(length[0] - plain)
        return blocks


class SenderHooks:
    """One RTCRtpSender that somebody else sends for.

    Args:
        sender: The RTCRtpSender, before the connection is made.
        events: Who sends.
    """

    def __init__(self, sender: Any, events: SenderEvents) -> None:
        self._sender = sender
        self._events = events
        self._dtls: Any = None
        self._nominated: Any = None
        self._pair: Any = None
        self._path: Path | None = None
        self._handle_rtcp: Callable[[Any], Awaitable[None]] = self._sender._handle_rtcp_packet
        self._sender._run_rtp = self._run_rtp
        self._sender._retransmit = self._retransmit
        self._sender._send_keyframe = events.keyframe_requested
        self._sender._handle_rtcp_packet = self._handle_rtcp_packet

    # --- What the stream is ---

    @property
    def ssrc(self) -> int:
        """Synchronization source of the stream."""
        return int(self._sender._ssrc)

    def header_template(self, payload_type: int) -> HeaderTemplate:
        """Makes the headers of the stream, with the header extensions that were agreed."""
        ids = self._sender._RTCRtpSender__rtp_header_extensions_map._HeaderExtensionsMap__ids
        return HeaderTemplate(
            payload_type=payload_type,
            ssrc=self.ssrc,
            mid=self._sender._RTCRtpSender__mid,
            mid_id=ids.mid,
            abs_send_time_id=ids.abs_send_time,
        )

    def protector(self) -> Protector:
        """Encrypts for this connection; it stands."""
        self._dtls = self._sender.transport
        self._nominated = self._dtls.transport._connection._nominated
        return Protector(self._dtls._tx_srtp)

    # --- Sending ---

    def path(self) -> Path | None:
        """How packets leave now, after `protector` was called; None when the connection has ended."""
        if self._dtls._state is not State.CONNECTED:
            return None
        pair = self._nominated.get(1)
        if pair is not self._pair or self._path is None:
            self._leave_path()
            self._pair = pair
            self._path = None if pair is None else _path(pair)
        return self._path

    def sent(self, packets: int, octets: int, size: int, timestamp: int, moment: int) -> None:
        """Counts packets that have left, for the sender report (RFC 3550 section 6.4.1) and the statistics.

        Args:
            packets: How many.
            octets: Bytes of their payloads.
            size: Bytes of the datagrams.
            timestamp: RTP timestamp of the last one.
            moment: What it stands for, as NTP time.
        """
        sender, dtls = self._sender, self._dtls
        sender._RTCRtpSender__ntp_timestamp = moment
        sender._RTCRtpSender__rtp_timestamp = timestamp
        sender._RTCRtpSender__octet_count += octets
        sender._RTCRtpSender__packet_count += packets
        dtls._RTCDtlsTransport__tx_bytes += size
        dtls._RTCDtlsTransport__tx_packets += packets

    # --- In place of the sender's own ---

    async def _run_rtp(self, codec: Any) -> None:
        self._sender._RTCRtpSender__rtp_started.set()
        try:
            await self._events.run(codec)
        except asyncio.CancelledError:
            pass  # this is how RTCRtpSender.stop ends it
        finally:
            self._leave_path()
            # `stop` waits for it without a bound.
            self._sender._RTCRtpSender__rtp_exited.set()

    async def _retransmit(self, sequence_number: int) -> None:
        packet = self._events.lost(sequence_number)
        if packet is None:
            return
        sender = self._sender
        payload_type = sender._RTCRtpSender__rtx_payload_type
        if payload_type is not None:
            number = sender._RTCRtpSender__rtx_sequence_number
            packet = wrap_rtx(packet, payload_type=payload_type, sequence_number=number, ssrc=sender._rtx_ssrc)
            sender._RTCRtpSender__rtx_sequence_number = (number + 1) & 0xFFFF
        packet.extensions.mid = sender._RTCRtpSender__mid
        # It may have ended meanwhile: whoever sends learns that from `path`. Or many packets are encrypted already that
        # are not due yet, so that libsrtp takes this one for too old.
        with contextlib.suppress(ConnectionError, SrtpError):
            await sender.transport._send_rtp(packet.serialize(sender._RTCRtpSender__rtp_header_extensions_map))

    async def _handle_rtcp_packet(self, packet: Any) -> None:
        await self._handle_rtcp(packet)
        if isinstance(packet, RtcpRrPacket | RtcpSrPacket):
            for report in packet.reports:
                if report.ssrc == self.ssrc:
                    self._events.reported(report.fraction_lost / 256, self._sender._RTCRtpSender__rtt)
        elif isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_APP:
            try:
                bitrate, sources = unpack_remb_fci(packet.fci)
            except (ValueError, IndexError):
                return  # another message of an application, or broken
            if self.ssrc in sources:
                self._events.estimated(bitrate)

    def _leave_path(self) -> None:
        path, self._path, self._pair = self._path, None, None
        if path is not None:
            path.close()


def _path(pair: Any) -> Path:
    """How packets leave over a pair of candidates."""
    transport, address = pair.protocol.transport, pair.remote_addr
    sock = transport.get_extra_info("socket")
    # A relayed path has no socket to our peer: every packet is wrapped for the TURN server first.
    if sock is not None and sys.platform == "linux":
        with contextlib.suppress(OSError):  # no descriptor is left for a duplicate
            return SocketPath(sock.fileno(), address)
    inner = getattr(transport, "_TurnTransport__inner_protocol", None)
    below = transport if inner is None else inner.transport
    return TransportPath(lambda datagram: transport.sendto(datagram, address), below.get_write_buffer_size)
