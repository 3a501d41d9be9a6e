"""Decoding of packets into upright pictures, independent of where the packets come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import av
import av.error
from av.filter import Graph
from av.video.codeccontext import VideoCodecContext

from deepio_adapters.access_units import same_decoding
from deepio_adapters.sources import SourceFrame, stamp
from deepio_adapters.timeline import MIN_STEP

if TYPE_CHECKING:
    from av.packet import Packet
    from av.stream import Stream

    from deepio_adapters.media import SourcePacket
    from deepio_core.media.stream import StreamFormat

__all__ = ["MAX_ERRORS_IN_A_ROW", "PictureDecoder"]

MAX_ERRORS_IN_A_ROW = 500
"""Packets in a row that give no picture before a source is given up: 20 s at 25 fps, the longest GOP of a
camera."""

# Where FFmpeg's name of the codec is that of a decoder that needs hardware.
_DECODERS = {"av1": "libdav1d"}

_ONE_THREAD = 1920 * 1088
"""Pixels up to which a picture is decoded by one thread, in a few milliseconds: cameras of a site are decoded side by
side, and more threads for each would only get in each other's way."""

# What FFmpeg calls the turns, by degrees clockwise.
_TURNS = {90: ("transpose=clock",), 180: ("hflip", "vflip"), 270: ("transpose=cclock",)}


class PictureDecoder:
    """Decodes the packets of one source.

    For one thread at a time. It begins anew by itself when the format of the packets changes.

    Attributes:
        pictures: Pictures that came out.
        errors: Packets that could not be decoded; they are skipped.
        errors_in_a_row: Those since the last packet that could be.
    """

    def __init__(self, stream: StreamFormat) -> None:
        self.pictures = 0
        self.errors = 0
        self.errors_in_a_row = 0
        self._stream: StreamFormat = stream
        self._context = _open(stream)
        self._turn: _Turn | None = None
        self._interval = MIN_STEP
        self._last: tuple[float, float] | None = None

    def decode(self, packet: SourcePacket) -> list[SourceFrame]:
        """Returns the pictures that this packet makes ready, in the order in which they are shown.

        Their `pts` are those of their packets, and strictly increasing. There may be none: then
        they come with later packets.
        """
        frames: list[SourceFrame] = []
        if packet.stream is not self._stream:
            if not same_decoding(packet.stream, self._stream):
                frames = self.flush()
                self._context = _open(packet.stream)
            self._stream = packet.stream
        self._interval = max(packet.interval, MIN_STEP)
        raw: Packet[Stream] = av.Packet(packet.data)
        raw.opaque = (packet.pts, packet.captured_at)
        raw.is_keyframe = packet.keyframe
        return frames + self._take(raw)

    def flush(self) -> list[SourceFrame]:
        """Returns the pictures that are still waiting; decoding begins at a keyframe afterwards."""
        frames = self._take(None)
        self._context.flush_buffers()
        return frames

    def _take(self, raw: Packet[Stream] | None) -> list[SourceFrame]:
        context: Any = self._context  # PyAV's stubs leave the kind of packets open
        try:
            pictures: list[av.VideoFrame] = context.decode(raw)
        except (av.error.FFmpegError, OSError, ValueError):
            if raw is not None:
                self.errors += 1
                self.errors_in_a_row += 1
            return []
        if raw is not None:
            self.errors_in_a_row = 0
        self.pictures += len(pictures)
        return [self._finish(picture) for picture in pictures]

    def _finish(self, picture: av.VideoFrame) -> SourceFrame:
        pts, captured_at = cast("tuple[float, float]", picture.opaque)
        if self._last is not None and pts <= self._last[0]:
            # A bare byte stream tells no time: its packets are stamped in the order in which they are decoded.
            pts, captured_at = self._last[0] + self._interval, self._last[1] + self._interval
        self._last = pts, captured_at
        frame = stamp(picture, pts, captured_at)
        # A picture can say itself how it is to be turned, in H.264 by a supplemental message.
        degrees = -picture.rotation % 360 or self._stream.rotation
        if degrees not in _TURNS:
            return frame
        if self._turn is None or not self._turn.fits(picture, degrees):
            self._turn = _Turn(picture, degrees)
        return stamp(self._turn.apply(picture), pts, captured_at)


def _open(stream: StreamFormat) -> VideoCodecContext:
    context = VideoCodecContext.create(_DECODERS.get(stream.codec, stream.codec), "r")
    assert isinstance(context, VideoCodecContext), "a codec of pictures"
    if stream.extradata:
        context.extradata = stream.extradata
    if stream.width and stream.height:
        context.width, context.height = stream.width, stream.height
    if stream.codec == "rawvideo" and stream.pixel_format:
        context.pix_fmt = stream.pixel_format
    context.copy_opaque = True  # from packets to pictures
    # Decoding frames side by side would delay them by one each.
    context.thread_type = "SLICE"
    if stream.width * stream.height <= _ONE_THREAD:
        context.thread_count = 1
    return context


class _Turn:
    """Turns pictures of one kind."""

    def __init__(self, picture: av.VideoFrame, degrees: int) -> None:
        self._kind = picture.width, picture.height, picture.format.name, degrees
        self._graph = Graph()
        last = self._graph.add_buffer(
            width=picture.width, height=picture.height, format=picture.format, time_base=picture.time_base
        )
        for text in _TURNS[degrees]:
            name, _, arguments = text.partition("=")
            following = self._graph.add(name, arguments or None)
            last.link_to(following)
            last = following
        last.link_to(self._graph.add("buffersink"))
        self._graph.configure()

    def fits(self, picture: av.VideoFrame, degrees: int) -> bool:
        return self._kind == (picture.width, picture.height, picture.format.name, degrees)

    def apply(self, picture: av.VideoFrame) -> av.VideoFrame:
        self._graph.push(picture)
        turned = self._graph.pull()
        assert isinstance(turned, av.VideoFrame), "a graph of picture filters gives pictures"
        return turned
