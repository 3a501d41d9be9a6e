"""What goes into a machine: commands of the application, the signaling connection, reports of the engine."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, TypeAlias

from deepio_core.records import dataclass

if TYPE_CHECKING:
    from deepio_core.jsontext import JSON
    from deepio_core.outputs import Cause
    from deepio_core.signals import Candidate

# --- Commands of the application -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPeers:
    """Ask the server for its peers; answered by `PeersListed` or `PeersNotListed`, exactly once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Let other peers connect; one that does is told as `ConnectionRequested`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Connect:
    """Connect to a listening peer; answered by `Connected` or `ConnectionFailed`, exactly once."""

    remote_id: str
    """Id of the remote peer, as the peer list shows it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """Accept the requested connection; answered by `Connected` or `ConnectionFailed`, exactly once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    """Leave the remote peer, refuse an invitation, or stop listening; ends in ONLINE."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send one message to the connected remote peer."""

    data: JSON = field(repr=False)
    """The message; DEEP peers want an object with a `type`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Leave the remote peer and the server for good; ends in CLOSED."""


# --- The signaling connection ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingOpened:
    """The signaling connection is open."""

    link: int = 1
    """The number that came with `OpenSignaling`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingReceived:
    """A message has come over the signaling connection."""

    text: str | bytes = field(repr=False)
    """The whole message; may hold SDP."""
    link: int = 1
    """The number that came with `OpenSignaling`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingFailed:
    """The signaling connection could not be opened."""

    cause: Cause
    """Why, as far as a machine needs to know."""
    detail: str = ""
    """Why, for people: a sentence without secrets."""
    link: int = 1
    """The number that came with `OpenSignaling`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalingClosed:
    """The signaling connection was open and has ended."""

    code: int | None = None
    """WebSocket close code (RFC 6455 section 7.4); 1005 for an empty close frame, 1006 for none."""
    reason: str = ""
    """The reason in the close frame."""
    link: int = 1
    """The number that came with `OpenSignaling`."""


# --- Reports of the engine -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOffer:
    """The offer is made, all candidates inside."""

    negotiation: int
    """The number that came with `StartEngine`."""
    sdp: str = field(repr=False)
    """Session description (RFC 8866)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAnswer:
    """The answer is made, all candidates inside."""

    negotiation: int
    """The number that came with `StartEngine`."""
    sdp: str = field(repr=False)
    """Session description (RFC 8866)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalCandidate:
    """A candidate that did not make it into the description."""

    negotiation: int
    """The number that came with `StartEngine`."""
    candidate: Candidate
    """The candidate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelOpened:
    """The data channel is open."""

    negotiation: int
    """The number that came with `StartEngine`."""
    max_message_size: int | None = None
    """Largest message that the far side takes (RFC 8841 section 6), bytes; None if it did not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelReceived:
    """A message has come over the data channel."""

    negotiation: int
    """The number that came with `StartEngine`."""
    data: str | bytes = field(repr=False)
    """The whole message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """Something has arrived from the remote peer since the last report: media, RTCP, data or a consent check."""

    negotiation: int
    """The number that came with `StartEngine`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFailed:
    """The engine cannot go on and waits for `CloseEngine`."""

    negotiation: int
    """The number that came with `StartEngine`."""
    cause: Cause
    """Why, as far as a machine needs to know."""
    detail: str = ""
    """Why, for people: a sentence without secrets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineClosed:
    """The engine has ended: as asked by `CloseEngine`, or because the remote peer closed the connection."""

    negotiation: int
    """The number that came with `StartEngine`."""


Command: TypeAlias = ListPeers | Listen | Connect | Accept | Disconnect | Send | Close
SignalingInput: TypeAlias = SignalingOpened | SignalingReceived | SignalingFailed | SignalingClosed
EngineReport: TypeAlias = (
    LocalOffer | LocalAnswer | LocalCandidate | ChannelOpened | ChannelReceived | Activity | EngineFailed | EngineClosed
)
PeerInput: TypeAlias = Command | SignalingInput | EngineReport
