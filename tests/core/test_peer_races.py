"""Messages that cross on their way, come late, or belong to somebody else."""

import pytest

from deepio_core import inputs, outputs
from deepio_core.outputs import Cause
from deepio_core.states import PeerState, Stage, Trigger
from tests.core.peers import (
    ANSWERED,
    BAD_STATE,
    BOB,
    BUSY,
    CANDIDATE_MESSAGE,
    ENGINE_REPORTS,
    EVE,
    NOT_FOUND,
    OFFERED,
    OTHER_ANSWER,
    READY,
    UNPAIR,
    UNPAIRED,
    Driven,
    briefly,
    bring,
    called,
    calling,
    connected,
    online,
    pair,
    paired,
)


def meet(driven: Driven) -> None:
    """Let a peer that is online call somebody, and connect."""
    driven.do(inputs.Connect(remote_id=BOB))
    driven.hear(paired())
    driven.hear(OFFERED)
    driven.make_answer()
    assert briefly(driven.open_channel()) == ["CONNECTING > CONNECTED", "Connected bob"]


def test_error_about_the_former_session_while_pairing() -> None:
    """A candidate was relayed too late; the error about it comes when `pair` is out, and is no refusal of it."""
    driven = connected()
    driven.do(ENGINE_REPORTS[Trigger.LOCAL_CANDIDATE](1))
    driven.hear(UNPAIRED)
    driven.close_engine()
    driven.do(inputs.Connect(remote_id=BOB))
    assert briefly(driven.hear(BAD_STATE)) == ["SignalIgnored"]
    assert briefly(driven.hear(paired())) == ["StartEngine bob answers"]


@pytest.mark.parametrize("stage", [Stage.ONLINE, Stage.LISTENING, Stage.INVITED, Stage.OVERTAKEN])
def test_error_about_the_former_session_later_still(stage: Stage) -> None:
    driven = bring(stage)
    assert briefly(driven.hear(BAD_STATE)) == ["SignalIgnored"]
    assert driven.peer.stage is stage


@pytest.mark.parametrize("next_command", [inputs.Connect(remote_id=BOB), inputs.Listen()])
def test_second_unpaired(next_command: inputs.Command) -> None:
    """Both sides left at once: the server confirms each `unpair` to both, the second one after the next request."""
    driven = bring(Stage.LEAVING)
    driven.hear(UNPAIRED)  # the remote peer's
    driven.close_engine()
    driven.do(next_command)
    assert driven.hear(UNPAIRED) == []  # our own
    assert driven.peer.stage in {Stage.PAIRING, Stage.LISTENING}
    driven.hear(paired())
    assert driven.peer.stage in {Stage.AWAITING_OFFER, Stage.INVITED}


def test_both_unpaired_while_leaving() -> None:
    driven = bring(Stage.LEAVING)
    driven.hear(UNPAIRED)
    assert driven.hear(UNPAIRED) == []
    assert driven.peer.stage is Stage.DRAINING
    assert briefly(driven.close_engine()) == ["DISCONNECTING > ONLINE"]
    assert driven.sent.count(UNPAIR) == 1


def test_the_engine_is_faster_than_the_server() -> None:
    driven = bring(Stage.LEAVING)
    driven.close_engine()
    assert driven.peer.stage is Stage.UNPAIRING
    assert briefly(driven.hear(UNPAIRED)) == ["DISCONNECTING > ONLINE"]


def test_the_remote_peer_closes_and_then_unpairs() -> None:
    driven = connected()
    assert briefly(driven.close_engine()) == [
        "CONNECTED > DISCONNECTING",
        "disconnected bob remote_closed",
        "send unpair",
    ]
    driven.hear(UNPAIRED)
    assert driven.hear(UNPAIRED) == []
    meet(driven)


