"""The server role: what it replies to whom, in which order, and that nothing a client does upsets it.

The scenario names (`srv-10`) are those of docs/server-differences.md.
"""

import json
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from deepio_core import closecodes, signals
from deepio_core.errors import LocalProtocolError
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

UNPAIRED = {"type": "status", "status": "unpaired"}
NOT_FOUND = {"type": "error", "code": "ERR_PEER_NOT_FOUND", "message": "Remote peer does not exists!"}
BUSY = {"type": "error", "code": "ERR_PEER_BUSY", "message": "Remote peer is busy!"}
BAD_STATE = {
    "type": "error",
    "code": "ERR_BAD_STATE",
    "message": "Cannot forward message to remote peer because peer is not paired!",
}

LIST = {"type": "listPeers"}
READY = {"type": "ready"}
UNPAIR = {"type": "unpair"}
OFFER = {"type": "offer", "sdp": "v=0"}


def pair(remote_id: Any) -> dict[str, Any]:
    return {"type": "pair", "remotePeerId": remote_id}


def paired(remote_id: str) -> dict[str, str]:
    return {"type": "status", "status": "paired", "remotePeerId": remote_id}


def numbered_ids() -> Callable[[], str]:
    numbers = count(1)
    return lambda: f"peer{next(numbers)}"


class Town:
    """A server and its clients, each by the name that it has here: usually its id."""

    def __init__(
        self,
        *names: str,
        config: ServerConfig | None = None,
        new_id: Callable[[], str] | None = None,
        check_key: Any = None,
    ) -> None:
        self.server = SignalingServer(config or ServerConfig(), new_id or numbered_ids(), check_key)
        self.now = 0.0
        self.conns: dict[str, int] = {}
        self.outputs: list[ServerOutput] = []
        """What the last input made."""
        for name in names:
            self.join(name)

    def feed(self, incoming: ServerInput) -> list[ServerOutput]:
        self.server.handle(incoming, now=self.now)
        self.outputs = []
        while (output := self.server.poll()) is not None:
            self.outputs.append(output)
        return self.outputs

    def arrive(self, name: str, path: str) -> list[ServerOutput]:
        self.conns[name] = 1 + max(self.conns.values(), default=0)
        return self.feed(PeerArrived(conn=self.conns[name], path=path))

    def join(self, name: str, path: str | None = None) -> None:
        admitted, joined = self.arrive(name, path or f"/t/{name}")
        assert admitted == AdmitPeer(conn=self.conns[name])
        assert isinstance(joined, PeerJoined)

    def refusal(self, path: str) -> RefusePeer:
        """The refusal of a path, which must be all that comes of it."""
        (refusal,) = self.arrive("refused", path)
        assert isinstance(refusal, RefusePeer)
        assert refusal.conn == self.conns["refused"]
        assert 0 < len(refusal.reason.encode()) <= 123  # what a close frame holds: RFC 6455 section 5.5
        return refusal

    def leave(self, name: str) -> list[tuple[str, Any]]:
        self.feed(PeerLeft(conn=self.conns[name]))
        return self.sent()

    def say(self, name: str, message: Any) -> list[tuple[str, Any]]:
        """Send a message as hyperpeer-py writes it, and return what was sent to whom."""
        return self.say_text(name, json.dumps(message))

    def say_text(self, name: str, text: str | bytes) -> list[tuple[str, Any]]:
        self.feed(PeerSent(conn=self.conns[name], text=text))
        return self.sent()

    def sent(self) -> list[tuple[str, Any]]:
        names = {conn: name for name, conn in self.conns.items()}
        return [(names[output.conn], json.loads(output.text)) for output in self.outputs if isinstance(output, SendTo)]

    def events(self, kind: type[Any]) -> list[Any]:
        return [output for output in self.outputs if isinstance(output, kind)]

    def listed(self) -> list[tuple[str, bool]]:
        return [(peer.id, peer.busy) for peer in self.server.peers]

    def pair(self, caller: str, listener: str) -> None:
        """Pair two peers, of which one calls."""
        self.say(listener, READY)
        assert self.say(caller, pair(listener)) == [(caller, paired(listener)), (listener, paired(caller))]

    def assert_paired(self, *names: str) -> None:
        """Exactly these are paired with each other, and can talk."""
        one, other = names
        assert self.server.remote_of(one) == other
        assert self.server.remote_of(other) == one
        assert self.say(one, {"from": one}) == [(other, {"from": one})]
        assert self.say(other, {"from": other}) == [(one, {"from": other})]

    def assert_alone(self, name: str) -> None:
        assert self.server.remote_of(name) is None
        assert self.say(name, {"from": name}) == [(name, BAD_STATE)]


def stale_town() -> Town:
    """b is paired with c, and was paired with a before, as in srv-09: nobody has told a."""
    town = Town("b", "a", "c")
    town.pair("a", "b")
    town.pair("c", "b")
    return town


# --- Coming: the address ---------------------------------------------------------------------------------------


