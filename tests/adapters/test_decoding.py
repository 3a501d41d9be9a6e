"""Decoding of packets, independent of their source."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from deepio_adapters.decoding import PictureDecoder
from deepio_adapters.media import SourcePacket
from deepio_adapters.sources import SourceFrame, parse_source
from deepio_adapters.test_pattern import read_counter
from tests.clips import build
from tests.media import make_clip


def packets_of(path: Path) -> list[SourcePacket]:
    source = parse_source(path)
    source.open()
    return [packet for packet in source.packets() if isinstance(packet, SourcePacket)]


def counters(frames: list[SourceFrame]) -> list[int | None]:
    return [read_counter(frame.to_bgr()) for frame in frames]


def test_pictures_carry_the_times_of_their_packets_when_they_come_in_another_order() -> None:
    packets = packets_of(build("H.264 with B-frames, AVCC"))
    assert any(b.pts < a.pts for a, b in pairwise(packets)), "the clip is no test"
    decoder = PictureDecoder(packets[0].stream)
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.flush()
    times = sorted((packet.pts, packet.captured_at) for packet in packets)
    assert [(frame.pts, frame.captured_at) for frame in frames] == times
    assert [frame.picture.pts for frame in frames] == [round(pts * 90_000) for pts, _ in times]
    assert decoder.pictures == len(packets)


def test_pictures_without_times_of_their_own_are_spaced_evenly() -> None:
    packets = packets_of(build("H.264 with B-frames, Annex B"))
    assert all(b.pts > a.pts for a, b in pairwise(packets)), "the clip is no test"
    decoder = PictureDecoder(packets[0].stream)
    frames = [frame for packet in packets for frame in decoder.decode(packet)] + decoder.flush()
    steps = [b.pts - a.pts for a, b in pairwise(frames)]
    assert min(steps) > 0.039
    assert max(steps) < 0.081


def test_damaged_packets_are_counted_and_skipped() -> None:
    packets = packets_of(build("MJPEG"))
    decoder = PictureDecoder(packets[0].stream)
    broken = [replace(packet, data=b"\0" * 100) for packet in packets[:3]]
    frames = [frame for packet in [*broken, *packets[3:5], broken[0]] for frame in decoder.decode(packet)]
    assert counters(frames) == [3, 4]
    assert (decoder.errors, decoder.errors_in_a_row) == (4, 1)
    assert [frame for packet in packets[5:6] for frame in decoder.decode(packet)] != []
    assert (decoder.errors, decoder.errors_in_a_row) == (4, 0)


def test_a_stream_that_changes_is_decoded_on() -> None:
    small, large = packets_of(build("H.264 with B-frames, AVCC")), packets_of(build("VP8 of odd width with sound"))
    decoder = PictureDecoder(small[0].stream)
    frames: list[SourceFrame] = []
    for number, packet in enumerate([*small, *large]):
        frames += decoder.decode(replace(packet, pts=number / 100, captured_at=number / 100))
    assert counters(frames) == [*range(12), *range(12)]
    assert [frame.width for frame in frames] == [160] * 12 + [161] * 12


def test_what_is_learnt_of_a_stream_does_not_break_its_decoding_off() -> None:
    packets = packets_of(build("H.264 main, AVCC"))
    decoder = PictureDecoder(packets[0].stream)
    told = replace(packets[0].stream, keyframe_size=1, gop=2.0, b_frames=True)
    frames = [
        frame for packet in packets for frame in decoder.decode(replace(packet, stream=told) if packet.pts else packet)
    ]
    assert counters(frames) == list(range(12))


def test_decoding_begins_at_a_keyframe_after_a_flush() -> None:
    packets = packets_of(build("H.264 main, AVCC"))
    decoder = PictureDecoder(packets[0].stream)
    first = [frame for packet in packets[:3] for frame in decoder.decode(packet)]
    decoder.flush()
    keyframe = next(number for number, packet in enumerate(packets) if number and packet.keyframe)
    after = [frame for packet in packets[keyframe:] for frame in decoder.decode(packet)]
    assert counters(first + after) == [0, 1, 2, *range(keyframe, 12)]
    assert all(b.pts > a.pts for a, b in pairwise(first + after))


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_pictures_are_turned_upright(degrees: int) -> None:
    packets = packets_of(build(f"H.264 rotated by {degrees}"))
    stream = packets[0].stream
    assert stream.rotation == degrees
    turned = PictureDecoder(stream).decode(packets[0])[0].to_bgr()
    lying = (
        PictureDecoder(replace(stream, rotation=0))
        .decode(replace(packets[0], stream=replace(stream, rotation=0)))[0]
        .to_bgr()
    )
    assert np.abs(np.rot90(lying, -degrees // 90).astype(int) - turned).mean() < 2


def test_a_picture_of_another_size_within_a_stream_is_turned_too(tmp_path: Path) -> None:
    large = packets_of(make_clip(tmp_path / "large.avi", codec="mjpeg", pix_fmt="yuvj420p", frames=1, size=(320, 240)))
    small = packets_of(build("MJPEG"))
    stream = replace(small[0].stream, rotation=90)
    decoder = PictureDecoder(stream)
    frames = [
        f for packet in (small[0], large[0]) for f in decoder.decode(replace(packet, stream=stream, pts=packet.pts))
    ]
    assert [(frame.width, frame.height) for frame in frames] == [(120, 160), (240, 320)]


def test_small_pictures_take_no_threads() -> None:
    packets = packets_of(build("H.264 main, AVCC"))
    before = len(os.listdir("/proc/self/task"))
    decoders = [PictureDecoder(packets[0].stream) for _ in range(3)]
    for decoder in decoders:
        decoder.decode(packets[0])
    assert len(os.listdir("/proc/self/task")) <= before
    large = PictureDecoder(replace(packets[0].stream, width=3840, height=2160))
    large.decode(replace(packets[0], stream=replace(packets[0].stream, width=3840, height=2160)))
    assert len(os.listdir("/proc/self/task")) > before
