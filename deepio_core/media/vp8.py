"""VP8: what copying a stream has to know of its frames (RFC 6386), and how they go into RTP (RFC 7741).

Bytes come from cameras and files, so every function takes any bytes at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from deepio_core.media.rtp import Payload

__all__ = ["frame_size", "is_keyframe", "packetize"]

_KEYFRAME_START: Final = b"\x9d\x01\x2a"
_KEYFRAME_HEADER_BYTES: Final = 10

# Sizes of RTP payloads as aiortc makes them, with a descriptor of four bytes that holds a picture id of 15 bits.
_PAYLOAD_MAX: Final = 1300
_DATA_MAX: Final = _PAYLOAD_MAX - 4


def is_keyframe(frame: bytes) -> bool:
    """Tell whether a decoder can begin here (RFC 6386 section 9.1).

    Args:
        frame: Any bytes; False if they are no keyframe, or too short for one.
    """
    return len(frame) >= _KEYFRAME_HEADER_BYTES and not frame[0] & 1 and frame.startswith(_KEYFRAME_START, 3)


def frame_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height in pixels, which only keyframes tell (RFC 6386 section 9.1).

    Args:
        frame: Any bytes.

    Returns:
        The size of the pictures from here on; None if it is no keyframe, or a picture without pixels.
    """
    if not is_keyframe(frame):
        return None
    # The two bits above say how to scale up for display, which nobody does.
    width = int.from_bytes(frame[6:8], "little") & 0x3FFF
    height = int.from_bytes(frame[8:10], "little") & 0x3FFF
    return (width, height) if width and height else None


def packetize(frame: bytes, picture_id: int) -> list[Payload]:
    """Make the RTP payloads of a frame: the very bytes that aiortc 1.16 makes.

    Args:
        frame: One frame, any bytes; none of no bytes is sent.
        picture_id: Number of the frame, of which 15 bits are sent; one more than that of the frame before.

    Returns:
        Payloads of 1300 bytes at most, in the order in which they are sent.
    """
    # X; I; M and the number: RFC 7741 section 4.2. S marks the start of the partition.
    following = b"\x80\x80" + (0x8000 | picture_id & 0x7FFF).to_bytes(2, "big")
    size = len(frame)
    payloads = [(following, at, min(at + _DATA_MAX, size)) for at in range(0, size, _DATA_MAX)]
    if payloads:
        payloads[0] = (b"\x90" + following[1:], *payloads[0][1:])
    return payloads
