"""What comes out of a machine: effects for the driver to perform and events for the application."""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum, auto
from typing import TYPE_CHECKING, TypeAlias

from deepio_core.records import dataclass

if TYPE_CHECKING:
    from deepio_core.jsontext import JSON
    from deepio_core.signals import Candidate, PeerInfo
    from deepio_core.states import PeerState, Stage


class Cause(StrEnum):
    """Why something failed or ended."""

    LOCAL = auto()
    """The application asked for it."""
    REMOTE_LEFT = auto()
    """The remote peer left: the server said `unpaired`."""
    REMOTE_CLOSED = auto()
    """The remote peer closed the peer connection."""
    NOT_FOUND = auto()
    """The server has no peer with that id."""
    BUSY = auto()
    """The remote peer is not listening, or is connected to another one."""
    CROSSED = auto()
    """Both sides asked for each other at once, so that neither offers."""
    REPAIRED = auto()
    """The server paired us with another peer meanwhile."""
    NOT_PAIRED = auto()
    """The server holds us for unpaired."""
    NO_REPLY = auto()
    """The server did not reply in time."""
    NOT_ACCEPTED = auto()
    """The application did not accept the invitation in time."""
    NO_CONNECTION = auto()
    """The negotiation did not reach an open data channel in time."""
    SILENCE = auto()
    """The connected remote peer gave no sign of life."""
    ENGINE = auto()
    """The WebRTC engine failed."""
    CHANNEL_CLOSED = auto()
    """The remote peer closed the data channel."""
    SOURCE_ENDED = auto()
    """The video source has ended, as planned."""
    SOURCE_FAILED = auto()
    """The video source has broken off, or nothing of it can be sent."""
    SIGNALING_LOST = auto()
    """The signaling connection was lost."""
    UNREACHABLE = auto()
    """The server could not be reached."""
    UNKNOWN_HOST = auto()
    """The server's name could not be resolved."""
    NOT_SIGNALING = auto()
    """What answered is no hyperpeer server."""
    KEY_REFUSED = auto()
    """The server refused our key."""
    CERTIFICATE_REFUSED = auto()
    """We refused the server's certificate."""
    ADDRESS_REFUSED = auto()
    """The server refused our type or id."""
    ID_IN_USE = auto()
    """Another peer, or our own dead connection, holds our id."""
    SERVER_FULL = auto()
    """The server takes no more peers now."""


# --- Effects ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenSignaling:
    """Open the signaling connection; report `SignalingOpened` or `SignalingFailed`, then `SignalingClosed`."""

    link: int
    """Number of this connection, to be given back with every report of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendSignaling:
    """Send a text message over the signaling connection."""

    link: int
    """Number of the connection."""
    text: str = field(repr=False)
    """The message; may hold SDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseSignaling:
    """Close the signaling connection, open or still opening; report `SignalingClosed` or `SignalingFailed`."""

    link: int
    """Number of the connection."""
    code: int = 1000
    """WebSocket close code."""
    reason: str = ""
    """Reason for the close frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartEngine:
    """Start a WebRTC engine for one negotiation."""

    negotiation: int
    """Number of this negotiation, to be given back with every report of it."""
    remote_id: str
    """The remote peer."""
    offerer: bool
    """True: make the data channel and the offer, report `LocalOffer`. False: wait for `ApplyOffer`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyOffer:
    """Apply the remote peer's offer and report `LocalAnswer`, in less than 5 s (a browser waits no longer)."""

    negotiation: int
    """Number of the negotiation."""
    sdp: str = field(repr=False)
    """Session description (RFC 8866)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyAnswer:
    """Apply the remote peer's answer and report `ChannelOpened` when the data channel opens."""

    negotiation: int
    """Number of the negotiation."""
    sdp: str = field(repr=False)
    """Session description (RFC 8866)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplyCandidate:
    """Add a candidate of the remote peer; one that cannot be used is ignored."""

    negotiation: int
    """Number of the negotiation."""
    candidate: Candidate | None
    """The candidate; None: there will be no more (RFC 8838 section 13)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendChannel:
    """Send a text message over the data channel."""

    negotiation: int
    """Number of the negotiation."""
    text: str = field(repr=False)
    """The message; may hold what the application keeps to itself, such as a camera's URL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseEngine:
    """Close the peer connection, not just its data channel, and report `EngineClosed`."""

    negotiation: int
    """Number of the negotiation."""


# --- Events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """The public state has changed."""

    old: PeerState
    """The state before."""
    new: PeerState
    """The state now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersListed:
    """The reply to `ListPeers`."""

    peers: tuple[PeerInfo, ...]
    """All peers of the server in the order of their connection, ourselves included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersNotListed:
    """A `ListPeers` that gets no reply."""

    cause: Cause
    """NO_REPLY or SIGNALING_LOST or LOCAL."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionRequested:
    """A remote peer has paired with us: `Accept` or `Disconnect`."""

    remote_id: str
    """The remote peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionFailed:
    """A connection that was asked for, by us or by the remote peer, has not come about."""

    remote_id: str
    """The remote peer."""
    cause: Cause
    """Why, as far as a machine needs to know."""
    detail: str = ""
    """Why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The data channel to the remote peer is open."""

    remote_id: str
    """The remote peer."""
    negotiation: int
    """Number of the negotiation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReceived:
    """A JSON message has come over the data channel."""

    data: JSON = field(repr=False)
    """The decoded message, of any JSON type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataIgnored:
    """A message has come over the data channel that is no JSON, or too large."""

    detail: str
    """What is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The connection to the remote peer, told as `Connected` before, is over."""

    remote_id: str
    """The remote peer."""
    cause: Cause
    """Why, as far as a machine needs to know."""
    detail: str = ""
    """Why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingLost:
    """The signaling connection is lost while connected: media and data go on until the session ends."""

    detail: str = ""
    """Why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalIgnored:
    """A signal has come that does not fit, or cannot be read; nothing has changed."""

    stage: Stage
    """The stage at that moment."""
    detail: str
    """What came and why it does not fit; no SDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerClosed:
    """The end: nothing is open any more. The last event of a peer, exactly one."""

    cause: Cause
    """Why, as far as a machine needs to know."""
    detail: str = ""
    """Why, for people."""


Effect: TypeAlias = (
    OpenSignaling
    | SendSignaling
    | CloseSignaling
    | StartEngine
    | ApplyOffer
    | ApplyAnswer
    | ApplyCandidate
    | SendChannel
    | CloseEngine
)
PeerEvent: TypeAlias = (
    StateChanged
    | PeersListed
    | PeersNotListed
    | ConnectionRequested
    | ConnectionFailed
    | Connected
    | DataReceived
    | DataIgnored
    | Disconnected
    | SignalingLost
    | SignalIgnored
    | PeerClosed
)
PeerOutput: TypeAlias = Effect | PeerEvent
