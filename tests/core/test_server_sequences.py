"""The server role under any sequence of anything: a second bookkeeping, kept from what the server tells, must agree."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from deepio_core.server import (
    AdmitPeer,
    ClosePeer,
    HookFailed,
    MessageDropped,
    PeerArrived,
    PeerDeparted,
    PeerJoined,
    PeerLeft,
    PeerSent,
    PeersPaired,
    PeersUnpaired,
    RefusePeer,
    SendTo,
    ServerConfig,
    ServerInput,
    ServerOutput,
    SignalingServer,
)

pytestmark = pytest.mark.search

UNPAIRED = '{"type":"status","status":"unpaired"}'
NAMES = st.sampled_from(["a", "b", "c"])
NOBODY = 0
"""Number of a connection that never was."""

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
ODD_MESSAGES = st.fixed_dictionaries(
    {"type": st.sampled_from(["status", "peers", "error", "offer", "pair", "Pair", None, 5, ["status"]])},
    optional={"remotePeerId": NAMES | JSON_VALUES, "status": JSON_VALUES},
)
TEXTS: st.SearchStrategy[str | bytes] = (
    st.text(st.characters(codec=None), max_size=80)
    | st.binary(max_size=80)
    | JSON_VALUES.map(json.dumps)
    | ODD_MESSAGES.map(json.dumps)
    | ODD_MESSAGES.map(lambda message: json.dumps(message, ensure_ascii=False).encode("utf-8", "replace"))
)
BAD_TEXTS = ["null", UNPAIRED, "[" * 65 + "]" * 65, "[" + "1e15," * 19 + "1]", "y" * 101]
PATHS = (
    st.sampled_from(["/t", "/t/a/k", "/u/b?x", "/t/a.b", "", "/t/a/b/c/d"])
    | st.text(max_size=10)
    | st.from_regex(r"/[a-z%]{1,3}/[a-z~]{1,3}", fullmatch=True)
)
MAX_SIZE = 100


def may_be_relayed(text: str | bytes) -> bool:
    try:
        message = json.loads(text)
    except ValueError:
        return False
    if isinstance(message, dict):
        return message.get("type") not in ["status", "peers", "error", "listPeers", "ready", "pair", "unpair"]
    return message is not None


class AnySequence(RuleBasedStateMachine):
    """Clients that do anything, many of them to the point."""

    @initialize(burst=st.sampled_from([5, 100_000]), max_peers=st.sampled_from([2, 100]))
    def start(self, burst: int, max_peers: int) -> None:
        self.max_peers = max_peers
        numbers = count(1)
        self.server = SignalingServer(
            ServerConfig(
                messages_per_second=1.0,
                message_burst=burst,
                max_peers=max_peers,
                max_message_size=MAX_SIZE,
            ),
            lambda: f"peer{next(numbers)}",
        )
        self.now = 0.0
        self.conns = count(NOBODY + 1)
        self.ids: dict[int, str] = {}
        self.busy: dict[str, bool] = {}
        self.remotes: dict[str, str] = {}

    # --- The books -----------------------------------------------------------------------------------------------

    def feed(self, incoming: ServerInput) -> list[ServerOutput]:
        """Hand in, take out, keep the books, and check that each output may stand where it does."""
        self.server.handle(incoming, now=self.now)
        outputs = list(self.drain())
        for output in outputs:
            self.enter(incoming, output)
        return outputs

    def drain(self) -> Iterator[ServerOutput]:
        while (output := self.server.poll()) is not None:
            yield output

    def enter(self, incoming: ServerInput, output: ServerOutput) -> None:
        match output:
            case AdmitPeer() | RefusePeer():
                assert isinstance(incoming, PeerArrived)
                assert output.conn not in self.ids
            case PeerJoined():
                assert output.peer_id not in self.ids.values()
                self.ids[output.conn] = output.peer_id
                self.busy[output.peer_id] = True
            case PeerDeparted():
                assert self.ids.pop(output.conn) == output.peer_id
                assert output.peer_id not in self.remotes
                del self.busy[output.peer_id]
            case PeersPaired():
                assert not {output.caller_id, output.listener_id} & set(self.remotes)
                self.remotes |= {
                    output.caller_id: output.listener_id,
                    output.listener_id: output.caller_id,
                }
                self.busy |= {output.caller_id: True, output.listener_id: True}
            case PeersUnpaired():
                assert self.remotes.pop(output.caller_id) == output.listener_id
                assert self.remotes.pop(output.listener_id, output.caller_id) == output.caller_id
            case SendTo():
                assert output.conn in self.ids
                assert json.loads(output.text.encode()) is not None
            case ClosePeer():
                assert isinstance(incoming, PeerSent)
                assert output.conn == incoming.conn
                assert output.conn in self.ids
            case MessageDropped():
                assert isinstance(incoming, PeerSent)
                assert output.conn == incoming.conn
            case HookFailed():
                raise AssertionError("nothing of the application is broken here")

    @invariant()
    def the_books_agree(self) -> None:
        peers = self.server.peers
        assert [peer.id for peer in peers] == list(self.ids.values())
        assert len(set(self.ids.values())) == len(self.ids) <= self.max_peers
        for peer in peers:
            remote = self.server.remote_of(peer.id)
            assert remote == self.remotes.get(peer.id)
            assert remote is None or self.server.remote_of(remote) == peer.id
            # Paired means busy, unless the peer has sent `ready` since: that is what our books hold.
            assert peer.busy is self.busy[peer.id]

    # --- What clients do -----------------------------------------------------------------------------------------

    def conn_of(self, name: str) -> int:
        """The connection of the peer of that id."""
        return next((conn for conn, peer_id in self.ids.items() if peer_id == name), NOBODY)

    def say(self, name: str, message: Any) -> list[tuple[str, str]]:
        """Send a message and return what was sent to whom, even to one that has left by the end of it."""
        ids = dict(self.ids)
        outputs = self.feed(PeerSent(conn=self.conn_of(name), text=json.dumps(message)))
        return [(ids[output.conn], output.text) for output in outputs if isinstance(output, SendTo)]

    def arrive(self, path: str) -> ServerOutput:
        conn = next(self.conns)
        answers = [
            output
            for output in self.feed(PeerArrived(conn=conn, path=path))
            if isinstance(output, AdmitPeer | RefusePeer)
        ]
        assert [answer.conn for answer in answers] == [conn]
        return answers[0]

    @rule(name=NAMES)
    def join(self, name: str) -> None:
        welcome = name not in self.ids.values() and len(self.ids) < self.max_peers
        assert isinstance(self.arrive(f"/t/{name}"), AdmitPeer) is welcome

    @rule(path=PATHS)
    def come_from_anywhere(self, path: str) -> None:
        self.arrive(path)

    @rule(name=NAMES)
    def leave(self, name: str) -> None:
        remote = self.remotes.get(name)
        outputs = self.feed(PeerLeft(conn=self.conn_of(name)))
        told = [self.ids[output.conn] for output in outputs if isinstance(output, SendTo)]
        assert told == ([] if remote in {None, name} else [remote])
        assert name not in self.ids.values()

    @rule(name=NAMES)
    def get_ready(self, name: str) -> None:
        pairing = self.remotes.copy()
        self.say(name, {"type": "ready"})
        if name in self.busy:  # else it never was there, or has just been expelled
            self.busy[name] = False
            assert self.remotes == pairing

    @rule(name=NAMES, remote_id=NAMES)
    def call(self, name: str, remote_id: str) -> None:
        was_free = self.busy.get(remote_id) is False
        self.say(name, {"type": "pair", "remotePeerId": remote_id})
        if was_free and name in self.busy:
            assert self.remotes[name] == remote_id

    @rule(name=NAMES, remote_id=NAMES)
    def meet(self, name: str, remote_id: str) -> None:
        """All that it takes to be paired, since the most interesting things happen to those who are."""
        for peer_id in sorted({name, remote_id} - set(self.busy)):
            self.join(peer_id)
        self.get_ready(remote_id)
        self.call(name, remote_id)

    @rule(name=NAMES)
    def unpair(self, name: str) -> None:
        sent = self.say(name, {"type": "unpair"})
        assert all(text == UNPAIRED for _, text in sent)
        assert name not in self.remotes

    @rule(name=NAMES)
    def list_peers(self, name: str) -> None:
        for receiver, text in self.say(name, {"type": "listPeers"}):
            if receiver == name:
                listed = [(entry["id"], entry["busy"]) for entry in json.loads(text)["peers"]]
                assert listed == [(peer_id, self.busy[peer_id]) for peer_id in self.ids.values()]

    @rule(name=NAMES)
    def relay(self, name: str) -> None:
        remote = self.remotes.get(name)
        sent = self.say(name, {"mark": 1})
        heard = [receiver for receiver, text in sent if text == '{"mark":1}']
        assert heard == ([] if remote is None or name not in self.busy else [remote])

    @rule(name=NAMES, remote_id=NAMES, text=st.sampled_from(BAD_TEXTS))
    def meet_and_misbehave(self, name: str, remote_id: str, text: str) -> None:
        self.meet(name, remote_id)
        self.say_anything(name, text)

    @rule(name=NAMES, remote_id=NAMES, other_id=NAMES)
    def meet_and_look_around(self, name: str, remote_id: str, other_id: str) -> None:
        self.list_peers(other_id)
        self.meet(name, remote_id)
        self.list_peers(other_id)
        self.relay(name)
        self.relay(remote_id)

    @rule(name=NAMES, text=TEXTS)
    def say_anything(self, name: str, text: str | bytes) -> None:
        remote = self.conn_of(self.remotes.get(name, ""))
        incoming = PeerSent(conn=self.conn_of(name), text=text)
        paired_before = self.remotes.copy()
        outputs = self.feed(incoming)
        if self.remotes == paired_before and remote != incoming.conn:
            heard = [output for output in outputs if isinstance(output, SendTo) and output.conn == remote]
            assert len(heard) <= may_be_relayed(text)
            assert all(len(output.text.encode()) <= MAX_SIZE for output in heard)

    @rule(conn=st.integers(-1, 40), text=TEXTS)
    def speak_out_of_turn(self, conn: int, text: str | bytes) -> None:
        if conn not in self.ids:
            assert self.feed(PeerSent(conn=conn, text=text)) == []
            assert self.feed(PeerLeft(conn=conn)) == []

    @rule(seconds=st.sampled_from([0.1, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
