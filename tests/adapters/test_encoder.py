"""The video encoder: real x264 and libvpx, decoded again and compared with what went in."""

from __future__ import annotations

import functools
import logging
import math
import threading
from collections.abc import Iterable
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.error import FFmpegError
from av.video.reformatter import ColorRange

from deepio_adapters import encoder_settings
from deepio_adapters.encoder import EncoderError, VideoEncoder, encoded_size
from deepio_adapters.encoder_settings import EncoderKind, PictureShape, encoder_kinds, open_encoder
from deepio_adapters.media import EncodedFrame
from deepio_adapters.sources import SourceFrame, stamp
from deepio_core.media import h264
from deepio_core.media.levels import PictureLimits
from deepio_core.media.options import VideoOptions

RATE = 25
CODECS = ("H264", "VP8")


@functools.lru_cache
def image(number: int, width: int = 320, height: int = 240, *, noise: int = 0) -> np.ndarray:
    """A smooth picture that moves, with noise if it is to be hard to encode."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [128 + 100 * np.sin((x + 3 * number) / 40), 128 + 100 * np.cos((y + 2 * number) / 30), (x + y) / 4 % 256]
    picture = np.stack(planes, axis=2)
    if noise:
        picture = picture + np.random.default_rng(number).integers(-noise, noise + 1, (height, width, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


def frame(number: int, *, pts: float | None = None, pixels: str = "yuv420p", **kwargs: int) -> SourceFrame:
    picture = av.VideoFrame.from_ndarray(image(number, **kwargs), format="bgr24")
    seconds = number / RATE if pts is None else pts
    return stamp(picture if pixels == "bgr24" else picture.reformat(format=pixels), seconds, 100 + seconds)


def encode(
    encoder: VideoEncoder, frames: Iterable[SourceFrame], *, keyframes: Iterable[int] = ()
) -> list[EncodedFrame]:
    encoded = [encoder.encode(each, keyframe=number in keyframes) for number, each in enumerate(frames)]
    return [each for each in encoded if each is not None]


def decode(codec: str, encoded: Iterable[EncodedFrame]) -> list[av.VideoFrame]:
    decoder: Any = av.CodecContext.create({"H264": "h264", "VP8": "vp8"}[codec], "r")
    pictures = [picture for each in encoded for picture in decoder.decode(av.Packet(each.data))]
    return pictures + decoder.decode(None)


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return 10 * math.log10(255**2 / max(1e-9, float(np.mean((one.astype(float) - other.astype(float)) ** 2))))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("pixels", ["yuv420p", "nv12", "bgr24", "yuv422p"])
def test_what_is_decoded_looks_like_what_was_encoded_picture_by_picture(codec, pixels):
    encoder = VideoEncoder(codec, VideoOptions(), frame_rate=RATE)
    assert encoder.name is None
    encoded = encode(encoder, [frame(number, pixels=pixels) for number in range(8)])
    assert encoder.name == {"H264": "libx264", "VP8": "libvpx"}[codec]
    pictures = decode(codec, encoded)
    assert len(pictures) == len(encoded) == encoder.encoded == 8
    for number, picture in enumerate(pictures):
        assert psnr(picture.to_ndarray(format="bgr24"), image(number)) > 30
    assert [each.keyframe for each in encoded] == [True] + 7 * [False]
    assert [each.pts for each in encoded] == pytest.approx([number / RATE for number in range(8)])
    assert [each.captured_at - each.pts for each in encoded] == pytest.approx(8 * [100])
    assert [each.interval for each in encoded] == pytest.approx(8 * [1 / RATE])
    assert not any(each.copied for each in encoded)
    encoder.close()


@pytest.mark.parametrize("codec", CODECS)
def test_a_keyframe_comes_when_asked_and_when_it_is_time_and_the_type_that_a_picture_had_does_not_matter(codec):
    frames = [frame(number) for number in range(40)]
    for each in frames[::3]:
        each.picture.pict_type = 1  # as it came out of a decoder
    for each in frames[1::3]:
        each.picture.pict_type = 3
    encoder = VideoEncoder(codec, VideoOptions(keyframe_interval=1.0), frame_rate=RATE)
    encoded = encode(encoder, frames, keyframes=[7])
    assert [number for number, each in enumerate(encoded) if each.keyframe] == [0, 7, 32]
    assert len(decode(codec, encoded[7:])) == 33, "decoding can begin there"


def test_h264_is_constrained_baseline_with_parameter_sets_before_each_keyframe():
    encoded = encode(VideoEncoder("H264", VideoOptions()), [frame(number) for number in range(4)], keyframes=[2])
    for each in encoded:
        kinds = [unit[0] & 31 for unit in h264.nal_units(each.data)]
        assert h264.is_keyframe(each.data) is each.keyframe
        assert ({7, 8, 5} <= set(kinds)) is each.keyframe
        if each.keyframe:
            profile, constraints = h264.nal_units(each.data)[kinds.index(7)][1:3]
            assert (profile, constraints & 0x40) == (66, 0x40)


@pytest.mark.parametrize(("codec", "noise"), [("H264", 60), ("VP8", 60), ("VP8", 20)])
def test_no_keyframe_is_larger_than_the_far_side_holds(codec, noise):
    options = VideoOptions(bitrate=3_000_000, max_bitrate=4_000_000, max_keyframe=30_000, keyframe_interval=0.2)
    encoded = encode(VideoEncoder(codec, options), [frame(n, width=640, height=480, noise=noise) for n in range(12)])
    sizes = [len(each.data) for each in encoded if each.keyframe]
    assert len(sizes) == 3
    assert 3_000 < max(sizes) < 30_000


def rate_of(encoded: list[EncodedFrame]) -> float:
    return sum(len(each.data) for each in encoded) * 8 / (len(encoded) / RATE)


@pytest.mark.parametrize(("codec", "keyframes"), [("H264", [0]), ("VP8", [0, 50])])
def test_the_bitrate_is_followed_while_it_runs(codec, keyframes):
    encoder = VideoEncoder(codec, VideoOptions(bitrate=1_000_000, keyframe_interval=60), frame_rate=RATE)
    pictures = [frame(number, noise=25).picture for number in range(25)]

    def frames(numbers: range) -> Iterable[SourceFrame]:
        for number in numbers:
            yield stamp(pictures[number % 25], number / RATE, 0)

    before = encode(encoder, frames(range(50)))
    encoder.bitrate = 400_000
    assert encoder.bitrate == 400_000
    after = encode(encoder, frames(range(50, 125)))
    assert rate_of(before[25:]) == pytest.approx(1_000_000, rel=0.25)
    assert rate_of(after[50:]) == pytest.approx(400_000, rel=0.25)
    assert [number for number, each in enumerate(before + after) if each.keyframe] == keyframes
    assert len(decode(codec, before + after)) == 125


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize(("announced", "rate"), [(25, 25), (25, 10), (10, 25), (None, 5)])
def test_the_bitrate_does_not_hang_on_how_many_pictures_there_are(codec, announced, rate):
    """Cameras announce rates that they do not keep, and a machine that is busy leaves pictures out."""
    encoder = VideoEncoder(codec, VideoOptions(bitrate=600_000, keyframe_interval=60), frame_rate=announced)
    frames = [frame(number % 40, pts=number / rate, noise=20) for number in range(3 * rate + 30)]
    encoded = encode(encoder, frames, keyframes={30})
    settled = encoded[31 + rate :]
    bits = sum(len(each.data) for each in settled) * 8
    assert bits / (len(settled) / rate) == pytest.approx(600_000, rel=0.25)


def test_the_bitrate_stays_within_its_bounds():
    encoder = VideoEncoder("H264", VideoOptions(min_bitrate=200_000, max_bitrate=2_000_000))
    encoder.bitrate = 1
    assert encoder.bitrate == 200_000
    encoder.bitrate = 10**9
    assert encoder.bitrate == 2_000_000


@pytest.mark.parametrize(
    ("codec", "change", "at_once"),
    [("H264", 2.5, True), ("H264", 1.9, False), ("VP8", 1.1, False), ("VP8", 1.5, False)],
)
def test_more_bitrate_than_an_encoder_can_follow_to_takes_a_keyframe(codec, change, at_once):
    encoder = VideoEncoder(codec, VideoOptions(bitrate=500_000), frame_rate=RATE)
    encode(encoder, [frame(number) for number in range(3)])
    encoder.bitrate = int(500_000 * change)
    (soon,) = encode(encoder, [frame(3)])
    assert soon.keyframe is at_once
    (later,) = encode(encoder, [frame(60)])
    assert later.keyframe is (codec == "VP8" and change > 1.15)


@pytest.mark.parametrize("codec", CODECS)
def test_much_less_bitrate_is_an_occasion_for_a_new_encoder_at_the_next_keyframe(codec):
    encoder = VideoEncoder(codec, VideoOptions(bitrate=2_000_000, min_bitrate=100_000))
    encode(encoder, [frame(0, noise=60)])
    encoder.bitrate = 150_000
    (encoded,) = encode(encoder, [frame(1, noise=60)], keyframes=[0])
    assert encoded.keyframe
    assert len(encoded.data) < 25_000


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((1280, 720), None, (1280, 720)),
        ((1920, 1080), (1280, 720), (1280, 720)),
        ((1080, 1920), (1280, 720), (404, 720)),
        ((640, 480), (1280, 720), (640, 480)),
        ((853, 481), None, (852, 480)),
        ((1, 1), None, (16, 16)),
        ((8, 4000), (100, 100), (16, 100)),
        ((1281, 721), (641, 361), (640, 360)),
    ],
)
def test_sizes_are_even_and_fit_and_keep_their_aspect(size, limit, expected):
    width, height = size
    assert encoded_size(width, height, limit) == expected


@pytest.mark.parametrize("codec", CODECS)
def test_pictures_may_change_their_size_be_odd_and_be_tiny(codec):
    encoder = VideoEncoder(codec, VideoOptions(max_size=(320, 240)))
    frames = [
        frame(0, width=640, height=480),
        frame(1, width=640, height=480),
        frame(2, width=101, height=75),
        frame(3, width=3, height=2),
        frame(4, width=102, height=76),
        frame(5, width=102, height=76, pixels="bgr24"),
    ]
    encoded = encode(encoder, frames)
    assert [each.keyframe for each in encoded] == [True, False, True, True, True, False]
    pictures = decode(codec, encoded)
    assert [(each.width, each.height) for each in pictures] == [
        *2 * [(320, 240)],
        (100, 74),
        (16, 16),
        *2 * [(102, 76)],
    ]
    assert psnr(pictures[1].to_ndarray(format="bgr24"), image(1, 640, 480)[::2, ::2]) > 25


@pytest.mark.parametrize("codec", CODECS)
def test_pictures_in_full_range_keep_their_black_and_white(codec):
    white = np.full((64, 64, 3), 255, np.uint8)
    picture = av.VideoFrame.from_ndarray(white, format="bgr24").reformat(format="yuv420p", dst_color_range=2)
    picture.color_range = ColorRange.JPEG
    assert picture.to_ndarray().max() == 255
    (decoded,) = decode(codec, encode(VideoEncoder(codec, VideoOptions()), [stamp(picture, 0, 0)]))
    assert decoded.to_ndarray(format="bgr24").mean() > 250


@pytest.mark.parametrize("limit", [10, 25, 12.5])
def test_the_frame_rate_is_limited_on_average(limit):
    encoder = VideoEncoder("H264", VideoOptions(max_frame_rate=limit), frame_rate=RATE)
    jitter = [0.003, -0.004, 0.0, 0.002]
    frames = [frame(n, pts=1 + n / RATE + jitter[n % 4], width=32, height=32) for n in range(100)]
    encoded = encode(encoder, frames)
    assert len(encoded) == pytest.approx(limit * 4, abs=1)
    assert encoder.dropped_by_rate == 100 - len(encoded)
    assert max(two.pts - one.pts for one, two in pairwise(encoded)) < 1.6 / limit


def test_pictures_are_as_large_and_as_many_as_the_level_of_the_far_side_allows(caplog):
    caplog.set_level(logging.INFO, "deepio_adapters.encoder")
    limits = PictureLimits(level="1.1", frame=396, second=3000)
    encoder = VideoEncoder("H264", VideoOptions(), frame_rate=RATE, limits=limits)
    frames = [frame(number, width=640, height=480) for number in range(50)]
    encoded = encode(encoder, frames)
    assert {(each.width, each.height) for each in decode("H264", encoded)} == {(360, 270)}
    assert len(encoded) == pytest.approx(50 / RATE * 3000 / 391, abs=1)
    assert [record.message for record in caplog.records] == [
        "Pictures are scaled to 360x270: the far side takes H.264 level 1.1."
    ]
    small = VideoEncoder("H264", VideoOptions(max_size=(160, 120), max_frame_rate=5), frame_rate=RATE, limits=limits)
    encoded = encode(small, frames)
    assert {(each.width, each.height) for each in decode("H264", encoded)} == {(160, 120)}
    assert len(encoded) == pytest.approx(10, abs=1)


def test_after_a_pause_the_frame_rate_is_limited_as_before():
    encoder = VideoEncoder("H264", VideoOptions(max_frame_rate=10))
    times = [0.0, 20.0, 20.04, 20.08, 20.12, 20.16]
    encoded = encode(encoder, [frame(n, pts=pts, width=32, height=32) for n, pts in enumerate(times)])
    assert [each.pts for each in encoded] == pytest.approx([0.0, 20.0, 20.08, 20.16])
    assert encoded[1].interval == 0.5, "not twenty seconds: that was an exception"


@pytest.mark.parametrize("codec", CODECS)
def test_when_time_goes_back_what_is_sent_goes_on(codec):
    encoder = VideoEncoder(codec, VideoOptions(), frame_rate=RATE)
    encoded = encode(encoder, [frame(n, pts=pts) for n, pts in enumerate([5.0, 5.04, 0.0, 0.04, 0.04])])
    assert [each.pts for each in encoded] == pytest.approx([5.0, 5.04, 5.08, 5.12, 5.16])
    assert [each.keyframe for each in encoded] == [True, False, True, False, True]


def test_a_picture_without_its_time_stamp_is_given_it():
    one = frame(0)
    one.picture.pts, one.picture.time_base = 77, Fraction(1, 30)
    encoder = VideoEncoder("VP8", VideoOptions())
    assert len(encode(encoder, [one, frame(1)])) == 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts the threads of the process as Linux does")
def test_threads_are_those_asked_for():
    def threads(asked_for: int) -> int:
        before = len(list(Path("/proc/self/task").iterdir()))
        encoder = VideoEncoder("H264", VideoOptions(threads=asked_for))
        encode(encoder, [frame(0, width=640, height=480)])
        return len(list(Path("/proc/self/task").iterdir())) - before

    assert threads(1) == 0
    assert threads(3) >= 3


def test_without_an_encoder_that_works_it_says_so(monkeypatch):
    monkeypatch.setattr(encoder_settings, "KINDS", ())
    with pytest.raises(EncoderError, match="no encoder for VP8"):
        VideoEncoder("VP8", VideoOptions()).encode(frame(0))


def broken(name: str, **settings: str) -> EncoderKind:
    return EncoderKind(name=name, codec="H264", pixel_formats=("yuv420p",), settings=lambda *_: settings)


def test_an_encoder_that_does_not_open_is_replaced_by_the_next(monkeypatch):
    good = [kind for kind in encoder_settings.KINDS if kind.name == "libx264"]
    monkeypatch.setattr(encoder_settings, "KINDS", (broken("libx264", preset="nonsense"), *good))
    encoder = VideoEncoder("H264", VideoOptions())
    assert len(encode(encoder, [frame(0), frame(1)])) == 2
    assert encoder.name == "libx264"


def test_a_fault_of_an_encoder_that_has_worked_is_told(monkeypatch):
    encoder = VideoEncoder("H264", VideoOptions())
    encode(encoder, [frame(0)])
    monkeypatch.setattr(
        "deepio_adapters.encoder.open_encoder",
        lambda _, *arguments, **rates: open_encoder(broken("libx264", preset="x"), *arguments, **rates),
    )
    with pytest.raises(EncoderError, match="libx264 failed"):
        encoder.encode(frame(1, width=64, height=64))


def test_hardware_encoders_are_tried_out_once_and_left_out_if_they_do_not_work(monkeypatch):
    tried: list[str] = []

    def try_out(kind: EncoderKind, outcome: list[str]) -> None:
        tried.append(kind.name)
        if kind.name == "h264":
            outcome.append("")

    monkeypatch.setattr(encoder_settings, "PROBE_TIMEOUT", 5.0)
    monkeypatch.setattr(encoder_settings, "_try_out", try_out)
    works, dead = (
        EncoderKind(name=name, codec="H264", pixel_formats=("nv12",), settings=lambda *_: {}, hardware=True)
        for name in ("h264", "vp8")
    )
    software = broken("libx264")
    monkeypatch.setattr(encoder_settings, "KINDS", (dead, works, software))
    for _ in range(2):
        assert list(encoder_kinds("H264", hardware=True)) == [works, software]
    assert list(encoder_kinds("H264", hardware=False)) == [software]
    assert tried == ["vp8", "h264"]


def test_a_driver_that_hangs_is_given_up(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(encoder_settings, "PROBE_TIMEOUT", 0.05)
    monkeypatch.setattr(encoder_settings, "_try_out", lambda kind, outcome: release.wait(5))
    hangs = EncoderKind(name="h264", codec="H264", pixel_formats=("p010",), settings=lambda *_: {}, hardware=True)
    monkeypatch.setattr(encoder_settings, "KINDS", (hangs,))
    assert list(encoder_kinds("H264", hardware=True)) == []
    release.set()


def test_trying_out_takes_an_encoder_that_makes_one_frame_of_each_picture_and_no_other():
    (good,) = [kind for kind in encoder_settings.KINDS if kind.name == "libx264"]
    for kind, expected in (
        (good, ""),
        (broken("libx264", tune="film"), "holds pictures back"),
        (broken("libx264", preset="nonsense"), "Error"),
    ):
        outcome: list[str] = []
        encoder_settings._try_out(kind, outcome)
        assert expected in outcome[0]
        assert bool(outcome[0]) is bool(expected)


@pytest.mark.parametrize("kind", encoder_settings.KINDS, ids=lambda kind: kind.name)
def test_every_encoder_that_pyav_has_knows_its_settings(kind):
    """Hardware that is not there is one thing, an option that FFmpeg does not know would be our mistake."""
    if kind.name not in av.codecs_available:
        assert kind.settings(VideoOptions(), 1_000_000, 25), "never empty: the bitrate is bounded"
        return
    known = {
        option.name
        for part in (av.CodecContext.create(kind.name, "w").supported_options,)
        for option in (*part.generic, *part.private)
    }
    assert not set(kind.settings(VideoOptions(), 1_000_000, 25)) - known


def test_an_encoder_that_cannot_be_opened_raises():
    with pytest.raises(FFmpegError):
        open_encoder(
            broken("libx264", preset="nonsense"),
            VideoOptions(),
            PictureShape(width=64, height=64),
            bitrate=10**6,
            frame_rate=25,
        )
