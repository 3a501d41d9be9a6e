"""RTP: headers of packets (RFC 3550, RFC 8285), times in them, and retransmission (RFC 4588)."""

from __future__ import annotations

from struct import Struct
from typing import Final, TypeAlias

from deepio_core.errors import LocalProtocolError

__all__ = ["HeaderTemplate", "Payload", "abs_send_time", "ntp_time", "payload_of", "rtx_payload"]

Payload: TypeAlias = tuple[bytes, int, int]
"""What a packet carries: some bytes of its own, then those of the frame from one offset to another. So frames are
copied once on their way out, when they are encrypted, and kept as they are for sending again."""

_FIRST: Final = Struct("!HH")
_UNIX_EPOCH_IN_NTP: Final = 2_208_988_800  # seconds from 1900 to 1970


def ntp_time(unix_time: float) -> int:
    """Time as it stands in sender reports (RFC 3550 section 4): 32 bits of seconds, 32 bits of their fraction.

    Args:
        unix_time: Seconds since 1970. The seconds begin anew in 2036, as the format has it.
    """
    return (int(unix_time * (1 << 32)) + (_UNIX_EPOCH_IN_NTP << 32)) & 0xFFFF_FFFF_FFFF_FFFF


def abs_send_time(unix_time: float) -> int:
    """Time for the header extension abs-send-time: 6 bits of seconds, 18 bits of their fraction.

    Args:
        unix_time: Seconds since 1970.
    """
    # Seconds since 1900 would be the same: the difference is a multiple of 64.
    return int(unix_time * (1 << 18)) & 0xFF_FFFF


def payload_of(frame: bytes, payload: Payload) -> bytes:
    """Make the payload of a packet.

    Args:
        frame: The frame that was packetized.
        payload: What the packet carries of it.
    """
    before, start, end = payload
    return before + frame[start:end]


def rtx_payload(sequence_number: int, payload: bytes) -> bytes:
    """Wrap a packet that is sent again in a stream of its own (RFC 4588 section 4).

    Args:
        sequence_number: That of the packet when it was sent first.
        payload: Its payload.
    """
    return (sequence_number & 0xFFFF).to_bytes(2, "big") + payload


class HeaderTemplate:
    """Makes the headers of one RTP stream: the very bytes that aiortc 1.16 makes.

    Args:
        payload_type: 0 to 127.
        ssrc: 32 bits.
        mid: Tag of the media line, sent in a header extension (RFC 8843 section 15) if it has an id.
        mid_id: Id of that extension as agreed, 1 to 255; None or 0 if it is not.
        abs_send_time_id: Id of the extension abs-send-time as agreed, 1 to 255; None or 0 if it is not.

    Raises:
        LocalProtocolError: No header can hold these values.
    """

    __slots__ = ("_after", "_before", "_first", "_stamp_size")

    def __init__(
        self,
        *,
        payload_type: int,
        ssrc: int,
        mid: str | None = None,
        mid_id: int | None = None,
        abs_send_time_id: int | None = None,
    ) -> None:
        tag = (mid or "").encode("utf-8", "replace")
        ids = [mid_id or 0 if mid is not None else 0, abs_send_time_id or 0]
        if not (0 <= payload_type < 128 and 0 <= ssrc < 1 << 32 and len(tag) < 256 and all(0 <= i < 256 for i in ids)):
            raise LocalProtocolError(
                f"No RTP header holds payload type {payload_type}, SSRC {ssrc}, extensions {ids}, "
                f"and a tag of {len(tag)} bytes."
            )
        extensions = [(number, value) for number, value in zip(ids, [tag, bytes(3)], strict=True) if number]
        profile, block = _extension_block(extensions)
        padding = bytes(-len(block) % 4)
        words = (len(block) + len(padding)) // 4
        announced = _FIRST.pack(profile, words) if extensions else b""
        # The stamp is the last extension: behind it there is padding only.
        self._stamp_size = 3 if ids[1] else 0
        self._first = (0x9000 if extensions else 0x8000) | payload_type
        self._before = ssrc.to_bytes(4, "big") + announced + block[: len(block) - self._stamp_size]
        self._after = padding

    @property
    def size(self) -> int:
        """Bytes of each header."""
        return 8 + len(self._before) + self._stamp_size + len(self._after)

    def header(self, sequence_number: int, timestamp: int, *, marker: bool, abs_send_time: int) -> bytes:
        """Make the header of one packet.

        Args:
            sequence_number: Of which 16 bits are sent.
            timestamp: Of which 32 bits are sent.
            marker: It is the last packet of a frame.
            abs_send_time: When it leaves, see the function of this name; of which 24 bits are sent, if agreed.
        """
        first = _FIRST.pack(self._first | (0x80 if marker else 0), sequence_number & 0xFFFF)
        return first + self._tail(timestamp, abs_send_time)

    def headers(self, count: int, sequence_number: int, timestamp: int, abs_send_time: int) -> list[bytes]:
        """Make the headers of a frame, the last with the marker; costs less than to make them one by one.

        Args:
            count: How many, at least one.
            sequence_number: That of the first, of which 16 bits are sent.
            timestamp: Of which 32 bits are sent.
            abs_send_time: When they leave, as in `header`.
        """
        pack, first, tail = _FIRST.pack, self._first, self._tail(timestamp, abs_send_time)
        headers = [pack(first, number & 0xFFFF) + tail for number in range(sequence_number, sequence_number + count)]
        headers[-1] = pack(first | 0x80, (sequence_number + count - 1) & 0xFFFF) + tail
        return headers

    def _tail(self, timestamp: int, abs_send_time: int) -> bytes:
        """What is behind the sequence number, which is the same for all packets of a frame."""
        stamp = (abs_send_time & 0xFF_FFFF).to_bytes(3, "big")[: self._stamp_size]
        return (timestamp & 0xFFFF_FFFF).to_bytes(4, "big") + self._before + stamp + self._after


def _extension_block(extensions: list[tuple[int, bytes]]) -> tuple[int, bytes]:
    """Profile and extensions, with headers of one byte if they can (RFC 8285 sections 4.2 and 4.3)."""
    if all(number <= 14 and 1 <= len(value) <= 16 for number, value in extensions):
        return 0xBEDE, b"".join(bytes([number << 4 | len(value) - 1]) + value for number, value in extensions)
    return 0x1000, b"".join(bytes([number, len(value)]) + value for number, value in extensions)
