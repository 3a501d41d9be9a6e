"""What a fleet and its worker processes say to each other: one JSON object a line, over stdin and stdout of the worker.

The fleet sends requests, each with an `id`: `add`, `remove`, `metadata`. The worker sends a `reply` with the same id to
each, and in between `event`, `message` and once a second `status`, which is its sign of life too. What the worker has
to log goes over stderr: JSON lines too, and whatever else a library prints.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from deepio_adapters.client_stats import ClientStats
from deepio_adapters.engine import ChannelOptions, IceServer
from deepio_adapters.engine_room import EngineRoomError
from deepio_adapters.fleet_records import (
    FleetError,
    FleetEvent,
    StreamEnded,
    StreamLost,
    StreamPhase,
    StreamRestarting,
    StreamRetrying,
    StreamStarted,
    StreamStateChanged,
    StreamStatus,
)
from deepio_adapters.pairing import Result
from deepio_adapters.reconnecting import ReconnectPolicy
from deepio_adapters.recording import RecordingError
from deepio_adapters.source_urls import SourceError
from deepio_core.errors import AddressError, DeepIOError, LocalProtocolError
from deepio_core.jsontext import JSON, encode
from deepio_core.media.options import VideoOptions
from deepio_core.messages import DataMessage, parse_message
from deepio_core.outputs import Cause
from deepio_core.states import PeerState

__all__ = [
    "LineReader",
    "read_arguments",
    "read_error",
    "read_event",
    "read_result",
    "read_status",
    "write_arguments",
    "write_error",
    "write_event",
    "write_line",
    "write_result",
    "write_status",
]

LINE_LIMIT: Final = 16 * 1024 * 1024
"""Bytes of the longest line: a message of 1 MiB, the most that an engine reports, of characters that JSON escapes."""

_EVENTS: Final = {
    kind.__name__: kind
    for kind in (StreamStarted, StreamStateChanged, StreamRetrying, StreamRestarting, StreamLost, StreamEnded)
}

_ERRORS: Final[Mapping[str, type[DeepIOError]]] = {
    kind.__name__: kind
    for kind in (LocalProtocolError, AddressError, SourceError, RecordingError, EngineRoomError, FleetError)
}


class LineReader:
    """Cuts what comes through a pipe into lines."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Give the lines that end in `data`, without their ends.

        Raises:
            FleetError: A line is longer than the limit.
        """
        *complete, rest = data.split(b"\n")
        for part in complete:
            yield b"".join([*self._parts, part])
            self._parts, self._size = [], 0
        self._size += len(rest)
        if self._size > self._limit:
            raise FleetError(f"A line between fleet and worker is longer than {self._limit} bytes.")
        if rest:
            self._parts.append(rest)


def write_line(message: Mapping[str, Any]) -> bytes:
    """One message as a line."""
    # In ASCII: it may hold a lone surrogate. Not by `encode`, since what is in here may be as deep as that allows.
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"


# --- Arguments -------------------------------------------------------------------------------------------------


def write_arguments(arguments: Mapping[str, Any]) -> dict[str, JSON]:
    """The arguments of a DeepIO as JSON.

    Raises:
        LocalProtocolError: One of them cannot travel to another process.
    """
    written: dict[str, JSON] = {}
    for name, value in arguments.items():
        written[name] = _written(name, value)
        encode(written[name])  # raises if it is not JSON
    return written


def _written(name: str, value: Any) -> JSON:
    plain: JSON = value
    if name == "source" and not _is_place(plain):
        raise LocalProtocolError(
            "A source that is made by the application cannot travel to a worker process.",
            remedy="Give a path, a URL or a device, or run the stream in a Fleet(processes=0).",
        )
    if name == "ssl_context" and plain is not None:
        raise LocalProtocolError(
            "An ssl_context cannot travel to a worker process.",
            remedy="Give tls_ca or tls_fingerprint, or run the stream in a Fleet(processes=0).",
        )
    if name == "ice_servers":
        return [dataclasses.asdict(server) for server in value]
    if name == "remote_types":
        return list(value)
    if name == "source_options" and plain is not None:
        return dict(value)
    if isinstance(value, (VideoOptions, ChannelOptions, ReconnectPolicy)):
        return dataclasses.asdict(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(cast("os.PathLike[str]", value))
    return plain


def _is_place(source: object) -> bool:
    return source is None or isinstance(source, (str, os.PathLike))


def read_arguments(written: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `write_arguments`."""
    arguments = dict(written)
    if arguments.get("ice_servers"):
        arguments["ice_servers"] = [_ice_server(server) for server in arguments["ice_servers"]]
    if isinstance(arguments.get("video"), dict):
        video: dict[str, Any] = {name: _tuple(value) for name, value in arguments["video"].items()}
        arguments["video"] = VideoOptions(**video)
    if isinstance(arguments.get("reconnect"), dict):
        arguments["reconnect"] = ReconnectPolicy(**arguments["reconnect"])
    if arguments.get("channel"):
        arguments["channel"] = ChannelOptions(**arguments["channel"])
    return arguments


