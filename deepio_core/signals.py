"""The messages of hyperpeer's signaling: between client and server, and from peer to peer through the server.

One JSON value a message, as hyperpeer-node 0.1.3 (the server), hyperpeer-py and hyperpeer-js with simple-peer 9.2
to 9.11 (the clients) write them. Tolerant in: every shape that one of these sends, and whatever else arrives becomes
an `UnknownSignal`, since a server relays what it does not know and any peer can send anything. Strict out: only what
all of these understand.
"""

from __future__ import annotations

import re
from dataclasses import field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from deepio_core import jsontext
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from deepio_core.jsontext import JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerInfo:
    """A peer as the server lists it."""

    id: str
    """Its id, still percent-encoded as in its URL: ids are compared in this form."""
    type: str
    """Its type, still percent-encoded."""
    busy: bool
    """False while it listens: only `ready` makes a peer available, and pairing ends that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An ICE candidate (`RTCIceCandidateInit` of W3C WebRTC). Of `sdp_mid` and `sdp_mline_index` one is there."""

    candidate: str = field(repr=False)
    """The `candidate-attribute` of RFC 8839 section 5.1, from `candidate:` on. Its address may be a `.local` name."""
    sdp_mid: str | None
    """Identification tag of the media line (`a=mid`)."""
    sdp_mline_index: int | None
    """Index of the media line, from 0. With BUNDLE, candidates of others than the first are normal."""


# --- What a client reads ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """The server has paired us. The form is the same whether we asked for it or the other peer did."""

    remote_id: str
    """The remote peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired:
    """The pairing is over, or there was none. Comes at any time, and more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerList:
    """The reply to `listPeers`."""

    peers: tuple[PeerInfo, ...]
    """All peers in the order of their connection, the asker included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerError:
    """The server could not do what was asked, or could not relay. Nothing has changed by it."""

    code: str
    """One of the `ERR_` constants; a relayed fake may say any other word."""
    message: str
    """For people, made `legible`; varies with the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The offer of the listening side."""

    sdp: str = field(repr=False)
    """Session description (RFC 8866); whether it is one is for `sdp.offer_problem` to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer of the connecting side."""

    sdp: str = field(repr=False)
    """Session description (RFC 8866); whether it is one is for `sdp.answer_problem` to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteCandidate:
    """A candidate that comes after the description."""

    candidate: Candidate | None
    """The candidate; None: there will be no more (RFC 8838 section 13)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenegotiationAsked:
    """simple-peer wants another offer, or a media line: `renegotiate`, `transceiverRequest`. May be ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownSignal:
    """A message that is JSON, and no use."""

    detail: str
    """What it is, for people; quotes nothing of it but a type that is a plain word."""


Signal: TypeAlias = (
    Paired | Unpaired | PeerList | ServerError | Offer | Answer | RemoteCandidate | RenegotiationAsked | UnknownSignal
)


def parse_signal(text: str | bytes, *, max_size: int) -> Signal:
    """Read a message that the server sent or relayed.

    Args:
        text: The whole message.
        max_size: Largest size, bytes of UTF-8.

    Returns:
        The signal; `UnknownSignal` for everything that is JSON but no signal, or one that cannot be used.

    Raises:
        RemoteProtocolError: It is no JSON text, or breaks a limit.
    """
    message = jsontext.decode(text, max_size=max_size)
    if not isinstance(message, dict):
        return UnknownSignal(detail=f"{_name_type(message)} where an object is due")
    kind = message.get("type")
    if isinstance(kind, str):
        if reader := _READERS.get(kind):
            return reader(message)
        return UnknownSignal(detail=f"a message of {_quote(kind)}")
    # simple-peer before 9.9 leaves the type out, except with a description.
    for key in _UNTYPED_KEYS:
        if key in message:
            return _READERS[key](message)
    return UnknownSignal(detail="an object without a type")


def _read_status(message: dict[str, JSON]) -> Signal:
    status = message.get("status")
    if status == "paired":
        remote_id = message.get("remotePeerId")
        if isinstance(remote_id, str) and remote_id and remote_id.isprintable():
            return Paired(remote_id=remote_id)
        return UnknownSignal(detail="a status `paired` without the id of the remote peer")
    if status == "unpaired":
        return _UNPAIRED
    return UnknownSignal(detail="a status that is neither `paired` nor `unpaired`")


def _read_peers(message: dict[str, JSON]) -> Signal:
    entries = message.get("peers")
    if not isinstance(entries, list):
        return UnknownSignal(detail="a message of type `peers` without the list of them")
    peers: list[PeerInfo] = []
    for entry in entries:
        # Not a match statement: with a thousand peers, asked for each second, that is most of the work.
        fields = entry if isinstance(entry, dict) else {}
        peer_id, peer_type, busy = fields.get("id"), fields.get("type"), fields.get("busy")
        if not (isinstance(peer_id, str) and isinstance(peer_type, str) and isinstance(busy, bool)):
            return UnknownSignal(detail="a list of peers with an entry that is none")
        if not (peer_id.isprintable() and peer_type.isprintable()):
            return UnknownSignal(detail="a list of peers with an id or type that no URL can carry")
        peers.append(PeerInfo(id=peer_id, type=peer_type, busy=busy))
    return PeerList(peers=tuple(peers))


