"""The lab: time, keys, and what befalls server and network."""

import pytest

from deepio_core import outputs
from deepio_core.config import PeerConfig
from deepio_core.outputs import Cause
from deepio_core.policy import ConnectTo, ListenForCallers, SessionConfig
from deepio_core.session import SessionEnded
from deepio_core.states import PeerState
from deepio_core.testing import Lab, NeverHappenedError


@pytest.fixture
def lab() -> Lab:
    return Lab()


def test_a_session_finds_a_core_and_tells_the_application(lab: Lab) -> None:
    told: list[object] = []
    lab.deep_core("sm1")
    session = lab.session(on_event=told.append)
    lab.run_until(lambda: session.session.state is PeerState.CONNECTED)
    assert told == session.events
    assert any(isinstance(event, outputs.Connected) for event in told)


def test_a_session_with_all_its_settings(lab: Lab) -> None:
    config = SessionConfig(peer=PeerConfig(peer_id="cam2", reply_timeout=1.0), policy=ListenForCallers())
    session = lab.session(config=config)
    assert session.id == "cam2"
    assert session.session.config is config


def test_time_passes_only_when_it_is_told_to(lab: Lab) -> None:
    lab.session()
    before = lab.now
    lab.run(12.5)
    assert lab.now == before + 12.5


def test_what_never_happens_comes_with_the_journals(lab: Lab) -> None:
    lab.session("door")
    with pytest.raises(NeverHappenedError, match=r"Not within 5\.0 s\.\nWorld with seed 0 at (?s:.)*--- door"):
        lab.run_until(lambda: False, within=5.0)


def test_keys_are_checked(lab: Lab) -> None:
    lab.keys = {"good": "right"}
    sessions = [lab.session("good", key="right"), lab.session("good", key="wrong"), lab.session("bad", key="right")]
    lab.run(5.0)
    assert [session.session.ended for session in sessions] == [False, True, True]
    ended = sessions[1].events[-1]
    assert isinstance(ended, SessionEnded)
    assert ended.cause is Cause.KEY_REFUSED


def test_the_server_stops_and_starts(lab: Lab) -> None:
    lab.deep_core("sm1")
    session = lab.session("cam1", ConnectTo(remote_id="sm1"))
    lab.run(1.0)
    lab.stop_server()
    lab.run(20.0)
    assert session.session.state is PeerState.CONNECTED
    newcomer = lab.session("cam2", ListenForCallers())
    lab.run(5.0)
    assert not newcomer.link.open
    lab.start_server()
    lab.run(10.0)
    assert newcomer.session.state is PeerState.LISTENING


def test_the_server_restarts_and_all_come_back(lab: Lab) -> None:
    lab.session("cam1", ConnectTo(remote_id="sm1"))
    lab.run(1.0)
    lab.restart_server()
    lab.run(5.0)
    assert [peer.id for peer in lab.world.server.peers] == ["cam1"]


def test_one_link_is_cut(lab: Lab) -> None:
    session = lab.session("cam1", ListenForCallers())
    lab.run(1.0)
    lab.cut(session)
    lab.run(5.0)
    assert [link.number for link in session.links] == [1, 2]
    assert session.session.state is PeerState.LISTENING
