"""What the driver asks of WebRTC: the `Engine` protocol, its settings and its statistics.

An engine performs the effects of a `deepio_core` machine that concern the peer connection, and reports what becomes of
them. It serves one client over successive negotiations: each has a peer connection of its own, while the video source
stays open from one to the next. `open_engine` makes the real one, over aiortc; `memory_engine` holds one without a
network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import field
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

import anyio
import anyio.to_thread

from deepio_adapters.groups import unwrapped
from deepio_core.errors import LocalProtocolError
from deepio_core.media.options import VideoOptions
from deepio_core.outputs import ApplyAnswer, ApplyCandidate, ApplyOffer, CloseEngine, SendChannel, StartEngine
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from deepio_adapters.engine_base import EngineBase
    from deepio_adapters.engine_room import EngineRoom
    from deepio_adapters.frames import ReceivedFrame
    from deepio_adapters.pairing import SentLog
    from deepio_adapters.shared import SharedSource
    from deepio_adapters.slots import LatestSlot
    from deepio_adapters.sources import Source
    from deepio_core.inputs import EngineReport

__all__ = [
    "ChannelOptions",
    "Engine",
    "EngineConfig",
    "EngineEffect",
    "EngineFactory",
    "EngineStats",
    "IceServer",
    "Report",
    "open_engine",
]

EngineEffect: TypeAlias = StartEngine | ApplyOffer | ApplyAnswer | ApplyCandidate | SendChannel | CloseEngine
"""The effects that an engine performs."""

Report: TypeAlias = "Callable[[EngineReport], object]"
"""Takes the reports of an engine, in its thread: it must not block and hops to the loop it serves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServer:
    """A STUN or TURN server."""

    urls: str | tuple[str, ...]
    """`stun:host[:port]` or `turn[s]:host[:port][?transport=udp|tcp]`. aiortc uses the first STUN and the first TURN
    server of all that are given."""
    username: str | None = None
    """User name, for TURN."""
    credential: str | None = field(default=None, repr=False)
    """Password, for TURN."""

    @property
    def all_urls(self) -> tuple[str, ...]:
        """The URLs, always as a tuple."""
        return (self.urls,) if isinstance(self.urls, str) else self.urls


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOptions:
    """The data channel that we make when we offer; the far side takes whatever comes.

    The defaults are those of hyperpeer-py. DEEP stream managers use `ordered=False, max_retransmits=0`.
    """

    label: str = "data_channel"
    """Name; no known peer looks at it."""
    ordered: bool = True
    """Messages arrive in the order in which they were sent."""
    max_retransmits: int | None = None
    """How often a lost packet is sent again; None for until it arrives."""
    max_packet_life_time: int | None = None
    """For how many milliseconds a lost packet is sent again; None for until it arrives."""
    protocol: str = ""
    """Name of the subprotocol."""

    def __post_init__(self) -> None:
        if self.max_retransmits is not None and self.max_packet_life_time is not None:
            raise LocalProtocolError(
                "A data channel takes max_retransmits or max_packet_life_time, not both.",
                remedy="Leave one of them None.",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of an engine."""

    source: Callable[[], Source] | None = None
    """Makes the video source to send; called again when a source has ended and another negotiation begins. None:
    nothing is sent."""
    shared: SharedSource | None = None
    """The video source to send, if it is one that other engines send too; instead of `source`."""
    video: VideoOptions = VideoOptions()
    """How video is sent: copied or encoded, and the settings of the encoder."""
    audio: bool = False
    """Send the sound of the source too, if it has any and was made to give it (`parse_source(audio=True)`)."""
    fresh_source: bool = False
    """Begin the source anew for every connection, as hyperpeer-py does. False: a live source, which is anything but a
    recording, goes on from one connection to the next, so that a reconnect shows a picture at once."""
    keep_frames: float = 0.0
    """Seconds for which frames that are sent are kept, for the results that will come for them; at most as many as
    `kept_frames.LIMIT`. They are decoded for that, if their packets are copied."""
    receive_video: bool = False
    """Somebody wants the far side's frames. If not, and if there is no `media_sink`, its video is refused in the
    session description and nothing is decoded."""
    media_sink: str | None = None
    """File to record the far side's video to; the name tells the format."""
    ice_servers: tuple[IceServer, ...] = ()
    """STUN and TURN servers; none unless asked for: a silent one delays every connection by 5 s."""
    ice_transport_policy: Literal["all", "relay"] = "all"
    """"relay" connects through a TURN server only."""
    channel: ChannelOptions = ChannelOptions()
    """The data channel that we make when we offer."""
    close_timeout: float = 3.0
    """Seconds for a peer connection to close, and for the source to be released; then they go on alone. Below the
    `close_timeout` of the core, so that the engine speaks first."""
    max_message_size: int = 1024 * 1024
    """Largest data message that is reported, bytes; larger ones are dropped and counted. Real stream managers send up
    to 300 kB."""
    max_buffered: int = 4 * 1024 * 1024
    """Bytes that may wait to be sent over the data channel: more than a minute of results. What comes on top is
    dropped and counted: a far side that takes nothing for so long will not want it."""

    def __post_init__(self) -> None:
        if not self.keep_frames >= 0:
            raise LocalProtocolError(
                f"Frames cannot be kept for {self.keep_frames} s.", remedy="Give seconds, or 0 to keep none."
            )

    @property
    def wants_video(self) -> bool:
        """True if the far side's video is to be received."""
        return self.receive_video or self.media_sink is not None


@dataclasses.dataclass(slots=True, kw_only=True)
class EngineStats:
    """What an engine has done so far, over all its negotiations; bytes and packets are those of the transport."""

    negotiations: int = 0
    """Peer connections begun."""
    frames_sent: int = 0
    """Video frames sent, copied or encoded."""
    frames_copied: int = 0
    """Video frames sent as the source had them."""
    send_dropped: int = 0
    """Frames of the source that were not sent: replaced by newer ones, or behind on their way."""
    video_mode: Literal["copy", "encode"] | None = None
    """Whether video is copied or encoded now; None if none is sent."""
    video_reason: str | None = None
    """Why it is so, as a sentence."""
    encoder: str | None = None
    """FFmpeg's name of the encoder in use, such as "libx264"."""
    target_bitrate: int | None = None
    """Bits per second that the encoder aims at now."""
    keyframe_requests: int = 0
    """Keyframes that the far side has asked for."""
    packets_resent: int = 0
    """RTP packets sent again because the far side had missed them."""
    loss: float = 0.0
    """Part of our RTP packets that the far side has lost, 0 to 1, as reported last."""
    source_reconnects: int = 0
    """How often the source was lost and has been opened again."""
    frames_received: int = 0
    """Video frames received and decoded."""
    frames_unwanted: int = 0
    """Video frames that came while nobody wanted any, and were not decoded."""
    keyframes_asked: int = 0
    """Keyframes that we have asked the far side for."""
    decode_dropped: int = 0
    """Received frames that were not decoded, because decoding was behind or could not begin without a keyframe."""
    decode_errors: int = 0
    """Received frames that could not be decoded."""
    receive_dropped: int = 0
    """Decoded frames replaced by newer ones before the application took them."""
    record_dropped: int = 0
    """Frames that did not make it into the `media_sink`."""
    bytes_sent: int = 0
    """Bytes sent."""
    bytes_received: int = 0
    """Bytes received."""
    packets_sent: int = 0
    """Packets sent."""
    packets_received: int = 0
    """Packets received."""
    messages_sent: int = 0
    """Data channel messages sent."""
    messages_received: int = 0
    """Data channel messages received."""
    messages_dropped: int = 0
    """Data channel messages not sent or not reported: too large, too many waiting, or no open channel."""
    candidates_ignored: int = 0
    """Candidates of the far side that could not be used."""
    round_trip: float | None = None
    """Seconds to the far side and back, measured last on the path in use; None before that."""
    codec_out: str | None = None
    """Codec of the video sent, as in "VP8" or "H264"; None if none is sent."""
    codec_in: str | None = None
    """Codec of the video received."""
    path: str | None = None
    """Types of the candidates in use, ours and theirs, as in "host-host" or "relay-srflx"."""
    last_notice: str | None = None
    """What happened last that needs no action but is good to know, as a sentence."""


class Engine(Protocol):
    """What performs the effects of a machine that concern the peer connection."""

    @property
    def frames(self) -> LatestSlot[ReceivedFrame]:
        """The newest frame received, over all negotiations; closed with the engine."""
        ...

    @property
    def sent_frames(self) -> SentLog:
        """The frames sent over the newest connection, to be found when results come."""
        ...

    def perform(self, effect: EngineEffect) -> None:
        """Begins to perform an effect; from any thread, never blocks, never raises for what the network does.

        Every `StartEngine` ends in exactly one `EngineClosed` with its number: after `CloseEngine`, within
        `close_timeout`; or unasked, when the remote peer closes the peer connection. After `EngineFailed` the engine
        waits for `CloseEngine`. Effects of a negotiation that is closed or unknown are dropped.
        """
        ...

    def want_frames(self, wanted: bool) -> None:
        """Says whether anybody looks at `frames`; from any thread. At first that is what `receive_video` says.

        Nothing is decoded while nobody does, unless it is recorded. Decoding then begins with the next keyframe, which
        is asked for.
        """
        ...

    def stats(self) -> EngineStats:
        """A snapshot; from any thread."""
        ...

    async def aclose(self) -> None:
        """Closes all peer connections and the source, bounded; idempotent. Nothing is reported afterwards."""
        ...


EngineFactory: TypeAlias = "Callable[[EngineConfig, Report], AbstractAsyncContextManager[Engine]]"
"""Opens an engine for a client: `open_engine`, or `MemoryNetwork.open_engine`."""


@asynccontextmanager
async def open_engine(config: EngineConfig, report: Report) -> AsyncGenerator[Engine]:
    """The engine over aiortc, in the engine room of the process; closed on the way out.

    Opening the source does not block the event loop. Nor does the import of aiortc (a third of a second or more the
    first time), which goes on meanwhile and afterwards; effects wait for it.

    Args:
        config: The settings.
        report: Takes the reports, in the thread of the engine room.

    Raises:
        SourceError: The source cannot be opened.
        RecordingError: The `media_sink` cannot be written.
        EngineRoomError: The engine room cannot be opened.
    """

    def make(room: EngineRoom) -> EngineBase:
        from deepio_adapters.aiortc_engine import AiortcEngine

        return AiortcEngine(room, config, report)

    async with opened(make) as engine:
        yield engine


@asynccontextmanager
async def opened(make: Callable[[EngineRoom], EngineBase]) -> AsyncGenerator[Engine]:
    """Opens the engine room, makes an engine in a worker thread and opens it; closes all of it on the way out.

    The source is open when the block begins. What the engine loads may not be: if that fails, the block is cancelled,
    and the reason raised.
    """
    from deepio_adapters.engine_room import engine_room

    async with engine_room() as room:
        engine = await anyio.to_thread.run_sync(make, room)
        try:
            await engine.open()
            with unwrapped():
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(engine.loaded)
                    yield engine
                    tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await engine.aclose()
