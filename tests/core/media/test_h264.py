"""H.264 bitstreams: what x264 and cameras write, what the syntax allows, and what is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from deepio_core.media.h264 import (
    AUD,
    IDR,
    PPS,
    SEI,
    SLICE,
    SPS,
    Sps,
    has_b_slice,
    is_keyframe,
    is_open_keyframe,
    nal_units,
    packetize,
    parameter_sets,
    parse_sps,
    with_parameter_sets,
)
from deepio_core.media.rtp import payload_of

START = b"\0\0\1"
LONG = b"\0\0\0\1"


class BitWriter:
    """The other direction of Annex 9.1, to make what is read."""

    def __init__(self) -> None:
        self.bits = ""

    def u(self, count: int, value: int) -> None:
        self.bits += f"{value:0{count}b}" if count else ""

    def ue(self, value: int) -> None:
        code = f"{value + 1:b}"
        self.bits += "0" * (len(code) - 1) + code

    def se(self, value: int) -> None:
        self.ue(2 * value - 1 if value > 0 else -2 * value)

    def nal(self, *head: int) -> bytes:
        """With the stop bit, and emulation prevention."""
        bits = self.bits + "1"
        bits += "0" * (-len(bits) % 8)
        out = bytearray()
        zeros = 0
        for byte in int(bits, 2).to_bytes(len(bits) // 8, "big"):
            if zeros >= 2 and byte <= 3:
                out.append(3)
                zeros = 0
            out.append(byte)
            zeros = 0 if byte else zeros + 1
        return bytes(head) + bytes(out)


def slice_nal(slice_type: int, *, kind: int = SLICE, first: int = 0, importance: int = 0x60) -> bytes:
    bits = BitWriter()
    bits.ue(first)
    bits.ue(slice_type)
    bits.u(24, 0xABCDEF)
    return bits.nal(importance | kind)


def sei(*messages: tuple[int, bytes]) -> bytes:
    data = bytes([SEI])
    for kind, payload in messages:
        for number in (kind, len(payload)):
            data += b"\xff" * (number // 255) + bytes([number % 255])
        data += payload
    return data + b"\x80"


def stream(*nals: bytes, start: bytes = LONG) -> bytes:
    return b"".join(start + nal for nal in nals)


A_SPS = bytes.fromhex("6742c01fda014016e840000003004000000c83c60ca8")
A_PPS = bytes.fromhex("68ce3c80")
RECOVERS = sei((6, b"\xc4"))  # recovery_frame_cnt 0, exact match
I_SLICE, P_SLICE, B_SLICE = (slice_nal(kind) for kind in (7, 5, 6))
IDR_SLICE = slice_nal(7, kind=IDR)


# --- Sequence parameter sets -----------------------------------------------------------------------------------

# Written by x264, and by the encoder of a camera; sizes and profiles are those that FFmpeg reads out of them.
REAL = {
    "baseline": (
        "6742c01fda014016e840000003004000000c83c60ca8",
        {"profile": 66, "constraints": 0xC0, "level": 31, "width": 1280, "height": 720, "reorder_frames": 0},
    ),
    "main without B-frames": (
        "674d401fda014016ec0440000003004000000c83c60ca8",
        {"profile": 77, "constraints": 0x40, "level": 31, "width": 1280, "height": 720, "reorder_frames": 0},
    ),
    "main with B-frames": (
        "674d400deca0a0fd080000030008000003019078a14cb0",
        {"profile": 77, "constraints": 0x40, "level": 13, "width": 320, "height": 240, "reorder_frames": 2},
    ),
    "high, cropped to 1080 rows": (
        "67640028acb200f0044fcb080000030008000003019078c19240",
        {"profile": 100, "level": 40, "width": 1920, "height": 1080, "reorder_frames": 0},
    ),
    "interlaced": (
        "6764001eacd940b424d08000000300800000190f8a14cb",
        {"profile": 100, "level": 30, "width": 720, "height": 576, "reorder_frames": 2, "interlaced": True},
    ),
    "high 4:2:2 with 10 bits": (
        "677a000db6cb40a0fd080000030008000003019078a155",
        {
            "profile": 122, "level": 13, "width": 320, "height": 240,
            "chroma_format": 2, "bit_depth": 10, "reorder_frames": 0,
        },
    ),
    "high 4:4:4, cropped in both directions": (
        "67f4000d919b282a10f1f1f0800000030080000019078a14cb",
        {"profile": 244, "level": 13, "width": 322, "height": 242, "chroma_format": 3, "reorder_frames": 2},
    ),
    "monochrome": (
        "6764000df3650507e840000003004000000c83c50a6580",
        {"profile": 100, "level": 13, "width": 320, "height": 240, "chroma_format": 0, "reorder_frames": 2},
    ),
    "with aspect ratio, colours and a hypothetical reference decoder": (
        "6764001eacb201405ff2e1d6e0204054a000000300200000064c08001e848003d09c98600f162e48",
        {"profile": 100, "level": 30, "width": 640, "height": 360, "reorder_frames": 0},
    ),
}  # fmt: skip
ORDINARY: dict[str, Any] = {"constraints": 0, "interlaced": False, "chroma_format": 1, "bit_depth": 8}


@pytest.mark.parametrize("name", REAL)
def test_reads_real_parameter_sets(name: str) -> None:
    text, facts = REAL[name]
    assert parse_sps(bytes.fromhex(text)) == Sps(**(ORDINARY | facts))


@pytest.mark.parametrize("name", REAL)
def test_real_parameter_sets_that_break_off_are_none_or_say_less(name: str) -> None:
    text, facts = REAL[name]
    nal = bytes.fromhex(text)
    whole = Sps(**(ORDINARY | facts))
    for size in range(len(nal)):
        read = parse_sps(nal[:size])
        assert read is None or (read.width, read.height, read.interlaced) == (
            whole.width,
            whole.height,
            whole.interlaced,
        )
        assert read is None or read.reorder_frames in {whole.reorder_frames, None}


FLAG = st.integers(0, 1)
HIGH = [44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244]


@st.composite
def written_sps(draw: st.DrawFn) -> tuple[bytes, dict[str, Any]]:
    """A sequence parameter set with anything that the syntax allows, and what it says."""
    bits = BitWriter()
    profile = draw(st.sampled_from([66, 77, 88, *HIGH]))
    constraints, level = draw(st.integers(0, 255)), draw(st.integers(0, 255))
    bits.ue(draw(st.integers(0, 31)))
    chroma, depth = draw(write_chroma(bits)) if profile in HIGH else (1, 8)
    bits.ue(draw(st.integers(0, 12)))
    order = draw(write_picture_order(bits))
    bits.ue(draw(st.integers(0, 16)))
    bits.u(1, draw(FLAG))
    columns, rows, progressive = draw(st.integers(2, 300)), draw(st.integers(2, 300)), draw(FLAG)
    bits.ue(columns - 1)
    bits.ue(rows - 1)
    bits.u(1, progressive)
    if not progressive:
        bits.u(1, draw(FLAG))
    bits.u(1, draw(FLAG))
    crops = draw(st.one_of(st.none(), st.lists(st.integers(0, 7), min_size=4, max_size=4)))
    bits.u(1, crops is not None)
    for crop in crops or []:
        bits.ue(crop)
    left, right, top, bottom = crops or [0, 0, 0, 0]
    across = 2 if chroma in {1, 2} else 1
    down = (2 if chroma == 1 else 1) * (2 - progressive)
    vui = draw(FLAG)
    bits.u(1, vui)
    reorder = draw(write_vui(bits)) if vui else None
    if order == 2 or profile == 66 or (profile in {44, 86, 100, 110, 122, 244} and constraints & 0x10):
        reorder = 0
    return bits.nal(draw(st.sampled_from([0x27, 0x47, 0x67])), profile, constraints, level), {
        "profile": profile,
        "constraints": constraints,
        "level": level,
        "width": 16 * columns - across * (left + right),
        "height": 16 * rows * (2 - progressive) - down * (top + bottom),
        "interlaced": not progressive,
        "chroma_format": chroma,
        "bit_depth": depth,
        "reorder_frames": reorder,
    }


@st.composite
def write_chroma(draw: st.DrawFn, bits: BitWriter) -> tuple[int, int]:
    chroma = draw(st.integers(0, 3))
    luma_depth, chroma_depth = draw(st.integers(8, 14)), draw(st.integers(8, 14))
    bits.ue(chroma)
    if chroma == 3:
        bits.u(1, draw(FLAG))
    bits.ue(luma_depth - 8)
    bits.ue(chroma_depth - 8)
    bits.u(1, draw(FLAG))
    scaled = draw(FLAG)
    bits.u(1, scaled)
    for number in range((12 if chroma == 3 else 8) if scaled else 0):
        present = draw(FLAG)
        bits.u(1, present)
        scale, size = 8, 16 if number < 6 else 64
        ends = draw(st.integers(0, size))  # at this coefficient the scale becomes 0; at none if it is the size
        for place in range(size if present else 0):
            wanted = 0 if place == ends else draw(st.integers(1, 255)) if place < 3 else 1 + place % 250
            bits.se((wanted - scale + 128) % 256 - 128)
            scale = wanted
            if scale == 0:
                break
    return chroma, max(luma_depth, chroma_depth)


@st.composite
def write_picture_order(draw: st.DrawFn, bits: BitWriter) -> int:
    kind = draw(st.integers(0, 2))
    bits.ue(kind)
    if kind == 0:
        bits.ue(draw(st.integers(0, 12)))
    elif kind == 1:
        offsets = draw(st.lists(st.integers(-(1 << 30), 1 << 30), max_size=5))
        bits.u(1, draw(FLAG))
        bits.se(draw(st.integers(-9, 9)))
        bits.se(draw(st.integers(-9, 9)))
        bits.ue(len(offsets))
        for offset in offsets:
            bits.se(offset)
    return kind


@st.composite
def write_vui(draw: st.DrawFn, bits: BitWriter) -> int | None:
    def flag() -> int:
        value = draw(FLAG)
        bits.u(1, value)
        return value

    if flag():
        ratio = draw(st.sampled_from([1, 14, 255]))
        bits.u(8, ratio)
        bits.u(32 if ratio == 255 else 0, 0x00040003)
    if flag():
        flag()
    if flag():
        bits.u(4, 0b1010)
        if flag():
            bits.u(24, 0x010101)
    if flag():
        bits.ue(draw(st.integers(0, 5)))
        bits.ue(draw(st.integers(0, 5)))
    if flag():
        bits.u(32, 1)
        bits.u(32, 50)
        flag()
    buffers = 0
    for _ in ("NAL", "VCL"):
        if flag():
            buffers += 1
            count = draw(st.integers(1, 4))
            bits.ue(count - 1)
            bits.u(8, 0x12)
            for _ in range(count):
                bits.ue(draw(st.integers(0, 1 << 31)))
                bits.ue(7)
                flag()
            bits.u(20, 0xABCDE)
    if buffers:
        flag()
    flag()
    if not flag():
        return None
    flag()
    for _ in range(4):
        bits.ue(draw(st.integers(0, 16)))
    reorder = draw(st.integers(0, 16))
    bits.ue(reorder)
    bits.ue(16)
    return reorder


def test_reads_everything_at_once() -> None:
    bits = BitWriter()
    for number in (0, 3):
        bits.ue(number)
    bits.u(1, 1)  # separate colour planes
    bits.ue(2)
    bits.ue(1)
    bits.u(2, 0b01)  # scaling lists: one is left out, the others end early, or not at all
    for number in range(12):
        bits.u(1, int(number != 0))
        for place in range((16 if number < 6 else 64) if number % 2 else 0):
            bits.se(place % 2 * 2 - 1)
        if number and number % 2 == 0:
            bits.se(-8)
    bits.ue(0)
    bits.ue(1)  # picture order count type
    bits.u(1, 0)
    for offset in (-1, 1):
        bits.se(offset)
    bits.ue(2)
    for offset in (5, -5):
        bits.se(offset)
    bits.ue(4)
    bits.u(1, 0)
    for number in (19, 8):
        bits.ue(number)
    bits.u(4, 0b0011)  # fields, but not for each macroblock; direct 8x8 inference; cropping
    for number in (1, 2, 3, 4):
        bits.ue(number)
    bits.u(2, 0b11)  # VUI: aspect ratio
    bits.u(8, 255)
    bits.u(32, 0x00040003)
    bits.u(8, 0b10110100)  # overscan; video signal type without colours
    bits.u(1, 1)  # chroma location
    bits.ue(1)
    bits.ue(2)
    bits.u(1, 0)  # no timing
    bits.u(2, 0b01)  # no buffers of NAL units, but of slices
    bits.ue(0)
    bits.u(8, 0x44)
    bits.ue(99)
    bits.ue(98)
    bits.u(21, 0)
    bits.u(4, 0b0011)
    for number in (2, 1, 16, 16, 3, 4):
        bits.ue(number)
    assert parse_sps(bits.nal(0x67, 244, 0, 42)) == Sps(
        profile=244,
        constraints=0,
        level=42,
        width=317,
        height=274,
        interlaced=True,
        chroma_format=3,
        bit_depth=10,
        reorder_frames=3,
    )


@given(written_sps())
def test_reads_whatever_the_syntax_allows(written: tuple[bytes, dict[str, Any]]) -> None:
    nal, facts = written
    assert parse_sps(nal) == Sps(**facts)


@given(written_sps(), st.data())
def test_no_damage_raises(written: tuple[bytes, dict[str, Any]], data: st.DataObject) -> None:
    nal = bytearray(written[0])
    at = data.draw(st.integers(1, len(nal) - 1))
    nal[at] = data.draw(st.integers(0, 255))
    for sps in (parse_sps(bytes(nal)), parse_sps(bytes(nal[:at]))):
        assert sps is None or (sps.width > 0 and sps.height > 0)


@given(st.binary(max_size=80))
@example(b"\x67")
@example(b"\x67\x42\xc0\x1f")
@example(b"\x67\x64\x00\x1f" + b"\0" * 5000)
def test_any_bytes_are_a_parameter_set_or_none(data: bytes) -> None:
    for nal in (data, bytes([0x67, 100, 0, 31]) + data, bytes([0x67, 66, 0, 31]) + data):
        sps = parse_sps(nal)
        assert sps is None or (sps.width > 0 and sps.height > 0)
    assume(data)
    assert data[0] & 0x1F == SPS or parse_sps(data) is None


def high_sps(**facts: Any) -> bytes:
    bits = BitWriter()
    bits.bits = high_sps_bits(**facts)
    return bits.nal(0x67, 100, 0, 31)


def high_sps_bits(
    *, chroma: int = 1, depth: int = 8, order: tuple[int, ...] = (2,), size: int = 20, crop: int = 0
) -> str:
    bits = BitWriter()
    bits.ue(0)
    bits.ue(chroma)
    bits.ue(depth - 8)
    bits.ue(depth - 8)
    bits.u(2, 0)
    bits.ue(0)
    for number in order:
        bits.ue(number)
    bits.ue(1)
    bits.u(1, 0)
    bits.ue(size - 1)
    bits.ue(size - 1)
    bits.u(2, 3)
    bits.u(1, 1 if crop else 0)
    for _ in range(4 if crop else 0):
        bits.ue(crop)
    bits.u(1, 0)
    return bits.bits


@pytest.mark.parametrize(
    "impossible",
    [{"chroma": 4}, {"depth": 15}, {"order": (3,)}, {"size": 1056}, {"crop": 80}],
    ids=lambda impossible: next(iter(impossible)),
)
def test_what_cannot_be_is_none(impossible: dict[str, Any]) -> None:
    assert parse_sps(high_sps()) is not None
    assert parse_sps(high_sps(**impossible)) is None


def test_more_picture_order_offsets_than_allowed_are_none() -> None:
    bits = BitWriter()
    for number in (0, 0, 1):
        bits.ue(number)
    bits.u(1, 0)
    for number in (0, 0, 256):
        bits.ue(number)
    bits.u(4000, 0)
    assert parse_sps(bits.nal(0x67, 66, 0, 31)) is None


def test_a_vui_need_not_restrict_anything() -> None:
    bits = BitWriter()
    for number in (0, 0, 0, 0, 1):
        bits.ue(number)
    bits.u(1, 0)
    bits.ue(19)
    bits.ue(14)
    bits.u(4, 0b1101)  # progressive, direct 8x8 inference, no cropping, VUI
    bits.u(4, 0)
    bits.u(1, 1)  # timing
    for number in (1, 50):
        bits.u(32, number)
    bits.u(5, 0b10000)
    sps = parse_sps(bits.nal(0x67, 77, 0, 31))
    assert sps is not None
    assert (sps.width, sps.height, sps.reorder_frames) == (320, 240, None)


def test_a_number_of_more_than_32_bits_is_none() -> None:
    for zeros in (31, 32):
        bits = BitWriter()
        bits.bits = "0" * zeros + "1" + "0" * zeros + high_sps_bits()[1:]
        assert (parse_sps(bits.nal(0x67, 100, 0, 31)) is None) == (zeros == 32)


def test_a_hypothetical_reference_decoder_with_too_many_buffers_is_not_read() -> None:
    bits = BitWriter()
    for number in (0, 0, 0, 0, 1):
        bits.ue(number)
    bits.u(1, 0)
    bits.ue(19)
    bits.ue(14)
    bits.u(4, 0b1101)  # progressive, direct 8x8 inference, no cropping, VUI
    bits.u(6, 0b000001)  # nothing but the buffers of NAL units
    bits.ue(32)
    bits.u(4000, (1 << 4000) - 1)
    sps = parse_sps(bits.nal(0x67, 77, 0, 31))
    assert sps is not None
    assert (sps.width, sps.height, sps.reorder_frames) == (320, 240, None)


# --- NAL units -------------------------------------------------------------------------------------------------


def test_splits_at_start_codes_of_three_and_four_bytes() -> None:
    assert nal_units(b"\0" + LONG + A_SPS + START + A_PPS + LONG + IDR_SLICE) == [A_SPS, A_PPS, IDR_SLICE]
    assert nal_units(b"garbage") == []
    assert nal_units(START) == []
    assert nal_units(START + LONG + b"a" + START + b"b\0") == [b"a", b"b\0"]


PIECES = st.lists(st.sampled_from([b"\0", b"\1", START, LONG, b"\x65", b"\x09", b"\x06\x06\xff", b"\xff"]), max_size=40)


@given(PIECES.map(b"".join))
def test_units_hold_no_start_code_and_everything_else_is_there(data: bytes) -> None:
    units = nal_units(data)
    assert all(unit and START not in unit for unit in units)
    rest = data
    for unit in units:
        assert START in rest
        before, _, rest = rest.partition(START + unit)
        assert not before.strip(b"\0\1") or unit is units[0]
    # The other readers agree on where units are.
    assert is_keyframe(data) == (next((u[0] & 31 for u in units if 1 <= u[0] & 31 <= 5), 0) == IDR)


@given(st.binary(max_size=300) | PIECES.map(b"".join), st.lists(st.binary(min_size=1, max_size=9)).map(tuple))
def test_no_bytes_raise(data: bytes, sets: tuple[bytes, ...]) -> None:
    is_keyframe(data)
    is_open_keyframe(data)
    has_b_slice(data)
    assert with_parameter_sets(data, sets).endswith(data[-1:])
    assert all(nal[0] & 0x1F in {SPS, PPS} for nal in parameter_sets(data) + parameter_sets(b"\1" + data))
    assert all(0 < len(payload) <= 1300 for payload in payloads_of(data))


# --- Kinds of pictures -----------------------------------------------------------------------------------------


def test_an_idr_picture_is_a_keyframe() -> None:
    aud = bytes([AUD, 0x10])
    assert is_keyframe(stream(aud, A_SPS, A_PPS, sei((5, b"x" * 700)), IDR_SLICE, IDR_SLICE))
    assert is_keyframe(stream(IDR_SLICE, start=START))
    assert not is_keyframe(stream(aud, P_SLICE))
    assert not is_keyframe(stream(RECOVERS, I_SLICE))
    assert not is_keyframe(stream(A_SPS, A_PPS))
    # The first slice tells; what comes behind it is another picture, if anything.
    assert not is_keyframe(stream(P_SLICE, IDR_SLICE))
    assert not is_keyframe(b"")
    # Units without a byte are none.
    assert is_keyframe(START + LONG + START + IDR_SLICE)
    assert not is_keyframe(START)


def test_i_slices_behind_a_recovery_point_are_an_open_keyframe() -> None:
    assert is_open_keyframe(stream(RECOVERS, I_SLICE))
    assert is_open_keyframe(stream(bytes([AUD, 0x10]), A_SPS, A_PPS, RECOVERS, slice_nal(2), slice_nal(9), start=START))
    # Other messages before, in one unit or several, long ones too.
    assert is_open_keyframe(stream(sei((0, b"\x80"), (300, b"\xff" * 600), (6, b"\x80")), I_SLICE))
    assert is_open_keyframe(stream(sei((5, b"x" * 255)), RECOVERS, I_SLICE))
    assert is_open_keyframe(stream(RECOVERS, sei((5, b"x")), I_SLICE))


@pytest.mark.parametrize(
    "nals",
    [
        [I_SLICE],
        [RECOVERS],
        [RECOVERS, P_SLICE],
        [RECOVERS, I_SLICE, P_SLICE],
        [RECOVERS, IDR_SLICE],
        [sei((6, b"\x44")), I_SLICE],  # it takes frames to recover: intra refresh
        [sei((1, b"\x80")), I_SLICE],
        [sei((5, b"\x06\x01\x80")), I_SLICE],  # inside of another message
        [bytes([SEI]), I_SLICE],
        [bytes([SEI, 6]), I_SLICE],
        [bytes([SEI]) + b"\xff" * 5000 + b"\x06\x01\x80", I_SLICE],
        [RECOVERS, bytes([SLICE])],
        [RECOVERS, slice_nal(11)],
    ],
)
def test_everything_else_is_no_open_keyframe(nals: list[bytes]) -> None:
    assert not is_open_keyframe(stream(*nals))


@pytest.mark.parametrize("first", [0, 1, 3599, 139_263])
@pytest.mark.parametrize("kind", [SLICE, 2])
def test_b_slices_are_seen_wherever_they_are(first: int, kind: int) -> None:
    for slice_type in range(10):
        later = slice_nal(slice_type, kind=kind, first=first)
        assert has_b_slice(stream(A_SPS, P_SLICE, later)) == (slice_type in {1, 6})
    assert not has_b_slice(stream(P_SLICE, slice_nal(11)))
    assert not has_b_slice(stream(bytes([kind]), bytes([kind]) + b"\0\0\0"[:2]))


# --- Parameter sets beside the stream --------------------------------------------------------------------------


def avcc(sps: list[bytes], pps: list[bytes]) -> bytes:
    record = b"\1\x42\xc0\x1f\xff"
    for flags, sets in ((0xE0, sps), (0, pps)):
        record += bytes([flags | len(sets)])
        record += b"".join(len(nal).to_bytes(2, "big") + nal for nal in sets)
    return record


def test_parameter_sets_are_read_from_both_forms() -> None:
    assert parameter_sets(stream(bytes([AUD]), A_SPS, sei((5, b"x")), A_PPS)) == (A_SPS, A_PPS)
    assert parameter_sets(avcc([A_SPS], [A_PPS, A_PPS + b"x"])) == (A_SPS, A_PPS, A_PPS + b"x")
    # Behind the sets of high profiles more follows.
    assert parameter_sets(avcc([A_SPS], [A_PPS]) + b"\xfd\xf8\xf8\0") == (A_SPS, A_PPS)
    assert parameter_sets(b"") == parameter_sets(b"\1") == parameter_sets(b"garbage") == ()


def test_a_record_that_breaks_off_gives_what_is_whole() -> None:
    record = avcc([A_SPS], [A_PPS])
    assert parameter_sets(record[:-1]) == (A_SPS,)
    assert parameter_sets(record[:20]) == ()
    assert parameter_sets(avcc([b""], [A_PPS])) == ()
    for size in range(len(record)):
        assert (A_SPS, A_PPS)[: len(parameter_sets(record[:size]))] == parameter_sets(record[:size])


def test_parameter_sets_go_before_an_idr_picture() -> None:
    sets = (A_SPS, A_PPS)
    bare = stream(IDR_SLICE, IDR_SLICE)
    assert with_parameter_sets(bare, sets) == stream(A_SPS, A_PPS, IDR_SLICE, IDR_SLICE)
    # Not before a delimiter, which comes first.
    aud, message = bytes([AUD, 0x10]), sei((5, b"x"))
    for start in (START, LONG):
        delimited = stream(aud, message, IDR_SLICE, start=start)
        assert with_parameter_sets(delimited, sets) == start + aud + stream(*sets) + stream(
            message, IDR_SLICE, start=start
        )
    # Half of them is not enough.
    assert nal_units(with_parameter_sets(stream(A_SPS, IDR_SLICE), sets)) == [A_SPS, A_PPS, A_SPS, IDR_SLICE]


@pytest.mark.parametrize(
    "nals", [[A_SPS, A_PPS, IDR_SLICE], [P_SLICE], [RECOVERS, I_SLICE], [A_SPS, A_PPS], [], [bytes([AUD])]]
)
def test_other_pictures_stay_as_they_are(nals: list[bytes]) -> None:
    assert with_parameter_sets(stream(*nals), (A_SPS, A_PPS)) == stream(*nals)


def test_without_parameter_sets_a_picture_stays_as_it_is() -> None:
    assert with_parameter_sets(stream(IDR_SLICE), ()) == stream(IDR_SLICE)


# --- RTP payloads (held against aiortc's in tests/adapters/test_packetizing.py) ---------------------------------


def payloads_of(access_unit: bytes) -> list[bytes]:
    return [payload_of(access_unit, payload) for payload in packetize(access_unit)]


def test_small_units_share_a_payload() -> None:
    assert payloads_of(stream(A_SPS)) == [A_SPS]
    shared = b"\x78" + b"".join(len(nal).to_bytes(2, "big") + nal for nal in (A_SPS, A_PPS))
    assert payloads_of(stream(A_SPS, A_PPS)) == [shared]
    # At most nine; the most important bit pattern and the forbidden bit of any is that of all.
    small = [bytes([0x01, number]) for number in range(10)]
    assert [payload[0] for payload in payloads_of(stream(*small))] == [0x18, 0x01]
    assert payloads_of(stream(b"\x01a", b"\xe1b"))[0][0] == 0xF8


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ([1297], [1297]),
        ([1298], [1298]),
        ([1300], [1300]),
        ([1301], [652, 652]),
        ([600, 693], [1298]),
        ([600, 695], [1300]),
        ([600, 696], [600, 696]),
        ([10, 1298, 10], [10, 1298, 10]),
        ([2597], [1300, 1300]),
        ([2598], [868, 868, 867]),
        ([2600], [869, 868, 868]),
        ([10, 5000, 10, 10], [10, 1252, 1252, 1252, 1251, 25]),
    ],
)
def test_payloads_are_filled_up_to_the_limit(sizes: list[int], lengths: list[int]) -> None:
    payloads = payloads_of(stream(*[b"\x65" + b"x" * (size - 1) for size in sizes]))
    assert [len(payload) for payload in payloads] == lengths


def test_fragments_say_where_they_belong() -> None:
    nal = b"\x65" + bytes(range(1, 251)) * 16
    payloads = payloads_of(stream(nal))
    assert [payload[:2] for payload in payloads] == [b"\x7c\x85", b"\x7c\x05", b"\x7c\x05", b"\x7c\x45"]
    assert b"".join(payload[2:] for payload in payloads) == nal[1:]
