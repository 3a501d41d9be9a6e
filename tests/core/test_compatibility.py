"""The 24 points that a peer has to meet among the real ones; docs/protocol.md has them in one table.

The real ones: hyperpeer-node 0.1.2 and 0.1.3, hyperpeer-py 0.3.1, hyperpeer-js 0.1.4 with simple-peer 9.2 to 9.11,
deep_io and the stream managers of the DEEP Framework. Where an adapter has a part in a point, the core's part is here.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from deepio_core import inputs, outputs
from deepio_core.address import build_address, encode_segment
from deepio_core.config import PeerConfig
from deepio_core.errors import AddressError, LocalProtocolError
from deepio_core.jsontext import JSON, utf8_size
from deepio_core.messages import (
    DataMessage,
    ErrorMessage,
    Generation,
    MetadataMessage,
    WarningMessage,
    acknowledgement,
    parse_message,
    to_json,
)
from deepio_core.outputs import Cause
from deepio_core.signals import Candidate
from deepio_core.states import STATE_OF, PeerState, Stage
from deepio_core.timers import Timer
from tests.core.peers import (
    ANSWERED,
    BAD_STATE,
    BOB,
    BUSY,
    CANDIDATE,
    CANDIDATE_MESSAGE,
    CANDIDATE_TEXT,
    CONFIG,
    EVE,
    NOT_FOUND,
    OFFER,
    OFFERED,
    OTHER_ANSWER,
    PEERS,
    READY,
    SILENT_STAGES,
    UNPAIR,
    UNPAIRED,
    Driven,
    brief,
    briefly,
    bring,
    called,
    calling,
    connected,
    online,
    pair,
    paired,
)

HEARING = [stage for stage in Stage if stage not in SILENT_STAGES]
IN_SESSION = [
    Stage.OFFERING,
    Stage.AWAITING_ANSWER,
    Stage.AWAITING_OFFER,
    Stage.ANSWERING,
    Stage.OPENING,
    Stage.CONNECTED,
    Stage.PARTING,
]

RECORDED_PAIRS: list[dict[str, str]] = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "sdp" / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
]
"""Offers and answers of real peers, old and new."""


def ignored(taken: list[outputs.PeerOutput]) -> bool:
    """Whether what came was told as of no use, and nothing else."""
    return briefly(taken) == ["SignalIgnored"]


def settle(driven: Driven) -> None:
    """Let all that is on its way arrive, until the peer is online again."""
    if driven.peer.stage in {Stage.LEAVING, Stage.UNPAIRING}:
        driven.hear(UNPAIRED)
    driven.close_engine()
    assert driven.peer.stage is Stage.ONLINE


def meet(driven: Driven) -> None:
    """Call somebody, and connect."""
    driven.do(inputs.Connect(remote_id=BOB))
    driven.hear(paired())
    driven.hear(OFFERED)
    driven.make_answer()
    assert briefly(driven.open_channel()) == ["CONNECTING > CONNECTED", "Connected bob"]


# --- Receiving from the server ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", HEARING)
def test_q01_unpaired_at_any_time(stage: Stage) -> None:
    """`unpaired` comes at any time and more than once, also without a pairing; it never fails and never misleads."""
    driven = bring(stage)
    for _ in range(3):
        driven.hear(UNPAIRED)
    if stage in {Stage.LISTENING, Stage.PAIRING, Stage.ONLINE}:
        assert driven.peer.stage is stage
    else:
        assert driven.peer.stage in {Stage.ONLINE, Stage.DRAINING, Stage.PAIRING}


def test_q01_replies_are_matched_by_type() -> None:
    """Replies are known by what they say, not by their place: others may come before, in any order."""
    driven = online()
    driven.do(inputs.ListPeers())
    driven.do(inputs.Connect(remote_id=BOB))
    driven.hear(UNPAIRED)
    driven.hear(BAD_STATE)
    assert briefly(driven.hear(PEERS)) == ["PeersListed"]
    driven.hear(UNPAIRED)
    assert briefly(driven.hear(paired())) == ["StartEngine bob answers"]


def test_q01_only_paired_with_the_requested_peer_is_the_reply() -> None:
    """`paired` with another id is no reply to `pair`."""
    driven = bring(Stage.PAIRING)
    driven.hear(paired(EVE))
    assert driven.peer.state is PeerState.CONNECTING
    assert driven.told(outputs.StartEngine) == []


@pytest.mark.parametrize(("error", "cause"), [(NOT_FOUND, Cause.NOT_FOUND), (BUSY, Cause.BUSY)])
def test_q01_only_two_errors_refuse_a_pairing(error: dict[str, str], cause: Cause) -> None:
    """Not found and busy answer `pair`; any other error is about something else."""
    driven = bring(Stage.PAIRING)
    assert ignored(driven.hear(BAD_STATE))
    assert ignored(driven.hear({"type": "error", "code": "ERR_BAD_SIGNAL", "message": "x"}))
    driven.hear(error)
    assert driven.told(outputs.ConnectionFailed) == [
        outputs.ConnectionFailed(remote_id=BOB, cause=cause, detail=error["message"])
    ]


def test_q02_both_sides_pair_at_once() -> None:
    """`paired`, then busy: it was the other side's request that succeeded, so nobody offers. Unpair, and try again."""
    driven = bring(Stage.PAIRING)
    driven.hear(paired())
    driven.hear(BUSY)
    assert driven.sent[-1] == UNPAIR
    assert driven.told(outputs.ConnectionFailed)[0].cause is Cause.CROSSED
    settle(driven)
    meet(driven)


