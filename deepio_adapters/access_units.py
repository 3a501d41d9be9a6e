"""The pictures of an open medium, undecoded: in the form in which they travel, and what is known of their stream."""

from __future__ import annotations

from collections import deque
from dataclasses import field, replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from av.bitstream import BitStreamFilterContext
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext

from deepio_adapters.demuxing import Demuxer, as_float
from deepio_adapters.source_urls import SourceError
from deepio_core.media import h264
from deepio_core.media.stream import StreamFormat
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    import av
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["MAX_SOUND", "AccessUnit", "AccessUnitReader", "same_decoding", "scan"]

_START_CODE = b"\0\0\0\1"

_NO_BYTES = "wrapped_avframe"
"""FFmpeg's name of what is no codec: packets that point to pictures in memory, as some of its devices give them."""

_MAX_FRAME_RATE = 1000
"""Frames per second above which a rate is a guess of FFmpeg's: where it has seen too little, it takes the ticks of the
clock."""

_DEFAULT_FRAME_RATE = 25.0
"""Frames per second where the medium does not say."""

_INSPECTED = 100
"""Pictures of each opening that are searched for B slices: two GOPs and more of most cameras. Order is watched
always."""

_MAX_REORDER = 1.0
"""Seconds by which B-frames come late at most; what goes back further is a break in the time stamps."""

MAX_SOUND = 1024
"""Packets of sound that wait for the next picture, some 20 s: containers interleave, so there are a second's worth. A
camera whose pictures stand still sends on and on; the oldest go, whose time is over anyway."""

SCAN_TIME = 12.0
"""Seconds of a file that are looked at when it is opened: more than the longest GOP that is copied."""

SCAN_BYTES = 8_000_000
"""Bytes of a file that are looked at: 12 s at 5 Mbit/s."""

# Containers that can say that pictures are to be turned.
_CONTAINERS_WITH_ROTATION = ("mov", "matroska")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AccessUnit:
    """One picture as it was demultiplexed."""

    data: bytes = field(repr=False)
    """H.264 in Annex B with the parameter sets before each IDR picture; everything else as it was."""
    keyframe: bool
    """Decoding can begin here."""
    decoded_at: float | None
    """When it is decoded, seconds of the medium; None if the medium does not tell the time."""
    shown_after: float
    """Seconds from then until it is shown: 0 without B-frames."""
    stream: StreamFormat
    """What it is in."""
    sound: tuple[Packet[Any], ...] = field(default=(), repr=False)
    """Packets of sound that came before it."""