def test_a_peer_joins_silently() -> None:
    town = Town("a")
    assert town.arrive("b", "/cam/b") == [
        AdmitPeer(conn=2),
        PeerJoined(conn=2, peer_type="cam", peer_id="b"),
    ]
    assert town.server.peers == (
        signals.PeerInfo(id="a", type="t", busy=True),
        signals.PeerInfo(id="b", type="cam", busy=True),
    )


def test_percent_escapes_stay_and_the_query_goes() -> None:
    # srv-18, srv-20
    town = Town()
    town.join("a", "/t/caf%C3%A9?x=1")
    town.join("b", "/%zz/~-_?")
    assert town.server.peers == (
        signals.PeerInfo(id="caf%C3%A9", type="t", busy=True),
        signals.PeerInfo(id="~-_", type="%zz", busy=True),
    )


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "t",
        "/t/",
        "/t/a/",
        "/t/a/k/",
        "/t/a/k/more",
        "//a",
        "/t//k",
        *(f"/t/a{char}b" for char in ".:@+=,!()'*&;$\"|{}<>é\ud800\x00\n"),
        "/a.b",
        "/t/a/k.k",
        "/t/a\n",
    ],
)
def test_a_path_of_no_peer_is_refused(path: str) -> None:
    # srv-21, and the table of bad paths: each of these ends the original
    town = Town("bystander")
    refusal = town.refusal(path)
    assert (refusal.status, refusal.code) == (101, closecodes.ADDRESS_REFUSED)
    assert town.listed() == [("bystander", True)]


def test_the_reason_of_a_refused_path_does_not_show_the_key() -> None:
    assert "sesame" not in repr(Town().refusal("/t/a.b/sesame"))
    assert "sesame" not in repr(PeerArrived(conn=1, path="/t/a/sesame"))


def test_an_id_in_use_is_refused_whatever_the_type() -> None:
    # srv-15, srv-43
    town = Town("a", "b")
    town.pair("a", "b")
    refusal = town.refusal("/u/a")
    assert refusal == RefusePeer(conn=3, status=101, code=closecodes.ID_IN_USE, reason="Peer Id already in use!")
    assert town.say("refused", LIST) == []
    assert town.leave("refused") == []
    town.assert_paired("a", "b")
    town.leave("a")
    town.join("a", "/u/a")


def test_a_peer_without_id_gets_one() -> None:
    # srv-16
    town = Town("b", new_id=lambda: "assigned")
    town.join("nameless", "/cam")
    assert town.events(PeerJoined) == [PeerJoined(conn=2, peer_type="cam", peer_id="assigned")]
    town.say("b", READY)
    assert town.say("nameless", pair("b")) == [("nameless", paired("b")), ("b", paired("assigned"))]


def test_an_assigned_id_that_is_in_use_is_replaced() -> None:
    # srv-17: the original refuses
    ids = iter(["a", "", "x.y", "i" * 257, "a", "b"])
    town = Town("a", new_id=lambda: next(ids))
    town.join("nameless", "/t")
    assert town.listed() == [("a", True), ("b", True)]


@pytest.mark.parametrize("answer", ["a", "", "x y", "é", "i" * 257, 5, None, ["b"]])
def test_a_factory_without_a_usable_id_refuses_after_a_few_attempts(answer: Any) -> None:
    asked: list[None] = []

    def new_id() -> Any:
        asked.append(None)
        return answer

    town = Town("a", new_id=new_id)
    failed, refusal = town.arrive("nameless", "/t")
    assert failed == HookFailed(conn=2, hook="new_id", detail="returned no usable id in 8 attempts")
    assert isinstance(refusal, RefusePeer)
    assert (refusal.status, refusal.code) == (101, closecodes.INTERNAL_ERROR)
    assert len(asked) == 8
    assert town.listed() == [("a", True)]


def test_a_factory_that_raises_refuses() -> None:
    def new_id() -> str:
        raise KeyError("nothing left")

    town = Town(new_id=new_id)
    failed, refusal = town.arrive("nameless", "/t")
    assert failed == HookFailed(conn=1, hook="new_id", detail="raised KeyError")
    assert isinstance(refusal, RefusePeer)
    assert refusal.code == closecodes.INTERNAL_ERROR
    town.join("a")


def test_a_connection_number_cannot_be_given_twice() -> None:
    town = Town("a")
    with pytest.raises(LocalProtocolError, match="Connection 1 is a peer already"):
        town.server.handle(PeerArrived(conn=1, path="/t/b"), now=0.0)
    assert town.server.poll() is None
    assert town.listed() == [("a", True)]


def test_the_limits_can_be_read() -> None:
    """A driver gives the largest message to its WebSocket library."""
    config = ServerConfig(max_message_size=1024)
    assert Town(config=config).server.config is config


# --- Coming: the key -------------------------------------------------------------------------------------------


