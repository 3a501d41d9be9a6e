"""Who lives in a world: a machine with its links and engines, and a stranger without one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

from deepio_core import inputs, outputs
from deepio_core.address import encode_segment
from deepio_core.errors import LocalProtocolError
from deepio_core.peer import Peer
from deepio_core.server import SignalingServer
from deepio_core.session import Session
from deepio_core.states import Stage
from deepio_core.testing.engines import EngineRoom, FakeEngine
from deepio_core.testing.journal import Journal, Machine, Start, Timeout
from deepio_core.testing.oracle import PeerWatch, SessionWatch, ViolationError, Watch
from deepio_core.testing.wires import Link, LinkOwner, Wire

if TYPE_CHECKING:
    from deepio_core.config import PeerConfig
    from deepio_core.policy import SessionConfig
    from deepio_core.states import Trigger

EFFECTS: Final = (
    outputs.OpenSignaling,
    outputs.SendSignaling,
    outputs.CloseSignaling,
    outputs.StartEngine,
    outputs.ApplyOffer,
    outputs.ApplyAnswer,
    outputs.ApplyCandidate,
    outputs.SendChannel,
    outputs.CloseEngine,
)
"""The outputs that a node performs; all others are events."""

_OWED: Final = frozenset({Stage.LEAVING, Stage.UNPAIRING})
"""Who gives up here has not heard what the server said last. Signals carry no number, so that from then on such a peer
cannot know which pairing they belong to, until it has a new link."""

Listener: TypeAlias = Callable[[Any], None]
"""Called with each event of a node, after the machine is drained: it may hand in commands."""


class Surroundings(Protocol):
    """The world, as its nodes see it."""

    @property
    def now(self) -> float:
        """The time, seconds."""
        ...

    @property
    def room(self) -> EngineRoom:
        """Where the engines live."""
        ...

    @property
    def server(self) -> SignalingServer:
        """The signaling server."""
        ...

    def make_wire(self) -> Wire:
        """A new wire."""
        ...

    def open_link(self, owner: LinkOwner, number: int, path: str) -> Link:
        """A new link to the server."""
        ...

    def count_edge(self, stage: Stage, trigger: Trigger) -> None:
        """Note that an edge was taken."""
        ...

    def describe(self) -> str:
        """The seed and the newest entries of all journals, for people."""
        ...


M = TypeVar("M", bound=Peer | Session)
"""The kind of machine."""


class Node(Generic[M]):
    """A machine in a world, with its links, engines, journal and watch; see `PeerNode` and `SessionNode`."""

    machine: M
    """The machine."""

    def __init__(self, world: Surroundings, peer_id: str, peer_type: str, key: str | None) -> None:
        self.id = encode_segment(peer_id)
        """The peer's id, as the peer list shows it."""
        self.type = encode_segment(peer_type)
        """The peer's type, as the peer list shows it."""
        self.events: list[Any] = []
        """Every event that the machine has told, oldest first."""
        self.listeners: list[Listener] = []
        """Who is told of each event."""
        self.links: list[Link] = []
        """Every link that was ever opened."""
        self.engines: list[FakeEngine] = []
        """Every engine that was ever started."""
        self.journal = Journal()
        """What happened to the machine."""
        self.lives: list[tuple[Journal, Callable[[float], Machine]]] = []
        """The journal of each machine that this node has had, and how to make one for `replay`."""
        self.alarm: float | None = None
        """When to call `on_alarm`, once; not later than the world's time reaches it."""
        self.on_alarm: Callable[[], None] = self._sleep
        """Called at `alarm`."""
        self._world = world
        path = f"/{self.type}/{self.id}"
        self._path = path if key is None else f"{path}/{encode_segment(key)}"
        self._watch = Watch()
        self._pairing: int | None = None
        self._lost_count = False
        self._untold: deque[Any] = deque()
        self._telling = False

    @property
    def link(self) -> Link:
        """The newest link."""
        return self.links[-1]

    @property
    def engine(self) -> FakeEngine | None:
        """The newest engine; None if none was started yet."""
        return self.engines[-1] if self.engines else None

    @property
    def deadline(self) -> float | None:
        """When `let_time_pass` has something to do."""
        return min((at for at in (self.machine.deadline, self.alarm) if at is not None), default=None)

    def handle(self, event: Any) -> None:
        """Hand something to the machine and do what it wants.

        Raises:
            LocalProtocolError: The command is not possible now; nothing has changed.
        """
        self._call(event, lambda: self.machine.handle(event, now=self._world.now))

    def let_time_pass(self) -> None:
        """Tell the machine, and `on_alarm`, if their time has come."""
        if self.alarm is not None and self.alarm <= self._world.now:
            self.alarm = None
            self.on_alarm()
        deadline = self.machine.deadline
        if deadline is not None and deadline <= self._world.now:
            self._call(Timeout(), lambda: self.machine.handle_timeout(now=self._world.now))

    def report(self, event: inputs.SignalingInput, pairing: int | None) -> None:
        """Take what a link reports."""
        if pairing is not None:
            self._pairing = pairing or None
        self.handle(event)

    def take_report(self, report: inputs.EngineReport) -> None:
        """Take what an engine reports."""
        self.handle(report)

    def crash(self) -> None:
        """End without a word, as a process that is killed: links break, engines vanish."""
        for link in self.links:
            link.cut()
            link.down.retire()
        for engine in self.engines:
            engine.vanish()

    def _live(self, machine: M, watch: Watch, factory: Callable[[float], Machine]) -> None:
        """Begin with a new machine."""
        self.machine = machine
        self.journal = Journal()
        self.lives.append((self.journal, factory))
        self._watch = watch
        self._call(Start(), lambda: None)

    def _call(self, event: object, call: Callable[[], None]) -> None:
        before = self.machine.stage, self.machine.deadline
        try:
            said = self.journal.record(self.machine, self._world.now, event, call)
            self._watch.took(event)
            for output in said:
                self._watch.said(output)
                if isinstance(output, EFFECTS):
                    self._perform(output)
                else:
                    self.events.append(output)
                    self._untold.append(output)
            self._watch.rested(self.machine, self._world.now)
            if isinstance(event, Timeout) and before[0] in _OWED and self.machine.stage is not before[0]:
                self._lost_count = True
        except LocalProtocolError as error:
            if self.journal.entries[-1].outputs or before != (self.machine.stage, self.machine.deadline):
                raise ViolationError(
                    f"{self.id}: a refused command changes nothing\n{self._world.describe()}"
                ) from error
            raise
        except Exception as error:
            error.add_note(f"{self.id} broke a rule.\n{self._world.describe()}")
            raise
        self._tell()

    def _tell(self) -> None:
        if self._telling:
            return  # a listener has handed in a command: its events come after those that are being told
        self._telling = True
        try:
            while self._untold:
                event = self._untold.popleft()
                for listener in self.listeners:
                    listener(event)
        finally:
            self._telling = False

    def _perform(self, effect: outputs.Effect) -> None:
        match effect:
            case outputs.OpenSignaling():
                self.links.append(self._world.open_link(self, effect.link, self._path))
                self._lost_count = False
            case outputs.SendSignaling():
                self.link.send(effect.text)
            case outputs.CloseSignaling():
                self.link.close(effect.code)
            case outputs.StartEngine():
                wire = self._world.make_wire()
                pairing = None if self._lost_count else self._pairing
                engine = FakeEngine(
                    self._world.room, self, wire, effect.negotiation, offerer=effect.offerer, pairing=pairing
                )
                self.engines.append(engine)
            case _:
                # The watch has seen that it is for the newest engine, the only one open.
                self._use_engine(self.engines[-1], effect)

    def _use_engine(self, engine: FakeEngine, effect: outputs.Effect) -> None:
        match effect:
            case outputs.ApplyOffer():
                engine.apply_offer(effect.sdp)
            case outputs.ApplyAnswer():
                engine.apply_answer(effect.sdp, self._world.now)
            case outputs.ApplyCandidate():
                engine.apply_candidate(effect.candidate)
            case outputs.SendChannel():
                engine.send(effect.text)
            case _:
                engine.close()

    def _sleep(self) -> None:
        """Nobody has set an alarm of its own."""


