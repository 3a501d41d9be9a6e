"""Decodes one received video in a thread of its own, only what is wanted, and never far behind the network."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from deepio_adapters.threads import stream_thread
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    import av

    from deepio_adapters.engine import EngineStats

__all__ = ["CodedPicture", "Decode", "VideoDecoder", "make_decoder"]

logger = logging.getLogger(__name__)

MAX_WAITING: Final = 64
"""Pictures that may wait to be decoded, two seconds at 30 frames/s. A repaired loss sets free at once what waited for
it, and that is half a second at most."""

MAX_DELAY: Final = 0.25
"""Seconds that a picture may wait to be decoded. A decoder that is so far behind does not catch up: what waits is left
out up to a keyframe, so that what is shown stays fresh."""

KEYFRAME_PATIENCE: Final = 1.0
"""Seconds for which a keyframe is waited for after a loss. Senders that heed requests need a round trip and a frame;
with the others, a picture with faults is better than none until their next keyframe, which may be ten seconds off."""

# FFmpeg's own decoder of VP8 takes 12 % less than libvpx.
_DECODERS: Final = {"H264": "h264", "VP8": "vp8"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodedPicture:
    """A picture as it came from the network."""

    data: bytes = field(repr=False)
    """The bytes, as the decoder takes them."""
    codec: str
    """Its codec: "H264" or "VP8"."""
    keyframe: bool
    """Decoding can begin here."""
    discontinuity: bool
    """Something is missing before it."""
    ticks: int
    """Time stamp in 1/90000 s, from the first picture."""
    captured_at: float | None
    """When it was taken, as far as that can be known, monotonic seconds."""
    received_at: float
    """When its last packet came, monotonic seconds."""


Decode: TypeAlias = "Callable[[CodedPicture], list[av.VideoFrame]]"
"""Decodes a picture; what is to be shown may come later. Each frame has its `CodedPicture` as `opaque`."""


def make_decoder(codec: str) -> Decode:
    """A decoder, for one thread.

    One thread is the cheapest for H.264 and VP8, and a 720p picture takes 2 ms of it. Decoding frames side by side
    would delay each by one.

    Args:
        codec: "H264" or "VP8".

    Raises:
        ValueError: There is no such decoder.
    """
    import av
    from av.codec.context import Flags
    from av.video.codeccontext import VideoCodecContext

    from deepio_adapters.frames import TICKS

    context: Any = VideoCodecContext.create(_DECODERS.get(codec, codec), "r")
    context.thread_count = 1
    context.flags |= Flags.low_delay
    context.copy_opaque = True  # from packets to frames

    def decode(picture: CodedPicture) -> list[av.VideoFrame]:
        packet: Any = av.Packet(picture.data)
        packet.pts, packet.time_base, packet.opaque = picture.ticks, TICKS, picture
        frames: list[av.VideoFrame] = context.decode(packet)
        return frames

    return decode


class VideoDecoder:
    """Decodes one received video.

    The network's side calls `offer` and `pause`; what comes out goes to `deliver` in the decoder's own thread, which
    begins with the first picture and ends after `close`.

    Args:
        deliver: Takes a frame and what it was decoded from.
        counters: Where `decode_dropped` and `decode_errors` are counted.
        on_fault: Called in the decoder's thread when a keyframe is needed because something could not be decoded.
        on_end: Called in the decoder's thread as its last act.
    """

    def __init__(
        self,
        deliver: Callable[[av.VideoFrame, CodedPicture], object],
        counters: EngineStats,
        *,
        on_fault: Callable[[], object],
        on_end: Callable[[], object],
    ) -> None:
        self._deliver = deliver
        self._counters = counters
        self._on_fault = on_fault
        self._on_end = on_end
        self._changed = threading.Condition()
        # Pictures with the time when they were offered; None has the decoder forget all, for what follows begins anew.
        self._waiting: deque[tuple[CodedPicture, float] | None] = deque()
        self._paused = True
        self._needed_since: float | None = None  # since when there is no use in anything but a keyframe
        self._tolerant = False  # no keyframe has come: show what there is
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def offer(self, picture: CodedPicture, now: float) -> bool:
        """Have a picture decoded, unless it must be left out; never blocks.

        Returns:
            Whether a keyframe is needed.
        """
        with self._changed:
            if self._closed:
                return False
            if self._paused:
                self._paused = False
                self._needed_since = now
            elif picture.discontinuity and self._needed_since is None:
                self._needed_since = now
            if self._is_behind(now):
                self._skip_to_newest_keyframe(now)
            if self._needed_since is not None and not self._begins(picture, now - self._needed_since):
                self._counters.decode_dropped += 1
                return True
            if picture.keyframe:
                self._tolerant = False
            self._needed_since = None
            self._waiting.append((picture, now))
            self._changed.notify()
        if self._thread is None:
            self._thread = stream_thread(self._run, name="deepio-decoder")
            self._thread.start()
        return False

    def pause(self) -> None:
        """Forget everything, for nobody wants to see it; the next picture offered begins anew."""
        with self._changed:
            if not self._paused:
                self._paused, self._tolerant = True, False
                self._waiting.clear()
                self._waiting.append(None)
                self._changed.notify()

    def close(self) -> None:
        """Have the thread end, after the picture that it is at; never blocks. The second call does nothing."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._thread is None:
            self._on_end()

    # --- What is left out ---

    def _begins(self, picture: CodedPicture, waited: float) -> bool:
        if not picture.keyframe and waited > KEYFRAME_PATIENCE:
            self._tolerant = True
        return picture.keyframe or self._tolerant

    def _is_behind(self, now: float) -> bool:
        oldest = next((item for item in self._waiting if item is not None), None)
        return oldest is not None and (len(self._waiting) >= MAX_WAITING or now - oldest[1] > MAX_DELAY)

    def _skip_to_newest_keyframe(self, now: float) -> None:
        begins_anew = self._waiting[0] is None
        if begins_anew:
            self._waiting.popleft()
        newest = max((at for at, item in enumerate(self._waiting) if item and item[0].keyframe), default=0)
        # A keyframe that has waited the longest itself is as old as the rest.
        skipped = newest or len(self._waiting)
        for _ in range(skipped):
            self._waiting.popleft()
        self._counters.decode_dropped += skipped
        if not self._waiting:
            self._needed_since = now
        if begins_anew:
            self._waiting.appendleft(None)

    def _skip_to_keyframe(self, now: float) -> None:
        while self._waiting and (item := self._waiting[0]) is not None and not item[0].keyframe:
            self._waiting.popleft()
            self._counters.decode_dropped += 1
        if not self._waiting and not self._paused and self._needed_since is None:
            self._needed_since = now

    # --- The thread ---

    def _run(self) -> None:
        codec: str | None = None
        decode: Decode | None = None
        try:
            while not self._closed:
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._closed)
                    item = self._waiting.popleft() if self._waiting else None
                if item is None:
                    decode = None
                    continue
                picture, offered_at = item
                if decode is None or picture.codec != codec:
                    codec, decode = picture.codec, make_decoder(picture.codec)
                if not self._decode(decode, picture):
                    self._counters.decode_errors += 1
                    with self._changed:
                        self._skip_to_keyframe(offered_at)
                    self._on_fault()
        finally:
            self._on_end()

    def _decode(self, decode: Decode, picture: CodedPicture) -> bool:
        try:
            frames = decode(picture)
        except Exception as error:  # noqa: BLE001 - whatever garbage from the network does to a decoder: the next one counts
            logger.debug("A picture in %s could not be decoded: %s", picture.codec, error)
            return False
        sound = True
        for frame in frames:
            if frame.is_corrupt and not self._tolerant:
                sound = False
            elif not self._closed:
                origin: Any = frame.opaque
                self._deliver(frame, origin)
        return sound
