"""What belongs to another connection or negotiation is nothing, and how a peer ends."""

import json

import pytest

from deepio_core import closecodes, inputs, outputs, signals
from deepio_core.outputs import Cause
from deepio_core.states import PeerState, Stage, Trigger
from deepio_core.timers import Timer
from tests.core.peers import (
    CONFIG,
    ENGINE_REPORTS,
    UNPAIR,
    UNPAIRED,
    Driven,
    brief,
    briefly,
    bring,
    online,
    paired,
)


class TestNumbers:
    """What is about another connection, or another negotiation, is about nothing."""

    @pytest.mark.parametrize("stage", Stage)
    @pytest.mark.parametrize("number", [1, 8])
    def test_links(self, stage: Stage, number: int) -> None:
        driven = Driven(link=7) if stage is Stage.STARTING else online(link=7)
        if stage not in {Stage.STARTING, Stage.ONLINE}:
            driven = bring(stage)
            number += 1
        before = driven.facts()
        for event in (
            inputs.SignalingOpened(link=number),
            inputs.SignalingReceived(text=json.dumps(paired()), link=number),
            inputs.SignalingReceived(text="no JSON", link=number),
            inputs.SignalingFailed(cause=Cause.UNREACHABLE, link=number),
            inputs.SignalingClosed(code=1006, link=number),
        ):
            assert driven.do(event) == []
        assert driven.facts() == before

    @pytest.mark.parametrize("stage", Stage)
    @pytest.mark.parametrize("trigger", ENGINE_REPORTS)
    def test_negotiations(self, stage: Stage, trigger: Trigger) -> None:
        driven = bring(stage)
        before = driven.facts()
        for number in (-1, 0, driven.peer.negotiation - 1, driven.peer.negotiation + 1):
            assert driven.do(ENGINE_REPORTS[trigger](number)) == []
        assert driven.facts() == before

    def test_effects_carry_the_number_of_the_link(self) -> None:
        driven = online(link=7)
        assert driven.do(inputs.Listen())[0] == outputs.SendSignaling(link=7, text=signals.READY)
        assert outputs.CloseSignaling(link=7) in driven.do(inputs.Close())