@pytest.mark.parametrize("stage", IN_SESSION)
def test_q03_paired_with_another_without_unpaired(stage: Stage) -> None:
    """A stale pairing at the server: paired anew without `unpaired`. The session is over, the new pairing declined."""
    driven = bring(stage)
    driven.hear(paired(EVE))
    assert driven.peer.stage is Stage.LEAVING
    assert driven.sent[-1] == UNPAIR
    settle(driven)


def test_q03_signals_of_a_former_partner() -> None:
    """Signals name no sender: what does not fit the stage, or the offer, is not the partner's."""
    driven = bring(Stage.AWAITING_ANSWER)
    assert ignored(driven.hear(OFFERED))
    assert ignored(driven.hear({"type": "answer", "sdp": OTHER_ANSWER}))
    driven.hear(ANSWERED)
    assert ignored(driven.hear(ANSWERED))
    driven.open_channel()
    assert ignored(driven.hear(OFFERED))
    assert driven.peer.state is PeerState.CONNECTED


@pytest.mark.parametrize("stage", HEARING)
@pytest.mark.parametrize(
    "message",
    [
        5,
        "text",
        None,
        True,
        [],
        {},
        [paired()],
        {"type": 5},
        {"type": "chat", "text": "hello"},
        {"type": "status"},
        {"type": "status", "status": "paired"},
        {"type": "status", "status": "paired", "remotePeerId": 5},
        {"type": "error"},
        {"type": "error", "code": 5},
        {"type": "error", "code": "ERR_NEW"},
        {"type": "peers"},
        {"type": "peers", "peers": [{"id": 1}]},
        {"type": "peers", "peers": []},
        {"type": "offer"},
        {"type": "answer", "sdp": None},
        {"type": "offer", "sdp": "nonsense"},
    ],
)
def test_q04_anything_relayed(stage: Stage, message: Any) -> None:
    """Any peer can have anything relayed, also what looks like the server's: told as ignored, nothing else changes."""
    driven = bring(stage)
    before = driven.facts()
    assert ignored(driven.hear(message))
    assert driven.facts() == before


def test_q04_key_order_and_number_format_do_not_matter() -> None:
    """The server writes messages anew: other key order, numbers in another format, escapes resolved."""
    driven = bring(Stage.LISTENING)
    driven.do(
        inputs.SignalingReceived(text='{ "remotePeerId":"b\\u006fb","extra":1E2, "status":"paired","type":"status" }')
    )
    assert driven.peer.remote_id == BOB
    driven.do(inputs.Accept())
    driven.make_offer()
    driven.do(inputs.SignalingReceived(text=json.dumps({"sdp": ANSWERED["sdp"], "type": "answer"}, indent=1).encode()))
    assert driven.peer.stage is Stage.OPENING


@pytest.mark.parametrize("stage", IN_SESSION)
def test_q05_bad_state_in_a_session_means_the_partner_is_gone(stage: Stage) -> None:
    """The server holds us for unpaired: our candidate, or answer, was faster than its `unpaired`."""
    driven = bring(stage)
    driven.hear(BAD_STATE)
    assert driven.peer.state is PeerState.DISCONNECTING
    settle(driven)
    meet(driven)


