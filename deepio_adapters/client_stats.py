"""What a client tells about itself: a snapshot of its counters and rates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepio_core.records import dataclass

if TYPE_CHECKING:
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
    """Video frames handed to the encoder."""
    frames_received: int
    """Video frames received and decoded."""
    frames_dropped: int
    """Video frames replaced by newer ones, on the way out or in."""
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
