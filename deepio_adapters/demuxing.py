"""One opening of a medium by FFmpeg, through PyAV: its packets in decoding order, bounded in time, interruptible."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import av
import av.error
from av.stream import Disposition

from deepio_adapters import av_interrupt
from deepio_adapters.av_faults import open_fault, read_fault
from deepio_adapters.source_urls import SourceError, SourceKind, SourceUrl

if TYPE_CHECKING:
    import threading

    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["Demuxer", "as_float"]

_log = logging.getLogger(__name__)

# FFmpeg's containers and protocols whose frames arrive when they are taken. All others are paced by us: also
# what comes over HTTP, where recordings arrive faster than they play and HLS arrives a segment at a time.
_LIVE_FORMATS = frozenset({"rtsp", "rtp", "sdp", "mpjpeg"})

# Their time stamps count frames at an assumed rate instead of telling the time.
_FORMATS_WITHOUT_CLOCK = frozenset({"mpjpeg"})

# FFmpeg takes plain text for ANSI art and makes video of it; nobody means that.
_TEXT_FORMATS = frozenset({"tty"})

_EAGAIN_WAIT = 0.005
"""Seconds between two looks at a device that has no frame yet and does not block."""


class _Rational(Protocol):
    @property
    def numerator(self) -> int: ...
    @property
    def denominator(self) -> int: ...


def as_float(value: _Rational | None) -> float | None:
    """Returns a rational of whatever library as a number; None for none, and for 0, which stands for unknown."""
    # PyAV 19 has a rational of its own here, which is no Fraction.
    return value.numerator / value.denominator if value and value.numerator and value.denominator else None


class Demuxer:
    """A medium that is open. All methods belong in one thread; setting `stop` ends what it does there.

    Attributes:
        video: PyAV's stream of the pictures.
        sound: PyAV's stream of the sound that goes with them, if it was asked for and there is any.
        container: FFmpeg's name of the container or protocol.
        live: Packets come when they are taken, instead of as fast as they are read.
        has_clock: The time stamps tell the time.
    """

    def __init__(
        self,
        url: SourceUrl,
        *,
        options: Mapping[str, str],
        timeout: tuple[float, float],
        stop: threading.Event,
        audio: bool = False,
    ) -> None:
        """Opens `url`; blocks, for `timeout[0]` seconds at most.

        Args:
            url: What to open.
            options: FFmpeg's options.
            timeout: Seconds to wait at most for the opening, and for each packet.
            stop: Ends what blocks when it is set.
            audio: Look for sound too.

        Raises:
            SourceError: It cannot be opened, or holds no video that can be used.
        """
        self._url = url
        self._stop = stop
        self._timeout = timeout
        if not av_interrupt.install():
            _log.debug("this PyAV cannot be interrupted; a blocked read ends after its timeout")
        self._container = self._open(options)
        try:
            self.container = self._container.format.name
            self.live = url.kind is SourceKind.DEVICE or self.container in _LIVE_FORMATS
            self.has_clock = self.container not in _FORMATS_WITHOUT_CLOCK
            self.video = self._choose_video()
            self.sound = self._choose_sound() if audio else None
        except BaseException:
            self._container.close()
            raise
        self._packets: Iterator[Packet[Any]] = iter(())
        # Seconds that reading has waited since the last picture: sound alone does not keep a camera alive.
        self._without_pictures = 0.0
        self._demux()

    def read(self) -> Packet[VideoStream] | Packet[AudioStream] | None:
        """Returns the next packet of pictures or sound; None at the end.

        Raises:
            SourceError: Reading failed, or nothing came for `timeout[1]` seconds; of a live source, no picture.
        """
        started = time.monotonic()
        fault: Exception
        while True:
            try:
                with av_interrupt.interruptible(self._stop):
                    packet = next(self._packets, None)
                # FFmpeg answers a read that was broken off with what its parser had left: that would hide the silence.
                waited = time.monotonic() - started
                if waited < self._timeout[1] and not self._stalls(packet, waited):
                    # An empty packet ends each stream, so that decoders give out what they hold.
                    if packet is not None and not packet.size:
                        continue
                    return packet
                fault = TimeoutError()
            except (av.error.FFmpegError, OSError) as exception:
                fault = exception
            waited = time.monotonic() - started
            # Some devices never block and say so while they have no frame.
            again = isinstance(fault, BlockingIOError) and waited < self._timeout[1]
            if not again or self._stop.wait(_EAGAIN_WAIT):
                waited = max(waited, self._without_pictures)
                raise read_fault(self._url, fault, waited=waited, limit=self._timeout[1])
            self._demux()

    def _stalls(self, packet: Packet[Any] | None, waited: float) -> bool:
        """Whether there is sound, but have been no pictures for too long."""
        is_sound = packet is not None and self.sound is not None and packet.stream_index == self.sound.index
        self._without_pictures = self._without_pictures + waited if is_sound else 0.0
        return self.live and self._without_pictures >= self._timeout[1]

    def close(self) -> None:
        """Closes it; idempotent."""
        self._packets = iter(())
        self._container.close()

    def _open(self, options: Mapping[str, str]) -> InputContainer:
        started = time.monotonic()
        try:
            with av_interrupt.interruptible(self._stop):
                return av.open(
                    self._url.target,
                    format=self._url.format,
                    options=dict(options),
                    timeout=self._timeout,
                    metadata_errors="replace",
                )
        except (av.error.FFmpegError, OSError, ValueError) as exception:
            fault = exception
        # Raised out here, so that PyAV's error with the whole URL in it is not in the context of ours.
        waited = time.monotonic() - started
        raise open_fault(self._url, fault, waited=waited, limit=self._timeout[0])

    def _choose_video(self) -> VideoStream:
        name = self._url.name
        if self._url.format is None and self.container in _TEXT_FORMATS:
            raise SourceError(f"{name} is not a media file.", remedy="Name a video.")
        # The cover picture of a piece of music is a video stream to FFmpeg.
        streams = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise SourceError(f"{name} holds no video.", remedy="Name a source with a video stream.")
        # Stubs say otherwise, but a stream in a codec unknown to FFmpeg has no context.
        if cast("object", streams[0].codec_context) is None:
            raise SourceError(f"{name} is in a codec that this FFmpeg does not decode.", remedy="Convert it.")
        return streams[0]

    def _choose_sound(self) -> AudioStream | None:
        streams = [s for s in self._container.streams.audio if cast("object", s.codec_context) is not None]
        return streams[0] if streams else None

    def _demux(self) -> None:
        self._packets = self._container.demux(*[s for s in (self.video, self.sound) if s is not None])
