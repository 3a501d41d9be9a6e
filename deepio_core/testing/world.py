"""A world in memory: a real signaling server, any number of peers and sessions, virtual time, and a seed.

Nothing in it waits, and nothing happens by itself: whoever holds the world lets one message arrive (`step`), all of
them (`drain`), or time pass (`advance`). Messages of one connection keep their order; which of several connections is
next is drawn from the seed, so that the same calls with the same seed give the same run.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Final, NoReturn

from deepio_core.config import PeerConfig
from deepio_core.server import (
    AdmitPeer,
    ClosePeer,
    PeersPaired,
    RefusePeer,
    SendTo,
    ServerConfig,
    ServerInput,
    ServerOutput,
    SignalingServer,
)
from deepio_core.testing.engines import EngineRoom
from deepio_core.testing.nodes import PeerNode, SessionNode, Stranger
from deepio_core.testing.oracle import ViolationError
from deepio_core.testing.wires import Link, LinkOwner, Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_core.policy import SessionConfig
    from deepio_core.states import Stage, Trigger

_MOST_STEPS: Final = 100_000
"""More than any drain takes; a world that needs more is one in which two machines answer each other for ever."""

_PAIRED: Final = '{"type":"status","status":"paired"'


class World:
    """Peers, sessions, strangers and the signaling server between them.

    Args:
        seed: Decides the order of what could happen at the same time, and the jitter of sessions.
        server_config: Limits of the server.
        check_key: Which peers the server admits; see `SignalingServer`.
        now: The first time, seconds.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        server_config: ServerConfig | None = None,
        check_key: Callable[[str, str | None, str | None], bool] | None = None,
        now: float = 1000.0,
    ) -> None:
        self.seed = seed
        """The seed."""
        self.random = Random(seed)
        """Where all that is random is drawn from."""
        self.nodes: list[PeerNode | SessionNode] = []
        """The peers and sessions, in the order in which they came."""
        self.edges: Counter[tuple[Stage, Trigger]] = Counter()
        """How often the peers have taken each edge of `states.TRANSITIONS`."""
        self.serves = True
        """Whether the server can be reached; False: dialing fails."""
        self.loss = 0.0
        """How likely a data-channel message is lost, 0 to 1: the channels of DEEP cores are unreliable."""
        self.room = EngineRoom(self._complain, lambda: self.random.random() < self.loss)
        """Where the engines live."""
        self._now = now
        self._wires: list[Wire] = []
        self._links: dict[int, Link] = {}
        self._conns = 0
        self._pairings = 0
        self._server_config = server_config or ServerConfig()
        self._check_key = check_key
        self.server = self._make_server()
        """The signaling server; see `restart_server`."""

    # --- Who is there ----------------------------------------------------------------------------------------

    def add_peer(self, peer: str | PeerConfig, peer_type: str = "camera", *, key: str | None = None) -> PeerNode:
        """Add a bare `Peer`, for which commands have to be given.

        Args:
            peer: Its id, or all its settings.
            peer_type: Its type.
            key: Its key, if any.
        """
        config = PeerConfig(peer_id=peer) if isinstance(peer, str) else peer
        node = PeerNode(self, config, peer_type, key)
        self.nodes.append(node)
        return node

    def add_session(
        self, config: SessionConfig, peer_type: str = "stream_capture", *, key: str | None = None
    ) -> SessionNode:
        """Add a `Session`, which looks after itself.

        Args:
            config: Its settings.
            peer_type: Its type.
            key: Its key, if any.
        """
        seed = self.random.getrandbits(32)
        node = SessionNode(self, config, peer_type, lambda: Random(seed).random, key)
        self.nodes.append(node)
        return node

    def add_stranger(self, peer_id: str) -> Stranger:
        """Add a client that is none of ours."""
        return Stranger(self, peer_id)

    # --- What happens ----------------------------------------------------------------------------------------

    @property
    def now(self) -> float:
        """The time, seconds."""
        return self._now

    @property
    def deadline(self) -> float | None:
        """When something happens by itself; None: never."""
        times = [at for node in self.nodes if (at := node.deadline) is not None]
        times += [at for engine in self.room.engines if (at := engine.next_beat) is not None and engine.connected]
        return min(times, default=None)

    def step(self) -> bool:
        """Let one thing arrive, whatever the seed says; False if nothing is on its way."""
        self._wires = [wire for wire in self._wires if not wire.retired]
        ready = [wire for wire in self._wires if wire.deliveries and not wire.held]
        if not ready:
            return False
        self.random.choice(ready).deliver()
        return True

    def drain(self) -> int:
        """Let everything arrive, and all that comes of it; no time passes.

        Returns:
            How many things have arrived.
        """
        for steps in range(_MOST_STEPS):
            if not self.step():
                return steps
        raise ViolationError(f"the world does not come to rest\n{self.describe()}")

    def advance(self, seconds: float) -> None:
        """Let time pass over a fast network: everything arrives before the time moves, and is done when it is due."""
        end = self._now + seconds
        self.drain()
        while self.pass_to_deadline(end):
            self.drain()
        self._now = end

    def pass_to_deadline(self, latest: float) -> bool:
        """Let time pass until something is due, and do it; nothing arrives.

        Args:
            latest: The end of patience: nothing happens if the next deadline is later.

        Returns:
            Whether something was due.
        """
        deadline = self.deadline
        if deadline is None or deadline > latest:
            return False
        self.jump(max(0.0, deadline - self._now))
        for engine in self.room.engines:
            if engine.next_beat is not None and engine.next_beat <= self._now:
                engine.beat(self._now)
        return True

    def jump(self, seconds: float) -> None:
        """Let time pass at once, as for a machine that was suspended: nothing arrives, and deadlines have passed."""
        self._now += seconds
        for node in self.nodes:
            node.let_time_pass()

    def restart_server(self) -> None:
        """End the server, which breaks all links, and start a new one that knows nobody."""
        for link in list(self._links.values()):
            link.lose_server(down_kept=self.random.randrange(3))
        self.server = self._make_server()

    def describe(self) -> str:
        """The seed, the time and the newest entries of each journal."""
        head = f"World with seed {self.seed} at {self._now:.3f}"
        nodes = (f"--- {node.id}: {node.machine.stage}\n{node.journal.tail(40)}" for node in self.nodes)
        return "\n".join([head, *nodes])

    # --- What nodes and links ask of it ----------------------------------------------------------------------

    def make_wire(self) -> Wire:
        """A new wire."""
        wire = Wire()
        self._wires.append(wire)
        return wire

    def open_link(self, owner: LinkOwner, number: int, path: str) -> Link:
        """A new link to the server."""
        self._conns += 1
        link = self._links[self._conns] = Link(self, owner, self._conns, number, path)
        return link

    def count_edge(self, stage: Stage, trigger: Trigger) -> None:
        """Note that a peer has taken an edge."""
        self.edges[stage, trigger] += 1

    def tell_server(self, event: ServerInput) -> None:
        """Hand something to the server and do what it wants."""
        self.server.handle(event, now=self._now)
        said: list[ServerOutput] = []
        while (output := self.server.poll()) is not None:
            said.append(output)
        if any(isinstance(output, PeersPaired) for output in said):
            self._pairings += 1
        for output in said:
            self._perform(output)

    def _perform(self, output: ServerOutput) -> None:
        match output:
            case AdmitPeer():
                self._links[output.conn].admit()
            case RefusePeer():
                self._links.pop(output.conn).refuse(output.status, output.code, output.reason)
            case SendTo():
                paired = output.text.startswith(_PAIRED)
                self._links[output.conn].deliver(output.text, self._pairings if paired else None)
            case ClosePeer():
                self._links[output.conn].finish(output.code, output.reason)
            case _:
                pass

    def _make_server(self) -> SignalingServer:
        ids = Random(self.seed)
        return SignalingServer(self._server_config, lambda: f"peer{ids.getrandbits(40)}", self._check_key)

    def _complain(self, rule: str) -> NoReturn:
        raise ViolationError(f"{rule}\n{self.describe()}")
