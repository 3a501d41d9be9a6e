"""Two peers and a server in which nothing is drawn: whoever holds this world chooses what happens next.

Messages of one connection keep their order, as do the reports of one engine; everything else may overtake everything
else, and any deadline may pass at any moment, however quick the others are. The machines are the real ones, run as
automata; nodes and their connections have numbers too, so that a state of everything is three numbers.
"""

import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias

from deepio_core import closecodes, inputs, outputs, server_ports
from deepio_core.config import PeerConfig
from deepio_core.outputs import Cause
from deepio_core.peer import Peer
from deepio_core.server import SignalingServer
from deepio_core.states import Stage
from tests.core.automata import EXPIRED, Automaton, drive_peer, drive_server
from tests.core.peers import ANSWER, OFFER

NAMES: Final = ("alice", "bob")


class Engine(NamedTuple):
    """An engine without media. Two are partners once the one has applied the answer that the other has made to it."""

    tag: str
    """Whose it is and the number of its negotiation: what its descriptions carry."""
    reports: tuple[str, ...] = ()
    """What it has to report, in this order."""
    offer: str = ""
    """The tag of the offer that it has applied."""
    partner: str = ""
    """The tag of the engine at the other end of the data channel."""
    closed: bool = False

    @property
    def negotiation(self) -> int:
        """The number of its negotiation."""
        return int(self.tag.partition(":")[2])


class Node(NamedTuple):
    """A peer with its signaling connections, its engines, and what its application still has in mind."""

    side: int
    """0: Alice, 1: Bob."""
    peer: int
    """Number of the peer's state."""
    conn: int
    """Number of its newest signaling connection at the server; even for Alice, odd for Bob."""
    up: tuple[tuple[int, tuple[str, ...]], ...]
    """On the way to the server, for each connection."""
    down: tuple[str, ...]
    """On the way to the peer: messages, `opened`, and `closed` with the code."""
    engines: tuple[Engine, ...]
    plans: tuple[tuple[str, int], ...]
    """What may still happen to it, and how often."""

    def with_engine(self, tag: str, **changes: Any) -> "Node":
        """The same with other facts about an engine."""
        engines = (engine._replace(**changes) if engine.tag == tag else engine for engine in self.engines)
        return self._replace(engines=tuple(engines))

    def engine(self, tag: str) -> Engine | None:
        """The engine of that tag, if it runs."""
        return next((engine for engine in self.engines if engine.tag == tag and not engine.closed), None)

    def sending(self, item: str) -> "Node":
        """The same with one thing more on the way to the server, unless that connection is given up."""
        ups = (
            (conn, (*items, item)) if conn == self.conn and items[-1:] != (LEFT,) else (conn, items)
            for conn, items in self.up
        )
        return self._replace(up=tuple(ups))


State: TypeAlias = tuple[int, int, int]
"""Everything at one moment: the numbers of Alice's node, Bob's node and the server's state."""

Action: TypeAlias = tuple[int, str]
"""Which node, and what happens to it."""

ARRIVED: Final = "arrived"
LEFT: Final = "left"
"""The beginning and the end of a connection to the server, between the messages on it."""

OPENED: Final = "opened"
CLOSED: Final = "closed"
"""The same for the way back; the code of the end follows it."""

TAKES: Final = "server takes from connection "
"""The server takes the next thing from that connection of the peer."""
HEARS: Final = "hears"
"""The peer takes the next thing from the server."""

