"""Garbage: much of it is really none, so it must be what a peer can be sent, and a server can be told."""

from random import Random

from deepio_core import signals
from deepio_core.errors import RemoteProtocolError
from deepio_core.testing import garbage


def kinds_of_signals(count: int) -> set[str]:
    random, kinds = Random(1), set[str]()
    for _ in range(count):
        try:
            kinds.add(type(signals.parse_signal(garbage.signal(random, ["bob"]), max_size=10_000)).__name__)
        except RemoteProtocolError:
            kinds.add("no JSON")
    return kinds


def test_signals_of_every_kind() -> None:
    assert kinds_of_signals(2000) == {
        "Answer",
        "Offer",
        "Paired",
        "PeerList",
        "RemoteCandidate",
        "RenegotiationAsked",
        "ServerError",
        "UnknownSignal",
        "Unpaired",
        "no JSON",
    }


def test_commands_of_every_kind() -> None:
    random = Random(1)
    texts = {garbage.command(random, ["bob"]) for _ in range(300)}
    assert {signals.READY, signals.UNPAIR, signals.LIST_PEERS, signals.pair_text("bob"), "no JSON"} <= texts


def test_data_that_is_mostly_no_json_object() -> None:
    random = Random(1)
    assert {"", "null", b"\xff\xfe"} <= {garbage.data(random) for _ in range(300)}
