"""RTP packets are the very bytes that aiortc makes: its own code is asked, for whatever a source may hold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import pytest
from aiortc import clock, rtp
from aiortc.codecs.h264 import H264Encoder, h264_depayload
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.rtcrtpparameters import RTCRtpHeaderExtensionParameters, RTCRtpParameters
from av.bitstream import BitStreamFilterContext
from av.packet import Packet
from hypothesis import example, given
from hypothesis import strategies as st

from deepio_core.media import h264, vp8
from deepio_core.media.rtp import HeaderTemplate, abs_send_time, ntp_time, payload_of, rtx_payload
from tests.media import make_clip

if TYPE_CHECKING:
    from pathlib import Path

MID = "urn:ietf:params:rtp-hdrext:sdes:mid"
STAMP = "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time"


def packed(encoder: H264Encoder | Vp8Encoder, data: bytes) -> list[bytes]:
    """What aiortc makes of data that a track hands over."""
    packet = Packet(data)
    packet.pts, packet.time_base = 0, Fraction(1, 90_000)
    return encoder.pack(packet)[0]


def our_h264(access_unit: bytes) -> list[bytes]:
    return [payload_of(access_unit, payload) for payload in h264.packetize(access_unit)]


def our_vp8(frame: bytes, picture_id: int) -> list[bytes]:
    return [payload_of(frame, payload) for payload in vp8.packetize(frame, picture_id)]


def ours_and_theirs(access_unit: bytes) -> tuple[list[bytes], list[bytes]]:
    return our_h264(access_unit), packed(H264Encoder(), access_unit)


START_CODES = st.sampled_from([b"\0\0\1", b"\0\0\0\1", b"\0\0\0\0\1"])
# Sizes around every limit: what fits beside others, alone, or not at all; one fragment more; much.
SIZES = st.one_of(
    st.integers(1, 40),
    st.integers(1280, 1310),
    st.integers(2590, 2610),
    st.integers(1, 20_000),
)


@st.composite
def nals(draw: st.DrawFn) -> bytes:
    """Something behind a start code, of the size of a unit, some with zeros where they hurt."""
    size = draw(SIZES)
    body = draw(st.sampled_from([b"\xaa", b"\x01", b"\0\0\3", b"\xff\0"])) * size
    return draw(st.binary(min_size=1, max_size=1)) + body[: size - 1]


@st.composite
def access_units(draw: st.DrawFn) -> bytes:
    units = draw(st.lists(st.tuples(START_CODES, nals()), max_size=14))
    return draw(st.sampled_from([b"", b"x", b"\0"])) + b"".join(code + nal for code, nal in units)


@given(access_units())
def test_h264_payloads_are_those_of_aiortc(access_unit: bytes) -> None:
    ours, theirs = ours_and_theirs(access_unit)
    assert ours == theirs


@given(st.lists(st.sampled_from([b"\0", b"\1", b"\0\0\1", b"\x65", b"\xe7", b"y" * 700]), max_size=30).map(b"".join))
@example(b"\0\0\1" + b"\x65" * 1298)
@example(b"\0\0\1" + b"\x65" * 1301)
def test_h264_payloads_are_those_of_aiortc_wherever_aiortc_has_any(access_unit: bytes) -> None:
    ours = our_h264(access_unit)
    try:
        theirs = packed(H264Encoder(), access_unit)
    except IndexError:
        # It cannot take empty units: those are left out.
        theirs = H264Encoder._packetize(filter(None, H264Encoder._split_bitstream(access_unit)))
    assert ours == theirs


@pytest.mark.parametrize("slices", [1, 4])
def test_a_clip_in_h264_arrives_at_aiortc_as_it_is(tmp_path: Path, slices: int) -> None:
    options = {"preset": "ultrafast", "slices": str(slices), "aud": "1"}
    clip = make_clip(tmp_path / "clip.mp4", frames=14, size=(640, 480), bit_rate=4_000_000, options=options)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        annex_b = BitStreamFilterContext("h264_mp4toannexb", stream)
        access_units = [bytes(out) for packet in container.demux(stream) for out in annex_b.filter(packet) if out.size]
    assert len(access_units) == 14
    count = 0
    for access_unit in access_units:
        ours, theirs = ours_and_theirs(access_unit)
        assert ours == theirs
        # What aiortc's receiver puts together are the same units.
        received = b"".join(map(h264_depayload, ours))
        assert h264.nal_units(received) == h264.nal_units(access_unit)
        count += len(ours)
    assert count > 2 * len(access_units)


@given(
    frame=st.one_of(st.binary(max_size=64), st.integers(0, 6000).map(lambda size: b"\x5a" * size)),
    picture_id=st.integers(0, 0x7FFF),
)
@example(frame=b"v" * 1296, picture_id=0)
@example(frame=b"v" * 1297, picture_id=0x7FFF)
def test_vp8_payloads_are_those_of_aiortc(frame: bytes, picture_id: int) -> None:
    encoder = Vp8Encoder()
    encoder.picture_id = picture_id
    assert our_vp8(frame, picture_id) == packed(encoder, frame)
    # The next one has the next number, around the end of its 15 bits.
    assert our_vp8(frame, picture_id + 1) == packed(encoder, frame)


@given(
    payload_type=st.integers(0, 127),
    ssrc=st.integers(0, 0xFFFF_FFFF),
    mid=st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)),
    mid_id=st.one_of(st.none(), st.integers(1, 255)),
    stamp_id=st.one_of(st.none(), st.integers(1, 255)),
    sequence_number=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFF_FFFF),
    stamp=st.integers(0, 0xFF_FFFF),
    count=st.integers(1, 5),
)
@example(payload_type=99, ssrc=1, mid="0", mid_id=1, stamp_id=2, sequence_number=0xFFFE, timestamp=7, stamp=9, count=4)
def test_headers_are_those_of_aiortc(
    payload_type: int,
    ssrc: int,
    mid: str | None,
    mid_id: int | None,
    stamp_id: int | None,
    sequence_number: int,
    timestamp: int,
    stamp: int,
    count: int,
) -> None:
    agreed = [(MID, mid_id), (STAMP, stamp_id)]
    extensions = rtp.HeaderExtensionsMap()
    extensions.configure(
        RTCRtpParameters(
            headerExtensions=[RTCRtpHeaderExtensionParameters(id=i, uri=uri) for uri, i in agreed if i is not None]
        )
    )
    template = HeaderTemplate(payload_type=payload_type, ssrc=ssrc, mid=mid, mid_id=mid_id, abs_send_time_id=stamp_id)
    headers = template.headers(count, sequence_number, timestamp, stamp)
    for number, header in enumerate(headers):
        packet = rtp.RtpPacket(
            payload_type=payload_type,
            marker=int(number == count - 1),
            sequence_number=(sequence_number + number) & 0xFFFF,
            timestamp=timestamp,
            ssrc=ssrc,
        )
        packet.extensions.mid = mid
        packet.extensions.abs_send_time = stamp
        assert header == packet.serialize(extensions)
        assert len(header) == template.size
        assert header == template.header(
            sequence_number + number, timestamp, marker=number == count - 1, abs_send_time=stamp
        )


@given(number=st.integers(0, 0xFFFF), payload=st.binary(max_size=30))
def test_retransmissions_are_those_of_aiortc(number: int, payload: bytes) -> None:
    packet = rtp.RtpPacket(sequence_number=number, payload=payload)
    assert rtx_payload(number, payload) == rtp.wrap_rtx(packet, 97, 5, 6).payload


# Until the seconds since 1900 no longer fit into 32 bits, early in 2036, where aiortc ends.
@given(st.integers(0, 2_085_900_000_000_000))
def test_times_are_those_of_aiortc(microseconds: int) -> None:
    now = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    theirs = clock.datetime_to_ntp(now)
    ours = ntp_time(microseconds / 1_000_000)
    assert abs(ours - theirs) <= 3 * (1 << 32) / 1_000_000  # aiortc cuts microseconds off
    assert abs(abs_send_time(microseconds / 1_000_000) - ((theirs >> 14) & 0xFF_FFFF)) in {0, 1, 0xFF_FFFF}