def test_the_key_decides() -> None:
    # srv-18: what is one segment too short for a key is an id
    asked: list[tuple[str, str | None, str | None]] = []

    def check_key(peer_type: str, peer_id: str | None, key: str | None) -> bool:
        asked.append((peer_type, peer_id, key))
        return key == "sesame"

    town = Town(check_key=check_key)
    town.join("a", "/t/a/sesame")
    for path in ("/t/b/wrong", "/t/c", "/t/sesame", "/t"):
        refusal = town.refusal(path)
        assert (refusal.status, refusal.code) == (401, closecodes.KEY_REFUSED)
        assert refusal.reason == "Unauthorized"
    town.join("e", "/t/e/sesame?x=1")
    assert asked == [
        ("t", "a", "sesame"),
        ("t", "b", "wrong"),
        ("t", "c", None),
        ("t", "sesame", None),
        ("t", None, None),
        ("t", "e", "sesame"),
    ]
    assert town.listed() == [("a", True), ("e", True)]


def test_without_a_check_any_key_will_do() -> None:
    # srv-19
    town = Town()
    town.join("a", "/t/a/anything")
    assert "anything" not in json.dumps(town.say("a", LIST))


def test_a_check_that_raises_refuses_and_shows_no_key() -> None:
    def check_key(_type: str, _id: str | None, key: str | None) -> bool:
        raise KeyError(key)

    town = Town(check_key=check_key)
    outputs = town.arrive("a", "/t/a/sesame")
    failed, refusal = outputs
    assert failed == HookFailed(conn=1, hook="check_key", detail="raised KeyError")
    assert isinstance(refusal, RefusePeer)
    assert refusal.status == 401
    assert "sesame" not in repr(outputs)
    assert town.listed() == []


@pytest.mark.parametrize("verdict", [1, "yes", None, object(), iter(())], ids=repr)
def test_a_check_that_returns_no_bool_refuses(verdict: object) -> None:
    town = Town(check_key=lambda *_: verdict)
    failed, refusal = town.arrive("a", "/t/a/sesame")
    kind = type(verdict).__name__
    assert failed == HookFailed(conn=1, hook="check_key", detail=f"returned {kind}, not bool")
    assert isinstance(refusal, RefusePeer)
    assert refusal.status == 401


def test_who_has_no_key_learns_nothing() -> None:
    """Neither that an id is in use nor that the server is full."""
    town = Town("a", config=ServerConfig(max_peers=1), check_key=lambda *call: call[1] == "a")
    town.conns["a"] = 1
    assert town.refusal("/t/b").status == 401
    town = Town(check_key=lambda *call: call[2] == "sesame")
    town.join("a", "/t/a/sesame")
    assert town.refusal("/t/a/wrong").status == 401


# --- Listing and ready -----------------------------------------------------------------------------------------


def test_the_list_is_in_order_of_connection_with_the_asker() -> None:
    # srv-01
    town = Town()
    town.join("a", "/typeA/a")
    town.join("b", "/typeB/b")
    town.say("b", READY)
    expected = '{"type":"peers","peers":[{"id":"a","type":"typeA","busy":true},{"id":"b","type":"typeB","busy":false}]}'
    for asker in ("a", "b"):
        town.say(asker, LIST)
        assert town.outputs == [SendTo(conn=town.conns[asker], text=expected)]


def test_the_list_follows_every_change() -> None:
    town = Town("a", "b")

    def listed() -> list[tuple[str, bool]]:
        ((name, message),) = town.say("a", LIST)
        assert name == "a"
        entries = [(entry["id"], entry["busy"]) for entry in message["peers"]]
        assert entries == town.listed()
        return entries

    assert listed() == [("a", True), ("b", True)]
    town.say("b", READY)
    assert listed() == [("a", True), ("b", False)]
    town.say("a", pair("b"))
    assert listed() == [("a", True), ("b", True)]
    town.say("a", READY)
    assert listed() == [("a", False), ("b", True)]
    town.join("c")
    assert listed() == [("a", False), ("b", True), ("c", True)]
    town.leave("b")
    assert listed() == [("a", False), ("c", True)]
    town.join("b")
    assert listed() == [("a", False), ("c", True), ("b", True)]


def test_ready_has_no_reply_and_only_says_that_a_peer_is_free() -> None:
    # srv-08
    town = Town("a")
    for message in (READY, READY, {"type": "ready", "extra": 1}):
        assert town.say("a", message) == []
        assert town.outputs == []
        assert town.listed() == [("a", False)]


def test_ready_does_not_touch_the_pairing() -> None:
    # srv-36
    town = Town("b", "a", "c")
    town.pair("a", "b")
    town.say("b", READY)
    town.assert_paired("a", "b")
    assert town.listed()[0] == ("b", False)
    assert town.leave("a") == [("b", UNPAIRED)]
    town.pair("c", "b")


# --- Pairing ---------------------------------------------------------------------------------------------------