@pytest.mark.parametrize("stage", [stage for stage in HEARING if stage not in IN_SESSION])
def test_q05_bad_state_outside_of_a_session_is_late(stage: Stage) -> None:
    """The same, about a session that is over."""
    driven = bring(stage)
    assert ignored(driven.hear(BAD_STATE))
    assert driven.peer.stage is stage


@pytest.mark.parametrize(("code", "cause"), [(1005, Cause.ID_IN_USE), (1006, Cause.SIGNALING_LOST)])
def test_q06_closed_right_after_the_handshake(code: int, cause: Cause) -> None:
    """An id in use: an empty close frame from 0.1.3, the end of the process from 0.1.2.

    The peer ends and says why; that the next attempt waits, and longer each time, is tested with the session.
    """
    assert online().do(inputs.SignalingClosed(code=code))[-1] == outputs.PeerClosed(
        cause=cause, detail=f"the signaling connection was closed with code {code}"
    )


@pytest.mark.parametrize(
    "cause", [Cause.KEY_REFUSED, Cause.NOT_SIGNALING, Cause.UNREACHABLE, Cause.UNKNOWN_HOST, Cause.CERTIFICATE_REFUSED]
)
def test_q07_refused_before_the_handshake(cause: Cause) -> None:
    """HTTP 401, 400, 426, or no response at all: the link reports a cause, and the peer ends with it.

    Which response is which cause is tested with the WebSocket link, whether to try again with the session.
    """
    driven = Driven()
    assert driven.do(inputs.SignalingFailed(cause=cause, detail="said the link")) == [
        outputs.StateChanged(old=PeerState.STARTING, new=PeerState.CLOSED),
        outputs.PeerClosed(cause=cause, detail="said the link"),
    ]


def test_q08_there_is_always_an_id() -> None:
    """A server tells nobody the id that it has assigned, so a peer without one cannot be."""
    with pytest.raises(TypeError):
        PeerConfig()  # type: ignore[call-arg]
    with pytest.raises(AddressError):
        PeerConfig(peer_id="")
    with pytest.raises(AddressError):
        build_address("localhost", 8000, peer_type="camera", peer_id="")


# --- Receiving from peers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        CANDIDATE_MESSAGE,
        {"type": "candidate", **CANDIDATE_MESSAGE},
        {"type": "candidate", "candidate": CANDIDATE_TEXT, "id": "0", "label": 0},
        {"candidate": CANDIDATE_TEXT, "sdpMid": "0", "sdpMLineIndex": 0},
        {"candidate": {"candidate": f"a={CANDIDATE_TEXT}", "sdpMid": "0", "sdpMLineIndex": 0}},
    ],
)
def test_q09_candidates_of_every_shape(message: dict[str, Any]) -> None:
    """Nested or flat, with or without `type`, under both names of the fields; kept until the description is there."""
    for driven in (calling(), called()):
        assert driven.hear(message) == []
        applied = driven.hear(OFFERED) if driven.peer.stage is Stage.AWAITING_OFFER else []
        if not applied:
            driven.make_offer()
            applied = driven.hear(ANSWERED)
        expected = outputs.ApplyCandidate(negotiation=1, candidate=CANDIDATE)
        assert applied[1:] == [expected]
        assert driven.hear(message) == [expected]


@pytest.mark.parametrize(
    "fields",
    [
        {"sdpMid": "0"},
        {"sdpMLineIndex": 0},
        {"sdpMid": "7", "sdpMLineIndex": 7},
        {"sdpMid": "1", "sdpMLineIndex": 1, "usernameFragment": "u"},
    ],
)
@pytest.mark.parametrize(
    "text",
    [
        "candidate:1 1 udp 2113937151 3f0c2f9e-5b1a-4c38-9c71-1c2b7a1a0001.local 50000 typ host network-cost 999",
        "candidate:2 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active",
        "candidate:3 1 udp 2122262783 2001:db8::1 50000 typ host generation 0 network-id 2",
        "candidate:4 1 udp 1686052607 198.51.100.7 50000 typ srflx raddr 192.0.2.1 rport 50000",
    ],
)
def test_q09_candidates_of_every_kind(text: str, fields: dict[str, Any]) -> None:
    """mDNS names, tcp, IPv6, bundled media lines, one name of the media line: the engine takes what it can use."""
    driven = bring(Stage.OPENING)
    assert driven.hear({"candidate": {"candidate": text, **fields}}) == [
        outputs.ApplyCandidate(
            negotiation=1,
            candidate=Candidate(
                candidate=text, sdp_mid=fields.get("sdpMid"), sdp_mline_index=fields.get("sdpMLineIndex")
            ),
        )
    ]


