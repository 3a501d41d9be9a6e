"""What travels from a source to the network, and who takes it: access units, gaps, and the ends of a video sender."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from deepio_core.records import dataclass

if TYPE_CHECKING:
    from deepio_core.media.far import FarVideo
    from deepio_core.media.stream import StreamFormat

__all__ = ["EncodedFrame", "SourceGap", "SourcePacket", "VideoFeedback", "VideoSink"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SourcePacket:
    """One compressed picture of a source, in decoding order."""

    data: bytes = field(repr=False)
    """One access unit. H.264 is in Annex B, with the parameter sets before each IDR picture; everything else is as
    FFmpeg demultiplexes it."""
    stream: StreamFormat
    """What it is in. Another object than that of the packet before means that decoders must begin anew."""
    keyframe: bool
    """Decoding can begin here."""
    pts: float
    """When it is shown: seconds from the first picture, over loops and reconnects. Strictly increasing unless the
    stream has B-frames."""
    captured_at: float
    """When it came out of a live source, or is due from a recording, which can be up to the read-ahead in the future:
    seconds of `time.monotonic`."""
    interval: float
    """Seconds until the next picture, as far as can be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceGap:
    """A live source was lost and is being opened again; what comes next begins with a keyframe."""

    reason: str
    """Why, as a sentence without secrets."""
    attempt: int
    """Number of the attempt that begins now, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EncodedFrame:
    """One picture as it is sent, copied or encoded.

    That is one access unit in H.264 (Annex B, parameter sets before each IDR picture), or one frame in VP8.
    """

    data: bytes = field(repr=False)
    """The bytes."""
    keyframe: bool
    """Decoding can begin here."""
    pts: float
    """Seconds from the first picture, strictly increasing."""
    captured_at: float
    """When the picture was taken or is due, seconds of `time.monotonic`; it leaves no earlier."""
    interval: float
    """Seconds until the next one, as far as can be known; a large one is spread over a part of it."""
    copied: bool = False
    """The bytes are those of the source."""


class VideoSink(Protocol):
    """Where a video sender puts what is to be sent: one RTP stream. All in the thread of the engine room."""

    @property
    def far(self) -> FarVideo:
        """What was agreed, and what the far side can take."""
        ...

    @property
    def backlog(self) -> int:
        """Frames that were due and have not left completely. An encoder waits while it is not 0."""
        ...

    def send(self, frame: EncodedFrame) -> None:
        """Sends a frame when it is due, at once if that is in the past; never blocks, never raises.

        Frames that are due in the future are held, at most as many as the read-ahead of a recording.
        """
        ...


class VideoFeedback(Protocol):
    """What a video sender is told about its RTP stream. All in the thread of the engine room."""

    def started(self, sink: VideoSink) -> None:
        """The connection stands, the codec is agreed: send from now on."""
        ...

    def keyframe_requested(self) -> None:
        """The far side needs a keyframe (PLI or FIR, RFC 4585 section 6.3.1, RFC 5104 section 4.3.1)."""
        ...

    def reported(self, loss: float, round_trip: float | None) -> None:
        """A receiver report came: the part of packets lost since the last one (0 to 1), the round trip in seconds."""
        ...

    def estimated(self, bitrate: int) -> None:
        """The far side estimates that the path carries so many bits per second (REMB, draft-alvestrand-rmcat-remb)."""
        ...

    def drained(self) -> None:
        """`VideoSink.backlog` is 0 again."""
        ...

    def stopped(self) -> None:
        """The stream has ended: nothing may be sent any more."""
        ...
