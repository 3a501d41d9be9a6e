"""What the core costs beside the floor below it: `json.loads` and one look into the dict, of the very same texts.

A second floor is what no implementation of the role can do without: `json.loads` of what comes in, and `json.dumps` of
what goes out.

    python benchmarks/core.py [--seconds S]

The signaling texts are those of a recorded session of two browsers that trickle their candidates; the DEEP message is a
recorded one with as many objects as make it 5 kB. Measured is the whole way of a message through a machine, outputs
polled, with the commands and engine reports that belong to the session thrown in. Machines are noisy: floor and core
take turns of some milliseconds, and of each the quickest turn counts, which is the least disturbed one. Compare ratios,
not messages a second.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from deepio_core import inputs, outputs
from deepio_core.config import PeerConfig
from deepio_core.peer import Peer
from deepio_core.policy import ConnectTo, SessionConfig
from deepio_core.server import PeerArrived, PeerSent, SendTo, ServerConfig, SignalingServer
from deepio_core.session import Session
from deepio_core.states import PeerState

WIRE = Path(__file__).resolve().parents[1] / "tests" / "wire"
CALLER, LISTENER = "jsconnect", "jslisten"
DATA_SIZE = 5000
TURN = 0.005
"""Seconds of a turn: long beside the clock, short beside what else the machine does."""


class Case(NamedTuple):
    """Something to be measured."""

    name: str
    received: list[str]
    """The messages that come in."""
    sent: list[str]
    """The messages that go out."""
    run: Callable[[], None]
    """Let a machine take all of them, once."""
    counts_sent: bool = False
    """Whether a message that goes out is one more message, not part of the one that has come in."""


def recorded(name: str, text: str = "text") -> list[dict[str, Any]]:
    """The messages of a recording."""
    lines = (WIRE / f"{name}.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if text in record]


class Recorded(NamedTuple):
    """A recorded session of signaling."""

    heard: dict[str, list[str]]
    """What the server says to each peer."""
    sent: list[tuple[str, str]]
    """What the peers say to the server, with the sender."""
    offer: str
    answer: str

    @classmethod
    def read(cls) -> "Recorded":
        """Read it."""
        messages = recorded("js-22-browser-connects-browser")
        heard = {
            peer: [m["text"] for m in messages if m["peer"] == peer and m["dir"] == "server->client"]
            for peer in (CALLER, LISTENER)
        }
        sent = [(m["peer"], m["text"]) for m in messages if m["dir"] == "client->server"]
        descriptions = [json.loads(text)["sdp"] for _, text in sent if '"sdp"' in text]
        return cls(heard, sent, *descriptions)


def drain(machine: Peer | Session | SignalingServer, sent: list[str]) -> None:
    """Take all outputs, and keep the messages."""
    while (output := machine.poll()) is not None:
        if isinstance(output, (outputs.SendSignaling, outputs.SendChannel, SendTo)):
            sent.append(output.text)


def client(recording: Recorded, name: str, peer_id: str) -> Case:
    """A peer through a whole session, from ONLINE to ONLINE."""
    calls = peer_id == CALLER
    heard = recording.heard[peer_id]
    peer = Peer(PeerConfig(peer_id=peer_id), now=0.0)
    sent: list[str] = []

    def put(event: inputs.PeerInput) -> None:
        peer.handle(event, now=0.0)
        drain(peer, sent)

    def after(text: str) -> None:
        """What the application and the engine do about it."""
        if '"paired"' in text and not calls:
            put(inputs.Accept())
            put(inputs.LocalOffer(negotiation=peer.negotiation, sdp=recording.offer))
        elif '"offer"' in text:
            put(inputs.LocalAnswer(negotiation=peer.negotiation, sdp=recording.answer))
            put(inputs.ChannelOpened(negotiation=peer.negotiation))
        elif '"answer"' in text:
            put(inputs.ChannelOpened(negotiation=peer.negotiation))
        elif '"unpaired"' in text:
            put(inputs.EngineClosed(negotiation=peer.negotiation))

    def run() -> None:
        sent.clear()
        put(inputs.Connect(remote_id=LISTENER) if calls else inputs.Listen())
        for text in heard:
            put(inputs.SignalingReceived(text=text))
            if "candidate:" not in text[:40]:
                after(text)

    put(inputs.SignalingOpened())
    run()
    assert peer.state is PeerState.ONLINE
    assert len(sent) == 2, "pair and answer, or ready and offer"
    return Case(name, heard, sent, run, counts_sent=True)


def server(recording: Recorded) -> Case:
    """A server through a whole session of two of its peers."""
    config = ServerConfig(message_burst=10**9)
    machine = SignalingServer(config, str)
    conns = {LISTENER: 1, CALLER: 2}
    for peer, conn in conns.items():
        machine.handle(PeerArrived(conn=conn, path=f"/js/{peer}"), now=0.0)
    messages = [(conns[peer], text) for peer, text in recording.sent]

    sent: list[str] = []

    def run() -> None:
        sent.clear()
        for conn, text in messages:
            machine.handle(PeerSent(conn=conn, text=text), now=0.0)
            drain(machine, sent)

    run()
    assert len(sent) == len(messages) + 1, "no answer to ready, and two each to pair and unpair"
    return Case("server", [text for _, text in messages], sent, run)


def data_text() -> str:
    """A recorded result, with more objects."""
    messages = recorded("deepio-06-real-stream-manager-v1.0.16", "dc_text")
    message = next(m for m in (json.loads(m["dc_text"]) for m in messages) if m.get("objects"))
    objects = list(message["objects"])
    while len(json.dumps(message)) < DATA_SIZE:
        message["objects"] = message["objects"] + objects
    return json.dumps(message)


def session(recording: Recorded) -> Case:
    """A connected session that gets results: decoded, parsed, acknowledged."""
    config = SessionConfig(peer=PeerConfig(peer_id=CALLER), policy=ConnectTo(remote_id=LISTENER))
    machine = Session(config, now=0.0, random=lambda: 0.5)
    paired = json.dumps({"type": "status", "status": "paired", "remotePeerId": LISTENER})
    for event in (
        inputs.SignalingOpened(),
        inputs.SignalingReceived(text=paired),
        inputs.SignalingReceived(text=json.dumps({"type": "offer", "sdp": recording.offer})),
        inputs.LocalAnswer(negotiation=1, sdp=recording.answer),
        inputs.ChannelOpened(negotiation=1),
    ):
        machine.handle(event, now=0.0)
    text = data_text()
    sent: list[str] = []

    def run() -> None:
        sent.clear()
        machine.handle(inputs.ChannelReceived(negotiation=1, data=text), now=0.0)
        drain(machine, sent)

    drain(machine, sent)
    run()
    assert len(sent) == 1, "the acknowledgement"
    return Case(f"DEEP data of {len(text) / 1000:.1f} kB, acknowledged", [text], sent, run)


def seconds_of(run: Callable[[], None], times: int) -> float:
    """How long it takes to run something so often."""
    started_at = time.perf_counter()
    for _ in range(times):
        run()
    return time.perf_counter() - started_at


def measure(case: Case, seconds: float) -> str:
    """A row of the table."""

    received, sent = case.received, list(case.sent)
    values = [json.loads(text) for text in sent]
    through = [*received, *sent] if case.counts_sent else received

    def below() -> None:
        for text in through:
            json.loads(text).get("type")

    def read_and_write() -> None:
        for text in received:
            json.loads(text).get("type")
        for value in values:
            json.dumps(value, separators=(",", ":"), ensure_ascii=False)

    times = max(1, round(TURN / (seconds_of(case.run, 100) / 100)))
    runs = (case.run, below, read_and_write)
    turns: list[list[float]] = [[], [], []]
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        for run, taken in zip(runs, turns, strict=True):
            taken.append(seconds_of(run, times))
    cost, floor, both = map(min, turns)
    rates = [f"{times * len(through) / least:,.0f}" for least in (cost, floor)]
    return f"| {case.name} | {rates[0]} | {rates[1]} | {cost / floor:.1f} | {cost / both:.1f} |"


def main() -> None:
    """Measure everything and print the table."""
    parser = argparse.ArgumentParser(description="What the core costs beside the floor below it.")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each row")
    seconds = parser.parse_args().seconds
    recording = Recorded.read()
    cases = [
        client(recording, "client that calls", CALLER),
        client(recording, "client that is called", LISTENER),
        server(recording),
        session(recording),
    ]
    print("| messages through | a second | floor a second | times the floor | times reading and writing |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for case in cases:
        print(measure(case, seconds), flush=True)


if __name__ == "__main__":
    main()