def test_pair_relay_unpair() -> None:
    # srv-02
    town = Town("b", "a")
    town.say("b", READY)
    assert town.say("a", pair("b")) == [("a", paired("b")), ("b", paired("a"))]
    assert town.events(PeersPaired) == [PeersPaired(caller_id="a", listener_id="b")]
    assert town.listed() == [("b", True), ("a", True)]
    assert town.say("b", OFFER) == [("a", OFFER)]
    assert town.say("a", {"no": "type"}) == [("b", {"no": "type"})]
    assert town.say("a", UNPAIR) == [("b", UNPAIRED), ("a", UNPAIRED)]
    assert town.events(PeersUnpaired) == [PeersUnpaired(caller_id="a", listener_id="b")]
    assert town.listed() == [("b", True), ("a", True)]
    town.assert_alone("a")
    town.assert_alone("b")


def test_unpair_by_the_listener() -> None:
    # srv-03
    town = Town("a", "b")
    town.pair("a", "b")
    assert town.say("b", UNPAIR) == [("a", UNPAIRED), ("b", UNPAIRED)]
    assert town.events(PeersUnpaired) == [PeersUnpaired(caller_id="a", listener_id="b")]


def test_unpair_is_always_answered() -> None:
    # srv-13
    town = Town("a")
    town.say("a", READY)
    for _ in range(2):
        assert town.say("a", UNPAIR) == [("a", UNPAIRED)]
        assert town.events(PeersUnpaired) == []
    assert town.listed() == [("a", False)]


@pytest.mark.parametrize("remote_id", ["nobody", None, 5, ["b"], {"id": "b"}, "", "B", True])
def test_pair_with_nobody(remote_id: Any) -> None:
    # srv-04
    town = Town("a", "b")
    town.join("5")
    town.say("b", READY)
    town.say("5", READY)
    assert town.say("a", pair(remote_id)) == [("a", NOT_FOUND)]


def test_pair_without_an_id() -> None:
    town = Town("a", "None", "null", "undefined")
    for name in town.conns:
        town.say(name, READY)
    assert town.say("a", {"type": "pair"}) == [("a", NOT_FOUND)]
    assert town.say("a", pair(None)) == [("a", NOT_FOUND)]


def test_pair_with_a_busy_peer() -> None:
    # srv-05: never ready, then paired with another one
    town = Town("a", "b", "c")
    assert town.say("a", pair("b")) == [("a", BUSY)]
    town.pair("c", "b")
    assert town.say("a", pair("b")) == [("a", BUSY)]
    assert town.server.remote_of("a") is None
    town.assert_paired("b", "c")


def test_a_caller_that_repeats_itself_stays_paired() -> None:
    # srv-07
    town = Town("a", "b")
    town.pair("a", "b")
    assert town.say("a", pair("b")) == [("a", BUSY)]
    town.assert_paired("a", "b")


def test_an_error_does_not_touch_the_pairing() -> None:
    town = Town("a", "b", "c")
    town.pair("a", "b")
    for message, reply in ((pair("c"), BUSY), (pair("nobody"), NOT_FOUND)):
        for name in ("a", "b"):
            assert town.say(name, message) == [(name, reply)]
    town.assert_paired("a", "b")


@pytest.mark.parametrize(("leaver", "left"), [("a", "b"), ("b", "a")])
def test_pair_with_another_peer_unpairs_first(leaver: str, left: str) -> None:
    # srv-07 by the caller, srv-35 by the listener
    town = Town("a", "b", "c")
    town.pair("a", "b")
    town.say("c", READY)
    assert town.say(leaver, pair("c")) == [
        (left, UNPAIRED),
        (leaver, UNPAIRED),
        (leaver, paired("c")),
        ("c", paired(leaver)),
    ]
    assert town.events(PeersUnpaired) == [PeersUnpaired(caller_id="a", listener_id="b")]
    assert town.events(PeersPaired) == [PeersPaired(caller_id=leaver, listener_id="c")]
    assert all(busy for _, busy in town.listed())
    town.assert_paired(leaver, "c")
    town.assert_alone(left)


@pytest.mark.parametrize(("caller", "listener"), [("a", "b"), ("b", "a")])
def test_pair_the_same_peer_again_after_its_ready(caller: str, listener: str) -> None:
    # srv-37; and the other way round, when the former caller is the one that got ready
    town = Town("a", "b")
    town.pair("a", "b")
    town.say("b", OFFER)
    town.say(listener, READY)
    assert town.say(caller, pair(listener)) == [
        (listener, UNPAIRED),
        (caller, UNPAIRED),
        (caller, paired(listener)),
        (listener, paired(caller)),
    ]
    town.assert_paired("a", "b")


def test_pair_with_oneself() -> None:
    # srv-06
    town = Town("a")
    assert town.say("a", pair("a")) == [("a", BUSY)]
    town.say("a", READY)
    assert town.say("a", pair("a")) == [("a", paired("a")), ("a", paired("a"))]
    assert town.server.remote_of("a") == "a"
    assert town.say("a", pair("a")) == [("a", BUSY)]
    assert town.say("a", OFFER) == [("a", OFFER)]
    assert town.say("a", UNPAIR) == [("a", UNPAIRED), ("a", UNPAIRED)]
    town.assert_alone("a")


