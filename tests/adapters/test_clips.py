"""Clips of every kind: each is opened and its packets decode to what was filmed, or it is refused and told why."""

from __future__ import annotations

from itertools import islice, pairwise

import pytest

from deepio_adapters.decoding import PictureDecoder
from deepio_adapters.media import SourcePacket
from deepio_adapters.sources import SourceError, parse_source
from deepio_adapters.test_pattern import read_counter
from deepio_core.media import h264
from deepio_core.media.choice import choose
from deepio_core.media.far import FarVideo
from deepio_core.media.options import VideoOptions
from tests.clips import CLIPS, build

PLAYED = [name for name, clip in CLIPS.items() if clip.fate != "refused"]
REFUSED = [name for name, clip in CLIPS.items() if clip.fate == "refused"]


@pytest.mark.parametrize("name", PLAYED)
def test_the_packets_of_a_clip_decode_to_what_was_filmed(name: str) -> None:
    clip = CLIPS[name]
    source = parse_source(build(name))
    info = source.open()
    assert info.stream is not None
    assert (info.codec, info.stream.codec) == (clip.codec, clip.codec)
    assert (info.width, info.height) == clip.size
    decoder = PictureDecoder(info.stream)
    packets = [packet for packet in source.packets() if isinstance(packet, SourcePacket)]
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.flush()
    seen = tuple(read_counter(frame.to_bgr()) for frame in frames)
    if clip.broken:
        assert 3 < len(seen) < len(clip.counters)
        assert seen[:-1] == clip.counters[: len(seen) - 1]
    else:
        assert seen == clip.counters
    assert {(frame.width, frame.height) for frame in frames} == {clip.size}
    assert frames[0].pts == 0.0
    assert all(b.pts > a.pts and b.captured_at > a.captured_at for a, b in pairwise(frames))
    assert packets[0].keyframe
    assert decoder.errors == 0


@pytest.mark.parametrize("name", [name for name in PLAYED if CLIPS[name].codec == "h264"])
def test_h264_comes_as_it_is_sent(name: str) -> None:
    source = parse_source(build(name))
    stream = source.open().stream
    assert stream is not None
    sets = h264.parameter_sets(stream.extradata)
    assert [nal[0] & 0x1F for nal in sets] == [h264.SPS, h264.PPS]
    b_slices = False
    for packet in islice(source.packets(), len(CLIPS[name].counters)):
        assert isinstance(packet, SourcePacket)
        kinds = [nal[0] & 0x1F for nal in h264.nal_units(packet.data)]
        assert (h264.IDR in kinds) == packet.keyframe
        assert not packet.keyframe or {h264.SPS, h264.PPS} < set(kinds)
        b_slices = b_slices or h264.has_b_slice(packet.data)
        assert packet.stream is stream
    source.close()
    profiles = {"baseline": 66, "main": 77, "high,": 100, "4:4:4": 244}
    assert next((number for word, number in profiles.items() if word in name), None) in {None, stream.profile}
    assert stream.b_frames is b_slices is ("B-frames" in name)
    assert stream.interlaced is ("interlaced" in name)
    assert (stream.rotation != 0) is ("rotated" in name)
    assert stream.keyframe_size is not None
    assert (stream.keyframe_size > 140_000) is ("large" in name)


@pytest.mark.parametrize("name", PLAYED)
def test_the_fate_of_a_clip_follows_from_what_is_found_in_it(name: str) -> None:
    clip = CLIPS[name]
    source = parse_source(build(name))
    stream = source.open().stream
    source.close()
    assert stream is not None
    far = FarVideo(codec="VP8" if clip.codec == "vp8" else "H264", lenient=True)
    choice = choose(stream, far, VideoOptions())
    assert choice.copy is (clip.fate == "copy"), choice.reason


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_played_is_refused_when_it_is_opened(name: str) -> None:
    source = parse_source(build(name))
    with pytest.raises(SourceError) as caught:
        source.open()
    assert CLIPS[name].words in caught.value.message
    assert caught.value.remedy
    assert source.close()
