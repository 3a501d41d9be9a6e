"""What goes wrong in a world, drawn from its seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from deepio_core.states import Stage
from deepio_core.testing import garbage
from deepio_core.testing.nodes import Node

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepio_core.testing.engines import FakeEngine
    from deepio_core.testing.wires import Link
    from deepio_core.testing.world import World

N = TypeVar("N", bound=Node[Any])
"""The kind of node."""

RESTING: Final = frozenset({Stage.ONLINE, Stage.LISTENING, Stage.CONNECTED, Stage.DETACHED, Stage.CLOSED})
"""Where a peer may stay for as long as it likes."""

_FLEETING: Final = frozenset({Stage.OVERTAKEN, Stage.OFFERING, Stage.ANSWERING, Stage.OPENING, Stage.DETACHED})
"""Where peers are so seldom, or so briefly, that a fault hits few of them by chance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong in a run: weights beside the 100 of an ordinary delivery, 0 for never."""

    cut: float = 0
    """A link breaks, open or opening, and some of what is on its way is lost."""
    silence: float = 0
    """A link stops to carry anything, and breaks later."""
    restart: float = 0
    """The server is restarted."""
    crash: float = 0
    """A peer's process ends without a word, and a new one takes its place."""
    garbage: float = 0
    """Somebody sends a signal, or a data message, that makes no sense."""
    jump: float = 0
    """Time passes while nothing arrives."""
    hold: float = 0
    """An engine reports late."""
    fail: float = 0
    """An engine goes wrong, or closes."""
    misuse: float = 0
    """The application gives a command that is not possible."""
    stranger: float = 0
    """A client that is none of ours does what it likes."""
    loss: float = 0
    """How likely a data-channel message is lost, 0 to 1; no weight."""


CALM: Final = Faults()
"""Nothing goes wrong."""
STORM: Final = Faults(
    cut=4, silence=0.4, restart=0.2, crash=0.2, garbage=12, jump=2, hold=10, fail=6, misuse=2, stranger=1, loss=0.1
)
"""Everything does."""


def pick_faults(seed: int) -> Faults:
    """The faults of a run: none in every fourth, some of them in every fourth, and all of them in the others."""
    if seed % 4 == 0:
        return CALM
    if seed % 4 != 1:
        return STORM
    names = list(Faults.__dataclass_fields__)
    kept = {name for place, name in enumerate(names) if (seed // 4) >> place & 1}
    return Faults(**{name: getattr(STORM, name) if name in kept else 0 for name in names})


class Mischief(Generic[N]):
    """Does what goes wrong.

    Args:
        world: Where.
        nodes: To whom: rather to one that is in the middle of something.
        faults: How often.
    """

    def __init__(self, world: World, nodes: Sequence[N], faults: Faults) -> None:
        self._world = world
        self._nodes = nodes
        self._random = world.random
        self._faults = faults

    @property
    def actions(self) -> list[tuple[Callable[[], None], float]]:
        """What it can do, with the weight of each."""
        faults = self._faults
        return [
            (self.cut, faults.cut),
            (self.silence, faults.silence),
            (self.restart, faults.restart),
            (self.send_garbage, faults.garbage),
            (self.jump, faults.jump),
            (self.hold, faults.hold),
            (self.break_engine, faults.fail),
        ]

    def end(self) -> None:
        """Bring everything to an end that would else last: silent links break, late reports come."""
        for node in self._nodes:
            for link in node.links:
                if link.up.held:
                    link.cut()
            for engine in node.engines:
                engine.reports.held = False

    def pick_node(self) -> N:
        """A peer to be hit: rather one that is in the middle of something, best of something short."""
        hurried = [node for node in self._nodes if node.machine.stage in _FLEETING]
        if hurried and self._random.random() < 0.7:
            return self._random.choice(hurried)
        busy = [node for node in self._nodes if node.machine.stage not in RESTING or node.machine.remote_id is not None]
        return self._random.choice(busy or self._nodes)

    def pick_engine(self) -> FakeEngine | None:
        """The newest engine of such a peer; None if it lives no more."""
        engine = self.pick_node().engine
        return None if engine is None or engine.ended else engine

    def pick_link(self) -> Link | None:
        """The newest link of such a peer; None if it is ending."""
        link = self.pick_node().link
        return None if link.ending else link

    def cut(self) -> None:
        """Break a link; some of what is on its way still arrives."""
        link = self.pick_link()
        if link is None:
            return
        if not link.open and self._random.random() < 0.5:
            link.fail()
        else:
            code = self._random.choice((1006, 1006, 1005, 1001))
            link.cut(up_kept=self._random.randrange(3), down_kept=self._random.randrange(3), code=code)

    def silence(self) -> None:
        """Let a link carry nothing, in both directions."""
        link = self.pick_link()
        if link is not None:
            link.up.held = link.down.held = True

    def restart(self) -> None:
        """Restart the server."""
        self._world.restart_server()

    def send_garbage(self) -> None:
        """Let a peer hear what makes no sense."""
        if self._random.random() < 0.2:
            engine = self.pick_engine()
            if engine is not None and engine.connected:
                engine.receive(garbage.data(self._random))
            return
        link = self.pick_link()
        if link is not None and link.open:
            ids = [*(node.id for node in self._nodes), "forged"]
            link.deliver(garbage.signal(self._random, ids), pairing=0)

    def jump(self) -> None:
        """Let time pass while nothing arrives."""
        self._world.jump(self._random.choice((0.5, 2.5, 6.0, 20.0)))

    def hold(self) -> None:
        """Let an engine report late, or no longer."""
        engine = self.pick_engine()
        if engine is not None:
            engine.reports.held = not engine.reports.held

    def break_engine(self) -> None:
        """Let an engine fail, lose the network, or close, with or without what it had to report."""
        engine = self.pick_engine()
        if engine is None:
            return
        match self._random.randrange(4):
            case 0:
                engine.fail()
            case 1:
                engine.lose_network()
            case how:
                if how == 3:
                    engine.reports.keep(0)
                engine.close()