def test_pair_with_oneself_again_and_then_with_another_one() -> None:
    town = Town("a", "b")
    town.pair("b", "a")
    town.say("a", READY)
    assert town.say("a", pair("a")) == [
        ("b", UNPAIRED),
        ("a", UNPAIRED),
        ("a", paired("a")),
        ("a", paired("a")),
    ]
    town.say("b", READY)
    assert town.say("a", pair("b")) == [
        ("a", UNPAIRED),
        ("a", UNPAIRED),
        ("a", paired("b")),
        ("b", paired("a")),
    ]
    town.assert_paired("a", "b")


# --- Crossed calls ---------------------------------------------------------------------------------------------


def test_crossed_calls_are_undone_so_that_nobody_waits_for_ever() -> None:
    # srv-33: in the original both wait for an offer
    town = Town("a", "b")
    town.say("a", READY)
    town.say("b", READY)
    assert town.say("a", pair("b")) == [("a", paired("b")), ("b", paired("a"))]
    assert town.say("b", pair("a")) == [("b", BUSY), ("a", UNPAIRED), ("b", UNPAIRED)]
    assert town.events(PeersUnpaired) == [PeersUnpaired(caller_id="a", listener_id="b")]
    town.assert_alone("a")
    town.assert_alone("b")
    assert town.listed() == [("a", True), ("b", True)]
    town.pair("b", "a")
    town.assert_paired("a", "b")


def test_crossed_calls_with_a_caller_that_was_not_ready() -> None:
    town = Town("a", "b")
    town.pair("a", "b")
    assert town.say("b", pair("a")) == [("b", BUSY), ("a", UNPAIRED), ("b", UNPAIRED)]


def test_what_the_caller_relays_does_not_make_the_call_accepted() -> None:
    town = Town("a", "b")
    town.pair("a", "b")
    town.say("a", {"candidate": {}})
    assert town.say("b", pair("a")) == [("b", BUSY), ("a", UNPAIRED), ("b", UNPAIRED)]


def test_a_message_that_was_not_relayed_does_not_make_the_call_accepted() -> None:
    town = Town("a", "b")
    town.pair("a", "b")
    town.say("b", {"type": "status", "status": "unpaired"})
    town.say_text("b", "null")
    town.say("b", LIST)
    assert town.say("b", pair("a")) == [("b", BUSY), ("a", UNPAIRED), ("b", UNPAIRED)]


def test_a_call_that_was_accepted_stays() -> None:
    """The offer is under way: its sender knows that it was called, as in the original."""
    town = Town("a", "b")
    town.pair("a", "b")
    town.say("b", OFFER)
    assert town.say("b", pair("a")) == [("b", BUSY)]
    town.assert_paired("a", "b")


def test_two_peers_that_call_each_other_and_are_not_ready() -> None:
    # srv-34
    town = Town("a", "b")
    assert town.say("a", pair("b")) == [("a", BUSY)]
    assert town.say("b", pair("a")) == [("b", BUSY)]


# --- Stale pairings --------------------------------------------------------------------------------------------


def test_a_ready_peer_is_taken_over_and_its_former_partner_is_not_told() -> None:
    # srv-09
    town = Town("b", "a", "c")
    town.pair("a", "b")
    town.say("b", READY)
    assert town.say("c", pair("b")) == [("c", paired("b")), ("b", paired("c"))]
    assert town.events(PeersUnpaired) == [PeersUnpaired(caller_id="a", listener_id="b")]
    assert town.events(PeersPaired) == [PeersPaired(caller_id="c", listener_id="b")]
    assert town.listed() == [("b", True), ("a", True), ("c", True)]


def test_a_former_partner_cannot_speak_in_the_new_session() -> None:
    # srv-09: in the original b receives it
    town = stale_town()
    town.assert_alone("a")
    town.assert_paired("b", "c")


def test_a_former_partner_that_unpairs_does_not_end_the_new_session() -> None:
    # srv-09: in the original b gets `unpaired`
    town = stale_town()
    assert town.say("a", UNPAIR) == [("a", UNPAIRED)]
    assert town.events(PeersUnpaired) == []
    town.assert_paired("b", "c")


def test_a_former_partner_that_pairs_does_not_end_the_new_session() -> None:
    town = stale_town()
    town.join("d")
    town.say("d", READY)
    assert town.say("a", pair("d")) == [("a", paired("d")), ("d", paired("a"))]
    assert town.events(PeersUnpaired) == []
    town.assert_paired("b", "c")


def test_a_former_partner_that_leaves_does_not_end_the_new_session() -> None:
    # srv-45
    town = stale_town()
    assert town.leave("a") == []
    assert town.outputs == [PeerDeparted(conn=2, peer_type="t", peer_id="a")]
    town.assert_paired("b", "c")


def test_a_former_partner_outlives_the_peer() -> None:
    # srv-10: the original ends
    town = stale_town()
    assert town.leave("b") == [("c", UNPAIRED)]
    town.assert_alone("a")
    town.assert_alone("c")


