"""A video encoder for live use: pictures in, access units of H.264 or frames of VP8 out, one for one and at once."""

from __future__ import annotations

import logging
import math
from fractions import Fraction
from typing import TYPE_CHECKING

from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from deepio_adapters.encoder_settings import (
    Codec,
    EncoderKind,
    OpenEncoder,
    PictureShape,
    encoder_kinds,
    open_encoder,
)
from deepio_adapters.media import EncodedFrame
from deepio_adapters.sources import VIDEO_CLOCK
from deepio_core.errors import DeepIOError

if TYPE_CHECKING:
    from deepio_adapters.sources import SourceFrame
    from deepio_core.media.levels import PictureLimits
    from deepio_core.media.options import VideoOptions

__all__ = ["EncoderError", "VideoEncoder", "encoded_size"]

logger = logging.getLogger(__name__)

TIME_BASE = Fraction(1, VIDEO_CLOCK)

SCALING = Interpolation.FAST_BILINEAR
"""How pictures are scaled down."""

_INTERLEAVED = frozenset({"bgr24", "rgb24"})
"""Pictures that came as arrays."""

DEFAULT_FRAME_RATE = 30.0
"""Frames per second until the pictures tell, if the source does not: what rate control begins with."""

MIN_SIDE = 16
"""Pixels of the shorter side at least: one macroblock."""

REOPEN_ABOVE = 0.15
"""Change of the bitrate, as a part of it, for which an encoder that cannot follow is opened again, with a keyframe."""

MUCH_LESS = 0.6
"""The same for an encoder that follows the bitrate, but whose rate buffer does not."""

REOPEN_AFTER = 2.0
"""Seconds from a keyframe before such an encoder is opened again for more bitrate. Less bitrate does not wait."""

RATE_MEMORY = 0.1
"""Part that each interval between two pictures has in their average: that of a second or less."""

RATE_CHANGE = 1.5
"""By what the frame rate must have changed for an encoder to be opened again at the next keyframe."""

RATE_TOLERANCE = 0.25
"""Part of the frame interval by which a picture may come early, or late, when the frame rate is limited."""

MIN_INTERVAL, MAX_INTERVAL = 1 / 240, 0.5
"""Bounds of the seconds that an encoded frame says to be until the next."""


class EncoderError(DeepIOError):
    """Pictures cannot be encoded."""


