"""Mischief: each fault does what it says, to whom it should."""

from collections.abc import Callable

import pytest

from deepio_core import inputs, outputs
from deepio_core.outputs import Cause
from deepio_core.states import Stage
from deepio_core.testing import CALM, STORM, Faults, PeerNode, World
from deepio_core.testing.mischief import Mischief, pick_faults
from tests.core.worlds import meet


class Scene:
    """Two peers, connected, and one that idles."""

    def __init__(self, seed: int = 0) -> None:
        self.world = World(seed)
        self.alice, self.bob = self.world.add_peer("alice"), self.world.add_peer("bob")
        self.idle = self.world.add_peer("idle")
        meet(self.world, self.alice, self.bob)
        self.mischief = Mischief[PeerNode](self.world, [self.alice, self.bob, self.idle], STORM)

    def until(self, what: Callable[[], None], seen: Callable[[], object]) -> None:
        """Do it as often as chance asks for."""
        for _ in range(200):
            what()
            self.world.drain()
            if seen():
                return
        pytest.fail("never seen in 200 attempts")

    @property
    def lost_link(self) -> bool:
        return any(isinstance(event, outputs.SignalingLost) for event in (*self.alice.events, *self.bob.events))

    @property
    def ends(self) -> set[Cause]:
        return {
            event.cause
            for node in (self.alice, self.bob)
            for event in node.events
            if isinstance(event, outputs.Disconnected)
        }


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_runs_are_calm_rough_or_in_between() -> None:
    picked = [pick_faults(seed) for seed in range(400)]
    assert picked[0] == CALM
    assert picked[2] == picked[3] == STORM
    assert len(set(picked[1::4])) > 50
    assert Faults() == CALM


def test_actions_are_weighed_by_the_faults(scene: Scene) -> None:
    weights = {action.__name__: weight for action, weight in scene.mischief.actions}
    assert weights["cut"] == STORM.cut
    assert set(weights) == {"cut", "silence", "restart", "send_garbage", "jump", "hold", "break_engine"}
    calm = Mischief[PeerNode](scene.world, [scene.alice], CALM)
    assert not any(weight for _, weight in calm.actions)


def test_who_is_in_the_middle_of_something_is_hit(scene: Scene) -> None:
    assert {scene.mischief.pick_node().id for _ in range(50)} == {"alice", "bob"}
    scene.alice.link.cut()
    scene.alice.link.down.deliver()
    picked = [scene.mischief.pick_node().id for _ in range(100)]
    assert scene.alice.machine.stage is Stage.DETACHED
    assert picked.count("alice") > 60


def test_everybody_is_hit_where_nobody_does_anything() -> None:
    world = World()
    nodes = [world.add_peer(name) for name in "abc"]
    world.drain()
    mischief = Mischief[PeerNode](world, nodes, STORM)
    assert {mischief.pick_node().id for _ in range(50)} == set("abc")
    assert mischief.pick_engine() is None
    mischief.hold()
    mischief.break_engine()
    for node in nodes:
        node.link.finish(1006)
    assert mischief.pick_link() is None
    mischief.cut()
    mischief.silence()
    mischief.send_garbage()


def test_links_break() -> None:
    lost = 0
    for seed in range(20):
        scene = Scene(seed)
        scene.mischief.cut()
        scene.world.drain()
        lost += scene.lost_link
        # Whoever loses the link first is unpaired by the server, and so both part in any case.
        assert scene.ends
    assert lost


@pytest.mark.parametrize("expected", [inputs.SignalingFailed, inputs.SignalingClosed])
def test_links_break_while_they_open(expected: type[object]) -> None:
    for seed in range(20):
        world = World(seed)
        node = world.add_peer("a")
        Mischief[PeerNode](world, [node], STORM).cut()
        world.drain()
        assert node.machine.stage is Stage.CLOSED
        if isinstance(node.journal.entries[-1].event, expected):
            return
    pytest.fail("never seen")


def test_a_silent_link_breaks_in_the_end(scene: Scene) -> None:
    scene.until(scene.mischief.silence, lambda: scene.alice.link.up.held and scene.alice.link.down.held)
    assert not scene.lost_link
    scene.mischief.end()
    scene.world.drain()
    assert scene.lost_link


def test_the_server_restarts(scene: Scene) -> None:
    scene.mischief.restart()
    scene.world.drain()
    assert scene.idle.machine.stage is Stage.CLOSED


def test_garbage_arrives_over_both_ways() -> None:
    kinds = set[type[object]]()
    for seed in range(40):
        scene = Scene(seed)
        for _ in range(5):
            scene.mischief.send_garbage()
            scene.world.drain()
        kinds |= {type(event) for node in (scene.alice, scene.bob) for event in node.events}
    assert {outputs.DataIgnored, outputs.SignalIgnored} <= kinds


def test_time_jumps(scene: Scene) -> None:
    before = scene.world.now
    scene.mischief.jump()
    assert scene.world.now > before


def test_reports_are_held_back_until_the_end(scene: Scene) -> None:
    engine = scene.alice.engine
    assert engine is not None
    scene.until(scene.mischief.hold, lambda: engine.reports.held)
    scene.until(scene.mischief.hold, lambda: not engine.reports.held)
    engine.reports.held = True
    scene.mischief.end()
    assert not engine.reports.held


def test_engines_break_in_every_way() -> None:
    ends, muted, silent = set[Cause](), 0, 0
    for seed in range(40):
        scene = Scene(seed)
        scene.mischief.break_engine()
        engines = [node.engines[-1] for node in (scene.alice, scene.bob)]
        muted += any(engine.mute for engine in engines)
        silent += all(engine.ended and len(engine.reports.deliveries) == 1 for engine in engines)
        scene.world.drain()
        ends |= scene.ends
    assert ends >= {Cause.ENGINE, Cause.REMOTE_CLOSED}
    assert muted
    assert silent
