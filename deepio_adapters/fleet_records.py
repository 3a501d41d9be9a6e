"""What a fleet tells: how its streams are, what happens to them, and why something was not possible."""

from __future__ import annotations

from enum import StrEnum, auto
from typing import TYPE_CHECKING, Literal, TypeAlias

from deepio_core.errors import DeepIOError
from deepio_core.outputs import Cause
from deepio_core.records import dataclass
from deepio_core.states import PeerState

if TYPE_CHECKING:
    from deepio_adapters.client_stats import ClientStats

__all__ = [
    "FleetError",
    "FleetEvent",
    "FleetStats",
    "ProcessStats",
    "Restart",
    "StreamEnded",
    "StreamLost",
    "StreamPhase",
    "StreamRestarting",
    "StreamRetrying",
    "StreamStarted",
    "StreamStateChanged",
    "StreamStatus",
]

Restart: TypeAlias = Literal["never", "on_failure", "always"]
"""Whether a stream that has ended is started again: "on_failure" if its session has failed, "always" also if its source
has ended. What a lost worker process has taken with it is started again in any case."""


class FleetError(DeepIOError):
    """A worker process cannot be started, or has ended."""


class StreamPhase(StrEnum):
    """What becomes of a stream."""

    RUNNING = auto()
    """It keeps itself connected."""
    WAITING = auto()
    """It has failed or was lost, and is to be started again."""
    ENDED = auto()
    """It has ended as planned; it stays known until it is removed."""
    FAILED = auto()
    """It has failed, and trying again cannot help or is not wanted; it stays known until it is removed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStatus:
    """How a stream of a fleet is."""

    name: str
    """Its name in the fleet."""
    phase: StreamPhase
    """What becomes of it."""
    state: PeerState
    """The public state of its peer; STARTING while it does not run."""
    stats: ClientStats | None = None
    """Its statistics, from a worker process at most a second old; None while it does not run."""
    last_error: str | None = None
    """What has gone wrong last, as a sentence."""
    process: int | None = None
    """Number of the worker process it runs in, from 0; None: this process."""
    restarts: int = 0
    """How often it was started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStarted:
    """A stream has its source open and begins to connect; for the first time, or again."""

    name: str
    """The stream."""
    restarts: int
    """How often it was started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamStateChanged:
    """The public state of a stream's peer has changed."""

    name: str
    """The stream."""
    old: PeerState
    """The state before."""
    new: PeerState
    """The state now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRetrying:
    """Server or remote peer are lost or cannot be reached; the stream tries again, with its source open."""

    name: str
    """The stream."""
    reason: str
    """What has happened."""
    delay: float
    """Seconds until the next attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamRestarting:
    """A stream has ended, and is to be started again as its restart policy says."""

    name: str
    """The stream."""
    reason: str
    """Why it has ended."""
    delay: float
    """Seconds until then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLost:
    """The worker process of a stream has ended unasked; the stream is to be started again in a new one."""

    name: str
    """The stream."""
    process: int
    """Number of the worker process."""
    reason: str
    """What has become of it."""
    delay: float
    """Seconds until a new one is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnded:
    """The end of a stream; the last that is told of it, exactly once."""

    name: str
    """The stream."""
    cause: Cause
    """Why: LOCAL if it was removed, SOURCE_ENDED, or why trying again cannot help."""
    reason: str
    """The same for people."""
    remedy: str = ""
    """What can be done about it; may be empty."""
    failed: bool = False
    """It has not ended as planned."""


FleetEvent: TypeAlias = (
    StreamStarted | StreamStateChanged | StreamRetrying | StreamRestarting | StreamLost | StreamEnded
)
"""What happens to the streams of a fleet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessStats:
    """One worker process."""

    process: int
    """Its number, from 0."""
    pid: int | None
    """Its id; None while a new one is to be started."""
    streams: int
    """Streams that belong to it."""
    restarts: int
    """How often it was lost and started again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStats:
    """Sums over the streams that a fleet has now."""

    streams: int
    """Streams."""
    connected: int
    """Those that are connected."""
    frames_sent: int
    """Video frames sent."""
    bytes_sent: int
    """Bytes sent."""
    messages_received: int
    """DEEP messages received."""
    messages_dropped: int
    """DEEP messages that something or somebody on their way was too slow for."""
    events_dropped: int
    """Events that something or somebody on their way was too slow for."""
    restarts: int
    """How often streams were started again."""
    processes: tuple[ProcessStats, ...]
    """The worker processes; none if the streams run in this one."""
