"""Where video comes from: files, URLs, cameras, the test pattern, and arrays made by the application.

`parse_source` turns what a user writes into a `Source` without touching the network or the disk. A source
does its blocking work in the thread that calls it, never in an event loop; `source_pump.SourcePump` is the
thread for that, and hands over the newest frame through a `slots.LatestSlot`.

Sources hand out decoded pictures (`Source.frames`). Those that hold compressed video hand it out as it is too
(`Source.packets`), for those who copy it or decode it elsewhere.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from deepio_adapters.imports import import_lock
from deepio_adapters.source_urls import SourceError, SourceUrl, redact
from deepio_core.errors import LocalProtocolError
from deepio_core.records import dataclass

if TYPE_CHECKING:
    import av
    import numpy as np
    from numpy.typing import NDArray

    from deepio_adapters.audio import AudioTap
    from deepio_adapters.media import SourceGap, SourcePacket
    from deepio_adapters.reconnecting import ReconnectPolicy
    from deepio_core.media.stream import StreamFormat

__all__ = [
    "FrameFeed",
    "Source",
    "SourceError",
    "SourceFrame",
    "SourceInfo",
    "parse_source",
    "redact",
]

VIDEO_CLOCK = 90_000
"""Ticks per second of picture time stamps: the RTP clock of every video codec (RFC 3551 section 5)."""

DEFAULT_FRAME_RATE = 30.0
"""Frames per second taken from the application's arrays when it names no rate, as hyperpeer-py does."""

FrameFeed: TypeAlias = "Callable[[], Any] | Iterable[NDArray[np.uint8]] | AsyncIterable[NDArray[np.uint8]]"
"""What may make frames: an iterable, or a callable that returns one frame or an iterable; plain or async."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """What a source turned out to be when it was opened."""

    width: int
    """Width in pixels of the first picture, as far as it is known before decoding."""
    height: int
    """Height in pixels, likewise."""
    frame_rate: float | None
    """Frames per second announced by the source; None when it announces none."""
    live: bool
    """True when frames come at their own pace; False when we pace them by their time stamps."""
    codec: str | None = None
    """Name of the codec the packets are in, as FFmpeg calls it ("h264", "vp8"); None when there are no
    packets."""
    container: str | None = None
    """FFmpeg's name of the container or protocol; None when there is none."""
    stream: StreamFormat | None = None
    """What the packets are in, when the source has `packets`; None when it has only `frames`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFrame:
    """One picture, and when it was taken."""

    picture: av.VideoFrame
    """The picture in whatever pixel format the source delivers; `pts` and `time_base` carry `pts` below at 90
    kHz."""
    pts: float
    """Seconds from the first frame; strictly increasing, over loops too."""
    captured_at: float
    """When the frame was due (a recording) or came out of the source (live): seconds of `time.monotonic`."""
    width: int
    """Width in pixels."""
    height: int
    """Height in pixels."""

    def to_bgr(self) -> NDArray[np.uint8]:
        """Returns the picture as a new uint8 array (height, width, 3) in OpenCV's BGR order."""
        array = cast("NDArray[np.uint8]", self.picture.to_ndarray(format="bgr24"))
        # Without a conversion, PyAV lends the memory of the picture.
        return array.copy() if self.picture.format.name == "bgr24" else array


def stamp(picture: av.VideoFrame, pts: float, captured_at: float) -> SourceFrame:
    """Writes `pts` (seconds) into the picture and wraps it up."""
    picture.pts = round(pts * VIDEO_CLOCK)
    picture.time_base = Fraction(1, VIDEO_CLOCK)
    return SourceFrame(picture=picture, pts=pts, captured_at=captured_at, width=picture.width, height=picture.height)


class SourceClosedError(SourceError):
    """The source was closed while it was being opened."""


