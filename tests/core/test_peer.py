"""The peer beyond its edges: commands with arguments, buffers and limits, timers."""

import math
from dataclasses import replace
from typing import Any

import pytest

from deepio_core import inputs, outputs, signals
from deepio_core.errors import AddressError, LocalProtocolError
from deepio_core.outputs import Cause
from deepio_core.peer import Peer
from deepio_core.signals import Candidate, PeerInfo
from deepio_core.states import PeerState, Stage, Trigger
from deepio_core.timers import Timer
from tests.core.peers import (
    ANSWERED,
    BOB,
    CANDIDATE,
    CANDIDATE_MESSAGE,
    CONFIG,
    EVE,
    LIST_PEERS,
    OFFER,
    OFFERED,
    OTHER_ANSWER,
    PEERS,
    SILENT_STAGES,
    UNPAIRED,
    brief,
    briefly,
    bring,
    called,
    calling,
    connected,
    online,
    paired,
    pull,
)


class TestContract:
    def test_a_new_peer_opens_its_signaling_connection(self) -> None:
        peer = Peer(CONFIG, now=100.0, link=7)
        assert peer.poll() == outputs.OpenSignaling(link=7)
        assert peer.poll() is None
        assert (peer.state, peer.stage, peer.remote_id, peer.link) == (PeerState.STARTING, Stage.STARTING, None, 7)
        assert (peer.waiting_for, peer.deadline) == (Timer.OPEN, 110.0)
        assert not peer.ended
        assert peer.config is CONFIG

    def test_outputs_come_in_order_and_wait_for_poll(self) -> None:
        peer = Peer(CONFIG, now=0.0)
        peer.handle(inputs.SignalingOpened(), now=0.1)
        peer.handle(inputs.Listen(), now=0.2)
        taken: list[str] = []
        while (output := peer.poll()) is not None:
            taken.append(brief(output))
        assert taken == [
            "OpenSignaling",
            "STARTING > ONLINE",
            "send ready",
            "ONLINE > LISTENING",
        ]

    def test_without_an_observer_nothing_is_different(self) -> None:
        peer = Peer(CONFIG, now=0.0)
        peer.handle(inputs.SignalingClosed(code=1006), now=0.0)
        assert peer.ended

    def test_remote_id_is_there_from_connecting_to_disconnecting(self) -> None:
        assert {stage for stage in Stage if bring(stage).peer.remote_id == BOB} == {
            stage
            for stage in Stage
            if bring(stage).peer.state in {PeerState.CONNECTING, PeerState.CONNECTED, PeerState.DISCONNECTING}
            or stage is Stage.CLOSING
        }

    def test_time_does_not_go_back(self) -> None:
        driven = bring(Stage.LISTENING)
        driven.now = 1000.0
        driven.hear(UNPAIRED)
        driven.now = 10.0
        driven.hear(paired())
        assert driven.peer.deadline == 1000.0 + CONFIG.accept_timeout
        driven.peer.handle_timeout(now=-math.inf)
        assert driven.drain() == []
        assert driven.peer.stage is Stage.INVITED

    @pytest.mark.parametrize("now", [math.nan, -5.0])
    def test_time_that_is_none_is_no_time(self, now: float) -> None:
        driven = bring(Stage.PAIRING)
        driven.peer.handle_timeout(now=now)
        driven.peer.handle(inputs.Disconnect(), now=now)
        driven.drain()
        assert driven.peer.deadline == CONFIG.leave_timeout

    def test_an_early_timeout_does_nothing(self) -> None:
        driven = bring(Stage.PAIRING)
        before = driven.facts()
        assert driven.wait(CONFIG.reply_timeout - 0.001) == []
        assert driven.facts() == before

    def test_a_late_timeout_lets_pass_one_deadline_at_a_time(self) -> None:
        """Whoever comes late has not waited in the next stage yet."""
        driven = bring(Stage.PAIRING)
        assert briefly(driven.wait(3600.0)) == ["CONNECTING > DISCONNECTING", "failed bob no_reply", "send unpair"]
        assert driven.peer.deadline == driven.now + CONFIG.leave_timeout

    def test_two_deadlines_at_once(self) -> None:
        driven = online()
        driven.do(inputs.ListPeers())
        driven.do(inputs.Connect(remote_id=BOB))
        assert briefly(driven.wait(CONFIG.reply_timeout)) == [
            "PeersNotListed no_reply",
            "CONNECTING > DISCONNECTING",
            "failed bob no_reply",
            "send unpair",
        ]