@pytest.mark.parametrize("message", [{"candidate": None}, {"candidate": {"candidate": "", "sdpMid": "0"}}])
def test_q09_the_end_of_candidates(message: dict[str, Any]) -> None:
    """Null and the empty string are the end of the candidates."""
    assert bring(Stage.OPENING).hear(message) == [outputs.ApplyCandidate(negotiation=1, candidate=None)]


@pytest.mark.parametrize(
    "message",
    [
        {"candidate": {}},
        {"candidate": []},
        {"candidate": 5},
        {"candidate": {"candidate": CANDIDATE_TEXT}},
        {"candidate": {"candidate": CANDIDATE_TEXT, "sdpMid": 5, "sdpMLineIndex": "0"}},
        {"candidate": {"candidate": "candidate:nonsense", "sdpMid": "0"}},
        {"type": "candidate"},
    ],
)
def test_q09_candidates_of_no_use(message: dict[str, Any]) -> None:
    """What cannot be used is ignored, and the session goes on."""
    driven = bring(Stage.OPENING)
    assert ignored(driven.hear(message))
    assert briefly(driven.open_channel()) == ["CONNECTING > CONNECTED", "Connected bob"]


@pytest.mark.parametrize("stage", [Stage.OPENING, Stage.CONNECTED])
@pytest.mark.parametrize(
    "message",
    [
        {"renegotiate": True},
        {"type": "renegotiate", "renegotiate": True},
        {"transceiverRequest": {"kind": "audio"}},
        {"type": "transceiverRequest", "transceiverRequest": {"kind": "video", "init": {}}},
        OFFERED,
    ],
)
def test_q10_renegotiation_is_ignored(stage: Stage, message: dict[str, Any]) -> None:
    """simple-peer asks for a new offer, or makes one: ignored as hyperpeer-py does, and browsers stay connected."""
    driven = bring(stage)
    assert ignored(driven.hear(message))
    assert driven.peer.stage is stage


@pytest.mark.parametrize("recorded", RECORDED_PAIRS, ids=lambda recorded: recorded["name"])
def test_q11_descriptions_of_real_peers(recorded: dict[str, str]) -> None:
    """Offers and answers in old and new form, of data only, with audio, with answers that are recvonly or inactive.

    That no track is added whose kind the offer lacks is for the engine, and tested there.
    """
    driven = calling()
    assert briefly(driven.hear({"type": "offer", "sdp": recorded["offer"]})) == ["ApplyOffer"]
    driven = called()
    driven.make_offer(recorded["offer"])
    assert briefly(driven.hear({"sdp": recorded["answer"], "type": "answer"})) == ["ApplyAnswer"]


@pytest.mark.parametrize("direction", ["recvonly", "inactive"])
def test_q11_answers_that_send_nothing(direction: str) -> None:
    """An answer that refuses our video, or only takes it, is an answer."""
    driven = bring(Stage.AWAITING_ANSWER)
    answer = ANSWERED["sdp"].replace("a=mid:0\r\n", f"a=mid:0\r\na={direction}\r\n")
    assert briefly(driven.hear({"type": "answer", "sdp": answer})) == ["ApplyAnswer"]


CONNECTING = [stage for stage in Stage if STATE_OF[stage] is PeerState.CONNECTING]


@pytest.mark.parametrize("stage", CONNECTING)
def test_q12_a_remote_peer_that_says_it_leaves(stage: Stage) -> None:
    """`unpaired` ends every connecting stage that has a partner."""
    driven = bring(stage)
    driven.hear(UNPAIRED)
    if stage in {Stage.PAIRING, Stage.OVERTAKEN}:
        assert driven.peer.stage is Stage.PAIRING, "still waiting for the reply"
    else:
        assert driven.told(outputs.ConnectionFailed)[0].cause is Cause.REMOTE_LEFT
        driven.close_engine()
        assert driven.peer.stage is Stage.ONLINE


@pytest.mark.parametrize("stage", CONNECTING)
def test_q12_a_remote_peer_that_vanishes(stage: Stage) -> None:
    """Every connecting stage has a deadline, and after it the peer leaves and is free for another attempt."""
    driven = bring(stage)
    deadline = driven.peer.deadline
    assert deadline is not None
    assert deadline - driven.now <= 15.0, "a browser waits no longer"
    driven.expire()
    assert driven.peer.state is PeerState.DISCONNECTING
    assert len(driven.told(outputs.ConnectionFailed)) == 1
    settle(driven)
    meet(driven)


