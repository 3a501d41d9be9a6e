"""A negotiation over aiortc, which is one `RTCPeerConnection`.

Besides this module, those that send and receive for it import aiortc, and nothing else in deep-io does.

How it meets what is known of aiortc 1.16 and of the peers:

* Descriptions leave with all candidates inside; aiortc does not trickle and hyperpeer-py reads no other candidates.
* No track of a kind that the offer lacks is ever added: aiortc fails on that, and so does the original.
* Video that nobody wants is refused, and whatever arrives all the same is drained: an unread track of aiortc grows
  without bound.
* A data channel that the remote peer made arrives open: its `open` event never fires.
* When the remote peer closes, aiortc sees an SCTP abort, then the end of DTLS. The abort alone tells that from a data
  channel that was closed in good order.
* aiortc notices a peer that vanishes after 30 s. We look at what has arrived twice a second, and ask with a STUN
  request when nothing has: see `aiortc_hooks`.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, cast

from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCDataChannel,
    RTCIceServer,
    RTCIceTransportPolicy,
    RTCPeerConnection,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import candidate_from_sdp

from deepio_adapters import aiortc_channel, aiortc_hooks
from deepio_adapters.frames import ReceivedFrame
from deepio_adapters.negotiation import Negotiation
from deepio_adapters.receiving import VideoReceiver
from deepio_adapters.sound_track import SoundTrack
from deepio_adapters.stock_sender import StockSink
from deepio_adapters.video_sender import VideoSender
from deepio_core.errors import RemoteProtocolError
from deepio_core.media.choice import far_video
from deepio_core.outputs import Cause
from deepio_core.sdp import without_mdns

if TYPE_CHECKING:
    from aiortc import RTCDtlsTransport, RTCRtpTransceiver

    from deepio_adapters.engine import EngineConfig
    from deepio_adapters.engine_base import EngineBase
    from deepio_core.media.far import FarVideo
    from deepio_core.outputs import StartEngine
    from deepio_core.sdp import Description
    from deepio_core.signals import Candidate

__all__ = ["begin"]

logger = logging.getLogger(__name__)


def begin(engine: EngineBase, start: StartEngine) -> Negotiation:
    """Begins a negotiation; in the engine room."""
    return _PeerConnection(engine, start)


class _PeerConnection(Negotiation):
    def __init__(self, engine: EngineBase, start: StartEngine) -> None:
        self._pc = RTCPeerConnection(_rtc_configuration(engine.config))
        self._pc.on("connectionstatechange", self._on_state)
        self._pc.on("datachannel", self._on_channel)
        self._pc.on("track", self._on_track)
        self._channel: RTCDataChannel | None = None
        self._sender: VideoSender | None = None
        self._audio: RTCRtpTransceiver | None = None
        self._theirs: Description
        self._max_message_size: int | None = None
        self._traffic = aiortc_hooks.Traffic(0, 0, 0, 0)
        self._blind = 0
        super().__init__(engine, start)
        if engine.feed is not None:
            self._sender = VideoSender(
                engine.feed,
                engine.config,
                engine.counters,
                self.fail,
                sent=engine.sent_frames.sent,
            )

    # --- Descriptions ---

    async def make_offer(self) -> str:
        self._add_video()
        self._add_audio()
        options = self.engine.config.channel
        self._take_channel(
            self._pc.createDataChannel(
                options.label,
                ordered=options.ordered,
                maxRetransmits=options.max_retransmits,
                maxPacketLifeTime=options.max_packet_life_time,
                protocol=options.protocol,
            )
        )
        return await self._describe()

    async def apply_answer(self, sdp: str) -> None:
        theirs = self._theirs = self.read(sdp)
        await self._apply(sdp, "answer")
        self._note(theirs, theirs)

    async def make_answer(self, sdp: str) -> str:
        theirs = self._theirs = self.read(sdp)
        if theirs.first("video") is not None:
            # Before the offer is applied, so that the codec is still ours to choose.
            self._add_video()
        if theirs.first("audio") is not None:
            self._add_audio()
        await self._apply(sdp, "offer")
        ours = [transceiver for transceiver in self._pc.getTransceivers() if transceiver.kind == "video"][:1]
        for transceiver in self._pc.getTransceivers():
            if transceiver not in ours or self.direction == "inactive":
                # Audio is taken and dropped, as hyperpeer-py does: to refuse it would leave the audio of a file that
                # an aiortc peer sends unread in its memory.
                audio = "sendrecv" if transceiver is self._audio else "recvonly"
                transceiver.direction = audio if transceiver.kind == "audio" else "inactive"
        self.described()
        answer = await self._describe()
        self._note(theirs, self.read(answer))
        return answer

    async def add_candidate(self, candidate: Candidate | None) -> None:
        if candidate is None:
            await self._pc.addIceCandidate(None)
            return
        text = candidate.candidate.removeprefix("a=").removeprefix("candidate:")
        try:
            parsed = candidate_from_sdp(text)
        except (AssertionError, ValueError, IndexError) as error:
            raise ValueError("it cannot be parsed") from error
        if parsed.ip.rstrip(".").endswith(".local"):
            raise ValueError("its address is a .local name")  # see without_mdns
        parsed.sdpMid, parsed.sdpMLineIndex = candidate.sdp_mid, candidate.sdp_mline_index
        await self._pc.addIceCandidate(parsed)

    def _add_video(self) -> None:
        if self.direction == "inactive":
            return
        if self._sender is None:
            self._pc.addTransceiver("video", direction=self.direction)
            return
        counters = self.engine.counters
        if aiortc_hooks.usable():
            from deepio_adapters.rtp_sender import RtpSink  # knows aiortc from inside

            transceiver = self._pc.addTransceiver("video", direction=self.direction)
            RtpSink(transceiver.sender, self._sender, counters, self._far_video)
        else:
            sink = StockSink(self._sender, counters, lambda: self._far_video(counters.codec_out or ""))
            transceiver = self._pc.addTransceiver(sink.track, direction=self.direction)
        # In our order, which counts for what we send, whoever offers; the far side may send what it likes.
        order = [*self._sender.preferred_codecs, "rtx"]
        known = [codec for codec in RTCRtpSender.getCapabilities("video").codecs if codec.name in order]
        transceiver.setCodecPreferences(sorted(known, key=lambda codec: order.index(codec.name)))

    def _add_audio(self) -> None:
        feed = self.engine.feed
        if self.engine.config.audio and feed is not None and feed.audio is not None:
            self._audio = self._pc.addTransceiver(SoundTrack(feed), direction="sendonly")

    def _far_video(self, codec: str) -> FarVideo:
        return far_video(self._theirs, codec)

    async def _apply(self, sdp: str, kind: str) -> None:
        try:
            await self._pc.setRemoteDescription(RTCSessionDescription(without_mdns(sdp), kind))
        except Exception as error:
            # aiortc raises whatever its parser stumbles over, and the text may quote the description.
            logger.debug("aiortc does not take the remote description.", exc_info=True)
            raise RemoteProtocolError(f"the remote peer's {kind} cannot be applied ({type(error).__name__})") from None

    async def _describe(self) -> str:
        for transport in self._transports():
            aiortc_hooks.prepare(transport.transport)
        await self._pc.setLocalDescription()
        for transceiver in self._pc.getTransceivers():
            if transceiver.kind == "audio":
                aiortc_hooks.discard(transceiver.receiver)
        return self._pc.localDescription.sdp

    def _note(self, theirs: Description, answer: Description) -> None:
        """Notes what was agreed: `answer` is the answer, whoever wrote it."""
        self._max_message_size = theirs.max_message_size
        video = theirs.first("video")
        self.note_video(video)
        agreed = answer.first("video")
        stats = self.engine.counters
        stats.codec_out = stats.codec_in = None
        if agreed is not None:
            mine, other = (agreed.receives, agreed.sends) if self.offerer else (agreed.sends, agreed.receives)
            codec = answer.first_codec("video")
            name = None if codec is None else codec.name
            stats.codec_out = None
            if mine and self._sender is not None:
                # Of what the answer has, we send what we prefer; our own answer has that first.
                agreed_names = [codec.name for codec in agreed.codecs]
                stats.codec_out = next((ours for ours in self._sender.preferred_codecs if ours in agreed_names), None)
            stats.codec_in = name if other and self.engine.config.wants_video else None

    # --- The data channel ---

    def send(self, text: str) -> None:
        channel = self._channel
        if channel is None or channel.readyState != "open":
            raise ValueError("there is no open data channel")
        if channel.bufferedAmount > self.engine.config.max_buffered:
            raise ValueError(f"{channel.bufferedAmount} bytes are waiting to be sent already")
        channel.send(text)  # raises ValueError for a message that the remote peer does not take

    def _on_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is None:
            self._take_channel(channel)
        else:
            self.engine.notice("The remote peer has opened a second data channel; it is closed.")
            channel.close()

    def _take_channel(self, channel: RTCDataChannel) -> None:
        self._channel = channel
        channel.on("message", self.received)
        channel.on("close", self._on_channel_close)
        if channel.readyState == "open":
            self._on_channel_open()
        else:
            channel.on("open", self._on_channel_open)

    def _on_channel_open(self) -> None:
        aiortc_channel.speed_up(self._pc.sctp)
        self.engine.counters.path = aiortc_hooks.path(self._transports()[0].transport)
        self.opened(self._max_message_size)

    def _on_channel_close(self) -> None:
        sctp = self._pc.sctp
        if sctp is not None and sctp.state == "connected":
            self.fail(Cause.CHANNEL_CLOSED, "the remote peer closed the data channel")
        else:
            # The whole association was aborted: the remote peer is closing its peer connection.
            self.close()

    # --- The peer connection ---

    def _on_state(self) -> None:
        state = self._pc.connectionState
        if state == "closed":
            self.close()
        elif state == "failed":
            lost = self._pc.iceConnectionState == "failed"
            self.fail(
                Cause.ENGINE,
                "there is no path to the remote peer (ICE failed)"
                if lost
                else "the encryption with the remote peer could not be set up (DTLS failed)",
            )

    def _transports(self) -> list[RTCDtlsTransport]:
        """The transports in use, each once: mostly one, but one for each media section before they are bundled."""
        found = [transceiver.receiver.transport for transceiver in self._pc.getTransceivers()]
        if self._pc.sctp is not None:
            found.append(self._pc.sctp.transport)
        return list(dict.fromkeys(found))

    def look(self) -> int:
        transports = self._transports()
        if not transports:
            return 0
        now = aiortc_hooks.traffic(transports[0])
        if now is None:
            # We cannot see what arrives. A live connection must not be taken for dead, so aiortc's own state counts.
            self._blind += self._pc.connectionState == "connected"
            return self._blind
        stats, before, self._traffic = self.engine.counters, self._traffic, now
        stats.bytes_sent += now.bytes_sent - before.bytes_sent
        stats.bytes_received += now.bytes_received - before.bytes_received
        stats.packets_sent += now.packets_sent - before.packets_sent
        stats.packets_received += now.packets_received - before.packets_received
        return now.packets_received

    async def probe(self) -> bool:
        round_trip = await aiortc_hooks.ask(self._transports()[0].transport)
        if round_trip is None:
            return False
        self.engine.counters.round_trip = round_trip
        return True

    async def shut(self) -> None:
        if self._sender is not None:
            self._sender.close()
        await self._pc.close()

    # --- Incoming media ---

    def _on_track(self, track: MediaStreamTrack) -> None:
        wanted = track.kind == "video" and self.engine.config.wants_video
        if wanted and aiortc_hooks.usable():
            (receiver,) = [receiver for receiver in self._pc.getReceivers() if receiver.track is track]
            self.spawn(VideoReceiver(receiver, self.engine, self.number, self.spawn).run())
        else:
            # Always drained, wanted or not: aiortc queues what nobody reads.
            self.spawn(self._drain(track, wanted))

    async def _drain(self, track: MediaStreamTrack, shown: bool) -> None:
        try:
            while True:
                picture = await cast("Any", track).recv()
                if shown and self.engine.wants_frames and not self.closing:
                    self.engine.show(
                        ReceivedFrame(
                            picture=picture,
                            received_at=time.monotonic(),
                            negotiation=self.number,
                            held_frames=1,
                        )
                    )
        except MediaStreamError:
            pass  # the remote peer has ended its track, or the connection ends: both are told otherwise


def _rtc_configuration(config: EngineConfig) -> RTCConfiguration:
    return RTCConfiguration(
        # Never None: that would mean a public server.
        iceServers=[
            RTCIceServer(urls=list(server.all_urls), username=server.username, credential=server.credential)
            for server in config.ice_servers
        ],
        iceTransportPolicy=RTCIceTransportPolicy(config.ice_transport_policy),
    )