class TestEnd:
    @pytest.mark.parametrize(
        ("code", "cause"),
        [
            (None, Cause.SIGNALING_LOST),
            (closecodes.NORMAL, Cause.SIGNALING_LOST),
            (closecodes.ABNORMAL, Cause.SIGNALING_LOST),
            (closecodes.NO_STATUS, Cause.ID_IN_USE),
            (closecodes.ID_IN_USE, Cause.ID_IN_USE),
            (closecodes.KEY_REFUSED, Cause.KEY_REFUSED),
            (closecodes.ADDRESS_REFUSED, Cause.ADDRESS_REFUSED),
            (closecodes.SERVER_FULL, Cause.SERVER_FULL),
        ],
    )
    def test_close_codes(self, code: int | None, cause: Cause) -> None:
        (_changed, closed) = online().do(inputs.SignalingClosed(code=code, reason="because"))
        assert closed == outputs.PeerClosed(
            cause=cause, detail=f"the signaling connection was closed with code {code}: because"
        )

    def test_the_reason_of_a_close_frame_is_fit_for_a_log(self) -> None:
        (_changed, closed) = online().do(inputs.SignalingClosed(code=1000, reason="a\x1b[2Jb\nc"))
        assert isinstance(closed, outputs.PeerClosed)
        assert closed.detail.endswith("code 1000: a\ufffd[2Jb\ufffdc")

    def test_an_empty_close_frame_means_a_taken_id_only_at_once(self) -> None:
        driven = Driven()
        driven.wait(8.0)
        driven.do(inputs.SignalingOpened())
        driven.wait(CONFIG.id_in_use_window)
        assert driven.do(inputs.SignalingClosed(code=1005))[-1] == outputs.PeerClosed(
            cause=Cause.ID_IN_USE, detail="the signaling connection was closed with code 1005"
        )

    def test_an_empty_close_frame_later_is_a_loss(self) -> None:
        driven = online()
        driven.wait(CONFIG.id_in_use_window + 0.001)
        assert brief(driven.do(inputs.SignalingClosed(code=1005))[-1]) == "PeerClosed signaling_lost"

    def test_an_empty_close_frame_after_a_word_is_a_loss(self) -> None:
        driven = online()
        driven.hear(UNPAIRED)
        assert brief(driven.do(inputs.SignalingClosed(code=1005))[-1]) == "PeerClosed signaling_lost"

    def test_a_second_opening_is_none(self) -> None:
        driven = online()
        driven.wait(100.0)
        driven.do(inputs.SignalingOpened())
        assert brief(driven.do(inputs.SignalingClosed(code=1005))[-1]) == "PeerClosed signaling_lost"

    def test_a_failure_to_open_what_is_open_is_none(self) -> None:
        driven = online()
        assert driven.do(inputs.SignalingFailed(cause=Cause.UNREACHABLE)) == []
        assert brief(driven.do(inputs.SignalingClosed(code=1006))[-1]) == "PeerClosed signaling_lost"

    def test_a_connection_closes_once(self) -> None:
        driven = bring(Stage.CLOSING)
        for _ in range(2):
            assert driven.do(inputs.SignalingClosed(code=1000)) == []
        assert briefly(driven.close_engine()) == ["CLOSING > CLOSED", "PeerClosed local"]

    def test_the_first_cause_is_told(self) -> None:
        driven = bring(Stage.DETACHED)
        driven.do(inputs.Close())
        assert brief(driven.close_engine()[-1]) == "PeerClosed signaling_lost"

    def test_a_connection_that_never_opens(self) -> None:
        driven = Driven()
        driven.wait(CONFIG.open_timeout)
        failed = inputs.SignalingFailed(cause=Cause.UNKNOWN_HOST, detail="no such host")
        assert driven.do(failed)[-1] == outputs.PeerClosed(
            cause=Cause.UNREACHABLE, detail="the signaling connection did not open in time"
        )

    def test_what_does_not_close_is_given_up(self) -> None:
        driven = bring(Stage.CLOSING)
        assert driven.peer.waiting_for is Timer.CLOSE
        assert briefly(driven.wait(CONFIG.close_timeout)) == ["CLOSING > CLOSED", "PeerClosed local"]
        assert driven.do(inputs.SignalingClosed(code=1000)) == []
        assert driven.close_engine() == []

    @pytest.mark.parametrize("stage", [Stage.UNPAIRING, Stage.LEAVING])
    def test_each_thing_is_closed_once(self, stage: Stage) -> None:
        driven = bring(stage)
        driven.do(inputs.Close())
        driven.close_engine()
        driven.do(inputs.SignalingClosed(code=1000))
        assert driven.peer.ended
        assert len(driven.told(outputs.CloseSignaling)) == 1
        assert len(driven.told(outputs.CloseEngine)) == (stage is Stage.LEAVING)

    @pytest.mark.parametrize("stage", Stage)
    def test_the_end_is_told_once_and_last(self, stage: Stage) -> None:
        driven = bring(stage)
        for _ in range(5):
            driven.wait(3600.0)
        if not driven.peer.ended:
            assert driven.peer.state in {PeerState.ONLINE, PeerState.LISTENING}
            driven.do(inputs.Close())
            driven.wait(3600.0)
        assert [output for output in driven.log if isinstance(output, outputs.PeerClosed)] == driven.log[-1:]

    def test_unpair_is_sent_once_for_each_session(self) -> None:
        for stage in (Stage.PAIRING, Stage.INVITED, Stage.OFFERING, Stage.CONNECTED):
            driven = bring(stage)
            driven.do(inputs.Disconnect())
            driven.close_engine()
            driven.hear(UNPAIRED)
            assert driven.peer.stage is Stage.ONLINE
            assert driven.sent.count(UNPAIR) == 1
