"""Media that FFmpeg opens: files, HTTP, RTSP and capture devices, through PyAV."""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepio_adapters.access_units import AccessUnit, AccessUnitReader, scan
from deepio_adapters.audio import AudioTap, SoundDecoder
from deepio_adapters.decoding import MAX_ERRORS_IN_A_ROW, PictureDecoder
from deepio_adapters.demuxing import Demuxer
from deepio_adapters.freed_memory import give_back
from deepio_adapters.media import SourceGap, SourcePacket
from deepio_adapters.reconnecting import Reconnector, ReconnectPolicy
from deepio_adapters.source_urls import SourceError, SourceKind, SourceUrl
from deepio_adapters.sources import Source, SourceClosedError, SourceFrame, SourceInfo
from deepio_adapters.timeline import LiveTimeline, Pacer, RecordedTimeline
from deepio_core.errors import LocalProtocolError

if TYPE_CHECKING:
    from av.packet import Packet

    from deepio_core.media.stream import StreamFormat

__all__ = ["READ_AHEAD", "AvSource"]

_log = logging.getLogger(__name__)

READ_AHEAD = 0.4
"""Seconds that packets of a recording are handed over before they are due, at most."""

_BATCH = 0.3
"""Seconds of a recording that are read in one go: the thread wakes some three times a second."""

_HOLD = 0.1
"""Seconds before they are due that packets of a file are handed over at the latest. Until then they wait for those that
are read in the same go: who takes them wakes once, and does not get in the way of reading."""

_DEFAULT_INTERVAL = 1 / 25
"""Seconds between frames where the medium does not say."""

_MAX_INTERVAL = 1.0
"""Seconds until the next picture at most, as far as it is told: what is spread over them must not wait longer."""


