"""Sending the frames of a video sender over RTP, in place of the loop of aiortc's RTCRtpSender.

What leaves is what aiortc would send, packet for packet. What differs is how: frames of a recording are made into
encrypted packets many at a time, before they are due, so that most wakes of the event loop only hand over a frame to
the kernel, with one or two system calls. After the sleep between two frames, whatever is touched first costs a hundred
times what it costs afterwards; so the fewer wakes and the less code in each, the better.

A large frame leaves in bursts over a part of its interval, and frames that come all at once (from a camera over TCP,
say) leave at a bounded rate: receive buffers of 200 KiB, which is the default of Linux, hold 90 packets.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from aiortc.rtp import RtpPacket

from deepio_adapters.aiortc_sending import Protector, SenderHooks
from deepio_core.media import h264, pacing, rtp, vp8

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiortc import RTCRtpSender

    from deepio_adapters.engine import EngineStats
    from deepio_adapters.media import EncodedFrame, VideoFeedback
    from deepio_core.media.far import FarVideo
    from deepio_core.media.rtp import HeaderTemplate, Payload

__all__ = ["RtpSink"]

logger = logging.getLogger(__name__)

BURST_TIME: Final = 0.001
"""Seconds that a burst keeps the next frame away: 160 Mbit/s, for what comes late or all at once."""

SLACK: Final = 0.0005
"""Seconds by which packets may leave early: less than the resolution of the event loop's timers, so that a wake that
comes a moment early is not followed by another."""

RETRY: Final = 0.002
"""Seconds until the next attempt when the socket is full: at 1 Gbit/s its buffer has emptied by then."""

MAX_BEHIND: Final = 0.5
"""Seconds for which a frame may wait because the path is blocked. Then everything up to the next keyframe is dropped:
what is half a second late is of no use to whoever looks at what is now."""

MAX_WAITING: Final = 128
"""Frames that may wait, due or not: twice the read-ahead of a recording with 120 frames per second. More are dropped up
to the next keyframe."""

HISTORY_TIME: Final = 1.5
"""Seconds for which packets are kept for sending again; what is asked for later would come too late."""

HISTORY_PACKETS: Final = 1024
"""Packets kept at most, of more than one frame: 1.3 MB. aiortc keeps 128, less than a large keyframe."""

RESEND_INTERVAL: Final = (0.02, 0.5)
"""Seconds, at least and at most, between two repetitions of one packet: a round trip in between. aiortc asks for all
that is missing whenever it misses something more; on a path that is too slow, to answer all of that would leave no
room for anything new."""

RESEND_SHARE: Final = 0.5
"""Packets that may be sent again for each new one. A path that loses more has no room for them: they would take the
place of new ones, whose loss would have still more of them sent."""

RESEND_CREDIT: Final = 150
"""Packets that may be sent again in any case, after a time without losses: a large keyframe."""

ENCRYPTED_AGAIN: Final = 1000
"""Packets whose numbers may be used again, if they were encrypted and never left. libsrtp looks back on 1024 (aiortc's
`window_size`), and refuses a number from before."""

CLOCK_RATE: Final = 90_000
"""Units of RTP timestamps in a second (RFC 6184 section 5.1, RFC 7741 section 4.1)."""


@dataclasses.dataclass(slots=True)
class _Burst:
    """Packets that leave together."""

    due: float
    blocks: list[tuple[memoryview, int]]
    packets: int
    octets: int
    size: int


@dataclasses.dataclass(slots=True)
class _Packets:
    """A frame, made into packets."""

    frame: EncodedFrame
    due: float
    first: int
    timestamp: int
    picture_id: int
    leaves: float
    ntp_time: int
    """The moment that the timestamp stands for, as sender reports tell it."""
    payloads: list[Payload]
    bursts: deque[_Burst] = dataclasses.field(default_factory=deque[_Burst])
    begun: bool = False
    """A part of it has left, or all."""
    resent: dict[int, float] = dataclasses.field(default_factory=dict[int, float])
    """When packets were sent again last, by their place in the frame."""


class RtpSink:
    """A `media.VideoSink` over an RTCRtpSender of aiortc, which sends nothing itself any more.

    Use it only where `aiortc_hooks.usable()`. All in the thread of the engine room.

    Args:
        sender: The sender, without a track, before the connection is made.
        feedback: Whose frames are sent.
        counters: Where it is counted what is sent, dropped and sent again.
        far: Tells what the far side can take, given the codec that was agreed.
    """

    def __init__(
        self,
        sender: RTCRtpSender,
        feedback: VideoFeedback,
        counters: EngineStats,
        far: Callable[[str], FarVideo],
    ) -> None:
        self._feedback = feedback
        self._counters = counters
        self._find_far = far
        self._far: FarVideo
        self._hooks = SenderHooks(sender, self)
        self._ended: asyncio.Event | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: deque[tuple[float, EncodedFrame]] = deque()
        self._ready: deque[_Packets] = deque()
        # All that was made and is kept, in the order of its numbers: what has left, then what is ready.
        self._history: deque[_Packets] = deque()
        self._history_packets = 0
        self._needs_keyframe = False
        self._pumping = False
        self._behind = False
        self._free_at = 0.0
        self._smoother = pacing.Smoother()
        self._resend_interval = RESEND_INTERVAL[0]
        self._resend_credit: float = RESEND_CREDIT
        # Once: abs-send-time is about differences, which a step of the wall clock would spoil.
        self._unix_time = time.time() - time.monotonic()
        # As aiortc does: in the lower half, because SRTP loses count when the first ones wrap around and are lost.
        self._sequence_number = random.randrange(1 << 15)
        self._timestamp_origin = random.randrange(1 << 32)
        self._picture_id = random.randrange(1 << 15)

    # --- The sink ---

    @property
    def far(self) -> FarVideo:
        """What was agreed, and what the far side can take."""
        return self._far

    @property
    def backlog(self) -> int:
        """Frames that were due and have not left completely."""
        now = time.monotonic()
        due = 0
        for packets in self._ready:
            if packets.due > now:
                return due
            due += 1
        for when, _ in self._waiting:
            if when > now:
                break
            due += 1
        return due

    def send(self, frame: EncodedFrame) -> None:
        """Sends a frame when it is due (see `media.VideoSink`)."""
        if self._ended is None:
            return  # before the start, or after the end: whoever sends learns of it
        if self._needs_keyframe:
            if not frame.keyframe:
                self._counters.send_dropped += 1
                return
            self._needs_keyframe = False
        if len(self._ready) + len(self._waiting) >= MAX_WAITING:
            self._drop("too many frames wait to be sent")
            if self._needs_keyframe and not frame.keyframe:
                self._counters.send_dropped += 1
                return
            self._needs_keyframe = False
        self._waiting.append((max(frame.captured_at, time.monotonic()), frame))
        if self._timer is None and not self._pumping:
            self._pump()

    # --- What aiortc's sender tells ---

    async def run(self, codec: Any) -> None:
        """Sends until the connection ends."""
        try:
            self._far = self._find_far(codec.name)
            self._payload_type = int(codec.payloadType)
            self._template: HeaderTemplate = self._hooks.header_template(self._payload_type)
            self._protector: Protector = self._hooks.protector()
            self._ended = ended = asyncio.Event()
            self._feedback.started(self)
            await ended.wait()
        except Exception:
            # aiortc waits for the end of this, and nothing else would say why there is none.
            logger.exception("Sending video has failed.")
        finally:
            self._ended = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for queue in (self._waiting, self._ready, self._history):
                queue.clear()
            self._feedback.stopped()

    def keyframe_requested(self) -> None:
        """The far side needs a keyframe."""
        if self._ended is not None:
            self._counters.keyframe_requests += 1
            self._feedback.keyframe_requested()

    def reported(self, loss: float, round_trip: float | None) -> None:
        """The far side has reported what it lost."""
        if self._ended is not None:
            self._counters.loss = loss
            if round_trip is not None:
                self._resend_interval = min(max(round_trip, RESEND_INTERVAL[0]), RESEND_INTERVAL[1])
            self._feedback.reported(loss, round_trip)

    def estimated(self, bitrate: int) -> None:
        """The far side has estimated what the path can carry."""
        if self._ended is not None:
            self._feedback.estimated(bitrate)

    def lost(self, sequence_number: int) -> RtpPacket | None:
        """The packet with a number, for sending it again; None if it is not kept any more, or not to be sent now."""
        for packets in reversed(self._history):
            index = (sequence_number - packets.first) & 0xFFFF
            if index < len(packets.payloads):
                if not packets.begun:
                    return None  # it was never sent: whoever asks is guessing
                now = time.monotonic()
                since = now - packets.resent.get(index, float("-inf"))
                if since < self._resend_interval or self._resend_credit < 1:
                    return None
                packets.resent[index] = now
                self._resend_credit -= 1
                packet = RtpPacket(
                    payload_type=self._payload_type,
                    marker=int(index == len(packets.payloads) - 1),
                    sequence_number=sequence_number,
                    timestamp=packets.timestamp,
                    ssrc=self._hooks.ssrc,
                    payload=rtp.payload_of(packets.frame.data, packets.payloads[index]),
                )
                packet.extensions.abs_send_time = rtp.abs_send_time(self._unix_time + packets.leaves)
                self._counters.packets_resent += 1
                return packet
        return None

    # --- Sending ---

    def _pump(self) -> None:
        """Sends what is due, and wakes when the next is."""
        self._timer = None
        self._pumping = True
        try:
            now = time.monotonic()
            blocked = not self._send_due(now)
            if self._ended is None:
                return
            if blocked:
                self._drop_late(now)
            elif not self._ready:
                # The caches are warm now: what is due later takes a fraction of what it would take then.
                while self._waiting:
                    self._make_ready(now)
        except ConnectionError as error:
            logger.warning("Sending video ends: %s", error)
            self._end()
            return
        finally:
            self._pumping = False
        self._arm(blocked)

    def _send_due(self, now: float) -> bool:
        """Sends what is due; False if the path is full."""
        until = now + SLACK
        while self._ready or (self._waiting and self._waiting[0][0] <= until):
            if not self._ready:
                self._make_ready(now)
                continue
            packets = self._ready[0]
            while packets.bursts:
                burst = packets.bursts[0]
                if burst.due > until:
                    return True
                path = self._hooks.path()
                if path is None:
                    self._end()
                    return False
                for index, (block, size) in enumerate(burst.blocks):
                    taken = path.send(block, size)
                    if taken and not packets.begun:
                        packets.begun = True
                        self._history_packets += len(packets.payloads)
                        self._counters.frames_sent += 1
                        self._counters.frames_copied += packets.frame.copied
                    if taken < len(block):
                        burst.blocks = [(block[taken:], size), *burst.blocks[index + 1 :]]
                        return False
                packets.bursts.popleft()
                self._resend_credit = min(self._resend_credit + RESEND_SHARE * burst.packets, RESEND_CREDIT)
                self._hooks.sent(burst.packets, burst.octets, burst.size, packets.timestamp, packets.ntp_time)
            self._ready.popleft()
        return True

    def _arm(self, blocked: bool) -> None:
        """Wakes for what comes next, and says when nothing is left that should have gone."""
        now = time.monotonic()
        due = self._ready[0].due if self._ready else self._waiting[0][0] if self._waiting else None
        if due is None or due > now:
            if self._behind:
                self._behind = False
                self._feedback.drained()
        else:
            self._behind = True
        if due is None or self._timer is not None:
            return
        wake = now + RETRY if blocked else self._ready[0].bursts[0].due if self._ready else due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, wake - now), self._pump)

    def _end(self) -> None:
        """The connection has ended: `run` does the rest."""
        if self._ended is not None:
            self._ended.set()
            self._ended = None

    # --- Packets ---

    def _make_ready(self, now: float) -> None:
        """Makes the next frame into encrypted packets, with the times at which they leave."""
        due, frame = self._waiting.popleft()
        if self._far.codec == "H264":
            payloads = h264.packetize(frame.data)
        else:
            payloads = vp8.packetize(frame.data, self._picture_id)
        leaves = max(self._smoother.due(max(due, now), frame.interval), self._free_at)
        packets = _Packets(
            frame=frame,
            due=due,
            first=self._sequence_number,
            timestamp=(self._timestamp_origin + round(frame.pts * CLOCK_RATE)) & 0xFFFFFFFF,
            picture_id=self._picture_id,
            leaves=leaves,
            # aiortc says when the packets left instead: pictures would seem to be younger than they are.
            ntp_time=rtp.ntp_time(time.time() - time.monotonic() + frame.captured_at),
            payloads=payloads,
        )
        self._picture_id = (self._picture_id + 1) & 0x7FFF
        count = len(payloads)
        self._sequence_number = (self._sequence_number + count) & 0xFFFF
        if not count:
            return  # nothing that RTP could carry
        start = 0
        for offset, size in pacing.groups(count, frame.interval):
            packets.bursts.append(self._make_burst(packets, start, start + size, leaves + offset))
            start += size
        self._free_at = packets.bursts[-1].due + BURST_TIME * min(1.0, packets.bursts[-1].packets / pacing.BURST)
        self._ready.append(packets)
        self._remember(packets, now)

    def _make_burst(self, packets: _Packets, start: int, end: int, leaves: float) -> _Burst:
        count = end - start
        stamp = rtp.abs_send_time(self._unix_time + leaves)
        is_last = end == len(packets.payloads)
        # One header more than there are packets, so that the last one has no marker.
        headers = self._template.headers(count + (not is_last), packets.first + start, packets.timestamp, stamp)
        blocks = self._protector.protect(headers[:count], packets.payloads[start:end], packets.frame.data)
        size = sum(len(block) for block, _ in blocks)
        octets = sum(len(before) + end - start for before, start, end in packets.payloads[start:end])
        return _Burst(leaves, blocks, count, octets, size)

    def _remember(self, packets: _Packets, now: float) -> None:
        """Keeps it for a while, in case that the far side misses some of it."""
        history = self._history
        history.append(packets)
        oldest = now - HISTORY_TIME
        # Of what has left: the newest frame is kept in any case, and what is ready is bounded elsewhere.
        while (
            len(history) > 1
            and history[1].begun
            and (self._history_packets > HISTORY_PACKETS or history[0].due < oldest)
        ):
            self._history_packets -= len(history.popleft().payloads)

    # --- Falling behind ---

    def _drop_late(self, now: float) -> None:
        """Drops when the path has been blocked for too long."""
        # A frame of which a part has left is finished: nobody can use a part.
        stuck = [packets.due for packets in self._ready if not packets.begun]
        stuck += [due for due, _ in self._waiting]
        if stuck and now - stuck[0] > MAX_BEHIND:
            self._drop("the path is blocked")

    def _drop(self, why: str) -> None:
        """Drops what waits, up to the newest keyframe; without one, everything until one comes, which is asked for."""
        ready, self._ready = list(self._ready), deque()
        if ready and ready[0].begun:
            self._ready.append(ready.pop(0))
        if ready:
            # Their numbers have not been seen by anybody: with a gap, the far side would ask for what never was.
            if sum(len(packets.payloads) for packets in ready) < ENCRYPTED_AGAIN:
                self._sequence_number, self._picture_id = ready[0].first, ready[0].picture_id
            for _ in ready:
                self._history.pop()
        waiting = [(packets.due, packets.frame) for packets in ready]
        waiting += self._waiting
        keyframe = next((i for i in reversed(range(len(waiting))) if waiting[i][1].keyframe), len(waiting))
        if keyframe == 0 and len(waiting) >= MAX_WAITING:
            keyframe = len(waiting)  # a second for which nothing could be sent: what comes next is newer
        self._waiting = deque(waiting[keyframe:])
        self._counters.send_dropped += keyframe
        self._free_at = 0.0
        self._smoother = pacing.Smoother()
        logger.debug("%d frames are not sent: %s.", keyframe, why)
        if not self._waiting and keyframe:
            self._needs_keyframe = True
            self._feedback.keyframe_requested()