def _read_error(message: dict[str, JSON]) -> Signal:
    code, text = message.get("code"), message.get("message")
    if not (isinstance(code, str) and _PLAIN_WORD.fullmatch(code)):
        return UnknownSignal(detail="a message of type `error` without a code")
    return ServerError(code=code, message=legible(text) if isinstance(text, str) else "")


def _read_offer(message: dict[str, JSON]) -> Signal:
    sdp = message.get("sdp")
    return Offer(sdp=sdp) if isinstance(sdp, str) else UnknownSignal(detail="an offer without a description")


def _read_answer(message: dict[str, JSON]) -> Signal:
    sdp = message.get("sdp")
    return Answer(sdp=sdp) if isinstance(sdp, str) else UnknownSignal(detail="an answer without a description")


def _read_renegotiation(_message: dict[str, JSON]) -> Signal:
    return _RENEGOTIATION_ASKED


# RFC 8839 section 5.1, as far as every ICE agent needs it: foundation, component, transport, priority, address (may
# also be an FQDN), port, type. 500 characters of extensions are more than any agent writes.
_CANDIDATE: Final = re.compile(
    r"candidate:\S{1,32} [0-9]{1,3} \S{1,16} [0-9]{1,10} \S{1,255} [0-9]{1,5} typ \S{1,16}(?: .{0,500})?"
)

_END_OF_CANDIDATES: Final = frozenset({"", "end-of-candidates"})
"""What stands for the end: an empty string (W3C WebRTC) or the attribute of RFC 8840 section 8.2."""


def _read_candidate(message: dict[str, JSON]) -> Signal:
    """Read a candidate in each of its shapes.

    Nested, `{"candidate": {"candidate", "sdpMid", "sdpMLineIndex"}}`, with or without `type`: simple-peer, and all
    that we send. Flat, with the same names or with `id` and `label`: the shape that hyperpeer-py knows.
    """
    nested = message.get("candidate")
    fields = nested if isinstance(nested, dict) else message
    if "candidate" not in fields:
        return UnknownSignal(detail="a candidate without its text")
    text = fields["candidate"]
    if text is None:
        return _CANDIDATES_ENDED
    if not isinstance(text, str):
        return UnknownSignal(detail=f"a candidate whose text is {_name_type(text)}")
    text = text.strip().removeprefix("a=")
    if text in _END_OF_CANDIDATES:
        return _CANDIDATES_ENDED
    if not _CANDIDATE.fullmatch(text):
        return UnknownSignal(detail="a candidate that cannot be read")
    mid = fields.get("sdpMid", fields.get("id"))
    index = fields.get("sdpMLineIndex", fields.get("label"))
    candidate = Candidate(
        candidate=text,
        # An empty tag is how a browser says that the description has none.
        sdp_mid=mid if isinstance(mid, str) and mid else None,
        # 65535 is what the field can hold in a browser; True is an int only to Python.
        sdp_mline_index=index if type(index) is int and 0 <= index <= 65535 else None,
    )
    if candidate.sdp_mid is None and candidate.sdp_mline_index is None:
        return UnknownSignal(detail="a candidate that names no media line")
    return RemoteCandidate(candidate=candidate)


_READERS: Final[Mapping[str, Callable[[dict[str, JSON]], Signal]]] = MappingProxyType(
    {
        "status": _read_status,
        "candidate": _read_candidate,
        "offer": _read_offer,
        "answer": _read_answer,
        "peers": _read_peers,
        "error": _read_error,
        "renegotiate": _read_renegotiation,
        "transceiverRequest": _read_renegotiation,
    }
)
_UNTYPED_KEYS: Final = ("candidate", "renegotiate", "transceiverRequest")

_UNPAIRED: Final = Unpaired()
_RENEGOTIATION_ASKED: Final = RenegotiationAsked()
_CANDIDATES_ENDED: Final = RemoteCandidate(candidate=None)

_PLAIN_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,40}")


MAX_TEXT: Final = 300
"""Longest text of the far side, characters, that we repeat to people. What hyperpeer-node says has 70 at most."""


