"""An engine without a network: two of them that exchange their descriptions are connected, with data and frames.

It lives in the engine room like the real one and reports in the same order, so a client cannot tell them apart.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Final

from deepio_adapters.engine import Engine, EngineConfig, Report, opened
from deepio_adapters.engine_base import EngineBase
from deepio_adapters.frames import ReceivedFrame
from deepio_adapters.negotiation import Negotiation
from deepio_adapters.slots import LatestSlot, SlotClosedError
from deepio_core.outputs import Cause

if TYPE_CHECKING:
    from deepio_adapters.engine_room import EngineRoom
    from deepio_adapters.feed import Feed
    from deepio_adapters.sources import SourceFrame
    from deepio_core.outputs import StartEngine
    from deepio_core.sdp import Description
    from deepio_core.signals import Candidate

__all__ = ["MemoryNetwork"]

MAX_MESSAGE_SIZE: Final = 256 * 1024
"""Largest message that our descriptions announce, as aiortc and Chromium do."""

ROUND_TRIP: Final = 0.0
"""Seconds from one memory to the same."""


class MemoryNetwork:
    """What connects in-memory engines: those of different networks do not reach each other."""

    def __init__(self) -> None:
        self.ends: dict[str, _MemoryNegotiation] = {}
        """The open peer connections under the names in their descriptions. For the engine room only."""
        self.cut = False
        """True: nothing passes any more and nobody is told, as when a cable is pulled."""

    def open_engine(self, config: EngineConfig, report: Report) -> AbstractAsyncContextManager[Engine]:
        """An engine of this network; the same arguments and errors as `engine.open_engine`."""
        return opened(lambda room: _MemoryEngine(room, config, report, self))


class _MemoryEngine(EngineBase):
    def __init__(self, room: EngineRoom, config: EngineConfig, report: Report, network: MemoryNetwork) -> None:
        super().__init__(room, config, report)
        self.network = network

    def new_negotiation(self, start: StartEngine) -> Negotiation:
        return _MemoryNegotiation(self, start)


class _MemoryNegotiation(Negotiation):
    def __init__(self, engine: _MemoryEngine, start: StartEngine) -> None:
        super().__init__(engine, start)
        self._network = engine.network
        self._name = secrets.token_hex(8)
        self._far: _MemoryNegotiation | None = None
        self._video: tuple[bool, bool] = (False, False)
        self._frames: LatestSlot[SourceFrame] | None = None
        self._heard = 0

    async def make_offer(self) -> str:
        self._network.ends[self._name] = self
        return _sdp(self._name, self.direction if self.direction != "inactive" else None)

    async def make_answer(self, sdp: str) -> str:
        theirs = self.read(sdp)
        self.described()
        self._network.ends[self._name] = self
        self._agree(theirs)
        sends, receives = self._video
        names = {(True, True): "sendrecv", (True, False): "sendonly", (False, True): "recvonly"}
        offered = any(line.kind == "video" for line in theirs.media)
        return _sdp(self._name, names.get((sends, receives), "inactive") if offered else None)

    async def apply_answer(self, sdp: str) -> None:
        self._agree(self.read(sdp))
        # Who is not there any more, or on another network, is not reached: that is no failure yet, as with ICE.
        named = re.search(r"(?m)^a=ice-ufrag:(\S+)", sdp)
        far = self._network.ends.get(named[1]) if named else None
        if far is not None and not far.closing and not self._network.cut:
            self._connect(far)
            far._connect(self)

    async def add_candidate(self, candidate: Candidate | None) -> None:
        if candidate is not None and not candidate.candidate.startswith("candidate:"):
            raise ValueError("it is no candidate")

    def send(self, text: str) -> None:
        if self._far is None:
            raise ValueError("there is no open data channel")
        if len(text.encode()) > MAX_MESSAGE_SIZE:
            raise ValueError(f"it is larger than the {MAX_MESSAGE_SIZE} bytes that the remote peer takes")
        stats = self.engine.counters
        stats.bytes_sent += len(text)
        stats.packets_sent += 1
        asyncio.get_running_loop().call_soon(self._pass, text)

    def look(self) -> int:
        return self._heard

    async def probe(self) -> bool:
        if self._far is None or self._network.cut:
            return False
        self.engine.counters.round_trip = ROUND_TRIP
        return True

    async def shut(self) -> None:
        self._network.ends.pop(self._name, None)
        if self._frames is not None and self.engine.feed is not None:
            self.engine.feed.unsubscribe(self._frames)
        far, self._far = self._far, None
        if far is not None and not self._network.cut:
            far.close()

    def _agree(self, theirs: Description) -> None:
        video = theirs.first("video")
        self.note_video(video)
        ours = self.direction
        self._video = (
            video is not None and video.receives and ours in ("sendrecv", "sendonly"),
            video is not None and video.sends and ours in ("sendrecv", "recvonly"),
        )

    def _connect(self, far: _MemoryNegotiation) -> None:
        self._far = far
        self.engine.counters.path = "host-host"
        self.opened(MAX_MESSAGE_SIZE)
        sends, receives = self._video
        stats = self.engine.counters
        stats.codec_out, stats.codec_in = "H264" if sends else None, "H264" if receives else None
        if sends and self.engine.feed is not None:
            # Not before the connection stands: a recording is to start when it can be seen.
            self._frames = self.engine.feed.subscribe_frames()
            self.spawn(self._send_frames(self.engine.feed, self._frames))

    async def _send_frames(self, feed: Feed, frames: LatestSlot[SourceFrame]) -> None:
        stats, dropped = self.engine.counters, 0
        while True:
            try:
                frame = await frames.aget()
            except SlotClosedError as end:
                cause = Cause.SOURCE_ENDED if end.error is None else Cause.SOURCE_FAILED
                self.fail(cause, str(end.error or f"the source {feed.name} has ended"))
                return
            self.engine.sent_frames.sent(frame.captured_at, time.monotonic())
            stats.frames_sent += 1
            stats.send_dropped += frames.dropped - dropped
            dropped = frames.dropped
            if self._far is not None and not self._network.cut:
                self._far._show(frame)

    def _show(self, frame: SourceFrame) -> None:
        self._hear(frame.width * frame.height * 3 // 2)
        if not self.engine.wants_frames:
            self.engine.counters.frames_unwanted += 1
            return
        self.engine.show(ReceivedFrame(picture=frame.picture, received_at=time.monotonic(), negotiation=self.number))

    def _pass(self, text: str) -> None:
        if self._far is not None and not self._network.cut:
            self._far._hear(len(text))
            self._far.received(text)

    def _hear(self, size: int) -> None:
        self._heard += 1
        self.engine.counters.bytes_received += size
        self.engine.counters.packets_received += 1


def _sdp(name: str, video: str | None) -> str:
    """A description that looks like aiortc's, without candidates: there is no network to have any on."""
    fingerprint = ":".join(["00"] * 32)
    transport = (
        f"c=IN IP4 0.0.0.0\na=ice-ufrag:{name}\na=ice-pwd:{name}{name}\n"
        f"a=fingerprint:sha-256 {fingerprint}\na=setup:actpass\na=end-of-candidates\n"
    )
    media = ""
    if video is not None:
        media = f"m=video 9 UDP/TLS/RTP/SAVPF 97\na={video}\na=mid:0\na=rtcp-mux\na=rtpmap:97 H264/90000\n{transport}"
    mids = "0 1" if video is not None else "1"
    text = (
        f"v=0\no=- 0 0 IN IP4 0.0.0.0\ns=-\nt=0 0\na=group:BUNDLE {mids}\n{media}"
        f"m=application 9 UDP/DTLS/SCTP webrtc-datachannel\na=mid:1\na=sctp-port:5000\n"
        f"a=max-message-size:{MAX_MESSAGE_SIZE}\n{transport}"
    )
    return text.replace("\n", "\r\n")
