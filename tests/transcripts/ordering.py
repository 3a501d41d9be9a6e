"""Finds the order in which the recorded server took its inputs.

Certain are the order of the messages of one connection, and two facts of the tap that recorded them: a reply passed it
after all that it answers, and an input that passed it after a reply was taken after all that the reply answers. What is
left open is searched: the first order, beginning with that of the times, for which the model of the original sends what
was recorded, to whom it was recorded, in the recorded order. A recording for which there is none fails its replay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from tests.transcripts.original import BAD_SIGNAL, Original, Reply
from tests.transcripts.recording import (
    CLIENT,
    SERVER,
    Connection,
    Recording,
    Row,
    as_doubles,
    is_close,
    is_cut,
    is_message,
    restore,
    same_json,
)

_SLACK = 0.003
"""Times of the tap are exact to about a millisecond."""
_WINDOW = 0.25
"""How far apart inputs may be that could have been taken in either order, seconds."""
_MAX_STEPS = 50_000


class Kind(Enum):
    ARRIVE = auto()
    TURN_AWAY = auto()
    """Comes with a key that the server does not take."""
    SEND = auto()
    LEAVE = auto()
    VIOLATE = auto()
    """Breaks the WebSocket protocol."""
    OVERSIZE = auto()
    """Sends more than the original takes; the recordings do not hold the message."""


@dataclass(frozen=True)
class Incoming:
    """What the server took from one connection."""

    kind: Kind
    connection: Connection
    t: float
    earliest: float
    """Not taken before."""
    text: str | bytes = ""
    refused: bool = False


@dataclass(frozen=True)
class Step:
    """One input and what the original replied to it."""

    incoming: Incoming
    replies: list[tuple[int, Row]]
    before: Original
    after: Original


class OrderNotFoundError(Exception):
    """The model of the original does not reproduce the recording."""


@dataclass
class _State:
    model: Original
    connections: dict[int, Connection]
    taken: dict[int, int]
    """Inputs taken, by the number of the connection."""
    heard: dict[int, int]
    """Replies heard, by the number of the connection."""
    steps: list[Step] = field(default_factory=list)


def find_order(recording: Recording) -> list[Step]:
    """The inputs in an order that explains all replies; ends with the one that killed the server, if one did.

    Raises:
        OrderNotFoundError: There is none.
    """
    inputs = {one.number: list(_inputs_of(recording, one)) for one in recording.connections}
    replies = {one.number: [row for row in one.rows if is_message(row, SERVER)] for one in recording.connections}
    connections = {one.number: one for one in recording.connections}
    start = _State(Original(recording.server_version), connections, dict.fromkeys(inputs, 0), dict.fromkeys(inputs, 0))
    pending = [_successors(start, inputs, replies)]
    furthest = start
    for _ in range(_MAX_STEPS):
        state = next(pending[-1], None)
        if state is None:
            pending.pop()
            if not pending:
                break
            continue
        if len(state.steps) > len(furthest.steps):
            furthest = state
        if _is_complete(state, inputs, replies) and _died_as_recorded(state.model, recording):
            return state.steps
        pending.append(_successors(state, inputs, replies))
    else:
        raise OrderNotFoundError(f"gave up after {_MAX_STEPS} steps")
    if _is_complete(start, inputs, replies) and _died_as_recorded(start.model, recording):
        return []
    raise OrderNotFoundError(f"no order explains what follows {_describe(furthest)}")


def _describe(state: _State) -> str:
    if not state.steps:
        return "the start"
    last = state.steps[-1].incoming
    return f"{last.kind.name} of {last.connection.label} at {last.t}"


def _is_complete(state: _State, inputs: dict[int, list[Incoming]], replies: dict[int, list[Row]]) -> bool:
    if any(state.heard[conn] < len(rows) for conn, rows in replies.items()):
        return False
    return state.model.dead or all(state.taken[conn] == len(queue) for conn, queue in inputs.items())


def _died_as_recorded(model: Original, recording: Recording) -> bool:
    """Whether the model has died if and only if the original has died of an error, which a killed one has not."""
    died = recording.died
    return model.dead == (died is not None and bool(died.get("error")))


def _successors(state: _State, inputs: dict[int, list[Incoming]], replies: dict[int, list[Row]]) -> Iterator[_State]:
    if state.model.dead:
        return
    heads = [queue[state.taken[conn]] for conn, queue in inputs.items() if state.taken[conn] < len(queue)]
    heads.sort(key=lambda head: head.t)
    due = [rows[state.heard[conn]] for conn, rows in replies.items() if state.heard[conn] < len(rows)]
    # What is due first was caused by something that passed the tap before it.
    limit = min((row["t"] for row in due), default=float("inf"))
    for head in heads:
        if head.t - heads[0].t > _WINDOW:
            return
        if head.earliest <= limit + _SLACK and (successor := _take(state, head, replies)) is not None:
            yield successor


def _take(state: _State, head: Incoming, replies: dict[int, list[Row]]) -> _State | None:
    """The state after one more input, unless the model then replies otherwise than was recorded."""
    conn = head.connection.number
    model = state.model.copy()
    expected: list[Reply] = []
    match head.kind:
        case Kind.ARRIVE:
            expected = model.arrive(conn, head.connection.path, refused=head.refused)
        case Kind.TURN_AWAY:
            pass
        case Kind.SEND:
            expected = model.send(conn, head.text)
        case Kind.LEAVE:
            expected = model.leave(conn)
        case Kind.VIOLATE | Kind.OVERSIZE:
            expected = model.violate()
    heard = dict(state.heard)
    rows: list[tuple[int, Row]] = []
    for to, message in expected:
        position = heard[to]
        if position >= len(replies[to]):
            if is_deaf(state.connections[to], head.t):
                continue
            return None
        row = replies[to][position]
        if row["t"] < head.earliest - _SLACK or not _fits(model, (to, message), row):
            return None
        heard[to] += 1
        rows.append((to, row))
    taken = {**state.taken, conn: state.taken[conn] + 1}
    return _State(model, state.connections, taken, heard, [*state.steps, Step(head, rows, state.model, model)])


def is_deaf(connection: Connection, t: float) -> bool:
    """Whether a message to this connection may be lost: its client has begun to leave.

    A peer that has sent its close frame stays listed and paired until TCP has ended, but takes nothing any more.
    """
    return any(
        row["t"] <= t + _SLACK for row in connection.rows if is_close(row, CLIENT) or row.get("event") == "tcp-end"
    )


def _fits(model: Original, reply: Reply, row: Row) -> bool:
    """Whether a row holds this reply; learns ids that the original has assigned."""
    _, message = reply
    text = restore(row)
    if is_cut(row):
        return isinstance(message, dict)
    recorded = as_doubles(json.loads(text))
    if message is BAD_SIGNAL:
        return isinstance(recorded, dict) and recorded.get("code") == BAD_SIGNAL["code"]
    for placeholder, known in _unify(message, recorded):
        if known in model.peers:
            return False
        model.rename(placeholder, known)
        message = _replace(message, placeholder, known)
    return same_json(as_doubles(message), recorded)


def _unify(message: Any, recorded: Any) -> Iterator[tuple[str, str]]:
    """Assigned ids that stand as placeholders in the model's message, each with what was recorded there."""
    match message, recorded:
        case {"type": "peers", "peers": [*ours]}, {"peers": [*theirs]}:
            for one, other in zip(ours, theirs, strict=False):
                if str(one["id"]).startswith("?"):
                    yield one["id"], other["id"]
        case {"type": "status", "remotePeerId": str(remote_id)}, {"remotePeerId": str(known)}:
            if remote_id.startswith("?"):
                yield remote_id, known
        case _:
            pass


