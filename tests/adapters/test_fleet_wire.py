"""What fleet and worker say to each other comes out as it went in."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_adapters.client_stats import ClientStats
from deepio_adapters.engine import ChannelOptions, IceServer
from deepio_adapters.fleet_records import (
    FleetError,
    StreamEnded,
    StreamLost,
    StreamPhase,
    StreamRestarting,
    StreamRetrying,
    StreamStarted,
    StreamStateChanged,
    StreamStatus,
)
from deepio_adapters.fleet_wire import (
    LineReader,
    read_arguments,
    read_error,
    read_event,
    read_result,
    read_status,
    write_arguments,
    write_error,
    write_event,
    write_line,
    write_result,
    write_status,
)
from deepio_adapters.link import LinkError
from deepio_adapters.pairing import Result
from deepio_adapters.reconnecting import ReconnectPolicy
from deepio_adapters.sources import SourceError
from deepio_core.errors import AddressError, DeepIOError, LocalProtocolError
from deepio_core.media.options import VideoOptions
from deepio_core.messages import DataMessage, parse_message
from deepio_core.outputs import Cause
from deepio_core.states import PeerState


def over(message: Any) -> Any:
    """What comes out of the pipe."""
    (line,) = LineReader().feed(write_line(message))
    return json.loads(line)


def test_arguments():
    arguments: dict[str, Any] = {
        "server_address": "wss://example.org",
        "server_port": None,
        "source": Path("clip.mp4"),
        "tls_ca": Path("/etc/ca.pem"),
        "metadata": {"a": [1, None, "ä\ud800"]},
        "video": VideoOptions(max_size=(640, 360)),
        "ice_servers": (IceServer(urls=("stun:a", "turn:b"), username="u", credential="c"), IceServer(urls="stun:c")),
        "channel": ChannelOptions(ordered=False, max_retransmits=0),
        "source_options": {"rtsp_transport": "udp"},
        "remote_types": ("stream_manager",),
        "loop": True,
        "reconnect": ReconnectPolicy(attempts=3),
    }
    assert read_arguments(over(write_arguments(arguments))) == {
        **arguments,
        "source": "clip.mp4",
        "tls_ca": "/etc/ca.pem",
        "ice_servers": list(arguments["ice_servers"]),
        "remote_types": ["stream_manager"],
    }
    plain: dict[str, Any] = {
        "source": None, "video": "copy", "ice_servers": (), "channel": None, "source_options": None,
        "ssl_context": None, "reconnect": False,
    }  # fmt: skip
    assert read_arguments(over(write_arguments(plain))) == {**plain, "ice_servers": []}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"source": lambda: iter(())}, r"made by the application.*processes=0"),
        ({"source": iter(())}, r"made by the application.*processes=0"),
        ({"ssl_context": object()}, r"ssl_context.*tls_ca"),
        ({"metadata": {1: 2}}, "JSON"),
        ({"key": b"x"}, "JSON"),
    ],
)
def test_what_cannot_travel_is_refused(arguments, said):
    with pytest.raises(LocalProtocolError, match=said):
        write_arguments(arguments)


@pytest.mark.parametrize(
    "event",
    [
        StreamStarted(name="a", restarts=1),
        StreamStateChanged(name="a", old=PeerState.ONLINE, new=PeerState.CONNECTED),
        StreamRetrying(name="a", reason="x", delay=1.5),
        StreamRestarting(name="a", reason="x", delay=1.5),
        StreamLost(name="a", process=1, reason="x", delay=1.5),
        StreamEnded(name="a", cause=Cause.KEY_REFUSED, reason="x", remedy="y", failed=True),
    ],
)
def test_events(event):
    assert read_event(over(write_event(event))) == event


def some_stats() -> ClientStats:
    fields: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(ClientStats)), 1)
    return ClientStats(**{**fields, "state": PeerState.CONNECTED, "remote_id": "far", "video_mode": "copy"})


@pytest.mark.parametrize("stats", [None, some_stats()])
def test_statuses(stats):
    status = StreamStatus(
        name="a",
        phase=StreamPhase.RUNNING,
        state=PeerState.CONNECTED,
        stats=stats,
        last_error=None,
        process=3,
        restarts=2,
    )
    assert read_status(over(write_status(status))) == status


def test_results():
    message = parse_message({"type": "data", "rec_time": 1.5, "objects": [{"pid": "ä"}]})
    assert isinstance(message, DataMessage)
    result = read_result(over(write_result(Result(message=message, captured_at=3.5, uncertainty=0.25, age=None))))
    assert result.message.raw == message.raw
    assert (result.captured_at, result.uncertainty, result.age, result.frame) == (3.5, 0.25, None, None)
    with pytest.raises(ValueError, match="data message"):
        read_result({"raw": {"type": "metadata"}})


@pytest.mark.parametrize("kind", [LocalProtocolError, AddressError, SourceError, FleetError])
def test_errors_keep_their_class(kind):
    error = read_error(over(write_error(kind("It is so.", remedy="Do this."))))
    assert type(error) is kind
    assert (error.message, error.remedy) == ("It is so.", "Do this.")


def test_other_errors_keep_their_message():
    error = read_error(over(write_error(LinkError("It is so.", cause=Cause.UNREACHABLE))))
    assert type(error) is DeepIOError
    assert str(error) == "It is so."


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b"")), max_size=5), st.data())
def test_lines_come_out_however_they_are_cut(lines, data):
    reader = LineReader()
    out: list[bytes] = []
    rest = b"".join(line + b"\n" for line in lines)
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        out += reader.feed(rest[:size])
        rest = rest[size:]
    assert out == lines


def test_a_line_without_end_is_refused():
    reader = LineReader(limit=10)
    assert list(reader.feed(b"12345")) == []
    with pytest.raises(FleetError, match="longer than 10"):
        list(reader.feed(b"678901"))