def test_q12_one_deadline_for_the_whole_negotiation() -> None:
    """A peer that does each step at the last moment does not get the time again for each of them."""
    driven = calling()
    deadline = driven.peer.deadline
    driven.wait(10.0)
    driven.hear(OFFERED)
    driven.wait(4.0)
    driven.make_answer()
    assert driven.peer.deadline == deadline
    assert briefly(driven.wait(1.0))[:2] == ["CONNECTING > DISCONNECTING", "failed bob no_connection"]


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ('{"type":"data"}', {"type": "data"}),
        (b'{"type":"data"}', {"type": "data"}),
        ("5", 5),
        ("[1]", [1]),
        ("null", None),
        ('"text"', "text"),
    ],
)
def test_q13_data_of_any_kind(data: str | bytes, value: Any) -> None:
    """Text or binary, any JSON value; label and options of the channel mean nothing here."""
    assert connected().receive(data) == [outputs.DataReceived(data=value)]


def test_q13_data_that_is_no_json_does_not_end_the_session() -> None:
    """hyperpeer-py drops the connection; here it is told, and the session goes on."""
    driven = connected()
    assert [type(output) for output in driven.receive("not JSON")] == [outputs.DataIgnored]
    assert driven.peer.state is PeerState.CONNECTED


def test_q13_large_messages() -> None:
    """Stream managers send up to 300 kB."""
    assert briefly(connected().receive(json.dumps({"type": "data", "filler": "x" * 300_000}))) == ["DataReceived"]


@pytest.mark.parametrize(
    ("body", "generation"),
    [
        ({"data": [{"pid": "1", "rect": {"class": "car"}, "points": []}]}, Generation.DATA),
        ({"objects": [{"pid": "1", "rect": {}, "class": "car", "points": []}]}, Generation.OBJECTS),
        ({"objects": [{"age": {"value": "(25, 32)", "vc_time": 1.5}}]}, Generation.TIMED_OBJECTS),
    ],
)
@pytest.mark.parametrize("rec_time", ["1", "1795353225.0627275", "0.1", "12345678901234567890"])
def test_q13_results_are_acknowledged_to_the_digit(body: dict[str, Any], generation: Generation, rec_time: str) -> None:
    """All three generations of results; `rec_time` goes back as it came. More of it in test_messages.py."""
    text = json.dumps({"type": "data", **body})[:-1] + f',"rec_time":{rec_time}}}'
    driven = connected()
    (received,) = driven.receive(text)
    assert isinstance(received, outputs.DataReceived)
    message = parse_message(received.data)
    assert isinstance(message, DataMessage)
    assert message.generation is generation
    reply = acknowledgement(message)
    assert reply is not None
    (sent,) = driven.do(inputs.Send(data=to_json(reply)))
    assert isinstance(sent, outputs.SendChannel)
    assert sent.text == f'{{"type":"acknowledge","rec_time":{rec_time}}}'


@pytest.mark.parametrize("field", ["messagge", "message"])
def test_q13_alarms_in_both_spellings(field: str) -> None:
    """`warning` and `error` carry a misspelt field; the right spelling is read too."""
    warning, error = (parse_message({"type": kind, field: "slow"}) for kind in ("warning", "error"))
    assert isinstance(warning, WarningMessage)
    assert isinstance(error, ErrorMessage)
    assert warning.text == error.text == "slow"


# --- Sending ---------------------------------------------------------------------------------------------------


def test_q14_names_are_encoded_before_they_are_used() -> None:
    """What the server would die of is encoded or refused, and the encoded id is the id everywhere."""
    address = build_address("localhost", 8000, peer_type="video camera", peer_id="café.1", key="a/b")
    assert address.url.endswith("/video%20camera/caf%C3%A9%2E1/a%2Fb")
    with pytest.raises(AddressError):
        PeerConfig(peer_id="café.1")
    assert PeerConfig(peer_id=address.peer_id).peer_id == encode_segment("café.1")
    driven = online()
    driven.do(inputs.Connect(remote_id="café.1"))
    assert driven.sent == [pair("caf%C3%A9%2E1")]
    assert briefly(driven.hear(paired("caf%C3%A9%2E1"))) == ["StartEngine caf%C3%A9%2E1 answers"]


