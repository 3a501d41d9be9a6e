"""The encoders that PyAV may have, their settings for live video, and which of them work on this machine.

The settings were chosen by measurement (benchmarks/encoders.py, docs/benchmarks.md). What all of them have in common:
one packet for each picture at once (no B-frames, no lookahead), keyframes only where we ask for them, parameter sets
before each of them, and a rate buffer small enough that a keyframe stays below `VideoOptions.max_keyframe`.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, cast

import av
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType

from deepio_adapters.sources import VIDEO_CLOCK
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

    from deepio_core.media.options import VideoOptions

__all__ = ["Codec", "EncoderKind", "OpenEncoder", "PictureShape", "encoder_kinds", "open_encoder"]

logger = logging.getLogger(__name__)

Codec: TypeAlias = Literal["H264", "VP8"]
"""What video is encoded in."""

BUFFER_TIME = 0.5
"""Seconds at the bitrate of the opening that may be sent on top of it: for keyframes, which are larger than others."""

MAX_KEYFRAME = 140_000
"""Bytes of a keyframe at most if the options do not tell: receivers up to aiortc 1.15 hold no more than 128 packets."""

KEYFRAME_MARGIN = 0.8
"""Part of that which the encoders are told: their rate control overshoots now and then."""

NO_GOP = 1 << 30
"""Frames between keyframes that the encoder would make unasked: never. x264 calls this number infinite."""

PROBE_TIMEOUT = 3.0
"""Seconds for a hardware encoder to encode a few pictures. Where the driver is there, opening takes 0.1 to 0.5 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureShape:
    """What pictures have in common that one encoder can encode."""

    width: int
    """Width in pixels, even."""
    height: int
    """Height in pixels, even."""
    pixel_format: str = "yuv420p"
    """FFmpeg's name."""
    colours: tuple[int, int, int, int] = (2, 2, 2, 0)
    """FFmpeg's numbers of the color space, primaries, transfer characteristic and range; these are "unspecified"."""


class OpenEncoder(Protocol):
    """What we use of PyAV's codec contexts, whose own types leave open what packets are."""

    bit_rate: int
    """Bits per second to aim at."""

    def encode(self, frame: VideoFrame) -> list[Packet[VideoStream]]:
        """Encodes a picture.

        Raises:
            FFmpegError: It cannot be encoded.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderKind:
    """One of FFmpeg's encoders, and how it is set for live video."""

    name: str
    """FFmpeg's name."""
    codec: Codec
    """What it makes."""
    pixel_formats: tuple[str, ...]
    """What it takes, the best first; pictures in another format are converted to the first."""
    settings: Callable[[VideoOptions, int, float], dict[str, str]]
    """Makes FFmpeg's options from ours, the bitrate to open it with, and the frame rate."""
    hardware: bool = False
    """It needs hardware that may not be there."""
    headroom: float = 1.0
    """The bitrate that it is opened with, as a multiple of the one that it is to begin with. Above 1: it takes another
    bitrate while it runs, up to the one that it was opened with, without a keyframe."""

    @property
    def follows_bitrate(self) -> bool:
        """It takes another bitrate while it runs."""
        return self.headroom > 1


def _buffer(options: VideoOptions, bitrate: int, margin: float = KEYFRAME_MARGIN) -> float:
    """Bits of the rate buffer, which no frame exceeds."""
    return min(bitrate * BUFFER_TIME, (options.max_keyframe or MAX_KEYFRAME) * 8 * margin)


def _rates(options: VideoOptions, bitrate: int) -> dict[str, str]:
    """Constant bitrate over that buffer."""
    return {"maxrate": str(bitrate), "bufsize": str(round(_buffer(options, bitrate)))}


