"""What the core reads out of bitstreams is what FFmpeg reads out of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import pytest
from av.bitstream import BitStreamFilterContext
from av.video.frame import PictureType

from deepio_core.media import h264, vp8
from tests.media import make_clip

if TYPE_CHECKING:
    from pathlib import Path

CLIPS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "cropped": {"size": (322, 242)},
    "B-frames": {"b_frames": 2, "options": {"preset": "veryfast"}},
    "B-frames in open GOPs": {"b_frames": 1, "options": {"preset": "veryfast", "x264-params": "open-gop=1"}},
    "slices": {"options": {"preset": "veryfast", "slices": "4"}},
    "4:2:2": {"pix_fmt": "yuv422p"},
    "10 bits": {"pix_fmt": "yuv420p10le"},
    "interlaced": {"options": {"preset": "veryfast", "x264-params": "interlaced=1"}},
}


@pytest.mark.parametrize("name", CLIPS)
def test_h264_as_ffmpeg_reads_it(tmp_path: Path, name: str) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=20, gop=6, **CLIPS[name])
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        annex_b = BitStreamFilterContext("h264_mp4toannexb", stream)
        sets = h264.parameter_sets(context.extradata or b"")
        sps = h264.parse_sps(sets[0])
        assert sps is not None
        pixels = context.format
        assert pixels is not None
        assert (sps.width, sps.height) == (context.width, context.height)
        assert sps.bit_depth == pixels.components[0].bits
        assert sps.chroma_format == (2 if context.pix_fmt == "yuv422p" else 1)
        assert sps.interlaced == (name == "interlaced")
        assert (sps.reorder_frames != 0) == context.has_b_frames
        access_units: dict[int, bytes] = {}
        types: dict[int, int] = {}
        keyframes: dict[int, bool] = {}
        for packet in container.demux(stream):
            types |= {frame.pts or 0: frame.pict_type for frame in packet.decode()}
            if packet.size:
                pts, keyframe = packet.pts or 0, packet.is_keyframe  # the filter takes them away
                keyframes[pts] = keyframe
                access_units[pts] = b"".join(map(bytes, annex_b.filter(packet)))
    assert len(access_units) == len(types) == 20
    for pts, access_unit in access_units.items():
        assert h264.has_b_slice(access_unit) == (types[pts] == PictureType.B)
        assert (h264.is_keyframe(access_unit) or h264.is_open_keyframe(access_unit)) == (types[pts] == PictureType.I)
        # The container tells of IDR pictures, and in open GOPs of the others too.
        assert not h264.is_keyframe(access_unit) or keyframes[pts]
    assert sum(map(h264.is_keyframe, access_units.values())) == (1 if "open" in name else 4)
    assert sum(map(h264.has_b_slice, access_units.values())) > 0 or "B-frames" not in name


def test_an_idr_picture_decodes_with_the_parameter_sets_before_it(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=1)
    with av.open(str(clip)) as container:
        stream = container.streams.video[0]
        sets = h264.parameter_sets(stream.codec_context.extradata or b"")
        data = next(bytes(packet) for packet in container.demux(stream))
    units = []
    while data:
        size = int.from_bytes(data[:4], "big")
        units.append(data[4 : 4 + size])
        data = data[4 + size :]
    bare = b"".join(b"\0\0\1" + unit for unit in units if unit[0] & 0x1F not in {h264.SPS, h264.PPS})
    decoder = av.CodecContext.create("h264", "r")
    frames = decoder.decode(av.Packet(h264.with_parameter_sets(bare, sets))) + decoder.decode(None)
    assert [(frame.width, frame.height) for frame in frames] == [(320, 240)]


def test_vp8_as_ffmpeg_reads_it(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.webm", codec="libvpx", frames=14, gop=6, size=(322, 241))
    with av.open(str(clip)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        assert sum(packet.is_keyframe for packet in packets) > 1
        for packet in packets:
            assert vp8.is_keyframe(bytes(packet)) == packet.is_keyframe
            assert vp8.frame_size(bytes(packet)) == ((322, 241) if packet.is_keyframe else None)
