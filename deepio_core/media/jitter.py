"""Puts RTP packets of video in order and joins them to frames, each as soon as its last packet is there.

The last packet of a frame carries the marker bit (RFC 6184 section 5.1, RFC 7741 section 4.1), so nobody needs to wait
for the frame after it. A frame with a hole is never given out: it is left out, and so is what cannot be told apart from
the rest of it, and the next one says that something is missing before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CAPACITY", "PATIENCE", "CodedFrame", "JitterBuffer", "VideoPacket", "begins_frame"]

CAPACITY: Final = 1024
"""Packets that are kept: a keyframe of 1.3 MB, or a second of 10 Mbit/s. What does not fit makes the oldest be given
up."""

PATIENCE: Final = 0.2
"""Seconds for which a missing packet is waited for unless the owner knows better: twice the round trip of a long way,
for it was asked for at once."""

MAX_MISORDER: Final = 100
"""Packets by which one may come late. One that is older says that the sender has begun anew (RFC 3550 Annex A.1)."""

MAX_DROPOUT: Final = 3000
"""Packets that may be lost in a row; more than these are a new beginning as well (RFC 3550 Annex A.1)."""


# NAL unit types (RFC 6184 section 5.2, H.264 table 7-1)
_SLICES: Final = frozenset({1, 5})
_HEADS: Final = frozenset({6, 7, 8, 9})  # messages, parameter sets, delimiter: before the slices of a picture, or none
_STAP_A: Final = 24
_FU_A: Final = 28


class VideoPacket(NamedTuple):
    """An RTP packet of video."""

    sequence: int
    """Sequence number, 16 bits."""
    timestamp: int
    """RTP timestamp, 32 bits."""
    marker: bool
    """It says that it is the last one of its frame."""
    starts: bool
    """Its payload shows that it is the first one of its frame; False if that cannot be seen."""
    payload_type: int
    """RTP payload type."""
    data: bytes
    """What it adds to the frame, in the form that decoders take. Empty for padding."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodedFrame:
    """All of a frame, as the decoder wants it."""

    data: bytes
    """The bytes: H.264 in Annex B, or one VP8 frame."""
    timestamp: int
    """RTP timestamp, which goes on counting where its 32 bits are full; may be negative."""
    payload_type: int
    """RTP payload type of the first packet."""
    packets: int
    """Number of packets."""
    first_at: float
    """When the first packet of those that came was there: monotonic seconds."""
    last_at: float
    """When the last one was there."""
    discontinuity: bool
    """Something is missing before it: the frame before, or more."""