@pytest.mark.parametrize("refusal", [BUSY, NOT_FOUND])
def test_both_call_each_other(refusal: dict[str, str]) -> None:
    """`paired` was about the other one's request: our own is refused, and neither side would offer."""
    driven = bring(Stage.PAIRING)
    driven.hear(paired())
    assert briefly(driven.hear(refusal)) == [
        "CONNECTING > DISCONNECTING",
        "failed bob crossed",
        "CloseEngine",
        "send unpair",
    ]
    driven.hear(UNPAIRED)
    driven.close_engine()
    meet(driven)


def test_both_call_each_other_and_a_server_resolves_it() -> None:
    """`SignalingServer` unpairs both before it refuses the second call."""
    driven = bring(Stage.PAIRING)
    driven.hear(paired())
    assert briefly(driven.hear(UNPAIRED)) == [
        "CONNECTING > DISCONNECTING",
        "failed bob remote_left",
        "CloseEngine",
    ]
    assert briefly(driven.hear(BUSY)) == ["SignalIgnored"]
    driven.close_engine()
    meet(driven)


def test_a_late_refusal_does_not_touch_a_session_with_an_offer() -> None:
    driven = bring(Stage.ANSWERING)
    assert briefly(driven.hear(BUSY)) == ["SignalIgnored"]
    assert driven.peer.stage is Stage.ANSWERING


def test_a_third_peer_is_faster_than_our_call() -> None:
    """We listened: a third peer's call is told first. The server ends that pairing when it obeys our `pair`."""
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Connect(remote_id=BOB))
    assert driven.hear(paired(EVE)) == []
    assert driven.peer.remote_id == BOB
    assert briefly(driven.hear(OFFERED)) == ["SignalIgnored"]
    driven.hear(UNPAIRED)
    assert briefly(driven.hear(paired())) == ["StartEngine bob answers"]


def test_a_third_peer_is_faster_and_our_call_fails() -> None:
    driven = bring(Stage.OVERTAKEN)
    assert briefly(driven.hear(NOT_FOUND)) == ["CONNECTING > DISCONNECTING", "failed bob not_found", "send unpair"]
    driven.hear(UNPAIRED)
    meet(driven)


def test_a_third_peer_leaves_before_our_call_is_answered() -> None:
    driven = bring(Stage.OVERTAKEN)
    deadline = driven.peer.deadline
    driven.wait(1.0)
    driven.hear(UNPAIRED)
    assert driven.peer.stage is Stage.PAIRING
    assert driven.peer.deadline == deadline, "the reply is due when it was due"
    assert briefly(driven.hear(BUSY)) == ["CONNECTING > ONLINE", "failed bob busy"]


def test_a_caller_that_gives_up_before_we_accept() -> None:
    driven = bring(Stage.INVITED)
    driven.hear(UNPAIRED)
    assert driven.told(outputs.ConnectionFailed) == [
        outputs.ConnectionFailed(remote_id=BOB, cause=Cause.REMOTE_LEFT, detail="the remote peer left")
    ]
    driven.do(inputs.Listen())
    assert briefly(driven.hear(paired(EVE))) == ["LISTENING > CONNECTING", "ConnectionRequested eve"]


def test_an_invitation_after_listening_has_ended() -> None:
    """Nobody can take `ready` back, so the invitation that it brings is declined."""
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Disconnect())
    assert briefly(driven.hear(paired())) == ["send unpair"]
    assert driven.peer.state is PeerState.ONLINE
    assert driven.hear(UNPAIRED) == []


def test_a_call_given_up_just_when_it_succeeds() -> None:
    driven = bring(Stage.PAIRING)
    driven.do(inputs.Disconnect())
    assert driven.sent[-2:] == [pair(), UNPAIR]
    assert briefly(driven.hear(paired())) == ["SignalIgnored"]
    assert briefly(driven.hear(UNPAIRED)) == ["DISCONNECTING > ONLINE"]
    meet(driven)


