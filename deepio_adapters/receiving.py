"""Receiving video through an RTCRtpReceiver of aiortc: fresher than it does, and decoded only if somebody looks.

aiortc takes the packets, asks for what is missing and reports to the sender, as ever. Left alone it gives out a frame
when the first packet of the next one comes; its queue of frames to be decoded has no bound, and neither has its queue
of pictures. Here a frame is complete with its last packet, what waits is bounded, and each picture knows when it was
taken.

Everything is done to the one RTCRtpReceiver that is given, before it starts: its jitter buffer and its decoder queue
are replaced. That needs names that are private in aiortc, so `aiortc_hooks.usable` must have said that they are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final

from aiortc.rtp import RtcpSrPacket, RtpPacket

from deepio_adapters.frames import TICKS, ReceivedFrame
from deepio_adapters.video_decoder import CodedPicture, VideoDecoder
from deepio_core.media import h264, vp8
from deepio_core.media.clocks import ClockOffset
from deepio_core.media.jitter import CodedFrame, JitterBuffer, VideoPacket, begins_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import av

    from deepio_adapters.engine_base import EngineBase

__all__ = ["VideoReceiver"]

ASK_INTERVAL: Final = 0.3
"""Seconds between two requests for a keyframe: a round trip and the time that an encoder takes. The request, or the
keyframe itself, may have been lost."""

PATIENCE: Final = (0.1, 0.5)
"""Seconds for which a missing packet is waited for, at least and at most: two round trips in between."""

NTP_EPOCH: Final = 2_208_988_800
"""Unix time began so many seconds after NTP time."""

SEND_TIME_SPAN: Final = 64.0
"""Seconds until the send time in an RTP packet (the header extension abs-send-time, 6.18 bits) begins again."""


class VideoReceiver:
    """Takes over an RTCRtpReceiver of video, before it starts; in the thread of its event loop.

    Args:
        receiver: The RTCRtpReceiver.
        engine: Whose frames it receives: it is asked whether anybody wants them, and gets them.
        negotiation: Number of the connection.
        spawn: Runs a coroutine beside.
    """

    def __init__(
        self,
        receiver: Any,
        engine: EngineBase,
        negotiation: int,
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._receiver = receiver
        self._engine = engine
        self._negotiation = negotiation
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._jitter = JitterBuffer()
        self._decoder = VideoDecoder(
            self._deliver,
            engine.counters,
            on_fault=lambda: self._call_soon(self._ask),
            on_end=lambda: self._call_soon(self._ended.set),
        )
        self._codecs: dict[int, Any] = receiver._RTCRtpReceiver__codecs
        self._ssrc: int | None = None
        self._first_timestamp: int | None = None
        self._asked_at = -ASK_INTERVAL
        self._clock = ClockOffset()
        self._report: tuple[float, int] | None = None  # the sender's clock, and the RTP timestamp of that moment
        receiver._RTCRtpReceiver__jitter_buffer = _Packets(self._on_packet, self._jitter.capacity)
        receiver._RTCRtpReceiver__decoder_queue = _NothingToDecode()
        self._handle_rtcp = receiver._handle_rtcp_packet
        receiver._handle_rtcp_packet = self._on_rtcp

    async def run(self) -> None:
        """Waits until it is cancelled, and ends the decoder then; that takes as long as the picture it is at."""
        try:
            await asyncio.Event().wait()
        finally:
            self._decoder.close()
            await self._ended.wait()

    # --- What comes ---

    def _on_packet(self, packet: RtpPacket) -> None:
        now = time.monotonic()
        if not self._engine.wants_frames:
            self._engine.counters.frames_unwanted += packet.marker
            self._decoder.pause()
            self._jitter.reset()
            return
        if packet.ssrc != self._ssrc:
            if self._ssrc is not None:
                self._jitter.reset()
            self._ssrc, self._report = packet.ssrc, None
        lost, frames = self._jitter.add(
            VideoPacket(
                packet.sequence_number,
                packet.timestamp,
                bool(packet.marker),
                begins_frame(self._codecs[packet.payload_type].name, packet.payload),
                packet.payload_type,
                packet._data,  # type: ignore[attr-defined]  # aiortc puts it there
            ),
            now,
        )
        if lost:
            self._ask()
        if frames:
            self._note_send_time(packet.extensions.abs_send_time, now)
            for frame in frames:
                self._on_frame(frame, now)

    def _on_frame(self, frame: CodedFrame, now: float) -> None:
        if self._first_timestamp is None:
            self._first_timestamp = frame.timestamp
        codec = self._codecs[frame.payload_type].name
        picture = CodedPicture(
            data=frame.data,
            codec=codec,
            keyframe=_is_keyframe(codec, frame.data),
            discontinuity=frame.discontinuity,
            ticks=frame.timestamp - self._first_timestamp,
            captured_at=self._captured_at(frame),
            received_at=frame.last_at,
        )
        if self._decoder.offer(picture, now):
            self._ask()

    def _deliver(self, frame: av.VideoFrame, origin: CodedPicture) -> None:
        # In the decoder's thread.
        self._engine.show(
            ReceivedFrame(
                picture=frame,
                captured_at=origin.captured_at,
                received_at=origin.received_at,
                decoded_at=time.monotonic(),
                negotiation=self._negotiation,
            )
        )

    def _ask(self) -> None:
        """Asks the sender for a keyframe, if that was not done just now."""
        now = time.monotonic()
        if self._ssrc is not None and now - self._asked_at >= ASK_INTERVAL:
            self._asked_at = now
            self._engine.counters.keyframes_asked += 1
            self._spawn(self._receiver._send_rtcp_pli(self._ssrc))

    def _call_soon(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and all of this with it
            self._loop.call_soon_threadsafe(function)

    # --- When it was taken ---

    async def _on_rtcp(self, packet: Any) -> None:
        if isinstance(packet, RtcpSrPacket) and packet.ssrc == self._ssrc:
            now = time.monotonic()
            round_trip = self._engine.counters.round_trip
            sent_at = packet.sender_info.ntp_timestamp / (1 << 32) - NTP_EPOCH
            self._report = sent_at, packet.sender_info.rtp_timestamp
            self._clock.on_message(sent_at, round_trip, now)
            if round_trip is not None:
                self._jitter.patience = min(max(PATIENCE[0], 2 * round_trip), PATIENCE[1])
        await self._handle_rtcp(packet)

    def _note_send_time(self, send_time: int | None, now: float) -> None:
        """Notes when a packet left. A report tells the time that it is about: up to a frame before it left itself."""
        offset = self._clock.offset
        if send_time is None or offset is None:
            return
        # Which of the times with these lower digits it is, the sender's reports say. (Those of NTP are those of Unix
        # time: both began at full spans.)
        about, lower = now - offset, send_time / (1 << 18)
        sent_at = about + (lower - about + SEND_TIME_SPAN / 2) % SEND_TIME_SPAN - SEND_TIME_SPAN / 2
        self._clock.on_message(sent_at, self._engine.counters.round_trip, now)

    def _captured_at(self, frame: CodedFrame) -> float | None:
        """By the sender's reports (RFC 3550 section 6.4.1), brought to our clock. No later than it came."""
        if self._report is None:
            return None
        remote, timestamp = self._report
        ticks = (frame.timestamp - timestamp + (1 << 31)) % (1 << 32) - (1 << 31)
        captured_at = self._clock.local(remote + ticks * TICKS.numerator / TICKS.denominator)
        return None if captured_at is None else min(captured_at, frame.first_at)


def _is_keyframe(codec: str, data: bytes) -> bool:
    if codec == "H264":
        return h264.is_keyframe(data) or h264.is_open_keyframe(data)
    return vp8.is_keyframe(data)


class _Packets:
    """Stands in for aiortc's jitter buffer: what comes goes elsewhere, and no frame ever comes out."""

    def __init__(self, take: Callable[[RtpPacket], None], capacity: int) -> None:
        self.capacity = capacity
        self._take = take

    def add(self, packet: RtpPacket) -> tuple[bool, None]:
        self._take(packet)
        return False, None


class _NothingToDecode:
    """Stands in for aiortc's queue of frames to decode: its decoder thread ends at once, and nobody waits for it."""

    def put(self, item: object) -> None:
        """There is nobody to take it."""

    def get(self) -> None:
        return None