_COMMANDS: Final[dict[str, Callable[[str], inputs.Command]]] = {
    "listen": lambda _other: inputs.Listen(),
    "connect": lambda other: inputs.Connect(remote_id=other),
    "accept": lambda _other: inputs.Accept(),
    "disconnect": lambda _other: inputs.Disconnect(),
    "close": lambda _other: inputs.Close(),
}
_TAG: Final = re.compile(r"a=x-engine:(\S+)(?: answers (\S+))?")
_REPORTS: Final[dict[str, Callable[[Engine], inputs.EngineReport]]] = {
    "offer": lambda engine: inputs.LocalOffer(
        negotiation=engine.negotiation, sdp=f"{OFFER}a=x-engine:{engine.tag}\r\n"
    ),
    "answer": lambda engine: inputs.LocalAnswer(
        negotiation=engine.negotiation, sdp=f"{ANSWER}a=x-engine:{engine.tag} answers {engine.offer}\r\n"
    ),
    "opened": lambda engine: inputs.ChannelOpened(negotiation=engine.negotiation),
    "failed": lambda engine: inputs.EngineFailed(negotiation=engine.negotiation, cause=Cause.ENGINE),
    "closed": lambda engine: inputs.EngineClosed(negotiation=engine.negotiation),
}


class Crossing(NamedTuple):
    """What an engine does to the one of the other node."""

    kind: str
    """`join`: an answer is applied. `part`: the connection is closed. `vanish`: nothing gets through any more."""
    tag: str
    """The engine of the other node."""
    own: str = ""
    """The engine that it came from."""
    answered: str = ""
    """Whose offer the answer was made to."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the two applications do, in any order and at any time, and what else happens to their peers."""

    name: str
    alice: dict[str, int]
    """How often each: the commands, and `cut` (of the signaling connection), `fail` (of the engine), `outage` (of the
    network between the engines) and `return` (of a closed peer). Invitations are accepted, sooner or later."""
    bob: dict[str, int]
    starting: bool = False
    """Begin before the signaling connections are open."""


def _no_id() -> str:
    raise AssertionError("all peers here bring an id")


