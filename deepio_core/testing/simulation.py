"""A run of peers that do what they may, in a world where everything goes wrong, judged by the oracle.

A simulation draws everything from its seed: how many peers there are, which faults there will be, what each peer is
told to do (from the transition table, so that every command is possible), and what arrives next. Then it lets the
dust settle and demands that any two peers can still meet.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from deepio_core import inputs, outputs
from deepio_core.config import PeerConfig
from deepio_core.errors import LocalProtocolError
from deepio_core.outputs import Cause
from deepio_core.server import ServerConfig
from deepio_core.states import COMMANDS, TRANSITIONS, PeerState, Stage, Trigger
from deepio_core.testing import garbage
from deepio_core.testing.mischief import CALM, RESTING, Faults, Mischief, pick_faults
from deepio_core.testing.nodes import PeerNode
from deepio_core.testing.oracle import ViolationError
from deepio_core.testing.world import World

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepio_core.testing.nodes import Stranger

SETTLING_TIME: Final = 120.0
"""Virtual seconds after which every peer has come to rest: all its timeouts one after the other take less."""

CALM_CAUSES: Final = frozenset(
    {
        Cause.LOCAL,
        Cause.REMOTE_LEFT,
        Cause.REMOTE_CLOSED,
        Cause.NOT_FOUND,
        Cause.BUSY,
        Cause.CROSSED,
        Cause.REPAIRED,
        Cause.NOT_PAIRED,
        Cause.ID_IN_USE,
    }
)
"""Why connections fail and end when nothing is broken. The last one: who closes a link that still opens and dials again
at once may be faster than the server."""

_LEAVING: Final = frozenset({Stage.PARTING, Stage.LEAVING, Stage.DRAINING, Stage.UNPAIRING})

CALM_SIGNALS: Final[dict[str, frozenset[Stage]]] = {
    # The remote peer had sent it before it knew that we leave. A late one may even follow `unpair` and `unpaired`,
    # but never across a pairing: the order of the link sees to that.
    "an offer that is not awaited": _LEAVING,
    "an answer that is not awaited": _LEAVING,
    "a candidate that is not awaited": _LEAVING,
    # We gave up before the server's reply came.
    "paired with": _LEAVING,
    # The same; and what a third peer did meanwhile may have ended the attempt before its reply came.
    "error ERR_PEER_BUSY": _LEAVING | {Stage.ONLINE, Stage.LISTENING},
    "error ERR_PEER_NOT_FOUND": _LEAVING | {Stage.ONLINE, Stage.LISTENING},
    # The server's answer to what we sent through a pairing that the remote peer had just left.
    "error ERR_BAD_STATE": _LEAVING | {Stage.ONLINE, Stage.LISTENING, Stage.PAIRING, Stage.OVERTAKEN},
}
"""The signals that peers ignore when nothing is broken: how the detail begins, and in which stages. All are races
between two peers that each do what they may."""

_WEIGHTS: Final = {
    Trigger.LIST_PEERS: 2,
    Trigger.LISTEN: 12,
    Trigger.CONNECT: 12,
    Trigger.ACCEPT: 30,
    Trigger.DISCONNECT: 2,
    Trigger.SEND: 3,
    Trigger.CLOSE: 0.5,
}
"""How often a peer is given each of the commands that are possible."""


class Simulation:
    """One run.

    Args:
        seed: Decides everything.
        steps: How much happens before the dust settles.
        faults: What goes wrong; None: as `pick_faults` says.
    """

    def __init__(self, seed: int, *, steps: int = 80, faults: Faults | None = None) -> None:
        self.faults = pick_faults(seed) if faults is None else faults
        """What goes wrong."""
        self.world = World(seed, server_config=ServerConfig(message_burst=100_000))
        """Where it happens."""
        self.world.loss = self.faults.loss
        self.peers: list[PeerNode] = []
        """The peers."""
        self.ignored: Counter[tuple[Stage, str]] = Counter()
        """The signals that peers have ignored, by stage and detail."""
        self._steps = steps
        self._random = self.world.random
        for number in range(self._random.choice((2, 2, 3, 3, 4))):
            node = self.world.add_peer(PeerConfig(peer_id=f"peer{number}"))
            node.listeners.append(self._judge)
            self.peers.append(node)
        self._strangers: list[Stranger] = []
        if self.faults.stranger:
            self._strangers.append(self.world.add_stranger("stranger"))
        self._mischief = Mischief[PeerNode](self.world, self.peers, self.faults)
        self._actions = self._weigh_actions()

    def run(self) -> None:
        """Do it all.

        Raises:
            ViolationError: A rule is broken; the text holds the seed and the journals.
        """
        self._open()
        actions, weights = zip(*self._actions, strict=True)
        for action in self._random.choices(actions, weights, k=self._steps):
            action()
        self.settle()
        self.probe()

    # --- What happens ----------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Bring two peers some way towards each other: by chance alone few runs would get far."""
        self.world.drain()
        caller, listener, *others = self._random.sample(self.peers, len(self.peers))
        listener.handle(inputs.Listen())
        crossed = self._random.random() < 0.4
        if crossed:
            caller.handle(inputs.Listen())
        self.world.drain()
        caller.handle(inputs.Connect(remote_id=listener.id))
        if crossed:
            self._random.choice([listener, *others]).handle(inputs.Connect(remote_id=caller.id))
        for _ in range(self._random.randrange(30)):
            self.world.step()
            if listener.machine.stage is Stage.INVITED:
                listener.handle(inputs.Accept())
            if self.faults.hold and self._random.random() < 0.12:
                self._mischief.hold()
        if self.faults.cut and caller.machine.state is PeerState.CONNECTED and self._random.random() < 0.5:
            caller.link.cut()

    def _weigh_actions(self) -> list[tuple[Callable[[], Any], float]]:
        faults = self.faults
        return [
            (self._step, 100),
            (self._command, 12),
            (self._live_engine, 10),
            (self._tick, 5),
            (self._crash, faults.crash),
            (self._misuse, faults.misuse),
            (self._act_strange, faults.stranger),
            *self._mischief.actions,
        ]

    def _step(self) -> None:
        """Something arrives; if nothing is on its way, somebody does something."""
        if not self.world.step():
            self._command()

    def _command(self) -> None:
        """Give a peer a command that is possible."""
        node = self._mischief.pick_node() if self._random.random() < 0.3 else self._random.choice(self.peers)
        stage = node.machine.stage
        if stage is Stage.CLOSED:
            node.start_again()
            return
        possible = [trigger for trigger in TRANSITIONS[stage] if trigger in COMMANDS]
        if possible:
            weights = [_WEIGHTS[trigger] for trigger in possible]
            node.handle(self._make_command(node, self._random.choices(possible, weights)[0]))

    def _make_command(self, node: PeerNode, trigger: Trigger) -> inputs.Command:
        match trigger:
            case Trigger.LIST_PEERS:
                return inputs.ListPeers()
            case Trigger.LISTEN:
                return inputs.Listen()
            case Trigger.CONNECT:
                return inputs.Connect(remote_id=self._random.choice(self._others(node)))
            case Trigger.ACCEPT:
                return inputs.Accept()
            case Trigger.DISCONNECT:
                return inputs.Disconnect()
            case Trigger.SEND:
                return inputs.Send(data={"type": "note", "from": node.id})
            case _:
                return inputs.Close()

    def _others(self, node: PeerNode) -> Sequence[str]:
        """Whom a peer may call: mostly one that listens."""
        others = [other for other in self.peers if other is not node]
        listeners = [other.id for other in others if other.machine.stage is Stage.LISTENING] * 20
        strangers = [stranger.id for stranger in self._strangers]
        return [*listeners, *(other.id for other in others), *strangers, "nobody"]

    def _live_engine(self) -> None:
        """An engine does what engines do at any time."""
        engine = self._mischief.pick_engine()
        if engine is not None:
            note = '{"type":"note"}'
            partner = engine.partner or engine
            self._random.choice(
                (
                    engine.gather,
                    lambda: engine.gather(early=True),
                    lambda: engine.beat(self.world.now),
                    lambda: partner.send(note),
                )
            )()

    def _tick(self) -> None:
        """A little time passes: no deadline comes so soon after what has started it."""
        self.world.jump(0.001)

    # --- Faults ----------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        node = self._random.choice(self.peers)
        node.crash()
        node.start_again()

    def _misuse(self) -> None:
        """Give a command that the table does not list: it is refused, and the node sees that nothing changes."""
        node = self._random.choice(self.peers)
        row = TRANSITIONS[node.machine.stage]
        refused = [trigger for trigger in Trigger if trigger in COMMANDS and trigger not in row]
        command = self._make_command(node, self._random.choice(refused))
        try:
            node.handle(command)
        except LocalProtocolError:
            return
        raise ViolationError(f"{command} is refused while {node.machine.stage.value}\n{self.world.describe()}")

    def _act_strange(self) -> None:
        stranger = self._random.choice(self._strangers)
        if self._random.random() < 0.1:
            stranger.leave()
        else:
            stranger.say(garbage.command(self._random, [node.id for node in self.peers]))

    # --- Judging ---------------------------------------------------------------------------------------------

    def _judge(self, event: object) -> None:
        """Count what is ignored; in a calm run judge it, and every reason for a failure."""
        if isinstance(event, outputs.SignalIgnored):
            self.ignored[event.stage, event.detail] += 1
        if self.faults != CALM:
            return
        match event:
            case outputs.SignalIgnored(stage=stage, detail=detail):
                fits = any(detail.startswith(start) and stage in stages for start, stages in CALM_SIGNALS.items())
                self._demand(fits, f"nothing but a race is ignored in a calm run, not {event}")
            case outputs.ConnectionFailed(cause=cause) | outputs.Disconnected(cause=cause):
                self._demand(cause in CALM_CAUSES, f"nothing breaks in a calm run: {event}")
            case outputs.PeersNotListed(cause=cause):
                # What the link is lost for stands in the PeerClosed that follows.
                calm = cause in {Cause.LOCAL, Cause.SIGNALING_LOST}
                self._demand(calm, f"nothing is lost in a calm run: {event}")
            case outputs.PeerClosed(cause=cause):
                self._demand(cause in {Cause.LOCAL, Cause.ID_IN_USE}, f"nothing is lost in a calm run: {event}")
            case outputs.SignalingLost():
                self._demand(False, "no link breaks in a calm run")
            case _:
                pass

    def settle(self) -> None:
        """End the faults, give no more commands, and wait until every peer has come to rest."""
        for stranger in self._strangers:
            stranger.leave()
        self._mischief.end()
        self.world.loss = 0.0
        end = self.world.now + SETTLING_TIME
        self.world.drain()
        if self.faults == CALM:
            self._accept_all()
        while not all(self._rests(node) for node in self.peers):
            deadline = self.world.deadline
            self._demand(deadline is not None and deadline < end, "every peer comes to rest")
            self.world.advance(max(0.0, (deadline or end) - self.world.now))
        if self.faults == CALM:
            expired = [stage.value for (stage, trigger) in self.world.edges if trigger is Trigger.EXPIRED]
            self._demand(not expired, f"nothing times out in a calm run: {expired}")

    def _accept_all(self) -> None:
        """The application does its part: who is invited accepts."""
        for node in self.peers:
            if node.machine.stage is Stage.INVITED:
                node.handle(inputs.Accept())
        self.world.drain()

    def _rests(self, node: PeerNode) -> bool:
        if node.machine.state is PeerState.CONNECTED:
            return node.engines[-1].healthy
        return node.machine.stage in RESTING

    def probe(self) -> None:
        """Any two peers can meet, at once and without a timeout."""
        for node in self.peers:
            if node.machine.state is PeerState.CONNECTED:
                node.handle(inputs.Disconnect())
                self.world.drain()
        for node in self.peers:
            if node.machine.stage is Stage.CLOSED:
                node.start_again()
                self.world.drain()
        before = self.world.now
        for listener in self.peers:
            caller = self._random.choice([node for node in self.peers if node is not listener])
            self._meet(caller, listener)
        self._demand(self.world.now == before, "no time passes")

    def _meet(self, caller: PeerNode, listener: PeerNode) -> None:
        names = f"{caller.id} and {listener.id}"
        for node in self.peers:
            agreed = self.world.server.remote_of(node.id) is None or self.faults.garbage > 0
            self._demand(agreed, f"the server, unless forged, holds nobody at rest for paired: {node.id}")
        if listener.machine.stage is Stage.ONLINE:
            listener.handle(inputs.Listen())
            self.world.drain()
        caller.handle(inputs.Connect(remote_id=listener.id))
        self.world.drain()
        self._demand(listener.machine.stage is Stage.INVITED, f"{names} can be paired")
        listener.handle(inputs.Accept())
        self.world.drain()
        for node, other in ((caller, listener), (listener, caller)):
            self._demand(
                node.machine.stage is Stage.CONNECTED and node.machine.remote_id == other.id, f"{names} can meet"
            )
        for node, other in ((caller, listener), (listener, caller)):
            node.handle(inputs.Send(data={"hello": other.id}))
            self.world.drain()
            self._demand(other.events[-1] == outputs.DataReceived(data={"hello": other.id}), f"{names} can talk")
        caller.handle(inputs.Disconnect())
        self.world.drain()
        for node in (caller, listener):
            self._demand(node.machine.stage is Stage.ONLINE, f"{names} can part")

    def _demand(self, holds: bool, rule: str) -> None:
        if not holds:
            raise ViolationError(f"{rule}\n{self.world.describe()}")
