"""What goes into a `SignalingServer` and what comes out of it: settings, inputs, effects, events."""

from __future__ import annotations

import math
from dataclasses import field
from typing import TypeAlias

from deepio_core.address import MAX_SEGMENT, SEGMENT_CHARACTERS
from deepio_core.errors import LocalProtocolError
from deepio_core.records import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Limits of a `SignalingServer`. hyperpeer-node has none of them, but 100 MiB for a message."""

    max_peers: int = 1024
    """Connected peers; one more is closed with `closecodes.SERVER_FULL`. With 1024 of the longest types and ids the
    peer list takes 450 kB, so that every client can receive it (hyperpeer-py takes 1 MiB)."""
    max_message_size: int = 1024 * 1024
    """Largest message, bytes of UTF-8; the sender of a larger one is closed with `closecodes.MESSAGE_TOO_BIG`. This
    is what hyperpeer-py can receive; the largest real signals are SDP of some 10 kB."""
    messages_per_second: float = 50.0
    """Messages that a peer may send in the long run; beyond it is closed with `closecodes.RATE_EXCEEDED`. A session
    takes about ten, and the most eager pollers of the peer list send one each second."""
    message_burst: int = 200
    """Messages that a peer may send at once after a pause. A browser with ten interfaces trickles about 40
    candidates for each negotiation, and may negotiate several times in a row (simple-peer 9.3 and newer)."""
    max_type_length: int = 128
    """Longest peer type, characters; DEEP's longest is 14. A longer one is closed with
    `closecodes.ADDRESS_REFUSED`."""
    max_id_length: int = MAX_SEGMENT
    """Longest peer id, characters, percent escapes as they stand: what our clients send at most. A longer one is
    closed with `closecodes.ADDRESS_REFUSED`."""
    characters: frozenset[str] = SEGMENT_CHARACTERS
    """Characters of types and ids. Can be narrowed, for instance to ids without percent escapes, but not widened:
    what else there is no signaling URL can carry. Others are closed with `closecodes.ADDRESS_REFUSED`."""

    def __post_init__(self) -> None:
        for name in (
            "max_peers",
            "max_message_size",
            "messages_per_second",
            "message_burst",
            "max_type_length",
            "max_id_length",
        ):
            if not 0 < getattr(self, name) < math.inf:
                raise LocalProtocolError(f"{name} must be a number above zero, not {getattr(self, name)}.")
        if self.message_burst < 1:
            raise LocalProtocolError(f"message_burst must be at least 1, not {self.message_burst}.")
        if not self.characters or not self.characters <= SEGMENT_CHARACTERS:
            raise LocalProtocolError("characters must be some of those that a signaling URL can carry.")


# --- Inputs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerArrived:
    """A client asks for a WebSocket; answered by `AdmitPeer` or `RefusePeer`, exactly one of them."""

    conn: int
    """Number of the connection, never given before; comes back with all that concerns it."""
    path: str = field(repr=False)
    """Request target as it stands in the request, query included; may hold a key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSent:
    """A message has come; ignored if the connection is none of a peer, or no longer."""

    conn: int
    """Number of the connection."""
    text: str | bytes = field(repr=False)
    """The whole message, of a text frame or a binary frame; may hold SDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerLeft:
    """The connection has ended, however; ignored if it is none of a peer, or no longer."""

    conn: int
    """Number of the connection."""


# --- Effects ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitPeer:
    """Accept the WebSocket."""

    conn: int
    """Number of the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusePeer:
    """Refuse the WebSocket. The peer was never registered, and nothing more is said about this connection."""

    conn: int
    """Number of the connection."""
    status: int
    """HTTP status to answer the handshake with. 101: accept it, then close it at once with `code`, since that is
    what a browser can read."""
    code: int
    """WebSocket close code; also for a status other than 101 where the handshake is over already."""
    reason: str
    """Reason for the close frame, or the body of the response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SendTo:
    """Send a text message to a peer."""

    conn: int
    """Number of the connection."""
    text: str = field(repr=False)
    """The message; may hold SDP."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosePeer:
    """Close the WebSocket of a peer that has broken a limit. It is no peer any more."""

    conn: int
    """Number of the connection."""
    code: int
    """WebSocket close code."""
    reason: str
    """Reason for the close frame."""


# --- Events ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerJoined:
    """A peer has been registered."""

    conn: int
    """Number of its connection."""
    peer_type: str
    """Its type."""
    peer_id: str
    """Its id, its own or assigned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersPaired:
    """Two peers have been paired."""

    caller_id: str
    """The peer that asked, and will answer the offer."""
    listener_id: str
    """The peer that was ready, and will offer; the caller itself if it has paired with itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeersUnpaired:
    """A pairing, told as `PeersPaired` before, is over."""

    caller_id: str
    """The peer that had asked."""
    listener_id: str
    """The peer that was ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerDeparted:
    """A peer, told as `PeerJoined` before, is registered no more: its connection has ended, or is being closed."""

    conn: int
    """Number of its connection."""
    peer_type: str
    """Its type."""
    peer_id: str
    """Its id, free again from now on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDropped:
    """A message was neither obeyed nor relayed; its sender has been told by an error message."""

    conn: int
    """Number of the sender's connection."""
    detail: str
    """Why; nothing of the message itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HookFailed:
    """A function that the application has given is broken; the peer was refused for that."""

    conn: int
    """Number of the connection."""
    hook: str
    """Name of the function: `check_key` or `new_id`."""
    detail: str
    """What it did. Only the type of an exception, since its text may hold the key."""


ServerInput: TypeAlias = PeerArrived | PeerSent | PeerLeft
ServerEffect: TypeAlias = AdmitPeer | RefusePeer | SendTo | ClosePeer
ServerEvent: TypeAlias = PeerJoined | PeersPaired | PeersUnpaired | PeerDeparted | MessageDropped | HookFailed
ServerOutput: TypeAlias = ServerEffect | ServerEvent
