"""Reads everything that the recorded peers said to each other: data-channel messages and session descriptions."""

from __future__ import annotations

from typing import Any

from deepio_core.errors import LocalProtocolError, RemoteProtocolError
from deepio_core.jsontext import decode
from deepio_core.messages import DataMessage, UnknownMessage, parse_message, to_json
from deepio_core.sdp import answer_problem, offer_problem
from tests.transcripts.recording import (
    CLIENT,
    SERVER,
    Connection,
    Recording,
    Row,
    is_cut,
    is_message,
    parse_strictly,
    restore,
    restore_data,
)
from tests.transcripts.report import Report

_DEEP_TYPES = frozenset({"data", "acknowledge", "source", "metadata", "source-disconnected", "warning", "error"})
_MAX_SIZE = 1024 * 1024


def read_contents(recording: Recording) -> Report:
    """Every data message is read without loss; every real description can be the offer or the answer that it is."""
    report = Report()
    for row in recording.rows:
        if "dc" in row and not is_cut(row) and (data := restore_data(row)) is not None:
            _note(report, row, _message_problem(data))
    for connection in recording.connections:
        _read_descriptions(connection, report)
    return report


def _note(report: Report, row: Row, problem: str | None) -> None:
    if problem:
        report.problems.append(f"{row.get('peer')}: at {row['t']}: {problem}")
    else:
        report.same += 1


def _message_problem(data: str | bytes) -> str | None:
    try:
        value = decode(data, max_size=_MAX_SIZE)
    except RemoteProtocolError as error:
        try:
            parse_strictly(data.decode("utf-8") if isinstance(data, bytes) else data)
        except ValueError:
            return None  # no JSON for JavaScript either
        return f"data that is JSON is refused: {error}"
    message = parse_message(value)
    if message.raw != value:
        return f"data is changed by reading: {data[:80]!r}"
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(message, UnknownMessage):
        return f"data of type {kind} is not known" if kind in _DEEP_TYPES else None
    assert isinstance(value, dict), "only an object has a known type"
    if isinstance(message, DataMessage):
        objects = value.get("objects", value.get("data"))
        if isinstance(objects, list) and len(message.detections()) != len(objects):
            return f"{len(message.detections())} detections are read of {len(objects)}"
    try:
        written = to_json(message)
    except LocalProtocolError:
        return None  # what it lacks, its handlers at the far side need
    lost = {key for key in written if written[key] != value.get(key)}
    return f"data is written otherwise than read: {lost}" if lost else None


def _read_descriptions(connection: Connection, report: Report) -> None:
    offers: dict[str, str] = {}
    for row in connection.rows:
        if is_cut(row) or not (is_message(row, CLIENT) or is_message(row, SERVER)):
            continue
        signal = _description(row)
        if signal is None:
            continue
        sender = row["dir"]
        if signal["type"] == "offer":
            offers[sender] = signal["sdp"]
            _note(report, row, offer_problem(signal["sdp"]))
        elif offer := offers.get(SERVER if sender == CLIENT else CLIENT):
            _note(report, row, answer_problem(offer, signal["sdp"]))


def _description(row: Row) -> dict[str, Any] | None:
    """The signal in a row, if it is a real description: the scripts that tried the server sent mere words."""
    try:
        signal = parse_strictly(restore(row))
    except ValueError:
        return None
    if not isinstance(signal, dict) or signal.get("type") not in ("offer", "answer"):
        return None
    sdp = signal.get("sdp")
    return signal if isinstance(sdp, str) and sdp.startswith("v=0\r\n") and "\nm=" in sdp else None