class Source(ABC):
    """A video source, used once: `open`, then `frames`, then `close`.

    `open` and the iteration block and belong in one worker thread; `close` may come from any thread at any
    time.

    Attributes:
        name: What to call it in messages: a path, a redacted URL, or a description. Never holds a secret.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._closed = threading.Event()
        # Held by the reading thread while it may be inside the library that does the work; whoever holds it
        # may release what the source has open, nobody else.
        self._working = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @abstractmethod
    def open(self) -> SourceInfo:
        """Opens the source; blocks, bounded by its timeout.

        Raises:
            SourceError: It cannot be opened; the message says why, the remedy what to do.
        """

    @abstractmethod
    def frames(self) -> Iterator[SourceFrame]:
        """Yields frames until the source ends or is closed; recordings are paced by their time stamps.

        Raises:
            SourceError: The source broke off.
        """

    def packets(self) -> Iterator[SourcePacket | SourceGap]:
        """Yields compressed pictures, undecoded, instead of `frames`; for sources that have `SourceInfo.stream`.

        Packets of a recording come somewhat before they are due, and its end with the end of its last picture. Those of
        a live source come at once; if it is lost, `SourceGap` says so before each attempt to open it again.

        Raises:
            SourceError: The source broke off.
            LocalProtocolError: The source has no packets.
        """
        raise LocalProtocolError(f"{self.name} has no packets.", remedy="Use frames.")

    def make_ready(self) -> None:  # noqa: B027 - most sources are, once they are open
        """Does what would make the first frame or packet wait, if there is any; called when `open` has told its result.

        Raises:
            SourceError: As from `frames` and `packets`, which do it themselves otherwise.
        """

    @property
    def audio(self) -> AudioTap | None:
        """The sound that goes with the pictures; None if the source has none or was not asked for it."""
        return None

    @property
    def application_part(self) -> Callable[[], Coroutine[Any, Any, None]] | None:
        """What has to run in the application's own event loop for as long as the source lives; None for most."""
        return None

    @property
    def closed(self) -> bool:
        """True once `close` was called."""
        return self._closed.is_set()

    def close(self, timeout: float = 2.0) -> bool:
        """Ends the source and what blocks in it; idempotent, from any thread, in at most `timeout` seconds.

        Returns:
            True when everything is released. False when the reading thread is still stuck in the system or in
            the application's code; then it releases everything as soon as it returns from there.
        """
        self._closed.set()
        if not self._working.acquire(timeout=max(0.0, timeout)):
            return False
        try:
            self._release()
        finally:
            self._working.release()
        return True

    def _release(self) -> None:  # noqa: B027 - many sources hold nothing
        """Frees what the source holds; called with `_working` held, possibly several times."""

    @contextmanager
    def _step(self) -> Generator[None]:
        """Brackets every piece of work that may block; raises SourceClosedError instead of starting too late."""
        with self._working:
            try:
                if self._closed.is_set():
                    raise SourceClosedError(f"{self.name} was closed.")
                yield
            except SourceError:
                if not self._closed.is_set():
                    raise
                closed = True
            else:
                closed = self._closed.is_set()
            finally:
                if self._closed.is_set():
                    self._release()
        if closed:  # whatever went wrong in the step came from being closed
            raise SourceClosedError(f"{self.name} was closed.")


def parse_source(
    source: str | Path | FrameFeed,
    *,
    format: str | None = None,  # noqa: A002 - the documented name
    options: Mapping[str, str] | None = None,
    loop: bool = False,
    frame_rate: float | None = None,
    timeout: tuple[float, float] | None = None,
    reconnect: bool | ReconnectPolicy = True,
    audio: bool = False,
) -> Source:
    """Understands what a user gives as a source; does no I/O.

    Args:
        source: A path; an `http(s)://` or `rtsp(s)://` URL; a camera device such as `/dev/video0`;
            `test:[WIDTHxHEIGHT][@RATE]` for the test pattern; or what makes frames (`FrameFeed`): uint8
            arrays of shape (height, width, 3) in BGR order, copied when they are taken.
        format: FFmpeg's name of the input format; needed for devices other than `/dev/video*` (`v4l2`,
            `avfoundation`).
        options: FFmpeg's options for this input; they win over ours. Such as `rtsp_transport` ("tcp", which is our
            default, or "udp"), or for a camera device `video_size` ("1280x720"), `framerate`, and `input_format`
            ("h264", "mjpeg", "yuyv422": what v4l2 calls them). One that FFmpeg does not know is ignored without a word.
        loop: Start again at the end (files and callables; the test pattern has no end).
        frame_rate: Frames per second taken from what makes frames (default 30); media bring their own rate.
        timeout: Seconds to wait at most for the opening, and for more data later; None for what suits the
            kind of source.
        reconnect: Open a live source again when it is lost, and when; only the first opening can fail. Recordings and
            frames that the application makes are not opened again.
        audio: Take the sound of media too; see `Source.audio`.

    Raises:
        SourceError: It is not a source, or an argument does not go with it.
    """
    if frame_rate is not None and not 0 < frame_rate <= 1000:
        raise SourceError(
            f"A frame rate of {frame_rate} is not possible.", remedy="Give frames per second, up to 1000."
        )
    if isinstance(source, (str, Path)):
        if isinstance(source, str) and source.startswith("test:"):
            _refuse("the test pattern", format=format, options=options, timeout=timeout, audio=audio)
            with import_lock:
                from deepio_adapters.test_pattern import parse_pattern

            return parse_pattern(source, frame_rate)
        if frame_rate is not None:
            raise SourceError(
                f"{redact(str(source))} brings its own frame rate.",
                remedy="Leave frame_rate out; it is for frames that the application makes.",
            )
        with import_lock:
            from deepio_adapters.av_source import AvSource
            from deepio_adapters.reconnecting import ReconnectPolicy

        if isinstance(reconnect, bool):
            reconnect_when = ReconnectPolicy() if reconnect else None
        else:
            reconnect_when = reconnect
        return AvSource(
            SourceUrl.parse(source, format),
            options=options or {},
            loop=loop,
            timeout=timeout,
            reconnect=reconnect_when,
            audio=audio,
        )
    _refuse("frames made by the application", format=format, options=options, timeout=timeout, audio=audio)
    with import_lock:
        from deepio_adapters.frame_sources import frame_source

    return frame_source(source, frame_rate=frame_rate or DEFAULT_FRAME_RATE, loop=loop)


def _refuse(kind: str, **arguments: object) -> None:
    for name, value in arguments.items():
        if value:
            raise SourceError(f"{name} does not go with {kind}.", remedy=f"Leave {name} out.")
