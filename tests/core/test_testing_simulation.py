"""The simulation itself: what it does, and that it notices when the world behaves as it must not."""

from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from deepio_core import inputs, outputs
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause
from deepio_core.peer import Peer
from deepio_core.states import Stage, Trigger
from deepio_core.testing import CALM, STORM, Faults, PeerNode, Simulation, ViolationError
from deepio_core.testing.simulation import CALM_SIGNALS


def test_runs_of_every_kind() -> None:
    edges: Counter[tuple[Stage, Trigger]] = Counter()
    for seed in range(150):
        simulation = Simulation(seed)
        simulation.run()
        edges.update(simulation.world.edges)
    assert len(edges) > 100


def test_the_faults_can_be_chosen() -> None:
    simulation = Simulation(1, steps=300, faults=CALM)
    simulation.run()
    assert not any(trigger is Trigger.EXPIRED for _, trigger in simulation.world.edges)
    rough = Simulation(1, steps=300, faults=STORM)
    rough.run()
    assert rough.ignored


@pytest.mark.parametrize(
    "event",
    [
        outputs.SignalIgnored(stage=Stage.CONNECTED, detail="an offer that is not awaited"),
        outputs.SignalIgnored(stage=Stage.LEAVING, detail="something else"),
        outputs.ConnectionFailed(remote_id="b", cause=Cause.NO_CONNECTION),
        outputs.Disconnected(remote_id="b", cause=Cause.SILENCE),
        outputs.PeersNotListed(cause=Cause.NO_REPLY),
        outputs.PeerClosed(cause=Cause.SIGNALING_LOST),
        outputs.SignalingLost(),
    ],
)
def test_what_a_calm_run_does_not_allow(event: outputs.PeerEvent) -> None:
    [judge] = Simulation(0, faults=CALM).peers[0].listeners
    with pytest.raises(ViolationError, match="in a calm run"):
        judge(event)
    [judge] = Simulation(0, faults=STORM).peers[0].listeners
    judge(event)


@pytest.mark.parametrize(("start", "stages"), CALM_SIGNALS.items())
def test_what_a_calm_run_allows(start: str, stages: frozenset[Stage]) -> None:
    simulation = Simulation(0, faults=CALM)
    [judge] = simulation.peers[0].listeners
    for stage in stages:
        judge(outputs.SignalIgnored(stage=stage, detail=f"{start}."))
    judge(outputs.ConnectionFailed(remote_id="b", cause=Cause.BUSY))
    judge(outputs.PeerClosed(cause=Cause.LOCAL))
    judge(outputs.PeersListed(peers=()))
    assert sum(simulation.ignored.values()) == len(stages)


class DeafNode(PeerNode):
    """A peer whose application never hears of an invitation."""

    def report(self, event: inputs.SignalingInput, pairing: int | None) -> None:
        if pairing is None:
            super().report(event, pairing)


def test_peers_that_cannot_meet_are_noticed() -> None:
    simulation = Simulation(0, faults=CALM)
    for node in simulation.peers:
        node.__class__ = DeafNode
    simulation.world.drain()
    with pytest.raises(ViolationError, match="can be paired\nWorld with seed 0"):
        simulation.probe()


def test_a_peer_that_does_not_come_to_rest_is_noticed() -> None:
    simulation = Simulation(0, faults=Faults(jump=1))
    simulation.world.drain()
    caller = simulation.peers[0]

    def call_again(event: object) -> None:
        if isinstance(event, outputs.ConnectionFailed):
            simulation.world.jump(50.0)
            caller.handle(inputs.Connect(remote_id="nobody"))
            caller.link.down.held = True

    caller.listeners.append(call_again)
    caller.handle(inputs.Connect(remote_id="nobody"))
    with pytest.raises(ViolationError, match="every peer comes to rest"):
        simulation.settle()


class Obedient(Peer):
    """A peer that takes every command, and does nothing about those that are not possible."""

    def handle(self, event: Any, *, now: float) -> None:
        """Swallow the refusal."""
        with suppress(LocalProtocolError):
            super().handle(event, now=now)


def test_a_command_that_should_have_been_refused_is_noticed() -> None:
    broken: list[str] = []
    for seed in range(10):
        simulation = Simulation(seed, faults=Faults(misuse=100))
        for node in simulation.peers:
            node.machine = Obedient(node.config, now=simulation.world.now)
            assert node.machine.poll()
        with pytest.raises(ViolationError) as caught:
            simulation.run()
        broken.append(str(caught.value))
    assert any("() is refused while" in rule for rule in broken)


def test_a_timeout_in_a_calm_run_is_noticed() -> None:
    simulation = Simulation(0, faults=CALM)
    simulation.world.count_edge(Stage.OPENING, Trigger.EXPIRED)
    with pytest.raises(ViolationError, match="nothing times out in a calm run"):
        simulation.settle()
