"""Replays a recording against our server role: each input in the order found, each reply held against the recorded one.

A reply that is not the recorded one must be explained by a row of docs/server-differences.md: either the input is one
that the row is about, or the states of the peers concerned have parted before, at an input that a row is about. States
that part without such an input fail the replay even where no message shows it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from deepio_core import closecodes
from deepio_core.server import (
    AdmitPeer,
    ClosePeer,
    PeerArrived,
    PeerLeft,
    PeerSent,
    RefusePeer,
    SendTo,
    ServerConfig,
    ServerInput,
    ServerOutput,
    SignalingServer,
)
from tests.transcripts.ordering import Incoming, Kind, OrderNotFoundError, Step, find_order, is_deaf
from tests.transcripts.original import Original
from tests.transcripts.recording import Recording, Row, as_doubles, is_cut, parse_strictly, restore, same_json
from tests.transcripts.report import Report

_CLOSE_DIFFERENCES = {
    closecodes.MESSAGE_TOO_BIG: "S-max-size",
    closecodes.RATE_EXCEEDED: "S-rate",
    closecodes.SERVER_FULL: "S-max-peers",
    closecodes.ID_IN_USE: "S-id-in-use",
}
_FORGERIES = frozenset({"status", "peers", "error"})


@dataclass(frozen=True)
class _State:
    """What a server knows of a peer, with the remote peer by the number of its connection."""

    peer_id: str
    busy: bool
    remote: int | None


class ServerReplay:
    """One recording, one server."""

    def __init__(self, recording: Recording, make: type[SignalingServer] = SignalingServer) -> None:
        self.recording = recording
        self.report = Report()
        self.connections = {one.number: one for one in recording.connections}
        self.conn_of: dict[str, int] = {}
        """Connections that our server has admitted, by id."""
        self.parted: dict[int, frozenset[str]] = {}
        """Connections whose state is not that of the original, and the differences that have led there."""
        self.key_checks: list[list[str | None]] = []
        self._arriving = ""
        self._now = 0.0
        refused = [one for one in recording.connections if _is_key_refusal(one.rows[0])]
        self._refused_keys = [_credentials(one.path) for one in refused]
        check_key = self._check_key if refused else None
        self.server = make(ServerConfig(), self._new_id, check_key)

    def run(self) -> Report:
        try:
            steps = find_order(self.recording)
        except OrderNotFoundError as error:
            self.report.problems.append(f"the model of the original does not reproduce the recording: {error}")
            return self.report
        assigned = {peer.conn: peer.id for step in steps for peer in step.after.peers.values()}
        for step in steps:
            self._play(step, assigned)
        self._check_keys()
        self._refused_without_step()
        self._prove_alive()
        return self.report

    # --- One step --------------------------------------------------------------------------------------------

    def _play(self, step: Step, assigned: dict[int, str]) -> None:
        incoming = step.incoming
        conn = incoming.connection.number
        self._now = max(self._now, incoming.t)
        self._arriving = assigned.get(conn, "").replace("?", "unknown") or f"collided{conn}"
        outputs = self._feed(_to_input(incoming))
        meant = [output for output in outputs if isinstance(output, SendTo)]
        replied = {to for to, _ in step.replies}
        # What the original has lost on a connection that was closing, a WebSocket library loses as well.
        sent = [one for one in meant if one.conn in replied or not is_deaf(self.connections[one.conn], incoming.t)]
        causes = set(self._judge_admission(step, outputs))
        notes = self._compare(step, sent)
        if notes is None:
            explanation = self._explain(step, meant, outputs)
            if explanation is None:
                self.report.problems.append(self._complain(step, sent))
            else:
                causes.add(explanation)
        else:
            self.report.same += len(sent)
            self.report.differences.update(notes)
        self.report.differences.update(causes)
        self._track(step, frozenset(causes))

    def _feed(self, incoming: ServerInput) -> list[ServerOutput]:
        self.server.handle(incoming, now=self._now)
        outputs: list[ServerOutput] = []
        while (output := self.server.poll()) is not None:
            outputs.append(output)
        gone = {one.conn for one in outputs if isinstance(one, ClosePeer)}
        if isinstance(incoming, PeerLeft):
            gone.add(incoming.conn)
        self.conn_of = {peer_id: conn for peer_id, conn in self.conn_of.items() if conn not in gone}
        if isinstance(incoming, PeerArrived) and any(isinstance(one, AdmitPeer) for one in outputs):
            self.conn_of[self.server.peers[-1].id] = incoming.conn
        return outputs

    def _judge_admission(self, step: Step, outputs: Iterable[ServerOutput]) -> Iterable[str]:
        """Differences in who is let in, and who is closed."""
        conn = step.incoming.connection.number
        for output in outputs:
            if isinstance(output, ClosePeer):
                yield _CLOSE_DIFFERENCES[output.code] if step.incoming.kind is not Kind.OVERSIZE else "S-huge"
            elif isinstance(output, RefusePeer) and step.incoming.kind is Kind.TURN_AWAY:
                if output.status != 401:
                    self.report.problems.append(f"a wrong key is refused with {output.status}, not 401")
            elif isinstance(output, RefusePeer):
                yield self._explain_refusal(step, output)
            elif isinstance(output, AdmitPeer) and step.after.peer_of(conn) is None:
                if step.incoming.connection.peer_id is not None:
                    self.report.problems.append(f"{step.incoming.connection.label} is admitted, and was refused")
                yield "S-assigned-twice"
        if step.incoming.kind is Kind.VIOLATE:
            yield "S-violation"

    def _explain_refusal(self, step: Step, refusal: RefusePeer) -> str:
        connection = step.incoming.connection
        if refusal.code == closecodes.ADDRESS_REFUSED and not step.after.dead:
            limit = self.server.config
            if len(connection.peer_type) > limit.max_type_length:
                return "S-type-length"
            if len(connection.peer_id or "") > limit.max_id_length:
                return "S-id-length"
        elif refusal.code == closecodes.ADDRESS_REFUSED:
            return "S-bad-path"
        elif step.after.peer_of(connection.number) is None or refusal.code == closecodes.SERVER_FULL:
            return _CLOSE_DIFFERENCES[refusal.code]
        self.report.problems.append(f"{connection.label} is refused ({refusal.reason}), and was admitted")
        return "S-unlisted"

    # --- Comparing -------------------------------------------------------------------------------------------

    def _compare(self, step: Step, sent: list[SendTo]) -> list[str] | None:
        """Differences in the form of messages that are otherwise as recorded; None if they are not."""
        if [one.conn for one in sent] != [to for to, _ in step.replies]:
            return None
        notes: list[str] = []
        for one, (_, row) in zip(sent, step.replies, strict=True):
            note = _compare_text(one.text, row)
            if note is None:
                return None
            notes += note
        return notes

    def _explain(self, step: Step, sent: list[SendTo], outputs: Iterable[ServerOutput]) -> str | None:
        """The listed difference that explains other messages than the recorded ones."""
        incoming, before = step.incoming, step.before
        conn = incoming.connection.number
        codes = [json.loads(one.text).get("code") for one in sent if one.conn == conn]
        closed = [one.code for one in outputs if isinstance(one, ClosePeer)]
        if closed:
            return _CLOSE_DIFFERENCES[closed[0]] if incoming.kind is not Kind.OVERSIZE else "S-huge"
        if incoming.kind is Kind.VIOLATE:
            return "S-violation"
        if incoming.kind is Kind.SEND and (found := self._explain_message(incoming, before, codes, sent)):
            return found
        tags = {tag for one in self._concerned(step, sent) for tag in self.parted.get(one, ())}
        if "S-stale" in tags:
            return self._which_stale(incoming, before)
        return min(tags, default=None)

    def _explain_message(
        self, incoming: Incoming, before: Original, codes: list[Any], sent: list[SendTo]
    ) -> str | None:
        peer = before.peer_of(incoming.connection.number)
        if peer is None:
            return None
        try:
            message = parse_strictly(incoming.text)
        except ValueError:
            return None
        kind = message.get("type") if isinstance(message, dict) else None
        rejected = codes == ["ERR_BAD_SIGNAL"] and len(sent) == 1
        if message is None:
            return "S-null" if rejected else None
        if kind == "pair":
            remote = before.peers.get(str(message.get("remotePeerId")))
            crossed = remote is not None and remote.busy and peer.remote == remote.id and remote.remote == peer.id
            form = [json.loads(one.text).get("status", "error") for one in sent]
            return "S-crossed" if crossed and remote is not peer and form == ["error", "unpaired", "unpaired"] else None
        if peer.remote is not None and peer.remote not in before.peers:
            return "S-vanished" if codes == ["ERR_BAD_STATE"] else None
        return _why_rejected(incoming.text, message, kind) if rejected and peer.remote is not None else None

    def _which_stale(self, incoming: Incoming, before: Original) -> str:
        """Which of the rows on stale pairings it is: all begin with the same parting."""
        peer = before.peer_of(incoming.connection.number)
        remote = before.peers.get(peer.remote) if peer is not None and peer.remote is not None else None
        if incoming.kind is Kind.LEAVE or b'"unpair"' in _bytes(incoming.text) or b'"pair"' in _bytes(incoming.text):
            return "S-stale-left"
        if remote is not None and peer is not None and remote.remote is None:
            return "S-stale-reused"
        return "S-stale"

    def _concerned(self, step: Step, sent: list[SendTo]) -> set[int]:
        """Connections whose states the replies to this input depend on."""
        conn = step.incoming.connection.number
        concerned = {conn}
        for state in (self._model_states(step.before).get(conn), self._model_states(step.after).get(conn)):
            if state is not None and state.remote is not None:
                concerned.add(state.remote)
        text = _bytes(step.incoming.text)
        if b'"listPeers"' in text:
            concerned |= self.parted.keys()
        elif b'"pair"' in text:
            concerned |= {one.conn for one in sent} | {to for to, _ in step.replies}
            target = step.before.peers.get(str(json.loads(text).get("remotePeerId")))
            concerned |= {target.conn} if target is not None else set()
        return concerned

    # --- States ----------------------------------------------------------------------------------------------

    def _track(self, step: Step, causes: frozenset[str]) -> None:
        """Note whose state is no longer that of the original, and why."""
        if step.after.dead:
            return
        if step.incoming.kind is Kind.SEND and b'"pair"' in _bytes(step.incoming.text):
            for to, _ in step.replies:
                remote = step.before.peer_of(to)
                if remote is not None and remote.remote is not None and not remote.busy:
                    causes |= {"S-stale"}
        for one in self._concerned(step, []):
            causes |= self.parted.get(one, frozenset())
        model, ours = self._model_states(step.after), self._our_states()
        different = {conn for conn in model.keys() | ours.keys() if model.get(conn) != ours.get(conn)}
        for conn in different - self.parted.keys():
            if not causes:
                label = self.connections[conn].label
                what = f"{ours.get(conn)}, and was {model.get(conn)}"
                self.report.problems.append(f"at {step.incoming.t} the state of {label} is {what}")
            self.parted[conn] = causes
        self.parted = {conn: tags for conn, tags in self.parted.items() if conn in different}

    def _model_states(self, model: Original) -> dict[int, _State]:
        def remote_of(peer_id: str | None) -> int | None:
            if peer_id is None:
                return None
            return model.peers[peer_id].conn if peer_id in model.peers else 0

        return {
            peer.conn: _State(self._known_id(peer.conn, peer.id), peer.busy, remote_of(peer.remote))
            for peer in model.peers.values()
        }

    def _known_id(self, conn: int, peer_id: str) -> str:
        """The id of a peer; one that the original has assigned and not shown yet is as good as ours."""
        if not peer_id.startswith("?"):
            return peer_id
        return next((ours for ours, number in self.conn_of.items() if number == conn), peer_id)

    def _our_states(self) -> dict[int, _State]:
        states: dict[int, _State] = {}
        for info in self.server.peers:
            remote_id = self.server.remote_of(info.id)
            remote = None if remote_id is None else self.conn_of[remote_id]
            states[self.conn_of[info.id]] = _State(info.id, info.busy, remote)
        return states

    # --- What is checked besides -----------------------------------------------------------------------------

    def _new_id(self) -> str:
        return self._arriving

    def _check_key(self, peer_type: str, peer_id: str | None, key: str | None) -> bool:
        self.key_checks.append([peer_type, peer_id, key])
        return (peer_type, peer_id, key) not in self._refused_keys

    def _check_keys(self) -> None:
        """A key check is asked the same questions as `verifyPeer` of the original."""
        lines = [line for row in self.recording.rows for line in row.get("lines", ())]
        asked = [json.loads(line.removeprefix("verifyPeer ")) for line in lines if line.startswith("verifyPeer ")]
        if asked and self.key_checks and asked != self.key_checks:
            self.report.problems.append(f"the key check was asked {self.key_checks}, and not {asked}")

    def _refused_without_step(self) -> None:
        """Handshakes that the WebSocket library refuses before a server role hears of them."""
        rows = (one.rows[0] for one in self.recording.connections)
        count = sum(row.get("event") == "http-response" and not _is_key_refusal(row) for row in rows)
        self.report.differences.update({"S-websocket": count} if count else {})

    def _prove_alive(self) -> None:
        """Whatever has happened: those who are connected are served, and newcomers can meet."""
        self._now += 60.0  # nobody is out of tokens
        for peer_id, conn in list(self.conn_of.items()):
            if [one.conn for one in self._messages(PeerSent(conn=conn, text='{"type":"listPeers"}'))] != [conn]:
                self.report.problems.append(f"{peer_id} is connected and gets no peer list")
        caller, listener = 1_000_001, 1_000_002
        story: list[tuple[ServerInput, list[int]]] = [
            (PeerArrived(conn=caller, path="/fresh/fresh-caller"), []),
            (PeerArrived(conn=listener, path="/fresh/fresh-listener"), []),
            (PeerSent(conn=listener, text='{"type":"ready"}'), []),
            (PeerSent(conn=caller, text='{"type":"listPeers"}'), [caller]),
            (PeerSent(conn=caller, text='{"type":"pair","remotePeerId":"fresh-listener"}'), [caller, listener]),
            (PeerSent(conn=listener, text='{"type":"offer","sdp":"v=0"}'), [caller]),
            (PeerSent(conn=caller, text='{"type":"answer","sdp":"v=0"}'), [listener]),
            (PeerLeft(conn=listener), [caller]),
            (PeerLeft(conn=caller), []),
        ]
        for incoming, receivers in story:
            if [one.conn for one in self._messages(incoming)] != receivers:
                self.report.problems.append(f"afterwards {incoming} does not reach {receivers}")

    def _messages(self, incoming: ServerInput) -> list[SendTo]:
        return [output for output in self._feed(incoming) if isinstance(output, SendTo)]

    def _complain(self, step: Step, sent: list[SendTo]) -> str:
        incoming = step.incoming
        ours = [(self.connections[one.conn].label, one.text[:120]) for one in sent]
        theirs = [(self.connections[to].label, str(row.get("text"))[:120]) for to, row in step.replies]
        what = f"{incoming.kind.name} {str(incoming.text)[:120]}"
        return f"at {incoming.t} {incoming.connection.label} {what}: sent {ours}, recorded {theirs}"


def replay_server(recording: Recording) -> Report:
    """Replay a recording against `SignalingServer`."""
    return ServerReplay(recording).run()


def _to_input(incoming: Incoming) -> ServerInput:
    conn = incoming.connection.number
    match incoming.kind:
        case Kind.ARRIVE | Kind.TURN_AWAY:
            return PeerArrived(conn=conn, path=incoming.connection.path)
        case Kind.SEND:
            return PeerSent(conn=conn, text=incoming.text)
        case Kind.OVERSIZE:
            return PeerSent(conn=conn, text="x" * (ServerConfig().max_message_size + 1))
        case Kind.LEAVE | Kind.VIOLATE:
            return PeerLeft(conn=conn)


def _compare_text(text: str, row: Row) -> list[str] | None:
    """Differences in form between a message and the recorded one; None if they say different things."""
    if is_cut(row):
        # The filling is a guess; length and beginning are not.
        return [] if len(text) == row["truncated_from"] and text.startswith(row["text"]) else None
    ours, theirs = json.loads(text), json.loads(restore(row))
    if isinstance(theirs, dict) and theirs.get("code") == "ERR_BAD_SIGNAL":
        same = isinstance(ours, dict) and ours.get("code") == "ERR_BAD_SIGNAL" and ours.get("type") == "error"
        return ["S-error-text"] if same else None
    notes: list[str] = []
    if not same_json(ours, theirs):
        if not same_json(as_doubles(ours), as_doubles(theirs)):
            return None
        notes.append("S-numbers")
    elif isinstance(ours, dict) and list(ours) != list(theirs):
        notes.append("S-key-order")
    return notes


def _why_rejected(text: str | bytes, message: Any, kind: Any) -> str | None:
    if isinstance(kind, str) and kind in _FORGERIES:
        return "S-forged"
    if not same_json(message, _finite(message)):
        return "S-numbers"
    if isinstance(text, bytes):
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            return "S-not-utf8"
    if _depth(message) > 64:
        return "S-depth"
    return "S-growth" if len(json.dumps(message)) > ServerConfig().max_message_size else None


def _finite(value: Any) -> Any:
    """The value with null for numbers that are no doubles."""
    match value:
        case float():
            return None if value in {float("inf"), float("-inf")} else value
        case list():
            return [_finite(item) for item in value]
        case dict():
            return {key: _finite(item) for key, item in value.items()}
        case _:
            return value


def _depth(value: Any) -> int:
    match value:
        case list():
            return 1 + max(map(_depth, value), default=0)
        case dict():
            return 1 + max(map(_depth, value.values()), default=0)
        case _:
            return 0


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


def _is_key_refusal(row: Row) -> bool:
    return row.get("event") == "http-response" and " 401" in str(row.get("status"))


def _credentials(path: str) -> tuple[str, str | None, str | None]:
    segments = [*path.partition("?")[0].split("/")[1:], None, None]
    return str(segments[0]), segments[1], segments[2]
