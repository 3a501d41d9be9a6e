"""The world: what arrives when, how time passes, and what befalls the server."""

import pytest

from deepio_core import closecodes, inputs, outputs
from deepio_core.config import PeerConfig
from deepio_core.policy import ListenForCallers, SessionConfig
from deepio_core.server import ServerConfig
from deepio_core.states import PeerState, Stage, Trigger
from deepio_core.testing import ViolationError, World
from tests.core.worlds import meet


def test_nothing_happens_by_itself() -> None:
    world = World()
    node = world.add_peer("cam1")
    assert node.events == []
    assert world.step()
    assert world.step()
    assert node.machine.stage is Stage.ONLINE
    assert not world.step()
    assert world.drain() == 0
    assert world.edges[Stage.STARTING, Trigger.SIGNALING_OPENED] == 1


def test_the_seed_decides_the_order() -> None:
    def order(seed: int) -> list[str]:
        world = World(seed)
        for name in "abcdef":
            world.add_peer(name)
        world.drain()
        return [peer.id for peer in world.server.peers]

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def test_signs_of_life_keep_a_connection_up() -> None:
    world = World()
    alice, bob = world.add_peer("alice"), world.add_peer("bob")
    meet(world, alice, bob)
    world.advance(1.0)
    # Their signs of life come at other times.
    meet(world, world.add_peer("carol"), world.add_peer("dave"))
    world.advance(3600.0)
    assert world.now == 4601.0
    assert [node.machine.state for node in world.nodes] == [PeerState.CONNECTED] * 4
    world.jump(6.0)
    assert [node.machine.state for node in world.nodes] == [PeerState.DISCONNECTING] * 4


def test_sessions_have_each_their_own_jitter() -> None:
    world = World()
    world.serves = False
    sessions = [
        world.add_session(SessionConfig(peer=PeerConfig(peer_id=name), policy=ListenForCallers())) for name in "ab"
    ]
    world.drain()
    first, second = (session.machine.deadline for session in sessions)
    assert first != second
    assert [node.id for node in world.nodes] == ["a", "b"]


def test_time_passes_to_the_next_deadline_and_not_further_than_it_may() -> None:
    world = World()
    assert world.deadline is None
    assert not world.pass_to_deadline(world.now + 5.0)
    world.serves = False
    node = world.add_peer("cam1")
    node.link.up.held = True
    assert not world.pass_to_deadline(world.now + 5.0)
    assert world.pass_to_deadline(world.now + 20.0)
    assert (world.now, node.machine.stage) == (1010.0, Stage.CLOSING)


def test_a_lossy_channel() -> None:
    world = World()
    alice, bob = world.add_peer("alice"), world.add_peer("bob")
    meet(world, alice, bob)
    world.loss = 1.0
    alice.handle(inputs.Send(data=1))
    world.drain()
    world.loss = 0.0
    alice.handle(inputs.Send(data=2))
    world.drain()
    assert [event.data for event in bob.events if isinstance(event, outputs.DataReceived)] == [2]


def test_a_restarted_server_knows_nobody() -> None:
    world = World()
    node = world.add_peer("cam1")
    world.drain()
    world.restart_server()
    world.drain()
    assert world.server.peers == ()
    assert node.machine.stage is Stage.CLOSED


def test_an_id_that_is_in_use() -> None:
    world = World()
    world.add_peer("cam1")
    other = world.add_peer("cam1")
    world.drain()
    assert sum(node.machine.stage is Stage.CLOSED for node in world.nodes) == 1
    assert [peer.id for peer in world.server.peers] == ["cam1"]
    assert other.id == "cam1"


def test_a_peer_that_says_too_much_is_closed() -> None:
    world = World(server_config=ServerConfig(message_burst=1, messages_per_second=0.1))
    node = world.add_peer("cam1")
    world.drain()
    node.handle(inputs.ListPeers())
    node.handle(inputs.ListPeers())
    world.drain()
    closed = node.events[-1]
    assert isinstance(closed, outputs.PeerClosed)
    assert str(closecodes.RATE_EXCEEDED) in closed.detail


def test_a_stranger_without_an_id_gets_one() -> None:
    world = World(3)
    link = world.open_link(world.add_stranger("eve"), 2, "/camera")
    world.drain()
    assert link.open
    assert any(peer.id.startswith("peer") for peer in world.server.peers)


def test_two_that_answer_each_other_for_ever_are_noticed() -> None:
    world = World()
    wire = world.make_wire()

    def again() -> None:
        wire.put(again)

    again()
    with pytest.raises(ViolationError, match="does not come to rest"):
        world.drain()


def test_a_wrong_description_is_a_violation_with_journals() -> None:
    world = World(9)
    world.add_peer("cam1")
    with pytest.raises(ViolationError, match=r"fed it\nWorld with seed 9 at 1000.000\n--- cam1"):
        world.room.complain("fed it")
