"""The table at work, without any protocol: edges, refusals, deadlines."""

from __future__ import annotations

import pytest

from deepio_core.config import PeerConfig
from deepio_core.errors import LocalProtocolError
from deepio_core.machine import StageMachine
from deepio_core.outputs import Cause, SignalIgnored
from deepio_core.states import PeerState, Stage, Trigger
from deepio_core.timers import Timer


class Walker(StageMachine):
    """A machine that notes where it goes and does nothing else."""

    def __init__(self, config: PeerConfig, edges: list[tuple[Stage, Trigger]] | None = None) -> None:
        super().__init__(config, now=10.0, observer=None if edges is None else lambda *edge: edges.append(edge))
        self.entered: list[tuple[Stage, Stage, Cause, str]] = []

    def _entered(self, origin: Stage, cause: Cause, detail: str) -> None:
        self.entered.append((origin, self.stage, cause, detail))

    def pull(self, trigger: Trigger) -> bool:
        """What a subclass does with a command."""
        self._demand(trigger)
        return self._move(trigger)

    def happen(self, *triggers: Trigger) -> bool:
        """What a subclass does with what comes from outside; tells of the last one."""
        return [self._move(trigger, Cause.BUSY, "so it is") for trigger in triggers][-1]

    def tell(self, detail: str) -> None:
        """What a subclass does with what it has to say."""
        self._tell(SignalIgnored(stage=self.stage, detail=detail))


def test_it_starts_with_a_deadline() -> None:
    walker = Walker(PeerConfig(peer_id="a", open_timeout=3.0))
    assert (walker.stage, walker.state, walker.ended) == (Stage.STARTING, PeerState.STARTING, False)
    assert (walker.deadline, walker.waiting_for) == (13.0, Timer.OPEN)


def test_an_edge_is_taken_told_and_ends_the_deadline() -> None:
    edges: list[tuple[Stage, Trigger]] = []
    walker = Walker(PeerConfig(peer_id="a"), edges)
    assert walker.happen(Trigger.SIGNALING_OPENED)
    assert walker.entered == [(Stage.STARTING, Stage.ONLINE, Cause.BUSY, "so it is")]
    assert edges == [(Stage.STARTING, Trigger.SIGNALING_OPENED)]
    assert (walker.deadline, walker.waiting_for) == (None, None)


def test_a_stay_is_told_and_enters_nothing() -> None:
    edges: list[tuple[Stage, Trigger]] = []
    walker = Walker(PeerConfig(peer_id="a"), edges)
    assert walker.happen(Trigger.SIGNALING_OPENED, Trigger.UNPAIRED)
    assert edges[-1] == (Stage.ONLINE, Trigger.UNPAIRED)
    assert len(walker.entered) == 1


def test_what_has_no_edge_changes_nothing() -> None:
    walker = Walker(PeerConfig(peer_id="a"))
    assert not walker.happen(Trigger.OFFER)
    assert (walker.stage, walker.entered) == (Stage.STARTING, [])


def test_a_command_without_an_edge_raises_and_tells_where_there_is_one() -> None:
    walker = Walker(PeerConfig(peer_id="a"))
    with pytest.raises(LocalProtocolError, match="Cannot listen while starting") as caught:
        walker.pull(Trigger.LISTEN)
    assert caught.value.remedy == "This is possible while online."
    assert walker.happen(Trigger.SIGNALING_OPENED)
    assert walker.pull(Trigger.LISTEN)
    assert walker.stage is Stage.LISTENING


def test_neighbours_with_the_same_timer_share_one_run() -> None:
    walker = Walker(PeerConfig(peer_id="a", negotiation_timeout=4.0))
    walker.happen(Trigger.SIGNALING_OPENED, Trigger.LISTEN, Trigger.PAIRED)
    assert walker.waiting_for is Timer.ACCEPT
    walker.happen(Trigger.ACCEPT)
    first = walker.deadline
    walker.happen(Trigger.LOCAL_OFFER)
    assert (walker.deadline, walker.waiting_for) == (first, Timer.NEGOTIATION)


def test_a_timer_that_is_switched_off_does_not_run() -> None:
    walker = Walker(PeerConfig(peer_id="a", silence_timeout=None))
    walker.happen(
        Trigger.SIGNALING_OPENED,
        Trigger.LISTEN,
        Trigger.PAIRED,
        Trigger.ACCEPT,
        Trigger.LOCAL_OFFER,
        Trigger.ANSWER,
        Trigger.CHANNEL_OPENED,
    )
    assert (walker.stage, walker.deadline) == (Stage.CONNECTED, None)


def test_it_ends_in_closed() -> None:
    walker = Walker(PeerConfig(peer_id="a"))
    walker.happen(Trigger.SIGNALING_FAILED)
    assert walker.ended


def test_what_it_has_to_say_comes_out_in_order_and_once() -> None:
    walker = Walker(PeerConfig(peer_id="a"))
    walker.tell("one")
    walker.tell("two")
    said = [walker.poll(), walker.poll(), walker.poll()]
    assert said == [
        SignalIgnored(stage=Stage.STARTING, detail="one"),
        SignalIgnored(stage=Stage.STARTING, detail="two"),
        None,
    ]
