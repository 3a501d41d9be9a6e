"""Sound that goes with the pictures of a source: decoded in blocks as WebRTC sends them, for those who listen.

The tap is filled in the thread of the source. Whoever sends sound subscribes and awaits one block after the other from
a queue of its own; while nobody listens, nothing is decoded.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel
from av.audio.resampler import AudioResampler
from av.error import FFmpegError

from deepio_adapters.demuxing import as_float
from deepio_adapters.slots import SlotClosedError, waker
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    import av
    from av.audio.stream import AudioStream
    from av.packet import Packet

__all__ = ["BLOCK", "SAMPLE_RATE", "AudioBlock", "AudioQueue", "AudioTap", "SoundDecoder"]

SAMPLE_RATE: Final = 48_000
"""Samples per second: the RTP clock of Opus (RFC 7587 section 4.1)."""

BLOCK: Final = 960
"""Samples of a block, 20 ms: what Opus packs best (RFC 7587 section 4.2)."""

MAX_LATE: Final = 0.5
"""Seconds behind its time after which a block is dropped: sound must not lag behind the pictures."""

MAX_BLOCKS: Final = 100
"""Blocks that wait at most, oldest dropped: 2 s, which is the read-ahead of a recording and the half second by which
containers interleave sound before pictures, twice over."""

_MAX_JITTER: Final = 3 * BLOCK
"""Samples by which time stamps may be off before sound is taken for broken off; receivers hear every seam."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioBlock:
    """20 ms of sound."""

    frame: av.AudioFrame = field(repr=False)
    """960 samples of 48 kHz, two channels of 16 bits, interleaved; its `pts`, in 1/48000 s, goes with the `pts` of the
    pictures, and grows by 960 as long as the sound is not broken off."""
    due: float
    """When it is to be heard, seconds of `time.monotonic`."""


class AudioQueue:
    """Sound for one listener. All methods may be called from any thread.

    Attributes:
        dropped: Blocks that were not taken in time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: deque[AudioBlock] = deque()
        self._closed = False
        self._wake: Callable[[], None] | None = None
        self.dropped = 0

    def put(self, block: AudioBlock) -> None:
        """Adds a block; never blocks."""
        with self._lock:
            if self._closed:
                return
            self._blocks.append(block)
            if len(self._blocks) > MAX_BLOCKS:
                self._blocks.popleft()
                self.dropped += 1
            wake = self._wake
        if wake is not None:
            wake()

    def close(self) -> None:
        """Ends it; idempotent. Blocks that are waiting are still delivered."""
        with self._lock:
            self._closed = True
            wake = self._wake
        if wake is not None:
            wake()

    async def aget(self) -> av.AudioFrame:
        """Waits for the next block until it is due, on asyncio or trio; cancellation takes nothing out.

        Raises:
            SlotClosedError: The sound has ended.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            block = self._first(time.monotonic())
            if block is None:
                await self._arrival()
                continue
            await anyio.sleep(max(0.0, block.due - time.monotonic()))
            with self._lock:
                # Another may be the first by now, if this one was dropped.
                if self._blocks and self._blocks[0] is block:
                    self._blocks.popleft()
                    return block.frame

    def _first(self, now: float) -> AudioBlock | None:
        with self._lock:
            while self._blocks and self._blocks[0].due < now - MAX_LATE:
                self._blocks.popleft()
                self.dropped += 1
            if self._blocks:
                return self._blocks[0]
            if self._closed:
                raise SlotClosedError(None)
            return None

    async def _arrival(self) -> None:
        arrived = anyio.Event()
        with self._lock:
            self._wake = waker(arrived.set)
            if self._blocks or self._closed:
                arrived.set()
        try:
            await arrived.wait()
        finally:
            self._wake = None


class AudioTap:
    """The sound of one source. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queues: tuple[AudioQueue, ...] = ()
        self._closed = False

    @property
    def wanted(self) -> bool:
        """Somebody listens."""
        return bool(self._queues)

    def subscribe(self) -> AudioQueue:
        """Returns a queue that gets the sound from now on; closed with the source."""
        queue = AudioQueue()
        with self._lock:
            if self._closed:
                queue.close()
            else:
                self._queues = (*self._queues, queue)
        return queue

    def unsubscribe(self, queue: AudioQueue) -> None:
        """Ends a subscription."""
        with self._lock:
            self._queues = tuple(q for q in self._queues if q is not queue)
        queue.close()

    def put(self, block: AudioBlock) -> None:
        """Hands a block to all who listen."""
        for queue in self._queues:
            queue.put(block)

    def close(self) -> None:
        """Ends all subscriptions; idempotent."""
        with self._lock:
            self._closed = True
            queues, self._queues = self._queues, ()
        for queue in queues:
            queue.close()


class SoundDecoder:
    """Makes blocks of the packets of sound of one opening; in the thread of the source.

    Args:
        stream: PyAV's stream; must be open as long as this is used.
        tap: Who gets the blocks.
        follows: The decoder of the opening before, whose time stamps are gone on with.

    Attributes:
        errors: Packets that could not be decoded.
        overlapped: Blocks that were left out, because at their time something was heard already: where the sound of a
            recording is longer than its pictures, at each loop.
    """

    def __init__(self, stream: AudioStream, tap: AudioTap, follows: SoundDecoder | None = None) -> None:
        self._context: Any = stream.codec_context  # PyAV's stubs leave the kind of packets open
        self._context.thread_count = 1  # sound is decoded in no time
        self._tick = as_float(stream.time_base)
        self._tap = tap
        self._resampler = _resampler()
        self._next_pts: int = follows.next_pts if follows is not None else 0
        self.errors: int = follows.errors if follows is not None else 0
        self.overlapped: int = follows.overlapped if follows is not None else 0

    @property
    def next_pts(self) -> int:
        """The time stamp of the block that comes next, if nothing is missing."""
        return self._next_pts

    def decode(self, packet: Packet[Any], *, to_pts: float, to_due: float | None) -> None:
        """Decodes a packet, if somebody listens, and hands its blocks over.

        Args:
            packet: Of this stream.
            to_pts: What is added to the times of the medium to get the `pts` of pictures, seconds.
            to_due: What is added to get when they are due; None: at once.
        """
        if not self._tap.wanted:
            self._resampler = _resampler()
            return
        try:
            frames: list[av.AudioFrame] = self._context.decode(packet)
        except (FFmpegError, OSError, ValueError):
            self.errors += 1
            return
        for frame in frames:
            for block in self._resampler.resample(frame):
                self._place(block, to_pts, to_due)

    def _place(self, block: av.AudioFrame, to_pts: float, to_due: float | None) -> None:
        tick = as_float(block.time_base)
        if block.pts is None or tick is None:
            media_time = self._next_pts / SAMPLE_RATE - to_pts
        else:
            media_time = block.pts * tick
        at = round((media_time + to_pts) * SAMPLE_RATE)
        if at < self._next_pts - _MAX_JITTER:
            self.overlapped += 1
            return
        pts = at if at > self._next_pts + _MAX_JITTER else self._next_pts
        self._next_pts = pts + BLOCK
        block.pts = pts
        due = time.monotonic() if to_due is None else media_time + to_due
        self._tap.put(AudioBlock(frame=block, due=due))


def _resampler() -> AudioResampler:
    return AudioResampler(format="s16", layout="stereo", rate=SAMPLE_RATE, frame_size=BLOCK)