class TestLists:
    def test_the_list_is_told_as_it_came(self) -> None:
        driven = online()
        assert briefly(driven.do(inputs.ListPeers())) == ["send listPeers"]
        assert (driven.peer.waiting_for, driven.peer.deadline) == (Timer.LIST, CONFIG.reply_timeout)
        assert driven.hear(PEERS) == [outputs.PeersListed(peers=(PeerInfo(id=BOB, type="stream_manager", busy=False),))]
        assert driven.peer.deadline is None

    def test_each_request_is_answered_once(self) -> None:
        driven = online()
        for _ in range(3):
            driven.do(inputs.ListPeers())
        assert driven.sent == [LIST_PEERS] * 3
        driven.hear(PEERS)
        driven.hear(PEERS)
        assert briefly(driven.wait(CONFIG.reply_timeout)) == ["PeersNotListed no_reply"]
        assert [brief(output) for output in driven.hear(PEERS)] == ["SignalIgnored"]

    def test_the_timer_starts_with_the_first_request_and_again_with_each_reply(self) -> None:
        driven = online()
        driven.do(inputs.ListPeers())
        driven.wait(2.0)
        driven.do(inputs.ListPeers())
        assert driven.peer.deadline == CONFIG.reply_timeout
        driven.hear(PEERS)
        assert driven.peer.deadline == 2.0 + CONFIG.reply_timeout

    def test_requests_without_reply_are_given_up_together(self) -> None:
        driven = online()
        driven.do(inputs.ListPeers())
        driven.do(inputs.ListPeers())
        assert driven.wait(CONFIG.reply_timeout) == [outputs.PeersNotListed(cause=Cause.NO_REPLY)] * 2
        assert driven.peer.stage is Stage.ONLINE

    def test_a_request_outlives_the_stage_it_was_made_in(self) -> None:
        driven = online()
        driven.do(inputs.ListPeers())
        driven.do(inputs.Listen())
        driven.hear(paired())
        assert briefly(driven.hear(PEERS)) == ["PeersListed"]

    @pytest.mark.parametrize(
        ("stage", "ending", "cause"),
        [
            (Stage.ONLINE, inputs.Close(), Cause.LOCAL),
            (Stage.ONLINE, inputs.SignalingClosed(code=1006), Cause.SIGNALING_LOST),
            (Stage.OFFERING, inputs.Close(), Cause.LOCAL),
            (Stage.OFFERING, inputs.SignalingClosed(code=1006), Cause.SIGNALING_LOST),
            (Stage.CONNECTED, inputs.SignalingClosed(code=1006), Cause.SIGNALING_LOST),
        ],
    )
    def test_an_ending_answers_what_is_open(self, stage: Stage, ending: inputs.PeerInput, cause: Cause) -> None:
        driven = bring(stage)
        driven.do(inputs.ListPeers())
        assert outputs.PeersNotListed(cause=cause) in driven.do(ending)
        driven.wait(3600.0)
        assert driven.told(outputs.PeersNotListed) == [outputs.PeersNotListed(cause=cause)]


class TestConnect:
    def test_the_own_id_is_refused(self) -> None:
        driven = online()
        before = driven.facts()
        with pytest.raises(LocalProtocolError, match="own id 'alice'"):
            driven.peer.handle(inputs.Connect(remote_id="alice"), now=0.0)
        assert driven.drain() == []
        assert driven.facts() == before

    def test_the_own_id_is_refused_in_any_writing(self) -> None:
        driven = online(replace(CONFIG, peer_id="caf%C3%A9"))
        with pytest.raises(LocalProtocolError, match="own id"):
            driven.peer.handle(inputs.Connect(remote_id="café"), now=0.0)

    @pytest.mark.parametrize("remote_id", ["", "x" * 257, "\ud800"])
    def test_what_no_peer_can_be_called_is_refused(self, remote_id: str) -> None:
        driven = online()
        before = driven.facts()
        with pytest.raises(AddressError):
            driven.peer.handle(inputs.Connect(remote_id=remote_id), now=0.0)
        assert driven.drain() == []
        assert driven.facts() == before

    def test_an_attempt_gets_a_new_number(self) -> None:
        driven = online(first_negotiation=42)
        assert driven.peer.negotiation == 41
        driven.do(inputs.Connect(remote_id=BOB))
        (start,) = driven.hear(paired())
        assert start == outputs.StartEngine(negotiation=42, remote_id=BOB, offerer=False)
        assert driven.peer.negotiation == 42


