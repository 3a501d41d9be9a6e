"""What settings of the encoders cost, and what they look like: CPU time a frame beside the error of the pictures.

    python -m benchmarks.encoders [--source CLIP] [--frames N] [--bitrate BPS] [--codec H264|VP8] [--json]

Every setting encodes the same pictures at the same bitrate, one by one, with a keyframe at the first and at one in the
middle, and decodes them again. Told are milliseconds of CPU time a frame (of all threads), the PSNR of the luma, the
bitrate reached, the largest frame, and the most that went out in half a second, as a multiple of what the bitrate
allows in that time: what a network has to take. "ours" is what `VideoEncoder` uses; the others change what they name.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import time
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import av
import numpy as np
from av.video.frame import PictureType

from deepio_adapters.encoder_settings import KINDS, Codec, PictureShape, open_encoder
from deepio_adapters.sources import VIDEO_CLOCK, parse_source, stamp
from deepio_core.media.options import VideoOptions

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

RATE = 25
DECODERS = {"H264": "h264", "VP8": "vp8"}
NAMES = {"H264": "libx264", "VP8": "libvpx"}

X264: dict[str, dict[str, str]] = {
    "ours": {},
    "ultrafast": {"preset": "ultrafast"},
    "veryfast": {"preset": "veryfast"},
    "faster": {"preset": "faster"},
    "2 threads": {"threads": "2"},
    "ultrafast, subme=1, deblocking": {"preset": "ultrafast", "x264-params": "subme=1:no-deblock=0:deblock=0,0"},
    "dct-decimate=1": {"x264opts": "dct-decimate=1"},
    "deadzones of 32": {"x264-params": "deadzone-inter=32:deadzone-intra=32"},
    "aq-mode=1": {"aq-mode": "1"},
    "no deblocking": {"x264-params": "no-deblock=1"},
    "subme=0": {"x264-params": "subme=0"},
    "subme=2": {"x264-params": "subme=2"},
    "subme=4": {"x264-params": "subme=4"},
    "me=hex": {"x264-params": "me=hex"},
    "partitions=none": {"x264-params": "partitions=none"},
    "partitions=all": {"x264-params": "partitions=all"},
    "ref=2": {"x264-params": "ref=2"},
    "trellis, mixed refs": {"x264-params": "trellis=1:mixed-refs=1:ref=2"},
    "weightp=1": {"x264-params": "weightp=1"},
    "psy=0": {"x264-params": "psy=0"},
    "ratetol=0.1": {"x264-params": "ratetol=0.1"},
    "qcomp=0.8": {"x264-params": "qcomp=0.8"},
    "ipratio=1.1": {"x264-params": "ipratio=1.1"},
    "rc-lookahead=5": {"x264-params": "rc-lookahead=5"},
    "intra-refresh": {"x264-params": "intra-refresh=1:keyint=100"},
}

VPX: dict[str, dict[str, str]] = {
    "ours": {},
    "cpu-used=-2": {"cpu-used": "-2"},
    "cpu-used=-4": {"cpu-used": "-4"},
    "cpu-used=-5": {"cpu-used": "-5"},
    "cpu-used=-7": {"cpu-used": "-7"},
    "cpu-used=-8": {"cpu-used": "-8"},
    "cpu-used=-10": {"cpu-used": "-10"},
    "cpu-used=-12": {"cpu-used": "-12"},
    "cpu-used=-16": {"cpu-used": "-16"},
    "noise-sensitivity=1": {"noise-sensitivity": "1"},
    "noise-sensitivity=4": {"noise-sensitivity": "4"},
    "static-thresh=0": {"static-thresh": "0"},
    "static-thresh=100": {"static-thresh": "100"},
    "error-resilient": {"error-resilient": "default"},
    "4 token partitions": {"slices": "4"},
    "2 threads": {"threads": "2"},
    "sharpness=3": {"sharpness": "3"},
    "undershoot 15 %": {"undershoot-pct": "15"},
    "qmin 2, qmax 56": {"qmin": "2", "qmax": "56"},
    "screen content": {"screen-content-mode": "1"},
}


class Row(NamedTuple):
    """What one setting came to."""

    codec: str
    setting: str
    ms: float
    psnr: float
    kbps: float
    largest: int
    burst: float


def aiortc_context(codec: Codec, bitrate: int, width: int, height: int) -> VideoCodecContext:
    """An encoder as aiortc 1.16 opens it (its modules codecs.h264 and codecs.vpx), on a machine of two processors."""
    context = cast("VideoCodecContext", av.CodecContext.create(NAMES[codec], "w"))
    context.width, context.height, context.pix_fmt, context.bit_rate = width, height, "yuv420p", bitrate
    if codec == "H264":
        context.framerate, context.time_base = Fraction(30), Fraction(1, 30)
        context.options = {"level": "31", "tune": "zerolatency"}
        context.profile = "Baseline"
    else:
        context.time_base, context.gop_size, context.qmin, context.qmax = Fraction(1, VIDEO_CLOCK), 3000, 2, 56
        context.thread_count = 2
        context.options = {
            "bufsize": str(bitrate),
            "minrate": str(bitrate),
            "maxrate": str(bitrate),
            "cpu-used": "-6",
            "deadline": "realtime",
            "lag-in-frames": "0",
            "noise-sensitivity": "4",
            "overshoot-pct": "15",
            "partitions": "0",
            "static-thresh": "1",
            "undershoot-pct": "100",
        }
    return context


def changed_context(codec: Codec, bitrate: int, width: int, height: int, change: dict[str, str]) -> VideoCodecContext:
    """An encoder as ours, with changed settings."""
    kind = next(kind for kind in KINDS if kind.name == NAMES[codec])
    options = VideoOptions(bitrate=bitrate)
    opened = min(options.max_bitrate, round(bitrate * kind.headroom))

    def settings(*arguments: Any) -> dict[str, str]:
        return {**kind.settings(*arguments), **change}

    changed = dataclasses.replace(kind, settings=settings)
    shape = PictureShape(width=width, height=height)
    context = open_encoder(changed, options, shape, bitrate=opened, frame_rate=RATE)
    context.bit_rate = bitrate
    return cast("VideoCodecContext", context)


def measure(
    codec: Codec, setting: str, make: Callable[[], VideoCodecContext], pictures: list[av.VideoFrame], bitrate: int
) -> Row:
    """Encodes and decodes all pictures."""
    context = make()
    decoder = cast("VideoCodecContext", av.CodecContext.create(DECODERS[codec], "r"))
    sizes, error, cpu = [], 0.0, 0.0
    for number, picture in enumerate(pictures):
        picture.pts, picture.time_base = number * VIDEO_CLOCK // RATE, Fraction(1, VIDEO_CLOCK)
        picture.pict_type = PictureType.I if number == len(pictures) // 2 else PictureType.NONE
        began = time.process_time()
        packets = context.encode(picture)
        cpu += time.process_time() - began
        sizes.append(sum(packet.size for packet in packets))
        for packet in packets:
            for decoded in decoder.decode(av.Packet(bytes(packet))):
                error += float(np.mean(np.square(luma(decoded) - luma(picture))))
    seconds = len(pictures) / RATE
    window = RATE // 2
    most = max(sum(sizes[start : start + window]) for start in range(len(sizes) - window)) * 8
    return Row(
        codec,
        setting,
        1000 * cpu / len(pictures),
        10 * math.log10(255**2 * len(pictures) / error),
        sum(sizes) * 8 / seconds / 1000,
        max(sizes),
        most / (bitrate * window / RATE),
    )


def luma(picture: av.VideoFrame) -> Any:
    """The luma of a picture, as numbers that can be subtracted."""
    plane = picture.planes[0]
    rows = np.frombuffer(memoryview(cast(Any, plane)), np.uint8).reshape(picture.height, plane.line_size)
    return rows[:, : picture.width].astype(np.float32)


def read(source: str, count: int) -> list[av.VideoFrame]:
    """The first pictures of a source."""
    if source.startswith("test:"):
        opened = parse_source(source)
        opened.open()
        frames = [frame.picture.reformat(format="yuv420p") for frame in itertools.islice(opened.frames(), count)]
        opened.close()
        return frames
    with av.open(source) as container:
        return [stamp(frame, 0, 0).picture for frame in itertools.islice(container.decode(video=0), count)]


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description="What settings of the encoders cost, and what they look like.")
    parser.add_argument("--source", default="test:1280x720@25", help="a file, or the test pattern")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--bitrate", type=int, default=1_000_000)
    parser.add_argument("--codec", choices=list(NAMES))
    parser.add_argument("--only", nargs="*", help="these settings only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pictures = read(options.source, options.frames)
    width, height = pictures[0].width, pictures[0].height
    print("| codec | setting | ms CPU a frame | PSNR-Y, dB | kbit/s | largest frame, kB | burst |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    codecs: list[tuple[Codec, dict[str, dict[str, str]]]] = [("H264", X264), ("VP8", VPX)]
    for codec, changes in codecs:
        if options.codec not in {None, codec}:
            continue
        size = options.bitrate, width, height
        makers: dict[str, Callable[[], VideoCodecContext]] = {"aiortc": functools.partial(aiortc_context, codec, *size)}
        for name, change in changes.items():
            makers[name] = functools.partial(changed_context, codec, *size, change)
        for name, make in makers.items():
            if options.only and name not in options.only:
                continue
            row = measure(codec, name, make, pictures, options.bitrate)
            rows.append(row)
            cells = f"{row.ms:.1f} | {row.psnr:.1f} | {row.kbps:.0f} | {row.largest / 1000:.0f} | {row.burst:.1f}"
            print(f"| {codec} | {name} | {cells} |", flush=True)
    if options.json:
        print(json.dumps([row._asdict() for row in rows]))


if __name__ == "__main__":
    main()
