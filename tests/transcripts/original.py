"""A model of hyperpeer-node, made from what the recordings show, for finding out in which order it took its inputs.

A recording has the times at which messages passed, not the order in which the server took those of different
connections. The model tells what the original replies to each order; the order whose replies are the recorded ones is
the one to hand to our server. It also knows where the original breaks its own pairings, so that the harness can tell a
listed difference from a defect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from tests.transcripts.recording import as_doubles, parse_strictly

_PATH = re.compile(r"/([\w~% -]+)(?:/([\w~% -]+))?(?:/([\w~% -]+))?", re.ASCII)

NOT_FOUND = {"type": "error", "code": "ERR_PEER_NOT_FOUND", "message": "Remote peer does not exists!"}
BUSY = {"type": "error", "code": "ERR_PEER_BUSY", "message": "Remote peer is busy!"}
BAD_STATE = {
    "type": "error",
    "code": "ERR_BAD_STATE",
    "message": "Cannot forward message to remote peer because peer is not paired!",
}
BAD_SIGNAL = {"type": "error", "code": "ERR_BAD_SIGNAL"}
"""Its text is that of a JavaScript exception: free."""
UNPAIRED = {"type": "status", "status": "unpaired"}

Reply = tuple[int, Any]
"""Number of the connection, and the message."""


@dataclass
class ModelPeer:
    conn: int
    type: str
    id: str
    busy: bool = True
    remote: str | None = None
    """Id of its remote peer, as the original keeps it: connected or not, paired with this one or not."""


class Original:
    """hyperpeer-node: `peers` in the order of connection, and whether the process still runs."""

    def __init__(self, version: str) -> None:
        self.version = version
        self.peers: dict[str, ModelPeer] = {}
        self.dead = False

    def copy(self) -> Original:
        twin = Original(self.version)
        twin.peers = {peer_id: replace(peer) for peer_id, peer in self.peers.items()}
        twin.dead = self.dead
        return twin

    def peer_of(self, conn: int) -> ModelPeer | None:
        return next((peer for peer in self.peers.values() if peer.conn == conn), None)

    def rename(self, old: str, new: str) -> None:
        """An assigned id has become known."""
        self.peers = {new if peer_id == old else peer_id: peer for peer_id, peer in self.peers.items()}
        self.peers[new].id = new
        for peer in self.peers.values():
            if peer.remote == old:
                peer.remote = new

    def arrive(self, conn: int, path: str, *, refused: bool) -> list[Reply]:
        """A client connects; `refused`: the recording shows that it was closed at once."""
        match = _PATH.fullmatch(path.partition("?")[0])
        if match is None:
            self.dead = True
        elif match[2] in self.peers or (refused and match[2] is None):
            self.dead = self.version == "0.1.2"
        else:
            # Which id the original assigns shows only in what it sends later: until then a placeholder.
            peer_id = match[2] or f"?{conn}"
            self.peers[peer_id] = ModelPeer(conn, match[1], peer_id)
        return []

    def violate(self) -> list[Reply]:
        """A client breaks the WebSocket protocol, or sends more than 100 MiB."""
        self.dead = True
        return []

    def leave(self, conn: int) -> list[Reply]:
        peer = self.peer_of(conn)
        if peer is None:
            return []
        replies = self._unpair(peer)
        self.peers = {peer_id: other for peer_id, other in self.peers.items() if other is not peer}
        return [reply for reply in replies if reply[0] != conn]

    def send(self, conn: int, text: str | bytes) -> list[Reply]:
        peer = self.peer_of(conn)
        if peer is None:
            return []
        try:
            message = parse_strictly(text)
        except ValueError:
            return [(conn, BAD_SIGNAL)]
        if message is None:
            return self.violate()
        match message.get("type") if isinstance(message, dict) else None:
            case "listPeers":
                entries = [{"id": one.id, "type": one.type, "busy": one.busy} for one in self.peers.values()]
                return [(conn, {"type": "peers", "peers": entries})]
            case "ready":
                peer.busy = False
                return []
            case "pair":
                return self._pair(peer, message.get("remotePeerId"))
            case "unpair":
                return [*self._unpair(peer), (conn, UNPAIRED)]
            case _:
                return self._relay(peer, message)

    def _relay(self, peer: ModelPeer, message: Any) -> list[Reply]:
        if peer.remote is None:
            return [(peer.conn, BAD_STATE)]
        if peer.remote not in self.peers:
            return self.violate()
        return [(self.peers[peer.remote].conn, as_doubles(message))]

    def _pair(self, peer: ModelPeer, remote_id: Any) -> list[Reply]:
        remote = self.peers.get(remote_id) if isinstance(remote_id, str) else None
        if remote is None:
            return [(peer.conn, NOT_FOUND)]
        if remote.busy:
            return [(peer.conn, BUSY)]
        replies = [*self._unpair(peer), (peer.conn, UNPAIRED)] if peer.remote is not None else []
        peer.remote, remote.remote = remote.id, peer.id
        peer.busy = remote.busy = True
        paired = (
            (one.conn, {"type": "status", "status": "paired", "remotePeerId": one.remote}) for one in (peer, remote)
        )
        return [*replies, *paired]

    def _unpair(self, peer: ModelPeer) -> list[Reply]:
        remote = self.peers.get(peer.remote) if peer.remote is not None else None
        peer.remote = None
        if remote is None:
            return []
        remote.remote = None
        return [(remote.conn, UNPAIRED)]
