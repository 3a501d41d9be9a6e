"""Signals: the recorded ones, those that we send, and everything that a remote peer should not send.

The names in brackets are the recordings that show a text, and Q numbers the points that an implementation has to meet.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deepio_core import jsontext, sdp, signals
from deepio_core.errors import RemoteProtocolError
from deepio_core.signals import (
    Answer,
    Candidate,
    ListPeersCommand,
    Offer,
    PairCommand,
    Paired,
    PeerInfo,
    PeerList,
    ReadyCommand,
    Relay,
    RemoteCandidate,
    RenegotiationAsked,
    ServerError,
    Signal,
    UnknownSignal,
    UnpairCommand,
    Unpaired,
    answer_text,
    candidate_text,
    error_text,
    offer_text,
    pair_text,
    paired_text,
    parse_command,
    parse_signal,
    peers_text,
)
from fuzz import fuzz_signals

MIB = 1024 * 1024
HERE = Path(__file__).parent
RECORDED = [json.loads(line) for line in (HERE / "data" / "signals.jsonl").read_text("utf-8").splitlines()]
CORPUS = sorted((HERE.parents[1] / "fuzz" / "corpus" / "signals").iterdir())
HOST = "candidate:1 1 udp 2130706431 192.0.2.9 40000 typ host"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
FIELDS = "type status remotePeerId peers id busy code message sdp candidate sdpMid sdpMLineIndex label renegotiate"
TYPES = "status peers error offer answer candidate renegotiate transceiverRequest listPeers pair unpair ready"
names = st.sampled_from(FIELDS.split())
words = st.sampled_from([*TYPES.split(), "paired", "unpaired"])
# Objects that look enough like signals to get past the first glance.
near_signals = st.recursive(
    json_values | words | st.just(HOST),
    lambda inner: st.dictionaries(names, inner | words) | st.lists(inner),
    max_leaves=10,
)


def read(message: Any) -> Signal:
    return parse_signal(json.dumps(message), max_size=MIB)


def name_of(parsed: object) -> str:
    return type(parsed).__name__


# --- Recorded texts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", RECORDED, ids=lambda row: ascii(row["text"])[1:50])
def test_reads_every_recorded_text(row: dict[str, Any]) -> None:
    parse: Any = parse_signal if row["from"] == "server" else parse_command
    if row["is"] is None:
        with pytest.raises(RemoteProtocolError):
            parse(row["text"], max_size=MIB)
    else:
        assert name_of(parse(row["text"], max_size=MIB)) == row["is"]
        assert name_of(parse(row["text"].encode(), max_size=MIB)) == row["is"]


def test_the_recorded_texts_show_every_signal_and_command() -> None:
    shown = {row["is"] for row in RECORDED} - {None}
    assert shown == {
        kind.__name__
        for union in (signals.Signal, signals.ServerCommand)
        for kind in union.__args__
    }  # fmt: skip


def test_writes_what_the_recorded_server_writes() -> None:
    written: list[tuple[str, str]] = []
    for row in RECORDED:
        if row["from"] == "client":
            continue
        match parse_signal(row["text"], max_size=MIB):
            case Paired(remote_id=remote_id):
                written.append((paired_text(remote_id), row["text"]))
            case Unpaired():
                written.append((signals.UNPAIRED, row["text"]))
            case PeerList(peers=peers):
                written.append((peers_text(peers), row["text"]))
            case ServerError(code=code, message=message):
                written.append((error_text(code, message), row["text"]))
            case _:
                pass  # relayed, not written by the server
    assert len(written) >= 8
    assert [ours for ours, _ in written] == [theirs for _, theirs in written]


# --- What a client reads ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "signal"),
    [
        ({"type": "status", "status": "paired", "remotePeerId": "b"}, Paired(remote_id="b")),
        ({"type": "status", "status": "paired", "remotePeerId": "b c.ü"}, Paired(remote_id="b c.ü")),
        ({"type": "status", "status": "unpaired"}, Unpaired()),
        ({"status": "unpaired", "type": "status", "remotePeerId": 5}, Unpaired()),
        ({"type": "peers", "peers": []}, PeerList(peers=())),
        (
            {"type": "peers", "peers": [{"busy": True, "id": "a", "type": "t", "x": 1}]},
            PeerList(peers=(PeerInfo(id="a", type="t", busy=True),)),
        ),
        ({"type": "error", "code": "ERR_X", "message": "m"}, ServerError(code="ERR_X", message="m")),
        ({"type": "error", "code": "ERR_X"}, ServerError(code="ERR_X", message="")),
        ({"type": "error", "code": "ERR_X", "message": {"m": 1}}, ServerError(code="ERR_X", message="")),
        (
            {"type": "error", "code": "ERR_X", "message": "\x1b[2J\n\ud800!" + 300 * "m"},
            ServerError(code="ERR_X", message="\ufffd[2J\ufffd\ufffd!" + 293 * "m"),
        ),
        ({"type": "offer", "sdp": "v=0"}, Offer(sdp="v=0")),
        ({"sdp": "v=0", "type": "answer"}, Answer(sdp="v=0")),
        ({"renegotiate": True}, RenegotiationAsked()),
        ({"type": "renegotiate", "renegotiate": True}, RenegotiationAsked()),
        ({"transceiverRequest": {"kind": "video"}}, RenegotiationAsked()),
        ({"type": "transceiverRequest", "transceiverRequest": {"kind": "audio"}}, RenegotiationAsked()),
        ({"type": "transceiverRequest"}, RenegotiationAsked()),
    ],
    ids=str,
)
def test_reads(message: Any, signal: Signal) -> None:
    assert read(message) == signal


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        # Q4: JSON of any type, without a type, with one that nobody knows, and fakes of the server's.
        (None, "null where an object is due"),
        (True, "a boolean where an object is due"),
        (5, "a number where an object is due"),
        (1.5, "a number where an object is due"),
        ("a candidate", "a string where an object is due"),
        ([1, 2], "an array where an object is due"),
        ({}, "an object without a type"),
        ({"sdp": "v=0"}, "an object without a type"),
        ({"type": None, "x": 1}, "an object without a type"),
        ({"type": ["pair"]}, "an object without a type"),
        ({"type": "whatever"}, "a message of unknown type `whatever`"),
        ({"type": "Offer", "sdp": "v=0"}, "a message of unknown type `Offer`"),
        ({"type": "v=0\r\no=- secret"}, "a message of unknown type"),
        ({"type": "x" * 41}, "a message of unknown type"),
        ({"type": "status"}, "a status that is neither `paired` nor `unpaired`"),
        ({"type": "status", "status": ["paired"]}, "a status that is neither `paired` nor `unpaired`"),
        ({"type": "status", "status": "paired"}, "a status `paired` without the id of the remote peer"),
        (
            {"type": "status", "status": "paired", "remotePeerId": 5},
            "a status `paired` without the id of the remote peer",
        ),
        *(
            (
                {"type": "status", "status": "paired", "remotePeerId": peer_id},
                "a status `paired` without the id of the remote peer",
            )
            for peer_id in ("", "b\x1b[2J", "b\n", "\ud800")
        ),
        ({"type": "peers"}, "a message of type `peers` without the list of them"),
        ({"type": "peers", "peers": {"id": "a"}}, "a message of type `peers` without the list of them"),
        ({"type": "peers", "peers": [5]}, "a list of peers with an entry that is none"),
        (
            {"type": "peers", "peers": [{"id": "a", "type": "t", "busy": 0}]},
            "a list of peers with an entry that is none",
        ),
        ({"type": "peers", "peers": [{"id": "a", "type": "t"}]}, "a list of peers with an entry that is none"),
        ({"type": "error", "message": "m"}, "a message of type `error` without a code"),
        *(
            (
                {"type": "peers", "peers": [{"id": peer_id, "type": peer_type, "busy": False}]},
                "a list of peers with an id or type that no URL can carry",
            )
            for peer_id, peer_type in (("a\x1b[2J", "t"), ("a", "\ud800"))
        ),
        ({"type": "error", "code": 404}, "a message of type `error` without a code"),
        ({"type": "error", "code": "v=0\r\no=- secret"}, "a message of type `error` without a code"),
        ({"type": "error", "code": "x" * 41}, "a message of type `error` without a code"),
        ({"type": "offer"}, "an offer without a description"),
        ({"type": "offer", "sdp": {"sdp": "v=0"}}, "an offer without a description"),
        ({"type": "answer", "sdp": None}, "an answer without a description"),
    ],
    ids=str,
)
def test_tells_what_is_no_signal(message: Any, detail: str) -> None:
    assert read(message) == UnknownSignal(detail=detail)


@pytest.mark.parametrize("text", ["", "hello", "NaN", "{", b"\xff", "[" * 1000, '{"type":"offer"'], ids=repr)
def test_a_text_that_is_no_json_raises(text: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_signal(text, max_size=MIB)
    with pytest.raises(RemoteProtocolError):
        parse_command(text, max_size=MIB)


def test_a_text_that_is_too_large_raises() -> None:
    text = offer_text("v=0\r\n" + "x" * MIB)
    with pytest.raises(RemoteProtocolError, match="larger"):
        parse_signal(text, max_size=MIB)
    with pytest.raises(RemoteProtocolError, match="larger"):
        parse_command(text, max_size=MIB)


# --- Candidates (Q9) -------------------------------------------------------------------------------------------


def candidate(text: str = HOST, mid: str | None = "0", index: int | None = 0) -> RemoteCandidate:
    return RemoteCandidate(candidate=Candidate(candidate=text, sdp_mid=mid, sdp_mline_index=index))


NESTED = {"candidate": HOST, "sdpMLineIndex": 0, "sdpMid": "0"}


@pytest.mark.parametrize(
    ("message", "signal"),
    [
        ({"candidate": NESTED}, candidate()),
        ({"type": "candidate", "candidate": NESTED}, candidate()),
        ({"type": "candidate", "candidate": HOST, "id": "0", "label": 0}, candidate()),
        ({"candidate": HOST, "sdpMid": "0", "sdpMLineIndex": 0}, candidate()),
        ({"candidate": NESTED | {"usernameFragment": "abcd"}}, candidate()),
        ({"candidate": NESTED | {"candidate": f"a={HOST}\r\n"}}, candidate()),
        # Either name of the media line will do, and one that is of no use is as good as missing.
        ({"candidate": NESTED | {"sdpMid": None}}, candidate(mid=None)),
        ({"candidate": NESTED | {"sdpMid": ""}}, candidate(mid=None)),
        ({"candidate": NESTED | {"sdpMid": 0}}, candidate(mid=None)),
        ({"candidate": {"candidate": HOST, "sdpMLineIndex": 2}}, candidate(mid=None, index=2)),
        ({"candidate": {"candidate": HOST, "sdpMid": "video"}}, candidate(mid="video", index=None)),
        ({"candidate": NESTED | {"sdpMLineIndex": None}}, candidate(index=None)),
        ({"candidate": NESTED | {"sdpMLineIndex": "0"}}, candidate(index=None)),
        ({"candidate": NESTED | {"sdpMLineIndex": True}}, candidate(index=None)),
        ({"candidate": NESTED | {"sdpMLineIndex": -1}}, candidate(index=None)),
        ({"candidate": NESTED | {"sdpMLineIndex": 65536}}, candidate(index=None)),
        # Candidates for media lines that the other bundles, or that we do not have, are for the engine to judge.
        ({"candidate": NESTED | {"sdpMLineIndex": 65535, "sdpMid": "7"}}, candidate(mid="7", index=65535)),
    ],
    ids=str,
)
def test_reads_candidates_in_every_shape(message: Any, signal: Signal) -> None:
    assert read(message) == signal


@pytest.mark.parametrize(
    "text",
    [
        "candidate:1 1 udp 2113937151 5d1a2b3c-0000-4000-8000-123456789abc.local 40000 typ host generation 0",
        "candidate:1 1 tcp 1518280447 192.0.2.9 9 typ host tcptype active generation 0 ufrag abcd network-id 1",
        "candidate:f957a2332b1715da3b0ef8ba684454eb 1 UDP 2122262783 fd00::9 40000 typ host",
        "candidate:1 1 udp 1677729535 203.0.113.5 40000 typ srflx raddr 192.0.2.9 rport 40000 generation 0",
        "candidate:1 2 udp 33562367 203.0.113.5 40000 typ relay raddr 192.0.2.9 rport 40000",
        "candidate:a/b+c 1 ssltcp 0 h 0 typ new",
    ],
)
def test_reads_candidates_of_every_kind(text: str) -> None:
    assert read({"candidate": NESTED | {"candidate": text}}) == candidate(text)


@pytest.mark.parametrize(
    "message",
    [
        {"candidate": None},
        {"type": "candidate", "candidate": None},
        {"candidate": ""},
        {"candidate": {"candidate": ""}},
        {"candidate": {"candidate": None}},
        {"candidate": NESTED | {"candidate": ""}},
        {"type": "candidate", "candidate": "", "id": "0", "label": 0},
        {"candidate": NESTED | {"candidate": "a=end-of-candidates"}},
    ],
    ids=str,
)
def test_reads_the_end_of_candidates(message: Any) -> None:
    assert read(message) == RemoteCandidate(candidate=None)


@pytest.mark.parametrize(
    ("message", "detail"),
    [
        ({"type": "candidate"}, "a candidate without its text"),
        ({"candidate": {}}, "a candidate without its text"),
        ({"type": "candidate", "candidate": {"sdpMid": "0"}}, "a candidate without its text"),
        ({"candidate": True}, "a candidate whose text is a boolean"),
        ({"candidate": [HOST]}, "a candidate whose text is an array"),
        ({"candidate": {"candidate": NESTED}}, "a candidate whose text is an object"),
        ({"candidate": NESTED | {"candidate": 5}}, "a candidate whose text is a number"),
        ({"candidate": NESTED | {"candidate": "garbage"}}, "a candidate that cannot be read"),
        ({"candidate": NESTED | {"candidate": HOST[10:]}}, "a candidate that cannot be read"),
        ({"candidate": NESTED | {"candidate": "candidate:1 1 udp 1 h 99 typ"}}, "a candidate that cannot be read"),
        ({"candidate": NESTED | {"candidate": f"{HOST}\r\na=x"}}, "a candidate that cannot be read"),
        ({"candidate": NESTED | {"candidate": f"{HOST} {'x' * 501}"}}, "a candidate that cannot be read"),
        ({"candidate": {"candidate": HOST}}, "a candidate that names no media line"),
        (
            {"candidate": NESTED | {"sdpMid": None, "sdpMLineIndex": None}},
            "a candidate that names no media line",
        ),
        ({"candidate": HOST}, "a candidate that names no media line"),
    ],
    ids=str,
)
def test_a_candidate_of_no_use_is_told_and_not_passed_on(message: Any, detail: str) -> None:
    assert read(message) == UnknownSignal(detail=detail)


# --- What a client sends ---------------------------------------------------------------------------------------


def test_commands() -> None:
    assert signals.LIST_PEERS == '{"type":"listPeers"}'
    assert signals.READY == '{"type":"ready"}'
    assert signals.UNPAIR == '{"type":"unpair"}'
    assert pair_text("b") == '{"type":"pair","remotePeerId":"b"}'


def test_q16_sends_only_what_every_known_peer_reads() -> None:
    assert offer_text("v=0\r\n") == r'{"type":"offer","sdp":"v=0\r\n"}'
    assert answer_text("v=0\r\n") == r'{"type":"answer","sdp":"v=0\r\n"}'
    sent = candidate_text(Candidate(candidate=HOST, sdp_mid="1", sdp_mline_index=1))
    assert sent == f'{{"candidate":{{"candidate":"{HOST}","sdpMLineIndex":1,"sdpMid":"1"}}}}'
    # Both names stand there even if one is not known: readers that miss one die.
    sent = candidate_text(Candidate(candidate=HOST, sdp_mid=None, sdp_mline_index=1))
    assert json.loads(sent)["candidate"] == {"candidate": HOST, "sdpMLineIndex": 1, "sdpMid": None}


@given(st.text(), st.text(min_size=1) | st.none(), st.integers(0, 65535))
def test_what_a_client_sends_reads_back(text: str, mid: str | None, index: int) -> None:
    assert parse_command(pair_text(text), max_size=MIB) == PairCommand(remote_id=text)
    assert parse_signal(offer_text(text), max_size=MIB) == Offer(sdp=text)
    assert parse_signal(answer_text(text), max_size=MIB) == Answer(sdp=text)
    ours = candidate(mid=mid, index=index)
    assert ours.candidate is not None
    assert parse_signal(candidate_text(ours.candidate), max_size=MIB) == ours


# --- What a server reads and sends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ({"type": "listPeers"}, ListPeersCommand()),
        ({"type": "ready", "extra": 1}, ReadyCommand()),
        ({"type": "unpair"}, UnpairCommand()),
        ({"type": "pair", "remotePeerId": "b"}, PairCommand(remote_id="b")),
        ({"type": "pair", "remotePeerId": ["b"]}, PairCommand(remote_id=None)),
        ({"type": "pair"}, PairCommand(remote_id=None)),
        ({"type": "Pair", "remotePeerId": "b"}, Relay(value={"type": "Pair", "remotePeerId": "b"})),
        ({"type": ["pair"]}, Relay(value={"type": ["pair"]})),
        ({"type": "status", "status": "unpaired"}, Relay(value={"type": "status", "status": "unpaired"})),
        ({"remotePeerId": "b"}, Relay(value={"remotePeerId": "b"})),
        (["listPeers"], Relay(value=["listPeers"])),
        ("listPeers", Relay(value="listPeers")),
        (None, Relay(value=None)),
    ],
    ids=str,
)
def test_reads_commands(message: Any, command: signals.ServerCommand) -> None:
    assert parse_command(json.dumps(message), max_size=MIB) == command


def test_the_server_tells_errors_in_its_own_words() -> None:
    assert [error_text(code) for code in signals.ERROR_MESSAGES] == [
        '{"type":"error","code":"ERR_PEER_NOT_FOUND","message":"Remote peer does not exists!"}',
        '{"type":"error","code":"ERR_PEER_BUSY","message":"Remote peer is busy!"}',
        '{"type":"error","code":"ERR_BAD_STATE",'
        '"message":"Cannot forward message to remote peer because peer is not paired!"}',
        '{"type":"error","code":"ERR_BAD_SIGNAL","message":"The message is not valid JSON!"}',
    ]


printable = st.text(st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1)
peer_infos = st.builds(PeerInfo, id=printable, type=printable, busy=st.booleans())


@given(printable, st.sampled_from(sorted(signals.ERROR_MESSAGES)), printable, st.lists(peer_infos))
def test_what_a_server_sends_reads_back(peer_id: str, code: str, message: str, peers: list[PeerInfo]) -> None:
    assert parse_signal(paired_text(peer_id), max_size=MIB) == Paired(remote_id=peer_id)
    assert parse_signal(error_text(code, message), max_size=MIB) == ServerError(code=code, message=message)
    assert parse_signal(peers_text(iter(peers)), max_size=MIB) == PeerList(peers=tuple(peers))
    assert parse_signal(signals.UNPAIRED, max_size=MIB) == Unpaired()


# --- Anything --------------------------------------------------------------------------------------------------


@given(st.text() | st.binary() | near_signals.map(json.dumps) | json_values.map(json.dumps))
@example("[" * 100_000)
@example('{"type":' * 100_000)
@example('{"candidate":{"sdpMLineIndex":' + "9" * 5000 + "}}")
@example('{"type":"offer","sdp":"\\ud800"}')
@example('{"type":"pair","type":"offer","sdp":"v=0"}')
@example('{"type":NaN}')
def test_any_text_is_a_signal_or_the_documented_error(text: str | bytes) -> None:
    try:
        value = jsontext.decode(text, max_size=MIB)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            parse_signal(text, max_size=MIB)
        with pytest.raises(RemoteProtocolError):
            parse_command(text, max_size=MIB)
        return
    signal = parse_signal(text, max_size=MIB)
    assert isinstance(signal, signals.Signal)
    command = parse_command(text, max_size=MIB)
    assert isinstance(command, signals.ServerCommand)
    if isinstance(command, Relay):
        # What reaches the other peer is what was sent.
        assert parse_signal(jsontext.encode(command.value), max_size=8 * MIB) == signal
        assert command.value == value


def test_no_description_and_no_candidate_in_a_repr() -> None:
    secret = "a=ice-pwd:hunter2"
    shown = [
        read({"type": "offer", "sdp": secret}),
        read({"type": "answer", "sdp": secret}),
        read({"candidate": NESTED | {"candidate": f"{HOST} {secret}"}}),
        read({"type": "offer", "sdp": [secret]}),
        read({"type": secret, "sdp": secret}),
        parse_command(offer_text(secret), max_size=MIB),
    ]
    assert "hunter2" not in repr(shown)


def test_ten_megabytes_that_are_allowed_are_read() -> None:
    text = offer_text("v=0\r\n" + "a=x\r\n" * 2_000_000)
    signal = parse_signal(text, max_size=20 * MIB)
    assert isinstance(signal, Offer)
    assert sdp.offer_problem(signal.sdp) is not None


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.name)
def test_fuzz_corpus(path: Path) -> None:
    fuzz_signals.check(path.read_bytes())


def test_the_fuzz_corpus_is_there() -> None:
    assert len(CORPUS) >= 60