def encoded_size(width: int, height: int, max_size: tuple[int, int] | None) -> tuple[int, int]:
    """Returns what pictures are scaled to: into `max_size`, of the same aspect, even, of 16 pixels at least."""
    scale = (
        min(1.0, *(limit / side for limit, side in zip(max_size, (width, height), strict=True))) if max_size else 1.0
    )
    even_width, even_height = (max(MIN_SIDE, int(side * scale + 1e-6) // 2 * 2) for side in (width, height))
    return even_width, even_height


class VideoEncoder:
    """Encodes pictures for one RTP stream; belongs to one thread, which `encode` keeps busy.

    The encoder behind it is opened by the first picture, and again when pictures change their size or format or time
    goes back. Then, when asked and every `VideoOptions.keyframe_interval` seconds a keyframe comes.

    Attributes:
        encoded: Pictures encoded so far.
        dropped_by_rate: Pictures left out because of `VideoOptions.max_frame_rate`.
    """

    def __init__(
        self,
        codec: Codec,
        options: VideoOptions,
        *,
        frame_rate: float | None = None,
        limits: PictureLimits | None = None,
    ) -> None:
        self.codec: Codec = codec
        self.encoded = 0
        self.dropped_by_rate = 0
        self._options = options
        self._limits = limits
        self._size: tuple[int, int] | None = None
        rates = [rate for rate in (frame_rate, options.max_frame_rate) if rate]
        self._frame_rate = min(rates, default=DEFAULT_FRAME_RATE)
        self._bitrate = options.bitrate
        self._kinds: list[EncoderKind] | None = None
        self._proven = False
        self._context: OpenEncoder | None = None
        self._shape: PictureShape | None = None
        # x264 without delay counts pictures, not time: it must be told how many there are.
        self._interval = 1 / self._frame_rate
        self._opened_interval = self._interval
        self._opened_bitrate = 0
        self._reformatter = VideoReformatter()
        self._input_pts: float | None = None
        self._shift = 0.0
        self._pts: float | None = None
        self._keyframe_pts = 0.0
        self._due: float | None = None

    @property
    def name(self) -> str | None:
        """FFmpeg's name of the encoder at work, such as "libx264"; None before the first picture."""
        return self._kinds[0].name if self._proven and self._kinds else None

    @property
    def bitrate(self) -> int:
        """Bits per second aimed at; what is set is brought into the bounds of the options, and holds from then on.

        libx264 follows without a keyframe, up to twice the bitrate it was opened with. Others, and libx264 beyond that,
        are opened again when the change is worth it, with a keyframe.
        """
        return self._bitrate

    @bitrate.setter
    def bitrate(self, bitrate: int) -> None:
        self._bitrate = max(self._options.min_bitrate, min(bitrate, self._options.max_bitrate))

    def encode(self, frame: SourceFrame, *, keyframe: bool = False) -> EncodedFrame | None:
        """Encodes a picture; blocks while that takes.

        Args:
            frame: The picture. Its `pts` tells whether it is left out to keep the frame rate. If time goes back, a new
                encoder goes on where the last one was.
            keyframe: Make it a keyframe.

        Returns:
            What is to be sent; None if the picture was left out.

        Raises:
            EncoderError: No encoder works, or this one failed; a new one may do better.
        """
        pts = self._time(frame)
        if not self._keeps_rate(pts, frame.picture):
            self.dropped_by_rate += 1
            return None
        keyframe = keyframe or pts - self._keyframe_pts >= self._options.keyframe_interval
        if self._pts is not None:
            # A pause says little about the rate.
            interval = min(pts - self._pts, (1 + 2 * RATE_CHANGE) * self._interval, MAX_INTERVAL)
            self._interval += (interval - self._interval) * RATE_MEMORY
        if self._reopens(pts, keyframe):
            self.close()
        data, is_keyframe = self._encode(frame.picture, round(pts * VIDEO_CLOCK), keyframe)
        if not data:
            return None
        interval = 1 / self._frame_rate if self._pts is None else pts - self._pts
        self._pts = pts
        self.encoded += 1
        if is_keyframe:
            self._keyframe_pts = pts
        return EncodedFrame(
            data=data,
            keyframe=is_keyframe,
            pts=pts,
            captured_at=frame.captured_at,
            interval=min(max(interval, MIN_INTERVAL), MAX_INTERVAL),
        )

    def close(self) -> None:
        """Frees the encoder; the next picture opens a new one, and is a keyframe."""
        self._context = None
        self._shape = None

    def _time(self, frame: SourceFrame) -> float:
        """Brings the time of a picture onto our own timeline, which never goes back."""
        if self._input_pts is not None and frame.pts <= self._input_pts:
            self._shift += self._input_pts + 1 / self._frame_rate - frame.pts
            self.close()
        self._input_pts = frame.pts
        return frame.pts + self._shift

    def _keeps_rate(self, pts: float, picture: VideoFrame) -> bool:
        rates = [self._options.max_frame_rate or math.inf]
        if self._limits is not None:
            rates.append(self._limits.frame_rate(*self._fitting(picture)))
        if (rate := min(rates)) == math.inf:
            return True
        interval = 1 / rate
        slack = RATE_TOLERANCE * interval
        if self._due is not None and pts < self._due - slack:
            return False
        # Counted from when it was due, so that the rate is kept on average; a pause is not made up for.
        self._due = interval + (pts if self._due is None else max(self._due, pts - slack))
        return True

    def _reopens(self, pts: float, keyframe: bool) -> bool:
        """Whether an encoder that cannot follow the bitrate has to begin anew for it."""
        if self._context is None or not self._kinds:
            return False
        kind = self._kinds[0]
        wanted = self._opening_bitrate(kind)
        change = wanted / self._opened_bitrate - 1
        if kind.follows_bitrate:
            # Its rate buffer is as it was opened; once the bitrate has become much smaller, the next keyframe is
            # taken as an occasion for a smaller one.
            rate = self._opened_interval / self._interval
            another = keyframe and (change < -MUCH_LESS or not 1 / RATE_CHANGE < rate < RATE_CHANGE)
            return self._bitrate > self._opened_bitrate or another
        return (
            (keyframe and change != 0)  # then it costs nothing
            or change < -REOPEN_ABOVE
            or (change > REOPEN_ABOVE and pts - self._keyframe_pts >= REOPEN_AFTER)
        )

    def _opening_bitrate(self, kind: EncoderKind) -> int:
        return min(self._options.max_bitrate, round(self._bitrate * kind.headroom))

    def _encode(self, source: VideoFrame, ticks: int, keyframe: bool) -> tuple[bytes, bool]:
        """Encodes with the best encoder that works; returns the bytes, and whether they are a keyframe."""
        while True:
            kind = self._best_kind()
            try:
                picture = self._fit(source, kind)
                context = self._opened(kind, picture)
                if picture.pts != ticks or picture.time_base != TIME_BASE:
                    picture.pts, picture.time_base = ticks, TIME_BASE
                # Pictures come with the type that they had in the stream they are from. Several encoders may share a
                # picture; at worst, one of them makes a keyframe that another was asked for, which is told and made up.
                picture.pict_type = PictureType.I if keyframe else PictureType.NONE
                packets = context.encode(picture)
            except (FFmpegError, ValueError) as fault:
                self.close()
                if self._proven:
                    raise EncoderError(f"{kind.name} failed: {fault}") from fault
                logger.info("%s cannot encode %dx%d: %s", kind.name, source.width, source.height, fault)
                del (self._kinds or [])[:1]
                continue
            self._proven = True
            return b"".join(map(bytes, packets)), any(packet.is_keyframe for packet in packets)

    def _best_kind(self) -> EncoderKind:
        if self._kinds is None:
            self._kinds = list(encoder_kinds(self.codec, hardware=self._options.hardware))
        if not self._kinds:
            raise EncoderError(f"There is no encoder for {self.codec} that works.", remedy="Is PyAV built with one?")
        return self._kinds[0]

    def _fitting(self, source: VideoFrame) -> tuple[int, int]:
        """The size that pictures have when they are encoded."""
        size = encoded_size(source.width, source.height, self._options.max_size)
        limits = self._limits
        if limits is not None and (box := limits.box(*size)) != size:
            size = encoded_size(*size, box)
            if size != self._size:
                logger.info("Pictures are scaled to %dx%d: the far side takes H.264 level %s.", *size, limits.level)
        self._size = size
        return size

    def _fit(self, source: VideoFrame, kind: EncoderKind) -> VideoFrame:
        """Scales and converts a picture to what the encoder takes; returns the same one if it fits."""
        width, height = self._fitting(source)
        name = source.format.name
        # The first picture of a connection does not wait until OpenCV has been imported.
        if name in _INTERLEAVED and self.encoded and (width, height) == (source.width, source.height):
            from deepio_adapters.arrays import to_planes  # numpy is not imported where no arrays are encoded

            source = to_planes(source) or source
            name = source.format.name
        full_range = source.color_range == ColorRange.JPEG and kind.codec == "VP8"  # VP8 cannot tell
        return self._reformatter.reformat(
            source,
            width,
            height,
            name if name in kind.pixel_formats else kind.pixel_formats[0],
            interpolation=SCALING,
            dst_color_range=ColorRange.MPEG if full_range else None,
            threads=1,  # more of them take more CPU time
        )

    def _opened(self, kind: EncoderKind, picture: VideoFrame) -> OpenEncoder:
        """Returns the encoder for a picture, a new one if it is not like the last one."""
        shape = PictureShape(
            width=picture.width,
            height=picture.height,
            pixel_format=picture.format.name,
            colours=(picture.colorspace, picture.color_primaries, picture.color_trc, picture.color_range),
        )
        if self._context is None or shape != self._shape:
            self._opened_bitrate = self._opening_bitrate(kind)
            self._opened_interval = max(self._interval, MIN_INTERVAL)
            self._context = open_encoder(
                kind, self._options, shape, bitrate=self._opened_bitrate, frame_rate=1 / self._opened_interval
            )
            self._shape = shape
        if kind.follows_bitrate:
            by_pictures = self._bitrate * self._interval / self._opened_interval
            self._context.bit_rate = min(round(by_pictures), self._opened_bitrate)
        return self._context
