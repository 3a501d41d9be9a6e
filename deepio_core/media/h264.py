"""H.264: what copying a stream has to know of its bitstream (ITU-T H.264), and how it goes into RTP (RFC 6184).

An access unit is one picture in the byte stream format of Annex B: NAL units behind start codes. Bytes come from
cameras and files, so every function takes any bytes at all, and says what it does with those that are no H.264.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepio_core.media.rtp import Payload

__all__ = [
    "AUD",
    "IDR",
    "PPS",
    "SEI",
    "SLICE",
    "SPS",
    "Sps",
    "has_b_slice",
    "is_keyframe",
    "is_open_keyframe",
    "nal_units",
    "packetize",
    "parameter_sets",
    "parse_sps",
    "with_parameter_sets",
]

# Types of NAL units (ITU-T H.264 table 7-1).
SLICE: Final = 1
"""Slice of a picture that needs others."""
IDR: Final = 5
"""Slice of a picture at which decoding can begin, and behind which nothing refers to what was before."""
SEI: Final = 6
"""Supplemental enhancement information."""
SPS: Final = 7
"""Sequence parameter set."""
PPS: Final = 8
"""Picture parameter set."""
AUD: Final = 9
"""Access unit delimiter; where there is one, it comes first."""

_PARTITION_A: Final = 2  # slice data partition A: the one of the three that has the slice header
_STAP_A: Final = 24
_FU_A: Final = 28

_START_CODE: Final = b"\x00\x00\x01"
_START: Final = re.compile(_START_CODE)  # searches twice as fast as bytes.find, and searching is half of the work
_LONG_START_CODE: Final = b"\x00\x00\x00\x01"  # demanded before parameter sets and at the start (Annex B.1.2)

# Sizes of RTP payloads, as aiortc makes them: with RTP, SRTP, UDP, IPv6 and a tunnel around them they fit into 1400.
_PAYLOAD_MAX: Final = 1300
_FRAGMENT_MAX: Final = _PAYLOAD_MAX - 2  # FU indicator and FU header
_AGGREGATE_MAX: Final = _PAYLOAD_MAX - 3  # STAP-A header and the length of the first NAL unit
_AGGREGATE_COUNT: Final = 9

_SLICE_HEADER_BYTES: Final = 16  # first_mb_in_slice and slice_type take 6 at most, and 9 with emulation prevention
_SEI_BYTES: Final = 4096  # a recovery point is among the first messages; a hostile unit may not cost more
_SPS_BYTES: Final = 4096  # the largest that the syntax allows takes less; a hostile one may not cost more
_SIDE_MAX: Final = 1055  # macroblocks; level 6.2 allows no longer side (Annex A.3.1)
_HIGH_PROFILES: Final = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})
_NO_REORDER_WITH_CONSTRAINT_3: Final = frozenset({44, 86, 100, 110, 122, 244})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sps:
    """What a sequence parameter set says of the pictures (ITU-T H.264 section 7.4.2.1)."""

    profile: int
    """profile_idc: 66 baseline, 77 main, 88 extended, 100 high, 110 high 10, 122 high 4:2:2, 244 high 4:4:4."""
    constraints: int
    """The byte of constraint flags behind it, constraint_set0_flag in bit 7."""
    level: int
    """level_idc, ten times the level (31 for 3.1)."""
    width: int
    """Width in pixels, after cropping."""
    height: int
    """Height in pixels, after cropping."""
    interlaced: bool
    """Pictures may be fields (frame_mbs_only_flag is 0)."""
    chroma_format: int
    """chroma_format_idc: 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4."""
    bit_depth: int
    """Bits per sample, of luma or chroma, whichever has more."""
    reorder_frames: int | None
    """How many pictures at most are decoded before one that is shown earlier. 0: there is no B-frame that would need
    it; None: it does not say, anything is possible."""


class _MalformedError(ValueError):
    """Bits that are no H.264; never leaves this module."""


class _Bits:
    """Reads bits from the front, and Exp-Golomb codes (ITU-T H.264 section 9.1)."""

    __slots__ = ("_left", "_value")

    def __init__(self, rbsp: bytes) -> None:
        self._value = int.from_bytes(rbsp, "big")
        self._left = 8 * len(rbsp)

    def read(self, count: int) -> int:
        """The next bits as a number."""
        self._left -= count
        if self._left < 0:
            raise _MalformedError
        value = self._value >> self._left
        self._value &= (1 << self._left) - 1
        return value

    def ue(self) -> int:
        """Read an unsigned number."""
        zeros = self._left - self._value.bit_length()
        if zeros > 31:  # codes are 32 bits at most; also the end of the bits, if they are many
            raise _MalformedError
        self.read(zeros)
        return self.read(zeros + 1) - 1

    def se(self) -> int:
        """Read a signed number."""
        code = self.ue()
        return (code + 1) // 2 if code & 1 else -(code // 2)


def nal_units(data: bytes) -> list[bytes]:
    """Split a byte stream into its NAL units, without start codes of three or four bytes.

    Args:
        data: Any bytes; what is before the first start code is left out, and so are empty units.
    """
    return [data[start:end] for start, end in _spans(data)]


def is_keyframe(access_unit: bytes) -> bool:
    """Tell whether a decoder can begin here: it is an IDR picture.

    Args:
        access_unit: Any bytes; False if there is no slice in it.
    """
    return any(kind == IDR for kind, _ in _up_to_first_slice(access_unit))


def is_open_keyframe(access_unit: bytes) -> bool:
    """Tell whether a decoder can begin here although it is no IDR picture.

    That is a picture of I slices behind a recovery point with recovery_frame_cnt 0 (section D.2.8), as encoders with
    open GOPs make. Decoders show it well, but many that find a loss wait for an IDR picture.

    Args:
        access_unit: Any bytes.
    """
    recovers = False
    types: list[int | None] = []
    for kind, at in _starts(access_unit):
        if kind == SEI:
            recovers = recovers or _recovers_at_once(access_unit, at)
        elif kind == SLICE:
            types.append(_slice_type(access_unit, at))
    return recovers and bool(types) and all(kind in {2, 4} for kind in types)


def has_b_slice(access_unit: bytes) -> bool:
    """Tell whether a picture is predicted from two others, and so comes in another order than it is shown.

    Args:
        access_unit: Any bytes; a slice that cannot be read is none.
    """
    return any(kind in {SLICE, _PARTITION_A} and _slice_type(access_unit, at) == 1 for kind, at in _starts(access_unit))


def parameter_sets(extradata: bytes) -> tuple[bytes, ...]:
    """The sequence and picture parameter sets, in their order, of what stands beside a stream.

    Args:
        extradata: Annex B, or an AVCDecoderConfigurationRecord (avcC, ISO/IEC 14496-15 section 5.3.3.1). Of anything
            else, and of a record that breaks off, as much as can be read.

    Returns:
        NAL units without start code.
    """
    nals = _read_avcc(extradata) if extradata[:1] == b"\x01" else nal_units(extradata)
    return tuple(nal for nal in nals if nal[0] & 0x1F in {SPS, PPS})


def with_parameter_sets(access_unit: bytes, sets: tuple[bytes, ...]) -> bytes:
    """Put the parameter sets before an IDR picture that does not bring its own (RFC 6184 section 8.4).

    Args:
        access_unit: One picture. Any other than an IDR picture, and one that has both sets, is returned as it is.
        sets: What `parameter_sets` returned. They come before those in the picture, which thereby prevail.
    """
    starts = list(_up_to_first_slice(access_unit))
    kinds = {kind for kind, _ in starts}
    if not sets or IDR not in kinds or kinds >= {SPS, PPS}:
        return access_unit
    at = 0
    first, offset = starts[0]
    if first == AUD:
        at = access_unit.index(_START_CODE, offset)
        at -= access_unit[at - 1] == 0
    inserted = b"".join([_LONG_START_CODE + nal for nal in sets])
    return access_unit[:at] + inserted + access_unit[at:]


def packetize(access_unit: bytes) -> list[Payload]:
    """Make the RTP payloads of a picture: packetization mode 1 of RFC 6184, the very bytes that aiortc 1.16 makes.

    NAL units are sent alone, several small ones in one packet (STAP-A, section 5.7.1), or a large one in fragments of
    nearly equal size (FU-A, section 5.8).

    Args:
        access_unit: Any bytes; there are as many payloads as the NAL units in them need, maybe none.

    Returns:
        Payloads of 1300 bytes at most, in the order in which they are sent.
    """
    payloads: list[Payload] = []
    gathered: list[tuple[int, int]] = []
    room = _AGGREGATE_MAX
    for start, end in _spans(access_unit):
        size = end - start
        if gathered and (size > room or len(gathered) == _AGGREGATE_COUNT):
            payloads.append(_aggregate(access_unit, gathered))
            gathered, room = [], _AGGREGATE_MAX
        if size > _PAYLOAD_MAX:
            payloads += _fragments(access_unit, start, end)
        elif size > _AGGREGATE_MAX:
            payloads.append((b"", start, end))
        else:
            gathered.append((start, end))
            room -= size + 2
    if gathered:
        payloads.append(_aggregate(access_unit, gathered))
    return payloads


def parse_sps(nal: bytes) -> Sps | None:
    """Read a sequence parameter set.

    Args:
        nal: A NAL unit without start code; any bytes.

    Returns:
        What it says; None if it is no sequence parameter set, or says what cannot be.
    """
    if len(nal) < 4 or nal[0] & 0x1F != SPS:
        return None
    try:
        return _read_sps(nal[1], nal[2], nal[3], _Bits(_rbsp(nal[4:_SPS_BYTES])))
    except _MalformedError:
        return None


def _spans(data: bytes) -> list[tuple[int, int]]:
    """Where the NAL units that are not empty begin and end; for those who do not need each as bytes of its own."""
    starts = [match.end() for match in _START.finditer(data)]
    spans: list[tuple[int, int]] = []
    for start, following in pairwise([*starts, len(data) + 3]):
        end = following - 3
        # The first of the four bytes that a start code may have is no part of the unit before.
        if following <= len(data) and data[end - 1] == 0:
            end -= 1
        if end > start:
            spans.append((start, end))
    return spans


def _starts(data: bytes) -> Iterator[tuple[int, int]]:
    """Type and offset of each NAL unit that is not empty, one by one: the first tells most."""
    for match in _START.finditer(data):
        at = match.end()
        if at < len(data) and not data.startswith((_START_CODE, _LONG_START_CODE), at):
            yield data[at] & 0x1F, at


def _up_to_first_slice(access_unit: bytes) -> Iterator[tuple[int, int]]:
    """As `_starts`, but no further than the first slice, which says what picture it is: the rest is long."""
    for kind, at in _starts(access_unit):
        yield kind, at
        if SLICE <= kind <= IDR:
            return


def _rbsp(data: bytes) -> bytes:
    """Without the bytes that keep start codes from appearing (section 7.4.1)."""
    return data.replace(b"\x00\x00\x03", b"\x00\x00")


def _slice_type(access_unit: bytes, at: int) -> int | None:
    """0 P, 1 B, 2 I, 3 SP, 4 SI, of the slice whose NAL unit begins there; None if it cannot be read."""
    bits = _Bits(_rbsp(access_unit[at + 1 : at + 1 + _SLICE_HEADER_BYTES]))
    try:
        bits.ue()  # first_mb_in_slice
        kind = bits.ue()
    except _MalformedError:
        return None
    return kind % 5 if kind < 10 else None


def _recovers_at_once(access_unit: bytes, at: int) -> bool:
    """Whether the SEI whose NAL unit begins there has a recovery point with recovery_frame_cnt 0."""
    data = _rbsp(access_unit[at + 1 : at + 1 + _SEI_BYTES].partition(_START_CODE)[0])
    at = 0
    while at < len(data):
        kind, at = _sei_number(data, at)
        size, at = _sei_number(data, at)
        if kind == 6:
            return bool(_byte(data, at) & 0x80)  # recovery_frame_cnt; ue(v) 0 is one bit
        at += size
    return False


def _sei_number(data: bytes, at: int) -> tuple[int, int]:
    """Payload type or size: 255 for each 0xFF and the byte behind them (section 7.3.2.3.1); and where it ends."""
    number = 0
    while _byte(data, at) == 0xFF:
        number += 0xFF
        at += 1
    return number + _byte(data, at), at + 1


def _byte(data: bytes, at: int) -> int:
    """The byte there; 0 behind the end."""
    return data[at] if at < len(data) else 0


def _read_avcc(record: bytes) -> list[bytes]:
    nals: list[bytes] = []
    at = 5
    for mask in (0x1F, 0xFF):  # the number of sequence parameter sets has five bits
        count = _byte(record, at) & mask
        at += 1
        for _ in range(count):
            size = int.from_bytes(record[at : at + 2], "big")
            nal = record[at + 2 : at + 2 + size]
            if not nal or len(nal) < size:
                return nals
            nals.append(nal)
            at += 2 + size
    return nals


def _aggregate(data: bytes, spans: list[tuple[int, int]]) -> Payload:
    if len(spans) == 1:
        return (b"", *spans[0])
    nals = [data[start:end] for start, end in spans]
    forbidden, importance = (max(nal[0] & bits for nal in nals) for bits in (0x80, 0x60))
    head = bytes([forbidden | importance | _STAP_A])
    return b"".join([head, *(len(nal).to_bytes(2, "big") + nal for nal in nals)]), 0, 0


def _fragments(data: bytes, start: int, end: int) -> list[Payload]:
    rest = end - start - 1  # the header of the NAL unit is not sent itself
    count = -(-rest // _FRAGMENT_MAX)
    size, larger = divmod(rest, count)
    indicator, kind = data[start] & 0xE0 | _FU_A, data[start] & 0x1F
    middle = bytes([indicator, kind])
    step = size + 1
    first, turn, last = start + 1 + (step if larger else size), start + 1 + larger * step, end - size
    fragments: list[Payload] = [(bytes([indicator, kind | 0x80]), start + 1, first)]
    fragments += [(middle, at, at + step) for at in range(first, turn, step)]
    # From the turn on, fragments are one byte smaller.
    fragments += [(middle, at, at + size) for at in range(max(first, turn), last, size)]
    fragments.append((bytes([indicator, kind | 0x40]), last, end))
    return fragments


def _read_sps(profile: int, constraints: int, level: int, bits: _Bits) -> Sps:
    bits.ue()  # seq_parameter_set_id
    chroma, depth = _read_chroma(bits) if profile in _HIGH_PROFILES else (1, 8)
    bits.ue()  # log2_max_frame_num_minus4
    order = _read_picture_order(bits)
    bits.ue()  # max_num_ref_frames
    bits.read(1)  # gaps_in_frame_num_value_allowed_flag
    columns, rows = bits.ue() + 1, bits.ue() + 1
    interlaced = not bits.read(1)
    bits.read(1 + interlaced)  # mb_adaptive_frame_field_flag if they may be fields, direct_8x8_inference_flag
    if columns > _SIDE_MAX or rows > _SIDE_MAX:
        raise _MalformedError
    left, right, top, bottom = [bits.ue() for _ in range(4)] if bits.read(1) else (0, 0, 0, 0)
    height_factor = 2 if interlaced else 1
    width = 16 * columns - (left + right) * (2 if chroma in {1, 2} else 1)
    height = (16 * rows - (top + bottom) * (2 if chroma == 1 else 1)) * height_factor
    if width <= 0 or height <= 0:
        raise _MalformedError
    reorder = _read_reorder_frames(bits) if bits.read(1) else None
    # Output order is decoding order with picture order count type 2; baseline has no B slices; see section E.2.1.
    in_order = order == 2 or profile == 66 or (profile in _NO_REORDER_WITH_CONSTRAINT_3 and constraints & 0x10)
    return Sps(
        profile=profile,
        constraints=constraints,
        level=level,
        width=width,
        height=height,
        interlaced=interlaced,
        chroma_format=chroma,
        bit_depth=depth,
        reorder_frames=0 if in_order else reorder,
    )


def _read_chroma(bits: _Bits) -> tuple[int, int]:
    """chroma_format_idc and the larger bit depth."""
    chroma = bits.ue()
    if chroma > 3:
        raise _MalformedError
    if chroma == 3:
        bits.read(1)  # separate_colour_plane_flag
    depth = 8 + max(bits.ue(), bits.ue())
    if depth > 14:
        raise _MalformedError
    bits.read(1)  # qpprime_y_zero_transform_bypass_flag
    if bits.read(1):  # scaling lists
        for number in range(8 if chroma != 3 else 12):
            if bits.read(1):
                _skip_scaling_list(bits, 16 if number < 6 else 64)
    return chroma, depth


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    scale = 8
    for _ in range(size):
        scale = (scale + bits.se()) & 0xFF
        if scale == 0:  # the rest of the list repeats
            return


def _read_picture_order(bits: _Bits) -> int:
    """pic_order_cnt_type."""
    kind = bits.ue()
    if kind == 0:
        bits.ue()  # log2_max_pic_order_cnt_lsb_minus4
    elif kind == 1:
        bits.read(1)  # delta_pic_order_always_zero_flag
        bits.se()  # offset_for_non_ref_pic
        bits.se()  # offset_for_top_to_bottom_field
        count = bits.ue()
        if count > 255:
            raise _MalformedError
        for _ in range(count):
            bits.se()
    elif kind != 2:
        raise _MalformedError
    return kind


def _read_reorder_frames(bits: _Bits) -> int | None:
    """max_num_reorder_frames of the VUI (Annex E.1.1); None if it has none or breaks off, as some cameras' do."""
    try:
        if bits.read(1) and bits.read(8) == 255:  # aspect ratio, Extended_SAR
            bits.read(32)
        if bits.read(1):  # overscan
            bits.read(1)
        if bits.read(1):  # video signal type, colour description
            bits.read(4)
            if bits.read(1):
                bits.read(24)
        if bits.read(1):  # chroma sample location
            bits.ue()
            bits.ue()
        if bits.read(1):  # timing
            bits.read(65)
        hrds = [bits.read(1) and _skip_hrd(bits) for _ in ("NAL", "VCL")]
        if any(hrds):
            bits.read(1)  # low_delay_hrd_flag
        bits.read(1)  # pic_struct_present_flag
        if not bits.read(1):  # bitstream_restriction_flag
            return None
        bits.read(1)  # motion_vectors_over_pic_boundaries_flag
        for _ in range(4):  # max_bytes_per_pic_denom, max_bits_per_mb_denom, log2_max_mv_length_horizontal, _vertical
            bits.ue()
        return bits.ue()
    except _MalformedError:
        return None


def _skip_hrd(bits: _Bits) -> int:
    """Skip hrd_parameters (section E.1.2); returns how many there were."""
    count = bits.ue() + 1
    if count > 32:
        raise _MalformedError
    bits.read(8)  # bit_rate_scale, cpb_size_scale
    for _ in range(count):
        bits.ue()
        bits.ue()
        bits.read(1)
    bits.read(20)
    return count