class AccessUnitReader:
    """Reads the pictures of a demuxer, and with them the sound, if the demuxer was asked for it.

    Args:
        demuxer: Where from; belongs to the caller.
        known: The format of the opening before; kept if it is still the same.
        facts: What was found out about this medium when it was scanned; put into every format.
    """

    def __init__(
        self, demuxer: Demuxer, *, known: StreamFormat | None = None, facts: dict[str, Any] | None = None
    ) -> None:
        self._demuxer = demuxer
        self._facts = facts or {}
        self._repack: Callable[[Packet[Any]], list[Packet[Any]]] | None = None
        self._sets: tuple[bytes, ...] = ()
        self._tick = as_float(demuxer.video.time_base) if demuxer.has_clock else None
        self._newest = float("-inf")
        self._looks_for_turn = False
        self._inspected = 0
        self.stream = self._describe()
        """The format of the newest picture, and of the first one before there is one."""
        # GStreamer's payloader puts parameter sets before every slice of an IDR picture (config-interval=-1), which
        # FFmpeg's parser takes for the beginning of another picture. In how many parts keyframes come is found out with
        # the first one, for which the next packet must be waited; after it, no other has to wait.
        self._parts: int | None = None if self.stream.codec == "h264" and self._repack is None else 1
        self._pending: AccessUnit | None = None
        self.damaged = 0
        """Packets that were left out, because their bytes are not what the container says."""
        self.sound: deque[Packet[Any]] = deque(maxlen=MAX_SOUND)
        """Packets of sound since the last picture."""
        self.sound_dropped = 0
        """Packets of sound that were left out, because no picture came for too long."""
        self.rotation = 0
        """Degrees, clockwise, by which the container wants pictures turned; known after `look_for_turn`."""
        if known is not None and same_decoding(known, self.stream):
            self.stream = known

    def look_for_turn(self) -> None:
        """Decodes the next keyframe to find out whether pictures are to be turned, if the container can say so.

        PyAV tells that of pictures only.
        """
        self._looks_for_turn = self._demuxer.container.startswith(_CONTAINERS_WITH_ROTATION)

    def read(self) -> AccessUnit | None:
        """Returns the next picture; None at the end, when `sound` has what came after the last one.

        Raises:
            SourceError: As `Demuxer.read`.
        """
        unit, self._pending = self._pending or self._next(), None
        if unit is None or not unit.keyframe or self._parts == 1:
            return unit
        parts = [unit]
        while self._parts is None or len(parts) < self._parts:
            following = self._next()
            if following is None or not _goes_on(following.data):
                self._pending = following
                break
            parts.append(following)
        self._parts = len(parts)
        return _joined(parts)

    def _next(self) -> AccessUnit | None:
        while (packet := self._demuxer.read()) is not None:
            if packet.stream_index != self._demuxer.video.index:
                self.sound_dropped += len(self.sound) == MAX_SOUND
                self.sound.append(packet)
                continue
            unit = self._convert(packet)
            if unit is not None:
                return unit
            self.damaged += 1
        return None

    def _convert(self, packet: Packet[Any]) -> AccessUnit | None:
        decoded_at, shown_at = self._time(packet.dts), self._time(packet.pts)
        if self._looks_for_turn and packet.is_keyframe:
            self._looks_for_turn = False
            self.rotation = _rotation(packet)
        if self._repack is not None:
            try:
                packets = self._repack(packet)
            except (FFmpegError, ValueError):
                return None
            if not packets:
                return None
            packet = packets[0]
        data, keyframe = bytes(packet), packet.is_keyframe
        if self.stream.codec == "h264":
            keyframe = keyframe or h264.is_keyframe(data)
            if keyframe:
                data = self._complete(data)
        if self.stream.b_frames is not True and self._out_of_order(data, keyframe, shown_at):
            self.stream = replace(self.stream, b_frames=True)
        if decoded_at is None:
            decoded_at, shown_at = shown_at, None
        sound = tuple(self.sound)
        self.sound.clear()
        return AccessUnit(
            data=data,
            keyframe=keyframe,
            decoded_at=decoded_at,
            shown_after=0.0 if shown_at is None or decoded_at is None else shown_at - decoded_at,
            stream=self.stream,
            sound=sound,
        )

    def _time(self, ticks: int | None) -> float | None:
        return None if ticks is None or self._tick is None else ticks * self._tick

    def _complete(self, data: bytes) -> bytes:
        """Puts the parameter sets before a keyframe, after having taken note of those that are there."""
        brought = h264.parameter_sets(data)
        if any(nal not in self._sets for nal in brought):
            kinds = {nal[0] & 0x1F for nal in brought}
            self._sets = (*(nal for nal in self._sets if nal[0] & 0x1F not in kinds), *brought)
            self._sets = tuple(sorted(self._sets, key=lambda nal: nal[0] & 0x1F))
            self.stream = _with_sets(self.stream, self._sets)
        return h264.with_parameter_sets(data, self._sets)

    def _out_of_order(self, data: bytes, keyframe: bool, shown_at: float | None) -> bool:
        if shown_at is not None:
            if 0 < self._newest - shown_at < _MAX_REORDER:
                return True
            self._newest = shown_at
        if self.stream.codec != "h264" or keyframe or self.stream.b_frames is False or self._inspected >= _INSPECTED:
            return False
        self._inspected += 1
        return h264.has_b_slice(data)

    def _describe(self) -> StreamFormat:
        video = self._demuxer.video
        context = video.codec_context
        codec = context.codec.canonical_name
        if codec == _NO_BYTES:
            self._repack, codec = _raw_packer(context), "rawvideo"
        extradata = context.extradata or b""
        rate = as_float(video.average_rate or video.guessed_rate)
        stream = StreamFormat(
            codec=codec,
            width=context.width,
            height=context.height,
            extradata=extradata,
            pixel_format=context.pix_fmt,
            b_frames=True if context.has_b_frames else None,
            frame_rate=rate if rate is not None and rate <= _MAX_FRAME_RATE else None,
        )
        if codec == "vp8":
            stream = replace(stream, b_frames=False, interlaced=False)
        if codec == "h264":
            if extradata[:1] == b"\x01":  # avcC; Annex B begins with a start code
                self._repack = _annex_b_packer(video)
            self._sets = h264.parameter_sets(extradata)
            stream = _with_sets(stream, self._sets)
        return replace(stream, **self._facts)


def _goes_on(data: bytes) -> bool:
    """Tells whether these slices belong to the picture before: they do not begin with its first macroblock."""
    first = next((nal for nal in h264.nal_units(data) if nal[0] & 0x1F in {h264.SLICE, h264.IDR}), b"")
    # first_mb_in_slice comes first, and 0 is a single 1 in Exp-Golomb (ITU-T H.264 section 7.3.3).
    return len(first) > 1 and not first[1] & 0x80