class PeerNode(Node[Peer]):
    """A `Peer` in a world, and the next one after it.

    Args:
        world: The world.
        config: The settings.
        peer_type: The peer's type.
        key: The peer's key, if any.
    """

    def __init__(self, world: Surroundings, config: PeerConfig, peer_type: str, key: str | None = None) -> None:
        super().__init__(world, config.peer_id, peer_type, key)
        self.config = config
        """The settings."""
        self._begin(1, 1)

    def start_again(self) -> None:
        """Dial again with a new peer: the old one is closed, or its process is gone."""
        self._begin(self.machine.link + 1, self.machine.negotiation + 1)

    def _begin(self, link: int, first_negotiation: int) -> None:
        config, world = self.config, self._world
        peer = Peer(config, now=world.now, link=link, first_negotiation=first_negotiation, observer=world.count_edge)
        self._live(peer, PeerWatch(), lambda now: Peer(config, now=now, link=link, first_negotiation=first_negotiation))


class SessionNode(Node[Session]):
    """A `Session` in a world.

    Args:
        world: The world.
        config: The settings.
        peer_type: The peer's type.
        jitter: Makes the source of randomness for delays.
        key: The peer's key, if any.
    """

    def __init__(
        self,
        world: Surroundings,
        config: SessionConfig,
        peer_type: str,
        jitter: Callable[[], Callable[[], float]],
        key: str | None = None,
    ) -> None:
        super().__init__(world, config.peer.peer_id, peer_type, key)
        self._live(
            Session(config, now=world.now, random=jitter()),
            SessionWatch(),
            lambda now: Session(config, now=now, random=jitter()),
        )

    @property
    def session(self) -> Session:
        """The machine."""
        return self.machine


class Stranger:
    """A client of the server that is none of ours: says what it likes, and ignores what it hears.

    Args:
        world: The world.
        peer_id: Its id.
        peer_type: Its type.
    """

    def __init__(self, world: Surroundings, peer_id: str, peer_type: str = "stranger") -> None:
        self.id = peer_id
        """Its id."""
        self.heard: list[str | bytes] = []
        """What the server, or a peer through it, has said."""
        self._world = world
        self._path = f"/{peer_type}/{peer_id}"
        self.link = world.open_link(self, 1, self._path)
        """Its newest link."""

    def say(self, text: str) -> None:
        """Send a message; without a link, dial again first."""
        if self.link.ending:
            self.link = self._world.open_link(self, self.link.number + 1, self._path)
        self.link.send(text)

    def leave(self) -> None:
        """Close the link."""
        self.link.close(1000)

    def report(self, event: inputs.SignalingInput, pairing: int | None) -> None:
        """Take what the link reports."""
        del pairing
        if isinstance(event, inputs.SignalingReceived):
            self.heard.append(event.text)