def _replace(message: Any, placeholder: str, known: str) -> Any:
    match message:
        case list():
            return [_replace(item, placeholder, known) for item in message]
        case dict():
            return {key: _replace(item, placeholder, known) for key, item in message.items()}
        case _:
            return known if message == placeholder else message


# --- Inputs of a connection ------------------------------------------------------------------------------------


def _inputs_of(recording: Recording, connection: Connection) -> Iterator[Incoming]:
    """What the server took from a connection, in order."""
    first = connection.rows[0]
    if first.get("event") == "http-response" and " 401" not in str(first.get("status")):
        return  # refused by the WebSocket library: the server role has not heard of it
    refused = _was_refused(connection) or _was_fatal(recording, connection)
    t = float(first["t"])
    kind = Kind.TURN_AWAY if first.get("event") == "http-response" else Kind.ARRIVE
    # The row is the answer; the question came a little before.
    yield Incoming(kind, connection, t, t - 0.05, refused=refused)
    fatal = _fatal_row(recording, connection)
    for row in connection.rows:
        if row is fatal:
            kind = Kind.OVERSIZE if row.get("event") == "tcp-end" else Kind.VIOLATE
            yield Incoming(kind, connection, row["t"], row["t"])
            return
        if is_message(row, CLIENT):
            yield Incoming(Kind.SEND, connection, row["t"], row["t"], text=restore(row))
    if (ends := _leaving(connection)) is not None:
        yield Incoming(Kind.LEAVE, connection, ends[1], ends[0])


def _was_refused(connection: Connection) -> bool:
    """Whether the server closed it by itself: the first close frame is the server's."""
    closes = [row["dir"] for row in connection.rows if row.get("frame") == "close"]
    return bool(closes) and closes[0] == SERVER


def _was_fatal(recording: Recording, connection: Connection) -> bool:
    """Whether the assigned id of this connection was in use, of which version 0.1.2 dies.

    Nothing tells which connection it was: the last one that came is as good as any.
    """
    if "valid error code" not in str((recording.died or {}).get("error")) or connection.peer_id is not None:
        return False
    nameless = [one for one in recording.connections if one.opened_at is not None and one.peer_id is None]
    return connection is nameless[-1]


def _leaving(connection: Connection) -> tuple[float, float] | None:
    """When the client began to leave and when its TCP connection had ended; None if it was the server that left."""
    close = next((row for row in connection.rows if is_close(row, CLIENT)), None)
    ends = [row for row in connection.rows if row.get("event") == "tcp-end"]
    if close is None and (not ends or ends[0].get("by") != "client"):
        return None
    if not any(row.get("by") == "client" for row in ends):
        return None  # half closed, and never more: to the server it is still there
    return (close or ends[0])["t"], ends[-1]["t"]


def _fatal_row(recording: Recording, connection: Connection) -> Row | None:
    """The row of this connection that ended the server in its WebSocket library, as the server's last words tell."""
    died = recording.died
    error = str(died.get("error", "")) if died is not None else ""
    if died is None or "RangeError" not in error:
        return None
    if "Max payload" in error:
        return next(
            (row for row in connection.rows if row.get("event") == "tcp-end" and row.get("how") == "reset"), None
        )
    frames = [row for row in recording.rows if row.get("dir") == CLIENT and row["t"] <= died["t"]]
    last = frames[-1] if frames else None
    return last if last is not None and any(row is last for row in connection.rows) else None
