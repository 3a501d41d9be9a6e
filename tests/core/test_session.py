"""The session: whom it connects to, what it says and hears, when it tries again, and how it ends."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from deepio_core import closecodes, inputs, outputs, session
from deepio_core.errors import LocalProtocolError
from deepio_core.messages import DataMessage, UnknownMessage, WarningMessage
from deepio_core.outputs import Cause
from deepio_core.policy import ConnectFirst, ConnectTo
from deepio_core.session import (
    MessageNotSent,
    MessageReceived,
    Retrying,
    SendMessage,
    SendMetadata,
    SessionEnded,
    Stop,
)
from deepio_core.states import PeerState, Stage
from deepio_core.timers import Timer
from tests.core.peers import ALICE, ANSWERED, BOB, BUSY, CONFIG, EVE, NOT_FOUND, OFFERED, PEERS, UNPAIRED, paired
from tests.core.sessions import (
    CALLS,
    LISTENS,
    SEEKS,
    STAGES,
    DrivenSession,
    bring,
    called,
    connected,
    endure,
    in_brief,
    online,
    with_policy,
)
from tests.core.vocabulary import check_dataclass, dataclasses_of, undocumented_fields

SOURCE = {"type": "source", "peerId": ALICE}
DATA: dict[str, Any] = {"type": "data", "rec_time": 1700000000.123456, "objects": []}


def metadata(value: Any = None) -> dict[str, Any]:
    return {"type": "metadata", "metadata": value}


def listed(*peers: tuple[str, str, bool]) -> dict[str, Any]:
    return {"type": "peers", "peers": [{"id": i, "type": t, "busy": b} for i, t, b in peers]}


class TestVocabulary:
    @pytest.mark.parametrize("kind", dataclasses_of(session), ids=lambda kind: kind.__name__)
    def test_inputs_and_events_are_frozen_and_documented(self, kind: type) -> None:
        check_dataclass(kind)

    def test_every_field_is_documented(self) -> None:
        assert list(undocumented_fields(session)) == []


class TestPolicies:
    def test_calls_a_peer_by_its_id(self) -> None:
        driven = DrivenSession(CALLS)
        assert in_brief(driven.log) == ["OpenSignaling"]
        assert in_brief(driven.open()) == [
            "STARTING > ONLINE",
            "send pair bob",
            "ONLINE > CONNECTING",
        ]
        assert in_brief(driven.hear(paired())) == ["StartEngine bob answers"]
        assert in_brief(driven.hear(OFFERED)) == ["ApplyOffer"]
        assert in_brief(driven.make_answer()) == ["send answer"]
        assert in_brief(driven.open_channel()) == [
            "CONNECTING > CONNECTED",
            "Connected bob",
            "say source",
            "say metadata",
        ]
        assert driven.session.remote_id == BOB

    def test_calls_an_id_that_is_not_encoded_yet(self) -> None:
        driven = online(with_policy(ConnectTo(remote_id="b.b")))
        assert driven.session.remote_id == "b%2Eb"

    def test_listens_and_accepts(self) -> None:
        driven = DrivenSession(LISTENS)
        assert in_brief(driven.open()) == ["STARTING > ONLINE", "send ready", "ONLINE > LISTENING"]
        assert in_brief(driven.hear(paired())) == [
            "LISTENING > CONNECTING",
            "ConnectionRequested bob",
            "StartEngine bob offers",
        ]
        assert in_brief(driven.make_offer()) == ["send offer"]
        assert in_brief(driven.hear(ANSWERED)) == ["ApplyAnswer"]
        assert in_brief(driven.open_channel()) == ["CONNECTING > CONNECTED", "Connected bob", "say metadata"]

    def test_a_listener_is_ready_again_after_every_session(self) -> None:
        driven = called()
        assert in_brief(driven.leave()) == [
            "CONNECTED > DISCONNECTING",
            "disconnected bob remote_left",
            "CloseEngine",
            "DISCONNECTING > ONLINE",
            "send ready",
            "ONLINE > LISTENING",
        ]
        assert driven.told(Retrying) == []

    def test_seeks_the_first_free_peer_of_the_wanted_types(self) -> None:
        driven = online(SEEKS)
        assert in_brief(driven.log[-2:]) == ["STARTING > ONLINE", "send listPeers"]
        reply = listed(
            ("cam2", "stream_capture", False),
            ("sm1", "stream_manager", True),
            (ALICE, "stream_manager", False),
            ("sm2", "deep_input", False),
            ("sm3", "stream_manager", False),
        )
        assert in_brief(driven.hear(reply)) == ["send pair sm2", "ONLINE > CONNECTING"]
        assert driven.session.waiting_for is Timer.REPLY

    def test_seeks_the_types_it_was_told(self) -> None:
        driven = online(with_policy(ConnectFirst(peer_types=("viewer",))))
        driven.hear(listed(("sm", "stream_manager", False), ("eve", "viewer", False)))
        assert driven.session.remote_id == EVE

    def test_calls_no_id_that_is_none(self) -> None:
        """A server can list anything; what comes from outside must not raise."""
        driven = online(SEEKS)
        odd = [("", "deep_input", False), ("é", "deep_input", False), ("x" * 1000, "deep_input", False)]
        assert driven.hear(listed(*odd)) == []
        driven.expire()
        driven.hear(listed(*odd, (BOB, "deep_input", False)))
        assert driven.session.remote_id == BOB

    def test_looks_again_at_the_poll_interval(self) -> None:
        driven = online(SEEKS)
        for _ in range(5):
            assert driven.hear(listed((BOB, "stream_manager", True))) == []
            assert driven.session.waiting_for is Timer.POLL
            assert driven.session.deadline == driven.now + SEEKS.poll_interval
            assert in_brief(driven.expire()) == ["send listPeers"]
        assert driven.told(Retrying) == []

    def test_looks_again_if_the_server_does_not_reply(self) -> None:
        driven = online(SEEKS)
        for _ in range(60):
            driven.expire()
        asked = len([o for o in driven.told(outputs.SendSignaling) if "listPeers" in o.text])
        assert asked == pytest.approx(driven.now, abs=2)
        driven.hear(PEERS)
        assert driven.session.remote_id == BOB

    def test_two_lists_outstanding_call_once(self) -> None:
        driven = online(SEEKS)
        driven.expire()
        driven.hear(PEERS)
        assert driven.hear(PEERS) == []
        assert driven.session.stage is Stage.PAIRING

    def test_a_list_that_comes_after_the_refusal_calls_nobody(self) -> None:
        driven = online(SEEKS)
        driven.expire()
        driven.hear(PEERS)
        driven.hear(BUSY)
        assert driven.session.waiting_for is Timer.RETRY
        assert driven.hear(PEERS) == []
        assert driven.session.stage is Stage.ONLINE

    def test_a_list_given_up_during_a_call_starts_no_timer(self) -> None:
        driven = online(endure(SEEKS))
        driven.expire()
        driven.hear(PEERS)
        driven.answer()
        driven.wait(driven.session.config.peer.reply_timeout)
        assert driven.session.deadline is None


class TestConversation:
    def test_a_caller_says_whose_video_and_what_it_shows(self) -> None:
        driven = connected(replace(CALLS, metadata={"place": "gate"}))
        assert driven.sent == [SOURCE, metadata({"place": "gate"})]

    def test_who_was_called_says_what_it_shows(self) -> None:
        assert called(replace(LISTENS, metadata=[1])).sent == [metadata([1])]

    def test_the_source_can_be_another_peer(self) -> None:
        source = {"type": "source", "peerId": EVE}
        assert connected(replace(CALLS, source_id=EVE)).sent == [source, metadata()]
        assert called(replace(LISTENS, source_id=EVE)).sent == [source, metadata()]

    def test_who_does_not_greet_says_nothing_first(self) -> None:
        assert called(replace(LISTENS, greets=False)).sent == []

    def test_greets_after_every_connection_with_the_newest_metadata(self) -> None:
        driven = connected(replace(CALLS, metadata="old"))
        driven.leave()
        driven.do(SendMetadata(metadata="new"))
        driven.expire()
        driven.answer()
        driven.do(SendMetadata(metadata="newer"))
        driven.lose()
        driven.close_engine()
        driven.expire()
        driven.open()
        driven.answer()
        assert driven.sent == [
            *(SOURCE, metadata("old")),
            *(SOURCE, metadata("new"), metadata("newer")),
            *(SOURCE, metadata("newer")),
        ]
        assert driven.session.metadata == "newer"

    def test_acknowledges_before_the_application_sees_the_data(self) -> None:
        driven = connected()
        taken = driven.receive(DATA)
        assert in_brief(taken) == ["say acknowledge", "DataMessage"]
        assert driven.sent[-1] == {"type": "acknowledge", "rec_time": DATA["rec_time"]}
        assert taken[-1] == MessageReceived(message=DataMessage(raw=DATA))

    def test_acknowledges_over_a_connection_without_signaling(self) -> None:
        driven = bring(Stage.DETACHED)
        assert in_brief(driven.receive(DATA)) == ["say acknowledge", "DataMessage"]

    @pytest.mark.parametrize("rec_time", [None, "1", True])
    def test_data_that_nobody_could_acknowledge(self, rec_time: Any) -> None:
        driven = connected()
        assert in_brief(driven.receive({**DATA, "rec_time": rec_time})) == ["DataMessage"]

    @pytest.mark.parametrize(
        ("message", "kind"), [({"type": "warning", "messagge": "late"}, WarningMessage), ([1], UnknownMessage)]
    )
    def test_other_messages_are_told(self, message: Any, kind: type) -> None:
        driven = connected()
        (told,) = driven.receive(message)
        assert isinstance(told, MessageReceived)
        assert isinstance(told.message, kind)
        assert told.message.raw == message

    def test_data_that_is_no_json_is_told(self) -> None:
        driven = connected()
        taken = driven.do(inputs.ChannelReceived(negotiation=1, data="{"))
        assert in_brief(taken) == ["DataIgnored"]

    def test_messages_of_the_application(self) -> None:
        driven = connected()
        driven.do(SendMessage(message={"type": "hello"}))
        assert driven.sent[-1] == {"type": "hello"}

    def test_what_the_remote_peer_cannot_take_is_told(self) -> None:
        driven = online(replace(CALLS, metadata="x" * 100))
        driven.hear(paired())
        driven.hear(OFFERED)
        driven.make_answer()
        taken = driven.open_channel(max_message_size=60)
        assert in_brief(taken) == ["CONNECTING > CONNECTED", "Connected bob", "MessageNotSent", "say source"]
        (told,) = driven.told(MessageNotSent)
        assert "MetadataMessage" in told.detail
        assert "60" in told.detail
        assert "xx" not in told.detail
        assert in_brief(driven.receive({**DATA, "rec_time": 10**60})) == ["MessageNotSent", "DataMessage"]

    def test_metadata_that_is_no_json_is_told(self) -> None:
        config = replace(CALLS, metadata=float("nan"))
        assert len(connected(config).told(MessageNotSent)) == 1


class TestMisuse:
    """A command that is not possible raises and changes nothing."""

    @pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in {Stage.CONNECTED, Stage.DETACHED}])
    def test_no_message_while_not_connected(self, stage: Stage) -> None:
        driven = bring(stage)
        before = driven.facts()
        with pytest.raises(LocalProtocolError, match="Cannot send"):
            driven.do(SendMessage(message={}))
        assert driven.drain() == []
        assert driven.facts() == before

    @pytest.mark.parametrize("stage", STAGES)
    @pytest.mark.parametrize("value", [{1: 2}, float("inf"), "x" * 300_000], ids=["key", "number", "size"])
    def test_no_metadata_that_cannot_be_sent(self, stage: Stage, value: Any) -> None:
        driven = bring(stage)
        before = driven.facts()
        with pytest.raises(LocalProtocolError):
            driven.do(SendMetadata(metadata=value))
        assert driven.drain() == []
        assert driven.facts() == before

    def test_the_limit_counts_the_whole_message(self) -> None:
        config = replace(CALLS, peer=replace(CONFIG, max_send_size=len('{"type":"metadata","metadata":"xxx"}')))
        driven = DrivenSession(config)
        driven.do(SendMetadata(metadata="xxx"))
        with pytest.raises(LocalProtocolError, match="larger than 36 bytes"):
            driven.do(SendMetadata(metadata="xxxx"))
        assert driven.session.metadata == "xxx"

    def test_metadata_larger_than_the_remote_peer_takes(self) -> None:
        driven = online()
        driven.hear(paired())
        driven.hear(OFFERED)
        driven.make_answer()
        driven.open_channel(max_message_size=60)
        with pytest.raises(LocalProtocolError, match="60"):
            driven.do(SendMetadata(metadata="x" * 60))
        assert driven.session.metadata is None


class TestTryingAgain:
    @pytest.mark.parametrize("refusal", [NOT_FOUND, BUSY])
    def test_an_absent_or_busy_peer_is_called_again_at_the_poll_interval(self, refusal: dict[str, Any]) -> None:
        driven = online()
        for _ in range(20):
            assert in_brief(driven.hear(refusal))[-1] == f"retrying {driven.told(Retrying)[-1].cause} 0.75 0"
            assert driven.session.deadline == driven.now + 0.75
            assert in_brief(driven.expire()) == ["send pair bob", "ONLINE > CONNECTING"]

    def test_who_called_at_the_same_moment_is_called_again_soon(self) -> None:
        driven = online()
        driven.hear(paired())
        assert in_brief(driven.hear(BUSY)) == [
            "CONNECTING > DISCONNECTING",
            "failed bob crossed",
            "retrying crossed 0.75 0",
            "CloseEngine",
            "send unpair",
        ]

    @pytest.mark.parametrize(
        "cause",
        [Cause.UNREACHABLE, Cause.UNKNOWN_HOST, Cause.NOT_SIGNALING, Cause.ID_IN_USE, Cause.SERVER_FULL],
    )
    def test_delays_double_while_the_server_is_out_of_reach(self, cause: Cause) -> None:
        driven = DrivenSession()
        delays: list[float] = []
        for attempt in range(1, 12):
            taken = driven.fail(cause)
            assert in_brief(taken)[0] == "STARTING > CLOSED"
            (retrying,) = [output for output in taken if isinstance(output, Retrying)]
            assert (retrying.cause, retrying.detail, retrying.attempt) == (cause, "because", attempt)
            delays.append(retrying.delay / 0.75)
            assert driven.session.waiting_for is Timer.RETRY
            assert in_brief(driven.expire()) == ["CLOSED > STARTING", "OpenSignaling"]
        assert delays == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30, 30]
        assert driven.now == pytest.approx(0.75 * sum(delays))

    def test_delays_double_while_the_server_does_not_answer(self) -> None:
        """Every attempt takes the whole timeout, which is no success however long it is."""
        driven = DrivenSession()
        for _ in range(8):
            driven.expire()
            driven.fail(Cause.UNREACHABLE)
            driven.expire()
        assert [retrying.delay / 0.75 for retrying in driven.told(Retrying)] == [0.5, 1, 2, 4, 8, 16, 30, 30]

    def test_delays_double_after_a_success_of_long_ago(self) -> None:
        driven = connected()
        driven.wait(1.0)
        driven.now = 100.0
        driven.lose()
        driven.close_engine()
        for _ in range(4):
            driven.expire()
            driven.fail(Cause.UNREACHABLE)
        assert [retrying.attempt for retrying in driven.told(Retrying)] == [1, 2, 3, 4, 5]

    def test_an_id_in_use_is_known_by_the_way_the_server_closes(self) -> None:
        driven = online()
        taken = driven.lose(closecodes.NO_STATUS)
        assert in_brief(taken)[-1] == "retrying id_in_use 0.375 1"
        driven.expire()
        driven.open()
        assert in_brief(driven.lose(closecodes.ID_IN_USE))[-1] == "retrying id_in_use 0.75 2"

    def test_signaling_that_is_lost_at_once_backs_off(self) -> None:
        driven = online(LISTENS)
        for attempt, delay in [(1, 0.375), (2, 0.75), (3, 1.5)]:
            assert in_brief(driven.lose())[-1] == f"retrying signaling_lost {delay} {attempt}"
            driven.expire()
            driven.open()

    def test_signaling_that_lasted_makes_the_next_delay_the_first(self) -> None:
        driven = online(LISTENS)
        driven.lose()
        driven.expire()
        driven.open()
        driven.now += LISTENS.stable_after - 0.001
        assert in_brief(driven.lose())[-1] == "retrying signaling_lost 0.75 2"
        driven.expire()
        driven.open()
        driven.now += LISTENS.stable_after
        assert in_brief(driven.lose())[-1] == "retrying signaling_lost 0.375 1"

    def test_the_server_does_not_reply_to_the_call(self) -> None:
        driven = online()
        taken = driven.expire()
        assert in_brief(taken) == [
            "CONNECTING > DISCONNECTING",
            "failed bob no_reply",
            "retrying no_reply 0.375 1",
            "send unpair",
        ]

    def test_a_negotiation_that_leads_nowhere(self) -> None:
        driven = online()
        driven.hear(paired())
        taken = driven.expire()
        assert driven.now == CONFIG.negotiation_timeout
        assert in_brief(taken) == [
            "CONNECTING > DISCONNECTING",
            "failed bob no_connection",
            "retrying no_connection 0.375 1",
            "CloseEngine",
            "send unpair",
        ]

    def test_silence_is_a_loss(self) -> None:
        driven = connected()
        driven.wait(4.0)
        driven.do(inputs.Activity(negotiation=1))
        assert driven.session.waiting_for is Timer.SILENCE
        taken = driven.expire()
        assert driven.now == 4.0 + 4.5
        assert in_brief(taken)[:3] == [
            "CONNECTED > DISCONNECTING",
            "disconnected bob silence",
            "retrying silence 0.375 1",
        ]

    @pytest.mark.parametrize(
        ("lose", "cause"),
        [
            (lambda driven: driven.hear(UNPAIRED), Cause.REMOTE_LEFT),
            (lambda driven: driven.close_engine(), Cause.REMOTE_CLOSED),
            (lambda driven: driven.fail_engine(Cause.CHANNEL_CLOSED), Cause.CHANNEL_CLOSED),
            (lambda driven: driven.hear(paired(EVE)), Cause.REPAIRED),
        ],
        ids=["left", "closed", "channel", "repaired"],
    )
    def test_each_loss_is_told_with_its_cause(self, lose: Any, cause: Cause) -> None:
        driven = connected()
        lose(driven)
        (retrying,) = driven.told(Retrying)
        assert (retrying.cause, retrying.attempt) == (cause, 1)
        (disconnected,) = driven.told(outputs.Disconnected)
        assert disconnected.cause is cause

    def test_a_connection_that_lasted_makes_the_next_delay_the_first(self) -> None:
        driven = connected()
        for seconds, attempt in [(0.0, 1), (9.0, 2), (10.0, 1), (9.999, 2)]:
            driven.now += seconds
            driven.leave()
            assert driven.told(Retrying)[-1].attempt == attempt
            driven.expire()
            driven.answer()

    def test_the_retry_waits_for_the_end_of_the_former_session(self) -> None:
        driven = connected()
        driven.hear(UNPAIRED)
        assert in_brief(driven.expire()) == []
        assert driven.session.stage is Stage.DRAINING
        assert in_brief(driven.close_engine()) == ["DISCONNECTING > ONLINE", "send pair bob", "ONLINE > CONNECTING"]

    def test_the_next_call_waits_for_the_retry(self) -> None:
        driven = connected()
        driven.leave()
        assert driven.session.stage is Stage.ONLINE
        assert driven.session.waiting_for is Timer.RETRY
        assert driven.wait(0.3) == []
        assert in_brief(driven.expire()) == ["send pair bob", "ONLINE > CONNECTING"]

    def test_delays_are_jittered_by_the_injected_random(self) -> None:
        numbers = iter([0.0, 0.25, 0.999])
        driven = DrivenSession(random=lambda: next(numbers))
        for _ in range(3):
            driven.fail(Cause.UNREACHABLE)
            driven.expire()
        assert [retrying.delay for retrying in driven.told(Retrying)] == pytest.approx([0.25, 0.625, 1.999])


class TestDetached:
    """Signaling is lost while connected."""

    def test_the_conversation_goes_on(self) -> None:
        driven = connected()
        assert in_brief(driven.lose()) == ["SignalingLost"]
        assert driven.session.state is PeerState.CONNECTED
        driven.do(SendMetadata(metadata=1))
        assert driven.sent[-1] == metadata(1)

    def test_its_end_is_followed_by_a_new_signaling_connection(self) -> None:
        driven = bring(Stage.DETACHED)
        driven.now = 20.0
        assert in_brief(driven.close_engine()) == [
            "CONNECTED > CLOSED",
            "disconnected bob remote_closed",
            "retrying signaling_lost 0.375 1",
        ]
        assert in_brief(driven.expire()) == ["CLOSED > STARTING", "OpenSignaling"]
        driven.open()
        driven.answer()
        assert driven.told(outputs.Connected)[-1].negotiation == 2

    def test_silence_ends_it(self) -> None:
        driven = bring(Stage.DETACHED)
        assert in_brief(driven.expire()) == ["CONNECTED > CLOSING", "disconnected bob silence", "CloseEngine"]
        assert in_brief(driven.close_engine()) == ["CLOSING > CLOSED", "retrying signaling_lost 0.375 1"]


class TestNumbers:
    """What belongs to a former signaling connection or negotiation is stale."""

    def redialed(self) -> DrivenSession:
        driven = connected()
        driven.lose()
        driven.close_engine()
        driven.expire()
        driven.open()
        driven.hear(paired())
        driven.hear(OFFERED)
        assert (driven.link, driven.negotiation) == (2, 2)
        return driven

    @pytest.mark.parametrize(
        "stale",
        [
            inputs.SignalingOpened(link=1),
            inputs.SignalingReceived(text='{"type":"status","status":"unpaired"}', link=1),
            inputs.SignalingFailed(cause=Cause.KEY_REFUSED, link=1),
            inputs.SignalingClosed(code=closecodes.KEY_REFUSED, link=1),
            inputs.LocalAnswer(negotiation=1, sdp=""),
            inputs.ChannelOpened(negotiation=1),
            inputs.ChannelReceived(negotiation=1, data="{}"),
            inputs.EngineFailed(negotiation=1, cause=Cause.SOURCE_ENDED),
            inputs.EngineClosed(negotiation=1),
        ],
        ids=lambda stale: type(stale).__name__,
    )
    def test_stale_reports_change_nothing(self, stale: Any) -> None:
        driven = self.redialed()
        before = driven.facts()
        assert driven.do(stale) == []
        assert driven.facts() == before

    def test_the_newest_one_counts(self) -> None:
        driven = self.redialed()
        driven.make_answer()
        assert driven.open_channel()
        assert driven.session.state is PeerState.CONNECTED


class TestEnding:
    @pytest.mark.parametrize("cause", [Cause.KEY_REFUSED, Cause.CERTIFICATE_REFUSED, Cause.ADDRESS_REFUSED])
    def test_what_trying_again_cannot_help(self, cause: Cause) -> None:
        driven = DrivenSession()
        driven.fail(cause)
        assert driven.log[-1] == SessionEnded(cause=cause, detail="because", remedy=session.REMEDIES[cause])
        assert session.REMEDIES[cause]
        assert driven.told(Retrying) == []

    @pytest.mark.parametrize(
        ("code", "cause"),
        [(closecodes.KEY_REFUSED, Cause.KEY_REFUSED), (closecodes.ADDRESS_REFUSED, Cause.ADDRESS_REFUSED)],
    )
    def test_a_refusal_by_close_code(self, code: int, cause: Cause) -> None:
        driven = online(SEEKS)
        driven.lose(code)
        ended = driven.log[-1]
        assert isinstance(ended, SessionEnded)
        assert ended.cause is cause
        assert str(code) in ended.detail

    @pytest.mark.parametrize("stage", STAGES)
    def test_a_refusal_by_close_code_ends_once(self, stage: Stage) -> None:
        driven = bring(stage)
        driven.lose(closecodes.KEY_REFUSED)
        driven.close_engine()
        if driven.session.ended:
            assert driven.told(SessionEnded) == driven.log[-1:]

    @pytest.mark.parametrize("make", [connected, called, lambda: bring(Stage.ANSWERING), lambda: bring(Stage.DETACHED)])
    def test_the_end_of_the_source_ends_the_session(self, make: Any) -> None:
        driven = make()
        driven.fail_engine(Cause.SOURCE_ENDED)
        driven.close_engine()
        driven.lose(1000)
        assert driven.log[-1] == SessionEnded(cause=Cause.SOURCE_ENDED, detail="because")

    @pytest.mark.parametrize("stage", STAGES)
    def test_stop_ends_in_bounded_time_whoever_answers(self, stage: Stage) -> None:
        """Nobody answers any more: not the server, not the engine, not the remote peer."""
        driven = bring(stage)
        stopped_at = driven.now
        driven.do(Stop())
        for _ in range(10):
            if driven.session.ended:
                break
            driven.expire()
        (ended,) = driven.told(SessionEnded)
        assert driven.log[-1:] == [ended]
        assert ended.cause is Cause.LOCAL
        assert driven.now - stopped_at <= CONFIG.part_timeout + CONFIG.leave_timeout + CONFIG.close_timeout

    @pytest.mark.parametrize("stage", STAGES)
    def test_stop_ends_at_once_if_all_answer(self, stage: Stage) -> None:
        driven = bring(stage)
        driven.do(Stop())
        if driven.session.stage is Stage.PARTING:
            driven.hear(OFFERED)
            driven.make_answer()
            driven.open_channel()
        driven.hear(UNPAIRED)
        driven.close_engine()
        driven.lose(1000)
        assert driven.session.ended
        assert in_brief(driven.log)[-1] == "ended local"

    @pytest.mark.parametrize("stage", STAGES)
    def test_stopping_twice_is_stopping_once(self, stage: Stage) -> None:
        driven = bring(stage)
        driven.do(Stop())
        before = driven.facts()
        assert driven.do(Stop()) == []
        assert driven.facts() == before

    @pytest.mark.parametrize("stage", [Stage.AWAITING_OFFER, Stage.ANSWERING, Stage.OPENING])
    def test_q18_stop_finishes_the_answer_first(self, stage: Stage) -> None:
        """A hyperpeer-py listener that never gets its answer is blocked for ever."""
        driven = bring(stage)
        assert in_brief(driven.do(Stop())) == ["CONNECTING > DISCONNECTING", "failed bob local"]
        if stage is Stage.AWAITING_OFFER:
            driven.hear(OFFERED)
        if stage is not Stage.OPENING:
            assert in_brief(driven.make_answer()) == ["send answer"]
        assert in_brief(driven.open_channel()) == ["CloseEngine", "send unpair"]
        driven.close_engine()
        assert in_brief(driven.hear(UNPAIRED)) == [
            "DISCONNECTING > ONLINE",
            "ONLINE > CLOSING",
            "CloseSignaling",
        ]
        assert in_brief(driven.lose(1000)) == ["CLOSING > CLOSED", "ended local"]

    def test_stop_while_lists_are_outstanding_does_not_wait_for_them(self) -> None:
        driven = online(SEEKS)
        driven.expire()
        driven.hear(PEERS)
        driven.hear(paired())
        driven.wait(1.5)
        driven.do(Stop())
        driven.hear(PEERS)
        driven.hear(OFFERED)
        driven.make_answer()
        driven.open_channel()
        driven.close_engine()
        assert in_brief(driven.hear(UNPAIRED))[-1] == "CloseSignaling"

    @pytest.mark.parametrize("make", [lambda: online(SEEKS), lambda: bring(Stage.CONNECTED)])
    def test_nothing_comes_after_the_end(self, make: Any) -> None:
        driven = make()
        driven.do(Stop())
        driven.close_engine()
        driven.lose(1000)
        assert driven.session.ended
        count = len(driven.log)
        for late in (UNPAIRED, PEERS, paired()):
            driven.hear(late)
        driven.open()
        driven.fail(Cause.KEY_REFUSED)
        driven.lose()
        driven.fail_engine(Cause.SOURCE_ENDED)
        driven.close_engine()
        driven.do(Stop())
        driven.do(SendMetadata(metadata=1))
        driven.wait(1e6)
        assert len(driven.log) == count


class TestTime:
    def test_it_does_not_go_back(self) -> None:
        driven = DrivenSession(now=1000.0)
        driven.now = 10.0
        driven.fail(Cause.UNREACHABLE)
        assert driven.session.deadline == 1000.375
        for now in (10.0, -math.inf, math.nan):
            driven.session.handle_timeout(now=now)
            assert driven.drain() == []
        driven.session.handle_timeout(now=1000.375)
        assert in_brief(driven.drain()) == ["CLOSED > STARTING", "OpenSignaling"]

    def test_an_early_timeout_does_nothing(self) -> None:
        driven = bring(Stage.CLOSED)
        before = driven.facts()
        assert driven.wait(0.1) == []
        assert driven.facts() == before

    def test_a_retry_and_the_end_of_the_former_session_at_once(self) -> None:
        driven = connected()
        driven.hear(UNPAIRED)
        assert in_brief(driven.wait(3600.0)) == ["DISCONNECTING > ONLINE", "send pair bob", "ONLINE > CONNECTING"]

    def test_the_deadline_is_the_first_of_both(self) -> None:
        driven = connected()
        driven.hear(UNPAIRED)
        assert (driven.session.waiting_for, driven.session.deadline) == (Timer.RETRY, 0.375)
        driven.expire()
        assert (driven.session.waiting_for, driven.session.deadline) == (Timer.LEAVE, CONFIG.leave_timeout)
        polls = online(replace(SEEKS, poll_interval=60.0))
        assert (polls.session.waiting_for, polls.session.deadline) == (Timer.LIST, CONFIG.reply_timeout)

    def test_attempts_go_on_for_ever(self) -> None:
        driven = DrivenSession()
        for _ in range(200):
            driven.fail(Cause.UNREACHABLE)
            driven.expire()
        attempts = [retrying.attempt for retrying in driven.told(Retrying)]
        assert all(later == earlier + 1 for earlier, later in pairwise(attempts))
        assert max(retrying.delay for retrying in driven.told(Retrying)) <= CALLS.backoff_max
