"""Reads recordings of real hyperpeer programs: who sent what over which connection, and what happened inside a peer.

One JSON object per line. The first tells the scenario; the others are rows ordered by `t`, seconds on one clock:
WebSocket messages and frames (`dir`), what happened to a connection or inside a peer (`event`), data-channel messages
(`dc`). Rows of kinds that this module does not know are kept and replayed by nobody. Files whose name begins with
`matrix-` hold tables instead; their lines are in `Recording.table`.
"""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]

CLIENT = "client->server"
SERVER = "server->client"


@dataclass
class Connection:
    """One WebSocket connection, or one attempt to get one."""

    number: int
    label: str
    """`peer` of its rows: the id, or `<type>#n` without one, or `<id>~n` for a further one with the same id."""
    path: str
    opened_at: float | None
    """When the handshake was done; None if it was refused."""
    rows: list[Row] = field(default_factory=list)
    """Messages, frames and connection events, in order."""

    @property
    def segments(self) -> list[str]:
        return self.path.partition("?")[0].split("/")[1:]

    @property
    def peer_type(self) -> str:
        return self.segments[0]

    @property
    def peer_id(self) -> str | None:
        """The id in the URL."""
        return self.segments[1] if len(self.segments) > 1 else None

    @property
    def ended_at(self) -> float:
        """When nothing can come over it any more."""
        ends = [row["t"] for row in self.rows if row.get("event") == "tcp-end"]
        return max(ends, default=float("inf"))


@dataclass
class Recording:
    """One file."""

    name: str
    header: Row
    rows: list[Row]
    table: list[Row]
    connections: list[Connection]
    inside: dict[int, list[Row]]
    """What happened inside the peer of a connection, by its number: only rows that belong to one connection surely."""

    @property
    def server_version(self) -> str:
        """Version of hyperpeer-node; empty if not told."""
        match = re.search(r"\d+\.\d+\.\d+", str(self.header.get("server", "")))
        return match[0] if match else ""

    @property
    def died(self) -> Row | None:
        """The row that tells how the server process ended; None if it was alive at the end, or terminated."""
        return next((row for row in self.rows if row.get("event") == "server-process-exit"), None)

    @property
    def server_gone(self) -> bool:
        """Whether the server process was there no more at the end."""
        ends = [row for row in self.rows if row.get("event") == "end-of-scenario"]
        return self.died is not None or any(row.get("server_process_alive") is False for row in ends)


def find_recordings(folder: Path) -> list[Path]:
    """All files of a folder that may be recordings, by name."""
    return sorted(path for path in folder.iterdir() if path.name.endswith((".jsonl", ".jsonl.gz")))


def scenario_name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".jsonl")


def load(path: Path) -> Recording:
    """Read a file, plain or compressed by gzip."""
    data = path.read_bytes()
    if path.name.endswith(".gz"):
        data = gzip.decompress(data)
    lines: list[Row] = [json.loads(line) for line in data.decode("utf-8").split("\n") if line.strip()]
    header = lines[0] if lines and "t" not in lines[0] else {}
    table = [line for line in lines if "t" not in line and line is not header]
    return recording_of(scenario_name(path), header, [line for line in lines if "t" in line], table)


def recording_of(name: str, header: Row, rows: list[Row], table: list[Row] | None = None) -> Recording:
    """Make a recording of rows in any order."""
    rows = sorted(rows, key=lambda row: float(row["t"]))
    connections = _find_connections(rows)
    return Recording(name, header, rows, table or [], connections, _find_insides(rows, connections))


_ATTEMPTS = frozenset({"open", "http-response", "no-http-response"})


def _find_connections(rows: list[Row]) -> list[Connection]:
    connections: list[Connection] = []
    current: dict[str, Connection] = {}
    for row in rows:
        label = str(row.get("peer", ""))
        event = row.get("event")
        if event in _ATTEMPTS:
            opened_at = float(row["t"]) if event == "open" else None
            connection = Connection(len(connections) + 1, label, str(row.get("path", "")), opened_at)
            connections.append(connection)
            current[label] = connection
        if label in current and ("dir" in row or event in _ATTEMPTS or event == "tcp-end"):
            current[label].rows.append(row)
    return connections


