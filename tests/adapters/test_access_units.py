"""What is read out of packets, whatever container they come from."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deepio_adapters.access_units import MAX_SOUND, AccessUnitReader, same_decoding, scan
from deepio_adapters.source_urls import SourceError
from deepio_adapters.sources import parse_source
from deepio_core.media import h264
from deepio_core.media.stream import StreamFormat
from tests.clips import build
from tests.rtsp_server import access_units


@dataclass
class Packet:
    """A packet as PyAV's, as far as it matters."""

    data: bytes
    pts: int | None = 0
    dts: int | None = None
    is_keyframe: bool = False
    stream_index: int = 0

    def __bytes__(self) -> bytes:
        return bytes(bytearray(self.data))  # a copy, as PyAV makes it


class Tape:
    """A demuxer that plays packets; an exception among them is raised."""

    container = "tape"
    live = True
    has_clock = True

    def __init__(self, packets: Sequence[Packet | Exception], codec: str = "h264", extradata: bytes = b"") -> None:
        self.packets = list(packets)
        context = SimpleNamespace(
            codec=SimpleNamespace(canonical_name=codec),
            extradata=extradata,
            width=0,
            height=0,
            pix_fmt=None,
            has_b_frames=False,
        )
        self.video = SimpleNamespace(
            index=0, codec_context=context, time_base=Fraction(1, 25), average_rate=None, guessed_rate=None
        )

    def read(self) -> Packet | None:
        packet = self.packets.pop(0) if self.packets else None
        if isinstance(packet, Exception):
            raise packet
        return packet


def reader(packets: Sequence[Packet | Exception], **tape: Any) -> AccessUnitReader:
    return AccessUnitReader(cast(Any, Tape(packets, **tape)))


def read_all(units: AccessUnitReader) -> list[Any]:
    read: list[Any] = []
    while (unit := units.read()) is not None:
        read.append(unit)
    return read


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    """Twelve pictures of one slice, two of them IDR pictures with parameter sets."""
    return access_units(build("H.264 main, AVCC"))


@pytest.fixture(scope="module")
def with_b_frames() -> list[bytes]:
    return access_units(build("H.264 with B-frames, AVCC"))


def test_order_tells_of_b_frames_in_any_codec() -> None:
    units = reader([Packet(b"x", pts=pts) for pts in (0, 3, 1, 2)], codec="mpeg4")
    assert [unit.stream.b_frames for unit in read_all(units)] == [None, None, True, True]


def test_a_clock_that_is_set_back_is_no_b_frame() -> None:
    units = reader([Packet(b"x", pts=pts) for pts in (1000, 1001, 1, 2)], codec="mpeg4")
    assert [unit.stream.b_frames for unit in read_all(units)] == [None] * 4


def test_slices_tell_of_b_frames_where_times_do_not(with_b_frames: list[bytes]) -> None:
    first = next(n for n, unit in enumerate(with_b_frames) if h264.has_b_slice(unit))
    # Without the reordering that the parameter sets announce: an encoder that says nothing of it.
    units = reader([Packet(unit, pts=None) for unit in with_b_frames])
    assert [unit.stream.b_frames for unit in read_all(units)][first - 1 : first + 1] == [None, True]


def test_pictures_without_times_have_none(pictures: list[bytes]) -> None:
    units = read_all(reader([Packet(unit, pts=None) for unit in pictures]))
    assert {(unit.decoded_at, unit.shown_after) for unit in units} == {(None, 0.0)}
    assert [unit.keyframe for unit in units] == [h264.is_keyframe(unit) for unit in pictures]


def test_a_picture_is_shown_some_time_after_it_is_decoded() -> None:
    units = read_all(reader([Packet(b"x", pts=2, dts=0), Packet(b"x", pts=5, dts=1)], codec="mpeg4"))
    assert [(unit.decoded_at, unit.shown_after) for unit in units] == [(0.0, 0.08), (0.04, pytest.approx(0.16))]


def test_parameter_sets_from_beside_the_stream_come_before_every_idr_picture(pictures: list[bytes]) -> None:
    sets = b"".join(b"\0\0\0\1" + nal for nal in h264.parameter_sets(pictures[0]))
    bare = [
        b"".join(b"\0\0\0\1" + nal for nal in h264.nal_units(unit) if nal[0] & 0x1F in {h264.SLICE, h264.IDR})
        for unit in pictures
    ]
    units = reader([Packet(unit, pts=n) for n, unit in enumerate(bare)], extradata=sets)
    before = units.stream
    assert (before.width, before.height, before.profile) == (160, 120, 77)
    read = read_all(units)
    assert [unit.data for unit in read] == [sets + unit if h264.is_keyframe(unit) else unit for unit in bare]
    assert all(unit.stream is before for unit in read)