def _x264(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    return {
        "preset": "superfast",
        "tune": "zerolatency",
        "profile": "baseline",
        "aq-mode": "0",
        "forced-idr": "1",
        "sc_threshold": "0",
        "x264opts": "dct-decimate=0",
        **_rates(options, bitrate),
    }


def _openh264(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    return {
        "profile": "constrained_baseline",
        "rc_mode": "bitrate",
        "allow_skip_frames": "0",
        **_rates(options, bitrate),
    }


def _vpx(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    # libvpx aims at a size of keyframes, in percent of what other frames may have, and noise makes them twice as large.
    keyframe = _buffer(options, bitrate, KEYFRAME_MARGIN / 2)
    return {
        "cpu-used": "-6",
        "deadline": "realtime",
        "lag-in-frames": "0",
        "noise-sensitivity": "0",
        "static-thresh": "1",
        "undershoot-pct": "100",
        "overshoot-pct": "15",
        "max-intra-rate": str(max(100, round(100 * keyframe * frame_rate / bitrate))),
        "qmin": "2",
        "qmax": "56",
        "minrate": str(bitrate),
        "maxrate": str(bitrate),
        "bufsize": str(bitrate),
    }


def _nvenc(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    return {
        "preset": "p3",
        "tune": "ull",
        "profile": "baseline",
        "rc": "cbr",
        "zerolatency": "1",
        "delay": "0",
        "forced-idr": "1",
        **_rates(options, bitrate),
    }


def _qsv(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    return {
        "preset": "veryfast",
        "profile": "baseline",
        "async_depth": "1",
        "forced_idr": "1",
        **_rates(options, bitrate),
    }


def _videotoolbox(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    return {"profile": "constrained_baseline", "realtime": "1", "prio_speed": "1", **_rates(options, bitrate)}


def _amf(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    return {
        "usage": "ultralowlatency",
        "profile": "constrained_baseline",
        "rc": "cbr",
        "forced_idr": "1",
        **_rates(options, bitrate),
    }


def _media_foundation(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    return {"rate_control": "cbr", "scenario": "live_streaming", "hw_encoding": "1", **_rates(options, bitrate)}


def _v4l2(options: VideoOptions, bitrate: int, frame_rate: float) -> dict[str, str]:
    return _rates(options, bitrate)


_PLANAR, _SEMIPLANAR = "yuv420p", "nv12"

KINDS = (
    EncoderKind(name="h264_nvenc", codec="H264", pixel_formats=(_PLANAR, _SEMIPLANAR), settings=_nvenc, hardware=True),
    EncoderKind(name="h264_qsv", codec="H264", pixel_formats=(_SEMIPLANAR,), settings=_qsv, hardware=True),
    EncoderKind(
        name="h264_videotoolbox",
        codec="H264",
        pixel_formats=(_SEMIPLANAR, _PLANAR),
        settings=_videotoolbox,
        hardware=True,
    ),
    EncoderKind(name="h264_amf", codec="H264", pixel_formats=(_SEMIPLANAR, _PLANAR), settings=_amf, hardware=True),
    EncoderKind(
        name="h264_mf", codec="H264", pixel_formats=(_SEMIPLANAR, _PLANAR), settings=_media_foundation, hardware=True
    ),
    EncoderKind(name="h264_v4l2m2m", codec="H264", pixel_formats=(_PLANAR, _SEMIPLANAR), settings=_v4l2, hardware=True),
    EncoderKind(name="libx264", codec="H264", pixel_formats=(_PLANAR, _SEMIPLANAR), settings=_x264, headroom=2.0),
    EncoderKind(name="libopenh264", codec="H264", pixel_formats=(_PLANAR,), settings=_openh264),
    EncoderKind(name="libvpx", codec="VP8", pixel_formats=(_PLANAR,), settings=_vpx),
)
"""What we can encode with, the best first. FFmpeg's h264_vaapi takes pictures in the memory of the GPU only, which
PyAV's codec contexts cannot bring there."""


def encoder_kinds(codec: Codec, *, hardware: bool) -> Iterator[EncoderKind]:
    """Yields the encoders for `codec` that PyAV has, the best first; of the hardware encoders those that work.

    Trying out hardware encoders may block for a while, once in a process.
    """
    for kind in KINDS:
        if kind.codec != codec or kind.name not in av.codecs_available:
            continue
        if not kind.hardware or (hardware and _works(kind)):
            yield kind


def open_encoder(
    kind: EncoderKind, options: VideoOptions, shape: PictureShape, *, bitrate: int, frame_rate: float
) -> OpenEncoder:
    """Opens an encoder for pictures of one shape, with time stamps at 90 kHz.

    Raises:
        FFmpegError: It cannot be opened.
    """
    context = cast("VideoCodecContext", av.CodecContext.create(kind.name, "w"))
    context.width, context.height, context.pix_fmt = shape.width, shape.height, shape.pixel_format
    context.time_base = Fraction(1, VIDEO_CLOCK)
    context.framerate = Fraction(frame_rate).limit_denominator(1001)
    context.colorspace, context.color_primaries, context.color_trc, context.color_range = shape.colours
    context.bit_rate = bitrate
    context.gop_size = NO_GOP
    context.max_b_frames = 0
    context.thread_count = options.threads
    context.options = kind.settings(options, bitrate, frame_rate)
    context.open()
    return cast("OpenEncoder", context)


_probing = threading.Lock()


def _works(kind: EncoderKind) -> bool:
    with _probing:  # one at a time, and each once: a second caller waits for the answer of the first
        return _probe(kind)


@functools.cache
def _probe(kind: EncoderKind) -> bool:
    """Encodes three pictures in a thread of its own, since drivers have been seen to hang."""
    outcome = ["it did not answer in time"]
    thread = threading.Thread(target=_try_out, args=(kind, outcome), name=f"deepio-probe-{kind.name}", daemon=True)
    thread.start()
    thread.join(PROBE_TIMEOUT)
    why = outcome[-1]
    logger.debug("%s: %s", kind.name, why or "works")
    return not why


def _try_out(kind: EncoderKind, outcome: list[str]) -> None:
    from deepio_core.media.options import VideoOptions

    shape = PictureShape(width=640, height=368, pixel_format=kind.pixel_formats[0])
    try:
        context = open_encoder(kind, VideoOptions(), shape, bitrate=1_000_000, frame_rate=25)
        keyframes: list[bool] = []
        for number in range(3):
            picture = av.VideoFrame(shape.width, shape.height, shape.pixel_format)
            for plane in picture.planes:
                plane.update(bytes(plane.buffer_size))
            picture.pts, picture.time_base = number * VIDEO_CLOCK // 25, Fraction(1, VIDEO_CLOCK)
            picture.pict_type = PictureType.I if number == 2 else PictureType.NONE
            keyframes += [packet.is_keyframe for packet in context.encode(picture)]
    except (FFmpegError, ValueError) as fault:
        outcome.append(f"{type(fault).__name__}: {fault}")
        return
    live = keyframes == [True, False, True]
    outcome.append("" if live else "it holds pictures back, or makes no keyframe when asked")