class JitterBuffer:
    """Puts the packets of one video stream in order and joins them to frames.

    Whatever comes, at most `capacity` packets are kept. A packet that is missing is waited for as long as `patience`
    says, which is looked at when others come; then the frames that it touches are left out.

    Args:
        capacity: Packets to keep, at most.
        patience: Seconds for which a missing packet is waited for.
    """

    def __init__(self, capacity: int = CAPACITY, patience: float = PATIENCE) -> None:
        self.capacity = capacity
        """Packets that are kept, at most."""
        self.patience = patience
        """Seconds for which a missing packet is waited for."""
        self.late = 0
        """Packets that came twice, or when their frame was given out or given up."""
        self.lost = 0
        """How often a hole was given up."""
        self._packets: dict[int, tuple[VideoPacket, float]] = {}
        self._ahead = 0  # the highest number seen; numbers go on counting where 16 bits are full
        self._first: int | None = None  # where the next frame begins, or is looked for
        self._cursor = 0  # up to here, the packets of that frame are there
        self._bounded = False  # `_first` is known to begin a frame: the packet before ended one
        self._before: int | None = None  # timestamp of the packet before `_first`, if that has come
        self._gap = False  # something is missing before the next frame
        self._after_marker = False
        self._trusts_markers = True
        self._time: int | None = None  # timestamp of the last frame, which goes on counting
        self._stray: tuple[VideoPacket, float] | None = None

    @property
    def held(self) -> int:
        """Packets that are kept now."""
        return len(self._packets)

    def reset(self) -> None:
        """Forget what waits: another stream begins. Counters and settings stay."""
        self._packets.clear()
        self._gap = self._gap or self._first is not None
        self._first = self._before = self._stray = None
        self._bounded = self._after_marker = False

    def add(self, packet: VideoPacket, now: float) -> tuple[bool, Sequence[CodedFrame]]:
        """Take a packet.

        Args:
            packet: As it came from the network.
            now: When it came, monotonic seconds.

        Returns:
            Whether something has been given up, so that a keyframe should be asked for; and the frames that are
            complete now, in order.
        """
        lost = self.lost
        number = self._place(packet, now)
        if number is None:
            return self.lost != lost, ()
        frames: list[CodedFrame] = []
        assert self._first is not None, "`_place` has said where the frame begins"
        if number - self._first >= self.capacity:
            self._make_room(number, frames)
        self._packets[number] = packet, now
        self._ahead = max(self._ahead, number)
        self._collect(frames)
        while (hole_since := self._hole_since()) is not None and now - hole_since > self.patience:
            self._give_up()
            self._collect(frames)
        return self.lost != lost, frames

    # --- Where a packet belongs ---

    def _place(self, packet: VideoPacket, now: float) -> int | None:
        """The number of a packet; None if it is not taken, or not yet."""
        if self._first is None:
            self._first = self._cursor = self._ahead = packet.sequence
            return packet.sequence
        step = _signed(packet.sequence - self._ahead, 16)
        if not -MAX_MISORDER < step < MAX_DROPOUT:
            return self._on_stray(packet, now)
        self._stray = None
        number = self._ahead + step
        if number < self._first or number in self._packets:
            self.late += 1
            return None
        return number

    def _on_stray(self, packet: VideoPacket, now: float) -> int | None:
        # A packet from elsewhere may be a late repetition; two in a row are a sender that has begun anew.
        stray, self._stray = self._stray, (packet, now)
        if stray is None or stray[0].sequence != (packet.sequence - 1) & 0xFFFF:
            self.late += 1
            return None
        self.reset()
        self.lost += 1
        self._first = self._cursor = stray[0].sequence
        self._ahead = self._first + 1
        self._packets[self._first] = stray
        return self._ahead

    # --- Frames ---

    def _collect(self, frames: list[CodedFrame]) -> None:
        """Give out what is complete."""
        assert self._first is not None, "there are packets"
        while (entry := self._packets.get(self._first)) is not None:
            first = entry[0]
            if not first.data and (first.timestamp == self._before or first.marker):
                self._drop_first(first)  # padding between frames
            elif not self._begins_frame(first):
                self._gap = True
                self._drop_first(first)
            elif (end := self._end_of(first.timestamp)) is None:
                return
            else:
                self._give_out(end, frames)

    def _begins_frame(self, first: VideoPacket) -> bool:
        if self._after_marker and first.timestamp == self._before:
            # The frame went on behind its marker: what was given out had a hole.
            self._trusts_markers = self._after_marker = False
            self._bounded = False
        return self._bounded or (first.starts if self._before is None else first.timestamp != self._before)

    def _drop_first(self, first: VideoPacket) -> None:
        assert self._first is not None, "this is it"
        del self._packets[self._first]
        self._first += 1
        self._cursor = max(self._cursor, self._first)
        if first.data or first.timestamp != self._before:
            self._bounded = first.marker and self._trusts_markers
            self._after_marker = False
        self._before = first.timestamp

    def _end_of(self, timestamp: int) -> int | None:
        """The number behind the last packet of the first frame; None while it is not complete."""
        while (entry := self._packets.get(self._cursor)) is not None:
            if entry[0].timestamp != timestamp:
                return self._cursor
            self._cursor += 1
            if entry[0].marker and self._trusts_markers:
                return self._cursor
        return None

    def _give_out(self, end: int, frames: list[CodedFrame]) -> None:
        assert self._first is not None, "it is complete"
        parts = [self._packets.pop(number) for number in range(self._first, end)]
        last = parts[-1][0]
        if self._time is None:
            self._time = last.timestamp
        self._time += _signed(last.timestamp - self._time, 32)
        frames.append(
            CodedFrame(
                data=b"".join([packet.data for packet, _ in parts]),
                timestamp=self._time,
                payload_type=parts[0][0].payload_type,
                packets=len(parts),
                first_at=min(at for _, at in parts),
                last_at=max(at for _, at in parts),
                discontinuity=self._gap,
            )
        )
        self._first = self._cursor = end
        self._bounded, self._before = True, last.timestamp
        self._after_marker = last.marker and self._trusts_markers
        self._gap = False

    # --- Holes ---

    def _hole_since(self) -> float | None:
        """When the packet behind the first hole came; None if nothing waits behind a hole."""
        if not self._packets or self._cursor > self._ahead:
            return None
        number = self._cursor
        while number not in self._packets:
            number += 1
        return self._packets[number][1]

    def _give_up(self) -> None:
        """Leave out the frame that the first hole is in."""
        assert self._first is not None, "there is a hole behind it"
        for number in range(self._first, self._cursor):
            del self._packets[number]
        while self._cursor not in self._packets and self._cursor <= self._ahead:
            self._cursor += 1
        self._first, self._before = self._cursor, None
        self._bounded = self._after_marker = False
        self._gap = True
        self.lost += 1

    def _make_room(self, number: int, frames: list[CodedFrame]) -> None:
        """Give up the oldest until a packet with this number fits in."""
        assert self._first is not None, "packets came before this one"
        while number - self._first >= self.capacity:
            self._give_up()
            if not self._packets:
                self._first = self._cursor = number
            self._collect(frames)


def begins_frame(codec: str, payload: bytes) -> bool:
    """Tell whether a packet shows by itself that it is the first one of its frame.

    In VP8 each packet says so (RFC 7741 section 4.2). In H.264 those do that hold the slice with the first macroblock,
    or what stands before slices only. Of the latter, one more may have come before; decoders notice if they need it.

    Args:
        codec: "H264" or "VP8"; for any other the answer is False.
        payload: The payload of the RTP packet.
    """
    if codec == "VP8":
        return payload[:1] != b"" and payload[0] & 0x17 == 0x10
    if codec != "H264" or len(payload) < 5:
        return False
    kind, at = payload[0] & 0x1F, 1
    if kind == _STAP_A:
        kind, at = payload[3] & 0x1F, 4
    elif kind == _FU_A:
        if not payload[1] & 0x80:
            return False
        kind, at = payload[1] & 0x1F, 2
    # first_mb_in_slice comes first in a slice; 0 is a single bit (H.264 sections 7.3.3 and 9.1).
    return kind in _HEADS or (kind in _SLICES and payload[at] & 0x80 != 0)


def _signed(value: int, bits: int) -> int:
    """The difference of two numbers that wrap around, as a signed number."""
    half = 1 << (bits - 1)
    return ((value + half) & ((1 << bits) - 1)) - half
