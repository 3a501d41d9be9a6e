"""Nodes and strangers: they do what their machine wants, tell in order, and notice when it breaks a rule."""

from typing import Any

import pytest

from deepio_core import inputs, outputs, signals
from deepio_core.config import PeerConfig
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause
from deepio_core.peer import Peer
from deepio_core.policy import ConnectTo, SessionConfig
from deepio_core.states import PeerState, Stage
from deepio_core.testing import ViolationError, World, replay
from tests.core.worlds import meet


@pytest.fixture
def world() -> World:
    return World()


def test_a_peer_connects_talks_and_leaves(world: World) -> None:
    alice, bob = world.add_peer("alice"), world.add_peer("bob")
    assert alice.engine is None
    meet(world, alice, bob)
    assert alice.engine is not None
    alice.engine.gather()
    world.drain()
    alice.handle(inputs.Send(data={"n": 1}))
    world.drain()
    assert bob.events[-1] == outputs.DataReceived(data={"n": 1})
    alice.handle(inputs.Disconnect())
    world.drain()
    alice.handle(inputs.Close())
    world.drain()
    assert alice.events[-1] == outputs.PeerClosed(cause=Cause.LOCAL)
    assert not alice.link.open
    alice.start_again()
    world.drain()
    assert alice.machine.stage is Stage.ONLINE
    assert [link.number for link in alice.links] == [1, 2]
    for journal, factory in alice.lives:
        assert replay(journal, factory).entries == journal.entries
    assert len(alice.lives) == 2


def test_a_session_is_replayed_with_the_same_jitter(world: World) -> None:
    world.serves = False
    node = world.add_session(SessionConfig(peer=PeerConfig(peer_id="cam1"), policy=ConnectTo(remote_id="sm1")))
    world.advance(60.0)
    [(journal, factory)] = node.lives
    assert len(journal.entries) > 5
    assert replay(journal, factory).entries == journal.entries
    assert node.session is node.machine


def test_names_are_encoded_and_the_key_is_sent() -> None:
    seen: list[object] = []

    def check_key(*arguments: object) -> bool:
        seen.append(arguments)
        return True

    world = World(check_key=check_key)
    world.add_peer("cam1", "a b", key="s p")
    world.drain()
    assert seen == [("a%20b", "cam1", "s%20p")]


def test_a_listener_may_give_commands_and_events_keep_their_order(world: World) -> None:
    node = world.add_peer("cam1")
    told: list[Any] = []

    def listen(event: object) -> None:
        if isinstance(event, outputs.StateChanged) and event.new is PeerState.ONLINE:
            node.handle(inputs.Listen())

    node.listeners += [listen, told.append]
    world.drain()
    assert [event.new for event in told] == [PeerState.ONLINE, PeerState.LISTENING]
    assert told == node.events


def test_a_refused_command_raises(world: World) -> None:
    node = world.add_peer("cam1")
    with pytest.raises(LocalProtocolError, match="Cannot listen while starting"):
        node.handle(inputs.Listen())


class Fickle(Peer):
    """A peer that refuses everything, and lets time pass all the same."""

    def handle(self, event: object, *, now: float) -> None:
        self.handle_timeout(now=now + 1000.0)
        raise LocalProtocolError(f"No {event}.")


class Talkative(Peer):
    """A peer that tells of data though it is not connected."""

    def handle(self, event: object, *, now: float) -> None:
        self.untold = [outputs.DataReceived(data=1)]

    def poll(self) -> Any:
        return self.untold.pop() if self.untold else None


def test_a_refused_command_that_changes_something_is_a_violation(world: World) -> None:
    node = world.add_peer("cam1")
    node.machine = Fickle(node.config, now=world.now)
    with pytest.raises(ViolationError, match="cam1: a refused command changes nothing\nWorld with seed 0"):
        node.handle(inputs.Listen())


def test_a_broken_rule_comes_with_seed_and_journals(world: World) -> None:
    node = world.add_peer("cam1")
    world.drain()
    node.machine = Talkative(node.config, now=world.now)
    with pytest.raises(ViolationError) as caught:
        node.handle(inputs.ListPeers())
    [note] = caught.value.__notes__
    assert note.startswith("cam1 broke a rule.\nWorld with seed 0")
    assert "SignalingOpened" in note


def test_an_alarm_rings_once(world: World) -> None:
    node = world.add_peer("cam1")
    world.drain()
    rung: list[float] = []
    node.alarm = world.now + 3.0
    world.advance(5.0)
    node.on_alarm = lambda: rung.append(world.now)
    node.alarm = world.now + 3.0
    world.advance(10.0)
    assert rung == [1008.0]


def test_a_crash_tells_nobody(world: World) -> None:
    alice, bob = world.add_peer("alice"), world.add_peer("bob")
    meet(world, alice, bob)
    events = len(alice.events)
    alice.crash()
    world.drain()
    assert len(alice.events) == events
    # The server saw the link end; over the data channel bob would have had to wait.
    assert bob.machine.stage is Stage.ONLINE


def test_who_gave_up_on_the_server_does_not_know_its_pairing(world: World) -> None:
    alice, bob = world.add_peer("alice"), world.add_peer("bob")
    world.drain()
    bob.handle(inputs.Listen())
    world.drain()
    alice.link.down.held = True
    alice.handle(inputs.Connect(remote_id="bob"))
    world.drain()
    alice.handle(inputs.Disconnect())
    world.jump(6.0)
    assert alice.machine.stage is Stage.ONLINE
    alice.handle(inputs.Connect(remote_id="bob"))
    alice.link.down.held = False
    world.drain()
    assert alice.engine is not None
    assert alice.engine.pairing is None


def test_a_stranger_says_what_it_likes(world: World) -> None:
    stranger = world.add_stranger("eve")
    stranger.say(signals.LIST_PEERS)
    world.drain()
    assert '"eve"' in str(stranger.heard[-1])
    stranger.leave()
    world.drain()
    stranger.say(signals.UNPAIR)
    world.drain()
    assert stranger.heard[-1] == signals.UNPAIRED
    assert stranger.link.number == 2
