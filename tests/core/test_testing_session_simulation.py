"""The simulation of sessions itself: what it does, and that it notices when the world behaves as it must not."""

import pytest

from deepio_core import outputs
from deepio_core.outputs import Cause
from deepio_core.session import Retrying
from deepio_core.testing import CALM, STORM, Faults, SessionSimulation, ViolationError


def test_runs_of_every_kind() -> None:
    for seed in range(60):
        SessionSimulation(seed).run()


def test_a_calm_run_talks_all_the_time() -> None:
    simulation = SessionSimulation(5, steps=1500, faults=CALM)
    simulation.run()
    assert all(core.round_trips for core in simulation.cores)


@pytest.mark.parametrize(
    "event",
    [
        Retrying(cause=Cause.SILENCE, detail="", delay=1.0, attempt=1),
        outputs.ConnectionFailed(remote_id="b", cause=Cause.NO_CONNECTION),
        outputs.Disconnected(remote_id="b", cause=Cause.SILENCE),
        outputs.SignalingLost(),
    ],
)
def test_what_a_calm_run_does_not_allow(event: object) -> None:
    [judge] = SessionSimulation(0, faults=CALM).sessions[0].listeners
    with pytest.raises(ViolationError, match="in a calm run"):
        judge(event)
    [judge] = SessionSimulation(0, faults=STORM).sessions[0].listeners
    judge(event)


def test_what_a_calm_run_allows() -> None:
    [judge] = SessionSimulation(0, faults=CALM).sessions[0].listeners
    judge(Retrying(cause=Cause.BUSY, detail="", delay=1.0, attempt=1))
    judge(outputs.SignalIgnored(stage=SessionSimulation(0).sessions[0].session.stage, detail=""))


def test_sessions_that_do_not_come_together_are_noticed() -> None:
    simulation = SessionSimulation(0, faults=Faults(jump=1))
    simulation.world.serves = False
    with pytest.raises(ViolationError, match="all sessions are together again\nWorld with seed 0"):
        simulation.meet()


def test_a_core_that_sends_nothing_is_noticed() -> None:
    simulation = SessionSimulation(0, faults=CALM)
    simulation.cores[0].fps = 0
    with pytest.raises(ViolationError, match="caller gets results"):
        simulation.meet()


def test_a_session_that_does_not_end_is_noticed() -> None:
    simulation = SessionSimulation(0, faults=CALM)
    simulation.meet()
    simulation.sessions[0].listeners.clear()
    # The lab's clock stands still for one that nobody lets handle its deadlines.
    simulation.world.nodes.remove(simulation.sessions[0])
    simulation.sessions[0].link.up.held = True
    with pytest.raises(ViolationError, match="caller ends"):
        simulation.stop()