def sessions() -> list[Driven]:
    """Peers that have been through everything that sends."""
    caller = connected()
    caller.do(inputs.ListPeers())
    caller.do(inputs.LocalCandidate(negotiation=1, candidate=CANDIDATE))
    caller.do(inputs.Disconnect())
    listener = bring(Stage.AWAITING_ANSWER)
    listener.do(inputs.LocalCandidate(negotiation=1, candidate=CANDIDATE))
    return [caller, listener]


def test_q15_only_objects_and_never_too_large() -> None:
    """`null` ends the server, anything but an object a browser's session, and more than 1 MiB hyperpeer-py's link."""
    for driven in sessions():
        for output in driven.told(outputs.SendSignaling):
            assert utf8_size(output.text) <= 1024 * 1024
        assert all(isinstance(message, dict) for message in driven.sent)
    assert CONFIG.max_signal_size <= 1024 * 1024
    driven = called()
    driven.make_offer("x" * (1024 * 1024))
    assert driven.sent[-1] == UNPAIR


def test_q16_nothing_else_is_relayed() -> None:
    """Offers, answers, and candidates without `type` but with both names of the media line; none before the own SDP."""
    commands = [{"type": "listPeers"}, READY, UNPAIR, pair()]
    relayed = [[message for message in driven.sent if message not in commands] for driven in sessions()]
    assert relayed == [[ANSWERED, CANDIDATE_MESSAGE], [OFFERED, CANDIDATE_MESSAGE]]
    early = called()
    early.do(inputs.LocalCandidate(negotiation=1, candidate=CANDIDATE))
    assert early.sent == [READY]


WITH_PARTNER = [Stage.INVITED, *(stage for stage in IN_SESSION if stage is not Stage.PARTING)]


@pytest.mark.parametrize("stage", WITH_PARTNER)
@pytest.mark.parametrize("unpaireds", [1, 2])
def test_q17_we_leave(stage: Stage, unpaireds: int) -> None:
    """One `unpair`; nothing new starts before `unpaired`, and a second one, since both have left, does no harm."""
    driven = bring(stage)
    driven.do(inputs.Disconnect())
    if driven.peer.waiting_for is Timer.PART:
        driven.expire()
    driven.close_engine()
    for command in (inputs.Listen(), inputs.Connect(remote_id=BOB)):
        with pytest.raises(LocalProtocolError):
            driven.peer.handle(command, now=driven.now)
    for _ in range(unpaireds):
        driven.hear(UNPAIRED)
    meet(driven)
    assert driven.sent.count(UNPAIR) == 1


@pytest.mark.parametrize("stage", WITH_PARTNER)
def test_q17_they_leave(stage: Stage) -> None:
    """The server has told both sides by itself, so that there is nothing to unpair."""
    driven = bring(stage)
    driven.hear(UNPAIRED)
    driven.close_engine()
    meet(driven)
    assert UNPAIR not in driven.sent


@pytest.mark.parametrize("stage", IN_SESSION)
@pytest.mark.parametrize(
    "report", [inputs.EngineClosed(negotiation=1), inputs.EngineFailed(negotiation=1, cause=Cause.ENGINE)]
)
def test_q17_the_connection_ends(stage: Stage, report: inputs.EngineReport) -> None:
    """hyperpeer-py never unpairs after a session: we do, whoever ended it, so that nobody stays paired with us."""
    driven = bring(stage)
    driven.do(report)
    driven.close_engine()
    assert driven.sent[-1] == UNPAIR
    driven.hear(UNPAIRED)
    meet(driven)
    assert driven.sent.count(UNPAIR) == 1


def test_q18_no_pairing_is_left_before_it_is_answered() -> None:
    """A stream manager whose caller leaves before answering exits, or loops for ever: so we answer, then leave."""
    driven = calling()
    assert briefly(driven.do(inputs.Disconnect())) == ["CONNECTING > DISCONNECTING", "failed bob local"]
    assert briefly(driven.hear(OFFERED)) == ["ApplyOffer"]
    assert briefly(driven.make_answer()) == ["send answer"]
    assert briefly(driven.open_channel()) == ["CloseEngine", "send unpair"]
    settle(driven)