class SmallWorld:
    """Two peers and a server, one step at a time. Every step is worked out once.

    Args:
        server: The kind of server; another than ours if it shall be wrong.
    """

    def __init__(self, server: type[SignalingServer] = SignalingServer) -> None:
        self._server = server
        self._peers: Automaton[Peer] = Automaton(drive_peer)
        self._servers: Automaton[SignalingServer] = Automaton(drive_server)
        self._nodes: list[Node] = []
        self._numbers: dict[Node, int] = {}
        self.node = self._nodes.__getitem__
        self.stage = cache(self._stage)
        self.arrivals = cache(self._arrivals)
        self.decisions = cache(self._decisions)
        self._happen = cache(self._work_out)
        self._serve = cache(self._work_out_server)
        self._cross = cache(self._work_out_crossing)
        self._down = cache(self._work_out_down)
        self._up = cache(self._work_out_up)

    def begin(self, scenario: Scenario) -> State:
        """The first state."""
        alice, bob = (
            self._number(
                Node(index, self._new_peer(index), index, ((index, (ARRIVED,)),), (), (), tuple(plans.items()))
            )
            for index, plans in enumerate((scenario.alice, scenario.bob))
        )
        config = server_ports.ServerConfig(message_burst=10**9)
        state = alice, bob, self._servers.add(self._server(config, _no_id))
        return state if scenario.starting else self.rest(state)

    def _new_peer(self, index: int) -> int:
        peer = Peer(PeerConfig(peer_id=NAMES[index]), now=0.0)
        assert isinstance(peer.poll(), outputs.OpenSignaling)
        return self._peers.add(peer)

    def _number(self, node: Node) -> int:
        number = self._numbers.setdefault(node, len(self._nodes))
        if number == len(self._nodes):
            self._nodes.append(node)
        return number

    # --- Looking at a state ------------------------------------------------------------------------------------

    def _stage(self, number: int) -> Stage:
        """The stage of a node's peer."""
        return self._peers.look(self.node(number).peer).stage

    def together(self, state: State) -> bool:
        """Whether both are connected, and with each other."""
        alice, bob = (self.node(number) for number in state[:2])
        return (
            {self.stage(number) for number in state[:2]} <= {Stage.CONNECTED, Stage.DETACHED}
            and alice.engines[-1].partner == bob.engines[-1].tag
            and bob.engines[-1].partner == alice.engines[-1].tag
        )

    def describe(self, state: State) -> str:
        """A state in a line."""
        parts: list[str] = []
        for number in state[:2]:
            node = self.node(number)
            items = [item for _, items in node.up for item in items]
            reports = [engine.reports for engine in node.engines]
            parts.append(
                f"{NAMES[node.side]} {self.stage(number).value}, {len(items)} to the server, "
                f"{len(node.down)} from it, engines with {reports}"
            )
        return "; ".join(parts)

    # --- What can happen ---------------------------------------------------------------------------------------

    def _arrivals(self, number: int) -> tuple[str, ...]:
        """What can happen to a node without anybody's decision; a deadline last."""
        node = self.node(number)
        takes = [f"{TAKES}{conn}" for conn, items in node.up if items]
        hears = [HEARS] if node.down else []
        reports = [engine.tag for engine in node.engines if engine.reports]
        return (*takes, *hears, *reports, *([EXPIRED] if self._can_expire(number) else []))

    def _can_expire(self, number: int) -> bool:
        stage = self.stage(number)
        if stage in {Stage.CONNECTED, Stage.DETACHED}:
            # Partners keep each other from silence.
            return not self.node(number).engines[-1].partner
        return stage not in {Stage.ONLINE, Stage.LISTENING, Stage.CLOSED}

    def _decisions(self, number: int) -> tuple[str, ...]:
        accepts = ["accept"] if self.stage(number) is Stage.INVITED else []
        return (*accepts, *(plan for plan, count in self.node(number).plans if count))

    def act(self, state: State, action: Action) -> State | None:
        """The state after an action; None if it is not possible."""
        index, what = action
        if what.startswith(TAKES):
            return self._take(state, index, int(what[len(TAKES) :]))
        step = self._happen(state[index], what)
        if step is None:
            return None
        state = _put(state, index, step[0])
        for crossing in step[1]:
            alice, bob = self._cross(state[0], state[1], 1 - index, crossing)
            state = alice, bob, state[2]
        return state

    def _take(self, state: State, index: int, conn: int) -> State:
        """The server takes the next thing from a connection."""
        number, item = self._up(state[index], conn)
        state = _put(state, index, number)
        server, answers = self._serve(state[2], conn, item)
        state = state[0], state[1], server
        for to, answer in answers:
            state = _put(state, to % 2, self._down(state[to % 2], to, answer))
        return state

    def _work_out_up(self, number: int, conn: int) -> tuple[int, str]:
        """The node without the next thing on its way to the server, and that."""
        node = self.node(number)
        item = dict(node.up)[conn][0]
        ups = tuple((c, items[1:] if c == conn else items) for c, items in node.up if (c, items) != (conn, (LEFT,)))
        return self._number(node._replace(up=ups)), item

    def _work_out_server(self, server: int, conn: int, item: str) -> tuple[int, tuple[tuple[int, str], ...]]:
        """What the server makes of it: its next state, and what it says over which connection."""
        event: server_ports.ServerInput = server_ports.PeerSent(conn=conn, text=item)
        if item == ARRIVED:
            event = server_ports.PeerArrived(conn=conn, path=f"/t/{NAMES[conn % 2]}")
        elif item == LEFT:
            event = server_ports.PeerLeft(conn=conn)
        step = self._servers.step(server, event)
        assert step is not None, "a server refuses no input"
        answers: list[tuple[int, str]] = []
        for output in step[1]:
            match output:
                case server_ports.AdmitPeer():
                    answers.append((output.conn, OPENED))
                case server_ports.RefusePeer():
                    answers += [(output.conn, OPENED), (output.conn, f"{CLOSED} {output.code}")]
                case server_ports.SendTo():
                    answers.append((output.conn, output.text))
                case server_ports.ClosePeer():
                    raise AssertionError("nobody breaks a limit here")
                case _:
                    pass
        if item == LEFT:
            answers.append((conn, f"{CLOSED} {closecodes.NORMAL}"))
        return step[0], tuple(answers)

    def _work_out_down(self, number: int, conn: int, item: str) -> int:
        """One thing more on the way from the server, unless nobody is at the other end any more."""
        node = self.node(number)
        if conn != node.conn or (node.down and node.down[-1].startswith(CLOSED)):
            return number
        return self._number(node._replace(down=(*node.down, item)))

    def _work_out(self, number: int, what: str) -> tuple[int, tuple[Crossing, ...]] | None:
        """What happens to a node, and from it to the other one."""
        node = self.node(number)
        if what == HEARS:
            return self._feed(node._replace(down=node.down[1:]), _heard(node.down[0]))
        if what == EXPIRED:
            return self._feed(node, EXPIRED)
        if ":" in what:
            return self._report(node, what)
        plans = tuple((plan, count - (plan == what)) for plan, count in node.plans)
        node = node._replace(plans=plans)
        if what in _COMMANDS:
            return self._feed(node, _COMMANDS[what](NAMES[1 - node.side]))
        return self._suffer(node, what)

    def _suffer(self, node: Node, what: str) -> tuple[int, tuple[Crossing, ...]] | None:
        """What is nobody's command."""
        stage = self._peers.look(node.peer).stage
        newest = node.engines[-1] if node.engines else Engine("")
        if what == "return" and stage is Stage.CLOSED:
            crossings = tuple(Crossing("part", engine.partner) for engine in node.engines if engine.partner)
            return self._number(self._returned(node)), crossings
        if what == "cut" and stage not in {Stage.STARTING, Stage.DETACHED, Stage.CLOSED} and node.up:
            ups = tuple((conn, (LEFT,) if conn == node.conn else items) for conn, items in node.up)
            return self._number(node._replace(up=ups, down=(f"{CLOSED} {closecodes.ABNORMAL}",))), ()
        if what == "fail" and node.engine(newest.tag) is not None:
            return self._number(node.with_engine(newest.tag, reports=(*newest.reports, "failed"))), ()
        if what == "outage" and newest.partner:
            return self._number(node.with_engine(newest.tag, partner="")), (Crossing("vanish", newest.partner),)
        return None

    def _returned(self, node: Node) -> Node:
        """A new peer with the same id takes the place of a closed one, whose connection may still be known."""
        conn = node.conn + 2
        return node._replace(
            peer=self._new_peer(node.side), conn=conn, up=(*node.up, (conn, (ARRIVED,))), down=(), engines=()
        )

    def _report(self, node: Node, tag: str) -> tuple[int, tuple[Crossing, ...]] | None:
        engine = next(engine for engine in node.engines if engine.tag == tag)
        event = _REPORTS[engine.reports[0]](engine)
        if engine.reports[0] == "closed":
            node = node._replace(engines=tuple(other for other in node.engines if other is not engine))
        else:
            node = node.with_engine(tag, reports=engine.reports[1:])
        return self._feed(node, event)

    def _feed(self, node: Node, event: Hashable) -> tuple[int, tuple[Crossing, ...]] | None:
        """Put an input into a peer, and perform what it asks for."""
        step = self._peers.step(node.peer, event)
        if step is None:
            return None
        node = node._replace(peer=step[0])
        crossings: list[Crossing] = []
        for output in step[1]:
            node = _perform(node, output, crossings)
        return self._number(node), tuple(crossings)

    def _work_out_crossing(self, alice: int, bob: int, index: int, crossing: Crossing) -> tuple[int, int]:
        """What comes over from the other side to the node of `index`."""
        nodes = [self.node(alice), self.node(bob)]
        node = nodes[index]
        engine = node.engine(crossing.tag)
        if engine is not None and crossing.kind == "join":
            own = nodes[1 - index].engine(crossing.own)
            assert own is not None, "it has just applied an answer"
            if crossing.answered == crossing.own:
                nodes[index] = node.with_engine(engine.tag, partner=own.tag, reports=(*engine.reports, "opened"))
                nodes[1 - index] = nodes[1 - index].with_engine(
                    own.tag, partner=engine.tag, reports=(*own.reports, "opened")
                )
        elif engine is not None and crossing.kind == "part":
            nodes[index] = node.with_engine(engine.tag, partner="", closed=True, reports=(*engine.reports, "closed"))
        elif engine is not None:
            nodes[index] = node.with_engine(engine.tag, partner="")
        return self._number(nodes[0]), self._number(nodes[1])

    # --- Coming to rest, and meeting ---------------------------------------------------------------------------

    def calming(self, state: State) -> Action | None:
        """What happens next if nobody decides anything, a deadline only if nothing else can; None: nothing."""
        passive = [(index, what) for index in (0, 1) for what in self.arrivals(state[index])]
        return min(passive, key=lambda action: action[1] == EXPIRED, default=None)

    def rest(self, state: State) -> State:
        """Let happen what happens by itself."""
        for _ in range(1000):
            action = self.calming(state)
            if action is None:
                return state
            state = self._must(state, action)
        raise AssertionError(f"never comes to rest: {self.describe(state)}")

    def meet(self, state: State, caller: int) -> bool:
        """Whether two peers at rest are together, or come together when one calls the other, before a deadline."""
        if self.together(state):
            return True
        for index in (0, 1):
            if self.stage(state[index]) is Stage.CLOSED:
                state = self.rest(_put(state, index, self._number(self._returned(self.node(state[index])))))
        listener = 1 - caller
        if self.stage(state[listener]) is Stage.ONLINE:
            state = self.rest(self._must(state, (listener, "listen")))
        state = self._must(state, (caller, "connect"))
        while (action := self.calming(state)) is not None and action[1] != EXPIRED:
            state = self._must(state, action)
            if self.stage(state[listener]) is Stage.INVITED:
                state = self._must(state, (listener, "accept"))
        return self.together(state)

    def _must(self, state: State, action: Action) -> State:
        following = self.act(state, action)
        assert following is not None, f"{NAMES[action[0]]} cannot {action[1]}: {self.describe(state)}"
        return following