def legible(text: str) -> str:
    """Make a text of the far side fit for logs and terminals.

    Returns:
        As much of it as `MAX_TEXT` allows, with U+FFFD for all that cannot be printed: what steers a terminal, begins
        another line of a log, or cannot be written as UTF-8.
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:MAX_TEXT])


def _quote(kind: str) -> str:
    return f"unknown type `{kind}`" if _PLAIN_WORD.fullmatch(kind) else "unknown type"


def _name_type(value: JSON) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
        case _:
            return "an object"


# --- What a client sends ---------------------------------------------------------------------------------------

LIST_PEERS: Final = '{"type":"listPeers"}'
"""Ask for the peer list; answered by `PeerList`."""
READY: Final = '{"type":"ready"}'
"""Let other peers pair with us. Never answered."""
UNPAIR: Final = '{"type":"unpair"}'
"""End the pairing; always answered by `Unpaired`."""


def pair_text(remote_id: str) -> str:
    """Ask to be paired; answered by `Paired` or `ServerError`.

    Args:
        remote_id: Id of the remote peer as the peer list shows it.
    """
    return jsontext.encode({"type": "pair", "remotePeerId": remote_id})


def offer_text(sdp: str) -> str:
    """The offer, for the server to relay."""
    return jsontext.encode({"type": "offer", "sdp": sdp})


def answer_text(sdp: str) -> str:
    """The answer, for the server to relay."""
    return jsontext.encode({"type": "answer", "sdp": sdp})


def candidate_text(candidate: Candidate) -> str:
    """A candidate, for the server to relay.

    Without `type`, since hyperpeer-py reads no candidate that has one, and with both names of the media line, since
    its reader and that of simple-peer 9.2 die if one is missing.
    """
    return jsontext.encode(
        {
            "candidate": {
                "candidate": candidate.candidate,
                "sdpMLineIndex": candidate.sdp_mline_index,
                "sdpMid": candidate.sdp_mid,
            }
        }
    )


# --- What a server reads ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPeersCommand:
    """A client asks for the peer list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyCommand:
    """A client lets others pair with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCommand:
    """A client asks to be paired."""

    remote_id: str | None
    """With whom; None if it named no string: no peer has such an id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairCommand:
    """A client ends its pairing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """Anything else is for the paired peer."""

    value: JSON = field(repr=False)
    """The message, of any JSON type; may hold SDP."""


ServerCommand: TypeAlias = ListPeersCommand | ReadyCommand | PairCommand | UnpairCommand | Relay


def parse_command(text: str | bytes, *, max_size: int) -> ServerCommand:
    """Read a message that a client sent to a server.

    As in hyperpeer-node the type is compared exactly, and further fields of a command are ignored.

    Args:
        text: The whole message.
        max_size: Largest size, bytes of UTF-8.

    Returns:
        The command, or what is to be relayed.

    Raises:
        RemoteProtocolError: It is no JSON text, or breaks a limit.
    """
    message = jsontext.decode(text, max_size=max_size)
    if isinstance(message, dict):
        match message.get("type"):
            case "listPeers":
                return _LIST_PEERS_COMMAND
            case "ready":
                return _READY_COMMAND
            case "pair":
                remote_id = message.get("remotePeerId")
                return PairCommand(remote_id=remote_id if isinstance(remote_id, str) else None)
            case "unpair":
                return _UNPAIR_COMMAND
            case _:
                pass
    return Relay(value=message)


_LIST_PEERS_COMMAND: Final = ListPeersCommand()
_READY_COMMAND: Final = ReadyCommand()
_UNPAIR_COMMAND: Final = UnpairCommand()


# --- What a server sends ---------------------------------------------------------------------------------------

UNPAIRED: Final = '{"type":"status","status":"unpaired"}'
"""The pairing is over, or there was none."""

ERR_PEER_NOT_FOUND: Final = "ERR_PEER_NOT_FOUND"
"""`pair` named a peer that is not connected."""
ERR_PEER_BUSY: Final = "ERR_PEER_BUSY"
"""`pair` named a peer that does not listen."""
ERR_BAD_STATE: Final = "ERR_BAD_STATE"
"""A message to be relayed came from a peer that is not paired."""
ERR_BAD_SIGNAL: Final = "ERR_BAD_SIGNAL"
"""A message was no JSON text."""

ERROR_MESSAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ERR_PEER_NOT_FOUND: "Remote peer does not exists!",
        ERR_PEER_BUSY: "Remote peer is busy!",
        ERR_BAD_STATE: "Cannot forward message to remote peer because peer is not paired!",
        # The original gives the text of the exception, which varies with its JavaScript engine.
        ERR_BAD_SIGNAL: "The message is not valid JSON!",
    }
)
"""What hyperpeer-node says with each code, to the letter, since clients may compare it."""


def peers_text(peers: Iterable[PeerInfo]) -> str:
    """The reply to `listPeers`, in the order given."""
    return jsontext.encode(
        {"type": "peers", "peers": [{"id": peer.id, "type": peer.type, "busy": peer.busy} for peer in peers]}
    )


def paired_text(remote_id: str) -> str:
    """Tell a peer with whom it is paired."""
    return jsontext.encode({"type": "status", "status": "paired", "remotePeerId": remote_id})


def error_text(code: str, message: str | None = None) -> str:
    """Tell a peer that its message could not be obeyed.

    Args:
        code: One of the `ERR_` constants.
        message: For people; None for what hyperpeer-node says with this code.
    """
    if message is None:
        message = ERROR_MESSAGES[code]
    return jsontext.encode({"type": "error", "code": code, "message": message})