class TestNegotiation:
    def test_caller_answers(self) -> None:
        driven = calling()
        assert driven.hear(OFFERED) == [outputs.ApplyOffer(negotiation=1, sdp=OFFER)]
        driven.make_answer()
        assert driven.sent[-1] == ANSWERED
        assert briefly(driven.open_channel()) == ["CONNECTING > CONNECTED", "Connected bob"]

    def test_called_side_offers(self) -> None:
        driven = called()
        driven.make_offer()
        assert driven.sent[-1] == OFFERED
        assert driven.hear(ANSWERED) == [outputs.ApplyAnswer(negotiation=1, sdp=ANSWERED["sdp"])]
        assert briefly(driven.open_channel()) == ["CONNECTING > CONNECTED", "Connected bob"]
        assert driven.told(outputs.Connected) == [outputs.Connected(remote_id=BOB, negotiation=1)]

    @pytest.mark.parametrize("sdp", ["", "no description", "v=0\r\n", OFFER.replace("fingerprint", "forgotten")])
    def test_an_offer_that_is_none_is_ignored(self, sdp: str) -> None:
        driven = calling()
        (ignored,) = driven.hear({"type": "offer", "sdp": sdp})
        assert isinstance(ignored, outputs.SignalIgnored)
        assert ignored.detail.startswith("an offer that cannot be used: ")
        assert briefly(driven.hear(OFFERED)) == ["ApplyOffer"]

    def test_an_answer_to_another_offer_is_ignored(self) -> None:
        driven = bring(Stage.AWAITING_ANSWER)
        (ignored,) = driven.hear({"type": "answer", "sdp": OTHER_ANSWER})
        assert isinstance(ignored, outputs.SignalIgnored)
        assert ignored.detail.startswith("an answer that does not fit the offer: ")
        assert briefly(driven.hear(ANSWERED)) == ["ApplyAnswer"]

    def test_ignored_descriptions_are_not_quoted(self) -> None:
        driven = bring(Stage.AWAITING_ANSWER)
        driven.hear({"type": "answer", "sdp": "v=0 SECRET"})
        driven.hear({"type": "offer", "sdp": "v=0 SECRET"})
        driven.hear({"candidate": {"candidate": "SECRET"}})
        assert len(driven.told(outputs.SignalIgnored)) == 3
        assert "SECRET" not in repr(driven.log)

    @pytest.mark.parametrize("message", [{"renegotiate": True}, {"transceiverRequest": {"kind": "audio"}}])
    def test_negotiating_again_is_not_offered(self, message: dict[str, Any]) -> None:
        driven = connected()
        assert driven.hear(message) == [
            outputs.SignalIgnored(stage=Stage.CONNECTED, detail="a request to negotiate again")
        ]

    @pytest.mark.parametrize("stage", [Stage.OFFERING, Stage.ANSWERING])
    def test_a_description_too_large_for_any_peer_ends_the_session(self, stage: Stage) -> None:
        driven = bring(stage)
        size = CONFIG.max_signal_size
        out = driven.make_offer("é" * (size // 2)) if stage is Stage.OFFERING else driven.make_answer("x" * size)
        assert briefly(out) == ["CONNECTING > DISCONNECTING", "failed bob engine", "CloseEngine", "send unpair"]
        assert "too large" in driven.told(outputs.ConnectionFailed)[0].detail

    def test_a_description_may_fill_the_limit(self) -> None:
        driven = called()
        room = CONFIG.max_signal_size - len(signals.offer_text(""))
        assert briefly(driven.make_offer("x" * room)) == ["send offer"]

    def test_candidates_wait_for_the_description(self) -> None:
        driven = calling()
        assert driven.hear(CANDIDATE_MESSAGE) == []
        assert driven.hear({"candidate": None}) == []
        assert driven.hear(OFFERED) == [
            outputs.ApplyOffer(negotiation=1, sdp=OFFER),
            outputs.ApplyCandidate(negotiation=1, candidate=CANDIDATE),
            outputs.ApplyCandidate(negotiation=1, candidate=None),
        ]
        assert driven.hear(CANDIDATE_MESSAGE) == [outputs.ApplyCandidate(negotiation=1, candidate=CANDIDATE)]

    def test_candidates_wait_for_the_answer_too(self) -> None:
        driven = called()
        driven.hear(CANDIDATE_MESSAGE)
        driven.make_offer()
        driven.hear(CANDIDATE_MESSAGE)
        assert briefly(driven.hear(ANSWERED)) == ["ApplyAnswer", "ApplyCandidate", "ApplyCandidate"]

    def test_candidates_are_bounded_before_the_description_and_after(self) -> None:
        driven = calling(replace(CONFIG, max_candidates=3))
        for _ in range(2):
            driven.hear(CANDIDATE_MESSAGE)
        assert briefly(driven.hear(OFFERED)) == ["ApplyOffer"] + ["ApplyCandidate"] * 2
        assert briefly(driven.hear(CANDIDATE_MESSAGE)) == ["ApplyCandidate"]
        for _ in range(2):
            driven.hear(CANDIDATE_MESSAGE)
        assert [output.detail for output in driven.told(outputs.SignalIgnored)] == ["one candidate too many"] * 2

    def test_each_negotiation_has_candidates_of_its_own(self) -> None:
        driven = calling(replace(CONFIG, max_candidates=1))
        driven.hear(CANDIDATE_MESSAGE)
        driven.hear(UNPAIRED)
        driven.close_engine()
        driven.do(inputs.Connect(remote_id=BOB))
        driven.hear(paired())
        driven.hear(CANDIDATE_MESSAGE)
        assert briefly(driven.hear(OFFERED)) == ["ApplyOffer", "ApplyCandidate"]

    def test_waiting_candidates_go_with_their_session(self) -> None:
        driven = calling()
        driven.hear(CANDIDATE_MESSAGE)
        driven.hear(UNPAIRED)
        driven.close_engine()
        driven.do(inputs.Connect(remote_id=BOB))
        driven.hear(paired())
        assert briefly(driven.hear(OFFERED)) == ["ApplyOffer"]

    def test_own_candidates_follow_the_own_description(self) -> None:
        driven = called()
        late = Candidate(candidate=CANDIDATE.candidate, sdp_mid=None, sdp_mline_index=1)
        assert pull(driven, Trigger.LOCAL_CANDIDATE) == []
        driven.make_offer()
        driven.do(inputs.LocalCandidate(negotiation=1, candidate=late))
        assert driven.sent[-1] == {"candidate": {"candidate": CANDIDATE.candidate, "sdpMid": None, "sdpMLineIndex": 1}}

    def test_the_next_session_describes_itself_anew(self) -> None:
        driven = bring(Stage.AWAITING_ANSWER)
        driven.hear(UNPAIRED)
        driven.close_engine()
        driven.do(inputs.Listen())
        driven.hear(paired(EVE))
        driven.do(inputs.Accept())
        assert pull(driven, Trigger.LOCAL_CANDIDATE) == []
        assert briefly(driven.hear(CANDIDATE_MESSAGE)) == []
        driven.make_offer()
        assert briefly(driven.hear(ANSWERED)) == ["ApplyAnswer", "ApplyCandidate"]

    @pytest.mark.parametrize("stage", [Stage.ANSWERING, Stage.OPENING])
    def test_parting_goes_on_from_where_it_was(self, stage: Stage) -> None:
        driven = bring(stage)
        driven.do(inputs.Disconnect())
        assert driven.peer.stage is Stage.PARTING
        assert briefly(driven.hear(OFFERED)) == ["SignalIgnored"], "one offer is enough"
        if stage is Stage.ANSWERING:
            assert briefly(driven.make_answer()) == ["send answer"]
        assert briefly(driven.open_channel()) == ["CloseEngine", "send unpair"]
        assert driven.told(outputs.Connected) == []

    def test_an_answer_too_large_ends_parting(self) -> None:
        driven = bring(Stage.ANSWERING)
        driven.do(inputs.Disconnect())
        assert briefly(driven.make_answer("x" * CONFIG.max_signal_size)) == ["CloseEngine", "send unpair"]


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage not in SILENT_STAGES])
@pytest.mark.parametrize("text", ["", "no JSON", b"\xff", '{"type":NaN}', "[" * 65 + "]" * 65, " " * (1024 * 1024 + 1)])
def test_signals_that_cannot_be_decoded_are_told(stage: Stage, text: str | bytes) -> None:
    driven = bring(stage)
    before = driven.facts()
    (ignored,) = driven.do(inputs.SignalingReceived(text=text))
    assert isinstance(ignored, outputs.SignalIgnored)
    assert ignored.stage is stage
    assert ignored.detail
    assert driven.facts() == before


