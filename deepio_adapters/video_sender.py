"""Sends the video of a feed over one connection: copied as long as that goes, and encoded when it does not.

What is to be done when is decided by `deepio_core.media.plan`; here it is done. All of it lives in the thread of the
engine room, except what it starts: the decoder of the feed and an encoder, which run only while they are needed.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast

from deepio_adapters.encoding import EncodingThread
from deepio_adapters.media import EncodedFrame, SourceGap
from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_core.media.bitrate import RateController
from deepio_core.media.choice import NO_PACKETS, choose, preferred_codecs
from deepio_core.media.levels import picture_limits
from deepio_core.media.plan import Mode, VideoPlan
from deepio_core.outputs import Cause

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_adapters.encoder_settings import Codec
    from deepio_adapters.encoding import Encoder
    from deepio_adapters.engine import EngineConfig, EngineStats
    from deepio_adapters.feed import Feed
    from deepio_adapters.media import SourcePacket, VideoSink
    from deepio_adapters.packet_queue import PacketQueue
    from deepio_adapters.sources import SourceFrame
    from deepio_core.media.levels import PictureLimits
    from deepio_core.media.options import VideoOptions
    from deepio_core.media.stream import StreamFormat

__all__ = ["EncoderFactory", "VideoSender"]

logger = logging.getLogger(__name__)

EncoderFactory: TypeAlias = "Callable[[Codec, VideoOptions, float | None, PictureLimits | None], Encoder]"
"""Makes an encoder for a codec, with these options, given the frame rate of the source and the limits of the far side,
if they are known."""

MIN_STEP: Final = 0.001
"""Seconds of source time between two pictures at least: 90 units of RTP time stamps."""

LOOK_AGAIN: Final = 0.02
"""Seconds between two looks at a sink that has a backlog, besides what it tells itself."""

REPEAT: Final = 1.0
"""Seconds between two repetitions of the last picture of a source that is away."""

END_GRACE: Final = 0.1
"""Seconds that the last picture of a source is given to be encoded before its end is told."""

MAX_OPTIONAL: Final = os.cpu_count() or 1
"""Encoders of this process, over all its connections, for what could also be copied. A fleet of which every camera is
asked for a keyframe at once would otherwise encode all of them, and be late with everything."""

NAMES: Final[dict[Mode, Literal["copy", "encode"]]] = {
    Mode.COPY: "copy",
    Mode.BRIDGE: "encode",
    Mode.ENCODE: "encode",
}


# Those that encode what could also be copied; all in the one thread of the engine room.
_optional: set[VideoSender] = set()


def _video_encoder(
    codec: Codec, options: VideoOptions, frame_rate: float | None, limits: PictureLimits | None
) -> Encoder:
    from deepio_adapters.encoder import VideoEncoder  # where nothing is encoded, none is loaded

    return VideoEncoder(codec, options, frame_rate=frame_rate, limits=limits)


class VideoSender:
    """The video of one connection; a `media.VideoFeedback`.

    Args:
        feed: The source.
        config: The settings.
        counters: Where is noted what is sent and how.
        ended: Told the cause and why, once, when the source has ended or nothing of it can be sent.
        sent: Told of every frame that is handed over to be sent: when it was taken and when it leaves.
        make_encoder: Makes an encoder, in a thread.
    """

    def __init__(
        self,
        feed: Feed,
        config: EngineConfig,
        counters: EngineStats,
        ended: Callable[[Cause, str], object],
        *,
        sent: Callable[[float, float], object] | None = None,
        make_encoder: EncoderFactory = _video_encoder,
    ) -> None:
        self._feed = feed
        self._options = config.video
        self._counters = counters
        self._ended = ended
        self._sent = sent
        self._make_encoder = make_encoder
        self._rate = RateController(config.video)
        self._sink: VideoSink | None = None
        self._plan: VideoPlan
        self._loop: asyncio.AbstractEventLoop
        self._queue: PacketQueue
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._stream: StreamFormat | None = None
        # Packets that came before they are due while pictures are encoded; as many as the source reads ahead.
        self._early: deque[SourcePacket] = deque()
        self._pictures: LatestSlot[SourceFrame] | None = None
        self._encoding: EncodingThread | None = None
        self._told: tuple[Mode, str] | None = None
        self._pts = float("-inf")
        self._due = 0.0
        # Of what was dropped: by encoders of before, and in all.
        self._gone = self._dropped = 0
        self._undecoded = 0
        self._done = False

    @property
    def preferred_codecs(self) -> tuple[str, ...]:
        """The codecs that it can send, best first, such as ("H264", "VP8")."""
        info = self._feed.info
        return preferred_codecs(None if info is None else info.stream, self._options)

    # --- What the connection tells ---

    def started(self, sink: VideoSink) -> None:
        """The connection stands: send from now on. Only now does a recording begin."""
        if self._done or self._sink is not None:
            return
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._plan = VideoPlan(self._options, sink.far, self._can_spare)
        info, keyframe_at, gop = self._feed.info, self._feed.keyframe_at, self._feed.gop
        self._stream = None if info is None else info.stream
        choice = NO_PACKETS if self._stream is None else choose(self._stream, sink.far, self._options)
        self._queue = self._feed.subscribe_packets()
        if gop is None and self._stream is not None:
            gop = self._stream.gop
        self._plan.begin(choice, keyframe_at=keyframe_at, gop=gop, now=time.monotonic())
        self._queue.set_on_item(partial(self._call, self._take))
        self._follow()

    def keyframe_requested(self) -> None:
        """The far side needs a keyframe."""
        if self._live and self._plan.keyframe_requested(now=time.monotonic()) and self._encoding is not None:
            self._encoding.request_keyframe()
        self._follow()

    def reported(self, loss: float, round_trip: float | None) -> None:
        """A receiver report came."""
        if self._live:
            now = time.monotonic()
            self._rate.on_report(loss, now)
            self._plan.reported(loss, now=now)
            self._follow()

    def estimated(self, bitrate: int) -> None:
        """The far side estimates that the path carries so many bits per second."""
        if self._live:
            now = time.monotonic()
            self._rate.on_estimate(bitrate, now)
            self._plan.estimated(bitrate, now=now)
            self._follow()

    def drained(self) -> None:
        """Nothing waits in the sink any more."""
        if self._encoding is not None:
            self._cancel("backlog")
            self._encoding.release()

    def stopped(self) -> None:
        """The stream has ended."""
        self.close()

    def close(self) -> None:
        """Sends nothing any more, and lets go of the feed; never blocks."""
        if self._live:
            self._count()
            self._stop_encoding()
            self._feed.unsubscribe(self._queue)
        for name in list(self._timers):
            self._cancel(name)
        self._early.clear()
        _optional.discard(self)
        self._done = True

    # --- What the source gives ---

    def _take(self) -> None:
        if not self._live:
            return
        try:
            items = self._queue.take_all()
        except SlotClosedError as end:
            if end.error is None:
                cause, reason = Cause.SOURCE_ENDED, f"the source {self._feed.name} has ended"
            else:
                cause, reason = Cause.SOURCE_FAILED, str(end.error)
            # The last picture may still be with the encoder.
            self._at(
                "end", time.monotonic() + (END_GRACE if self._encoding else 0.0), partial(self._end, cause, reason)
            )
            return
        now = time.monotonic()
        for item in items:
            if isinstance(item, SourceGap):
                self._plan.lost()
                self._early.clear()
                self._follow()
                self._repeat(REPEAT)
            elif self._early or (item.captured_at > now and self._plan.mode is not Mode.COPY):
                # What is encoded is sent when it is due; so this one's turn has not come.
                self._early.append(item)
            else:
                self._take_packet(item, now)
        self._take_early()

    def _take_early(self) -> None:
        now = time.monotonic()
        while self._early and (self._plan.mode is Mode.COPY or self._early[0].captured_at <= now):
            self._take_packet(self._early.popleft(), now)
        if self._early:
            self._at("early", self._early[0].captured_at, self._take_early)
        self._follow()

    def _take_packet(self, packet: SourcePacket, now: float) -> None:
        assert self._sink is not None, "nothing is taken before the start"
        self._cancel("repeat")
        if packet.stream is not self._stream:
            self._stream = packet.stream
            self._plan.format_changed(choose(packet.stream, self._sink.far, self._options))
        copied = self._plan.packet(
            keyframe=packet.keyframe,
            size=len(packet.data),
            interval=packet.interval,
            pts=packet.pts,
            captured_at=packet.captured_at,
            now=now,
        )
        if copied:
            frame = EncodedFrame(
                data=packet.data,
                keyframe=packet.keyframe,
                pts=packet.pts,
                captured_at=packet.captured_at,
                interval=packet.interval,
                copied=True,
            )
            self._send(frame, now)

    def _repeat(self, after: float) -> None:
        """Has the last picture of a source that is away sent again, once a second, if that is wanted."""
        if self._options.while_away == "last":
            self._at("repeat", time.monotonic() + after, self._repeat_now)

    def _repeat_now(self) -> None:
        newest, now = self._feed.newest, time.monotonic()
        if newest is not None and self._pictures is not None:
            later = newest.pts + now - newest.captured_at
            self._pictures.put(dataclasses.replace(newest, pts=later, captured_at=now))
        self._repeat(REPEAT)

    def _end(self, cause: Cause, reason: str) -> None:
        self.close()
        self._ended(cause, reason)

    # --- What is sent ---

    @property
    def _live(self) -> bool:
        return self._sink is not None and not self._done

    def _send(self, frame: EncodedFrame, now: float) -> None:
        assert self._sink is not None, "nothing is sent before the start"
        if frame.pts <= self._pts:
            frame = dataclasses.replace(frame, pts=self._pts + MIN_STEP)
        self._pts = frame.pts
        self._due = max(now, frame.captured_at)
        self._sink.send(frame)
        if self._sent is not None:
            self._sent(frame.captured_at, self._due)

    def _follow(self) -> None:
        """Does what the plan says by now."""
        if not self._live:
            return
        plan = self._plan
        if plan.hopeless and self._options.mode != "copy":
            self._end(Cause.SOURCE_FAILED, plan.reason)
            return
        if plan.optional:
            _optional.add(self)
        else:
            _optional.discard(self)
        if plan.mode.encodes and self._encoding is None:
            # What was copied from a recording leaves when it is due; pictures come after it.
            if self._due > time.monotonic():
                self._at("encode", self._due, self._follow)
            else:
                self._start_encoding()
        elif not plan.mode.encodes:
            self._cancel("encode")
            self._stop_encoding()
        if plan.deadline is not None:
            self._at("plan", plan.deadline, self._on_deadline)
        else:
            self._cancel("plan")
        if self._encoding is not None and self._counters.target_bitrate != self._rate.target:
            self._counters.target_bitrate = self._rate.target
            self._encoding.set_bitrate(self._rate.target)
        if self._told != (plan.mode, plan.reason):
            self._tell()
        self._count()

    def _can_spare(self) -> bool:
        return self in _optional or len(_optional) < MAX_OPTIONAL

    def _on_deadline(self) -> None:
        self._plan.handle_timeout(now=time.monotonic())
        self._follow()

    def _tell(self) -> None:
        # Nothing is to be told of the moment before the first packet.
        level = logging.INFO if self._told is not None or self._plan.mode is not Mode.WAITING else logging.DEBUG
        mode, reason = self._told = self._plan.mode, self._plan.reason
        self._counters.video_mode = NAMES.get(mode)
        self._counters.video_reason = reason
        said = {Mode.COPY: "copied", Mode.BRIDGE: "encoded for a moment", Mode.ENCODE: "encoded"}
        logger.log(level, "The video of %s is %s: %s.", self._feed.name, said.get(mode, "not sent"), reason)

    # --- Encoding ---

    def _start_encoding(self) -> None:
        assert self._sink is not None, "nothing is encoded before the start"
        info = self._feed.info
        codec, rate = cast("Codec", self._sink.far.codec), None if info is None else info.frame_rate
        make = partial(self._make_encoder, codec, self._options, rate, picture_limits(self._sink.far))
        self._undecoded = self._feed.undecoded
        pictures = self._pictures = self._feed.subscribe_frames(begin=False)

        def deliver(frame: EncodedFrame) -> None:
            # Until it is known whether this one has left, no other is encoded.
            encoding.hold()
            self._call(self._deliver, encoding, frame)

        def failed(reason: str) -> None:
            self._call(self._encoder_failed, encoding, reason)

        encoding = self._encoding = EncodingThread(pictures, make, deliver, failed)
        encoding.set_bitrate(self._rate.target)
        self._counters.target_bitrate = self._rate.target
        encoding.start()
        pictures.set_on_item(lambda: self._call(self._pictures_ended, encoding) if pictures.closed else None)

    def _stop_encoding(self) -> None:
        encoding, self._encoding = self._encoding, None
        pictures, self._pictures = self._pictures, None
        if encoding is None or pictures is None:
            return
        self._gone += self._left_out(pictures, encoding)
        self._cancel("backlog")
        self._feed.unsubscribe(pictures)
        encoding.close(timeout=0)
        self._counters.encoder = self._counters.target_bitrate = None

    def _deliver(self, encoding: EncodingThread, frame: EncodedFrame) -> None:
        if encoding is not self._encoding:
            return
        assert self._sink is not None, "nothing is encoded before the start"
        self._counters.encoder = encoding.encoder_name
        now = time.monotonic()
        if frame.keyframe:
            self._plan.encoded_keyframe(now=now)
        elif frame.pts <= self._pts:
            # A picture that has been copied: without it, what comes after cannot be decoded.
            self._counters.send_dropped += 1
            encoding.request_keyframe()
            encoding.release()
            return
        self._send(frame, now)
        self._look_at_backlog()
        self._count()

    def _look_at_backlog(self) -> None:
        if self._encoding is None:
            return
        if self._sink is not None and self._sink.backlog:
            # It is to tell when that has gone; should it fail to, all would stand still.
            self._at("backlog", time.monotonic() + LOOK_AGAIN, self._look_at_backlog)
        else:
            self._encoding.release()

    def _encoder_failed(self, encoding: EncodingThread, reason: str) -> None:
        if encoding is self._encoding:
            logger.error("The video of %s cannot be encoded: %s", self._feed.name, reason)
            self._plan.encoder_failed(reason)
            self._follow()

    def _pictures_ended(self, encoding: EncodingThread) -> None:
        # With the source, which the queue tells; or because nothing of it can be decoded.
        error = None if encoding is not self._encoding or self._pictures is None else self._pictures.error
        if error is not None and not self._queue.closed:
            self._encoder_failed(encoding, str(error))

    # --- Around it ---

    def _count(self) -> None:
        """Notes what was dropped on the way here."""
        dropped = self._queue.dropped + self._gone
        if self._encoding is not None and self._pictures is not None:
            dropped += self._left_out(self._pictures, self._encoding)
        self._counters.send_dropped += dropped - self._dropped
        self._dropped = dropped

    def _left_out(self, pictures: LatestSlot[SourceFrame], encoding: EncodingThread) -> int:
        """What was dropped between the packets and the encoder, since that was started."""
        return pictures.dropped + encoding.outdated + self._feed.undecoded - self._undecoded

    def _call(self, function: Callable[..., object], *args: object) -> None:
        """Has something done in our thread; from any."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            return  # the engine room has been closed

    def _at(self, name: str, when: float, function: Callable[[], object]) -> None:
        """Has something done at a time, instead of what was to be done under this name."""
        self._cancel(name)
        if self._done:
            return  # it has ended in the middle of what asks for this
        self._timers[name] = self._loop.call_later(max(0.0, when - time.monotonic()), self._fire, name, function)

    def _fire(self, name: str, function: Callable[[], object]) -> None:
        del self._timers[name]
        function()

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()