def _find_insides(rows: list[Row], connections: list[Connection]) -> dict[int, list[Row]]:
    """Give every row from inside a peer to the connection that it is about.

    Rows of Python peers' states name the id. Others have the label of the process, which is that of the connection,
    or the label of a process with several connections: such a row belongs to none surely, unless all states of that
    process named one id.
    """
    insides: dict[int, list[Row]] = {connection.number: [] for connection in connections}
    opened = [connection for connection in connections if connection.opened_at is not None]
    labels = {connection.label for connection in opened}
    ids: dict[str, set[str]] = {}
    for row in rows:
        if row.get("event") == "state":
            ids.setdefault(str(row.get("peer")), set()).add(str(row.get("id")))
    for row in rows:
        label = row.get("peer")
        if label is None or "dir" in row or row.get("event") in _ATTEMPTS or row.get("event") == "tcp-end":
            continue
        if row.get("event") == "state" and label not in labels:
            wanted = str(row.get("id"))
        elif label in labels:
            wanted = str(label)
        elif len(ids.get(str(label), ())) == 1:
            (wanted,) = ids[str(label)]
        else:
            continue
        if (connection := _connection_of(row, wanted, opened, labels)) is not None:
            insides[connection.number].append(row)
    return insides


def _connection_of(row: Row, wanted: str, opened: list[Connection], labels: set[str]) -> Connection | None:
    def is_wanted(connection: Connection) -> bool:
        if row.get("peer") in labels:
            return connection.label == wanted
        return connection.peer_id == (None if wanted == "None" else wanted)

    t = float(row["t"])
    candidates = [connection for connection in opened if is_wanted(connection) and (connection.opened_at or 0) <= t]
    # A process that comes second with an id has the newest connection. The peer connection may outlive it.
    return candidates[-1] if candidates else None


# --- Messages --------------------------------------------------------------------------------------------------


def restore(row: Row) -> str | bytes:
    """The message of a row as it was sent; one that was cut in the recording is filled up to its length."""
    if "binary_hex" in row:
        return bytes.fromhex(row["binary_hex"])
    if "invalid_utf8_hex" in row:
        return bytes.fromhex(row["invalid_utf8_hex"])
    return _fill(row["text"], row.get("truncated_from"))


def restore_data(row: Row) -> str | bytes | None:
    """The data-channel message of a row; None if the recording has only its length."""
    if "dc_text" in row:
        return _fill(row["dc_text"], row.get("truncated_from"))
    if "dc_binary_hex" in row:
        return bytes.fromhex(row["dc_binary_hex"])
    return None


def is_cut(row: Row) -> bool:
    """Whether the recording holds only the beginning of a message."""
    return "truncated_from" in row


def is_message(row: Row, direction: str) -> bool:
    """Whether a row is a WebSocket message, and no control frame or half of one."""
    return row.get("dir") == direction and "frame" not in row and bool(row.keys() & _MESSAGE_KEYS)


_MESSAGE_KEYS = frozenset({"text", "binary_hex", "invalid_utf8_hex"})


def is_close(row: Row, direction: str) -> bool:
    """Whether a row is a close frame."""
    return row.get("dir") == direction and row.get("frame") == "close"


def of_connection(recording: Recording, connection: Connection) -> list[Row]:
    """All rows of a connection and from inside its peer, in order."""
    return sorted([*connection.rows, *recording.inside[connection.number]], key=lambda row: float(row["t"]))


def _fill(text: str, length: int | None) -> str:
    """Fill a text up: its last character again and again, and what closes it."""
    if length is None or length <= len(text):
        return text
    for closing in ('"}', '"}}', "}", "]", '"', '"]}'):
        filled = text + text[-1] * (length - len(text) - len(closing)) + closing
        try:
            json.loads(filled)
        except ValueError:
            continue
        return filled
    return text + text[-1] * (length - len(text))


def as_doubles(value: Any) -> Any:
    """A JSON value with its numbers as JavaScript has them; beyond the range of a double stands None (null)."""
    match value:
        case bool():
            return value
        case int() | float():
            try:
                number = float(value)
            except OverflowError:
                return None
            return None if number in {float("inf"), float("-inf")} else number
        case list():
            return [as_doubles(item) for item in value]
        case dict():
            return {key: as_doubles(item) for key, item in value.items()}
        case _:
            return value


def same_json(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1.0 is 1, and true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    match one, other:
        case dict(), dict():
            return one.keys() == other.keys() and all(same_json(item, other[key]) for key, item in one.items())
        case list(), list():
            return len(one) == len(other) and all(map(same_json, one, other))
        case _:
            return bool(one == other)


def parse_strictly(text: str | bytes) -> Any:
    """Parse as JavaScript does: no NaN, and bad UTF-8 replaced.

    Raises:
        ValueError: It is no JSON.
    """

    def refuse(literal: str) -> Any:
        raise ValueError(literal)

    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return json.loads(text, parse_constant=refuse)