@pytest.mark.parametrize(
    "stage",
    [
        Stage.ONLINE,
        Stage.LISTENING,
        Stage.PAIRING,
        Stage.OVERTAKEN,
        Stage.INVITED,
        Stage.LEAVING,
        Stage.DRAINING,
        Stage.UNPAIRING,
    ],
)
def test_descriptions_outside_of_a_session(stage: Stage) -> None:
    """A former partner is still paired with us on its side, and so heard: an offer comes before `paired`."""
    driven = bring(stage)
    for message in (OFFERED, ANSWERED, CANDIDATE_MESSAGE):
        assert briefly(driven.hear(message)) == ["SignalIgnored"]
    assert driven.peer.stage is stage


def test_an_offer_before_paired_is_not_the_offer_after_it() -> None:
    driven = bring(Stage.PAIRING)
    driven.hear(OFFERED)
    driven.hear(paired())
    assert driven.peer.stage is Stage.AWAITING_OFFER
    assert briefly(driven.hear(OFFERED)) == ["ApplyOffer"]


def test_an_answer_to_the_offer_of_an_earlier_negotiation() -> None:
    driven = called()
    driven.make_offer(OTHER_ANSWER.replace("active", "actpass"))
    driven.hear(UNPAIRED)
    driven.close_engine()
    driven.do(inputs.Listen())
    driven.hear(paired())
    driven.do(inputs.Accept())
    assert briefly(driven.hear({"type": "answer", "sdp": OTHER_ANSWER})) == ["SignalIgnored"]
    driven.make_offer()
    assert briefly(driven.hear({"type": "answer", "sdp": OTHER_ANSWER})) == ["SignalIgnored"]
    assert driven.hear(ANSWERED) == [outputs.ApplyAnswer(negotiation=2, sdp=ANSWERED["sdp"])]


def test_both_sides_offer() -> None:
    """The called side offers; an offer that it gets meanwhile comes from no peer that it is paired with."""
    driven = bring(Stage.AWAITING_ANSWER)
    assert briefly(driven.hear(OFFERED)) == ["SignalIgnored"]
    assert briefly(driven.hear(ANSWERED)) == ["ApplyAnswer"]


@pytest.mark.parametrize("stage", [Stage.ANSWERING, Stage.OPENING, Stage.CONNECTED])
def test_a_second_offer(stage: Stage) -> None:
    driven = bring(stage)
    assert briefly(driven.hear(OFFERED)) == ["SignalIgnored"]
    assert driven.peer.stage is stage


@pytest.mark.parametrize("trigger", ENGINE_REPORTS)
@pytest.mark.parametrize("way", ["forced", "closed"])
def test_late_reports_of_the_former_engine(trigger: Trigger, way: str) -> None:
    """Also of one that did not close in time, and was given up."""
    driven = bring(Stage.LEAVING)
    if way == "forced":
        driven.wait(60.0)
    else:
        driven.hear(UNPAIRED)
        driven.close_engine()
    assert driven.peer.stage is Stage.ONLINE
    for command in (None, inputs.Connect(remote_id=BOB), None):
        if command is not None:
            driven.do(command)
            driven.hear(paired())
        before = driven.facts()
        assert driven.do(ENGINE_REPORTS[trigger](1)) == []
        assert driven.facts() == before
    driven.hear(OFFERED)
    driven.make_answer()
    assert briefly(driven.open_channel()) == ["CONNECTING > CONNECTED", "Connected bob"]
    assert driven.do(ENGINE_REPORTS[trigger](1)) == []
    assert driven.peer.state is PeerState.CONNECTED


@pytest.mark.parametrize("trigger", ENGINE_REPORTS)
def test_reports_of_an_engine_that_has_said_goodbye(trigger: Trigger) -> None:
    driven = connected()
    driven.close_engine()
    before = driven.facts()
    assert driven.do(ENGINE_REPORTS[trigger](1)) == []
    assert driven.facts() == before