def test_a_keyframe_in_several_packets_is_one_picture(pictures: list[bytes]) -> None:
    keyframe, other = pictures[0], pictures[1]
    slice_ = next(nal for nal in h264.nal_units(keyframe) if nal[0] & 0x1F == h264.IDR)
    later = slice_[:1] + bytes([slice_[1] & 0x7F]) + slice_[2:]  # of another macroblock than the first
    sets = b"".join(b"\0\0\0\1" + nal for nal in h264.parameter_sets(keyframe))
    part = Packet(sets + b"\0\0\1" + later, pts=0, is_keyframe=True)
    sequence = [Packet(keyframe, pts=None), part, part, Packet(other, pts=1), Packet(other, pts=2)]
    sequence += [Packet(keyframe, pts=3), part, part, Packet(keyframe, pts=4), Packet(other, pts=5)]
    tape = Tape(sequence)
    units = AccessUnitReader(cast(Any, tape))
    whole = keyframe + (b"\0\0\1" + later) * 2
    first = units.read()
    assert first is not None
    assert (first.data, first.decoded_at) == (whole, 0.0)
    assert [units.read(), units.read()] != [None, None]
    left = len(tape.packets)
    second = units.read()
    assert second is not None
    assert second.data == whole
    assert left - len(tape.packets) == 3, "the next packet is not waited for"
    assert [unit.data for unit in read_all(units)] == [keyframe, other]


def test_a_scan_tells_what_it_has_seen_before_a_fault(pictures: list[bytes]) -> None:
    packets = [Packet(unit, pts=n) for n, unit in enumerate(pictures[:4])]
    stream, facts = scan(reader([*packets, SourceError("It broke off.")]))
    assert facts["keyframe_size"] == stream.keyframe_size == len(pictures[0])
    assert facts["gop"] == pytest.approx(4 / 25)
    assert facts["frame_rate"] == 25.0
    with pytest.raises(SourceError, match="broke off"):
        scan(reader([SourceError("It broke off.")]))


def test_a_scan_keeps_nothing_of_what_it_has_read() -> None:
    picture, count = bytes(100_000), 64
    units = reader([Packet(picture, pts=n) for n in range(count)], codec="vp8")
    tracemalloc.start()
    try:
        scan(units)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 5 * len(picture)


def test_a_scan_of_what_tells_no_time_counts(pictures: list[bytes]) -> None:
    _, facts = scan(reader([Packet(unit, pts=None) for unit in pictures]))
    assert facts["gop"] == pytest.approx(6 / 25)


def test_an_opening_keeps_the_format_of_the_one_before_if_it_is_the_same(pictures: list[bytes]) -> None:
    sets = b"".join(b"\0\0\0\1" + nal for nal in h264.parameter_sets(pictures[0]))
    one = reader([], extradata=sets).stream
    again = AccessUnitReader(cast(Any, Tape([], extradata=sets)), known=one)
    other = AccessUnitReader(cast(Any, Tape([], codec="vp8")), known=one)
    assert again.stream is one
    assert other.stream is not one
    assert (other.stream.codec, other.stream.b_frames) == ("vp8", False)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"gop": 2.0}, True),
        ({"b_frames": True}, True),
        ({"codec": "vp8"}, False),
        ({"width": 8}, False),
        ({"extradata": b"x"}, False),
        ({"rotation": 90}, False),
    ],
)
def test_a_decoder_goes_on_unless_what_it_needs_has_changed(change: dict[str, Any], same: bool) -> None:
    facts: dict[str, Any] = {"codec": "h264", "width": 4, "height": 4}
    assert same_decoding(StreamFormat(**facts), StreamFormat(**{**facts, **change})) is same


def test_sound_of_pictures_that_stand_still_is_bounded() -> None:
    sound = [Packet(b"s", pts=number, stream_index=1) for number in range(MAX_SOUND + 3)]
    units = reader([*sound, Packet(b"x")], codec="mjpeg")
    (unit,) = read_all(units)
    assert [packet.pts for packet in unit.sound] == list(range(3, MAX_SOUND + 3))
    assert units.sound_dropped == 3


def test_sound_travels_with_the_next_picture() -> None:
    sound = Packet(b"s", stream_index=1)
    units = reader([sound, sound, Packet(b"x"), Packet(b"x", pts=1), sound], codec="mjpeg")
    assert [len(unit.sound) for unit in read_all(units)] == [2, 0]
    assert len(units.sound) == 1


def test_the_clips_are_what_they_are_called() -> None:
    """Large keyframes, and an invisible frame: as the tests of others rely on."""
    source = parse_source(build("VP8 with an invisible frame"))
    source.open()
    hidden = [packet for packet in source.packets() if not getattr(packet, "data", b"\xff")[0] & 0x10]
    assert len(hidden) == 1