def test_a_former_partner_does_not_reach_a_new_peer_of_the_same_id() -> None:
    # srv-11
    town = stale_town()
    town.leave("b")
    town.join("b")
    town.assert_alone("a")
    assert town.say("a", UNPAIR) == [("a", UNPAIRED)]


# --- Leaving ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("leaver", "left"), [("a", "b"), ("b", "a")])
def test_a_partner_that_leaves_is_told(leaver: str, left: str) -> None:
    # srv-14
    town = Town("a", "b")
    town.pair("a", "b")
    assert town.leave(leaver) == [(left, UNPAIRED)]
    assert town.events(PeersUnpaired) == [PeersUnpaired(caller_id="a", listener_id="b")]
    assert town.events(PeerDeparted) == [PeerDeparted(conn=town.conns[leaver], peer_type="t", peer_id=leaver)]
    assert town.listed() == [(left, True)]
    assert town.server.remote_of(leaver) is None
    town.assert_alone(left)


def test_a_peer_that_is_paired_with_itself_leaves_in_silence() -> None:
    # srv-44
    town = Town("a", "c")
    town.say("a", READY)
    town.say("a", pair("a"))
    assert town.leave("a") == []
    assert town.events(PeersUnpaired) == [PeersUnpaired(caller_id="a", listener_id="a")]
    assert town.listed() == [("c", True)]


def test_what_comes_after_the_end_is_ignored() -> None:
    town = Town("a")
    town.leave("a")
    assert town.leave("a") == []
    assert town.say("a", LIST) == []
    assert town.outputs == []
    town.feed(PeerLeft(conn=99))
    assert town.outputs == []


# --- Messages --------------------------------------------------------------------------------------------------


def test_commands_in_one_go_are_obeyed_one_by_one() -> None:
    # srv-32
    town = Town("b", "a")
    town.say("b", READY)
    for message in (LIST, pair("b"), OFFER, UNPAIR, OFFER):
        town.server.handle(PeerSent(conn=town.conns["a"], text=json.dumps(message)), now=0.0)
    town.say("a", LIST)
    assert town.sent() == [
        (
            "a",
            {
                "type": "peers",
                "peers": [{"id": "b", "type": "t", "busy": False}, {"id": "a", "type": "t", "busy": True}],
            },
        ),
        ("a", paired("b")),
        ("b", paired("a")),
        ("b", OFFER),
        ("b", UNPAIRED),
        ("a", UNPAIRED),
        ("a", BAD_STATE),
        (
            "a",
            {
                "type": "peers",
                "peers": [{"id": "b", "type": "t", "busy": True}, {"id": "a", "type": "t", "busy": True}],
            },
        ),
    ]


@pytest.mark.parametrize(
    "message",
    [
        OFFER,
        {"candidate": {}},
        {},
        {"type": "status", "status": "paired"},
        {"type": "bogus"},
        {"type": "Pair", "remotePeerId": "a"},
        {"type": None},
        {"type": 5},
        {"type": ["pair"]},
        5,
        "pair",
        [],
        True,
        False,
        0,
    ],
    ids=json.dumps,
)
def test_who_is_not_paired_cannot_relay(message: Any) -> None:
    # srv-12, srv-23
    town = Town("a")
    assert town.say("a", message) == [("a", BAD_STATE)]
    (dropped,) = town.events(MessageDropped)
    assert dropped.conn == 1
    assert dropped.detail.startswith("ERR_BAD_STATE: ")


@pytest.mark.parametrize(
    "message",
    [
        {"type": "whatever", "x": 1},
        {"x": 1},
        {},
        [1, 2],
        "text",
        5,
        True,
        {"type": "Pair", "remotePeerId": "b"},
        {"type": "Status"},
        {"type": None},
        {"type": ["status"]},
        {"type": {"status": 1}},
        {"status": "unpaired"},
        {"renegotiate": True},
        ["status"],
        "status",
    ],
    ids=json.dumps,
)
def test_whatever_is_no_command_is_relayed(message: Any) -> None:
    # srv-23, srv-25
    town = Town("a", "b")
    town.pair("a", "b")
    assert town.say("a", message) == [("b", message)]
    assert town.say("b", message) == [("a", message)]
    assert len(town.outputs) == 1


@pytest.mark.parametrize(
    "message",
    [
        UNPAIRED,
        {"type": "status", "status": "paired", "remotePeerId": "ghost"},
        {"type": "peers", "peers": []},
        {"type": "error", "code": "ERR_X", "message": "m"},
        {"type": "status"},
    ],
    ids=json.dumps,
)
def test_what_only_the_server_may_say_is_not_relayed(message: Any) -> None:
    # srv-25: the original relays it
    town = Town("a", "b")
    town.pair("a", "b")
    ((receiver, error),) = town.say("a", message)
    assert (receiver, error["type"], error["code"]) == ("a", "error", "ERR_BAD_SIGNAL")
    (dropped,) = town.events(MessageDropped)
    assert dropped.conn == town.conns["a"]
    assert message["type"] in dropped.detail
    town.assert_paired("a", "b")