def test_nothing_comes_after_the_end() -> None:
    driven = connected()
    driven.do(inputs.Close())
    driven.wait(60.0)
    assert driven.peer.ended
    for report in ENGINE_REPORTS.values():
        assert driven.do(report(1)) == []
    for message in (UNPAIRED, paired(), OFFERED, BAD_STATE, "no signal"):
        assert driven.hear(message) == []
    for event in (
        inputs.SignalingOpened(),
        inputs.SignalingFailed(cause=Cause.UNREACHABLE),
        inputs.SignalingClosed(code=1000),
    ):
        assert driven.do(event) == []
    assert driven.wait(1e9) == []


def test_the_engine_closes_just_when_the_channel_is_reported_open() -> None:
    driven = bring(Stage.OPENING)
    driven.close_engine()
    assert driven.open_channel() == []
    assert driven.told(outputs.Connected) == []
    assert driven.told(outputs.ConnectionFailed) == [
        outputs.ConnectionFailed(
            remote_id=BOB, cause=Cause.REMOTE_CLOSED, detail="the remote peer closed the connection"
        )
    ]


def test_closing_while_the_signaling_connection_still_opens() -> None:
    driven = Driven()
    assert briefly(driven.do(inputs.Close())) == ["STARTING > CLOSING", "CloseSignaling"]
    assert driven.do(inputs.SignalingOpened()) == []
    assert driven.peer.stage is Stage.CLOSING
    assert briefly(driven.do(inputs.SignalingClosed(code=1000))) == ["CLOSING > CLOSED", "PeerClosed local"]


def test_the_server_goes_while_both_sides_leave() -> None:
    driven = bring(Stage.LEAVING)
    assert briefly(driven.do(inputs.SignalingClosed(code=1006))) == ["DISCONNECTING > CLOSING"]
    assert briefly(driven.close_engine()) == ["CLOSING > CLOSED", "PeerClosed signaling_lost"]


def test_connecting_again_and_again_on_one_signaling_connection() -> None:
    """What hyperpeer-py cannot do: it never unpairs, and takes the `unpaired` of the next request for its reply."""
    driven = online()
    for number in range(1, 6):
        meet(driven)
        assert driven.peer.negotiation == number
        driven.do(inputs.Disconnect())
        driven.hear(UNPAIRED)
        driven.close_engine()
    assert driven.sent.count(UNPAIR) == 5
    assert [message.remote_id for message in driven.told(outputs.Connected)] == [BOB] * 5
    assert READY not in driven.sent


def test_calling_a_peer_that_is_busy_until_it_is_not() -> None:
    driven = online()
    for _ in range(3):
        driven.do(inputs.Connect(remote_id=BOB))
        assert briefly(driven.hear(BUSY)) == ["CONNECTING > ONLINE", "failed bob busy"]
    meet(driven)


def test_an_answer_for_the_caller() -> None:
    driven = calling()
    assert briefly(driven.hear(ANSWERED)) == ["SignalIgnored"]
    assert briefly(driven.hear(OFFERED)) == ["ApplyOffer"]


def test_listening_again_while_an_invitation_is_on_its_way() -> None:
    """`ready` holds until a pairing ends it: said twice, it would free us in the middle of that pairing."""
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Disconnect())
    assert briefly(driven.do(inputs.Listen())) == ["ONLINE > LISTENING"]
    assert driven.sent == [READY]
    assert briefly(driven.hear(paired())) == ["LISTENING > CONNECTING", "ConnectionRequested bob"]
    driven.hear(UNPAIRED)
    assert briefly(driven.do(inputs.Listen())) == ["send ready", "ONLINE > LISTENING"], "the pairing has ended it"


def test_a_call_that_fails_leaves_us_ready() -> None:
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Connect(remote_id=BOB))
    driven.hear(BUSY)
    driven.do(inputs.Listen())
    assert driven.sent == [READY, pair()]


def test_a_declined_invitation_ends_being_ready() -> None:
    driven = bring(Stage.LISTENING)
    driven.do(inputs.Disconnect())
    driven.hear(paired())
    driven.do(inputs.Listen())
    assert driven.sent == [READY, UNPAIR, READY]
