"""SignalingServer: the server role of the hyperpeer protocol. Registry, pairing and relay, as a pure state machine.

To its clients it is hyperpeer-node 0.1.3: same replies, same order. It differs where the original ends, where it lets
a stranger into a session, and where it has no limit; docs/server-differences.md lists every such place.

What holds at any time, whatever the clients send:

* a pairing is one object that both peers hold, or neither: nobody is paired with a peer that is not paired with it,
  or that is gone;
* a message is relayed to the peer at the other end of the sender's pairing, and to nobody else;
* a command costs the same with a thousand peers as with two. Only a peer list that has changed is made anew.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from deepio_core import closecodes, signals
from deepio_core.address import parse_path
from deepio_core.errors import AddressError, LocalProtocolError, RemoteProtocolError
from deepio_core.jsontext import encode_again, utf8_size
from deepio_core.server_ports import (
    AdmitPeer,
    ClosePeer,
    HookFailed,
    MessageDropped,
    PeerArrived,
    PeerDeparted,
    PeerJoined,
    PeerLeft,
    PeerSent,
    PeersPaired,
    PeersUnpaired,
    RefusePeer,
    SendTo,
    ServerConfig,
    ServerEffect,
    ServerEvent,
    ServerInput,
    ServerOutput,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_core.address import PeerPath
    from deepio_core.jsontext import JSON

__all__ = [
    "AdmitPeer",
    "ClosePeer",
    "HookFailed",
    "MessageDropped",
    "PeerArrived",
    "PeerDeparted",
    "PeerJoined",
    "PeerLeft",
    "PeerSent",
    "PeersPaired",
    "PeersUnpaired",
    "RefusePeer",
    "SendTo",
    "ServerConfig",
    "ServerEffect",
    "ServerEvent",
    "ServerInput",
    "ServerOutput",
    "SignalingServer",
]

_SERVER_TYPES: Final = frozenset({"status", "peers", "error"})
"""What only the server may say. hyperpeer-node relays these, and the receiver cannot tell who has sent them."""

_NEW_ID_ATTEMPTS: Final = 8
"""A factory that hits an id in use eight times in a row draws from too small a set, or from none."""

_SWITCHING_PROTOCOLS: Final = 101
_UNAUTHORIZED: Final = 401


@dataclass(slots=True, eq=False)
class _Peer:
    conn: int
    peer_type: str
    peer_id: str
    tokens: float
    """Messages that it may send at once."""
    counted_at: float
    """When the tokens were last counted."""
    busy: bool = True
    pairing: _Pairing | None = None


@dataclass(slots=True, eq=False)
class _Pairing:
    caller: _Peer
    listener: _Peer
    answered: bool = False
    """The listener has sent something through it, which is the offer: it knows that it was called."""

    def other(self, peer: _Peer) -> _Peer:
        return self.listener if peer is self.caller else self.caller


class SignalingServer:
    """The server role of the hyperpeer protocol (hyperpeer-node 0.1.3), for any number of peers.

    The driver numbers the connections, hands everything in by `handle`, and takes everything out by `poll` until it
    is None, after every input. There is no deadline: the server waits for nothing and times nobody out.

    Args:
        config: Limits.
        new_id: Makes the id of a peer that connects without one; asked again if the id is in use.
        check_key: Whether a peer may connect, by type, id (None: one will be assigned) and key (None: none given).
            It must return a bool, and compare keys in constant time. Whatever else it does refuses the peer and is
            told as `HookFailed`. None: all keys are accepted and ignored, as by hyperpeer-node without `verifyPeer`.
    """

    def __init__(
        self,
        config: ServerConfig,
        new_id: Callable[[], str],
        check_key: Callable[[str, str | None, str | None], bool] | None = None,
    ) -> None:
        self._config = config
        # Declared to return anything, since what they do return is looked at.
        self._new_id: Callable[[], object] = new_id
        self._check_key: Callable[[str, str | None, str | None], object] | None = check_key
        # Both in the order of connection, which is the order of the peer list; a dict deletes without a search.
        self._by_conn: dict[int, _Peer] = {}
        self._by_id: dict[str, _Peer] = {}
        # Kept until it changes: with n pollers the list is asked for n times a second, and has n entries.
        self._list_text: str | None = None
        # One input makes eight at most, and the driver takes them before it hands in the next one.
        self._outputs: deque[ServerOutput] = deque()

    @property
    def config(self) -> ServerConfig:
        """The limits."""
        return self._config

    @property
    def peers(self) -> tuple[signals.PeerInfo, ...]:
        """All connected peers in the order of their connection."""
        return tuple(
            signals.PeerInfo(id=peer.peer_id, type=peer.peer_type, busy=peer.busy) for peer in self._by_id.values()
        )

    def remote_of(self, peer_id: str) -> str | None:
        """Id of the peer that a peer is paired with; None if it is not paired, or not connected."""
        peer = self._by_id.get(peer_id)
        if peer is None or peer.pairing is None:
            return None
        return peer.pairing.other(peer).peer_id

    def handle(self, incoming: ServerInput, /, *, now: float) -> None:
        """Take in what a client did. Nothing that a client does raises.

        Args:
            incoming: What happened.
            now: Monotonic time, seconds.

        Raises:
            LocalProtocolError: `PeerArrived` with the number of a connected peer; nothing has changed.
        """
        if isinstance(incoming, PeerSent):
            peer = self._by_conn.get(incoming.conn)
            # After a refusal, or a limit broken, messages may still be on their way.
            if peer is not None:
                self._on_sent(peer, incoming.text, now)
        elif isinstance(incoming, PeerArrived):
            self._on_arrived(incoming, now)
        else:
            peer = self._by_conn.get(incoming.conn)
            if peer is not None:
                self._remove(peer)

    def poll(self) -> ServerOutput | None:
        """The next effect to perform or event to tell; None if there is no more."""
        return self._outputs.popleft() if self._outputs else None

    # --- Coming and going ------------------------------------------------------------------------------------

    def _on_arrived(self, arrived: PeerArrived, now: float) -> None:
        conn = arrived.conn
        if conn in self._by_conn:
            raise LocalProtocolError(
                f"Connection {conn} is a peer already.", remedy="Give every connection a number of its own."
            )
        try:
            path = parse_path(arrived.path)
        except AddressError as error:
            self._refuse(conn, closecodes.ADDRESS_REFUSED, error.message)
            return
        if flaw := self._find_flaw(path):
            self._refuse(conn, closecodes.ADDRESS_REFUSED, flaw)
        elif not self._passes(conn, path):
            self._refuse(conn, closecodes.KEY_REFUSED, "Unauthorized", status=_UNAUTHORIZED)
        elif len(self._by_conn) >= self._config.max_peers:
            self._refuse(conn, closecodes.SERVER_FULL, "The server is full.")
        elif path.peer_id in self._by_id:
            self._refuse(conn, closecodes.ID_IN_USE, "Peer Id already in use!")
        else:
            peer_id = path.peer_id or self._assign_id(conn)
            if peer_id:
                self._register(conn, path.peer_type, peer_id, now)
            else:
                self._refuse(conn, closecodes.INTERNAL_ERROR, "The server has no id to assign.")

    def _find_flaw(self, path: PeerPath) -> str:
        """What our limits have against an address that the protocol allows; empty if nothing."""
        config = self._config
        peer_id = path.peer_id or ""
        if len(path.peer_type) > config.max_type_length:
            return f"The type is longer than {config.max_type_length}."
        if len(peer_id) > config.max_id_length:
            return f"The id is longer than {config.max_id_length}."
        if not config.characters.issuperset(path.peer_type + peer_id):
            return "The type or id has characters that this server does not take."
        return ""

    def _passes(self, conn: int, path: PeerPath) -> bool:
        if self._check_key is None:
            return True
        try:
            verdict = self._check_key(path.peer_type, path.peer_id, path.key)
        except Exception as error:  # noqa: BLE001 - a broken check must lock out, and must not end the server
            self._tell_broken(conn, "check_key", f"raised {type(error).__name__}")
            return False
        if not isinstance(verdict, bool):
            # A check that was written as a coroutine would else let everybody in.
            self._tell_broken(conn, "check_key", f"returned {type(verdict).__name__}, not bool")
            return False
        return verdict

    def _assign_id(self, conn: int) -> str:
        """An id that nobody has; empty if there is none to be had."""
        detail = f"returned no usable id in {_NEW_ID_ATTEMPTS} attempts"
        for _ in range(_NEW_ID_ATTEMPTS):
            try:
                peer_id = self._new_id()
            except Exception as error:  # noqa: BLE001 - one peer cannot join, which must not end the server
                detail = f"raised {type(error).__name__}"
                break
            if (
                isinstance(peer_id, str)
                and 0 < len(peer_id) <= self._config.max_id_length
                and self._config.characters.issuperset(peer_id)
                and peer_id not in self._by_id
            ):
                return peer_id
        self._tell_broken(conn, "new_id", detail)
        return ""

    def _tell_broken(self, conn: int, hook: str, detail: str) -> None:
        self._outputs.append(HookFailed(conn=conn, hook=hook, detail=detail))

    def _refuse(self, conn: int, code: int, reason: str, *, status: int = _SWITCHING_PROTOCOLS) -> None:
        self._outputs.append(RefusePeer(conn=conn, status=status, code=code, reason=reason))

    def _register(self, conn: int, peer_type: str, peer_id: str, now: float) -> None:
        peer = _Peer(conn, peer_type, peer_id, tokens=self._config.message_burst, counted_at=now)
        self._by_conn[conn] = peer
        self._by_id[peer_id] = peer
        self._list_text = None
        self._outputs.append(AdmitPeer(conn=conn))
        self._outputs.append(PeerJoined(conn=conn, peer_type=peer_type, peer_id=peer_id))

    def _expel(self, peer: _Peer, code: int, reason: str) -> None:
        self._outputs.append(ClosePeer(conn=peer.conn, code=code, reason=reason))
        self._remove(peer)

    def _remove(self, peer: _Peer) -> None:
        del self._by_conn[peer.conn]
        del self._by_id[peer.peer_id]
        self._list_text = None
        self._part(peer)
        self._outputs.append(PeerDeparted(conn=peer.conn, peer_type=peer.peer_type, peer_id=peer.peer_id))

    # --- Messages --------------------------------------------------------------------------------------------

    def _on_sent(self, peer: _Peer, text: str | bytes, now: float) -> None:
        if not self._take_token(peer, now):
            self._expel(peer, closecodes.RATE_EXCEEDED, "Too many messages.")
            return
        limit = self._config.max_message_size
        try:
            command = signals.parse_command(text, max_size=limit)
        except RemoteProtocolError as error:
            if _size(text) > limit:
                self._expel(peer, closecodes.MESSAGE_TOO_BIG, f"A message is larger than {limit} bytes.")
            else:
                self._reject(peer, signals.ERR_BAD_SIGNAL, error.message)
            return
        if isinstance(command, signals.Relay):
            self._on_relay(peer, command.value)
        elif isinstance(command, signals.ListPeersCommand):
            if self._list_text is None:
                self._list_text = signals.peers_text(self.peers)
            self._send(peer, self._list_text)
        elif isinstance(command, signals.ReadyCommand):
            self._set_busy(peer, False)
        elif isinstance(command, signals.PairCommand):
            self._on_pair(peer, command.remote_id)
        else:
            self._part(peer)
            self._send(peer, signals.UNPAIRED)

    def _take_token(self, peer: _Peer, now: float) -> bool:
        """The token bucket of a peer: fills at `messages_per_second` up to `message_burst`."""
        # A clock that goes back takes no tokens away: as for the client role, time stands still until it has caught up.
        now = max(now, peer.counted_at)
        earned = (now - peer.counted_at) * self._config.messages_per_second
        peer.tokens = min(self._config.message_burst, peer.tokens + earned)
        peer.counted_at = now
        if peer.tokens < 1.0:
            return False
        peer.tokens -= 1.0
        return True

    def _on_relay(self, peer: _Peer, value: JSON) -> None:
        if value is None:
            self._reject(peer, signals.ERR_BAD_SIGNAL, "null is no message.")
            return
        pairing = peer.pairing
        if pairing is None:
            self._reject(peer, signals.ERR_BAD_STATE)
            return
        if isinstance(value, dict):
            kind = value.get("type")
            if isinstance(kind, str) and kind in _SERVER_TYPES:
                self._reject(peer, signals.ERR_BAD_SIGNAL, f"A message of type {kind} comes from the server only.")
                return
        # Made anew, and not passed on as it came: what we have checked is what the receiver will read, even where
        # keys are repeated.
        text = encode_again(value)
        if utf8_size(text) > self._config.max_message_size:
            # 1e15 becomes 1000000000000000.0; a partner must not be made to receive more than we do.
            self._reject(peer, signals.ERR_BAD_SIGNAL, "The message becomes too large.")
            return
        if peer is pairing.listener:
            pairing.answered = True
        self._send(pairing.other(peer), text)

    # --- Pairing ---------------------------------------------------------------------------------------------

    def _on_pair(self, peer: _Peer, remote_id: str | None) -> None:
        remote = None if remote_id is None else self._by_id.get(remote_id)
        if remote is None:
            self._send(peer, signals.error_text(signals.ERR_PEER_NOT_FOUND))
        elif remote.busy:
            pairing = peer.pairing
            # Both have asked for each other, and this is the slower one. It takes the `paired` that it has got for the
            # reply, so that both would wait for an offer for ever: hyperpeer-node leaves them in it.
            crossed = pairing is not None and pairing.caller is remote is not peer and not pairing.answered
            # The reply comes first: behind `unpaired` it could be taken for that to the next `pair`.
            self._send(peer, signals.error_text(signals.ERR_PEER_BUSY))
            if crossed:
                self._part(peer)
                self._send(peer, signals.UNPAIRED)
        else:
            if peer.pairing is not None:
                self._part(peer)
                self._send(peer, signals.UNPAIRED)
            if remote.pairing is not None:
                # It was ready without having unpaired, as hyperpeer-py does after every session. Like with the
                # original its former partner is not told; unlike there it has no part in the new session.
                self._dissolve(remote.pairing)
            peer.pairing = remote.pairing = _Pairing(peer, remote)
            self._set_busy(peer, True)
            self._set_busy(remote, True)
            self._send(peer, signals.paired_text(remote.peer_id))
            self._send(remote, signals.paired_text(peer.peer_id))
            self._outputs.append(PeersPaired(caller_id=peer.peer_id, listener_id=remote.peer_id))

    def _part(self, peer: _Peer) -> None:
        """Dissolve the pairing of a peer, if any, and tell its partner, if that is still connected."""
        pairing = peer.pairing
        if pairing is None:
            return
        self._dissolve(pairing)
        remote = pairing.other(peer)
        # Gone is only a peer that had paired with itself.
        if remote.conn in self._by_conn:
            self._send(remote, signals.UNPAIRED)

    def _dissolve(self, pairing: _Pairing) -> None:
        pairing.caller.pairing = pairing.listener.pairing = None
        self._outputs.append(PeersUnpaired(caller_id=pairing.caller.peer_id, listener_id=pairing.listener.peer_id))

    def _set_busy(self, peer: _Peer, busy: bool) -> None:
        if peer.busy is not busy:
            peer.busy = busy
            self._list_text = None

    # --- Replies ---------------------------------------------------------------------------------------------

    def _send(self, peer: _Peer, text: str) -> None:
        self._outputs.append(SendTo(conn=peer.conn, text=text))

    def _reject(self, peer: _Peer, code: str, message: str | None = None) -> None:
        self._send(peer, signals.error_text(code, message))
        detail = f"{code}: {message or signals.ERROR_MESSAGES[code]}"
        self._outputs.append(MessageDropped(conn=peer.conn, detail=detail))


def _size(text: str | bytes) -> int:
    """Size in UTF-8, also of a text that no UTF-8 can carry."""
    return len(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