def test_repeated_keys_do_not_hide_a_forgery() -> None:
    town = Town("a", "b")
    town.pair("a", "b")
    town.say_text("a", '{"type":"status","type":"x"}')
    assert town.outputs == [SendTo(conn=2, text='{"type":"x"}')]
    ((receiver, error),) = town.say_text("a", '{"type":"x","type":"status"}')
    assert (receiver, error["code"]) == ("a", "ERR_BAD_SIGNAL")


@pytest.mark.parametrize("is_paired", [True, False])
@pytest.mark.parametrize(
    "text",
    [
        "null",
        " null ",
        b"null",
        "hello",
        "",
        b"",
        "{",
        '{"type":"offer"',
        "{'type':'offer'}",
        "NaN",
        '{"a":NaN}',
        '{"a":-Infinity}',
        '{"e":1e400}',
        "[1,]",
        "\ufeff{}",
        b"\xef\xbb\xbf{}",
        b"\x00\x01\xff",
        b'{"a":"\xff"}',
        '{"a":"\ud800"}',
        "[" * 65 + "]" * 65,
        "[" * 100_000,
        '{"n":' + "9" * 5000 + "}",
    ],
)
def test_what_is_no_message_gets_an_error(text: str | bytes, is_paired: bool) -> None:
    # srv-22, srv-24, srv-27
    town = Town("a", "b")
    if is_paired:
        town.pair("a", "b")
    ((receiver, error),) = town.say_text("a", text)
    assert (receiver, error["type"], error["code"]) == ("a", "error", "ERR_BAD_SIGNAL")
    assert list(error) == ["type", "code", "message"]
    (dropped,) = town.events(MessageDropped)
    assert dropped == MessageDropped(conn=1, detail=f"ERR_BAD_SIGNAL: {error['message']}")
    if is_paired:
        town.assert_paired("a", "b")


def test_binary_frames_are_read_like_text_and_relayed_as_text() -> None:
    # srv-27
    town = Town("a", "b")
    town.say_text("b", b'{"type":"ready"}')
    town.say("a", pair("b"))
    town.say_text("a", b'{"type":"offer","sdp":"bin"}')
    assert town.outputs == [SendTo(conn=2, text='{"type":"offer","sdp":"bin"}')]


@pytest.mark.parametrize(
    ("text", "relayed"),
    [
        ('{ "b" : 1.5 , "a" : 2 }', '{"b":1.5,"a":2}'),
        ('{"a":1,"a":2}', '{"a":2}'),
        ('{"z":1,"10":2,"9":3}', '{"z":1,"10":2,"9":3}'),
        ('{"n":12345678901234567890,"f":0.1,"g":1E3}', '{"n":12345678901234567890,"f":0.1,"g":1000.0}'),
        (r'{"u":"\u00e9\u20ac \/ \ud83d\ude00"}', '{"u":"é€ / 😀"}'),
        (r'{"s":"\ud800"}', r'{"s":"\ud800"}'),
        (r'{"sdp":"v=0\r\n"}', r'{"sdp":"v=0\r\n"}'),
        (r'{"t":"\u2028"}', '{"t":"\u2028"}'),
        ('{"__proto__":{"x":1}}', '{"__proto__":{"x":1}}'),
    ],
)
def test_relayed_messages_are_written_anew(text: str, relayed: str) -> None:
    # srv-26
    town = Town("a", "b")
    town.pair("a", "b")
    town.say_text("a", text)
    assert town.outputs == [SendTo(conn=2, text=relayed)]


def test_no_repr_shows_a_message() -> None:
    assert "sesame" not in repr(PeerSent(conn=1, text="sesame"))
    assert "sesame" not in repr(SendTo(conn=1, text="sesame"))


# --- Limits ----------------------------------------------------------------------------------------------------


def test_a_full_server_takes_no_more_peers() -> None:
    town = Town("a", "b", config=ServerConfig(max_peers=2))
    refusal = town.refusal("/t/c")
    assert (refusal.status, refusal.code) == (101, closecodes.SERVER_FULL)
    town.leave("a")
    town.join("c")


def test_long_types_and_ids_are_refused() -> None:
    town = Town(config=ServerConfig(max_type_length=3, max_id_length=4))
    town.join("a", "/typ/long")
    for path in ("/type/a", "/t/longer"):
        refusal = town.refusal(path)
        assert (refusal.status, refusal.code) == (101, closecodes.ADDRESS_REFUSED)


def test_characters_can_be_narrowed() -> None:
    town = Town(config=ServerConfig(characters=frozenset("abt")))
    town.join("a", "/t/ab/Key")
    for path in ("/t/c", "/T/a"):
        refusal = town.refusal(path)
        assert (refusal.status, refusal.code) == (101, closecodes.ADDRESS_REFUSED)


