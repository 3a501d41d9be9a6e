"""Media that FFmpeg opens: files, HTTP, RTSP and capture devices, through PyAV."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol, cast

import av
import av.error
from av.stream import Disposition

from deepio_adapters import av_interrupt
from deepio_adapters.av_faults import open_fault, read_fault
from deepio_adapters.source_urls import SourceError, SourceKind, SourceUrl
from deepio_adapters.sources import Source, SourceClosedError, SourceFrame, SourceInfo, stamp
from deepio_adapters.timeline import LiveTimeline, Pacer, RecordedTimeline
from deepio_core.errors import LocalProtocolError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

__all__ = ["AvSource"]

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

_MAX_DECODE_ERRORS = 500
"""Packets in a row that give no picture before the source is given up: 20 s at 25 fps, the longest GOP of a
camera."""

_DEFAULT_INTERVAL = 1 / 25
"""Seconds between frames where the medium does not say."""


class _Rational(Protocol):
    @property
    def numerator(self) -> int: ...
    @property
    def denominator(self) -> int: ...


class AvSource(Source):
    """A source that FFmpeg opens.

    Attributes:
        decode_errors: Packets that could not be decoded; they are skipped.
    """

    def __init__(
        self,
        url: SourceUrl,
        *,
        options: Mapping[str, str],
        loop: bool = False,
        timeout: tuple[float, float] | None = None,
    ) -> None:
        super().__init__(url.name)
        self._url = url
        self._options = {**url.default_options, **options}
        self._loop = loop
        self._timeout = timeout or url.default_timeout
        self._container: InputContainer | None = None
        self._stream: VideoStream
        self._packets: Iterator[Packet[VideoStream]] = iter(())
        self._has_clock = True
        self._info: SourceInfo | None = None
        self.decode_errors = 0

    def open(self) -> SourceInfo:
        """Opens the source and finds its video stream.

        Raises:
            SourceError: It cannot be opened.
            LocalProtocolError: It was opened before.
        """
        if self._info is not None:
            raise LocalProtocolError(f"{self.name} is open already.", remedy="Make a new source for each use.")
        if not av_interrupt.install():
            _log.debug("this PyAV cannot be interrupted; a blocked read ends after its timeout")
        with self._step():
            self._open_container()
            info = self._describe()
        self._info = info
        return info

    def frames(self) -> Iterator[SourceFrame]:
        """Yields decoded pictures; at the end of a recording, starts again or ends.

        Raises:
            SourceError: Reading failed, nothing can be decoded, or a live source ended.
            LocalProtocolError: `open` was not called.
        """
        if self._info is None:
            raise LocalProtocolError(f"{self.name} is not open.", remedy="Call open first.")
        try:
            yield from self._live_frames() if self._info.live else self._recorded_frames(self._info)
        except SourceClosedError:
            return
        finally:
            self.close()

    def _live_frames(self) -> Iterator[SourceFrame]:
        timeline = LiveTimeline()
        for picture in self._pictures():
            now = time.monotonic()
            yield stamp(picture, timeline.stamp(self._media_time(picture), now), now)
        raise SourceError(f"{self.name} ended.", remedy="Check that the camera or server is still running.")

    def _recorded_frames(self, info: SourceInfo) -> Iterator[SourceFrame]:
        timeline = RecordedTimeline(1 / info.frame_rate if info.frame_rate else _DEFAULT_INTERVAL)
        pacer = Pacer(self._closed)
        while True:
            decoded = 0
            for picture in self._pictures():
                decoded += 1
                pts = timeline.stamp(self._media_time(picture))
                due = pacer.wait(pts)
                if due is None:
                    return
                yield stamp(picture, pts, due)
            if not decoded:
                raise SourceError(f"No picture of {self.name} can be decoded.", remedy="Try to play it.")
            if not self._loop:
                return
            # Opened anew rather than sought back: that works for what cannot seek, and every decoder starts
            # clean.
            with self._step():
                self._open_container()
            timeline.restart()

    def _pictures(self) -> Iterator[av.VideoFrame]:
        errors = 0
        packet: Packet[VideoStream] | None
        while True:
            with self._step():
                packet = self._read()
                pictures = None if packet is None else self._decode(packet)
            if packet is None:
                return
            errors = errors + 1 if pictures is None else 0
            if errors > _MAX_DECODE_ERRORS:
                raise SourceError(
                    f"{errors} packets of {self.name} in a row cannot be decoded.", remedy="Try to play it."
                )
            yield from pictures or ()

    def _read(self) -> Packet[VideoStream] | None:
        started = time.monotonic()
        fault: Exception
        while True:
            try:
                with av_interrupt.interruptible(self._closed):
                    packet = next(self._packets, None)
                # FFmpeg answers a read that was broken off with what its parser had left: that would hide the silence.
                if time.monotonic() - started < self._timeout[1]:
                    return packet
                fault = TimeoutError()
            except (av.error.FFmpegError, OSError) as exception:
                fault = exception
            waited = time.monotonic() - started
            # Some devices never block and say so while they have no frame.
            again = isinstance(fault, BlockingIOError) and waited < self._timeout[1]
            if not again or self._closed.wait(_EAGAIN_WAIT):
                raise read_fault(self._url, fault, waited=waited, limit=self._timeout[1])
            self._demux()

    def _decode(self, packet: Packet[VideoStream]) -> list[av.VideoFrame] | None:
        try:
            return packet.decode()
        except (av.error.FFmpegError, OSError, ValueError):
            self.decode_errors += 1
            return None

    def _open_container(self) -> None:
        self._release()
        started = time.monotonic()
        try:
            with av_interrupt.interruptible(self._closed):
                self._container = av.open(
                    self._url.target,
                    format=self._url.format,
                    options=self._options,
                    timeout=self._timeout,
                    metadata_errors="replace",
                )
        except (av.error.FFmpegError, OSError, ValueError) as exception:
            fault = exception
        else:
            self._stream = self._choose_stream(self._container)
            self._demux()
            return
        # Raised out here, so that PyAV's error with the whole URL in it is not in the context of ours.
        waited = time.monotonic() - started
        raise open_fault(self._url, fault, waited=waited, limit=self._timeout[0])

    def _choose_stream(self, container: InputContainer) -> VideoStream:
        if self._url.format is None and container.format.name in _TEXT_FORMATS:
            raise SourceError(f"{self.name} is not a media file.", remedy="Name a video.")
        # The cover picture of a piece of music is a video stream to FFmpeg.
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise SourceError(f"{self.name} holds no video.", remedy="Name a source with a video stream.")
        stream = streams[0]
        # Stubs say otherwise, but a stream in a codec unknown to FFmpeg has no context.
        if cast("object", stream.codec_context) is None:
            raise SourceError(f"{self.name} is in a codec that this FFmpeg does not decode.", remedy="Convert it.")
        # Decoding frames side by side delays them by one each; where that does not matter, it is faster.
        stream.thread_type = "SLICE" if self._is_live(container) else "AUTO"
        return stream

    def _demux(self) -> None:
        assert self._container is not None, "_open_container has just set it, and only _release clears it"
        self._packets = self._container.demux(self._stream)

    def _is_live(self, container: InputContainer) -> bool:
        return self._url.kind is SourceKind.DEVICE or container.format.name in _LIVE_FORMATS

    def _describe(self) -> SourceInfo:
        assert self._container is not None, "called right after _open_container"
        context, name = self._stream.codec_context, self._container.format.name
        self._has_clock = name not in _FORMATS_WITHOUT_CLOCK
        rate = _as_float(self._stream.average_rate or self._stream.guessed_rate)
        return SourceInfo(
            width=context.width,
            height=context.height,
            # Where FFmpeg has seen too little, it guesses the ticks of the clock.
            frame_rate=rate if rate is not None and rate <= 1000 else None,
            live=self._is_live(self._container),
            codec=context.codec.canonical_name,
            container=name,
        )

    def _media_time(self, picture: av.VideoFrame) -> float | None:
        tick = _as_float(picture.time_base)
        return None if picture.pts is None or tick is None or not self._has_clock else picture.pts * tick

    def _release(self) -> None:
        container, self._container = self._container, None
        self._packets = iter(())
        if container is not None:
            container.close()


def _as_float(value: _Rational | None) -> float | None:
    # PyAV 19 has a rational of its own here, which is no Fraction; 0 stands for unknown.
    return value.numerator / value.denominator if value and value.numerator and value.denominator else None