def _heard(item: str) -> inputs.SignalingInput:
    """What a peer is told of the next thing from the server."""
    if item == OPENED:
        return inputs.SignalingOpened()
    if item.startswith(CLOSED):
        return inputs.SignalingClosed(code=int(item.split()[1]))
    return inputs.SignalingReceived(text=item)


def _put(state: State, index: int, number: int) -> State:
    return (number, state[1], state[2]) if index == 0 else (state[0], number, state[2])


def _perform(node: Node, output: Any, crossings: list[Crossing]) -> Node:
    """Perform what a peer asks for, as far as its own node goes."""
    match output:
        case outputs.SendSignaling(text=text):
            return node.sending(text)
        case outputs.CloseSignaling():
            return node.sending(LEFT)
        case outputs.StartEngine(offerer=offerer):
            engine = Engine(f"{NAMES[node.side]}:{output.negotiation}", ("offer",) if offerer else ())
            return node._replace(engines=(*node.engines, engine))
        case outputs.ApplyOffer() | outputs.ApplyAnswer() | outputs.CloseEngine():
            running = node.engine(f"{NAMES[node.side]}:{output.negotiation}")
        case _:
            running = None
    if running is None:
        return node
    match output:
        case outputs.ApplyOffer(sdp=sdp):
            reports = (*running.reports, "answer")
            return node.with_engine(running.tag, offer=_TAG.findall(sdp)[0][0], reports=reports)
        case outputs.ApplyAnswer(sdp=sdp):
            answerer, answered = _TAG.findall(sdp)[0]
            crossings.append(Crossing("join", answerer, running.tag, answered))
            return node
        case _:
            if running.partner:
                crossings.append(Crossing("part", running.partner))
            return node.with_engine(running.tag, partner="", closed=True, reports=(*running.reports, "closed"))