@pytest.mark.parametrize("text", [f'"{"y" * 1022}"', f'"{"é" * 511}"', f'"{"é" * 511}"'.encode()])
def test_a_message_may_be_as_large_as_the_limit(text: str | bytes) -> None:
    town = Town("a", "b", config=ServerConfig(max_message_size=1024))
    town.pair("a", "b")
    assert town.say_text("a", text) == [("b", json.loads(text))]


@pytest.mark.parametrize("text", ["y" * 1025, b"y" * 1025, "é" * 513, "\ud800" * 342, " " * 1025])
def test_a_larger_message_ends_its_sender_only(text: str | bytes) -> None:
    # srv-30: the original ends
    town = Town("a", "b", "c", config=ServerConfig(max_message_size=1024))
    town.pair("a", "b")
    assert town.say_text("a", text) == [("b", UNPAIRED)]
    assert town.outputs[0] == ClosePeer(
        conn=1, code=closecodes.MESSAGE_TOO_BIG, reason="A message is larger than 1024 bytes."
    )
    assert town.events(PeerDeparted) == [PeerDeparted(conn=1, peer_type="t", peer_id="a")]
    assert town.listed() == [("b", True), ("c", True)]
    assert town.leave("a") == []
    assert town.outputs == []


@pytest.mark.parametrize("text", ["y" * 1024, "é" * 512, b"\xff" * 1024, "\ud800" * 341])
def test_a_bad_message_of_the_largest_size_is_only_an_error(text: str | bytes) -> None:
    town = Town("a", config=ServerConfig(max_message_size=1024))
    ((_, error),) = town.say_text("a", text)
    assert error["code"] == "ERR_BAD_SIGNAL"


def test_a_message_that_grows_beyond_the_limit_is_not_relayed() -> None:
    town = Town("a", "b", config=ServerConfig(max_message_size=1024))
    town.pair("a", "b")
    assert town.say_text("a", "[" + ",".join(["1e15"] * 50) + "]") == [("b", [1e15] * 50)]
    ((receiver, error),) = town.say_text("a", "[" + ",".join(["1e15"] * 100) + "]")
    assert (receiver, error["code"]) == ("a", "ERR_BAD_SIGNAL")
    assert len(town.events(MessageDropped)) == 1
    town.assert_paired("a", "b")


def test_messages_over_one_mebibyte_are_too_large_by_default() -> None:
    # srv-29
    town = Town("a", "b")
    town.pair("a", "b")
    largest = "y" * (1024 * 1024 - 2)
    assert town.say_text("a", f'"{largest}"') == [("b", largest)]
    town.say_text("a", f'"{largest}y"')
    assert isinstance(town.outputs[0], ClosePeer)


def test_a_burst_is_followed_by_the_sustained_rate() -> None:
    town = Town("a", "b", config=ServerConfig(messages_per_second=2.0, message_burst=5))
    town.pair("a", "b")  # one message of each
    for _ in range(4):
        assert town.say("a", OFFER) == [("b", OFFER)]
    for _ in range(10):
        town.now += 0.5
        assert town.say("a", OFFER) == [("b", OFFER)]
    town.now += 0.4
    assert town.say("a", OFFER) == [("b", UNPAIRED)]
    assert town.outputs[0] == ClosePeer(conn=1, code=closecodes.RATE_EXCEEDED, reason="Too many messages.")
    assert town.listed() == [("b", True)]
    # The other one has its own account.
    for _ in range(4):
        assert town.say("b", OFFER) == [("b", BAD_STATE)]


def test_a_clock_that_goes_back_costs_nobody_anything() -> None:
    server = SignalingServer(ServerConfig(messages_per_second=2.0, message_burst=5), new_id=lambda: "")
    server.handle(PeerArrived(conn=1, path="/t/a"), now=100.0)
    for now in (100.0, 40.0, 99.0):
        server.handle(PeerSent(conn=1, text=signals.LIST_PEERS), now=now)
    told: list[object] = []
    while (output := server.poll()) is not None:
        told.append(type(output))
    assert told == [AdmitPeer, PeerJoined, SendTo, SendTo, SendTo]


def test_a_long_pause_saves_up_no_more_than_a_burst() -> None:
    town = Town("a", config=ServerConfig(messages_per_second=2.0, message_burst=5))
    town.now = 1000.0
    for _ in range(5):
        assert town.say("a", UNPAIR) == [("a", UNPAIRED)]
    town.say("a", UNPAIR)
    assert isinstance(town.outputs[0], ClosePeer)


def test_bad_messages_and_commands_count_as_well() -> None:
    for text in ("?", json.dumps(LIST), json.dumps(READY), json.dumps(pair("a"))):
        town = Town("a", config=ServerConfig(message_burst=3))
        for _ in range(3):
            town.say_text("a", text)
            assert not town.events(ClosePeer)
        town.say_text("a", text)
        assert town.events(ClosePeer)


def test_a_browser_that_trickles_is_within_the_default_limits() -> None:
    town = Town("a", "b")
    town.pair("a", "b")
    for _ in range(4):
        town.now += 0.1
        for number in range(40):
            assert town.say("a", {"candidate": number}) == [("b", {"candidate": number})]