def _joined(parts: list[AccessUnit]) -> AccessUnit:
    first, *others = parts
    if not others:
        return first
    slices = [nal for part in others for nal in h264.nal_units(part.data) if nal[0] & 0x1F in {h264.SLICE, h264.IDR}]
    return replace(
        first,
        data=first.data + b"".join(_START_CODE[1:] + nal for nal in slices),
        decoded_at=next((part.decoded_at for part in parts if part.decoded_at is not None), None),
        stream=parts[-1].stream,
        sound=tuple(packet for part in parts for packet in part.sound),
    )


def _with_sets(stream: StreamFormat, sets: tuple[bytes, ...]) -> StreamFormat:
    stream = replace(stream, extradata=b"".join(_START_CODE + nal for nal in sets))
    sps = next((sps for nal in sets if (sps := h264.parse_sps(nal)) is not None), None)
    if sps is None:
        return stream
    return replace(
        stream,
        width=sps.width,
        height=sps.height,
        profile=sps.profile,
        constraints=sps.constraints,
        level=sps.level,
        interlaced=sps.interlaced,
        b_frames=False if sps.reorder_frames == 0 else stream.b_frames,
    )


def _annex_b_packer(video: VideoStream) -> Callable[[Packet[Any]], list[Packet[Any]]]:
    convert: Any = BitStreamFilterContext("h264_mp4toannexb", video)  # stubs leave the kind of packets open

    def pack(packet: Packet[Any]) -> list[Packet[Any]]:
        try:
            packets: list[Packet[Any]] = convert.filter(packet)
        except FFmpegError:  # lengths that lead out of the packet
            convert.flush()
            raise
        return packets

    return pack


def _raw_packer(context: VideoCodecContext) -> Callable[[Packet[Any]], list[Packet[Any]]]:
    encoder: Any = VideoCodecContext.create("rawvideo", "w")
    encoder.width, encoder.height, encoder.pix_fmt = context.width, context.height, context.pix_fmt
    encoder.time_base = Fraction(1, 1)  # is not used, but must be set
    return lambda packet: [raw for picture in packet.decode() for raw in encoder.encode(picture)]


def _rotation(keyframe: Packet[VideoStream]) -> int:
    context: Any = keyframe.stream.codec_context
    context.thread_count = 1  # no threads for one picture
    try:
        pictures: list[av.VideoFrame] = context.decode(keyframe) or context.decode(None)
    except (FFmpegError, OSError, ValueError):
        return 0
    return -pictures[0].rotation % 360 if pictures else 0


def same_decoding(one: StreamFormat, other: StreamFormat) -> bool:
    """Tells whether a decoder of one format can go on with the other."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("codec", "width", "height", "extradata", "pixel_format", "rotation")
    )


def scan(reader: AccessUnitReader) -> tuple[StreamFormat, dict[str, Any]]:
    """Reads the beginning of a recording, and tells what can be seen there of the stream. Nothing of it is kept.

    Args:
        reader: Where from.

    Returns:
        What it is in, and of that what was found out here, as fields of `StreamFormat`.

    Raises:
        SourceError: Nothing could be read.
    """
    times: list[float] = []
    starts: list[float] = []
    b_frames: bool | None = None
    reader.look_for_turn()
    size = largest = 0
    step = 1 / (reader.stream.frame_rate or _DEFAULT_FRAME_RATE)
    while size < SCAN_BYTES and (not times or times[-1] - times[0] < SCAN_TIME):
        try:
            unit = reader.read()
        except SourceError:
            if not times:
                raise
            break  # the rest is told when it is reached
        if unit is None:
            break
        size += len(unit.data)
        times.append(unit.decoded_at if unit.decoded_at is not None else len(times) * step)
        if unit.keyframe:
            starts.append(times[-1])
            largest = max(largest, len(unit.data))
        b_frames = unit.stream.b_frames or False
    facts: dict[str, Any] = {"rotation": reader.rotation, "b_frames": b_frames}
    if starts:
        facts["keyframe_size"] = largest
        # The last GOP is as long as has been seen at least.
        facts["gop"] = max(b - a for a, b in pairwise([*starts, times[-1] + step]))
    if len(times) > 1 and times[-1] > times[0]:
        rate = (len(times) - 1) / (times[-1] - times[0])
        if rate <= _MAX_FRAME_RATE:
            facts["frame_rate"] = round(rate, 3)
    return replace(reader.stream, **facts), facts