class AvSource(Source):
    """A source that FFmpeg opens.

    Attributes:
        decode_errors: Packets that `frames` could not decode; they are skipped.
        packets_damaged: Packets that were left out because their bytes are not what the container says.
        packets_skipped: Packets before the first keyframe, after each opening.
    """

    def __init__(
        self,
        url: SourceUrl,
        *,
        options: Mapping[str, str],
        loop: bool = False,
        timeout: tuple[float, float] | None = None,
        reconnect: ReconnectPolicy | None = None,
        audio: bool = False,
    ) -> None:
        super().__init__(url.name)
        self._url = url
        self._options = {**url.default_options, **({} if audio else url.options_without_audio), **options}
        self._loop = loop
        self._timeout = timeout or url.default_timeout
        self._reconnector = None if reconnect is None else Reconnector(reconnect, self._closed)
        self._demuxer: Demuxer | None = None
        self._reader: AccessUnitReader
        self._tap = AudioTap() if audio else None
        self._sound: SoundDecoder | None = None
        self._is_local = False
        self._facts: dict[str, Any] = {}
        self._info: SourceInfo | None = None
        self._stream: StreamFormat | None = None
        self._last_due = 0.0
        self.decode_errors = 0
        self.packets_damaged = 0
        self.packets_skipped = 0

    def open(self) -> SourceInfo:
        """Opens the source, finds its video stream, and looks at the beginning of a file.

        Raises:
            SourceError: It cannot be opened.
            LocalProtocolError: It was opened before.
        """
        if self._info is not None:
            raise LocalProtocolError(f"{self.name} is open already.", remedy="Make a new source for each use.")
        with self._step():
            demuxer = self._open_demuxer()
            self._is_local = self._url.kind is SourceKind.FILE and _is_regular_file(self._url.target)
            if not demuxer.live and self._is_local:
                stream = self._scan()
            else:
                stream = self._reader.stream
            self._stream = stream
        lies = stream.rotation in {90, 270}
        self._info = SourceInfo(
            width=stream.height if lies else stream.width,
            height=stream.width if lies else stream.height,
            frame_rate=stream.frame_rate,
            live=demuxer.live,
            codec=stream.codec,
            container=demuxer.container,
            stream=stream,
        )
        return self._info

    def make_ready(self) -> None:
        """Opens a file that was looked at; see `Source.make_ready`."""
        if self._demuxer is None:
            self._open_again()

    @property
    def audio(self) -> AudioTap | None:
        """The sound, if it was asked for and there is any; known once the source is open."""
        return self._tap if self._sound is not None else None

    def close(self, timeout: float = 2.0) -> bool:
        """Ends the source; see `Source.close`."""
        closed = super().close(timeout)
        if self._tap is not None:
            self._tap.close()
        return closed

    def packets(self) -> Iterator[SourcePacket | SourceGap]:
        """Yields the packets, from a keyframe on; those of recordings up to `READ_AHEAD` before they are due.

        A recording ends when its last picture has been shown, or starts again. A live source that is lost is opened
        again, unless it was made not to be; what comes after a `SourceGap` begins with a keyframe.

        Raises:
            SourceError: Reading failed, there is no keyframe, or a live source ended.
            LocalProtocolError: `open` was not called.
        """
        info = self._opened()
        try:
            yield from self._packets(info)
            self._closed.wait(max(0.0, self._last_due - time.monotonic()))
        finally:
            self.close()

    def frames(self) -> Iterator[SourceFrame]:
        """Yields decoded pictures; at the end of a recording, starts again or ends.

        Raises:
            SourceError: Reading failed, nothing can be decoded, or a live source ended.
            LocalProtocolError: `open` was not called.
        """
        info = self._opened()
        decoder: PictureDecoder | None = None
        try:
            for packet in self._packets(info):
                if isinstance(packet, SourceGap):
                    if decoder is not None:
                        decoder.flush()
                    continue
                if decoder is None:
                    decoder = PictureDecoder(packet.stream)
                yield from self._due(decoder.decode(packet))
                self.decode_errors = decoder.errors
                if decoder.errors_in_a_row > MAX_ERRORS_IN_A_ROW:
                    raise SourceError(
                        f"{decoder.errors_in_a_row} packets of {self.name} in a row cannot be decoded.",
                        remedy="Try to play it.",
                    )
            if decoder is not None and not self._closed.is_set():
                yield from self._due(decoder.flush())
                if not decoder.pictures:
                    raise self._no_picture()
        finally:
            self.close()

    def _due(self, frames: list[SourceFrame]) -> Iterator[SourceFrame]:
        for frame in frames:
            if self._closed.wait(max(0.0, frame.captured_at - time.monotonic())):
                return
            yield frame

    def _opened(self) -> SourceInfo:
        if self._info is None:
            raise LocalProtocolError(f"{self.name} is not open.", remedy="Call open first.")
        return self._info

    def _packets(self, info: SourceInfo) -> Iterator[SourcePacket | SourceGap]:
        try:
            yield from self._live_packets() if info.live else self._recorded_packets(info)
        except SourceClosedError:
            return

    def _recorded_packets(self, info: SourceInfo) -> Iterator[SourcePacket]:
        self.make_ready()
        timeline = RecordedTimeline(1 / info.frame_rate if info.frame_rate else _DEFAULT_INTERVAL)
        pacer = Pacer(self._closed, read_ahead=READ_AHEAD, batch=_BATCH)
        first: float | None = None
        while True:
            shift: tuple[float, float] | None = None
            held: list[SourcePacket] = []
            try:
                for unit in self._units():
                    pts = timeline.stamp(unit.decoded_at)
                    if held and pacer.would_wait(pts):
                        yield from _all_of(held)
                    due = pacer.wait(pts)
                    if due is None:
                        return
                    first = unit.shown_after if first is None else first
                    later = unit.shown_after - first
                    if unit.decoded_at is not None:
                        shift = pts - first - unit.decoded_at, due - first - unit.decoded_at
                        self._hear(unit.sound, *shift)
                    self._last_due = max(self._last_due, due + later)
                    held.append(_packet(unit, pts + later, due + later, timeline.interval))
                    if not self._is_local or due < time.monotonic() + _HOLD:
                        yield from _all_of(held)
            except SourceError:
                yield from held
                raise
            yield from held
            if shift is not None:
                self._hear(self._reader.sound, *shift)
            if not self._loop:
                return
            # Opened anew rather than sought back: that works for what cannot seek.
            self._open_again()
            timeline.restart()

    def _live_packets(self) -> Iterator[SourcePacket | SourceGap]:
        timeline = LiveTimeline(_interval(self._reader.stream))
        while True:
            opened = time.monotonic()
            try:
                yield from self._taken_packets(timeline)
            except SourceClosedError:
                raise
            except SourceError as error:
                fault = error
            else:
                fault = SourceError(f"{self.name} ended.", remedy="Check that the camera or server is still running.")
            if self._reconnector is None:
                raise fault
            _log.warning("a source was lost and is opened again: %s", fault.message)
            yield from self._reconnector.reconnect(fault, time.monotonic() - opened, self._open_again)
            if not self._closed.is_set():
                _log.info("%s is back", self.name)
            timeline.restart()

    def _taken_packets(self, timeline: LiveTimeline) -> Iterator[SourcePacket]:
        first: float | None = None
        for unit in self._units():
            now = time.monotonic()
            pts = timeline.stamp(unit.decoded_at, now)
            first = unit.shown_after if first is None else first
            if unit.decoded_at is not None:
                self._hear(unit.sound, pts - first - unit.decoded_at, None)
            yield _packet(unit, pts + unit.shown_after - first, now, timeline.interval)

    def _units(self) -> Iterator[AccessUnit]:
        """The pictures of one opening, from the first keyframe on."""
        begun, skipped = False, 0
        while True:
            with self._step():
                unit = self._reader.read()
            self.packets_damaged = self._reader.damaged
            if unit is None:
                break
            begun = begun or unit.keyframe
            if begun:
                self._stream = unit.stream
                yield unit
                continue
            skipped += 1
            self.packets_skipped += 1
            if skipped > MAX_ERRORS_IN_A_ROW:
                raise SourceError(
                    f"{skipped} packets of {self.name} in a row are no keyframe.", remedy="Let it make keyframes."
                )
        if not begun:
            raise self._no_picture()

    def _hear(self, sound: Sequence[Packet[Any]], to_pts: float, to_due: float | None) -> None:
        if self._sound is None or not sound:
            return
        with self._step():  # the decoder belongs to what is open
            for packet in sound:
                self._sound.decode(packet, to_pts=to_pts, to_due=to_due)

    def _no_picture(self) -> SourceError:
        return SourceError(f"No picture of {self.name} can be decoded.", remedy="Try to play it.")

    def _scan(self) -> StreamFormat:
        stream, self._facts = scan(self._reader)
        if stream.keyframe_size is None:
            raise self._no_picture()
        # It is opened anew when it is played. Whatever was opened and read here, a decoder above all, would stay.
        self._release()
        del self._reader
        return stream

    def _open_again(self) -> None:
        with self._step():
            self._open_demuxer()

    def _open_demuxer(self) -> Demuxer:
        self._release()
        demuxer = self._demuxer = Demuxer(
            self._url,
            options=self._options,
            timeout=self._timeout,
            stop=self._closed,
            audio=self._tap is not None,
        )
        self._reader = AccessUnitReader(demuxer, known=self._stream, facts=self._facts)
        self._reader.damaged = self.packets_damaged
        if self._tap is not None and demuxer.sound is not None:
            self._sound = SoundDecoder(demuxer.sound, self._tap, self._sound)
        give_back()  # FFmpeg has decoded some pictures to find out what it is
        return demuxer

    def _release(self) -> None:
        demuxer, self._demuxer = self._demuxer, None
        if demuxer is not None:
            demuxer.close()


def _all_of(held: list[SourcePacket]) -> Iterator[SourcePacket]:
    """Yields what is held, and forgets it."""
    packets = held.copy()
    held.clear()
    yield from packets


def _packet(unit: AccessUnit, pts: float, captured_at: float, interval: float) -> SourcePacket:
    return SourcePacket(
        data=unit.data,
        stream=unit.stream,
        keyframe=unit.keyframe,
        pts=pts,
        captured_at=captured_at,
        interval=min(interval, _MAX_INTERVAL),
    )


def _interval(stream: StreamFormat) -> float:
    return 1 / stream.frame_rate if stream.frame_rate else _DEFAULT_INTERVAL


def _is_regular_file(target: str) -> bool:
    try:
        return stat.S_ISREG(os.stat(target.removeprefix("file:")).st_mode)
    except OSError:
        return False
