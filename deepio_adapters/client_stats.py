"""What a client tells about itself: a snapshot of its counters and rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from deepio_core.records import dataclass

if TYPE_CHECKING:
    from deepio_adapters.engine import EngineStats
    from deepio_adapters.rates import RateMeter
    from deepio_core.states import PeerState

__all__ = ["ClientStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStats:
    """A snapshot of what a client does. Rates are means over about the last two seconds."""

    state: PeerState
    """The public state."""
    remote_id: str | None
    """The remote peer, if there is one."""
    fps_sent: float
    """Video frames sent per second."""
    fps_received: float
    """Video frames received per second."""
    bitrate_sent: float
    """Bits sent per second."""
    bitrate_received: float
    """Bits received per second."""
    frames_sent: int
    """Video frames sent, copied or encoded."""
    frames_copied: int
    """Video frames sent as the source had them."""
    frames_received: int
    """Video frames received and decoded."""
    frames_dropped: int
    """Video frames replaced by newer ones, on the way out or in."""
    decode_dropped: int
    """Frames received that were not decoded, because decoding was behind or could not begin without a keyframe."""
    video_mode: Literal["copy", "encode"] | None
    """Whether video is copied or encoded now; None if none is sent."""
    video_reason: str | None
    """Why it is so, as a sentence."""
    codec: str | None
    """Codec of the video sent, as in "H264" or "VP8"; None if none is sent."""
    encoder: str | None
    """FFmpeg's name of the encoder in use, such as "libx264"; None if none is."""
    target_bitrate: int | None
    """Bits per second that the encoder aims at now; None if none is in use."""
    keyframe_requests: int
    """Keyframes that the remote peer has asked for."""
    packets_resent: int
    """RTP packets sent again because the remote peer had missed them."""
    loss: float
    """Part of our RTP packets that the remote peer has lost, 0 to 1, as it reported last."""
    source_reconnects: int
    """How often the source was lost and has been opened again."""
    bytes_sent: int
    """Bytes sent."""
    bytes_received: int
    """Bytes received."""
    messages_received: int
    """DEEP messages received."""
    messages_dropped: int
    """DEEP messages that a consumer was too slow for, or that the engine could not send or take."""
    round_trip: float | None
    """Seconds to the remote peer and back, measured last; None before that."""
    reconnects: int
    """How often the data channel has opened again after the first time."""
    last_error: str | None
    """What has gone wrong last, as a sentence."""

    @classmethod
    def gather(
        cls,
        engine: EngineStats,
        rates: RateMeter,
        *,
        state: PeerState,
        remote_id: str | None,
        frames_missed: int,
        messages_received: int,
        messages_missed: int,
        reconnects: int,
        last_error: str | None,
    ) -> ClientStats:
        """Put together what engine and client have counted.

        Args:
            engine: What the engine has counted.
            rates: Of frames sent and received, and of bytes sent and received, per second.
            state: The public state.
            remote_id: The remote peer, if there is one.
            frames_missed: Video frames that consumers were too slow for.
            messages_received: DEEP messages received.
            messages_missed: DEEP messages that consumers were too slow for.
            reconnects: How often the data channel has opened again.
            last_error: What has gone wrong last.
        """
        return cls(
            state=state,
            remote_id=remote_id,
            fps_sent=rates.rate(0),
            fps_received=rates.rate(1),
            bitrate_sent=8 * rates.rate(2),
            bitrate_received=8 * rates.rate(3),
            frames_sent=engine.frames_sent,
            frames_copied=engine.frames_copied,
            frames_received=engine.frames_received,
            frames_dropped=engine.send_dropped + engine.receive_dropped + frames_missed,
            decode_dropped=engine.decode_dropped,
            video_mode=engine.video_mode,
            video_reason=engine.video_reason,
            codec=engine.codec_out,
            encoder=engine.encoder,
            target_bitrate=engine.target_bitrate,
            keyframe_requests=engine.keyframe_requests,
            packets_resent=engine.packets_resent,
            loss=engine.loss,
            source_reconnects=engine.source_reconnects,
            bytes_sent=engine.bytes_sent,
            bytes_received=engine.bytes_received,
            messages_received=messages_received,
            messages_dropped=messages_missed + engine.messages_dropped,
            round_trip=engine.round_trip,
            reconnects=reconnects,
            last_error=last_error,
        )
