"""Sending the frames of a video sender through aiortc as it is: where `aiortc_hooks` knows nothing of its version."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import av
from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_adapters.engine import EngineStats
    from deepio_adapters.media import EncodedFrame, VideoFeedback
    from deepio_core.media.far import FarVideo

__all__ = ["StockSink"]

CLOCK_RATE: Final = 90_000
"""Units of RTP timestamps in a second."""

MAX_WAITING: Final = 128
"""Frames that may wait, due or not: twice the read-ahead of a recording with 120 frames per second. More are dropped up
to the next keyframe."""


class _Track(MediaStreamTrack):
    """The frames of a sink as packets, as aiortc wants them."""

    kind = "video"

    def __init__(self, sink: StockSink) -> None:
        super().__init__()
        self._sink = sink

    async def recv(self) -> Any:
        if self.readyState != "live":
            raise MediaStreamError
        frame = await self._sink.next()
        packet = av.Packet(frame.data)
        packet.pts = round(frame.pts * CLOCK_RATE)
        packet.time_base = Fraction(1, CLOCK_RATE)
        return packet

    def stop(self) -> None:
        super().stop()
        self._sink.stop()


class StockSink:
    """A `media.VideoSink` over a track of aiortc, which gives away packets and no pictures.

    What the far side reports and asks for goes unheard: aiortc tells nobody. All in the thread of the engine room.

    Args:
        feedback: Whose frames are sent.
        counters: Where it is counted what is sent and dropped.
        far: Tells what the far side can take.
    """

    def __init__(self, feedback: VideoFeedback, counters: EngineStats, far: Callable[[], FarVideo]) -> None:
        self.track: MediaStreamTrack = _Track(self)
        """What to give to aiortc."""
        self._feedback = feedback
        self._counters = counters
        self._find_far = far
        self._far: FarVideo
        self._running = False
        self._waiting: deque[tuple[float, EncodedFrame]] = deque()
        self._arrived = asyncio.Event()
        self._needs_keyframe = False
        self._behind = False

    @property
    def far(self) -> FarVideo:
        """What was agreed, and what the far side can take."""
        return self._far

    @property
    def backlog(self) -> int:
        """Frames that were due and have not left."""
        now = time.monotonic()
        return sum(due <= now for due, _ in self._waiting)

    def send(self, frame: EncodedFrame) -> None:
        """Sends a frame when it is due (see `media.VideoSink`)."""
        if not self._running:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._counters.send_dropped += len(self._waiting)
            self._waiting.clear()
            self._needs_keyframe = not frame.keyframe
            if self._needs_keyframe:
                self._feedback.keyframe_requested()
        if self._needs_keyframe and not frame.keyframe:
            self._counters.send_dropped += 1
            return
        self._needs_keyframe = False
        # aiortc takes it with the next turn of the loop at the earliest: until then it is behind.
        self._behind = True
        self._waiting.append((max(frame.captured_at, time.monotonic()), frame))
        self._arrived.set()

    async def next(self) -> EncodedFrame:
        """Waits until the next frame is due; aiortc asks as soon as the connection stands."""
        if not self._running:
            self._running = True
            self._far = self._find_far()
            self._feedback.started(self)
        if self._behind and not self.backlog:
            self._behind = False
            self._feedback.drained()
        while True:
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
                continue
            early = self._waiting[0][0] - time.monotonic()
            if early <= 0:
                frame = self._waiting.popleft()[1]
                self._counters.frames_sent += 1
                self._counters.frames_copied += frame.copied
                return frame
            await asyncio.sleep(early)

    def stop(self) -> None:
        """Ends it."""
        self._waiting.clear()
        if self._running:
            self._running = False
            self._feedback.stopped()
