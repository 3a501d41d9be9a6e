"""Every recording of the original programs, replayed against our client and server roles."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepio_core import outputs
from deepio_core.peer import Peer
from deepio_core.server import SendTo, ServerOutput, SignalingServer
from tests.replay import main
from tests.transcripts.client_replay import ClientReplay, replay_client
from tests.transcripts.ordering import OrderNotFoundError, find_order
from tests.transcripts.original import Original
from tests.transcripts.recording import (
    CLIENT,
    SERVER,
    Recording,
    Row,
    as_doubles,
    find_recordings,
    load,
    recording_of,
    same_json,
)
from tests.transcripts.replay import NOTHING_TO_REPLAY, replay
from tests.transcripts.report import DOCS, listed_differences
from tests.transcripts.server_replay import ServerReplay, replay_server

WIRE = Path(__file__).resolve().parents[1] / "wire"
PATHS = {path.name.partition(".jsonl")[0]: path for path in find_recordings(WIRE)}


def recorded(name: str) -> Recording:
    return load(PATHS[name])


# --- The recordings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PATHS)
def test_replays_as_recorded_or_as_listed(name: str) -> None:
    report = replay(recorded(name))
    assert report.problems == []
    if name not in NOTHING_TO_REPLAY:
        assert sum(part.same + part.differences.total() for _, part in report.parts) > 0


@pytest.mark.parametrize("name", [name for name in PATHS if recorded(name).connections])
def test_the_server_takes_all_that_was_sent_to_the_original(name: str) -> None:
    recording = recorded(name)
    steps = find_order(recording)
    replies = sum(len(step.replies) for step in steps)
    texts = [row for row in recording.rows if row.get("dir") == SERVER and "frame" not in row]
    assert replies == len(texts)
    assert steps


def test_what_ended_the_original_is_survived() -> None:
    fatal = {name for name in PATHS if recorded(name).died is not None}
    assert len(fatal) >= 12
    ends = {"S-null", "S-bad-path", "S-vanished", "S-huge", "S-violation", "S-id-in-use"}
    for name in fatal:
        report = replay_server(recorded(name))
        assert report.problems == []
        assert report.differences.keys() & ends, name


def test_real_sessions_are_replayed_to_the_open_channel() -> None:
    """The replays are not empty shells: in recordings of real clients ours gets as far as they did."""
    for name in ("py-py-01-video-and-data", "js-22-browser-connects-browser", "mix-06-aiortc1.16-connects-to-browser"):
        recording = recorded(name)
        for connection in recording.connections:
            one = ClientReplay(recording, connection)
            assert one.run().problems == []
            assert sum(isinstance(event, outputs.Connected) for event in one.driver.events) == 1, connection.label


# --- The lists -------------------------------------------------------------------------------------------------


def test_every_difference_has_one_row() -> None:
    for page in ("server-differences.md", "client-differences.md"):
        ids = re.findall(r"^(?:\| )?`([SC]-[a-z0-9-]+)`", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert len(ids) == len(set(ids)) == len(listed_differences(page)) > 20


def test_the_lists_name_recordings_that_exist() -> None:
    """Some are kept elsewhere, for checking: their names are those of the index."""
    elsewhere = {"srv-24"}
    for page in ("server-differences.md", "client-differences.md"):
        named = set(re.findall(r"`((?:srv|js|py-py|py-odd|deepio|mix)-[0-9a-z-]+)`", (DOCS / page).read_text("utf-8")))
        assert {one for one in named if not any(path.startswith(one) for path in PATHS)} <= elsewhere


def test_an_unlisted_difference_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.transcripts.replay.listed_differences", lambda _page: frozenset({"S-numbers"}))
    problems = replay(recorded("srv-26-forwarding-reserialises-json")).problems
    assert any("S-key-order" in problem for problem in problems)
    assert not any("S-numbers" in problem for problem in problems)


# --- A replay that can fail ------------------------------------------------------------------------------------


class LosesOne(SignalingServer):
    """Loses the first message that holds a text."""

    wanted = ""
    lost = False

    def poll(self) -> ServerOutput | None:
        output = super().poll()
        if isinstance(output, SendTo) and self.wanted in output.text and not self.lost:
            self.lost = True
            return self.poll()
        return output


class Sends(Peer):
    """Sends something else instead of what it has to send."""

    instead: dict[str, str] = {}  # noqa: RUF012 - set by each test

    def poll(self) -> outputs.PeerOutput | None:
        output = super().poll()
        if isinstance(output, outputs.SendSignaling):
            for old, new in self.instead.items():
                output = outputs.SendSignaling(link=output.link, text=output.text.replace(old, new))
        return output


@pytest.mark.parametrize("lost", ['"peers"', '"paired"', '"unpaired"', '"offer"', '"answer"'])
def test_a_server_that_loses_a_message_fails(lost: str) -> None:
    one = ServerReplay(recorded("py-py-01-video-and-data"), LosesOne)
    assert isinstance(one.server, LosesOne)
    one.server.wanted = lost
    assert one.run().problems


@pytest.mark.parametrize(
    ("old", "new"),
    [("listPeers", "listpeers"), ("pair", "Pair"), ("remotePeerId", "id"), ('"answer"', '"offer"'), ("v=0", "v=1")],
)
def test_a_client_that_sends_something_else_fails(old: str, new: str) -> None:
    recording = recorded("py-py-01-video-and-data")
    connector = recording.connections[1]
    assert replay_client(recording, connector).problems == []
    one = ClientReplay(recording, connector, Sends)
    assert isinstance(one.driver.machine, Sends)
    one.driver.machine.instead = {old: new}
    assert one.run().problems


@pytest.mark.parametrize("name", ["srv-02-pair-forward-unpair-by-initiator", "srv-36-unpaired-while-listening"])
def test_a_changed_recording_fails(name: str) -> None:
    """Any reply that is missing, doubled or another one is noticed."""
    recording = recorded(name)
    replies = [index for index, row in enumerate(recording.rows) if row.get("dir") == SERVER and "text" in row]
    for index in replies:
        missing = recording_of(name, recording.header, recording.rows[:index] + recording.rows[index + 1 :])
        doubled = recording_of(name, recording.header, recording.rows[: index + 1] + recording.rows[index:])
        other = {**recording.rows[index], "text": '{"type":"status","status":"other"}'}
        changed = recording_of(name, recording.header, [*recording.rows[:index], other, *recording.rows[index + 1 :]])
        for broken in (missing, doubled, changed):
            assert replay_server(broken).problems, index


# --- Any conversation ------------------------------------------------------------------------------------------

ACTS = ["ready", "pair-0", "pair-1", "pair-2", "pair-3", "pair-9", "unpair", "listPeers", "relay", "relay", "forge"]
ACTS += ["odd", "leave", "again", "null"]
SCRIPTS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(ACTS),
        st.sampled_from([0.0005, 0.002, 0.01, 0.3]),
        st.integers(0, 4),
    ),
    max_size=40,
)


def converse(script: list[tuple[int, str, float, int]]) -> Recording:
    """What the tap would have recorded if four clients had followed a script: each message at its own delay."""
    model = Original("0.1.3")
    rows: list[Row] = []
    opened: dict[int, int] = {}
    now, count = 1.0, 0

    def emit(t: float, conn: int, **row: Any) -> None:
        who, number = divmod(conn, 1000)
        earlier = [one["t"] for one in rows if one["peer"] == label(who, number)]
        # One connection is in order, and both directions of it pass the same tap.
        rows.append({"t": max([t, *(one + 0.00001 for one in earlier)]), "peer": label(who, number), **row})

    def label(who: int, number: int) -> str:
        return f"p{who}" if number == 1 else f"p{who}~{number}"

    def enter(who: int) -> None:
        nonlocal count
        number = opened.get(who, 0) + 1
        refused = f"p{who}" in model.peers
        conn = who * 1000 + number
        if not refused:
            opened[who] = number
        else:
            conn = who * 1000 + 900 + count
            count += 1
        model.arrive(conn, f"/t/p{who}", refused=False)
        emit(now, conn, event="open", path=f"/t/p{who}", status="HTTP/1.1 101 Switching Protocols")
        if refused:
            emit(now + 0.001, conn, dir=SERVER, frame="close", code=None, reason="")

    for who in range(4):
        enter(who)
        now += 0.06
    for who, act, pause, jitter in script:
        now += pause
        conn = who * 1000 + opened[who]
        if act == "again" or (model.peer_of(conn) is None and act != "leave"):
            enter(who)
            now += 0.06
            continue
        if model.peer_of(conn) is None:
            continue
        if act == "leave":
            emit(now - 0.0001, conn, event="tcp-end", by="client", how="fin")
            emit(now, conn, event="tcp-end", by="server", how="fin")
            replies = model.leave(conn)
        else:
            text = message_of(act)
            emit(now - 0.0005 * jitter, conn, dir=CLIENT, text=text)
            replies = model.send(conn, text)
        for to, message in replies:
            emit(now + 0.0001 + 0.0003 * jitter, to, dir=SERVER, text=json.dumps(message))
        if model.dead:
            emit(now + 0.05, conn, event="server-process-exit", exit_code=1, error="TypeError")
            break
    return recording_of("conversation", {"server": "hyperpeer-node 0.1.3"}, rows)


def message_of(act: str) -> str:
    command, _, remote = act.partition("-")
    match command:
        case "pair":
            return json.dumps({"type": "pair", "remotePeerId": f"p{remote}"})
        case "relay":
            return '{"type":"offer","sdp":"v=0","n":1.0}'
        case "forge":
            return '{"type":"status","status":"unpaired"}'
        case "odd":
            return '{"type":'
        case "null":
            return "null"
        case _:
            return json.dumps({"type": command})


@given(SCRIPTS)
def test_any_conversation_with_the_original_is_replayed(script: list[tuple[int, str, float, int]]) -> None:
    recording = converse(script)
    assert replay(recording).problems == []


# --- Reading recordings ----------------------------------------------------------------------------------------


def test_reads_compressed_and_odd_files(tmp_path: Path) -> None:
    rows: list[Row] = [
        {"scenario": "odd"},
        {"t": 0.1, "peer": "a", "event": "open", "path": "/t/a", "status": "HTTP/1.1 101"},
        {"t": 0.2, "peer": "a", "event": "never-seen-before", "value": [1]},
        {"t": 0.25, "something": "else"},
        {"t": 0.3, "peer": "a", "dir": CLIENT, "text": '{"type":"listPeers"}'},
        {"t": 0.4, "peer": "a", "dir": CLIENT, "unknown_hex": "00"},
        {"t": 0.5, "peer": "a", "dir": SERVER, "text": '{"type":"peers","peers":[{"id":"a","type":"t","busy":true}]}'},
    ]
    data = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "odd.jsonl.gz").write_bytes(gzip.compress(data))
    report = replay(load(tmp_path / "odd.jsonl.gz"))
    assert report.problems == []
    assert report.server is not None
    assert report.server.same == 1


def test_the_command_tells_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    text = PATHS["srv-01-list-peers"].read_text("utf-8")
    (good / "srv-01.jsonl").write_text(text, "utf-8")
    assert main([str(good)]) == 0
    (bad / "srv-01.jsonl").write_text(text.replace('\\"busy\\":true', '\\"busy\\":false'), "utf-8")
    (bad / "empty.jsonl").write_text("", "utf-8")
    (bad / "no.jsonl").write_text("no JSON", "utf-8")
    assert main([str(good), str(bad)]) == 1
    told = capsys.readouterr().out
    assert "3 with unexplained deviations" in told
    assert "nothing in it could be replayed" in told
    assert main([str(tmp_path)]) == 1


def test_restores_what_was_cut() -> None:
    for name in ("srv-29-large-messages", "py-odd-signal-over-1MiB", "js-24-message-sizes"):
        cut = [row for row in recorded(name).rows if "truncated_from" in row]
        assert cut
        assert all(len(text) == row["truncated_from"] for row in cut for text in texts_of(row))


def texts_of(row: Row) -> Iterator[str]:
    from tests.transcripts.recording import restore, restore_data

    text = restore_data(row) if "dc" in row else restore(row)
    assert isinstance(text, str)
    json.loads(text)
    yield text


def test_compares_json_as_javascript_has_it() -> None:
    assert same_json([1.0, {"a": None}], [1, {"a": None}])
    assert not same_json([1], [True])
    assert not same_json({"a": 1}, {"a": 1, "b": 2})
    assert as_doubles([2**53 + 1, float("inf"), 10**400, True]) == [2.0**53, None, None, True]


def test_an_impossible_order_is_told() -> None:
    recording = recorded("srv-32-pipelined-commands")
    rows = [row if row.get("dir") != CLIENT else {**row, "t": row["t"] + 100} for row in recording.rows]
    with pytest.raises(OrderNotFoundError):
        find_order(recording_of("late", recording.header, rows))