def test_q18_but_not_for_ever() -> None:
    """An offer that never comes, or a channel that never opens, is not waited for much longer."""
    driven = calling()
    driven.do(inputs.Disconnect())
    assert driven.peer.waiting_for is Timer.PART
    assert briefly(driven.wait(CONFIG.part_timeout)) == ["CloseEngine", "send unpair"]
    settle(driven)


def test_q19_nothing_holds_up_an_answer() -> None:
    """The offer goes to the engine, and its answer to the server, in the call that brings them.

    The rest of the 5 s that a browser waits is the engine's; it gathers no candidates from servers unless told to,
    which is tested with it.
    """
    driven = calling()
    assert driven.hear(OFFERED) == [outputs.ApplyOffer(negotiation=1, sdp=OFFER)]
    assert briefly(driven.make_answer()) == ["send answer"]


def test_q20_ready_for_each_session() -> None:
    """A peer stays busy after a session until it says `ready` again, which nobody acknowledges."""
    driven = online()
    for number in range(1, 4):
        driven.do(inputs.Listen())
        assert driven.sent.count(READY) == number
        assert driven.peer.stage is Stage.LISTENING
        assert driven.peer.deadline is None, "no reply is waited for"
        driven.hear(paired())
        driven.do(inputs.Accept())
        driven.make_offer()
        driven.hear(ANSWERED)
        driven.open_channel()
        driven.hear(UNPAIRED)
        driven.close_engine()


@pytest.mark.parametrize("stage", [Stage.ONLINE, Stage.CONNECTED])
def test_q21_a_clean_close(stage: Stage) -> None:
    """Close code 1000, and the end only when the connection is really closed: till then the id is taken.

    That the TCP connection is closed in both directions is tested with the WebSocket link.
    """
    driven = bring(stage)
    taken = driven.do(inputs.Close())
    assert outputs.CloseSignaling(link=1, code=1000, reason="") in taken
    driven.close_engine()
    assert driven.peer.state is PeerState.CLOSING
    assert driven.peer.waiting_for is Timer.CLOSE
    assert brief(driven.do(inputs.SignalingClosed(code=1000))[-1]) == "PeerClosed local"


@pytest.mark.parametrize("stage", [Stage.ONLINE, Stage.LISTENING])
def test_q22_a_server_that_is_silent_is_not_gone(stage: Stage) -> None:
    """The server never pings and drops nobody, so its silence means nothing to a peer.

    The pings that find a dead connection are the WebSocket link's, and tested there.
    """
    driven = bring(stage)
    assert driven.wait(24 * 3600.0) == []
    assert driven.peer.stage is stage


@pytest.mark.parametrize("stage", [*IN_SESSION, Stage.DETACHED])
@pytest.mark.parametrize("ending", ["close", "leave", "unpaired"])
def test_q23_a_session_ends_with_its_peer_connection(stage: Stage, ending: str) -> None:
    """The peer connection is closed, not just its data channel: browsers notice, and unpair."""
    driven = bring(stage)
    if ending == "close":
        driven.do(inputs.Close())
    elif ending == "leave" and stage is not Stage.PARTING:
        driven.do(inputs.Disconnect())
    elif stage is not Stage.DETACHED:
        driven.hear(UNPAIRED)
    driven.wait(60.0)
    assert driven.told(outputs.CloseEngine) == [outputs.CloseEngine(negotiation=1)]


def test_q24_messages_within_what_the_far_side_takes() -> None:
    """aiortc announces 64 KiB: then nothing larger is sent, and the application is told."""
    driven = bring(Stage.OPENING)
    driven.open_channel(65536)
    with pytest.raises(LocalProtocolError, match="65536"):
        driven.peer.handle(inputs.Send(data={"type": "metadata", "metadata": "x" * 65536}), now=0.0)
    assert driven.drain() == []
    assert briefly(driven.do(inputs.Send(data={"type": "metadata", "metadata": "x" * 60000}))) == ["SendChannel"]


def test_q24_messages_to_deep_peers_are_objects_with_a_type() -> None:
    """Anything else ends the session on the far side; what the library itself says is made by `to_json`."""
    values: list[JSON] = [None, {"place": "door"}, [1], "text"]
    for metadata in values:
        assert to_json(MetadataMessage(metadata=metadata)) == {"type": "metadata", "metadata": metadata}


def test_no_point_is_left_out() -> None:
    points = {f"q{number:02}" for number in range(1, 25)}
    assert {name.split("_")[1] for name in globals() if name.startswith("test_q")} == points
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
    assert all(f"| Q{number} |" in page for number in range(1, 25))
