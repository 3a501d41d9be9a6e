"""Records received video to a file, in a thread of its own so that a slow disk or encoder stops nobody."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from deepio_adapters.imports import import_lock
from deepio_adapters.threads import stream_thread
from deepio_core.errors import DeepIOError

if TYPE_CHECKING:
    import av

    from deepio_adapters.frames import ReceivedFrame

__all__ = ["Recorder", "RecordingError"]

logger = logging.getLogger(__name__)

WAITING_LIMIT: Final = 16
"""Frames that may wait to be encoded: half a second at 30 frames/s, 22 MB at 720p. What comes on top is dropped."""

CLOCK: Final = 1000
"""Ticks per second of the recorded time stamps: no container is finer than Matroska's, and MPEG-4 takes no 90 kHz."""

TIME_JUMP: Final = 1.0
"""Seconds that a time stamp may be off the time of its arrival before we take it for the start of another stream."""

FRAME_RATE: Final = 30
"""Frames per second announced to encoder and container; the true times are in the time stamps."""


class RecordingError(DeepIOError):
    """The video cannot be recorded."""


class Recorder:
    """Encodes frames and writes them to one file, over successive connections too.

    Args:
        path: The file; its name tells the container ("out.mp4", "out.webm", "out.mkv").

    Raises:
        RecordingError: The file cannot be written or the container is not known. (The constructor opens the file and
            may block.)
    """

    def __init__(self, path: str) -> None:
        with import_lock:
            import av

        self.path = path
        self.dropped = 0
        """Frames that were not recorded: too many waiting, or not to be encoded."""
        try:
            if "://" not in path and not os.access(Path(path).parent, os.W_OK):
                # FFmpeg opens the file with the first picture, when nobody is left to be told.
                raise PermissionError("its folder cannot be written")
            # Any: av's stubs leave the type of packets open.
            self._container: Any = av.open(path, mode="w")
        except (OSError, ValueError) as error:  # av's errors are subclasses of these
            raise RecordingError(
                f"Video cannot be recorded to {path}: {error}.",
                remedy="Give a file in a folder that can be written, with a known ending such as .mp4.",
            ) from error
        self._stream: Any = None
        self._offset = 0.0
        self._last = -1
        self._started_at = 0.0
        self._negotiation: int | None = None
        self._frames: queue.Queue[ReceivedFrame | None] = queue.Queue(WAITING_LIMIT)
        self._thread = stream_thread(self._run, name="deepio-recorder", daemon=False)
        self._thread.start()

    def put(self, frame: ReceivedFrame) -> None:
        """Has a frame recorded; never blocks, drops it if too many are waiting."""
        try:
            self._frames.put_nowait(frame)
        except queue.Full:
            self.dropped += 1

    def close(self, timeout: float = 5.0) -> bool:
        """Writes what is waiting, finishes the file and ends the thread; blocks for at most about `timeout` seconds.

        Returns:
            False when it takes longer: the thread goes on alone.
        """
        with contextlib.suppress(queue.Full):
            self._frames.put(None, timeout=timeout)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (frame := self._frames.get()) is not None:
            try:
                self._write(frame)
            except (OSError, ValueError) as error:
                if not self.dropped:
                    logger.warning("A frame could not be recorded to %s: %s", self.path, error)
                self.dropped += 1
        try:
            with contextlib.closing(self._container):
                if self._stream is not None:
                    self._container.mux(self._stream.encode(None))
        except (OSError, ValueError) as error:
            logger.error("The recording %s could not be finished: %s", self.path, error)

    def _write(self, frame: ReceivedFrame) -> None:
        if self._stream is None:
            self._stream = self._add_stream(frame.width, frame.height)
            self._started_at = frame.received_at
        # A frame that the application or the encoder of another connection holds too must not get our time stamps:
        # `reformat` makes a new one, if only by asking for another size.
        picture = self._own(frame, self._stream)
        picture.pts = self._ticks(frame)
        picture.time_base = Fraction(1, CLOCK)
        self._container.mux(self._stream.encode(picture))

    def _add_stream(self, width: int, height: int) -> Any:
        webm = self._container.format.name == "webm"
        name = "libvpx" if webm else self._container.default_video_codec
        stream = self._container.add_stream(name, rate=FRAME_RATE)
        # yuv420p has no odd sizes.
        stream.width, stream.height = max(2, width & ~1), max(2, height & ~1)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, CLOCK)
        # Recording runs beside a live stream: speed before size.
        stream.options = {"deadline": "realtime", "cpu-used": "8"} if webm else {"preset": "veryfast"}
        return stream

    def _own(self, frame: ReceivedFrame, stream: Any) -> av.VideoFrame:
        import av

        picture = frame.picture
        if (picture.width, picture.height, picture.format.name) != (stream.width, stream.height, "yuv420p"):
            return picture.reformat(width=stream.width, height=stream.height, format="yuv420p")
        return av.VideoFrame.from_ndarray(picture.to_ndarray(), format="yuv420p")

    def _ticks(self, frame: ReceivedFrame) -> int:
        arrived = frame.received_at - self._started_at
        pts = frame.pts
        seconds = arrived if pts is None else self._offset + pts
        if frame.negotiation != self._negotiation or abs(seconds - arrived) > TIME_JUMP:
            self._negotiation = frame.negotiation
            self._offset = arrived - (pts or 0.0)
            seconds = arrived
        self._last = max(self._last + 1, round(seconds * CLOCK))
        return self._last