def _ice_server(written: Mapping[str, Any]) -> IceServer:
    fields: dict[str, Any] = {name: _tuple(value) for name, value in written.items()}
    return IceServer(**fields)


def _tuple(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


# --- Errors ----------------------------------------------------------------------------------------------------


def write_error(error: DeepIOError) -> dict[str, JSON]:
    """An error as JSON."""
    return {"type": type(error).__name__, "message": error.message, "remedy": error.remedy}


def read_error(written: Mapping[str, Any]) -> DeepIOError:
    """Undo `write_error`: an error of the same class, if it is one that opening a stream raises."""
    return _ERRORS.get(written["type"], DeepIOError)(written["message"], remedy=written["remedy"])


# --- Results ---------------------------------------------------------------------------------------------------


def write_result(result: Result) -> dict[str, JSON]:
    """A result as JSON; its frame stays where it is."""
    return {
        "kind": "result",
        "raw": dict(result.message.raw),
        "captured_at": result.captured_at,
        "uncertainty": result.uncertainty,
        "age": result.age,
    }


def read_result(written: Mapping[str, Any]) -> Result:
    """Undo `write_result`. Monotonic clocks are the same in all processes of a machine."""
    message = parse_message(written["raw"])
    if not isinstance(message, DataMessage):
        raise ValueError("a result is a data message")
    return Result(
        message=message,
        captured_at=written["captured_at"],
        uncertainty=written["uncertainty"],
        age=written["age"],
    )


# --- Events and statuses ---------------------------------------------------------------------------------------


def write_event(event: FleetEvent) -> dict[str, JSON]:
    """An event as JSON."""
    fields: dict[str, JSON] = {name: _plain(getattr(event, name)) for name in _names(event)}
    return {"type": type(event).__name__, "fields": fields}


def read_event(written: Mapping[str, Any]) -> FleetEvent:
    """Undo `write_event`."""
    fields = dict(written["fields"])
    for name in ("old", "new"):
        if name in fields:
            fields[name] = PeerState[fields[name]]
    if "cause" in fields:
        fields["cause"] = Cause(fields["cause"])
    return _EVENTS[written["type"]](**fields)


def write_status(status: StreamStatus) -> dict[str, JSON]:
    """The status of a stream as JSON."""
    written: dict[str, JSON] = {name: _plain(getattr(status, name)) for name in _names(status)}
    if status.stats is not None:
        written["stats"] = {name: _plain(getattr(status.stats, name)) for name in _names(status.stats)}
    return written


def read_status(written: Mapping[str, Any]) -> StreamStatus:
    """Undo `write_status`."""
    fields: dict[str, Any] = {
        **written,
        "phase": StreamPhase(written["phase"]),
        "state": PeerState[written["state"]],
    }
    if (stats := written["stats"]) is not None:
        fields["stats"] = _stats(stats)
    return StreamStatus(**fields)


def _stats(written: Mapping[str, Any]) -> ClientStats:
    fields: dict[str, Any] = {**written, "state": PeerState[written["state"]]}
    return ClientStats(**fields)


def _names(record: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(record)]


def _plain(value: Any) -> Any:
    return value.name if isinstance(value, PeerState) else value