class TestData:
    def test_a_message_is_sent_as_compact_json(self) -> None:
        driven = connected()
        assert driven.do(inputs.Send(data={"type": "metadata", "metadata": "é"})) == [
            outputs.SendChannel(negotiation=1, text='{"type":"metadata","metadata":"é"}')
        ]

    @pytest.mark.parametrize("data", [math.nan, {1: 2}, object(), [[[]] * 2, {"a": math.inf}]])
    def test_what_is_no_json_is_refused(self, data: Any) -> None:
        driven = connected()
        with pytest.raises(LocalProtocolError, match="cannot be sent as JSON"):
            driven.peer.handle(inputs.Send(data=data), now=0.0)
        assert driven.drain() == []

    @pytest.mark.parametrize(
        ("announced", "limit"), [(None, 256 * 1024), (0, 256 * 1024), (65536, 65536), (2**40, 256 * 1024)]
    )
    def test_the_smaller_limit_counts(self, announced: int | None, limit: int) -> None:
        driven = bring(Stage.OPENING)
        driven.open_channel(announced)
        fits = "é" * (limit // 2 - 1)  # and two quotes
        assert briefly(driven.do(inputs.Send(data=fits))) == ["SendChannel"]
        with pytest.raises(LocalProtocolError, match=f"has {limit + 1} bytes; the remote peer takes {limit}") as raised:
            driven.peer.handle(inputs.Send(data=fits + "x"), now=0.0)
        assert raised.value.remedy
        assert driven.drain() == []

    def test_the_limit_of_one_remote_peer_is_not_that_of_the_next(self) -> None:
        driven = bring(Stage.OPENING)
        driven.open_channel(100)
        driven.hear(UNPAIRED)
        driven.close_engine()
        driven.do(inputs.Connect(remote_id=BOB))
        driven.hear(paired())
        driven.hear(OFFERED)
        driven.make_answer()
        driven.open_channel()
        assert briefly(driven.do(inputs.Send(data="x" * 200))) == ["SendChannel"]

    @pytest.mark.parametrize("data", ['{"type":"data"}', b'{"type":"data"}'])
    def test_text_and_binary_are_the_same(self, data: str | bytes) -> None:
        assert connected().receive(data) == [outputs.DataReceived(data={"type": "data"})]

    @pytest.mark.parametrize("data", ["", "no JSON", b"\xff", "NaN", "[" * 65 + "]" * 65, "x" * (1024 * 1024 + 1)])
    def test_what_cannot_be_decoded_is_told_and_not_quoted(self, data: str | bytes) -> None:
        driven = connected()
        (ignored,) = driven.receive(data)
        assert isinstance(ignored, outputs.DataIgnored)
        assert ignored.detail
        assert driven.peer.stage is Stage.CONNECTED

    def test_data_after_the_loss_of_signaling(self) -> None:
        driven = bring(Stage.DETACHED)
        assert driven.receive("5") == [outputs.DataReceived(data=5)]
        assert briefly(driven.do(inputs.Send(data=5))) == ["SendChannel"]


class TestSilence:
    @pytest.mark.parametrize("stage", [Stage.CONNECTED, Stage.DETACHED])
    def test_any_sign_of_life_puts_it_off(self, stage: Stage) -> None:
        driven = bring(stage)
        for report in (Trigger.ACTIVITY, Trigger.CHANNEL_RECEIVED):
            driven.wait(4.0)
            pull(driven, report)
        assert driven.wait(4.25) == []
        assert outputs.Disconnected(
            remote_id=BOB, cause=Cause.SILENCE, detail="nothing has arrived from the remote peer"
        ) in driven.wait(0.25)

    def test_what_cannot_be_decoded_is_a_sign_of_life_too(self) -> None:
        driven = connected()
        driven.wait(4.0)
        driven.receive("no JSON")
        assert driven.peer.deadline == 8.5

    def test_no_limit(self) -> None:
        driven = connected(replace(CONFIG, silence_timeout=None))
        assert driven.peer.deadline is None
        pull(driven, Trigger.ACTIVITY)
        pull(driven, Trigger.CHANNEL_RECEIVED)
        driven.do(inputs.SignalingClosed(code=1006))
        assert driven.peer.deadline is None
        assert driven.peer.state is PeerState.CONNECTED
        pull(driven, Trigger.DISCONNECT)
        assert driven.peer.waiting_for is Timer.CLOSE
